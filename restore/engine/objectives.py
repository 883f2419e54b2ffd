"""What a stage asks of each model: its terms, its optimizer, its learning rate."""

import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from torch import Tensor, nn

from restore.config import registry, settings
from restore.errors import UserError
from restore.losses import Loss
from restore.losses.two_pictures import as_loss
from restore.types import Problem, Restoration


def lr_factor(schedule: settings.LrSchedule, step: int, steps: int) -> float:
    """Factor on the learning rate at a step of a stage.

    Args:
        schedule: linear warm-up over `warmup_steps`, then `constant`; `step` (times `factor` every
            `step_size` steps, or from each step of a list on); `linear` or `cosine` (down to
            `factor` at the last of `steps`, and constant from there on).
        step: from 0.
        steps: how long `linear` and `cosine` take.
    """
    warm = min(1.0, (step + 1) / schedule.warmup_steps) if schedule.warmup_steps else 1.0
    if schedule.name == "step":
        assert schedule.step_size is not None
        if isinstance(schedule.step_size, int):
            decays = step // schedule.step_size
        else:
            decays = sum(step >= milestone for milestone in schedule.step_size)
        return warm * schedule.factor**decays
    share = min(1.0, step / max(1, steps - 1))
    if schedule.name == "linear":
        return warm * (1 + (schedule.factor - 1) * share)
    if schedule.name == "cosine":
        return warm * (
            schedule.factor + (1 - schedule.factor) * (1 + math.cos(math.pi * share)) / 2
        )
    return warm


class ModelObjective:
    """One model, the terms that it is trained on, and its optimizer.

    Args:
        path: where it stands in the configuration, for messages.
        setting: its losses and their weights, optimizer, parameter groups, schedule.
        model: the bare model that it changes.
        steps: the stage's length, or how long its schedule takes.
        factor: on every learning rate.
        first: the step of the run from which its schedule counts.
        before: the objective that it continues, or None.

    Raises:
        UserError: a loss, the optimizer or a parameter group cannot be made, or the optimizer is
            of another kind than the one that it continues.
    """

    def __init__(
        self,
        path: str,
        setting: settings.Objective,
        model: nn.Module,
        steps: int,
        factor: float = 1.0,
        first: int = 0,
        before: "ModelObjective | None" = None,
    ):
        self.setting, self.steps, self.model = setting, steps, model
        self.first, self.before = first, before
        self.losses: dict[str, Loss] = {
            name: as_loss(registry.instantiate(node, place), place, setting.range)
            for name, node in setting.parts.items()
            for place in [f"{path}.losses.{name}"]
        }
        groups = _parameter_groups(path, model, setting.param_groups)
        self.optimizer = registry.instantiate(setting.optimizer, f"{path}.optimizer")(groups)
        self.parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        for group in self.optimizer.param_groups:
            group["initial_lr"] = group["lr"] * factor
        if before is not None and type(self.optimizer) is not type(before.optimizer):
            own, other = (type(x).__name__ for x in (self.optimizer, before.optimizer))
            raise UserError(
                f"{path}.continues: its optimizer is {own}, that of the stage before {other}"
            )

    @property
    def lr(self) -> float:
        """The first group's learning rate."""
        return self.optimizer.param_groups[0]["lr"]

    def set_lr(self, step: int) -> None:
        """Sets the learning rates for a step of the run."""
        factor = lr_factor(self.setting.lr_schedule, step - self.first, self.steps)
        for group in self.optimizer.param_groups:
            group["lr"] = group["initial_lr"] * factor

    def begin(self) -> None:
        """At the stage's first step: takes over the optimizer's state of what it continues."""
        if self.before is not None:
            self.optimizer.state.update(self.before.optimizer.state)
            self.before.optimizer.state.clear()

    def load_optimizer(self, state: dict[str, Any], origin: str) -> None:
        """Goes back to a state of the optimizer; its settings stay those of the configuration.

        Raises UserError, which begins with `origin`, for the state of another.
        """
        own = [{k: v for k, v in g.items() if k != "params"} for g in self.optimizer.param_groups]
        try:
            self.optimizer.load_state_dict(state)
        except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
            raise UserError(f"{origin} does not fit: {error}") from error
        for group, options in zip(self.optimizer.param_groups, own):
            group.update(options)
        # torch's own keep what is of a parameter's shape or a number; others keep sums along sides.
        strict = type(self.optimizer).__module__.startswith("torch.optim")
        for parameter, kept in self.optimizer.state.items():
            for name, value in kept.items():
                if not isinstance(value, Tensor):
                    continue
                fits = value.shape in (parameter.shape, ()) or not strict
                if not fits or not value.isfinite().all():
                    raise UserError(f"{origin} does not fit: its {name} is damaged")

    def terms(
        self, restored: Restoration, problem: Problem, models: Mapping[str, nn.Module]
    ) -> dict[str, Tensor]:
        """Every term, unweighted. Of the models only the objective's own gets gradients by them."""
        with _fixed(model for model in models.values() if model is not self.model):
            return {name: loss(restored, problem, models) for name, loss in self.losses.items()}


@contextmanager
def _fixed(models: Iterable[nn.Module]) -> Iterator[None]:
    """While it lasts, what is made with the models' parameters is no function of them."""
    trainable = [p for model in models for p in model.parameters() if p.requires_grad]
    for parameter in trainable:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trainable:
            parameter.requires_grad_(True)


def _parameter_groups(
    path: str, model: nn.Module, groups: Mapping[str, Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Trainable parameters by the prefix of their names; all others come first, as they are.

    A prefix ends where a part's name does, unless it ends in a star.
    """
    named = {name: p for name, p in model.named_parameters() if p.requires_grad}
    by_prefix: dict[str, list[Tensor]] = {prefix: [] for prefix in groups}
    rest: list[Tensor] = []
    for name, parameter in named.items():
        owner = next((g for g in groups if _owns(g, name)), None)
        (rest if owner is None else by_prefix[owner]).append(parameter)
    for prefix in groups:
        if not any(_owns(prefix, name) for name, _ in model.named_parameters()):
            parts = sorted({name.partition(".")[0] for name in named})
            raise UserError(
                f"{path}.param_groups.{prefix}: the model has no such part; "
                f"there are {', '.join(parts)}"
            )
    param_groups = [{"params": rest}] if rest else []
    param_groups += [
        {"params": by_prefix[prefix], **options}
        for prefix, options in groups.items()
        if by_prefix[prefix]
    ]
    if not param_groups:
        raise UserError(f"{path}: the model has nothing to train")
    return param_groups


def _owns(prefix: str, name: str) -> bool:
    return fnmatchcase(name, prefix) or fnmatchcase(name, f"{prefix}.*")


@dataclass
class ScheduledStage:
    """A stage placed in the run: its name, first step, length and objectives."""

    name: str
    first: int
    steps: int
    objectives: dict[str, ModelObjective]

    def prefix(self, title: str) -> str:
        """What the names of an objective's numbers begin with, where there are several."""
        return f"{title}/" if len(self.objectives) > 1 else ""
