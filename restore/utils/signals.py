"""Signals: as a wish to stop, fulfilled between two steps, and as the end of a process.

Ctrl-C, and what ends a job on a cluster or in a container (SIGTERM), or with its terminal (SIGHUP),
often reach every process of a job at once. One of them decides, the others leave it to that one.
"""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psutil

STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

# Exit code of a command that was asked to stop, whichever signal asked.
INTERRUPTED = 130


def ending(code: int) -> str:
    """How a process ended, by its exit code (negative: of a signal), to follow its name."""
    if code == -signal.SIGKILL:
        return "was killed (SIGKILL), as the system does where memory runs out"
    if code < 0:
        return f"was ended by {signal.Signals(-code).name}"
    return f"ended with code {code}"


@contextmanager
def _handled(handlers: dict[int, Any]) -> Iterator[None]:
    """Has signals handled so while it lasts; those that are ignored (`nohup`) stay ignored."""
    if threading.current_thread() is not threading.main_thread():
        yield  # Python lets no other thread choose
        return
    heeded = {n: h for n, h in handlers.items() if signal.getsignal(n) is not signal.SIG_IGN}
    before = {number: signal.signal(number, handler) for number, handler in heeded.items()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def interrupting() -> Iterator[None]:
    """While it lasts, SIGTERM and SIGHUP are what Ctrl-C is: a KeyboardInterrupt."""

    def handle(number: int, frame: Any) -> None:
        for other in (signal.SIGTERM, signal.SIGHUP):  # a second one must not disturb the end
            signal.signal(other, signal.SIG_IGN)
        raise KeyboardInterrupt

    with _handled({signal.SIGTERM: handle, signal.SIGHUP: handle}):
        yield


@contextmanager
def asking(ask: Callable[[], None], speak: bool = True) -> Iterator[None]:
    """While it lasts, a signal asks to stop; a second Ctrl-C stops at once.

    Args:
        ask: called for each.
        speak: whether this process says so.
    """

    def handle(number: int, frame: Any) -> None:
        ask()
        signal.signal(signal.SIGINT, signal.default_int_handler)
        if speak:  # past Python's buffers, which it may have been writing to at this moment
            notice = "stopping after this step; Ctrl-C to stop at once, without saving"
            os.write(2, f"\n{notice}\n".encode())

    with _handled(dict.fromkeys(STOPPING, handle)):
        yield


@contextmanager
def forwarding() -> Iterator[Callable[[], bool]]:
    """While it lasts, a signal asks this process's children to stop, and it waits for them.

    Gives what tells whether there was one. Where there is no child yet, it is a KeyboardInterrupt.
    """
    asked = False

    def handle(number: int, frame: Any) -> None:
        nonlocal asked
        asked = True
        signal.signal(signal.SIGINT, signal.default_int_handler)
        children = [c for c in psutil.Process().children() if c.status() != psutil.STATUS_ZOMBIE]
        if not children:
            raise KeyboardInterrupt
        for child in children:
            child.terminate()

    with _handled(dict.fromkeys(STOPPING, handle)):
        yield lambda: asked


@contextmanager
def held_back() -> Iterator[None]:
    """Signals wait while this lasts, also in processes that are begun meanwhile."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def leave_to_parent() -> None:
    """From now on this process is ended by its parent alone, by SIGTERM or by its own end.

    What reaches the whole group of processes is for the parent to act on.
    """
    parent = os.getppid()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})

    def wait() -> None:
        while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
            pass
        os._exit(0)

    threading.Thread(target=wait, daemon=True).start()
