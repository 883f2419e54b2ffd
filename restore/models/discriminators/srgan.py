"""The critic of SRGAN (Ledig et al., CVPR 2017, figure 4)."""

from typing import Annotated

from pydantic import Field
from torch import Tensor, nn

from restore.models.batch_norm import BatchNorm


class SRGANDiscriminator(nn.Module):
    """Eight 3×3 convolutions with batch normalisation, every second halving the picture.

    The paper's crops of 96 leave 6×6 positions for the linear layers; from other sizes, 6×6 are
    averaged, so that the same network takes any.

    Args:
        features: channels of the first layers, doubled at each halving (SRGAN: 64).
    """

    def __init__(self, features: Annotated[int, Field(ge=1)] = 64):
        super().__init__()
        layers: list[nn.Module] = []
        inputs = 3
        for channels in (features, features * 2, features * 4, features * 8):
            for stride in (1, 2):
                first = not layers
                layers.append(nn.Conv2d(inputs, channels, 3, stride, padding=1, bias=first))
                layers += [] if first else [BatchNorm(channels)]
                layers.append(nn.LeakyReLU(0.2))
                inputs = channels
        self.convs = nn.Sequential(*layers)
        self.judge = nn.Sequential(
            nn.AdaptiveAvgPool2d(6),
            nn.Flatten(),
            nn.Linear(inputs * 6**2, 1024),
            nn.LeakyReLU(0.2),
            nn.Linear(1024, 1),
        )

    def forward(self, image: Tensor) -> Tensor:
        """Logits N×1."""
        return self.judge(self.convs(image * 2 - 1))
