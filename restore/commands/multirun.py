"""One job of a sweep, in a process of its own: what becomes of it is no matter to the others."""

import logging
import math
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache
from pathlib import Path
from typing import Any

from hydra.conf import HydraConf

from restore.commands import train
from restore.config import check, settings
from restore.engine import launcher, run_folder, status
from restore.engine.memory import SHARE
from restore.errors import MISTAKE, UserError
from restore.tools.sweep import devices, sweeps
from restore.utils import files
from restore.utils.signals import INTERRUPTED, ending

log = logging.getLogger("restore")


def run(
    config: dict[str, Any], overrides: list[str], sweep: sweeps.Sweep, about: HydraConf, main: int
) -> int:
    """Does a job, goes on with it, or says that it is done.

    Args:
        config: the job's, resolved.
        overrides: the job's, as Hydra has them.
        sweep: what the command line asked for.
        about: Hydra's own settings.
        main: the process that the command was typed for.

    Returns:
        Exit code of the job: 0; 130 when interrupted; another when it failed, and then the reason
        stands in its `status.json`.
    """
    if about.runtime.choices["hydra/launcher"] == "joblib":
        _end_with(main)
    run_folder.log_to(None)
    folder = sweeps.claim(sweep.folder, config, overrides, sweep.swept)
    if _done(folder):
        return 0
    if launcher.joined():
        return train.work(folder, _with_group(_continued(folder, config), sweep, overrides))
    with _own(folder):
        if _done(folder):
            return 0
        config = _with_group(_continued(folder, config), sweep, overrides)
        status.tell(folder, state=status.WAITING, reason=None)
        try:
            beside = at_once(about, None if sweep.jobs is None else len(sweep.jobs))
            share = {SHARE: str(sweep.room // beside)} if beside > 1 else {}
            return _launch(folder, config, share, alone=os.getpid() == main, main=main)
        except UserError as error:
            status.fail(folder, str(error))
            log.info("%s failed: %s", folder.name, error)
            return MISTAKE


def at_once(about: HydraConf, jobs: int | None) -> int:
    """The most jobs that a launcher runs side by side on this machine.

    Args:
        about: Hydra's own settings.
        jobs: how many there are; None where a sweeper that searches asks for some at a time.
    """
    if jobs is None:
        jobs = about.sweeper.get("n_jobs") or 1
    launcher = about.runtime.choices["hydra/launcher"]
    if launcher == "submitit_local":
        return jobs
    if launcher != "joblib":
        return 1  # one after the other, or each where Slurm gives it memory of its own
    from joblib import cpu_count

    wanted = about.launcher.n_jobs
    return min(jobs, wanted if wanted > 0 else max(1, cpu_count() + 1 + wanted))  # -1: every core


def best(config: dict[str, Any], overrides: list[str], sweep: sweeps.Sweep) -> float | None:
    """A job's best value of its first metric, for a sweeper that searches.

    None without one, which Optuna takes for a failed trial; NaN would end its search.
    """
    return status.read(sweeps.claim(sweep.folder, config, overrides, sweep.swept)).get("best")


@cache
def _end_with(main: int) -> None:
    """A pool's process ends with the sweep, also an idle one; its job then saves and stops."""

    def watch() -> None:
        while os.getppid() == main:
            time.sleep(0.5)
        os._exit(INTERRUPTED)

    threading.Thread(target=watch, daemon=True).start()


@contextmanager
def _own(folder: Path) -> Iterator[None]:
    """Waits until no other process is at the job, or about to be.

    A lock apart from that of the process that trains: it is held while that one still starts, and
    given back with the sweep's process, which the other may outlive for a moment.
    """
    path = folder / ".launch"
    with status.locked(path) as free:
        if free and not status.busy(folder):
            yield
            return
    log.info("%s: waiting for another process that is running it", folder.name)
    with status.locked(path, patience=math.inf):
        while status.busy(folder):
            time.sleep(0.5)
        yield


def _done(folder: Path) -> bool:
    if status.read(folder).get("state") != status.FINISHED:
        return False
    log.info("%s: done already", folder.name)
    status.tell(folder)
    return True


def _continued(folder: Path, config: dict[str, Any]) -> dict[str, Any]:
    """The configuration that the run began with, as far as it is not about where it runs."""
    config = {**config, "folder": str(folder)}
    if not (folder / "config.yaml").exists():
        return config
    saved = run_folder.read_config(folder)
    for key in sweeps.FREE:
        *path, last = key.split(".")
        target, source = saved, config
        for step in path:
            target, source = target[step], source[step]
        target[last] = source[last]
    return saved


def _with_group(
    config: dict[str, Any], sweep: sweeps.Sweep, overrides: list[str]
) -> dict[str, Any]:
    """The sweep is a group on the dashboard, what was typed its jobs' tags."""
    dashboard = config["wandb"]
    group = dashboard["group"] or sweep.folder.resolve().name
    tags = [*dashboard["tags"], *sweeps.tags(overrides)]
    return {**config, "wandb": {**dashboard, "group": group, "tags": tags}}


def _launch(
    folder: Path, config: dict[str, Any], share: dict[str, str], alone: bool, main: int
) -> int:
    """The job's process from its beginning to its end, on devices and with memory of its own."""
    runtime = check(config, settings.Train).runtime
    cuda = launcher.device(runtime).type == "cuda"
    files.write_text(folder / "config.yaml", files.to_yaml(config))
    files.write_text(folder / "environment.json", files.to_json(run_folder.environment()))
    dealt: AbstractContextManager[list[str]] = nullcontext([])
    with devices.dealt(runtime.devices) if cuda else dealt as own:
        status.tell(folder, devices=",".join(own))
        environment = {**os.environ, **share, launcher.PARENT: str(os.getpid())}
        if own:
            environment["CUDA_VISIBLE_DEVICES"] = ",".join(own)
        command = [sys.executable, "-m", "restore.commands.worker", "train", str(folder)]
        log.info("%s: starting%s", folder.name, f" on cuda {','.join(own)}" if own else "")
        if alone:
            code = _wait(subprocess.Popen(command, env=environment), None)
        else:  # the screen is not for several at once
            with open(folder / "output.txt", "a", encoding="utf-8") as file:
                process = subprocess.Popen(command, env=environment, stdout=file, stderr=file)
                code = _wait(process, main if os.getppid() == main else None)
    if code == INTERRUPTED:
        status.tell(folder, state=status.INTERRUPTED, reason=None, seconds_left=None)
    elif code:
        status.fail(folder, f"its process {ending(code)}")
    now: Mapping[str, Any] = status.read(folder)
    log.info("%s: %s %s", folder.name, now.get("state"), now.get("reason") or "")
    return code


def _wait(process: subprocess.Popen, parent: int | None) -> int:
    """The process's exit code; 130 as soon as it has ended on Ctrl-C or on its parent's end."""
    interrupted = False
    while True:
        try:
            code = process.wait(timeout=0.5)
            return INTERRUPTED if interrupted and code else code
        except subprocess.TimeoutExpired:
            if parent is not None and os.getppid() != parent and not interrupted:
                interrupted = True
                process.terminate()
        except KeyboardInterrupt:
            interrupted = True
            process.terminate()  # as Ctrl-C; to a process that a key press did not reach
