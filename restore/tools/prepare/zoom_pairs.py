"""Pairs of aligned pictures from scenes photographed at several focal lengths."""

from pathlib import Path
from typing import Annotated, Any, NamedTuple

import cv2
import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from restore.errors import UnreadableImage
from restore.images.io import read_rgb
from restore.images.tiling import Window
from restore.tools.prepare import photometry, rectangle, scenes
from restore.tools.prepare.alignment import Alignment, Motion, Unrelated, align, expected
from restore.tools.prepare.blocks import Shifts, shifts
from restore.tools.prepare.scenes import Pair, Refused

_ALIKE = 0.6  # correlation below which a block shows something else
_BLOCKS = 6  # with texture, that a residual error can be told from
_THUMB, _DETAIL = 240, 160  # longest side of a thumbnail, side of a detail, pixels

Facts = dict[str, Any]
Limits = Annotated[list[Annotated[float, Field(gt=0)]], Field(min_length=2, max_length=2)]


class PreparedScene(NamedTuple):
    """What became of a pair.

    `pictures` are what is kept (uint8 3HW, by name; none of a dropped pair), `facts` numbers about
    it, `reason` why it was dropped, `views` small pictures (HW3 uint8) for the report.
    """

    pictures: dict[str, Tensor]
    facts: Facts
    reason: str | None
    views: dict[str, np.ndarray]


class _Dropped(Exception):
    pass


class ZoomPairs:
    """How a picture and the next wider one of its scene become a pair.

    The longer focal length's picture is left as it is, but for a crop: `target`. The other is
    undistorted relative to it, aligned and enlarged (cubic, once) to lie pixel on pixel with it:
    `low_up`. Only the rectangle that both show is kept.

    Args:
        zooms: ratios of two focal lengths that make a pair, [least, most].
        motion: what aligns two pictures: `homography` (also a turned camera) or `affine`.
        distortion: `radial` fits the first radial term of the lenses' difference in each pair.
        photometry: brings the wide picture's colours to the target's: `none`, `polynomial` (degree
            3 for each channel) or `histogram`.
        size: longest side at which features and ECC work, pixels; what follows them works at full
            size.
        residual: pairs whose blocks still lie apart by more, in the median, are dropped; pixels of
            the target.
        motion_from: a block that lies further off, or shows something else, has moved; pixels.
        moving: pairs with a larger share of moving blocks are dropped.
        smallest: pairs are dropped whose common rectangle has a shorter side; pixels.
    """

    def __init__(
        self,
        zooms: Limits,
        motion: Motion = "homography",
        distortion: Annotated[str, Field(pattern="^(none|radial)$")] = "none",
        photometry: photometry.Kind = "none",
        size: Annotated[int, Field(ge=128)] = 1600,
        residual: Annotated[float, Field(gt=0)] = 1.0,
        motion_from: Annotated[float, Field(gt=0)] = 2.0,
        moving: Annotated[float, Field(ge=0, le=1)] = 0.2,
        smallest: Annotated[int, Field(ge=1)] = 256,
    ):
        self.motion, self.radial, self.photometry = motion, distortion == "radial", photometry
        self.zooms, self.size, self.smallest = zooms, size, smallest
        self.residual, self.motion_from, self.moving = residual, motion_from, moving

    def pairs(self, root: Path) -> tuple[list[Pair], list[Refused]]:
        """The pairs of a folder of scenes, and what cannot be paired; see `scenes.pairs`."""
        return scenes.pairs(root)

    def make(self, pair: Pair) -> PreparedScene:
        """Aligns a pair, measures it, and says whether it is to be kept."""
        facts: Facts = {"focal": pair.focal, "wide_focal": pair.wide_focal}
        views: dict[str, np.ndarray] = {}
        pictures: dict[str, Tensor] = {}
        try:
            arrays = self._made(pair, facts, views)
            pictures = {
                name: torch.from_numpy(np.ascontiguousarray(x)).permute(2, 0, 1)
                for name, x in arrays.items()
            }
        except UnreadableImage as error:
            return PreparedScene(
                {}, facts, f"{Path(error.path).name} cannot be read: {error.reason}", views
            )
        except (_Dropped, Unrelated) as error:
            return PreparedScene({}, facts, str(error), views)
        return PreparedScene(pictures, facts, None, views)

    def _made(
        self, pair: Pair, facts: Facts, views: dict[str, np.ndarray]
    ) -> dict[str, np.ndarray]:
        zoom = pair.focal / pair.wide_focal
        facts["zoom"] = round(zoom, 3)
        if not self.zooms[0] <= zoom <= self.zooms[1]:
            raise _Dropped(
                f"a zoom of {zoom:.2f} ({pair.focal:g} mm to {pair.wide_focal:g} mm) is outside "
                f"{self.zooms[0]:g} to {self.zooms[1]:g} (preparation.zooms)"
            )
        target, wide = (
            read_rgb(path).permute(1, 2, 0).contiguous().numpy()
            for path in (pair.target, pair.wide)
        )
        whole = Window(0, 0, *target.shape[:2])
        start = expected(target.shape[:2], wide.shape[:2], zoom)
        views |= {"target": _thumb(target), "wide": _thumb(start.warped(wide, whole))}
        alignment = align(_grey(target), _grey(wide), zoom, self.motion, self.radial, self.size)
        facts |= _described(alignment, start(_corners(whole)), whole)

        common = rectangle.largest(alignment.mapping.inside(whole))
        facts |= {"width": common.width, "height": common.height}
        if min(common.height, common.width) < self.smallest:
            raise _Dropped(
                f"both pictures show only {common.width}×{common.height} pixels "
                "(preparation.smallest)"
            )
        target = target[
            common.top : common.top + common.height, common.left : common.left + common.width
        ]
        aligned = alignment.mapping.warped(wide, common)
        bias = (target.astype(np.float32) - aligned).mean((0, 1))
        facts["bias_before"] = [round(float(x), 2) for x in bias]
        aligned = photometry.apply(aligned, photometry.curves(aligned, target, self.photometry))
        error = target.astype(np.float32) - aligned
        facts["bias_after"] = [round(float(x), 2) for x in error.mean((0, 1))]
        facts["psnr"] = round(float(10 * np.log10(255**2 / max(1e-9, np.mean(error**2)))), 2)
        seen = shifts(_grey(target), _grey(aligned), zoom)
        views |= _views(target, aligned, seen)
        self._judge(seen, facts)
        return {"target": target, "low_up": aligned}

    def _judge(self, seen: Shifts, facts: Facts) -> None:
        """Adds the residual error and the share of moving blocks; drops what has too much."""
        facts["blocks"] = len(seen.far)
        if len(seen.far) < _BLOCKS:
            raise _Dropped(
                f"only {len(seen.far)} blocks have enough texture to check the alignment"
            )
        same = seen.alike >= _ALIKE
        moved = ~same | (seen.far > self.motion_from)
        facts["moving"] = round(float(moved.mean()), 3)
        if same.any():
            middle, most = np.quantile(seen.far[same], [0.5, 0.95])
            facts |= {"residual": round(float(middle), 3), "residual_95": round(float(most), 3)}
        if facts["moving"] > self.moving:
            raise _Dropped(
                f"{facts['moving']:.0%} of the blocks have moved or changed, more than "
                f"{self.moving:.0%} (preparation.moving)"
            )
        if facts["residual"] > self.residual:
            raise _Dropped(
                f"a residual error of {facts['residual']:.2f} pixels is more than "
                f"{self.residual:g} (preparation.residual)"
            )


def _grey(picture_HW3: np.ndarray) -> np.ndarray:
    return cv2.cvtColor(picture_HW3.astype(np.float32) / 255, cv2.COLOR_RGB2GRAY)


def _corners(window: Window) -> np.ndarray:
    right, bottom = window.width - 1, window.height - 1
    return np.array([[0, 0], [right, 0], [0, bottom], [right, bottom]], dtype=float)


def _described(alignment: Alignment, begun: np.ndarray, whole: Window) -> Facts:
    """Numbers on an alignment: zoom, shift and turn at the middle, and how it was found."""
    mapping = alignment.mapping
    middle = np.array([whole.width - 1, whole.height - 1]) / 2
    centre, right = mapping(np.array([middle, [middle[0] + 1, middle[1]]]))
    step = right - centre
    scale = float(np.hypot(*step))
    shift = (centre - begun.mean(0)) / scale
    return {
        "zoom_found": round(1 / scale, 4),
        "shift_x": round(float(shift[0]), 2),
        "shift_y": round(float(shift[1]), 2),
        "rotation": round(float(np.degrees(np.arctan2(step[1], step[0]))), 3),
        "radial": round(mapping.radial, 5),
        "matrix": mapping.matrix.tolist(),
        "features": alignment.agreeing,
        "correlation": round(alignment.correlation, 4),
    }


def _thumb(picture_HW3: np.ndarray) -> np.ndarray:
    height, width = picture_HW3.shape[:2]
    ratio = min(1.0, _THUMB / max(height, width))
    size = max(1, round(width * ratio)), max(1, round(height * ratio))
    return cv2.resize(picture_HW3, size, interpolation=cv2.INTER_AREA)


def _views(target: np.ndarray, aligned: np.ndarray, seen: Shifts) -> dict[str, np.ndarray]:
    """Both pictures small, and both pixel for pixel where they lie apart most."""
    height, width = target.shape[:2]
    far = np.where(seen.alike >= _ALIKE, seen.far, -1)
    at = seen.places[int(np.argmax(far))] if len(far) else np.array([width, height]) / 2
    left, top = (
        int(np.clip(p - _DETAIL / 2, 0, max(0, s - _DETAIL))) for p, s in zip(at, (width, height))
    )
    part = slice(top, top + _DETAIL), slice(left, left + _DETAIL)
    return {
        "target": _thumb(target),
        "wide": _thumb(aligned),
        "target_detail": target[part],
        "wide_detail": aligned[part],
    }
