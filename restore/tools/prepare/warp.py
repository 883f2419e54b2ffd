"""Where a pixel of one picture lies in another: a homography and a radial distortion."""

from dataclasses import dataclass, replace

import cv2
import numpy as np
from scipy.optimize import least_squares

from restore.images.tiling import Window


@dataclass(frozen=True)
class Warp:
    """From pixels of the target to pixels of the wide picture; centres of pixels are whole numbers.

    A point p goes to y = `matrix` p (homogeneous), and on to c + (y − c)(1 + `radial` |y − c|²/R²),
    the first term of Brown's distortion (1966), with the wide picture's centre c and half its
    diagonal R. So `radial` is the share by which its corner is moved outwards.
    """

    matrix: np.ndarray
    size: tuple[int, int]  # height and width of the wide picture
    radial: float = 0.0

    def __call__(self, points_N2: np.ndarray) -> np.ndarray:
        """The points (x, y) in the wide picture."""
        x, y = np.moveaxis(np.asarray(points_N2, dtype=float), -1, 0)
        return np.stack(self._moved(x, y), axis=-1)

    def _moved(self, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        a, b, c = self.matrix
        over = c[0] * x + c[1] * y + c[2]
        x, y = (a[0] * x + a[1] * y + a[2]) / over, (b[0] * x + b[1] * y + b[2]) / over
        if self.radial:
            height, width = self.size
            middle = (width - 1) / 2, (height - 1) / 2
            x, y = x - middle[0], y - middle[1]
            factor = 1 + self.radial * (x * x + y * y) / (middle[0] ** 2 + middle[1] ** 2)
            x, y = middle[0] + factor * x, middle[1] + factor * y
        return x, y

    def after(self, matrix: np.ndarray) -> "Warp":
        """The mapping of points that a homography has moved first."""
        return replace(self, matrix=self.matrix @ matrix / (self.matrix @ matrix)[2, 2])

    def grid(self, window: Window) -> tuple[np.ndarray, np.ndarray]:
        """Where every pixel of a part of the target lies in the wide picture: x, y, float32 HW."""
        top, left, height, width = window
        xs, ys = np.empty((2, height, width), dtype=np.float32)
        columns = np.arange(left, left + width, dtype=float)[None]
        for row in range(0, height, 256):  # so that double precision takes little memory
            band = slice(row, min(row + 256, height))
            rows = np.arange(top + band.start, top + band.stop, dtype=float)[:, None]
            xs[band], ys[band] = self._moved(*np.broadcast_arrays(columns, rows))
        return xs, ys

    def warped(self, wide: np.ndarray, window: Window) -> np.ndarray:
        """A part of the target's view, as the wide picture (HW or HW3) shows it; cubic."""
        return cv2.remap(
            wide, *self.grid(window), interpolation=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE
        )

    def inside(self, window: Window) -> np.ndarray:
        """Which pixels of a part of the target the wide picture shows, two pixels from its edge."""
        xs, ys = self.grid(window)
        height, width = self.size
        return (xs >= 2) & (ys >= 2) & (xs <= width - 3) & (ys <= height - 3)


def resize_matrix(old: tuple[int, ...], new: tuple[int, ...]) -> np.ndarray:
    """From pixels of a picture (height, width) to those of it at another size."""
    down, right = new[0] / old[0], new[1] / old[1]
    return np.array([[right, 0, (right - 1) / 2], [0, down, (down - 1) / 2], [0, 0, 1]])


def fitted(start: Warp, points: np.ndarray, matches: np.ndarray, flat: bool, radial: bool) -> Warp:
    """The mapping that brings points of the target nearest to where they were found.

    By least squares whose errors beyond a pixel count linearly, so that a few wrong points matter
    little.

    Args:
        start: a mapping that is right to some pixels.
        points, matches: N, 2 (x, y) in the target and in the wide picture.
        flat: the homography is an affine map.
        radial: the distortion is fitted too.
    """
    # Around 1 in both pictures, so that every parameter weighs alike.
    norm, denorm = (_centring(p) for p in (points, matches))
    back = np.linalg.inv(denorm)
    begin = denorm @ start.matrix @ np.linalg.inv(norm)
    first = (begin / begin[2, 2]).ravel()[: 6 if flat else 8]

    def mapping(values: np.ndarray) -> Warp:
        entries = np.array([0, 0, 0, 0, 0, 0, 0, 0, 1.0])
        entries[: len(first)] = values[: len(first)]
        matrix = back @ entries.reshape(3, 3) @ norm
        return replace(
            start,
            matrix=matrix / matrix[2, 2],
            radial=float(values[-1]) if radial else start.radial,
        )

    def error(values: np.ndarray) -> np.ndarray:
        return (mapping(values)(points) - matches).ravel()

    values = np.append(first, start.radial) if radial else first
    return mapping(least_squares(error, values, loss="soft_l1", f_scale=1.0, x_scale="jac").x)


def _centring(points: np.ndarray) -> np.ndarray:
    middle, spread = points.mean(0), max(1e-6, float(points.std()))
    return np.array([[1, 0, -middle[0]], [0, 1, -middle[1]], [0, 0, spread]]) / spread
