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


def joined(first: Tensor, second: Tensor) -> Tensor:
    """The rows of two references, one behind the other."""
    return torch.cat([first[:-1], second])


def neighbours(index_NHW: Tensor, grids: list[tuple[int, int]]) -> Tensor:
    """Which rows overlap at each position when every position lays down its 3×3 patch.

    Position p gets, for each offset d of the nine, row index(p − d) + d: that is unfold, gather
    and fold at once. Where p − d or the row lies outside, it is the row of zeros.

    Args:
        index_NHW: row-major position in the grid, counted on through several grids.
        grids: height and width of each reference's grid.

    Returns:
        (N·H·W) × 9 row numbers for `pack`'s rows.
    """
    N = len(index_NHW)
    outside = N * sum(height * width for height, width in grids)
    padded = F.pad(index_NHW, (1, 1, 1, 1), value=-1)
    found = index_NHW.new_full((*index_NHW.shape, 9), outside)
    image = torch.arange(N, device=index_NHW.device).view(N, 1, 1)
    first = 0  # the grid's first position in the count
    for Hk, Wk in grids:
        size = Hk * Wk
        for place, (dy, dx) in enumerate((dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)):
            at = _shifted(padded, dy, dx) - first
            row, column = at.div(Wk, rounding_mode="floor") + dy, at % Wk + dx
            inside = (at >= 0) & (at < size)
            inside &= (row >= 0) & (row < Hk) & (column >= 0) & (column < Wk)
            rows = N * first + image * size + row * Wk + column
            found[..., place] = torch.where(inside, rows, found[..., place])
        first += size
    return found.view(-1, 9)


def from_neighbours(x_NHW: Tensor) -> Tensor:
    """For each position p and offset d, as `neighbours` orders them: x at p − d, else 0."""
    padded = F.pad(x_NHW, (1, 1, 1, 1))
    shifted = [_shifted(padded, dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)]
    return torch.stack(shifted, -1).reshape(-1, 9)


def _shifted(padded: Tensor, dy: int, dx: int) -> Tensor:
    height, width = padded.shape[1] - 2, padded.shape[2] - 2
    return padded[:, 1 - dy : 1 - dy + height, 1 - dx : 1 - dx + width]


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
