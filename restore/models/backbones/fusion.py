"""How a scale takes in its texture."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial, reduce
from operator import add
from typing import Annotated, ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from restore.models.backbones.blocks import added, conv, side_by_side
from restore.models.backbones.rows import Rows, in_cache, to_convolve, together
from restore.models.backbones.upsampling import bilinear_rows, upsample

_NORM_EPS = 1e-5


class PlainFusion(nn.Module):
    """F + conv(cat(F, T)): the texture as it is, whatever its score.

    Attributes:
        whole_picture: it takes means over the whole picture.
        score_reach: how far, in positions of the score, one is felt.

    Args:
        features: channels of F.
        texture: channels of T.
    """

    whole_picture: ClassVar[bool] = False
    score_reach: ClassVar[int] = 0

    def __init__(self, features: int, texture: int):
        super().__init__()
        self.conv = conv(features + texture, features)

    def forward(self, x: Tensor, texture: Tensor, score: Tensor) -> Tensor:
        """Features of x's shape; all NCHW, the score N1hw of the coarsest scale."""
        return x + self.taken(x, texture.to(x.dtype), score)

    def taken(self, x: Tensor, texture: Tensor, score: Tensor) -> Tensor:
        """What is added to the features, of them and the texture."""
        return side_by_side(self.conv, (x, texture))


class ScoreFusion(PlainFusion):
    """F + conv(cat(F, T)) · S, the score S upsampled to the scale (TTSR equation 7)."""

    score_reach = 2

    def taken(self, x: Tensor, texture: Tensor, score: Tensor) -> Tensor:
        ratio = int(x.shape[-1] // score.shape[-1])  # plain, where torch writes down sizes
        fused = super().taken(x, texture, score)
        return fused * (upsample(score, ratio) if ratio > 1 else score).to(fused.dtype)


def gated(score: Tensor, gain: Tensor, threshold: Tensor) -> Tensor:
    """σ(g · (S − t)) of a score S, gain g and threshold t: a factor in (0, 1) of its shape."""
    return torch.sigmoid(gain * (score - threshold))


class Gate(nn.Module):
    """σ(g · (S − t)) of a score S, gain g and threshold t trained.

    Args:
        gain: g at the start.
        threshold: t at the start.
    """

    def __init__(self, gain: float = 15.0, threshold: float = 0.5):
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(gain))
        self.threshold = nn.Parameter(torch.tensor(threshold))

    def forward(self, score: Tensor) -> Tensor:
        """A factor in (0, 1) of the score's shape."""
        return gated(score, self.gain, self.threshold)


class GatedFusion(ScoreFusion):
    """F + conv(cat(F, T)) · σ(g · (S − t)): a score that is learned to close where nothing fits.

    In TTSR the score of a reference of something else is still half of a good one's, so whatever it
    offers is taken in. Gain and threshold are trained with everything else. Not in the paper.

    Args:
        features: channels of F.
        texture: channels of T.
        gain: g at the start.
        threshold: t at the start, a score of `Hard`, which is a cosine.
    """

    def __init__(self, features: int, texture: int, gain: float = 10.0, threshold: float = 0.6):
        super().__init__(features, texture)
        self.gain = nn.Parameter(torch.tensor(gain))
        self.threshold = nn.Parameter(torch.tensor(threshold))

    def taken(self, x: Tensor, texture: Tensor, score: Tensor) -> Tensor:
        return super().taken(x, texture, gated(score, self.gain, self.threshold))


class ChannelFusion(PlainFusion):
    """F + conv(A(cat(F, T))), A a contrast-aware channel attention; the score is not used.

    Hui et al., "Lightweight Image Super-Resolution with Information Multi-distillation Network",
    ACM MM 2019, section 3.3: each channel times a factor in (0, 1) that a small network makes of
    all channels' standard deviation plus mean over the whole picture.

    Args:
        features: channels of F.
        texture: channels of T.
        reduction: how many times fewer channels the small network has inside.
    """

    whole_picture = True

    def __init__(
        self, features: int, texture: int, reduction: Annotated[int, Field(ge=1, le=64)] = 16
    ):
        super().__init__(features, texture)
        channels = features + texture
        self.squeeze = conv(channels, channels // reduction, kernel=1)
        self.excite = conv(channels // reduction, channels, kernel=1)

    def taken(self, x: Tensor, texture: Tensor, score: Tensor) -> Tensor:
        both = torch.cat([x, texture], dim=1)
        deviation, mean = torch.std_mean(both.float(), dim=(2, 3), correction=0, keepdim=True)
        factor = torch.sigmoid(self.excite(F.relu(self.squeeze(deviation + mean))))
        return self.conv(both * factor.to(both.dtype))


class MergedFusion(PlainFusion):
    """LeakyReLU(conv(cat(F, T))): features and texture become new features, without a skip.

    C2-Matching and DATSR, whose blocks come behind it with a skip around them; MASA-SR at ×1.

    Args:
        features: channels of F.
        texture: channels of T.
        slope: of the activation below zero; 0: a ReLU.
    """

    def __init__(
        self, features: int, texture: int, slope: Annotated[float, Field(ge=0, lt=1)] = 0.1
    ):
        super().__init__(features, texture)
        self.slope = slope

    def forward(self, x: Tensor, texture: Tensor, score: Tensor) -> Tensor:
        return F.leaky_relu_(side_by_side(self.conv, (x, texture.to(x.dtype))), self.slope)


@dataclass(frozen=True)
class Moments:
    """Mean and variance NC11 of each channel over `count` positions, float32."""

    count: int
    mean: Tensor
    variance: Tensor

    @classmethod
    def of(cls, x: Tensor) -> "Moments":
        """Those of a map NCHW.

        In two passes: torch's `var_mean` is many times slower where channels lie last.
        """
        count = x.shape[-2] * x.shape[-1]
        mean = x.float().mean((2, 3), keepdim=True)
        apart = (some.of(x) - mean for some in in_cache(x))
        squares = [part.square().sum((2, 3), keepdim=True) for part in apart]
        return cls(count, mean, torch.stack(squares).sum(0) / count)

    def __add__(self, other: "Moments") -> "Moments":
        """Of both together (Chan, Golub, LeVeque 1979)."""
        count = self.count + other.count
        share = other.count / count
        apart = other.mean - self.mean
        variance = torch.lerp(self.variance, other.variance, share)
        variance = variance + apart.square() * (share * (1 - share))
        return Moments(count, self.mean + apart * share, variance)


class SpatialAdaptation(nn.Module):
    """A texture brought to the features' distribution, place by place (MASA-SR, section 3.3).

    norm(T) · (γ + σ(F)) + (β + μ(F)), the mean and deviation of each channel over the picture, γ
    and β maps that convolutions make of both.

    Args:
        features: channels of F and T.
    """

    whole_picture = True

    def __init__(self, features: int):
        super().__init__()
        self.shared = conv(2 * features, features)
        self.gamma, self.beta = conv(features, features), conv(features, features)

    def forward(
        self, x: Tensor, texture: Tensor, moments: "tuple[Moments, Moments] | None" = None
    ) -> Tensor:
        """The texture adapted to features of its shape, or of half its sides, then enlarged.

        `moments` are those of the whole picture's features and texture, of which these are some
        rows.
        """
        return together(*self._made_of(x, texture, moments))

    def replace(
        self, x: Tensor, texture: Tensor, moments: "tuple[Moments, Moments] | None" = None
    ) -> Tensor:
        """The same; where nothing is trained in the place of what nothing else may need, the
        texture.
        """
        return together(*self._made_of(x, texture, moments), place=texture)

    def _made_of(
        self, x: Tensor, texture: Tensor, moments: "tuple[Moments, Moments] | None"
    ) -> tuple[Callable[[Rows], Tensor], list[Rows]]:
        """What makes some rows of the result, and which ones."""
        ratio = int(texture.shape[-1] // x.shape[-1])
        parts = to_convolve(texture, 2, ratio)
        seen = partial(bilinear_rows, x, ratio)
        if moments is None:
            own = [Moments.of(seen(some.top, some.bottom)) for some in parts]
            moments = reduce(add, own), Moments.of(texture)
        return partial(self._rows, seen, texture, moments), parts

    def _rows(
        self,
        seen: Callable[[int, int], Tensor],
        texture: Tensor,
        moments: tuple[Moments, Moments],
        some: Rows,
    ) -> Tensor:
        """Some rows of the result."""
        x = seen(some.first, some.last)
        both = F.relu_(side_by_side(self.shared, (x, some.of(texture).to(x.dtype)), some.ends))
        del x
        own, their = moments
        deviation = (own.variance * own.count / max(1, own.count - 1)).sqrt()
        scale = (their.variance + _NORM_EPS).rsqrt()
        # What a convolution has made is nobody else's: it is changed in place.
        factor, result = (
            some.wanted(side_by_side(layer, [both], some.ends), lost=2).float()
            for layer in (self.gamma, self.beta)
        )
        factor, result = factor.add_(deviation), result.add_(own.mean)
        texture = texture[..., some.top : some.bottom, :]
        for part in in_cache(result):
            normalised = (part.of(texture) - their.mean) * scale
            part.of(result).addcmul_(normalised, part.of(factor))
        return result


class AdaptedFusion(PlainFusion):
    """`PlainFusion` of a texture that is adapted to the features first (`SpatialAdaptation`).

    Args:
        features: channels of F.
        texture: channels of T.
    """

    whole_picture = True

    def __init__(self, features: int, texture: int):
        super().__init__(features, features)
        self.project = as_many(texture, features)
        self.adapt = SpatialAdaptation(features)

    def forward(self, x: Tensor, texture: Tensor, score: Tensor) -> Tensor:
        return super().forward(x, self.adapt(x, self.project(texture.to(x.dtype))), score)


class DualAggregation(nn.Module):
    """Features and a texture twice as large become features of the texture's size (MASA-SR: DRAM).

    Each refines the other by what it lacks of it.

    Args:
        features: channels of both.
    """

    def __init__(self, features: int):
        super().__init__()
        self.down_a, self.down_b = (conv(features, features, stride=2) for _ in range(2))
        self.up_a, self.up_b = (
            nn.ConvTranspose2d(features, features, 3, stride=2, padding=1, output_padding=1)
            for _ in range(2)
        )
        self.merge = conv(2 * features, features)

    def forward(self, x: Tensor, texture: Tensor) -> Tensor:
        """Features of the texture's shape.

        Where nothing is trained they may take the place of the texture, which nothing else may
        need.
        """
        make = partial(self._rows, x, texture)
        return together(make, to_convolve(texture, 4, 2), place=texture)

    def _rows(self, x: Tensor, texture: Tensor, some: Rows) -> Tensor:
        """Some rows of the result."""
        around = some.nearer(1)
        refined = self._refined(x[..., some.first // 2 : some.last // 2, :], some.of(texture))
        first, last = around.first - some.first, around.last - some.first
        maps = (y[..., first:last, :] for y in refined)
        return F.relu_(around.wanted(side_by_side(self.merge, maps, around.ends), lost=1))

    def _refined(self, x: Tensor, texture: Tensor) -> Iterator[Tensor]:
        yield added(F.relu_(self.up_a(F.relu_(self.down_a(texture)) - x)), texture)
        yield F.relu_(self.up_b(x - F.relu_(self.down_b(texture)) + x))


def as_many(inputs: int, outputs: int) -> nn.Module:
    """A 1×1 convolution to another number of channels; nothing where they are as many."""
    return nn.Identity() if inputs == outputs else conv(inputs, outputs, kernel=1)
