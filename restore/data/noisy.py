"""Noise on the low pictures of any other degradation.

All the work is done in the loader's worker, whose generator makes every training item a function
of seed and position. In evaluation the noise depends on the sample's key and a seed alone: the
same in every epoch, in every run and for any number of processes. Only low pictures that are made
here get noise; one that a sample brings (a user's photo) is taken as it is. References stay clean.
"""

import zlib
from typing import Annotated, Any, Literal

import numpy as np
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from restore.data.degradation import Degradation
from restore.data.noise import Noise
from restore.images.io import as_float
from restore.types import Sample, map_tensors


class Noisy:
    """Noise before or after the downscaling; what is upsampled is the noisy low picture.

    Args:
        base: makes low pictures of clean ones, and enlarges them.
        noise: a part of `restore.data.noise`.
        place: `after` the downscaling, on the low picture; `before` it, on the target's copy, where
            averaging weakens it.
        clip: cut the noisy values off at black and white, as a camera does.
        seed: of the noise in evaluation.
    """

    def __init__(
        self,
        base: Degradation,
        noise: Noise,
        place: Literal["before", "after"] = "after",
        clip: bool = True,
        seed: Annotated[int, Field(ge=0)] = 1,
    ):
        self.base, self.noise = base, noise
        self.place, self.clip, self.seed = place, clip, seed

    def worker(self, sample: Sample, scale: int, rng: np.random.Generator | None = None) -> Sample:
        """Adds the low pictures; see the module."""
        rng = rng or fixed(sample["key"], self.seed)
        if "low" in sample:
            return _degraded(self.base, sample, scale, rng)
        item = sample.copy()
        if self.place == "before":
            item["target"] = self._noisy(sample["target"], rng)
            item = _degraded(self.base, item, scale, rng)
            item["target"] = sample["target"]
            return item
        item = _degraded(self.base, item, scale, rng)
        item["low"] = self._noisy(item["low"], rng)
        del item["low_up"]
        return _degraded(self.base, item, scale, rng)

    def device(self, batch: dict[str, Any], scale: int) -> dict[str, Any]:
        """Nothing is left to do."""
        return batch

    def _noisy(self, picture: Tensor, rng: np.random.Generator) -> Tensor:
        noisy = self.noise(picture, rng)
        return noisy.clamp(0, 1) if self.clip and noisy.is_floating_point() else noisy


class NoisyApart:
    """Noise on the low picture, and the same noise, enlarged by itself, on the clean `low_up`.

    Nothing is rounded or clipped. So the course project on TTSR trained its experiment 9, with
    torch's bicubic (a = −0.75) for the noise and PIL's for the picture. For validation it drew one
    noise for the first picture of each loading process and stretched it over the others' sizes;
    here each picture has its own.

    Args:
        base: makes low pictures of clean ones, and enlarges them.
        noise: a part of `restore.data.noise`.
        seed: of the noise in evaluation.
    """

    def __init__(self, base: Degradation, noise: Noise, seed: Annotated[int, Field(ge=0)] = 1):
        self.base, self.noise, self.seed = base, noise, seed

    def worker(self, sample: Sample, scale: int, rng: np.random.Generator | None = None) -> Sample:
        """Adds the low pictures; see the module."""
        rng = rng or fixed(sample["key"], self.seed)
        item = _degraded(self.base, sample, scale, rng)
        if "low" in sample:
            return item
        low, low_up = as_float(item["low"]), as_float(item["low_up"])
        noisy = as_float(self.noise(item["low"], rng))
        enlarged = F.interpolate((noisy - low)[None], low_up.shape[-2:], mode="bicubic")[0]
        item["low"], item["low_up"] = noisy, low_up + enlarged
        return item

    def device(self, batch: dict[str, Any], scale: int) -> dict[str, Any]:
        """Nothing is left to do."""
        return batch


def fixed(key: str, seed: int) -> np.random.Generator:
    """A generator that is the same wherever and whenever the sample `key` is evaluated."""
    return np.random.default_rng([zlib.crc32(key.encode()), seed])


def _degraded(base: Degradation, sample: Sample, scale: int, rng: np.random.Generator) -> Sample:
    """What the base adds to one sample, wherever its own place is."""
    item: dict[str, Any] = {**base.worker(sample, scale, rng)}
    batch = {k: map_tensors(lambda x: as_float(x)[None], v) for k, v in item.items()}
    done = base.device(batch, scale)
    item |= {k: map_tensors(lambda x: x[0], v) for k, v in done.items() if k not in item}
    return item  # type: ignore[return-value]
