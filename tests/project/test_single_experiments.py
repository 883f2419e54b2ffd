"""Experiments on networks of one picture: SRGAN's, the course comparison's, those that ship."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from restore.cli import main
from restore.config import compose, registry
from restore.models import weights
from tests.helpers.pictures import photo, write

NAMES = [
    name
    for name in registry.names("experiment")
    if name.startswith(("srgan/", "wdsr/", "shipped/"))
]
SMALL = {
    "srresnet": ["backbone.blocks=1", "backbone.features=4"],
    "edsr": ["backbone.features=4"],
    "wdsr": ["backbone.features=5"],
    "asdn": [f"backbone.mapping.{part}=2" for part in ("blocks", "width", "growth")],
}


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    """The same few pictures as a folder and in DIV2K's layout, with low ones of ×4."""
    root = tmp_path_factory.mktemp("photos")
    for number in range(12):
        picture = photo(height=48, width=48, at=20 * number)
        write(root / "folder" / f"{number}.png", picture)
        split = "train" if number < 2 else "valid"
        write(root / f"DIV2K_{split}_HR" / f"{number:04d}.png", picture)
        low = root / f"DIV2K_{split}_LR_bicubic" / "X4" / f"{number:04d}x4.png"
        write(low, picture[2::4, 2::4])
    return root


def lines(name: str, photos: Path) -> Iterator[str]:
    """Overrides that make an experiment small, with a step for each of its stages."""
    yield from (f"experiment={name}", "pretrained.vgg19=random")
    config = compose("train", [f"experiment={name}", "pretrained.vgg19=random"])
    folder = "folder" in config.data._target_
    yield f"data.targets={photos / 'folder'}" if folder else f"data.root={photos}"
    # Of a dozen pictures the share that experiments keep for validation may be none.
    yield "data.valid=0.3" if folder else "data.cache=null"
    yield from SMALL[config.backbone._target_.split(".")[-2]]
    yield f"task.crop={32 if 'full' in config.schedule else 24}"
    for stage in config.schedule:
        yield from (f"stages.{stage}.epochs=null", f"stages.{stage}.steps=1")
    if "full" in config.schedule and "srgan" in config.discriminator._target_:
        yield "discriminator.features=4"
    yield from ("trainer.batch_size=2", "trainer.log_every=1", "trainer.pictures=0")
    yield from ("wandb.mode=disabled", "loader.workers=0")
    yield from ("runtime.device=cpu", "runtime.threads=1")


# Each is held against its settings by tests/config/test_config.py; one of each kind is trained here
# every time.
EVERY_TIME = ("srgan/paper", "shipped/wdsr_b_x4")


@pytest.mark.parametrize(
    "name",
    [pytest.param(x, marks=[] if x in EVERY_TIME else [pytest.mark.slow]) for x in NAMES],
)
def test_it_trains_a_step_of_each_stage(name: str, photos: Path, tmp_path: Path):
    assert main(["train", f"folder={tmp_path / 'run'}", *lines(name, photos)]) == 0
    state = weights.load(tmp_path / "run").state
    assert all(torch.isfinite(value).all() for value in state.values())


@pytest.mark.parametrize(
    ("network", "counts"),
    [
        ("edsr", {1: 409_731, 3: 557_443, 5: 705_155, 8: 926_723}),
        ("a", {1: 92_304, 3: 240_080, 5: 387_856, 8: 609_520}),
        ("b", {1: 36_809, 3: 73_595, 5: 110_381, 8: 165_560}),
    ],
)
@pytest.mark.slow
def test_the_course_comparison_has_its_documents_parameters(network, counts):
    for blocks, count in counts.items():
        made = built(f"wdsr/{network}", f"backbone.blocks={blocks}", "data.root=.")
        gains = sum(p.numel() for name, p in made.named_parameters() if "original0" in name)
        assert parameters(made) - gains == count
        assert compose("train", [f"experiment=wdsr/{network}"]).protocol.name == "rgb"


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_a_wdsr_that_ships_is_small_and_sees_40_pixels(scale):
    overrides = [f"experiment=shipped/wdsr_b_x{scale}", "data.targets=."]
    config = compose("train", overrides)
    assert config.task.scale == scale
    assert config.task.crop == 40 * scale
    assert config.degradation._target_ == "restore.images.bicubic.MatlabBicubic"
    assert 2 * parameters(built(*overrides[0].split("=")[1:], "data.targets=.")) < 1e6


def test_the_asdn_that_ships_is_small_and_tiles():
    made = built("shipped/asdn", "data.targets=.")
    assert 2 * parameters(made) < 4e6
    assert made.reach is not None


def built(experiment: str, *overrides: str) -> torch.nn.Module:
    chosen = [f"experiment={experiment}", *overrides]
    node = compose("train", chosen)
    name = node.backbone._target_.split(".")[-2]
    if name == "wdsr":
        name = "wdsr_a" if "Wide" in node.backbone.block._target_ else "wdsr_b"
    return registry.build("backbone", name, *chosen)


def parameters(model: torch.nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())
