"""Reference super-resolution: a low picture and a sharp one of something alike."""

from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from restore.augment import corner, cropped, padded, turn, turned
from restore.degradation import Degradation, as_float
from restore.errors import UserError
from restore.types import Problem, Restoration, Sample

_INPUTS = ("low", "low_up", "reference", "reference_low_up")


class ReferenceSR:
    """Crops, turns and degrades pairs of target and reference (TTSR section 4.1).

    Args:
        degradation: makes the low pictures.
        scale: enlargement of each side.
        crop: side of the training crops in target pixels; smaller pictures are padded with black.
        reference_crop: the same for the reference.
        reference_at: where the reference's crop is taken: `same` relative place as the target's,
            for pairs that show the same scene from nearly the same place; `random`.
        jitter: how far, in pixels, a `same` crop may lie from the target's place.
        augment: random flips and quarter turns, of target and reference independently.
    """

    def __init__(
        self,
        degradation: Degradation,
        scale: Annotated[int, Field(ge=1)] = 4,
        crop: Annotated[int, Field(ge=1)] = 160,
        reference_crop: Annotated[int, Field(ge=1)] = 160,
        reference_at: Literal["same", "random"] = "same",
        jitter: Annotated[int, Field(ge=0)] = 0,
        augment: bool = True,
    ):
        for name, size in (("crop", crop), ("reference_crop", reference_crop)):
            if size % scale:
                raise UserError(f"task.{name}={size} does not divide by task.scale={scale}")
        self.degradation, self.scale = degradation, scale
        self.crop, self.reference_crop = crop, reference_crop
        self.reference_at, self.jitter, self.augment = reference_at, jitter, augment

    def train_item(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """A crop and its reference's; a pure function of the sample and the generator's state.

        In the published order: the low pictures are made of the crops, then all are padded, then
        turned (8-bit bicubic rounds between its two axes, so a turn does not commute with it).
        """
        target, reference = self._pair(sample)
        height, width = (
            min(self.crop, side // self.scale * self.scale) for side in target.shape[-2:]
        )
        top = corner(target.shape[-2], height, self.scale, rng)
        left = corner(target.shape[-1], width, self.scale, rng)
        out = Sample(key=sample["key"], target=cropped(target, top, left, height, width))
        if "low" in sample:
            place = (v // self.scale for v in (top, left, height, width))
            out["low"] = cropped(sample["low"], *place)
        middle = (top + height / 2, left + width / 2)
        out["reference"] = self._reference_crop(reference, target, middle, rng)
        # Chance of its own: what noise draws changes neither crops nor turns.
        out = self.degradation.worker(out, self.scale, rng.spawn(1)[0])
        turns = (turn(rng), turn(rng)) if self.augment else None
        for name in ("target", "low", "low_up", "reference", "reference_low_up"):
            if name not in out:
                continue
            size = self.reference_crop if "reference" in name else self.crop
            size = size // self.scale if name == "low" else size
            picture = padded(out[name], size, size)  # type: ignore[literal-required]
            if turns is not None:
                picture = turned(picture, turns["reference" in name])
            out[name] = picture  # type: ignore[literal-required]
        return out

    def _reference_crop(
        self,
        reference: Tensor,
        target: Tensor,
        middle: tuple[float, float],
        rng: np.random.Generator,
    ) -> Tensor:
        starts, sizes = [], []
        for axis, at in ((-2, middle[0]), (-1, middle[1])):
            side = reference.shape[axis]
            size = min(self.reference_crop, side)
            if self.reference_at == "random":
                start = corner(side, size, 1, rng)
            else:
                there = at / target.shape[axis] * side
                wish = round(there - size / 2) + int(rng.integers(-self.jitter, self.jitter + 1))
                start = min(max(0, wish), side - size)
            starts.append(start)
            sizes.append(size)
        return cropped(reference, *starts, *sizes)

    def eval_item(self, sample: Sample) -> Sample:
        """The whole pictures, cropped at the bottom and right to multiples of the scale."""
        out = Sample(key=sample["key"])
        if "reference" not in sample:
            raise UserError(_no_reference(sample["key"]))
        for name in ("target", "reference"):
            if name in sample:
                picture = sample[name]  # type: ignore[literal-required]
                height, width = (side // self.scale * self.scale for side in picture.shape[-2:])
                if not height or not width:
                    raise UserError(
                        f"{sample['key']}: the {name} is smaller than {self.scale} pixels"
                    )
                out[name] = cropped(picture, 0, 0, height, width).contiguous()  # type: ignore[literal-required]
        if "low" in sample:
            out["low"] = sample["low"]
            if "target" in out:
                self._check_low(sample)
                height, width = (side // self.scale for side in out["target"].shape[-2:])
                out["low"] = cropped(sample["low"], 0, 0, height, width).contiguous()
        return self.degradation.worker(out, self.scale)

    def _pair(self, sample: Sample) -> tuple[Tensor, Tensor]:
        if "target" not in sample:
            raise UserError(f"{sample['key']}: training needs a target picture")
        if "reference" not in sample:
            raise UserError(_no_reference(sample["key"]))
        target = sample["target"]
        if min(target.shape[-2:]) < self.scale:
            raise UserError(f"{sample['key']}: the target is smaller than {self.scale} pixels")
        if "low" in sample:
            self._check_low(sample)
        return target, sample["reference"]

    def _check_low(self, sample: Sample) -> None:
        """A low picture of another size would be cropped at the wrong place, in silence."""
        (height, width), (low_height, low_width) = (
            sample[name].shape[-2:]
            for name in ("target", "low")  # type: ignore[literal-required]
        )
        for side, low_side in ((height, low_height), (width, low_width)):
            if low_side not in (side // self.scale, -(-side // self.scale)):
                raise UserError(
                    f"{sample['key']}: the low picture ({low_width}×{low_height}) is not the "
                    f"target ({width}×{height}) divided by the scale {self.scale}"
                )

    def prepare(self, batch: dict[str, Any], generator: torch.Generator | None = None) -> Problem:
        """Pictures as float in [0, 1], degraded where that is the device's work."""
        batch = {k: as_float(v) if isinstance(v, Tensor) else v for k, v in batch.items()}
        batch = self.degradation.device(batch, self.scale)
        inputs = {name: batch[name] for name in _INPUTS if name in batch}
        return Problem(inputs, batch.get("target"), batch["key"])

    def finish(self, restored: Restoration, problem: Problem) -> Restoration:
        """Nothing is left to do."""
        return restored

    def baseline(self, problem: Problem) -> tuple[str, Tensor]:
        """The low picture, upsampled."""
        return "bicubic", problem.inputs["low_up"]


def _no_reference(key: str) -> str:
    return (
        f"{key} has no reference picture; this task needs one (data=folder takes data.references, "
        "data=sample and data=cufed bring their own)"
    )
