"""Texture attention as published, written plainly: the measure for correctness and for speed."""

import torch
import torch.nn.functional as F
from torch import Tensor


def attend(query: Tensor, key: Tensor, values: list[Tensor]) -> tuple[Tensor, list[Tensor], Tensor]:
    """Unfolds patches, multiplies all pairs, takes the best, gathers and folds.

    Args:
        query, key: N, C, H, W; `values`: N, C, s·Hk, s·Wk.

    Returns:
        score N1HW, textures, index NHW. Memory grows with the product of both sizes.
    """
    N, _, H, W = query.shape
    queries = F.normalize(F.unfold(query, 3, padding=1), dim=1)
    keys = F.normalize(F.unfold(key, 3, padding=1), dim=1)
    relevance_NKQ = keys.transpose(1, 2) @ queries
    score, index = relevance_NKQ.max(dim=1)
    textures = []
    for value in values:
        s = value.shape[-1] // key.shape[-1]
        columns = F.unfold(value, 3 * s, padding=s, stride=s)
        chosen = torch.gather(columns, 2, index[:, None].expand(-1, columns.shape[1], -1))
        folded = F.fold(chosen, (H * s, W * s), 3 * s, padding=s, stride=s)
        textures.append(folded / 9)
    return score.view(N, 1, H, W), textures, index.view(N, H, W)
