"""Working through a picture in overlapping tiles, with the result of working on it whole."""

from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import NamedTuple

from torch import Tensor

from restore.utils.progress import bar


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


def bands(
    function: Callable[[Window], Tensor],
    height: int,
    width: int,
    *,
    tile: int | None,
    overlap: int,
    scale: int,
) -> Iterator[Tensor]:
    """A picture's rows from the top, made of a function's results on windows of its input.

    No more than a band as high as a tile is in memory at a time. With an overlap of at least the
    distance over which the function's inputs are felt, all bands together are the result of one
    call on the whole.

    Args:
        function: window of the input to N, C, scale·height, scale·width of that window.
        height, width: the input's.
        tile: largest side of a tile less its overlap, in input pixels; None for one call on the
            whole.
        overlap: in input pixels.
        scale: enlargement.

    Yields:
        N, C, h, scale·width, on the CPU; their heights add up to scale·height.
    """
    if tile is None or max(height, width) <= tile:
        yield function(Window(0, 0, height, width)).cpu()
        return
    pairs = windows(height, width, tile, overlap)
    band: Tensor | None = None
    for computed, kept in bar(pairs, unit="tile", leave=False, disable=None):
        part = function(computed)
        if band is None:
            shape = *part.shape[:2], kept.height * scale, width * scale
            band = part.new_empty(shape, device="cpu")
        inner = Window(kept.top - computed.top, kept.left - computed.left, kept.height, kept.width)
        place = Window(0, kept.left, kept.height, kept.width)
        place.of(band, scale).copy_(inner.of(part, scale))
        if kept.left + kept.width == width:
            yield band
            band = None


def tiled(
    function: Callable[[Window], Tensor],
    height: int,
    width: int,
    *,
    tile: int | None,
    overlap: int,
    scale: int,
) -> Tensor:
    """All bands together, see `bands`."""
    result: Tensor | None = None
    top = 0
    for band in bands(function, height, width, tile=tile, overlap=overlap, scale=scale):
        if band.shape[-2] == height * scale:
            return band
        if result is None:
            result = band.new_empty(*band.shape[:2], height * scale, width * scale)
        result[..., top : top + band.shape[-2], :] = band
        top += band.shape[-2]
    assert result is not None
    return result
