"""`trainer.batch_size=auto`: the largest batch whose steps fit in memory.

Found before a run begins, in a process of its own (`restore.engine.batch_size_probe`), so that the
run is the one that would have been with the number typed.
"""

import json
import logging
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from restore.config import settings
from restore.engine import memory
from restore.engine.batch_size_probe import TOO_MUCH
from restore.errors import RunFailure, UserError
from restore.utils import distributed
from restore.utils.files import to_yaml
from restore.utils.signals import ending

log = logging.getLogger("restore")

_AIM = 0.95  # of the budget: a line is never exact, and steps that go beyond it are lost
_STEPS_UP = 4  # times the largest batch tried that the next one may be
_WORTH = 1.05  # times the largest batch found that another must promise to be tried
_GB = 1e9


def by_trial(fits: Callable[[int], bool], quantum: int, limit: int) -> int:
    """The largest multiple of `quantum` up to `limit` that fits; 0 when none does.

    Tries powers of two and bisects between the last that fits and the first that does not.
    """
    good, bad = 0, limit // quantum + 1
    top = bad - 1
    while bad - good > 1:
        tried = (good + bad) // 2 if bad <= top else min(max(1, 2 * good), top)
        if fits(tried * quantum):
            good = tried
        else:
            bad = tried
    return good * quantum


def by_line(peak: Callable[[int], int | None], budget: int, quantum: int, limit: int) -> int:
    """The same (to a tenth) where each trial is dear and its memory known, with fewer of them.

    After three small sizes a line through the last peaks says what to try, but no more than four
    times what was seen to fit. What is returned has been tried.

    Args:
        peak: bytes that a size takes, or None when it was stopped over them.
        budget: bytes that it may take.
        quantum: what sizes are multiples of.
        limit: the largest size.
    """
    good, bad = 0, limit // quantum + 1
    top = bad - 1
    seen: dict[int, int] = {}
    while bad - good > 1:
        if bad <= top:
            tried = _meeting(seen, _AIM * budget)
            # A line that promises what was just seen not to fit is a bad one.
            tried = tried if tried is not None and tried < bad else (good + bad) // 2
        elif len(seen) < 3:
            tried = max(1, 2 * good)
        else:
            meeting = _meeting(seen, _AIM * budget)
            tried = min(top if meeting is None else meeting, _STEPS_UP * good)
        tried = min(tried, bad - 1)
        if good and tried < good * _WORTH:
            break
        taken = peak(tried * quantum)
        if taken is not None:
            seen[tried] = taken
        if taken is not None and taken <= budget:
            good = tried
        else:
            bad = tried
    return good * quantum


def _meeting(seen: dict[int, int], budget: float) -> int | None:
    """Where the line through the largest sizes seen meets the budget; None: there is no such."""
    sizes = sorted(seen)[-3:]
    if len(sizes) < 2:
        return None
    slope, start = np.polyfit(sizes, [seen[size] for size in sizes], 1)
    return int((budget - start) / slope) if slope > 0 else None


def found(
    config: dict[str, Any],
    setting: settings.Train,
    folder: Path,
    device: torch.device,
    trying: Callable[[int], None],
) -> dict[str, Any]:
    """The configuration with the number that `auto` stands for; the same in every process.

    Args:
        config: resolved; the run's.
        setting: the same, checked and typed.
        folder: the run folder, which need not be there.
        device: this process's.
        trying: is told each size before it is tried.

    Raises:
        UserError: not even the smallest batch fits, or the run cannot be built.
    """
    world = distributed.world()
    quantum = world * setting.trainer.accumulate_steps
    if setting.trainer.max_batch_size < quantum:
        raise UserError(
            f"trainer.max_batch_size={setting.trainer.max_batch_size}: it is less "
            f"than trainer.accumulate_steps × processes = {quantum}"
        )
    log.info("trainer.batch_size=auto: trying what fits in memory, in a process of its own")
    hosts = distributed.gather(socket.gethostname())
    share = setting.trainer.memory_fraction
    budget = int(share * memory.available() / hosts.count(socket.gethostname()))
    distributed.gather(None)  # nobody takes any before all have looked
    order = {
        "config": to_yaml(sized(config, quantum)),
        "folder": str(folder),
        "device": str(device),
        "world": world,
        "share": share,
        "budget": budget,
    }
    size, reason, failure = 0, "", None
    trying(quantum)  # from now on; it takes seconds until the process is there
    try:
        with Trials(order, trying) as trials:
            size, reason = _search(trials, setting, quantum, device)
    except UserError as error:
        failure = error
    parts = distributed.gather((size, reason, failure))
    distributed.fail_together([part[2] for part in parts])
    size, reason, _ = min(parts, key=lambda part: part[0])
    log.info("trainer.batch_size=auto: %d, %s", size, reason)
    return sized(config, size)


def sized(config: dict[str, Any], size: int) -> dict[str, Any]:
    """The configuration with batches of `size`."""
    return {**config, "trainer": {**config["trainer"], "batch_size": size}}


def _search(
    trials: "Trials", setting: settings.Train, quantum: int, device: torch.device
) -> tuple[int, str]:
    """The size found, and in words what bounds it."""
    limit, bound = setting.trainer.max_batch_size, "trainer.max_batch_size"
    counted = [name for name in setting.schedule if setting.stages[name].epochs is not None]
    if counted and trials.items < limit:
        # Larger batches are fine, but a single step of them may be many times the epochs wanted.
        limit = max(trials.items, quantum)
        bound = f"the {trials.items} training items (stages.{counted[0]} is given in epochs)"
    if device.type == "cuda":
        size = by_trial(lambda s: trials.peak(s) is not None, quantum, limit)
    else:
        size = by_line(trials.peak, trials.budget, quantum, limit)
    may = f"{trials.budget / _GB:.2f} GB that may be taken (trainer.memory_fraction)"
    if size == 0:
        raise UserError(
            f"trainer.batch_size=auto: not even {quantum} item(s) a step fit in the {may}; "
            "smaller crops, a smaller network or more memory"
        )
    reason = f"which take {trials.peaks[size] / _GB:.2f} of {may}"
    if size + quantum > limit:
        reason += f"; no more because of {bound}"
    return size, reason


class Trials:
    """The process that tries steps; made anew when one did not survive a size.

    Args:
        order: what `restore.engine.batch_size_probe` reads first.
        trying: is told each size before it is tried.
    """

    def __init__(self, order: dict[str, Any], trying: Callable[[int], None]):
        self.order, self.trying = order, trying
        self.items, self.budget = 0, 0
        self.peaks: dict[int, int] = {}
        self._process: subprocess.Popen[str] | None = None
        self._said = tempfile.TemporaryFile("w+")  # noqa: SIM115

    def __enter__(self) -> "Trials":
        try:
            self._start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
        self._said.close()

    def _start(self) -> None:
        command = [sys.executable, "-m", "restore.engine.batch_size_probe"]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._said, text=True
        )
        ready = self._ask(json.dumps(self.order))
        if ready is None:
            raise UserError("trainer.batch_size=auto: the memory does not suffice for the models")
        self.items, self.budget = ready["items"], ready["budget"]

    def _ask(self, line: str) -> dict[str, Any] | None:
        """The answer to a line; None when the process ended over it for want of memory."""
        assert self._process is not None
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if answer:
            reply: dict[str, Any] = json.loads(answer)
            if "mistake" in reply:
                raise UserError(reply["mistake"])
            return reply
        self._process.communicate()
        code, self._process = self._process.returncode, None
        if code not in (TOO_MUCH, -signal.SIGKILL):  # the latter is what the system does about it
            self._said.seek(0)
            last = self._said.read().strip().rpartition("\n")[2]
            raise RunFailure(f"trainer.batch_size=auto: the trial {ending(code)}: {last}")
        return None

    def peak(self, size: int) -> int | None:
        """Bytes that steps of `size` items took beyond an empty process; None: too many."""
        if self._process is None:
            self._start()
        self.trying(size)
        reply = self._ask(str(size))
        taken = reply["peak"] if reply else None
        log.info(
            "  batches of %d: %s", size, "too much" if taken is None else f"{taken / _GB:.2f} GB"
        )
        if taken is not None:
            self.peaks[size] = taken
        return taken
