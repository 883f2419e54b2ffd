"""Views of a picture through homographies, with the exact correspondence of two of them.

A homography is a 3×3 matrix of float64 that maps pixel coordinates (x, y, 1), the middle of the
first pixel being (0, 0), of one picture to those of another.
"""

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor


def translation(x: float, y: float) -> np.ndarray:
    """The homography that adds (x, y)."""
    return np.array([[1.0, 0.0, x], [0.0, 1.0, y], [0.0, 0.0, 1.0]])


def from_points(start_N2: np.ndarray, end_N2: np.ndarray) -> np.ndarray:
    """The homography that maps four points, no three on a line, to four others."""
    rows, values = [], []
    for (x, y), (u, v) in zip(start_N2, end_N2):
        rows += [[x, y, 1, 0, 0, 0, -u * x, -u * y], [0, 0, 0, x, y, 1, -v * x, -v * y]]
        values += [u, v]
    return np.append(np.linalg.solve(np.array(rows, float), values), 1.0).reshape(3, 3)


def mapped(homography: np.ndarray, points_N2: np.ndarray) -> np.ndarray:
    """Where a homography takes points (x, y)."""
    ahead = np.concatenate([points_N2, np.ones((len(points_N2), 1))], 1) @ homography.T
    return ahead[:, :2] / ahead[:, 2:]


def turning(height: int, width: int, how: tuple[bool, bool, int]) -> np.ndarray:
    """The homography of a flip and quarter turns (`augment.turned`) of a picture of these sides."""
    across, along, quarters = how
    matrix = np.eye(3)
    if across:
        matrix = np.array([[-1.0, 0, width - 1], [0, 1, 0], [0, 0, 1]]) @ matrix
    if along:
        matrix = np.array([[1.0, 0, 0], [0, -1, height - 1], [0, 0, 1]]) @ matrix
    for _ in range(quarters):  # rot90: (x, y) of a picture of width w goes to (y, w - 1 - x)
        matrix = np.array([[0.0, 1, 0], [-1, 0, width - 1], [0, 0, 1]]) @ matrix
        height, width = width, height
    return matrix


def view(
    picture_CHW: Tensor,
    to_picture: np.ndarray,
    height: int,
    width: int,
    moved_HW2: np.ndarray | None = None,
) -> Tensor:
    """The picture as it is seen through a homography.

    Bicubic (a = -0.75), at several places a pixel where the view is smaller than the picture, so
    that nothing is aliased; beyond its edges the picture is mirrored.

    Args:
        picture_CHW: uint8 or float in [0, 1].
        to_picture: takes the view's pixels to the picture's.
        height: of the view, in pixels.
        width: of the view, in pixels.
        moved_HW2: how far right and down of each pixel of the view is looked up what it shows, in
            pixels of the view, before the homography.

    Returns:
        C, height, width, float32 in [0, 1].
    """
    picture = picture_CHW.float() / 255 if picture_CHW.dtype == torch.uint8 else picture_CHW
    finer = _places_a_pixel(to_picture, height, width)
    rows, columns = np.mgrid[0 : height * finer, 0 : width * finer]
    pixels = np.stack([columns.ravel(), rows.ravel()], 1)
    pixels = (pixels + 0.5) / finer - 0.5
    if moved_HW2 is not None:
        pixels = pixels + moved_HW2.repeat(finer, 0).repeat(finer, 1).reshape(-1, 2)
    places = mapped(to_picture, pixels)
    sides = np.array([picture.shape[-1], picture.shape[-2]])
    grid = torch.from_numpy((places * 2 + 1) / sides - 1).float()
    grid = grid.view(1, height * finer, width * finer, 2)
    seen = F.grid_sample(
        picture[None], grid, mode="bicubic", padding_mode="reflection", align_corners=False
    )
    return F.avg_pool2d(seen, finer)[0].clamp(0, 1)


def _places_a_pixel(to_picture: np.ndarray, height: int, width: int) -> int:
    """How often a pixel of the view must be looked up: its size in the picture's pixels."""
    corners = np.array([[0, 0], [width, 0], [width, height], [0, height]], float)
    there = mapped(to_picture, corners)
    along = np.linalg.norm(np.roll(there, -1, 0) - there, axis=1)
    step = max(along / [width, height, width, height])
    return max(1, math.ceil(step - 0.2))
