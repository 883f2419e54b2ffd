"""Trunks of networks of any scale: from an upsampled picture to features of the same size.

Each is called with pictures N3HW in [0, 1] and returns N, `features`, H, W. `reach` says how far,
in its own pixels, a pixel is felt; None: everywhere.
"""

from itertools import pairwise
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import relu

from restore.models.backbones.blocks import ResidualBlock, conv, repeat
from restore.models.backbones.single_image import Blocks, Features

Pooling = Literal["mean", "max"]
Convolutions = Annotated[int, Field(ge=1)]


class FeatureMapping(nn.Module):
    """What every trunk says of itself."""

    features: int
    reach: int | None


class DenseLayers(nn.Module):
    """3×3 convolutions with ReLU, each of which sees the input and all outputs before it."""

    def __init__(self, inputs: int, growth: int, count: int):
        super().__init__()
        self.layers = nn.ModuleList(conv(inputs + n * growth, growth) for n in range(count))

    def forward(self, x: Tensor) -> Tensor:
        """N, inputs + count · growth, H, W."""
        for layer in self.layers:
            x = torch.cat([x, relu(layer(x), inplace=True)], 1)
        return x


class ChannelAttention(nn.Module):
    """Each channel times a weight in (0, 1) that depends on the means of all channels.

    Zhang et al., "Image Super-Resolution Using Very Deep Residual Channel Attention Networks",
    ECCV 2018, section 3.3. ASDN's course project looks at their largest values instead.
    """

    def __init__(self, features: int, reduction: int, pooling: Pooling):
        super().__init__()
        self.pool = torch.amax if pooling == "max" else torch.mean
        self.reduce = conv(features, max(1, features // reduction), 1)
        self.expand = conv(max(1, features // reduction), features, 1)

    def forward(self, x: Tensor) -> Tensor:
        seen = self.pool(x, (2, 3), keepdim=True)
        return x * self.expand(relu(self.reduce(seen))).sigmoid()


class DenseAttentionBlock(nn.Module):
    """Intra-dense block, then channel attention (ASDN, figure of the dense attention block).

    All earlier blocks' features are compressed to few; dense layers work on these; what they make
    is compressed to as few again and added.
    """

    def __init__(
        self,
        inputs: int,
        features: int,
        growth: int,
        convolutions: int,
        channel_attention: bool,
        reduction: int,
        pooling: Pooling,
    ):
        super().__init__()
        self.compress = conv(inputs, features, 1)
        self.dense = DenseLayers(features, growth, convolutions)
        self.gather = conv(features + convolutions * growth, features, 1)
        self.attention = (
            ChannelAttention(features, reduction, pooling) if channel_attention else nn.Identity()
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.compress(x)
        return self.attention(x + self.gather(self.dense(x)))


class BiDense(FeatureMapping):
    """ASDN's feature mapping branch: dense blocks, densely connected.

    Shen, Wang, Zhang: "ASDN: A Deep Convolutional Network for Arbitrary Scale Image
    Super-Resolution", 2020 (arXiv 2010.02414). Its features are the first convolution's and all
    blocks'.

    Args:
        blocks: dense attention blocks (DAB).
        width: channels of a block's result.
        growth: channels of each 3×3 convolution in a block.
        convolutions: 3×3 convolutions in a block.
        first: channels of the first convolution.
        channel_attention: whether blocks end with it; its means are taken over whole pictures.
        reduction: how many times fewer channels are inside channel attention.
        pooling: what channel attention sees of each channel.
    """

    def __init__(
        self,
        blocks: Blocks = 16,
        width: Features = 64,
        growth: Features = 64,
        convolutions: Convolutions = 8,
        first: Features = 64,
        channel_attention: bool = True,
        reduction: Annotated[int, Field(ge=1)] = 16,
        pooling: Pooling = "mean",
    ):
        super().__init__()
        self.head = conv(3, first)
        self.blocks = nn.ModuleList(
            DenseAttentionBlock(
                first + n * width,
                width,
                growth,
                convolutions,
                channel_attention,
                reduction,
                pooling,
            )
            for n in range(blocks)
        )
        self.features = first + blocks * width
        self.reach = None if channel_attention and blocks else 1 + blocks * convolutions

    def forward(self, picture: Tensor) -> Tensor:
        x = self.head(picture)
        for block in self.blocks:
            x = torch.cat([x, block(x)], 1)
        return x


class Residual(FeatureMapping):
    """EDSR without its enlargement (Lim et al., CVPR Workshops 2017): ASDN's EDSR-Conv.

    Args:
        blocks: residual blocks.
        features: channels.
        residual_scale: factor on each block's branch.
    """

    def __init__(
        self,
        blocks: Blocks = 16,
        features: Features = 64,
        residual_scale: Annotated[float, Field(gt=0, le=1)] = 1.0,
    ):
        super().__init__()
        self.features = features
        self.head = conv(3, features)
        self.body = repeat(blocks, lambda: ResidualBlock(features, residual_scale))
        self.after = conv(features, features)
        self.reach = 2 + 2 * blocks

    def forward(self, picture: Tensor) -> Tensor:
        x = self.head(picture)
        return self.after(self.body(x)) + x


class Plain(FeatureMapping):
    """VDSR without its last convolution (Kim, Lee, Lee, CVPR 2016): ASDN's VDSR-Conv.

    Args:
        convolutions: 3×3, each followed by a ReLU; the paper's network has 20 with the last.
        features: channels.
    """

    def __init__(self, convolutions: Convolutions = 19, features: Features = 64):
        super().__init__()
        self.features = features
        widths = [3] + [features] * convolutions
        self.layers = nn.ModuleList(conv(inputs, outputs) for inputs, outputs in pairwise(widths))
        self.reach = convolutions

    def forward(self, picture: Tensor) -> Tensor:
        for layer in self.layers:
            picture = relu(layer(picture), inplace=True)
        return picture


class ResidualDense(FeatureMapping):
    """RDN without its enlargement (Zhang et al., CVPR 2018, figure 2): ASDN's RDN-Conv.

    Args:
        blocks: residual dense blocks.
        features: channels between blocks.
        growth: channels of each 3×3 convolution in a block.
        convolutions: 3×3 convolutions in a block.
    """

    def __init__(
        self,
        blocks: Annotated[int, Field(ge=1)] = 16,
        features: Features = 64,
        growth: Features = 64,
        convolutions: Convolutions = 8,
    ):
        super().__init__()
        self.features = features
        self.head = conv(3, features)
        self.before = conv(features, features)
        self.dense = nn.ModuleList(
            DenseLayers(features, growth, convolutions) for _ in range(blocks)
        )
        self.gather = nn.ModuleList(
            conv(features + convolutions * growth, features, 1) for _ in range(blocks)
        )
        self.fuse = conv(blocks * features, features, 1)
        self.after = conv(features, features)
        self.reach = 3 + blocks * convolutions

    def forward(self, picture: Tensor) -> Tensor:
        first = self.head(picture)
        x, outputs = self.before(first), []
        for dense, gather in zip(self.dense, self.gather):
            x = x + gather(dense(x))
            outputs.append(x)
        return self.after(self.fuse(torch.cat(outputs, 1))) + first
