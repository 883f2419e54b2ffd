"""Trained weights as something that restores one picture."""

from typing import Any

import torch
from torch import Tensor

from restore.errors import UserError
from restore.evaluation import Runner, evaluating
from restore.settings import Runtime
from restore.tiling import Window, tiled
from restore.types import Problem, Sample
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
        """What the network makes of a reference, 3HW in [0, 1]; good for many pictures."""
        low = torch.zeros(3, 1, 1)
        inputs = self._problem(low, reference).inputs
        with evaluating(self.model), self.runner.autocast():
            return self.model.remember(inputs["reference"], inputs["reference_low_up"])

    def restore(self, low: Tensor, memory: Any, tile: int | None) -> Tensor:
        """The picture, enlarged.

        Args:
            low: 3HW in [0, 1].
            memory: from `remember`, or None for networks without a reference.
            tile: side of tiles in low pixels, None for the whole at once (and where `reach` is).

        Returns:
            3, scale·H, scale·W in [0, 1].
        """
        assert tile is None or self.reach is not None, "tiles would differ from the whole"
        inputs = self._problem(low, None).inputs
        scale = self.scale
        height, width = low.shape[-2:]

        def part(window: Window) -> Tensor:
            cut = {name: window.of(x, x.shape[-1] // width) for name, x in inputs.items()}
            more = {} if memory is None else {"memory": memory}
            with self.runner.autocast():
                return self.model(**cut, **more).image.float()

        with evaluating(self.model):
            whole = tiled(part, height, width, tile=tile, overlap=self.reach or 0, scale=scale)
            return whole[0].cpu()

    def _problem(self, low: Tensor, reference: Tensor | None) -> Problem:
        """The task's own preparation, so that a picture meets what training met."""
        blank = torch.zeros(3, self.scale, self.scale)
        sample = Sample(key="picture", low=low)
        if self.takes_reference:
            sample["reference"] = blank if reference is None else reference
        item = self.task.eval_item(sample)
        batch: dict[str, Any] = {
            name: [value] if name == "key" else value[None].to(self.device)
            for name, value in item.items()
        }
        problem = self.task.prepare(batch)
        if reference is None:
            kept = {k: v for k, v in problem.inputs.items() if not k.startswith("reference")}
            return Problem(kept, None, problem.keys)
        if reference.shape[-1] < self.scale or reference.shape[-2] < self.scale:
            raise UserError(f"a reference needs at least {self.scale} pixels a side")
        return problem
