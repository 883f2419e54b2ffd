"""Restoring a split and measuring it: the same for validation, `evaluate` and any process count."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from restore import distributed, sheets
from restore.images import save_png
from restore.loading import EvalItems, eval_batches, to_device
from restore.metrics.protocol import Protocol
from restore.settings import Loader, Runtime
from restore.types import Problem, Restoration, Task

DTYPES = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass
class Report:
    """What was measured: one row an image, for the restored picture and for the baseline.

    A row holds `key`, `restored` and `baseline`, the two latter dicts of metric name → value.
    """

    rows: list[dict[str, Any]]
    baseline: str
    skipped: list[tuple[str, str]]
    sheets: dict[str, Path] = field(default_factory=dict)

    def mean(self, method: str) -> dict[str, float]:
        """Mean over images of each metric of `restored` or `baseline`."""
        names = self.rows[0][method] if self.rows else {}
        count = len(self.rows)
        return {name: math.fsum(row[method][name] for row in self.rows) / count for name in names}


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

    def __call__(self, problem: Problem) -> Restoration:
        inputs = {k: v.contiguous(memory_format=self.format) for k, v in problem.inputs.items()}
        with self.autocast():
            restored = self.model(**inputs)
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
    limit: int | None = None,
    pictures: Path | None = None,
    count: int = 0,
    each: Callable[[Problem, Tensor, Tensor], dict[str, float]] | None = None,
    title: str = "evaluate",
) -> Report:
    """Restores every sample of a split and measures it, shared out among the processes.

    Args:
        runner: the network.
        task: makes problems of samples.
        items: the split.
        protocol: what is measured, and how.
        loader: workers.
        limit: only the first so many samples.
        pictures: folder for comparison sheets of the first `count` samples.
        each: called with problem, restored picture and baseline (13HW in [0, 1]) of each of this
            process's samples; what it returns joins the restored picture's metrics.
        title: what the progress bar says.

    Returns:
        The report over all processes' samples, in the split's order, the same in each process.
    """
    rank, world = distributed.rank(), distributed.world()
    batches = eval_batches(items, loader, rank, world, limit)
    rows, skipped, drawn = [], [], {}
    baseline_name = ""
    with evaluating(runner.model):
        for batch in tqdm(batches, desc=title, unit="img", disable=rank != 0, leave=False):
            skipped += batch["skipped"]
            if "key" not in batch:
                continue
            problem = task.prepare(to_device(batch, runner.device))
            restored = task.finish(runner(problem), problem)
            baseline_name, baseline = task.baseline(problem)
            assert problem.target is not None
            key, place = problem.keys[0], batch["place"][0]
            rows.append(
                {
                    "place": place,
                    "key": key,
                    "restored": protocol.measure(restored.image, problem.target, task.scale)[0],
                    "baseline": protocol.measure(baseline, problem.target, task.scale)[0],
                }
            )
            if each is not None:
                rows[-1]["restored"] |= each(problem, restored.image, baseline)
            if pictures is not None and place < count:
                name = f"{place:03d}_{_safe(key)}"
                drawn[name] = pictures / f"{name}.png"
                drawn[name].parent.mkdir(parents=True, exist_ok=True)
                save_png(drawn[name], sheets.comparison(problem, restored, baseline_name, baseline))
    merged = Report([], baseline_name, [])
    for part in distributed.gather((rows, skipped, drawn, baseline_name)):
        merged.rows += part[0]
        merged.skipped += part[1]
        merged.sheets.update(part[2])
        merged.baseline = merged.baseline or part[3]
    merged.rows.sort(key=lambda row: row["place"])
    merged.sheets = dict(sorted(merged.sheets.items()))
    return merged


def _safe(key: str) -> str:
    return "".join(c if c.isalnum() or c in "-_." else "-" for c in key)
