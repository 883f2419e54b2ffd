"""A trunk of shifted-window transformer blocks."""

from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from timm.models.swin_transformer import SwinTransformerBlock
from torch import Tensor, nn

from restore.errors import UserError
from restore.models.backbones.blocks import add_convolved, conv
from restore.models.backbones.rows import at_a_time

# Numbers of the features that go through a block together where nothing is trained: on a CPU as
# many as stay in its cache, with what is made of them.
_TOGETHER = {"cpu": 1 << 17, "cuda": 1 << 23}


class SwinTrunk(nn.Module):
    """Groups of Swin blocks with a convolution and a skip each, between layer norms.

    Liang et al., "SwinIR", ICCV-W 2021 (RSTB), as DATSR has them: without a convolution after the
    last group. A trunk as `blocks.ResidualTrunk` is. Features are continued by their last rows and
    columns to whole windows.

    Attributes:
        in_place: where nothing is trained, windows go through a block some at a time, and its
            result takes the place of its input.

    Args:
        features: channels.
        count: groups.
        depth: blocks of each group; every other one shifts its windows by half.
        heads: of the attention.
        window: side of the windows, in positions.
        mlp_ratio: how many times wider the inner layer of each block is.
        drop_path: share of samples that skip the last block in training; the first skips none, and
            those between rise evenly (stochastic depth).
    """

    in_place = True
    # A window lies where the picture's rows divide by its side: tiles begin elsewhere.
    whole_picture = True

    def __init__(
        self,
        features: int,
        count: int,
        depth: Annotated[int, Field(ge=1)] = 4,
        heads: Annotated[int, Field(ge=1)] = 4,
        window: Annotated[int, Field(ge=2)] = 8,
        mlp_ratio: Annotated[float, Field(gt=0)] = 2.0,
        drop_path: Annotated[float, Field(ge=0, lt=1)] = 0.1,
    ):
        super().__init__()
        if features % heads:
            raise UserError(f"trunk.heads={heads} does not divide the {features} channels")
        last = max(1, count * depth - 1)
        self.embed_norm, self.norm = nn.LayerNorm(features), nn.LayerNorm(features)
        self.groups = nn.ModuleList(
            nn.ModuleList(
                SwinTransformerBlock(
                    features,
                    (window, window),
                    heads,
                    window_size=window,
                    shift_size=0 if place % 2 == 0 else window // 2,
                    always_partition=True,
                    dynamic_mask=True,
                    mlp_ratio=mlp_ratio,
                    drop_path=drop_path * (group * depth + place) / last,
                )
                for place in range(depth)
            )
            for group in range(count)
        )
        self.convs = nn.ModuleList(conv(features, features) for _ in range(count))
        self.step, self.count, self.depth = window, count, depth
        self.reach = max(self.felt(rows) - rows for rows in range(window))

    def prepare_export(self) -> None:
        """See `PreparesExport`."""
        raise UserError("trunk=swin has no form that a file for other programs can hold")

    def felt(self, rows: int) -> int:
        """Of so many rows beside a cut (at a multiple of `step`) that differ, how many then do."""
        for _ in range(self.count):
            for place in range(self.depth):
                shift = 0 if place % 2 == 0 else self.step // 2
                rows = -(-(rows - shift) // self.step) * self.step + shift
            rows += 1
        return rows

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        height, width = x.shape[-2:]
        below, right = -height % self.step, -width % self.step
        if below or right:
            x = F.pad(x, (0, right, 0, below), "replicate")
        in_place = self.in_place and not self.training and not torch.is_grad_enabled()
        y = self.embed_norm(x.permute(0, 2, 3, 1))
        del x  # what was continued is as large as all else here
        for blocks, convolution in zip(self.groups, self.convs):
            z = y.clone() if in_place else y
            for block in blocks:  # type: ignore[attr-defined]
                if in_place:
                    _change(z, block)
                else:
                    z = block(z)
            if in_place:
                add_convolved(y.permute(0, 3, 1, 2), z.permute(0, 3, 1, 2), convolution)
            else:
                y = y + convolution(z.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
            del z
        return self.norm(y)[:, :height, :width].permute(0, 3, 1, 2), []


def _change(x: Tensor, block: SwinTransformerBlock) -> None:
    """The block's result in the place of its input N, H, W, C, whose sides are whole windows."""
    N, H, W, C = x.shape
    side, shift = block.window_size[0], block.shift_size[0]
    count = max(1, at_a_time(_TOGETHER, x) // (side * side * C))
    rows = side * max(1, count // (W // side))
    bias = block.attn._get_rel_pos_bias()
    across = torch.arange(W, device=x.device) >= W - shift

    def in_windows(y: Tensor) -> Tensor:
        """Windows × positions of a window × channels, of N, rows, W, channels."""
        cells = y.unflatten(2, (-1, side)).unflatten(1, (-1, side)).transpose(2, 3)
        return cells.reshape(-1, side * side, y.shape[-1])

    for top in range(0, H, rows):
        lines = torch.arange(top, min(top + rows, H), device=x.device)
        at = (lines + shift) % H
        band = x.index_select(1, at)
        windows = in_windows(band.roll(-shift, 2) if shift else band)
        # What shifted windows hold of the picture's other end is not looked at.
        ends = 2 * (lines >= H - shift)[:, None] + across if shift else None
        parts = None
        if ends is not None and ends.any():
            parts = in_windows(ends.expand(N, -1, -1)[..., None])[..., 0].split(count)
        for place, some in enumerate(windows.split(count)):
            seen = bias
            if parts is not None and (own := parts[place]).any():
                apart = own[:, None, :, None] != own[:, None, None, :]
                seen = bias - 100.0 * apart
            some += _attended(block.norm1(some), block, seen)
            some += block.mlp(block.norm2(some))
        band = windows.view(N, -1, W // side, side, side, C).transpose(2, 3).reshape(band.shape)
        x.index_copy_(1, at, band.roll(shift, 2) if shift else band)


def _attended(x: Tensor, block: SwinTransformerBlock, bias: Tensor) -> Tensor:
    """Windows × positions × channels, each position having looked at all of its window."""
    part = block.attn
    many = part.qkv(x).unflatten(-1, (3, part.num_heads, -1)).permute(2, 0, 3, 1, 4)
    query, key, value = many.unbind(0)
    mask = bias.to(query.dtype).expand(len(x), -1, -1, -1)
    y = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
    return part.proj(y.transpose(1, 2).flatten(2))
