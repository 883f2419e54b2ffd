"""A residual branch computed only where a mask asks for it."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Rows of a matrix product at a time: their 3×3 neighbourhoods then stay in a core's cache.
_ROWS = 1024


def dilate(mask_N1HW: Tensor) -> Tensor:
    """The mask grown by one position to all sides: what a 3×3 convolution there needs to see."""
    return F.max_pool2d(mask_N1HW, 3, stride=1, padding=1)


def executed(mask_N1HW: Tensor) -> Tensor:
    """Share of a residual branch's work that a mask asks for, from 0 to 1.

    Half of it is the second convolution, at the mask's positions; the other half is the first, at
    those that the second needs to see, which passes no gradient on.
    """
    return (mask_N1HW.mean() + dilate(mask_N1HW.detach()).mean()) / 2


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
    # A border of zeros around each picture: then neighbours lie at the same nine distances from
    # every position.
    grid = x.new_zeros(N, H + 2, W + 2, C)
    grid[:, 1:-1, 1:-1].copy_(x.permute(0, 2, 3, 1))
    rows = grid.view(-1, C)
    active, reached = _positions(mask), _positions(dilate(mask))
    line = torch.arange(-1, 2, device=x.device)
    distances = (line[:, None] * (W + 2) + line).flatten()
    inner = _convolve(rows, reached, distances, first).relu_()
    inner = F.pad(inner, (0, 0, 0, 1))  # the last row stands for whatever lies outside
    place = reached.new_full((len(rows),), len(reached))
    place[reached] = torch.arange(len(reached), device=x.device)
    outer = _convolve(inner, active, distances, second, place)
    rows.index_add_(0, active, outer.to(rows.dtype))
    return grid[:, 1:-1, 1:-1].contiguous().permute(0, 3, 1, 2)


def _positions(mask: Tensor) -> Tensor:
    """Where the mask is not 0, counted row by row in pictures with a border of one."""
    return F.pad(mask, (1, 1, 1, 1)).flatten().nonzero()[:, 0]


def _convolve(
    rows: Tensor,
    positions: Tensor,
    distances: Tensor,
    layer: nn.Conv2d,
    place: Tensor | None = None,
) -> Tensor:
    """The convolution at some positions, as products with the rows that each of them sees.

    `place` says where the row of a position is, where that is not its own number.
    """
    matrix = layer.weight.permute(2, 3, 1, 0).reshape(-1, layer.out_channels)
    parts = []
    for some in positions.split(_ROWS):
        seen = (some[:, None] + distances).flatten()
        if place is not None:
            seen = place[seen]
        sight = rows.index_select(0, seen).view(len(some), len(matrix))
        parts.append(
            sight @ matrix if layer.bias is None else torch.addmm(layer.bias, sight, matrix)
        )
    return torch.cat(parts)
