"""Two crops of one picture that overlap by a share."""

from functools import lru_cache
from typing import NamedTuple

import numpy as np

from restore.images.tiling import Window


class Overlap(NamedTuple):
    """Which pairs of crops are allowed.

    `least` and `most`: the share of a crop that lies in the other one too. `reach`: how far one may
    lie from the other along each axis, as a share of the crop's side.
    """

    least: float
    most: float
    reach: float


def pair(
    height: int, width: int, size: tuple[int, int], allowed: Overlap, rng: np.random.Generator
) -> tuple[Window, Window] | None:
    """Two crops, any allowed offset between them as likely as any other, anywhere in the picture.

    None when the picture is too small for any.

    Args:
        height, width: the picture's.
        size: height and width of both crops, no larger than the picture.
        allowed: see `Overlap`.
        rng: the source of all random numbers.
    """
    rows, columns = size
    far = tuple(
        min(int(allowed.reach * part), side - part)
        for part, side in ((rows, height), (columns, width))
    )
    offsets = _offsets(rows, columns, *far, allowed.least, allowed.most)
    if not len(offsets):
        return None
    down, right = (int(step) for step in offsets[rng.integers(len(offsets))])
    top = int(rng.integers(height - rows - abs(down) + 1)) + max(0, -down)
    left = int(rng.integers(width - columns - abs(right) + 1)) + max(0, -right)
    return Window(top, left, rows, columns), Window(top + down, left + right, rows, columns)


@lru_cache(maxsize=64)
def _offsets(
    rows: int, columns: int, far_down: int, far_right: int, least: float, most: float
) -> np.ndarray:
    """All allowed offsets: M, 2 (down, right)."""
    down = np.arange(-far_down, far_down + 1)
    right = np.arange(-far_right, far_right + 1)
    common = np.outer(rows - np.abs(down), columns - np.abs(right))
    # In whole pixels: no share is lost or won by rounding.
    inside = (common >= least * rows * columns) & (common <= most * rows * columns)
    places = np.argwhere(inside)
    return places - [far_down, far_right]


def share(one: Window, other: Window) -> float:
    """The share of the first that lies in the other too."""
    common = 1
    for start, size in (("top", "height"), ("left", "width")):
        first, second = (
            (getattr(w, start), getattr(w, start) + getattr(w, size)) for w in (one, other)
        )
        common *= max(0, min(first[1], second[1]) - max(first[0], second[0]))
    return common / (one.height * one.width)
