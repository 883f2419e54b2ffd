"""Holes filled from what lies around them, without learning: a start for networks, a baseline."""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from scipy.sparse import csr_array
from torch import Tensor

# Relaxations at each level of the pyramid; the coarse levels have done the far-reaching part.
_RELAXATIONS = 4
# So that nothing is divided by zero once the solution is there.
_TINY = 1e-20
# Of conjugate gradients: all that strokes need, a start for wide holes.
_ITERATIONS = 24


def filled(picture_NCHW: Tensor, mask_N1HW: Tensor) -> Tensor:
    """The picture with its holes filled smoothly; a picture that is all hole becomes mid-grey.

    First a coarse-to-fine approximation of the membrane that meets the known pixels at the holes'
    borders: means of known pixels over ever larger squares, interpolated back and relaxed at each
    level. From there some steps of conjugate gradients towards the biharmonic surface, which goes
    on with the slope that the picture has at the border. What lies in the holes has no influence,
    and no value leaves the range of the known ones.

    It is worked out on the CPU, and for the pixels of the holes alone.

    Args:
        picture_NCHW: float.
        mask_N1HW: 1 or true = hole.
    """
    pictures = []
    for picture, mask in zip(picture_NCHW.cpu(), mask_N1HW.cpu()):
        hole = mask[0] > 0
        pictures.append(_filled(picture, hole) if hole.any() else picture)
    return torch.stack(pictures).to(picture_NCHW.device)


def _filled(picture_CHW: Tensor, hole_HW: Tensor) -> Tensor:
    if hole_HW.all():
        return torch.full_like(picture_CHW, 0.5)
    start = _membrane(picture_CHW, hole_HW)
    flat = _flat(start)
    hole = _Places.of(hole_HW)
    surface = _biharmonic(flat, hole, hole_HW)
    # Of the known pixels alone: by rounding, the start may itself be beyond them in the holes.
    known = picture_CHW[:, ~hole_HW]
    flat[hole.at] = surface.clip(known.amin(1).numpy(), known.amax(1).numpy())
    return _unflat(flat, start.shape)


@dataclass(frozen=True)
class _Places:
    """Some pixels of a picture, row-major, and the four beside each.

    Beyond the picture's edge lie its last pixels again, so that it has no slope across the edge and
    the matrix of all Laplacians is symmetric, as conjugate gradients need it.
    """

    at: np.ndarray  # n
    beside: np.ndarray  # n, 4

    @staticmethod
    def of(chosen_HW: Tensor) -> "_Places":
        """Those where it is true."""
        height, width = chosen_HW.shape
        row, column = np.nonzero(chosen_HW.numpy())
        above, below = np.maximum(row - 1, 0), np.minimum(row + 1, height - 1)
        left, right = np.maximum(column - 1, 0), np.minimum(column + 1, width - 1)
        beside = [above * width + column, below * width + column]
        beside += [row * width + left, row * width + right]
        return _Places(row * width + column, np.stack(beside, 1))

    def means(self, pixels: int, kind: np.dtype) -> csr_array:
        """The matrix that makes of a picture's pixels the means beside these."""
        ends = np.arange(0, self.beside.size + 1, 4)
        quarter = np.full(self.beside.size, 0.25, kind)
        return csr_array((quarter, self.beside.ravel(), ends), (len(self.at), pixels))


def _flat(x_CHW: Tensor) -> np.ndarray:
    """Pixels × channels, a copy."""
    return x_CHW.flatten(1).T.contiguous().numpy()


def _unflat(flat: np.ndarray, shape: torch.Size) -> Tensor:
    return torch.from_numpy(flat).T.reshape(shape)


def _membrane(x_CHW: Tensor, hole_HW: Tensor) -> Tensor:
    height, width = hole_HW.shape
    if max(height, width) == 1:
        return torch.where(hole_HW, 0.5, x_CHW)
    known = ~hole_HW
    weight = _halved(known.to(x_CHW.dtype)[None])
    # Not x · known: what lies in the holes may be anything, even not a number.
    seen = torch.where(known, x_CHW, 0)
    coarse = _membrane(_halved(seen) / weight.clamp_min(1e-6), weight[0] == 0)
    if not hole_HW.any():
        return x_CHW
    size = (height, width)
    smooth = F.interpolate(coarse[None], size, mode="bilinear", align_corners=False)[0]
    flat = _flat(torch.where(known, x_CHW, smooth))
    hole = _Places.of(hole_HW)
    means = hole.means(len(flat), flat.dtype)
    for _ in range(_RELAXATIONS):
        flat[hole.at] = means @ flat
    return _unflat(flat, x_CHW.shape)


def _biharmonic(flat: np.ndarray, hole: _Places, hole_HW: Tensor) -> np.ndarray:
    """Steps towards a square of the Laplacian that is zero in the holes, from a filled picture.

    Returns holes × channels. Laplacians of what changes are not zero in the holes and beside them
    alone, so the matrix is that of these places and its transposed one.
    """
    reached = hole_HW.clone()
    reached.view(-1)[torch.from_numpy(hole.beside.ravel())] = True
    near = _Places.of(reached)
    number = np.zeros(len(flat), np.int64)
    number[near.at] = np.arange(len(near.at))
    kind, count = flat.dtype, len(hole.at)
    values = np.tile(np.array([1, -0.25, -0.25, -0.25, -0.25], kind), count)
    columns = number[np.column_stack([hole.at, hole.beside])].ravel()
    ends = np.arange(0, 5 * count + 1, 5)
    laplacian = csr_array((values, columns, ends), (count, len(near.at)))
    back = laplacian.T.tocsr()

    rests = -(laplacian @ (flat[near.at] - near.means(len(flat), kind) @ flat))
    results = []
    for result, rest in zip(flat[hole.at].T.copy(), rests.T.copy()):  # one channel after another
        way, size = rest, rest @ rest
        for _ in range(_ITERATIONS):
            change = laplacian @ (back @ way)
            step = size / max(way @ change, _TINY)
            result, rest = result + step * way, rest - step * change
            before, size = size, rest @ rest
            way = rest + size / max(before, _TINY) * way
        results.append(result)
    return np.stack(results, 1)


def _halved(x_CHW: Tensor) -> Tensor:
    return F.avg_pool2d(x_CHW[None], 2, ceil_mode=True, count_include_pad=False)[0]


def blended(inside_NCHW: Tensor, outside_NCHW: Tensor, mask_N1HW: Tensor, border: int) -> Tensor:
    """One picture in the holes, another where known, with a soft passage on the known side.

    All of the hole is the first; beyond `2 · border` pixels all is the second. In between
    their shares change by no more than 1 / (2 · border + 1) from a pixel to the next, so that no
    edge is seen where both differ by a little. Without a border the passage is a step.
    """
    share = mask_N1HW.to(inside_NCHW.dtype)
    if border:
        side = 2 * border + 1
        share = F.max_pool2d(share, side, stride=1, padding=border)
        padded = F.pad(share, [border] * 4, mode="replicate")
        share = F.avg_pool2d(padded, side, stride=1)
        share = torch.where(mask_N1HW > 0, 1, share)  # exactly, whatever rounding made of the mean
    # Unlike a sum of products, `lerp` never leaves the range of the two and is exact at both ends.
    mixed = torch.lerp(outside_NCHW, inside_NCHW, share)
    return torch.where(share == 0, outside_NCHW, mixed)
