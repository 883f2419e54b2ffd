"""Hard attention whose choices are made one smooth, sub-pixel alignment of the reference.

A choice among the positions of the coarsest grid is up to half a position wrong. That is two pixels
of a result four times as large, more than the details that are to be taken over. Nothing is learned
here: similarities around a choice say where between the positions the place is, neighbours that
move together correct each other, and textures are sampled there.
"""

from collections.abc import Sequence
from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from restore.models.attention import all_pairs
from restore.models.attention.rules import Hard
from restore.models.attention.transfer import Value, enlarged, unpack
from restore.models.geometry import own_places, sampled

_AROUND = [(x, y) for y in (-1.0, 0.0, 1.0) for x in (-1.0, 0.0, 1.0)]
# Side of the windows in which neighbours are asked, in positions.
_WINDOW = 5
# Least area of the reference that neighbours may share out, relative to their own: a picture of one
# colour sends all of them to one place.
_LEAST_AREA = 0.1


class Aligned(Hard):
    """Samples the textures where the most similar key lies, between positions and smoothed.

    1. Each query chooses its most similar patch, as `Hard` does.
    2. Its place is the mean of the 3×3 positions around it, weighted by a softmax of cosines.
    3. Affine maps are fitted to the places in windows of 5×5, those of good matches weighing most.
       Steps 2 and 3 are repeated around the fitted places.
    4. Textures are sampled there, bicubically. The score is the cosine there, times the share of
       neighbours whose own choice (1) lies where the fit is: the choices of pictures that have
       nothing in common point everywhere.

    Of several references each position takes the one of the highest score.

    Args:
        sharpness: of the softmax, the inverse of its temperature. Vectors of `extractor=matching`
            are trained for its own.
        rounds: how often places are looked for and smoothed.
    """

    chooses_one = False  # places lie between those of the index

    def __init__(
        self,
        sharpness: Annotated[float, Field(gt=0)] = 30.0,
        rounds: Annotated[int, Field(ge=1)] = 2,
    ):
        super().__init__()
        self.sharpness, self.rounds = sharpness, rounds
        # The patch, then windows: agreement, each fit, support.
        self.reach = 1 + 2 * (rounds + 3)

    def forward(
        self, query_NCHW: Tensor, keys: list[Tensor], values: list[Value], patch: int
    ) -> tuple[Tensor, list[Tensor], Tensor]:
        """See `Hard`; the index is the choice of step 1."""
        N = len(query_NCHW)
        best: tuple[Tensor, list[Tensor], Tensor] | None = None
        first = row = 0
        for key in keys:
            grid = key.shape[-2], key.shape[-1]
            size = grid[0] * grid[1]
            _, index = self._choose(query_NCHW, [key], patch)
            rows = slice(row, row + N * size)
            pictures = [unpack(v.rows[rows], v.channels, (N, *grid)) for v in values]
            scales = [value.scale for value in values]
            score, textures = self._aligned(query_NCHW, key, index, pictures, scales)
            index = index + first
            if best is not None:
                better = score > best[0]
                textures = [
                    torch.where(enlarged(better, s), new, old)
                    for s, new, old in zip(scales, textures, best[1])
                ]
                score = torch.where(better, score, best[0])
                index = torch.where(better[:, 0], index, best[2])
            best = score, textures, index
            first, row = first + size, row + N * size
        assert best is not None, "there is a reference"
        return best

    def all_pairs(
        self,
        query_NCHW: Tensor,
        key_NCHW: Tensor,
        values: list[Tensor],
        scales: Sequence[int],
        patch: int,
    ) -> tuple[Tensor, list[Tensor]]:
        table = all_pairs.by_key_norm(query_NCHW, key_NCHW, patch)
        index = table.flatten(3).argmax(-1)
        return self._aligned(query_NCHW, key_NCHW, index, values, scales)

    def _aligned(
        self, query: Tensor, key: Tensor, index: Tensor, values: list[Tensor], scales: Sequence[int]
    ) -> tuple[Tensor, list[Tensor]]:
        """Score N1HW and textures of one reference's values, pictures N, C, s·Hk, s·Wk."""
        score, displacement = self._displacement(query, key, index)
        textures = []
        for value, scale in zip(values, scales, strict=True):
            finer = displacement
            if scale > 1:
                finer = F.interpolate(
                    displacement, scale_factor=scale, mode="bilinear", align_corners=False
                )
            places = own_places(finer) + finer * scale
            textures.append(sampled(value.to(finer.dtype), places))
        return score, textures

    def _displacement(self, query: Tensor, key: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
        """Score N1HW, and how far from its own place each position's lies, N2HW, in positions."""
        query, key = F.normalize(query, dim=1), F.normalize(key, dim=1)
        columns = key.shape[-1]
        row = index.div(columns, rounding_mode="floor")
        chosen = torch.stack([index - row * columns, row], 1).to(query.dtype)
        own = own_places(query)
        raw = chosen - own
        places, likeness = self._look_around(query, key, chosen)
        weight = (_agreement(raw) * likeness).square()
        smooth, area = _fitted(places - own, weight)
        for _ in range(self.rounds):
            places, likeness = self._look_around(query, key, own + smooth)
            offsets = places - own
            apart = (offsets - smooth).square().sum(1, keepdim=True)
            smooth, area = _fitted(offsets, likeness.square() * torch.exp(-apart))
        near = torch.exp(-(raw - smooth).square().sum(1, keepdim=True) / 2)
        support = _summed(near) / _summed(torch.ones_like(near))
        score = likeness * support * (area > _LEAST_AREA)
        return score, smooth

    def _look_around(self, query: Tensor, key: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
        """The places N2HW that similarities at the 3×3 positions around places point to.

        And the cosine there, N1HW in [0, 1].
        """
        H, W = key.shape[-2:]
        # What is no number has its place nowhere; the cosine there is no number either.
        column, row = places.detach().nan_to_num().round().unbind(1)
        column, row = column.clamp(0, W - 1), row.clamp(0, H - 1)
        flat = key.flatten(2)
        cosines, around = [], []
        for x, y in _AROUND:
            at_x, at_y = (column + x).clamp(0, W - 1), (row + y).clamp(0, H - 1)
            at = (at_y * W + at_x).long().flatten(1)
            keys = flat.gather(2, at[:, None].expand(-1, flat.shape[1], -1))
            cosines.append((query.flatten(2) * keys).sum(1).view_as(column))
            around.append(torch.stack([at_x, at_y], 1))
        cosine = torch.stack(cosines, 1)
        weight = torch.softmax(cosine * self.sharpness, 1)
        place = (weight[:, None] * torch.stack(around, 2)).sum(2)
        return place, (weight * cosine).sum(1, keepdim=True).clamp_min(0)


def _windows(dtype: torch.dtype, device: torch.device) -> Tensor:
    """The kernels 1, x, y, x², xy, y² of a window's sums, 6×1×5×5."""
    half = _WINDOW // 2
    steps = torch.arange(-half, half + 1, dtype=dtype, device=device)
    y, x = steps[:, None].expand(-1, _WINDOW), steps.expand(_WINDOW, -1)
    return torch.stack([torch.ones_like(x), x, y, x * x, x * y, y * y])[:, None]


def _summed(x: Tensor) -> Tensor:
    """Sums of N1HW over each position's window, zeros outside."""
    return F.conv2d(x, _windows(x.dtype, x.device)[:1], padding=_WINDOW // 2)


def _agreement(displacement: Tensor) -> Tensor:
    """Share of each position's neighbours that go nearly where it goes, N1HW.

    Nearly: within one position and half of the neighbour's distance, as two views of a surface are.
    """
    half = _WINDOW // 2
    H, W = displacement.shape[-2:]
    padded = F.pad(displacement, (half,) * 4)
    inside = F.pad(torch.ones_like(displacement[:, :1]), (half,) * 4)
    agreeing = torch.zeros_like(displacement[:, :1])
    count = torch.zeros_like(agreeing)
    for dy in range(_WINDOW):
        for dx in range(_WINDOW):
            if dy == dx == half:
                continue
            there = inside[..., dy : dy + H, dx : dx + W]
            apart = (padded[..., dy : dy + H, dx : dx + W] - displacement).abs().amax(1, True)
            most = 1 + max(abs(dy - half), abs(dx - half)) / 2
            agreeing = agreeing + there * (apart <= most)
            count = count + there
    return agreeing / count.clamp_min(1)


def _fitted(displacement: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Affine maps of each position's window, N2HW: what they say of the position itself.

    And how many times larger the reference's part is than the window, N1HW.

    Args:
        displacement: N2HW.
        weight: N1HW, at least 0.
    """
    weight = weight + 1e-6
    kernels = _windows(weight.dtype, weight.device)
    half = _WINDOW // 2
    one, x, y, xx, xy, yy = F.conv2d(weight, kernels, padding=half).split(1, 1)
    N, _, H, W = displacement.shape
    weighted = (displacement * weight).flatten(0, 1)[:, None]
    moments = F.conv2d(weighted, kernels[:3], padding=half).view(N, 2, 3, H, W)
    total, by_x, by_y = (moments / one[:, :, None]).unbind(2)  # N2HW each
    x, y = x / one, y / one
    # A little more spread than there is, so that few neighbours give shifts alone.
    xx, xy, yy = xx / one - x * x + 0.05, xy / one - x * y, yy / one - y * y + 0.05
    by_x, by_y = by_x - x * total, by_y - y * total
    scale = xx * yy - xy * xy
    along_x = (yy * by_x - xy * by_y) / scale
    along_y = (xx * by_y - xy * by_x) / scale
    area = (1 + along_x[:, :1]) * (1 + along_y[:, 1:]) - along_x[:, 1:] * along_y[:, :1]
    return total - along_x * x - along_y * y, area
