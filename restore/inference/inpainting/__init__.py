"""Filling holes without training: what a learned model must beat in the same table."""

from typing import Protocol

from torch import Tensor


class Inpainter(Protocol):
    """A method that fills holes of one picture at a time."""

    needs_reference: bool

    def fill(self, picture_3HW: Tensor, hole_HW: Tensor, reference_3HW: Tensor | None) -> Tensor:
        """The picture with its holes filled and every other pixel as it was.

        Args:
            picture_3HW: float in [0, 1]; what stands inside the holes is never looked at.
            hole_HW: bool, true inside the holes.
            reference_3HW: another picture, of any size, for methods that need one.

        Returns:
            3HW float in [0, 1].

        Raises:
            UserError: the hole covers the whole picture, so that there is nothing to go by.
        """
        ...
