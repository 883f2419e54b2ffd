"""Inputs that are made of the targets, within what a published test does to pictures before."""

from collections.abc import Callable

from torch import Tensor

from restore.data.degradation import Degradation
from restore.data.frames import Box, Frame
from restore.errors import UserError
from restore.images.augment import cropped
from restore.types import Sample

Read = Callable[[str], Tensor]


class Degraded:
    """One image's pictures at a time, as a protocol and a degradation make them.

    Args:
        targets, references: uint8 3HW by an image's key.
        degradation: makes the low picture; the same for every method.
        frame: of the protocol; without, targets are cut to multiples of the scale.
        scale: how many times smaller the low picture is.
    """

    def __init__(
        self,
        targets: Read,
        references: Read | None,
        degradation: Degradation,
        frame: Frame | None,
        scale: int,
    ):
        if frame is not None and references is None:
            raise UserError(
                "this protocol frames a target and its reference: give references=FOLDER"
            )
        self._targets, self._references = targets, references
        self.degradation, self.frame, self.scale = degradation, frame, scale
        self._key: str | None = None
        self._sample = Sample(key="")
        self._box: Box = (0, 0, 0, 0)

    def target(self, key: str) -> Tensor:
        """The part of the target that is measured."""
        self._read(key)
        return cropped(self._sample["target"], *self._box)

    def low(self, key: str) -> Tensor:
        """What networks are given."""
        self._read(key)
        if "low" not in self._sample:
            # References are each task's own affair.
            alone = Sample(key=key, target=self._sample["target"])
            self._sample["low"] = self.degradation.worker(alone, self.scale)["low"]
        return self._sample["low"]

    def reference(self, key: str) -> Tensor:
        """What they are given beside."""
        self._read(key)
        reference = self._sample["reference"]
        assert isinstance(reference, Tensor)
        return reference

    def measured(self, key: str, made: Tensor) -> Tensor:
        """The part of a result that is measured."""
        self._read(key)
        return cropped(made, *self._box)

    def _read(self, key: str) -> None:
        if key == self._key:
            return
        sample = Sample(key=key, target=self._targets(key))
        if self._references is not None:
            sample["reference"] = self._references(key)
        if self.frame is not None:
            self._sample, self._box = self.frame(sample)
        else:
            height, width = (
                side // self.scale * self.scale for side in sample["target"].shape[-2:]
            )
            if not height or not width:
                raise UserError(f"the target is smaller than {self.scale} pixels")
            self._box = (0, 0, height, width)
            self._sample = sample
            sample["target"] = cropped(sample["target"], *self._box).contiguous()
        self._key = key
