"""PSNR and SSIM of pictures in [0, 1], image by image, in float64.

What cannot be measured (a picture smaller than the window or the border, weights that are all
zero) is NaN: nobody can take it for a result, and one such picture does not end an evaluation.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Channel = Literal["rgb", "y", "y8", "y_ttsr"]

# Luma of R, G, B in [0, 1] on a scale to 255, without the offset of 16.
_MATLAB = (65.481, 128.553, 24.966)
_TTSR = (65.738 * 255 / 256, 129.057 * 255 / 256, 25.064 * 255 / 256)

_WINDOW, _SIGMA = 11, 1.5
_C1, _C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2


def rounded(image: Tensor) -> Tensor:
    """The picture as 8 bits would hold it, still in [0, 1], float64."""
    return (image.double().clamp(0, 1) * 255).round() / 255


def planes(image_NCHW: Tensor, channel: Channel) -> Tensor:
    """What is compared of a picture in [0, 1]: N, 1 or 3, H, W on a scale to 255, float64.

    `rgb`; `y` MATLAB's luma; `y8` that of the 8-bit picture, rounded half up, as `rgb2ycbcr`
    returns it; `y_ttsr` the luma of TTSR's published evaluation. A grey picture (one channel) is
    its own luma.
    """
    image = image_NCHW.double()
    if channel == "rgb" or image.shape[1] == 1:
        return image * 255
    if channel == "y8":
        # In whole numbers, for halves that are halves: about one colour in 85,000 lies on one.
        weights = image.new_tensor([round(1000 * weight) for weight in _MATLAB])
        luma = ((image * 255).round() * weights.view(1, 3, 1, 1)).sum(1, keepdim=True)
        return ((luma + 127_500) / 255_000).floor() + 16
    weights = image.new_tensor(_TTSR if channel == "y_ttsr" else _MATLAB)
    return (image * weights.view(1, 3, 1, 1)).sum(1, keepdim=True) + 16


def shaved(x: Tensor, border: int) -> Tensor:
    """Without `border` pixels at each side; without any pixel when the picture is no larger."""
    height, width = x.shape[-2:]
    return x[..., border : max(border, height - border), border : max(border, width - border)]


def psnr(x: Tensor, y: Tensor, weight_N1HW: Tensor | None = None) -> Tensor:
    """Peak signal-to-noise ratio in dB of each picture; infinite for equal ones.

    Args:
        x, y: N, C, H, W on a scale to 255.
        weight_N1HW: how much each pixel's squared error counts, ≥ 0; None: equally.

    Returns:
        N values, float64; NaN where no pixel counts.
    """
    error = _mean((x.double() - y.double()).square(), weight_N1HW)
    return 10 * torch.log10(255**2 / error)


def ssim(x: Tensor, y: Tensor, weight_N1HW: Tensor | None = None) -> Tensor:
    """Structural similarity of each picture, mean over channels (Wang et al. 2004).

    A Gaussian window of 11×11, σ 1.5, only where it fits wholly inside.

    Args:
        x, y: N, C, H, W on a scale to 255.
        weight_N1HW: how much the window around each pixel counts, ≥ 0; None: equally. The outer
            five pixels are no window's middle, so theirs are not used.

    Returns:
        N values, float64; NaN where no window fits or counts.
    """
    count, channels, height, width = x.shape
    if min(height, width) < _WINDOW:
        return x.new_full((count,), torch.nan, dtype=torch.float64)
    x, y = (z.double().reshape(count * channels, 1, height, width) for z in (x, y))
    at = torch.arange(_WINDOW, dtype=torch.float64, device=x.device) - _WINDOW // 2
    line = torch.exp(-(at**2) / (2 * _SIGMA**2))
    line = line / line.sum()

    def blurred(z: Tensor) -> Tensor:
        return F.conv2d(F.conv2d(z, line.view(1, 1, -1, 1)), line.view(1, 1, 1, -1))

    mean_x, mean_y = blurred(x), blurred(y)
    var_x = blurred(x * x) - mean_x**2
    var_y = blurred(y * y) - mean_y**2
    covariance = blurred(x * y) - mean_x * mean_y
    similarity = ((2 * mean_x * mean_y + _C1) * (2 * covariance + _C2)) / (
        (mean_x**2 + mean_y**2 + _C1) * (var_x + var_y + _C2)
    )
    middles = None if weight_N1HW is None else shaved(weight_N1HW, _WINDOW // 2)
    return _mean(similarity.view(count, channels, *similarity.shape[-2:]), middles)


def _mean(map_NCHW: Tensor, weight_N1HW: Tensor | None) -> Tensor:
    """Mean over a picture's channels and pixels, these weighted."""
    if weight_N1HW is None:
        return map_NCHW.flatten(1).mean(1)
    weight = weight_N1HW.double()
    total = (map_NCHW.mean(1, keepdim=True) * weight).flatten(1).sum(1)
    return total / weight.flatten(1).sum(1)
