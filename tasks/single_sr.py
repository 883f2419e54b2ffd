"""Single-image super-resolution: the low picture alone."""

from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from restore.data.degradation import Degradation
from restore.errors import UserError
from restore.images import pairs
from restore.images.augment import turn
from restore.images.io import as_float
from restore.types import Problem, Restoration, Sample, map_tensors

# How flips and quarter turns are drawn; True, of runs from before there was a choice, is apart.
Augment = Literal["apart", "together"] | bool


class SingleSR:
    """Crops, turns and degrades targets; references that a data set brings along are not used.

    Args:
        degradation: makes the low pictures of samples that bring none.
        scale: enlargement of each side.
        crop: side of the training crops in target pixels; smaller pictures are padded with black.
        augment: random flips and quarter turns: `apart` or `together` (for tasks with references:
            each picture by itself, or all alike; here the same), or False for none.
    """

    inputs: tuple[str, ...] = ("low", "low_up")
    takes_reference = False

    def __init__(
        self,
        degradation: Degradation,
        scale: Annotated[int, Field(ge=1)] = 4,
        crop: Annotated[int, Field(ge=1)] = 96,
        augment: Augment = "apart",
    ):
        if crop % scale:
            raise UserError(f"task.crop={crop} does not divide by task.scale={scale}")
        self.degradation, self.scale, self.crop, self.augment = degradation, scale, crop, augment

    def train_item(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """A crop; a pure function of the sample and the generator's state.

        The low picture is made of the crop, then both are padded, then turned (8-bit bicubic
        rounds between its two axes, so a turn does not commute with it).
        """
        out, _ = pairs.random_crop(sample, self.crop, self.scale, rng)
        # Chance of its own: what noise draws changes neither crops nor turns.
        out = self.degradation.worker(out, self.scale, rng.spawn(1)[0])
        return pairs.finished(out, self.crop, self.scale, turn(rng) if self.augment else None)

    def eval_item(self, sample: Sample) -> Sample:
        """The whole picture, cropped at the bottom and right to a multiple of the scale."""
        return self.degradation.worker(pairs.whole(sample, self.scale), self.scale)

    def prepare(self, batch: dict[str, Any], generator: torch.Generator | None = None) -> Problem:
        """Pictures as float in [0, 1], degraded where that is the device's work."""
        batch = {name: map_tensors(as_float, value) for name, value in batch.items()}
        batch = self.degradation.device(batch, self.scale)
        inputs = {name: batch[name] for name in self.inputs if name in batch}
        grey = all(batch.get("grey", [False]))
        return Problem(
            inputs,
            batch.get("target"),
            batch["key"],
            grey=grey,
            homography=batch.get("homography"),
        )

    def postprocess(self, restored: Restoration, problem: Problem) -> Restoration:
        """Nothing is left to do."""
        return restored

    def baseline(self, problem: Problem) -> tuple[str, Tensor]:
        """The low picture, upsampled."""
        return "bicubic", problem.inputs["low_up"]
