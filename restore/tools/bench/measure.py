"""What the measurements share: a process of its own for each, and tables."""

import json
import logging
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from restore.engine import memory
from restore.errors import RunFailure, UserError
from restore.utils import tabular
from restore.utils.files import write_text

log = logging.getLogger("restore")

Row = dict[str, Any]


def in_process(module: str, *case: object) -> dict[str, float]:
    """Runs `python -m MODULE CASE…`, which calls `report`; so memory is measured by itself."""
    command = [sys.executable, "-m", module, *map(str, case)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        said = done.stderr.strip()
        # The last line of a traceback is the error; a mistake of the user's is one here, too.
        _, mistake, sentence = said.rpartition(f"\n{UserError.__module__}.{UserError.__name__}: ")
        if mistake:
            raise UserError(sentence)
        raise RunFailure(f"{' '.join(command[1:])} failed: {said[-500:]}")
    measured: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return measured


def report(
    call: Callable[[], object],
    warm: Callable[[], object],
    repeats: int,
    device: str,
    also: Callable[[], dict[str, float]] = dict,
) -> None:
    """Prints milliseconds of a call, the median after some that are not counted, and megabytes.

    Args:
        call: what is measured.
        warm: something small of the same kind, to have the libraries loaded before memory is.
        repeats: timed calls; before them come others for half a second, unless it is one.
        device: `cpu` or `cuda`; there the memory is what the allocator has had at most.
        also: what else is printed, worked out when all is measured.
    """
    warm()
    before = memory.mark(torch.device(device))

    def timed() -> float:
        start = time.perf_counter()
        call()
        if device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - start

    spent = 0.0
    while repeats > 1 and spent < 0.5:
        spent += timed()
    seconds = statistics.median(timed() for _ in range(repeats))
    used = memory.highest(torch.device(device)) - before
    print(json.dumps({"ms": seconds * 1000, "MB": used / 2**20, **also()}))


def write_table(rows: list[Row], columns: list[str], folder: Path, name: str) -> None:
    """Logs the rows as a table and writes `NAME.csv`."""
    shown = [[str(row.get(column, "–")) for column in columns] for row in rows]
    log.info("\n%s", tabular.markdown(columns, shown).rstrip("\n"))
    cells = [[row.get(column, "") for column in columns] for row in rows]
    write_text(folder / f"{name}.csv", tabular.comma_separated(columns, cells))
    log.info("%s", folder / f"{name}.csv")


@contextmanager
def neighbours(count: int) -> Iterator[None]:
    """While it lasts, so many other processes each keep a core busy."""
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for process in busy:
            process.kill()
            process.wait()


COMPARED = ["plain ms", "ours ms", "speed-up", "plain MB", "ours MB", "memory ratio"]


def compared(module: str, *case: object) -> Row:
    """Both methods' figures for one case, `python -m MODULE METHOD CASE…`, and their ratios."""
    row: Row = {}
    for method in ("plain", "ours"):
        measured = in_process(module, method, *case)
        row |= {f"{method} {unit}": round(value, 1) for unit, value in measured.items()}
    row["speed-up"] = round(row["plain ms"] / row["ours ms"], 1)
    row["memory ratio"] = round(row["plain MB"] / max(1, row["ours MB"]), 1)
    return row
