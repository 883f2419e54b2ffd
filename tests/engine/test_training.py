"""The loop: going on equals never having stopped, and the number of processes is no matter."""

import copy
import os
import random
import signal
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from restore.cli import main
from restore.config import check, compose, plain
from restore.config.settings import LrSchedule, Train
from restore.data.loading import collate
from restore.engine import status, training
from restore.engine.objectives import lr_factor
from restore.engine.training import Training
from restore.errors import Unwritable, UserError
from restore.models import checkpoint
from tests.helpers.runs import (
    LIGHT,
    TINY,
    assert_equal_runs,
    final,
    numbers,
    start,
    train,
    wait_for,
)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "undisturbed"
    assert train(folder, "trainer.ema=0.9") == 0
    return folder


def test_a_run_leaves_what_it_should(undisturbed: Path):
    present = {path.name for path in undisturbed.iterdir()}
    expected = {"config.yaml", "environment.json", "log.txt", "metrics.csv", "summary.json"}
    assert expected | {"checkpoints", "pictures"} <= present
    logged = numbers(undisturbed)
    assert {step for step, name in logged if name == "train/loss"} == set(range(1, 9))
    assert {step for step, name in logged if name.startswith("valid/psnr")} == {4, 8}
    assert list((undisturbed / "pictures").rglob("*.png"))
    assert "RANDOM" in (undisturbed / "log.txt").read_text()


@pytest.mark.slow
def test_loss_falls(tmp_path: Path):
    assert train(tmp_path / "run", "stages.reconstruction.steps=30", "trainer.valid_every=30") == 0
    losses = [
        v for (_, name), v in sorted(numbers(tmp_path / "run").items()) if name == "train/loss"
    ]
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])


def test_ctrl_c_saves_and_resuming_equals_never_having_stopped(tmp_path: Path, undisturbed: Path):
    folder = tmp_path / "run"
    process = start(folder, "trainer.ema=0.9")
    wait_for(
        lambda: (
            (folder / "metrics.csv").exists() and "\n3," in (folder / "metrics.csv").read_text()
        ),
        process,
    )
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    if process.returncode == 0:  # it was done before the signal came
        assert_equal_runs(folder, undisturbed)
        return
    assert process.returncode == 130, output
    assert f"restore train resume={folder}" in output
    assert "Traceback" not in output
    assert main(["train", f"resume={folder}"]) == 0
    assert_equal_runs(folder, undisturbed)


@pytest.mark.parametrize(
    ("number", "overrides"),
    [
        (signal.SIGTERM, ["loader.workers=2"]),
        *(
            pytest.param(number, more, marks=pytest.mark.slow)
            for number in (signal.SIGTERM, signal.SIGHUP)
            for more in (["runtime.devices=2"], ["runtime.devices=2", "loader.workers=2"])
        ),
    ],
    ids=str,
)
def test_what_ends_the_whole_group_of_processes_saves(tmp_path: Path, number, overrides):
    """As `timeout`, systemd and Slurm do it, and a terminal that is closed."""
    folder = tmp_path / "run"
    process = start(folder, "stages.reconstruction.steps=100000", *overrides, group=True)
    wait_for(lambda: status.read(folder).get("step", 0) >= 1, process)
    os.killpg(process.pid, number)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130, output
    assert "Traceback" not in output
    assert f"restore train resume={folder}" in output
    assert status.read(folder)["state"] == "interrupted"
    held = checkpoint.read(folder / "checkpoints" / "last.pt")
    assert held["step"] == status.read(folder)["step"] >= 1


def test_a_disk_that_is_full_at_the_last_validation_costs_no_result(tmp_path: Path, monkeypatch):
    write, refused = training._write, []

    def full_for_a_moment(path: Path, state: dict) -> bool:
        if path.name == "best.pt" and state["step"] == 2 and not refused:
            refused.append(path)
            raise Unwritable("the disk is full")
        return write(path, state)

    monkeypatch.setattr(training, "_write", full_for_a_moment)
    monkeypatch.setattr(training, "_PAUSES", (0,))
    steps = ["stages.reconstruction.steps=2", "trainer.valid_every=2"]
    assert train(tmp_path / "run", *steps) == 0
    assert refused
    assert checkpoint.read(tmp_path / "run" / "checkpoints" / "best.pt")["step"] == 2


@pytest.mark.slow
def test_kill_at_any_moment_then_resume(tmp_path: Path, undisturbed: Path):
    folder, chance = tmp_path / "run", random.Random(0)
    process = start(folder, "trainer.ema=0.9", "trainer.save_every=1")
    for _ in range(3):
        wait_for(lambda: (folder / "metrics.csv").exists(), process)
        time.sleep(chance.random() * 0.5)
        process.kill()
        process.communicate()
        if not (folder / "checkpoints" / "last.pt").exists():
            assert main(["train", f"resume={folder}"]) == 0
            break
        command = [sys.executable, "-m", "restore", "train", f"resume={folder}"]
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
    process.communicate(timeout=120)
    assert main(["train", f"resume={folder}"]) == 0
    assert_equal_runs(folder, undisturbed)


@pytest.mark.slow
def test_lines_of_numbers_hold_the_steps_before_a_stop(tmp_path: Path, monkeypatch):
    more = ["trainer.log_every=4", "trainer.save_every=3"]
    assert train(tmp_path / "whole", *more) == 0
    note = Training._note_skipped

    def interrupted(run: Training, *arguments):
        run.stop = run.learner.step == 2  # as Ctrl-C does
        return note(run, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Training, "_note_skipped", interrupted)
        assert train(tmp_path / "run", *more) == 130
    assert checkpoint.read(tmp_path / "run" / "checkpoints" / "last.pt")["step"] == 3
    assert main(["train", f"resume={tmp_path / 'run'}"]) == 0
    assert_equal_runs(tmp_path / "run", tmp_path / "whole")
    assert (4, "train/loss") in numbers(tmp_path / "whole")


@pytest.mark.slow
def test_workers_do_not_change_the_items(tmp_path: Path, undisturbed: Path):
    assert train(tmp_path / "run", "trainer.ema=0.9", "loader.workers=2") == 0
    assert_equal_runs(tmp_path / "run", undisturbed)


@pytest.mark.parametrize(
    "overrides",
    [["runtime.devices=2"], pytest.param(["trainer.accumulate_steps=2"], marks=pytest.mark.slow)],
    ids=str,
)
def test_processes_and_micro_batches_equal_one(tmp_path: Path, undisturbed: Path, overrides):
    folder = tmp_path / "run"
    assert train(folder, "trainer.ema=0.9", *overrides) == 0
    mine, theirs = numbers(folder), numbers(undisturbed)
    assert mine.keys() == theirs.keys()
    for key, value in theirs.items():
        assert mine[key] == pytest.approx(value, rel=2e-4), key
    a, b = final(folder), final(undisturbed)
    for name in a:
        torch.testing.assert_close(a[name], b[name], atol=2e-4, rtol=2e-3)


@pytest.mark.slow
def test_two_stages_one_after_the_other(tmp_path: Path):
    folder = tmp_path / "run"
    second = [
        "+stage@stages.second=reconstruction",
        "stages.second.epochs=null",
        "stages.second.steps=3",
        "stages.second.objectives.restoration.optimizer.lr=0",
        "stages.second.objectives.restoration.param_groups.extractor.lr=0",
        "schedule=[reconstruction,second]",
        "stages.reconstruction.steps=2",
        "trainer.save_every=100",
        "trainer.valid_every=100",
    ]
    assert train(folder, *second) == 0
    assert {step for step, _ in numbers(folder)} == {1, 2, 3, 4, 5}
    alone = tmp_path / "alone"
    assert train(alone, "stages.reconstruction.steps=2") == 0
    a, b = final(folder), final(alone)
    assert all(torch.equal(a[name], b[name]) for name in a), "a rate of 0 must change nothing"


def begun(folder: Path, config: dict) -> Training:
    """A run that is built but not begun."""
    return Training(config, check(config, Train), folder, torch.device("cpu"))


def composed(folder: Path, *overrides: str) -> dict:
    return plain(compose("train", [f"folder={folder}", *LIGHT, *overrides]))


def test_a_stage_that_continues_is_as_if_there_were_one(tmp_path: Path):
    one = composed(tmp_path)
    objective = one["stages"]["reconstruction"]["objectives"]["restoration"]
    shape = {"name": "cosine", "epochs": 3, "factor": 0.0, "warmup_steps": 4}
    objective["lr_schedule"] |= shape
    two = copy.deepcopy(one)
    two["schedule"] = ["reconstruction", "second"]
    two["stages"]["second"] = copy.deepcopy(one["stages"]["reconstruction"]) | {"steps": 3}
    two["stages"]["second"]["objectives"]["restoration"]["continues"] = True
    two["stages"]["reconstruction"]["steps"] = 2
    runs = [begun(tmp_path, one), begun(tmp_path, two)]
    for step in range(5):
        for run in runs:
            stage = next(s for s in run.learner.stages if step < s.first + s.steps)
            places = range(4 * step, 4 * step + 4)
            run.learner.advance(stage, [collate([run.items[place] for place in places])])
        if 1 <= step <= 3:  # as after an interruption before, at and after the stage's first step
            runs.append(begun(tmp_path, two))
            runs[-1].learner.load(copy.deepcopy(runs[1].learner.state()), "last.pt")
    expected, *others = (run.learner.models["backbone"].state_dict() for run in runs)
    for other in others:
        assert all(torch.equal(other[name], value) for name, value in expected.items())


def test_a_stage_can_continue_only_what_was_before_it(tmp_path: Path):
    path = "objectives.restoration"
    others = ["+stage@stages.second=pixel", f"stages.second.{path}.continues=true"]
    others += [f"optimizer@stages.second.{path}.optimizer=sgd"]
    config = composed(tmp_path, *others)
    for schedule, message in (
        (["second"], "continues: no stage before"),
        (["reconstruction", "second"], "its optimizer is SGD, that of the stage before Adam"),
    ):
        with pytest.raises(UserError, match=message):
            begun(tmp_path, config | {"schedule": schedule})


def test_a_loss_that_is_no_number_stops_before_the_step(tmp_path: Path, capfd):
    folder = tmp_path / "run"
    huge = "stages.reconstruction.objectives.restoration.losses.reconstruction.weight=1e39"
    assert train(folder, huge) == 1
    said = capfd.readouterr().err
    assert "the weights were not updated with it" in said
    assert "Traceback" not in said
    state = (
        checkpoint.read(folder / "checkpoints" / "last.pt")
        if (folder / "checkpoints" / "last.pt").exists()
        else None
    )
    if state is not None:
        assert all(torch.isfinite(v).all() for v in state["models"]["backbone"].values())


def test_a_run_folder_is_never_written_twice(undisturbed: Path, capfd):
    before = {p: p.stat().st_mtime_ns for p in undisturbed.rglob("*")}
    assert train(undisturbed) == 2
    assert "holds a run already" in capfd.readouterr().err
    assert before == {p: p.stat().st_mtime_ns for p in undisturbed.rglob("*")}


def test_going_on_cannot_become_another_run(undisturbed: Path, capfd):
    assert main(["train", f"resume={undisturbed}", "trainer.batch_size=2"]) == 2
    assert "trainer.batch_size cannot be changed" in capfd.readouterr().err


@pytest.mark.slow
def test_joins_processes_that_a_launcher_made(tmp_path: Path):
    command = ["-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone", "-m", "restore"]
    line = ["train", f"folder={tmp_path / 'run'}", *TINY, "stages.reconstruction.steps=2"]
    done = subprocess.run(
        [sys.executable, *command, *line],
        capture_output=True,
        text=True,
        timeout=240,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert {step for step, name in numbers(tmp_path / "run") if name == "train/loss"} == {1, 2}


@pytest.mark.parametrize(
    ("precision", "line"),
    [
        ("bf16", TINY),
        ("fp16", LIGHT),
        pytest.param("fp16", TINY, marks=pytest.mark.slow),  # a CPU takes its time over it
    ],
    ids=["bf16", "fp16-light", "fp16"],
)
def test_half_precision_trains(tmp_path: Path, precision, line):
    folder = tmp_path / "run"
    more = [f"runtime.precision={precision}", "stages.reconstruction.steps=3"]
    assert main(["train", f"folder={folder}", *line, *more]) == 0
    assert all(torch.isfinite(value).all() for value in final(folder).values())


def test_a_list_of_steps_is_where_the_rate_falls():
    schedule = LrSchedule(warmup_steps=0, name="step", step_size=[3, 7], factor=0.5)
    values = [lr_factor(schedule, step, 10) for step in range(10)]
    assert values == [1.0] * 3 + [0.5] * 4 + [0.25] * 3


@pytest.mark.parametrize("shape", ["constant", "step", "linear", "cosine"])
def test_rates(shape):
    schedule = LrSchedule(warmup_steps=4, name=shape, step_size=10, factor=0.1)
    values = [lr_factor(schedule, step, 50) for step in range(50)]
    assert values[0] == pytest.approx(0.25, abs=0.02)
    assert max(values) <= 1
    end = {"constant": 1.0, "step": 1e-4, "linear": 0.1, "cosine": 0.1}[shape]
    assert values[-1] == pytest.approx(end)
    if shape != "constant":
        assert all(a >= b for a, b in pairwise(values[4:]))
