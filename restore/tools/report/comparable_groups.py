"""What was measured under which condition: data, reference, protocol. Only equals are compared."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from restore.metrics.legend import Legend, directions_of
from restore.tools.report.runs import Evaluation, Found, Run
from restore.tools.report.statistics import Comparison, compare, spread
from restore.tools.report.variants import NOT_GIVEN, Variant

log = logging.getLogger("restore")
VALIDATION = "validation at the end of training"


@dataclass
class Row:
    """A variant's values under a condition, or those of a method without learning.

    `values` holds by measure an array seeds × images, with one column where only the mean over the
    set is known. `variant` is None, and there is one seed, None, for a method without learning.
    """

    label: str
    variant: Variant | None
    seeds: list[int | None]
    values: dict[str, np.ndarray]
    evaluations: list[Evaluation] = field(default_factory=list)

    def mean(self, measure: str) -> tuple[float, float]:
        """Mean and standard deviation over seeds of the means over images."""
        if measure not in self.values:
            return float("nan"), float("nan")
        return spread(np.array([spread(row)[0] for row in self.values[measure]]))


@dataclass
class ComparableGroup:
    """A table's worth of results that may be compared with one another."""

    label: str
    facts: list[str]
    keys: list[str]
    measures: list[str]
    rows: list[Row]
    legend: Legend = field(default_factory=lambda: Legend({}))

    def title(self, measure: str) -> str:
        """A measure in the words of a heading, with an arrow to where better is."""
        metric = self.legend.metric(measure)
        rest = measure.removeprefix(metric).removeprefix("_")
        words = [self.legend.words(metric), *([f"({rest})"] if rest else [])]
        return " ".join(words) + self.legend.arrow(measure)

    def lower(self, measure: str) -> bool:
        """Whether lower is better."""
        return self.legend.higher_is_better(measure) is False

    def fewer(self) -> list[str]:
        """A sentence for each row that lacks images which others have: its means are of fewer."""
        notes = []
        for name in self.measures:
            have = {
                row.label: np.isfinite(row.values[name]).all(0)
                for row in self.rows
                if name in row.values and row.values[name].shape[1] == len(self.keys)
            }
            most = int(np.any(list(have.values()), axis=0).sum()) if have else 0
            notes += [
                f"{label}: only {own.sum()} of {most} images"
                for label, own in have.items()
                if own.sum() < most
            ]
        return list(dict.fromkeys(notes))

    def compared(
        self, own: Row, other: Row, measure: str, level: float, resamples: int, seed: int
    ) -> Comparison | None:
        """Two rows over the seeds that both have; None where nothing can be paired.

        Without a seed in common (or where one has no seeds) both stand as their means over seeds.
        """
        if measure not in own.values or measure not in other.values:
            return None
        one, two = own.values[measure], other.values[measure]
        if one.shape[1] != two.shape[1]:
            return None
        common = [s for s in dict.fromkeys(own.seeds) if s is not None and s in other.seeds]
        if common:
            one, two = _by_seed(own.seeds, one, common), _by_seed(other.seeds, two, common)
        elif own.variant is not None and other.variant is not None:
            one, two = one.mean(0, keepdims=True), two.mean(0, keepdims=True)
        return compare(one, two, level, resamples, seed)


def _by_seed(
    seeds: Sequence[int | None], values: np.ndarray, chosen: Sequence[int | None]
) -> np.ndarray:
    """A row for each chosen seed; of one trained more than once, the mean of its runs."""
    return np.stack([values[[own == seed for own in seeds]].mean(0) for seed in chosen])


@dataclass(frozen=True)
class Base:
    """What rows are compared with: the place of one row for all, or for each another (or none)."""

    label: str
    of: list[int | None]


def bases(condition: ComparableGroup, overrides: Sequence[str]) -> list[Base]:
    """Everything that a condition's rows may be compared with.

    Beside each row these are the values of overrides: `backbone=edsr` is for every row the one with
    that value which agrees with it in whatever else both were given, such as `backbone.blocks`.

    Args:
        condition: whose rows.
        overrides: those by which variants differ.
    """
    rows = condition.rows
    candidates = [Base(row.label, [place] * len(rows)) for place, row in enumerate(rows)]
    for key in overrides:
        values = dict.fromkeys(
            row.variant.overrides.get(key, NOT_GIVEN) for row in rows if row.variant
        )
        for value in (value for value in values if value != NOT_GIVEN):
            of = [_counterpart(rows, row, key, value) for row in rows]
            used = {place for place in of if place is not None}
            others = sum(place is not None and place != at for at, place in enumerate(of))
            if len(used) > 1 and others:
                candidates.append(Base(f"{key}={value}", of))
    return candidates


def _counterpart(rows: Sequence[Row], own: Row, key: str, value: str) -> int | None:
    """The one row that has the override's value and is like this one otherwise."""
    if own.variant is None:
        return None
    overrides = own.variant.overrides
    fitting = [
        place
        for place, row in enumerate(rows)
        if row.variant is not None
        and row.variant.overrides.get(key) == value
        and all(
            overrides.get(other, NOT_GIVEN) in (given, NOT_GIVEN) or given == NOT_GIVEN
            for other, given in row.variant.overrides.items()
            if other != key
        )
    ]
    return fitting[0] if len(fitting) == 1 else None


def conditions(given: Found, variants: Sequence[Variant]) -> list[ComparableGroup]:
    """Those of the evaluations, the one with most variants first; the validation comes last."""
    grouped: dict[tuple[str, ...], list[tuple[Run, Evaluation]]] = {}
    for run, one in given.evaluations:
        grouped.setdefault(tuple(_facts(run, one)), []).append((run, one))
    groups = [_condition(list(facts), pairs, variants) for facts, pairs in grouped.items()]
    shared: set[str] = set()
    if len(groups) > 1:
        shared = set.intersection(*(set(one.facts) for one in groups))
    for condition in groups:
        condition.label = "; ".join(fact for fact in condition.facts if fact not in shared)
    return sorted(groups, key=lambda condition: -len(condition.rows)) + _validation(variants)


def _facts(run: Run, one: Evaluation) -> list[str]:
    """Everything in which two evaluations must agree to be compared.

    A network trained without a reference and measured without one stands beside those that were
    trained and measured with theirs: what a reference is worth is what such tables are asked.
    """
    facts: dict[str, Any] = one.facts
    trained, given = run.config.get("reference", "given"), facts["references"]
    as_trained = given == trained or (trained == "given" and given == "the data's own")
    data = dict(facts["data"])
    source = str(data.pop("_target_")).rpartition(".")[2]
    settings = ", ".join(f"{key}={value}" for key, value in data.items() if value is not None)
    changed = facts.get("task changed") or {}
    return [
        f"{source} {facts['split']}" + (f" ({settings})" if settings else ""),
        f"references: {'as in training' if as_trained else given}",
        f"protocol {facts['protocol']}",
        *([f"task changed: {changed}"] if changed else []),
    ]


def _condition(
    facts: list[str], pairs: list[tuple[Run, Evaluation]], variants: Sequence[Variant]
) -> ComparableGroup:
    latest: dict[int, Evaluation] = {}
    for run, one in sorted(
        pairs, key=lambda pair: (pair[1].folder / "summary.json").stat().st_mtime
    ):
        latest[id(run)] = one  # measured twice: the later one counts
    every = list(latest.values())
    keys = list(dict.fromkeys(key for one in every for key in one.keys))
    measures = list(dict.fromkeys(name for one in every for name in one.means))
    rows = []
    for variant in variants:
        measured = [run for run in variant.runs if id(run) in latest]
        own = [latest[id(run)] for run in measured]
        if own:
            values = {name: _matrix(own, keys, name) for name in measures}
            rows.append(Row(variant.label, variant, [run.seed for run in measured], values, own))
    bases: dict[str, dict[str, np.ndarray]] = {}
    for one in every:
        if one.baseline:
            known = bases.setdefault(one.baseline, {})
            for name, column in one.baseline_values.items():
                value = _aligned(one.keys, column, keys)[None]
                known[name] = (
                    np.where(np.isnan(known[name]), value, known[name]) if name in known else value
                )
            for name, of_set in one.baseline_pooled.items():
                known.setdefault(name, np.array([[of_set]]))
    taken = {row.label for row in rows}
    without = [
        Row(f"{name} (no network)" if name in taken else name, None, [None], values)
        for name, values in bases.items()
    ]
    directions: dict[str, bool | None] = {}
    for one in every:
        directions |= one.facts.get("higher is better") or {}
    legend = Legend(directions)
    return ComparableGroup("", facts, keys, measures, [*without, *rows], legend)


def _matrix(evaluations: list[Evaluation], keys: list[str], name: str) -> np.ndarray:
    """Seeds × images, or × 1 of a measure of the whole set."""
    if any(name in one.values for one in evaluations):
        blank = [float("nan")]
        return np.stack(
            [
                _aligned(one.keys, one.values.get(name, blank * len(one.keys)), keys)
                for one in evaluations
            ]
        )
    return np.array([[one.means.get(name, float("nan"))] for one in evaluations])


def _aligned(own: list[str], values: list[float], keys: list[str]) -> np.ndarray:
    by_key = dict(zip(own, values))
    return np.array([by_key.get(key, float("nan")) for key in keys])


def _validation(variants: Sequence[Variant]) -> list[ComparableGroup]:
    """The last validation of each run: means over its set, for single images are not kept."""
    rows = []
    for variant in variants:
        finals = [(run.seed, _last(run)) for run in variant.runs if _last(run)]
        if finals:
            names = dict.fromkeys(name for _, values in finals for name in values)
            values = {
                name: np.array([[own.get(name, float("nan"))] for _, own in finals])
                for name in names
            }
            rows.append(Row(variant.label, variant, [seed for seed, _ in finals], values))
    if not rows:
        return []
    measures = list(dict.fromkeys(n for row in rows for n in row.values if "/" not in n))
    bases = sorted({n.partition("/")[0] for row in rows for n in row.values if "/" in n})
    for base in bases:
        first = next(row for row in rows if any(n.startswith(f"{base}/") for n in row.values))
        values = {
            n.partition("/")[2]: v[:1] for n, v in first.values.items() if n.startswith(f"{base}/")
        }
        rows.insert(0, Row(base, None, [None], values))
    nodes = {k: v for variant in variants for run in variant.runs for k, v in _metrics(run).items()}
    legend = Legend(directions_of(nodes))
    return [ComparableGroup(VALIDATION, [VALIDATION], [], measures, rows, legend)]


def _metrics(run: Run) -> dict[str, Any]:
    return run.config.get("metric") or {}


def _last(run: Run) -> dict[str, float]:
    if not run.summary:  # not at its end
        return {}
    return {
        name.removeprefix("valid/"): points[-1][1]
        for name, points in run.history.items()
        if name.startswith("valid/")
    }
