"""A trained network as it comes with the package: small, with a card that says what it is."""

import json
from pathlib import Path
from typing import Any

import torch

from restore.errors import UserError
from restore.models import bundled, checkpoint, weights
from restore.types import InpaintingTask
from restore.utils import files, foreign

# What evaluation and application read of a run's configuration.
_KEPT = ("backbone", "task", "degradation", "protocol", "reference")


class PackageFormat:
    """Weights in half precision (averaged ones where the run has them), and a model card.

    Args:
        weights: a run folder or one of our checkpoints.
        about: what the card shall say of the data, licence, or limits, in the author's words.
        measured: folders of `restore evaluate` with these weights, whose numbers the card states.
    """

    def __init__(self, weights: str | None, about: str = "", measured: list[str] | None = None):
        self.loaded = _ours(weights)
        self.about = about
        self.measured = [_measured(Path(folder)) for folder in measured or []]

    def write(self, folder: Path) -> list[str]:
        """See `restore.tools.export.Format.write`."""
        config = {name: self.loaded.config[name] for name in _KEPT if name in self.loaded.config}
        config = {**weights.without_downloads(config), "pretrained": {}}
        entries = checkpoint.read(self.loaded.path)
        state = {name: _half(value) for name, value in self.loaded.state.items()}
        path = folder / bundled.WEIGHTS
        checkpoint.write(
            path,
            {"config": config, "models": {"backbone": state}, "ema": None, "step": entries["step"]},
        )
        text = json.dumps(self._card(entries, path), indent=2, ensure_ascii=False)
        files.write_text(folder / bundled.CARD, text + "\n")
        return [f"{path.stat().st_size:,} bytes of weights; {bundled.CARD} says what they are"]

    def _card(self, entries: dict[str, Any], path: Path) -> dict[str, Any]:
        config = self.loaded.config
        own = (self.loaded.fingerprint, checkpoint.fingerprint(path))
        if other := [one["sha256"] for one in self.measured if one["sha256"] not in own]:
            raise UserError(
                f"format.measured: {other[0]} was measured there, and this is {' or '.join(own)} "
                "(in half precision)"
            )
        trained = config.get("data", {}).get("_target_", "").rpartition(".")[2]
        backbone = self.loaded.backbone()
        stages = {name: config["stages"][name] for name in config.get("schedule", [])}
        return {
            "network": config["backbone"]["_target_"].rpartition(".")[2],
            "scale": None if self.loaded.takes_scale() else self.loaded.task().scale,
            "takes_reference": backbone.takes_reference,
            "fills_holes": isinstance(self.loaded.task(), InpaintingTask),
            "parameters": sum(p.numel() for p in backbone.parameters()),
            "precision": "fp16",
            "averaged": entries["ema"] is not None,
            "sha256": checkpoint.fingerprint(path),
            "from": self.loaded.fingerprint,
            "step": entries["step"],
            "about": self.about,
            "data": trained,
            "task": config["task"],
            "recipe": {
                "stages": _placeless(stages),
                "trainer": config.get("trainer"),
                "seed": config["seed"],
            },
            "command": _command(self.loaded.path),
            "measured": self.measured,
        }


def _ours(path: str | None) -> weights.Loaded:
    if path is None:
        raise UserError("weights has no value: give weights=RUN")
    loaded = weights.load(Path(path))
    if checkpoint.read(loaded.path).get("format") != checkpoint.FORMAT:
        raise UserError(
            f"weights={path} is a published file; only networks that were trained "
            "here can be packaged"
        )
    if "stages" not in loaded.config:
        raise UserError(f"weights={path} is a packaged network already")
    return loaded


def _half(value: torch.Tensor) -> torch.Tensor:
    """Half precision for fractions; UserError where one does not fit."""
    if not value.is_floating_point():
        return value
    half = value.half()
    if not half.isfinite().all():
        raise UserError("weights: a value is too large for half precision, or not a number")
    return half


def _measured(folder: Path) -> dict[str, Any]:
    """Numbers of an evaluation, with what they mean."""
    path = folder / "summary.json"
    if not path.is_file():
        raise UserError(f"format.measured: {folder} holds no evaluation (there is no {path})")
    summary = foreign.read_json(path)
    with foreign.reading(path):
        kept = ("data", "split", "references", "protocol", "images", "sha256")
        values = {name: summary[name] for name in (*kept, "restored")}
        # What a result is held against: a task that fills holes has no bicubic picture.
        base = "filled" if "filled" in summary else "bicubic"
        values[base] = summary[base]
        # A name says which set it was; where it lay is nobody's business.
        return {
            **values,
            "data": values["data"].get("name", values["data"]["_target_"]),
            "references": "+".join(map(_placeless, str(values["references"]).split("+"))),
        }


def _command(path: Path) -> list[str]:
    """What was typed to train a run, of the folder that its checkpoints lie in.

    Of places on its owner's machine the last name is left.
    """
    about = path.parent.parent / "environment.json"
    if not about.is_file():
        return []
    typed = foreign.read_json(about).get("command")
    if not isinstance(typed, list) or not all(isinstance(word, str) for word in typed):
        raise UserError(f"{about} is damaged: command is no list of words")
    words = ["restore", "train"]
    for word in typed[1:]:
        key, given, value = word.partition("=")
        words.append(f"{key}={_placeless(value)}" if given else word)
    return words


def _placeless(node: Any) -> Any:
    """The node with the last name alone of each place on its owner's machine."""
    if isinstance(node, dict):
        return {key: _placeless(value) for key, value in node.items()}
    if isinstance(node, str) and node.startswith(("/", "~", ".")):
        return Path(node).name
    return node
