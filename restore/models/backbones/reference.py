"""What networks that restore with a reference have in common."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import add
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from restore.errors import UserError
from restore.models.attention import AllPairsAttention, Memory, TextureAttention, Transfer
from restore.models.attention.transfer import Texture, Textures
from restore.models.backbones.blocks import added, through, within
from restore.models.backbones.partial_view import PartialView
from restore.models.backbones.rows import LARGEST_MAP, Rows, at_once, cut, written
from restore.models.backbones.transfer import FoldedTransfer
from restore.models.backbones.upsampling import downsample, upsample
from restore.models.backbones.view import MatchedView, mean_view, resized
from restore.models.extractors import Extractor
from restore.models.protocol import Backbone, ExportForm, PictureInput
from restore.types import Pictures, Restoration


@dataclass(frozen=True)
class Found:
    """What attention found for a picture: the textures by scale, and how they are reached.

    `textures` N, C, h, w of each scale, in place unless there is a `flow` (see
    `restore.models.attention.Transfer`); `score` N1HW; `index` and `grids` as a `Restoration` has
    them; `view` N3(4H)(4W) the picture that the textures were taken of, where there is one.
    """

    textures: dict[int, Texture]
    flow: Tensor | None
    score: Tensor
    index: Tensor | None
    grids: list[tuple[int, int]]
    view: Tensor | None = None


class ReferenceBackbone(Backbone):
    """A network ×4 that takes textures of a reference, by an attention and an extractor.

    One of one's own is a class with `restore`, and a yaml in `conf/backbone`.

    Args:
        attention: texture attention (`restore.models.attention.TextureAttention`).
        extractor: makes the features that are compared and transferred
            (`restore.models.extractors.Extractor`).
        textures: scales, relative to the low picture, at which textures are transferred.
        view: the reference itself is transferred, as a picture, and fitted to the low one, before
            textures are taken of it; see `restore.models.backbones.view`.

    Attributes:
        transferred: channels of the textures by scale, coarse to fine.
        multiple: the low picture is continued, by its last pixels, to sides that divide by this.
    """

    scale = 4
    reach: int | None = None
    whole = 512  # the largest scale goes through bands
    takes_reference = True
    multiple: ClassVar[int] = 1
    attention: TextureAttention
    extractor: Extractor
    # Numbers of a map of features that are held at once where nothing is trained.
    largest_map = LARGEST_MAP

    def __init__(
        self,
        attention: TextureAttention,
        extractor: Extractor,
        textures: Sequence[int] = (1, 2, 4),
        view: MatchedView | None = None,
    ):
        super().__init__()
        attention.fit(extractor.matched)
        self.attention, self.extractor = attention, extractor
        self.textures = sorted(textures)
        extracted = dict(zip((4, 2, 1), extractor.channels))
        channels = [extracted[scale] for scale in self.textures]
        self.view = view
        if view is None:
            channels = attention.channels(channels)
        elif attention.embedding.heads > 1 or attention.embedding.in_values:
            raise UserError(
                "backbone.view goes with attention of one head that hands values on as they are"
            )
        self.transferred = dict(zip(self.textures, channels))

    def restore(
        self, low: Tensor, low_up: Tensor, matched: Found
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The picture, and the masks of blocks that were not executed everywhere, by their names.

        Args:
            low: N3HW in [0, 1], H and W multiples of `multiple`.
            low_up: N3(4H)(4W) in [0, 1], `low` upsampled.
            matched: from `find`.

        Returns:
            N3(4H)(4W), which may go beyond [0, 1]; `blocks.named` makes the names.
        """
        raise NotImplementedError

    def forward(
        self,
        low: Tensor,
        low_up: Tensor,
        reference: Pictures | None = None,
        reference_low_up: Pictures | None = None,
        reference_low: Pictures | None = None,
        memory: Memory | None = None,
    ) -> Restoration:
        """See `find`; the image is N3(4H)(4W)."""
        height, width = low.shape[-2:]
        below, right = -height % self.multiple, -width % self.multiple
        if self.multiple > 1 and (written() or below or right):  # a file has no ifs
            low = F.pad(low, (0, right, 0, below), "replicate")
            low_up = F.pad(low_up, (0, 4 * right, 0, 4 * below), "replicate")
        matched = self.find(low, low_up, reference, reference_low_up, reference_low, memory)
        image, masks = self.restore(low, low_up, matched)
        return self.answer(image[..., : 4 * height, : 4 * width], matched, block_masks=masks)

    @property
    def looks(self) -> bool:
        """Whether its transfers look at the reference's textures themselves."""
        return any(part.looks for part in self.modules() if isinstance(part, FoldedTransfer))

    def encode_reference(
        self,
        reference: Pictures,
        reference_low_up: Pictures,
        reference_low: Pictures | None = None,
    ) -> Memory:
        """The reference side of the attention, reusable for any number of inputs.

        Args:
            reference: N3HW in [0, 1], H and W divisible by 4; several are searched as one.
            reference_low_up: the same after ÷4 and ×4, same shapes.
            reference_low: the same after ÷4 alone, for extractors that compare it.
        """
        if isinstance(reference, list):
            lows = [None] * len(reference) if reference_low is None else reference_low
            memories = [
                self.encode_reference(*three)
                for three in zip(reference, reference_low_up, lows, strict=True)
            ]
            return reduce(add, memories)
        assert isinstance(reference_low_up, Tensor), "one picture goes with one"
        assert not isinstance(reference_low, list), "one picture goes with one"
        if reference.shape[-2] % 4 or reference.shape[-1] % 4:
            raise UserError(
                f"{type(self).__name__} needs a reference whose sides divide by 4, not "
                f"{reference.shape[-1]}×{reference.shape[-2]} pixels: crop it"
            )
        if self.view is not None:
            memories = []
            for scale in self.view.scales:
                if scale != 1:
                    picture = resized(reference, scale)
                    reference_low = downsample(picture, 4)
                    reference_low_up = upsample(reference_low, 4)
                else:
                    picture = reference
                key = self.extractor.key(picture, reference_low_up, reference_low)
                memories.append(self.attention.remember(key, [picture]))
            return reduce(add, memories)
        key = self.extractor.key(reference, reference_low_up, reference_low)
        values = dict(zip((4, 2, 1), self.extractor(reference)))
        ordered = [values[scale] for scale in self.textures]
        return (self.attention.remember if self.looks else self.attention.encode_reference)(
            key, ordered
        )

    def texture_features(self, image: Tensor) -> list[Tensor]:
        """Features of a picture N3HW in [0, 1], fine to coarse, by the extractor as it is now.

        Gradients reach the picture alone, not the extractor's weights.
        """
        fixed = {name: value.detach() for name, value in self.extractor.named_parameters()}
        features: list[Tensor] = torch.func.functional_call(self.extractor, fixed, (image,))
        return features

    def export_form(self) -> ExportForm:
        """With all pairs of positions compared at once, see `attention.AllPairsAttention`."""
        inputs = {
            "low": PictureInput("what is restored"),
            "low_up": PictureInput("low, enlarged 4 times by bicubic", times=4),
            "reference": PictureInput(
                "of any size whose sides divide by 4", sides="reference", times=4
            ),
            "reference_low_up": PictureInput(
                "the reference, made 4 times smaller and as large again by bicubic",
                sides="reference",
                times=4,
            ),
        }
        if self.takes_mask:
            inputs |= {
                "mask": PictureInput("one channel, 1 = hole of low", channels=1),
                "mask_up": PictureInput("one channel, 1 = hole of low_up", times=4, channels=1),
            }
        note = (
            "any size of both pictures, one reference; all pairs are compared at once, so memory "
            "grows with the product of their areas"
        )
        return ExportForm(inputs, note, least=self.attention.matching.least)

    def prepare_export(self) -> None:
        """See `PreparesExport`."""
        self.attention = AllPairsAttention(self.attention, self.textures)  # type: ignore[assignment]

    def find(
        self,
        low: Tensor,
        low_up: Tensor,
        reference: Pictures | None = None,
        reference_low_up: Pictures | None = None,
        reference_low: Pictures | None = None,
        memory: Memory | None = None,
        masks: tuple[Tensor, Tensor] | None = None,
    ) -> Found:
        """What the reference, or the `memory` of it, offers; zeros where there is none.

        Args:
            low: N3HW in [0, 1].
            low_up: N3(4H)(4W) in [0, 1], `low` upsampled.
            reference, reference_low_up, reference_low: see `encode_reference`.
            memory: what that returned, instead of the three.
            masks: holes of `low`, N1HW, and of `low_up`, N1(4H)(4W), where the view heeds them.
        """
        picture = None
        if memory is None and reference is not None:
            assert reference_low_up is not None, "a reference comes with its low_up"
            memory = self.encode_reference(reference, reference_low_up, reference_low)
        if memory is None:
            matched = self._nothing(low)
        elif self.view is not None:
            matched, picture = self._viewed(self.view, low, low_up, memory, masks)
        else:
            query = self.extractor.query(low, low_up)
            matched = (self.attention.locate if self.looks else self.attention)(query, memory)
        copies = len(self.view.scales) if self.view is not None else 1
        keys = memory.keys[::copies] if memory else []
        grids = [(key.shape[-2], key.shape[-1]) for key in keys]
        given = matched.textures
        parts = given.parts if isinstance(given, Textures) else given
        textures = dict(zip(self.textures, parts))
        return Found(textures, matched.flow, matched.score, matched.index, grids, picture)

    def answer(self, image: Tensor, matched: Found, **more: Any) -> Restoration:
        """The result; outside training its picture is kept within [0, 1]."""
        image = image.float()
        return Restoration(
            image if self.training else within(image, 0, 1),
            score=matched.score,
            textures=Textures([*matched.textures.values()]) if matched.flow is None else [],
            index=matched.index,
            grids=matched.grids,
            **more,
        )

    def in_parts(
        self, low: Tensor, scale: int, channels: int, reach: int | None, step: int = 1
    ) -> list[Rows]:
        """Rows of the low picture whose features at a scale are made together.

        Args:
            low: N3HW.
            scale: of the features.
            channels: of the features.
            reach: how far, in positions, features of the scale are felt; None: everywhere.
            step: in positions of the scale, rows begin at multiples of it.
        """
        N, _, height, width = low.shape
        if reach is None or at_once():
            return cut(height, height, 0)
        most = self.largest_map // (N * channels * scale**2 * width)
        return cut(height, most, -(-reach // scale), step // math.gcd(step, scale))

    def _viewed(
        self,
        view: MatchedView,
        low: Tensor,
        low_up: Tensor,
        memory: Memory,
        masks: tuple[Tensor, Tensor] | None,
    ) -> tuple[Transfer, Tensor]:
        """Textures of the mean of the references' views, the better ones weighing more, and it."""
        holes = masks if masks is not None and isinstance(view, PartialView) else ()
        query = self.extractor.query(low, low_up)
        transfers = self.attention.places(query, memory)
        views = [
            view(reference, transfer.textures[0], low, low_up, transfer.score, *holes)
            for transfer, (reference,) in zip(transfers, memory.pictures)
        ]
        picture, score = mean_view(views)
        index, before = transfers[0].index, 0
        if index is not None:
            best = torch.cat([one for _, one in views], 1).argmax(1)
            copies = len(view.scales)
            for number, (transfer, key) in enumerate(zip(transfers, memory.keys)):
                assert transfer.index is not None, "one rule chose in all"
                own = memory.keys[number - number % copies].shape[-2:]  # of the reference itself
                place = _regridded(transfer.index, key.shape[-2:], own)
                index = torch.where(best == number, place + before, index)
                if number % copies == copies - 1:
                    before += own[0] * own[1]
        features = dict(zip((4, 2, 1), self.extractor(picture)))
        return Transfer(score, [features[scale] for scale in self.textures], index), picture

    def _nothing(self, low: Tensor) -> Transfer:
        """What is transferred when there is no reference."""
        N, _, H, W = low.shape
        textures = [low.new_zeros(N, C, s * H, s * W) for s, C in self.transferred.items()]
        return Transfer(low.new_zeros(N, 1, H, W), textures, None)


def _regridded(index: Tensor, grid: Sequence[int], other: Sequence[int]) -> Tensor:
    """Row-major positions of a grid, in another one over the same picture."""
    if tuple(grid) == tuple(other):
        return index
    row, column = index // grid[1], index % grid[1]
    place = (2 * row + 1) * other[0] // (2 * grid[0]) * other[1]
    return place + (2 * column + 1) * other[1] // (2 * grid[1])


class Aggregation(nn.Module):
    """Takes in the texture of one scale: transfer, fusion, and a trunk with a skip around it.

    Args:
        features: channels.
        texture: channels of the texture.
        blocks: of the trunk.
        transfer, fusion, trunk: make the parts, see `conf/transfer`, `conf/fusion`, `conf/trunk`.
    """

    def __init__(
        self, features: int, texture: int, blocks: int, transfer: Any, fusion: Any, trunk: Any
    ):
        super().__init__()
        self.transfer = transfer(features, texture)
        self.fusion = fusion(features, texture)
        self.trunk = trunk(features, blocks)

    @property
    def step(self) -> int:
        """Rows begin at multiples of this where x is of some of a picture's alone."""
        return getattr(self.trunk, "step", 1)

    def reach(self, scale: int, before: int, behind: int) -> int | None:
        """How far, in positions of a scale, features are felt; None: everywhere.

        `before` and `behind` are how far they are in what is done before and behind this.
        """
        felt = getattr(self.trunk, "felt", None)
        if felt is None or self.fusion.whole_picture:
            return None
        rows: int = before + self.transfer.reach + 1 + scale * self.fusion.score_reach
        return felt(rows) + behind

    def forward(
        self,
        x: Tensor,
        scale: int,
        matched: Found,
        taking: Callable[[Tensor], Tensor] | None = None,
        top: int = 0,
    ) -> tuple[Tensor, list[Tensor]]:
        """Features of x's shape, and the masks of the trunk's blocks.

        `taking` makes of x what takes in the texture, if it is not x. x is of a picture's rows from
        `top`, a multiple of the scale.
        """
        score = matched.score[..., top // scale : (top + x.shape[-2]) // scale, :]
        y = self.fusion(
            x if taking is None else taking(x),
            self.transfer(x, matched.textures[scale], matched.flow, matched.score, top),
            score,
        )
        y, masks = through(self.trunk, y)
        return added(y, x), masks
