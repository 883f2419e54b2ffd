"""`status.json`: how far a run is, readable at any moment, and the lock of whoever works on it."""

import fcntl
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from restore.errors import RunFailure, UserError
from restore.utils.files import optional, to_json, write_text
from restore.utils.foreign import read_json

WAITING, SEARCHING, RUNNING, FINISHED = "waiting", "searching", "running", "finished"
INTERRUPTED, FAILED = "interrupted", "failed"
AT_WORK = (SEARCHING, RUNNING)  # while a process holds the folder
_NAME = "status.json"
_PAUSE = 2.0  # seconds between two writings while steps go by


def read(folder: Path) -> dict[str, Any]:
    """What stands in the folder's `status.json`; nothing when there is none or it is damaged."""
    try:
        return read_json(folder / _NAME)
    except UserError:
        return {}


def tell(folder: Path, **values: Any) -> None:
    """Changes some values, keeps the others; the file is written whole or not at all.

    A disk that refuses is said once; the file is then behind until the next writing that succeeds.
    """
    where = {"pid": os.getpid(), "host": socket.gethostname(), "updated": time.time()}
    with optional(f"{folder / _NAME} is not up to date"):
        write_text(folder / _NAME, to_json({**read(folder), **where, **values}))


def fail(folder: Path, reason: str) -> None:
    """Notes why a run ended; of several reasons the first stays, the others follow from it."""
    if read(folder).get("state") != FAILED:
        tell(folder, state=FAILED, reason=reason, seconds_left=None)


def reason(error: BaseException) -> str:
    """An error in a line: our own sentences as they are, any other after its class's name."""
    text = " ".join(str(error).split())
    return text if isinstance(error, UserError | RunFailure) else f"{type(error).__name__}: {text}"


@contextmanager
def failing(folder: Path) -> Iterator[None]:
    """What is raised while it lasts stands in the folder's status, when there is such a run."""
    try:
        yield
    except Exception as error:
        if (folder / "config.yaml").exists():
            fail(folder, reason(error))
        raise


@contextmanager
def locked(path: Path, patience: float = 0.0) -> Iterator[bool]:
    """Whether the file could be locked within `patience` seconds; if so, it is while this lasts.

    The system gives the lock back when its process ends, however it ends.
    """
    end = time.monotonic() + patience
    with open(path, "a") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() >= end:
                    yield False
                    return
                time.sleep(0.05)
                continue
            yield True
            return


def busy(folder: Path) -> bool:
    """Whether a process trains in the folder now."""
    path = folder / ".lock"
    if not path.exists():
        return False
    with locked(path) as free:
        return not free


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """The folder is this process's own while it lasts. Raises UserError when another has it."""
    with locked(folder / ".lock", patience=2.0) as free:  # `busy` holds it for a moment
        if not free:
            known = read(folder)
            who = f"process {known.get('pid')} on {known.get('host')}"
            raise UserError(f"{folder} is in use by {who}: wait until it has finished, or stop it")
        for left in folder.glob("checkpoints/.*.pt"):  # of a process killed while it wrote
            left.unlink()
        yield


class Progress:
    """Keeps `status.json` up to date while a run's steps go by.

    Args:
        folder: the run folder.
        step: the step that the run goes on from, `total`: its last.
    """

    def __init__(self, folder: Path, step: int, total: int):
        self.folder, self.first, self.total = folder, step, total
        self.began, self.written = time.monotonic(), 0.0
        begun = {"reason": None, "tried": None, "started": time.time()}
        tell(folder, state=RUNNING, step=step, total=total, **begun)

    def set_step(self, step: int) -> None:
        """Notes a step; most are not written, so that the file costs nothing."""
        now = time.monotonic()
        if now - self.written >= _PAUSE:
            self.written = now
            left = (now - self.began) / max(1, step - self.first) * (self.total - step)
            tell(self.folder, step=step, seconds_left=round(left, 1))

    def measured(self, step: int, name: str, value: float, best: float | None) -> None:
        """Notes the metric that best.pt goes by, and the stage's best value of it, if any."""
        tell(self.folder, step=step, metric=name, last=value, best=best)

    def end(self, step: int, finished: bool) -> None:
        """Notes the end, or the stop on the way."""
        state = FINISHED if finished else INTERRUPTED
        tell(self.folder, state=state, step=step, seconds_left=0.0 if finished else None)
