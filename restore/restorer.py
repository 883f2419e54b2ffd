"""Trained weights as something that restores one picture."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from restore.evaluation import Runner, evaluating
from restore.settings import Runtime
from restore.tiling import Window, tiled
from restore.types import Sample
from restore.weights import Loaded


class Restorer:
    """Restores pictures of any size with one reference at a time.

    Args:
        loaded: weights with their task and network.
        runtime: precision and layout.
        device: where it runs.
    """

    def __init__(self, loaded: Loaded, runtime: Runtime, device: torch.device):
        self.task = loaded.task()
        self.model: Any = loaded.backbone().to(device)
        self.runner = Runner(self.model, runtime, device)
        self.device = device
        self.scale: int = self.task.scale
        self.takes_reference: bool = getattr(self.model, "takes_reference", False)
        # How far an input pixel is felt, in low pixels; None: everywhere, so tiles would differ.
        self.reach: int | None = self.model.reach  # type: ignore[assignment]

    def remember(self, reference: Tensor) -> Any:
        """What the network makes of a reference; good for many pictures.

        Args:
            reference: 3HW, uint8 or in [0, 1]. Its sides are cropped to multiples of the scale;
                one that is shorter than the scale is continued with its last pixels.
        """
        for axis in (-2, -1):
            places = torch.arange(max(reference.shape[axis], self.scale))
            reference = reference.index_select(axis, places.clamp(max=reference.shape[axis] - 1))
        inputs = self._inputs(torch.zeros(3, 1, 1), reference)
        with evaluating(self.model), self.runner.autocast():
            return self.model.remember(inputs["reference"], inputs["reference_low_up"])

    def restore(self, low: Tensor, memory: Any, tile: int | None, ensemble: bool = False) -> Tensor:
        """The picture, enlarged.

        Args:
            low: 3HW, uint8 or in [0, 1].
            memory: from `remember`, or None for networks without a reference.
            tile: largest side of tiles in low pixels, None for the whole at once (and where
                `reach` is None).
            ensemble: mean over the eight flips and turns of the picture (Lim et al., "Enhanced
                Deep Residual Networks", CVPRW 2017: geometric self-ensemble).

        Returns:
            3, scale·H, scale·W in [0, 1], on the CPU.
        """
        assert tile is None or self.reach is not None, "tiles would differ from the whole"
        more = {} if memory is None else {"memory": memory}

        def once(picture: Tensor) -> Tensor:
            inputs = {
                name: x.contiguous(memory_format=self.runner.format)
                for name, x in self._inputs(picture, None).items()
            }
            with self.runner.autocast():
                return self.model(**inputs, **more).image.float()

        def part(window: Window) -> Tensor:
            picture = window.of(low)
            return mean_over_turns(once, picture) if ensemble else once(picture)

        with evaluating(self.model):
            height, width = low.shape[-2:]
            overlap, scale = self.reach or 0, self.scale
            return tiled(part, height, width, tile=tile, overlap=overlap, scale=scale)[0]

    def _inputs(self, low: Tensor, reference: Tensor | None) -> dict[str, Tensor]:
        """The task's own preparation, so that a picture meets what training met."""
        sample = Sample(key="picture", low=low.contiguous())
        if self.takes_reference:
            blank = torch.zeros(3, self.scale, self.scale)
            sample["reference"] = blank if reference is None else reference
        item = self.task.eval_item(sample)
        batch: dict[str, Any] = {
            name: [value] if name == "key" else value[None].to(self.device)
            for name, value in item.items()
        }
        inputs = self.task.prepare(batch).inputs
        if reference is None:
            return {name: x for name, x in inputs.items() if not name.startswith("reference")}
        return inputs


def mean_over_turns(function: Callable[[Tensor], Tensor], picture: Tensor) -> Tensor:
    """Mean of a function's results on the eight flips and quarter turns, each turned back."""
    total: Tensor | None = None
    for quarters in range(4):
        for flip in (False, True):
            turned = picture.rot90(quarters, (-2, -1))
            result = function(turned.flip(-1) if flip else turned)
            back = (result.flip(-1) if flip else result).rot90(-quarters, (-2, -1))
            total = back.clone() if total is None else total.add_(back)
    assert total is not None
    return total / 8
