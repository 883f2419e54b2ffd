"""The Python door to the parts: the groups of `conf/` are the registry.

>>> from restore.config import registry
>>> "hard" in registry.names("attention")
True
>>> registry.describe("protocol", "y")
"MATLAB's luma in float, border of scale pixels shaved (recent single-image papers)"
"""

import difflib
from collections.abc import Sequence
from functools import partial
from typing import Any

import yaml
from omegaconf import open_dict

from restore.config import check_part, compose, locate, names, parts, plain, settings
from restore.config.groups import groups, roots
from restore.errors import RunFailure, UserError

__all__ = ["build", "check_group", "describe", "groups", "instantiate", "names", "target", "text"]


def check_group(group: str) -> None:
    """Raises UserError when there is no such group."""
    if group not in groups():
        near = difflib.get_close_matches(group, groups(), n=1)
        hint = f"; did you mean '{near[0]}'?" if near else ""
        raise UserError(f"there is no group '{group}'; choose one of {', '.join(groups())}{hint}")


def describe(group: str, name: str) -> str:
    """The line that says what a part is: the first comment of its yaml."""
    lines = (text(group, name) or "").splitlines()
    comments = [line[1:].strip() for line in lines if line.startswith("#")]
    return next((line for line in comments if not line.startswith("@package")), "")


def text(group: str, name: str) -> str | None:
    """The yaml of a choice, which is ours where a user has one of the same name."""
    for root in roots():
        file = root.joinpath(*group.split("/"), *f"{name}.yaml".split("/"))
        if file.is_file():
            return file.read_text(encoding="utf-8")
    return None


def target(group: str, name: str) -> str | None:
    """The class that a choice's yaml names itself, read without composing; None where none."""
    node = yaml.safe_load(text(group, name) or "")
    return node.get("_target_") if isinstance(node, dict) else None


def build(group: str, name: str, *overrides: str, command: str = "train") -> Any:
    """The part `name` of `group` as an object, with Hydra overrides of the command's tree.

    Raises UserError for an unknown group or name, an override that does not fit, or a choice that
    is a set of settings rather than a part.
    """
    check_group(group)
    if name not in names(group):
        raise UserError(f"{group}={name}: no such choice; choose one of {', '.join(names(group))}")
    node = _chosen(command, group, name, overrides)
    if node is None:
        node = _added(command, group, name, overrides)
    if not isinstance(node, dict) or "_target_" not in node:
        raise UserError(f"{group}={name} is a set of settings, not a part that can be built")
    return instantiate(node, group)


def _chosen(command: str, group: str, name: str, overrides: Sequence[str]) -> Any:
    """The part's settings where the command has a place for one of its group; else None."""
    try:
        config = compose(command, [f"{group}={name}", *overrides], with_hydra=True)
    except UserError:
        return None
    if group not in config.hydra.runtime.choices:
        return None
    with open_dict(config):
        del config["hydra"]
    node = plain(config).get(group)
    return node if isinstance(node, dict) and "_target_" in node else None


def _added(command: str, group: str, name: str, overrides: Sequence[str]) -> Any:
    """The part's settings where its group's place is elsewhere, or the choice is refused."""
    # Whether it is there depends on the parts that are chosen; single values may be of this part.
    chosen = [o for o in overrides if names(o.partition("=")[0].lstrip("+"))]
    try:
        config = compose(command, chosen, with_hydra=True)
    except UserError:  # what else is chosen may go with this choice alone
        config = compose(command, [f"{group}={name}", *chosen], with_hydra=True)
    if group in config.hydra.runtime.choices:
        return plain(compose(command, [f"{group}={name}", *overrides])).get(group)
    if group in config:  # several at once, each under its own name
        return plain(compose(command, [f"{group}=[{name}]", *overrides]))[group][name]
    # A group with a place in each stage or network, and none of its own.
    config = compose(command, [f"+{group}@{group}.{name}={name}", *overrides])
    node = plain(config)[group][name]
    return settings.without_weight(node) if group == "loss" else node


def instantiate(node: dict[str, Any], path: str, **more: Any) -> Any:
    """The object that a node with a `_target_` describes, its arguments checked first.

    Arguments are taken as they stand: `${…}` in a text is text, as in the name of a file.

    Raises UserError for an argument that does not fit, or that the part itself refuses.
    """
    for inner_path, inner in parts(node, path):
        check_part(inner_path, {**inner, **more} if inner_path == path else inner)
    return _built({**node, **more}, path)


def _built(node: Any, path: str) -> Any:
    if isinstance(node, list):
        return [_built(value, f"{path}[{place}]") for place, value in enumerate(node)]
    if not isinstance(node, dict):
        return node
    arguments = {
        key: _built(value, f"{path}.{key}")
        for key, value in node.items()
        if key not in ("_target_", "_partial_")
    }
    if "_target_" not in node:
        return arguments
    call = partial(_call, locate(node["_target_"], path), path)
    return partial(call, **arguments) if node.get("_partial_") else call(**arguments)


def _call(target: Any, place: str, /, *arguments: Any, **named: Any) -> Any:
    try:
        return target(*arguments, **named)
    except (UserError, RunFailure, MemoryError):
        raise
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{place}: {target.__name__} refuses this: {reason}") from error
