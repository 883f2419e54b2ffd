"""Working through a picture in overlapping tiles, with the result of working on it whole."""

from collections.abc import Callable
from itertools import pairwise
from typing import NamedTuple

from torch import Tensor
from tqdm import tqdm


class Window(NamedTuple):
    """A part of a picture, in its pixels."""

    top: int
    left: int
    height: int
    width: int

    def of(self, picture: Tensor, scale: int = 1) -> Tensor:
        """The part of a picture that is `scale` times as large."""
        rows = slice(self.top * scale, (self.top + self.height) * scale)
        columns = slice(self.left * scale, (self.left + self.width) * scale)
        return picture[..., rows, columns]


def windows(height: int, width: int, tile: int, overlap: int) -> list[tuple[Window, Window]]:
    """Pairs of windows: what is computed, and the part of the picture that is kept of it.

    The kept parts cover the picture once, as evenly as whole pixels allow, none longer than
    `tile`; what is computed reaches `overlap` further on each side, less at the picture's own
    border, where the network shall see that border.
    """
    pairs = []
    for top, bottom in _parts(height, tile):
        for left, right in _parts(width, tile):
            kept = Window(top, left, bottom - top, right - left)
            above, before = max(0, top - overlap), max(0, left - overlap)
            below, after = min(height, bottom + overlap), min(width, right + overlap)
            pairs.append((Window(above, before, below - above, after - before), kept))
    return pairs


def _parts(side: int, most: int) -> list[tuple[int, int]]:
    count = -(-side // most)
    edges = [side * place // count for place in range(count + 1)]
    return list(pairwise(edges))


def tiled(
    function: Callable[[Window], Tensor],
    height: int,
    width: int,
    *,
    tile: int | None,
    overlap: int,
    scale: int,
) -> Tensor:
    """Assembles a picture, on the CPU, from a function's results on windows of its input.

    With an overlap of at least the distance over which the function's inputs are felt, the result
    is that of one call on the whole.

    Args:
        function: window of the input to N, C, scale·height, scale·width of that window.
        height, width: the input's.
        tile: largest side of a tile less its overlap, in input pixels; None for one call on the
            whole.
        overlap: in input pixels.
        scale: enlargement.
    """
    if tile is None or max(height, width) <= tile:
        return function(Window(0, 0, height, width)).cpu()
    result: Tensor | None = None
    pairs = windows(height, width, tile, overlap)
    for computed, kept in tqdm(pairs, unit="tile", leave=False, disable=None):
        part = function(computed)
        inner = Window(kept.top - computed.top, kept.left - computed.left, kept.height, kept.width)
        if result is None:
            shape = *part.shape[:2], height * scale, width * scale
            result = part.new_empty(shape, device="cpu")
        kept.of(result, scale).copy_(inner.of(part, scale))
    assert result is not None
    return result
