"""Who a process is among others, as Slurm tells it."""

import os
import socket
import subprocess
import sys

from restore.runs import distributed

# What a process of `srun` does first; it prints its place, how many there are, and all places.
PROGRAM = """
from restore.runs import distributed
from restore.settings import Runtime
runtime = Runtime(
    device="cpu", devices=1, precision="fp32", channels_last=False, compile=False, threads=1
)
with distributed.group(runtime):
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
    assert not distributed.joined()
