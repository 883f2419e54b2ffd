"""The reference as a picture for an input of which parts are missing."""

from functools import lru_cache
from typing import Annotated

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from restore.models.backbones.fusion import Gate
from restore.models.backbones.upsampling import bilinear
from restore.models.backbones.view import MatchedView, cut_off, filled
from restore.models.geometry import finer, gradients, own_places, sampled

# Standard deviations of windows, in low pixels: each holds what a larger one says where it holds
# little itself.
_SMALL, _MIDDLE, _LARGE = 3.0, 8.0, 20.0
# Steps of places: the degree and the window, first with the low picture, then with `low_up`.
_COARSE = [*2 * [(2, 20.0)], *2 * [(2, 12.0)], *2 * [(1, 8.0)], *2 * [(1, 4.0)]]
_FINE = [*2 * [(1, 4.0)], *2 * [(1, 2.5)]]
# In how much larger a window what lies still farther is looked for, in pictures that are so large.
_LARGER = 2.5
# What a window must hold, as a share, before it counts: of weights, and of squares of slopes.
_LITTLE, _FLAT = 0.02, 3e-5
# Mean square of what is no difference.
_UNNOTICED = 2e-4
# Least differences, in low pixels, that set a match apart from those around it.
_APART = 0.5
# Farthest that places go in a step, and how much faster than the picture they may change.
_FARTHEST, _STEEPEST = 1.0, 2.0


class PartialView(MatchedView):
    """What a reference shows of an input with holes; `MatchedView` is the same without them.

    In a hole nothing can be compared, so everything goes on there as it is around:

    1. Places are fitted to the trusted matches by polynomials of the second degree in large
       windows, and what these leave over by such of the first degree in smaller ones.
    2. All places, of the holes too, are moved by what brings view and input together, as Lucas and
       Kanade do, but by polynomials alike: first with the low picture, then with `low_up` at half
       its size, which shows more. A window's fit takes known pixels alone.
    3. The factor of the light, and the score, are means of the known places around.

    What comes out is `low_up` where the gate of the score is closed: where no reference fits, where
    it ends, and deep inside a hole of which hardly anything around fits.

    Only the gate is trained. What is around holes is felt as far as the picture reaches.

    Args:
        tolerance: as of `MatchedView`.
        gate: makes of the score the view's share.
    """

    whole_picture = True

    def __init__(self, gate: Gate, tolerance: Annotated[float, Field(gt=0)] = 0.5):
        super().__init__(steps=0, tolerance=tolerance)
        self.gate = gate

    def forward(
        self,
        reference: Tensor,
        places: Tensor,
        low: Tensor,
        low_up: Tensor,
        score: Tensor,
        mask: Tensor | None = None,
        mask_up: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """The input with what the view has of it, N3(4H)(4W), and the view's score, N1HW.

        Args:
            reference, places, low, score: as of `MatchedView`.
            low_up: N3(4H)(4W), its holes filled by what is known without a reference.
            mask: N1HW, 1 = hole of the low picture; None: there are none.
            mask_up: N1(4H)(4W), the same of `low_up`.
        """
        with torch.autocast(low.device.type, enabled=False):
            reference, places, low, score = (x.float() for x in (reference, places, low, score))
            low_up = low_up.detach().float()
            known = torch.ones_like(score) if mask is None else 1 - mask.float()
            known_up = torch.ones_like(low_up[:, :1]) if mask_up is None else 1 - mask_up.float()
            lighting = _Lighting(low, known, score * known, self.tolerance)
            places = self._placed(reference, places, lighting, low_up, known_up)
            lit, cut = lighting.lit(reference, places)
            view = filled(lit, cut, low_up)
            inside = _within(places, reference)
            score = lighting.weight * lighting.likeness(F.avg_pool2d(view, 4)) * inside
            around = _means(score.square(), known) / (_means(score, known) + 0.05)
            score = torch.where(known > 0, score, around * inside)
            share = bilinear(self.gate(score), 4)
            return low_up + share * (view - low_up), score

    def _placed(
        self,
        reference: Tensor,
        places: Tensor,
        lighting: "_Lighting",
        low_up: Tensor,
        known_up: Tensor,
    ) -> Tensor:
        """Places of all pixels of the result, N2(4H)(4W), in pixels of the reference."""

        def trusted(lit: Tensor, fine: Tensor) -> Tensor:
            likeness = lighting.likeness(F.avg_pool2d(lit, 4))
            return lighting.weight * likeness.square() * _within(fine, reference)

        fine = finer(places, 4)
        places = _continued(places, trusted(lighting.lit(reference, fine)[0], fine))

        for size, wanted, windows in (
            (4, lighting.low, _COARSE),
            (2, F.avg_pool2d(low_up, 2), _FINE),
        ):
            if size == 2:
                places = finer(places, 2)
            shown = -F.max_pool2d(-(F.avg_pool2d(known_up, size) == 1).float(), 3, 1, 1)
            for degree, deviation in windows:
                fine = finer(places, size)
                lit, cut = lighting.lit(reference, fine)
                trust = trusted(lit, fine)
                if size == 2:
                    trust = bilinear(trust, 2)
                whole = 1 - F.avg_pool2d(cut.amax(1, keepdim=True), size)
                places = _moved(
                    places,
                    F.avg_pool2d(lit, size),
                    wanted,
                    shown * trust * whole,
                    deviation * 4 / size,
                    degree,
                )
        return finer(places, 2)


class _Lighting:
    """The light of a low picture, and how much what is seen in it looks like the picture.

    `weight` N1HW is how much each place counts, 0 in holes.
    """

    def __init__(self, low: Tensor, known: Tensor, weight: Tensor, tolerance: float):
        self.low, self.known, self.weight, self.tolerance = low, known, weight, tolerance

    def lit(self, reference: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
        """The reference at places N2(4H)(4W) in this light, and where that is cut off."""
        seen = sampled(reference, places)
        cut = cut_off(seen)
        weight = self.weight * (1 - F.avg_pool2d(cut, 4)) + 1e-3 * self.known
        there = F.avg_pool2d(seen, 4)
        gain = torch.ones_like(there)
        for deviation in _windows(there):
            ours, theirs = _summed(torch.cat([weight * self.low, weight * there]), deviation).chunk(
                2
            )
            gain = (ours + _LITTLE / 2 * gain) / (theirs + _LITTLE / 2)
        gain = gain.clamp(0.25, 4.0)
        return seen * bilinear(gain, 4), cut

    def likeness(self, small: Tensor) -> Tensor:
        """How much a view made small is like what is known of the picture, N1HW from 0 to 1."""
        grey = self.low.mean(1, keepdim=True)
        difference = (self.low - small).square().mean(1, keepdim=True)
        of_known = torch.cat([torch.ones_like(grey), difference, grey.square(), grey], 1)
        share, *sums = _summed(of_known * self.known, 1.5).split(1, 1)
        difference, square, mean = (x / (share + 1e-3) for x in sums)
        allowed = self.tolerance * (square - mean.square()).clamp_min(0) + _UNNOTICED
        return allowed / (allowed + difference)


def _windows(x: Tensor) -> list[float]:
    """Deviations of windows from large to small, for pictures of a size NCHW."""
    larger = [_LARGE]
    while larger[0] * _LARGER < min(x.shape[-2:]) / 2:
        larger.insert(0, larger[0] * _LARGER)
    return [*larger, _MIDDLE, _SMALL]


@lru_cache(maxsize=64)
def _taps(length: int, deviation: float, power: int) -> np.ndarray:
    """The matrix of a Gaussian filter times the distance to a power, in deviations."""
    half = int(2.5 * deviation)
    total = np.exp(-((np.arange(-half, half + 1) / deviation) ** 2) / 2).sum()
    apart = np.arange(length) - np.arange(length)[:, None]
    weights = np.exp(-((apart / deviation) ** 2) / 2) * (abs(apart) <= half) / total
    taps: np.ndarray = (weights * (apart / deviation) ** power).astype(np.float32)
    return taps


def _summed(x: Tensor, deviation: float, across: int = 0, down: int = 0) -> Tensor:
    """Sums of NCHW in Gaussian windows, zeros beyond the borders, by distances to some powers."""
    rows, columns = (
        torch.from_numpy(_taps(side, deviation, power)).to(x)
        for side, power in zip(x.shape[-2:], (down, across), strict=True)
    )
    return rows @ (x @ columns.T)


def _means(x: Tensor, known: Tensor) -> Tensor:
    """Means of what is known, N1HW, of the smallest windows that hold enough."""
    mean = torch.zeros_like(x)
    for deviation in _windows(x):
        some, share = (_summed(y, deviation) for y in (x * known, known))
        mean = (some + _LITTLE * mean) / (share + _LITTLE)
    return mean


def _powers(degree: int) -> list[tuple[int, int]]:
    return [(total - down, down) for total in range(degree + 1) for down in range(total + 1)]


def _continued(places: Tensor, trust: Tensor) -> Tensor:
    """Places N2HW made smooth, and told where trust, N1HW, is 0, by those that are trusted."""
    own = own_places(places)
    left, weight = places - own, trust.square()
    fit = torch.zeros_like(left)
    for deviation in _windows(left):
        degree = 2 if deviation >= _LARGE else 1
        apart = max(_APART, deviation / 10)
        part = _fitted(left, weight, deviation, degree)
        weight = weight * torch.exp(
            -(left - part).square().sum(1, keepdim=True) / (2 * apart * apart)
        )
        part = _fitted(left, weight, deviation, degree)
        fit, left = fit + part, left - part
    return own + fit


def _fitted(x: Tensor, weight: Tensor, deviation: float, degree: int) -> Tensor:
    """What polynomials fitted to N2HW in each position's window say of the position itself."""
    powers = _powers(degree)
    sums = {two: _summed(weight, deviation, *two)[:, 0] for two in _powers(2 * degree)}
    squares = _matrix([[sums[a + c, b + d] for c, d in powers] for a, b in powers])
    wanted = torch.stack([_summed(weight * x, deviation, a, b) for a, b in powers], -1)
    # What a large window has little of is still the best that is known.
    least = torch.full((len(powers),), 3e-3)
    least[0] = 1e-3 if degree < 2 else 1e-5
    return _solved(squares, wanted.movedim(1, -1), least)[..., 0, :].movedim(-1, 1)


def _moved(
    places: Tensor, small: Tensor, low: Tensor, weight: Tensor, deviation: float, degree: int
) -> Tensor:
    """Places N2HW moved so that `small`, what is seen there, becomes more like `low` (N3HW)."""
    across, down = gradients(small)
    missing = low - small
    pairs = (across * across, across * down, down * down, across * missing, down * missing)
    products = weight * torch.cat([x.sum(1, keepdim=True) for x in pairs], 1)
    powers = _powers(degree)
    sums = {two: _summed(products, deviation, *two) for two in _powers(2 * degree)}
    squares = _matrix(
        [
            [sums[a + c, b + d][:, pair] for pair in pairs for c, d in powers]
            for pairs in ((0, 1), (1, 2))
            for a, b in powers
        ]
    )
    wanted = torch.stack([sums[two][:, place] for place in (3, 4) for two in powers], -1)
    least = torch.full((2 * len(powers),), _FLAT)
    step = _solved(squares, wanted[..., None], least)[..., 0]
    right, below = (step[..., place][:, None] for place in (0, len(powers)))
    by_column, by_row = (x.clamp(-_STEEPEST, _STEEPEST) for x in gradients(places))
    right, below = (x.clamp(-_FARTHEST, _FARTHEST) for x in (right, below))
    return places + by_column * right + by_row * below


def _matrix(entries: list[list[Tensor]]) -> Tensor:
    """Of P rows of P entries NHW: NHWPP."""
    return torch.stack([torch.stack(row, -1) for row in entries], -2)


def _solved(squares: Tensor, wanted: Tensor, least: Tensor) -> Tensor:
    """The solution of the normal equations, what hardly anything speaks for kept near 0."""
    return torch.linalg.solve(squares + torch.diag(least).to(squares), wanted)


def _within(places: Tensor, reference: Tensor) -> Tensor:
    """Which low pixels N1HW lie, by places N2(4H)(4W), inside the reference."""
    x, y = F.avg_pool2d(places, 4).unbind(1)
    H, W = reference.shape[-2:]
    return ((x > -1) & (x < W) & (y > -1) & (y < H))[:, None]
