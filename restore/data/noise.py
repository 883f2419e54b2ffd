"""Kinds of noise on one picture, each drawn from a generator so that it can be repeated.

Pictures are CHW, uint8 or float with 1 as white; strengths are in these units, so σ = 25/255 where
a paper's σ is 25 of 255 levels, and half of its σ where its pictures lie in [-1, 1]. Nothing is
clipped here, but for JPEG, which knows 8 bits only. A strength is one number, or two: then each
picture draws its own between them, uniformly.
"""

import io
from typing import Annotated, Protocol

import numpy as np
import torch
from PIL import Image
from pydantic import Field
from torch import Tensor

from restore.errors import UserError
from restore.images.io import as_float, to_uint8

Sigma = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Peak = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Quality = Annotated[int, Field(ge=1, le=100)]


class Noise(Protocol):
    """What a degradation calls."""

    def __call__(self, picture_CHW: Tensor, rng: np.random.Generator) -> Tensor:
        """The picture with its noise: float, perhaps beyond [0, 1], or uint8."""
        ...


class Gaussian:
    """x + σ·n with n standard normal, for each pixel and channel on its own.

    Args:
        sigma: σ, or the two ends of its range.
    """

    def __init__(self, sigma: Sigma | tuple[Sigma, Sigma]):
        self.sigma = _ends("sigma", sigma)

    def __call__(self, picture_CHW: Tensor, rng: np.random.Generator) -> Tensor:
        x = as_float(picture_CHW)
        return x + _uniform(self.sigma, rng) * _normal(x, rng)


class Speckle:
    """x·(1 + σ·n) with n standard normal: the variance σ²x² grows with the signal's square.

    Args:
        sigma: σ, or the two ends of its range.
    """

    def __init__(self, sigma: Sigma | tuple[Sigma, Sigma]):
        self.sigma = _ends("sigma", sigma)

    def __call__(self, picture_CHW: Tensor, rng: np.random.Generator) -> Tensor:
        x = as_float(picture_CHW)
        return x * (1 + _uniform(self.sigma, rng) * _normal(x, rng))


class Poisson:
    """Photons counted, k / peak with k ~ Poisson(x·peak): mean x, variance x / peak.

    Args:
        peak: photons that white sends to a pixel, or the two ends of their range. Values below
            black send none.
    """

    def __init__(self, peak: Peak | tuple[Peak, Peak]):
        self.peak = _ends("peak", peak)

    def __call__(self, picture_CHW: Tensor, rng: np.random.Generator) -> Tensor:
        peak = _uniform(self.peak, rng)
        rate = as_float(picture_CHW).clamp_min(0).double().numpy() * peak
        return torch.from_numpy((rng.poisson(rate) / peak).astype(np.float32))


class Jpeg:
    """Written as JPEG and read again, with PIL's own tables and chroma at half the sides.

    Args:
        quality: 1 (coarse) to 100, or the two ends of its range, both included.
    """

    def __init__(self, quality: Quality | tuple[Quality, Quality]):
        self.quality = _ends("quality", quality)

    def __call__(self, picture_CHW: Tensor, rng: np.random.Generator) -> Tensor:
        low, high = self.quality
        quality = low if low == high else int(rng.integers(low, high + 1))
        array = to_uint8(as_float(picture_CHW)).permute(1, 2, 0).contiguous().numpy()
        file = io.BytesIO()
        Image.fromarray(array).save(file, "JPEG", quality=quality)
        return (
            torch.from_numpy(np.array(Image.open(file, formats=["JPEG"])))
            .permute(2, 0, 1)
            .contiguous()
        )


def _ends(name: str, strength: float | tuple[float, float]) -> tuple:
    low, high = strength if isinstance(strength, tuple | list) else (strength, strength)
    if low > high:
        raise UserError(f"noise.{name}=[{low}, {high}]: the smaller end must come first")
    return low, high


def _uniform(ends: tuple[float, float], rng: np.random.Generator) -> float:
    return ends[0] if ends[0] == ends[1] else float(rng.uniform(*ends))


def _normal(like: Tensor, rng: np.random.Generator) -> Tensor:
    return torch.from_numpy(rng.standard_normal(like.shape, dtype=np.float32))
