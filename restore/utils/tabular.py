"""Values in tables: means, numbers as text, Markdown and csv.

NaN is no value: it is in no mean, and shown as – or, in csv, as an empty cell.
"""

import csv
import io
import math
import re
from collections.abc import Iterable, Sequence
from typing import Any


def mean(values: Iterable[float]) -> float:
    """Mean of the values that there are (not NaN); NaN of none."""
    kept = [value for value in values if not math.isnan(value)]
    return math.fsum(kept) / len(kept) if kept else math.nan


def number(value: float, digits: int = 4, signed: bool = False) -> str:
    """A value with so many digits behind the point, – where there is none."""
    if math.isnan(value):
        return "–"
    return f"{value:{'+' if signed else ''}.{digits}f}"


def markdown(head: Sequence[str], rows: Iterable[Sequence[str]], to_the_right: bool = False) -> str:
    """GitHub's kind of table, a line break behind each row.

    Args:
        head: of each column.
        rows: of cells; nothing in one can end it or is taken for HTML.
        to_the_right: whether all columns but the first are aligned so.
    """
    rule = "---:" if to_the_right else "---"
    lines = [_bars(head), f"|---{f'|{rule}' * (len(head) - 1)}|", *map(_bars, rows)]
    return "".join(f"{line}\n" for line in lines)


def _bars(cells: Sequence[str]) -> str:
    return "| " + " | ".join(plain(cell).replace("|", r"\|") for cell in cells) + " |"


def plain(text: str) -> str:
    """A text with nothing that Markdown would take for HTML."""
    return re.sub(r"<(?=[a-zA-Z/!?])", r"\\<", text)


def comma_separated(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """The text of a csv file, a line for each row."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(head)
    writer.writerows(["" if _missing(cell) else cell for cell in row] for row in rows)
    return file.getvalue()


def _missing(cell: Any) -> bool:
    return isinstance(cell, float) and math.isnan(cell)
