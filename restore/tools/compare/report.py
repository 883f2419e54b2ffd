"""What a comparison leaves behind: tables with their notes, lists, sheets and a page."""

import logging
import math
from pathlib import Path

import numpy as np
import torch

from restore.metrics.holes import RING
from restore.tools.compare import pages
from restore.tools.compare.job import SAME, CompareJob
from restore.tools.compare.measuring import Measured
from restore.tools.compare.sources import PictureFolder
from restore.tools.compare.statistics import Difference, bins, paired
from restore.tools.compare.tables import Column, Layout, Table, best
from restore.utils import files, tabular

log = logging.getLogger("restore")


def write(folder: Path, job: CompareJob, results: Measured) -> None:
    """Writes all of it into the folder, and says the main things."""
    setting, layout = job.setting, job.layout
    notes = _notes(job, results)
    tables = {"table": _results(job, results, notes)}
    if len(job.methods) > 1:
        tables["differences"] = _differences(job, results)
    if results.costs:
        tables["costs"] = _costs(job, results)
    if results.shares is not None:
        for truth in job.truths:
            name = "bins" if len(job.truths) == 1 else f"bins_{truth}"
            tables[name] = _by_share(job, results, truth)
    for name, table in tables.items():
        kinds = {"csv": table.csv, "md": table.markdown, "tex": table.latex, "html": table.html}
        for suffix, render in kinds.items():
            files.write_text(folder / f"{name}.{suffix}", render())
    files.write_text(folder / "images.csv", _per_image(results))
    lists = _lists(job)
    if lists:
        files.write_text(folder / "left_out.txt", "\n".join(lists) + "\n")
    first, truth = next(iter(job.methods)), next(iter(job.truths))
    places = pages.choices(
        results, truth, first, job.rank, setting.pictures, setting.seed, job.lower_is_better
    )
    sheets = pages.draw(folder / "pictures", job.pictures, results, places, job.rank, layout)
    if "differ" in places:
        lines = pages.spreads(results, truth, job.rank, places["differ"], job.lower_is_better)
        heads = [Column("", head, "") for head in ("best", "worst", f"difference {job.rank}")]
        rows = [(key, [*rest]) for key, *rest in lines]
        tables["differ"] = Table(f"Where methods differ most (truth {truth})", "image", heads, rows)
        files.write_text(folder / "differ.csv", tables["differ"].csv())
    captions = {
        "worst": f"Worst of {first} by {job.rank} against truth {truth}",
        "best": f"Best of {first} by {job.rank} against truth {truth}",
        "random": "Chosen at random",
        "differ": f"Where methods differ most by {job.rank}",
    }
    shown = {f"pictures/{path.name}": captions[kind] for kind, path in sheets.items()}
    files.write_text(
        folder / "index.html",
        pages.page("Comparison", [*_facts(job), *lists], list(tables.values()), shown),
    )
    summary = {
        "images": len(results.keys),
        "notes": notes,
        "left out": lists,
        "values": {
            truth: {
                method: {name: results.mean(truth, method, name) for name in results.names()}
                for method in job.methods
            }
            for truth in job.truths
        },
    }
    files.write_text(folder / "summary.json", files.to_json(summary))
    for line in lists:
        log.warning(line)
    for name in ("table", "differences"):
        if name in tables:
            log.info("\n%s", tables[name].markdown())
    log.info("tables (csv, md, tex, html), images.csv, pictures and index.html in %s", folder)


def _facts(job: CompareJob) -> list[str]:
    """Where every picture came from."""
    lines = []
    for title, source in [
        *job.folders.items(),
        *((f"truth {title}", source) for title, source in job.truths.items()),
    ]:
        lossy = ""
        if source.lossy:
            lossy = (
                f"; {source.lossy} of {len(source.read)} files are JPEG or WebP, whose loss is in "
                "its numbers, known pixels too"
            )
        lines.append(f"{title}: {source.folder} ({source.kind}{lossy})")
    outside = " outside the holes" if job.pictures.mask is not None else ""
    for title, method in job.methods.items():
        if not isinstance(method, PictureFolder):
            assert job.inputs is not None
            made = ""
            if job.degraded is not None:
                made = f"pictures made by {type(job.degraded.degradation).__name__} of "
            lines.append(
                f"{title}: {method.sentence()}, run here on {made}{job.inputs.folder}{outside}"
            )
    return lines


def _notes(job: CompareJob, results: Measured) -> list[str]:
    """Which truth, which pixels, how many images: what the numbers mean."""
    lines = [
        f"N = {len(results.keys)} images, the same for every method and truth; values are means "
        f"over images; PSNR and SSIM by protocol {job.protocol.name}",
        *_facts(job),
    ]
    if results.shares is None:
        lines.append("no masks were given: whole pictures only")
    else:
        damaged = [share for share in results.shares if share > 0]
        without = len(results.shares) - len(damaged)
        lines.append(
            f"holes: {tabular.mean(damaged):.1%} of the area on the mean; {without} image(s) "
            "without holes are left out of the columns holes and ring"
        )
        lines.append(
            "holes: PSNR over hole pixels only, SSIM map averaged at hole pixels; ring: within "
            f"{RING} pixels of the holes' border on either side; the others: whole pictures"
        )
        lines += _on_masks(job, results)
    for name in results.image_names():
        for truth in job.truths:
            for method in job.methods:
                endless = sum(math.isinf(v) for v in results.column(truth, method, name))
                if endless:
                    lines.append(
                        f"{method}, truth {truth}: {endless} image(s) equal it in {name} (∞)"
                    )
    lines += [
        f"{name}: {count} image(s) have no value for some methods and are in no method's mean"
        for name, count in results.unequal().items()
    ]
    lines += [f"{key}: images without a value: {why}" for key, why in results.reasons.items()]
    lines += [f"{key}: not measured: {reason}" for key, reason in job.metrics.missing.items()]
    lines += results.sentences.values()
    lines += [
        f"{name}: not among what was measured"
        for name in job.layout.measures or []
        if name not in results.names() and name not in job.metrics.missing
    ]
    if results.shares is None and job.palettes:
        lines.append("Palette's folder shows no holes (neither Mask_ nor Process_)")
    return lines


def _on_masks(job: CompareJob, results: Measured) -> list[str]:
    """How sure the holes are, and whether every method worked with the same."""
    lines = []
    if job.masks:
        lines.append(f"masks: {job.masks_from}")
    else:
        assert job.masker is not None
        source = job.palettes[job.masker]
        lossy = ", from JPEG or WebP files: thin strokes to a few per cent" if source.lossy else ""
        lines.append(
            f"masks: won back from {job.masker}'s pictures{lossy}; "
            f"{sum(results.doubtful.values())} pixels in {len(results.doubtful)} of "
            f"{len(results.keys)} images are white with and without holes and were decided by "
            "their neighbours"
        )
    for title, values in results.holes.items():
        other = sum(value < SAME for value in values)
        if other:
            lines.append(
                f"{title} worked with OTHER HOLES in {other} of {len(values)} images (intersection "
                f"over union with the masks: median {np.median(values):.2f}): its numbers on holes "
                "are not comparable"
            )
        else:
            lines.append(
                f"{title}: its pictures show the same holes (intersection over union "
                f"{min(values):.3f} at least)"
            )
    shares = results.shares or []
    if job.masks and np.median(shares) > 0.5:
        lines.append(
            f"most of most pictures are holes (median {np.median(shares):.0%}): if it should be "
            "the other way round, give holes_are"
        )
    return lines


def _results(job: CompareJob, results: Measured, notes: list[str]) -> Table:
    """The table of results."""
    layout = job.layout
    names = layout.columns(results.names())
    columns = [
        Column(layout.truths.get(truth, truth), layout.title(name, job.legend), name)
        for truth in job.truths
        for name in names
    ]
    pairs = [(truth, name) for truth in job.truths for name in names]
    values = [
        {i: results.mean(truth, method, name) for i, (truth, name) in enumerate(pairs)}
        for method in job.methods
    ]
    rows = [
        (method, [layout.cell(name, row[i]) for i, (_, name) in enumerate(pairs)])
        for method, row in zip(job.methods, values)
    ]
    marked = best([name for _, name in pairs], values, job.legend) if layout.best else set()
    return Table("Results", "method", columns, rows, notes, marked)


def _differences(job: CompareJob, results: Measured) -> Table:
    """Mean differences to one method with their intervals."""
    setting, layout = job.setting, job.layout
    names = layout.columns(results.image_names())
    columns, counts = [], set()
    rows: dict[str, list[str]] = {m: [] for m in job.methods if m != job.against}
    for truth in job.truths:
        for name in names:
            columns.append(
                Column(layout.truths.get(truth, truth), layout.title(name, job.legend), name)
            )
            other = results.column(truth, job.against, name)
            for method, cells in rows.items():
                own = results.column(truth, method, name)
                gap = paired(own, other, setting.level, setting.resamples, setting.seed)
                counts.add(gap.count)
                cells.append(_gap(layout, name, gap))
    notes = [
        f"mean over images of method minus {job.against}, with its {setting.level:.0%} confidence "
        f"interval: paired BCa bootstrap (scipy.stats.bootstrap), {setting.resamples} resamples, "
        f"seed {setting.seed}",
        f"over the images where both have a finite value: {min(counts)} to {max(counts)}",
    ]
    return Table(f"Differences to {job.against}", "method", columns, list(rows.items()), notes)


def _gap(layout: Layout, name: str, gap: Difference) -> str:
    """A mean difference with its interval, where there are images enough for one."""
    middle = layout.cell(name, gap.mean, signed=True)
    if math.isnan(gap.low):
        return middle
    low, high = (layout.cell(name, end, signed=True) for end in (gap.low, gap.high))
    return f"{middle} [{low}, {high}]"


def _costs(job: CompareJob, results: Measured) -> Table:
    """Time a picture, and how far several samples of one are apart."""
    kinds = {"seconds": "seconds a picture", "spread": "spread of samples"}
    factor = {"seconds": 1, "spread": 255}
    columns = [Column("", title, "") for title in kinds.values()]
    rows = []
    for method in job.methods:
        cells = []
        for kind in kinds:
            values = [cost[kind] for cost in results.costs.get(method, []) if kind in cost]
            known = [factor[kind] * value for value in values if not math.isnan(value)]
            cells.append(tabular.number(tabular.mean(known)) if known else "–")
        rows.append((method, cells))
    threads = f"{torch.get_num_threads()} CPU thread(s)"
    notes = [
        f"seconds: of methods that were run here, on {job.device.type} with {threads}; of results "
        "that are kept, when they were drawn",
        "spread: standard deviation between the samples of a picture (sampler.samples), of 255 "
        "levels, mean over hole pixels and pictures",
    ]
    return Table("Time and diversity", "method", columns, rows, notes)


def _by_share(job: CompareJob, results: Measured, truth: str) -> Table:
    """Means by hole share."""
    layout, shares = job.layout, results.shares
    assert shares is not None
    ranges = bins(shares, job.setting.bins)
    names = layout.columns(results.image_names())
    columns = [
        Column(f"{title} (N = {len(places)})", layout.title(name, job.legend), name)
        for title, places in ranges.items()
        for name in names
    ]
    rows = []
    for method in job.methods:
        cells = [
            layout.cell(name, results.mean(truth, method, name, places))
            for places in ranges.values()
            for name in names
        ]
        rows.append((method, cells))
    inside = sum(map(len, ranges.values()))
    notes = [
        "a hole share on a limit belongs to the lower range",
        f"{sum(share == 0 for share in shares)} image(s) without holes are in no range; "
        f"{len(shares) - inside - sum(share == 0 for share in shares)} below the first",
    ]
    return Table(f"By hole share, truth {truth}", "method", columns, rows, notes)


def _per_image(results: Measured) -> str:
    """A csv line for each image, truth and method."""
    names = results.image_names()
    lines = []
    for i, key in enumerate(results.keys):
        share = "" if results.shares is None else results.shares[i]
        for truth, methods in results.values.items():
            for method, rows in methods.items():
                about = [key, share, results.doubtful.get(key, 0), truth, method]
                lines.append([*about, *(rows[i][name] for name in names)])
    head = ["key", "hole_share", "doubtful_pixels", "truth", "method", *names]
    return tabular.comma_separated(head, lines)


def _lists(job: CompareJob) -> list[str]:
    """What is missing on either side, and what could not be measured."""
    lines = []
    for title, keys in job.matching.missing.items():
        lines.append(f"{title} lacks {len(keys)} image(s): {', '.join(keys)}")
    for title, keys in job.matching.extra.items():
        lines.append(f"{title} alone has {len(keys)} image(s): {', '.join(keys)}")
    for key, reason in job.left_out:
        lines.append(f"{key} is left out: {reason}")
    return lines
