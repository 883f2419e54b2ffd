"""Holes filled from what lies around them, without learning: a start for networks, a baseline."""

import torch
import torch.nn.functional as F
from torch import Tensor

# Relaxations at each level of the pyramid; the coarse levels have done the far-reaching part.
_RELAXATIONS = 4
# So that nothing is divided by zero once the solution is there.
_TINY = 1e-20
# Of conjugate gradients: all that strokes need, a start for wide holes.
_ITERATIONS = 24


def filled(picture_NCHW: Tensor, mask_N1HW: Tensor) -> Tensor:
    """The picture with its holes filled smoothly; a picture that is all hole becomes mid-grey.

    First a coarse-to-fine approximation of the membrane that meets the known pixels at the holes'
    borders: means of known pixels over ever larger squares, interpolated back and relaxed at each
    level. From there some steps of conjugate gradients towards the biharmonic surface, which goes
    on with the slope that the picture has at the border. What lies in the holes has no influence,
    and no value leaves the range of the known ones.

    Args:
        picture_NCHW: float.
        mask_N1HW: 1 or true = hole.
    """
    known = 1 - mask_N1HW.to(picture_NCHW.dtype)
    if (known > 0).all():
        return picture_NCHW
    start = _membrane(picture_NCHW, known)
    least, most = (pick(start, (-2, -1), keepdim=True) for pick in (torch.amin, torch.amax))
    return torch.where(known > 0, start, _biharmonic(start, known).clamp(least, most))


def _membrane(x: Tensor, known: Tensor) -> Tensor:
    height, width = x.shape[-2:]
    there = known > 0
    if max(height, width) == 1:
        return torch.where(there, x, torch.full_like(x, 0.5))
    weight = _halved(known)
    # Not x · known: what lies in the holes may be anything, even not a number.
    mean = _halved(torch.where(there, x, 0)) / weight.clamp_min(1e-6)
    coarse = _membrane(mean, (weight > 0).to(x.dtype))
    smooth = F.interpolate(coarse, (height, width), mode="bilinear", align_corners=False)
    result = torch.where(there, x, smooth)
    for _ in range(_RELAXATIONS):
        result = torch.where(there, x, _neighbours(result))
    return result


def _biharmonic(start: Tensor, known: Tensor) -> Tensor:
    """Steps towards a square of the Laplacian that is zero in the holes, from a filled picture."""
    hole = (known == 0).to(start.dtype)

    def curvature(z: Tensor) -> Tensor:
        # Continued by its last pixels, the picture has no slope across its edge, and this matrix
        # is symmetric, as conjugate gradients need it.
        return hole * _laplacian(_laplacian(z))

    def inner(x: Tensor, y: Tensor) -> Tensor:
        return (x * y).sum((-2, -1), keepdim=True)

    result, rest = start, -curvature(start)
    way, size = rest, inner(rest, rest)
    for _ in range(_ITERATIONS):
        change = curvature(way)
        step = size / inner(way, change).clamp_min(_TINY)
        result, rest = result + step * way, rest - step * change
        before, size = size, inner(rest, rest)
        way = rest + size / before.clamp_min(_TINY) * way
    return result


def _laplacian(x: Tensor) -> Tensor:
    return x - _neighbours(x)


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
