"""The largest rectangle of pixels that are all usable."""

import numpy as np

from restore.images.tiling import Window

_CELL = 8  # pixels: the rectangle's sides lie on a grid so coarse, but for the picture's ends


def largest(valid_HW: np.ndarray) -> Window:
    """The largest rectangle, to a few pixels, that holds only true ones; all 0 when none does."""
    height, width = valid_HW.shape
    rows, columns = (_edges(side) for side in (height, width))
    cells = np.minimum.reduceat(valid_HW, rows[:-1], axis=0)
    cells = np.minimum.reduceat(cells, columns[:-1], axis=1)
    best, most = Window(0, 0, 0, 0), 0
    above = np.zeros(cells.shape[1], dtype=int)  # usable cells upwards from the row, by column
    for row in range(cells.shape[0]):
        above = np.where(cells[row], above + 1, 0)
        for first, last, high in _widest(above):
            top, bottom = rows[row + 1 - high], rows[row + 1]
            left, right = columns[first], columns[last + 1]
            area = (bottom - top) * (right - left)
            if area > most:
                most = area
                best = Window(int(top), int(left), int(bottom - top), int(right - left))
    return best


def _edges(side: int) -> np.ndarray:
    return np.unique(np.append(np.arange(0, side, _CELL), side))


def _widest(heights: np.ndarray) -> list[tuple[int, int, int]]:
    """Every rectangle under a skyline that can grow to neither side: first, last, height."""
    runs: list[tuple[int, int, int]] = []
    waiting: list[tuple[int, int]] = []  # start and height, the heights rising
    for place, high in enumerate([*heights.tolist(), 0]):
        start = place
        while waiting and waiting[-1][1] >= high:
            start, higher = waiting.pop()
            if higher:
                runs.append((start, place - 1, higher))
        waiting.append((start, high))
    return runs
