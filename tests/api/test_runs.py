"""`restore.train` and `restore.evaluate` from programs: what the commands do, and nothing else."""

import asyncio
import csv
import json
import logging
import os
import random
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

import hydra
import numpy as np
import pytest
import torch
from hydra.core.global_hydra import GlobalHydra
from hydra.version import VersionBase

import restore
from restore.cli import main
from tests.helpers.runs import TINY, assert_equal_runs


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> restore.TrainingRun:
    return restore.train([*TINY, f"folder={tmp_path_factory.mktemp('api') / 'run'}"])


def test_it_trains_what_the_command_trains(run: restore.TrainingRun, tmp_path: Path):
    assert main(["train", *TINY, f"folder={tmp_path / 'run'}"]) == 0
    assert_equal_runs(run.folder, tmp_path / "run")


def test_a_run_says_what_it_found(run: restore.TrainingRun):
    assert run.summary == json.loads((run.folder / "summary.json").read_text())
    with open(run.folder / "metrics.csv", newline="") as file:
        rows = [(int(r["step"]), r["name"], float(r["value"])) for r in csv.DictReader(file)]
    assert [tuple(row.values()) for row in run.metrics] == rows
    assert rows
    assert run.best.is_file()
    assert run.last.is_file()
    assert run.config["task"]["scale"] == 4
    assert restore.TrainingRun(str(run.folder)) == run
    low = np.zeros((6, 6, 3), np.uint8)
    net = run.load(device="cpu")
    assert net.loaded.path == run.best
    assert net(low, reference="black").shape == (24, 24, 3)


def test_no_run_is_a_sentence(tmp_path: Path):
    with pytest.raises(restore.UserError, match="is not a run folder"):
        restore.TrainingRun(tmp_path)


def test_it_evaluates_what_the_command_evaluates(run: restore.TrainingRun, tmp_path: Path):
    words = [f"weights={run.folder}", "limit=2", "pictures=0", *ALONE]
    result = restore.evaluate([*words, f"folder={tmp_path / 'python'}"])
    assert main(["evaluate", *words, f"folder={tmp_path / 'command'}"]) == 0
    for name in ("images.csv", "table.md"):
        assert (tmp_path / "python" / name).read_text() == (tmp_path / "command" / name).read_text()
    assert len(result.rows) == 2
    assert {"key", *result.mean} - {"lpips", "fid"} <= set(result.rows[0])
    name = next(iter(result.mean))
    assert result.mean[name] == pytest.approx(np.mean([row[name] for row in result.rows]))
    kinds = restore.evaluate([*words, "references=[black,none]", f"folder={tmp_path / 'kinds'}"])
    assert [row["reference"] for row in kinds.rows] == ["black", "none"] * 2
    assert set(kinds.mean) == {"black", "none"}


ALONE = ["wandb.mode=disabled", "loader.workers=0", "runtime.device=cpu", "runtime.threads=1"]

BAD = [
    (["edsr"], "did you mean backbone=edsr?"),
    (["backbone=edrs"], "did you mean 'edsr'?"),
    (["trainer.batch_size=0"], "trainer.batch_size=0"),
    (["-m", "seed=1,2"], "-m is for the command line"),
    (["sweep=course"], "is many runs"),
    (["resume=nowhere"], "nowhere is not a run folder"),
]


@pytest.mark.parametrize(("words", "part"), BAD, ids=[" ".join(words) for words, _ in BAD])
def test_mistakes_are_sentences_and_leave_nothing(words, part: str, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(restore.UserError) as error:
        restore.train(words)
    assert part in str(error.value)
    assert list(tmp_path.iterdir()) == []


def seed() -> None:
    random.seed(3)
    np.random.seed(3)  # noqa: NPY002
    torch.manual_seed(3)


def draw() -> list[float]:
    return [random.random(), np.random.random(), torch.rand(1).item()]  # noqa: NPY002


def test_the_calling_program_stays_as_it_was(run: restore.TrainingRun, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    logger = logging.getLogger("restore")
    own = logging.NullHandler()
    monkeypatch.setattr(logger, "handlers", [own])
    monkeypatch.setattr(logger, "propagate", True)
    monkeypatch.setattr(VersionBase.instance(), "version_base", None)
    hydra.initialize(config_path=None, version_base="1.2")
    base, host = VersionBase.instance().version_base, GlobalHydra.instance().hydra
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def state() -> list[Any]:
        return [
            sys.argv,
            os.getcwd(),
            dict(os.environ),
            list(logger.handlers),
            logger.propagate,
            logger.level,
            list(logging.getLogger().handlers),
            VersionBase.instance().version_base,
            torch.get_num_threads(),
            {number: signal.getsignal(number) for number in handlers},
        ]

    try:
        before = state()
        seed()
        expected = draw()
        seed()
        words = [f"weights={run.folder}", "limit=1", "pictures=0", *ALONE]
        restore.train([*TINY, "stages.reconstruction.steps=1", f"folder={tmp_path / 'a'}"])
        restore.evaluate([*words, f"folder={tmp_path / 'b'}"])
        with pytest.raises(restore.UserError):
            restore.evaluate([*words, f"folder={tmp_path / 'b'}"])
        assert state() == before
        assert GlobalHydra.instance().hydra is host
        assert VersionBase.instance().version_base == base
        assert draw() == expected
    finally:
        GlobalHydra.instance().clear()


@pytest.mark.slow
def test_it_works_in_a_notebook_and_in_a_thread(run: restore.TrainingRun, tmp_path: Path):
    """A kernel runs cells inside its event loop; other programs have threads of their own."""

    async def cell() -> restore.TrainingRun:
        words = [*TINY, "stages.reconstruction.steps=1", f"folder={tmp_path / 'loop'}"]
        return restore.train(words)

    assert asyncio.run(cell()).summary["step"] == 1
    found: list[Any] = []

    def work() -> None:
        try:
            words = [*TINY, "stages.reconstruction.steps=1", f"folder={tmp_path / 'thread'}"]
            found.append(restore.train(words))
            found.append(run.load(device="cpu")(np.zeros((6, 6), np.uint8), reference="none"))
        except BaseException as error:
            found.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found[0].summary["step"] == 1
    assert found[1].shape == (24, 24)


def test_ctrl_c_saves_and_is_raised_and_the_run_goes_on(tmp_path: Path):
    folder = tmp_path / "run"
    words = [*TINY, "stages.reconstruction.steps=100000", "trainer.valid_every=100000"]

    def interrupt() -> None:
        status = folder / "status.json"
        for _ in range(600):
            if status.exists() and (json.loads(status.read_text()).get("step") or 0) >= 1:
                break
            time.sleep(0.1)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        restore.train([*words, f"folder={folder}"])
    thread.join()
    half = restore.TrainingRun(folder)
    assert half.last.is_file()
    assert half.summary == {}
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
