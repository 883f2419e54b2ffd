"""Metrics on holes: over their pixels, and over a ring along their borders.

Every metric that takes weights of pixels is measured so too (`selection.regions`), with its
channel, border and rounding. Over holes, PSNR takes the squared error of hole pixels alone; SSIM is
the mean of the map's values at hole pixels, whose windows also see what is around. A picture
without holes has no such values (NaN): it is left out of their means and counted.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from restore.types import Problem
from restore.utils import tabular

RING = 4  # pixels on either side of a hole's border
_BIN = 10  # per cent of the area, as published tables have it


def ring(mask_N1HW: Tensor) -> Tensor:
    """The pixels within `RING` (in the larger of both directions) of the border of a hole.

    The picture's own edge is no border: a hole that reaches it has none there.
    """
    side = 2 * RING + 1
    grown, shrunk = (
        sign * F.max_pool2d(sign * mask_N1HW, side, stride=1, padding=RING) for sign in (1, -1)
    )
    return grown - shrunk


def facts(problem: Problem) -> dict[str, float]:
    """Share of holes in a batch's only picture, and of what its reference shows too."""
    values: dict[str, float] = {}
    if problem.hole_mask is not None:
        values["hole_share"] = float(problem.hole_mask.double().mean())
    if problem.overlap is not None:
        values["overlap"] = float(problem.overlap[0])
    return values


def known(rows: Sequence[dict[str, Any]]) -> bool:
    """Whether a report's rows say where holes are."""
    return bool(rows) and "hole_share" in rows[0]["facts"]


def by_share(rows: Sequence[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Means by share of holes: `none`, `0-10 %`, `10-20 %`, …, as far as there are images.

    A share on the limit belongs to the lower bin.

    Args:
        rows: of a report, with `restored`, `baseline` and `facts`.

    Returns:
        By bin: `images`, and the means of `restored` and of `baseline` over the images where both
        have a value.
    """
    bins: dict[int, list[dict[str, Any]]] = {}
    for row in rows:
        # Shares are whole numbers of pixels over their count; float64 is exact enough to round.
        percent = round(100 * row["facts"]["hole_share"], 9)
        bins.setdefault(math.ceil(percent / _BIN), []).append(row)
    table: dict[str, dict[str, Any]] = {}
    for place in sorted(bins):
        name = f"{(place - 1) * _BIN}-{place * _BIN} %" if place else "none"
        table[name] = {"images": len(bins[place]), **means(bins[place])}
    return table


def means(rows: Sequence[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Of `restored` and `baseline`, each metric's mean over the rows where both have a value."""
    table: dict[str, dict[str, float]] = {"restored": {}, "baseline": {}}
    for name in rows[0]["restored"] if rows else ():
        pairs = [(row["restored"][name], row["baseline"][name]) for row in rows]
        known = [pair for pair in pairs if not any(map(math.isnan, pair))]
        for method, values in zip(table, zip(*known) if known else ((), ())):
            table[method][name] = tabular.mean(values)
    return table


def section(rows: Sequence[dict[str, Any]], baseline: str) -> str:
    """Markdown: how many have holes, how much input and reference overlap, means by share of holes.

    Empty where the rows know no holes.
    """
    if not known(rows):
        return ""
    shares = [row["facts"]["hole_share"] for row in rows]
    damaged = [share for share in shares if share > 0]
    lines = [
        "",
        f"holes: {len(damaged)} of {len(rows)} images have some, on the mean "
        f"{tabular.mean(damaged):.1%} of their area; the others are not in the columns _holes and "
        "_ring",
        "_holes: PSNR over hole pixels only, SSIM map averaged at hole pixels; "
        f"_ring: within {RING} pixels of a hole's border, on either side",
    ]
    if all("overlap" in row["facts"] for row in rows):
        overlaps = [row["facts"]["overlap"] for row in rows]
        lines.append(
            f"overlap: the reference shows {tabular.mean(overlaps):.1%} of the input on the mean "
            f"({min(overlaps):.1%} to {max(overlaps):.1%})"
        )
    table = by_share(rows)
    names = list(rows[0]["restored"])
    rows_of_text = [
        [
            *(share, str(entry["images"]), title),
            *(tabular.number(entry[method].get(name, math.nan)) for name in names),
        ]
        for share, entry in table.items()
        for method, title in (("baseline", baseline), ("restored", "restored"))
    ]
    below = tabular.markdown(["holes", "images", "", *names], rows_of_text)
    return "\n".join([*lines, "", below])
