"""Finding a picture's view in the next wider one of its scene."""

from dataclasses import replace
from typing import Literal, NamedTuple

import cv2
import numpy as np

from restore.images.tiling import Window
from restore.tools.prepare.blocks import shifts
from restore.tools.prepare.warp import Warp, fitted, resize_matrix

Motion = Literal["affine", "homography"]

_MARGIN = 0.25  # of the expected view, searched on each of its sides
_LEAST = 12  # matching features that must agree
_NEAR = 0.005  # of the picture's diagonal: features so near to a similarity agree with it
_CLOSE = 0.3  # pixels of the wide picture: points so near to a fit stay in it
_ZOOM = 0.2  # share by which the found zoom may differ from that of the focal lengths


class Unrelated(Exception):
    """Two pictures cannot be aligned; the sentence says why."""


class Alignment(NamedTuple):
    """A mapping, and how it was found: agreeing features, and the correlation of ECC, 0 to 1."""

    mapping: Warp
    agreeing: int
    correlation: float


def expected(target: tuple[int, int], wide: tuple[int, int], zoom: float) -> Warp:
    """The mapping that focal lengths alone tell: central parts, of pictures (height, width)."""
    scale = float(np.hypot(*wide) / np.hypot(*target)) / zoom
    middle = np.array([target[1] - 1, target[0] - 1]) / 2
    goal = np.array([wide[1] - 1, wide[0] - 1]) / 2
    shift = goal - scale * middle
    return Warp(np.array([[scale, 0, shift[0]], [0, scale, shift[1]], [0, 0, 1]]), wide)


def align(
    target_HW: np.ndarray,
    wide_HW: np.ndarray,
    zoom: float,
    motion: Motion,
    radial: bool,
    size: int,
) -> Alignment:
    """Features with RANSAC, then ECC (Evangelidis & Psarakis, PAMI 2008), then blocks.

    The last step, robust least squares over the displacements of blocks, keeps what moves in the
    scene from pulling the rest along, and finds the distortion, which ECC does not know.

    Args:
        target_HW, wide_HW: float32 in [0, 1].
        zoom: ratio of the focal lengths.
        motion: what a pair of pictures may differ by.
        radial: also by a radial distortion.
        size: longest side, in pixels, at which features and ECC work.

    Raises:
        Unrelated: too few features agree, on a zoom that is the expected one, or ECC fails.
    """
    start = expected(target_HW.shape, wide_HW.shape, zoom)
    points, matches = _features(target_HW, wide_HW, start, size)
    mapping, agree = _agreed(points, matches, start, np.hypot(*target_HW.shape))
    flat = motion == "affine"
    mapping, close = _trimmed(mapping, points[agree], matches[agree], flat, radial)
    mapping, correlation = _ecc(target_HW, wide_HW, mapping, motion, size)
    whole = Window(0, 0, *target_HW.shape)
    for _ in range(3):
        here = mapping.inside(whole)
        seen = shifts(target_HW, mapping.warped(wide_HW, whole), zoom)
        sure = (seen.alike > 0.7) & here[tuple(seen.places.T[::-1].astype(int))]
        if sure.sum() < _LEAST:
            break
        places, moves = seen.places[sure], seen.moves[sure]
        mapping, _ = _trimmed(mapping, places, mapping(places + moves), flat, radial)
    return Alignment(mapping, int(close.sum()), correlation)


def _trimmed(
    mapping: Warp, points: np.ndarray, matches: np.ndarray, flat: bool, radial: bool
) -> tuple[Warp, np.ndarray]:
    """`fitted` to the points that agree on it, found by turns, and which these are."""
    kept = np.ones(len(points), dtype=bool)
    for _ in range(5):
        mapping = fitted(mapping, points[kept], matches[kept], flat, radial)
        off = np.hypot(*(mapping(points) - matches).T)
        closer = off <= max(_CLOSE, 3 * float(np.median(off)))
        if closer.sum() < _LEAST or (closer == kept).all():
            break
        kept = closer
    return mapping, kept


def _shrunk(picture: np.ndarray, factor: float) -> np.ndarray:
    if factor >= 1:
        return picture
    height, width = (max(1, round(side * factor)) for side in picture.shape)
    return cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA)


def _features(
    target_HW: np.ndarray, wide_HW: np.ndarray, start: Warp, size: int
) -> tuple[np.ndarray, np.ndarray]:
    """Points (x, y) of the target and those of the wide picture that look like them, N2 each."""
    small = _shrunk(target_HW, size / max(target_HW.shape))
    height, width = target_HW.shape
    (left, top), (right, bottom) = start(np.array([[0, 0], [width - 1, height - 1]]))
    more = _MARGIN * (right - left), _MARGIN * (bottom - top)
    left, top = (max(0, int(edge - m)) for edge, m in zip((left, top), more))
    right, bottom = (
        min(side, int(edge + m) + 2)
        for side, edge, m in zip(wide_HW.shape[::-1], (right, bottom), more)
    )
    part = wide_HW[top:bottom, left:right]
    other = _shrunk(part, size / max(part.shape))
    detected = []
    for picture in (small, other):
        levels = np.rint(picture.clip(0, 1) * 255).astype(np.uint8)
        detected.append(cv2.SIFT.create(nfeatures=4000).detectAndCompute(levels, None))
    (points, described), (places, looks) = detected
    nothing = np.empty((0, 2)), np.empty((0, 2))
    if described is None or looks is None or len(looks) < 2:
        return nothing
    matches = cv2.BFMatcher(cv2.NORM_L2).knnMatch(described, looks, k=2)
    pairs = [m for m, second in matches if m.distance < 0.8 * second.distance]
    if not pairs:
        return nothing
    here = np.array([points[m.queryIdx].pt for m in pairs])
    there = np.array([places[m.trainIdx].pt for m in pairs])
    here = _moved(resize_matrix(small.shape, target_HW.shape), here)
    there = _moved(resize_matrix(other.shape, part.shape), there) + np.array([left, top])
    return here, there


def _moved(matrix: np.ndarray, points: np.ndarray) -> np.ndarray:
    return points @ matrix[:2, :2].T + matrix[:2, 2]


def _agreed(
    points: np.ndarray, matches: np.ndarray, start: Warp, diagonal: float
) -> tuple[Warp, np.ndarray]:
    """The similarity on which most matches agree, and which do."""
    said = "no common view was found: "
    if len(points) < _LEAST:
        raise Unrelated(f"{said}only {len(points)} features match")
    cv2.setRNGSeed(0)
    matrix, agree = cv2.estimateAffinePartial2D(
        points,
        matches,
        method=cv2.RANSAC,
        ransacReprojThreshold=max(2.0, _NEAR * diagonal * start.matrix[0, 0]),
        maxIters=5000,
        confidence=0.9999,
    )
    if matrix is None or agree.sum() < _LEAST:
        count = 0 if matrix is None else int(agree.sum())
        raise Unrelated(f"{said}{count} of {len(points)} matching features agree")
    ratio = float(np.sqrt(abs(np.linalg.det(matrix[:, :2]))) / start.matrix[0, 0])
    if not 1 / (1 + _ZOOM) < ratio < 1 + _ZOOM:
        raise Unrelated(
            f"{said}matching features agree on a zoom {1 / ratio:.2f} times that of the focal "
            "lengths"
        )
    return replace(start, matrix=np.vstack([matrix, [0, 0, 1]])), agree.ravel().astype(bool)


def _ecc(
    target_HW: np.ndarray, wide_HW: np.ndarray, mapping: Warp, motion: Motion, size: int
) -> tuple[Warp, float]:
    """The mapping with a homography before it that brings the two pictures' greys together."""
    small = _shrunk(target_HW, size / max(target_HW.shape))
    to_small = resize_matrix(target_HW.shape, small.shape)
    at = mapping.after(np.linalg.inv(to_small))
    whole = Window(0, 0, *small.shape)
    # Enough blur for what remains of the shift and for the lenses' difference.
    start = np.eye(3 if motion == "homography" else 2, 3, dtype=np.float32)
    kind = cv2.MOTION_HOMOGRAPHY if motion == "homography" else cv2.MOTION_AFFINE
    until = cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, 50, 1e-6
    other = at.warped(wide_HW, whole)
    try:
        correlation, transform = cv2.findTransformECC(
            small, other, start, kind, until, at.inside(whole).astype(np.uint8) * 255, 5
        )
    except cv2.error as error:
        raise Unrelated("ECC does not converge: the pictures differ too much") from error
    matrix = np.vstack([transform, [0, 0, 1]]) if len(transform) == 2 else transform
    return mapping.after(np.linalg.inv(to_small) @ matrix.astype(float) @ to_small), correlation
