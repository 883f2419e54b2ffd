"""Binary masks from files, and how well two agree."""

from pathlib import Path
from typing import Literal

from torch import Tensor

from restore.errors import UnreadableImage
from restore.images.io import load

Polarity = Literal["white", "black"]

# A mask saved as JPEG has some greys along its borders; a photograph has more.
_GREY = 0.05


def read(path: Path, holes_are: Polarity) -> Tensor:
    """The holes of a mask file, bool HW.

    Args:
        path: a picture of two values; of greys (JPEG) those above 127 are white.
        holes_are: what is a hole, white or black.

    Raises:
        UnreadableImage: broken, or not a picture of black and white.
    """
    return holes(load(path).colour, holes_are, path)


def holes(colour: Tensor, holes_are: Polarity, name: object) -> Tensor:
    """The holes, bool HW, of a mask's pixels, 3HW in [0, 1]; see `read`.

    `name` is what an error calls the mask.
    """
    grey = colour.mean(0)
    between = ((colour > 0.2) & (colour < 0.8)).any(0) | (colour.amax(0) - colour.amin(0) > 0.2)
    share = between.float().mean().item()
    if share > _GREY:
        raise UnreadableImage(
            name, f"as a mask: {share:.0%} of its pixels are neither black nor white"
        )
    return grey > 0.5 if holes_are == "white" else grey <= 0.5


def agreement(x_HW: Tensor, y_HW: Tensor) -> float:
    """Intersection over union of two masks; 1 where neither has holes."""
    union = int((x_HW | y_HW).sum())
    return int((x_HW & y_HW).sum()) / union if union else 1.0
