"""Places in pictures: column and row, N2HW, counted from the middle of the first pixel."""

import torch
import torch.nn.functional as F
from torch import Tensor


def own_places(x: Tensor) -> Tensor:
    """Column and row of each position of NCHW, 12HW."""
    H, W = x.shape[-2:]
    columns = torch.arange(W, device=x.device, dtype=x.dtype).view(1, 1, 1, -1)
    rows = torch.arange(H, device=x.device, dtype=x.dtype).view(1, 1, -1, 1)
    return torch.cat([columns.expand(-1, -1, H, -1), rows.expand(-1, -1, -1, W)], 1)


def sampled(picture: Tensor, places: Tensor) -> Tensor:
    """A picture NCHW at places N2hw, bicubic; beyond its borders its last pixels."""
    x, y = places.unbind(1)
    H, W = picture.shape[-2:]
    grid = torch.stack([(2 * x + 1) / W - 1, (2 * y + 1) / H - 1], -1)
    return F.grid_sample(picture, grid, "bicubic", "border", align_corners=False)


def finer(places: Tensor, ratio: int) -> Tensor:
    """Places N2HW of pixels `ratio` times as small, in such pixels of the reference.

    Linear, and continued so beyond the outermost middles.
    """
    for axis in (2, 3):
        size = places.shape[axis]
        first, last = places.narrow(axis, 0, 1), places.narrow(axis, size - 1, 1)
        second = places.narrow(axis, min(1, size - 1), 1)
        before = places.narrow(axis, max(0, size - 2), 1)
        places = torch.cat([2 * first - second, places, 2 * last - before], axis)
    small = F.interpolate(places, scale_factor=ratio, mode="bilinear", align_corners=False)
    return small[..., ratio:-ratio, ratio:-ratio] * ratio + (ratio - 1) / 2


def gradients(x: Tensor) -> tuple[Tensor, Tensor]:
    """Central differences along columns and rows, at the borders of the pixel itself."""
    wide = F.pad(x, (1, 1, 1, 1), mode="replicate")
    across = (wide[..., 1:-1, 2:] - wide[..., 1:-1, :-2]) / 2
    down = (wide[..., 2:, 1:-1] - wide[..., :-2, 1:-1]) / 2
    return across, down
