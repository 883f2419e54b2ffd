"""Soft matching: every query takes a weighted mean of all textures.

No table of all pairs is kept. The queries are cut into tiles; each tile meets all keys, and its
part of the table is thrown away, to be made again when the gradient is asked for. So memory grows
with the number of positions, forward and backward.

Unfolding is avoided on both sides. A patch similarity is a sum of nine pixel products along the
diagonals of the table of pixel products. And the texture at p is the sum over the nine offsets d
of Σ_k P[p − d, k] · v[k + d] = Σ_k' (Σ_d P[p − d, k' − d]) · v[k']: the same diagonal sum, of the
weights, then one product with the values as they are.
"""

import math
from collections.abc import Sequence
from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from restore.models.attention import all_pairs
from restore.models.attention.all_pairs import diagonal_sum, products
from restore.models.attention.rules import MatchingRule
from restore.models.attention.search import patch_norm
from restore.models.attention.transfer import Value, unpack
from restore.models.backbones.rows import at_a_time

# Pairs of a tile that are held at a time.
_TILE = {"cpu": 1 << 22, "cuda": 1 << 26}


class Soft(MatchingRule):
    """Weighted mean of textures, the weights a softmax of similarities.

    With `cosine` false, scaled dot product attention (Vaswani et al. 2017, equation 1; thesis,
    section 6.2.3), whose score is one everywhere, for the thesis leaves the score map out. With
    `cosine`, similarities are cosines as in TTSR equation 2, and the score is their mean under
    the weights.

    Args:
        cosine: compare directions only.
        temperature: divides the similarities; None for the square root of the numbers compared.
        best: only so many most similar keys have a weight; None for all.
    """

    def __init__(
        self,
        cosine: bool = True,
        temperature: Annotated[float, Field(gt=0)] | None = 0.02,
        best: Annotated[int, Field(ge=1)] | None = None,
    ):
        super().__init__()
        self.cosine, self.temperature, self.best = cosine, temperature, best

    def forward(
        self, query_NCHW: Tensor, keys: list[Tensor], values: list[Value], patch: int
    ) -> tuple[Tensor, list[Tensor], Tensor | None]:
        """Compares patches of side `patch` (1 or 3) with those of all keys.

        Returns:
            Score N1HW, textures N, C, s·H, s·W, index NHW of the key with the largest weight, or
            None while gradients are kept, for training has no use for it.
        """
        telling = not torch.is_grad_enabled()
        H, W = query_NCHW.shape[-2:]
        reach = patch // 2
        temperature = self.temperature or math.sqrt(query_NCHW.shape[1]) * patch
        # One over the norms; ones where only the temperature divides.
        scale_q = self._scale(query_NCHW, patch)
        scales_k = [self._scale(key, patch) for key in keys]
        pairs = [F.pad(key, (reach,) * 4) for key in keys]
        rows = [value.rows[:-1] for value in values]
        border = 1 + reach
        query = F.pad(query_NCHW, (border,) * 4)
        scale_q = F.pad(scale_q, (1,) * 4)
        here = F.pad(query_NCHW.new_ones(1, 1, H, W), (1,) * 4)

        def tile(q: Tensor, scale: Tensor, inside: Tensor, *rest: Tensor) -> tuple[Tensor, ...]:
            count = len(keys)
            ks, scales, rows = rest[:count], rest[count : 2 * count], rest[2 * count :]
            similarity = torch.cat(
                [
                    (products(q, k, patch) * s[:, 0, None, None]).flatten(3)
                    for k, s in zip(ks, scales)
                ],
                -1,
            )
            similarity = similarity * scale[:, 0, :, :, None]
            weight = self.weights(similarity / temperature) * inside[:, 0, :, :, None]
            if self.cosine:
                score = (weight * similarity)[:, 1:-1, 1:-1].sum(-1)
            else:
                score = torch.ones_like(similarity[:, 1:-1, 1:-1, 0])
            sizes = [k.shape[-2] * k.shape[-1] for k in keys]
            spread = [
                diagonal_sum(F.pad(part.unflatten(-1, key.shape[-2:]), (1,) * 4)).flatten(3)
                for part, key in zip(weight.split(sizes, -1), keys)
            ]
            textures = [_mean(spread, sizes, value) for value in rows]
            strongest = [weight[:, 1:-1, 1:-1].argmax(-1)] if telling else []
            return *strongest, score, *textures

        step_y, step_x = self._steps(query_NCHW, keys)
        lines: list[list[Tensor]] = []
        for y in range(0, H, step_y):
            parts = []
            for x in range(0, W, step_x):
                high, wide = min(step_y, H - y), min(step_x, W - x)
                cut = slice(y, y + high + 2), slice(x, x + wide + 2)
                q = query[..., y : y + high + 2 * border, x : x + wide + 2 * border]
                parts.append(
                    checkpoint(
                        *(tile, q, scale_q[..., *cut], here[..., *cut]),
                        *(*pairs, *scales_k, *rows),
                        use_reentrant=False,
                        preserve_rng_state=False,
                    )
                )
            lines.append([torch.cat(part, 2) for part in zip(*parts)])
        outputs = [torch.cat(part, 1) for part in zip(*lines)]
        index = outputs.pop(0) if telling else None
        score, *outputs = outputs
        size = (len(score), H, W)
        textures = [
            unpack(x.flatten(0, 2), value.channels, size) for x, value in zip(outputs, values)
        ]
        return score[:, None], textures, index

    def all_pairs(
        self,
        query_NCHW: Tensor,
        key_NCHW: Tensor,
        values: list[Tensor],
        scales: Sequence[int],
        patch: int,
    ) -> tuple[Tensor, list[Tensor]]:
        table = all_pairs.similarities(query_NCHW, key_NCHW, patch)
        if self.cosine:
            table = table / all_pairs.norm(key_NCHW, patch)[:, 0, None, None]
            table = table / all_pairs.norm(query_NCHW, patch)[:, 0, :, :, None, None]
        similarity = table.flatten(3)
        temperature = self.temperature or math.sqrt(query_NCHW.shape[1]) * patch
        weight = self.weights(similarity / temperature)
        if self.cosine:
            score = (weight * similarity).sum(-1)
        else:
            score = torch.ones_like(similarity[..., 0])
        textures = all_pairs.weighted(weight.view(table.shape), values, scales)
        return score[:, None], textures

    def _scale(self, x: Tensor, patch: int) -> Tensor:
        if not self.cosine:
            return x.new_ones(x.shape[0], 1, *x.shape[2:])
        if patch == 1:
            return 1 / x.norm(dim=1, keepdim=True).clamp_min(1e-12)
        return 1 / patch_norm(x)

    def weights(self, logits: Tensor) -> Tensor:
        """Weights of keys (the last axis), which add up to one."""
        if self.best is None or self.best >= logits.shape[-1]:
            return logits.softmax(-1)
        kept, at = logits.topk(self.best, -1)
        return torch.zeros_like(logits).scatter(-1, at, kept.softmax(-1))

    def _steps(self, query: Tensor, keys: list[Tensor]) -> tuple[int, int]:
        """Height and width of the tiles: whole rows where they fit, else squares."""
        N, _, H, W = query.shape
        pairs = sum((key.shape[-2] + 2) * (key.shape[-1] + 2) for key in keys)
        most = at_a_time(_TILE, query) // (N * pairs)
        rows = most // (W + 4) - 4
        if rows >= min(H, 8):
            return min(H, rows), W
        side = max(4, math.isqrt(most) - 4)
        return min(H, side), min(W, side)


def _mean(weights: list[Tensor], sizes: list[int], rows: Tensor) -> Tensor:
    """Textures N, h, w, C of the weights N, h, w, K of each reference."""
    N, h, w = weights[0].shape[:3]
    parts = rows.split([N * size for size in sizes])
    shifted = [
        weight.flatten(1, 2).to(part.dtype) @ part.view(N, size, -1)
        for weight, part, size in zip(weights, parts, sizes)
    ]
    return (sum(shifted[1:], shifted[0]) / 9).view(N, h, w, -1)
