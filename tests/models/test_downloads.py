"""Public files of weights: from a real server on this machine, right, wrong, cut and silent."""

import hashlib
import io
import multiprocessing
import threading
import time
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import huggingface_hub
import pytest
import torch
from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3
from torchvision import models

from restore.models import pretrained
from restore.models.pretrained import MissingWeights, Published, file_of, library_downloads


def _saved() -> bytes:
    buffer = io.BytesIO()
    torch.save({"weight": torch.arange(128_000)}, buffer)
    return buffer.getvalue()


CONTENT = _saved()
DIGITS = hashlib.sha256(CONTENT).hexdigest()[:8]
FILE = f"alexnet-{DIGITS}.pth"


class Handler(BaseHTTPRequestHandler):
    """Serves `/BEHAVIOUR/FILE`, and counts what it is asked for."""

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        behaviour = self.path.split("/")[1]
        if behaviour == "missing":
            self.send_error(404)
            return
        if behaviour == "silent":
            self.server.released.wait(20)
            return
        if behaviour == "slow":
            time.sleep(1)
        body = CONTENT[::-1] if behaviour == "wrong" else CONTENT
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[:5000] if behaviour == "cut" else body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[ThreadingHTTPServer]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.asked, server.released = [], threading.Event()
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.released.set()
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def serving(server, monkeypatch):
    """Makes the public AlexNet one that our server has, with a behaviour."""

    def choose(behaviour: str) -> None:
        url = f"http://127.0.0.1:{server.server_port}/{behaviour}/{FILE}"
        monkeypatch.setitem(pretrained.PUBLISHED, "alexnet", Published("AlexNet", url))

    monkeypatch.setattr(pretrained, "_failure", None)
    monkeypatch.setattr(pretrained, "PATIENCE", 0.5)
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    return choose


def test_a_file_is_fetched_once_with_progress(serving, server, tmp_path: Path, capfd):
    serving("right")
    cache = tmp_path / "new" / "cache"
    for _ in range(2):
        path = file_of("alexnet", "imagenet", str(cache))
        assert path == cache / FILE
        assert path.read_bytes() == CONTENT
    assert len(server.asked) == 1
    assert "100%" in capfd.readouterr().err
    assert [entry.name for entry in cache.iterdir()] == [FILE]


def test_the_cache_is_torchs_unless_moved(serving, tmp_path: Path, monkeypatch):
    serving("right")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    assert file_of("alexnet") == tmp_path / "torch" / "hub" / "checkpoints" / FILE


@pytest.mark.parametrize(
    ("behaviour", "reason"),
    [
        ("wrong", "invalid hash"),
        ("cut", "invalid hash"),
        ("silent", "timed out"),
        ("missing", "404"),
    ],
)
def test_a_failure_is_one_sentence_and_the_only_try(
    behaviour, reason, serving, server, tmp_path: Path
):
    serving(behaviour)
    began = time.monotonic()
    for _ in range(3):
        with pytest.raises(MissingWeights, match=reason) as failure:
            file_of("alexnet", cache=str(tmp_path))
        assert str(tmp_path / FILE) in str(failure.value)
        assert "pretrained.alexnet=FILE" in str(failure.value)
    with pytest.raises(MissingWeights, match=f"Inception.*{reason}"):
        file_of("inception", None, str(tmp_path))
    assert time.monotonic() - began < 5
    assert len(server.asked) == 1
    assert not [*tmp_path.iterdir()], "nothing half fetched, no lock"


def test_no_server_at_all(serving, server, tmp_path: Path):
    serving("right")
    url = f"http://127.0.0.1:1/{FILE}"
    pretrained.PUBLISHED["alexnet"] = Published("AlexNet", url)
    with pytest.raises(MissingWeights, match="refused"):
        file_of("alexnet", cache=str(tmp_path))


def test_fetching_can_be_forbidden(serving, server, tmp_path: Path):
    serving("right")
    with pytest.raises(MissingWeights, match=r"pretrained\.download=false"):
        file_of("alexnet", cache=str(tmp_path), download=False)
    assert not server.asked
    (tmp_path / FILE).write_bytes(b"put here by hand")
    assert file_of("alexnet", cache=str(tmp_path), download=False) == tmp_path / FILE


def test_a_folder_that_cannot_be_written(serving, tmp_path: Path):
    serving("right")
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(MissingWeights, match="file"):
        file_of("alexnet", cache=str(tmp_path / "file" / "cache"))


def _fetch(cache: str, results) -> None:
    try:
        results.put(str(file_of("alexnet", cache=cache)))
    except MissingWeights as error:
        results.put(str(error))


@pytest.mark.parametrize("behaviour", ["slow", "silent"])
@pytest.mark.slow
def test_processes_wait_for_the_one_that_fetches(
    behaviour, serving, server, tmp_path: Path, monkeypatch
):
    serving(behaviour)
    monkeypatch.setattr(pretrained, "PATIENCE", 2.5)
    forking = multiprocessing.get_context("fork")
    results = forking.Queue()
    processes = [forking.Process(target=_fetch, args=(str(tmp_path), results)) for _ in range(3)]
    for process in processes:
        process.start()
    answers = {results.get(timeout=30) for _ in processes}
    for process in processes:
        process.join()
    assert len(answers) == 1
    assert len(server.asked) == 1
    found = answers.pop()
    assert found == str(tmp_path / FILE) if behaviour == "slow" else "timed out" in found


def fetched() -> torch.Tensor:
    """As torchvision and others fetch weights by themselves."""
    url = pretrained.PUBLISHED["alexnet"].url
    return torch.hub.load_state_dict_from_url(url, progress=False, check_hash=True)["weight"]


def test_a_library_uses_our_cache(serving, server, tmp_path: Path):
    serving("right")
    before, cache = torch.hub.get_dir(), tmp_path / "new" / "cache"
    for _ in range(2):
        with library_downloads({"download": True, "cache": str(cache)}, "it"):
            assert fetched().equal(torch.arange(128_000))
    assert len(server.asked) == 1
    assert [entry.name for entry in cache.iterdir()] == [FILE]
    assert torch.hub.get_dir() == before


def test_the_hub_uses_our_cache_too(tmp_path: Path):
    place = tmp_path / "models--some--network"
    (place / "refs").mkdir(parents=True)
    (place / "refs" / "main").write_text("abc")
    (place / "snapshots" / "abc").mkdir(parents=True)
    (place / "snapshots" / "abc" / "weights.bin").write_bytes(b"3")
    before = huggingface_hub.constants.HF_HUB_CACHE
    with library_downloads({"download": False, "cache": str(tmp_path)}, "it"):
        path = huggingface_hub.hf_hub_download("some/network", "weights.bin")
    assert Path(path).read_bytes() == b"3"
    assert before == huggingface_hub.constants.HF_HUB_CACHE


def test_a_library_fetches_nothing_where_that_is_forbidden(serving, server, tmp_path: Path):
    serving("right")
    cache = tmp_path / "cache"
    forbidding = {"download": False, "cache": str(cache)}
    words = r"^it needs a file from 127\.0\.0\.1, .*\(pretrained\.download=false\)$"
    with pytest.raises(MissingWeights, match=words), library_downloads(forbidding, "it"):
        fetched()
    assert not server.asked
    assert not cache.exists()
    cache.mkdir()
    (cache / FILE).write_bytes(CONTENT)  # by hand
    with library_downloads(forbidding, "it"):
        assert len(fetched()) == 128_000
        # Only this thread is held to it, and only for weights that are being looked for.
        url = pretrained.PUBLISHED["alexnet"].url
        other = threading.Thread(target=lambda: urllib.request.urlopen(url).read())
        other.start()
        other.join()
    assert len(server.asked) == 1
    with pytest.raises(ValueError, match="else"), library_downloads(forbidding, "it"):
        raise ValueError("something else")


@pytest.mark.parametrize(("behaviour", "reason"), [("missing", "404"), ("silent", "timed out")])
def test_a_library_does_not_try_again_either(behaviour, reason, serving, server, tmp_path: Path):
    serving(behaviour)
    for _ in range(2):
        with (
            pytest.raises(MissingWeights, match=reason),
            library_downloads({"cache": str(tmp_path)}, "it"),
        ):
            fetched()
    with pytest.raises(MissingWeights, match=reason):
        file_of("alexnet", cache=str(tmp_path))
    assert len(server.asked) == 1


def test_the_public_files_are_the_libraries():
    urls = {key: published.url for key, published in pretrained.PUBLISHED.items()}
    assert urls == {
        "vgg19": models.VGG19_Weights.IMAGENET1K_V1.url,
        "alexnet": models.AlexNet_Weights.IMAGENET1K_V1.url,
        "inception": URL_INCEPTION_V3,
    }
    for published in pretrained.PUBLISHED.values():
        assert len(published.digits) == 8
        int(published.digits, 16)
