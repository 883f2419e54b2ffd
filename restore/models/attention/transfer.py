"""Taking textures from where the search found them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import overload

import torch
import torch.nn.functional as F
from torch import Tensor

from restore.models.backbones.rows import at_once


@dataclass(frozen=True)
class Value:
    """A picture of features as rows, one for each position of the coarsest grid.

    `rows` is (positions + 1) × C·s²: cells of s×s pixels, each channels last; the last row is zero
    and stands for whatever lies outside. `channels` is C.
    """

    rows: Tensor
    channels: int

    @property
    def scale(self) -> int:
        """Side s of the cells."""
        return math.isqrt(self.rows.shape[1] // self.channels)

    def __add__(self, other: "Value") -> "Value":
        """The rows of two references, one behind the other."""
        return Value(torch.cat([self.rows[:-1], other.rows]), self.channels)


def pack(value: Tensor, grid: tuple[int, int]) -> Value:
    """N, C, s·H, s·W features as rows of a grid H, W, with s a whole number."""
    N, C, height, width = value.shape
    H, W = grid
    s = height // H
    assert (height, width) == (s * H, s * W), "a value must be a whole multiple of the grid"
    rows = value.new_empty(N * H * W + 1, s * s * C)
    cells = value.reshape(N, C, H, s, W, s).permute(0, 2, 4, 3, 5, 1)
    rows[:-1].view(N, H, W, s, s, C).copy_(cells)
    rows[-1].zero_()
    return Value(rows, C)


def unpack(rows: Tensor, channels: int, size: tuple[int, int, int]) -> Tensor:
    """The reverse: N·H·W rows to features N, C, s·H, s·W."""
    N, H, W = size
    s = math.isqrt(rows.shape[1] // channels)
    cells = rows.reshape(N, H, W, s, s, channels).permute(0, 1, 3, 2, 4, 5)
    return cells.reshape(N, H * s, W * s, channels).permute(0, 3, 1, 2)


def enlarged(x: Tensor, scale: int) -> Tensor:
    """Each position of NCHW as a square of `scale` by `scale`."""
    return x.repeat_interleave(scale, -2).repeat_interleave(scale, -1)


def neighbours(index_NHW: Tensor, grids: list[tuple[int, int]], block: int | None = None) -> Tensor:
    """Which rows overlap at each position when every position lays down its 3×3 patch.

    Position p gets, for each offset d of the nine, row index(p − d) + d: that is unfold, gather
    and fold at once. Where p − d or the row lies outside, it is the row of zeros.

    Args:
        index_NHW: row-major position in the grid, counted on through several grids; −1: none.
        grids: height and width of each reference's grid.
        block: a position takes from those of its own square of this side alone.

    Returns:
        (N·H·W) × 9 row numbers for `pack`'s rows.
    """
    N, H, W = index_NHW.shape
    outside = N * sum(height * width for height, width in grids)
    step = torch.arange(-1, 2, device=index_NHW.device)
    dy, dx = step.repeat_interleave(3), step.repeat(3)
    padded = F.pad(index_NHW, (1, 1, 1, 1), value=-1)
    # All nine at once: on a GPU the number of operations counts more than their size.
    index = padded.unfold(1, 3, 1).unfold(2, 3, 1).flip(3, 4).flatten(3)
    if block is not None:
        lines, columns = (torch.arange(side, device=dy.device)[:, None] for side in (H, W))
        own = (lines // block == (lines - dy) // block)[:, None]
        own = own & (columns // block == (columns - dx) // block)
        index = index.where(own, -1)
    nine = torch.full_like(index, outside)
    image = torch.arange(N, device=dy.device).view(N, 1, 1, 1)
    first = 0  # the grid's first position in the count
    for Hk, Wk in grids:
        size = Hk * Wk
        at = index - first
        row, column = at.div(Wk, rounding_mode="floor").add_(dy), at.remainder(Wk).add_(dx)
        inside = (at >= 0) & (at < size) & (row >= 0) & (row < Hk) & (column >= 0) & (column < Wk)
        rows = row.mul_(Wk).add_(column).add_(N * first + image * size)
        nine = rows.where(inside, nine)
        first += size
    return nine.reshape(-1, 9)


def from_neighbours(x_NHW: Tensor) -> Tensor:
    """For each position p and offset d, as `neighbours` orders them: x at p − d, else 0."""
    padded = F.pad(x_NHW, (1, 1, 1, 1))
    shifted = [_shifted(padded, dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)]
    return torch.stack(shifted, -1).reshape(-1, 9)


def steps(index_NHW: Tensor, grid: tuple[int, int]) -> Tensor:
    """How far, down and right, each position's match lies from it, N2HW; 0 where it has none."""
    _, H, W = index_NHW.shape
    line = index_NHW.div(grid[1], rounding_mode="floor")
    down = line - torch.arange(H, device=index_NHW.device)[:, None]
    # No remainder, which ONNX's translation lacks.
    right = index_NHW - line * grid[1] - torch.arange(W, device=index_NHW.device)
    return torch.stack([down, right], 1).where(index_NHW[:, None] >= 0, 0)


def _shifted(padded: Tensor, dy: int, dx: int) -> Tensor:
    height, width = padded.shape[1] - 2, padded.shape[2] - 2
    return padded[:, 1 - dy : 1 - dy + height, 1 - dx : 1 - dx + width]


def gather(rows: Tensor, places: Tensor, weights: Tensor | None = None) -> Tensor:
    """Sum over the nine neighbours of each position, each times its weight; differentiable.

    Args:
        rows: the last one zero, for what lies outside.
        places: from `neighbours`, numbers of rows.
        weights: the same shape, or None for ones.
    """
    return F.embedding_bag(
        places, rows, mode="sum", per_sample_weights=weights, padding_idx=len(rows) - 1
    )


@dataclass(frozen=True)
class Folded:
    """What every position gets of its neighbours, averaged (TTSR's transfer), made when asked for.

    Attributes:
        value: from `pack`.
        places: N, H, W, 9, from `neighbours`.
        by_count: mean over those neighbours that give something, rather than a ninth of the sum.
        factor: N1(sH)(sW), which the result is multiplied by.
    """

    value: Value
    places: Tensor
    by_count: bool = False
    factor: Tensor | None = None

    def rows(self, top: int = 0, bottom: int | None = None) -> Tensor:
        """Some rows of the texture N, C, s·H, s·W, or all."""
        N, H, W = self.places.shape[:3]
        s, C = self.value.scale, self.value.channels
        bottom = s * H if bottom is None else bottom
        first, last = top // s, -(-bottom // s)
        places = self.places[:, first:last]
        # The cells' lines are gathered one by one, and so come out as a picture's lines do.
        line = torch.arange(s, device=places.device)[:, None, None]
        lines = places[:, :, None] * s + line
        picture = gather(self.value.rows.view(-1, s * C), lines.view(-1, 9))
        if self.by_count:
            given = (places != len(self.value.rows) - 1).sum(-1).clamp_min(1)
            picture = picture.div_(given[:, :, None].expand(-1, -1, s, -1).reshape(-1, 1))
        else:
            picture = picture.div_(9)
        made = picture.view(N, -1, W * s, C).permute(0, 3, 1, 2)
        made = made[..., top - first * s : bottom - first * s, :]
        if self.factor is None:
            return made
        factor = self.factor[..., top:bottom, :]
        return made * factor if torch.is_grad_enabled() else made.mul_(factor)


Texture = Tensor | Folded


class Textures(Sequence[Tensor]):
    """Textures, of which those that are `Folded` are made when one asks for them."""

    def __init__(self, parts: Sequence[Texture]):
        self.parts = parts

    def __len__(self) -> int:
        return len(self.parts)

    @overload
    def __getitem__(self, place: int) -> Tensor: ...
    @overload
    def __getitem__(self, place: slice) -> "Textures": ...
    def __getitem__(self, place: int | slice) -> "Tensor | Textures":
        if isinstance(place, slice):
            return Textures(self.parts[place])
        return some_rows(self.parts[place])


def some_rows(texture: Texture, top: int = 0, bottom: int | None = None) -> Tensor:
    """Some rows of a texture, or all."""
    if isinstance(texture, Folded):
        return texture.rows(top, bottom)
    return texture[..., top:bottom, :]


def made_later(folded: list[Folded]) -> Sequence[Tensor]:
    """Textures to be made when they are asked for; at once where something is trained."""
    if at_once():
        return [one.rows() for one in folded]
    return Textures(folded)
