"""A sweep: one folder a job whatever its order, no job ends another, and typed again it goes on."""

import itertools
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from restore.cli import main
from restore.commands import multirun
from restore.config import check, compose, plain, registry
from restore.config.settings import Train
from restore.engine import memory, status
from restore.errors import UserError
from restore.models import checkpoint
from restore.tools.sweep import devices, sweeps
from tests.helpers.runs import LIGHT, TINY, assert_equal_runs, train, wait_for

SMALL = [*LIGHT, "stages.reconstruction.steps=4", "trainer.save_every=1", "trainer.valid_every=4"]
# Hundreds of steps go by while one looks.
LONG = [
    *LIGHT,
    *("stages.reconstruction.steps=300", "trainer.valid_every=300", "trainer.save_every=10"),
]
TWO_AT_ONCE = ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]


def sweep(folder: Path, *overrides: str) -> int:
    return main(["train", "-m", f"folder={folder}", *SMALL, *overrides])


def states(folder: Path) -> dict[str, str]:
    return {p.parent.name: sweeps.state(p.parent)["state"] for p in folder.glob("*/job.json")}


def start(folder: Path, *overrides: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "restore", "train", "-m", f"folder={folder}", *overrides]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def wait_until_gone(pid: int) -> None:
    with suppress(psutil.NoSuchProcess):
        psutil.Process(pid).wait(timeout=60)


@pytest.mark.slow
def test_kill_9_then_the_same_command_equals_never_having_stopped(tmp_path: Path, capfd):
    folder = tmp_path / "sweep"
    process = start(folder, "seed=1,2", *LONG)
    first = folder / "seed=1"
    wait_for(lambda: (first / "checkpoints" / "last.pt").exists(), process)
    child = status.read(first)["pid"]
    process.kill()
    process.communicate()
    wait_until_gone(child)  # the job's own process does not train on alone
    assert states(folder) == {"seed=1": "interrupted", "seed=2": "waiting"}
    again = ["train", "-m", *LONG, "seed=2,1", f"folder={folder}"]
    assert main(again) == 0, "in another order"
    said = capfd.readouterr().out
    assert "2 jobs, 1 to go on with, 1 from the start" in said
    assert "going on at step" in said
    assert states(folder) == {"seed=1": "finished", "seed=2": "finished"}
    assert main(["train", f"folder={tmp_path / 'undisturbed'}", *LONG, "seed=1"]) == 0
    assert_equal_runs(first, tmp_path / "undisturbed")
    before = {p: p.stat().st_mtime_ns for p in folder.glob("*/checkpoints/*")}
    assert main(again) == 0
    said = capfd.readouterr().out
    assert "2 done already" in said
    assert "seed=1: done already" in said
    assert before == {p: p.stat().st_mtime_ns for p in folder.glob("*/checkpoints/*")}


@pytest.mark.slow
def test_kill_9_of_two_at_once_then_the_same_command_equals_the_undisturbed(tmp_path: Path, capfd):
    folder = tmp_path / "sweep"
    process = start(folder, "seed=1,2", *LONG, *TWO_AT_ONCE)
    jobs = [folder / "seed=1", folder / "seed=2"]
    saved = [job / "checkpoints" / "last.pt" for job in jobs]
    wait_for(lambda: all(path.exists() for path in saved), process)
    children = [status.read(job)["pid"] for job in jobs]
    process.kill()
    process.communicate()
    for child in children:
        wait_until_gone(child)
    assert states(folder) == {"seed=1": "interrupted", "seed=2": "interrupted"}
    steps = [checkpoint.read(path)["step"] for path in saved]
    assert all(0 < step < 300 for step in steps)
    assert main(["train", "-m", *TWO_AT_ONCE, *LONG, "seed=2,1", f"folder={folder}"]) == 0
    assert "2 jobs, 2 to go on with, 0 from the start" in capfd.readouterr().out
    assert states(folder) == {"seed=1": "finished", "seed=2": "finished"}
    assert main(["train", f"folder={tmp_path / 'undisturbed'}", *LONG, "seed=2"]) == 0
    assert_equal_runs(jobs[1], tmp_path / "undisturbed")


@pytest.mark.slow
def test_jobs_at_once_say_that_they_search_and_share_the_memory(tmp_path: Path):
    folder = tmp_path / "sweep"
    there = memory.available()
    process = start(folder, "seed=1,2", *LONG, *TWO_AT_ONCE, "trainer.batch_size=auto")
    jobs = [folder / "seed=1", folder / "seed=2"]
    shares: dict[Path, int] = {}
    place = rf"{re.escape(socket.gethostname())}:(\d+)"

    def told(job: Path) -> bool:
        line = rf"{job.name} +searching +batches of \d+ +{place}"
        if job not in shares and (found := re.search(line, sweeps.table([job]))):
            shares[job] = int(psutil.Process(int(found[1])).environ()[memory.SHARE])
        return job in shares

    wait_for(lambda: sum(map(told, jobs)) == len(jobs), process)
    children = [status.read(job)["pid"] for job in jobs]
    process.kill()
    process.communicate()
    for child in children:
        wait_until_gone(child)
    assert sum(shares.values()) == pytest.approx(there, rel=0.2)
    assert set(states(folder).values()) == {"interrupted"}


@pytest.mark.parametrize(
    ("words", "jobs", "expected"),
    [
        ([], 12, 1),
        ([*TWO_AT_ONCE], 12, 2),
        ([*TWO_AT_ONCE], 1, 1),
        (["hydra/launcher=joblib"], 1000, os.cpu_count()),
        (["hydra/launcher=joblib", "hydra.launcher.n_jobs=-2"], 1000, max(1, os.cpu_count() - 1)),
        (["hydra/launcher=submitit_local"], 12, 12),
        (["hydra/launcher=submitit_slurm"], 12, 1),
        ([*TWO_AT_ONCE, "hydra/sweeper=optuna", "hydra.sweeper.n_jobs=1"], None, 1),
    ],
    ids=str,
)
def test_how_many_jobs_run_side_by_side(words, jobs, expected):
    about = compose("train", words, with_hydra=True).hydra
    assert multirun.at_once(about, jobs) == expected


@pytest.mark.slow
def test_of_two_at_once_one_is_killed_and_then_the_sweep(tmp_path: Path):
    folder = tmp_path / "sweep"
    process = start(folder, "seed=1,2", *LONG, *TWO_AT_ONCE, "stages.reconstruction.steps=100000")
    one, other = folder / "seed=1", folder / "seed=2"
    wait_for(lambda: all(status.read(job).get("step", 0) >= 1 for job in (one, other)), process)
    os.kill(status.read(one)["pid"], signal.SIGKILL)
    wait_for(lambda: states(folder) == {"seed=1": "failed", "seed=2": "running"}, process)
    assert "killed (SIGKILL)" in sweeps.table([one, other])
    child = status.read(other)["pid"]
    process.kill()
    process.communicate()
    wait_until_gone(child)
    assert states(folder) == {"seed=1": "failed", "seed=2": "interrupted"}


def test_a_job_that_another_sweep_begins_is_not_begun_twice(tmp_path: Path):
    """A job's process takes seconds to start; until then the sweep itself holds the folder."""
    order: list[str] = []
    with multirun._own(tmp_path):
        second = threading.Thread(target=lambda: order.append(owned(tmp_path)))
        second.start()
        second.join(0.5)
        order.append("first")
    second.join(10)
    assert order == ["first", "second"]


def owned(folder: Path) -> str:
    with multirun._own(folder):
        return "second"


def test_what_a_killed_process_was_writing_goes(tmp_path: Path):
    left = tmp_path / "checkpoints" / ".last.123.pt"
    left.parent.mkdir()
    left.touch()
    with status.held(tmp_path):
        assert not left.exists()


@pytest.mark.slow
def test_a_job_that_fails_ends_no_other(tmp_path: Path, capfd):
    folder = tmp_path / "sweep"
    weight = "stages.reconstruction.objectives.restoration.losses.reconstruction.weight"
    assert sweep(folder, f"{weight}=1e39,0.5", "stages.reconstruction.steps=2") == 1
    assert states(folder) == {"weight=1e+39": "failed", "weight=0.5": "finished"}
    why = status.read(folder / "weight=1e+39")["reason"]
    assert "the weights were not updated with it" in why
    said = capfd.readouterr().out
    assert f"weight=1e+39: {why}" in said[said.index("best") :], "in the table at the end"
    assert "1 failed" in said
    assert main(["sweep", str(folder)]) == 0
    shown = capfd.readouterr().out
    assert re.search(r"weight=0.5 +finished +2/2 100% +valid/psnr\S+ \d", shown)
    assert why in shown


@pytest.mark.slow
def test_a_setting_that_is_refused_fails_its_job_alone(tmp_path: Path, capfd):
    folder = tmp_path / "sweep"
    odd = ["trainer.batch_size=0,4", "stages.reconstruction.steps=1"]
    assert sweep(folder, *odd) == 1
    assert states(folder) == {"batch_size=0": "failed", "batch_size=4": "finished"}
    assert "trainer.batch_size=0" in status.read(folder / "batch_size=0")["reason"]


def test_a_name_that_is_not_there_is_refused_before_any_job(tmp_path: Path, capfd):
    line = ["train", "-m", f"folder={tmp_path / 'sweep'}", *TINY, "attention=hard,sofft"]
    assert main(line) == 2
    assert "attention=sofft: no such choice" in capfd.readouterr().err
    assert not (tmp_path / "sweep").exists()


@pytest.mark.slow
def test_two_jobs_at_once_of_two_processes_each(tmp_path: Path):
    folder = tmp_path / "sweep"
    jobs = ["seed=1,2", "runtime.devices=2", "stages.reconstruction.steps=1"]
    assert sweep(folder, *TWO_AT_ONCE, *jobs) == 0
    assert states(folder) == {"seed=1": "finished", "seed=2": "finished"}
    began = [status.read(folder / f"seed={seed}")["started"] for seed in (1, 2)]
    ended = [(folder / f"seed={seed}" / "summary.json").stat().st_mtime for seed in (1, 2)]
    assert max(began) < min(ended), "one after the other"


@pytest.mark.slow
def test_ctrl_c_ends_the_sweep_and_the_job_is_saved(tmp_path: Path):
    folder = tmp_path / "sweep"
    command = [sys.executable, "-m", "restore", "train", "-m", f"folder={folder}", "seed=1,2"]
    long = ["stages.reconstruction.steps=9999", "trainer.save_every=999", "trainer.valid_every=999"]
    process = subprocess.Popen(
        [*command, *LIGHT, *long], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    wait_for(lambda: status.read(folder / "seed=1").get("step", 0) >= 1, process)
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert states(folder) == {"seed=1": "interrupted", "seed=2": "waiting"}
    assert (folder / "seed=1" / "checkpoints" / "last.pt").exists()
    assert "the same command goes on with it" in said


PARTS = ["seed=1,2", "attention=soft,hard", "trainer.batch_size=4", "wandb.mode=disabled"]


@pytest.mark.slow
def test_the_order_of_overrides_is_no_matter(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    one = sweeps.prepare(PARTS)
    other = sweeps.prepare(list(reversed(PARTS)))
    assert one.folder == other.folder
    assert one.folder.parent == Path("runs/sweeps")
    assert set(one.jobs or ()) == set(other.jobs or ())
    names = {f"attention={a},seed={s}" for a in ("soft", "hard") for s in (1, 2)}
    assert {job.name for job in one.jobs or ()} == names
    more = sweeps.prepare([*PARTS[1:], "seed=2,3"])
    assert more.folder == one.folder, "the values that are swept are no part of the name"
    another = sweeps.prepare([*PARTS, "trainer.ema=0.9"])
    assert another.folder != one.folder


def test_the_same_parameters_are_the_same_job_however_typed(tmp_path: Path):
    folder = f"folder={tmp_path}"
    swept = sweeps.prepare([folder, "seed=1,2", "trainer.batch_size=9"]).jobs
    fixed = sweeps.prepare([folder, "seed=2", "trainer.batch_size=9,4"]).jobs
    assert swept
    assert fixed
    assert fixed[0] == swept[1], "9 is what it is anyway, and the seed the same"
    assert len({*swept, *fixed}) == 3
    other = sweeps.prepare([folder, "seed=1", "trainer.batch_size=9,4", "trainer.ema=0.9"]).jobs
    assert other
    assert not {*other} & {*swept, *fixed}, "one name, but another job"


keys = st.lists(st.from_regex(r"[a-c](\.[a-c]){0,2}", fullmatch=True), min_size=1, unique=True)


@settings(max_examples=40, deadline=None)
@given(keys=keys, seed=st.integers(0, 99))
def test_names_are_short_ends_that_tell_the_keys_apart(keys, seed):
    short = sweeps._short(keys)
    assert len(set(short.values())) == len(keys)
    assert all(f".{key}".endswith(f".{end}") for key, end in short.items())
    shuffled = random.Random(seed).sample(keys, len(keys))
    assert sweeps._short(shuffled) == short


@settings(max_examples=40, deadline=None)
@given(values=st.dictionaries(st.sampled_from("abcdef"), st.integers(0, 2)), seed=st.integers(0, 9))
def test_identity_knows_no_order_and_no_place(values, seed):
    shuffled = dict(random.Random(seed).sample([*values.items()], len(values)))
    where = {"folder": "x", "wandb": {"mode": "online"}, "runtime": {"devices": 4}}
    elsewhere = {"folder": "y", "wandb": {"mode": "offline"}, "runtime": {"devices": 1}}
    own = sweeps.identity({**values, **where}, {})
    assert own == sweeps.identity({**elsewhere, **shuffled}, {})
    assert own != sweeps.identity({**values, **where, "g": 1}, {})
    assert own != sweeps.identity({**values, **where}, {"runtime.devices": "4"}), "when swept"


JOBS = {  # as their descriptions say
    "attention_variants": 5 * 3,
    "attention_published": 6 * 3,
    "embedding_sizes": 4 * 3,
    "wdsr_comparison": 4 + 2 * 4 * 3,
}


# Hundreds of jobs are composed; one sweep of each length every time.
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(x, marks=[] if x == "embedding_sizes" else [pytest.mark.slow])
        for x in registry.names("sweep")
    ],
)
def test_every_value_of_a_named_sweep_is_there(name: str):
    root = ["data.root=x"]
    roots = {"course": root, "thesis": [*root, "masks.root=x"], "wdsr_comparison": root}
    roots |= {"edsr_blocks": root, "wdsr_blocks": root}
    grids = [sweeps._Grid(grid) for grid in sweeps._grids([f"sweep={name}", *roots.get(name, [])])]
    if not grids[0].every:
        return  # a sweeper that searches
    jobs = [job for grid in grids for job in grid.jobs()]
    assert len({tuple(sorted(job)) for job in jobs}) == len(jobs) == JOBS.get(name, len(jobs))
    seen: set[str] = set()
    for job in jobs:
        if set(job) - seen:
            check(plain(compose("train", job)), Train)
            seen |= set(job)


@pytest.mark.slow
def test_a_sweep_may_be_made_of_sweeps(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    typed = ["seed=1", "experiment=demo"]
    named = sweeps.prepare(["sweep=attention_variants", *typed])
    assert named.folder == Path("runs/sweeps/demo-attention_variants-" + named.folder.name[-6:])
    rules = {"hard", "soft", "projection", "reduced"}
    expected = {f"attention={rule},seed=1" for rule in rules} | {"reference=none,seed=1"}
    assert {job.name for job in named.jobs or ()} == expected
    one = sweeps.prepare(["sweep=attention_rules,no_reference", *typed])
    other = sweeps.prepare([*typed, "sweep=no_reference,attention_rules"])
    assert one.folder == other.folder
    assert set(one.jobs or ()) == set(other.jobs or ())
    assert len(one.jobs or ()) == 5


@pytest.mark.slow
def test_a_random_search_goes_on_after_a_failed_trial(tmp_path: Path, capfd):
    folder = tmp_path / "sweep"
    parts = ["blocks", "convolutions", "width", "growth"]
    small = [f"backbone.mapping.{part}=int(interval(1,3))" for part in parts]
    # With this seed the first of three has a batch of 0.
    size = ["task.crop=16", "trainer.batch_size=choice(0,1)", "hydra.sweeper.n_trials=2"]
    plain = [word for word in TINY if not word.startswith(("backbone.", "task.", "trainer.batch"))]
    steps = ["stages.reconstruction.steps=1", "trainer.valid_every=1"]
    command = ["train", "-m", "sweep=asdn_search", f"folder={folder}"]
    command += [*plain, *small, *size, *steps]
    assert main(command) == 1
    done = states(folder)
    assert sorted(done.values()) == ["failed", "finished"], "one failed trial ends no search"
    capfd.readouterr()
    assert main(command) == 1
    assert states(folder) == done
    assert capfd.readouterr().out.count(": done already") == 1


def test_a_named_sweep_is_no_single_run(tmp_path: Path, capfd):
    assert train(tmp_path / "run", "sweep=embedding_sizes") == 2
    assert "add -m" in capfd.readouterr().err
    assert not (tmp_path / "run").exists()


TAKE = """
import sys, time
from restore.tools.sweep import devices
with devices.dealt(int(sys.argv[1])) as own:
    print(time.monotonic(), ",".join(own), flush=True)
    time.sleep(float(sys.argv[2]))
    print(time.monotonic(), flush=True)
"""


def take(count: int, seconds: float, folder: Path) -> subprocess.Popen:
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "3,7", "TMPDIR": str(folder)}
    command = [sys.executable, "-c", TAKE, str(count), str(seconds)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)


def test_no_two_jobs_share_a_device(tmp_path: Path):
    jobs = [take(count, 0.3, tmp_path) for count in (1, 2, 1)]
    spans = []
    for job in jobs:
        first, last = job.communicate(timeout=60)[0].splitlines()
        begin, own = first.split()
        spans += [(device, float(begin), float(last)) for device in own.split(",")]
    assert {device for device, _, _ in spans} == {"3", "7"}
    for (one, begin, end), (other, start, stop) in itertools.combinations(spans, 2):
        assert one != other or end <= start or stop <= begin


def test_a_job_that_was_killed_leaves_its_device(tmp_path: Path):
    held = take(2, 100, tmp_path)
    assert held.stdout
    assert held.stdout.readline().split()[1] == "3,7"
    held.kill()
    held.wait()
    assert take(2, 0, tmp_path).communicate(timeout=30)[0].split()[1] == "3,7"


def test_more_devices_than_there_are(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    with pytest.raises(UserError, match=r"runtime.devices=2: there are 1"), devices.dealt(2):
        pass


@pytest.mark.slow
def test_a_run_in_use_is_not_trained_in_twice(tmp_path: Path, capfd):
    folder = tmp_path / "run"
    assert train(folder, "stages.reconstruction.steps=1") == 0
    (folder / "checkpoints" / "last.pt").rename(tmp_path / "last.pt")
    with status.held(folder):
        assert status.busy(folder)
        assert main(["train", f"resume={folder}"]) == 2
    assert "is in use by" in capfd.readouterr().err
    assert not status.busy(folder)
    assert status.read(folder)["state"] == "finished", "who was refused leaves the status alone"


def test_status_is_whole_at_any_moment(tmp_path: Path):
    status.tell(tmp_path, state="running", step=0)
    end = time.monotonic() + 0.5
    code = "import sys; from pathlib import Path; from restore.engine import status\n"
    code += "while True: status.tell(Path(sys.argv[1]), state='running', reason='x' * 5000)"
    writer = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)])
    try:
        while time.monotonic() < end or "reason" not in status.read(tmp_path):
            json.loads((tmp_path / "status.json").read_text())
            assert writer.poll() is None
    finally:
        writer.kill()
        writer.wait()
