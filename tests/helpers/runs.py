"""Trainings of a fraction of a second a step: run here, started as commands, compared."""

import csv
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from restore.cli import main
from restore.models import checkpoint
from tests.helpers.tiny import ALONE, CROPS, NETWORK

# A network and pictures small enough that a step takes a few hundredths of a second.
TINY = [
    *NETWORK,
    *CROPS,
    "trainer.batch_size=4",
    "trainer.log_every=1",
    "trainer.valid_every=4",
    "trainer.save_every=2",
    "trainer.pictures=1",
    "stages.reconstruction.epochs=null",
    "stages.reconstruction.steps=8",
    *ALONE,
]
# The same of a network without attention, whose steps take a hundredth of a second.
LIGHT = [
    *(word for word in TINY if not word.startswith(("backbone.", "task.reference"))),
    *("backbone=edsr", "backbone.blocks=1", "backbone.features=8", "trainer.pictures=0"),
]


def train(folder: Path, *overrides: str) -> int:
    return main(["train", f"folder={folder}", *TINY, *overrides])


def numbers(folder: Path) -> dict[tuple[int, str], float]:
    with open(folder / "metrics.csv", newline="") as file:
        return {
            (int(row["step"]), row["name"]): float(row["value"])
            for row in csv.DictReader(file)
            if row["name"] != "train/images_per_s"
        }


def final(folder: Path) -> dict[str, torch.Tensor]:
    return checkpoint.read(folder / "checkpoints" / "last.pt")["models"]["backbone"]


def assert_equal_runs(one: Path, other: Path) -> None:
    assert numbers(one) == numbers(other)
    a, b = final(one), final(other)
    assert all(torch.equal(a[name], b[name]) for name in a)


def start(folder: Path, *overrides: str, group: bool = False) -> subprocess.Popen:
    """A training as a command, of a group of processes of its own where one is asked for."""
    command = [sys.executable, "-m", "restore", "train", f"folder={folder}", *TINY, *overrides]
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=group,
    )


def wait_for(condition, process: subprocess.Popen, seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.stdout.read()
        if time.monotonic() > end:
            process.kill()
            pytest.fail("it never came")
        time.sleep(0.01)
