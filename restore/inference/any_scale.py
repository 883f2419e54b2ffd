"""Trained weights as something that enlarges one picture by any real scale, step by step."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from restore.config.settings import Runtime
from restore.data.scale_schedule import size
from restore.errors import UserError
from restore.images.bicubic import needed, resized_along
from restore.images.io import as_float
from restore.images.tiling import Window, bands
from restore.inference.restorer import Restorer, mean_over_turns
from restore.inference.runner import evaluating
from restore.models.weights import Loaded
from restore.types import AnyScaleTask


class AnyScaleRestorer(Restorer):
    """Restores pictures of any size by a scale that is chosen when it is made.

    Tiles and turns are of each step's enlarged picture, where a tile's place is a whole pixel and a
    turned picture has the middles of its pixels where they were, whatever the scale.

    Args:
        scale: enlargement of each side; None: the one that the weights were validated with.
    """

    def __init__(
        self, loaded: Loaded, runtime: Runtime, device: torch.device, scale: float | None = None
    ):
        super().__init__(loaded, runtime, device)
        if scale is not None:
            self.task = loaded.task({"scale": scale, "ratios": None})
            self.scale = self.task.scale

    def bands(
        self,
        low: Tensor,
        memory: Any,
        tile: int | None,
        ensemble: bool = False,
        mask: Tensor | None = None,
        key: str = "picture",
    ) -> Iterator[Tensor]:
        """As for other networks; `tile` is in pixels of the result, and holes are not filled.

        Each step is given the bands of the one before, of which it holds no more than its own next
        band is made of.
        """
        assert memory is None
        assert mask is None
        assert isinstance(self.task, AnyScaleTask)
        height, width = sides = low.shape[-2], low.shape[-1]
        picture: Iterator[Tensor] = (as_float(rows)[None] for rows in low.split(_ROWS, -2))
        for step, ratio in enumerate(self.task.ratios):
            end = size(height, width, math.prod(self.task.ratios[: step + 1]))
            blurred = _Enlarged(picture, sides, ratio, self.device)
            sharp = self._sharp(blurred, ratio, ensemble)
            overlap = self.reach or 0
            picture = bands(sharp, *end, tile=tile, overlap=overlap, scale=1)
            picture = (band.clamp(0, 1) for band in picture)
            sides = end
        for band in picture:
            yield band[0]

    def _sharp(
        self, blurred: "_Enlarged", ratio: float, ensemble: bool
    ) -> Callable[[Window], Tensor]:
        """What makes windows of a step's result."""

        def once(picture: Tensor) -> Tensor:
            with self.runner.autocast():
                picture = picture.contiguous(memory_format=self.runner.format)
                sharp = self.model.level(picture, ratio).float()
            return self.runner.finite(sharp, "picture")

        def part(window: Window) -> Tensor:
            with evaluating(self.model):
                cut = blurred.of(window)
                return mean_over_turns(once, cut) if ensemble else once(cut)

        return part

    def size(self, height: int, width: int) -> tuple[int, int]:
        """Sides of the result: where the scale gives a part of a pixel more, one more."""
        return size(height, width, self.scale)

    def works_on(self, height: int, width: int) -> tuple[int, int]:
        """Sides of what is cut into tiles, at most the result's."""
        return self.size(height, width)


# Rows of what is given that are taken at a time.
_ROWS = 64


class _Enlarged:
    """A picture, enlarged by bicubic, of which windows are asked for from the top.

    Args:
        bands: the picture's rows, N3hW in [0, 1], from the top.
        sides: its height and width.
        ratio: the enlargement.
        device: where windows are wanted.
    """

    def __init__(
        self, bands: Iterator[Tensor], sides: tuple[int, int], ratio: float, device: torch.device
    ):
        self._bands, self._ratio, self._device = bands, ratio, device
        self._height, self._width = sides
        self._rows = torch.empty(0)  # those of the picture that are at hand
        self._first = self._stop = 0
        self._made: tuple[range, Tensor] | None = None  # rows of the result, not yet widened

    def of(self, window: Window) -> Tensor:
        """A window that begins no higher than the one before it."""
        rows = range(window.top, window.top + window.height)
        columns = range(window.left, window.left + window.width)
        if self._made is None or self._made[0] != rows:
            self._made = None
            part = self._taken(needed(self._height, self._ratio, rows))
            tall = resized_along(part, -2, self._height, self._ratio, rows, self._first)
            self._made = rows, tall
        return resized_along(self._made[1], -1, self._width, self._ratio, columns)

    def _taken(self, wanted: range) -> Tensor:
        """The picture's rows that are wanted, and those below that came with them."""
        assert wanted.start >= self._first, "these rows are gone"
        parts = [self._rows[..., wanted.start - self._first :, :]] if self._stop else []
        self._first = wanted.start
        while self._stop < wanted.stop:
            band = next(self._bands).to(self._device)
            skipped = max(0, wanted.start - self._stop)
            self._stop += band.shape[-2]
            parts.append(band[..., skipped:, :])
        self._rows = torch.cat(parts, -2)
        return self._rows


def restorer(
    loaded: Loaded, runtime: Runtime, device: torch.device, scale: float | None
) -> Restorer:
    """What fits the network.

    Raises UserError where a network of one scale is asked for another.
    """
    if loaded.takes_scale():
        return AnyScaleRestorer(loaded, runtime, device, scale)
    fixed = Restorer(loaded, runtime, device)
    if scale is not None and scale != fixed.scale:
        raise UserError(
            f"scale={scale:g}: this network only enlarges by {fixed.scale}; weights "
            "of backbone asdn take any scale"
        )
    return fixed
