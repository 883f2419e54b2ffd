"""C2-Matching: dynamic aggregation of what a trained matching finds in the reference.

Jiang, Chan, Wang, Loy, Liu: "Robust Reference-based Super-Resolution via C2-Matching", CVPR 2021.
"""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Annotated

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from restore.models.attention import TextureAttention
from restore.models.backbones import family_layouts
from restore.models.backbones.blocks import SubPixel, conv, named, through
from restore.models.backbones.reference import Aggregation, Found, ReferenceBackbone
from restore.models.backbones.rows import Rows, together
from restore.models.backbones.transfer import LEAK
from restore.models.backbones.upsampling import bilinear
from restore.models.extractors import Extractor
from restore.models.protocol import Recognised

Make = Callable[..., nn.Module]


class C2Matching(ReferenceBackbone):
    """Content features take in textures at ×1, ×2 and ×4; the result is added to the bilinear one.

    Args:
        attention, extractor: see `ReferenceBackbone`.
        transfer: makes what fetches the textures of a scale (published: `deformable`).
        fusion: makes what takes them in (published: `merged`).
        trunk: makes residual blocks of (features, count).
        features: channels.
        blocks: residual blocks of each scale.
        content_blocks: residual blocks before the first texture.
    """

    def __init__(
        self,
        attention: TextureAttention,
        extractor: Extractor,
        transfer: Make,
        fusion: Make,
        trunk: Make,
        features: Annotated[int, Field(ge=2)] = 64,
        blocks: Annotated[int, Field(ge=0)] = 16,
        content_blocks: Annotated[int, Field(ge=0)] = 16,
    ):
        super().__init__(attention, extractor)
        self.head = conv(3, features)
        self.content = trunk(features, content_blocks)
        self.stages = nn.ModuleList(
            Aggregation(features, texture, blocks, transfer, fusion, trunk)
            for texture in self.transferred.values()
        )
        self.enlarge = nn.ModuleList(SubPixel(features) for _ in range(2))
        self.tail1, self.tail2 = conv(features, features // 2), conv(features // 2, 3)

    def restore(
        self, low: Tensor, low_up: Tensor, matched: Found
    ) -> tuple[Tensor, dict[str, Tensor]]:
        x, trunk_masks = through(self.content, F.leaky_relu_(self.head(low), LEAK))
        masks = named(trunk_masks, "content")
        for place, (scale, stage) in enumerate(zip(self.transferred, self.stages)):
            assert isinstance(stage, Aggregation)
            make = partial(self._stage, place, scale, x, matched, masks)
            # What enlarges; the last two convolutions.
            reach = stage.reach(scale, before=2, behind=2)
            parts = self.in_parts(low, scale, x.shape[1], reach, stage.step)
            x = together(make, parts, scale)
        return x.float() + bilinear(low, 4), masks

    def _stage(
        self,
        place: int,
        scale: int,
        x: Tensor,
        matched: Found,
        masks: dict[str, Tensor],
        some: Rows,
    ) -> Tensor:
        """Some rows of a scale's features, of the last one's picture, made of those before."""
        if place:
            y = F.leaky_relu_(self.enlarge[place - 1](some.of(x, scale // 2)), LEAK)
        else:
            y = some.of(x)
        y, trunk_masks = self.stages[place](y, scale, matched, top=some.first * scale)
        masks |= named(trunk_masks, f"stages.{place}.trunk")
        if place == 2:
            y = self.tail2(F.leaky_relu_(self.tail1(y), LEAK))
        return some.wanted(y, scale)

    @classmethod
    def recognise(cls, published: Mapping[str, Tensor], path: Path) -> Recognised | None:
        return family_layouts.c2_matching(published)
