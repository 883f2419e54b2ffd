"""How a high-resolution picture becomes the low one that a network is given.

A degradation adds `low`, `low_up` and, where there is a reference, `reference_low_up`; what a
sample brings of these stays. Each kind works at one of two places, whose other is the identity: in
a loader's worker on 8-bit pictures, or on the device on batches of float pictures in [0, 1].
"""

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from restore.errors import UserError
from restore.images.resize import pil_resize, within
from restore.types import Sample, Task, map_tensors


class Degradation(Protocol):
    """What a task calls."""

    def worker(self, sample: Sample, scale: int, rng: np.random.Generator | None = None) -> Sample:
        """One sample, in the worker.

        `rng` is the source of all random numbers; None in evaluation, which must give the same
        every time.
        """
        ...

    def device(self, batch: dict[str, Any], scale: int) -> dict[str, Any]:
        """A batch of float pictures, on the device."""
        ...


@runtime_checkable
class DegradingTask(Task, Protocol):
    """A task that hands its samples to a degradation, around which another may be put."""

    degradation: Degradation


class PilBicubic:
    """8-bit PIL bicubic ÷scale, then ×scale: what TTSR and its followers trained on."""

    def worker(self, sample: Sample, scale: int, rng: np.random.Generator | None = None) -> Sample:
        """Adds the low pictures; see the module."""
        return _add(sample, scale, pil_resize)  # type: ignore[return-value]

    def device(self, batch: dict[str, Any], scale: int) -> dict[str, Any]:
        """Nothing is left to do."""
        return batch


class Sharp(PilBicubic):
    """`PilBicubic`, but `low_up` is the target itself: what a teacher of matching is shown."""

    def worker(self, sample: Sample, scale: int, rng: np.random.Generator | None = None) -> Sample:
        """Adds the low pictures; see the module."""
        degraded = super().worker(sample, scale, rng)
        if "target" in degraded:
            degraded["low_up"] = degraded["target"]
        return degraded


class TensorBicubic:
    """Bicubic on float tensors: PIL's kernel, not rounded to 8 bits."""

    def worker(self, sample: Sample, scale: int, rng: np.random.Generator | None = None) -> Sample:
        """Nothing is done here."""
        return sample

    def device(self, batch: dict[str, Any], scale: int) -> dict[str, Any]:
        """Adds the low pictures; see the module."""
        return _add(batch, scale, _tensor_resize)


def _add(pictures: Any, scale: int, resize: Callable[[Tensor, int, int], Tensor]) -> dict[str, Any]:
    out = dict(pictures)
    if "low" not in out:
        height, width = out["target"].shape[-2:]
        if height % scale or width % scale:
            raise UserError(
                f"{out['key']}: {width}×{height} pixels do not divide by the scale {scale}"
            )
        out["low"] = resize(out["target"], height // scale, width // scale)
    height, width = out["low"].shape[-2:]
    if "low_up" not in out:
        out["low_up"] = resize(out["low"], height * scale, width * scale)
    if "target" in out and out["target"].shape != out["low_up"].shape:
        raise UserError(
            f"{out['key']}: the low picture ({width}×{height}) times {scale} is not as large as "
            f"the target ({out['target'].shape[-1]}×{out['target'].shape[-2]})"
        )
    return with_low_references(out, scale, resize)


def with_low_references(
    pictures: dict[str, Any], scale: int, resize: Callable[[Tensor, int, int], Tensor]
) -> dict[str, Any]:
    """The pictures with `reference_low` and `reference_low_up`, where there is a reference.

    Args:
        pictures: what there is of these stays.
        scale: how many times smaller the low reference is.
        resize: of a picture, a height and a width.
    """
    if "reference" in pictures and "reference_low" not in pictures:
        low = map_tensors(
            lambda x: resize(x, *(max(1, side // scale) for side in x.shape[-2:])),
            pictures["reference"],
        )
        pictures["reference_low"] = low
    if "reference" in pictures and "reference_low_up" not in pictures:
        references, lows = pictures["reference"], pictures["reference_low"]
        if isinstance(references, list):
            up = [resize(x, *r.shape[-2:]) for x, r in zip(lows, references, strict=True)]
            pictures["reference_low_up"] = up
        else:
            pictures["reference_low_up"] = resize(lows, *references.shape[-2:])
    return pictures


def _tensor_resize(picture_NCHW: Tensor, height: int, width: int) -> Tensor:
    if width == 1 < height:  # torch 2.15 gets a result of one column wrong, of one row right
        return _tensor_resize(picture_NCHW.mT, width, height).mT
    # Without antialias torch has another cubic (a = -0.75, not -0.5) than PIL and MATLAB.
    resized = F.interpolate(picture_NCHW, (height, width), mode="bicubic", antialias=True)
    return within(resized, picture_NCHW)
