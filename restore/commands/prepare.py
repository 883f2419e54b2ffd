"""`restore prepare`: raw data made ready once, so that training only reads.

What is made of a pair comes into its own folder by one renaming, so it is there whole or not at
all. A preparation that was stopped, however, goes on by the same command, and ends the same.
"""

import fcntl
import json
import logging
import os
import shutil
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from multiprocessing import get_context, parent_process
from pathlib import Path
from threading import Thread
from typing import Any, Protocol

import cv2
import torch
from PIL import Image
from tqdm import tqdm

from restore.config import check, registry, settings
from restore.engine import run_folder
from restore.errors import RunFailure, UserError
from restore.images import memory_mapped
from restore.images.decoding import opened
from restore.images.io import readable
from restore.tools.prepare import page
from restore.tools.prepare.scenes import Pair, Refused
from restore.tools.prepare.zoom_pairs import PreparedScene
from restore.utils import files

log = logging.getLogger("restore")

INDEX = "pairs.json"
_RECORD = "record.json"
_LOCK = ".lock"
# Length and start of what is locked in it, by the command and by the processes of its pool.
_MAIN, _POOL = (1, 0), (1, 1)


@dataclass
class Prepare:
    """`restore prepare`."""

    data: settings.Node
    preparation: settings.Node
    root: str
    output: str
    workers: settings.Positive
    pictures: settings.Count


class Preparation(Protocol):
    """What is done to a kind of raw data."""

    def pairs(self, root: Path) -> tuple[list[Pair], list[Refused]]:
        """What is to be made, and what cannot be, in a fixed order."""
        ...

    def make(self, pair: Pair) -> PreparedScene:
        """Makes one."""
        ...


def main(config: dict[str, Any], overrides: list[str]) -> int:
    """Prepares what is not prepared yet, and writes the index and the report.

    Returns the exit code 0. Raises RunFailure when nothing at all can be kept.
    """
    setting = check(config, Prepare)
    run_folder.log_to(None)
    root, output = (Path(path) for path in (setting.root, setting.output))
    if output.resolve().is_relative_to(root.resolve()):
        raise UserError(f"output={output} lies inside root={root}: name a folder beside it")
    preparation = registry.instantiate(setting.preparation, "preparation")
    pairs, refused = preparation.pairs(root)
    with _held(output):
        _begin(output, setting)
        todo = [pair for pair in pairs if not _done(output, pair)]
        if len(todo) < len(pairs):
            log.info("%d of %d pairs are done already", len(pairs) - len(todo), len(pairs))
        if todo:
            (output / INDEX).unlink(missing_ok=True)
            _warn_of_space(output, todo)
        _make_all(preparation, todo, len(pairs), output, setting.workers)
        records = [_record(output, pair) for pair in pairs]
        records += [{**asdict(entry), "kept": False} for entry in refused]
        page.write(output, records, setting.pictures)
        files.write_text(output / INDEX, json.dumps(records, indent=1, ensure_ascii=False) + "\n")
    kept = sum(record["kept"] for record in records)
    log.info("%d kept, %d dropped; see %s", kept, len(records) - kept, output / "report.html")
    if not kept:
        raise RunFailure(f"no pair could be kept; {output / 'report.html'} says why")
    registry.instantiate(setting.data, "data")
    return 0


@contextmanager
def _held(output: Path) -> Iterator[None]:
    """The output folder, for this process alone until it ends, however it does."""
    try:
        output.mkdir(parents=True, exist_ok=True)
        file = open(output / _LOCK, "a+")  # noqa: SIM115
    except OSError as error:
        raise UserError(f"cannot write to output={output}: {error}") from error
    with file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, *_MAIN)
        except OSError as error:
            raise UserError(
                f"another process is preparing {output}: wait until it has finished"
            ) from error
        # Processes whose parent was killed end a moment later, and may still be writing.
        fcntl.lockf(file, fcntl.LOCK_EX, *_POOL)
        fcntl.lockf(file, fcntl.LOCK_UN, *_POOL)
        yield


def _begin(output: Path, setting: Prepare) -> None:
    """Holds a preparation that was begun against this one's settings; clears what it left half."""
    settled = {"preparation": setting.preparation, "root": str(Path(setting.root).resolve())}
    if (output / "config.yaml").exists():
        before = run_folder.look_at_config(output)
        for key in settled:
            if before.get(key) != settled[key]:
                raise UserError(
                    f"{output} was prepared with other settings ({_difference(before, settled)}): "
                    "give the same ones, or another output"
                )
    elif any(path.name != _LOCK for path in output.iterdir()):
        raise UserError(
            f"output={output} is not empty and was not made by restore prepare: give another folder"
        )
    else:
        files.write_text(output / "config.yaml", files.to_yaml(settled))
    for path in list(output.rglob(".*")):
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name != _LOCK:
            path.unlink(missing_ok=True)


def _difference(before: dict[str, Any], now: dict[str, Any]) -> str:
    if before.get("root") != now["root"]:
        return f"root={before.get('root')}"
    old, new = before.get("preparation") or {}, now["preparation"]
    names = [key for key in {**old, **new} if old.get(key) != new.get(key)]
    return ", ".join(f"preparation.{key}={old.get(key)}" for key in names)


def _stamp(pair: Pair) -> list[list[int]]:
    """Size and time of change of what a pair is made of."""
    states = [path.stat() for path in (pair.target, pair.wide)]
    return [[state.st_size, state.st_mtime_ns] for state in states]


def _place(output: Path, pair: Pair) -> Path:
    return output / "pairs" / pair.key


def _record(output: Path, pair: Pair) -> dict[str, Any]:
    record: dict[str, Any] = json.loads((_place(output, pair) / _RECORD).read_text("utf-8"))
    return {key: value for key, value in record.items() if key != "stamp"}


def _done(output: Path, pair: Pair) -> bool:
    try:
        record = json.loads((_place(output, pair) / _RECORD).read_text("utf-8"))
    except (OSError, ValueError):
        return False
    return bool(record["stamp"] == _stamp(pair))


def _warn_of_space(output: Path, pairs: list[Pair]) -> None:
    """Says so when the disk may be too small for what is to be kept, were all of it kept."""
    needed = 0
    for pair in pairs:
        with readable(pair.target), opened(pair.target) as image:
            needed += 2 * 3 * image.width * image.height
    free = shutil.disk_usage(output).free
    if needed > free:
        log.warning(
            "up to %.1f GB will be written, and %s has %.1f GB", needed / 1e9, output, free / 1e9
        )


def _make_all(
    preparation: Preparation, todo: list[Pair], total: int, output: Path, workers: int
) -> None:
    """Makes pairs in this process, or in others, and shows how far it is."""
    kept = dropped = 0
    with tqdm(
        total=total,
        initial=total - len(todo),
        desc="prepare",
        unit="pair",
        # On a terminal the bar moves; in a log file a line every ten seconds is enough.
        mininterval=0.5 if sys.stderr.isatty() else 10,
        disable=not todo,
    ) as bar:
        for good in _results(preparation, todo, output, min(workers, len(todo))):
            kept, dropped = kept + good, dropped + (not good)
            bar.set_postfix(kept=kept, dropped=dropped, refresh=False)
            bar.update()


def _results(
    preparation: Preparation, todo: list[Pair], output: Path, workers: int
) -> Iterator[bool]:
    if workers <= 1:
        threads = cv2.getNumThreads()
        cv2.setNumThreads(1)  # as in the other processes: sums must not depend on it
        try:
            for pair in todo:
                yield _make(preparation, pair, output)
        finally:
            cv2.setNumThreads(threads)
        return
    pool = ProcessPoolExecutor(workers, get_context("spawn"), _begin_worker, (output,))
    try:
        jobs = [pool.submit(_make, preparation, pair, output) for pair in todo]
        for job in as_completed(jobs):
            yield job.result()
    except BrokenProcessPool as error:
        raise RunFailure(
            "a worker process was killed, perhaps because memory ran out; run the "
            "same command again to resume, with fewer workers if needed"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _begin_worker(output: Path) -> None:
    """A process of the pool computes in one thread, and ends when its parent does."""
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    file = open(output / _LOCK, "a+")  # noqa: SIM115
    fcntl.lockf(file, fcntl.LOCK_SH, *_POOL)
    parent = parent_process()
    assert parent is not None

    def follow() -> None:
        with file:  # whose closing lets the lock go
            parent.join()
            os._exit(1)

    Thread(target=follow, daemon=True).start()


def _make(preparation: Preparation, pair: Pair, output: Path) -> bool:
    """Makes a pair and puts its folder in place; whether it is kept."""
    place = _place(output, pair)
    unfinished = place.with_name(f".{place.name}")
    stamp = _stamp(pair)
    outcome = preparation.make(pair)
    record = {
        "key": pair.key,
        "kept": outcome.reason is None,
        "reason": outcome.reason,
        **outcome.facts,
    }
    try:
        unfinished.mkdir(parents=True)
        for name, picture in outcome.pictures.items():
            memory_mapped.write(unfinished / f"{name}.npy", picture)
        for name, view in outcome.views.items():
            Image.fromarray(view).save(unfinished / f"{name}.jpg", quality=85)
        text = json.dumps({**record, "stamp": stamp}, indent=1, ensure_ascii=False)
        (unfinished / _RECORD).write_text(text + "\n", encoding="utf-8")
        if place.exists():
            shutil.rmtree(place)  # of pictures that have changed since
        os.replace(unfinished, place)
    except OSError as error:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise UserError(f"cannot write to output={output}: {error}") from error
    return outcome.reason is None
