"""One job on one or many processes.

A job of several devices is started here as commands of their own (`python -m
restore.commands.worker`), one a device, by torch's elastic launcher; where a launcher has already
made the processes (torchrun, Slurm), the job joins them. Nothing else in the project knows the
difference.
"""

import logging
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
import torch.distributed as dist

from restore.config.settings import Runtime
from restore.errors import RunFailure, UserError
from restore.utils.signals import INTERRUPTED, ending, forwarding

# Tells a process that we start the number of the one that did.
PARENT = "RESTORE_PARENT"


def device(runtime: Runtime) -> torch.device:
    """The device of this process. Raises UserError when the one asked for is not there."""
    available = torch.cuda.device_count()
    name = runtime.device
    if name == "auto":
        name = "cuda" if available else "cpu"
    if name == "cpu":
        return torch.device("cpu")
    if not available:
        raise UserError(
            "runtime.device=cuda: this machine has no CUDA device that torch can use; "
            "take runtime.device=cpu"
        )
    local = int(os.environ.get("LOCAL_RANK", 0))
    if max(local + 1, runtime.devices if "RANK" not in os.environ else 1) > available:
        raise UserError(
            f"runtime.devices={runtime.devices}: this machine has {available} CUDA device(s)"
        )
    return torch.device("cuda", local)


def refuse_compile(runtime: Runtime) -> None:
    """Raises UserError when whole pictures, each of its own size, are to be compiled for."""
    if runtime.compile:
        raise UserError(
            "runtime.compile=true: it is only for training; here pictures differ in "
            "size, and each size would be compiled again: leave it out"
        )


def joined() -> bool:
    """Whether a launcher has made this process one of several."""
    # srun alone tells a step's tasks; a batch script has SLURM_PROCID and SLURM_NTASKS as well, but
    # what is typed there without srun is one process, which would wait for the others for ever.
    if "RANK" not in os.environ and int(os.environ.get("SLURM_STEP_NUM_TASKS", 1)) > 1:
        _read_slurm()
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


def _read_slurm() -> None:
    """Gives torch's names to what `srun` says about this process."""
    os.environ["RANK"] = os.environ["SLURM_PROCID"]
    os.environ["WORLD_SIZE"] = os.environ["SLURM_STEP_NUM_TASKS"]
    os.environ["LOCAL_RANK"] = os.environ.get("SLURM_LOCALID", "0")
    if "MASTER_ADDR" not in os.environ:
        listed = subprocess.run(
            ["scontrol", "show", "hostnames", os.environ["SLURM_JOB_NODELIST"]],
            capture_output=True,
            text=True,
            check=True,
        )
        os.environ["MASTER_ADDR"] = listed.stdout.split()[0]
    os.environ.setdefault("MASTER_PORT", str(20000 + int(os.environ["SLURM_JOB_ID"]) % 40000))


@contextmanager
def group(runtime: Runtime) -> Iterator[torch.device]:
    """Joins the process group where there is one, and gives this process's device."""
    own = device(runtime)
    if runtime.threads:
        torch.set_num_threads(runtime.threads)
    if not joined() or dist.is_initialized():
        yield own
        return
    if own.type == "cuda":
        torch.cuda.set_device(own)
    dist.init_process_group("nccl" if own.type == "cuda" else "gloo")
    try:
        yield own
    finally:
        dist.destroy_process_group()


def launch(command: str, folder: Path, runtime: Runtime) -> int:
    """Runs `python -m restore.commands.worker COMMAND FOLDER` once a device; returns the exit code.

    Raises RunFailure when a process did not end by itself: it had no chance to say why.
    """
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    device(runtime)  # a sentence now rather than one from each worker
    if runtime.threads is None and "OMP_NUM_THREADS" not in os.environ:
        # Without it each process would take every core.
        share = max(1, (os.cpu_count() or 1) // runtime.devices)
        os.environ["OMP_NUM_THREADS"] = str(share)
    os.environ[PARENT] = str(os.getpid())
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=runtime.devices,
        run_id=f"restore-{os.getpid()}",
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
        monitor_interval=0.2,
        signals_to_handle="SIGQUIT",  # the others would leave the processes half a minute to save
    )
    with forwarding() as asked, _quiet():
        try:
            elastic_launch(config, sys.executable)(
                "-m", "restore.commands.worker", command, str(folder)
            )
        except ChildFailedError as error:
            ends = {rank: (f.exitcode, f.timestamp) for rank, f in error.failures.items()}
            return _failed(ends, asked())
    return 0


def deserted(error: RuntimeError) -> bool:
    """Whether an error says that another process of the group does not answer any more."""
    return isinstance(error, dist.DistError) or "gloo" in str(error)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what torch's launcher says of a process that failed, which we say in a sentence."""
    loggers = [
        logging.getLogger(name)
        for name in list(logging.root.manager.loggerDict)
        if name.startswith("torch.distributed.elastic")
    ]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels):
            logger.setLevel(level)


def _failed(ends: dict[int, tuple[int, int]], asked: bool = False) -> int:
    """The exit code of a job whose processes ended so: by rank, exit code and time in seconds.

    Args:
        ends: of the processes that ended with a code.
        asked: whether they were asked to stop.

    Raises RunFailure, see `launch`.
    """
    if asked and {code for code, _ in ends.values()} <= {0, INTERRUPTED, -signal.SIGTERM}:
        return INTERRUPTED
    # The others fail over the one that is gone; whoever does not is ended by the launcher, with
    # SIGTERM at once and with SIGKILL half a minute later. Neither is the reason.
    begun = min(time for _, time in ends.values())
    early = {rank: code for rank, (code, time) in ends.items() if time < begun + 10}
    if -signal.SIGINT in early.values():  # Ctrl-C, while it still began
        return INTERRUPTED
    own = {rank: code for rank, code in early.items() if code not in (0, -signal.SIGTERM)}
    rank, code = min((own or early).items(), key=lambda end: (end[1] > 0, end[1] == INTERRUPTED))
    if code > 0:
        return code
    raise RunFailure(f"process {rank} of the job {ending(code)}")
