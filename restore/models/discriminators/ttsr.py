"""The critic of TTSR (Yang et al., CVPR 2020), as its published code has it."""

from typing import Annotated

from pydantic import Field
from torch import Tensor, nn

from restore.errors import UserError

_CHANNELS = (32, 64, 128, 256, 512)


class TTSRDiscriminator(nn.Module):
    """Ten 3×3 convolutions, every second halving the picture, and two linear layers.

    Args:
        size: side of the training crops, which the first linear layer is made for (TTSR: 160).
    """

    def __init__(self, size: Annotated[int, Field(ge=1)]):
        super().__init__()
        self.size = size
        layers: list[nn.Module] = []
        inputs = 3
        for channels in _CHANNELS:
            layers += [nn.Conv2d(inputs, channels, 3, padding=1), nn.LeakyReLU(0.2)]
            layers += [nn.Conv2d(channels, channels, 3, stride=2, padding=1), nn.LeakyReLU(0.2)]
            inputs = channels
        self.convs = nn.Sequential(*layers)
        left = -(-size // 2 ** len(_CHANNELS))  # each halving rounds up
        self.judge = nn.Sequential(
            nn.Flatten(), nn.Linear(inputs * left**2, 1024), nn.LeakyReLU(0.2), nn.Linear(1024, 1)
        )

    def check_size(self, height: int, width: int) -> None:
        """Raises UserError for pictures of another size."""
        if (height, width) != (self.size, self.size):
            raise UserError(
                f"discriminator=ttsr is made for pictures of {self.size}×{self.size}, not "
                f"{width}×{height}: set its size, or take discriminator=srgan or unet, which take "
                "any"
            )

    def forward(self, image: Tensor) -> Tensor:
        """Logits N×1. Raises UserError for pictures of another size."""
        self.check_size(*image.shape[-2:])
        return self.judge(self.convs(image * 2 - 1).contiguous())
