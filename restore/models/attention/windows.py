"""Matching from coarse to fine: a window of the reference for each block, then a patch in it."""

from collections.abc import Sequence
from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from restore.errors import UserError
from restore.models.attention.rules import Hard, MatchingRule
from restore.models.attention.search import nearest_patch
from restore.models.attention.transfer import Folded, Value, made_later, neighbours
from restore.models.backbones.rows import at_a_time

# Similarities of blocks and positions, or numbers of windows, that are held at a time: on a CPU as
# many as stay in its cache.
_TOGETHER = {"cpu": 1 << 20, "cuda": 1 << 24}
_LEAST = 64  # blocks whose similarities are: a convolution with few outputs is slow


class Windows(Hard):
    """Each block of the query looks for its window of the key, each position for its patch there.

    MASA-SR (Lu et al., CVPR 2021), section 3.2. A block's window lies around the position that is
    most like the block's middle, by the sum of the cosines of patches with several dilations.
    What neighbouring positions of one block take of the reference overlaps and is averaged, and
    weighted by their scores; across the blocks' borders nothing overlaps.

    Args:
        block: side of the blocks, in positions.
        window: how many times larger than a block's share of the key its window is.
        dilations: of the patches by which a block's middle is compared.
    """

    def __init__(
        self,
        block: Annotated[int, Field(ge=1)] = 8,
        window: Annotated[float, Field(gt=0)] = 1.5,
        dilations: Annotated[list[Annotated[int, Field(ge=1)]], Field(min_length=1)] | None = None,
    ):
        super().__init__()
        self.block, self.window = block, window
        self.dilations = [1, 2, 3] if dilations is None else dilations
        if max(self.dilations) > block // 2:
            raise UserError(
                f"attention.matching.dilations={[*self.dilations]} reach beyond the middle of a "
                f"block of {block} positions"
            )

    def forward(
        self, query_NCHW: Tensor, keys: list[Tensor], values: list[Value], patch: int
    ) -> tuple[Tensor, Sequence[Tensor], Tensor]:
        """See `Hard`; `patch` is 3."""
        if patch != 3:
            raise UserError("attention.matching: windows are searched for 3×3 patches alone")
        height, width = query_NCHW.shape[-2:]
        query = F.pad(query_NCHW, (0, -width % self.block, 0, -height % self.block), "replicate")
        score, index = self._choose(query, keys, patch)
        places = neighbours(index, [(key.shape[-2], key.shape[-1]) for key in keys], self.block)
        places = places.view(*index.shape, 9)[:, :height, :width]
        folded = []
        for value in values:
            factor = self._enlarged(score, value.scale)
            factor = factor[..., : value.scale * height, : value.scale * width]
            folded.append(Folded(value, places, by_count=True, factor=factor))
        return score[:, None, :height, :width], made_later(folded), index[:, :height, :width]

    all_pairs = MatchingRule.all_pairs  # there is no form of it for files

    def _enlarged(self, score_NHW: Tensor, ratio: int) -> Tensor:
        """The score bilinearly enlarged, each block by itself, N1(sH)(sW)."""
        N, H, W = score_NHW.shape
        rows, columns = H // self.block, W // self.block
        cells = score_NHW.view(N, rows, self.block, columns, self.block).transpose(2, 3)
        large = F.interpolate(
            cells.reshape(-1, 1, self.block, self.block),
            scale_factor=ratio,
            mode="bilinear",
            align_corners=False,
        )
        side = self.block * ratio
        cells = large.view(N, rows, columns, side, side).transpose(2, 3)
        return cells.reshape(N, 1, H * ratio, W * ratio)

    def _nearest(self, query: Tensor, key: Tensor, patch: int) -> tuple[Tensor, Tensor]:
        N, C, H, W = query.shape
        Hk, Wk = key.shape[-2:]
        if min(Hk, Wk) < 3:
            raise UserError("attention=windows: the reference is smaller than a 3×3 patch")
        side = self.block
        rows, columns = H // side, W // side
        with torch.no_grad():
            padded = F.pad(query.detach(), (1, 1, 1, 1), "replicate")
            blocks = padded.unfold(2, side + 2, side).unfold(3, side + 2, side)
            blocks = blocks.permute(0, 2, 3, 1, 4, 5).flatten(1, 2)  # N, blocks, C, side + 2, …
            best = self.block_search(blocks, key.detach())
            # A window and its rim of one, shifted inside the picture where it would lie across.
            high = min(2 * int(Hk // (2 * rows) * self.window) + 3, Hk)
            wide = min(2 * int(Wk // (2 * columns) * self.window) + 3, Wk)
            top = (best.div(Wk, rounding_mode="floor") - high // 2).clamp(0, Hk - high)
            left = (best % Wk - wide // 2).clamp(0, Wk - wide)
            image = torch.arange(N, device=key.device)[:, None] * (Hk * Wk)
            corners = (image + top * Wk + left).flatten()
            inside = torch.arange(high, device=key.device)[:, None] * Wk
            inside = inside + torch.arange(wide, device=key.device)
            line = key.detach().permute(0, 2, 3, 1).reshape(-1, C)
            parts = []
            count = max(1, at_a_time(_TOGETHER, key) // (high * wide * C))
            for some, corner in zip(blocks.flatten(0, 1).split(count), corners.split(count)):
                at = corner[:, None, None] + inside
                windows = line[at.flatten()].view(*at.shape, C).permute(0, 3, 1, 2)
                parts.append(nearest_patch(some, windows.contiguous(), True))
            score, fine = (torch.cat(maps) for maps in zip(*parts))
            inner = fine.view(N, -1, side, side)
            row = top[..., None, None] + inner.div(wide - 2, rounding_mode="floor") + 1
            place = row * Wk + left[..., None, None] + inner % (wide - 2) + 1
            score, index = (
                x.view(N, rows, columns, side, side).transpose(2, 3).reshape(N, H, W)
                for x in (score, place)
            )
        if torch.is_grad_enabled() and (query.requires_grad or key.requires_grad):
            score = _cosine(query, key, index)
        return score, index

    def block_search(self, blocks: Tensor, key: Tensor) -> Tensor:
        """Row-major position in the key that is most like each block's middle.

        Args:
            blocks: N, blocks, C, side + 2, side + 2: with a rim of one.
            key: N, C, Hk, Wk; zeros continue it.

        Returns:
            N, blocks.
        """
        N, _, C = blocks.shape[:3]
        Hk, Wk = key.shape[-2:]
        middle = self.block // 2 + 1  # counted with the rim
        squares = key.square().sum(1, keepdim=True)
        ones = squares.new_ones(1, 1, 3, 3)
        inverse = [
            F.conv2d(squares, ones, padding=d, dilation=d).sqrt_().clamp_min_(1e-12).reciprocal_()
            for d in self.dilations
        ]
        indices = []
        for part in blocks.split(max(_LEAST, at_a_time(_TOGETHER, key) // (N * Hk * Wk)), 1):
            total = torch.zeros(())
            for place, d in enumerate(self.dilations):
                taps = slice(middle - d, middle + d + 1, d)
                kernels = F.normalize(part[..., taps, taps].flatten(2), dim=2)
                table = F.conv2d(
                    key.reshape(1, N * C, Hk, Wk),
                    kernels.reshape(-1, C, 3, 3),
                    padding=d,
                    dilation=d,
                    groups=N,
                )
                table = table.view(N, -1, Hk, Wk).mul_(inverse[place])
                total = total.add_(table) if place else table
            indices.append(total.flatten(2).argmax(2))
        return torch.cat(indices, 1)


def _cosine(query: Tensor, key: Tensor, index: Tensor) -> Tensor:
    """The cosines of known pairs of 3×3 patches, differentiable; all patches of `index` inside."""
    N, C, H, W = query.shape
    Wk = key.shape[-1]
    own = F.unfold(F.pad(query, (1, 1, 1, 1), "replicate"), 3).view(N, C, 9, H * W)
    around = torch.tensor([dy * Wk + dx for dy in (-1, 0, 1) for dx in (-1, 0, 1)])
    at = index.flatten(1)[:, None] + around.to(index.device)[None, :, None]  # N, 9, H·W
    at = at.flatten(1)[:, None].expand(-1, C, -1)
    theirs = key.flatten(2).gather(2, at).view(N, C, 9, H * W)
    one, two = own.flatten(1, 2), theirs.flatten(1, 2)
    return torch.cosine_similarity(one, two, dim=1, eps=1e-12).view(N, H, W)
