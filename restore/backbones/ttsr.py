"""TTSR: the texture transformer network for reference super-resolution.

Yang, Yang, Fu, Lu, Guo: "Learning Texture Transformer Network for Image Super-Resolution",
CVPR 2020 (below: TTSR), figures 2-4.
"""

import re
from collections.abc import Mapping
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from restore.attention import Memory, TextureAttention
from restore.backbones.blocks import ResidualBlock, conv, keep_variance, repeat, shrink
from restore.backbones.extractor import TextureExtractor
from restore.errors import UserError
from restore.types import Restoration


class ShallowFeatures(nn.Module):
    """Features of the low picture before any texture arrives (TTSR: "SFE")."""

    def __init__(self, features: int, blocks: int, residual_scale: float):
        super().__init__()
        self.head = conv(3, features)
        self.blocks = repeat(blocks, lambda: ResidualBlock(features, residual_scale))
        self.tail = conv(features, features)

    def forward(self, low_N3HW: Tensor) -> Tensor:
        x = F.relu(self.head(low_N3HW))
        return x + self.tail(self.blocks(x))


class Resampler(nn.Module):
    """Brings the features of one scale to another, `ratio` = target scale / source scale."""

    def __init__(self, features: int, source: int, target: int):
        super().__init__()
        self.ratio = target / source
        if target > source:
            self.convs = nn.ModuleList([conv(features, features, kernel=1)])
        else:  # halve as often as needed
            steps = (source // target).bit_length() - 1
            self.convs = nn.ModuleList(conv(features, features, stride=2) for _ in range(steps))

    def forward(self, x: Tensor) -> Tensor:
        if self.ratio > 1:
            # A 1×1 convolution commutes with bicubic interpolation, whose weights add up to one;
            # before it, it has ratio² times fewer pixels to work on.
            return F.relu(upsample(self.convs[0](x), int(self.ratio)))
        for layer in self.convs:
            x = F.relu(layer(x))
        return x


def upsample(x: Tensor, ratio: int) -> Tensor:
    """Bicubic (a = −0.75, as torch has it) upsampling by a whole ratio."""
    return F.interpolate(x, scale_factor=ratio, mode="bicubic", align_corners=False)


class Exchange(nn.Module):
    """Cross-scale feature integration (TTSR section 3.3): every scale hears all others."""

    def __init__(self, features: int, scales: list[int]):
        super().__init__()
        self.paths = nn.ModuleDict(
            {
                f"{i}to{j}": Resampler(features, source, target)
                for j, target in enumerate(scales)
                for i, source in enumerate(scales)
                if i != j
            }
        )
        self.merges = nn.ModuleList(conv(features * len(scales), features) for _ in scales)

    def forward(self, xs: list[Tensor]) -> list[Tensor]:
        merged = []
        for j, merge in enumerate(self.merges):
            others = [self.paths[f"{i}to{j}"](x) for i, x in enumerate(xs) if i != j]
            merged.append(F.relu(merge(torch.cat([xs[j], *others], dim=1))))
        return merged


class Enlargement(nn.Module):
    """Sub-pixel upsampling: convolution, shuffle, ReLU."""

    def __init__(self, features: int, ratio: int):
        super().__init__()
        self.conv = conv(features, features * ratio**2)
        self.ratio = ratio

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(F.pixel_shuffle(self.conv(x), self.ratio))


class Stage(nn.Module):
    """One scale joins: its features are made, take in their texture, and all scales talk.

    TTSR equation 7, `F + conv(cat(F, T)) · S`, then the exchange and residual blocks of a scale.
    """

    def __init__(
        self, features: int, scales: list[int], texture: int, blocks: int, residual_scale: float
    ):
        super().__init__()
        first = len(scales) == 1
        self.scale = scales[-1]
        self.enlarge = None if first else Enlargement(features, scales[-1] // scales[-2])
        self.fuse = conv(features + texture, features)
        self.exchange = None if first else Exchange(features, scales)
        self.trunks = nn.ModuleList(
            repeat(blocks, lambda: ResidualBlock(features, residual_scale)) for _ in scales
        )
        self.tails = nn.ModuleList(conv(features, features) for _ in scales)

    def forward(self, xs: list[Tensor], texture: Tensor, score: Tensor) -> list[Tensor]:
        if self.enlarge is not None:
            xs = [*xs, self.enlarge(xs[-1])]
        if self.scale > 1:
            score = upsample(score, self.scale)
        fused = self.fuse(torch.cat([xs[-1], texture.to(xs[-1].dtype)], dim=1))
        xs = [*xs[:-1], xs[-1] + fused * score.to(fused.dtype)]
        ys = xs if self.exchange is None else self.exchange(xs)
        return [x + tail(trunk(y)) for x, y, trunk, tail in zip(xs, ys, self.trunks, self.tails)]


class Merge(nn.Module):
    """All scales to one picture."""

    def __init__(self, features: int, scales: list[int]):
        super().__init__()
        self.paths = nn.ModuleList(Resampler(features, s, scales[-1]) for s in scales[:-1])
        self.merge = conv(features * len(scales), features)
        self.tail1 = conv(features, features // 2)
        self.tail2 = conv(features // 2, 3, kernel=1)

    def forward(self, xs: list[Tensor]) -> Tensor:
        others = [path(x) for path, x in zip(self.paths, xs)]
        x = F.relu(self.merge(torch.cat([xs[-1], *others], dim=1)))
        return self.tail2(self.tail1(x))


class TTSR(nn.Module):
    """Texture transformer for ×4 super-resolution with a reference.

    Args:
        attention: texture attention (`restore.attention.TextureAttention`).
        extractor: makes the features that are compared and transferred
            (`restore.backbones.extractor.TextureExtractor`); its three outputs, fine to coarse,
            have the sizes of scales 4, 2 and 1 of the low picture.
        blocks: residual blocks of the shallow features, then of the stages at ×1, ×2, ×4.
        features: channels of the main network.
        residual_scale: factor on each residual block's branch.
        variance_init: start from weights that keep the variance of what passes through (He et al.,
            ICCV 2015), residual branches at a tenth, rather than torch's smaller ones, with which
            hardly anything reaches the last layers at first. Not in the paper.
        global_skip: add the network's output to the bicubically upsampled input, with the last
            layer starting at zero, so that an untrained network is bicubic. Not in the paper.
    """

    scale = 4
    takes_reference = True
    attention: TextureAttention
    extractor: TextureExtractor

    def __init__(
        self,
        attention: TextureAttention,
        extractor: TextureExtractor,
        blocks: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=4, max_length=4)],
        features: Annotated[int, Field(ge=2)] = 64,
        residual_scale: float = 1.0,
        global_skip: bool = False,
        variance_init: bool = False,
    ):
        super().__init__()
        scales = [1, 2, 4]
        self.extractor = extractor
        self.attention = attention
        self.shallow = ShallowFeatures(features, blocks[0], residual_scale)
        textures = reversed(extractor.channels)
        self.stages = nn.ModuleList(
            Stage(features, scales[: i + 1], texture, count, residual_scale)
            for i, (texture, count) in enumerate(zip(textures, blocks[1:]))
        )
        self.merge = Merge(features, scales)
        if variance_init:
            ends = [self.shallow.tail]
            for stage in self.stages:
                ends += [stage.fuse, *stage.tails]
            for part in (self.shallow, self.stages, self.merge):
                keep_variance(part)
            shrink(ends)
        self.global_skip = global_skip
        if global_skip:
            nn.init.zeros_(self.merge.tail2.weight)
            nn.init.zeros_(self.merge.tail2.bias)  # type: ignore[arg-type]
        # How far, in low pixels, an input pixel reaches into the output through the convolutions
        # and the interpolation; an upper bound, so tiles that overlap by it show no seam.
        stage_reach = sum(6 + 2 * count for count in blocks[2:])
        self.reach = max(2 + 2 * blocks[0], 7) + 2 + 2 * blocks[1] + stage_reach + 5

    def remember(self, reference: Tensor, reference_low_up: Tensor) -> Memory:
        """The reference side of the attention, reusable for any number of inputs.

        Args:
            reference: N3HW in [0, 1], H and W divisible by 4.
            reference_low_up: the same picture after ÷4 and ×4, same shape.
        """
        if reference.shape[-2] % 4 or reference.shape[-1] % 4:
            raise UserError(
                f"TTSR needs a reference whose sides divide by 4, not "
                f"{reference.shape[-1]}×{reference.shape[-2]} pixels: crop it"
            )
        keys = self.extractor(reference_low_up)[-1]
        values = self.extractor(reference)
        return self.attention.remember(keys, list(reversed(values)))

    def forward(
        self,
        low: Tensor,
        low_up: Tensor,
        reference: Tensor | None = None,
        reference_low_up: Tensor | None = None,
        memory: Memory | None = None,
    ) -> Restoration:
        """Restores `low`; needs `reference` and `reference_low_up`, or `memory` of them.

        Args:
            low: N3HW in [0, 1].
            low_up: N3(4H)(4W) in [0, 1], `low` upsampled.
            reference: N3(H')(W') in [0, 1], any size divisible by 4.
            reference_low_up: the same after ÷4 and ×4.
            memory: what `remember` returned, instead of the two.

        Returns:
            Image N3(4H)(4W) in [0, 1]; aux: `score` N1HW, `textures` at ×1, ×2, ×4 and `index`.
        """
        if memory is None:
            if reference is None or reference_low_up is None:
                raise UserError("TTSR needs a reference picture and got none")
            memory = self.remember(reference, reference_low_up)
        query = self.extractor(low_up)[-1]
        transfer = self.attention(query, memory)
        xs = [self.shallow(low * 2 - 1)]
        for stage, texture in zip(self.stages, transfer.textures):
            xs = stage(xs, texture, transfer.score)
        image = self.merge(xs).float()
        if self.global_skip:
            image = image + (low_up * 2 - 1)
        image = (image.clamp(-1, 1) + 1) / 2
        aux = {
            "score": transfer.score,
            "textures": transfer.textures,
            "index": transfer.index,
        }
        return Restoration(image, aux)

    @classmethod
    def recognise(
        cls, published: Mapping[str, Tensor]
    ) -> tuple[list[str], dict[str, Tensor]] | None:
        """Configuration overrides and renamed weights for a published TTSR state dict.

        Returns None for a state dict of anything else. Raises UserError for one that is a TTSR
        but holds what this class has no place for.
        """
        if "MainNet.SFE.conv_head.weight" not in published:
            return None
        renamed = {}
        counts = [0, 0, 0, 0]
        for name, value in published.items():
            own = _own_name(name)
            if own is None:
                raise UserError(
                    f"the file holds a TTSR variant that is not supported: no place for '{name}'"
                )
            for place, prefix in enumerate(["shallow.blocks", *_TRUNKS]):
                if found := re.match(re.escape(prefix) + r"\.(\d+)\.", own):
                    counts[place] = max(counts[place], int(found[1]) + 1)
            renamed.update(_convert(own, value))
        features = published["MainNet.SFE.conv_head.weight"].shape[0]
        overrides = [
            "backbone=ttsr",
            f"backbone.blocks={counts}".replace(" ", ""),
            f"backbone.features={features}",
            "backbone.global_skip=false",
            "backbone.variance_init=false",
            "attention=hard",
        ]
        return overrides, renamed


_TRUNKS = ["stages.0.trunks.0", "stages.1.trunks.0", "stages.2.trunks.0"]

# The published names, which count scales from 1, by pattern; {0}, {1}, … are the groups found,
# and a name with a trailing minus sign stands for the group less one.
_NAMES: list[tuple[str, Any]] = [
    (r"MainNet\.SFE\.conv_(head|tail)\.(.*)", lambda g: f"shallow.{g[0]}.{g[1]}"),
    (r"MainNet\.SFE\.RBs\.(.*)", lambda g: f"shallow.blocks.{g[0]}"),
    (r"MainNet\.conv(\d)\1_head\.(.*)", lambda g: f"stages.{int(g[0]) - 1}.fuse.{g[1]}"),
    (
        r"MainNet\.RB(\d)(\d)\.(.*)",
        lambda g: f"stages.{int(g[0]) - 1}.trunks.{int(g[1]) - 1}.{g[2]}",
    ),
    (
        r"MainNet\.conv(\d)(\d)_tail\.(.*)",
        lambda g: f"stages.{int(g[0]) - 1}.tails.{int(g[1]) - 1}.{g[2]}",
    ),
    (r"MainNet\.conv(12|23)\.(.*)", lambda g: f"stages.{g[0][0]}.enlarge.conv.{g[1]}"),
    (
        r"MainNet\.ex(12|123)\.conv_merge(\d)\.(.*)",
        lambda g: f"stages.{len(g[0]) - 1}.exchange.merges.{int(g[1]) - 1}.{g[2]}",
    ),
    (
        r"MainNet\.ex(12|123)\.conv(\d)(\d)(?:_(\d))?\.(.*)",
        lambda g: (
            f"stages.{len(g[0]) - 1}.exchange.paths.{int(g[1]) - 1}to{int(g[2]) - 1}"
            f".convs.{int(g[3] or 1) - 1}.{g[4]}"
        ),
    ),
    (
        r"MainNet\.merge_tail\.conv(\d)3\.(.*)",
        lambda g: f"merge.paths.{int(g[0]) - 1}.convs.0.{g[1]}",
    ),
    (r"MainNet\.merge_tail\.conv_merge\.(.*)", lambda g: f"merge.merge.{g[0]}"),
    (r"MainNet\.merge_tail\.conv_tail(\d)\.(.*)", lambda g: f"merge.tail{g[0]}.{g[1]}"),
    (r"LTE\.slice\d\.(\d+)\.(.*)", lambda g: f"extractor.layers.{g[0]}.{g[1]}"),
    (r"LTE\.sub_mean\.(.*)", lambda g: f"extractor.normalisation.{g[0]}"),
]


def _own_name(published: str) -> str | None:
    for pattern, build in _NAMES:
        if found := re.fullmatch(pattern, published):
            return build(found.groups())
    return None


def _convert(name: str, value: Tensor) -> dict[str, Tensor]:
    """The published 1×1 convolution that normalises colours, as one factor and shift a channel."""
    if name == "extractor.normalisation.weight":
        matrix = value.flatten(1)
        if not torch.equal(matrix, torch.diag(matrix.diagonal())):
            raise UserError("the file's LTE.sub_mean mixes colour channels; TTSR's never does")
        return {"extractor.factor": matrix.diagonal().clone()}
    if name == "extractor.normalisation.bias":
        return {"extractor.shift": value}
    return {name: value}
