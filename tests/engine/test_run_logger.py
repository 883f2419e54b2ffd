"""What a run leaves behind can be read back, and the dashboard never stands in a run's way."""

import csv
import json
import os
import subprocess
import sys
import threading
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from restore.engine import run_folder, status
from restore.engine.run_logger import Journal, Numbers
from restore.engine.status import Progress
from restore.errors import UserError
from restore.utils import files
from restore.utils.files import to_json
from tests.helpers.disk import no_larger_than
from tests.helpers.wandb_files import entries, wandb_run

WANDB = {"mode": "disabled", "project": "p", "entity": None, "group": "g", "tags": ["t", "u"]}


def lines(folder: Path) -> list[tuple[int, str, float]]:
    with open(folder / "metrics.csv", newline="") as file:
        rows = list(csv.reader(file))
    assert rows[0] == ["step", "name", "value"]
    return [(int(step), name, float(value)) for step, name, value in rows[1:]]


def test_numbers_are_lines_of_step_name_value(tmp_path: Path):
    kept = Journal(tmp_path, {}, WANDB, "train")
    kept.numbers({"train/loss": 0.1 + 0.2, "odd, name": 1e-300}, 1)
    kept.numbers({"train/loss": float("inf")}, 2)
    assert lines(tmp_path)[:2] == [(1, "train/loss", 0.1 + 0.2), (1, "odd, name", 1e-300)]
    kept.numbers({"valid/psnr": 3}, 2)
    kept.close()
    assert lines(tmp_path)[2:] == [(2, "train/loss", float("inf")), (2, "valid/psnr", 3.0)]
    assert not (tmp_path / "wandb").exists(), "disabled leaves nothing"


def test_going_on_drops_what_will_be_written_again(tmp_path: Path):
    path = tmp_path / "metrics.csv"
    first = Numbers(path, 0)
    for step in range(1, 6):
        first.write({"loss": step / 10}, step)
    first.close()
    with open(path, "a") as file:
        file.write("6,lo")  # killed in the middle of a line
    again = Numbers(path, 3)
    again.write({"loss": 9.0}, 4)
    again.close()
    assert lines(tmp_path) == [(1, "loss", 0.1), (2, "loss", 0.2), (3, "loss", 0.3), (4, "loss", 9)]


def test_an_offline_run_holds_everything(tmp_path: Path):
    folder = tmp_path / "my run"
    folder.mkdir()
    picture = folder / "sheet.png"
    Image.new("RGB", (9, 5), (200, 10, 30)).save(picture)
    config = {"backbone": {"features": 8}, "text": "long " * 20000, "none": None}
    kept = Journal(folder, config, {**WANDB, "mode": "offline"}, "evaluate")
    for step in (10, 20):
        kept.numbers({"train/loss": 1 / step, "train/lr": 0.5}, step)
    kept.pictures({"valid/000_a": picture}, 20)
    kept.summary({"best": 3.5, "restored": {"psnr": 30.25}})
    kept.close()
    found = wandb_run(folder)
    (run,) = found["run"]
    held = entries(run.config.update)
    assert {name: held[name] for name in config} == config
    assert (run.project, run.display_name, run.job_type) == ("p", "my run", "evaluate")
    assert (run.run_group, list(run.tags)) == ("g", ["t", "u"])
    assert run.run_id == kept.identity
    history = [entries(record.item) for record in found["history"]]
    for row, step in zip(history, (10, 20)):
        assert (row["step"], row["train/loss"], row["train/lr"]) == (step, 1 / step, 0.5)
    shown = history[2]
    assert shown["step"] == 20
    assert shown["valid/000_a|_type"] == "image-file"
    media = next(folder.glob("wandb/offline-run-*/files")) / shown["valid/000_a|path"]
    assert media.read_bytes() == picture.read_bytes()
    last: dict[str, Any] = {}
    for record in found["summary"]:
        last |= entries(record.update)
    assert last["best"] == 3.5
    assert last["restored"] == {"psnr": 30.25}
    assert last["train/loss"] == 1 / 20
    assert found["exit"][0].exit_code == 0
    assert any("step" in record.step_metric for record in found["metric"])


def test_a_validation_is_there_to_look_at(tmp_path: Path):
    picture = tmp_path / "sheet.png"
    Image.new("RGB", (9, 5), (200, 10, 30)).save(picture)
    weights = tmp_path / "best.pt"
    weights.write_bytes(b"weights")
    kept = Journal(
        tmp_path, {}, {**WANDB, "mode": "offline", "tags": ["x" * 99, "t", "t"]}, "train"
    )
    # Only these say which way is better; `mine_too` is named like another, and is another.
    directions = {"psnr": True, "lpips": False, "mine": None, "mine_too": False}
    names = [f"valid/{name}" for name in ("psnr_y", "lpips", "bicubic/lpips", "mine", "mine_too")]
    kept.define(names, directions)
    for step, value in ((1, 30.0), (2, 20.0)):
        kept.numbers({"valid/psnr_y": value, "valid/lpips": 1 / value}, step)
        row = {"picture": f"at {step}", "file": picture, "psnr_y": value}
        kept.table([row], step)
    holes = np.zeros((5, 9), np.uint8)
    holes[1:3, 2:4] = 1
    kept.masked({"valid/holes/a": (picture, holes)}, 2)
    kept.artifact(weights, "best")
    kept.close()
    found = wandb_run(tmp_path)
    assert list(found["run"][0].tags) == ["x" * 64, "t"]
    ways = {record.name: record.summary for record in found["metric"]}
    assert (ways["valid/psnr_y"].max, ways["valid/psnr_y"].last) == (True, True)
    for name in ("valid/lpips", "valid/bicubic/lpips", "valid/mine_too"):
        assert (ways[name].min, ways[name].max) == (True, False)
    assert "valid/mine" not in ways
    files = next(tmp_path.glob("wandb/offline-run-*/files"))
    tables = [json.loads(path.read_text()) for path in files.rglob("*.table.json")]
    assert tables
    assert all(table["columns"] == ["step", "picture", "sheet", "psnr_y"] for table in tables)
    told = {(row[0], row[1], row[3]) for table in tables for row in table["data"]}
    assert told == {(1, "at 1", 30.0), (2, "at 2", 20.0)}
    (overlay,) = files.rglob("*.mask.png")
    assert np.array_equal(np.array(Image.open(overlay)), holes)
    models = [a for a in found["artifact"] if a.type == "model"]
    assert [set(a.aliases) for a in models] == [{"latest", "best"}]
    again = Journal(tmp_path, {}, {**WANDB, "mode": "offline"}, "train")
    again.close()
    assert again.identity == kept.identity, "a run that goes on is the same one"


FULL = """
import resource, sys
from pathlib import Path
from restore.engine import run_folder, run_logger
folder = Path(sys.argv[1])
run_folder.log_to(None)
kept = run_logger.Journal(folder, {}, {
    "mode": "offline", "project": "p", "entity": None, "group": None, "tags": []}, "train")
kept.numbers({"loss": 1.0}, 1)
resource.setrlimit(resource.RLIMIT_FSIZE, (50, 50))
for step in range(2, 9):
    kept.numbers({"loss": 1.0}, step)
kept.close()
print("went on to the end")
"""


def test_a_full_disk_costs_numbers_and_not_the_training(tmp_path: Path):
    done = subprocess.run(
        [sys.executable, "-c", FULL, str(tmp_path)], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert "went on to the end" in done.stdout
    assert done.stdout.count("numbers are missing in") == 1


def test_a_failed_run_is_marked(tmp_path: Path):
    kept = Journal(tmp_path, {}, {**WANDB, "mode": "offline"}, "train")
    kept.close(failed=True)
    assert wandb_run(tmp_path)["exit"][0].exit_code == 1


USE = """
import sys
from pathlib import Path
import psutil
from restore.engine import run_folder, run_logger
folder, mode, kill = Path(sys.argv[1]), sys.argv[2], sys.argv[3] == "kill"
run_folder.log_to(folder)
kept = run_logger.Journal(folder, {"a": 1}, {
    "mode": mode, "project": "p", "entity": None, "group": None, "tags": []}, "train")
kept.numbers({"loss": 1.0}, 1)
for child in psutil.Process().children(recursive=True) if kill else []:
    child.kill()
    child.wait()
for step in (2, 3):
    kept.numbers({"loss": 1.0 / step}, step)
kept.pictures({"picture": folder / "picture.png"}, 3)
kept.summary({"best": 1})
kept.close()
print("went on to the end")
"""


def use(folder: Path, mode: str, kill: str = "", **more: str) -> str:
    """A journal in a process of its own, without any account of W&B's; returns what it said."""
    Image.new("RGB", (4, 4)).save(folder / "picture.png")
    environment = {"PATH": os.environ["PATH"], "HOME": str(folder), "OMP_NUM_THREADS": "1", **more}
    done = subprocess.run(
        [sys.executable, "-c", USE, str(folder), mode, kill],
        capture_output=True,
        text=True,
        timeout=150,
        stdin=subprocess.DEVNULL,
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    assert "went on to the end" in done.stdout
    assert [step for step, _, _ in lines(folder)] == [1, 2, 3]
    return done.stdout + (folder / "log.txt").read_text()


def test_without_an_account_files_are_kept_instead(tmp_path: Path):
    said = use(tmp_path, "online")
    assert "the dashboard cannot be started with wandb.mode=online" in said
    found = wandb_run(tmp_path)
    assert [entries(row.item)["step"] for row in found["history"]] == [1, 2, 3, 3]


class Refusing(BaseHTTPRequestHandler):
    """A server that takes no key."""

    def do_POST(self):
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.send_response(401)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")
        self.server.asked.append(self.path)

    do_GET = do_POST

    def log_message(self, *arguments):
        """Nothing on the screen."""


def test_a_refused_key_does_not_stop_the_run(tmp_path: Path):
    with ThreadingHTTPServer(("127.0.0.1", 0), Refusing) as server:
        server.asked = []
        threading.Thread(target=server.serve_forever, daemon=True).start()
        own = {"WANDB_BASE_URL": f"http://127.0.0.1:{server.server_port}"}
        said = use(tmp_path, "online", WANDB_API_KEY="a" * 40, **own)
        server.shutdown()
    assert "/graphql" in server.asked, "the server was not even asked"
    assert "the dashboard cannot be started with wandb.mode=online" in said
    assert "401" in said
    found = wandb_run(tmp_path)
    assert [entries(row.item)["step"] for row in found["history"]] == [1, 2, 3, 3]


@pytest.mark.slow
def test_a_dashboard_that_dies_does_not_stop_the_run(tmp_path: Path):
    said = use(tmp_path, "offline", "kill")
    assert said.count("the dashboard failed and is switched off") == 2, "screen and log.txt"


def test_disabled_leaves_no_folder(tmp_path: Path):
    use(tmp_path, "disabled")
    assert {path.name for path in tmp_path.iterdir()} == {"picture.png", "metrics.csv", "log.txt"}


def test_a_run_folder_says_where_it_comes_from(tmp_path: Path):
    folder = tmp_path / "deep" / "run"
    config = {"schedule": ["a"], "name": "Größe ×4", "none": None, "rate": 1e-4}
    run_folder.make_folder(folder, config)
    assert {path.name for path in folder.iterdir()} == {"config.yaml", "environment.json"}
    assert run_folder.read_config(folder) == config
    assert yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8")) == config
    held = json.loads((folder / "environment.json").read_text())
    assert held["packages"]["torch"] == torch.__version__.partition("+")[0]
    assert held["python"] == ".".join(map(str, sys.version_info[:3]))
    assert held["command"] == sys.argv
    root = Path(run_folder.__file__).resolve().parents[2]
    if (root / ".git").exists():
        git = ["git", "-C", str(root), "rev-parse", "HEAD"]
        head = subprocess.run(git, capture_output=True, text=True).stdout.strip()
        assert held["commit"] == head


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"schedule": ["a"]}, "holds a run already.*restore train resume="),
        ({"split": "test"}, "holds an evaluation already: name another folder"),
    ],
)
def test_a_folder_in_use_is_refused(config, said, tmp_path: Path):
    run_folder.make_folder(tmp_path / "run", config)
    before = (tmp_path / "run" / "environment.json").read_bytes()
    with pytest.raises(UserError, match=said):
        run_folder.make_folder(tmp_path / "run", {})
    assert (tmp_path / "run" / "environment.json").read_bytes() == before


def test_a_folder_that_cannot_be_made(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot make the folder"):
        run_folder.make_folder(tmp_path / "file" / "run", {})


@pytest.mark.parametrize("text", ["a: [1", "- a list", "", "\x00"])
def test_a_damaged_configuration_is_one_sentence(text, tmp_path: Path):
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(UserError, match="is damaged") as raised:
        run_folder.read_config(tmp_path)
    assert "\n" not in str(raised.value)
    (tmp_path / "config.yaml").write_bytes(b"\xff\xfe\x00a")
    with pytest.raises(UserError, match="is damaged"):
        run_folder.read_config(tmp_path)


def test_json_is_what_every_reader_takes():
    values = {"a": float("nan"), "b": [float("inf"), -float("inf")], "c": {"d": 1.5, "e": "nan"}}
    text = to_json({**values, "f": (1, None, True)})
    held = json.loads(text, parse_constant=pytest.fail)
    assert held["a"] is None
    assert [float(value) for value in held["b"]] == values["b"]
    assert held["c"] == values["c"]
    assert held["f"] == [1, None, True]


def test_text_is_written_whole_or_not_at_all(tmp_path: Path):
    path = tmp_path / "a.txt"
    files.write_text(path, "first")
    with pytest.raises(UnicodeEncodeError):
        files.write_text(path, "second \ud800")
    assert path.read_text() == "first"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_numbers_wait_for_a_disk_that_is_full_for_a_moment(tmp_path: Path):
    path = tmp_path / "metrics.csv"
    kept = Numbers(path, 0)
    for step in range(1, 40):
        with no_larger_than(200 if 10 < step < 30 else 10**6):
            kept.write({"loss": 1 / step, "lr": 0.1}, step)
        for line in path.read_text().splitlines():
            assert line.count(",") == 2, "no part of a line"
    kept.close()
    expected = [(s, name, v) for s in range(1, 40) for name, v in (("loss", 1 / s), ("lr", 0.1))]
    assert lines(tmp_path) == expected


CONFIG = {"weights": "w.pt", "folder": "here", "limit": None, "runtime": {"devices": 1}}


def test_what_did_not_end_may_be_begun_again(tmp_path: Path):
    folder = tmp_path / "out"
    again = {**CONFIG, "folder": "there", "runtime": {"devices": 2}}
    with suppress(KeyboardInterrupt), run_folder.filling(folder, CONFIG):
        (folder / "a.png").write_bytes(b"")
        raise KeyboardInterrupt
    with pytest.raises(UserError, match="an unfinished job with other settings"):
        run_folder.refuse_taken(folder, {**CONFIG, "limit": 3})
    with run_folder.filling(folder, again):
        with pytest.raises(UserError, match="being written by another process"):
            run_folder.filling(folder, CONFIG).__enter__()
        run_folder.finish(folder)
    with pytest.raises(UserError, match="holds an evaluation already"):
        run_folder.filling(folder, again).__enter__()


def test_a_folder_without_results_does_not_stand_in_the_way(tmp_path: Path):
    with pytest.raises(UserError, match="a mistake"), run_folder.filling(tmp_path / "out", CONFIG):
        raise UserError("a mistake")
    assert not (tmp_path / "out").exists()


def test_what_lay_there_before_a_mistake_lies_there_after_it(tmp_path: Path):
    folder = tmp_path / "a" / "out"
    with suppress(KeyboardInterrupt), run_folder.filling(folder, CONFIG):
        (folder / "pictures").mkdir()
        (folder / "pictures" / "a.png").write_bytes(b"")
        raise KeyboardInterrupt
    assert run_folder.unfinished(folder)
    with suppress(UserError), run_folder.filling(folder, CONFIG):
        raise UserError("a mistake")
    assert not folder.parent.exists(), "what a killed one had made goes too"
    folder.mkdir(parents=True)
    (folder / "notes.txt").write_text("")
    with suppress(UserError), run_folder.filling(folder, CONFIG):
        (folder / "pictures").mkdir()
        raise UserError("a mistake")
    assert [path.name for path in folder.iterdir()] == ["notes.txt"]
    with suppress(UserError), run_folder.undoing(folder):
        (folder / "checkpoints").mkdir()
        (folder / "checkpoints" / "last.pt").write_bytes(b"")
        raise UserError("a mistake")
    assert (folder / "checkpoints" / "last.pt").exists()


def test_a_full_disk_costs_the_status_and_nothing_else(tmp_path: Path):
    progress = Progress(tmp_path, 0, 10)
    with no_larger_than(20):
        progress.measured(3, "psnr", 30.0, None)
        status.fail(tmp_path, "a reason")
    assert status.read(tmp_path)["step"] == 0
    progress.measured(4, "psnr", 30.0, 30.0)
    assert status.read(tmp_path)["step"] == 4
