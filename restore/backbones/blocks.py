"""Layers that several networks are made of."""

from collections.abc import Callable, Iterable

from torch import Tensor, nn


def conv(inputs: int, outputs: int, kernel: int = 3, stride: int = 1) -> nn.Conv2d:
    """Convolution with a bias that keeps the size (stride 1) or divides it (rounding up)."""
    return nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2)


def repeat(count: int, make: Callable[[], nn.Module]) -> nn.Sequential:
    """`count` modules made one after another; with none, the identity."""
    return nn.Sequential(*(make() for _ in range(count)))


class ResidualBlock(nn.Module):
    """x + scale · conv(ReLU(conv(x))), without normalisation (EDSR, figure 2c)."""

    def __init__(self, features: int, residual_scale: float = 1.0):
        super().__init__()
        self.conv1 = conv(features, features)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = conv(features, features)
        self.residual_scale = residual_scale

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv2(self.relu(self.conv1(x)))
        if self.residual_scale != 1:
            y = y * self.residual_scale
        return x + y


def keep_variance(module: nn.Module) -> None:
    """Draws the weights of all convolutions anew, so that ReLU networks keep their scale.

    He et al., "Delving Deep into Rectifiers", ICCV 2015, equation 10; branches of residual blocks
    begin small (`shrink`).
    """
    for part in module.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.kaiming_normal_(part.weight, nonlinearity="relu")
            if part.bias is not None:
                nn.init.zeros_(part.bias)
    shrink(part.conv2 for part in module.modules() if isinstance(part, ResidualBlock))


def shrink(ends: Iterable[nn.Module], factor: float = 0.1) -> None:
    """Makes branches begin small: their sum with what they are added to keeps its scale."""
    for end in ends:
        end.weight.data.mul_(factor)  # type: ignore[operator, union-attr]
