"""Matching with the table of all pairs at once, as a file can hold it.

`search` and `soft` meet queries and keys in blocks, whose number depends on the sizes; a file holds
operations, not loops. Here the table is whole, so memory grows with the product of both pictures'
areas. Choices and textures are the same.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

_OFFSETS = [(dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)]


def similarities(query: Tensor, key: Tensor, patch: int) -> Tensor:
    """Inner products N, H, W, Hk, Wk of patches of that side, zeros outside the pictures."""
    border = (patch // 2,) * 4
    return products(F.pad(query, border), F.pad(key, border), patch)


def by_key_norm(query_NCHW: Tensor, key_NCHW: Tensor, patch: int) -> Tensor:
    """Similarities over the keys' norms alone, NHW by Hk by Wk: in the order of the cosines."""
    table = similarities(query_NCHW, key_NCHW, patch)
    return table / norm(key_NCHW, patch)[:, 0, None, None]


def inside(query: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
    """Cosine and position of the best key NHW, by 3×3 patches wholly inside; −1 at the border."""
    table = products(query, key, 3) / norm(key, 3)[:, 0, None, None, 1:-1, 1:-1]
    score, index = table.flatten(3).max(-1)
    score = score / norm(query, 3)[:, 0, 1:-1, 1:-1]
    line = index.div(key.shape[-1] - 2, rounding_mode="floor")
    index = index + 2 * line + key.shape[-1] + 1  # two positions of each row are no patch's middle
    return F.pad(score, (1, 1, 1, 1)), F.pad(index, (1, 1, 1, 1), value=-1)


def norm(x: Tensor, patch: int) -> Tensor:
    """Norms N1HW of patches of that side."""
    squares = x.square().sum(1, keepdim=True)
    if patch == 3:  # a mean times nine, as ONNX has no such sum
        squares = F.avg_pool2d(squares, 3, stride=1, padding=1) * 9
    return squares.sqrt().clamp_min(1e-12)


def chosen(
    index: Tensor, grid: tuple[int, int], values: list[Tensor], scales: Sequence[int]
) -> list[Tensor]:
    """Textures N, C, s·H, s·W that queries take of their keys, as `transfer.transferred`.

    Args:
        index: NHW, the key of each query.
        grid: height and width of the keys' grid.
        values: N, C, s·Hk, s·Wk.
        scales: s of each value.
    """
    _, H, W = index.shape
    Hk, Wk = grid
    # As in `transfer.neighbours`: position p gets row index(p − d) + d for each offset d of the
    # nine; where one of them lies outside, a last row of zeros.
    around = F.pad(index, (1, 1, 1, 1), value=-1)
    moved = [around[:, 1 - dy : 1 - dy + H, 1 - dx : 1 - dx + W] for dy, dx in _OFFSETS]
    at = torch.stack(moved, -1).flatten(1, 2)  # N, H·W, 9
    line = at.div(Wk, rounding_mode="floor")
    down, right = (torch.tensor(steps, device=at.device) for steps in zip(*_OFFSETS))
    row, column = line + down, at - line * Wk + right
    there = (at >= 0) & (row >= 0) & (row < Hk) & (column >= 0) & (column < Wk)
    places = torch.where(there, row * Wk + column, Hk * Wk).flatten(1)[..., None]
    textures = []
    for value, s in zip(values, scales, strict=True):
        C = value.shape[1]
        rows = F.pad(_rows(value, Hk, Wk, s), (0, 0, 0, 1))
        taken = rows.gather(1, places.expand(-1, -1, C * s * s))
        total = taken.view(-1, H * W, 9, C * s * s).sum(2)
        textures.append(_picture(total / 9, H, W, C, s))
    return textures


def weighted(weights: Tensor, values: list[Tensor], scales: Sequence[int]) -> list[Tensor]:
    """Textures N, C, s·H, s·W that queries take of all keys by weights N, H, W, Hk, Wk."""
    _, H, W, Hk, Wk = weights.shape
    spread = diagonal_sum(F.pad(weights, (1,) * 8))
    textures = []
    for value, s in zip(values, scales, strict=True):
        C = value.shape[1]
        total = spread.reshape(-1, H * W, Hk * Wk) @ _rows(value, Hk, Wk, s)
        textures.append(_picture(total / 9, H, W, C, s))
    return textures


def _rows(value: Tensor, H: int, W: int, s: int) -> Tensor:
    """A picture's cells s×s as rows N, H·W, C·s²; `_picture` is the reverse."""
    C = value.shape[1]
    cells = value.reshape(-1, C, H, s, W, s).permute(0, 2, 4, 1, 3, 5)
    return cells.reshape(-1, H * W, C * s * s)


def _picture(rows: Tensor, H: int, W: int, C: int, s: int) -> Tensor:
    cells = rows.view(-1, H, W, C, s, s).permute(0, 3, 1, 4, 2, 5)
    return cells.reshape(-1, C, H * s, W * s)


def products(query: Tensor, key: Tensor, patch: int) -> Tensor:
    """Inner products N, h, w, Hk, Wk of patches, from inputs with a border of `patch` // 2."""
    N, _, h, w = query.shape
    table = query.flatten(2).transpose(1, 2) @ key.flatten(2)
    table = table.view(N, h, w, *key.shape[-2:])
    return diagonal_sum(table) if patch == 3 else table


def diagonal_sum(table: Tensor) -> Tensor:
    """Sum of table[y + dy, x + dx, v + dy, u + dx] over dy, dx in -1, 0, 1; borders fall away."""
    across = table[:, :, :-2, :, :-2] + table[:, :, 1:-1, :, 1:-1] + table[:, :, 2:, :, 2:]
    return across[:, :-2, :, :-2] + across[:, 1:-1, :, 1:-1] + across[:, 2:, :, 2:]
