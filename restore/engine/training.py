"""The training loop: stages of objectives, with validation, checkpoints and going on again."""

import csv
import logging
import math
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from restore.config import registry, settings
from restore.data.frames import framed
from restore.data.loading import (
    Batch,
    EvalItems,
    Positions,
    TrainItems,
    collate,
    look,
    to_device,
    train_batches,
)
from restore.data.references import replaced
from restore.engine import cost
from restore.engine.learner import Learner
from restore.engine.objectives import ScheduledStage
from restore.engine.run_logger import Journal
from restore.engine.status import Progress
from restore.errors import Unwritable, UserError
from restore.images import sheets
from restore.images.io import save_png
from restore.inference.evaluation import EvaluationResult, Evaluator, Options
from restore.inference.runner import Runner
from restore.metrics import selection
from restore.metrics.image_metric import ImageMetric
from restore.metrics.legend import is_better
from restore.models import checkpoint
from restore.models.pretrained import library_downloads, pretrained_parts
from restore.types import Problem, Restoration, map_tensors
from restore.utils import distributed, signals
from restore.utils.files import make_folder, optional, to_json, write_text
from restore.utils.foreign import reading
from restore.utils.progress import bar

log = logging.getLogger("restore")


# Seconds between tries to write a checkpoint without which work would be lost.
_PAUSES = (2, 4, 8, 16)


class Training:
    """A run from its first step, or from its last checkpoint, to its end.

    Args:
        config: the resolved configuration; `folder/config.yaml` holds the same.
        setting: the same, checked and typed.
        folder: the run folder.
        device: this process's device.
    """

    def __init__(
        self,
        config: dict[str, Any],
        setting: settings.Train,
        folder: Path,
        device: torch.device,
    ):
        self.config, self.setting, self.folder, self.device = config, setting, folder, device
        self.first_process = distributed.rank() == 0
        torch.manual_seed(setting.seed)
        task = registry.instantiate(setting.task, "task")
        dataset = registry.instantiate(setting.data, "data")
        train, self.task = replaced(setting.reference, dataset.split("train"), task)
        valid, _ = replaced(setting.reference, dataset.split("valid"), task)
        self.items = TrainItems(train, self.task, setting.seed, setting.loader.on_error)
        protocol = registry.instantiate(setting.protocol, "protocol")
        self.metrics = selection.build(setting.metric, protocol, setting.pretrained)
        self.best_metric = self._best_metric()
        init = None if self._last.exists() else setting.init
        with library_downloads(setting.pretrained, "a model or a loss"):
            self.learner = Learner(setting, self.task, len(train), device, init)
        backbone: Any = self.learner.models["backbone"]
        valid_task = framed(self.task, protocol.frame, backbone.reference_multiple)
        self.valid_items = EvalItems(valid, valid_task, setting.loader.on_error)
        for items in (self.items, self.valid_items):
            look(items, setting.seed, device)
        self.best: float | None = None
        # Sums of this process's values since the last line of numbers.
        self.unlogged: dict[str, float] = {}
        self.unlogged_steps = 0
        self.skipped: set[tuple[str, str]] = set()
        self.stop = False

    def _best_metric(self) -> ImageMetric:
        """The metric that best.pt is the best by.

        Raises UserError for one that is not measured, or of which neither more nor less is better.
        """
        wanted = self.setting.trainer.best or self.metrics.keys()[0]
        metric = next((one for one in self.metrics.metrics if one.key == wanted), None)
        if metric is None:
            reason = self.metrics.missing.get(wanted)
            raise UserError(
                f"trainer.best={wanted}: {reason or 'it is not measured'}; choose one of "
                + ", ".join(self.metrics.keys())
            )
        if metric.higher_is_better is None:
            raise UserError(
                f"trainer.best={wanted}: this metric does not say whether higher or "
                "lower is better; choose another"
            )
        return metric

    # Checkpoints ----------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """Everything that the run needs to go on from here as if it had never stopped."""
        return {
            "config": self.config,
            **self.learner.state(),
            "best": self.best,
            "unlogged": distributed.gather([self.unlogged, self.unlogged_steps]),
            "identity": self.journal.identity,
            "spent": distributed.gather(self.meter.state()),
        }

    def save(self, name: str, needed: bool = False) -> bool:
        """Writes `checkpoints/NAME.pt`, from the first process; called by all.

        Args:
            name: `last` or `best`.
            needed: wait a while for a disk that refuses, and raise Unwritable then; else training
                goes on without, and it is said.

        Returns:
            Whether it was written, the same in every process.
        """
        state = self.state()
        saved = False
        if self.first_process:
            path = self.folder / "checkpoints" / f"{name}.pt"
            for pause in _PAUSES if needed else ():
                try:
                    saved = _write(path, state)
                    break
                except Unwritable as error:
                    log.warning("%s; trying again in %d s", error, pause)
                    time.sleep(pause)
            if not saved:
                with nullcontext() if needed else optional(f"no checkpoint {name}.pt for now"):
                    saved = _write(path, state)
        return bool(distributed.from_first(saved))

    def _restore(self, state: dict[str, Any]) -> None:
        if state["step"] > self.learner.total:
            raise UserError(
                f"{self._last} is at step {state['step']}, beyond the end of this run "
                f"({self.learner.total} steps)"
            )
        self.learner.load(state, str(self._last))
        best = state["best"]
        self.best = None if best is None or math.isnan(best) else best
        parts = state["unlogged"]
        self.unlogged_steps = parts[0][1]
        if len(parts) == distributed.world():
            self.unlogged = parts[distributed.rank()][0]
        else:  # saved by another number of processes: the mean over them is what will be logged
            names = parts[0][0]
            self.unlogged = {n: sum(sums[n] for sums, _ in parts) / len(parts) for n in names}

    @property
    def _last(self) -> Path:
        return self.folder / "checkpoints" / "last.pt"

    # The loop -------------------------------------------------------------------------------

    def run(self) -> int:
        """Trains to the end; returns the exit code (130 when interrupted and saved)."""
        state = checkpoint.read_run(self._last) if self._last.exists() else None
        if state is not None:
            self._restore(state)
        self.journal = Journal(
            self.folder,
            self.config,
            self.config["wandb"],
            "train",
            self.learner.step,
            state["identity"] if state else None,
        )
        self._introduce()
        spent = state.get("spent", []) if state else []
        own = distributed.rank()
        self.meter = cost.Meter(self.device, spent[own] if own < len(spent) else None)
        self.progress = (
            Progress(self.folder, self.learner.step, self.learner.total)
            if self.first_process
            else None
        )
        finished = False
        try:
            asking = signals.asking(self._ask_to_stop, speak=self.first_process)
            with asking, self._bar() as shown:
                for stage in self.learner.stages:
                    if self.learner.step < stage.first + stage.steps:
                        self._train(stage, shown)
                    if self.stop:
                        break
            finished = not self.stop
            self._conclude(finished)
        finally:
            self.journal.close(failed=not finished)
        if self.progress:
            self.progress.end(self.learner.step, finished)
        distributed.gather(None)  # who ends before the others has these ended by their launcher
        return 0 if finished else signals.INTERRUPTED

    def _introduce(self) -> None:
        if self.learner.begun:
            log.info(self.learner.begun)
        for key, reason in self.metrics.missing.items():
            log.warning("%s is not measured: %s", key, reason)
        origins: dict[str, list[str]] = {}  # users of other people's networks, by what is said
        for name, user in [*self.learner.models.items(), *self.learner.terms()]:
            for part, provenance in pretrained_parts(user):
                origins.setdefault(provenance.sentence(), []).append(f"{name}.{part}".strip("."))
        for sentence, users in origins.items():
            log.info("%s (for %s)", sentence, ", ".join(users))
        for name, model in self.learner.models.items():
            trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
            every = sum(p.numel() for p in model.parameters())
            log.info("%s: %s parameters, %s trained", name, f"{every:,}", f"{trained:,}")
        stages = ", ".join(f"{stage.name} ({stage.steps} steps)" for stage in self.learner.stages)
        start = f"going on at step {self.learner.step}" if self.learner.step else "beginning"
        log.info("%s: %s; run folder %s", start, stages, self.folder)
        trainer = self.setting.trainer
        factor = "as they are set"
        if trainer.lr_scaling != "constant":
            factor = (
                f"× {trainer.lr_factor:.4g}, since they are meant for {trainer.base_batch_size}"
            )
        log.info(
            "batches of %d, learning rates %s (trainer.lr_scaling=%s)",
            *(trainer.items, factor, trainer.lr_scaling),
        )

    def _bar(self) -> tqdm:
        batch = self.setting.trainer.items
        return bar(
            total=self.learner.total * batch,
            initial=self.learner.step * batch,
            unit="img",
            unit_scale=True,
            dynamic_ncols=True,
            disable=not self.first_process,
            # On a terminal the bar moves; in a log file a line every ten seconds is enough.
            mininterval=0.5 if _terminal() else 10,
        )

    def _ask_to_stop(self) -> None:
        self.stop = True

    def _train(self, stage: ScheduledStage, shown: tqdm) -> None:
        trainer = self.setting.trainer
        if self.learner.step == stage.first:
            # Fidelity falls where a stage trains for more than it; what came before is no rival.
            self.best = None
            self.unlogged, self.unlogged_steps = {}, 0  # it has terms of its own
        positions = Positions(
            self.learner.step,
            stage.first + stage.steps,
            trainer.items,
            trainer.accumulate_steps,
            distributed.rank(),
            distributed.world(),
        )
        pin = self.device.type == "cuda"
        batches = iter(train_batches(self.items, positions, self.setting.loader, pin))
        self.learner.network.train()
        timed, began = 0, time.perf_counter()
        while self.learner.step < stage.first + stage.steps:
            with self.meter.working():
                with self.meter.waiting():
                    micros = [next(batches) for _ in range(trainer.accumulate_steps)]
                for micro in micros:
                    self._note_skipped(micro)
                values = self.learner.advance(
                    stage, [to_device(micro, self.device) for micro in micros]
                )
            timed += 1
            self.unlogged_steps += 1
            for name, value in values.items():
                self.unlogged[name] = self.unlogged.get(name, 0.0) + value
            shown.update(trainer.items)
            if self.progress:
                self.progress.set_step(self.learner.step)
            if (
                self.learner.step % trainer.log_every == 0
                or self.learner.step == self.learner.total
            ):
                own = {k: v / self.unlogged_steps for k, v in self.unlogged.items()}
                parts = distributed.gather(own)
                mean = {f"train/{k}": sum(p[k] for p in parts) / len(parts) for k in own}
                for title, objective in stage.objectives.items():
                    mean[f"train/{stage.prefix(title)}lr"] = objective.lr
                speed = timed * trainer.items / (time.perf_counter() - began)
                mean["train/images_per_s"] = speed
                self.journal.numbers(mean, self.learner.step)
                shown.set_postfix_str(f"{stage.name} loss {mean['train/loss']:.4f}")
                self.unlogged, self.unlogged_steps = {}, 0
                timed, began = 0, time.perf_counter()
            ended = self.learner.step == self.learner.total
            if self.learner.step % trainer.valid_every == 0 or ended:
                self.validate()
                began = time.perf_counter()
            stop = distributed.any_true(self.stop, self.device)
            if self.learner.step % trainer.save_every == 0 or ended or stop:
                self.save("last", needed=ended or stop)
            if stop:
                self.stop = True
                return

    def _note_skipped(self, batch: Batch) -> None:
        for path, reason in batch["skipped"]:
            if (path, reason) not in self.skipped:
                self.skipped.add((path, reason))
                log.warning("skipped: cannot read the image %s: %s", path, reason)

    # Validation -----------------------------------------------------------------------------

    def validate(self) -> dict[str, float]:
        """Measures the validation split, logs it and keeps the stage's best checkpoint."""
        step, folder = self.learner.step, self.folder / "pictures" / f"step_{self.learner.step:07d}"
        holes: dict[str, tuple[Path, np.ndarray]] = {}
        scores: dict[str, Path] = {}

        def keep(problem: Problem, restored: Restoration, _: Tensor) -> None:
            mask, count = problem.hole_mask, self.setting.trainer.pictures
            if self.first_process and mask is not None and len(holes) < count:
                path = folder / f"{len(holes):03d}_filled.png"
                overlay = mask[0, 0].round().byte().cpu().numpy()
                with optional("pictures of holes are missing"):
                    make_folder(folder)
                    save_png(path, (restored.image[0].clamp(0, 1) * 255).round().byte().cpu())
                    holes[f"valid/holes/{problem.keys[0]}"] = path, overlay
            score = restored.score
            if self.first_process and score is not None and len(scores) < count:
                path = folder / f"{len(scores):03d}_score.png"
                with optional("pictures of scores are missing"):
                    make_folder(folder)
                    save_png(path, sheets.score_map(restored))
                    scores[f"valid/score/{problem.keys[0]}"] = path

        evaluator = Evaluator(
            Runner(self.learner.measured, self.setting.runtime, self.device),
            self.metrics,
            self.setting.loader,
            Options(sheets=folder, sheet_count=self.setting.trainer.pictures, title="validate"),
            keep,
            whole_sets=self._whole_sets_due(),
        )
        result = evaluator.evaluate(self.valid_items)
        if not result.rows:
            raise UserError("no validation image could be read")
        values = {f"valid/{k}": v for k, v in result.mean().items()}
        base = {f"valid/{result.baseline}/{k}": v for k, v in result.mean("baseline").items()}
        self.journal.define([*values, *base], result.directions)
        self.journal.numbers({**values, **base}, step)
        self.journal.pictures({f"valid/{k}": v for k, v in result.sheets.items()}, step)
        self.journal.table(_table_rows(result), step)
        self.journal.masked(holes, step)
        self.journal.pictures(scores, step, kind="scores")
        self._keep_best(values, base, result)
        self.last_values = values | base
        return values

    def _whole_sets_due(self) -> bool:
        """Whether metrics of whole sets (FID) are measured in the validation of this step."""
        trainer, step = self.setting.trainer, self.learner.step
        every = trainer.slow_metrics_every or trainer.valid_every
        before = max(0, step - trainer.valid_every)
        return step // every > before // every or step == self.learner.total

    def _keep_best(
        self, values: dict[str, float], base: dict[str, float], result: EvaluationResult
    ) -> None:
        """Saves best.pt where the metric that it goes by is better than so far in the stage."""
        metric, step = self.best_metric, self.learner.step
        name = f"valid/{metric.name(self.task.scale)}"
        if name not in values:
            return  # of whole sets, and not measured this time
        value, against = values[name], base[f"valid/{result.baseline}/{name.partition('/')[2]}"]
        log.info(
            "step %d: %s %.4f (%s %.4f, %+.4f) over %d images",
            *(step, name, value, result.baseline, against, value - against, len(result.rows)),
        )
        better = is_better(
            value, math.nan if self.best is None else self.best, bool(metric.higher_is_better)
        )
        if better or self.best is None:  # where none has a value yet, the last one
            before, self.best = self.best, value if better else None
            # At an earlier step a later one may be better; the last one has none after it.
            if not self.save("best", needed=step == self.learner.total):
                self.best = before  # that of the file that is there
        if self.progress:
            self.progress.measured(step, name, value, self.best)

    def _conclude(self, finished: bool) -> None:
        if self.skipped:
            log.warning("%d image(s) could not be read and were skipped", len(self.skipped))
        if not finished:
            log.info(
                "stopped at step %d of %d and saved; to resume: restore train resume=%s",
                *(self.learner.step, self.learner.total, self.folder),
            )
            return
        parts = distributed.gather(self.meter.state())
        if not self.first_process:
            return
        values = _last_values(self.folder / "metrics.csv")
        spent = self._cost(parts)
        trainer = self.setting.trainer
        best = {
            "step": self.learner.step,
            "best": self.best,
            "best metric": self.best_metric.key,
            "higher is better": self.metrics.directions(),
            **values,
            "batch_size": trainer.items,
            "cost": spent,
        }
        write_text(self.folder / "summary.json", to_json(best))
        self.journal.summary(best)
        kept = self.setting.wandb.artifact
        if kept != "none":
            self.journal.artifact(self.folder / "checkpoints" / f"{kept}.pt", kept)
        log.info("done: %d steps; weights and pictures in %s", self.learner.step, self.folder)

    def _cost(self, parts: list[dict[str, float]]) -> dict[str, Any]:
        """The summary's section `cost`; a restoration is that of a training crop."""
        model = self.learner.models["backbone"]
        problem = self.task.prepare(
            to_device(collate([self.items[0]]), self.device),
            torch.Generator(self.device).manual_seed(0),
        )
        once = cost.forward(Runner(model, self.setting.runtime, self.device), problem)
        images = self.learner.step * self.setting.trainer.items
        return {
            "parameters": cost.parameters(model),
            "flops": {"forward": once["flops"]},
            "ms_per_image": once["ms"],
            "of": {name: map_tensors(_size, x) for name, x in problem.inputs.items()},
            **cost.account(parts, images, self.meter.energy.source),
        }


def _table_rows(result: EvaluationResult) -> list[dict[str, Any]]:
    """Each picture of a validation that has a sheet, with its metrics."""
    rows = {row["place"]: row for row in result.rows}
    files = {name: f for name, f in result.sheets.items() if not name.endswith("_masks")}
    places = {int(name.partition("_")[0]): file for name, file in files.items()}
    return [
        {"picture": rows[place]["key"], "file": file, **rows[place]["restored"]}
        for place, file in places.items()
    ]


def _size(picture: Tensor) -> Any:
    return list(picture.shape[-2:])


def _last_values(path: Path) -> dict[str, float]:
    with reading(path), open(path, newline="", encoding="utf-8") as file:
        return {row["name"]: float(row["value"]) for row in csv.DictReader(file)}


def _write(path: Path, state: dict[str, Any]) -> bool:
    make_folder(path.parent)
    checkpoint.write(path, state)
    return True


def _terminal() -> bool:
    import sys

    return sys.stderr.isatty()
