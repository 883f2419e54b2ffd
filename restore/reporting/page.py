"""The report as one HTML file that asks nothing of a network."""

import html
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from importlib.resources import files
from typing import Any

_SCRIPTS = ("charts.js", "wall.js", "page.js")
_DIGITS = 7  # significant, of numbers on the page


def page(
    title: str, data: Mapping[str, Any], tables: Sequence[Any], pictures: Mapping[str, str]
) -> str:
    """The page.

    Pictures (and what is looked at with them) are lines in blocks of text, which a browser does not
    look into before it is asked for: however many there are, only those in sight are decoded.

    Args:
        title: heading.
        data: what `page.js` reads, see `report.content`.
        tables: of each condition, for saving; read when that is asked for.
        pictures: base64 by names, see `pictures.Album`.
    """
    blocks: dict[str, list[str]] = {}
    for name, text in pictures.items():
        blocks.setdefault(name.partition("-")[0], []).append(text)
    parts = {
        "title": html.escape(title),
        "style": _read("page.css"),
        "data": _json(data),
        "tables": _json(tables),
        "pictures": "\n".join(
            f'<script type="text/plain" id="p-{block}">' + "\n".join(lines) + "</script>"
            for block, lines in blocks.items()
        ),
        "script": "\n".join(map(_read, _SCRIPTS)),
    }
    text = _read("page.html")
    pieces: list[str] = []
    for piece in text.split("{{"):  # one pass, so that nothing inside a part is taken for a place
        name, end, rest = piece.partition("}}")
        pieces += [parts[name], rest] if end else [piece]
    return "".join(pieces)


def _read(name: str) -> str:
    return files("restore.reporting").joinpath(name).read_text(encoding="utf-8")


def _json(data: Any) -> str:
    """JSON that can stand inside a script element."""
    text = json.dumps(rounded(data), allow_nan=False, ensure_ascii=False, separators=(",", ":"))
    return text.replace("</", "<\\/").replace("<!--", "<\\!--")


def rounded(value: Any) -> Any:
    """The same with numbers of few digits; null for what is not finite."""
    if isinstance(value, Mapping):
        return {key: rounded(inner) for key, inner in value.items()}
    if isinstance(value, str):
        return value
    if isinstance(value, Iterable):
        return [rounded(inner) for inner in value]
    if isinstance(value, float):
        return float(f"{value:.{_DIGITS}g}") if math.isfinite(value) else None
    return value
