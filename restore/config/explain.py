"""Words for what Hydra or OmegaConf refuse."""

import difflib
import re
from typing import Any

import hydra
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from restore.config.groups import composing, names, unknown
from restore.utils.nested import leaves


def explain(error: Exception, command: str, overrides: list[str]) -> str:
    """What Hydra or OmegaConf refused, as one sentence for a user."""
    messages: list[str] = []
    cause: BaseException | None = error
    while cause is not None:
        messages.append(str(cause))
        cause = cause.__cause__
    text = "\n".join(messages)
    if match := re.search(r"Could not (?:find|load) '([^']+/[^']+)'", text):
        return _no_choice(match[1], overrides, text)
    if match := re.search(r"Could not override '([^']+)'\.\s*(?:No match|Did you mean)", text):
        group = match[1].partition("@")[0]
        if names(group):
            if places := _places(group, command):
                return (
                    f"'{group}' has several places: choose it for one of them, "
                    f"{', '.join(f'{place}=…' for place in places)}"
                )
            return (
                f"'{group}' cannot be chosen here: nothing in this configuration takes it "
                f"(a backbone without {group}, or another command)"
            )
        return _unknown_key(group, command, overrides)
    if match := re.search(r"Could not override '([^']+)'", text):
        key = match[1]
        if "is not in struct" in text or "not in" in text:
            return _unknown_key(key, command, overrides)
        return f"{key}: {text.splitlines()[-1].strip()}"
    first = next((line.strip() for line in text.splitlines() if line.strip()), repr(error))
    return first


def _places(group: str, command: str) -> list[str]:
    """Where a group is chosen that has no place of its own name, as `group@place`."""
    with composing():
        about: Any = hydra.compose(command, return_hydra_config=True).hydra
    return sorted(key for key in about.runtime.choices if key.startswith(f"{group}@"))


def _unknown_key(key: str, command: str, overrides: list[str]) -> str:
    """Finds the deepest part of `key` that exists and lists what stands there."""
    # What stands there depends on which parts are chosen; single values do not matter.
    chosen = [o for o in overrides if names(o.partition("=")[0].partition("@")[0].lstrip("+~"))]
    try:
        with composing() as own:
            whole: Any = hydra.compose(command, [*own, *chosen])
    except (HydraException, OmegaConfBaseException):
        return f"'{key}' is not a setting of {command}"
    *path, name = key.split(".")
    elsewhere = [place for place in _leaf_keys(whole) if place.rpartition(".")[2] == name]
    node, walked = whole, list[str]()
    for step in path:
        if not isinstance(node, DictConfig) or step not in node:
            if choices := names("/".join([*walked, step])):
                return f"{key} needs a {step} to change: give {step}=… too, of {', '.join(choices)}"
            return unknown(".".join([*walked, step]), _keys(node), elsewhere)
        node = node._get_node(step)
        if node is not None and OmegaConf.is_interpolation(node):
            break
        walked.append(step)
    return unknown(".".join([*walked, name]), _keys(node), elsewhere)


def _leaf_keys(config: DictConfig) -> list[str]:
    """Every setting with its dotted key."""
    return [key for key, _ in leaves(OmegaConf.to_container(config, resolve=False))]


def _keys(node: Any) -> list[str]:
    keys = list(map(str, node)) if isinstance(node, DictConfig) else []
    return [key for key in keys if not key.startswith("_")]


def _no_choice(path: str, overrides: list[str], message: str) -> str:
    """The sentence for a choice that is not there.

    Args:
        path: group and choice, both of which may be folders deep (`experiment/asdn/paper`).
        overrides: what was asked for; a group that is named there is told from the choice by it.
        message: what Hydra says, which knows its own groups and those of a user's folder.
    """
    keys = (re.split("[@=]", override.lstrip("+~"))[0] for override in overrides)
    groups = [key for key in keys if path.startswith(f"{key}/")]
    group = max(groups, key=len, default=path.partition("/")[0])
    choice = path.removeprefix(f"{group}/")
    known = names(group)
    if listed := re.search(r"Available options in '([^']+)':((?:\n\t\S+)+)", message):
        within = f"{listed[1]}/".removeprefix(f"{group}/")
        known = sorted({*known, *(f"{within}{name}" for name in listed[2].split())})
    if not known:
        return f"{group}={choice}: there is no group '{group}'"
    near = difflib.get_close_matches(choice, known, n=1)
    hint = f"; did you mean '{near[0]}'?" if near else ""
    return f"{group}={choice}: no such choice; choose one of {', '.join(known)}{hint}"
