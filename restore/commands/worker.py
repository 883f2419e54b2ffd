"""One process of a job: `python -m restore.commands.worker COMMAND FOLDER`."""

import os
import signal
import sys
import threading
import time
from pathlib import Path

from restore.commands import evaluate, train
from restore.commands.outcome import reporting, speak_anyhow
from restore.config import check, settings
from restore.engine import launcher, run_folder
from restore.errors import RunFailure

_WORK = {"train": train.work, "evaluate": evaluate.work}


def main() -> int:
    """Does this process's share of the job that the run folder describes."""
    command, folder = sys.argv[1], Path(sys.argv[2])
    _end_with_parent()
    speak_anyhow()
    with reporting(command) as outcome:
        if command == "train" and not launcher.joined():  # a whole job, of a sweep
            runtime = check(run_folder.read_config(folder), settings.Train).runtime
            if runtime.devices > 1:
                outcome.code = train.launch(folder, runtime)
                return outcome.code
        try:
            outcome.code = _WORK[command](folder)
        except RuntimeError as error:
            if not (launcher.joined() and launcher.deserted(error)):
                raise
            raise RunFailure(
                f"process {os.environ['RANK']}: another process of this job has stopped"
            ) from error
    return outcome.code


def _end_with_parent() -> None:
    """Asks this process to stop once the one that started it is gone, however that ended.

    Otherwise what `kill -9` leaves would train on, beside the run that is started in its place.
    """
    parent = int(os.environ.get(launcher.PARENT, 0))

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os.kill(os.getpid(), signal.SIGTERM)

    if parent:
        threading.Thread(target=watch, daemon=True).start()


if __name__ == "__main__":
    sys.exit(main())
