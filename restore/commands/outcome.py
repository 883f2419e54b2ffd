"""How a command ends: a user's mistake, a failure or Ctrl-C as a sentence and an exit code."""

import io
import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from restore.errors import FAILURE, MISTAKE, RunFailure, UserError
from restore.utils.files import REFUSALS, refusal
from restore.utils.signals import INTERRUPTED, interrupting


@dataclass
class Outcome:
    """The exit code of what ran under `reporting`."""

    code: int = 0


@contextmanager
def reporting(command: str) -> Iterator[Outcome]:
    """Turns a user's mistake into one sentence and exit code 2, Ctrl-C and SIGTERM into 130.

    RESTORE_TRACEBACK=1 shows where a mistake was noticed.
    """
    outcome = Outcome()
    try:
        with interrupting():
            yield outcome
    except UserError as error:
        say(command, str(error))
        outcome.code = MISTAKE
    except RunFailure as error:
        say(command, str(error))
        outcome.code = FAILURE
    except KeyboardInterrupt:
        say(command, "interrupted")
        outcome.code = INTERRUPTED
    except BrokenPipeError:  # the reader of the output, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        if error.errno not in REFUSALS:
            raise
        place = f" {error.filename}" if error.filename else ""
        say(command, f"cannot write{place}: {refusal(error)}")
        outcome.code = MISTAKE


def speak_anyhow() -> None:
    """What the screen's encoding lacks is no reason to end: it is shown as its number."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def say(command: str, sentence: str) -> None:
    """Prints what went wrong, on the error output."""
    if os.environ.get("RESTORE_TRACEBACK") == "1":
        traceback.print_exc()
    print(f"restore {command}: {sentence}" if command else f"restore: {sentence}", file=sys.stderr)
