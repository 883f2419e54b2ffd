"""PSNR and SSIM by a protocol, as metrics of torchmetrics' kind."""

import torch
from torch import Tensor
from torchmetrics import Metric

from restore.metrics import functional
from restore.metrics.functional import shaved
from restore.metrics.protocol import MeasurementProtocol


class _ByProtocol(Metric):
    """Mean over pictures of a value that each has; pictures without one (NaN) are left out.

    Args:
        protocol: which channel, border and rounding; None: all channels of whole pictures.
    """

    higher_is_better = True
    is_differentiable = False
    full_state_update = False
    total: Tensor
    count: Tensor

    def __init__(self, protocol: MeasurementProtocol | None = None):
        super().__init__()
        self.protocol = protocol or MeasurementProtocol("rgb", "rgb")
        self.add_state("total", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")
        self.set_dtype(torch.float64)

    def label(self, scale: float) -> str:
        """What the name of its values carries behind the metric's own."""
        return self.protocol.label(scale)

    def each(self, x: Tensor, y: Tensor, weight_N1HW: Tensor | None) -> Tensor:
        """The value of each picture, NaN where it has none."""
        raise NotImplementedError

    def update(
        self,
        preds: Tensor,
        target: Tensor,
        scale: float = 1,
        weight: Tensor | None = None,
        grey: bool = False,
    ) -> None:
        """Takes pictures, NCHW in [0, 1].

        Args:
            preds: the restored pictures.
            target: what they should be.
            scale: of the enlargement, for borders that depend on it.
            weight: N1HW, ≥ 0, how much each pixel counts; None: equally.
            grey: see `MeasurementProtocol.planes`.
        """
        x, y = self.protocol.planes(preds, target, scale, grey)
        within = None if weight is None else shaved(weight, self.protocol.border(scale))
        values = self.each(x, y, within)
        known = values[~values.isnan()]
        self.total += known.sum()
        self.count += known.numel()

    def compute(self) -> Tensor:
        """The mean over pictures, NaN where none has a value."""
        return self.total / self.count


class PSNR(_ByProtocol):
    """Peak signal-to-noise ratio in dB, mean over pictures; infinite where two are equal."""

    def each(self, x: Tensor, y: Tensor, weight_N1HW: Tensor | None) -> Tensor:
        """See `functional.psnr`."""
        return functional.psnr(x, y, weight_N1HW)


class SSIM(_ByProtocol):
    """Structural similarity (Wang et al. 2004), mean over pictures.

    A picture smaller than the window of 11×11 has none.
    """

    def each(self, x: Tensor, y: Tensor, weight_N1HW: Tensor | None) -> Tensor:
        """See `functional.ssim`."""
        return functional.ssim(x, y, weight_N1HW)
