"""Answers that take long to draw, kept until all are there."""

import hashlib
import shutil
from pathlib import Path
from typing import Any

import torch

from restore.inference.runner import Runner
from restore.models import checkpoint
from restore.types import Problem, Restoration
from restore.utils.files import make_folder, whole


class KeepingRunner(Runner):
    """A runner that draws no answer twice, even if it was stopped in between.

    Args:
        runner: whose answers these are.
        folder: where they are kept, exactly, until `clear`.
        mark: of the network and what else the answers depend on.
    """

    def __init__(self, runner: Runner, folder: Path, mark: str):
        self.__dict__.update(vars(runner))
        self.folder, self.mark = folder, mark

    def __call__(self, problem: Problem, **more: Any) -> Restoration:
        """See `Runner`; of one picture at a time."""
        (key,) = problem.keys
        path = self.folder / self.mark / f"{hashlib.sha256(key.encode()).hexdigest()}.pt"
        if path.exists():
            kept = checkpoint.read(path)
            image, samples = kept["image"], kept["samples"]
            return Restoration(
                image.to(self.device), samples=[sample.to(self.device) for sample in samples]
            )
        restored = super().__call__(problem, **more)
        make_folder(path.parent)
        with whole(path) as temporary:
            torch.save({"image": restored.image, "samples": restored.samples}, temporary)
        return restored

    def clear(self) -> None:
        """Removes what was kept."""
        shutil.rmtree(self.folder, ignore_errors=True)
