"""TTSR: the texture transformer network for reference super-resolution.

Yang, Yang, Fu, Lu, Guo: "Learning Texture Transformer Network for Image Super-Resolution",
CVPR 2020 (below: TTSR), figures 2-4.
"""

import math
from collections.abc import Callable, Mapping
from itertools import chain, pairwise
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from restore.errors import UserError
from restore.models.attention import Memory, TextureAttention
from restore.models.backbones import ttsr_layouts
from restore.models.backbones.base import Base
from restore.models.backbones.blocks import (
    SubPixel,
    conv,
    keep_variance,
    named,
    shrink,
    side_by_side,
    within,
)
from restore.models.backbones.fusion import Gate, PlainFusion
from restore.models.backbones.partial_view import PartialView
from restore.models.backbones.reference import Found, ReferenceBackbone
from restore.models.backbones.rows import Rows, together
from restore.models.backbones.transfer import FoldedTransfer
from restore.models.backbones.upsampling import bilinear, upsample
from restore.models.backbones.view import MatchedView, unheld
from restore.models.extractors import Extractor
from restore.models.protocol import Recognised
from restore.types import Pictures, Restoration

Scale = Literal[1, 2, 4]
# What a part makes for a number of channels and whatever else it is made for.
Make = Callable[..., nn.Module]


class ShallowFeatures(nn.Module):
    """Features of the low picture before any texture arrives (TTSR: "SFE")."""

    def __init__(self, features: int, blocks: int, trunk: Make, inputs: int = 3):
        super().__init__()
        self.head = conv(inputs, features)
        self.trunk = trunk(features, blocks)
        self.tail = conv(features, features)

    def forward(self, low_NCHW: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Features, and the masks of the trunk's blocks."""
        x = F.relu_(self.head(low_NCHW))
        y, masks = self.trunk(x)
        return self.tail(y).add_(x), masks


class Resampler(nn.Module):
    """Brings features from one scale to another of `scales`, places `source` and `target`."""

    def __init__(self, features: int, scales: list[int], source: int, target: int):
        super().__init__()
        self.ratio = scales[target] / scales[source]
        if target > source:
            self.convs = nn.ModuleList([conv(features, features, kernel=1)])
        else:  # by way of the scales in between
            steps = [fine // coarse for coarse, fine in pairwise(scales[target : source + 1])]
            self.convs = nn.ModuleList(conv(features, features, stride=step) for step in steps)

    def forward(self, x: Tensor) -> Tensor:
        if self.ratio > 1:
            # A 1×1 convolution commutes with bicubic interpolation, whose weights add up to one;
            # before it, it has ratio² times fewer pixels to work on.
            return F.relu_(upsample(self.convs[0](x), int(self.ratio)))
        for layer in self.convs:
            x = F.relu_(layer(x))
        return x


class Exchange(nn.Module):
    """Cross-scale feature integration (TTSR section 3.3): every scale hears all others."""

    def __init__(self, features: int, scales: list[int]):
        super().__init__()
        self.paths = nn.ModuleDict(
            {
                f"{i}to{j}": Resampler(features, scales, i, j)
                for j in range(len(scales))
                for i in range(len(scales))
                if i != j
            }
        )
        self.merges = nn.ModuleList(conv(features * len(scales), features) for _ in scales)

    def forward(self, xs: list[Tensor]) -> list[Tensor]:
        merged = []
        for j, merge in enumerate(self.merges):
            assert isinstance(merge, nn.Conv2d)
            others = (self.paths[f"{i}to{j}"](x) for i, x in enumerate(xs) if i != j)
            merged.append(F.relu_(side_by_side(merge, chain([xs[j]], others))))
        return merged


class ScaleStage(nn.Module):
    """One scale joins: its features are made, take in their texture, and all scales talk.

    Args:
        features: channels.
        scales: the scales so far, the one that joins last.
        blocks: of each scale's trunk.
        trunk: makes a trunk of (features, blocks), see `blocks.ResidualTrunk`.
        fusion: takes in the texture (`restore.models.backbones.fusion`); None: this scale has none.
        transfer: brings it to its place (`restore.models.backbones.transfer`), where there is one.
        exchange: makes the exchange of (features, scales); None: coarser scales end here.
    """

    def __init__(
        self,
        features: int,
        scales: list[int],
        blocks: int,
        trunk: Make,
        fusion: nn.Module | None,
        transfer: nn.Module | None,
        exchange: Make | None,
    ):
        super().__init__()
        first = len(scales) == 1
        self.scale = scales[-1]
        self.enlarge = None if first else SubPixel(features, scales[-1] // scales[-2])
        self.fusion, self.transfer = fusion, transfer
        self.exchange = None if first or exchange is None else exchange(features, scales)
        going_on = scales if exchange is not None else scales[-1:]
        self.trunks = nn.ModuleList(trunk(features, blocks) for _ in going_on)
        self.tails = nn.ModuleList(conv(features, features) for _ in going_on)

    def forward(
        self,
        xs: list[Tensor],
        matched: Found,
        details: Tensor | None = None,
        top: int = 0,
    ) -> tuple[list[Tensor], dict[str, Tensor]]:
        """Features of the scales that go on, and masks by the names of their blocks.

        `details` are added to the features that are made here. All are of a picture's rows from
        `top`, in low pixels.
        """
        x = xs[-1] if self.enlarge is None else F.relu_(self.enlarge(xs[-1]))
        if details is not None:
            x = x + details
        if self.fusion is not None and self.transfer is not None:
            texture, first = matched.textures[self.scale], top * self.scale
            texture = self.transfer(x, texture, matched.flow, matched.score, first)
            rows = slice(top, top + x.shape[-2] // self.scale)
            x = self.fusion(x, texture, matched.score[..., rows, :])
            del texture
        coarser = xs[: len(self.trunks) - 1]
        xs = [*coarser, x]
        ys = xs if self.exchange is None else self.exchange(xs)
        results: list[Tensor] = []
        masks: dict[str, Tensor] = {}
        for place, (x, y, trunk, tail) in enumerate(zip(xs, ys, self.trunks, self.tails)):
            y, block_masks = trunk(y)
            results.append(tail(y).add_(x))
            masks |= named(block_masks, f"trunks.{place}")
        return results, masks

    def reach(self) -> int | None:
        """How far, in low pixels, features before and the score are felt in those that go on."""
        trunks: list[int | None] = [getattr(trunk, "reach", None) for trunk in self.trunks]
        whole = any(reach is None for reach in trunks)
        if whole or (self.fusion is not None and self.fusion.whole_picture):
            return None
        # The coarsest scale's are felt farthest. What enlarges, the transfer's convolutions and the
        # fusion, the score, what brings fine features down, the merging, the tail.
        return max(reach for reach in trunks if reach is not None) + 1 + 1 + 2 + 2 + 1 + 1


class Merge(nn.Module):
    """All scales to one picture."""

    def __init__(self, features: int, scales: list[int]):
        super().__init__()
        last = len(scales) - 1
        self.paths = nn.ModuleList(Resampler(features, scales, i, last) for i in range(last))
        self.merge = conv(features * len(scales), features) if last else None
        self.tail1 = conv(features, features // 2)
        self.tail2 = conv(features // 2, 3, kernel=1)

    def forward(self, xs: list[Tensor]) -> Tensor:
        x = xs[-1]
        if self.merge is not None:
            others = (path(x) for path, x in zip(self.paths, xs))
            x = F.relu_(side_by_side(self.merge, chain([x], others)))
        # Nothing stands between the last two convolutions: they are one, with few outputs.
        last, before = self.tail2.weight.flatten(1), self.tail1.weight
        weight = (last @ before.flatten(1)).view(last.shape[0], *before.shape[1:])
        bias = last @ self.tail1.bias + self.tail2.bias  # type: ignore[operator]
        return F.conv2d(x, weight, bias.to(weight.dtype), padding=1)


class TTSR(ReferenceBackbone):
    """Texture transformer for ×4 super-resolution with a reference.

    Args:
        attention: texture attention (`restore.models.attention.TextureAttention`).
        extractor: makes the features that are compared and transferred
            (`restore.models.extractors.Extractor`); its three outputs, fine to
            coarse, have the sizes of scales 4, 2 and 1 of the low picture.
        blocks: residual blocks of the shallow features, then of the stage of each scale.
        trunk: makes residual blocks of (features, count), see `blocks.ResidualTrunk`.
        fusion: makes what takes in a texture, of (features, the texture's channels), see
            `restore.models.backbones.fusion`.
        exchange: makes what lets the scales hear each other, of (features, scales), see
            `Exchange`; None: each scale ends where the next begins.
        scales: sizes of the features relative to the low picture, from 1, rising, to 4.
        textures: scales at which textures are transferred; a stage at another scale has none.
        features: channels of the main network.
        variance_init: start from weights that keep the variance of what passes through (He et al.,
            ICCV 2015), residual branches at a tenth, rather than torch's smaller ones, with which
            hardly anything reaches the last layers at first. Not in the paper.
        global_skip: add the network's output to the bicubically upsampled input, with the last
            layer starting at zero, so that an untrained network is bicubic. Not in the paper.
        inputs: channels of the low picture; the fourth is a mask of its holes, for tasks that hand
            one over (`task.coding: mask_channel`). Not in the paper.
        transfer: makes what brings a texture to its place, of (features, the texture's channels),
            see `restore.models.backbones.transfer`.
        details: the finest scale also sees `low_up` (and, with four inputs, the mask at its size)
            as it is: where `low_up` holds more than `low`, as in `partial_sr`, or is that of
            `base`. Not in the paper.
        base: a network without a reference, whose picture takes the place of `low_up`; see
            `restore.models.backbones.base`. Not in the paper.
        view: see `ReferenceBackbone`. Not in the paper. A `PartialView` takes the place of `low_up`
            in what the network adds to (`global_skip`), and the finest scale sees both.
        gate: makes of the score a factor on what the network adds to `low_up`, so it goes with
            `global_skip`; see `restore.models.backbones.fusion.Gate`. With `base`, what no
            reference fits is as `base` has it. Not in the paper.
    """

    def __init__(
        self,
        attention: TextureAttention,
        extractor: Extractor,
        blocks: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=2)],
        trunk: Make,
        fusion: Make,
        exchange: Make | None,
        scales: Annotated[list[Scale], Field(min_length=1)],
        textures: Annotated[list[Scale], Field(min_length=1)],
        features: Annotated[int, Field(ge=2)] = 64,
        global_skip: bool = False,
        variance_init: bool = False,
        inputs: Literal[3, 4] = 3,
        details: bool = False,
        transfer: Make = FoldedTransfer,
        base: Base | None = None,
        view: MatchedView | None = None,
        gate: Gate | None = None,
    ):
        _check(blocks, scales, textures)
        if base is not None and (base.scale, inputs) != (self.scale, 3):
            raise UserError(
                f"backbone.base: its network must enlarge {self.scale} times, not {base.scale}, "
                "and it goes with backbone.inputs=3"
            )
        if gate is not None and not global_skip:
            raise UserError("backbone.gate goes with backbone.global_skip=true")
        super().__init__(attention, extractor, textures, view)
        self.shallow = ShallowFeatures(features, blocks[0], trunk, inputs)
        self.inputs, self.takes_mask = inputs, inputs == 4
        self.composes = isinstance(view, PartialView)
        fine = inputs + (3 if self.composes else 0)
        self.details = conv(fine, features) if details else None
        channels = self.transferred
        self.stages = nn.ModuleList(
            ScaleStage(
                features,
                [*scales[: i + 1]],
                blocks[i + 1],
                trunk,
                fusion(features, channels[scale]) if scale in textures else None,
                transfer(features, channels[scale]) if scale in textures else None,
                exchange,
            )
            for i, scale in enumerate(scales)
        )
        # Scales of the features that the last stage begins with.
        self.before_last = [*scales[:-1]] if exchange is not None else [*scales[-2:-1]]
        self.merge = Merge(features, [*scales] if exchange is not None else [scales[-1]])
        if variance_init:
            ends: list[nn.Module] = [self.shallow.tail]
            for part in self.stages.modules():
                if isinstance(part, PlainFusion):
                    ends.append(part.conv)
                elif isinstance(part, ScaleStage):
                    ends += part.tails
            begun: list[nn.Module | None] = [self.shallow, self.stages, self.merge, self.details]
            for module in begun:
                if module is not None:
                    keep_variance(module)
            shrink(ends)
        self.base, self.gate = base, gate
        if view is not None and self.looks:
            raise UserError("backbone.view goes with transfer=folded")
        self.global_skip = global_skip
        if global_skip:
            nn.init.zeros_(self.merge.tail2.weight)
            nn.init.zeros_(self.merge.tail2.bias)  # type: ignore[arg-type]
        self.reach = self._reach(blocks)

    def _reach(self, blocks: list[int]) -> int | None:
        """How far, in low pixels, an input pixel reaches into the output.

        That is through the convolutions and the interpolation; an upper bound, so tiles that
        overlap by it show no seam. None: everywhere, as a part takes means over the whole picture,
        or unknown.
        """
        if any(getattr(part, "whole_picture", False) for part in self.modules()):
            return None
        if self.extractor.reach is None:
            return None
        if self.looks:  # offsets have no bound
            return None
        # Bicubic, the features, and what is compared of them.
        matched = self.extractor.reach + 1 + self.attention.matching.reach
        if self.view is not None:
            matched += self.view.reach + 2  # and the features of the view
        later = sum(6 + 2 * count for count in blocks[2:])
        first = max(2 + 2 * blocks[0], matched)
        if self.base is not None:
            if self.base.reach is None:
                return None
            first = max(first, self.base.reach)
        return first + 2 + 2 * blocks[1] + later + 5 + (self.details is not None)

    def forward(
        self,
        low: Tensor,
        low_up: Tensor,
        reference: Pictures | None = None,
        reference_low_up: Pictures | None = None,
        reference_low: Pictures | None = None,
        memory: Memory | None = None,
        mask: Tensor | None = None,
        mask_up: Tensor | None = None,
    ) -> Restoration:
        """Restores `low` with `reference` and `reference_low_up`, or `memory` of them.

        With none of them there are no textures: zeros, with the score 0.

        Args:
            low: N3HW in [0, 1].
            low_up: N3(4H)(4W) in [0, 1], `low` upsampled.
            reference: N3(H')(W') in [0, 1], any size divisible by 4, or several of them.
            reference_low_up: the same after ÷4 and ×4.
            reference_low: the same after ÷4, for extractors that compare it.
            memory: what `encode_reference` returned, instead of the two.
            mask: N1HW, 1 = hole of the low picture, for a network with four inputs.
            mask_up: N1(4H)(4W), the same of `low_up`.

        Returns:
            Image N3(4H)(4W) in [0, 1]; `score` N1HW, `textures` coarse to fine, `index`, `grids`,
            and `block_masks` by the names of the blocks that were not executed everywhere.
        """
        if (mask is None) != (self.inputs == 3):
            raise UserError(
                f"backbone.inputs={self.inputs}, but the task hands over "
                f"{'a' if mask is not None else 'no'} mask: task.coding=mask_channel goes with "
                "backbone.inputs=4"
            )
        if self.base is not None:
            low_up = self.base(low)
        masks = None if mask is None or mask_up is None else (mask, mask_up)
        matched = self.find(low, low_up, reference, reference_low_up, reference_low, memory, masks)
        start = matched.view if self.composes and matched.view is not None else low_up
        seen = low if mask is None else torch.cat([low, mask], dim=1)
        x, block_masks = self.shallow(seen * 2 - 1)
        xs, gates = [x], named(block_masks, "shallow.trunk")
        details = None
        if self.details is not None:
            fine = low_up if mask_up is None else torch.cat([low_up, mask_up], dim=1)
            if self.composes:
                fine = torch.cat([fine, start], dim=1)
            details = F.relu_(self.details(fine * 2 - 1))
        for place, stage in enumerate(self.stages[:-1]):
            xs, more = stage(xs, matched)
            gates |= {f"stages.{place}.{name}": mask for name, mask in more.items()}

        def last(some: Rows) -> Tensor:
            """Some rows of the picture, of the features before the last scale's."""
            cut_xs = [some.of(x, scale) for x, scale in zip(xs, self.before_last)]
            cut_details = None if details is None else some.of(details, self.scale)
            ys, more = self.stages[-1](cut_xs, matched, cut_details, some.first)
            gates.update({f"stages.{len(self.stages) - 1}.{n}": mask for n, mask in more.items()})
            return some.wanted(self.merge(ys), self.scale)

        image = together(last, self._last_parts(low, xs), self.scale).float()
        if self.gate is not None:
            factor = self.gate(matched.score)
            judge = None if self.composes else self.view
            if judge is not None and matched.view is not None:
                factor = factor * judge.trust(matched.view, low, low_up)
            image = image * bilinear(factor, self.scale)
            if judge is not None:  # the low picture says what it holds
                image = unheld(image)
        if self.global_skip:
            image = image + (start * 2 - 1)
        image = (within(image, -1, 1) + 1) / 2
        return self.answer(image, matched, block_masks=gates)

    def _last_parts(self, low: Tensor, xs: list[Tensor]) -> list[Rows]:
        last: Any = self.stages[-1]
        reach = last.reach()
        if reach is not None:
            reach = self.scale * (reach + 4)  # bicubic, and three more convolutions
        steps = [getattr(trunk, "step", 1) for trunk in last.trunks]
        # Every scale's rows begin at multiples of their trunk's.
        return self.in_parts(low, self.scale, xs[-1].shape[1], reach, self.scale * math.lcm(*steps))

    @classmethod
    def recognise(cls, published: Mapping[str, Tensor], path: Path) -> Recognised | None:
        """See `Backbone.recognise` and `ttsr_layouts`."""
        return ttsr_layouts.recognise(published)


def _check(blocks: list[int], scales: list[Scale], textures: list[Scale]) -> None:
    if [*scales] != sorted(set(scales)) or (scales[0], scales[-1]) != (1, TTSR.scale):
        raise UserError(f"backbone.scales={scales} must rise from 1 to {TTSR.scale}")
    if len(blocks) != len(scales) + 1:
        raise UserError(
            f"backbone.blocks={blocks} must hold {len(scales) + 1} numbers: of the shallow "
            f"features, then of each scale of {scales}"
        )
    if len(set(textures)) != len(textures):
        raise UserError(f"backbone.textures={textures} names a scale twice")
