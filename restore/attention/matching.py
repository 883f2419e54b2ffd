"""Matching rules: how queries and keys become a score and a choice of textures."""

from typing import Any

import torch
from torch import Tensor, nn

from restore.attention.search import box_sum, nearest_patch, patch_norm
from restore.attention.transfer import gather, neighbours, pack


class Hard(nn.Module):
    """Each query takes the texture of its most similar key, and that cosine is its score.

    TTSR equations 2-5. Gradients reach queries and keys through the score, values through the
    texture; the choice itself has none.
    """

    def forward(
        self, query_NCHW: Tensor, key_NCHW: Tensor, values: list[Tensor]
    ) -> tuple[Tensor, list[Tensor], Tensor]:
        """Score N1HW, textures as rows (`transfer.unpack`), index NHW."""
        with torch.no_grad():
            score, index = nearest_patch(query_NCHW.detach(), key_NCHW.detach())
        if torch.is_grad_enabled() and (query_NCHW.requires_grad or key_NCHW.requires_grad):
            score = _Cosine.apply(query_NCHW, key_NCHW, score, index)
        height, width = key_NCHW.shape[-2:]
        places = neighbours(index, (height, width))
        return score[:, None], [gather(rows, places) / 9 for rows in values], index


class _Cosine(torch.autograd.Function):
    """The known cosines of chosen patch pairs, with their gradients recomputed when needed.

    With q, k the patches and s their cosine, ds/dq = (k/|k| − s·q/|q|)/|q|, and the same for k.
    Summed over overlapping patches, the first part is a texture transfer with weights.
    """

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, score: Tensor, index: Tensor) -> Tensor:
        ctx.save_for_backward(query, key, score, index)
        return score.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        query, key, score, index = ctx.saved_tensors
        N, C, H, W = query.shape
        Hk, Wk = key.shape[-2:]
        norm_q, norm_k = patch_norm(query), patch_norm(key)
        at = index.flatten(1)
        chosen = norm_k.flatten(1).gather(1, at).view(N, H, W)
        # A patch of zeros has no direction to move in.
        alive = (norm_q[:, 0] > 1e-12) & (chosen > 1e-12)
        gradient = torch.where(alive, gradients[0], 0)
        both = gradient / (norm_q[:, 0] * chosen)
        own_q = gradient * score / norm_q[:, 0].square()
        own_k = torch.zeros_like(norm_k).flatten(1)
        own_k.scatter_add_(1, at, (gradient * score / chosen.square()).flatten(1))
        own_k = own_k.view_as(norm_k)

        places = neighbours(index, (Hk, Wk))
        weights = _from_neighbours(both)
        crossed = gather(pack(key, (Hk, Wk)), places, weights)
        grad_query = crossed.view(N, H, W, C).permute(0, 3, 1, 2) - query * box_sum(own_q[:, None])

        flat = query.permute(0, 2, 3, 1).reshape(-1, C)
        grad_rows = query.new_zeros(N * Hk * Wk + 1, C)
        for offset in range(9):
            grad_rows.index_add_(0, places[:, offset], flat * weights[:, offset, None])
        grad_key = grad_rows[:-1].view(N, Hk, Wk, C).permute(0, 3, 1, 2) - key * box_sum(own_k)
        return grad_query, grad_key, None, None


def _from_neighbours(x_NHW: Tensor) -> Tensor:
    """For each position and offset d, as `neighbours` orders them: x at position − d, else 0."""
    _, H, W = x_NHW.shape
    padded = torch.nn.functional.pad(x_NHW, (1, 1, 1, 1))
    shifted = [
        padded[:, 1 - dy : 1 - dy + H, 1 - dx : 1 - dx + W]
        for dy in (-1, 0, 1)
        for dx in (-1, 0, 1)
    ]
    return torch.stack(shifted, -1).reshape(-1, 9)
