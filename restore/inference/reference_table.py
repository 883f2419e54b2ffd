"""How much of a result comes from the reference: evaluations that differ in it alone, in one table.

The course report on TTSR asked it (experiment 10) and looked at one picture. Here every image is
restored with each kind of reference; what it gains over a black one is what the reference gave.
"""

import csv
import io
import math
from collections.abc import Iterator, Mapping
from typing import Any, get_args

from restore.config.settings import Reference
from restore.inference.evaluation import EvaluationResult

NULL = "black"
Rows = dict[str, dict[int, dict[str, Any]]]


def shared(reports: Mapping[str, EvaluationResult]) -> Rows:
    """By kind and place in the split, the rows of the images that were read for every kind.

    Each row's `over` holds the gains of its metrics over the same image with a black reference, or
    nothing when that was not among the kinds.
    """
    rows: Rows = {
        kind: {row["place"]: row for row in report.rows} for kind, report in reports.items()
    }
    places = set.intersection(*(set(row) for row in rows.values()))
    return {
        kind: {
            place: {**row, "over": _gains(row, rows.get(NULL, {}).get(place))}
            for place, row in found.items()
            if place in places
        }
        for kind, found in rows.items()
    }


def _gains(row: Mapping[str, Any], null: Mapping[str, Any] | None) -> dict[str, float]:
    if null is None:
        return {}
    return {name: value - null["restored"][name] for name, value in row["restored"].items()}


def per_image(rows: Rows) -> str:
    """A csv line for each image and kind: its metrics, and their gains over black."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    first = next(iter(next(iter(rows.values())).values()))
    names = [*first["restored"], *(f"{name}/over_{NULL}" for name in first["over"])]
    writer.writerow(["key", "reference", *names])
    for place in next(iter(rows.values())):
        for kind, found in rows.items():
            values = [*found[place]["restored"].values(), *found[place]["over"].values()]
            cells = ["" if math.isnan(value) else value for value in values]
            writer.writerow([found[place]["key"], kind, *cells])
    return file.getvalue()


def means(rows: Rows) -> dict[str, dict[str, float]]:
    """For each kind the mean of each metric over the images, and of its gain over black."""
    return {
        kind: {
            **_mean([row["restored"] for row in found.values()]),
            **{
                f"{name}/over_{NULL}": value
                for name, value in _mean([row["over"] for row in found.values()]).items()
            },
        }
        for kind, found in rows.items()
    }


def _mean(values: list[dict[str, float]]) -> dict[str, float]:
    kept = {n: [v[n] for v in values if not math.isnan(v[n])] for n in values[0]}
    return {n: math.fsum(v) / len(v) if v else math.nan for n, v in kept.items()}


def table(rows: Rows, baseline: str) -> str:
    """The means as Markdown, a row for each kind; below, what of the gain is the reference's."""
    every = means(rows)
    base = _mean([row["baseline"] for row in next(iter(rows.values())).values()])
    names = list(next(iter(every.values())))
    heads = [name.replace(f"/over_{NULL}", f" over {NULL}") for name in names]
    lines = ["| reference | " + " | ".join(heads) + " |", "|---" * (len(names) + 1) + "|"]
    for kind, values in {f"({baseline})": base, **every}.items():
        cells = [
            _cell(values.get(name, math.nan), name.endswith(f"/over_{NULL}")) for name in names
        ]
        lines.append(f"| {kind} | " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", *_shares(every, base, baseline)]) + "\n"


def _cell(value: float, signed: bool) -> str:
    if math.isnan(value):
        return "–"
    return f"{value:+.4f}" if signed else f"{value:.4f}"


def _shares(
    every: Mapping[str, Mapping[str, float]], base: Mapping[str, float], baseline: str
) -> Iterator[str]:
    if NULL not in every:
        yield f"No gains over {NULL}: it is not among the kinds."
        return
    name = next(iter(base))
    for kind, values in every.items():
        if kind not in get_args(Reference) or kind == "given":
            total, own = values[name] - base[name], values[f"{name}/over_{NULL}"]
            yield (
                f"Of the {total:+.4f} {name} that '{kind}' gains over {baseline}, {own:+.4f} come "
                "from the reference; the rest comes with a black one too."
            )
