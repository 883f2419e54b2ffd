"""The critic of C2-Matching and DATSR."""

import torch
from torch import Tensor, nn

from restore.models.batch_norm import BatchNorm

_CHANNELS = (32, 64, 128, 256, 512)


class C2MatchingDiscriminator(nn.Module):
    """Ten 3×3 convolutions with batch normalisation, every second halving, then a global mean.

    Jiang et al., CVPR 2021, as published but for its last layer: this gives logits. Any size.
    """

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        inputs = 3
        for channels in _CHANNELS:
            for stride in (1, 2):
                layers += [
                    nn.Conv2d(inputs, channels, 3, stride, padding=1),
                    BatchNorm(channels),
                    nn.LeakyReLU(0.2),
                ]
                inputs = channels
        self.convs = nn.Sequential(*layers)
        self.judge = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(inputs, 1024, 1),
            nn.LeakyReLU(0.2),
            nn.Conv2d(1024, 1, 1),
            nn.Flatten(),
        )

    def forward(self, image: Tensor) -> Tensor:
        """Logits N×1."""
        return self.judge(self.convs(image))


class SquashedDiscriminator(C2MatchingDiscriminator):
    """The same through a sigmoid, as published: then a Wasserstein critic tells at most 1."""

    def forward(self, image: Tensor) -> Tensor:
        """Values N×1 in (0, 1)."""
        return torch.sigmoid(super().forward(image))
