"""Reference super-resolution: a low picture and sharp ones of something alike."""

from typing import Annotated, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from restore.data.degradation import Degradation
from restore.errors import UserError
from restore.images import pairs, warp
from restore.images.augment import Turn, corner, cropped, shaped, turn
from restore.images.io import to_uint8
from restore.tasks.single_sr import Augment, SingleSR
from restore.types import Pictures, Sample, map_tensors

Epochs = Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=2, max_length=2)]


class ReferenceSR(SingleSR):
    """Crops, turns and degrades pairs of target and reference (TTSR section 4.1).

    Args:
        degradation: makes the low pictures.
        scale: enlargement of each side.
        crop: side of the training crops in target pixels; smaller pictures are padded with black.
        reference_crop: the same for the reference.
        reference_at: where the reference's crop is taken: `same` relative place as the target's,
            for pairs that show the same scene from nearly the same place; `random`.
        jitter: how far, in pixels, a `same` crop may lie from the target's place.
        augment: random flips and quarter turns: `apart` draws them for the target and each
            reference independently (as TTSR published it, though 3×3 patches of a turned picture
            hardly resemble those of the other), `together` turns all alike, False turns nothing.
        augment_epochs: from which epoch of training on, from 0, and up to which that is done; None:
            in all.
        swap: share of training pairs whose target and reference change places (MASA-SR: 0.5).
        recolour: share of pairs one of whose pictures is made brighter or darker, see `recoloured`.
    """

    inputs = ("low", "low_up", "reference", "reference_low", "reference_low_up")
    takes_reference = True

    def __init__(
        self,
        degradation: Degradation,
        scale: Annotated[int, Field(ge=1)] = 4,
        crop: Annotated[int, Field(ge=1)] = 160,
        reference_crop: Annotated[int, Field(ge=1)] = 160,
        reference_at: Literal["same", "random"] = "same",
        jitter: Annotated[int, Field(ge=0)] = 0,
        augment: Augment = "apart",
        augment_epochs: Epochs | None = None,
        swap: Annotated[float, Field(ge=0, le=1)] = 0.0,
        recolour: Annotated[float, Field(ge=0, le=1)] = 0.0,
    ):
        super().__init__(degradation, scale, crop, augment)
        if reference_crop % scale:
            raise UserError(
                f"task.reference_crop={reference_crop} does not divide by task.scale={scale}"
            )
        self.augment_epochs, self.swap, self.recolour = augment_epochs, swap, recolour
        self.reference_crop, self.reference_at, self.jitter = reference_crop, reference_at, jitter

    def train_item(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """A crop and its reference's; a pure function of the sample and the generator's state.

        In the published order: the low pictures are made of the crops, then all are padded, then
        turned (8-bit bicubic rounds between its two axes, so a turn does not commute with it).
        """
        if "reference" not in sample:
            raise UserError(_no_reference(sample["key"]))
        sample = self._mixed(sample, rng)
        out, middle = pairs.random_crop(sample, self.crop, self.scale, rng)
        corners: list[tuple[int, int]] = []

        def part(picture: Tensor) -> Tensor:
            (top, left), sides = self._reference_crop(picture, sample["target"], middle, rng)
            corners.append((top, left))
            return cropped(picture, top, left, *sides)

        cut = out["target"].shape[-2:]
        out["reference"] = map_tensors(part, sample["reference"])
        # Chance of its own: what noise draws changes neither crops nor turns.
        out = self.degradation.worker(out, self.scale, rng.spawn(1)[0])
        augment = self._augments(sample)
        first = turn(rng) if augment else None
        out = pairs.finished(out, self.crop, self.scale, first)
        count = len(out["reference"]) if isinstance(out.get("reference"), list) else 1
        if augment == "together":
            turns = [first] * count
        else:
            turns = [turn(rng) if augment else None for _ in range(count)]
        for name, side in (
            ("reference", self.reference_crop),
            ("reference_low", self.reference_crop // self.scale),
            ("reference_low_up", self.reference_crop),
        ):
            if name in out:
                out[name] = _shaped(out[name], side, turns)  # type: ignore[literal-required]
        if "homography" in sample and isinstance(sample["reference"], Tensor):
            start = middle[0] - cut[0] / 2, middle[1] - cut[1] / 2
            to_whole = warp.translation(start[1], start[0]) @ np.linalg.inv(
                warp.turning(self.crop, self.crop, first or (False, False, 0))
            )
            side = self.reference_crop
            to_part = warp.turning(side, side, turns[0] or (False, False, 0)) @ warp.translation(
                -corners[0][1], -corners[0][0]
            )
            between = to_part @ sample["homography"].numpy() @ to_whole
            out["homography"] = torch.from_numpy(between)
        return out

    def _augments(self, sample: Sample) -> Augment:
        """How the sample is turned in its epoch."""
        if self.augment_epochs is None:
            return self.augment
        first, end = self.augment_epochs
        return self.augment if first <= sample.get("epoch", 0) < end else False

    def _mixed(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """The pair, its pictures perhaps swapped, and one perhaps of other brightness."""
        reference = sample["reference"]
        if not isinstance(reference, Tensor) or "low" in sample or not (self.swap or self.recolour):
            return sample
        pair = [sample["target"], reference]
        swapped = rng.random() < self.swap
        if swapped:
            pair.reverse()
        if rng.random() < self.recolour:
            which = int(rng.integers(2))
            pair[which] = recoloured(pair[which], rng)
        out = sample.copy()
        out["target"], out["reference"] = pair
        if swapped and "homography" in sample:
            out["homography"] = torch.linalg.inv(sample["homography"])
        return out

    def _reference_crop(
        self,
        reference: Tensor,
        target: Tensor,
        middle: tuple[float, float],
        rng: np.random.Generator,
    ) -> tuple[tuple[int, int], tuple[int, int]]:
        """Top and left of a reference's crop, and its height and width."""
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
        return (starts[0], starts[1]), (sizes[0], sizes[1])

    def eval_item(self, sample: Sample) -> Sample:
        """The whole pictures, cropped at the bottom and right to multiples of the scale."""
        if "reference" not in sample:
            raise UserError(_no_reference(sample["key"]))
        out = pairs.whole(sample, self.scale)
        out["reference"] = map_tensors(lambda x: self._whole(x, sample["key"]), sample["reference"])
        if "homography" in sample:
            out["homography"] = sample["homography"]
        return self.degradation.worker(out, self.scale)

    def _whole(self, reference: Tensor, key: str) -> Tensor:
        height, width = (side // self.scale * self.scale for side in reference.shape[-2:])
        if not height or not width:
            raise UserError(f"{key}: the reference is smaller than {self.scale} pixels")
        return cropped(reference, 0, 0, height, width).contiguous()


def recoloured(picture: Tensor, rng: np.random.Generator) -> Tensor:
    """|α·x + β| of 8-bit values, α from 0.7 to 1.3 and β within ±20, cut off at 255.

    So MASA-SR's code has it, by OpenCV's `convertScaleAbs`: what falls below zero comes out
    positive.
    """
    factor, shift = rng.uniform(0.7, 1.3), rng.uniform(-20, 20)
    return (to_uint8(picture).double() * factor + shift).abs().round().clamp(max=255).byte()


def _shaped(references: Pictures, side: int, turns: list[Turn | None]) -> Pictures:
    """Padded to the crop's size and turned, each in its own way."""
    own = iter(turns)
    return map_tensors(lambda picture: shaped(picture, side, next(own)), references)


def _no_reference(key: str) -> str:
    return (
        f"{key} has no reference picture; this task needs one (data=folder takes data.references, "
        "data=sample and data=cufed bring their own)"
    )
