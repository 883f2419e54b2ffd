"""Exact nearest 3×3 patch by cosine, without the table of all pairs.

The inner product of two 3×3 patches is the sum of nine products of shifted pixels. So pixels are
correlated once, C multiplications a pair instead of 9·C, and the products summed along the
diagonals: over x, then over y. Blocks of query rows meet blocks of key rows, with a running
maximum over the blocks; memory grows with the number of positions, not with its square.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

# Products that are held at a time. On a CPU the block should stay in the cores' caches; on a GPU
# larger blocks mean fewer launches.
_BLOCK = {"cpu": 1 << 20, "cuda": 1 << 26}


def box_sum(x_N1HW: Tensor) -> Tensor:
    """Sum over each position's 3×3 neighbourhood, zeros outside."""
    return F.avg_pool2d(x_N1HW, 3, stride=1, padding=1, divisor_override=1)


def patch_norm(x_NCHW: Tensor) -> Tensor:
    """Euclidean norm N1HW of each position's 3×3 patch of C-dimensional pixels, at least 1e-12."""
    return box_sum(x_NCHW.square().sum(1, keepdim=True)).sqrt().clamp_min(1e-12)


@torch.library.custom_op("restore::nearest_patch", mutates_args=())
def nearest_patch(query_NCHW: Tensor, key_NCHW: Tensor) -> tuple[Tensor, Tensor]:
    """For each query patch, the cosine of the most similar key patch and where that is.

    Args:
        query_NCHW: float32 or float64.
        key_NCHW: the same type, any height and width.

    Returns:
        score NHW in [-1, 1], and index NHW (int64), the key's row-major position; of equal
        maxima the first.
    """
    N, C, H, W = query_NCHW.shape
    Hk, Wk = key_NCHW.shape[-2:]
    rows_q, rows_k = _blocks(N, H, W, Hk, Wk, query_NCHW.device.type)
    wide_q, wide_k = W + 2, Wk + 2
    # Zeros all round: shifts along the flattened rows then run into zeros, never into neighbours.
    query = F.pad(query_NCHW, (1, 1, 1, 1 + rows_q)).permute(0, 2, 3, 1).contiguous()
    key = F.pad(key_NCHW, (1, 1, 1, 1)).contiguous()
    inverse = F.pad(1 / patch_norm(key_NCHW), (1, 1))[:, 0]  # N, Hk, Wk + 2
    best = query.new_full((N, H + rows_q, W), -torch.inf)
    index = torch.zeros(N, H + rows_q, W, dtype=torch.int64, device=query.device)
    for v in range(0, Hk, rows_k):
        high = min(rows_k, Hk - v)
        columns = key[:, :, v : v + high + 2].reshape(N, C, -1)
        length = columns.shape[-1]
        scale = inverse[:, v : v + high].reshape(N, 1, 1, high * wide_k)
        product = query.new_zeros(N, (rows_q + 2) * wide_q, length)
        summed = query.new_zeros(N, (rows_q + 2) * wide_q * length)
        by_row = summed.view(N, rows_q + 2, wide_q, length)
        total = query.new_empty(N, rows_q, wide_q, high * wide_k)
        first = True
        for y in range(0, H, rows_q):
            # Rows y-1 … y+rows_q are needed; all but the first time, two of them are there.
            kept = 0 if first else 2
            if kept:
                by_row[:, :2] = by_row[:, rows_q:].clone()
            lines = query[:, y + kept : y + rows_q + 2].reshape(N, -1, C)
            part = product[:, : lines.shape[1]]
            torch.bmm(lines, columns, out=part)
            _sum_diagonally(part.view(N, -1), summed[:, kept * wide_q * length :], length + 1)
            first = False
            torch.add(by_row[:, :-2, :, : -2 * wide_k], by_row[:, 2:, :, 2 * wide_k :], out=total)
            total += by_row[:, 1:-1, :, wide_k:-wide_k]
            total *= scale
            table = total.view(N, rows_q, wide_q, high, wide_k)[:, :, 1:-1, :, 1:-1]
            value, row = table.amax(-1).max(-1)
            better = value > best[:, y : y + rows_q]
            column = table.take_along_dim(row[..., None, None], -2).squeeze(-2).argmax(-1)
            best[:, y : y + rows_q] = torch.where(better, value, best[:, y : y + rows_q])
            place = (v + row) * Wk + column
            index[:, y : y + rows_q] = torch.where(better, place, index[:, y : y + rows_q])
    score = best[:, :H] / patch_norm(query_NCHW)[:, 0]
    return score, index[:, :H].contiguous()


def _sum_diagonally(product: Tensor, out: Tensor, step: int) -> None:
    """Adds to each flattened product its neighbours one query and one key to either side."""
    size = product.shape[-1]
    out = out[:, step : size - step]
    torch.add(product[:, : size - 2 * step], product[:, 2 * step :], out=out)
    out += product[:, step : size - step]


@nearest_patch.register_fake
def _(query_NCHW: Tensor, key_NCHW: Tensor) -> tuple[Tensor, Tensor]:
    N, _, H, W = query_NCHW.shape
    return query_NCHW.new_empty(N, H, W), query_NCHW.new_empty(N, H, W, dtype=torch.int64)


def _blocks(N: int, H: int, W: int, Hk: int, Wk: int, device: str) -> tuple[int, int]:
    """Query rows and key rows of a block."""
    budget = _BLOCK.get(device, _BLOCK["cpu"])
    line = N * (W + 2) * (Wk + 2)
    rows_k = max(1, min(Hk, budget // (3 * line) - 2))
    rows_q = max(1, min(H, budget // (line * (rows_k + 2)) - 2))
    return rows_q, rows_k
