"""The critic of MASA-SR."""

from typing import Annotated

from pydantic import Field
from torch import Tensor, nn

from restore.errors import UserError
from restore.models.batch_norm import BatchNorm

_CHANNELS = (64, 128, 256, 512, 512)


class MASADiscriminator(nn.Module):
    """VGG's kind: a 3×3 convolution and a halving 4×4 one at each of five sizes, two linear layers.

    Lu et al., CVPR 2021, as published; all but the first and the linear layers are normalised over
    the batch.

    Args:
        size: side of the training crops, a multiple of 32 (MASA-SR: 160).
    """

    def __init__(self, size: Annotated[int, Field(ge=32)]):
        super().__init__()
        if size % 32:
            raise UserError(f"discriminator.size={size} must be a multiple of 32")
        self.size = size
        layers: list[nn.Module] = []
        inputs = 3
        for channels in _CHANNELS:
            first = not layers
            layers.append(nn.Conv2d(inputs, channels, 3, padding=1, bias=first))
            layers += [] if first else [BatchNorm(channels)]
            layers.append(nn.LeakyReLU(0.2))
            layers.append(nn.Conv2d(channels, channels, 4, stride=2, padding=1, bias=False))
            layers += [BatchNorm(channels), nn.LeakyReLU(0.2)]
            inputs = channels
        self.convs = nn.Sequential(*layers)
        self.judge = nn.Sequential(
            nn.Flatten(),
            nn.Linear(inputs * (size // 32) ** 2, 100),
            nn.LeakyReLU(0.2),
            nn.Linear(100, 1),
        )

    def check_size(self, height: int, width: int) -> None:
        """Raises UserError for pictures of another size."""
        if (height, width) != (self.size, self.size):
            raise UserError(
                f"discriminator=masa is made for pictures of {self.size}×{self.size}, not "
                f"{width}×{height}: set its size"
            )

    def forward(self, image: Tensor) -> Tensor:
        """Logits N×1. Raises UserError for pictures of another size."""
        self.check_size(*image.shape[-2:])
        return self.judge(self.convs(image))
