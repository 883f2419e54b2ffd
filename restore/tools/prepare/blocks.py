"""How far two aligned pictures still lie apart, block by block."""

from typing import NamedTuple

import cv2
import numpy as np

# Mean squared gradient, in any direction, that a block's displacement can be told from
# (values in [0, 1], per pixel).
_TEXTURE = 0.004**2


class Shifts(NamedTuple):
    """What was found in the blocks that have texture in every direction.

    `places` N2: middle (x, y) in pixels; `moves` N2: where the second picture shows what the first
    has there, relative to it, pixels; `alike` N: correlation of the two once moved, -1 to 1.
    """

    places: np.ndarray
    moves: np.ndarray
    alike: np.ndarray

    @property
    def far(self) -> np.ndarray:
        """Length of each move."""
        return np.hypot(*self.moves.T)


def shifts(first_HW: np.ndarray, second_HW: np.ndarray, sharpness: float) -> Shifts:
    """Displacements of blocks by Lucas and Kanade's least squares (1981), from coarse to fine.

    Brightness and contrast of each block may differ. Displacements of up to some eight pixels are
    found; where a block is displaced further, or changed, its two parts are not alike.

    Args:
        first_HW, second_HW: float in [0, 1].
        sharpness: pixels of blur below which the two may differ because one lens shows less.
    """
    height, width = first_HW.shape
    side = int(np.clip(min(height, width) // 12, 24, 128))
    levels = [
        tuple(cv2.GaussianBlur(x, (0, 0), blur) for x in (first_HW, second_HW))
        for blur in (4 * sharpness, sharpness)
    ]
    slopes = [
        tuple(cv2.filter2D(one, cv2.CV_32F, kernel) for kernel in (_SLOPE, _SLOPE.T))
        for one, _ in levels
    ]
    places, moves, alike = [], [], []
    for top in range(4, height - side - 3, side):
        for left in range(4, width - side - 3, side):
            part = slice(top, top + side), slice(left, left + side)
            right, down = (slope[part] for slope in slopes[1])
            if np.linalg.eigvalsh(_tensor(right, down))[0] / side**2 < _TEXTURE:
                continue
            middle = np.array([left, top]) + (side - 1) / 2
            move = np.zeros(2)
            for (one, other), (right, down) in zip(levels, slopes):
                move = _followed(one[part], right[part], down[part], other, middle, move)
            here = levels[1][0][part], _at(levels[1][1], middle + move, side)
            places.append(middle)
            moves.append(move)
            alike.append(float(np.mean(_normal(here[0]) * _normal(here[1]))))
    return Shifts(np.reshape(places, (-1, 2)), np.reshape(moves, (-1, 2)), np.array(alike))


_SLOPE = np.array([[-0.5, 0, 0.5]], dtype=np.float32)


def _tensor(right: np.ndarray, down: np.ndarray) -> np.ndarray:
    right, down = right.ravel().astype(float), down.ravel().astype(float)
    mixed = right @ down
    return np.array([[right @ right, mixed], [mixed, down @ down]])


def _followed(
    one: np.ndarray,
    right: np.ndarray,
    down: np.ndarray,
    other: np.ndarray,
    middle: np.ndarray,
    move: np.ndarray,
) -> np.ndarray:
    tensor = _tensor(right, down)
    if np.linalg.det(tensor) <= 0:
        return move
    spread = max(float(one.std()), 1e-6)
    level = one.mean()
    for _ in range(6):
        there = _normal(_at(other, middle + move, one.shape[0])) * spread + level
        off = (one - there).ravel().astype(float)
        step = np.linalg.solve(tensor, [right.ravel() @ off, down.ravel() @ off])
        move = move + step.clip(-4, 4)
        if np.abs(move).max() > 16:
            return np.zeros(2)  # lost; the other level, or the likeness, will tell
        if np.abs(step).max() < 0.003:
            break
    return move


def _at(picture: np.ndarray, middle: np.ndarray, side: int) -> np.ndarray:
    return cv2.getRectSubPix(picture, (side, side), (float(middle[0]), float(middle[1])))


def _normal(block: np.ndarray) -> np.ndarray:
    block = block - block.mean()
    return block / max(float(block.std()), 1e-6)
