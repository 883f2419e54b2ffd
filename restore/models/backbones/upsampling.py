"""Upsampling and downsampling by whole ratios."""

from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

# The cubic's slope at a distance of 1, in torch's `interpolate` and in MATLAB's `imresize`.
TORCH, MATLAB = -0.75, -0.5


def upsample(x_NCHW: Tensor, ratio: int, slope: float = TORCH) -> Tensor:
    """Bicubic, borders continued; as `torch.nn.functional.interpolate` has it, or MATLAB.

    On a CPU it goes by shifted sums of whole pictures, several times faster than torch's.
    """
    if x_NCHW.device.type != "cpu" and slope == TORCH:
        return F.interpolate(x_NCHW, scale_factor=ratio, mode="bicubic", align_corners=False)
    x = _continued(_continued(x_NCHW.permute(0, 2, 3, 1), 1), 2)
    return _along(_along(x, 1, ratio, slope), 2, ratio, slope).permute(0, 3, 1, 2)


def bilinear(x_NCHW: Tensor, ratio: int) -> Tensor:
    """Bilinear upsampling, borders continued."""
    return F.interpolate(x_NCHW, scale_factor=ratio, mode="bilinear", align_corners=False)


def bilinear_rows(x_NCHW: Tensor, ratio: int, first: int, last: int) -> Tensor:
    """Rows `first` to before `last` of that, both multiples of the ratio; with 1, of x itself."""
    if ratio == 1:
        return x_NCHW[..., first:last, :]
    top = max(0, first // ratio - 1)
    y = bilinear(x_NCHW[..., top : last // ratio + 1, :], ratio)
    return y[..., first - top * ratio : last - top * ratio, :]


def kernel(ratio: int, slope: float = TORCH) -> Tensor:
    """Bicubic upsampling as one 5×5 convolution, before a pixel shuffle: (ratio², 5, 5)."""
    taps = torch.tensor(_taps(ratio, slope))
    return torch.einsum("ik,jl->ijkl", taps, taps).flatten(0, 1)


def downsample(x_NCHW: Tensor, ratio: int, slope: float = MATLAB) -> Tensor:
    """Bicubic with a kernel `ratio` times wider, as PIL makes pictures smaller; borders continued.

    Sides must divide by `ratio`.
    """
    count = 4 * ratio - ratio % 2
    distances = [abs(i - (count - 1) / 2) / ratio for i in range(count)]
    taps = x_NCHW.new_tensor([_cubic(distance, slope) / ratio for distance in distances])
    border, channels = (count - ratio) // 2, x_NCHW.shape[1]
    x = F.pad(x_NCHW, (border,) * 4, mode="replicate")
    for shape, stride in (((1, 1, 1, -1), (1, ratio)), ((1, 1, -1, 1), (ratio, 1))):
        weight = taps.view(shape).expand(channels, -1, -1, -1)
        x = F.conv2d(x, weight, stride=stride, groups=channels)
    return x


def _continued(x: Tensor, axis: int) -> Tensor:
    """The first and the last twice more; `F.pad` has a gradient that torch 2.15 cannot compile."""
    first, last = x.narrow(axis, 0, 1), x.narrow(axis, x.shape[axis] - 1, 1)
    return torch.cat([first, first, x, last, last], axis)


def _along(x: Tensor, axis: int, ratio: int, slope: float) -> Tensor:
    """Upsamples one axis, which loses a border of two."""
    size = x.shape[axis] - 4
    phases = []
    for taps in _taps(ratio, slope):
        (first, weight), *others = ((at, w) for at, w in enumerate(taps) if w)
        total = x.narrow(axis, first, size) * weight
        for at, weight in others:
            total.add_(x.narrow(axis, at, size), alpha=weight)
        phases.append(total)
    return torch.stack(phases, axis + 1).flatten(axis, axis + 1)


@lru_cache
def _taps(ratio: int, slope: float) -> list[list[float]]:
    """Weights of the five nearest samples, for each of the places between two samples."""
    phases = []
    for phase in range(ratio):
        distance = (phase + 0.5) / ratio - 0.5
        phases.append([_cubic(abs(distance - at), slope) for at in (-2, -1, 0, 1, 2)])
    return phases


def _cubic(t: float, a: float) -> float:
    """Keys, "Cubic Convolution Interpolation for Digital Image Processing", 1981, equation 4."""
    if t <= 1:
        return (a + 2) * t**3 - (a + 3) * t**2 + 1
    return a * (t**3 - 5 * t**2 + 8 * t - 4) if t < 2 else 0.0
