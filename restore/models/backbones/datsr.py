"""DATSR: a U-Net of Swin blocks that takes in the reference on the way down and up.

Cao, Liang, Zhang, Li, Zhang, Van Gool: "Reference-based Image Super-Resolution with Deformable
Attention Transformer", ECCV 2022.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from restore.models.attention import Memory, TextureAttention
from restore.models.backbones import family_layouts
from restore.models.backbones.blocks import ResidualTrunk, conv
from restore.models.backbones.c2_matching import bilinear
from restore.models.backbones.reference import Aggregation, ReferenceBackbone
from restore.models.extractors import Extractor
from restore.models.protocol import Recognised
from restore.types import Pictures, Restoration

Make = Callable[..., nn.Module]
_LEAK = 0.1

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
        self.head = conv(3, features)
        if unused_blocks is not None:
            self.unused = nn.Sequential(conv(3, features), ResidualTrunk(features, unused_blocks))
            self.unused.requires_grad_(False)
        self.stages = nn.ModuleList(
            Aggregation(features, self.transferred[scale], blocks, transfer, fusion, trunk)
            for scale in PATH
        )
        self.shrink = nn.ModuleList(conv(features, features, stride=2) for _ in range(2))
        self.enlarge = nn.ModuleList(conv(features, 4 * features) for _ in range(2))
        self.tail1, self.tail2 = conv(features, features // 2), conv(features // 2, 3)

    def forward(
        self,
        low: Tensor,
        low_up: Tensor,
        reference: Pictures | None = None,
        reference_low_up: Pictures | None = None,
        reference_low: Pictures | None = None,
        memory: Memory | None = None,
    ) -> Restoration:
        """See `ReferenceBackbone.find`; the image is N3(4H)(4W)."""
        matched = self.find(low, low_up, reference, reference_low_up, reference_low, memory)
        start = bilinear(low, 4)
        x = self.head(start)
        masks: dict[str, Tensor] = {}
        skips: list[Tensor] = []
        for place, (scale, stage) in enumerate(zip(PATH, self.stages)):
            down, up = place < 2, place > 2
            if down:
                skips.append(x)
            x, trunk_masks = stage(x, scale, matched, skips.pop() if up else None)
            masks |= {f"stages.{place}.trunk.{i}": mask for i, mask in enumerate(trunk_masks)}
            if down:
                x = self.shrink[place](x)
            elif place < 4:
                x = F.leaky_relu(F.pixel_shuffle(self.enlarge[place - 2](x), 2), _LEAK)
        image = self.tail2(F.leaky_relu_(self.tail1(x), _LEAK)).float()
        return self.answer(image + start, matched, block_masks=masks)

    @classmethod
    def recognise(cls, published: Mapping[str, Tensor], path: Path) -> Recognised | None:
        return family_layouts.datsr(published)
