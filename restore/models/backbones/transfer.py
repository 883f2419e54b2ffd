"""How textures come from where matching found them to where they are taken in."""

from typing import Annotated, ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from restore.models.backbones.blocks import conv
from restore.models.backbones.deformable import deformable_conv

_LEAK = 0.1


class FoldedTransfer(nn.Module):
    """Textures as attention puts them together of overlapping patches (TTSR section 3.1).

    The contract of all transfers; one of one's own is a class and a yaml in `conf/transfer`.

    Attributes:
        looks: it looks at the reference's own textures with a flow, see
            `restore.models.attention.TextureAttention.locate`.

    Args:
        features: channels of the network that takes the texture in.
        texture: channels of the texture.
    """

    looks: ClassVar[bool] = False

    def __init__(self, features: int, texture: int):
        super().__init__()

    def forward(self, x: Tensor, texture: Tensor, flow: Tensor | None, score: Tensor) -> Tensor:
        """The texture in its place, N, `texture`, H, W.

        Args:
            x: features N, `features`, H, W.
            texture: N, `texture`, H', W'; with a flow, the reference's own.
            flow: N2hw, steps down and right in positions of the coarsest grid; None: the texture is
                in place.
            score: N1hw of the coarsest grid.
        """
        return texture.to(x.dtype)


class WarpedTransfer(FoldedTransfer):
    """The reference's texture at the place of each match, interpolated between positions."""

    looks = True

    def forward(self, x: Tensor, texture: Tensor, flow: Tensor | None, score: Tensor) -> Tensor:
        return warped(texture.to(x.dtype), flow, x.shape[-2], x.shape[-1])


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

    def __init__(self, features: int, texture: int, groups: Annotated[int, Field(ge=1)] = 8):
        super().__init__(features, texture)
        self.groups = max(n for n in range(1, groups + 1) if texture % n == 0)
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

    def seen(self, x: Tensor, texture: Tensor, flow: Tensor | None) -> Tensor:
        """What offsets are made of."""
        return torch.cat([x, texture], 1)

    def offsets_and_mask(self, raw: Tensor, score: Tensor) -> tuple[Tensor, Tensor]:
        """Offsets N, groups·9·2, H, W (down, right) and weights of the taps, from `offset_mask`."""
        return raw[:, : 18 * self.groups], torch.sigmoid(raw[:, 18 * self.groups :])

    def forward(self, x: Tensor, texture: Tensor, flow: Tensor | None, score: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        texture = texture.to(x.dtype)
        y = self.seen(x, _resized(texture, height, width), flow)
        y = F.leaky_relu_(self.offset1(y), _LEAK)
        y = F.leaky_relu_(self.offset2(y), _LEAK)
        offsets, mask = self.offsets_and_mask(self.offset_mask(y), score)
        if flow is not None:
            start = around(flow, width // flow.shape[-1])
            offsets = offsets + start.to(offsets.dtype).repeat(1, self.groups, 1, 1)
        with torch.autocast(x.device.type, enabled=False):
            result = deformable_conv(
                texture.float(),
                offsets.float(),
                mask.float(),
                self.aggregate.weight,
                self.aggregate.bias,
            )
        return F.leaky_relu(result, _LEAK).to(x.dtype)


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

    def seen(self, x: Tensor, texture: Tensor, flow: Tensor | None) -> Tensor:
        # As published: the flow of the patch that begins at a position, not of that around it.
        first = None if flow is None else _resized(flow[..., 1:, 1:], *flow.shape[-2:])
        return torch.cat([x, warped(texture, first, x.shape[-2], x.shape[-1]), texture], 1)

    def offsets_and_mask(self, raw: Tensor, score: Tensor) -> tuple[Tensor, Tensor]:
        ratio = raw.shape[-1] // score.shape[-1]
        likeness = _repeated(score.to(raw.dtype), ratio)
        cut = 18 * self.groups
        return self.bound * torch.tanh(raw[:, :cut]), torch.sigmoid(raw[:, cut:] * likeness)


def around(flow: Tensor, ratio: int) -> Tensor:
    """Where each of nine taps starts: N, 18, s·h, s·w steps (down, right) by the neighbours' flow.

    The tap at d of position p starts from the match of p − d, so that with no offsets the nine taps
    see what nine overlapping patches would lay down. Beyond the border the flow is 0.
    """
    h, w = flow.shape[-2:]
    padded = F.pad(flow, (1, 1, 1, 1))
    parts = [padded[..., 2 - i : 2 - i + h, 2 - j : 2 - j + w] for i in range(3) for j in range(3)]
    return _repeated(torch.cat(parts, 1), ratio) * ratio


def warped(texture: Tensor, flow: Tensor | None, height: int, width: int) -> Tensor:
    """The texture at the matches, bilinear, zeros outside; as it is where there is no flow."""
    if flow is None:
        return texture
    ratio = width // flow.shape[-1]
    down, right = (_repeated(flow, ratio) * ratio).to(texture.dtype).unbind(1)
    H, W = texture.shape[-2:]
    rows = torch.arange(height, device=texture.device, dtype=texture.dtype)
    columns = torch.arange(width, device=texture.device, dtype=texture.dtype)
    y = 2 * (down + rows[:, None]) / max(H - 1, 1) - 1
    x = 2 * (right + columns) / max(W - 1, 1) - 1
    grid = torch.stack([x, y], -1)
    return F.grid_sample(texture, grid, "bilinear", "zeros", align_corners=True)


def _repeated(x: Tensor, ratio: int) -> Tensor:
    """Each position as a square of `ratio`."""
    return x if ratio == 1 else F.interpolate(x.float(), scale_factor=float(ratio)).to(x.dtype)


def _resized(x: Tensor, height: int, width: int) -> Tensor:
    """Cut, or continued by zeros, at the bottom and right."""
    if x.shape[-2:] == (height, width):
        return x
    return F.pad(x, (0, width - x.shape[-1], 0, height - x.shape[-2]))
