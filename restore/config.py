"""Composition and checking of configurations, and words for what is wrong with them.

Everything a user can mistype is found here, before any work: keys and choices by Hydra, types
and ranges by the classes in `restore.settings`, the arguments of parts by their own signatures.
"""

import difflib
import importlib
import inspect
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import is_dataclass
from importlib.resources import files
from typing import Any, TypeVar, get_type_hints

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import ConfigDict, PydanticUserError, TypeAdapter, ValidationError, with_config
from pydantic_core import SchemaError

from restore import settings
from restore.errors import UserError

MODULE = "restore.conf"
_ANY_CLASS = ConfigDict(arbitrary_types_allowed=True)
Settings = TypeVar("Settings")
Read = TypeVar("Read")
# Mappings whose names are the user's own: they need no plus sign, as Hydra otherwise asks for.
_OPEN = {"compare": ("methods.", "truths.")}


def compose(command: str, overrides: list[str], with_hydra: bool = False) -> DictConfig:
    """The configuration of a command with Hydra overrides, as a Python caller gets it.

    Hydra's own settings (launcher, sweeper) are in it `with_hydra`.

    Raises UserError for an override that does not fit.
    """
    try:
        with _composing():
            return hydra.compose(command, opened(command, overrides), with_hydra)
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(explain(error, command, overrides)) from error


def opened(command: str, overrides: list[str]) -> list[str]:
    """The overrides, with Hydra's sign for adding where a command lets users add names."""
    ours = _OPEN.get(command, ())
    return [f"++{override}" if override.startswith(ours) else override for override in overrides]


@contextmanager
def _composing() -> Iterator[None]:
    """Hydra initialised for our tree, also inside a job of Hydra's own, which comes back after."""
    instance = GlobalHydra.instance()
    kept = instance.hydra
    instance.clear()
    try:
        with hydra.initialize_config_module(MODULE, version_base="1.3"):
            yield
    finally:
        instance.hydra = kept


def plain(config: DictConfig) -> dict[str, Any]:
    """The configuration with every reference resolved, as ordinary dicts and lists."""
    try:
        container = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        key = getattr(error, "full_key", None) or "?"
        if "Missing mandatory value" in str(error):
            raise UserError(f"{key} has no value: give {key}=…") from error
        raise UserError(f"{key}: {str(error).splitlines()[0]}") from error
    assert isinstance(container, dict)
    return {str(key): value for key, value in container.items()}


def check(config: Mapping[str, Any], schema: type[Settings]) -> Settings:
    """The configuration as a typed object, once everything in it has been found to be allowed.

    Args:
        config: as `plain` returns it.
        schema: a class of `restore.settings` (or alike).

    Raises:
        UserError: names the key, what is wrong with it and what is allowed.
    """
    for path, node in sorted(parts(config), key=_origin_first):
        check_part(path, node)
    checked = _read(_adapter(schema), dict(config), "")
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
    target = locate(str(node["_target_"]), path)
    signature = inspect.signature(target)
    function = target.__init__ if inspect.isclass(target) else target
    try:
        hints = get_type_hints(function, include_extras=True)
    except (NameError, TypeError):
        hints = {}  # a class of a C library has none; then only the names are checked
    arguments = {key: value for key, value in node.items() if not str(key).startswith("_")}
    known = signature.parameters
    anything = any(p.kind is p.VAR_KEYWORD for p in known.values())
    for name, value in arguments.items():
        if name not in known and not anything:
            raise UserError(unknown(f"{path}.{name}", list(known)))
        if name in hints and not _holds_part(value):
            try:
                adapter = TypeAdapter(hints[name], config=_ANY_CLASS)
            except (PydanticUserError, SchemaError):
                continue  # a type that only code can make
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


def unknown(key: str, choices: list[str]) -> str:
    """The sentence for a key or name that is not there."""
    name = key.rpartition(".")[2]
    near = difflib.get_close_matches(name, choices, n=1)
    hint = f"; did you mean '{near[0]}'?" if near else "."
    return f"'{key}' is not a setting{hint} There are: {', '.join(sorted(choices))}"


def explain(error: Exception, command: str, overrides: list[str]) -> str:
    """What Hydra or OmegaConf refused, as one sentence for a user."""
    told: list[str] = []
    cause: BaseException | None = error
    while cause is not None:
        told.append(str(cause))
        cause = cause.__cause__
    text = "\n".join(told)
    if found := re.search(r"Could not find '([^']+/[^']+)'", text):
        return _no_choice(found[1], overrides, text)
    if found := re.search(r"Could not override '([^']+)'\.\s*No match in the defaults", text):
        group = found[1].partition("@")[0]
        if names(group):
            return (
                f"'{group}' cannot be chosen here: nothing in this configuration takes it "
                f"(a backbone without {group}, or another command)"
            )
        return _unknown_key(group, command, overrides)
    if found := re.search(r"Could not override '([^']+)'", text):
        key = found[1]
        if "is not in struct" in text or "not in" in text:
            return _unknown_key(key, command, overrides)
        return f"{key}: {text.splitlines()[-1].strip()}"
    first = next((line.strip() for line in text.splitlines() if line.strip()), repr(error))
    return first


def _unknown_key(key: str, command: str, overrides: list[str]) -> str:
    """Finds the deepest part of `key` that exists and lists what stands there."""
    # What stands there depends on which parts are chosen; single values do not matter.
    chosen = [o for o in overrides if names(o.partition("=")[0].partition("@")[0].lstrip("+~"))]
    try:
        with _composing():
            node: Any = hydra.compose(command, chosen)
    except (HydraException, OmegaConfBaseException):
        return f"'{key}' is not a setting of {command}"
    *path, name = key.split(".")
    walked: list[str] = []
    for step in path:
        if not isinstance(node, DictConfig) or step not in node:
            if choices := names("/".join([*walked, step])):
                return f"{key} needs a {step} to change: give {step}=… too, of {', '.join(choices)}"
            return unknown(".".join([*walked, step]), _keys(node))
        node = node._get_node(step)
        if node is not None and OmegaConf.is_interpolation(node):
            break
        walked.append(step)
    return unknown(".".join([*walked, name]), _keys(node))


def _keys(node: Any) -> list[str]:
    keys = list(map(str, node)) if isinstance(node, DictConfig) else []
    return [key for key in keys if not key.startswith("_")]


def _no_choice(path: str, overrides: list[str], told: str) -> str:
    """The sentence for a choice that is not there.

    Args:
        path: group and choice, both of which may be folders deep (`experiment/asdn/paper`).
        overrides: what was asked for; a group that is named there is told from the choice by it.
        told: what Hydra says, which knows its own groups and those of a user's folder.
    """
    keys = (re.split("[@=]", override.lstrip("+~"))[0] for override in overrides)
    groups = [key for key in keys if path.startswith(f"{key}/")]
    group = max(groups, key=len, default=path.partition("/")[0])
    choice = path.removeprefix(f"{group}/")
    known = names(group)
    if listed := re.search(r"Available options in '([^']+)':((?:\n\t\S+)+)", told):
        within = f"{listed[1]}/".removeprefix(f"{group}/")
        known = sorted({*known, *(f"{within}{name}" for name in listed[2].split())})
    if not known:
        return f"{group}={choice}: there is no group '{group}'"
    near = difflib.get_close_matches(choice, known, n=1)
    hint = f"; did you mean '{near[0]}'?" if near else ""
    return f"{group}={choice}: no such choice; choose one of {', '.join(known)}{hint}"


def names(group: str) -> list[str]:
    """The choices of a group: the stems of its yaml files, sorted."""
    folder = files(MODULE).joinpath(*group.split("/"))
    if not folder.is_dir():
        return []
    found = []
    for entry in folder.iterdir():
        if entry.is_dir() and not entry.name.startswith("_"):
            found += [f"{entry.name}/{name}" for name in names(f"{group}/{entry.name}")]
        elif entry.name.endswith(".yaml"):
            found.append(entry.name.removesuffix(".yaml"))
    return sorted(found)


def _holds_part(value: Any) -> bool:
    return next(parts(value), None) is not None


def _adapter(schema: type[Settings]) -> TypeAdapter[Settings]:
    assert is_dataclass(schema)
    for member in vars(settings).values():
        if inspect.isclass(member) and is_dataclass(member):
            with_config(settings.STRICT)(member)
    with_config(settings.STRICT)(schema)
    return TypeAdapter(schema)


def _read(adapter: TypeAdapter[Read], value: Any, path: str) -> Read:
    """The value as its type has it; UserError for one that is not of that type.

    pydantic's strict mode would refuse lists for tuples, text for paths and dictionaries for
    settings, which is all that YAML has; its other mode takes `true` for 1 and "3" for 3.
    """
    try:
        read = adapter.validate_python(value)
    except ValidationError as error:
        raise UserError(_sentence(error, path)) from error
    _refuse_converted(value, read, path)
    return read


_NO_NUMBER = "input should be a number, not true or false"


def _refuse_converted(value: Any, read: Any, key: str) -> None:
    """Raises UserError where a truth value, a number or a text was read as another of these."""
    if isinstance(value, Mapping):
        for name, inner in value.items():
            found = read.get(name) if isinstance(read, Mapping) else getattr(read, str(name), None)
            _refuse_converted(inner, found, f"{key}.{name}" if key else str(name))
    elif isinstance(value, list | tuple) and isinstance(read, list | tuple):
        for place, (inner, found) in enumerate(zip(value, read)):
            _refuse_converted(inner, found, f"{key}[{place}]")
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
    told = [first["msg"]]
    # What else it could be, apart from what only code can make.
    told += [
        e["msg"] for e in others if _key(e["loc"], prefix) == key and "instance" not in e["type"]
    ]
    value = first.get("input")
    if isinstance(value, bool):
        if "than" in first["type"]:  # it was taken for 0 or 1, and that was out of range
            told = [_NO_NUMBER]
        value = str(value).lower()
    return f"{key}={value}: " + "; or ".join(m[0].lower() + m[1:] for m in dict.fromkeys(told))


_OF_TYPES = re.compile(
    r"(function|literal|constrained|nullable|is-instance|int$|float$|str$|(list|tuple|union)\[)"
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


def _check_stages(train: settings.Train) -> None:
    trainer = train.trainer
    if trainer.rate_rule != "constant" and trainer.base_batch is None:
        raise UserError(
            f"trainer.base_batch is missing: trainer.rate_rule={trainer.rate_rule} needs the batch "
            "size that the learning rates are meant for"
        )
    for name in train.schedule:
        if name not in train.stages:
            raise UserError(
                f"schedule names the stage '{name}', which is not there; "
                f"choose of {', '.join(train.stages)}"
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
                    f"{place}.model={objective.model} is not there; choose of {sorted(models)}"
                )
            if odd := set(objective.weights) ^ set(objective.losses):
                raise UserError(
                    f"{place}: losses and weights must name the same terms; "
                    f"only one of them has {', '.join(sorted(odd))}"
                )
            target = {"_target_": objective.optimizer.get("_target_"), "_partial_": True}
            for prefix, options in objective.groups.items():
                check_part(f"{place}.groups.{prefix}", {**target, **options})
            if objective.decay.shape == "step" and objective.decay.every is None:
                raise UserError(f"{place}.decay.every is missing: steps between two decays")
