"""What published tests of networks with a reference do to pictures before they are made small.

A network's low picture is made of the padded or cropped target, so that near the border it is not
what it would be of the target as it is. The padding is taken off again before anything is measured.
"""

import copy
from dataclasses import replace
from typing import Annotated, Any, Protocol

import torch
from pydantic import Field
from torch import Tensor

from restore.errors import UserError
from restore.images.augment import cropped
from restore.types import Problem, Restoration, Sample, Task, map_tensors
from restore.utils.around import Around

Multiple = Annotated[int, Field(ge=1)]

# Top, left, height and width of the part of a framed target that is measured.
Box = tuple[int, int, int, int]


class Frame(Protocol):
    """Changes a sample's target and references, and tells which part of the target is measured."""

    def __call__(self, sample: Sample) -> tuple[Sample, Box]: ...


class Padded:
    """Target and references continued by their last pixels to multiples, as MASA-SR's test does.

    Args:
        target: the target's sides become multiples of this, it stays in the middle (of an odd
            number of pixels one more is added below and right).
        reference: each reference's sides, continued below and right.
        canvas: side of a square in the middle of which each reference is continued first; several
            are then one, one below the other (MASA-SR's five: 2560×512). None: not done.
    """

    def __init__(
        self, target: Multiple = 32, reference: Multiple = 16, canvas: Multiple | None = None
    ):
        self.target, self.reference, self.canvas = target, reference, canvas

    def __call__(self, sample: Sample) -> tuple[Sample, Box]:
        out = sample.copy()
        height, width = sample["target"].shape[-2:]
        top, left = (-side % self.target // 2 for side in (height, width))
        out["target"] = continued(sample["target"], self.target, (top, left))
        reference = sample["reference"]
        if self.canvas is not None:
            several = reference if isinstance(reference, list) else [reference]
            reference = torch.cat([self._on_canvas(x, sample["key"]) for x in several], dim=-2)
        out["reference"] = map_tensors(lambda x: continued(x, self.reference), reference)
        return out, (top, left, height, width)

    def _on_canvas(self, picture: Tensor, key: str) -> Tensor:
        assert self.canvas is not None
        height, width = picture.shape[-2:]
        if max(height, width) > self.canvas:
            raise UserError(
                f"{key}: a reference of {width}×{height} pixels is larger than the protocol's "
                f"canvas of {self.canvas}"
            )
        before = (self.canvas - height) // 2, (self.canvas - width) // 2
        return continued(picture, self.canvas, before)


class Cropped:
    """Target and references cut to multiples, then all made as large by zeros below and right.

    So C2-Matching's test (4) and DATSR's (32) do it; what is cut off is not measured.

    Args:
        multiple: of the sides.
    """

    def __init__(self, multiple: Multiple = 4):
        self.multiple = multiple

    def __call__(self, sample: Sample) -> tuple[Sample, Box]:
        out = sample.copy()
        target = self._cut(sample["target"], sample["key"])
        reference = map_tensors(lambda x: self._cut(x, sample["key"]), sample["reference"])
        pictures = [target, *(reference if isinstance(reference, list) else [reference])]
        high, wide = (max(picture.shape[axis] for picture in pictures) for axis in (-2, -1))
        out["target"] = _with_zeros(target, high, wide)
        out["reference"] = map_tensors(lambda x: _with_zeros(x, high, wide), reference)
        return out, (0, 0, target.shape[-2], target.shape[-1])

    def _cut(self, picture: Tensor, key: str) -> Tensor:
        height, width = (side // self.multiple * self.multiple for side in picture.shape[-2:])
        if not height or not width:
            raise UserError(
                f"{key}: a picture is smaller than {self.multiple} pixels, to multiples of which "
                "the protocol cuts it"
            )
        return cropped(picture, 0, 0, height, width)


class Continued(Around):
    """A task whose evaluation hands over references with sides that the network takes.

    Args:
        task: it is not changed.
        multiple: references are continued below and right, by their last pixels, to sides that
            divide by it.
    """

    def __init__(self, task: Task, multiple: Multiple):
        super().__init__(task)
        self.multiple = multiple

    def eval_item(self, sample: Sample) -> Sample:
        """The inner task's of the sample with its references continued."""
        if "reference" in sample:
            sample = sample.copy()
            reference = sample["reference"]
            sample["reference"] = map_tensors(lambda x: continued(x, self.multiple), reference)
        return self.inner.eval_item(sample)


class Framed(Around):
    """A task whose evaluation works within a frame.

    Args:
        task: it is not changed.
        frame: see `Frame`.
    """

    def __init__(self, task: Task, frame: Frame):
        super().__init__(task)
        self.frame = frame

    def eval_item(self, sample: Sample) -> Sample:
        """The inner task's of the framed sample, with the `box` that is measured."""
        if "target" not in sample or "reference" not in sample:
            raise UserError(
                f"{sample['key']}: this protocol frames a target and its reference, and one of "
                "them is missing"
            )
        if "low" in sample:
            raise UserError(
                f"{sample['key']}: this protocol makes the low picture of the framed target, and "
                "the data bring one of their own"
            )
        framed, box = self.frame(sample)
        framed.pop("homography", None)
        item: Any = self.inner.eval_item(framed)
        item["box"] = torch.tensor(box)
        return item

    def prepare(self, batch: dict[str, Any], generator: torch.Generator | None = None) -> Problem:
        """The inner task's, its target without the frame."""
        inner = copy.copy(batch)
        top, left, height, width = inner.pop("box")[0].tolist()
        problem = self.inner.prepare(inner, generator)
        box = (top, left, height, width)
        target = None if problem.target is None else cropped(problem.target, *box)
        return replace(problem, target=target, box=box)

    def postprocess(self, restored: Restoration, problem: Problem) -> Restoration:
        """The inner task's, its picture without the frame."""
        restored = self.inner.postprocess(restored, problem)
        assert problem.box is not None
        return replace(restored, image=cropped(restored.image, *problem.box))

    def baseline(self, problem: Problem) -> tuple[str, Tensor]:
        """The inner task's, without the frame."""
        name, picture = self.inner.baseline(problem)
        assert problem.box is not None
        return name, cropped(picture, *problem.box)


def framed(task: Task, frame: Frame | None, multiple: int | None) -> Task:
    """The task as a protocol and a network want it evaluated, where it hands over references.

    Args:
        task: it is not changed.
        frame: the protocol's, if it has one.
        multiple: the network's `Backbone.reference_multiple`.
    """
    if not task.takes_reference:
        return task
    if multiple is not None:
        task = Continued(task, multiple)
    return task if frame is None else Framed(task, frame)


def continued(picture: Tensor, multiple: int, before: tuple[int, int] = (0, 0)) -> Tensor:
    """The picture, its last pixels repeated until its sides divide by a number.

    `before` of the new pixels come above and left, the others below and right.
    """
    for axis, first in zip((-2, -1), before):
        side = picture.shape[axis]
        places = torch.arange(side + -side % multiple) - first
        picture = picture.index_select(axis, places.clamp(0, side - 1))
    return picture


def _with_zeros(picture: Tensor, height: int, width: int) -> Tensor:
    out = picture.new_zeros(picture.shape[0], height, width)
    out[:, : picture.shape[-2], : picture.shape[-1]] = picture
    return out
