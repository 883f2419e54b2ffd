"""What learns in a run: models with their objectives, and one step of all of them."""

import math
from collections.abc import Iterator
from contextlib import nullcontext
from inspect import signature
from typing import Any
from warnings import filterwarnings

import numpy as np
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import clip_grads_with_norm_, get_total_norm
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from restore.config import registry, settings
from restore.data.loading import Batch
from restore.engine.objectives import ModelObjective, ScheduledStage
from restore.errors import NonFinite, UserError
from restore.inference.runner import Runner, check_scale
from restore.losses import Loss
from restore.models import checkpoint, precision, weights
from restore.types import Problem, Restoration, Scheduled, SizeConstrained, Task
from restore.utils import distributed

# What it is called since torch 2.13.
_NAMES = signature(DistributedDataParallel).parameters
_SYNC_BUFFERS = "forward_sync_buffers" if "forward_sync_buffers" in _NAMES else "broadcast_buffers"


class Learner:
    """The models of a run, trained on the objectives of its stages.

    Args:
        setting: of the run.
        task: makes problems of batches.
        count: training items of an epoch.
        device: this process's device.
        init: weights that the backbone begins from, or None.
    """

    def __init__(
        self,
        setting: settings.Train,
        task: Task,
        count: int,
        device: torch.device,
        init: str | None,
    ):
        self.setting, self.task, self.count, self.device = setting, task, count, device
        self.models: dict[str, nn.Module] = {
            "backbone": registry.instantiate(setting.backbone, "backbone")
        }
        check_scale(self.models["backbone"], task)
        for name in setting.schedule:
            for title, node in setting.stages[name].models.items():
                if title not in self.models:
                    self.models[title] = registry.instantiate(node, f"stages.{name}.models.{title}")
        for model in self.models.values():
            self._place(model)
        self.begun = self._start_from(init) if init is not None else ""
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
        self.stages = list(self._scheduled())
        for part in [*self.models.values(), *(loss for _, loss in self.terms())]:
            if isinstance(part, SizeConstrained):
                part.check_size(self.task.crop, self.task.crop)
        for _, loss in self.terms():
            if isinstance(loss, nn.Module):
                self._place(loss)
        self.total = self.stages[-1].first + self.stages[-1].steps
        self.step = 0

    def _wrap(self, model: nn.Module) -> nn.Module:
        """The backbone as it is called; critics stay bare.

        Penalties differentiate a critic's gradient again, which neither torch.compile nor
        DistributedDataParallel promise to do; their gradients are averaged after the backward pass.
        """
        if self.setting.runtime.compile:
            model = torch.compile(model)  # type: ignore[assignment]
        if distributed.world() > 1 and any(p.requires_grad for p in model.parameters()):
            ids = [self.device.index] if self.device.type == "cuda" else None
            # Strides of sides of one pixel, of which channels last has others, mean nothing.
            filterwarnings("ignore", "Grad strides do not match bucket view strides")
            options: dict[str, Any] = {_SYNC_BUFFERS: False}
            return DistributedDataParallel(model, device_ids=ids, **options)
        return model

    def _place(self, module: nn.Module) -> None:
        """To the device and memory layout that it will run with."""
        runtime = self.setting.runtime
        form = precision.layout(runtime.precision, self.device.type, runtime.channels_last)
        module.to(self.device)
        module.to(memory_format=form)

    def _start_from(self, path: str) -> str:
        """Loads the weights to begin from; returns what to say of it."""
        loaded = weights.load(path, pretrained=self.setting.pretrained)
        backbone = self.models["backbone"]
        if self.setting.init_partial:
            fit = checkpoint.load_what_fits(backbone, loaded.state, path)
            return f"begun from {loaded.sentence()}\n{fit.report()}"
        try:
            checkpoint.load_into(backbone, loaded.state, path)
        except UserError as error:
            raise UserError(
                f"{error}; init_partial=true loads the tensors that fit and lists the others"
            ) from error
        return f"begun from {loaded.sentence()}, all {len(loaded.state)} tensors"

    def terms(self) -> Iterator[tuple[str, Loss]]:
        """Every term of every stage, with its dotted path."""
        for stage in self.stages:
            for title, objective in stage.objectives.items():
                for name, loss in objective.losses.items():
                    yield f"{stage.name}.{title}.{name}", loss

    def _scheduled(self) -> Iterator[ScheduledStage]:
        first = 0
        latest: dict[str, ModelObjective] = {}  # of each model
        for name in self.setting.schedule:
            stage = self.setting.stages[name]
            steps = stage.steps or self._steps(stage.epochs or 0)
            objectives = {}
            for title, setting in stage.objectives.items():
                path = f"stages.{name}.objectives.{title}"
                before = latest.get(setting.model) if setting.continues else None
                if setting.continues and before is None:
                    raise UserError(
                        f"{path}.continues: no stage before it in the schedule trains the "
                        f"{setting.model}; with false it begins anew"
                    )
                start = first if before is None else before.first
                epochs = setting.lr_schedule.epochs
                objectives[title] = ModelObjective(
                    path,
                    setting,
                    self.models[setting.model],
                    first + steps - start if epochs is None else self._steps(epochs),
                    self.setting.trainer.lr_factor,
                    start,
                    before,
                )
            latest |= {objective.setting.model: objective for objective in objectives.values()}
            yield ScheduledStage(name, first, steps, objectives)
            first += steps

    def _steps(self, epochs: float) -> int:
        return max(1, math.ceil(epochs * self.count / self.setting.trainer.items))

    def state(self) -> dict[str, Any]:
        """Everything that a later step depends on.

        There is no generator state in it: each step seeds its own from the run's seed,
        the step and the process.
        """
        return {
            "models": {name: model.state_dict() for name, model in self.models.items()},
            "ema": self.ema.module.state_dict() if self.ema is not None else None,
            "averaged": int(self.ema.n_averaged) if self.ema is not None else 0,
            "optimizers": {
                f"{stage.name}/{title}": objective.optimizer.state_dict()
                for stage in self.stages
                for title, objective in stage.objectives.items()
            },
            "scaler": self.scaler.state_dict(),
            "step": self.step,
        }

    def load(self, state: dict[str, Any], origin: str) -> None:
        """Goes back to what `state` gave. Raises UserError for another model's, naming `origin`."""
        for name, model in self.models.items():
            if name not in state["models"]:
                raise UserError(f"{origin} is of another run: it has no {name}")
            checkpoint.load_into(model, state["models"][name], origin)
        if self.ema is not None:
            if state["ema"] is None:
                raise UserError(f"{origin} is of another run: it has no running average (ema)")
            checkpoint.load_into(self.ema.module, state["ema"], origin)
            self.ema.n_averaged.fill_(state["averaged"])
        for stage in self.stages:
            for title, objective in stage.objectives.items():
                name = f"{stage.name}/{title}"
                if name not in state["optimizers"]:
                    raise UserError(f"{origin} is of another run: it has no optimizer of {name}")
                objective.load_optimizer(
                    state["optimizers"][name], f"{origin}: optimizer of {name}"
                )
        try:
            self.scaler.load_state_dict(state["scaler"])
        except (KeyError, RuntimeError, TypeError, ValueError) as error:
            raise UserError(f"{origin} is of another run: its scaler: {error}") from error
        self.step = state["step"]

    @property
    def measured(self) -> nn.Module:
        """The backbone that validation looks at: the running average where there is one."""
        return self.ema.module if self.ema is not None else self.models["backbone"]

    def advance(self, stage: ScheduledStage, micros: list[Batch]) -> dict[str, float]:
        """One optimizer step of each objective, on micro-batches that lie on the device.

        Returns the terms' values. Raises NonFinite before anything is changed by such a step.
        """
        # Chance in networks and degradations depends on the step alone, not on what ran before.
        mixed = np.random.SeedSequence([self.setting.seed, self.step, distributed.rank()])
        seed = int(mixed.generate_state(1, np.uint64)[0] >> 1)
        torch.manual_seed(seed)
        generator = torch.Generator(self.device).manual_seed(seed)
        if self.step == stage.first:
            for objective in stage.objectives.values():
                objective.begin()
        self._announce(stage)
        problems = [self.task.prepare(micro, generator) for micro in micros]
        # What the critic was shown is what the backbone then learns from, unless that would hold
        # the graphs of several micro-batches at once.
        kept = self._restore_batch(problems[0]) if len(problems) == 1 else None
        values: dict[str, float] = {"loss": 0.0}
        for title, objective in stage.objectives.items():
            own = objective.setting.model == "backbone"
            objective.set_lr(self.step)
            for _ in range(objective.setting.steps_per_iteration):
                objective.optimizer.zero_grad(set_to_none=True)
                for place, problem in enumerate(problems):
                    restored = kept or self._restore_batch(problem, gradients=own)
                    last = place == len(problems) - 1
                    terms = self._backward(title, objective, restored, problem, len(problems), last)
                    share = len(problems) * objective.setting.steps_per_iteration
                    for name, value in terms.items():
                        name = f"{stage.prefix(title)}{name}"
                        values[name] = values.get(name, 0.0) + value / share
                self._update(title, objective, problems)
                if own:
                    kept = None  # its graph is used up, and the backbone is another now
            if own and len(stage.objectives) > 1:
                values["loss"] += values[f"{title}/loss"]
        if self.ema is not None:
            self.ema.update_parameters(self.models["backbone"])
        self.step += 1
        return values

    def _announce(self, stage: ScheduledStage) -> None:
        """Tells the parts that change in the course of training which step this is."""
        if isinstance(self.task, Scheduled):
            self.task.set_step(self.step, self.total)
        for model in self.models.values():
            for part in model.modules():
                if isinstance(part, Scheduled):
                    part.set_step(self.step, self.total)
        for objective in stage.objectives.values():
            for loss in objective.losses.values():
                if isinstance(loss, Scheduled):
                    loss.set_step(self.step - stage.first, stage.steps)

    def _restore_batch(self, problem: Problem, gradients: bool = True) -> Restoration:
        with nullcontext() if gradients else torch.no_grad():
            return self.task.postprocess(self.runner(problem), problem)

    def _backward(
        self,
        title: str,
        objective: ModelObjective,
        restored: Restoration,
        problem: Problem,
        parts: int,
        last: bool,
    ) -> dict[str, float]:
        if objective.setting.model != "backbone":
            restored = Restoration(restored.image.detach())
        with self.runner.autocast():
            terms = objective.terms(restored, problem, self.models)
        weights = objective.setting.weights
        loss = torch.stack([weights[name] * term for name, term in terms.items()]).sum()
        if not torch.isfinite(loss):
            odd = [name for name, term in terms.items() if not torch.isfinite(term)]
            raise NonFinite(
                f"step {self.step}: {title} has become {loss.item()} (term "
                f"{', '.join(odd) or 'sum'}) on {', '.join(problem.keys)}; the weights "
                "were not updated with it, and the last checkpoint is intact"
            )
        waits = isinstance(self.network, DistributedDataParallel) and not last
        alone = self.network.no_sync() if waits else nullcontext()  # type: ignore[operator]
        with alone, precision.convolutions(self.setting.runtime.precision):
            self.scaler.scale(loss / parts).backward()
        return {name: term.item() for name, term in terms.items()} | {"loss": loss.item()}

    def _update(self, title: str, objective: ModelObjective, problems: list[Problem]) -> None:
        gradients = [p.grad for p in objective.parameters if p.grad is not None]
        if objective.setting.model != "backbone":
            distributed.average(gradients)
        self.scaler.unscale_(objective.optimizer)
        norm = get_total_norm(gradients)
        if not self.scaler.is_enabled() and not torch.isfinite(norm):
            keys = [key for problem in problems for key in problem.keys]
            raise NonFinite(
                f"step {self.step}: the gradient of {title} has become {norm.item()} on "
                f"{', '.join(keys)}; the weights were not updated with it, and the last "
                "checkpoint is intact"
            )
        if objective.setting.clip_grad_norm is not None:
            clip_grads_with_norm_(objective.parameters, objective.setting.clip_grad_norm, norm)
        self.scaler.step(objective.optimizer)
        self.scaler.update()
