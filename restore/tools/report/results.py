"""The report's tables: results of every variant, and how they differ from one of them."""

import math
from collections.abc import Mapping

from restore.tools.compare.tables import Column, Layout, Table, best
from restore.tools.report import costs
from restore.tools.report.comparable_groups import Base, ComparableGroup, Row
from restore.tools.report.statistics import Comparison
from restore.utils.tabular import number

Pairs = Mapping[tuple[str, str, str], Comparison]  # by measure, own label, other's label
Spent = Mapping[str, Mapping[str, tuple[float, float]]]  # by label and cost, mean and sd
_TESTS = {
    "t_images": "p t images",
    "wilcoxon_images": "p Wilcoxon images",
    "t_seeds": "p t seeds",
}


def results(
    condition: ComparableGroup,
    layout: Layout,
    spent: Spent,
) -> Table:
    """Mean ± standard deviation over seeds of every measure and cost.

    Args:
        condition: whose rows.
        layout: digits.
        spent: by every variant's label and cost's name, mean and standard deviation.
    """
    shown = [cost for cost in costs.COSTS if any(cost.name in own for own in spent.values())]
    columns = [
        Column("", "seeds", ""),
        *(Column("", condition.title(name), name) for name in condition.measures),
        *(Column("", cost.title, "") for cost in shown),
    ]
    rows, values = [], []
    for row in condition.rows:
        means = [row.mean(name) for name in condition.measures]
        cells = [str(len(row.seeds)) if row.variant else "–"]
        cells += [
            _spread(layout.cell(name, mean), layout.cell(name, sd))
            for name, (mean, sd) in zip(condition.measures, means)
        ]
        for cost in shown:
            mean, sd = spent.get(row.label, {}).get(cost.name, (math.nan, math.nan))
            numbers = [f"{x:.{cost.digits}f}" if math.isfinite(x) else "–" for x in (mean, sd)]
            cells.append(_spread(numbers[0], numbers[1] if sd > 0 else "–"))
        rows.append((row.label, cells))
        values.append({place: mean for place, (mean, _) in enumerate(means, 1)})
    marked = (
        best([column.measure for column in columns], values, condition.legend)
        if layout.best
        else set()
    )
    known = {row.label for row in condition.rows}
    absent = [label for label in spent if label not in known]
    notes = [
        "; ".join(condition.facts) + (f"; N = {len(condition.keys)}" if condition.keys else ""),
        "mean ± standard deviation over seeds (n − 1) of the mean over images",
    ]
    notes += condition.fewer()
    if absent:
        notes.append(f"without results of this kind: {', '.join(absent)}")
    return Table("Results", "variant", columns, rows, notes, marked)


def _spread(mean: str, sd: str) -> str:
    return mean if sd == "–" or mean == "–" else f"{mean} ± {sd}"


def differences(
    condition: ComparableGroup,
    layout: Layout,
    pairs: Pairs,
    base: Base,
    level: float,
    resamples: int,
) -> Table:
    """Mean differences to the base with their intervals and tests."""
    columns = [
        Column(condition.title(name), heading, name)
        for name in condition.measures
        for heading in (f"difference [{level:.0%}]", *_TESTS.values())
    ]
    rows = []
    for row, other in _compared(condition, base):
        cells = []
        for name in condition.measures:
            pair = pairs.get((name, row.label, other.label))
            cells.append(_gap(layout, name, pair))
            cells += ["–" if pair is None else p_value(getattr(pair, test)) for test in _TESTS]
        rows.append((row.label, cells))
    notes = [
        f"variant minus {base.label} over the same seeds and images; interval: percentile "
        f"bootstrap of images and seeds together, {resamples} resamples",
        "tests (SciPy, two-sided): paired t and Wilcoxon's signed ranks over images, each the mean "
        "over seeds; paired t over seeds, each the mean over images",
        "each p is of its own comparison alone, not corrected for their number",
    ]
    return Table(f"Differences to {base.label}", "variant", columns, rows, notes)


def percent(condition: ComparableGroup, spent: Spent, base: Base) -> Table:
    """Costs as a share of the base's, and how much larger measures are than its, in percent."""
    shown = [cost for cost in costs.COSTS if any(cost.name in own for own in spent.values())]
    columns = [
        *(Column("", f"{cost.title}, % of it", "") for cost in shown),
        *(Column("", f"{condition.title(name)}, % more", name) for name in condition.measures),
    ]
    rows = []
    for row, other in _compared(condition, base):
        own, its = (
            {n: mean for n, (mean, _) in spent.get(r.label, {}).items()} for r in (row, other)
        )
        shares = [_share(own.get(cost.name), its.get(cost.name)) for cost in shown]
        gains = [_share(row.mean(n)[0], other.mean(n)[0]) for n in condition.measures]
        cells = [number(share, 2) for share in shares]
        cells += [number(gain - 100, 2, signed=True) for gain in gains]
        rows.append((row.label, cells))
    notes = [f"against {base.label}; the difference of means over the mean, in percent"]
    return Table(f"Percent of {base.label}", "variant", columns, rows, notes)


def _compared(condition: ComparableGroup, base: Base) -> list[tuple[Row, Row]]:
    """Rows with those that they are compared with, but for the ones that are these themselves."""
    pairs = zip(condition.rows, base.of)
    with_base = [(row, condition.rows[place]) for row, place in pairs if place is not None]
    return [(row, other) for row, other in with_base if row is not other]


def _share(own: float | None, other: float | None) -> float:
    return 100 * own / other if own is not None and other else math.nan


def _gap(layout: Layout, name: str, pair: Comparison | None) -> str:
    if pair is None or math.isnan(pair.mean):
        return "–"
    middle, low, high = (
        layout.cell(name, x, signed=True) for x in (pair.mean, pair.low, pair.high)
    )
    return middle if math.isnan(pair.low) else f"{middle} [{low}, {high}]"


def p_value(p: float) -> str:
    """A p with three digits behind the point, – where there was nothing to test."""
    if math.isnan(p):
        return "–"
    return "< 0.001" if p < 0.001 else f"{p:.3f}"
