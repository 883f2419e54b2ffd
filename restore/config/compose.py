"""Composition of a command's configuration from the yaml files of `conf/`."""

import re
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import hydra
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from restore.config import settings
from restore.config.explain import explain
from restore.config.groups import composing, unknown
from restore.errors import UserError

# Mappings whose names are the user's own: they need no plus sign, as Hydra otherwise asks for.
_OPEN = {"compare": ("methods.", "truths.")}


def compose(command: str, overrides: list[str], with_hydra: bool = False) -> DictConfig:
    """The configuration of a command with Hydra overrides, as a Python caller gets it.

    Hydra's own settings (launcher, sweeper) are in it `with_hydra`.

    Raises UserError for an override that does not fit.
    """
    try:
        with composing() as own:
            words = [*own, *opened(command, overrides)]
            config = hydra.compose(command, words, return_hydra_config=True)
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(explain(error, command, overrides)) from error
    refuse_unknown(command, config, config.hydra.runtime.choices)
    if not with_hydra:
        with open_dict(config):
            del config["hydra"]
    return config


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
    ours = _OPEN.get(command, ())
    return [f"++{override}" if override.startswith(ours) else override for override in overrides]


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
