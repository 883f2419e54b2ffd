"""A critic for each pixel: the U-Net with spectral normalisation of Real-ESRGAN."""

from itertools import pairwise
from typing import Annotated

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from restore.errors import UserError


def _normed(inputs: int, outputs: int, kernel: int = 3, stride: int = 1) -> nn.Module:
    return spectral_norm(nn.Conv2d(inputs, outputs, kernel, stride, padding=1, bias=False))


class UNetDiscriminator(nn.Module):
    """Three halvings, three doublings with what was there at each size added, a logit a pixel.

    Wang, Xie, Dong, Shan: "Real-ESRGAN: Training Real-World Blind Super-Resolution with Pure
    Synthetic Data", ICCV-W 2021, section 3.3; spectral normalisation after Miyato et al., ICLR
    2018. Takes any size from 8 pixels a side.

    Args:
        features: channels of the first layer.
    """

    def __init__(self, features: Annotated[int, Field(ge=1)] = 64):
        super().__init__()
        widths = [features * 2**i for i in range(4)]
        self.head = nn.Conv2d(3, features, 3, padding=1)
        self.down = nn.ModuleList(_normed(a, b, 4, 2) for a, b in pairwise(widths))
        self.up = nn.ModuleList(_normed(b, a) for a, b in reversed([*pairwise(widths)]))
        self.tail = nn.ModuleList(_normed(features, features) for _ in range(2))
        self.judge = nn.Conv2d(features, 1, 3, padding=1)

    def check_size(self, height: int, width: int) -> None:
        """Raises UserError for pictures that halving leaves nothing of."""
        if min(height, width) < 2 ** len(self.down):
            raise UserError(
                f"discriminator=unet needs pictures of at least {2 ** len(self.down)} pixels a "
                f"side, not {width}×{height}: make task.crop larger"
            )

    def forward(self, image: Tensor) -> Tensor:
        """Logits N1HW. Raises UserError for pictures that are too small."""
        self.check_size(*image.shape[-2:])
        x = F.leaky_relu(self.head(image), 0.2)
        kept = []
        for layer in self.down:
            kept.append(x)
            x = F.leaky_relu(layer(x), 0.2)
        for layer in self.up:
            before = kept.pop()
            x = F.interpolate(x, before.shape[-2:], mode="bilinear")
            x = F.leaky_relu(layer(x), 0.2) + before
        for layer in self.tail:
            x = F.leaky_relu(layer(x), 0.2)
        return self.judge(x)
