"""The report of a preparation: what was kept, what was dropped and why."""

import base64
import html
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from restore.utils.files import write_text
from restore.utils.tabular import comma_separated

Record = dict[str, Any]

_COLUMNS = {
    "key": "pair",
    "zoom": "zoom told",
    "zoom_found": "found",
    "shift_x": "shift x",
    "shift_y": "shift y",
    "rotation": "rotation °",
    "radial": "radial",
    "features": "features",
    "correlation": "ECC",
    "residual": "residual px",
    "residual_95": "95 %",
    "moving": "moving",
    "bias_before": "colour bias",
    "bias_after": "after",
    "psnr": "PSNR dB",
    "width": "width",
    "height": "height",
}
_MORE = ("focal", "wide_focal", "blocks")

_STYLE = """
body { font: 15px/1.5 sans-serif; margin: 2em auto; max-width: 90em; padding: 0 1em; }
table { border-collapse: collapse; font-size: 85%; }
th, td { padding: .2em .6em; text-align: right; border-bottom: 1px solid #ccc; }
th:first-child, td:first-child { text-align: left; }
.pairs { display: flex; flex-wrap: wrap; gap: 1em; }
figure { margin: 0; max-width: 26em; } figcaption { font-size: 85%; }
.two { display: inline-block; position: relative; vertical-align: top; }
.two img { display: block; } .two img + img { position: absolute; inset: 0; opacity: 0; }
.two:hover img + img { opacity: 1; }
#blink:checked ~ .pairs .two img + img { animation: blink 1s steps(1) infinite; }
@keyframes blink { 50% { opacity: 1; } }
.dropped { color: #a00; }
"""


def write(output: Path, records: list[Record], pictures: int) -> None:
    """Writes `report.html`, whole in itself, and `pairs.csv`.

    Args:
        output: the prepared folder.
        records: what became of each pair and of what could not be paired.
        pictures: pairs shown at most: first the dropped ones, then those with the largest error.
    """
    write_text(output / "pairs.csv", _table(records))
    write_text(output / "report.html", _page(output, records, pictures))


def _table(records: list[Record]) -> str:
    names = ["key", "kept", "reason", *_MORE, *[name for name in _COLUMNS if name != "key"]]
    rows = [[_flat(record.get(name)) for name in names] for record in records]
    return comma_separated(names, rows)


def _flat(value: Any) -> Any:
    return " ".join(map(str, value)) if isinstance(value, list) else value


def _page(output: Path, records: list[Record], pictures: int) -> str:
    kept = [record for record in records if record["kept"]]
    dropped = [record for record in records if not record["kept"]]
    residuals = [record["residual"] for record in kept]
    facts = [f"{len(kept)} pairs kept, {len(dropped)} pairs or pictures dropped"]
    if kept:
        low, middle, high = np.quantile(residuals, [0, 0.5, 1])
        facts.append(
            f"residual error of a kept pair (median over its blocks): {middle:.2f} pixels in the "
            f"median, {low:.2f} to {high:.2f}"
        )
        before, after = (
            np.mean(np.abs([record[name] for record in kept]), axis=0)
            for name in ("bias_before", "bias_after")
        )
        facts.append(
            "mean absolute colour bias (target − wide; red, green, blue, of 255): "
            f"{_levels(before)} as photographed, {_levels(after)} as kept"
        )
    ranked = dropped + sorted(kept, key=lambda record: -record["residual"])
    shown = [figure for record in ranked if (figure := _figure(output, record))][:pictures]
    reasons = Counter(_kind(record["reason"]) for record in dropped)
    lines = [
        '<!doctype html><html lang="en"><head><meta charset="utf-8">',
        f"<title>Prepared pairs</title><style>{_STYLE}</style></head><body>",
        "<h1>Prepared pairs</h1>",
        "<ul>" + "".join(f"<li>{html.escape(fact)}</li>" for fact in facts) + "</ul>",
    ]
    if dropped:
        counted = "".join(f"<li>{n} × {html.escape(k)}</li>" for k, n in reasons.most_common())
        lines += ["<h2>Why pairs were dropped</h2>", f"<ul>{counted}</ul>"]
        lines += [_rows(dropped, ["key", "reason"], {"key": "pair", "reason": "reason"})]
    if shown:
        lines += [
            f"<h2>Pictures of {len(shown)}: the dropped ones, then the largest errors first</h2>",
            "<p>Left the whole view, right pixel for pixel where the two lie apart most. "
            "The wide picture, aligned, shows on pointing at one.</p>",
            '<input type="checkbox" id="blink"><label for="blink">show both by turns</label>',
            f'<div class="pairs">{"".join(shown)}</div>',
        ]
    if kept:
        lines += ["<h2>Kept pairs</h2>", _rows(kept, list(_COLUMNS), _COLUMNS)]
    return "\n".join([*lines, "</body></html>"]) + "\n"


def _levels(values: np.ndarray) -> str:
    return ", ".join(f"{value:.1f}" for value in values)


def _kind(reason: str) -> str:
    """A reason without its particulars, so that equal ones can be counted."""
    words = [w for w in reason.split() if not any(c.isdigit() for c in w) and "." not in w[:-1]]
    return " ".join(words)


def _rows(records: list[Record], names: list[str], titles: dict[str, str]) -> str:
    head = "".join(f"<th>{html.escape(titles[name])}</th>" for name in names)
    body = "".join(
        "<tr>"
        + "".join(f"<td>{html.escape(str(_flat(record.get(name, ''))))}</td>" for name in names)
        + "</tr>"
        for record in records
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _figure(output: Path, record: Record) -> str:
    folder = output / "pairs" / record["key"]
    both = ""
    for suffix in ("", "_detail"):
        images = [
            f'<img alt="{name}" src="data:image/jpeg;base64,'
            f'{base64.b64encode(path.read_bytes()).decode()}">'
            for name in ("target", "wide")
            if (path := folder / f"{name}{suffix}.jpg").is_file()
        ]
        both += f'<span class="two">{"".join(images)}</span> ' if images else ""
    if not both:
        return ""
    remark = f"residual {record['residual']} px" if record["kept"] else record["reason"]
    kind = "" if record["kept"] else ' class="dropped"'
    title = f"{html.escape(record['key'])}: <span{kind}>{html.escape(remark)}</span>"
    return f"<figure>{both}<figcaption>{title}</figcaption></figure>"
