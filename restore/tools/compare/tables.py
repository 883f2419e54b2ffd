"""Tables of results as csv, Markdown, LaTeX (booktabs) and HTML."""

import html
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Annotated

from pydantic import Field

from restore.metrics.legend import Legend
from restore.utils.tabular import comma_separated, markdown, number, plain


class Layout:
    """What the table of results shows, in which order and words.

    Args:
        measures: columns under each truth, by name; None: all that were measured. A name that was
            not measured is left out, and said below the table.
        titles: words for measures, where they shall differ from the usual.
        truths: words for the truths, by their names.
        digits: behind the point, by the measure's first part (`psnr` for `psnr_holes`).
        best: whether the best value of each column stands out.
    """

    def __init__(
        self,
        digits: dict[str, Annotated[int, Field(ge=0, le=8)]],
        measures: list[str] | None = None,
        titles: dict[str, str] | None = None,
        truths: dict[str, str] | None = None,
        best: bool = True,
    ):
        self.digits, self.measures, self.best = digits, measures, best
        self.titles = titles or {}
        self.truths = truths or {}

    def columns(self, measured: Sequence[str]) -> list[str]:
        """The measures to show of those that there are."""
        if self.measures is None:
            return list(measured)
        return [name for name in self.measures if name in measured]

    def title(self, measure: str, legend: Legend) -> str:
        """A measure in words, with an arrow to where better is."""
        return self.titles.get(measure, legend.words(measure)) + legend.arrow(measure)

    def cell(self, measure: str, value: float, signed: bool = False) -> str:
        """A value with the measure's digits, – where there is none."""
        if math.isinf(value):
            return "∞" if value > 0 else "−∞"
        digits = self.digits.get(measure.partition("_")[0], 4)
        return number(value, digits, signed)


@dataclass
class Column:
    """A column: the heading over it and its neighbours, its own, its measure."""

    group: str
    title: str
    measure: str


@dataclass
class Table:
    """Rows of cells under columns, with the sentences that say what the numbers mean.

    `marked` holds the places (row, column) of cells that stand out.
    """

    title: str
    head: str
    columns: list[Column]
    rows: list[tuple[str, list[str]]]
    notes: list[str] = field(default_factory=list)
    marked: set[tuple[int, int]] = field(default_factory=set)

    def csv(self) -> str:
        """One line a row, headings joined by a slash; no notes."""
        heads = [f"{c.group}/{c.title}".strip("/") for c in self.columns]
        return comma_separated([self.head, *heads], [[name, *cells] for name, cells in self.rows])

    def markdown(self) -> str:
        """GitHub's kind of table, the title above, the notes below."""
        heads = [f"{c.group}: {c.title}" if c.group else c.title for c in self.columns]
        rows = [
            [name, *(f"**{x}**" if (r, c) in self.marked else x for c, x in enumerate(cells))]
            for r, (name, cells) in enumerate(self.rows)
        ]
        text = markdown([self.head, *heads], rows, to_the_right=True)
        notes = [f"- {plain(note)}" for note in self.notes]
        return "\n".join([f"**{plain(self.title)}**", "", text, *notes]) + "\n"

    def latex(self) -> str:
        """A `tabular` of the package booktabs, the notes in the caption's place as comments."""
        heads, rules, at = [_tex(self.head) if not self._grouped() else ""], [], 2
        for group, columns in groupby(self.columns, lambda c: c.group):
            count = len(list(columns))
            heads.append(rf"\multicolumn{{{count}}}{{c}}{{{_tex(group)}}}")
            rules.append(rf"\cmidrule(lr){{{at}-{at + count - 1}}}")
            at += count
        lines = [f"% {note}" for note in [self.title, *self.notes]]
        lines += [rf"\begin{{tabular}}{{l{'r' * len(self.columns)}}}", r"\toprule"]
        if self._grouped():
            lines += [" & ".join(heads) + r" \\", "".join(rules)]
        lines.append(" & ".join(_tex(x) for x in [self.head, *(c.title for c in self.columns)]))
        lines[-1] += r" \\"
        lines.append(r"\midrule")
        for r, (name, cells) in enumerate(self.rows):
            shown = [_tex(x) for x in cells]
            shown = [
                rf"\textbf{{{x}}}" if (r, c) in self.marked else x for c, x in enumerate(shown)
            ]
            # The end of the row before would take these for its own.
            start = "{}" if name.startswith(("[", "*")) else ""
            lines.append(" & ".join([start + _tex(name), *shown]) + r" \\")
        return "\n".join([*lines, r"\bottomrule", r"\end{tabular}"]) + "\n"

    def html(self) -> str:
        """A `table` element and its notes."""
        escape = html.escape
        top = ""
        if self._grouped():
            groups = [(g, len(list(cs))) for g, cs in groupby(self.columns, lambda c: c.group)]
            cells = "".join(f'<th colspan="{n}">{escape(g)}</th>' for g, n in groups)
            top = f"<tr><th></th>{cells}</tr>"
        heads = "".join(f"<th>{escape(c.title)}</th>" for c in self.columns)
        body = ""
        for r, (name, cells_) in enumerate(self.rows):
            shown = [
                f"<td><b>{escape(x)}</b></td>" if (r, c) in self.marked else f"<td>{escape(x)}</td>"
                for c, x in enumerate(cells_)
            ]
            body += f"<tr><th>{escape(name)}</th>{''.join(shown)}</tr>\n"
        notes = "".join(f"<li>{escape(note)}</li>" for note in self.notes)
        return (
            f"<h2>{escape(self.title)}</h2>\n<table>\n<thead>{top}"
            f"<tr><th>{escape(self.head)}</th>{heads}</tr></thead>\n<tbody>\n{body}</tbody>\n"
            f"</table>\n<ul>{notes}</ul>\n"
        )

    def _grouped(self) -> bool:
        return any(column.group for column in self.columns)


def best(
    columns: Sequence[str], values: Sequence[Mapping[int, float]], legend: Legend
) -> set[tuple[int, int]]:
    """Places (row, column) of each column's best values, where two rows at least have one.

    Args:
        columns: the measure of each column.
        values: of each row, by column.
        legend: says where better is.
    """
    places: set[tuple[int, int]] = set()
    for c, measure in enumerate(columns):
        known = {r: row[c] for r, row in enumerate(values) if not math.isnan(row.get(c, math.nan))}
        higher = legend.higher_is_better(measure)
        if len(known) >= 2 and higher is not None:
            top = max(known.values()) if higher else min(known.values())
            places |= {(r, c) for r, value in known.items() if value == top}
    return places


_TEX = {
    **{character: f"\\{character}" for character in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "↑": r"$\uparrow$",
    "↓": r"$\downarrow$",
    "∞": r"$\infty$",
    "−": "$-$",
    "–": "--",
    "×": r"$\times$",
    "±": r"$\pm$",
    "<": "$<$",
    ">": "$>$",
    "|": r"\textbar{}",
}


def _tex(text: str) -> str:
    return "".join(_TEX.get(character, character) for character in text)
