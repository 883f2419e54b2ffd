"""A network run on a problem: its precision, and evaluation mode while it lasts."""

import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel as Parallel

from restore.config.settings import Runtime
from restore.errors import UserError
from restore.models import precision
from restore.types import InpaintingTask, Problem, Restoration, Task, map_tensors


def check_scale(model: nn.Module, task: Task) -> None:
    """Raises UserError when a network enlarges the low picture by something else than the task."""
    scale = getattr(model, "scale", None)
    takes_low = "low" in inspect.signature(model.forward).parameters
    if scale is None or not takes_low or getattr(model, "takes_scale", False):
        return
    wanted = task.scale * (task.shrink if isinstance(task, InpaintingTask) else 1)
    if scale != wanted:
        raise UserError(
            f"task.scale={task.scale}: the task wants low pictures enlarged by {wanted:g}, and "
            f"{type(model).__name__} enlarges by {scale}"
        )


class Runner:
    """A backbone with the device, number format and memory layout that it runs with.

    Args:
        model: the network.
        runtime: precision, layout.
        device: where it runs.
    """

    def __init__(self, model: nn.Module, runtime: Runtime, device: torch.device):
        self.model, self.device = model, device
        self.precision = runtime.precision
        self.format = precision.layout(runtime.precision, device.type, runtime.channels_last)

    @property
    def _network(self) -> nn.Module:
        return self.model.module if isinstance(self.model, Parallel) else self.model

    @property
    def at_once(self) -> int:
        """How many pictures the network is best given together, outside training."""
        return getattr(self._network, "at_once", 1)

    def autocast(self) -> Any:
        """Context in which the network runs."""
        return precision.autocast(self.precision, self.device.type)

    def __call__(self, problem: Problem, **more: Any) -> Restoration:
        """The network's answer; `more` is handed to it as it is."""
        inputs = {
            name: map_tensors(lambda x: x.contiguous(memory_format=self.format), pictures)
            for name, pictures in problem.inputs.items()
        }
        if getattr(self._network, "generative", False):
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

    def each(self, problems: Sequence[Problem], **more: Any) -> list[Restoration]:
        """The answers to problems of one picture each.

        Those whose pictures are of the same sizes lie in one batch, as many as the network takes
        at once.
        """
        alike: dict[str, list[int]] = {}
        for place, problem in enumerate(problems):
            alike.setdefault(_sizes(problem.inputs), []).append(place)
        answers: dict[int, Restoration] = {}
        for places in alike.values():
            for first in range(0, len(places), self.at_once):
                some = places[first : first + self.at_once]
                if len(some) == 1:
                    answers[some[0]] = self(problems[some[0]], **more)
                    continue
                together = self(_together([problems[place] for place in some]), **more)
                answers.update(zip(some, _apart(together)))
        return [answers[place] for place in range(len(problems))]

    def finite(self, image: Tensor, name: str) -> Tensor:
        """The network's answer; UserError that names its picture where it is no picture."""
        if not image.isfinite().all():
            raise UserError(
                f"{name}: the network's output is not finite (NaN or infinity) in {self.precision}"
                + ("" if self.precision == "fp32" else "; runtime.precision=fp32 may help")
            )
        return image


def _sizes(inputs: Mapping[str, Any]) -> str:
    """What has to be the same for problems to lie in one batch."""
    shapes = {}
    for name, pictures in inputs.items():
        several = pictures if isinstance(pictures, list) else [pictures]
        shapes[name] = [tuple(picture.shape) for picture in several]
    return str(shapes)


def _together(problems: Sequence[Problem]) -> Problem:
    """One problem of several, with all that a network is given."""

    def joined(name: str) -> Any:
        every = [problem.inputs[name] for problem in problems]
        if isinstance(every[0], list):
            return [torch.cat(pictures) for pictures in zip(*every)]
        return torch.cat(every)

    inputs = {name: joined(name) for name in problems[0].inputs}
    return Problem(inputs, None, [key for problem in problems for key in problem.keys])


def _apart(restored: Restoration) -> list[Restoration]:
    """The answers of a batch by picture, of what networks give that take several at once."""

    def of(place: int, pictures: Sequence[Tensor]) -> list[Tensor]:
        return [x[place : place + 1] for x in pictures]

    return [
        Restoration(image, samples=of(i, restored.samples), frames=of(i, restored.frames))
        for i, image in enumerate(restored.image.split(1))
    ]


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
