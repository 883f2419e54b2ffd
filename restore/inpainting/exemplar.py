"""Holes filled with pieces of a reference, found by exact search.

Wexler, Shechtman and Irani (PAMI 2007) alternate between finding for every patch of the estimate
its nearest exemplar and averaging the exemplars that overlap at a pixel, from coarse to fine. Here
the nearest exemplar is the true one, not PatchMatch's approximation, and comes from the reference.
What it differs by from the known pixels around the hole is taken off it inside too, as seamless
cloning does (Pérez, Gangnet and Blake, SIGGRAPH 2003): no seam, and none of the reference's tint.
"""

import math
from typing import Annotated

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from scipy.ndimage import distance_transform_edt
from scipy.sparse import csr_array
from scipy.sparse.linalg import splu
from torch import Tensor

from restore.attention.search import nearest_patch
from restore.inpainting.diffusion import Biharmonic

# How fast trust in the estimate falls towards the middle of a hole (γ of the paper).
_FALL = 1.3


class Exemplar:
    """Patches of 3×3 cells from the reference, chosen by masked squared distance, averaged.

    Args:
        cells: sides of a cell in pixels, from coarse to fine; a patch is three cells wide.
        rounds: of search and averaging at each size.
    """

    needs_reference = True

    def __init__(
        self,
        cells: Annotated[list[Annotated[int, Field(ge=1)]], Field(min_length=1)],
        rounds: Annotated[int, Field(ge=1)],
    ):
        self.cells, self.rounds = cells, rounds

    def fill(
        self, picture_3HW: Tensor, hole_HW: Tensor, reference_3HW: Tensor | None = None
    ) -> Tensor:
        """See `Inpainter.fill`; begins with the smoothest surface."""
        assert reference_3HW is not None
        filled = Biharmonic().fill(picture_3HW, hole_HW)
        if not hole_HW.any():
            return filled
        membrane = Membrane(hole_HW)
        depth = torch.from_numpy(distance_transform_edt(hole_HW.numpy())).float()
        for cell in self.cells:
            trust = _FALL ** (-depth / cell)
            for _ in range(self.rounds):
                found = _vote(filled, trust, reference_3HW.float(), cell)
                offset = membrane.over(filled - found)
                filled = torch.where(hole_HW, (found + offset).clamp(0, 1), filled)
        return filled


class Membrane:
    """Values inside holes from those around: each pixel the mean of its four neighbours.

    The equations depend on the hole alone and are factorised once.
    """

    def __init__(self, hole_HW: Tensor):
        self.hole = hole_HW.numpy()
        number = np.cumsum(self.hole).reshape(self.hole.shape) - 1  # of each pixel in the hole
        at = np.argwhere(self.hole)
        rows, columns, values = [number[self.hole]], [number[self.hole]], []
        degree = np.zeros(len(at))
        self.around: list[tuple[np.ndarray, np.ndarray]] = []  # pixels, their known neighbours
        for step in ((0, 1), (1, 0), (0, -1), (-1, 0)):
            near = at + step
            inside = ((near >= 0) & (near < self.hole.shape)).all(1)
            degree += inside
            own, near = np.flatnonzero(inside), near[inside]
            unknown = self.hole[tuple(near.T)]
            rows.append(own[unknown])
            columns.append(number[tuple(near[unknown].T)])
            values.append(np.full(int(unknown.sum()), -1.0))
            self.around.append((own[~unknown], near[~unknown]))
        entries = np.concatenate([degree, *values])
        table = csr_array((entries, (np.concatenate(rows), np.concatenate(columns))))
        self.solver = splu(table.tocsc())

    def over(self, values_CHW: Tensor) -> Tensor:
        """The values with those inside the holes replaced; what stood there is not looked at."""
        values = values_CHW.double().numpy().copy()
        sums = np.zeros((int(self.hole.sum()), len(values)))
        for own, near in self.around:
            sums[own] += values[:, near[:, 0], near[:, 1]].T
        values[:, self.hole] = self.solver.solve(sums).T
        return torch.from_numpy(values).float()


def _vote(picture_3HW: Tensor, trust_HW: Tensor, reference_3HW: Tensor, cell: int) -> Tensor:
    """Each pixel as the mean of the reference's nearest patches that cover it."""
    height, width = picture_3HW.shape[-2:]
    picture = _whole_cells(picture_3HW[None], cell)
    trust = _whole_cells(trust_HW.expand(1, 3, -1, -1), cell)
    reference = _whole_cells(reference_3HW[None], cell)
    query, key = queries(picture, trust, cell), keys(reference, cell)
    _, index = nearest_patch(query, key)
    shape = {"kernel_size": 3 * cell, "stride": cell, "padding": cell}
    # What lies over the reference's edge is nothing, and does not count.
    content = torch.cat([reference, torch.ones_like(reference[:, :1])], 1)
    patches = F.unfold(content, **shape)[:, :, index.flatten()]
    voted = F.fold(patches, picture.shape[-2:], **shape)[0]
    return (voted[:3] / voted[3:])[:, :height, :width]


def queries(picture_13HW: Tensor, trust_13HW: Tensor, cell: int) -> Tensor:
    """Features of the estimate for `nearest_patch`, one position a cell.

    The inner product with `keys` is Σ w·(p·r − r²/2): all of −½ Σ w·(p − r)² that depends on the
    reference pixels r, with p the estimate's pixels and w their trust.
    """
    picture = F.pixel_unshuffle(picture_13HW - 0.5, cell)
    trust = F.pixel_unshuffle(trust_13HW, cell)
    nothing = torch.zeros_like(picture[:, :1])
    return torch.cat([trust * picture, -0.5 * trust, nothing], 1)


def keys(reference_13HW: Tensor, cell: int) -> Tensor:
    """Features of the reference for `nearest_patch`; see `queries`.

    A last channel, which no query asks for, makes all positions equally long: then the greatest
    cosine is the greatest inner product. Only patches over the reference's edge are shorter.
    """
    reference = F.pixel_unshuffle(reference_13HW - 0.5, cell)
    plain = torch.cat([reference, reference.square()], 1)
    square = plain.square().sum(1, keepdim=True)
    return torch.cat([plain, (square.max() - square).clamp_min(0).sqrt()], 1)


def _whole_cells(picture_NCHW: Tensor, cell: int) -> Tensor:
    height, width = picture_NCHW.shape[-2:]
    down, right = (math.ceil(side / cell) * cell - side for side in (height, width))
    return F.pad(picture_NCHW, (0, right, 0, down), mode="replicate")
