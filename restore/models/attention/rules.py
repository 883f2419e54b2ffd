"""Matching rules: how queries and keys become a score and a choice of textures."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from restore.errors import UserError
from restore.models.attention import all_pairs
from restore.models.attention.search import box_sum, nearest_patch, nearest_pixel, patch_norm
from restore.models.attention.transfer import (
    Folded,
    Value,
    from_neighbours,
    gather,
    made_later,
    neighbours,
    pack,
)


class MatchingRule(nn.Module):
    """How queries and keys become a score and textures: the contract.

    Attributes:
        chooses_one: each query takes one key, whose `index` tells all of what it takes; a transfer
            may then look at that place by itself (`TextureAttention.locate`).
        reach: how far, in positions, a query is felt in what is made of it: its 3×3 patch, and the
            neighbours' textures.
        least: smallest sides, in positions, of pictures that a file of it takes.

    A rule of one's own is a class with `forward` and a yaml in `conf/attention`. Operations of its
    own kind tell how much they compute by `torch.utils.flop_counter.register_flop_formula`, as
    those of `restore.models.attention.search` do.
    """

    chooses_one = False
    reach: int = 2
    least: int = 1

    def forward(
        self, query_NCHW: Tensor, keys: list[Tensor], values: list[Value], patch: int
    ) -> tuple[Tensor, Sequence[Tensor], Tensor | None]:
        """Compares patches of side `patch` (1 or 3) with those of all keys.

        Returns:
            Score N1HW; textures N, C, s·H, s·W; and index NHW of the key that counts most (−1: of
            none), or None where there is none, or no use for it.
        """
        raise NotImplementedError

    def all_pairs(
        self,
        query_NCHW: Tensor,
        key_NCHW: Tensor,
        values: list[Tensor],
        scales: Sequence[int],
        patch: int,
    ) -> tuple[Tensor, list[Tensor]]:
        """The same result (score, textures) in evaluation, of one key, without loops.

        A file holds it in this form; `restore.models.attention.all_pairs` has its parts.

        Args:
            query_NCHW, key_NCHW: as above.
            values: pictures N, C, s·Hk, s·Wk.
            scales: s of each value.
            patch: as above.

        A rule without it cannot be exported.
        """
        raise NotImplementedError

    def choose_of_all_pairs(self, query: Tensor, key: Tensor, patch: int) -> tuple[Tensor, Tensor]:
        """Score and index NHW as `all_pairs` has them, of a rule that `chooses_one`."""
        raise NotImplementedError


class Hard(MatchingRule):
    """Each query takes the texture of its most similar key, and that cosine is its score.

    TTSR equations 2-5. Gradients reach queries and keys through the score, values through the
    texture; the choice itself has none.
    """

    chooses_one = True

    def forward(
        self, query_NCHW: Tensor, keys: list[Tensor], values: list[Value], patch: int
    ) -> tuple[Tensor, Sequence[Tensor], Tensor]:
        """Compares patches of side `patch` (1 or 3) with those of all keys.

        Returns:
            Score N1HW, textures N, C, s·H, s·W, index NHW.
        """
        score, index = self._choose(query_NCHW, keys, patch)
        places = neighbours(index, [(key.shape[-2], key.shape[-1]) for key in keys])
        places = places.view(*index.shape, 9)
        return score[:, None], made_later([Folded(value, places) for value in values]), index

    def all_pairs(
        self,
        query_NCHW: Tensor,
        key_NCHW: Tensor,
        values: list[Tensor],
        scales: Sequence[int],
        patch: int,
    ) -> tuple[Tensor, list[Tensor]]:
        score, index = self.choose_of_all_pairs(query_NCHW, key_NCHW, patch)
        grid = key_NCHW.shape[-2], key_NCHW.shape[-1]
        return score[:, None], all_pairs.chosen(index, grid, values, scales)

    def choose_of_all_pairs(self, query: Tensor, key: Tensor, patch: int) -> tuple[Tensor, Tensor]:
        table = all_pairs.by_key_norm(query, key, patch)
        score, index = table.flatten(3).max(-1)
        return score / all_pairs.norm(query, patch)[:, 0], index

    def _choose(self, query: Tensor, keys: list[Tensor], patch: int) -> tuple[Tensor, Tensor]:
        known = query.new_full((query.shape[0], *query.shape[2:]), -torch.inf)
        chosen = torch.zeros_like(known, dtype=torch.int64)
        first = 0
        for key in keys:
            score, index = self._nearest(query, key, patch)
            better = score > known
            chosen = torch.where(better, torch.where(index < 0, index, first + index), chosen)
            known = torch.where(better, score, known)
            first += key.shape[-2] * key.shape[-1]
        return known, chosen

    def _nearest(self, query: Tensor, key: Tensor, patch: int) -> tuple[Tensor, Tensor]:
        """Score and index NHW of one key; −1 where none is looked for."""
        search, cosine = _KINDS[patch]
        with torch.no_grad():
            score, index = search(query.detach(), key.detach())
        if _differentiable(query, key):
            score = cosine(query, key, score, index)
        return score, index


class HardInside(Hard):
    """`Hard` among patches that lie wholly inside their pictures.

    Positions at the border have no match of their own: the index −1, the score 0 (C2-Matching,
    Jiang et al., CVPR 2021). Single positions (`patch` 1) are all inside.
    """

    least = 4

    def _nearest(self, query: Tensor, key: Tensor, patch: int) -> tuple[Tensor, Tensor]:
        if patch == 1:
            return super()._nearest(query, key, patch)
        if min(*query.shape[-2:], *key.shape[-2:]) < 3:
            raise UserError(
                "attention=inside compares 3×3 patches of the features, and one of the pictures is "
                "smaller than that"
            )
        with torch.no_grad():
            score, index = nearest_patch(query.detach(), key.detach(), True)
        Wk = key.shape[-1]
        index = (index.div(Wk - 2, rounding_mode="floor") + 1) * Wk + index % (Wk - 2) + 1
        index, score = F.pad(index, (1, 1, 1, 1), value=-1), F.pad(score, (1, 1, 1, 1))
        if _differentiable(query, key):
            score = _PatchCosine.apply(query, key, score, index.clamp_min(0))
            score = score.where(index >= 0, 0)
        return score, index

    def choose_of_all_pairs(self, query: Tensor, key: Tensor, patch: int) -> tuple[Tensor, Tensor]:
        if patch == 1:
            return super().choose_of_all_pairs(query, key, patch)
        return all_pairs.inside(query, key)


class StraightThrough(MatchingRule):
    """One rule's result with another's gradient (Bengio et al. 2013, arXiv:1308.3432).

    With `Hard` and `Soft`, the texture loss reaches the embedding although the choice is hard.

    Args:
        forward_rule: makes the result.
        backward_rule: has the gradient.
    """

    def __init__(self, forward_rule: MatchingRule, backward_rule: MatchingRule):
        super().__init__()
        self.forward_rule, self.backward_rule = forward_rule, backward_rule
        self.reach = forward_rule.reach

    def forward(
        self, query_NCHW: Tensor, keys: list[Tensor], values: list[Value], patch: int
    ) -> tuple[Tensor, Sequence[Tensor], Tensor | None]:
        """As `forward_rule`."""
        score, textures, index = self.forward_rule(query_NCHW, keys, values, patch)
        if torch.is_grad_enabled():
            _, soft, _ = self.backward_rule(query_NCHW, keys, values, patch)
            textures = [two + (one - two).detach() for one, two in zip(textures, soft)]
        return score, textures, index

    def all_pairs(
        self,
        query_NCHW: Tensor,
        key_NCHW: Tensor,
        values: list[Tensor],
        scales: Sequence[int],
        patch: int,
    ) -> tuple[Tensor, list[Tensor]]:
        return self.forward_rule.all_pairs(query_NCHW, key_NCHW, values, scales, patch)


class _PatchCosine(torch.autograd.Function):
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

        places = neighbours(index, [(Hk, Wk)])
        weights = from_neighbours(both)
        crossed = gather(pack(key, (Hk, Wk)).rows, places, weights)
        grad_query = crossed.view(N, H, W, C).permute(0, 3, 1, 2) - query * box_sum(own_q[:, None])

        flat = query.permute(0, 2, 3, 1).reshape(-1, C)
        grad_rows = query.new_zeros(N * Hk * Wk + 1, C)
        for offset in range(9):
            grad_rows.index_add_(0, places[:, offset], flat * weights[:, offset, None])
        grad_key = grad_rows[:-1].view(N, Hk, Wk, C).permute(0, 3, 1, 2) - key * box_sum(own_k)
        return grad_query, grad_key, None, None


def _differentiable(query: Tensor, key: Tensor) -> bool:
    return torch.is_grad_enabled() and (query.requires_grad or key.requires_grad)


def _pixel_cosine(query: Tensor, key: Tensor, score: Tensor, index: Tensor) -> Tensor:
    """The same for single positions, where plain operations are as light."""
    chosen = key.flatten(2).gather(2, index.flatten(1)[:, None].expand(-1, key.shape[1], -1))
    return torch.cosine_similarity(query.flatten(2), chosen, dim=1, eps=1e-12).view_as(score)


_KINDS = {3: (nearest_patch, _PatchCosine.apply), 1: (nearest_pixel, _pixel_cosine)}
