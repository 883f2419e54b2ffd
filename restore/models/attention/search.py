"""Exact nearest 3×3 patch by cosine, without the table of all pairs.

The inner product of two 3×3 patches is the sum of nine products of shifted pixels. So pixels are
correlated once, C multiplications a pair instead of 9·C, and the products summed along the
diagonals: over x, then over y. Blocks of query rows meet blocks of key rows, with a running
maximum over the blocks; memory grows with the number of positions, not with its square.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from restore.models.backbones.rows import at_a_time
from restore.utils import threads

# Products that are held at a time. On a CPU the block should stay in the caches (measured: from
# half of this to twice as much is equally fast); on a GPU larger blocks mean fewer launches.
_BLOCK = {"cpu": 5 << 18, "cuda": 1 << 25}

# Parts of the query rows for each thread, so that one that is held up leaves work to the others,
# and the least rows of one: two more at its edges are met by it and by its neighbour.
_PARTS, _LEAST = 2, 8


def box_sum(x_N1HW: Tensor) -> Tensor:
    """Sum over each position's 3×3 neighbourhood, zeros outside."""
    return F.avg_pool2d(x_N1HW, 3, stride=1, padding=1, divisor_override=1)


def patch_norm(x_NCHW: Tensor) -> Tensor:
    """Euclidean norm N1HW of each position's 3×3 patch of C-dimensional pixels, at least 1e-12."""
    return box_sum(x_NCHW.square().sum(1, keepdim=True)).sqrt().clamp_min(1e-12)


@torch.library.custom_op("restore::nearest_patch", mutates_args=())
def nearest_patch(
    query_NCHW: Tensor, key_NCHW: Tensor, inside: bool = False
) -> tuple[Tensor, Tensor]:
    """For each query patch, the cosine of the most similar key patch and where that is.

    Args:
        query_NCHW: float32 or float64.
        key_NCHW: the same type, any height and width.
        inside: compare only patches that lie wholly inside their pictures; else zeros continue
            both, and every position has a patch.

    Returns:
        score NHW in [-1, 1], and index NHW (int64), the key's row-major position; of equal
        maxima the first. With `inside`, H−2 and W−2 positions, and positions in a grid of
        Hk−2 and Wk−2.
    """
    border = 1 if inside else 0
    norm = _without_border(patch_norm(query_NCHW)[:, 0], border)
    inverse = F.pad(1 / _without_border(patch_norm(key_NCHW)[:, 0], border), (1, 1))
    # Zeros all round, so that a part's rows have neighbours on either side.
    query = query_NCHW if inside else F.pad(query_NCHW, (1, 1, 1, 1))
    # Also all round, and rows between the key's: shifts along them then run into zeros.
    key = (key_NCHW if inside else F.pad(key_NCHW, (1, 1, 1, 1))).contiguous()
    N, H, W = norm.shape
    device = query_NCHW.device.type
    many = torch.get_num_threads() if device == "cpu" else 1
    table = (H + 2) * (W + 2) * (inverse[0].numel() + 2)
    together = min(max(1, at_a_time(_BLOCK, query) // table), math.ceil(N / many))
    high = H if many <= N else max(_LEAST, math.ceil(H / (_PARTS * many)))
    score = query_NCHW.new_empty(N, H, W)
    index = torch.empty(N, H, W, dtype=torch.int64, device=query_NCHW.device)

    def search(part: tuple[slice, int]) -> None:
        items, top = part
        end = min(top + high, H)
        best, where = _nearest(query[items, :, top : end + 2], key[items], inverse[items])
        torch.div(best, norm[items, top:end], out=score[items, top:end])
        index[items, top:end] = where

    parts = [
        (slice(first, first + together), top)
        for first in range(0, N, together)
        for top in range(0, H, high)
    ]
    if many > 1 and len(parts) > 1:
        threads.each(search, parts)
    else:
        for part in parts:
            search(part)
    return score, index


@torch.library.custom_op("restore::nearest_pixel", mutates_args=())
def nearest_pixel(query_NCHW: Tensor, key_NCHW: Tensor) -> tuple[Tensor, Tensor]:
    """The same as `nearest_patch` for single positions instead of patches."""
    N, _, H, W = query_NCHW.shape
    query = F.normalize(query_NCHW, dim=1).flatten(2).transpose(1, 2)
    key = F.normalize(key_NCHW, dim=1).flatten(2)
    step = max(1, at_a_time(_BLOCK, query) // (N * key.shape[-1]))
    best = [(lines @ key).max(-1) for lines in query.split(step, 1)]
    score, index = (torch.cat(parts, 1).view(N, H, W) for parts in zip(*best))
    return score, index


def _without_border(x_NHW: Tensor, border: int) -> Tensor:
    height, width = x_NHW.shape[1:]
    return x_NHW[:, border : height - border, border : width - border]


def _nearest(padded_NCHW: Tensor, key: Tensor, inverse: Tensor) -> tuple[Tensor, Tensor]:
    """The largest product with a key patch of unit length, and where, of some rows of queries.

    Args:
        padded_NCHW: the rows, with one more on either side, of queries or zeros.
        key: N, C, Hk + 2, Wk + 2, zeros all round.
        inverse: N, Hk, Wk + 2: one over the key patches' norms, zeros on either side.
    """
    N, C, H, W = padded_NCHW.shape
    H, W = H - 2, W - 2
    Hk, Wk = key.shape[-2] - 2, key.shape[-1] - 2
    rows_q, rows_k = _blocks(N, H, W, Hk, Wk, at_a_time(_BLOCK, key))
    wide_q, wide_k = W + 2, Wk + 2
    query = F.pad(padded_NCHW, (0, 0, 0, rows_q)).permute(0, 2, 3, 1).contiguous()
    best = query.new_full((N, H + rows_q, W), -torch.inf)
    index = torch.zeros(N, H + rows_q, W, dtype=torch.int64, device=query.device)
    # What the sums never reach, at the buffers' ends, stands for the zeros around, and is not used.
    size = N * (rows_q + 2) * wide_q * (rows_k + 2) * wide_k
    products, sums = query.new_empty(size), query.new_empty(size)
    for v in range(0, Hk, rows_k):
        high = min(rows_k, Hk - v)
        columns = key[:, :, v : v + high + 2].reshape(N, C, -1)
        length = columns.shape[-1]
        scale = inverse[:, v : v + high].reshape(N, 1, 1, high * wide_k)
        product = _view(products, N, (rows_q + 2) * wide_q, length)
        summed = _view(sums, N, (rows_q + 2) * wide_q * length)
        by_row = summed.view(N, rows_q + 2, wide_q, length)
        total = _view(products, N, rows_q, wide_q, high * wide_k)
        for y in range(0, H, rows_q):
            # Rows y-1 … y+rows_q are needed; all but the first time, two of them are there.
            kept = 2 if y else 0
            if kept:
                by_row[:, :2] = by_row[:, rows_q:].clone()
            lines = query[:, y + kept : y + rows_q + 2].reshape(N, -1, C)
            part = product[:, : lines.shape[1]]
            torch.bmm(lines, columns, out=part)
            _sum_diagonally(part.view(N, -1), summed[:, kept * wide_q * length :], length + 1)
            torch.add(by_row[:, :-2, :, : -2 * wide_k], by_row[:, 2:, :, 2 * wide_k :], out=total)
            total += by_row[:, 1:-1, :, wide_k:-wide_k]
            total *= scale
            table = total.view(N, rows_q, wide_q, high, wide_k)[:, :, 1:-1, :, 1:-1]
            value, row = table.amax(-1).max(-1)
            line = table.gather(-2, row[..., None, None].expand(*row.shape, 1, Wk))
            place = (v + row) * Wk + line.argmax(-1)[..., 0]
            known = best[:, y : y + rows_q]
            better = value > known
            known.copy_(torch.where(better, value, known))
            where = index[:, y : y + rows_q]
            where.copy_(torch.where(better, place, where))
    return best[:, :H], index[:, :H]


def _view(buffer: Tensor, *shape: int) -> Tensor:
    return buffer[: math.prod(shape)].view(shape)


def _sum_diagonally(product: Tensor, out: Tensor, step: int) -> None:
    """Adds to each flattened product its neighbours one query and one key to either side."""
    size = product.shape[-1]
    out = out[:, step : size - step]
    torch.add(product[:, : size - 2 * step], product[:, 2 * step :], out=out)
    out += product[:, step : size - step]


@nearest_patch.register_fake
def _(query_NCHW: Tensor, key_NCHW: Tensor, inside: bool = False) -> tuple[Tensor, Tensor]:
    N, _, H, W = query_NCHW.shape
    H, W = (H - 2, W - 2) if inside else (H, W)
    return query_NCHW.new_empty(N, H, W), query_NCHW.new_empty(N, H, W, dtype=torch.int64)


@nearest_pixel.register_fake
def _(query_NCHW: Tensor, key_NCHW: Tensor) -> tuple[Tensor, Tensor]:
    N, _, H, W = query_NCHW.shape
    return query_NCHW.new_empty(N, H, W), query_NCHW.new_empty(N, H, W, dtype=torch.int64)


@register_flop_formula([torch.ops.restore.nearest_patch, torch.ops.restore.nearest_pixel])
def _flops(query: torch.Size, key: torch.Size, *_: Any, out_shape: Any = None, **__: Any) -> int:
    """The products of all pairs of pixels, a multiplication and an addition a channel.

    What is done with the sums of products (four additions a pair for patches, the maximum) is left
    out, as the counter leaves out everything that is no product elsewhere.
    """
    N, C, H, W = query
    return 2 * N * C * H * W * key[-2] * key[-1]


def _blocks(N: int, H: int, W: int, Hk: int, Wk: int, budget: int) -> tuple[int, int]:
    """Query rows and key rows of a block: as many of one as of the other where they fit.

    Each block of key rows needs two more at its edges, so it has eight at least.
    """
    line = N * (W + 2) * (Wk + 2)
    rows_k = _even(Hk, max(8, math.isqrt(budget // line)))
    rows_q = _even(H, max(1, budget // (line * (rows_k + 2))))
    return rows_q, rows_k


def _even(whole: int, most: int) -> int:
    """The size of equal parts of `whole`, none larger than `most`."""
    return math.ceil(whole / math.ceil(whole / most))
