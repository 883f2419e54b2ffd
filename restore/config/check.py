"""Types, ranges and signatures that a configuration is held against, before any work.

Types and ranges of what the framework itself reads stand in `restore.config.settings`; the
arguments of parts are held against their own signatures.
"""

import importlib
import inspect
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import is_dataclass
from typing import Any, TypeVar, get_type_hints

from pydantic import ConfigDict, PydanticUserError, TypeAdapter, ValidationError, with_config
from pydantic_core import SchemaError

from restore.config import settings
from restore.config.groups import unknown
from restore.errors import UserError

_SPECIAL = ("_target_", "_partial_")
_ANY_CLASS = ConfigDict(arbitrary_types_allowed=True)
_LOSS = re.compile(r"stages\.[^.]+\.objectives\.[^.]+\.losses\.[^.]+")
_WEIGHT: TypeAdapter[float] = TypeAdapter(settings.Weight)
Settings = TypeVar("Settings")
Read = TypeVar("Read")


class NotText(UserError):
    """A number, or true or false, where a text is asked for, such as the name of a folder.

    Args:
        sentence: what is said of it.
        key: of the setting, `value`: what was given.
    """

    def __init__(self, sentence: str, key: str, value: object):
        super().__init__(sentence)
        self.key, self.value = key, value


def check(config: Mapping[str, Any], schema: type[Settings]) -> Settings:
    """The configuration as a typed object, once everything in it has been found to be allowed.

    Args:
        config: as `plain` returns it.
        schema: a class of `restore.config.settings` (or alike).

    Raises:
        UserError: names the key, what is wrong with it and what is allowed.
    """
    for path, node in sorted(parts(config), key=_origin_first):
        if _LOSS.fullmatch(path):
            _read(_WEIGHT, node.get("weight", 1.0), f"{path}.weight")
            node = settings.without_weight(node)
        check_part(path, node)
    checked = _read(_adapter(schema), dict(config), "")
    _check_numbers(config, "")
    if isinstance(checked, settings.Train):
        _check_stages(checked)
    return checked


def parts(config: Any, path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Every node with a `_target_`, with its dotted path, outermost first."""
    if isinstance(config, Mapping):
        if "_target_" in config:
            yield path, dict(config)
        for key, value in config.items():
            yield from parts(value, f"{path}.{key}" if path else str(key))
    elif isinstance(config, list):
        for place, value in enumerate(config):
            yield from parts(value, f"{path}[{place}]")


def _check_numbers(node: Any, key: str) -> None:
    """Raises UserError for a number that is none, or that no computer's integers can hold."""
    if isinstance(node, Mapping):
        for name, value in node.items():
            _check_numbers(value, f"{key}.{name}" if key else str(name))
    elif isinstance(node, list | tuple):
        for place, value in enumerate(node):
            _check_numbers(value, f"{key}[{place}]")
    elif isinstance(node, float) and not math.isfinite(node):
        raise UserError(f"{key}={node}: input should be a finite number")
    elif isinstance(node, int) and abs(node) >= 2**63:
        raise UserError(f"{key}={node}: input should be a number below 2^63")


def _origin_first(part: tuple[str, Any]) -> tuple[int, bool]:
    """An order in which a value comes before those that refer to it (`size: ${task.crop}`).

    A mistake is then told by the key that was typed. A group's own node lies higher in the tree
    than its copies in others; among the highest, several take what the task says.
    """
    path, _ = part
    return path.count("."), path != "task"


def check_part(path: str, node: Mapping[str, Any]) -> None:
    """Holds a node's arguments against the signature of its target.

    Raises UserError for an unknown, missing or ill-typed argument, or a target that is not there.
    """
    if odd := [key for key in node if str(key).startswith("_") and key not in _SPECIAL]:
        raise UserError(
            f"{path}.{odd[0]}: arguments of a part are given by name; nothing else is allowed"
        )
    target = locate(str(node["_target_"]), path)
    if not callable(target):
        raise UserError(f"{path}._target_: '{node['_target_']}' is neither class nor function")
    signature = inspect.signature(target)
    function = target.__init__ if inspect.isclass(target) else target
    try:
        hints = get_type_hints(function, include_extras=True)
    except (NameError, TypeError):
        hints = {}  # a class of a C library has none; then only the names are checked
    arguments = {key: value for key, value in node.items() if key not in _SPECIAL}
    known = signature.parameters
    anything = any(p.kind is p.VAR_KEYWORD for p in known.values())
    for name, value in arguments.items():
        if name not in known and not anything:
            raise UserError(unknown(f"{path}.{name}", list(known)))
        if name in hints and not _holds_part(value):
            try:
                adapter = TypeAdapter(hints[name], config=_ANY_CLASS)
            except (PydanticUserError, SchemaError):
                # A type that only code can make: a part. What a yaml or a line can say is none.
                if inspect.isclass(hints[name]) and isinstance(value, str | int | float | None):
                    raise UserError(f"{path}.{name}={value}: a part belongs here") from None
                continue
            _read(adapter, value, f"{path}.{name}")
    for name, parameter in known.items():
        needed = parameter.default is parameter.empty and parameter.kind not in (
            parameter.VAR_KEYWORD,
            parameter.VAR_POSITIONAL,
        )
        if needed and name not in arguments and not node.get("_partial_"):
            raise UserError(f"{path}.{name} is missing: {node['_target_']} needs it")


def locate(target: str, path: str) -> Any:
    """The class or function that a `_target_` names; UserError when there is none."""
    module, _, name = target.rpartition(".")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(f"{path}._target_: there is no '{target}' ({error})") from error


def _holds_part(value: Any) -> bool:
    return next(parts(value), None) is not None


def _adapter(schema: type[Settings]) -> TypeAdapter[Settings]:
    assert is_dataclass(schema)
    for member in vars(settings).values():
        if inspect.isclass(member) and is_dataclass(member):
            with_config(settings.STRICT)(member)
    with_config(settings.OPEN if schema is settings.Train else settings.STRICT)(schema)
    return TypeAdapter(schema)


def _read(adapter: TypeAdapter[Read], value: Any, path: str) -> Read:
    """The value as its type has it; UserError for one that is not of that type.

    pydantic's strict mode would refuse lists for tuples, text for paths and dictionaries for
    settings, which is all that YAML has; its other mode takes `true` for 1 and "3" for 3.
    """
    try:
        read = adapter.validate_python(value)
    except ValidationError as error:
        sentence = _sentence(error, path)
        for one in error.errors():
            if one["type"] == "string_type" and isinstance(one["input"], int | float):
                raise NotText(sentence, _key(one["loc"], path), one["input"]) from error
        raise UserError(sentence) from error
    _refuse_converted(value, read, path)
    return read


_NO_NUMBER = "input should be a number, not true or false"


def _refuse_converted(value: Any, read: Any, key: str) -> None:
    """Raises UserError where a truth value, a number or a text was read as another of these."""
    if isinstance(value, Mapping):
        for name, inner in value.items():
            converted = (
                read.get(name) if isinstance(read, Mapping) else getattr(read, str(name), None)
            )
            _refuse_converted(inner, converted, f"{key}.{name}" if key else str(name))
    elif isinstance(value, list | tuple) and isinstance(read, list | tuple):
        for place, (inner, converted) in enumerate(zip(value, read)):
            _refuse_converted(inner, converted, f"{key}[{place}]")
    elif isinstance(value, bool) and not isinstance(read, bool) and isinstance(read, int | float):
        raise UserError(f"{key}={str(value).lower()}: {_NO_NUMBER}")
    elif isinstance(read, bool) and not isinstance(value, bool):
        raise UserError(f"{key}={value}: input should be true or false")
    elif isinstance(value, str) and isinstance(read, int | float):
        raise UserError(f"{key}='{value}': input should be a number, and this is text")


def _sentence(error: ValidationError, prefix: str = "") -> str:
    """The first complaint of pydantic's, with the key in our spelling."""
    first, *others = error.errors()
    key = _key(first["loc"], prefix)
    if first["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
        return f"'{key}' is not a setting"
    if first["type"] in ("missing", "missing_argument"):
        return f"{key} is missing"
    complaints = [first["msg"]]
    # What else it could be, apart from what only code can make.
    complaints += [
        e["msg"] for e in others if _key(e["loc"], prefix) == key and "instance" not in e["type"]
    ]
    value = first.get("input")
    if first["type"] == "string_type" and isinstance(value, int | float):
        complaints.append(f"a file or folder of that name is ./{str(value).lower()}")
    if isinstance(value, bool):
        if "than" in first["type"]:  # it was taken for 0 or 1, and that was out of range
            complaints = [_NO_NUMBER]
        value = str(value).lower()
    return f"{key}={value}: " + "; or ".join(
        m[0].lower() + m[1:] for m in dict.fromkeys(complaints)
    )


_OF_TYPES = re.compile(
    r"(function|literal|constrained|nullable|is-instance|bool$|int$|float$|str$|(list|tuple|union)\[)"
)


def _key(steps: tuple[int | str, ...], prefix: str) -> str:
    """Where a complaint is about, without what pydantic says of the types that it tried."""
    key = prefix
    for step in steps:
        if isinstance(step, int):
            key += f"[{step}]"
        elif not _OF_TYPES.match(step):
            key += f".{step}" if key else step
    return key


def _check_optimizer(path: str, options: Mapping[str, Any]) -> None:
    """Ranges of what optimizers take, which their signatures do not say."""
    for name, kind in settings.OPTIMIZER.items():
        if name in options:
            _read(TypeAdapter(kind), options[name], f"{path}.{name}")


def _check_stages(train: settings.Train) -> None:
    trainer = train.trainer
    if trainer.lr_scaling != "constant" and trainer.base_batch_size is None:
        raise UserError(
            f"trainer.base_batch_size is missing: trainer.lr_scaling={trainer.lr_scaling} needs "
            "the batch size that the learning rates are meant for"
        )
    share = trainer.accumulate_steps * train.runtime.devices
    if isinstance(trainer.batch_size, int) and trainer.batch_size % share:
        raise UserError(
            f"trainer.batch_size={trainer.batch_size} does not divide by "
            f"trainer.accumulate_steps={trainer.accumulate_steps} × "
            f"runtime.devices={train.runtime.devices}"
        )
    for name in train.schedule:
        if name not in train.stages:
            raise UserError(
                f"schedule names the stage '{name}', which is not there; "
                f"choose one of {', '.join(train.stages)}"
            )
    if len(set(train.schedule)) != len(train.schedule):
        raise UserError("schedule names a stage twice; give the second a name of its own")
    for name in train.schedule:
        stage = train.stages[name]
        if (stage.steps is None) == (stage.epochs is None):
            raise UserError(f"stages.{name} needs either steps or epochs, not both or neither")
        models = {"backbone", *stage.models}
        for title, objective in stage.objectives.items():
            place = f"stages.{name}.objectives.{title}"
            if objective.model not in models:
                raise UserError(
                    f"{place}.model={objective.model} is not there; choose one of {sorted(models)}"
                )
            for term, node in objective.losses.items():
                if "_target_" not in node:
                    raise UserError(f"{place}.losses.{term} is no loss: it has no _target_")
            if not any(objective.weights.values()):
                raise UserError(f"{place}.losses: every loss has the weight 0")
            target = {"_target_": objective.optimizer.get("_target_"), "_partial_": True}
            _check_optimizer(f"{place}.optimizer", objective.optimizer)
            for prefix, options in objective.param_groups.items():
                check_part(f"{place}.param_groups.{prefix}", {**target, **options})
                _check_optimizer(f"{place}.param_groups.{prefix}", options)
            if objective.lr_schedule.name == "step" and objective.lr_schedule.step_size is None:
                raise UserError(
                    f"{place}.lr_schedule.step_size is missing: steps between two decays"
                )
