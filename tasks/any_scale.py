"""Single-image super-resolution by any real scale, with one network."""

from typing import Annotated, Any

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from restore.data.degradation import Degradation
from restore.data.scale_schedule import fitted, level_scale, schedule
from restore.errors import UserError
from restore.images import pairs
from restore.images.augment import turn
from restore.images.io import as_float
from restore.tasks.single_sr import SingleSR
from restore.types import Problem, Sample

Ratio = Annotated[float, Field(ge=1)]


class AnyScale(SingleSR):
    """Crops and turns targets, and shrinks them by the scale of a level that each step draws.

    All processes and micro-batches of a step draw the same level, from seed and step alone. What a
    network is handed besides the pictures is the schedule, `ratios` (N, steps, 1, 1).

    Args:
        degradation: makes the low pictures, on the device.
        scale: of evaluation.
        ratios: schedule of evaluation, whose product is the scale; None: the largest ratio first.
        levels: of the network; training draws from their scales.
        largest: scale of the last level.
        crop: side of the training crops in target pixels; the low ones have crop / scale. Smaller
            pictures are padded with black.
        augment: random flips and quarter turns.
        seed: of the draws.
    """

    inputs = ("low", "low_up", "ratios")

    def __init__(
        self,
        degradation: Degradation,
        scale: Annotated[float, Field(ge=1, le=32)] = 2,
        ratios: list[Ratio] | None = None,
        levels: Annotated[int, Field(ge=2)] = 11,
        largest: Annotated[float, Field(gt=1, le=8)] = 2.0,
        crop: Annotated[int, Field(ge=1)] = 96,
        augment: bool = True,
        seed: Annotated[int, Field(ge=0)] = 1,
    ):
        self.degradation, self.crop, self.augment, self.seed = degradation, crop, augment, seed
        # Degradations of whole scales want whole numbers.
        self.scale = int(scale) if scale == int(scale) else scale  # type: ignore[assignment]
        self.levels, self.largest = levels, largest
        self.ratios = fitted(ratios, scale, largest) if ratios else schedule(scale, largest)
        self.drawn = largest

    def set_step(self, step: int, steps: int) -> None:
        """Draws the level of a training step."""
        level = np.random.default_rng([self.seed, step]).integers(self.levels)
        self.drawn = level_scale(int(level), self.levels, self.largest)

    def train_item(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """A crop of the target; stored low pictures have one scale and are of no use here."""
        target = {name: value for name, value in sample.items() if name in ("key", "target")}
        out, _ = pairs.random_crop(target, self.crop, 1, rng)  # type: ignore[arg-type]
        return pairs.finished(out, self.crop, 1, turn(rng) if self.augment else None)

    def eval_item(self, sample: Sample) -> Sample:
        """The whole picture; for a whole scale cropped to a multiple of it, as benchmarks are."""
        kept = pairs.whole(sample, self.scale) if isinstance(self.scale, int) else _same(sample)
        item = self.degradation.worker(kept, self.scale)
        ratios = torch.tensor(self.ratios, dtype=torch.float64).view(-1, 1, 1)
        return {**item, "ratios": ratios}  # type: ignore[typeddict-unknown-key]

    def prepare(self, batch: dict[str, Any], generator: torch.Generator | None = None) -> Problem:
        """Pictures as float in [0, 1], degraded by the scale of the step, or that of evaluation.

        Raises UserError for a degradation that works before the scale is known.
        """
        batch = {k: as_float(v) if isinstance(v, Tensor) else v for k, v in batch.items()}
        scale: float = self.scale
        if "ratios" not in batch:
            scale = self.drawn
            ratio = torch.tensor(scale, dtype=torch.float64)
            batch["ratios"] = ratio.expand(len(batch["key"]), 1, 1, 1).contiguous()
        batch = self.degradation.device(batch, scale)  # type: ignore[arg-type]
        if "low_up" not in batch:
            raise UserError(
                "task=any_scale draws a scale for each step, which this degradation "
                "does not support; choose degradation=matlab_bicubic"
            )
        inputs = {name: batch[name] for name in self.inputs}
        grey = all(batch.get("grey", [False]))
        return Problem(inputs, batch.get("target"), batch["key"], grey=grey)


def _same(sample: Sample) -> Sample:
    names = ("key", "target", "low", "grey")
    return {name: value for name, value in sample.items() if name in names}  # type: ignore[return-value]
