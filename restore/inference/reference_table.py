"""How much of a result comes from the reference: evaluations that differ in it alone, in one table.

The course report on TTSR asked it (experiment 10) and looked at one picture. Here every image is
restored with each kind of reference; what it gains over a black one is what the reference gave.
"""

import math
from collections.abc import Iterator, Mapping
from typing import Any, get_args

from restore.config.settings import Reference
from restore.inference.evaluation import EvaluationResult
from restore.utils import tabular

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
            for place, row in by_place.items()
            if place in places
        }
        for kind, by_place in rows.items()
    }


def _gains(row: Mapping[str, Any], null: Mapping[str, Any] | None) -> dict[str, float]:
    if null is None:
        return {}
    return {name: value - null["restored"][name] for name, value in row["restored"].items()}


def per_image(rows: Rows) -> str:
    """A csv line for each image and kind: its metrics, and their gains over black."""
    first = next(iter(next(iter(rows.values())).values()))
    names = [*first["restored"], *(f"{name}/over_{NULL}" for name in first["over"])]
    lines = [
        [
            *(of_kind[place]["key"], kind),
            *of_kind[place]["restored"].values(),
            *of_kind[place]["over"].values(),
        ]
        for place in next(iter(rows.values()))
        for kind, of_kind in rows.items()
    ]
    return tabular.comma_separated(["key", "reference", *names], lines)


def means(rows: Rows) -> dict[str, dict[str, float]]:
    """For each kind the mean of each metric over the images, and of its gain over black."""
    return {
        kind: {
            **_mean([row["restored"] for row in by_place.values()]),
            **{
                f"{name}/over_{NULL}": value
                for name, value in _mean([row["over"] for row in by_place.values()]).items()
            },
        }
        for kind, by_place in rows.items()
    }


def _mean(rows: list[dict[str, float]]) -> dict[str, float]:
    return {name: tabular.mean(row[name] for row in rows) for name in rows[0]}


def table(rows: Rows, baseline: str) -> str:
    """The means as Markdown, a row for each kind; below, what of the gain is the reference's."""
    every = means(rows)
    base = _mean([row["baseline"] for row in next(iter(rows.values())).values()])
    names = list(next(iter(every.values())))
    heads = [name.replace(f"/over_{NULL}", f" over {NULL}") for name in names]
    lines = [
        [kind]
        + [
            tabular.number(values.get(name, math.nan), signed=name.endswith(f"/over_{NULL}"))
            for name in names
        ]
        for kind, values in {f"({baseline})": base, **every}.items()
    ]
    text = tabular.markdown(["reference", *heads], lines)
    return "\n".join([text, *_shares(every, base, baseline)]) + "\n"


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
