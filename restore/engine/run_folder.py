"""The folder of a run: its configuration, what it ran on, and its log."""

import importlib.metadata
import logging
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import torch
import yaml

from restore.config import renames, stored
from restore.engine.status import locked
from restore.errors import Unwritable, UserError
from restore.utils import distributed, foreign
from restore.utils.files import make_folder as make
from restore.utils.files import to_json, to_yaml, write_text

log = logging.getLogger("restore")


# Lies in a folder until all that belongs there is written.
_UNFINISHED = ".unfinished"

# Settings by which the same work is done elsewhere or otherwise.
_ELSEWHERE = ("folder", "runtime", "loader", "wandb")


def make_folder(folder: Path, config: Mapping[str, Any]) -> None:
    """Creates a run folder with its configuration (`config.yaml`) and `environment.json`.

    Raises UserError when the folder holds a run already or cannot be made.
    """
    refuse_taken(folder, config)
    make(folder)
    write_text(folder / "environment.json", to_json(environment()))
    write_text(folder / "config.yaml", to_yaml(config))


# What lies in a folder beside results.
_BOOKS = {_UNFINISHED, "config.yaml", "environment.json", "log.txt"}


class _Before(NamedTuple):
    """What there was of a folder: the names in it, and the highest folder that was missing."""

    names: list[str]
    missing: str | None

    @classmethod
    def of(cls, folder: Path) -> "_Before":
        """As it is now."""
        missing = [str(path) for path in (folder, *folder.parents) if not path.exists()]
        return cls(_names(folder), missing[-1] if missing else None)


def _names(folder: Path) -> list[str]:
    return sorted(os.listdir(folder)) if folder.is_dir() else []


@contextmanager
def undoing(folder: Path, before: _Before | None = None) -> Iterator[Callable[[], None]]:
    """Leaves nothing behind of what comes into a folder, where that ends with a mistake.

    So the corrected command can be typed. Once there is a checkpoint, all stays; and so do results
    where it ends for another reason.

    Args:
        folder: need not be there yet.
        before: what there was before; None: what there is now.

    Gives what does the same for a mistake that another process has told.
    """
    before = before or _Before.of(folder)

    def undo() -> None:
        if any(folder.glob("checkpoints/*.pt")):
            return
        with suppress(OSError):
            for path in (folder / name for name in _names(folder) if name not in before.names):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
            for path in (folder, *folder.parents):
                if before.missing is not None and path.is_relative_to(before.missing):
                    path.rmdir()

    try:
        yield undo
    except BaseException as error:
        if isinstance(error, UserError) or {*_names(folder)} <= {*before.names, *_BOOKS}:
            undo()
        raise


@contextmanager
def filling(folder: Path, config: Mapping[str, Any]) -> Iterator[Callable[[], None]]:
    """Makes a folder as `make_folder`, unfinished until `finish`, and this process's own.

    A mistake leaves nothing behind, see `undoing`, and this gives what that gives. After a kill the
    same command may be typed again. Raises UserError as `make_folder`, and where another process is
    filling it.
    """
    refuse_taken(folder, config)
    mark = folder / _UNFINISHED
    before = _Before.of(folder)
    with undoing(folder, before):
        if not unfinished(folder):
            make(folder)
            write_text(mark, to_json(before._asdict()))
    with locked(mark) as free:
        if not free:
            raise UserError(f"{folder} is being written by another process: wait for it, or end it")
        with suppress(UserError, KeyError):  # of one that was ended before
            stored = foreign.read_json(mark)
            before = _Before(stored["names"], stored["missing"])
        with undoing(folder, before) as undo:
            make_folder(folder, config)
            yield undo


def unfinished(folder: Path) -> bool:
    """Whether something was begun in a folder that did not come to its end."""
    return (folder / _UNFINISHED).exists()


def finish(folder: Path) -> None:
    """Says that all that belongs into a folder is there."""
    (folder / _UNFINISHED).unlink(missing_ok=True)


def refuse_taken(folder: Path, config: Mapping[str, Any]) -> None:
    """Raises UserError when the folder holds a run or an evaluation already, or cannot be made.

    One that was begun with the same configuration and did not end may be begun again.
    """
    place = folder.absolute()
    while not place.exists():
        place = place.parent
    if not place.is_dir() or not os.access(place, os.W_OK):
        raise Unwritable(f"cannot make the folder {folder}: nothing can be written to {place}")
    if not (folder / "config.yaml").exists():
        return
    before = look_at_config(folder)
    if "schedule" in before:
        raise UserError(
            f"{folder} holds a run already: name another folder, or resume that run: "
            f"restore train resume={folder}"
        )
    if not unfinished(folder):
        raise UserError(f"{folder} holds an evaluation already: name another folder, or remove it")
    if _work(before) != _work(renames.current(yaml.safe_load(to_yaml(config)))):
        raise UserError(
            f"{folder} holds an unfinished job with other settings: name another "
            "folder, or remove it"
        )


def _work(config: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in config.items() if name not in _ELSEWHERE}


def read_config(folder: Path) -> dict[str, Any]:
    """The configuration of a run folder, whose parts may be built.

    Raises UserError when there is none, or it names parts that are not known here.
    """
    return stored.stored(_config(folder), folder / "config.yaml")


def look_at_config(folder: Path) -> dict[str, Any]:
    """The configuration of a run folder, to be looked at; nothing that it names may be built.

    Raises UserError when there is none.
    """
    return renames.current(stored.data(_config(folder), folder / "config.yaml"))


def _config(folder: Path) -> dict[str, Any]:
    path = folder / "config.yaml"
    if not path.exists():
        raise UserError(f"{folder} is not a run folder: there is no {path}")
    return foreign.read_yaml(path)


def environment() -> dict[str, Any]:
    """Machine, versions of what matters, and the project's commit where it is a checkout."""
    packages = ["restore", "torch", "torchvision", "hydra-core", "timm", "lpips", "torchmetrics"]
    packages += ["scikit-image", "pillow", "numpy", "wandb"]
    root = Path(__file__).resolve().parents[2]
    git = ["git", "-C", str(root)]
    commit = changed = None
    if (root / ".git").exists():
        commit = _output([*git, "rev-parse", "HEAD"])
        changed = bool(_output([*git, "status", "--porcelain"]))
    return {
        "command": sys.argv,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "cuda": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        "packages": {name: importlib.metadata.version(name) for name in packages},
        "commit": commit,
        "changed": changed,
    }


def _output(command: list[str]) -> str | None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def log_to(folder: Path | None) -> None:
    """Sends the project's messages to the screen and to `log.txt`; only from the first process."""
    logger = logging.getLogger("restore")
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
        handler.close()
    logger.propagate = False
    if distributed.rank() != 0:
        logger.addHandler(logging.NullHandler())
        return
    logger.setLevel(logging.INFO)
    screen = _Screen()
    screen.setFormatter(logging.Formatter("%(message)s"))
    logger.addHandler(screen)
    if folder is not None:
        file = _LogFile(folder / "log.txt", encoding="utf-8", errors="backslashreplace")
        file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        logger.addHandler(file)


class _LogFile(logging.FileHandler):
    """A disk that is full costs lines of the log and nothing else."""

    def close(self) -> None:
        with suppress(OSError):
            super().close()

    def handleError(self, record: logging.LogRecord) -> None:
        if not isinstance(sys.exc_info()[1], OSError):
            super().handleError(record)


class _Screen(logging.Handler):
    """Prints above a progress bar rather than through it."""

    def emit(self, record: logging.LogRecord) -> None:
        from tqdm import tqdm

        # The output may go to a file, on a disk that is full.
        with suppress(OSError):
            tqdm.write(self.format(record), file=sys.stdout)
            sys.stdout.flush()


def variant(folder: Path) -> str:
    """What a run tries, whatever its seed: its sweep's parameters, or the folder's name."""
    path = folder / "job.json"
    if not path.exists():
        return folder.name
    with foreign.reading(path):
        parameters = dict(foreign.read_json(path)["parameters"])
    tried = {key: value for key, value in parameters.items() if key != "seed"}
    return ", ".join(f"{key}={value}" for key, value in tried.items()) or "all"
