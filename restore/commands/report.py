"""`restore report DIR…`: runs and evaluations on one page, and their tables for a paper."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from restore.config import check, registry
from restore.config.settings import Count, Node, Positive
from restore.engine import run_folder
from restore.errors import UserError
from restore.tools.compare.tables import Layout, Table
from restore.tools.report import costs, curves, results
from restore.tools.report.comparable_groups import (
    Base,
    ComparableGroup,
    Row,
    bases,
    conditions,
)
from restore.tools.report.page import page
from restore.tools.report.pictures import Album, gather
from restore.tools.report.runs import find
from restore.tools.report.statistics import Comparison
from restore.tools.report.variants import Variant, variants
from restore.utils import files

log = logging.getLogger("restore")


@dataclass
class ReportSettings:
    """`restore report`."""

    folders: Annotated[list[str], Field(min_length=1)]
    title: str
    against: str | None
    layout: Node
    level: Annotated[float, Field(gt=0, lt=1)]
    resamples: Positive
    pictures: Count
    side: Annotated[int, Field(ge=16)]
    quality: Annotated[int, Field(ge=1, le=100)]
    seed: Count
    folder: str


def main(config: dict[str, Any], overrides: list[str]) -> int:
    """Reads the folders, compares, and writes the page and the tables into the folder.

    Returns the exit code 0.
    """
    setting = check(config, ReportSettings)
    folder = Path(setting.folder)
    run_folder.refuse_taken(folder, config)
    run_folder.log_to(None)
    layout: Layout = registry.instantiate(setting.layout, "layout")
    given = find(setting.folders)
    every_variant, differing = variants(given.runs)
    of = costs.crop(every_variant)
    given.notes += [of] if of else []
    every = conditions(given, every_variant)
    if not every:
        raise UserError(
            f"{', '.join(setting.folders)}: no run has finished and none has been evaluated"
        )
    pairs = [_pairs(condition, setting) for condition in every]
    spent = {variant.label: costs.of(variant) for variant in every_variant}
    against_any = [bases(condition, differing) for condition in every]
    against = [_against(*both, setting.against) for both in zip(every, against_any)]
    tables = [
        _tables(condition, own, layout, spent, comparisons, setting)
        for condition, own, comparisons in zip(every, against_any, pairs)
    ]
    album = Album(setting.side, setting.quality)
    data = content(setting, every_variant, differing, every, pairs, spent, given.notes)
    for shown, condition, own, first in zip(data["conditions"], every, against_any, against):
        shown["pictures"] = gather(condition, album, setting.pictures)
        shown["bases"] = [{"label": base.label, "of": base.of} for base in own]
        shown["against"] = first
    data["notes"] += album.notes.values()
    with run_folder.filling(folder, config):
        run_folder.log_to(folder)
        for name, table in tables[0][against[0]].items():
            for suffix, text in _texts(table).items():
                files.write_text(folder / f"{name}.{suffix}", text)
        texts = [
            [{name: _texts(table) for name, table in base.items()} for base in own]
            for own in tables
        ]
        files.write_text(folder / "index.html", page(setting.title, data, texts, album.contents))
        for note in data["notes"]:
            log.info(note)
        log.info("\n%s", tables[0][against[0]]["table"].markdown())
        size = (folder / "index.html").stat().st_size / 1e6
        log.info("%s (%.1f MB), tables as csv, md and tex beside it", folder / "index.html", size)
        run_folder.finish(folder)
    return 0


def _against(condition: ComparableGroup, every: Sequence[Base], label: str | None) -> int:
    """Place of the base that others are compared with: the one named, or the first with runs."""
    labels = [base.label for base in every]
    if label is None:
        return next((i for i, row in enumerate(condition.rows) if row.variant), 0)
    if label not in labels:
        raise UserError(
            f"against: there is no variant '{label}'; choose one of {', '.join(labels)}"
        )
    return labels.index(label)


def _pairs(
    condition: ComparableGroup, setting: ReportSettings
) -> dict[tuple[str, str, str], Comparison]:
    comparisons = {}
    for measure in condition.measures:
        for one, two in combinations(condition.rows, 2):
            comparison = condition.compared(
                one, two, measure, setting.level, setting.resamples, setting.seed
            )
            if comparison is not None:
                comparisons[measure, one.label, two.label] = comparison
                comparisons[measure, two.label, one.label] = comparison.reversed()
    return comparisons


def _tables(
    condition: ComparableGroup,
    every: Sequence[Base],
    layout: Layout,
    spent: results.Spent,
    pairs: results.Pairs,
    setting: ReportSettings,
) -> list[dict[str, Table]]:
    """For each base: the table of results, of differences to it, and of percents of it."""
    first = results.results(condition, layout, spent)
    return [
        {
            "table": first,
            "differences": results.differences(
                condition, layout, pairs, base, setting.level, setting.resamples
            ),
            "percent": results.percent(condition, spent, base),
        }
        for base in every
    ]


def _texts(table: Table) -> dict[str, str]:
    return {"csv": table.csv(), "md": table.markdown(), "tex": table.latex()}


def content(
    setting: ReportSettings,
    every_variant: Sequence[Variant],
    differing: Sequence[str],
    every: Sequence[ComparableGroup],
    pairs: Sequence[results.Pairs],
    spent: results.Spent,
    notes: Sequence[str],
) -> dict[str, Any]:
    """What the page's script reads, as plain lists and dicts."""
    layout: Layout = registry.instantiate(setting.layout, "layout")
    return {
        "level": setting.level,
        "resamples": setting.resamples,
        "notes": list(notes),
        "overrides": list(differing),
        "costs": [
            {"name": cost.name, "title": cost.title, "digits": cost.digits} for cost in costs.COSTS
        ],
        "variants": [
            {
                "label": variant.label,
                "overrides": variant.overrides,
                "channels": variant.channels,
                "seeds": variant.seeds,
                "folders": [str(run.folder) for run in variant.runs],
                "costs": spent[variant.label],
            }
            for variant in every_variant
        ],
        "curves": {
            name: [curves.curve(variant, name) for variant in every_variant]
            for name in curves.names(every_variant)
        },
        "conditions": [
            {
                "label": condition.label,
                "facts": condition.facts,
                "fewer": condition.fewer(),
                "keys": condition.keys,
                "measures": [
                    {
                        "name": name,
                        "title": condition.title(name),
                        "lower": condition.lower(name),
                        "digits": layout.digits.get(name.partition("_")[0], 4),
                    }
                    for name in condition.measures
                ],
                "rows": [_row(row, every_variant, condition.measures) for row in condition.rows],
                "pairs": {
                    name: [
                        [_numbers(comparisons, name, one, two) for two in condition.rows]
                        for one in condition.rows
                    ]
                    for name in condition.measures
                },
            }
            for condition, comparisons in zip(every, pairs)
        ],
    }


def _row(row: Row, every_variant: Sequence[Variant], measures: Sequence[str]) -> dict[str, Any]:
    place = next((i for i, variant in enumerate(every_variant) if variant is row.variant), None)
    return {
        "label": row.label,
        "variant": place,
        "seeds": row.seeds,
        "means": {name: row.mean(name) for name in measures},
        "values": {name: row.values[name].tolist() for name in measures if name in row.values},
    }


def _numbers(pairs: results.Pairs, name: str, one: Row, two: Row) -> tuple[float, ...] | None:
    comparison = pairs.get((name, one.label, two.label))
    return None if comparison is None else comparison.row()
