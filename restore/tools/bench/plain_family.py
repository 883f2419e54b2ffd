"""Matching of C2-Matching and MASA-SR as published, written plainly: the measure for speed."""

import torch
import torch.nn.functional as F
from torch import Tensor


def inside(query: Tensor, key: Tensor) -> Tensor:
    """C2-Matching's: every 3×3 patch of the key as a filter over the query, then the best.

    Args:
        query, key: 1, C, H, W.

    Returns:
        1, H−2, W−2 row-major positions in the key's grid of patches.
    """
    query, key = (F.normalize(x, dim=1) for x in (query, key))
    patches = F.unfold(key, 3)[0].T
    patches = patches / (patches.norm(dim=1, keepdim=True) + 1e-5)
    return F.conv2d(query, patches.reshape(-1, query.shape[1], 3, 3)).argmax(1)


def windows(query: Tensor, key: Tensor, block: int = 8, ratio: float = 1.5) -> Tensor:
    """MASA-SR's: unfolded patches of a window for each block, which dilated patches have chosen.

    Args:
        query, key: 1, C, H, W; the query's sides multiples of the block's.

    Returns:
        1, H, W row-major positions in the key.
    """
    _, C, H, W = query.shape
    Hk, Wk = key.shape[-2:]
    rows, columns = H // block, W // block
    side = block + 2
    blocks = F.unfold(F.pad(query, (1, 1, 1, 1), "replicate"), side, stride=block)
    blocks = blocks.view(C, side, side, -1).permute(3, 0, 1, 2)
    total = query.new_zeros(len(blocks), Hk * Wk)
    for d in (1, 2, 3):
        taps = slice(side // 2 - d, side // 2 + d + 1, d)
        kernels = F.normalize(blocks[..., taps, taps].flatten(1), dim=1)
        total += kernels @ F.normalize(F.unfold(key, 3, padding=d, dilation=d), dim=1)[0]
    best = total.argmax(1)
    high, wide = (
        min(2 * int(size // (2 * count) * ratio) + 3, size)
        for size, count in ((Hk, rows), (Wk, columns))
    )
    out = query.new_zeros(rows * columns, block * block, dtype=torch.int64)
    for place, middle in enumerate(best.tolist()):
        top = min(max(0, middle // Wk - high // 2), Hk - high)
        left = min(max(0, middle % Wk - wide // 2), Wk - wide)
        window = F.unfold(key[..., top : top + high, left : left + wide], 3)
        own = F.unfold(blocks[place : place + 1], 3)
        index = (F.normalize(own, dim=1).mT @ F.normalize(window, dim=1)).argmax(2)[0]
        row, column = index // (wide - 2), index % (wide - 2)
        out[place] = (top + row + 1) * Wk + left + column + 1
    return out.view(rows, columns, block, block).transpose(1, 2).reshape(1, H, W)
