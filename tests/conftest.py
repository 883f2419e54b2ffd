"""Settings that hold for every test."""

import gc
import logging
import os
import random

# Several test processes share the cores (`make test`), and each starts others: one thread for each
# of them. It must be said before the first of them imports torch.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import hypothesis
import numpy as np
import pytest
import torch

# The same verdict every time: examples follow from a test's own text (`derandomize`), none is kept
# for the next time, and how long one takes is no matter. `make explore` draws others.
_COMMON = {
    "database": None,
    "deadline": None,
    "suppress_health_check": [hypothesis.HealthCheck.too_slow],
    "print_blob": True,
}
hypothesis.settings.register_profile("fixed", derandomize=True, **_COMMON)
hypothesis.settings.register_profile("explore", derandomize=False, **_COMMON)
hypothesis.settings.load_profile("fixed")


class _Torch:
    """Torch's generator, which Hypothesis sets before each example as it does Python's."""

    seed = staticmethod(torch.manual_seed)
    getstate = staticmethod(torch.get_rng_state)
    setstate = staticmethod(torch.set_rng_state)


_TORCH = _Torch()  # Hypothesis keeps no reference of its own
hypothesis.register_random(_TORCH)


def pytest_collection_finish() -> None:
    """What is imported by now stays, so that the collector of cycles need not walk it each time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)


@pytest.fixture(autouse=True)
def _fixed_chance(request: pytest.FixtureRequest) -> None:
    """What a test draws without a seed of its own is the same every time."""
    seed = int(request.config.getoption("--hypothesis-seed") or 0)
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002 (other people's code draws from it)
    torch.manual_seed(seed)


@pytest.fixture(autouse=True)
def _a_fresh_log() -> None:
    """The project's logger as it is before any command ran, which gives it handlers of its own."""
    logger = logging.getLogger("restore")
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
        handler.close()
    logger.propagate = True
    logger.setLevel(logging.NOTSET)
