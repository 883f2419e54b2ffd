"""Texture attention as a file can hold it: all pairs at once, for pictures of any size.

`restore.models.attention` meets queries and keys in blocks, whose number depends on the sizes; a
file holds operations, not loops. Here the table of all pairs is whole, so memory grows with the
product of both pictures' areas. Choices and textures are the same.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from restore.errors import UserError
from restore.models.attention import Memory, TextureAttention, Transfer
from restore.models.attention.rules import Hard, StraightThrough
from restore.models.attention.soft import Soft, diagonal_sum, products

_OFFSETS = [(dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)]


class WholeAttention(nn.Module):
    """What a `TextureAttention` computes in evaluation, with one reference.

    Args:
        attention: whose embedding and matching rule it takes over.
        scales: of the textures, coarse to fine, relative to the coarsest features.

    Raises UserError for a matching rule that has no such form.
    """

    def __init__(self, attention: TextureAttention, scales: Sequence[int]):
        super().__init__()
        self.embedding, self.scales = attention.embedding, scales
        rule = attention.matching
        if isinstance(rule, StraightThrough):  # which differs in its gradient alone
            rule = rule.forward_rule
        if not isinstance(rule, Hard | Soft):
            raise UserError(f"attention by {type(rule).__name__} has no form that a file can hold")
        self.rule = rule

    def encode_reference(self, key_NCHW: Tensor, values: list[Tensor]) -> Memory:
        """See `TextureAttention.encode_reference`; values stay pictures."""
        embedding, heads = self.embedding, self.embedding.heads
        parts = [_heads(value, heads) for value in embedding.values(values)]
        return Memory([_heads(embedding.key(key_NCHW), heads)], parts)  # type: ignore[arg-type]

    def forward(self, query_NCHW: Tensor, memory: Memory) -> Transfer:
        """See `TextureAttention.forward`."""
        heads, patch = self.embedding.heads, self.embedding.patch
        N, _, H, W = query_NCHW.shape
        query = _heads(self.embedding.query(query_NCHW), heads)
        (key,) = memory.keys
        values: list[Tensor] = memory.values  # type: ignore[assignment]
        rule = self._soft if isinstance(self.rule, Soft) else self._hard
        score, textures = rule(query, key, values, patch)
        textures = [x.reshape(N, -1, *x.shape[-2:]) for x in textures]
        return Transfer(score.view(N, heads, H, W).mean(1, keepdim=True), textures, None)

    def _hard(
        self, query: Tensor, key: Tensor, values: list[Tensor], patch: int
    ) -> tuple[Tensor, list[Tensor]]:
        N, _, H, W = query.shape
        Hk, Wk = key.shape[-2:]
        table = _products(query, key, patch) / _norm(key, patch)[:, 0, None, None]
        score, index = table.flatten(3).max(-1)
        score = score / _norm(query, patch)[:, 0]
        # As in `attention.transfer.neighbours`: position p gets row index(p − d) + d for
        # each offset d of the nine; where one of them lies outside, a last row of zeros.
        around = F.pad(index, (1, 1, 1, 1), value=-1)
        moved = [around[:, 1 - dy : 1 - dy + H, 1 - dx : 1 - dx + W] for dy, dx in _OFFSETS]
        at = torch.stack(moved, -1).flatten(1, 2)  # N, H·W, 9
        line = at.div(Wk, rounding_mode="floor")
        down, right = (torch.tensor(steps, device=at.device) for steps in zip(*_OFFSETS))
        row, column = line + down, at - line * Wk + right
        there = (at >= 0) & (row >= 0) & (row < Hk) & (column >= 0) & (column < Wk)
        places = torch.where(there, row * Wk + column, Hk * Wk).flatten(1)[..., None]
        textures = []
        for value, s in zip(values, self.scales):
            C = value.shape[1]
            rows = F.pad(_rows(value, Hk, Wk, s), (0, 0, 0, 1))
            taken = rows.gather(1, places.expand(-1, -1, C * s * s))
            total = taken.view(N, H * W, 9, C * s * s).sum(2)
            textures.append(_picture(total / 9, H, W, C, s))
        return score[:, None], textures

    def _soft(
        self, query: Tensor, key: Tensor, values: list[Tensor], patch: int
    ) -> tuple[Tensor, list[Tensor]]:
        assert isinstance(self.rule, Soft)
        N, C, H, W = query.shape
        Hk, Wk = key.shape[-2:]
        table = _products(query, key, patch)
        if self.rule.cosine:
            table = table / _norm(key, patch)[:, 0, None, None]
            table = table / _norm(query, patch)[:, 0, :, :, None, None]
        alike = table.flatten(3)
        weight = self.rule.weights(alike / (self.rule.temperature or math.sqrt(C) * patch))
        score = (weight * alike).sum(-1) if self.rule.cosine else torch.ones_like(alike[..., 0])
        spread = diagonal_sum(F.pad(weight.view(N, H, W, Hk, Wk), (1,) * 8))
        textures = []
        for value, s in zip(values, self.scales):
            C = value.shape[1]
            total = spread.reshape(N, H * W, Hk * Wk) @ _rows(value, Hk, Wk, s)
            textures.append(_picture(total / 9, H, W, C, s))
        return score[:, None], textures


def _products(query: Tensor, key: Tensor, patch: int) -> Tensor:
    """Inner products N, H, W, Hk, Wk of patches of that side, zeros outside the pictures."""
    border = (patch // 2,) * 4
    return products(F.pad(query, border), F.pad(key, border), patch)


def _norm(x: Tensor, patch: int) -> Tensor:
    squares = x.square().sum(1, keepdim=True)
    if patch == 3:  # a mean times nine, as ONNX has no such sum
        squares = F.avg_pool2d(squares, 3, stride=1, padding=1) * 9
    return squares.sqrt().clamp_min(1e-12)


def _heads(x: Tensor, heads: int) -> Tensor:
    N, C, H, W = x.shape
    return x.reshape(N * heads, C // heads, H, W)


def _rows(value: Tensor, H: int, W: int, s: int) -> Tensor:
    """A picture's cells s×s as rows N, H·W, C·s²; `_picture` is the reverse."""
    C = value.shape[1]
    cells = value.reshape(-1, C, H, s, W, s).permute(0, 2, 4, 1, 3, 5)
    return cells.reshape(-1, H * W, C * s * s)


def _picture(rows: Tensor, H: int, W: int, C: int, s: int) -> Tensor:
    cells = rows.view(-1, H, W, C, s, s).permute(0, 3, 1, 4, 2, 5)
    return cells.reshape(-1, C, H * s, W * s)
