"""Pictures as networks of other people's take them: less a colour's mean, over its deviation."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

# Of the colours, in [0, 1], that torchvision's networks were trained on.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class Normalising(nn.Module):
    """A network that normalises its pictures first: (x − mean) / std = x · factor + shift."""

    factor: Tensor
    shift: Tensor

    def set_normalisation(
        self,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
        persistent: bool = True,
    ) -> None:
        """Registers the buffers `factor` and `shift`, a number for each colour.

        Args:
            mean: of each colour, in [0, 1].
            std: likewise, its standard deviation.
            persistent: whether the state dict has them.
        """
        deviation = torch.tensor(std)
        self.register_buffer("factor", 1 / deviation, persistent)
        self.register_buffer("shift", -torch.tensor(mean) / deviation, persistent)

    def normalised(self, image: Tensor) -> Tensor:
        """A picture N3HW in [0, 1], normalised."""
        return image * self.factor.view(1, 3, 1, 1) + self.shift.view(1, 3, 1, 1)
