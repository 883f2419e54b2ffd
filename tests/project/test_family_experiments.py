"""Recipes of MASA-SR, C2-Matching and DATSR: two steps of each on pictures laid out like CUFED."""

from pathlib import Path

import pytest
import torch

from restore.cli import main
from restore.config import compose, registry
from restore.models import checkpoint, weights
from tests.helpers.pictures import photo, write

NAMES = [name for name in registry.names("experiment") if name.startswith("family/")]
# One of each network and stage; the others differ from them in numbers.
EVERY_TIME = (
    "family/masa_corrected",
    "family/c2_matching_teacher",
    "family/c2_matching_gan_corrected",
    "family/datsr_corrected",
    "family/small/ours",
)
SMALL = {
    "masa": ["backbone.blocks=[0,0,0,1,0,0]", "backbone.features=4"],
    "c2_matching": ["backbone.blocks=0", "backbone.content_blocks=0", "backbone.features=4"],
    "datsr": ["backbone.blocks=1", "backbone.features=4", "trunk.depth=1"],
    "ttsr": ["backbone.blocks=[0,0,0,0]", "backbone.features=4"],
    "matching": [],
}
PYRAMID = ["extractor=pyramid", "extractor.features=4", "extractor.blocks=[0,0,0]"]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("pictures")
    for number in range(3):
        for place, shift in (("input", 0), ("ref", 9)):
            picture = photo(height=48, width=48, at=40 * number + shift)
            write(root / "train" / place / f"{number}.png", picture)
            write(root / "test" / "CUFED5" / f"{number:03d}_{shift and 1}.png", picture)
        write(root / "photos" / f"{number}.png", photo(height=64, width=64, at=number))
    return root


@pytest.mark.parametrize(
    "name",
    [pytest.param(x, marks=[] if x in EVERY_TIME else [pytest.mark.slow]) for x in NAMES],
)
def test_it_trains_two_steps_of_each_stage(name: str, pictures: Path, tmp_path: Path):
    words = [f"experiment={name}", "pretrained.vgg19=random", "pretrained.contrastive=random"]
    config = compose("train", words)
    network = config.backbone._target_.split(".")[-2]
    words += SMALL[network]
    side = 32
    if name.startswith("family/small/"):
        words += [f"data.photos.targets={pictures / 'photos'}", "data.size=48"]
        words += ["data.photos.valid=0.4"]
    elif network == "matching":
        words += [f"data.photos.targets={pictures / 'photos'}", f"data.size={side}"]
        words += ["data.photos.valid=0.4"]
        losses = "stages.reconstruction.objectives.restoration.losses"
        words += [f"{losses}.triplet.least=1", f"{losses}.triplet.border=4"]
        if "distillation" in config.stages.reconstruction.objectives.restoration.losses:
            words += [f"{losses}.distillation.weights=random", f"{losses}.distillation.least=1"]
    else:
        words += [f"data.root={pictures}", *PYRAMID]
    words += [f"task.crop={side}", f"task.reference_crop={side}"]
    for stage in config.schedule:
        words += [f"stages.{stage}.epochs=null", f"stages.{stage}.steps=2"]
    words += ["trainer.batch_size=2", "trainer.log_every=1", "trainer.pictures=0"]
    words += ["wandb.mode=disabled", "loader.workers=0", "runtime.device=cpu", "runtime.threads=1"]
    assert main(["train", f"folder={tmp_path / 'run'}", *words]) == 0
    state = weights.load(tmp_path / "run").state
    assert all(torch.isfinite(value).all() for value in state.values())
    # Each group of parameters is there, with its learning rate.
    optimizers = checkpoint.read(tmp_path / "run" / "checkpoints" / "last.pt")["optimizers"]
    for stage in config.schedule:
        groups = config.stages[stage].objectives.restoration.param_groups
        rates = [g["initial_lr"] for g in optimizers[f"{stage}/restoration"]["param_groups"]]
        if not name.startswith("family/small/"):  # whose extractors are not trained
            assert rates[1:] == [options.lr for options in groups.values()]
