"""How textures come from where matching found them to where they are taken in."""

from collections.abc import Iterator
from typing import Annotated, ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from restore.models.attention.transfer import Texture, some_rows
from restore.models.backbones import rows
from restore.models.backbones.blocks import conv, side_by_side
from restore.models.backbones.deformable import deformable_conv

# Slope below zero of the ReLUs of C2-Matching and DATSR.
LEAK = 0.1
# Rows that are worth the three around them.
_LEAST_ROWS = 16


class FoldedTransfer(nn.Module):
    """Textures as attention puts them together of overlapping patches (TTSR section 3.1).

    The contract of all transfers; one of one's own is a class and a yaml in `conf/transfer`.

    Attributes:
        looks: it looks at the reference's own textures with a flow, see
            `restore.models.attention.TextureAttention.locate`.
        reach: how far, in positions, features are felt in the texture.

    Args:
        features: channels of the network that takes the texture in.
        texture: channels of the texture.
    """

    looks: ClassVar[bool] = False
    reach: ClassVar[int] = 0

    def __init__(self, features: int, texture: int):
        super().__init__()

    def forward(
        self, x: Tensor, texture: Texture, flow: Tensor | None, score: Tensor, top: int = 0
    ) -> Tensor:
        """The texture in its place, N, `texture`, H, W.

        Args:
            x: features N, `features`, H, W: some rows of a picture's. Of a transfer that does not
                look their size and type alone count; it may be given fewer channels.
            texture: N, `texture`, H', W'; with a flow, the reference's own. Of a transfer that does
                not look it may be one that is made when asked for (`some_rows`).
            flow: N2hw, steps down and right in positions of the coarsest grid; None: the texture is
                in place.
            score: N1hw of the coarsest grid.
            top: the first of the rows; all else is of the whole picture.
        """
        return some_rows(texture, top, top + x.shape[-2]).to(x.dtype)


class WarpedTransfer(FoldedTransfer):
    """The reference's texture at the place of each match, interpolated between positions."""

    looks = True

    def forward(
        self, x: Tensor, texture: Texture, flow: Tensor | None, score: Tensor, top: int = 0
    ) -> Tensor:
        texture = some_rows(texture)
        return warped(texture.to(x.dtype), flow, x.shape[-2], x.shape[-1], top)


class DeformableTransfer(FoldedTransfer):
    """A modulated deformable convolution around each match (C2-Matching, section 3.4).

    Zhu et al., "Deformable ConvNets v2", CVPR 2019. Each of its nine taps starts at the place that
    the matching of one of the nine neighbours gives it; offsets and weights are made of the
    network's features and the reference's texture.

    Args:
        features: channels of the network that takes the texture in.
        texture: channels of the texture.
        groups: parts of the texture with offsets of their own; fewer where they do not divide it.
    """

    looks = True
    reach = 3  # of three convolutions

    def __init__(self, features: int, texture: int, groups: Annotated[int, Field(ge=1)] = 8):
        super().__init__(features, texture)
        self.groups = max(n for n in range(1, groups + 1) if texture % n == 0)
        # Of offsets and weights where none is trained, see `at_a_time`.
        self.table = {"cpu": 1 << 21, "cuda": 1 << 25}
        self.offset1 = conv(self.seen_channels(features, texture), texture)
        self.offset2 = conv(texture, texture)
        self.offset_mask = conv(texture, 27 * self.groups)
        nn.init.zeros_(self.offset_mask.weight)
        nn.init.zeros_(self.offset_mask.bias)  # type: ignore[arg-type]
        self.aggregate = conv(texture, texture)

    @staticmethod
    def seen_channels(features: int, texture: int) -> int:
        """Channels of `seen`."""
        return features + texture

    def seen(self, x: Tensor, texture: Tensor, flow: Tensor | None, top: int) -> Iterator[Tensor]:
        """What offsets are made of, for rows of features of which the first is `top`."""
        yield x
        yield _resized(texture[..., top:, :], *x.shape[-2:])

    def offsets_and_mask(self, raw: Tensor, score: Tensor) -> tuple[Tensor, Tensor]:
        """Offsets N, groups·9·2, h, w (down, right) and weights of the taps, from `offset_mask`.

        `score` is N1hw, too.
        """
        return raw[:, : 18 * self.groups], torch.sigmoid(raw[:, 18 * self.groups :])

    def forward(
        self, x: Tensor, texture: Texture, flow: Tensor | None, score: Tensor, top: int = 0
    ) -> Tensor:
        texture = some_rows(texture).to(x.dtype)
        most = height = x.shape[-2]
        if not rows.at_once():
            # Offsets and weights have several times as many channels as anything else.
            table = rows.at_a_time(self.table, x)
            most = table // (27 * self.groups * len(x) * x.shape[-1])
            most = max(_LEAST_ROWS, most) + 2 * self.reach

        def part(some: rows.Rows) -> Tensor:
            return self._rows(some, x, texture, flow, score, top)

        return rows.together(part, rows.cut(height, most, self.reach))

    def _rows(
        self,
        some: rows.Rows,
        x: Tensor,
        texture: Tensor,
        flow: Tensor | None,
        score: Tensor,
        top: int,
    ) -> Tensor:
        """Some of the rows that `forward` returns."""
        width = x.shape[-1]
        seen = self.seen(some.of(x), texture, flow, top + some.first)
        y = F.leaky_relu_(side_by_side(self.offset1, seen), LEAK)
        y = F.leaky_relu_(self.offset2(y), LEAK)
        raw = some.wanted(self.offset_mask(y))
        top, bottom = top + some.top, top + some.bottom
        ratio = width // score.shape[-1]
        offsets, mask = self.offsets_and_mask(raw, _rows_of(score, ratio, top, bottom))
        if flow is not None:
            ratio = width // flow.shape[-1]
            start = _rows_of(around(flow).to(offsets.dtype) * ratio, ratio, top, bottom)
            offsets = offsets.unflatten(1, (self.groups, 18)) + start[:, None]
            offsets = offsets.flatten(1, 2)
        with torch.autocast(x.device.type, enabled=False):
            result = self.aggregated(texture.float(), offsets.float(), mask.float(), top)
        return F.leaky_relu(result, LEAK).to(x.dtype)

    def aggregated(self, texture: Tensor, offsets: Tensor, mask: Tensor, top: int) -> Tensor:
        """The convolution itself, see `deformable_conv`."""
        weight, bias = self.aggregate.weight, self.aggregate.bias
        return deformable_conv(texture, offsets, mask, weight, bias, top)


class WarpedDeformableTransfer(DeformableTransfer):
    """`DeformableTransfer` that also sees the warped texture, within bounds and by the score.

    DATSR (Cao et al., "Reference-based Image Super-Resolution with Deformable Attention
    Transformer", ECCV 2022): offsets of no more than ten positions around each match, and weights
    that the similarity of the match scales.

    Args:
        features, texture, groups: see `DeformableTransfer`.
        bound: largest offset from a match, in positions.
    """

    def __init__(
        self,
        features: int,
        texture: int,
        groups: Annotated[int, Field(ge=1)] = 8,
        bound: Annotated[float, Field(gt=0)] = 10.0,
    ):
        super().__init__(features, texture, groups)
        self.bound = bound

    @staticmethod
    def seen_channels(features: int, texture: int) -> int:
        return features + 2 * texture

    def seen(self, x: Tensor, texture: Tensor, flow: Tensor | None, top: int) -> Iterator[Tensor]:
        yield x
        # As published: the flow of the patch that begins at a position, not of that around it.
        first = None if flow is None else _resized(flow[..., 1:, 1:], *flow.shape[-2:])
        height, width = x.shape[-2:]
        near = _resized(texture[..., top:, :], height, width)
        yield near if first is None else warped(texture, first, height, width, top)
        yield near

    def offsets_and_mask(self, raw: Tensor, score: Tensor) -> tuple[Tensor, Tensor]:
        cut = 18 * self.groups
        weight = torch.sigmoid(raw[:, cut:] * score.to(raw.dtype))
        return self.bound * torch.tanh(raw[:, :cut]), weight


def around(flow: Tensor) -> Tensor:
    """Where each of nine taps starts: N, 18, h, w steps (down, right) by the neighbours' flow.

    The tap at d of position p starts from the match of p − d, so that with no offsets the nine taps
    see what nine overlapping patches would lay down. Beyond the border the flow is 0.
    """
    h, w = flow.shape[-2:]
    padded = F.pad(flow, (1, 1, 1, 1))
    parts = [padded[..., 2 - i : 2 - i + h, 2 - j : 2 - j + w] for i in range(3) for j in range(3)]
    return torch.cat(parts, 1)


def warped(texture: Tensor, flow: Tensor | None, height: int, width: int, top: int = 0) -> Tensor:
    """The texture at the matches, bilinear, zeros outside; as it is where there is no flow.

    `height` rows of it, of which the first is `top`.
    """
    if flow is None:
        return texture[..., top : top + height, :]
    ratio = width // flow.shape[-1]
    steps = _rows_of(flow, ratio, top, top + height) * ratio
    down, right = steps.to(texture.dtype).unbind(1)
    H, W = texture.shape[-2:]
    rows = torch.arange(top, top + height, device=texture.device, dtype=texture.dtype)
    columns = torch.arange(width, device=texture.device, dtype=texture.dtype)
    y = 2 * (down + rows[:, None]) / max(H - 1, 1) - 1
    x = 2 * (right + columns) / max(W - 1, 1) - 1
    grid = torch.stack([x, y], -1)
    return F.grid_sample(texture, grid, "bilinear", "zeros", align_corners=True)


def _rows_of(x: Tensor, ratio: int, top: int, bottom: int) -> Tensor:
    """Each position as a square of `ratio`, and of the rows that there are then, some."""
    first = top // ratio
    part = x[..., first : -(-bottom // ratio), :]
    if ratio > 1:
        part = part.repeat_interleave(ratio, -2).repeat_interleave(ratio, -1)
    return part[..., top - first * ratio : bottom - first * ratio, :]


def _resized(x: Tensor, height: int, width: int) -> Tensor:
    """Cut, or continued by zeros, at the bottom and right."""
    if x.shape[-2:] == (height, width):
        return x
    return F.pad(x, (0, width - x.shape[-1], 0, height - x.shape[-2]))
