"""Restoring a split and measuring it: the same for validation, `evaluate` and any process count."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from restore.config.settings import Loader
from restore.data.loading import Batch, EvalItems, eval_batches, to_device
from restore.errors import UserError
from restore.images import mask_sheets, sheets
from restore.images.io import save_png
from restore.inference.runner import Runner, evaluating
from restore.metrics import holes, samples
from restore.metrics.image_metric import About
from restore.metrics.selection import Selection, regions
from restore.types import Problem, Restoration, Task
from restore.utils import distributed
from restore.utils.files import optional
from restore.utils.names import fitting
from restore.utils.progress import bar


@dataclass
class EvaluationResult:
    """What was measured: one row an image, for the restored picture and for the baseline.

    A row holds `key`, `restored` and `baseline`, the two latter dicts of metric name → value, and
    `facts`, numbers about the image itself; where several results were drawn, `samples`, a dict of
    values for each of them, and their `spread`. `pooled` holds by `restored` and `baseline` the
    values of metrics that whole sets have (FID), `baseline` the baseline's name.

    `directions` says by metric whether higher is better, `sentences` what measured it, `missing`
    why a chosen metric was not taken, `reasons` why images have no value.
    """

    rows: list[dict[str, Any]]
    baseline: str
    skipped: list[tuple[str, str]]
    sheets: dict[str, Path] = field(default_factory=dict)
    pooled: dict[str, dict[str, float]] = field(default_factory=dict)
    directions: dict[str, bool | None] = field(default_factory=dict)
    sentences: dict[str, str] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)

    def mean(self, method: str = "restored") -> dict[str, float]:
        """Each metric's value of `restored` or `baseline`.

        The mean over the images where both have a value, or the value of the whole set.
        """
        return {**holes.means(self.rows)[method], **self.pooled.get(method, {})}

    def without(self) -> dict[str, int]:
        """How many images have no value (NaN) for either method, of metrics that lack some."""
        counts = {
            name: sum(
                any(math.isnan(row[method][name]) for method in ("restored", "baseline"))
                for row in self.rows
            )
            for name in (self.rows[0]["restored"] if self.rows else ())
        }
        return {name: count for name, count in counts.items() if count}


OnImage = Callable[[Problem, Restoration, Tensor], None]


@dataclass(frozen=True)
class Options:
    """How a split is gone through.

    `seed` is of the chance in degradations, drawn for each sample by its place in the split: the
    same for any number of processes, and by default the same in every validation. Only the first
    `limit` samples are taken (None: all). `sheets` is a folder for comparison sheets of the first
    `sheet_count`. `title` is what the progress bar says.
    """

    seed: int = 0
    limit: int | None = None
    sheets: Path | None = None
    sheet_count: int = 0
    title: str = "evaluate"


class Evaluator:
    """Restores every sample of a split and measures it, shared out among the processes.

    Args:
        runner: the network.
        metrics: what is measured; they keep no values.
        loader: workers.
        options: how the split is gone through.
        on_image: called with problem, restoration and baseline (13HW in [0, 1]) of each of this
            process's samples.
        whole_sets: whether metrics that only whole sets have are taken.
    """

    def __init__(
        self,
        runner: Runner,
        metrics: Selection,
        loader: Loader,
        options: Options | None = None,
        on_image: OnImage | None = None,
        whole_sets: bool = True,
    ):
        self.runner, self.loader, self.on_image = runner, loader, on_image
        self.options = options or Options()
        metrics = metrics.to(runner.device)
        self._metrics = {name: metrics.fresh(whole_sets) for name in ("restored", "baseline")}
        self._of_samples = metrics.fresh(whole_sets=False)
        self._result = EvaluationResult([], "", [], missing=metrics.missing)

    def evaluate(self, items: EvalItems) -> EvaluationResult:
        """The result over all processes' samples, in the split's order, the same in each process.

        Raises:
            UserError: a picture that cannot be read or measured; on the first process, whichever
                met it, while the others end quietly.
        """
        rank, world = distributed.rank(), distributed.world()
        options = self.options
        batches = eval_batches(items, self.loader, rank, world, options.limit)
        failure: UserError | None = None
        waiting: dict[int, Problem] = {}
        try:
            with evaluating(self.runner.model):
                for batch in bar(
                    batches, options.title, unit="img", disable=rank != 0, leave=False
                ):
                    self._result.skipped += batch["skipped"]
                    if "key" in batch:
                        waiting[batch["place"][0]] = self._prepared(batch, items.task)
                    if len(waiting) == self.runner.at_once:
                        self._restore(waiting, items.task)
                self._restore(waiting, items.task)
        except UserError as error:
            failure = error  # told to the others first, or they would wait for this one for ever
        return self._merged(failure)

    def _prepared(self, batch: Batch, task: Task) -> Problem:
        """One sample's problem."""
        device = self.runner.device
        chance = _generator(self.options.seed, batch["place"][0], device)
        return task.prepare(to_device(batch, device), chance)

    def _restore(self, waiting: dict[int, Problem], task: Task) -> None:
        """Restores samples, by their places, and measures them; then none is waiting."""
        answers = self.runner.each([*waiting.values()])
        for (place, problem), restored in zip(waiting.items(), answers):
            self._measure(place, problem, task.postprocess(restored, problem), task)
        waiting.clear()

    def _measure(self, place: int, problem: Problem, restored: Restoration, task: Task) -> None:
        """Measures one sample and draws its sheet."""
        self._result.baseline, baseline = task.baseline(problem)
        target = _target(problem, restored.image)
        about = About(task.scale, problem.weight, problem.grey)
        where = regions(problem.hole_mask)
        pictures = {"restored": restored.image, "baseline": baseline}
        row = {
            "place": place,
            "key": problem.keys[0],
            "facts": holes.facts(problem),
            **{
                method: self._metrics[method].measure(picture, target, about, where)
                for method, picture in pictures.items()
            },
        }
        if restored.samples:
            row["spread"] = samples.spread(restored.samples, problem.hole_mask)
            row["samples"] = [
                self._of_samples.measure(sample, target, about, where)
                for sample in restored.samples
            ]
        self._result.rows.append(row)
        if self.on_image is not None:
            self.on_image(problem, restored, baseline)
        if self.options.sheets is not None and place < self.options.sheet_count:
            self._draw(self.options.sheets, place, problem, restored, baseline)

    def _draw(
        self, folder: Path, place: int, problem: Problem, restored: Restoration, baseline: Tensor
    ) -> None:
        name = fitting(f"{place:03d}_{_safe(problem.keys[0])}", _SHEET_NAME)
        drawn = {name: sheets.comparison(problem, restored, self._result.baseline, baseline)}
        if restored.block_masks:
            drawn[f"{name}_masks"] = mask_sheets.sheet(restored.block_masks)
        with optional("comparison sheets are missing"):
            folder.mkdir(parents=True, exist_ok=True)
            for title, sheet in drawn.items():
                save_png(folder / f"{title}.png", sheet)
                self._result.sheets[title] = folder / f"{title}.png"

    def _merged(self, failure: UserError | None) -> EvaluationResult:
        """All processes' parts as one."""
        own = self._result
        own.reasons = {
            key: reason
            for metrics in self._metrics.values()
            for key, reason in metrics.reasons().items()
        }
        parts = distributed.gather(
            (failure, own.rows, own.skipped, own.sheets, own.baseline, own.reasons)
        )
        distributed.fail_together([part[0] for part in parts])
        own.rows = sorted((row for part in parts for row in part[1]), key=lambda row: row["place"])
        own.skipped = sorted(entry for part in parts for entry in part[2])
        own.sheets = dict(sorted(entry for part in parts for entry in part[3].items()))
        own.baseline = next((part[4] for part in parts if part[4]), "")
        own.reasons = {key: reason for part in parts for key, reason in part[5].items()}
        own.pooled = {name: metrics.pooled() for name, metrics in self._metrics.items()}
        own.directions = self._metrics["restored"].directions()
        own.sentences = self._metrics["restored"].sentences()
        for metrics in self._metrics.values():
            own.reasons |= metrics.reasons()
        return own


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


# Bytes of a sheet's name, so that there is room for what is added to it.
_SHEET_NAME = 200


def _safe(key: str) -> str:
    return "".join(c if c.isalnum() or c in "-_." else "-" for c in key)
