"""The groups of `conf/`, which are the registry: a stem of a yaml is the name of a part."""

import difflib
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
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
from restore.utils.foreign import at_home

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
                f"{package / part} should be a link to {package.parent / part}: run git "
                "config core.symlinks true and check out again, or install this copy "
                "with pip"
            )
    return files(MODULE)


def names(group: str) -> list[str]:
    """The choices of a group: the stems of its yaml files, sorted."""
    stems: set[str] = set()
    for root in roots():
        folder = root.joinpath(*group.split("/"))
        for entry in folder.iterdir() if folder.is_dir() else ():
            if entry.is_dir() and not entry.name.startswith("_"):
                stems |= {f"{entry.name}/{name}" for name in names(f"{group}/{entry.name}")}
            elif entry.name.endswith(".yaml"):
                stems.add(entry.name.removesuffix(".yaml"))
    return sorted(stems)


def groups() -> list[str]:
    """The names of all groups."""
    return sorted(
        {
            entry.name
            for root in roots()
            for entry in root.iterdir()
            if entry.is_dir() and not entry.name.startswith(("_", "."))
        }
    )


def roots() -> list[Traversable]:
    """Where groups lie: our tree, and the user's own (`--config-dir`)."""
    return [conf(), *_own_roots()]


def changes() -> tuple[tuple[str, int], ...]:
    """The yamls there are, and when each was last changed, in nanoseconds."""
    times: list[tuple[str, int]] = []
    for root in roots():
        for place, _, entries in os.walk(str(root)):
            paths = [os.path.join(place, name) for name in entries if name.endswith(".yaml")]
            times += [(path, os.stat(path).st_mtime_ns) for path in paths]
    return tuple(times)


def own_folders(words: Sequence[str]) -> tuple[list[Path], list[str]]:
    """The folders that a command line gives with `--config-dir DIR`, and its other words.

    Raises UserError when there is no such folder.
    """
    folders, rest = [], []
    left = iter(words)
    for word in left:
        option, given, value = word.partition("=")
        if option in ("--config-dir", "-cd"):
            folders.append(_folder(value if given else next(left, ""), option))
        else:
            rest.append(word)
    return folders, rest


def _folder(path: str | Path, option: str) -> Path:
    folder = Path(at_home(str(path)))
    if not str(path) or not folder.is_dir():
        raise UserError(f"{option} {path}: there is no such folder")
    return folder.resolve()


_SEARCHED: ContextVar[tuple[Path, ...]] = ContextVar("folders of yamls of the user's", default=())


@contextmanager
def searching(*folders: str | Path) -> Iterator[None]:
    """While it lasts, groups and choices of the user's own folders are there too.

    Raises UserError when there is no such folder.
    """
    every = (*_SEARCHED.get(), *(_folder(folder, "config_dir") for folder in folders))
    before = _SEARCHED.set(every)
    try:
        yield
    finally:
        _SEARCHED.reset(before)


def _own_roots() -> list[Path]:
    """The user's own folders, each once."""
    return list(dict.fromkeys([*_SEARCHED.get(), *_of_this_job()]))


def _of_this_job() -> list[Path]:
    """Those that a command line of ours was given, which Hydra knows."""
    instance = GlobalHydra.instance()
    if not instance.is_initialized():
        return []
    entries = instance.config_loader().get_search_path().get_path()
    if all(entry.path != f"pkg://{MODULE}" for entry in entries):
        return []  # another program's job
    own = [entry.path for entry in entries if entry.provider == "command-line"]
    return [Path(path.removeprefix("file://")) for path in own]


def unknown(key: str, choices: list[str], elsewhere: Sequence[str] = ()) -> str:
    """The sentence for a key or name that is not there.

    Args:
        key: dotted.
        choices: what there is in its place.
        elsewhere: dotted keys of other places that end in the same name.
    """
    name = key.rpartition(".")[2]
    near = difflib.get_close_matches(name, choices, n=1) or elsewhere[:1]
    hint = f"; did you mean '{near[0]}'?" if near else "."
    return f"'{key}' is not a setting{hint} There are: {', '.join(sorted(choices))}"


@contextmanager
def composing() -> Iterator[list[str]]:
    """Hydra initialised for our tree; what another program or job had of Hydra comes back after.

    Yields overrides that bring in the folder of the user's that a job of ours was given.
    """
    conf()
    own = [f"'file://{path}'" for path in _own_roots()]
    job, base = JobRuntime.instance(), VersionBase.instance()
    kept = GlobalHydra.instance().hydra, job.conf.copy(), base.version_base
    GlobalHydra.instance().clear()
    try:
        with hydra.initialize_config_module(MODULE, version_base="1.3"):
            yield [f"hydra.searchpath=[{','.join(own)}]"] if own else []
    finally:
        # Hydra puts another instance in place of the one from before.
        GlobalHydra.instance().hydra, job.conf, base.version_base = kept
