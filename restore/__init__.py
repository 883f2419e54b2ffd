"""Image restoration with and without references.

    import restore

    net = restore.load("wdsr_b_x4")
    net("photo.jpg").save("sharp.png")

Everything here is loaded when it is first used: `import restore` itself costs nothing.
"""

from collections.abc import Iterable
from importlib import import_module
from typing import TYPE_CHECKING, Any

from restore.errors import RunFailure, UserError
from restore.version import __version__

if TYPE_CHECKING:
    from restore.api import EvaluationRun, TrainingRun, build, evaluate, load, train
    from restore.api import choices as list
    from restore.inference.pipeline import EncodedReference, Pipeline

__all__ = [
    "EncodedReference",
    "EvaluationRun",
    "Pipeline",
    "RunFailure",
    "TrainingRun",
    "UserError",
    "__version__",
    "build",
    "evaluate",
    "list",
    "load",
    "train",
]

# Where what is named above comes from, when it is first asked for.
_PLACES = {
    **dict.fromkeys(("EvaluationRun", "TrainingRun", "build", "evaluate", "load", "train"), "api"),
    "list": "api",
    **dict.fromkeys(("EncodedReference", "Pipeline"), "inference.pipeline"),
}


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module 'restore' has no attribute '{name}'")
    module = import_module(f"restore.{_PLACES[name]}")
    return getattr(module, "choices" if name == "list" else name)


def __dir__() -> Iterable[str]:
    return sorted({*globals(), *__all__})
