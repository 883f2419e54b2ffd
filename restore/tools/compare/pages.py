"""A comparison's sheets of pictures, and its page."""

import html
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from restore.images.io import save_png
from restore.images.sheets import GAP, side_by_side
from restore.tools.compare.measuring import Measured, Pictures
from restore.tools.compare.tables import Layout, Table

_HOLE = 0.5  # grey of holes in the input's picture
_LINE = (1.0, 0.2, 0.1)  # colour of the line around holes
_SIDE = 512  # largest side of a panel, pixels


def choices(
    measured: Measured, truth: str, method: str, name: str, count: int, seed: int, lower: bool
) -> dict[str, list[int]]:
    """Which images to show: a method's worst, its best, some at random, and where methods differ.

    Args:
        measured: what was measured.
        truth: against which.
        method: whose best and worst.
        name: the measure that ranks.
        count: of images of each kind.
        seed: of the random choice.
        lower: whether lower is better.

    Returns:
        By `worst`, `best`, `random` and `differ`, places of images. Images without a value are
        shown only where chosen at random.
    """
    values = np.array(measured.column(truth, method, name))
    known = np.flatnonzero(~np.isnan(values))
    ranked = known[np.argsort(values[known], kind="stable")]
    ranked = ranked[::-1] if lower else ranked
    rng = np.random.default_rng(seed)
    drawn = rng.permutation(len(values))[:count]
    shown = {"worst": ranked[:count], "best": ranked[::-1][:count], "random": np.sort(drawn)}
    if len(measured.values[truth]) > 1:
        every = np.array([measured.column(truth, other, name) for other in measured.values[truth]])
        usable = np.flatnonzero(np.isfinite(every).all(0))
        spread = np.ptp(every[:, usable], axis=0)
        shown["differ"] = usable[np.argsort(-spread, kind="stable")][:count]
    return {kind: [int(i) for i in places] for kind, places in shown.items()}


def sheet(
    pictures: Pictures, measured: Measured, places: Sequence[int], name: str, layout: Layout
) -> Tensor:
    """A row for each image: truths, the first truth with its holes, every method with its value.

    Returns:
        uint8 3HW.
    """
    rows = []
    first = next(iter(pictures.truths))
    for place in places:
        key = measured.keys[place]
        image = pictures.load(key)
        hole = image.hole_HW
        panels = {f"{title}: {key}": x.float() / 255 for title, x in image.truths.items()}
        if hole is not None:
            assert measured.shares is not None
            base = next(iter(panels.values()))
            panels[f"holes {measured.shares[place]:.0%}"] = torch.where(
                hole, torch.full_like(base, _HOLE), base
            )
        for title, x in image.results.items():
            value = measured.values[first][title][place][name]
            text = layout.cell(name, value).replace("∞", "inf")  # not in the sheets' font
            panels[f"{title} {text}"] = outlined(x.float() / 255, hole)
        rows.append(side_by_side({title: _small(x) for title, x in panels.items()}))
    width = max(row.shape[-1] for row in rows)
    height = sum(row.shape[-2] for row in rows) + GAP * (len(rows) - 1)
    whole = torch.full((3, height, width), 255, dtype=torch.uint8)
    top = 0
    for row in rows:
        whole[:, top : top + row.shape[-2], : row.shape[-1]] = row
        top += row.shape[-2] + GAP
    return whole


def outlined(picture_3HW: Tensor, hole_HW: Tensor | None) -> Tensor:
    """The picture with a line around its holes, on known pixels, so that all of a hole is seen."""
    if hole_HW is None:
        return picture_3HW
    around = F.max_pool2d(hole_HW[None].float(), 3, stride=1, padding=1)[0] > 0
    return torch.where(around & ~hole_HW, torch.tensor(_LINE)[:, None, None], picture_3HW)


def _small(picture_3HW: Tensor) -> Tensor:
    """The picture, shrunk by a whole factor if it is larger than a sheet has room for."""
    factor = -(-max(picture_3HW.shape[-2:]) // _SIDE)
    return F.avg_pool2d(picture_3HW, factor, ceil_mode=True) if factor > 1 else picture_3HW


def draw(
    folder: Path,
    pictures: Pictures,
    measured: Measured,
    chosen: dict[str, list[int]],
    name: str,
    layout: Layout,
) -> dict[str, Path]:
    """Writes a sheet of each kind of choice; returns their paths by kind."""
    drawn = {}
    for kind, places in chosen.items():
        if places:
            drawn[kind] = folder / f"{kind}.png"
            folder.mkdir(parents=True, exist_ok=True)
            save_png(drawn[kind], sheet(pictures, measured, places, name, layout))
    return drawn


def spreads(
    measured: Measured, truth: str, name: str, places: Sequence[int], lower: bool
) -> list[list[str]]:
    """Key, best and worst method with their values, for images on which methods differ."""
    lines = []
    for place in places:
        by_method = {m: rows[place][name] for m, rows in measured.values[truth].items()}
        order = sorted(by_method, key=lambda m: by_method[m], reverse=not lower)
        top, last = order[0], order[-1]
        gap = abs(by_method[top] - by_method[last])
        lines.append([measured.keys[place], top, last, f"{gap:.3f}" if math.isfinite(gap) else "∞"])
    return lines


_STYLE = """
body { font: 15px/1.5 sans-serif; margin: 2em auto; max-width: 75em; padding: 0 1em; }
table { border-collapse: collapse; margin: 1em 0; }
th, td { padding: .2em .8em; text-align: right; border-bottom: 1px solid #ccc; }
th:first-child { text-align: left; } thead th[colspan] { text-align: center; }
img { max-width: 100%; image-rendering: pixelated; }
ul { color: #444; font-size: 90%; }
"""


def page(title: str, facts: Sequence[str], tables: Sequence[Table], sheets: dict[str, str]) -> str:
    """The whole comparison as one HTML page.

    Args:
        title: its heading.
        facts: sentences on what was compared.
        tables: in their order.
        sheets: captions of pictures by their path from the page.
    """
    escape = html.escape
    lines = [
        "<!doctype html>",
        f'<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>',
        f"<style>{_STYLE}</style></head><body>",
        f"<h1>{escape(title)}</h1>",
        "<ul>" + "".join(f"<li>{escape(fact)}</li>" for fact in facts) + "</ul>",
        *(table.html() for table in tables),
    ]
    for path, caption in sheets.items():
        lines.append(f"<h2>{escape(caption)}</h2>")
        lines.append(f'<img src="{escape(path)}" alt="{escape(caption)}">')
    return "\n".join([*lines, "</body></html>"]) + "\n"
