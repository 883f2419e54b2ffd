"""A residual branch computed only where a mask asks for it."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Rows of a matrix product at a time: their 3×3 neighbourhoods then stay in a core's cache.
_ROWS = 2048


def dilate(mask_N1HW: Tensor) -> Tensor:
    """The mask grown by one position to all sides: what a 3×3 convolution there needs to see."""
    return F.max_pool2d(mask_N1HW, 3, stride=1, padding=1)


def add_branch(x: Tensor, mask: Tensor, first: nn.Conv2d, second: nn.Conv2d) -> Tensor:
    """A masked residual, x + mask · second(ReLU(first(x))), worked out where the mask is 1.

    `second` is computed where the mask is 1, `first` there and at the neighbours.

    Args:
        x: NCHW.
        mask: N1HW of zeros and ones.
        first, second: 3×3 convolutions of stride 1 that keep the size.

    Returns:
        NCHW (channels last in memory).
    """
    N, C, H, W = x.shape
    rows = x.new_zeros(N * H * W + 1, C)  # the last one stands for whatever lies outside
    rows[:-1].view(N, H, W, C).copy_(x.permute(0, 2, 3, 1))
    active = mask.flatten().nonzero()[:, 0]
    reached = dilate(mask).flatten().nonzero()[:, 0]
    inner = _convolve(rows, _neighbours(reached, H, W, len(rows) - 1), first).relu_()
    inner = F.pad(inner, (0, 0, 0, 1))
    place = reached.new_full((len(rows),), len(reached))
    place[reached] = torch.arange(len(reached), device=x.device)
    outer = _convolve(inner, place[_neighbours(active, H, W, len(rows) - 1)], second)
    rows.index_add_(0, active, outer.to(rows.dtype))
    return rows[:-1].view(N, H, W, C).permute(0, 3, 1, 2)


def _neighbours(positions: Tensor, H: int, W: int, outside: int) -> Tensor:
    """The nine positions of the 3×3 neighbourhood of each, row-major; M to M×9."""
    row, column = positions // W % H, positions % W
    found = []
    for dy in (-1, 0, 1):
        for dx in (-1, 0, 1):
            y, x = row + dy, column + dx
            inside = (y >= 0) & (y < H) & (x >= 0) & (x < W)
            found.append(torch.where(inside, positions + dy * W + dx, outside))
    return torch.stack(found, 1)


def _convolve(rows: Tensor, places: Tensor, layer: nn.Conv2d) -> Tensor:
    """The convolution at M positions, as products with the rows that each of them sees."""
    matrix = layer.weight.permute(2, 3, 1, 0).reshape(-1, layer.out_channels)
    parts = []
    for some in places.split(_ROWS):
        seen = rows.index_select(0, some.flatten()).view(len(some), len(matrix))
        parts.append(seen @ matrix if layer.bias is None else torch.addmm(layer.bias, seen, matrix))
    return torch.cat(parts)
