"""Modulated deformable convolution, in pieces that stay in the cache."""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from torchvision.ops import deform_conv2d

from restore.models.backbones.rows import at_a_time, written

_TABLE = {"cpu": 1 << 21, "cuda": 1 << 25}  # of the samples, see `at_a_time`


def deformable_conv(
    x: Tensor,
    offsets: Tensor,
    mask: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    first: int = 0,
) -> Tensor:
    """A 3×3 convolution whose taps lie anywhere, and count as much as they are told.

    Zhu et al., "Deformable ConvNets v2", CVPR 2019, equation 1. On CUDA torchvision's kernel,
    unless its samples, nine times as many as the map's numbers, are too many and nothing is
    trained; then, and on a CPU, where that kernel is plain C++, vectorised sampling in bands of
    rows.

    Args:
        x: N, C, H, W; zeros continue it.
        offsets: N, 18·G, h, w: of each of G equal parts of the channels, for each tap row-major,
            how far down and right of its place it lies.
        mask: N, 9·G, h, w: factors of the taps.
        weight: C', C, 3, 3.
        bias: C'.
        first: row that the first of the offsets belongs to.

    Returns:
        N, C', h, w.
    """
    height, width = offsets.shape[-2:]
    differentiable = torch.is_grad_enabled() and any(
        y.requires_grad for y in (x, offsets, mask, weight)
    )
    table = at_a_time(_TABLE, x)
    line = 9 * x.shape[0] * x.shape[1] * width
    if x.is_cuda and first == 0 and (differentiable or line * height <= table):
        # It wants one size for both.
        sizes = [max(one, other) for one, other in zip(x.shape[-2:], offsets.shape[-2:])]
        x, offsets, mask = (_continued(y, sizes) for y in (x, offsets, mask))
        return deform_conv2d(x, offsets, weight, bias, padding=1, mask=mask)[..., :height, :width]
    rows = max(1, table // line)
    # A file holds no loop whose length is the picture's.
    tops = range(1) if written() else range(0, height, rows)
    parts = []
    for top in tops:
        band = slice(top, height if len(tops) == 1 else min(top + rows, height))
        inputs = (x, offsets[..., band, :], mask[..., band, :], weight, first + top)
        # What is sampled is nine times as much as what is given, so it is sampled again.
        parts.append(
            checkpoint(_band, *inputs, use_reentrant=False) if differentiable else _band(*inputs)
        )
    result = parts[0] if len(parts) == 1 else torch.cat(parts, 2)
    return result if bias is None else result + bias.view(-1, 1, 1)


def _band(x: Tensor, offsets: Tensor, mask: Tensor, weight: Tensor, top: int) -> Tensor:
    """Rows of the result, the first of which is `top`."""
    N, C, H, W = x.shape
    h, w = offsets.shape[-2:]
    groups = mask.shape[1] // 9
    taps = torch.arange(9, device=x.device)
    rows = torch.arange(top, top + h, device=x.device)
    columns = torch.arange(w, device=x.device)
    down, right = offsets.reshape(N * groups, 9, 2, h, w).unbind(2)
    # In the units of grid_sample, of which a pixel has a side of 2 / H.
    own_row = 2 * ((taps // 3 - 1)[:, None, None] + rows[:, None]) + (1 - H)
    own_column = 2 * ((taps % 3 - 1)[:, None, None] + columns) + (1 - W)
    down = torch.add(own_row.to(down.dtype) / H, down, alpha=2 / H)
    right = torch.add(own_column.to(right.dtype) / W, right, alpha=2 / W)
    grid = torch.stack([right, down], -1).view(N * groups, 9 * h, w, 2)
    images = x.reshape(N * groups, C // groups, H, W)
    sampled = F.grid_sample(images, grid, "bilinear", "zeros", align_corners=False)
    mask = mask.contiguous().view(N, groups, 1, 9, h, w)  # read once for each channel
    sampled = sampled.view(N, groups, -1, 9, h, w) * mask
    return (weight.flatten(1) @ sampled.view(N, 9 * C, h * w)).view(N, -1, h, w)


def _continued(x: Tensor, sizes: list[int]) -> Tensor:
    return F.pad(x, (0, sizes[1] - x.shape[-1], 0, sizes[0] - x.shape[-2]))
