"""One process of a job of several: `python -m restore.worker COMMAND FOLDER`."""

import sys
from pathlib import Path

from restore import evaluate, train
from restore.cli import reporting

_WORK = {"train": train.work, "evaluate": evaluate.work}


def main() -> int:
    """Does this process's share of the job that the run folder describes."""
    command, folder = sys.argv[1], Path(sys.argv[2])
    with reporting(command) as outcome:
        outcome.code = _WORK[command](folder)
    return outcome.code


if __name__ == "__main__":
    sys.exit(main())
