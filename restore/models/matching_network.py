"""A network that finds in a sharp reference what a low picture shows, trained to do just that.

Contrastive correspondence (C2-Matching, Jiang et al., CVPR 2021, section 3.2) with the gap in
resolution learned rather than bridged by enlarging the low picture or blurring the reference: each
of the two has layers of its own before those that they share. Where theirs is VGG16's beginning,
with a receptive field of 40 pixels, dilated convolutions see 300, at a third of VGG19's operations.
"""

from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn


class DilatedBlock(nn.Module):
    """x + conv(relu(conv(relu(x)))), both convolutions dilated; it begins as the identity.

    Args:
        channels: of input and output.
        dilation: distance of a convolution's taps.
    """

    def __init__(self, channels: int, dilation: int):
        super().__init__()
        layers = [
            nn.Conv2d(channels, channels, 3, padding=dilation, dilation=dilation) for _ in range(2)
        ]
        self.first, self.second = layers
        nn.init.zeros_(self.second.weight)
        assert self.second.bias is not None
        nn.init.zeros_(self.second.bias)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(F.relu(self.first(F.relu(x))))


class MatchingNetwork(nn.Module):
    """Unit vectors for each pixel of a low picture and each 4×4 pixels of a sharp one.

    Where both show the same, the vectors are alike.

    Args:
        channels: of the vectors and the layers before them.
        dilations: of the shared blocks, in order.
    """

    scale = 4

    def __init__(
        self,
        channels: Annotated[int, Field(ge=8)] = 64,
        dilations: Annotated[list[Annotated[int, Field(ge=1)]], Field(min_length=1)] | None = None,
    ):
        super().__init__()
        self.channels = channels
        self.low = nn.Sequential(
            nn.Conv2d(3, channels, 5, padding=2),
            DilatedBlock(channels, 1),
            DilatedBlock(channels, 1),
        )
        self.sharp = nn.Sequential(
            nn.Conv2d(3, channels // 2, 4, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(channels // 2, channels, 4, stride=2, padding=1),
            DilatedBlock(channels, 1),
            DilatedBlock(channels, 1),
        )
        shared = [1, 2, 4, 1, 2, 4] if dilations is None else dilations
        self.shared = nn.Sequential(*(DilatedBlock(channels, d) for d in shared))
        self.last = nn.Sequential(nn.ReLU(), nn.Conv2d(channels, channels, 1))
        # How far, in low pixels, one is felt: 5×5, then two dilated 3×3 a block.
        self.reach = 2 + 2 * (1 + 1) + 2 * sum(shared)
        # How sharply likeness is told apart: the inverse of the softmax's temperature.
        self.log_sharpness = nn.Parameter(torch.tensor(3.0))

    @property
    def sharpness(self) -> Tensor:
        """The inverse of the temperature at which likeness is told apart."""
        return self.log_sharpness.exp()

    def query(self, low: Tensor, low_up: Tensor | None = None) -> Tensor:
        """Unit vectors N, channels, H, W of a low picture N3HW in [0, 1]."""
        return self._vectors(self.low(low - 0.5))

    def key(self, reference: Tensor) -> Tensor:
        """The same of a sharp picture N3(4H)(4W) in [0, 1]."""
        return self._vectors(self.sharp(reference - 0.5))

    def _vectors(self, x: Tensor) -> Tensor:
        return F.normalize(self.last(self.shared(x)).float(), dim=1)
