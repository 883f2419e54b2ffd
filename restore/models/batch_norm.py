"""Batch normalisation that knows nothing of how a batch is shared out."""

import torch
from torch import Tensor, nn

from restore.utils import distributed


class BatchNorm(nn.BatchNorm2d):
    """`nn.BatchNorm2d` whose batch is that of all processes together, on any device.

    Unlike torch's `SyncBatchNorm` it runs on the CPU and has a second derivative, which penalties
    on a critic's gradient need. Every process must hold as many pictures.
    """

    def forward(self, x_NCHW: Tensor) -> Tensor:
        if distributed.world() == 1 or not self.training:
            return super().forward(x_NCHW)
        x = x_NCHW.to(torch.promote_types(x_NCHW.dtype, torch.float32))
        mean_C = distributed.mean(x.mean((0, 2, 3)))
        centred = x - mean_C.view(1, -1, 1, 1)
        variance_C = distributed.mean(centred.square().mean((0, 2, 3)))
        self._remember(mean_C, variance_C, x.numel() // x.shape[1] * distributed.world())
        scale_C = self.weight * (variance_C + self.eps).rsqrt()
        y = centred * scale_C.view(1, -1, 1, 1) + self.bias.view(1, -1, 1, 1)
        return y.to(x_NCHW.dtype)

    @torch.no_grad()
    def _remember(self, mean_C: Tensor, variance_C: Tensor, count: int) -> None:
        """The running averages, of the unbiased variance, as torch keeps them."""
        assert self.momentum is not None
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        self.running_mean.lerp_(mean_C, self.momentum)
        self.running_var.lerp_(variance_C * count / max(1, count - 1), self.momentum)
        self.num_batches_tracked += 1
