"""CUDA devices are dealt out to the jobs of a machine, so that no two of them share one."""

import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import torch

from restore.engine.status import locked
from restore.errors import UserError

_PAUSE = 0.5  # seconds between two looks for a free device


def visible() -> list[str]:
    """The devices that this process may use, as `CUDA_VISIBLE_DEVICES` names them."""
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    if given is None:
        return [str(number) for number in range(torch.cuda.device_count())]
    return [name.strip() for name in given.split(",") if name.strip()]


@contextmanager
def dealt(count: int) -> Iterator[list[str]]:
    """Waits until `count` devices are free; they are the caller's own while it lasts.

    Every device has a lock file in the folder for temporary files. The system takes a lock back
    from a process that ends, so one that was killed leaves no device behind that nobody gets.

    Raises UserError when there are not that many.
    """
    names = visible()
    if count > len(names):
        raise UserError(f"runtime.devices={count}: there are {len(names)} CUDA device(s) here")
    folder = Path(tempfile.gettempdir()) / f"restore-devices-{os.getuid()}"
    folder.mkdir(exist_ok=True)
    # Slurm shows each of its jobs devices of its own, all of which may be called 0.
    scope = os.environ.get("SLURM_JOB_ID", "machine")
    while True:
        with ExitStack() as stack:
            own: list[str] = []
            for name in names:
                file = folder / f"{scope}-{name.replace('/', '-')}.lock"
                if len(own) < count and stack.enter_context(locked(file)):
                    own.append(name)
            if len(own) == count:
                yield own
                return
        time.sleep(_PAUSE)
