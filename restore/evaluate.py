"""`restore evaluate`: weights on a data set by a named protocol, beside the baseline."""

import csv
import json
import logging
from pathlib import Path
from typing import Any

from torch import Tensor

from restore import distributed, journal, registry, settings, weights
from restore.config import check
from restore.errors import UserError
from restore.evaluation import Report, Runner, evaluate
from restore.images import save_png
from restore.loading import EvalItems
from restore.types import Problem

log = logging.getLogger("restore")


def main(config: dict[str, Any], overrides: list[str]) -> int:
    """Checks everything, makes the folder, and evaluates on as many processes as asked for.

    Returns the exit code 0.
    """
    setting = check(config, settings.Evaluate)
    folder = Path(setting.folder)
    if distributed.joined() or setting.runtime.devices == 1:
        return work(folder, config, new=True)
    journal.refuse_taken(folder)
    weights.load(setting.weights, setting.model).backbone()
    journal.make_folder(folder, config)
    return distributed.launch("evaluate", folder, setting.runtime)


def work(folder: Path, config: dict[str, Any] | None = None, new: bool = False) -> int:
    """Evaluates this process's share; the first process writes the results.

    Args:
        folder: for the results.
        config: None: the folder's.
        new: whether the folder is still to be made; it is once everything is found to be there.
    """
    config = config or journal.read_config(folder)
    setting = check(config, settings.Evaluate)
    with distributed.group(setting.runtime) as device:
        folder = Path(distributed.from_first(str(folder)))
        if new:
            journal.refuse_taken(folder)
        journal.log_to(None)
        loaded = weights.load(setting.weights, setting.model)
        model = loaded.backbone().to(device)
        task = loaded.task()
        dataset = registry.instantiate(setting.data, "data")
        items = EvalItems(dataset.split(setting.split), task, setting.loader.on_error)
        protocol = registry.instantiate(setting.protocol, "protocol")
        measures = {
            name: registry.instantiate(node, f"perceptual.{name}")
            for name, node in setting.perceptual.items()
        }
        if new and distributed.rank() == 0:
            journal.make_folder(folder, config)
        distributed.gather(None)  # nobody goes on before the folder is there
        journal.log_to(folder)
        log.info(loaded.sentence())
        skipped = {name: m.missing for name, m in measures.items() if m.missing is not None}
        active = {name: m.to(device) for name, m in measures.items() if name not in skipped}

        def each(problem: Problem, restored: Tensor, baseline: Tensor) -> dict[str, float]:
            if setting.save:
                _save(folder, problem, restored)
            values: dict[str, float] = {}
            for name, measure in active.items():
                values |= measure.update(name, restored, baseline, problem.target)
            return values

        report = evaluate(
            Runner(model, setting.runtime, device),
            task,
            items,
            protocol,
            setting.loader,
            limit=setting.limit,
            pictures=folder / "pictures",
            count=setting.pictures,
            each=each,
        )
        pooled: dict[str, float] = {}
        for name, measure in active.items():
            pooled |= measure.pooled(name, distributed.gather)
        if distributed.rank() == 0:
            facts = {
                "weights": str(loaded.path),
                "sha256": loaded.fingerprint,
                "origin": loaded.origin,
                "data": dict(setting.data),
                "split": setting.split,
                "protocol": protocol.name,
                "images": len(report.rows),
                "skipped": [list(entry) for entry in report.skipped],
                "not measured": skipped,
                "measured by": {name: m.sentence() for name, m in active.items()},
            }
            _write(folder, config, facts, report, pooled)
        return 0


def _save(folder: Path, problem: Problem, restored: Tensor) -> None:
    """Keeps what went in and what came out, ready for `restore apply` and `compare`."""
    name = problem.keys[0].replace("/", "_") + ".png"
    pictures = {"restored": restored, "target": problem.target}
    pictures |= {k: problem.inputs[k] for k in ("low", "reference") if k in problem.inputs}
    for kind, picture in pictures.items():
        if picture is not None:
            (folder / kind).mkdir(exist_ok=True)
            save_png(folder / kind / name, picture[0])


def _write(
    folder: Path,
    config: dict[str, Any],
    facts: dict[str, Any],
    report: Report,
    pooled: dict[str, float],
) -> None:
    """`images.csv`, `summary.json`, `table.md`, and the dashboard."""
    if not report.rows:
        raise UserError("no image of the split could be read")
    values, base = report.mean("restored"), report.mean("baseline")
    names = list(report.rows[0]["restored"])
    with open(folder / "images.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["key", *names, *(f"{report.baseline}/{name}" for name in base)])
        for row in report.rows:
            writer.writerow(
                [row["key"], *row["restored"].values(), *(row["baseline"][name] for name in base)]
            )
    summary = {**facts, "restored": {**values, **pooled}, report.baseline: base}
    journal.write_text(folder / "summary.json", json.dumps(summary, indent=2) + "\n")
    text = table(facts, report, pooled)
    journal.write_text(folder / "table.md", text)
    log.info("\n%s", text)
    log.info("images.csv, summary.json and pictures in %s", folder)
    dashboard = journal.Journal(folder, config, config["wandb"], "evaluate")
    split = facts["split"]
    dashboard.numbers({f"{split}/{k}": v for k, v in {**values, **pooled}.items()}, 0)
    dashboard.numbers({f"{split}/{report.baseline}/{k}": v for k, v in base.items()}, 0)
    dashboard.pictures({f"{split}/{k}": v for k, v in report.sheets.items()}, 0)
    dashboard.summary(summary)
    dashboard.close()


def table(facts: dict[str, Any], report: Report, pooled: dict[str, float]) -> str:
    """The result as a Markdown table, with everything that says what its numbers mean."""
    values, base = {**report.mean("restored"), **pooled}, report.mean("baseline")
    data = facts["data"]
    source = str(data["_target_"]).rpartition(".")[2]
    told = f"{source} {facts['split']}, N = {facts['images']}, protocol {facts['protocol']}"
    if "references" in data:
        told += f", references {data['references']}"
    lines = [
        told,
        f"weights {facts['weights']} (sha256 {facts['sha256']}…; {facts['origin']})",
        "",
        "| | " + " | ".join(values) + " |",
        "|---" * (len(values) + 1) + "|",
    ]
    for name, row in ((report.baseline, base), ("restored", values)):
        cells = [f"{row[key]:.4f}" if key in row else "–" for key in values]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    lines.append("")
    for name, reason in facts["not measured"].items():
        lines.append(f"{name}: not measured: {reason}")
    lines += facts["measured by"].values()
    if facts["skipped"]:
        lines.append(f"{len(facts['skipped'])} image(s) could not be read and were skipped:")
        lines += [f"  {path}: {reason}" for path, reason in facts["skipped"]]
    return "\n".join(lines) + "\n"
