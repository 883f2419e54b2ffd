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
    title: str, data: Mapping[str, Any], tables: Sequence[Any], pictures: Sequence[str]
) -> str:
    """The page.

    What is not needed at first (tables to save, pictures and what is looked at with them) stands
    behind the script, which has drawn the page before that is read, and in comments: of all places
    for text these cost a browser least, and it decodes nothing in them before it is asked for.

    Args:
        title: heading.
        data: what `page.js` reads, see `report.content`.
        tables: of each condition, for saving; read when that is asked for.
        pictures: base64, see `pictures.Album`.
    """
    parts = {
        "title": html.escape(title),
        "style": _read("page.css"),
        "data": _json(data),
        "held": "".join(f"<!--{content}\n-->" for content in (_json(tables), *pictures)),
        "script": "\n".join(map(_read, _SCRIPTS)),
    }
    text = _read("page.html")
    pieces: list[str] = []
    for piece in text.split("{{"):  # one pass, so that nothing inside a part is taken for a place
        name, end, rest = piece.partition("}}")
        pieces += [parts[name], rest] if end else [piece]
    return "".join(pieces)


def _read(name: str) -> str:
    return files("restore.tools.report").joinpath(name).read_text(encoding="utf-8")


def _json(data: Any) -> str:
    """JSON that can stand inside a script element or a comment."""
    text = json.dumps(rounded(data), allow_nan=False, ensure_ascii=False, separators=(",", ":"))
    return text.replace("</", "<\\/").replace("--", "-\\u002d")


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
