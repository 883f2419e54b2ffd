"""The groups of `conf/`, which are the registry: a stem of a yaml is the name of a part."""

import difflib
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import files

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.utils import JobRuntime
from hydra.version import VersionBase

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
    """Hydra initialised for our tree; what another program or job had of Hydra comes back after."""
    job, base = JobRuntime.instance(), VersionBase.instance()
    kept = GlobalHydra.instance().hydra, job.conf.copy(), base.version_base
    GlobalHydra.instance().clear()
    try:
        with hydra.initialize_config_module(MODULE, version_base="1.3"):
            yield
    finally:
        # Hydra puts another instance in place of the one from before.
        GlobalHydra.instance().hydra, job.conf, base.version_base = kept
