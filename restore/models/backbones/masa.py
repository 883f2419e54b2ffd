"""MASA-SR: block-wise matching, and textures adapted to the picture's distribution.

Lu, Li, Tao, Lu, Jia: "MASA-SR: Matching Acceleration and Spatial Adaptation for Reference-Based
Image Super-Resolution", CVPR 2021.
"""

from collections.abc import Callable, Mapping
from functools import partial, reduce
from operator import add
from pathlib import Path
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from restore.models.attention import TextureAttention
from restore.models.backbones import family_layouts
from restore.models.backbones.blocks import conv, named, side_by_side, through
from restore.models.backbones.fusion import DualAggregation, Moments, SpatialAdaptation, as_many
from restore.models.backbones.reference import Found, ReferenceBackbone
from restore.models.backbones.rows import Rows, together
from restore.models.backbones.upsampling import bilinear, upsample
from restore.models.extractors import Extractor
from restore.models.protocol import Recognised

Make = Callable[..., nn.Module]


class MASA(ReferenceBackbone):
    """The picture's own features at ×¼, ×½ and ×1, then textures at ×1, ×2 and ×4.

    The texture of each scale is adapted to the features by one module that all scales share, and
    taken in: at ×1 by a fusion, at ×2 and ×4 by aggregation with the scale before.

    Args:
        attention, extractor: see `ReferenceBackbone`; the extractor also makes the picture's own
            features.
        transfer: makes what fetches the textures of a scale (published: `folded`).
        fusion: makes what takes in the textures at ×1 (published: `merged`, slope 0).
        trunk: makes residual blocks of (features, count).
        blocks: residual blocks at ×¼, ×½, ×1, and behind the textures at ×1, ×2 and ×4.
        features: channels.
    """

    multiple = 8  # the sides of the matching's blocks
    reference_multiple = 16

    def __init__(
        self,
        attention: TextureAttention,
        extractor: Extractor,
        transfer: Make,
        fusion: Make,
        trunk: Make,
        blocks: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=6, max_length=6)],
        features: Annotated[int, Field(ge=1)] = 64,
    ):
        super().__init__(attention, extractor)
        fine, middle, coarse = extractor.channels
        self.contexts = nn.ModuleList(
            [
                conv(coarse, features),
                conv(features + middle, features),
                conv(features + fine, features),
            ]
        )
        self.trunks = nn.ModuleList(trunk(features, count) for count in blocks)
        self.transfers = nn.ModuleList(transfer(features, C) for C in self.transferred.values())
        self.projections = nn.ModuleList(as_many(C, features) for C in self.transferred.values())
        self.adapt = SpatialAdaptation(features)
        self.fusion = fusion(features, features)
        self.aggregations = nn.ModuleList(DualAggregation(features) for _ in range(2))
        self.tail = conv(features, 3)

    def restore(
        self, low: Tensor, low_up: Tensor, matched: Found
    ) -> tuple[Tensor, dict[str, Tensor]]:
        masks: dict[str, Tensor] = {}

        def trunk(place: int, x: Tensor) -> Tensor:
            y, trunk_masks = through(self.trunks[place], x)
            masks.update(named(trunk_masks, f"trunks.{place}"))
            return y

        fine, middle, coarse = self.extractor(low)
        x = trunk(0, F.relu_(self.contexts[0](coarse)))
        for place, own in ((1, middle), (2, fine)):
            context: Any = self.contexts[place]
            x = trunk(place, F.relu_(side_by_side(context, (bilinear(x, 2), own))))
        for place, scale in enumerate(self.transferred):
            step: int = getattr(self.trunks[3 + place], "step", 1)
            parts = self.in_parts(low, scale, x.shape[1], self._reach(place), step)
            moments = None
            if len(parts) > 1:  # means over the picture, before its rows are made one after another
                moments = self._moments(place, x, matched, parts)
            make = partial(self._stage, place, x, matched, moments, trunk)
            x = together(make, parts, scale)
        return x.float() + upsample(low, 4), masks

    def _reach(self, place: int) -> int | None:
        """How far, in positions of a scale, features are felt but for what `_moments` says."""
        transfer: Any = self.transfers[place]
        fusion: Any = self.fusion
        trunk: int | None = getattr(self.trunks[3 + place], "reach", None)
        if trunk is None or (place == 0 and fusion.whole_picture):
            return None
        # Enlarged, adapted, aggregated or taken in, and the last convolution.
        beside: int = transfer.reach + 2 + 2 + 4 + fusion.score_reach + 1
        return trunk + beside

    def _seen(self, place: int, x: Tensor, matched: Found, some: Rows) -> tuple[Tensor, Tensor]:
        """Some rows of the scale before's features, and of this one's texture, nobody else's."""
        scale, transfer = self.textures[place], self.transfers[place]
        before, texture = some.of(x, scale // 2 or 1), matched.textures[scale]
        seen = before if transfer.looks else before[:, :1]  # else their size alone is asked for
        seen = bilinear(seen, 2) if place else seen
        found = transfer(seen, texture, matched.flow, matched.score, some.first * scale)
        if isinstance(texture, Tensor) and not torch.is_grad_enabled():
            found = found.clone()  # may be part of the reference's own
        return before, self.projections[place](found)

    def _moments(
        self, place: int, x: Tensor, matched: Found, parts: list[Rows]
    ) -> tuple[Moments, Moments]:
        """Of the whole picture's features and texture at a scale."""
        scale = self.textures[place]
        of_parts = []
        for some in parts:
            before, texture = self._seen(place, x, matched, some)
            seen = bilinear(before, 2) if place else before
            of_parts.append([Moments.of(some.wanted(y, scale)) for y in (seen, texture)])
        own, their = (reduce(add, several) for several in zip(*of_parts))
        return own, their

    def _stage(
        self,
        place: int,
        x: Tensor,
        matched: Found,
        moments: tuple[Moments, Moments] | None,
        trunk: Callable[[int, Tensor], Tensor],
        some: Rows,
    ) -> Tensor:
        """Some rows of a scale's features, of the last one's picture, made of those before."""
        scale = self.textures[place]
        before, texture = self._seen(place, x, matched, some)
        texture = self.adapt.replace(before, texture, moments)
        if place:
            y = self.aggregations[place - 1](before, texture)
        else:
            y = self.fusion(before, texture, some.of(matched.score))
        del texture
        y = trunk(3 + place, y)
        return some.wanted(self.tail(y) if place == 2 else y, scale)

    @classmethod
    def recognise(cls, published: Mapping[str, Tensor], path: Path) -> Recognised | None:
        return family_layouts.masa(published)
