"""Trained weights as something that enlarges one picture by any real scale, step by step."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from restore.config.settings import Runtime
from restore.data.scale_schedule import enlarged, size
from restore.errors import UserError
from restore.images.io import as_float
from restore.images.tiling import Window, tiled
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
        """As for other networks, but all at once, as each step needs the one before it whole.

        `tile` is in pixels of the result; holes are not filled.
        """
        assert memory is None
        assert mask is None

        def once(picture: Tensor, ratio: float) -> Tensor:
            with self.runner.autocast():
                picture = picture.contiguous(memory_format=self.runner.format)
                return self.model.level(picture, ratio)

        def sharp(picture: Tensor, ratio: float) -> Tensor:
            def part(window: Window) -> Tensor:
                cut = window.of(picture)
                if ensemble:
                    return mean_over_turns(lambda turned: once(turned, ratio), cut)
                return once(cut, ratio)

            rows, columns = picture.shape[-2:]
            overlap = self.reach or 0
            whole = tiled(part, rows, columns, tile=tile, overlap=overlap, scale=1)
            return whole.to(self.device)

        with evaluating(self.model):
            picture = as_float(low).to(self.device)[None]
            assert isinstance(self.task, AnyScaleTask)
            result = enlarged(picture, self.task.ratios, sharp)[0].clamp_(0, 1).cpu()
        yield result

    def size(self, height: int, width: int) -> tuple[int, int]:
        """Sides of the result: where the scale gives a part of a pixel more, one more."""
        return size(height, width, self.scale)

    def works_on(self, height: int, width: int) -> tuple[int, int]:
        """Sides of what is cut into tiles, at most the result's."""
        return self.size(height, width)


def restorer(
    loaded: Loaded, runtime: Runtime, device: torch.device, scale: float | None
) -> Restorer:
    """What fits the network.

    Raises UserError where a network of one scale is asked for another.
    """
    if loaded.takes_scale():
        return AnyScaleRestorer(loaded, runtime, device, scale)
    made = Restorer(loaded, runtime, device)
    if scale is not None and scale != made.scale:
        raise UserError(
            f"scale={scale:g}: this network enlarges by {made.scale} and by nothing else; "
            "weights of backbone asdn take any scale"
        )
    return made
