"""A network run on a problem: its precision, and evaluation mode while it lasts."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel as Parallel

from restore.config.settings import Runtime
from restore.errors import UserError
from restore.types import Problem, Restoration, map_tensors

DTYPES = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


class Runner:
    """A backbone with the device, number format and memory layout that it runs with.

    Args:
        model: the network.
        runtime: precision, layout.
        device: where it runs.
    """

    def __init__(self, model: nn.Module, runtime: Runtime, device: torch.device):
        self.model, self.device = model, device
        self.precision, self.dtype = runtime.precision, DTYPES[runtime.precision]
        self.format = torch.channels_last if runtime.channels_last else torch.contiguous_format

    def autocast(self) -> Any:
        """Context in which the network runs."""
        return torch.autocast(self.device.type, self.dtype, enabled=self.dtype is not None)

    def __call__(self, problem: Problem, **more: Any) -> Restoration:
        """The network's answer; `more` is handed to it as it is."""
        inputs = {
            name: map_tensors(lambda x: x.contiguous(memory_format=self.format), pictures)
            for name, pictures in problem.inputs.items()
        }
        network = self.model.module if isinstance(self.model, Parallel) else self.model
        if getattr(network, "generative", False):
            if self.model.training:
                inputs["target"] = problem.target
            else:
                inputs["keys"] = problem.keys
        with self.autocast():
            restored = self.model(**inputs, **more)
        restored.image = restored.image.float()
        if not self.model.training:
            self.finite(restored.image, ", ".join(problem.keys))
        return restored

    def finite(self, image: Tensor, name: str) -> Tensor:
        """The network's answer; UserError that names its picture where it is no picture."""
        if not image.isfinite().all():
            raise UserError(
                f"{name}: the network's output is not finite (NaN or infinity) in {self.precision}"
                + ("" if self.dtype is None else "; runtime.precision=fp32 may help")
            )
        return image


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients; the mode before comes back."""
    before = model.training
    model.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        model.train(before)
