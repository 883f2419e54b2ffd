"""Holes filled from what lies around them, without learning: a start for networks, a baseline."""

import torch
import torch.nn.functional as F
from torch import Tensor

# Relaxations at each level of the pyramid; the coarse levels have done the far-reaching part.
_RELAXATIONS = 8


def filled(picture_NCHW: Tensor, mask_N1HW: Tensor) -> Tensor:
    """The picture with its holes filled smoothly; a picture that is all hole becomes mid-grey.

    A coarse-to-fine approximation of the membrane, the smoothest surface that meets the known
    pixels at the holes' borders: means of known pixels over ever larger squares, interpolated back
    and relaxed at each level. What lies in the holes has no influence, and no value leaves the
    range of the known ones.

    Args:
        picture_NCHW: float.
        mask_N1HW: 1 or true = hole.
    """
    known = 1 - mask_N1HW.to(picture_NCHW.dtype)
    return _filled(picture_NCHW, known) if (known == 0).any() else picture_NCHW


def _filled(x: Tensor, known: Tensor) -> Tensor:
    height, width = x.shape[-2:]
    there = known > 0
    if max(height, width) == 1:
        return torch.where(there, x, torch.full_like(x, 0.5))
    weight = _halved(known)
    # Not x · known: what lies in the holes may be anything, even not a number.
    mean = _halved(torch.where(there, x, 0)) / weight.clamp_min(1e-6)
    coarse = _filled(mean, (weight > 0).to(x.dtype))
    smooth = F.interpolate(coarse, (height, width), mode="bilinear", align_corners=False)
    result = torch.where(there, x, smooth)
    for _ in range(_RELAXATIONS):
        result = torch.where(there, x, _neighbours(result))
    return result


def _halved(x: Tensor) -> Tensor:
    return F.avg_pool2d(x, 2, ceil_mode=True, count_include_pad=False)


def _neighbours(x: Tensor) -> Tensor:
    """The mean of each pixel's four neighbours."""
    around = F.pad(x, (1, 1, 1, 1), mode="replicate")
    across = around[..., 1:-1, :-2] + around[..., 1:-1, 2:]
    return (across + around[..., :-2, 1:-1] + around[..., 2:, 1:-1]) / 4


def blended(inside_NCHW: Tensor, outside_NCHW: Tensor, mask_N1HW: Tensor, border: int) -> Tensor:
    """One picture in the holes, another where known, with a soft passage on the known side.

    All of the hole is the first; beyond `2 · border` pixels all is the second. In between
    their shares change by no more than 1 / (2 · border + 1) from a pixel to the next, so that no
    edge is seen where both differ by a little. Without a border the passage is a step.
    """
    share = mask_N1HW.to(inside_NCHW.dtype)
    if border:
        side = 2 * border + 1
        share = F.max_pool2d(share, side, stride=1, padding=border)
        padded = F.pad(share, [border] * 4, mode="replicate")
        share = F.avg_pool2d(padded, side, stride=1)
        share = torch.where(mask_N1HW > 0, 1, share)  # exactly, whatever rounding made of the mean
    return torch.where(
        share == 0, outside_NCHW, outside_NCHW + share * (inside_NCHW - outside_NCHW)
    )
