"""Every experiment of the documents starts: two steps on data shaped like the real set."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from restore import registry, weights
from restore.cli import main
from restore.config import compose
from tests.test_ablations import VARIANTS

COURSE = [name for name in registry.names("experiment") if name.startswith("course/")]


@pytest.fixture(scope="module")
def cufed(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("cufed")
    rng = np.random.default_rng(0)
    names = ["train/input/a.png", "train/ref/a.png", "train/input/b.png", "train/ref/b.png"]
    names += ["test/CUFED5/000_0.png", "test/CUFED5/000_1.png"]
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(root / name)
    return root


@pytest.mark.parametrize("name", COURSE)
def test_it_trains_two_steps(name: str, cufed: Path, tmp_path: Path):
    choice = [f"experiment={name}", f"data.root={cufed}", "pretrained.vgg19=random"]
    config = compose("train", choice)
    lengths = [
        line
        for stage in config.schedule
        for line in (f"stages.{stage}.epochs=null", f"stages.{stage}.steps=1")
    ]
    small = [
        f"backbone.blocks={[1] * len(config.backbone.blocks)}",
        "backbone.features=8",
        "task.crop=32",
        "task.reference_crop=32",
        "trainer.batch_size=2",
        "trainer.log_every=1",
        "wandb.mode=disabled",
        "loader.workers=0",
        "runtime.device=cpu",
    ]
    assert main(["train", f"folder={tmp_path / 'run'}", *choice, *small, *lengths]) == 0
    state = weights.load(tmp_path / "run").state
    assert all(torch.isfinite(value).all() for value in state.values())


@pytest.mark.parametrize(
    ("name", "variant"),
    [("3_1", "suite_3_1"), ("3_2", "suite_3_2"), ("6_1", "suite_6_1"), ("8", "suite_8")],
)
def test_its_network_is_the_published_one(name: str, variant: str):
    overrides = [f"experiment=course/{name}", "pretrained.vgg19=random", "data.root=."]
    node = compose("train", overrides).backbone
    reference = compose("train", ["pretrained.vgg19=random", *VARIANTS[variant][0]]).backbone
    for key in ("blocks", "scales", "features", "fusion", "exchange", "attention"):
        assert node[key] == reference[key], key
    assert node.trunk._target_ == reference.trunk._target_
