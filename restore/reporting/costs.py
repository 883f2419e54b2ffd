"""What a variant costs, as far as its runs tell."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from restore.reporting.runs import Run
from restore.reporting.statistics import spread
from restore.reporting.variants import Variant


@dataclass(frozen=True)
class Cost:
    """A cost: its heading, the names that summaries have for it, and the unit it is shown in."""

    name: str
    title: str
    told_as: tuple[str, ...]
    unit: float = 1.0
    digits: int = 1


COSTS = (
    Cost("parameters", "parameters (M)", ("parameters", "parameters/total"), 1e6, 2),
    Cost("flops", "GFLOPs", ("flops", "flops/forward", "forward_flops"), 1e9),
    Cost("ms", "ms/image", ("ms_per_image", "ms/image")),
    Cost("memory", "peak memory (GB)", ("peak_memory", "memory/peak", "peak_memory_bytes"), 1e9, 2),
    Cost("time", "training time (min)", ("training_time", "seconds", "time/seconds"), 60),
)


def of(variant: Variant, facts: Sequence[Mapping[str, Any]]) -> dict[str, tuple[float, float]]:
    """By cost its mean and spread over the variant's runs and evaluations, of those that tell."""
    told = [dict(_flat(source)) for source in [*map(_summary, variant.runs), *facts]]
    found = {}
    for cost in COSTS:
        values = [
            next((float(own[name]) for name in cost.told_as if name in own), None) for own in told
        ]
        known = np.array([value for value in values if value is not None])
        if len(known):
            mean, sd = spread(known / cost.unit)
            found[cost.name] = (mean, sd)
    return found


def _summary(run: Run) -> Mapping[str, Any]:
    return run.summary


def _flat(node: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    """Numbers by their path; a section `cost` stands for what is in it."""
    for key, value in node.items():
        inner = path if key == "cost" and not path else f"{path}{key}"
        if isinstance(value, Mapping):
            yield from _flat(value, f"{inner}/" if inner else "")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield inner, value
