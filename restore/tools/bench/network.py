"""Time and memory of the whole TTSR, beside the plain published formulation.

The plain one is `plain_ttsr`, in the memory layout of the published code (contiguous), with the
same weights. For a training step both have the same losses, critic and optimizers.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from restore.config import check, compose, plain, registry
from restore.config.settings import Precision, Train
from restore.losses.two_pictures import as_loss
from restore.models.precision import autocast, convolutions, layout
from restore.tools.bench import plain_ttsr
from restore.tools.bench.measure import COMPARED, Row, compared, log, report, write_table
from restore.types import Problem, Restoration

_RANDOM = "pretrained.vgg19=random"


class NetworkBenchmark:
    """The paper's network for pictures of several sizes, each case in a process of its own.

    Args:
        work: `forward` without gradients, or a `train_step` with all losses and the critic.
        sizes: sides of the restored picture and of the reference in pixels.
        precisions: to run in; speed-ups are against the plain formulation in the same precision,
            and `against fp32` against the plain one in fp32.
        batch: pictures at a time.
        repeats: timed runs of each, whose median is reported.
    """

    def __init__(
        self,
        work: Literal["forward", "train_step"],
        sizes: Annotated[list[Annotated[int, Field(ge=16, multiple_of=4)]], Field(min_length=1)],
        precisions: Annotated[list[Precision], Field(min_length=1)],
        batch: Annotated[int, Field(ge=1)],
        repeats: Annotated[int, Field(ge=1)],
    ):
        self.work, self.sizes, self.precisions = work, sizes, precisions
        self.batch, self.repeats = batch, repeats

    def run(self, folder: Path, device: torch.device) -> None:
        """Measures, prints a table, and writes it as csv."""
        rows: list[Row] = []
        for size in self.sizes:
            for precision in self.precisions:
                case = (self.work, size, precision, self.batch, self.repeats, device.type)
                row = {"size": f"{size}×{size}", "precision": precision}
                row |= compared(__name__, *case)
                base = next(r for r in [*rows, row] if r["size"] == row["size"])
                if base["precision"] == "fp32":
                    row["against fp32"] = round(base["plain ms"] / row["ours ms"], 1)
                rows.append(row)
                log.info("%s", row)
        columns = ["size", "precision", *COMPARED[:3], "against fp32", *COMPARED[3:]]
        write_table(rows, columns, folder, self.work)


Forward = Callable[..., tuple[Tensor, Tensor, list[Tensor]]]


def _forward(method: str, model: Any) -> Forward:
    if method == "plain":
        # Names are resolved once; the tensors are the model's own.
        state = plain_ttsr.published(model, [16, 16, 8, 4])
        return lambda **inputs: plain_ttsr.whole(state, **inputs)

    def ours(**inputs: Tensor) -> tuple[Tensor, Tensor, list[Tensor]]:
        restored = model(**inputs)
        return restored.image, restored.score, restored.textures

    return ours


def _problem(size: int, batch: int, layout: torch.memory_format, device: str) -> Problem:
    generator = torch.Generator().manual_seed(0)

    def draw(side: int) -> Tensor:
        return torch.rand(batch, 3, side, side, generator=generator).to(device)

    target, reference = draw(size), draw(size)
    inputs = {"low": _resized(target, 0.25), "reference": reference}
    inputs["low_up"] = _resized(inputs["low"], 4)
    inputs["reference_low_up"] = _resized(_resized(reference, 0.25), 4)
    inputs = {name: x.contiguous(memory_format=layout) for name, x in inputs.items()}
    return Problem(inputs, target.contiguous(memory_format=layout), ["random"] * batch)


def _resized(x: Tensor, factor: float) -> Tensor:
    return F.interpolate(x, scale_factor=factor, mode="bicubic").clamp(0, 1)


def _case(
    method: str, work: str, size: int, precision: str, batch: int, repeats: int, device: str
) -> None:
    torch.manual_seed(0)
    model = registry.build("backbone", "ttsr", _RANDOM).to(device)
    form = layout(precision, device, "auto" if method == "ours" else False)
    forward = _forward(method, model.to(memory_format=form))
    problem = _problem(size, batch, form, device)
    small = _problem(16, 1, form, device)

    def infer(problem: Problem) -> None:
        with torch.inference_mode(), autocast(precision, device):
            forward(**problem.inputs)

    step = (
        _TrainStep(size, model, forward, precision, form, device) if work == "train_step" else infer
    )
    report(lambda: step(problem), lambda: infer(small), repeats, device)


class _TrainStep:
    """One step of the stage `full`: the critic, then the backbone with all losses."""

    def __init__(
        self,
        size: int,
        model: nn.Module,
        forward: Forward,
        precision: str,
        layout: torch.memory_format,
        device: str,
    ):
        config = plain(compose("train", ["recipe=ttsr", f"task.crop={size}", _RANDOM]))
        stage = check(config, Train).stages["full"]
        self.forward, self.precision, self.device = forward, precision, device
        self.models = {"backbone": model}
        for name, node in stage.models.items():
            critic = registry.instantiate(node, name).to(device)
            self.models[name] = critic.to(memory_format=layout)
        self.objectives = []
        for objective in stage.objectives.values():
            losses = {
                name: as_loss(registry.instantiate(node, name), name, objective.range)
                for name, node in objective.parts.items()
            }
            for loss in losses.values():
                if isinstance(loss, nn.Module):
                    loss.to(device, memory_format=layout)  # type: ignore[call-overload]
            trained = self.models[objective.model].parameters()
            optimizer = registry.instantiate(objective.optimizer, "optimizer")([*trained])
            self.objectives.append((objective, losses, optimizer))

    def __call__(self, problem: Problem) -> None:
        with autocast(self.precision, self.device):
            image, score, textures = self.forward(**problem.inputs)
        restored = Restoration(image.float(), score=score, textures=textures)
        for objective, losses, optimizer in self.objectives:
            for name, model in self.models.items():
                model.requires_grad_(name == objective.model)
            optimizer.zero_grad(set_to_none=True)
            with autocast(self.precision, self.device):
                terms = [
                    objective.weights[name] * loss(restored, problem, self.models)
                    for name, loss in losses.items()
                ]
            with convolutions(self.precision):
                torch.stack(terms).sum().backward()
            optimizer.step()


if __name__ == "__main__":
    how, what, side, kind, count, often, place = sys.argv[1:]
    _case(how, what, int(side), kind, int(count), int(often), place)
