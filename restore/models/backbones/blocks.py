"""Layers that several networks are made of."""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from restore.models.backbones.rows import Rows, at_once, cut, to_convolve, together

# Numbers of a convolution's result that are made at a time where they are added to a map, on a
# CPU, and the rows that are worth those beside them.
_ADDED, _LEAST_ROWS = 1 << 22, 32


def conv(
    inputs: int, outputs: int, kernel: int = 3, stride: int = 1, bias: bool = True
) -> nn.Conv2d:
    """Convolution that keeps the size (stride 1) or divides it (rounding up)."""
    return nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=bias)


def side_by_side(
    layer: nn.Conv2d, maps: Iterable[Tensor], ends: tuple[bool, bool] = (True, True)
) -> Tensor:
    """A convolution of the channels of several maps of one size.

    Of maps that do not begin or end with the picture (`Rows.ends`), only those rows are made whose
    neighbours are there: one less at that end. Stride and kernel are then 1 and 3.

    On a CPU, where nothing is trained, they are convolved one after another and summed up, which
    takes no longer than laying them side by side first, and less memory, in particular where they
    are made one after another.
    """
    device = layer.weight.device.type
    if at_once() or device != "cpu" or torch.is_autocast_enabled(device):
        return _convolved(torch.cat([*maps], 1), layer, layer.weight, layer.bias, ends)
    total, first = torch.empty(0), 0
    for x in maps:
        weight = layer.weight[:, first : first + x.shape[1]]
        bias = None if first else layer.bias
        convolve = partial(_convolved, layer=layer, weight=weight, bias=bias, ends=ends)
        if not first:
            total = convolve(x)
        elif all(ends):
            add_convolved(total, x, convolve, layer.kernel_size[0] // 2)
        else:
            total.add_(convolve(x))
        first += x.shape[1]
        del x  # before the next is made
    return total


def _convolved(
    x: Tensor, layer: nn.Conv2d, weight: Tensor, bias: Tensor | None, ends: tuple[bool, bool]
) -> Tensor:
    if all(ends):
        return F.conv2d(x, weight, bias, layer.stride, layer.padding)
    if not any(ends):
        return F.conv2d(x, weight, bias, padding=(0, 1))
    y = F.conv2d(x, weight, bias, padding=1)
    return y[..., :-1, :] if ends[0] else y[..., 1:, :]


def add_convolved(
    y: Tensor, x: Tensor, convolve: Callable[[Tensor], Tensor], reach: int = 1
) -> None:
    """Adds to y, in its place, what a convolution makes of x, both NCHW.

    On a CPU, where it keeps the size, some rows at a time: only of these the result is held.

    Args:
        y, x: see above.
        convolve: the convolution, continued by zeros.
        reach: how far, in rows, x is felt.
    """
    height = x.shape[-2]
    if x.device.type != "cpu" or y.shape[-2] != height:
        y.add_(convolve(x))
        return
    for some in cut(height, max(_LEAST_ROWS, _ADDED // (y.numel() // height)), reach):
        y[..., some.top : some.bottom, :].add_(some.wanted(convolve(some.of(x))))


def added(x: Tensor, y: Tensor) -> Tensor:
    """The sum, where nothing is trained in the place of x, which nothing else may need."""
    return x + y if torch.is_grad_enabled() or x.dtype != y.dtype else x.add_(y)


def repeat(count: int, make: Callable[[], nn.Module]) -> nn.Sequential:
    """`count` modules made one after another; with none, the identity."""
    return nn.Sequential(*(make() for _ in range(count)))


class SubPixel(nn.Module):
    """Sub-pixel enlargement: a convolution to ratio² times the channels, then the shuffle.

    Shi et al., "Real-Time Single Image and Video Super-Resolution Using an Efficient Sub-Pixel
    Convolutional Neural Network", CVPR 2016.

    Args:
        features: channels before and after.
        ratio: how many times larger the result is.
    """

    def __init__(self, features: int, ratio: int = 2):
        super().__init__()
        self.conv = conv(features, features * ratio**2)
        self.ratio = ratio

    def forward(self, x: Tensor) -> Tensor:
        return F.pixel_shuffle(self.conv(x), self.ratio)


class ResidualBlock(nn.Module):
    """x + scale · conv(ReLU(conv(x))), without normalisation (EDSR, figure 2c)."""

    def __init__(self, features: int, residual_scale: float = 1.0, bias: bool = True):
        super().__init__()
        self.conv1 = conv(features, features, bias=bias)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = conv(features, features, bias=bias)
        self.residual_scale = residual_scale

    def branch(self, x: Tensor) -> Tensor:
        """What the block adds to x."""
        y = self.conv2(self.relu(self.conv1(x)))
        return y if self.residual_scale == 1 else y * self.residual_scale

    def forward(self, x: Tensor) -> Tensor:
        return together(partial(self._rows, x), to_convolve(x, 2))

    def replace(self, x: Tensor) -> Tensor:
        """The same; where nothing is trained in the place of x, which nothing else may need."""
        return together(partial(self._rows, x), to_convolve(x, 2), place=x)

    def _rows(self, x: Tensor, some: Rows) -> Tensor:
        """Some rows of the result."""
        if all(some.ends):  # nothing else holds the branch, backward does not need it
            return self.branch(x).add_(x)
        y = self.relu(side_by_side(self.conv1, [some.of(x)], some.ends))
        y = some.wanted(side_by_side(self.conv2, [y], some.ends), lost=2)
        if self.residual_scale != 1:
            y *= self.residual_scale
        return y.add_(x[..., some.top : some.bottom, :])


class ResidualTrunk(nn.ModuleList):
    """Residual blocks one after another.

    Like every trunk, it is called with features NCHW and returns features of the same shape and
    the masks (N1HW, one a block) of where its blocks were executed: none, as these skip nothing.

    Attributes:
        reach: how far, in positions, a feature is felt; a trunk without it, and without `felt`,
            needs the whole picture.
        step: rows begin at multiples of this, where a trunk is given some of a picture's alone.

    Args:
        features: channels.
        count: blocks.
        residual_scale: factor on each block's branch.
    """

    def __init__(self, features: int, count: int, residual_scale: float = 1.0):
        super().__init__(ResidualBlock(features, residual_scale) for _ in range(count))
        self.reach, self.step = 2 * count, 1

    def felt(self, rows: int) -> int:
        """Of so many rows beside a cut (at a multiple of `step`) that differ, how many then do."""
        return rows + self.reach

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        return self._through(x, own=False)

    def replace(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The same; where nothing is trained in the place of x, which nothing else may need."""
        return self._through(x, own=True)

    def _through(self, x: Tensor, own: bool) -> tuple[Tensor, list[Tensor]]:
        block: Any
        for block in self:
            x = block.replace(x) if own else block(x)
            own = True
        return x, []


def through(trunk: nn.Module, x: Tensor) -> tuple[Tensor, list[Tensor]]:
    """What a trunk makes of features that nothing else needs, in their place if it can do that."""
    result: tuple[Tensor, list[Tensor]] = getattr(trunk, "replace", trunk)(x)
    return result


def named(masks: list[Tensor], trunk: str) -> dict[str, Tensor]:
    """The masks of a trunk's blocks by the blocks' names, of the trunk's name."""
    return {f"{trunk}.{place}": mask for place, mask in enumerate(masks)}


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
        end.weight.data.mul_(factor)  # type: ignore[operator]


def within(image: Tensor, low: float, high: float) -> Tensor:
    """The picture, its values kept in a range; infinite ones become NaN, not black or white.

    So that whoever takes the picture can tell that a network has failed. Other programs, which a
    network is exported for, get the plain range.
    """
    kept = image.clamp(low, high)
    if torch.compiler.is_compiling() or torch.jit.is_tracing() or torch.onnx.is_in_onnx_export():
        return kept
    return kept.where(image.isfinite(), torch.nan)
