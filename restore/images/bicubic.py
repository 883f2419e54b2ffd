"""MATLAB's bicubic `imresize` of 8-bit pictures, to the bit, on any device, for any real scale.

Cubic convolution (Keys 1981, a = −1/2), its kernel widened when shrinking; rows first, then
columns, and what comes out of each pass rounded half up and cut to 8 bits, so that the two passes
do not commute. The low pictures of the usual benchmarks were made so. PIL, OpenCV and torch differ
from it at the edges, in the rounding, or in the kernel.
"""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from restore.errors import UserError
from restore.images.io import to_uint8
from restore.types import Sample, map_tensors

Edges = Literal["replicate", "mirror"]

# Rows of the result that one matrix product makes: so few that its matrix, which is zero but for a
# band, is mostly band.
_BLOCK = 16
# Far above a float64 sum's error (1e-13) and far below the share of pixels worth counting.
_NEAR = 1e-9


@torch.no_grad()
def resize(picture: Tensor, factor: float, edges: Edges = "replicate") -> Tensor:
    """The picture enlarged (`factor` > 1) or shrunk (< 1), as `imresize(picture, factor)` does it.

    The bits do not depend on device, batch or number of threads: they are those of float64 sums
    over the taps from left to right. Matrix products add in another order, which could only matter
    where a sum lies within its own error of half a level; such pixels are added up again in order.

    Args:
        picture: uint8, …HW.
        factor: ratio of the sides; each becomes ceil(side · factor), computed in float64.
        edges: what lies outside: `replicate` the outermost pixels (MATLAB when the benchmarks were
            made), `mirror` the picture, reflected with its outermost pixels (MATLAB since).

    Returns:
        uint8, …hw.
    """
    assert picture.dtype == torch.uint8, picture.dtype
    *leading, height, width = picture.shape
    planes = picture.reshape(-1, height, width)  # B planes
    rows, columns = (
        _Pass.along(side, float(factor), edges, picture.device) for side in (height, width)
    )
    shrunk_hBW = rows(planes.permute(1, 0, 2).reshape(height, -1)).view(rows.size, -1, width)
    shrunk_wBh = columns(shrunk_hBW.permute(2, 1, 0).reshape(width, -1))
    result = shrunk_wBh.view(columns.size, -1, rows.size).permute(1, 2, 0)
    return result.reshape(*leading, rows.size, columns.size).contiguous()


def resized(
    picture_NCHW: Tensor, factor: float, height: int, width: int, edges: Edges = "replicate"
) -> Tensor:
    """The picture as `resize` makes it but in float, without rounding, and with gradients.

    Args:
        picture_NCHW: float, of any range; the result may go beyond it.
        factor: ratio of the sides.
        height, width: of the result, no more than ceil(side · factor); the rest is cut off.
        edges: see `resize`.
    """
    for axis, length in ((-2, height), (-1, width)):
        side = picture_NCHW.shape[axis]
        picture_NCHW = resized_along(picture_NCHW, axis, side, factor, range(length), edges=edges)
    return picture_NCHW


def resized_along(
    part_NCHW: Tensor,
    axis: int,
    side: int,
    factor: float,
    wanted: range,
    first: int = 0,
    edges: Edges = "replicate",
) -> Tensor:
    """One side of `resized`, for some of the result's rows (or columns) from some of the picture's.

    Args:
        part_NCHW: of the picture, at least what `needed` says.
        axis: -2 or -1.
        side: the whole picture's length along it, in pixels.
        factor: ratio of the sides.
        wanted: which rows of the result.
        first: the picture's row that the part begins with.
        edges: see `resize`.
    """
    if factor == 1:  # nothing but a cut
        return part_NCHW.narrow(axis, wanted.start - first, len(wanted))
    places, weights = _tables(side, float(factor), edges, part_NCHW.device)
    assert wanted.stop <= len(places), (side, factor, wanted)
    rows = slice(wanted.start, wanted.stop)
    shape = (-1, 1) if axis == -2 else (-1,)
    total: Tensor | None = None
    for k in range(places.shape[1]):
        weight = weights[rows, k].to(part_NCHW.dtype).view(shape)
        term = part_NCHW.index_select(axis, places[rows, k] - first) * weight
        total = term if total is None else total + term
    assert total is not None
    return total


def needed(side: int, factor: float, wanted: range, edges: Edges = "replicate") -> range:
    """The rows of a picture, `side` of them, that some rows of the enlarged one are made of."""
    if factor == 1:
        return wanted
    places = _tables(side, float(factor), edges, torch.device("cpu"))[0]
    at = places[wanted.start : wanted.stop]
    return range(int(at.min()), int(at.max()) + 1)


@lru_cache(maxsize=64)
def _tables(side: int, factor: float, edges: Edges, device: torch.device) -> tuple[Tensor, Tensor]:
    """The taps of one side as tensors: i, K both."""
    places, weights = _taps(side, factor, edges)
    return torch.from_numpy(places).to(device), torch.from_numpy(weights).to(device)


def keys(x: np.ndarray) -> np.ndarray:
    """Cubic convolution with a = −1/2 (Keys 1981, eq. 15), float64."""
    x = np.abs(x)
    # Multiplied out: powers may differ in their last bit from one processor to the next.
    square, cube = x * x, x * x * x
    near = 1.5 * cube - 2.5 * square + 1
    far = -0.5 * cube + 2.5 * square - 4 * x + 2
    return near * (x <= 1) + far * ((x > 1) & (x <= 2))


class _Block(NamedTuple):
    """Rows of the result, the rows of the picture that they need, the matrix between them."""

    rows: slice
    needed: slice
    matrix: Tensor


@dataclass(frozen=True)
class _Pass:
    """The resizing of one side.

    Row i of the result is the sum over k of weights[i, k] · picture[places[i, k]], float64.
    `exact` says that no such sum is ever rounded, whatever its order (scales 2, 4, 8, …).
    """

    places_iK: Tensor
    weights_iK: Tensor
    blocks: list[_Block]
    exact: bool

    @staticmethod
    @lru_cache(maxsize=256)
    def along(side: int, factor: float, edges: Edges, device: torch.device) -> "_Pass":
        places, weights = _taps(side, factor, edges)
        blocks = []
        for start in range(0, len(places), _BLOCK):
            rows = slice(start, min(start + _BLOCK, len(places)))
            at, used = places[rows], weights[rows]
            lowest, highest = int(at.min()), int(at.max()) + 1
            matrix = np.zeros((len(at), highest - lowest))
            np.add.at(matrix, (np.arange(len(at))[:, None], at - lowest), used)
            matrix_on = torch.from_numpy(matrix).to(device)
            blocks.append(_Block(rows, slice(lowest, highest), matrix_on))
        fixed = weights * 2.0**40
        exact = bool((fixed == np.rint(fixed)).all())
        on_device = [torch.from_numpy(table).to(device) for table in (places, weights)]
        return _Pass(on_device[0], on_device[1], blocks, exact)

    @property
    def size(self) -> int:
        """Pixels of the result."""
        return len(self.places_iK)

    def __call__(self, picture_HX: Tensor) -> Tensor:
        """Uint8 H, X to uint8 h, X."""
        result = picture_HX.new_empty(self.size, picture_HX.shape[1])
        for rows, needed, matrix in self.blocks:
            values = matrix @ picture_HX[needed].double()
            if not self.exact:
                self._settle(values, rows, picture_HX)
            result[rows] = values.add_(0.5).clamp_(0, 255).to(torch.uint8)  # which rounds down
        return result

    def _settle(self, values: Tensor, rows: slice, picture_HX: Tensor) -> None:
        """Adds up again, in order, what is so near to half a level that its rounding is open."""
        row, column = (values.frac().sub_(0.5).abs_() < _NEAR).nonzero(as_tuple=True)
        if not len(row):
            return
        places, weights = self.places_iK[rows][row], self.weights_iK[rows][row]
        total = values.new_zeros(len(row))
        for k in range(places.shape[1]):
            # Two operations, not addcmul: a fused one would round once instead of twice.
            term = weights[:, k] * picture_HX[places[:, k], column].double()
            total = total + term
        values[row, column] = total


def _taps(side: int, factor: float, edges: Edges) -> tuple[np.ndarray, np.ndarray]:
    """Which pixels each pixel of the result is made of, and their weights: i, K both."""
    size = math.ceil(side * factor)
    shrinking = min(factor, 1.0)
    reach = 4 / shrinking
    # Middles of the result's pixels on the picture's axis, whose first pixel's middle is 1.
    middles = np.arange(1, size + 1) / factor + 0.5 * (1 - 1 / factor)
    first = np.floor(middles - reach / 2)
    places = first[:, None] + np.arange(math.ceil(reach) + 2)
    weights = shrinking * keys(shrinking * (middles[:, None] - places))
    weights /= np.cumsum(weights, axis=1)[:, -1:]  # added up from left to right
    inside = places.astype(np.int64) - 1
    if edges == "mirror":
        inside = inside % (2 * side)
        inside = np.minimum(inside, 2 * side - 1 - inside)
    else:
        inside = inside.clip(0, side - 1)
    used = (weights != 0).any(axis=0)
    return inside[:, used], weights[:, used]


class MatlabBicubic:
    """A degradation (`restore.data.degradation`): MATLAB's bicubic down and up, on the device.

    Pictures are taken as 8 bits. The scale may be any real number ≥ 1: sides that it does not
    divide give low pictures a fraction of a pixel larger than the target, and `low_up`'s rest is
    cut off at the bottom and right.

    Args:
        edges: see `resize`.
    """

    def __init__(self, edges: Edges = "replicate"):
        self.edges: Edges = edges

    def worker(
        self, sample: Sample, scale: float, rng: np.random.Generator | None = None
    ) -> Sample:
        """Nothing is done here."""
        return sample

    def device(self, batch: dict[str, Any], scale: float) -> dict[str, Any]:
        """Adds the low pictures.

        Raises UserError for a low picture that, enlarged, does not cover the target or covers a
        pixel of it more than the scale.
        """
        out = dict(batch)
        if "low" not in out:
            out["low"] = self._resized(out["target"], 1 / scale)
        if "low_up" not in out:
            out["low_up"] = self._resized(out["low"], scale)
            if "target" in out:
                out["low_up"] = _cut(out["low_up"], out["target"], scale, out["key"])
        if "reference" in out and "reference_low" not in out:
            out["reference_low"] = map_tensors(
                lambda x: self._resized(x, 1 / scale), out["reference"]
            )
        if "reference" in out and "reference_low_up" not in out:
            out["reference_low_up"] = map_tensors(
                lambda x: self._down_up(x, scale), out["reference"]
            )
        return out

    def _down_up(self, picture_NCHW: Tensor, scale: float) -> Tensor:
        height, width = picture_NCHW.shape[-2:]
        return self._resized(self._resized(picture_NCHW, 1 / scale), scale)[..., :height, :width]

    def _resized(self, picture_NCHW: Tensor, factor: float) -> Tensor:
        return resize(to_uint8(picture_NCHW), factor, self.edges).float() / 255


def _cut(low_up: Tensor, target: Tensor, scale: float, key: object) -> Tensor:
    height, width = target.shape[-2:]
    for side, up in ((height, low_up.shape[-2]), (width, low_up.shape[-1])):
        if not side <= up <= side + math.ceil(scale):
            raise UserError(
                f"{key}: the low picture times {scale:g} ({low_up.shape[-1]}×{low_up.shape[-2]}) "
                f"is not as large as the target ({width}×{height})"
            )
    return low_up[..., :height, :width]
