"""Pairs whose correspondence is known: two random views of one photo, as target and reference.

Single photos are all that is needed. What differs between the views is what differs between
photos of one place: viewpoint, scale, rotation, exposure, colour, noise, compression, and things
that hide a part (C2-Matching, Jiang et al., CVPR 2021, section 3.1, has the homography alone).
"""

import io
import math
import zlib
from collections.abc import Callable
from typing import Annotated

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from pydantic import Field
from torch import Tensor

from restore.errors import UserError
from restore.images import warp
from restore.images.augment import corner
from restore.images.io import to_uint8
from restore.images.light import relit
from restore.types import Dataset, Sample, Source

Share = Annotated[float, Field(ge=0, lt=1)]
Strength = Annotated[float, Field(ge=0)]
# Pixels; no reference reaches as far.
_NOWHERE = 1e6


class WarpedSplit:
    """Views of one split's photos: drawn anew each time in training, else always the same."""

    def __init__(self, photos: Source, warped: "Warped"):
        self.photos, self.warped = photos, warped

    def __len__(self) -> int:
        return len(self.photos)

    def draw(self, index: int, rng: np.random.Generator) -> Sample:
        """Two views of a photo, by the generator's chance."""
        other = int(rng.integers(len(self)))
        return self.warped.views(self.photos[index], lambda: self.photos[other]["target"], rng)

    def __getitem__(self, index: int) -> Sample:
        sample = self.photos[index]
        rng = np.random.default_rng([self.warped.seed, zlib.crc32(sample["key"].encode())])
        other = (index + len(self) // 2) % len(self)
        return self.warped.views(sample, lambda: self.photos[other]["target"], rng)


class Warped:
    """Any data set of photos as pairs of views.

    The target is a part of the photo as it is. Each strength is that of the largest change; what is
    drawn is uniform between it and no change (scale: uniform in its logarithm).

    Args:
        photos: the data set; only its targets are used.
        size: side of both views, in pixels; a photo that is smaller gives smaller ones.
        rotation: degrees, either way.
        scale: smallest and largest size of things in the reference, relative to the target.
        corners: how far each corner of the reference moves by itself, as a share of the side.
        shift: how far the reference's middle lies from the target's, as a share of the side.
        exposure: stops, either way.
        colour: change of each channel's strength, as a share.
        noise: largest standard deviation of noise on the reference, of values in [0, 1].
        jpeg: share of references that were compressed, with qualities from 40 to 95.
        occluded: share of references of which a rectangle, up to a third of each side, shows
            another photo.
        parallax: how far, as a share of the side, near things move against far ones. The photo is
            given layers of chance, all of which move along one line, as from a camera that moves:
            they hide and uncover what lies behind them. There is no homography then.
        unrelated: share of references that show another photo.
        black: share of references that are black.
        references: how many views are references; with more than one there is no homography.
        seed: of the views of `valid` and `test`.
    """

    def __init__(
        self,
        photos: Dataset,
        size: Annotated[int, Field(ge=8)] = 160,
        rotation: Strength = 12.0,
        scale: tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]] = (0.85, 1.2),
        corners: Share = 0.0875,
        shift: Share = 0.15,
        exposure: Strength = 0.4,
        colour: Share = 0.1,
        noise: Share = 0.0,
        jpeg: Annotated[float, Field(ge=0, le=1)] = 0.0,
        occluded: Annotated[float, Field(ge=0, le=1)] = 0.0,
        parallax: Share = 0.0,
        unrelated: Share = 0.0,
        black: Share = 0.0,
        references: Annotated[int, Field(ge=1)] = 1,
        seed: int = 0,
    ):
        if corners >= 0.25:
            raise UserError(f"data.corners={corners}: it must be below 0.25, or corners could meet")
        if unrelated + black > 1:
            raise UserError(
                f"data.unrelated={unrelated} and data.black={black}: together more than all"
            )
        if scale[0] > scale[1]:
            raise UserError(f"data.scale={[*scale]}: the smallest comes first")
        self.photos, self.size, self.seed = photos, size, seed
        self.rotation, self.scale, self.corners, self.shift = rotation, scale, corners, shift
        self.exposure, self.colour, self.noise = exposure, colour, noise
        self.jpeg, self.occluded, self.parallax = jpeg, occluded, parallax
        self.unrelated, self.black = unrelated, black
        self.references = references

    def split(self, name: str) -> WarpedSplit:
        """The split of that name of the photos."""
        return WarpedSplit(self.photos.split(name), self)

    def views(
        self, sample: Sample, other: Callable[[], Tensor], rng: np.random.Generator
    ) -> Sample:
        """Target and reference of a photo.

        Args:
            sample: with a `target`, the photo.
            other: gives another photo, for what hides a part.
            rng: where chance comes from.

        Returns:
            `target`, `reference` (uint8) and, of one reference without parallax, `homography`,
            which takes the target's pixels to the reference's, or far outside it where that shows
            nothing of the target.
        """
        photo = sample["target"]
        height, width = (min(self.size, side) for side in photo.shape[-2:])
        top = corner(photo.shape[-2], height, 1, rng)
        left = corner(photo.shape[-1], width, 1, rng)
        target = photo[:, top : top + height, left : left + width].contiguous()
        draws = [
            self._reference(photo, (top, left), (height, width), other, rng)
            for _ in range(self.references)
        ]
        reference, to_reference = draws[0]
        if self.references > 1:
            several = [picture for picture, _ in draws]
            return Sample(key=sample["key"], target=target, reference=several)
        views = Sample(key=sample["key"], target=target, reference=reference)
        if not self.parallax:
            views["homography"] = torch.from_numpy(to_reference)
        return views

    def _reference(
        self,
        photo: Tensor,
        start: tuple[int, int],
        sides: tuple[int, int],
        other: Callable[[], Tensor],
        rng: np.random.Generator,
    ) -> tuple[Tensor, np.ndarray]:
        """A view, and the homography from the target's pixels, at `start` of the photo, to its."""
        (top, left), (height, width) = start, sides
        to_target = self._geometry(height, width, rng)
        to_photo = warp.translation(left, top) @ to_target
        to_reference = np.linalg.inv(to_target)
        chance = rng.random()
        if chance < self.unrelated:
            photo_there, to_reference = other(), warp.translation(_NOWHERE, _NOWHERE)
        else:
            photo_there = photo
        moved = self._moved(height, width, rng) if self.parallax else None
        reference = self._light(warp.view(photo_there, to_photo, height, width, moved), rng)
        if self.unrelated <= chance < self.unrelated + self.black:
            reference, to_reference = reference * 0, warp.translation(_NOWHERE, _NOWHERE)
        if rng.random() < self.occluded:
            reference = _hide(reference, other(), rng)
        if self.noise:
            sigma = rng.uniform(0, self.noise)
            grain = rng.standard_normal(reference.shape, np.float32)
            reference = reference + sigma * torch.from_numpy(grain)
        reference = to_uint8(reference)
        if rng.random() < self.jpeg:
            reference = _compressed(reference, int(rng.integers(40, 96)))
        return reference, to_reference

    def _geometry(self, height: int, width: int, rng: np.random.Generator) -> np.ndarray:
        """Draws the homography from the reference's pixels to the target's."""
        angle = math.radians(rng.uniform(-self.rotation, self.rotation))
        size = math.exp(rng.uniform(*np.log(self.scale)))
        sides = np.array([width, height])
        ends = np.array([[0, 0], [1, 0], [1, 1], [0, 1]]) * (sides - 1.0)
        middle = (sides - 1) / 2
        turn = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
        away = rng.uniform(-self.shift, self.shift, 2) * sides
        moved = rng.uniform(-self.corners, self.corners, (4, 2)) * sides
        return warp.from_points(ends, (ends - middle) @ turn / size + middle + away + moved)

    def _moved(self, height: int, width: int, rng: np.random.Generator) -> np.ndarray:
        """Draws how far right and down of its pixels the reference looks, height, width, 2."""
        direction = rng.standard_normal(2)
        direction *= rng.uniform(0, self.parallax) * min(height, width) / np.linalg.norm(direction)
        coarse = torch.from_numpy(rng.uniform(-1, 1, (1, 1, 5, 5)))
        depth = F.interpolate(coarse, (height, width), mode="bicubic", align_corners=True)[0, 0]
        layers = int(rng.integers(0, 4))
        if layers:  # else one curved surface
            depth = (depth * layers).round() / layers
        return depth.numpy()[..., None] * direction

    def _light(self, picture: Tensor, rng: np.random.Generator) -> Tensor:
        """Another exposure and another balance of colours, in linear light."""
        gain = 2 ** rng.uniform(-self.exposure, self.exposure)
        balance = 1 + rng.uniform(-self.colour, self.colour, 3)
        if not self.exposure and not self.colour:
            return picture
        return relit(picture, torch.from_numpy(gain * balance).float())


def _hide(picture: Tensor, other: Tensor, rng: np.random.Generator) -> Tensor:
    """The picture with a rectangle of another photo over it."""
    sides = [int(rng.integers(side // 8, side // 3 + 1)) for side in picture.shape[-2:]]
    sides = [min(side, most) for side, most in zip(sides, other.shape[-2:])]
    tops = [corner(whole, part, 1, rng) for whole, part in zip(picture.shape[-2:], sides)]
    starts = [corner(whole, part, 1, rng) for whole, part in zip(other.shape[-2:], sides)]
    part = other[:, starts[0] : starts[0] + sides[0], starts[1] : starts[1] + sides[1]]
    hidden = picture.clone()
    rows, columns = (slice(top, top + side) for top, side in zip(tops, sides))
    hidden[:, rows, columns] = part.float() / 255
    return hidden


def _compressed(picture: Tensor, quality: int) -> Tensor:
    file = io.BytesIO()
    Image.fromarray(picture.permute(1, 2, 0).numpy()).save(file, "JPEG", quality=quality)
    return torch.from_numpy(np.array(Image.open(file, formats=["JPEG"]))).permute(2, 0, 1)
