"""WDSR: wide activations and little else.

Yu, Fan, Yang, Xu, Wang, Huang: "Wide Activation for Efficient and Accurate Image Super-Resolution",
2018 (arXiv 1808.08718; below: WDSR), sections 3.1-3.4.
"""

import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Literal, Protocol, cast

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import pixel_shuffle, relu
from torch.nn.utils.parametrizations import weight_norm
from torch.nn.utils.parametrize import is_parametrized

from restore.errors import UserError
from restore.models.backbones.blocks import repeat
from restore.models.backbones.layouts import Table, count, matched
from restore.models.backbones.single_image import (
    DIV2K_MEAN,
    Blocks,
    Colours,
    Features,
    Mean,
    Range,
    Scale,
    SingleImage,
)
from restore.models.backbones.upsampling import kernel
from restore.models.batch_norm import BatchNorm
from restore.models.protocol import Recognised

Normalisation = Literal["weight", "batch", "none"]
Expansion = Annotated[float, Field(gt=0)]


class Make(Protocol):
    """Makes a convolution of (input channels, output channels, kernel), normalised."""

    def __call__(self, inputs: int, outputs: int, kernel: int, groups: int = 1) -> nn.Module: ...


class WideBlock(nn.Module):
    """x + conv(ReLU(conv(x))), with more channels inside than outside (WDSR-A, figure 1 middle).

    Args:
        features: channels outside.
        make: makes convolutions.
        expansion: how many times more channels are inside.
        convolution: `plain`; `grouped`, within each of several groups of channels; `separable`,
            within each channel, then across them at each position (WDSR section 3.3).
        groups: of channels, for `grouped`.
    """

    reach = 2

    def __init__(
        self,
        features: int,
        make: Make,
        expansion: Expansion,
        convolution: Literal["plain", "grouped", "separable"] = "plain",
        groups: Annotated[int, Field(ge=1)] = 4,
    ):
        super().__init__()
        inside = int(features * expansion)
        if convolution == "grouped" and (features % groups or inside % groups):
            raise UserError(
                f"backbone.block.groups={groups} must divide backbone.features={features} and the "
                f"{inside} channels inside a block"
            )

        def wide(inputs: int, outputs: int) -> nn.Module:
            if convolution == "separable":
                return nn.Sequential(
                    make(inputs, inputs, 3, groups=inputs), make(inputs, outputs, 1)
                )
            return make(inputs, outputs, 3, groups=groups if convolution == "grouped" else 1)

        self.expand = wide(features, inside)
        self.project = wide(inside, features)

    def forward(self, x: Tensor) -> Tensor:
        """What the block adds to x."""
        return self.project(relu(self.expand(x), inplace=True))


class LowRankBlock(nn.Module):
    """A wider block, whose 3×3 convolution sees few channels (WDSR-B, figure 1 right).

    Args:
        features: channels outside.
        make: makes convolutions.
        expansion: how many times more channels are at the ReLU.
        linear: how many of the outer channels' number are left for the 3×3 convolution, as a share.
    """

    reach = 1

    def __init__(
        self,
        features: int,
        make: Make,
        expansion: Expansion,
        linear: Annotated[float, Field(gt=0)] = 0.8,
    ):
        super().__init__()
        inside, few = int(features * expansion), int(features * linear)
        if few < 1:
            raise UserError(
                f"backbone.block.linear={linear} of backbone.features={features} leaves no channel"
            )
        self.expand = make(features, inside, 1)
        self.reduce = make(inside, few, 1)
        self.project = make(few, features, 3)

    def forward(self, x: Tensor) -> Tensor:
        """What the block adds to x."""
        return self.project(self.reduce(relu(self.expand(x), inplace=True)))


class ScaledResidual(nn.Module):
    """x + scale · branch(x)."""

    def __init__(self, branch: nn.Module, scale: float):
        super().__init__()
        self.branch = branch
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        y = self.branch(x)
        return x + (y if self.scale == 1 else y * self.scale)


class WDSR(SingleImage):
    """Wide residual blocks, and one 5×5 convolution past them (WDSR section 3.4).

    Args:
        block: makes the branch of a residual block, of (features, make).
        scale: enlargement of each side.
        blocks: residual blocks.
        features: channels.
        normalisation: of every convolution's weights (`weight`: Salimans, Kingma, NIPS 2016); of
            the blocks' features (`batch`); `none`.
        residual_scale: factor on each block's branch.
        mean: colour that is subtracted at first and added at last.
        range: of the pictures inside.
        start: what the untrained network does: noise (`random`, as published), or, but for a
            hundredth of the blocks' noise, `bicubic` upsampling, which the 5×5 convolution can be.
    """

    def __init__(
        self,
        block: Callable[..., nn.Module],
        scale: Scale,
        blocks: Blocks = 16,
        features: Features = 32,
        normalisation: Normalisation = "weight",
        residual_scale: Annotated[float, Field(gt=0, le=1)] = 1.0,
        mean: Mean = DIV2K_MEAN,  # type: ignore[assignment]
        range: Range = 2.0,
        start: Literal["random", "bicubic"] = "random",
    ):
        super().__init__()
        self.scale = scale
        self.colours = Colours(mean, range)

        def outside(inputs: int, outputs: int, kernel: int, groups: int = 1) -> nn.Module:
            layer = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, groups=groups)
            return weight_norm(layer) if normalisation == "weight" else layer

        def inside(inputs: int, outputs: int, kernel: int, groups: int = 1) -> nn.Module:
            layer = outside(inputs, outputs, kernel, groups)
            if normalisation == "batch":
                return nn.Sequential(layer, BatchNorm(outputs))
            return layer

        self.head = outside(3, features, 3)
        self.body = repeat(blocks, lambda: ScaledResidual(block(features, inside), residual_scale))
        self.tail = outside(features, 3 * scale**2, 3)
        self.skip = outside(3, 3 * scale**2, 5)
        if start == "bicubic":
            self._become_bicubic()
        self.reach = max(2, 2 + sum(part.branch.reach for part in self.body))  # type: ignore[misc, union-attr]

    @torch.no_grad()
    def _become_bicubic(self) -> None:
        """Sets the skip to bicubic upsampling of each colour, and makes the tail small."""
        of_one_colour = kernel(self.scale)  # [place in the shuffled square, 5, 5]
        colours = torch.eye(3)[:, None, :, None, None]
        _set(self.skip, (colours * of_one_colour[:, None]).flatten(0, 1))
        _set(self.tail, cast(Tensor, self.tail.weight) / 100)

    def enlarged(self, low: Tensor) -> Tensor:
        x = self.colours(low)
        # The sum first: one shuffle for both paths.
        both = self.tail(self.body(self.head(x))) + self.skip(x)
        return self.colours.back(pixel_shuffle(both, self.scale))

    @classmethod
    def recognise(cls, published: Mapping[str, Tensor], path: Path) -> Recognised | None:
        """See `Backbone.recognise`.

        Known are the layouts of the paper's implementation, of yjn870's, and of ychfan's later one,
        which subtracts grey and keeps the range. None holds colours or the factor on branches: they
        are taken to be the implementations' defaults.
        """
        state = {_old_name(name): value for name, value in published.items()}
        later = "head.0.bias" not in state and "head.bias" not in state
        low_rank = any(re.fullmatch(rf"{_INSIDE}3\.bias", name) for name in state)
        low_rank |= f"{_FIRST}.reduce.bias" in state
        layers = ("head", "tail", "skip", f"{_FIRST}.expand")
        renamed = matched(state, _table(state, later, low_rank), layers, "WDSR")
        if renamed is None:
            return None
        normalised = "head.weight_g" in renamed
        weight = {
            name.rpartition(".")[0]: value
            for name, value in renamed.items()
            if name.endswith(".weight_v" if normalised else ".weight")
        }
        features = len(weight["head"])
        wide = len(weight[f"{_FIRST}.expand"])
        blocks = count(renamed, r"body\.\d+\.branch\.expand\.bias")
        overrides = [
            f"backbone={'wdsr_b' if low_rank else 'wdsr_a'}",
            f"task.scale={math.isqrt(len(weight['tail']) // 3)}",
            f"backbone.blocks={blocks}",
            f"backbone.features={features}",
            f"backbone.normalisation={'weight' if normalised else 'none'}",
            f"backbone.block.expansion={_share(wide, features)}",
        ]
        if low_rank:
            few = len(weight[f"{_FIRST}.reduce"])
            overrides.append(f"backbone.block.linear={_share(few, features)}")
        if later:
            overrides += ["backbone.mean=[0.5,0.5,0.5]", "backbone.range=1.0"]
        return Recognised(overrides, {_new_name(n): value for n, value in renamed.items()})


def _set(layer: nn.Module, weight: Tensor) -> None:
    """Gives a convolution its weights, and no bias."""
    if is_parametrized(layer):
        layer.weight = weight  # the norm and the direction, from which it is computed
    else:
        cast(Tensor, layer.weight).copy_(weight)
    cast(Tensor, layer.bias).zero_()


_FIRST = "body.0.branch"
_INSIDE = r"body\.(\d+)\.(?:body|module)\."


def _table(state: Mapping[str, Tensor], later: bool, low_rank: bool) -> Table:
    """Layers by place; in the later layout, head and tail are the first and last of the body."""
    places = [int(match[1]) for name in state if (match := re.match(r"body\.(\d+)\.", name))]
    layers = {"0": "expand", "2": "reduce" if low_rank else "project", "3": "project"}

    def inside(match: re.Match[str]) -> str:
        return f"body.{int(match[1]) - later}.branch.{layers[match[2]]}"

    return [
        (r"body\.0" if later else r"head\.0", "head"),
        (rf"body\.{max(places, default=0)}" if later else r"tail\.0", "tail"),
        (r"skip\.0", "skip"),
        (rf"{_INSIDE}([023])", inside),
    ]


# A weight's norm and direction have been stored under two pairs of names.
_STORED = {
    ".weight_g": ".parametrizations.weight.original0",
    ".weight_v": ".parametrizations.weight.original1",
}


def _old_name(name: str) -> str:
    for old, new in _STORED.items():
        name = name.removesuffix(new) + old if name.endswith(new) else name
    return name


def _new_name(name: str) -> str:
    for old, new in _STORED.items():
        name = name.removesuffix(old) + new if name.endswith(old) else name
    return name


def _share(channels: int, features: int) -> float:
    """The factor that, times features and rounded down, gives the number of channels."""
    if int(features * 0.8) == channels:
        return 0.8
    exact = channels / features
    return exact if int(features * exact) == channels else (channels + 0.5) / features
