"""Texture attention written plainly for several rules: unfold, all pairs, weigh, fold."""

import torch
import torch.nn.functional as F
from torch import Tensor


def attend(
    query: Tensor,
    keys: list[Tensor],
    values: list[list[Tensor]],
    patch: int = 3,
    cosine: bool = True,
    temperature: float | None = None,
    best: int | None = None,
) -> tuple[Tensor, list[Tensor]]:
    """Score N1HW and textures; `values` lists the values of each reference.

    `best` None weighs all patches by a softmax; 1 is the hard choice.
    """
    N, _, H, W = query.shape
    queries = _patches(query, patch)
    all_keys = torch.cat([_patches(key, patch) for key in keys], dim=2)
    if cosine:
        queries, all_keys = F.normalize(queries, dim=1), F.normalize(all_keys, dim=1)
    relevance = all_keys.transpose(1, 2) @ queries
    logits = relevance / (temperature or queries.shape[1] ** 0.5)
    if best is not None:
        least = logits.topk(min(best, logits.shape[1]), dim=1).values[:, -1:]
        logits = logits.masked_fill(logits < least, -torch.inf)
    weights = logits.softmax(dim=1)
    score = (weights * relevance).sum(1) if cosine else torch.ones_like(relevance[:, 0])
    textures = []
    for group in zip(*values):
        s = group[0].shape[-1] // keys[0].shape[-1]
        columns = [F.unfold(value, 3 * s, padding=s, stride=s) for value in group]
        mixed = torch.cat(columns, dim=2) @ weights
        textures.append(F.fold(mixed, (H * s, W * s), 3 * s, padding=s, stride=s) / 9)
    return score.view(N, 1, H, W), textures


def _patches(x: Tensor, side: int) -> Tensor:
    return F.unfold(x, side, padding=side // 2)
