"""Signals: as a wish to stop, fulfilled between two steps, and as the end of a process."""

import logging
import signal
from collections.abc import Callable
from typing import Any

log = logging.getLogger("restore")


def ending(code: int) -> str:
    """How a process ended, by its exit code (negative: of a signal), to follow its name."""
    if code == -signal.SIGKILL:
        return "was killed (SIGKILL), as the system does where memory runs out"
    if code < 0:
        return f"was ended by {signal.Signals(-code).name}"
    return f"ended with code {code}"


class Signals:
    """While it lasts, Ctrl-C and SIGTERM ask to stop; a second Ctrl-C stops at once."""

    def __init__(self, ask: Callable[[], None]):
        self.ask = ask

    def __enter__(self) -> "Signals":
        def handle(number: int, frame: Any) -> None:
            self.ask()
            signal.signal(signal.SIGINT, signal.default_int_handler)
            log.info("stopping after this step; once more to stop at once, without saving")

        self._before = {
            number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)
        }
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
