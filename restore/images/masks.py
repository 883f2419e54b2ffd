"""Binary masks from files, and how well two agree."""

from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from restore.errors import UnreadableImage
from restore.images.io import Picture, as_float, load

Polarity = Literal["white", "black"]

# A mask saved as JPEG, or made smaller, has some greys along its borders; a photograph has more,
# and a map of labels has areas of one grey, at least so many pixels wide.
_GREY = 0.05
_AREA = 5
# How far from black or white a value may be and still count as such, where there are greys.
_NEAR = 0.2
# Values that a message names.
_NAMED = 6


def read(path: Path, holes_are: Polarity) -> Tensor:
    """The holes of a mask file, bool HW.

    Args:
        path: a picture of two values, whatever they are (0 and 255, 0 and 1), the larger of which
            is white; or of black and white with greys along the borders, where those above the
            middle are white. One value alone is black or white, whichever is nearer.
        holes_are: what is a hole, white or black.

    Raises:
        UnreadableImage: broken, or no such picture.
    """
    return holes(load(path), holes_are, path)


def holes(picture: Picture, holes_are: Polarity, name: object) -> Tensor:
    """The holes, bool HW, of a mask's picture; see `read`.

    `name` is what an error calls the mask.
    """
    if picture.alpha is not None and float(as_float(picture.alpha).min()) < 1:
        raise UnreadableImage(
            name,
            "as a mask: it has transparent parts, which may mean either; expected is a picture of "
            "black and white without transparency",
        )
    white = _white(name, as_float(picture.colour), picture.bits)
    return white if holes_are == "white" else ~white


def _white(name: object, colour_3HW: Tensor, bits: int) -> Tensor:
    if (coloured := (colour_3HW.amax(0) - colour_3HW.amin(0) > _NEAR).float().mean()) > _GREY:
        raise UnreadableImage(
            name,
            f"as a mask: {coloured:.0%} of its pixels are neither black nor white but coloured; "
            "expected is a picture of two greys",
        )
    grey = colour_3HW.mean(0)
    top = 2**bits - 1
    values = np.unique((grey * top).round().numpy().astype(np.uint16)).astype(float)
    if len(values) == 1:
        return grey > 0.5
    if len(values) == 2:
        return grey * top > float(values.mean())
    between = (grey > _NEAR) & (grey < 1 - _NEAR)
    share = between.float().mean().item()
    black_and_white = values[0] <= _NEAR * top and values[-1] >= (1 - _NEAR) * top
    if black_and_white and share <= _GREY and not _areas(grey, between):
        return grey > 0.5
    named = ", ".join(f"{value:g}" for value in values[:_NAMED])
    more = f" and {len(values) - _NAMED} more" if len(values) > _NAMED else ""
    raise UnreadableImage(
        name,
        f"as a mask: it holds the values {named}{more} of 0 to {top}, and {share:.0%} of its "
        "pixels are neither black nor white; expected are two values, the larger of which is white",
    )


def _areas(grey_HW: Tensor, between_HW: Tensor) -> bool:
    """Whether there is an area of one grey."""
    if min(grey_HW.shape) < _AREA:
        return False
    most, least = (sign * F.max_pool2d(sign * grey_HW[None], _AREA, 1)[0] for sign in (1, -1))
    half = _AREA // 2
    inside = between_HW[half:-half, half:-half]
    return bool(torch.any((most == least) & inside))


def agreement(x_HW: Tensor, y_HW: Tensor) -> float:
    """Intersection over union of two masks; 1 where neither has holes."""
    union = int((x_HW | y_HW).sum())
    return int((x_HW & y_HW).sum()) / union if union else 1.0
