"""Crops, padding, flips and quarter turns of CHW pictures, driven by a numpy generator."""

import numpy as np
import torch.nn.functional as F
from torch import Tensor

# Whether left-right and up-down are flipped, and how many quarter turns follow.
Turn = tuple[bool, bool, int]


def turn(rng: np.random.Generator) -> Turn:
    """Draws a flip of each axis and a number of quarter turns."""
    return bool(rng.integers(2)), bool(rng.integers(2)), int(rng.integers(4))


def turned(picture: Tensor, how: Turn) -> Tensor:
    """The picture flipped left-right, up-down, and turned by quarters, in this order."""
    across, along, quarters = how
    axes = [axis for axis, flip in ((-1, across), (-2, along)) if flip]
    flipped = picture.flip(axes) if axes else picture
    return flipped.rot90(quarters, (-2, -1)).contiguous()


def corner(size: int, crop: int, step: int, rng: np.random.Generator) -> int:
    """A random place for a crop along one side, a multiple of `step`; 0 when the crop is larger."""
    return int(rng.integers(max(0, size - crop) // step + 1)) * step


def cropped(picture: Tensor, top: int, left: int, height: int, width: int) -> Tensor:
    """The part of the picture, less whatever lies outside it."""
    return picture[..., top : top + height, left : left + width]


def padded(picture: Tensor, height: int, width: int) -> Tensor:
    """The picture in the top left corner of a black one of the size given."""
    missing = (0, width - picture.shape[-1], 0, height - picture.shape[-2])
    return F.pad(picture, missing) if any(missing) else picture


def shaped(picture: Tensor, side: int, how: Turn | None) -> Tensor:
    """The picture padded to a square and, with `how`, turned."""
    square = padded(picture, side, side)
    return square if how is None else turned(square, how)
