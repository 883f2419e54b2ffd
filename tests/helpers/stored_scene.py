"""A small network with its picture, and files that are changed to do harm."""

import copy
from pathlib import Path
from typing import Any

import torch

from restore.config import compose, plain, registry
from restore.models import checkpoint
from restore.utils.files import to_yaml
from tests.helpers.pictures import photo, write

QUIET = ["runtime.device=cpu", "runtime.threads=1"]
NETWORK = ["task=single_sr", "backbone=edsr", "backbone.blocks=1", "backbone.features=4"]
NETWORK += ["task.scale=2", "task.crop=24", "degradation=matlab_bicubic", "protocol=y"]
SHORT = ["stages.reconstruction.epochs=null", "stages.reconstruction.steps=1"]
SHORT += ["trainer.batch_size=1", "trainer.pictures=0", "loader.workers=0", "wandb.mode=disabled"]


def data(root: Path) -> list[str]:
    """Settings for three small photos below `root`, which are written."""
    for number in range(3):
        write(root / "photos" / f"{number}.png", photo(height=32, width=32, at=60 * number))
    return ["data=folder", f"data.targets={root / 'photos'}", "data.valid=1", "data.test=1"]


def configuration(root: Path) -> dict[str, Any]:
    return plain(compose("train", [*NETWORK, *SHORT, *QUIET, *data(root)]))


def entries(config: dict[str, Any]) -> dict[str, Any]:
    """A checkpoint's entries, of a network with weights by chance."""
    torch.manual_seed(0)
    model = registry.instantiate(config["backbone"], "backbone")
    state = {"backbone": model.state_dict()}
    return {"config": config, "models": state, "ema": None, "step": 1}


def run(folder: Path, held: dict[str, Any]) -> Path:
    """A run folder of these entries."""
    (folder / "checkpoints").mkdir(parents=True)
    checkpoint.write(folder / "checkpoints" / "last.pt", held)
    if isinstance(held.get("config"), dict):
        (folder / "config.yaml").write_text(to_yaml(held["config"]))
    return folder


def changed(config: dict[str, Any], path: tuple[str, ...], value: Any) -> dict[str, Any]:
    """The configuration with another value at a place, which need not be there yet."""
    config = copy.deepcopy(config)
    node = config
    for step in path[:-1]:
        node = node.setdefault(step, {})
    node[path[-1]] = value
    return config
