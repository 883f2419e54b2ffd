"""Named protocols: what a paper's PSNR and SSIM were computed on."""

import math
from typing import Annotated, Literal

from pydantic import Field
from torch import Tensor

from restore.metrics.functional import Channel, planes, psnr, rounded, shaved, ssim


class Protocol:
    """PSNR and SSIM of one channel, inside one border, after rounding to 8 bits.

    Values are per image; a data set's value is their mean. The names of the values carry channel
    and border: `psnr_y_s4` is luma with 4 pixels shaved, `psnr_rgb` all channels of whole pictures.

    Args:
        name: printed with every number.
        channel: see `functional.planes`.
        shave: pixels left out at each side; `scale` for as many as the enlargement, rounded up;
            `scale+6` for six more, as EDSR measures DIV2K.
    """

    def __init__(
        self,
        name: str,
        channel: Channel,
        shave: Annotated[int, Field(ge=0)] | Literal["scale", "scale+6"] = 0,
    ):
        self.name, self.channel, self.shave = name, channel, shave

    def border(self, scale: float) -> int:
        """Pixels left out at each side of a picture enlarged by `scale`."""
        if isinstance(self.shave, int):
            return self.shave
        return math.ceil(scale) + (6 if self.shave == "scale+6" else 0)

    def measure(
        self,
        restored: Tensor,
        target: Tensor,
        scale: float,
        weight: Tensor | None = None,
        grey: bool = False,
    ) -> list[dict[str, float]]:
        """The values of each picture of a batch, NCHW in [0, 1].

        `weight` (N1HW, ≥ 0) says how much each pixel counts, and so the SSIM window around it;
        None: equally. `grey` says that the targets come from files of one channel: luma is then
        that channel as it is, not what MATLAB makes of a grey picture stored as RGB, and the
        restored picture's mean over its channels. PSNR of equal pictures is infinite; what cannot
        be measured is NaN.
        """
        assert restored.shape == target.shape, (restored.shape, target.shape)
        border = self.border(scale)
        if grey and self.channel != "rgb":
            restored, target = (z.mean(1, keepdim=True) for z in (restored, target))
        x, y = (shaved(planes(rounded(z), self.channel), border) for z in (restored, target))
        within = None if weight is None else shaved(weight, border)
        name = f"{self.channel}_s{border}" if border else self.channel
        pairs = zip(psnr(x, y, within).tolist(), ssim(x, y, within).tolist())
        return [{f"psnr_{name}": p, f"ssim_{name}": s} for p, s in pairs]
