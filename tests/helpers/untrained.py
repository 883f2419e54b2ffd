"""Run folders as training leaves them, of small networks with random weights."""

from pathlib import Path

import torch
import yaml

from restore.config import compose, plain, registry
from restore.models import checkpoint

TINY = [
    "pretrained.vgg19=random",
    "backbone.features=8",
    "backbone.blocks=[1,1,1,1]",
    "backbone.global_skip=true",
]


def write_run(folder: Path, *overrides: str) -> Path:
    """A run folder as training leaves it, of a network that does more than upsample."""
    config = plain(compose("train", [*TINY, *overrides]))
    torch.manual_seed(0)
    model = registry.instantiate(config["backbone"], "backbone")
    torch.nn.init.normal_(model.merge.tail2.weight, std=1.0)
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    state = {"backbone": model.state_dict()}
    entries = {"config": config, "models": state, "ema": None, "step": 7}
    checkpoint.write(folder / "checkpoints" / "last.pt", entries)
    return folder
