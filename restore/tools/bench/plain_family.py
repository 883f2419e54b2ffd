"""MASA-SR, C2-Matching and DATSR as published, their matching and transfer written plainly.

The measure for speed and, as it is another way to the same numbers, for correctness.
"""

import sys
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import deform_conv2d

from restore.models.attention import Memory, Transfer
from restore.models.backbones.datsr import DATSR
from restore.models.backbones.reference import ReferenceBackbone
from restore.models.backbones.swin import SwinTrunk
from restore.models.backbones.transfer import DeformableTransfer
from restore.tools.bench.plain import attend


def inside(query: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
    """C2-Matching's: every 3×3 patch of the key as a filter over the query, then the best.

    Args:
        query, key: N, C, H, W.

    Returns:
        Cosines and row-major positions in the key's grid of patches, N, H−2, W−2.
    """
    best = []
    for one, other in zip(query, key):
        own, their = (F.normalize(x[None], dim=1) for x in (one, other))
        patches = F.unfold(their, 3)[0].T
        patches = patches / (patches.norm(dim=1, keepdim=True) + 1e-5)
        filters = patches.reshape(-1, own.shape[1], 3, 3)
        value, index = F.conv2d(own, filters).max(1)
        norm = F.unfold(own, 3).norm(dim=1).view_as(value) + 1e-5
        best.append((value / norm, index))
    score, index = (torch.cat(parts) for parts in zip(*best))
    return score, index


def windows(
    query: Tensor, key: Tensor, values: list[Tensor], block: int = 8, ratio: float = 1.5
) -> tuple[Tensor, list[Tensor], Tensor]:
    """MASA-SR's: unfolded patches of a window for each block, which dilated patches have chosen.

    Args:
        query, key: 1, C, H, W; the query's sides multiples of the block's.
        values: 1, C, s·Hk, s·Wk.

    Returns:
        Cosines N1HW, textures N, C, s·H, s·W, and N, H, W row-major positions in the key.
    """
    _, C, H, W = query.shape
    Hk, Wk = key.shape[-2:]
    rows, columns = H // block, W // block
    side = block + 2
    blocks = F.unfold(F.pad(query, (1, 1, 1, 1), "replicate"), side, stride=block)
    blocks = blocks.view(C, side, side, -1).permute(3, 0, 1, 2)
    total = query.new_zeros(len(blocks), Hk * Wk)
    for d in (1, 2, 3):
        taps = slice(side // 2 - d, side // 2 + d + 1, d)
        kernels = F.normalize(blocks[..., taps, taps].flatten(1), dim=1)
        total += kernels @ F.normalize(F.unfold(key, 3, padding=d, dilation=d), dim=1)[0]
    best = total.argmax(1)
    high, wide = (
        min(2 * int(size // (2 * count) * ratio) + 3, size)
        for size, count in ((Hk, rows), (Wk, columns))
    )
    places, scores = [], []
    textures: list[list[Tensor]] = [[] for _ in values]
    for number, middle in enumerate(best.tolist()):
        top = min(max(0, middle // Wk - high // 2), Hk - high)
        left = min(max(0, middle % Wk - wide // 2), Wk - wide)
        window = F.unfold(key[..., top : top + high, left : left + wide], 3)
        own = F.unfold(blocks[number : number + 1], 3)
        score, index = (F.normalize(own, dim=1).mT @ F.normalize(window, dim=1)).max(2)
        row, column = index // (wide - 2), index % (wide - 2)
        places.append((top + row + 1) * Wk + left + column + 1)
        score = score.view(1, 1, block, block)
        scores.append(score)
        for value, made in zip(values, textures):
            s = value.shape[-1] // Wk
            part = value[..., s * top : s * (top + high), s * left : s * (left + wide)]
            patches = F.unfold(part, 3 * s, stride=s)
            chosen = patches.gather(2, index[:, None].expand(-1, patches.shape[1], -1))
            how = {"output_size": s * block, "kernel_size": 3 * s, "padding": s, "stride": s}
            count = F.fold(torch.ones_like(chosen), **how)
            larger = F.interpolate(score, scale_factor=float(s), mode="bilinear")
            made.append(F.fold(chosen, **how) / count * larger)
    laid = [_laid(x, rows, columns) for x in (scores, *textures)]
    index = _laid([place.view(1, 1, block, block) for place in places], rows, columns)
    return laid[0], laid[1:], index[:, 0]


def _laid(cells: list[Tensor], rows: int, columns: int) -> Tensor:
    """Cells, row by row, beside and below each other."""
    lines = [torch.cat(cells[row * columns : (row + 1) * columns], 3) for row in range(rows)]
    return torch.cat(lines, 2)


class PlainAttention(nn.Module):
    """In the place of a `TextureAttention`, as published: TTSR's, MASA-SR's or C2-Matching's."""

    def __init__(self, name: str):
        super().__init__()
        self.name = name

    def encode_reference(self, key: Tensor, values: list[Tensor]) -> Memory:
        """The reference's features as they are."""
        return Memory([key], [], [values])

    remember = encode_reference

    def forward(self, query: Tensor, memory: Memory) -> Transfer:
        """Textures in their places."""
        search = windows if self.name == "windows" else attend
        one_by_one = [
            search(query[n : n + 1], memory.keys[0][n : n + 1], [x[n : n + 1] for x in values])
            for values in memory.pictures[:1]
            for n in range(len(query))
        ]
        scores, textures, indices = zip(*one_by_one)
        return Transfer(
            torch.cat(scores), [torch.cat(parts) for parts in zip(*textures)], torch.cat(indices)
        )

    def locate(self, query: Tensor, memory: Memory) -> Transfer:
        """Where they are: of C2-Matching's flow that of each patch's middle."""
        key = memory.keys[0]
        score, index = inside(query, key)
        H, W = score.shape[1:]
        rows, columns = torch.meshgrid(torch.arange(H), torch.arange(W), indexing="ij")
        down = index // (key.shape[-1] - 2) - rows.to(index.device)
        right = index % (key.shape[-1] - 2) - columns.to(index.device)
        flow = F.pad(torch.stack([down, right], 1), (1, 1, 1, 1))
        return Transfer(F.pad(score, (1, 1, 1, 1))[:, None], memory.pictures[0], None, flow)


def _aggregated(
    part: DeformableTransfer, texture: Tensor, offsets: Tensor, mask: Tensor, top: int
) -> Tensor:
    """By torchvision's operation, which holds all samples at once."""
    weight, bias = part.aggregate.weight, part.aggregate.bias
    height, width = offsets.shape[-2:]
    # It wants one size for both: zeros continue the smaller.
    high, wide = max(height, texture.shape[-2]), max(width, texture.shape[-1])
    texture, offsets, mask = (
        F.pad(x, (0, wide - x.shape[-1], 0, high - x.shape[-2])) for x in (texture, offsets, mask)
    )
    all_rows = deform_conv2d(texture, offsets, weight, bias, padding=1, mask=mask)
    return all_rows[..., :height, :width]


def published(network: ReferenceBackbone, matching: str) -> ReferenceBackbone:
    """The network itself with its matching and transfer as published, for inputs of one size.

    Args:
        network: is changed.
        matching: `hard`, `windows` or `inside`.
    """
    network.attention = PlainAttention(matching)  # type: ignore[assignment]
    network.largest_map = sys.maxsize
    for part in network.modules():
        if isinstance(part, SwinTrunk):
            part.in_place = False
        if isinstance(part, DeformableTransfer):
            part.table = {"cpu": sys.maxsize}  # all rows at once
            part.aggregated = _aggregated.__get__(part)  # type: ignore[method-assign]
    unused = network.unused if isinstance(network, DATSR) and hasattr(network, "unused") else None
    if unused is not None:
        # It is computed all the same.
        def compute(module: nn.Module, args: Any, kwargs: Any) -> None:
            unused(kwargs["low"])

        network.register_forward_pre_hook(compute, with_kwargs=True)
    return network
