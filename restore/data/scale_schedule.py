"""Enlarging by any real scale as one or more steps of smaller ratios, the schedule being data.

Shen, Wang, Zhang: "ASDN: A Deep Convolutional Network for Arbitrary Scale Image Super-Resolution",
2020 (arXiv 2010.02414; below: ASDN), section on recursive deployment.
"""

import math
from collections.abc import Callable, Sequence

from torch import Tensor

from restore.errors import UserError
from restore.images.bicubic import resized

# Products of ratios are off by rounding: 100 · 1.1 is a little more than 110, and yet 110 pixels.
_SLACK = 1e-6


def level_scale(level: int, levels: int, largest: float) -> float:
    """Scale of a level of the Laplacian frequency representation, from 1 to `largest` evenly.

    ASDN: r_l = l / (L − 1) + 1, there with 2 as the largest.
    """
    return 1 + level * (largest - 1) / (levels - 1)


def schedule(scale: float, largest: float) -> list[float]:
    """The fewest ratios whose product is the scale: the largest as often as it goes, then the rest.

    ASDN found this order best: N = ⌈log R / log r⌉ steps, r for all but the last, R / r^(N−1) for
    that. A scale of 1 is one step of 1.
    """
    steps = max(1, math.ceil(math.log(scale) / math.log(largest) - _SLACK))
    return [largest] * (steps - 1) + [scale / largest ** (steps - 1)]


def fitted(ratios: Sequence[float], scale: float, largest: float) -> list[float]:
    """A schedule of one's own, its last ratio corrected so that the product is the scale.

    Raises UserError where the product is another scale, by more than what papers round, or where a
    ratio is beyond 1 to `largest`.
    """
    if abs(math.prod(ratios) / scale - 1) > 0.002:
        raise UserError(
            f"task.ratios={[*ratios]} multiply to {math.prod(ratios):g}, not to "
            f"task.scale={scale:g}"
        )
    exact = [*ratios[:-1], scale / math.prod(ratios[:-1])]
    if not 1 <= min(exact) <= max(exact) <= largest * (1 + _SLACK):
        raise UserError(
            f"task.ratios={[*ratios]}: each must be from 1 to {largest:g}, the network's last level"
        )
    return exact


def size(height: int, width: int, scale: float) -> tuple[int, int]:
    """Sides of a picture enlarged by a scale: where that is a part of a pixel more, one more."""
    up = math.ceil(height * scale - _SLACK), math.ceil(width * scale - _SLACK)
    return up


def enlarged(
    low: Tensor,
    ratios: Sequence[float],
    restore: Callable[[Tensor, float], Tensor],
    final: tuple[int, int] | None = None,
) -> Tensor:
    """Bicubic by each ratio in turn, what is lost thereby restored after each.

    The sides after each step are those of `low` times the product so far, so that no step's
    rounding adds to that of another.

    Args:
        low: N3HW in [0, 1].
        ratios: of the steps, each ≥ 1.
        restore: a picture blurred by bicubic of a ratio to a sharp one of the same size.
        final: sides of the result, no more than `size` says; None: those.

    Returns:
        N3hw, the last step's, which may go beyond [0, 1].
    """
    height, width = low.shape[-2:]
    picture = low
    for step, ratio in enumerate(ratios):
        last = step == len(ratios) - 1
        sides = final if last and final else size(height, width, math.prod(ratios[: step + 1]))
        start = picture.clamp(0, 1) if step else picture
        picture = restore(resized(start, ratio, *sides), ratio)
    return picture
