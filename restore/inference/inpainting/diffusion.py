"""Holes filled from their border inwards: biharmonic, Telea, Navier–Stokes."""

from typing import Annotated

import cv2
import numpy as np
import torch
from pydantic import Field
from skimage.restoration import inpaint_biharmonic
from torch import Tensor

from restore.errors import UserError
from restore.images.io import to_uint8

Radius = Annotated[float, Field(gt=0, le=256)]


class Biharmonic:
    """The smoothest surface through the known pixels (Damelin and Hoang 2018), scikit-image's.

    Each hole is solved by itself, which changes nothing but the time.
    """

    needs_reference = False

    def fill(
        self, picture_3HW: Tensor, hole_HW: Tensor, reference_3HW: Tensor | None = None
    ) -> Tensor:
        """See `Inpainter.fill`."""
        refuse_without_known(hole_HW)
        known = without_hole(picture_3HW, hole_HW)
        filled = inpaint_biharmonic(
            known.permute(1, 2, 0).double().numpy(),
            hole_HW.numpy(),
            split_into_regions=True,
            channel_axis=-1,
        )
        restored = torch.from_numpy(filled).permute(2, 0, 1).float().clamp(0, 1)
        return torch.where(hole_HW, restored, picture_3HW.float())


class _OpenCV:
    needs_reference = False
    flag: int

    def __init__(self, radius: Radius = 3.0):
        self.radius = radius

    def fill(
        self, picture_3HW: Tensor, hole_HW: Tensor, reference_3HW: Tensor | None = None
    ) -> Tensor:
        """See `Inpainter.fill`; computed on 8 bits, as OpenCV does."""
        refuse_without_known(hole_HW)
        known = to_uint8(without_hole(picture_3HW, hole_HW)).permute(1, 2, 0).numpy()
        hole = hole_HW.numpy().astype(np.uint8)
        filled = cv2.inpaint(np.ascontiguousarray(known), hole, self.radius, self.flag)
        restored = torch.from_numpy(filled).permute(2, 0, 1).float() / 255
        return torch.where(hole_HW, restored, picture_3HW.float())


class Telea(_OpenCV):
    """Fast marching (Telea, Journal of Graphics Tools 2004), OpenCV's.

    Args:
        radius: of the neighbourhood of each pixel that is filled, pixels.
    """

    flag = cv2.INPAINT_TELEA


class NavierStokes(_OpenCV):
    """Flow along isophotes (Bertalmío, Bertozzi and Sapiro, CVPR 2001), OpenCV's.

    Args:
        radius: of the neighbourhood of each pixel that is filled, pixels.
    """

    flag = cv2.INPAINT_NS


def without_hole(picture_3HW: Tensor, hole_HW: Tensor) -> Tensor:
    """The picture with zeros in its holes."""
    return picture_3HW.float() * ~hole_HW


def refuse_without_known(hole_HW: Tensor) -> None:
    """Raises UserError when there is no pixel outside the holes."""
    if hole_HW.all():
        raise UserError("the hole covers the whole picture, so there is nothing to fill it from")
