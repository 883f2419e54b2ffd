"""A trunk of shifted-window transformer blocks."""

from typing import Annotated

from pydantic import Field
from timm.models.swin_transformer import SwinTransformerBlock
from torch import Tensor, nn

from restore.errors import UserError
from restore.models.backbones.blocks import conv


class SwinTrunk(nn.Module):
    """Groups of Swin blocks with a convolution and a skip each, between layer norms.

    Liang et al., "SwinIR", ICCV-W 2021 (RSTB), as DATSR has them: without a convolution after the
    last group. A trunk as `blocks.ResidualTrunk` is.

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

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        y = self.embed_norm(x.permute(0, 2, 3, 1))
        for blocks, convolution in zip(self.groups, self.convs):
            z = y
            for block in blocks:  # type: ignore[attr-defined]
                z = block(z)
            y = convolution(z.permute(0, 3, 1, 2)).permute(0, 2, 3, 1) + y
        return self.norm(y).permute(0, 3, 1, 2).contiguous(), []
