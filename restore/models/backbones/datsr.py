"""DATSR: a U-Net of Swin blocks that takes in the reference on the way down and up.

Cao, Liang, Zhang, Li, Zhang, Van Gool: "Reference-based Image Super-Resolution with Deformable
Attention Transformer", ECCV 2022.
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
from restore.models.backbones.blocks import ResidualTrunk, SubPixel, conv, named
from restore.models.backbones.reference import Aggregation, Found, ReferenceBackbone
from restore.models.backbones.rows import Rows, together
from restore.models.backbones.transfer import LEAK
from restore.models.backbones.upsampling import bilinear
from restore.models.extractors import Extractor
from restore.models.protocol import Recognised

Make = Callable[..., nn.Module]

# Scales, relative to the low picture, at which the U-Net takes in textures, in order.
PATH = (4, 2, 1, 2, 4)


class DATSR(ReferenceBackbone):
    """From the bilinearly enlarged picture down to ×1 and up again, textures taken in on each step.

    Args:
        attention, extractor: see `ReferenceBackbone`.
        transfer: makes what fetches the textures of a scale (published: `warped_deformable`).
        fusion: makes what takes them in (published: `merged`).
        trunk: makes a trunk of (features, count) (published: `swin`).
        features: channels.
        blocks: of each trunk; of `swin`, groups.
        unused_blocks: residual blocks of content features that the published network never uses;
            its files hold them. Here they are kept and not computed. None: there are none.
    """

    largest_map = 13 << 22  # windows are felt far: few rows would mean most of them twice

    def __init__(
        self,
        attention: TextureAttention,
        extractor: Extractor,
        transfer: Make,
        fusion: Make,
        trunk: Make,
        features: Annotated[int, Field(ge=2)] = 128,
        blocks: Annotated[int, Field(ge=0)] = 2,
        unused_blocks: Annotated[int, Field(ge=0)] | None = None,
    ):
        super().__init__(attention, extractor)
        self.features = features
        self.head = conv(3, features)
        if unused_blocks is not None:
            self.unused = nn.Sequential(conv(3, features), ResidualTrunk(features, unused_blocks))
            self.unused.requires_grad_(False)
        self.stages = nn.ModuleList(
            Aggregation(features, self.transferred[scale], blocks, transfer, fusion, trunk)
            for scale in PATH
        )
        self.shrink = nn.ModuleList(conv(features, features, stride=2) for _ in range(2))
        self.enlarge = nn.ModuleList(SubPixel(features) for _ in range(2))
        self.tail1, self.tail2 = conv(features, features // 2), conv(features // 2, 3)

    def restore(
        self, low: Tensor, low_up: Tensor, matched: Found
    ) -> tuple[Tensor, dict[str, Tensor]]:
        start = bilinear(low, 4)
        masks: dict[str, Tensor] = {}
        x = between = start
        for place, (scale, stage) in enumerate(zip(PATH, self.stages)):
            assert isinstance(stage, Aggregation)
            make = partial(self._stage, place, x, start, between, matched, masks)
            # What resizes and the first convolution; what shrinks, or the last ones.
            reach = stage.reach(scale, before=2, behind=2)
            parts = self.in_parts(low, scale, self.features, reach, stage.step)
            x = together(make, parts, scale // 2 if place < 2 else scale)
            if place in (0, 3):  # from then on needed, and no longer
                between = x if place == 0 else start
        return x.float() + start, masks

    def _stage(
        self,
        place: int,
        x: Tensor,
        start: Tensor,
        between: Tensor,
        matched: Found,
        masks: dict[str, Tensor],
        some: Rows,
    ) -> Tensor:
        """Some rows of what a step of the path makes: the features for the next, or the picture.

        Args:
            place: of the step.
            x: what the step before made.
            start: the enlarged picture.
            between: features at ×2 on the way down.
            matched, masks: of the whole picture.
            some: rows of the low picture.
        """
        scale, taking = PATH[place], None
        if place == 0:
            y = self.head(some.of(start, scale))
        elif place < 3:
            y = some.of(x, scale)
        else:
            y = F.leaky_relu_(self.enlarge[place - 3](some.of(x, scale // 2)), LEAK)

            def taking(x: Tensor) -> Tensor:
                if place == 3:
                    return x + some.of(between, scale)
                # On the way down they are of one convolution at ×4: rather made again.
                skip: Tensor = self.head(some.of(start, scale))
                return skip.add_(x)

        y, trunk_masks = self.stages[place](y, scale, matched, taking, some.first * scale)
        masks |= named(trunk_masks, f"stages.{place}.trunk")
        if place < 2:
            return some.wanted(self.shrink[place](y), scale // 2)
        if place == 4:
            y = self.tail2(F.leaky_relu_(self.tail1(y), LEAK))
        return some.wanted(y, scale)

    @classmethod
    def recognise(cls, published: Mapping[str, Tensor], path: Path) -> Recognised | None:
        return family_layouts.datsr(published)
