"""A command line through Hydra: its configuration composed, once a job, and the jobs run."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path
from typing import TypeVar

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from restore.commands import words
from restore.config import (
    MODULE,
    NotText,
    conf,
    explain,
    opened,
    plain,
    refuse_unknown,
    stored,
)
from restore.config.groups import own_folders, searching
from restore.errors import FAILURE, MISTAKE, RunFailure, UserError
from restore.tools.sweep import sweeps
from restore.utils.signals import INTERRUPTED

# Commands that take words without a key, and the key of the list that these make.
_LISTED = {"report": "folders", "dashboard": "folders"}

Job = Callable[[DictConfig], float | None]
Result = TypeVar("Result")


def overrides_of(command: str, typed: list[str]) -> list[str]:
    """What was typed behind a command, as Hydra reads it.

    Raises UserError for a word that is no override, with the form that was probably meant.
    """
    conf()  # before Hydra looks for it
    if command in _LISTED:
        typed = words.gathered(typed, _LISTED[command])
    words.check(command, typed)
    overrides = opened(command, [words.literal(word) for word in typed])
    return words.as_text(overrides, "folder")  # Hydra makes folders of that name itself


def run(command: str, typed: list[str]) -> int:
    """Runs a command with what was typed behind it; returns the exit code."""

    def once(overrides: list[str]) -> int:
        if sweeps.several(overrides):
            sweeps.refuse_empty(overrides)
        if command == "train" and sweeps.several(overrides):
            return _sweep(overrides)
        return _single(command, overrides)

    return with_texts(overrides_of(command, typed), once)


def with_texts(overrides: list[str], once: Callable[[list[str]], Result]) -> Result:
    """What is made of the overrides, of which numbers may have to be texts: `folder=2024`."""
    while True:
        try:
            return once(overrides)
        except NotText as error:
            texts = words.as_text(overrides, error.key, error.value)
            if texts == overrides:
                raise
            overrides = texts


def _single(command: str, overrides: list[str]) -> int:
    """One job, or (`-m` with commands other than train) Hydra's plain series of them."""
    codes: list[int] = []
    errors: list[UserError | RunFailure] = []
    sweep: set[str] = set()

    def job(config: DictConfig) -> None:
        about = HydraConfig.get()
        if about.mode == RunMode.MULTIRUN:
            config.folder = about.runtime.output_dir  # one folder a job, inside `folder`
            sweep.add(about.sweep.dir)
        try:
            refuse_unknown(command, config, about.runtime.choices)
            sweeps.refuse_alone(about.runtime.choices)
            work = import_module(f"restore.commands.{command}").main  # when all else is right
            codes.append(work(plain(config), list(about.overrides.task)))
        except (UserError, RunFailure) as error:
            # Kept from Hydra, which would print it in its own way and end a sweep's other jobs.
            errors.append(error)
            folder = about.runtime.output_dir
            with suppress(OSError):  # Hydra made the folder; if nothing came into it, it goes
                if not os.path.samefile(folder, os.curdir):
                    os.rmdir(folder)

    begun = set(os.listdir())
    refused = _through_hydra(command, overrides, job)
    if errors:
        if not codes:
            _take_back(sweep, begun)
        raise UserError(str(errors[0])) if codes and isinstance(errors[0], NotText) else errors[0]
    return max([refused, *codes])


def _take_back(sweep: set[str], begun: set[str]) -> None:
    """Removes what Hydra has made for jobs none of which could begin.

    Args:
        sweep: the folder of the series, if it is one.
        begun: what lay in the working folder before.
    """
    for name in sweep:
        folder = Path(name)
        with suppress(OSError):
            if os.listdir(folder) == ["multirun.yaml"]:
                (folder / "multirun.yaml").unlink()
                folder.rmdir()
            for place in folder.parents:
                if not place.is_absolute() and place.parts and place.parts[0] not in begun:
                    place.rmdir()


def _sweep(overrides: list[str]) -> int:
    """Trains each job of a sweep in a process of its own; the sweep's table at the end."""
    from restore.commands import multirun  # it imports all that a training needs

    sweep = sweeps.prepare(overrides)
    print(sweeps.announce(sweep), flush=True)
    main = os.getpid()

    def job(config: DictConfig) -> float | None:
        about = HydraConfig.get()
        task = list(about.overrides.task)
        code = multirun.run(plain(config), task, sweep, about, main)
        if code == INTERRUPTED and os.getpid() == main:
            raise KeyboardInterrupt  # ends the sweep, which Hydra would go on with
        return multirun.best(plain(config), task, sweep)

    code, some_failed = 0, False
    try:
        for grid in sweep.grids:
            if code := _through_hydra("train", grid, job):
                break
    except ValueError as error:  # Optuna's, when it looks for the best of none
        if not str(error).startswith("No trials are completed"):
            raise
    finally:
        table, some_failed = sweeps.conclude(sweep)
        print(table, flush=True)
        if sys.exc_info()[0] is KeyboardInterrupt:
            print("stopped; the same command goes on with it", flush=True)
    return max(code, FAILURE * some_failed)


def _through_hydra(command: str, overrides: list[str], job: Job) -> int:
    """Has Hydra compose and run; returns 0, or the code with which it refused an option.

    Raises UserError for what cannot be composed, and for a folder that cannot be made.
    """
    begun: list[bool] = []

    def begin(config: DictConfig) -> float | None:
        begun.append(True)
        with stored.trusting(OmegaConf.to_container(config), _searched()):
            return job(config)

    decorated = hydra.main(version_base="1.3", config_path=f"pkg://{MODULE}", config_name=command)
    try:
        with _hydra_process(command, overrides):
            decorated(begin)()
    except (HydraException, OmegaConfBaseException) as error:
        folders, settings = own_folders(overrides)
        with searching(*folders):
            raise UserError(explain(error, command, settings)) from error
    except ValueError as error:
        if begun:
            raise
        raise UserError(" ".join(str(error).split())) from error  # of what was typed
    except OSError as error:
        if begun:
            raise
        raise UserError(f"cannot make the folder {error.filename}: {error.strerror}") from error
    except SystemExit as error:  # argparse, over an option that Hydra does not know
        return error.code if isinstance(error.code, int) else MISTAKE
    return 0


def _searched() -> list[str]:
    """The folders of yamls that the user gave."""
    sources = [f"{s.schema}://{s.path}" for s in HydraConfig.get().runtime.config_sources]
    return [source for source in sources if source.startswith(("file://", "pkg://"))]


@contextmanager
def _hydra_process(command: str, overrides: list[str]) -> Iterator[None]:
    """The command line where Hydra reads it, and errors left to us; all as it was afterwards."""
    arguments, full_error = sys.argv, os.environ.get("HYDRA_FULL_ERROR")
    sys.argv = [f"restore {command}", *overrides]
    os.environ["HYDRA_FULL_ERROR"] = "1"  # else Hydra prints errors itself and exits with 1
    try:
        yield
    finally:
        sys.argv = arguments
        if full_error is None:
            del os.environ["HYDRA_FULL_ERROR"]
        else:
            os.environ["HYDRA_FULL_ERROR"] = full_error
