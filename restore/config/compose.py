"""Composition of a command's configuration from the yaml files of `conf/`."""

import os
import re
from collections.abc import Mapping
from contextlib import suppress
from copy import deepcopy
from dataclasses import fields
from functools import lru_cache
from typing import Any

import hydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from restore.config import comments, settings
from restore.config.explain import explain
from restore.config.groups import changes, composing, conf, names, unknown
from restore.errors import UserError
from restore.utils.foreign import at_home

# Mappings whose names are the user's own: they need no plus sign, as Hydra otherwise asks for.
_OPEN = {"compare": ("methods.", "truths.")}

# Where weights are given, a short name of a setting, which is a group's where networks are chosen.
_SHORT = {"extractor=": "pretrained.contrastive="}


def compose(command: str, overrides: list[str], with_hydra: bool = False) -> DictConfig:
    """The configuration of a command with Hydra overrides, as a Python caller gets it.

    Hydra's own settings (launcher, sweeper) are in it `with_hydra`.

    Raises UserError for an override that does not fit.
    """
    words = tuple(opened(command, overrides))
    try:
        if any("hydra.searchpath" in word for word in words):  # yamls that `changes` knows not
            config = _composed.__wrapped__(command, words)
        else:
            config = deepcopy(_composed(command, words, os.getcwd(), changes()))
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(explain(error, command, overrides)) from error
    refuse_unknown(command, config, config.hydra.runtime.choices)
    if not with_hydra:
        with open_dict(config):
            del config["hydra"]
    return config


@lru_cache(maxsize=32)
def _composed(command: str, words: tuple[str, ...], *_: object) -> DictConfig:
    """What Hydra composes, kept: it takes a fifth of a second, and callers ask for the same again.

    Args:
        command: the yaml to begin with.
        words: overrides.
        _: what else the configuration depends on: the working folder, the state of the yamls.
    """
    with composing() as own:
        return hydra.compose(command, [*own, *words], return_hydra_config=True)


def refuse_unknown(command: str, config: DictConfig, choices: Mapping[str, Any]) -> None:
    """Raises UserError where a training has a setting that is neither ours nor a composed group.

    What is added by a file (`trainr:` in an experiment) or with a plus sign gets past Hydra.

    Args:
        command: the other commands' settings are all in their classes, which refuse the rest.
        config: composed.
        choices: Hydra's: what was chosen of each group, by `group` or `group@package`.
    """
    if command != "train":
        return
    groups = {re.split("[./]", name.rpartition("@")[2])[0] for name in choices}  # and `hydra`
    known = groups | {field.name for field in fields(settings.Train)}
    for key in map(str, config):
        if key not in known:
            raise UserError(unknown(key, sorted(known - {"hydra"})))


def opened(command: str, overrides: list[str]) -> list[str]:
    """The overrides, with Hydra's sign for adding where a command lets users add names."""
    ours: tuple[str, ...] = _OPEN.get(command, ())
    if any(override.startswith("resume=") for override in overrides):
        ours += ("data.",)  # of the run's own data, which need not be what is composed
    overrides = _without_nulls(command, overrides)
    for override in overrides:
        _check_word(override)
    if command in ("apply", "evaluate"):
        for short, setting in _SHORT.items():
            overrides = [
                f"{setting}{word.removeprefix(short)}" if word.startswith(short) else word
                for word in overrides
            ]
    return [f"++{override}" if override.startswith(ours) else override for override in overrides]


def _without_nulls(command: str, overrides: list[str]) -> list[str]:
    """The overrides without `group=null`, of groups from which nothing is chosen by default.

    Hydra takes null for no choice. Whatever was said of the group before is left out too.
    """
    text = conf().joinpath(f"{command}.yaml").read_text(encoding="utf-8")
    optional = {group.key for group in comments.groups(text) if group.default == "null"}
    kept: list[str] = []
    for override in overrides:
        group, _, value = override.partition("=")
        if value == "null" and group in optional:
            kept = [other for other in kept if other.partition("=")[0] != group]
        else:
            kept.append(override)
    return kept


def _check_word(override: str) -> None:
    """Raises UserError for an override that Hydra would fail over, or take for something else."""
    if override.startswith("-"):
        return
    key, given, value = override.partition("=")
    name = key.lstrip("+~")
    if given and not name:
        raise UserError(f"'{override}' names no setting: give key=value")
    if given and value in ("", "''", '""') and not key.startswith("~"):
        raise UserError(f"{name} is given without a value; give {name}=null for none")
    group = name.partition("@")[0]
    if given and names(group) and not key.startswith("~"):
        with suppress(HydraException):
            chosen = OverridesParser.create().parse_override(override)
            if not chosen.is_sweep_override() and not isinstance(chosen.value(), str | list | dict):
                raise UserError(
                    f"{name}={value}: no such choice; choose one of {', '.join(names(group))}"
                )


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
    return {str(key): _at_home(value) for key, value in container.items()}


def _at_home(node: Any) -> Any:
    """The node with `~/…` as the user's own folder, which shells leave alone behind a key."""
    if isinstance(node, dict):
        return {key: _at_home(value) for key, value in node.items()}
    if isinstance(node, list):
        return [_at_home(value) for value in node]
    return at_home(node) if isinstance(node, str) else node
