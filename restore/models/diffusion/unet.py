"""The U-Net that predicts the noise in a picture, as Palette's public implementation has it.

Dhariwal, Nichol, "Diffusion Models Beat GANs on Image Synthesis", NeurIPS 2021, appendix A;
conditioned on the noise level γ itself, not a step's number (Saharia et al., "Palette:
Image-to-Image Diffusion Models", SIGGRAPH 2022). Names of tensors are those of the published files.
"""

import math
from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from restore.errors import UserError

_GROUPS = 32

Positive = Annotated[int, Field(ge=1)]


class Norm(nn.GroupNorm):
    """Group normalisation that gives what it is called in; its sums are float32 in any case."""

    def __init__(self, channels: int):
        if channels % _GROUPS:
            raise UserError(
                f"network.features and network.multipliers give {channels} channels, which are no "
                f"multiple of {_GROUPS}"
            )
        super().__init__(_GROUPS, channels)

    def forward(self, x: Tensor) -> Tensor:
        # Autocast on CUDA answers in float32, where the next parts would take twice the memory.
        return super().forward(x).to(x.dtype)


class Block(nn.Module):
    """Two convolutions around which γ scales and shifts, beside a way past them.

    Args:
        channels, out: of input and output.
        embedding: channels of γ's embedding.
        dropout: before the second convolution.
        resample: between normalisation and first convolution, and on the way past; changes sides.
    """

    def __init__(
        self, channels: int, out: int, embedding: int, dropout: float, resample: nn.Module | None
    ):
        super().__init__()
        self.resample = resample or nn.Identity()
        self.in_layers = nn.Sequential(
            Norm(channels), nn.SiLU(), nn.Conv2d(channels, out, 3, padding=1)
        )
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(embedding, 2 * out))
        self.out_layers = nn.Sequential(
            Norm(out), nn.SiLU(), nn.Dropout(dropout), nn.Conv2d(out, out, 3, padding=1)
        )
        self.skip_connection = nn.Identity() if channels == out else nn.Conv2d(channels, out, 1)

    def forward(self, x: Tensor, level: Tensor) -> Tensor:
        """`x` N, channels, H, W and the embedding `level` N, embedding to N, out, H', W'."""
        norm, activation, convolution = self.in_layers
        y = convolution(self.resample(activation(norm(x))))
        scale, shift = self.emb_layers(level)[:, :, None, None].chunk(2, dim=1)
        norm, activation, dropout, convolution = self.out_layers
        y = torch.addcmul(shift, norm(y), 1 + scale)
        y = convolution(dropout(activation(y)))
        return self.skip_connection(self.resample(x)) + y


class Attention(nn.Module):
    """Every position looks at every other one.

    Args:
        channels: of the features.
        head: channels of each head.
    """

    def __init__(self, channels: int, head: int):
        super().__init__()
        if channels % head:
            raise UserError(f"network.head={head} does not divide {channels} channels")
        self.heads = channels // head
        self.norm = Norm(channels)
        self.qkv = nn.Conv1d(channels, 3 * channels, 1)
        self.proj_out = nn.Conv1d(channels, channels, 1)

    def forward(self, x: Tensor, level: Tensor) -> Tensor:
        """`x` N, channels, H, W to the same; γ plays no part."""
        N, C, H, W = x.shape
        # One head's query, key and value lie together, then the next head's.
        qkv = self.qkv(self.norm(x).flatten(2)).view(N, self.heads, 3, C // self.heads, H * W)
        query, key, value = (z.contiguous() for z in qkv.transpose(-1, -2).unbind(2))
        attended = F.scaled_dot_product_attention(query, key, value)
        return x + self.proj_out(attended.transpose(-1, -2).reshape(N, C, H * W)).view(N, C, H, W)


class Steps(nn.ModuleList):
    """One after the other; only blocks ask for γ's embedding."""

    def forward(self, x: Tensor, level: Tensor) -> Tensor:
        for step in self:
            x = step(x) if isinstance(step, nn.Conv2d) else step(x, level)
        return x


class UNet(nn.Module):
    """Predicts the noise in a picture, or what else `Palette.predicts` says.

    Args:
        inputs: channels: what it is conditioned on and the noisy picture.
        outputs: channels of the prediction.
        features: what the multipliers multiply; γ is embedded in four times as many channels.
        multipliers: channels at each resolution, halved from one to the next, are so many times
            the features; they must be multiples of 32.
        blocks: at each resolution, downwards; upwards there is one more.
        attention: factors of downsampling at which there is attention, besides the middle.
        head: channels of each attention head.
        dropout: in training.
        patch: side of the squares of pixels that become the channels of one position, as Luhman and
            Luhman, "Improving Diffusion Model Efficiency Through Patching" (2022), do it.
    """

    def __init__(
        self,
        inputs: Positive = 6,
        outputs: Positive = 3,
        features: Positive = 64,
        multipliers: Annotated[list[Positive], Field(min_length=1)] = [1, 2, 4, 8],  # noqa: B006
        blocks: Positive = 2,
        attention: list[Positive] = [16],  # noqa: B006
        head: Positive = 32,
        dropout: Annotated[float, Field(ge=0, lt=1)] = 0.2,
        patch: Positive = 1,
    ):
        super().__init__()
        self.features, self.patch = features, patch
        self.multiple = patch * 2 ** (len(multipliers) - 1)
        level = 4 * features
        self.cond_embed = nn.Sequential(
            nn.Linear(features, level), nn.SiLU(), nn.Linear(level, level)
        )

        def block(before: int, after: int, resample: nn.Module | None = None) -> Block:
            return Block(before, after, level, dropout, resample)

        channels = features * multipliers[0]
        first = nn.Conv2d(inputs * patch**2, channels, 3, padding=1)
        self.input_blocks = nn.ModuleList([Steps([first])])
        kept, factor = [channels], 1
        for place, multiplier in enumerate(multipliers):
            for _ in range(blocks):
                steps = Steps([block(channels, features * multiplier)])
                channels = features * multiplier
                if factor in attention:
                    steps.append(Attention(channels, head))
                self.input_blocks.append(steps)
                kept.append(channels)
            if place < len(multipliers) - 1:
                self.input_blocks.append(Steps([block(channels, channels, nn.AvgPool2d(2))]))
                kept.append(channels)
                factor *= 2
        self.middle_block = Steps(
            [block(channels, channels), Attention(channels, head), block(channels, channels)]
        )
        self.output_blocks = nn.ModuleList()
        for place, multiplier in reversed([*enumerate(multipliers)]):
            for number in range(blocks + 1):
                steps = Steps([block(channels + kept.pop(), features * multiplier)])
                channels = features * multiplier
                if factor in attention:
                    steps.append(Attention(channels, head))
                if place and number == blocks:
                    steps.append(block(channels, channels, nn.UpsamplingNearest2d(scale_factor=2)))
                    factor //= 2
                self.output_blocks.append(steps)
        self.out = nn.Sequential(
            Norm(channels), nn.SiLU(), nn.Conv2d(channels, outputs * patch**2, 3, padding=1)
        )
        for part in self.modules():  # as the public implementation begins, last layers included
            if isinstance(part, nn.Conv2d | nn.Conv1d | nn.Linear):
                nn.init.kaiming_normal_(part.weight)
                nn.init.zeros_(part.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor, gamma_N1: Tensor) -> Tensor:
        """The prediction N, outputs, H, W of `x` N, inputs, H, W; sides divide by `multiple`."""
        level = self.cond_embed(embedding(gamma_N1[:, 0], self.features))
        x = F.pixel_unshuffle(x, self.patch)
        kept = []
        for steps in self.input_blocks:
            x = steps(x, level)
            kept.append(x)
        x = self.middle_block(x, level)
        for steps in self.output_blocks:
            x = steps(torch.cat([x, kept.pop()], 1), level)
        return F.pixel_shuffle(self.out(x), self.patch)


def embedding(gamma_N: Tensor, channels: int) -> Tensor:
    """Cosines, then sines, of γ at frequencies from 1 down to 1/10000; N, channels.

    Where the number of channels is odd, the last one is zero.
    """
    half = channels // 2
    steps = torch.arange(half, dtype=torch.float32, device=gamma_N.device)
    angles = gamma_N.float()[:, None] * torch.exp(-math.log(10_000) / half * steps)
    return F.pad(torch.cat([angles.cos(), angles.sin()], 1), (0, channels % 2))
