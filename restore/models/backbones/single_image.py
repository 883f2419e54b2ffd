"""What networks for one picture, without a reference, have in common."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from restore.errors import UserError
from restore.models.backbones.blocks import within
from restore.models.protocol import Backbone
from restore.types import Restoration

Scale = Literal[2, 3, 4, 8]
Features = Annotated[int, Field(ge=1)]
Blocks = Annotated[int, Field(ge=0)]
Mean = Annotated[list[float], Field(min_length=3, max_length=3)]
Range = Annotated[float, Field(gt=0)]

# Mean colour of DIV2K's 800 training pictures, as EDSR and its followers subtract it.
DIV2K_MEAN = (0.4488, 0.4371, 0.4040)


class SingleImage(Backbone):
    """A network that is given the low picture alone; a subclass says what `enlarged` it is."""

    def enlarged(self, low: Tensor) -> Tensor:
        """N3(sH)(sW) of `low`, N3HW in [0, 1]; it may go beyond [0, 1]."""
        raise NotImplementedError

    def forward(self, low: Tensor, low_up: Tensor | None = None, **others: Tensor) -> Restoration:
        """Enlarges `low`.

        Args:
            low: N3HW in [0, 1].
            low_up: not looked at; tasks hand it to every network.
            others: none are taken.

        Returns:
            Image N3(sH)(sW) in [0, 1]; in training it is not cut off there, so that losses see
            (and gradients undo) what goes beyond.

        Raises:
            UserError: the task hands over more.
        """
        refuse_more(self, others, "single_sr")
        image = self.enlarged(low).float()
        return Restoration(image if self.training else within(image, 0, 1))


def refuse_more(network: nn.Module, others: Mapping[str, Tensor], task: str) -> None:
    """Raises UserError when a task hands over more than the low picture to a network."""
    if others:
        raise UserError(
            f"{type(network).__name__} takes the low picture alone, not {', '.join(others)}: "
            f"choose task={task}"
        )


class Colours(nn.Module):
    """Pictures in [0, 1] to what a network computes with, (x − mean) · range, and back.

    Args:
        mean: of each channel, in [0, 1].
        range: what the difference of black and white becomes.
    """

    mean: Tensor

    def __init__(self, mean: Sequence[float], range: float):
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.range = range

    def forward(self, picture: Tensor) -> Tensor:
        """What the network computes with."""
        return (picture - self.mean) * self.range

    def back(self, x: Tensor) -> Tensor:
        """The picture, in float32."""
        return x.float() / self.range + self.mean


def ratios(scale: int) -> list[int]:
    """The steps in which features are enlarged by a scale: by 2 as often as it goes, or by 3."""
    return [3] if scale == 3 else [2] * (scale.bit_length() - 1)


def reach_above(scale: int, last_kernel: int) -> int:
    """How far, in low pixels, the 3×3 convolutions of the steps and a last one reach together."""
    far, size = 0.0, 1
    for ratio in ratios(scale):
        far += 1 / size
        size *= ratio
    return int(-(-(far + last_kernel // 2 / size) // 1))
