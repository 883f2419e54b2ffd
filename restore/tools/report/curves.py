"""Learning curves of a variant: the mean over its seeds, between the lowest and the highest."""

import math
from collections import defaultdict
from collections.abc import Sequence

from restore.tools.report.runs import Run
from restore.tools.report.variants import Variant

_POINTS = 150  # of a curve, at most


def names(variants: Sequence[Variant]) -> list[str]:
    """What was logged over steps: validation first, then losses and the rest."""
    every = dict.fromkeys(n for v in variants for run in v.runs for n in run.history)
    return sorted(every, key=lambda name: (not name.startswith("valid/"), name.count("/")))


def curve(variant: Variant, name: str) -> list[list[float]]:
    """Rows of step, mean, lowest and highest over the seeds that have a value there.

    Long curves are thinned: each row is then the mean over its stretch of steps.
    """
    at: dict[int, list[float]] = defaultdict(list)
    for run in variant.runs:
        for step, value in _thinned(run, name):
            if math.isfinite(value):
                at[step].append(value)
    return [
        [step, math.fsum(values) / len(values), min(values), max(values)]
        for step, values in sorted(at.items())
    ]


def _thinned(run: Run, name: str) -> list[tuple[int, float]]:
    points = run.history.get(name, [])
    stretch = -(-len(points) // _POINTS)
    if stretch <= 1:
        return points
    parts = [points[start : start + stretch] for start in range(0, len(points), stretch)]
    return [(part[-1][0], math.fsum(v for _, v in part) / len(part)) for part in parts]
