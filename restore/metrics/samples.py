"""Several results of one picture, where a network draws them: their mean, spread, and best."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from restore.metrics.legend import Legend


def spread(samples: Sequence[Tensor], hole_N1HW: Tensor | None) -> float:
    """Standard deviation between samples, mean over pixels (of the holes) and colours, of [0, 1].

    NaN where there are no such pixels.
    """
    deviation = torch.stack([x.double() for x in samples]).std(0, correction=0)
    if hole_N1HW is not None:
        deviation = deviation[(hole_N1HW > 0).expand_as(deviation)]
    return float(deviation.mean()) if deviation.numel() else math.nan


def drawn(rows: Sequence[dict[str, Any]]) -> bool:
    """Whether a report's rows tell of several samples."""
    return bool(rows) and "samples" in rows[0]


def summary(rows: Sequence[dict[str, Any]], legend: Legend) -> dict[str, dict[str, float]]:
    """By metric, over the pictures where it has a value.

    `mean` is the mean of all samples, `deviation` the standard deviation between a picture's
    samples, `best` the mean of each picture's best sample, which nobody knows without the target.
    """
    table: dict[str, dict[str, float]] = {}
    for name in rows[0]["samples"][0]:
        values = [[sample[name] for sample in row["samples"]] for row in rows]
        known = [of for of in values if not any(map(math.isnan, of))]
        higher = legend.higher_is_better(name)
        entry = {"mean": _mean([_mean(of) for of in known])}
        entry["deviation"] = _mean([_deviation(of) for of in known])
        if higher is not None:
            entry["best"] = _mean([max(of) if higher else min(of) for of in known])
        table[name] = entry
    return table


def section(rows: Sequence[dict[str, Any]], legend: Legend) -> str:
    """Markdown: the summary, and how far the samples are apart; empty without several samples."""
    if not drawn(rows):
        return ""
    table = summary(rows, legend)
    count = len(rows[0]["samples"])
    apart = [row["spread"] for row in rows if not math.isnan(row["spread"])]
    lines = [
        "",
        f"{count} samples of each picture; the table above is of the first ones. The best of "
        f"{count} is chosen by looking at the target, which no other method may",
        f"samples differ by {255 * _mean(apart):.2f} of 255 levels in what is drawn (standard "
        "deviation, mean over pixels and pictures)",
        "",
        "| samples | " + " | ".join(table) + " |",
        "|---" * (len(table) + 1) + "|",
    ]
    titles = {"mean": "mean", "deviation": "deviation", "best": f"best of {count}"}
    for kind, title in titles.items():
        cells = [_cell(entry.get(kind, math.nan)) for entry in table.values()]
        lines.append(f"| {title} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values) if values else math.nan


def _deviation(values: Sequence[float]) -> float:
    middle = _mean(values)
    return math.sqrt(_mean([(value - middle) ** 2 for value in values]))


def _cell(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.4f}"
