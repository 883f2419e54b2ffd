"""Colours of one picture brought to those of another that lies pixel on pixel with it."""

from typing import Literal

import cv2
import numpy as np

Kind = Literal["none", "polynomial", "histogram"]

_BLUR = 3.0  # pixels: both pictures are compared where neither is sharper
_SAMPLES = 200_000
_DEGREE = 3


def curves(picture_HW3: np.ndarray, goal_HW3: np.ndarray, kind: Kind) -> np.ndarray:
    """How to change each channel's levels so that the picture gets the goal's colours.

    Args:
        picture_HW3, goal_HW3: uint8, of the same view.
        kind: `polynomial`: of degree 3, by least squares over pairs of pixels, twice without those
            that lie far from it; `histogram`: the levels of equal rank; `none`: no change.

    Returns:
        3, 256: the new level, 0 to 255, of each old one. Beyond the levels that the picture shows,
        the curve goes on as a straight line.
    """
    if kind == "none":
        return np.tile(np.arange(256.0), (3, 1))
    step = max(1, int((picture_HW3.size / 3 / _SAMPLES) ** 0.5))
    one, other = (
        cv2.GaussianBlur(x, (0, 0), _BLUR)[::step, ::step].reshape(-1, 3).astype(float)
        for x in (picture_HW3, goal_HW3)
    )
    fit = _polynomial if kind == "polynomial" else _ranks
    return np.stack([fit(one[:, c], other[:, c]) for c in range(3)])


def apply(picture_HW3: np.ndarray, curves_3L: np.ndarray) -> np.ndarray:
    """The picture with its levels changed, uint8 rounded."""
    table = np.rint(curves_3L.clip(0, 255)).astype(np.uint8)
    return np.stack([table[c][picture_HW3[..., c]] for c in range(3)], axis=-1)


def _polynomial(levels: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    kept = np.ones(len(levels), dtype=bool)
    for _ in range(3):
        # Few levels carry only a simple curve.
        degree = min(_DEGREE, len(np.unique(levels[kept].round())) - 1)
        curve = np.polynomial.Polynomial.fit(levels[kept], wanted[kept], degree, domain=[0, 255])
        off = np.abs(curve(levels) - wanted)
        kept = off <= max(2.0, 3 * 1.4826 * float(np.median(off)))
    low, high = np.quantile(levels[kept], [0.001, 0.999])
    if high - low < 1:
        return np.arange(256.0) + float(np.median(wanted - levels))
    places = np.linspace(low, high, 64)
    return _continued(places, curve(places))


def _ranks(levels: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    shares = np.linspace(0.001, 0.999, 257)
    old, new = np.quantile(levels, shares), np.quantile(wanted, shares)
    places, group = np.unique(old, return_inverse=True)
    means = np.bincount(group, new) / np.bincount(group)
    if len(places) < 2:
        return np.arange(256.0) + float(np.median(new - old))
    return _continued(places, means)


def _continued(places: np.ndarray, values: np.ndarray) -> np.ndarray:
    """The curve through points at all 256 levels, straight beyond its ends and never falling."""
    levels = np.arange(256.0)
    curve = np.interp(levels, places, values)
    reach = max(1, len(places) // 8)
    for beyond, end, inner in (
        (levels < places[0], 0, reach),
        (levels > places[-1], -1, -1 - reach),
    ):
        slope = (values[end] - values[inner]) / (places[end] - places[inner])
        curve[beyond] = values[end] + max(0.0, slope) * (levels[beyond] - places[end])
    return np.maximum.accumulate(curve)
