"""What a variant costs, as far as its runs tell."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from restore.tools.report.statistics import spread
from restore.tools.report.variants import Variant


@dataclass(frozen=True)
class Cost:
    """A cost: its heading, its place in a summary's section `cost`, and the unit it is shown in."""

    name: str
    title: str
    path: tuple[str, ...]
    unit: float = 1.0
    digits: int = 1


COSTS = (
    Cost("parameters", "parameters", ("parameters", "total"), digits=0),
    Cost("flops", "GFLOPs", ("flops", "forward"), 1e9, 2),
    Cost("ms", "ms/image", ("ms_per_image",)),
    Cost("memory", "peak memory (GB)", ("memory", "peak"), 1e9, 2),
    Cost("time", "training time (min)", ("time", "seconds"), 60),
    Cost("energy", "energy (kJ)", ("energy", "joules"), 1e3),
)


def of(variant: Variant) -> dict[str, tuple[float, float]]:
    """By cost its mean and standard deviation over the variant's runs that tell it."""
    spreads = {}
    for cost in COSTS:
        values = (_value(run.summary.get("cost"), cost.path) for run in variant.runs)
        known = [value / cost.unit for value in values if value is not None]
        if known:
            spreads[cost.name] = spread(np.array(known))
    return spreads


def crop(variants: Sequence[Variant]) -> str | None:
    """A sentence on the sizes of what was restored once, where runs say them."""
    every = {
        ", ".join(f"{name} {_size(size)}" for name, size in sizes.items())
        for variant in variants
        for run in variant.runs
        if isinstance(sizes := _held(run.summary.get("cost"), "of"), Mapping) and sizes
    }
    if not every:
        return None
    return f"GFLOPs and ms/image: of a training crop ({' or '.join(sorted(every))} pixels)"


def _size(size: Any) -> str:
    """Height and width, or those of several references."""
    if not isinstance(size, list):
        return str(size)
    if size and isinstance(size[0], list):
        return " + ".join(map(_size, size))
    return "×".join(map(str, size))


def _held(node: Any, name: str) -> Any:
    return node.get(name) if isinstance(node, Mapping) else None


def _value(node: Any, path: tuple[str, ...]) -> float | None:
    for name in path:
        node = _held(node, name)
    return float(node) if isinstance(node, int | float) else None
