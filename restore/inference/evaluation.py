"""Restoring a split and measuring it: the same for validation, `evaluate` and any process count."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from restore.config.settings import Loader, Runtime
from restore.data.loading import EvalItems, eval_batches, to_device
from restore.errors import UserError
from restore.images import mask_sheets, sheets
from restore.images.io import save_png
from restore.metrics import holes
from restore.metrics.protocol import Protocol
from restore.types import Problem, Restoration, Task, map_tensors
from restore.utils import distributed
from restore.utils.files import optional
from restore.utils.progress import bar

DTYPES = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass
class EvaluationResult:
    """What was measured: one row an image, for the restored picture and for the baseline.

    A row holds `key`, `restored` and `baseline`, the two latter dicts of metric name → value, and
    `facts`, numbers about the image itself.
    """

    rows: list[dict[str, Any]]
    baseline: str
    skipped: list[tuple[str, str]]
    sheets: dict[str, Path] = field(default_factory=dict)

    def mean(self, method: str) -> dict[str, float]:
        """Mean of each metric of `restored` or `baseline` over the images that have a value."""
        return {
            name: math.fsum(values) / len(values) if values else math.nan
            for name, values in self._values(method).items()
        }

    def without(self, method: str) -> dict[str, int]:
        """How many images have no value (NaN), for each metric that some image has none of."""
        counts = {name: len(self.rows) - len(v) for name, v in self._values(method).items()}
        return {name: count for name, count in counts.items() if count}

    def _values(self, method: str) -> dict[str, list[float]]:
        names = self.rows[0][method] if self.rows else {}
        every = {name: [row[method][name] for row in self.rows] for name in names}
        return {name: [v for v in values if not math.isnan(v)] for name, values in every.items()}


class Runner:
    """A backbone with the device, number format and memory layout that it runs with.

    Args:
        model: the network.
        runtime: precision, layout.
        device: where it runs.
    """

    def __init__(self, model: nn.Module, runtime: Runtime, device: torch.device):
        self.model, self.device = model, device
        self.dtype = DTYPES[runtime.precision]
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
        with self.autocast():
            restored = self.model(**inputs, **more)
        restored.image = restored.image.float()
        return restored


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


def evaluate(
    runner: Runner,
    task: Task,
    items: EvalItems,
    protocol: Protocol,
    loader: Loader,
    *,
    seed: int = 0,
    limit: int | None = None,
    pictures: Path | None = None,
    count: int = 0,
    on_image: Callable[[Problem, Restoration, Tensor], dict[str, float]] | None = None,
    title: str = "evaluate",
) -> EvaluationResult:
    """Restores every sample of a split and measures it, shared out among the processes.

    Args:
        runner: the network.
        task: makes problems of samples.
        items: the split.
        protocol: what is measured, and how.
        loader: workers.
        seed: of the chance in degradations, drawn for each sample by its place in the split: the
            same for any number of processes, and by default the same in every validation.
        limit: only the first so many samples.
        pictures: folder for comparison sheets of the first `count` samples.
        on_image: called with problem, restoration and baseline (13HW in [0, 1]) of each of this
            process's samples; what it returns joins the restored picture's metrics.
        title: what the progress bar says.

    Returns:
        The report over all processes' samples, in the split's order, the same in each process.

    Raises:
        UserError: a picture that cannot be read or measured; on the first process, whichever met
            it, while the others end quietly.
    """
    rank, world = distributed.rank(), distributed.world()
    batches = eval_batches(items, loader, rank, world, limit)
    rows, skipped, drawn = [], [], {}
    baseline_name = ""
    failure: UserError | None = None
    try:
        with evaluating(runner.model):
            for batch in bar(batches, title, unit="img", disable=rank != 0, leave=False):
                skipped += batch["skipped"]
                if "key" not in batch:
                    continue
                place = batch["place"][0]
                chance = _generator(seed, place, runner.device)
                problem = task.prepare(to_device(batch, runner.device), chance)
                restored = task.postprocess(runner(problem), problem)
                baseline_name, baseline = task.baseline(problem)
                key, target = problem.keys[0], _target(problem, restored.image)
                measured = (
                    protocol.measure(image, target, task.scale, problem.weight, problem.grey)[0]
                    | holes.measure(protocol, image, target, task.scale, problem)
                    for image in (restored.image, baseline)
                )
                rows.append(
                    {
                        "place": place,
                        "key": key,
                        "facts": holes.facts(problem),
                        **dict(zip(("restored", "baseline"), measured)),
                    }
                )
                if on_image is not None:
                    rows[-1]["restored"] |= on_image(problem, restored, baseline)
                if pictures is not None and place < count:
                    name = f"{place:03d}_{_safe(key)}"
                    made = {
                        name: sheets.comparison(problem, restored, baseline_name, baseline),
                    }
                    if restored.block_masks:
                        made[f"{name}_masks"] = mask_sheets.sheet(restored.block_masks)
                    with optional("comparison sheets are missing"):
                        pictures.mkdir(parents=True, exist_ok=True)
                        for name, sheet in made.items():
                            save_png(pictures / f"{name}.png", sheet)
                            drawn[name] = pictures / f"{name}.png"
    except UserError as error:
        failure = error  # told to the others first, or they would wait for this process for ever
    merged = EvaluationResult([], baseline_name, [])
    parts = distributed.gather((rows, skipped, drawn, baseline_name, failure))
    distributed.fail_together([part[4] for part in parts])
    for part in parts:
        merged.rows += part[0]
        merged.skipped += part[1]
        merged.sheets.update(part[2])
        merged.baseline = merged.baseline or part[3]
    merged.rows.sort(key=lambda row: row["place"])
    merged.skipped.sort()
    merged.sheets = dict(sorted(merged.sheets.items()))
    return merged


def _generator(seed: int, place: int, device: torch.device) -> torch.Generator:
    mixed = np.random.SeedSequence([seed, place]).generate_state(1, np.uint64)[0]
    return torch.Generator(device).manual_seed(int(mixed >> 1))


def _target(problem: Problem, restored: Tensor) -> Tensor:
    """The target; UserError when there is none, or it is not as large as the restored picture."""
    target, key = problem.target, problem.keys[0]
    if target is None:
        raise UserError(f"{key} has no target picture to measure against")
    if target.shape != restored.shape:
        sizes = ["×".join(map(str, x.shape[:-3:-1])) for x in (target, restored)]
        raise UserError(
            f"{key}: the target is {sizes[0]} pixels, the restored picture {sizes[1]}; "
            "is the low picture of another size than target / scale?"
        )
    return target


def _safe(key: str) -> str:
    return "".join(c if c.isalnum() or c in "-_." else "-" for c in key)
