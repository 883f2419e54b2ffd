"""Who a process is among others, as Slurm tells it."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from restore.engine import launcher, status
from restore.errors import RunFailure
from restore.utils.signals import ending
from tests.helpers.runs import start, wait_for

# What a process of `srun` does first; it prints its place, how many there are, and all places.
PROGRAM = """
from restore.engine import launcher
from restore.utils import distributed
from restore.config.settings import Runtime
runtime = Runtime(
    device="cpu", devices=1, precision="fp32", channels_last=False, compile=False, threads=1
)
with launcher.group(runtime):
    parts = distributed.gather({"place": float(distributed.rank())})
    print(distributed.rank(), distributed.world(), [part["place"] for part in parts])
"""


def environment(**slurm: str) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith("SLURM")}
    return {**kept, "MASTER_ADDR": "127.0.0.1", **slurm}


def test_the_tasks_of_a_step_find_one_another():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    started = [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM],
            stdout=subprocess.PIPE,
            text=True,
            env=environment(
                MASTER_PORT=port,
                SLURM_JOB_ID="7",
                SLURM_STEP_NUM_TASKS="2",
                SLURM_PROCID=str(place),
                SLURM_LOCALID=str(place),
            ),
        )
        for place in range(2)
    ]
    told = [process.communicate(timeout=120)[0].strip() for process in started]
    assert told == ["0 2 [0.0, 1.0]", "1 2 [0.0, 1.0]"]


def test_a_batch_script_without_srun_is_one_process(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "SLURM_STEP_NUM_TASKS"):
        monkeypatch.delenv(name, raising=False)
    batch = {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "4", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"}
    for name, value in batch.items():
        monkeypatch.setenv(name, value)
    assert not launcher.joined()


@pytest.mark.slow
def test_a_process_that_is_killed_is_told_with_the_signal(tmp_path: Path):
    folder = tmp_path / "run"
    process = start(folder, "runtime.devices=2", "stages.reconstruction.steps=100000")
    wait_for(lambda: status.read(folder).get("step", 0) >= 1, process)
    os.kill(status.read(folder)["pid"], signal.SIGKILL)
    said, _ = process.communicate(timeout=100)
    assert process.returncode == 1
    why = "process 0 of the job was killed (SIGKILL), as the system does where memory runs out"
    assert said.splitlines()[-1] == f"restore train: {why}"
    assert "Traceback" not in said
    assert "torch/distributed/elastic" not in said
    assert status.read(folder)["state"] == "failed"
    assert status.read(folder)["reason"] == why


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGBUS, signal.SIGKILL])
def test_signals_by_name(number):
    code = f"import os; os.kill(os.getpid(), {int(number)})"
    ended = ending(subprocess.run([sys.executable, "-c", code]).returncode)
    assert number.name in ended
    assert ("memory" in ended) == (number is signal.SIGKILL)
    assert ending(3) == "ended with code 3"


def test_the_process_that_began_it_is_told():
    """What the others and the launcher made of it is not; by rank: exit code, seconds."""
    with pytest.raises(RunFailure, match="process 1 of the job was ended by SIGSEGV"):
        launcher._failed({0: (1, 100), 1: (-signal.SIGSEGV, 100), 2: (-signal.SIGTERM, 100)})
    assert launcher._failed({0: (-signal.SIGKILL, 131), 1: (3, 100)}) == 3, "it hung"
    assert launcher._failed({0: (-signal.SIGTERM, 101), 1: (2, 100)}) == 2
    assert launcher._failed({0: (-signal.SIGINT, 100), 1: (1, 100)}) == 130
    terminated = {0: (-signal.SIGTERM, 100), 1: (130, 100)}
    assert launcher._failed(terminated, asked=True) == 130, "one was not yet ready to be asked"
    assert launcher._failed({**terminated, 2: (1, 100)}, asked=True) == 1
    with pytest.raises(RunFailure, match="process 0 of the job was ended by SIGTERM"):
        launcher._failed({0: (-signal.SIGTERM, 100), 1: (-signal.SIGTERM, 100)})
