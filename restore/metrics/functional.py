"""PSNR and SSIM of pictures in [0, 1], image by image, in float64."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from restore.errors import UserError

Channel = Literal["rgb", "y", "y8", "y_ttsr"]

# Luma of R, G, B in [0, 1] on a scale to 255, without the offset of 16.
_MATLAB = (65.481, 128.553, 24.966)
_TTSR = (65.738 * 255 / 256, 129.057 * 255 / 256, 25.064 * 255 / 256)

_WINDOW, _SIGMA = 11, 1.5
_C1, _C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2


def rounded(image: Tensor) -> Tensor:
    """The picture as 8 bits would hold it, still in [0, 1]."""
    return (image.clamp(0, 1) * 255).round() / 255


def planes(image_NCHW: Tensor, channel: Channel) -> Tensor:
    """What is compared of a picture in [0, 1]: N, 1 or 3, H, W on a scale to 255, float64.

    `rgb`; `y` MATLAB's luma; `y8` that rounded to whole numbers, as 8-bit `rgb2ycbcr` returns it;
    `y_ttsr` the luma of TTSR's published evaluation. A grey picture (one channel) is its own luma.
    """
    image = image_NCHW.double()
    if channel == "rgb" or image.shape[1] == 1:
        return image * 255
    weights = image.new_tensor(_TTSR if channel == "y_ttsr" else _MATLAB)
    luma = (image * weights.view(1, 3, 1, 1)).sum(1, keepdim=True) + 16
    return luma.round() if channel == "y8" else luma


def shaved(x: Tensor, border: int) -> Tensor:
    """Without `border` pixels at each side. Raises UserError when nothing would be left."""
    height, width = x.shape[-2:]
    if min(height, width) <= 2 * border:
        raise UserError(
            f"a picture of {width}×{height} pixels has nothing left inside a border of {border}"
        )
    return x[..., border : height - border, border : width - border]


def psnr(x: Tensor, y: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB of each picture; infinite for equal ones.

    Args:
        x, y: N, C, H, W on a scale to 255.
    """
    error = (x.double() - y.double()).square().flatten(1).mean(1)
    return 10 * torch.log10(255**2 / error)


def ssim(x: Tensor, y: Tensor) -> Tensor:
    """Structural similarity of each picture, mean over channels (Wang et al. 2004).

    A Gaussian window of 11×11, σ 1.5, only where it fits wholly inside.

    Args:
        x, y: N, C, H, W on a scale to 255.

    Raises:
        UserError: smaller than the window.
    """
    height, width = x.shape[-2:]
    if min(height, width) < _WINDOW:
        raise UserError(
            f"SSIM needs pictures of at least {_WINDOW} pixels a side, not {width}×{height}"
        )
    count, channels = x.shape[:2]
    x, y = (z.double().reshape(count * channels, 1, height, width) for z in (x, y))
    at = torch.arange(_WINDOW, dtype=torch.float64, device=x.device) - _WINDOW // 2
    line = torch.exp(-(at**2) / (2 * _SIGMA**2))
    line = line / line.sum()

    def mean(z: Tensor) -> Tensor:
        return F.conv2d(F.conv2d(z, line.view(1, 1, -1, 1)), line.view(1, 1, 1, -1))

    mean_x, mean_y = mean(x), mean(y)
    var_x = mean(x * x) - mean_x**2
    var_y = mean(y * y) - mean_y**2
    covariance = mean(x * y) - mean_x * mean_y
    similarity = ((2 * mean_x * mean_y + _C1) * (2 * covariance + _C2)) / (
        (mean_x**2 + mean_y**2 + _C1) * (var_x + var_y + _C2)
    )
    return similarity.flatten(1).mean(1).view(count, channels).mean(1)
