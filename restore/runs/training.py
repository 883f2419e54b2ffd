"""The training loop: stages of objectives, with validation, checkpoints and going on again."""

import csv
import logging
import math
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import clip_grads_with_norm_, get_total_norm
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import tqdm

from restore.runs import checkpoint, cost, distributed
from restore import registry, settings
from restore.errors import NonFinite, UserError
from restore.evaluation import Report, Runner, evaluate
from restore.pictures.images import save_png
from restore.runs.journal import Journal, to_json, write_text
from restore.runs.loading import (
    Batch,
    EvalItems,
    Positions,
    TrainItems,
    collate,
    to_device,
    train_batches,
)
from restore.losses import Loss
from restore.references import replaced
from restore.runs.status import Progress
from restore.types import Particular, Problem, Restoration, Scheduled, each

log = logging.getLogger("restore")

INTERRUPTED = 130


def rate(decay: settings.Decay, step: int, steps: int) -> float:
    """Factor on the learning rate at a step of a stage.

    Args:
        decay: linear warm-up over `warmup` steps, then `constant`; `step` (times `factor` every
            `every` steps); `linear` or `cosine` (down to `factor` at the stage's last step).
        step: from 0.
        steps: the stage's length.
    """
    warm = min(1.0, (step + 1) / decay.warmup) if decay.warmup else 1.0
    if decay.shape == "step":
        assert decay.every is not None
        return warm * decay.factor ** (step // decay.every)
    share = step / max(1, steps - 1)
    if decay.shape == "linear":
        return warm * (1 + (decay.factor - 1) * share)
    if decay.shape == "cosine":
        return warm * (decay.factor + (1 - decay.factor) * (1 + math.cos(math.pi * share)) / 2)
    return warm


class Objective:
    """One model, the terms that it is trained on, and its optimizer.

    Args:
        path: where it stands in the configuration, for messages.
        setting: its losses, optimizer, parameter groups, schedule.
        model: the bare model that it changes.
        steps: the stage's length.
    """

    def __init__(self, path: str, setting: settings.Objective, model: nn.Module, steps: int):
        self.setting, self.steps, self.model = setting, steps, model
        self.losses: dict[str, Loss] = {
            name: registry.instantiate(node, f"{path}.losses.{name}")
            for name, node in setting.losses.items()
            if setting.weights[name] > 0  # else not even its files are needed
        }
        if not self.losses:
            raise UserError(f"{path}.weights: every term has the weight 0")
        groups = _parameter_groups(path, model, setting.groups)
        self.optimizer = registry.instantiate(setting.optimizer, f"{path}.optimizer")(groups)
        self.parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        for group in self.optimizer.param_groups:
            group["initial_lr"] = group["lr"]

    @property
    def rate(self) -> float:
        """The first group's learning rate."""
        return self.optimizer.param_groups[0]["lr"]

    def set_rate(self, step: int) -> None:
        """Sets the learning rates for a step of the stage."""
        factor = rate(self.setting.decay, step, self.steps)
        for group in self.optimizer.param_groups:
            group["lr"] = group["initial_lr"] * factor

    def terms(
        self, restored: Restoration, problem: Problem, models: Mapping[str, nn.Module]
    ) -> dict[str, Tensor]:
        """Every term, unweighted. Of the models only the objective's own gets gradients by them."""
        with _fixed(model for model in models.values() if model is not self.model):
            return {name: loss(restored, problem, models) for name, loss in self.losses.items()}


@contextmanager
def _fixed(models: Iterable[nn.Module]) -> Iterator[None]:
    """While it lasts, what is made with the models' parameters is no function of them."""
    held = [p for model in models for p in model.parameters() if p.requires_grad]
    for parameter in held:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in held:
            parameter.requires_grad_(True)


def _parameter_groups(
    path: str, model: nn.Module, groups: Mapping[str, Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Trainable parameters by the prefix of their names; all others come first, as they are."""
    named = {name: p for name, p in model.named_parameters() if p.requires_grad}
    taken: dict[str, list[Tensor]] = {prefix: [] for prefix in groups}
    rest: list[Tensor] = []
    for name, parameter in named.items():
        owner = next((g for g in groups if name == g or name.startswith(f"{g}.")), None)
        (rest if owner is None else taken[owner]).append(parameter)
    for prefix in groups:
        if not taken[prefix] and not any(n.startswith(prefix) for n, _ in model.named_parameters()):
            parts = sorted({name.partition(".")[0] for name in named})
            raise UserError(
                f"{path}.groups.{prefix}: the model has no such part; there are {', '.join(parts)}"
            )
    made = [{"params": rest}] if rest else []
    made += [
        {"params": taken[prefix], **options} for prefix, options in groups.items() if taken[prefix]
    ]
    if not made:
        raise UserError(f"{path}: the model has nothing to train")
    return made


@dataclass
class Leg:
    """A stage placed in the run: its name, first step, length and objectives."""

    name: str
    first: int
    steps: int
    objectives: dict[str, Objective]


def _prefix(leg: Leg, title: str) -> str:
    """What the names of an objective's numbers begin with, where there are several."""
    return f"{title}/" if len(leg.objectives) > 1 else ""


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
        self.valid_items = EvalItems(valid, self.task, setting.loader.on_error)
        self.protocol = registry.instantiate(setting.protocol, "protocol")

        self.models: dict[str, nn.Module] = {
            "backbone": registry.instantiate(setting.backbone, "backbone")
        }
        for name in setting.schedule:
            for title, node in setting.stages[name].models.items():
                if title not in self.models:
                    self.models[title] = registry.instantiate(node, f"stages.{name}.models.{title}")
        for model in self.models.values():
            self._place(model)
        self.begun = ""
        if setting.init is not None and not self._last.exists():
            self.begun = self._start_from(setting.init)
        self.ema = None
        if setting.trainer.ema is not None:
            self.ema = AveragedModel(
                self.models["backbone"],
                multi_avg_fn=get_ema_multi_avg_fn(setting.trainer.ema),
                use_buffers=True,
            )
        self.network = self._wrap(self.models["backbone"])
        self.runner = Runner(self.network, setting.runtime, device)
        self.scaler = torch.amp.GradScaler(device.type, enabled=setting.runtime.precision == "fp16")
        self.legs = list(self._legs())
        for part in [*self.models.values(), *(loss for _, loss in self._terms())]:
            if isinstance(part, Particular):
                part.check_size(self.task.crop, self.task.crop)
        for _, loss in self._terms():
            if isinstance(loss, nn.Module):
                self._place(loss)
        self.total = self.legs[-1].first + self.legs[-1].steps
        self.step = 0
        self.best: float | None = None
        # Sums of this process's values since the last line of numbers.
        self.unlogged: dict[str, float] = {}
        self.unlogged_steps = 0
        self.skipped: set[tuple[str, str]] = set()
        self.stop = False

    def _wrap(self, model: nn.Module) -> nn.Module:
        """The backbone as it is called; critics stay bare.

        Penalties differentiate a critic's gradient again, which neither torch.compile nor
        DistributedDataParallel promise to do; their gradients are averaged after the backward pass.
        """
        if self.setting.runtime.compile:
            model = torch.compile(model)  # type: ignore[assignment]
        if distributed.world() > 1 and any(p.requires_grad for p in model.parameters()):
            ids = [self.device.index] if self.device.type == "cuda" else None
            return DistributedDataParallel(model, device_ids=ids, broadcast_buffers=False)
        return model

    def _place(self, module: nn.Module) -> None:
        """To the device and memory layout that it will run with."""
        layout = (
            torch.channels_last if self.setting.runtime.channels_last else torch.contiguous_format
        )
        module.to(self.device)
        module.to(memory_format=layout)  # type: ignore[call-overload]

    def _start_from(self, path: str) -> str:
        """Loads the weights to begin from; returns what to say of it."""
        from restore import weights

        loaded = weights.load(path)
        backbone = self.models["backbone"]
        if self.setting.init_partial:
            fit = checkpoint.load_what_fits(backbone, loaded.state, path)
            return f"begun from {loaded.sentence()}\n{fit.report()}"
        try:
            checkpoint.load_into(backbone, loaded.state, path)
        except UserError as error:
            raise UserError(f"{error}; init_partial=true takes what fits, and says what") from error
        return f"begun from {loaded.sentence()}, all {len(loaded.state)} tensors"

    def _terms(self) -> Iterator[tuple[str, Loss]]:
        """Every term of every stage, with its dotted path."""
        for leg in self.legs:
            for title, objective in leg.objectives.items():
                for name, loss in objective.losses.items():
                    yield f"{leg.name}.{title}.{name}", loss

    def _legs(self) -> Iterator[Leg]:
        first = 0
        for name in self.setting.schedule:
            stage = self.setting.stages[name]
            batch = self.setting.trainer.batch_size
            steps = stage.steps or max(
                1, math.ceil((stage.epochs or 0) * len(self.items.source) / batch)
            )
            objectives = {
                title: Objective(
                    f"stages.{name}.objectives.{title}", setting, self.models[setting.model], steps
                )
                for title, setting in stage.objectives.items()
            }
            yield Leg(name, first, steps, objectives)
            first += steps

    # Checkpoints ----------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """Everything that the run needs to go on from here as if it had never stopped.

        There is no generator state in it: chance is drawn afresh for each step from the seed,
        the step and the process.
        """
        return {
            "config": self.config,
            "models": {name: model.state_dict() for name, model in self.models.items()},
            "ema": self.ema.module.state_dict() if self.ema is not None else None,
            "averaged": int(self.ema.n_averaged) if self.ema is not None else 0,
            "optimizers": {
                f"{leg.name}/{title}": objective.optimizer.state_dict()
                for leg in self.legs
                for title, objective in leg.objectives.items()
            },
            "scaler": self.scaler.state_dict(),
            "step": self.step,
            "best": self.best,
            "unlogged": distributed.gather([self.unlogged, self.unlogged_steps]),
            "identity": self.journal.identity,
            "spent": distributed.gather(self.meter.state()),
        }

    def save(self, name: str) -> None:
        """Writes `checkpoints/NAME.pt`, from the first process; called by all."""
        state = self.state()
        if self.first_process:
            path = self.folder / "checkpoints" / f"{name}.pt"
            path.parent.mkdir(exist_ok=True)
            checkpoint.write(path, state)

    def _restore(self, state: dict[str, Any]) -> None:
        origin = str(self._last)
        for name, model in self.models.items():
            checkpoint.load_into(model, state["models"][name], origin)
        if self.ema is not None:
            checkpoint.load_into(self.ema.module, state["ema"], origin)
            self.ema.n_averaged.fill_(state["averaged"])
        for leg in self.legs:
            for title, objective in leg.objectives.items():
                objective.optimizer.load_state_dict(state["optimizers"][f"{leg.name}/{title}"])
        self.scaler.load_state_dict(state["scaler"])
        self.step, self.best = state["step"], state["best"]
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
        state = checkpoint.read(self._last) if self._last.exists() else None
        if state is not None:
            self._restore(state)
        self.journal = Journal(
            self.folder,
            self.config,
            self.config["wandb"],
            "train",
            self.step,
            state["identity"] if state else None,
        )
        self._introduce()
        spent = state.get("spent", []) if state else []
        own = distributed.rank()
        self.meter = cost.Meter(self.device, spent[own] if own < len(spent) else None)
        self.progress = Progress(self.folder, self.step, self.total) if self.first_process else None
        finished = False
        try:
            with self._listening(), self._bar() as bar:
                for leg in self.legs:
                    if self.step < leg.first + leg.steps:
                        self._train(leg, bar)
                    if self.stop:
                        break
            finished = not self.stop
            self._conclude(finished)
        finally:
            self.journal.close(failed=not finished)
        if self.progress:
            self.progress.end(self.step, finished)
        return 0 if finished else INTERRUPTED

    def _introduce(self) -> None:
        if self.begun:
            log.info(self.begun)
        origins: dict[str, list[str]] = {}  # users of other people's networks, by what is said
        extractor = getattr(self.models["backbone"], "extractor", None)
        for name, user in [("the extractor", extractor), *self._terms()]:
            provenance = getattr(user, "provenance", None)
            if provenance is not None:
                origins.setdefault(provenance.sentence(), []).append(name)
        for sentence, users in origins.items():
            log.info("%s (for %s)", sentence, ", ".join(users))
        for name, model in self.models.items():
            trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
            every = sum(p.numel() for p in model.parameters())
            log.info("%s: %s parameters, %s trained", name, f"{every:,}", f"{trained:,}")
        stages = ", ".join(f"{leg.name} ({leg.steps} steps)" for leg in self.legs)
        start = f"going on at step {self.step}" if self.step else "beginning"
        log.info("%s: %s; run folder %s", start, stages, self.folder)

    def _bar(self) -> tqdm:
        batch = self.setting.trainer.batch_size
        return tqdm(
            total=self.total * batch,
            initial=self.step * batch,
            unit="img",
            unit_scale=True,
            dynamic_ncols=True,
            disable=not self.first_process,
            # On a terminal the bar moves; in a log file a line every ten seconds is enough.
            mininterval=0.5 if _terminal() else 10,
        )

    def _listening(self) -> "_Signals":
        return _Signals(self._ask_to_stop)

    def _ask_to_stop(self) -> None:
        self.stop = True

    def _train(self, leg: Leg, bar: tqdm) -> None:
        trainer = self.setting.trainer
        if self.step == leg.first:
            # Fidelity falls where a stage trains for more than it; what came before is no rival.
            self.best = None
            self.unlogged, self.unlogged_steps = {}, 0  # it has terms of its own
        positions = Positions(
            self.step,
            leg.first + leg.steps,
            trainer.batch_size,
            trainer.accumulate,
            distributed.rank(),
            distributed.world(),
        )
        pin = self.device.type == "cuda"
        batches = iter(train_batches(self.items, positions, self.setting.loader, pin))
        self.network.train()
        timed, began = 0, time.perf_counter()
        while self.step < leg.first + leg.steps:
            with self.meter.working():
                with self.meter.waiting():
                    micros = [next(batches) for _ in range(trainer.accumulate)]
                for micro in micros:
                    self._note_skipped(micro)
                values = self._step(leg, [to_device(micro, self.device) for micro in micros])
            self.step += 1
            timed += 1
            self.unlogged_steps += 1
            for name, value in values.items():
                self.unlogged[name] = self.unlogged.get(name, 0.0) + value
            bar.update(trainer.batch_size)
            if self.progress:
                self.progress.at(self.step)
            if self.step % trainer.log_every == 0 or self.step == self.total:
                own = {k: v / self.unlogged_steps for k, v in self.unlogged.items()}
                parts = distributed.gather(own)
                mean = {f"train/{k}": sum(p[k] for p in parts) / len(parts) for k in own}
                for title, objective in leg.objectives.items():
                    mean[f"train/{_prefix(leg, title)}rate"] = objective.rate
                speed = timed * trainer.batch_size / (time.perf_counter() - began)
                mean["train/images_per_s"] = speed
                self.journal.numbers(mean, self.step)
                bar.set_postfix_str(f"{leg.name} loss {mean['train/loss']:.4f}")
                self.unlogged, self.unlogged_steps = {}, 0
                timed, began = 0, time.perf_counter()
            ended = self.step == self.total
            if self.step % trainer.valid_every == 0 or ended:
                self.validate()
                began = time.perf_counter()
            stop = distributed.any_true(self.stop, self.device)
            if self.step % trainer.save_every == 0 or ended or stop:
                self.save("last")
            if stop:
                self.stop = True
                return

    def _step(self, leg: Leg, micros: list[Batch]) -> dict[str, float]:
        """One optimizer step of each objective; returns the terms' values."""
        # Chance in networks and degradations depends on the step alone, not on what ran before.
        mixed = np.random.SeedSequence([self.setting.seed, self.step, distributed.rank()])
        seed = int(mixed.generate_state(1, np.uint64)[0] >> 1)
        torch.manual_seed(seed)
        generator = torch.Generator(self.device).manual_seed(seed)
        self._announce(leg)
        problems = [self.task.prepare(micro, generator) for micro in micros]
        # What the critic was shown is what the backbone then learns from, unless that would hold
        # the graphs of several micro-batches at once.
        kept = self._restore_batch(problems[0]) if len(problems) == 1 else None
        values: dict[str, float] = {"loss": 0.0}
        for title, objective in leg.objectives.items():
            own = objective.setting.model == "backbone"
            objective.set_rate(self.step - leg.first)
            for _ in range(objective.setting.repeat):
                objective.optimizer.zero_grad(set_to_none=True)
                for place, problem in enumerate(problems):
                    restored = kept or self._restore_batch(problem, gradients=own)
                    last = place == len(problems) - 1
                    terms = self._backward(title, objective, restored, problem, len(problems), last)
                    share = len(problems) * objective.setting.repeat
                    for name, value in terms.items():
                        name = f"{_prefix(leg, title)}{name}"
                        values[name] = values.get(name, 0.0) + value / share
                self._update(title, objective, problems)
                if own:
                    kept = None  # its graph is used up, and the backbone is another now
            if own and len(leg.objectives) > 1:
                values["loss"] += values[f"{title}/loss"]
        if self.ema is not None:
            self.ema.update_parameters(self.models["backbone"])
        return values

    def _announce(self, leg: Leg) -> None:
        """Tells the parts that change in the course of training which step this is."""
        if isinstance(self.task, Scheduled):
            self.task.at(self.step, self.total)
        for model in self.models.values():
            for part in model.modules():
                if isinstance(part, Scheduled):
                    part.at(self.step, self.total)
        for objective in leg.objectives.values():
            for loss in objective.losses.values():
                if isinstance(loss, Scheduled):
                    loss.at(self.step - leg.first, leg.steps)

    def _restore_batch(self, problem: Problem, gradients: bool = True) -> Restoration:
        with nullcontext() if gradients else torch.no_grad():
            return self.task.finish(self.runner(problem), problem)

    def _backward(
        self,
        title: str,
        objective: Objective,
        restored: Restoration,
        problem: Problem,
        parts: int,
        last: bool,
    ) -> dict[str, float]:
        if objective.setting.model != "backbone":
            restored = Restoration(restored.image.detach(), {})
        with self.runner.autocast():
            terms = objective.terms(restored, problem, self.models)
        weights = objective.setting.weights
        loss = torch.stack([weights[name] * term for name, term in terms.items()]).sum()
        if not torch.isfinite(loss):
            odd = [name for name, term in terms.items() if not torch.isfinite(term)]
            raise NonFinite(
                f"step {self.step}: {title} has become {loss.item()} "
                f"(term {', '.join(odd) or 'sum'}) on {', '.join(problem.keys)}; "
                "nothing was changed by it, the last checkpoint is good"
            )
        waits = isinstance(self.network, DistributedDataParallel) and not last
        with self.network.no_sync() if waits else nullcontext():  # type: ignore[operator]
            self.scaler.scale(loss / parts).backward()
        return {name: term.item() for name, term in terms.items()} | {"loss": loss.item()}

    def _update(self, title: str, objective: Objective, problems: list[Problem]) -> None:
        gradients = [p.grad for p in objective.parameters if p.grad is not None]
        if objective.setting.model != "backbone":
            distributed.average(gradients)
        self.scaler.unscale_(objective.optimizer)
        norm = get_total_norm(gradients)
        if not self.scaler.is_enabled() and not torch.isfinite(norm):
            keys = [key for problem in problems for key in problem.keys]
            raise NonFinite(
                f"step {self.step}: the gradient of {title} has become {norm.item()} on "
                f"{', '.join(keys)}; nothing was changed by it, the last checkpoint is good"
            )
        if objective.setting.clip is not None:
            clip_grads_with_norm_(objective.parameters, objective.setting.clip, norm)
        self.scaler.step(objective.optimizer)
        self.scaler.update()

    def _note_skipped(self, batch: Batch) -> None:
        for path, reason in batch["skipped"]:
            if (path, reason) not in self.skipped:
                self.skipped.add((path, reason))
                log.warning("skipped: cannot read the image %s: %s", path, reason)

    # Validation -----------------------------------------------------------------------------

    def validate(self) -> dict[str, float]:
        """Measures the validation split, logs it and keeps the stage's best checkpoint."""
        model = self.ema.module if self.ema is not None else self.models["backbone"]
        folder = self.folder / "pictures" / f"step_{self.step:07d}"
        holes: dict[str, tuple[Path, np.ndarray]] = {}

        def keep(problem: Problem, restored: Restoration, _: Tensor) -> dict[str, float]:
            mask, count = problem.aux.get("mask"), self.setting.trainer.pictures
            if self.first_process and mask is not None and len(holes) < count:
                path = folder / f"{len(holes):03d}_filled.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                save_png(path, (restored.image[0].clamp(0, 1) * 255).round().byte().cpu())
                overlay = mask[0, 0].round().byte().cpu().numpy()
                holes[f"valid/holes/{problem.keys[0]}"] = path, overlay
            return {}

        report = evaluate(
            Runner(model, self.setting.runtime, self.device),
            self.task,
            self.valid_items,
            self.protocol,
            self.setting.loader,
            pictures=folder,
            count=self.setting.trainer.pictures,
            each=keep,
            title="validate",
        )
        if not report.rows:
            raise UserError("no validation image could be read")
        values = {f"valid/{k}": v for k, v in report.mean("restored").items()}
        base = {f"valid/{report.baseline}/{k}": v for k, v in report.mean("baseline").items()}
        self.journal.numbers({**values, **base}, self.step)
        self.journal.pictures({f"valid/{k}": v for k, v in report.sheets.items()}, self.step)
        self.journal.table(_table_rows(report), self.step)
        self.journal.masked(holes, self.step)
        name, value = next(iter(values.items()))
        against = base[f"valid/{report.baseline}/{name.partition('/')[2]}"]
        log.info(
            "step %d: %s %.4f (%s %.4f, %+.4f) over %d images",
            *(self.step, name, value, report.baseline, against, value - against),
            len(report.rows),
        )
        if self.best is None or value > self.best:
            self.best = value
            self.save("best")
        if self.progress:
            self.progress.measured(self.step, name, value, self.best)
        self.last_values = values | base
        return values

    def _conclude(self, finished: bool) -> None:
        if self.skipped:
            log.warning("%d image(s) could not be read and were skipped", len(self.skipped))
        if not finished:
            log.info(
                "stopped at step %d of %d and saved; to go on: restore train resume=%s",
                *(self.step, self.total, self.folder),
            )
            return
        parts = distributed.gather(self.meter.state())
        if not self.first_process:
            return
        values = _last_values(self.folder / "metrics.csv")
        spent = self._cost(parts)
        best = {"step": self.step, "best": self.best, **values, "cost": spent}
        write_text(self.folder / "summary.json", to_json(best))
        self.journal.summary(best)
        kept = self.setting.wandb.artifact
        if kept != "none":
            self.journal.artifact(self.folder / "checkpoints" / f"{kept}.pt", kept)
        log.info("done: %d steps; weights and pictures in %s", self.step, self.folder)

    def _cost(self, parts: list[dict[str, float]]) -> dict[str, Any]:
        """The summary's section `cost`; a restoration is that of a training crop."""
        model = self.models["backbone"]
        problem = self.task.prepare(
            to_device(collate([self.items[0]]), self.device),
            torch.Generator(self.device).manual_seed(0),
        )
        once = cost.forward(Runner(model, self.setting.runtime, self.device), problem)
        images = self.step * self.setting.trainer.batch_size
        return {
            "parameters": cost.parameters(model),
            "flops": {"forward": once["flops"]},
            "ms_per_image": once["ms"],
            "of": {name: each(_size, x) for name, x in problem.inputs.items()},
            **cost.account(parts, images, self.meter.energy.source),
        }


def _table_rows(report: Report) -> list[dict[str, Any]]:
    """Each picture of a validation that has a sheet, with its metrics."""
    found = {row["place"]: row for row in report.rows}
    files = {name: f for name, f in report.sheets.items() if not name.endswith("_masks")}
    places = {int(name.partition("_")[0]): file for name, file in files.items()}
    return [
        {"picture": found[place]["key"], "file": file, **found[place]["restored"]}
        for place, file in places.items()
    ]


def _size(picture: Tensor) -> Any:
    return list(picture.shape[-2:])


def _last_values(path: Path) -> dict[str, float]:
    with open(path, newline="", encoding="utf-8") as file:
        return {row["name"]: float(row["value"]) for row in csv.DictReader(file)}


def _terminal() -> bool:
    import sys

    return sys.stderr.isatty()


class _Signals:
    """While it lasts, Ctrl-C and SIGTERM ask to stop; a second Ctrl-C stops at once."""

    def __init__(self, ask: Callable[[], None]):
        self.ask = ask

    def __enter__(self) -> "_Signals":
        def handle(number: int, frame: Any) -> None:
            self.ask()
            signal.signal(signal.SIGINT, signal.default_int_handler)
            log.info("stopping after this step; once more to stop at once, without saving")

        self._before = {
            number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)
        }
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
