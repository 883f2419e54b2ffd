"""Answers that take long to draw, kept until all are there."""

import hashlib
import shutil
from collections.abc import Sequence
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

    def each(self, problems: Sequence[Problem], **more: Any) -> list[Restoration]:
        """See `Runner.each`."""
        answers = {place: self._kept(problem) for place, problem in enumerate(problems)}
        missing = [place for place, answer in answers.items() if answer is None]
        for place, answer in zip(missing, super().each([problems[p] for p in missing], **more)):
            path = self._path(problems[place])
            make_folder(path.parent)
            with whole(path) as temporary:
                torch.save({"image": answer.image, "samples": answer.samples}, temporary)
            answers[place] = answer
        return [answer for answer in answers.values() if answer is not None]

    def _kept(self, problem: Problem) -> Restoration | None:
        """The answer that was drawn before, if it was."""
        path = self._path(problem)
        if not path.exists():
            return None
        state = checkpoint.read(path)
        samples = [sample.to(self.device) for sample in state["samples"]]
        return Restoration(state["image"].to(self.device), samples=samples)

    def _path(self, problem: Problem) -> Path:
        (key,) = problem.keys
        return self.folder / self.mark / f"{hashlib.sha256(key.encode()).hexdigest()}.pt"

    def clear(self) -> None:
        """Removes what was kept."""
        shutil.rmtree(self.folder, ignore_errors=True)
