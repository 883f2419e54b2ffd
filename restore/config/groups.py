"""The groups of `conf/`, which are the registry: a stem of a yaml is the name of a part."""

import difflib
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import files

import hydra
from hydra.core.global_hydra import GlobalHydra

MODULE = "restore.conf"


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


def unknown(key: str, choices: list[str]) -> str:
    """The sentence for a key or name that is not there."""
    name = key.rpartition(".")[2]
    near = difflib.get_close_matches(name, choices, n=1)
    hint = f"; did you mean '{near[0]}'?" if near else "."
    return f"'{key}' is not a setting{hint} There are: {', '.join(sorted(choices))}"


@contextmanager
def composing() -> Iterator[None]:
    """Hydra initialised for our tree, also inside a job of Hydra's own, which comes back after."""
    instance = GlobalHydra.instance()
    kept = instance.hydra
    instance.clear()
    try:
        with hydra.initialize_config_module(MODULE, version_base="1.3"):
            yield
    finally:
        instance.hydra = kept
