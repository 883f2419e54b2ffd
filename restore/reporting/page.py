"""The report as one HTML file that asks nothing of a network."""

import html
import json
import math
from collections.abc import Iterable, Mapping
from importlib.resources import files
from typing import Any

_SCRIPTS = ("charts.js", "wall.js", "page.js")
_DIGITS = 7  # significant, of numbers on the page


def page(title: str, data: Mapping[str, Any], pictures: Mapping[str, str]) -> str:
    """The page.

    Each picture (and what is looked at with it) is a block of text of its own, which a browser does
    not look into before it is asked for: however many there are, only those in sight are decoded.

    Args:
        title: heading.
        data: what `page.js` reads, see `report.content`.
        pictures: base64 by identities, see `pictures.Album`.
    """
    blocks = (
        f'<script type="text/plain" id="p-{name}">{text}</script>'
        for name, text in pictures.items()
    )
    parts = {
        "title": html.escape(title),
        "style": _read("page.css"),
        "data": _json(data),
        "pictures": "\n".join(blocks),
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


def _json(data: Mapping[str, Any]) -> str:
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
