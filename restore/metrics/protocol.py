"""Named protocols: on which pixels and values a paper's PSNR and SSIM were computed."""

import math
from typing import Annotated, Literal

from pydantic import Field
from torch import Tensor

from restore.data.frames import Frame
from restore.metrics.functional import Channel, planes, rounded, shaved


class MeasurementProtocol:
    """One channel, inside one border, after rounding to 8 bits.

    The names of values carry channel and border: `psnr_y_s4` is luma with 4 pixels shaved,
    `psnr_rgb` all channels of whole pictures.

    Args:
        name: printed with every number.
        channel: see `functional.planes`.
        shave: pixels left out at each side; `scale` for as many as the enlargement, rounded up;
            `scale+6` for six more, as EDSR measures DIV2K.
        frame: what is done to target and reference before the low picture is made
            (`restore.data.frames`); None: nothing.
    """

    def __init__(
        self,
        name: str,
        channel: Channel,
        shave: Annotated[int, Field(ge=0)] | Literal["scale", "scale+6"] = 0,
        frame: Frame | None = None,
    ):
        self.frame = frame
        self.name, self.channel, self.shave = name, channel, shave

    def border(self, scale: float) -> int:
        """Pixels left out at each side of a picture enlarged by `scale`."""
        if isinstance(self.shave, int):
            return self.shave
        return math.ceil(scale) + (6 if self.shave == "scale+6" else 0)

    def label(self, scale: float) -> str:
        """Channel and border, for the names of values."""
        border = self.border(scale)
        return f"{self.channel}_s{border}" if border else self.channel

    def planes(
        self, restored_NCHW: Tensor, target_NCHW: Tensor, scale: float, grey: bool = False
    ) -> tuple[Tensor, Tensor]:
        """What is compared of two pictures in [0, 1], on a scale to 255, float64.

        `grey` says that the targets come from files of one channel: luma is then that channel as it
        is, not what MATLAB makes of a grey picture stored as RGB, and the restored picture's mean
        over its channels.
        """
        assert restored_NCHW.shape == target_NCHW.shape, (restored_NCHW.shape, target_NCHW.shape)
        pictures = [restored_NCHW, target_NCHW]
        if grey and self.channel != "rgb":
            pictures = [picture.mean(1, keepdim=True) for picture in pictures]
        x, y = (
            shaved(planes(rounded(picture), self.channel), self.border(scale))
            for picture in pictures
        )
        return x, y
