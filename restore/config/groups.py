"""The groups of `conf/`, which are the registry: a stem of a yaml is the name of a part."""

import difflib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable
from importlib.util import find_spec
from pathlib import Path

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.utils import JobRuntime
from hydra.version import VersionBase

from restore.errors import UserError

MODULE = "restore.conf"


@cache
def conf() -> Traversable:
    """The folder of the configuration.

    Raises UserError where it, the tasks or the data sets are not those of this copy of restore: in
    a checkout without links they would be looked for in another one that is installed.
    """
    package = Path(__file__).resolve().parents[1]
    for part in ("conf", "tasks", "datasets"):
        spec = find_spec(f"restore.{part}")
        places = list(spec.submodule_search_locations or []) if spec else []
        if not {Path(place).resolve() for place in places} & {
            (package / part).resolve(),
            package.parent / part,
        }:
            raise UserError(
                f"{package / part} is not the link to {package.parent / part} that it should be: "
                "git config core.symlinks true and check out anew, or install this copy by pip"
            )
    return files(MODULE)


def names(group: str) -> list[str]:
    """The choices of a group: the stems of its yaml files, sorted."""
    folder = conf().joinpath(*group.split("/"))
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
    conf()
    job, base = JobRuntime.instance(), VersionBase.instance()
    kept = GlobalHydra.instance().hydra, job.conf.copy(), base.version_base
    GlobalHydra.instance().clear()
    try:
        with hydra.initialize_config_module(MODULE, version_base="1.3"):
            yield
    finally:
        # Hydra puts another instance in place of the one from before.
        GlobalHydra.instance().hydra, job.conf, base.version_base = kept
