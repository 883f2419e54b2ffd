"""Other people's networks: from a file, whoever named its parts; said aloud when random."""

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch
from torchvision import models

from restore.cli import main
from restore.errors import UserError
from restore.models.pretrained import vgg19_features

WHOLE = 37


@pytest.fixture
def no_cache(tmp_path: Path):
    """Torch's cache of downloads, empty for the time of a test."""
    before = torch.hub.get_dir()
    torch.hub.set_dir(str(tmp_path / "hub"))
    yield tmp_path / "hub" / "checkpoints" / "vgg19-dcbb9e9d.pth"
    torch.hub.set_dir(before)


def like(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Weights of the same names and shapes that take no room in a file.

    Fully connected layers, which nobody looks at, are short: no small file may claim theirs.
    """
    shapes = {name: x.shape if x.numel() < 2**22 else x.shape[:1] for name, x in state.items()}
    return {name: torch.zeros(()).expand(shape) for name, shape in shapes.items()}


def names_of(make) -> dict[str, torch.Tensor]:
    with torch.device("meta"):
        return make().state_dict()


@pytest.fixture(scope="module")
def made_up() -> dict[str, torch.Tensor]:
    """A VGG19's convolutions, by torchvision's names; a filter's numbers are all the same.

    So they take no room in a file.
    """
    rng = torch.Generator().manual_seed(1)
    state = {n: x for n, x in names_of(models.vgg19).items() if n.startswith("features.")}
    return {
        name: torch.randn([len(x), *[1] * (x.ndim - 1)], generator=rng).expand(x.shape)
        / x[0].numel()
        for name, x in state.items()
    }


@pytest.mark.parametrize(
    "make",
    [models.vgg19, lambda: timm.create_model("vgg19")],
    ids=["torchvision", "timm"],
)
@pytest.mark.parametrize("layers", [12, 30, WHOLE])
def test_a_file_in_either_layout(make, layers, made_up, tmp_path: Path):
    path = tmp_path / "vgg19.pth"
    torch.save(like(names_of(make)) | made_up, path)
    features, provenance = vgg19_features(str(path), layers)
    assert len(features) == layers
    for name, tensor in features.state_dict().items():
        assert torch.equal(tensor, made_up[f"features.{name}"])
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert provenance.fingerprint == digest[:12]
    assert not provenance.official
    assert str(path) in provenance.sentence()
    assert "not the published file" in provenance.sentence()


@pytest.mark.parametrize("layers", [1, 5, 12, 30, WHOLE])
def test_the_layers_are_torchvisions(layers, made_up, tmp_path: Path):
    path = tmp_path / "vgg19.pth"
    torch.save(made_up, path)
    mine, _ = vgg19_features(str(path), layers)
    with torch.device("meta"):
        theirs = models.vgg19().features[:layers]
    theirs.load_state_dict(mine.state_dict(), assign=True)
    assert [type(layer) for layer in mine] == [type(layer) for layer in theirs]
    x = torch.rand(1, 3, 33, 40)
    with torch.inference_mode():
        torch.testing.assert_close(mine(x), theirs(x), rtol=1e-4, atol=1e-4)


OTHERS = {
    "VGG16, which begins alike": lambda: like(names_of(models.vgg16)),
    "VGG19 with batch normalisation": lambda: like(names_of(models.vgg19_bn)),
    "AlexNet": lambda: like(names_of(models.alexnet)),
    "ResNet": lambda: like(names_of(models.resnet18)),
    "nothing": dict,
}


@pytest.mark.parametrize("other", OTHERS)
def test_another_networks_file_is_refused(other, tmp_path: Path):
    path = tmp_path / "other.pth"
    torch.save(OTHERS[other](), path)
    with pytest.raises(UserError, match=r"pretrained.vgg19=.*other\.pth holds no VGG19"):
        vgg19_features(str(path), 12)


def test_another_shape_is_refused(made_up, tmp_path: Path):
    path = tmp_path / "grey.pth"
    torch.save(made_up | {"features.0.weight": torch.zeros(64, 1, 3, 3)}, path)
    with pytest.raises(UserError, match=r"grey\.pth.*another model.*0\.weight \(64, 1, 3, 3\)"):
        vgg19_features(str(path), 12)


def test_a_truncated_file_is_refused(made_up, tmp_path: Path):
    path = tmp_path / "cut.pth"
    torch.save({"features.0.weight": made_up["features.0.weight"]}, path)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(UserError, match=r"cut\.pth is damaged"):
        vgg19_features(str(path), 12)


def test_random_is_announced_and_always_the_same():
    torch.manual_seed(5)
    one, provenance = vgg19_features("random", 12)
    drawn = torch.rand(3)
    other, _ = vgg19_features("random", 12)
    for name, tensor in one.state_dict().items():
        assert torch.equal(tensor, other.state_dict()[name])
    assert "RANDOM" in provenance.sentence()
    torch.manual_seed(5)
    assert torch.equal(torch.rand(3), drawn), "whoever draws next must not notice"


def test_the_cached_file_is_taken_without_a_download(made_up, no_cache: Path):
    no_cache.parent.mkdir(parents=True)
    torch.save(made_up, no_cache)
    features, provenance = vgg19_features("imagenet", 12)
    assert torch.equal(features[0].weight, made_up["features.0.weight"])
    assert provenance.kind == "imagenet"
    assert not provenance.official, "it has the published name, but not the published content"


def test_a_damaged_cached_file_is_one_sentence(no_cache: Path):
    no_cache.parent.mkdir(parents=True)
    no_cache.write_bytes(b"half a download")
    with pytest.raises(UserError, match=r"vgg19-dcbb9e9d\.pth is damaged"):
        vgg19_features("imagenet", 12)


@pytest.mark.slow
def test_offline_is_one_sentence(tmp_path: Path):
    """In a process of its own: whoever asks the network here gets no answer."""
    line = [sys.executable, "-m", "restore", "train", f"folder={tmp_path / 'run'}"]
    done = subprocess.run(
        [*line, "pretrained.vgg19=imagenet", "runtime.device=cpu"],
        capture_output=True,
        text=True,
        timeout=100,
        env={"PATH": "", "TORCH_HOME": str(tmp_path), "https_proxy": "http://127.0.0.1:9"},
    )
    said = [line for line in done.stderr.splitlines() if not line.startswith("Downloading")]
    assert done.returncode == 2, done.stderr
    assert len(said) == 1, done.stderr
    assert "VGG19's published weights cannot be downloaded" in said[0]
    assert str(tmp_path / "hub" / "checkpoints" / "vgg19-dcbb9e9d.pth") in said[0]
    assert "pretrained.vgg19=FILE" in said[0]
    assert "pretrained.vgg19=random" in said[0]
    assert not (tmp_path / "run").exists()


def test_a_missing_file_is_one_sentence(capfd, tmp_path: Path):
    line = ["train", "pretrained.vgg19=missing.pth", f"folder={tmp_path / 'run'}"]
    assert main(line) == 2
    assert "pretrained.vgg19=missing.pth: no such file" in capfd.readouterr().err


def test_a_file_may_end_after_the_layers_that_are_wanted(made_up, tmp_path: Path):
    path = tmp_path / "vgg19.pth"
    first = {name: x for name, x in made_up.items() if int(name.split(".")[1]) <= 10}
    torch.save(first, path)
    features, _ = vgg19_features(str(path), 12)
    assert torch.equal(features[10].weight, made_up["features.10.weight"])
    with pytest.raises(
        UserError, match=r"ends after VGG19's layer 10\.bias.*features\.28\.bias is"
    ):
        vgg19_features(str(path), 30)


@pytest.mark.parametrize("last", [17, 28])
def test_a_shorter_vgg16_is_refused_where_it_differs(last, tmp_path: Path):
    path = tmp_path / "vgg16.pth"
    state = like(names_of(models.vgg16))
    first = (n for n in state if n.startswith("features.") and int(n.split(".")[1]) <= last)
    torch.save({name: state[name] for name in first}, path)
    with pytest.raises(UserError, match="holds no VGG19"):
        vgg19_features(str(path), 12)


def test_a_gap_is_refused(made_up, tmp_path: Path):
    path = tmp_path / "vgg19.pth"
    torch.save({n: x for n, x in made_up.items() if n != "features.5.bias"}, path)
    with pytest.raises(UserError, match="holds no VGG19"):
        vgg19_features(str(path), 12)
