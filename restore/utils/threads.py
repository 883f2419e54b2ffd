"""Work that is cut among threads coarsely.

Torch's own operations share out each for itself, and wait after each until the last thread is done.
Many short ones then cost, where another program keeps a core busy, as many turns of the system's
clock. A thread that does many of them alone waits for nobody until its part is done.
"""

import os
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import TypeVar

import torch

Part = TypeVar("Part")


def each(work: Callable[[Part], None], parts: Iterable[Part]) -> None:
    """Does the work on every part, on as many threads as torch may use.

    Each runs torch's operations on its one thread, without gradients. What one raises is raised.
    """
    inference = torch.is_inference_mode_enabled()

    def act(part: Part) -> None:
        with torch.inference_mode(inference), torch.no_grad():
            work(part)

    pool = _pool(os.getpid(), torch.get_num_threads())
    for done in [pool.submit(act, part) for part in parts]:
        done.result()


@lru_cache(maxsize=1)
def _pool(process: int, count: int) -> ThreadPoolExecutor:
    """So many threads of this process (a fork has none of its parent's)."""
    begun = threading.Barrier(count + 1)

    def begin() -> None:
        torch.get_num_threads()  # a thread takes the common number when it first asks for it
        torch.set_num_threads(1)
        begun.wait()

    pool = ThreadPoolExecutor(count, "restore", begin)
    for _ in range(count):
        pool.submit(int)
    begun.wait()
    # The number is kept a thread; but a thread that is new takes the last that any has set.
    torch.set_num_threads(count)
    return pool
