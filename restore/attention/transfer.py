"""Taking textures from where the search found them."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def pack(value: Tensor, grid: tuple[int, int]) -> Tensor:
    """A picture of features as rows, one for each position of the coarsest grid.

    Args:
        value: N, C, s·H, s·W, with s a whole number.
        grid: H, W.

    Returns:
        (N·H·W + 1) × C·s², the last row zero: it stands for whatever lies outside.
    """
    N, C, height, width = value.shape
    H, W = grid
    s = height // H
    assert (height, width) == (s * H, s * W), "a value must be a whole multiple of the grid"
    rows = value.new_empty(N * H * W + 1, s * s * C)
    cells = value.reshape(N, C, H, s, W, s).permute(0, 2, 4, 3, 5, 1)
    rows[:-1].view(N, H, W, s, s, C).copy_(cells)
    rows[-1].zero_()
    return rows


def unpack(rows: Tensor, channels: int, size: tuple[int, int, int]) -> Tensor:
    """The reverse: N·H·W rows to features N, C, s·H, s·W."""
    N, H, W = size
    s = math.isqrt(rows.shape[1] // channels)
    cells = rows.reshape(N, H, W, s, s, channels).permute(0, 1, 3, 2, 4, 5)
    return cells.reshape(N, H * s, W * s, channels).permute(0, 3, 1, 2)


def neighbours(index_NHW: Tensor, grid: tuple[int, int]) -> Tensor:
    """Which rows overlap at each position when every position lays down its 3×3 patch.

    Position p gets, for each offset d of the nine, row index(p − d) + d: that is unfold, gather
    and fold at once. Where p − d or the row lies outside, it is the row of zeros.

    Returns:
        (N·H·W) × 9 row numbers for `pack`'s rows.
    """
    N, H, W = index_NHW.shape
    Hk, Wk = grid
    outside = N * Hk * Wk
    padded = F.pad(index_NHW, (1, 1, 1, 1), value=-1)
    start = torch.arange(N, device=index_NHW.device).view(N, 1, 1) * (Hk * Wk)
    found = []
    for dy in (-1, 0, 1):
        for dx in (-1, 0, 1):
            at = padded[:, 1 - dy : 1 - dy + H, 1 - dx : 1 - dx + W]
            row, column = at.div(Wk, rounding_mode="floor") + dy, at % Wk + dx
            inside = (at >= 0) & (row >= 0) & (row < Hk) & (column >= 0) & (column < Wk)
            found.append(torch.where(inside, start + row * Wk + column, outside))
    return torch.stack(found, -1).reshape(-1, 9)


def gather(rows: Tensor, places: Tensor, weights: Tensor | None = None) -> Tensor:
    """Sum over the nine neighbours of each position, each times its weight; differentiable.

    Args:
        rows: from `pack`.
        places: from `neighbours`.
        weights: the same shape, or None for ones.
    """
    return F.embedding_bag(
        places, rows, mode="sum", per_sample_weights=weights, padding_idx=len(rows) - 1
    )
