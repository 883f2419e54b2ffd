"""Holes filled with pieces of a reference, found by exact search.

Wexler, Shechtman and Irani (PAMI 2007) alternate between finding for every patch of the estimate
its nearest exemplar and averaging the exemplars that overlap at a pixel, from coarse to fine. Here
the nearest exemplar is the true one, not PatchMatch's approximation, and comes from the reference.
What it differs by from the known pixels around the hole is taken off it inside too, as seamless
cloning does (Pérez, Gangnet and Blake, SIGGRAPH 2003): no seam, and none of the reference's tint.
"""

from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from scipy.ndimage import distance_transform_edt
from torch import Tensor

from restore.errors import UserError
from restore.inference.inpainting.diffusion import refuse_without_known
from restore.inference.inpainting.membrane import Membrane
from restore.models.attention.search import nearest_pixel

# How fast trust in the estimate falls towards the middle of a hole (γ of the paper), a pixel.
_FALL = 1.3


class Exemplar:
    """Patches from the reference, chosen by masked squared distance, averaged.

    Args:
        radius: of a patch, whose side is twice as much and one.
        rounds: of search and averaging at each size of the picture.
    """

    needs_reference = True

    def __init__(
        self,
        radius: Annotated[int, Field(ge=1, le=15)] = 3,
        rounds: Annotated[int, Field(ge=1)] = 2,
    ):
        self.radius, self.rounds = radius, rounds

    def fill(
        self, picture_3HW: Tensor, hole_HW: Tensor, reference_3HW: Tensor | None = None
    ) -> Tensor:
        """See `Inpainter.fill`; UserError too for a reference smaller than a patch."""
        assert reference_3HW is not None
        refuse_without_known(hole_HW)
        if min(reference_3HW.shape[-2:]) < 2 * self.radius + 1:
            height, width = reference_3HW.shape[-2:]
            raise UserError(f"the reference is {width}×{height}, smaller than a patch")
        known = torch.where(hole_HW, 0, picture_3HW.float())
        if not hole_HW.any():
            return known
        copied = self._at(known, hole_HW, reference_3HW.float())[0]
        offset = Membrane(hole_HW).over(known - copied)
        return torch.where(hole_HW, (copied + offset).clamp(0, 1), known)

    def _at(
        self, picture: Tensor, hole: Tensor, reference: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """What the reference has in and around the holes: colours, and which patch came where.

        Places are row and column of patches' middles, Q × 2; the second ones are the reference's.
        """
        places = touching(hole, self.radius)
        # A part of all patches, of which each pixel still has four at least.
        places = places[(places % self.radius == 0).all(1)]
        patches = Patches(reference, self.radius)
        if self._smallest(picture, hole, reference):
            # From the border inwards: what is not known yet does not count.
            filled, missing = picture, hole
            while missing.any():
                near = places[
                    _around((~missing)[None].float(), places, self.radius).sum((0, 1)) > 0
                ]
                matched = patches.nearest(filled, (~missing).float(), near)
                laid, there = patches.laid(near, matched, *hole.shape)
                filled = torch.where(missing & there, laid, filled)
                missing = missing & ~there
        else:
            coarse, there, where = self._at(*halved(picture, hole), F.avg_pool2d(reference, 2))
            smooth = F.interpolate(coarse[None], hole.shape, mode="bilinear")[0]
            laid, covered = patches.laid(*doubled(there, where), *hole.shape)
            filled = torch.where(hole, torch.where(covered, laid, smooth), picture)
        trust = torch.from_numpy(_FALL ** -distance_transform_edt(hole.numpy())).float()
        for _ in range(self.rounds):
            matched = patches.nearest(filled, trust, places)
            laid, there = patches.laid(places, matched, *hole.shape)
            filled = torch.where(hole, laid, picture)
        return torch.where(there, laid, picture), places, matched

    def _smallest(self, picture: Tensor, hole: Tensor, reference: Tensor) -> bool:
        """Whether to begin at this size: patches see over the hole, or would soon be too large."""
        depth = distance_transform_edt(hole.numpy()).max()
        least = min(*picture.shape[-2:], *reference.shape[-2:])
        small = halved(picture, hole)[1]
        return bool(depth <= self.radius or least < 4 * (2 * self.radius + 1) or small.all())


class Patches:
    """All patches of a reference that lie wholly inside it, for exact search.

    The inner product of a query Σ over its pixels of w·(p·r − r²/2) is all of −½ Σ w·(p − r)² that
    depends on the reference's pixels r, with p the estimate's and w their trust. One more number,
    which no query asks for, makes all patches equally long: then the greatest cosine is the
    greatest inner product.

    Args:
        reference_3HW: colours in [0, 1], no smaller than a patch.
        radius: of a patch.
    """

    def __init__(self, reference_3HW: Tensor, radius: int):
        self.reference, self.radius = reference_3HW, radius
        side = 2 * radius + 1
        self.columns = reference_3HW.shape[-1] - side + 1
        colours = reference_3HW - 0.5
        every = torch.cat([colours, colours.square().sum(0, keepdim=True)])
        keys = F.unfold(every[None], side)  # 1, 4·side², K
        length = keys.square().sum(1, keepdim=True)
        rest = (length.amax() - length).clamp_min(0).sqrt()
        self.keys = torch.cat([keys, rest], 1)[:, :, None]

    def nearest(self, picture_3HW: Tensor, trust_HW: Tensor, places_Q2: Tensor) -> Tensor:
        """Middles (row, column) of the patches nearest to those of the picture, Q × 2."""
        weight = _around(trust_HW[None], places_Q2, self.radius)
        colours = _around(picture_3HW - 0.5, places_Q2, self.radius)
        query = torch.cat([colours * weight, -0.5 * weight]).flatten(0, 1)
        query = torch.cat([query, torch.zeros_like(query[:1])])
        _, index = nearest_pixel(query[None, :, None], self.keys)
        rows, columns = index.flatten() // self.columns, index.flatten() % self.columns
        return torch.stack([rows, columns], 1) + self.radius

    def laid(
        self, places_Q2: Tensor, matched_Q2: Tensor, height: int, width: int
    ) -> tuple[Tensor, Tensor]:
        """The picture that arises when a patch is laid at each place: the mean where they overlap.

        Returns:
            Colours 3HW, and where any patch lies, HW bool.
        """
        total = torch.zeros(4, height * width)
        reference = torch.cat([self.reference, torch.ones_like(self.reference[:1])])
        for step in _steps(self.radius):
            to, source = places_Q2 + step, matched_Q2 + step
            inside = _inside(to, height, width) & _inside(source, *reference.shape[-2:])
            (rows, columns), source = to[inside].T, source[inside]
            total.index_add_(1, rows * width + columns, reference[:, source[:, 0], source[:, 1]])
        total = total.view(4, height, width)
        return total[:3] / total[3].clamp_min(1), total[3] > 0


def touching(region_HW: Tensor, radius: int) -> Tensor:
    """Middles (row, column) of the patches that hold a pixel of the region, Q × 2."""
    grown = F.max_pool2d(region_HW[None].float(), 2 * radius + 1, stride=1, padding=radius)
    return grown[0].nonzero()


def halved(picture_3HW: Tensor, hole_HW: Tensor) -> tuple[Tensor, Tensor]:
    """Half as large, sides rounded up; a pixel that holds any hole is one."""
    small = F.max_pool2d(hole_HW[None].float(), 2, ceil_mode=True)[0] > 0
    return F.avg_pool2d(picture_3HW, 2, ceil_mode=True) * ~small, small


def doubled(places_Q2: Tensor, matched_Q2: Tensor) -> tuple[Tensor, Tensor]:
    """The same patches in pictures twice as large: four for each."""
    steps = [torch.tensor(step) for step in ((0, 0), (0, 1), (1, 0), (1, 1))]
    return tuple(  # type: ignore[return-value]
        torch.cat([2 * middle + step for step in steps]) for middle in (places_Q2, matched_Q2)
    )


def _steps(radius: int) -> Tensor:
    line = torch.arange(-radius, radius + 1)
    return torch.cartesian_prod(line, line)


def _inside(places: Tensor, height: int, width: int) -> Tensor:
    return ((places >= 0) & (places < torch.tensor([height, width]))).all(1)


def _around(values_CHW: Tensor, places_Q2: Tensor, radius: int) -> Tensor:
    """Values around the places as `F.unfold` orders them, C × side² × Q; zeros outside."""
    padded = F.pad(values_CHW, [radius] * 4)
    steps = _steps(radius) + radius
    rows = places_Q2[:, 0] + steps[:, :1]
    columns = places_Q2[:, 1] + steps[:, 1:]
    return padded[:, rows, columns]
