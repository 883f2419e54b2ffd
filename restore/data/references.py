"""What stands in for a sample's reference, to see how much of a result comes from it.

The kinds are independent of the data set and of the degradation, and the same in every epoch and
for any number of processes:

- `given`: the data set's own.
- `first`, `second`: of the data set's own several, that one alone.
- `brighter`, `darker`: the same half a stop brighter or darker; `tinted`: with a tenth more red
  light and a tenth less blue.
- `black`: a black picture of the target's size.
- `noise`: independent uniform 8-bit values, of the target's size, by the sample's key.
- `other_image`: the target of another sample of the split, half the split further on. Every sample
  has one that is not itself, and neighbours in a folder, which are often alike, are far apart.
- `self`: the sample's own low picture, upsampled: what a reference gives that adds nothing.
- `none`: no reference. A network whose textures are weighted by a score gets the score 0, so that
  nothing is added to its features; others get zeros for textures. Not the same as `black`, whose
  textures are the extractor's answer to a black picture, with a score that is not 0.
"""

import copy
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from restore.config.settings import Reference, StandIn
from restore.data.degradation import DegradingTask
from restore.errors import UserError
from restore.images.io import as_float, to_uint8
from restore.images.light import relit
from restore.types import DrawnSource, Pictures, Sample, Source, Task, map_tensors
from restore.utils.around import Around

_PARTS = ("reference", "reference_low", "reference_low_up")
# Factors of red, green and blue light.
_LIGHTS = {
    "brighter": (2**0.5, 2**0.5, 2**0.5),
    "darker": (2**-0.5, 2**-0.5, 2**-0.5),
    "tinted": (1.1, 1.0, 0.9),
}


def replaced(kind: Reference, source: Source, task: Task) -> tuple[Source, Task]:
    """A split and its task with another kind of reference.

    Args:
        kind: see the module.
        source: the split; it need not have references, but for `given`.
        task: it is not changed.

    Raises:
        UserError: `other_image` of a split that has only one; a task without references.
    """
    if kind == "given":
        return source, task
    if not task.takes_reference:
        raise UserError(
            f"references: '{kind}' has no effect: this task uses no reference "
            "(task=reference_sr does)"
        )
    if kind == "first" or kind == "second":
        return Replaced(source, lambda _, __, sample: _alone(kind, sample)), task
    if kind == "brighter" or kind == "darker" or kind == "tinted":
        return Replaced(source, lambda _, __, sample: _in_light(kind, sample)), task
    if kind == "other_image":
        if len(source) < 2:
            raise UserError("references: other_image needs at least two images in the split")
        return Replaced(source, _other), task
    return Replaced(source, lambda _, index, sample: _of(kind, sample)), changed(kind, task)


def changed(kind: StandIn, task: Task) -> Task:
    """The task as a kind of reference needs it; the one given stays as it is.

    Raises UserError for a kind that works on the degradation, of a task that has none.
    """
    around = {"self": OwnReference, "none": NoReference}.get(kind)
    if around is None:
        return task
    if not isinstance(task, DegradingTask):
        raise UserError(
            f"references: '{kind}' is for tasks with a degradation, and "
            f"{type(task).__name__} has none"
        )
    task = copy.copy(task)
    task.degradation = around(task.degradation)
    return task


def picture(kind: StandIn, key: str, height: int, width: int) -> Tensor:
    """What a sample is given as its reference, uint8 3HW; black where the task makes its own."""
    if kind != "noise":
        return torch.zeros(3, height, width, dtype=torch.uint8)
    rng = np.random.default_rng(zlib.crc32(key.encode()))
    return torch.from_numpy(rng.integers(0, 256, (3, height, width), np.uint8))


class Replaced:
    """A split whose samples have another reference.

    Args:
        source: the split.
        picture: makes the reference, or several, of (source, index, sample).
    """

    def __init__(self, source: Source, picture: Callable[[Source, int, Sample], Pictures]):
        self.source, self.picture = source, picture

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Sample:
        return self._with_another(index, self.source[index])

    def draw(self, index: int, rng: np.random.Generator) -> Sample:
        """A training sample, drawn where the split draws its own."""
        if isinstance(self.source, DrawnSource):
            return self._with_another(index, self.source.draw(index, rng))
        return self[index]

    def _with_another(self, index: int, sample: Sample) -> Sample:
        sample = sample.copy()
        sample.pop("homography", None)
        sample.pop("reference_low", None)
        sample.pop("reference_low_up", None)
        sample["reference"] = self.picture(self.source, index, sample)
        return sample


def _of(kind: StandIn, sample: Sample) -> Tensor:
    height, width = sample["target"].shape[-2:]
    return picture(kind, sample["key"], height, width)


def _alone(kind: str, sample: Sample) -> Tensor:
    place = ["first", "second"].index(kind)
    several = sample.get("reference", [])
    if not isinstance(several, list):
        several = [several]
    if place >= len(several):
        raise UserError(f"{sample['key']} has {len(several)} reference picture(s): no {kind} one")
    return several[place]


def _in_light(kind: str, sample: Sample) -> Pictures:
    if "reference" not in sample:
        raise UserError(f"{sample['key']} has no reference picture that could be {kind}")
    gains = torch.tensor(_LIGHTS[kind])
    return map_tensors(lambda x: to_uint8(relit(as_float(x), gains)), sample["reference"])


def _other(source: Source, index: int, sample: Sample) -> Tensor:
    return source[(index + len(source) // 2) % len(source)]["target"]


class OwnReference(Around):
    """Makes the upsampled low picture the reference, once the base has made it.

    In training that is the crop's own, with the crop's own noise.
    """

    def worker(self, sample: Sample, scale: int, rng: np.random.Generator | None = None) -> Sample:
        """Where the base works here, adds the low pictures and the reference."""
        return _own(sample, lambda pictures: self.inner.worker(pictures, scale, rng))

    def device(self, batch: dict[str, Any], scale: int) -> dict[str, Any]:
        """The same for a base that works on the device."""
        return _own(batch, lambda pictures: self.inner.device(pictures, scale))


def _own(pictures: Any, degraded: Callable[[Any], Any]) -> Any:
    if "reference_low_up" in pictures:  # the worker has done it
        return degraded(pictures)
    item = degraded(_without_reference(pictures))
    return degraded({**item, "reference": item["low_up"]}) if "low_up" in item else item


class NoReference(Around):
    """Leaves the reference away."""

    def worker(self, sample: Sample, scale: int, rng: np.random.Generator | None = None) -> Sample:
        """Adds the low pictures where the base works here."""
        return self.inner.worker(_without_reference(sample), scale, rng)

    def device(self, batch: dict[str, Any], scale: int) -> dict[str, Any]:
        """The same for a base that works on the device."""
        return self.inner.device(_without_reference(batch), scale)


def _without_reference(pictures: Any) -> Any:
    return {name: value for name, value in pictures.items() if name not in _PARTS}
