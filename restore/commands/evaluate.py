"""`restore evaluate`: weights on a data set by a named protocol, beside the baseline."""

import logging
import math
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor

from restore.config import check, registry, settings
from restore.data.frames import Frame, framed
from restore.data.loading import EvalItems, look
from restore.data.references import replaced
from restore.engine import launcher, run_folder, run_logger
from restore.errors import MISTAKE, UserError
from restore.images.io import save_png
from restore.inference import reference_table
from restore.inference.drawn import KeepingRunner
from restore.inference.evaluation import EvaluationResult, Evaluator, Options
from restore.inference.runner import Runner, check_scale
from restore.metrics import holes, samples, selection
from restore.metrics.legend import Legend
from restore.models import weights
from restore.models.attention import choices
from restore.types import Problem, Restoration, SplitAware
from restore.utils import distributed, files, tabular

log = logging.getLogger("restore")


class EvaluateJob:
    """What an evaluation needs, found to be there before anything is written.

    Raises UserError for whatever is missing or does not fit.
    """

    def __init__(self, setting: settings.Evaluate):
        loaded = weights.load(setting.weights, setting.model, setting.pretrained)
        self.loaded = loaded.sampled_by(setting.sampler)
        self.model = self.loaded.backbone()
        node = setting.protocol or self.loaded.config["protocol"]
        self.protocol = registry.instantiate(node, "protocol")
        task = self.loaded.task(_changes(setting))
        check_scale(self.model, task)
        if isinstance(task, SplitAware):
            task = task.for_split(setting.split)
        kinds = setting.references or [self.loaded.config.get("reference", "given")]
        asked = self.protocol.frame, self.model.reference_multiple
        self.items = {_named(kind): _items(setting, task, kind, *asked) for kind in kinds}
        for items in self.items.values():
            look(items, setting.seed)
        self.metrics = selection.build(setting.metric, self.protocol, setting.pretrained)


def _changes(setting: settings.Evaluate) -> dict[str, Any]:
    """What is another than when the weights were trained, of the task."""
    masks = {} if setting.masks is None else {"masks": setting.masks}
    return {**(setting.task or {}), **masks}


def _named(kind: Any) -> str:
    """A kind of reference in a word; several at once are joined by a plus."""
    return "+".join(map(str, kind)) if isinstance(kind, list) else str(kind)


def _items(
    setting: settings.Evaluate, task: Any, kind: Any, frame: Frame | None, multiple: int | None
) -> EvalItems:
    """The split with a kind of reference: one of ours, or what the data set has itself."""
    ours, data = get_args(settings.Reference), setting.data
    if kind not in ours:
        if "references" not in data:
            raise UserError(
                f"references: there is no kind '{_named(kind)}'; choose one of {', '.join(ours)} "
                "(this data set has no references to choose from)"
            )
        data, kind = {**data, "references": kind}, "given"
    split = registry.instantiate(data, "data").split(setting.split)
    source, task = replaced(kind, split, task)
    return EvalItems(source, framed(task, frame, multiple), setting.loader.on_error)


def main(config: dict[str, Any], overrides: list[str]) -> int:
    """Checks everything, makes the folder, and evaluates on as many processes as asked for.

    Returns the exit code 0.
    """
    setting = check(config, settings.Evaluate)
    launcher.refuse_compile(setting.runtime)
    folder = Path(setting.folder)
    if launcher.joined() or setting.runtime.devices == 1:
        return work(folder, config, new=True)
    run_folder.refuse_taken(folder, config)
    launcher.device(setting.runtime)
    EvaluateJob(setting)  # what is wrong is said here, once, rather than by every process
    with run_folder.filling(folder, config) as undo:
        code = launcher.launch("evaluate", folder, setting.runtime)
        if code == MISTAKE:
            undo()
        return code


def work(folder: Path, config: dict[str, Any] | None = None, new: bool = False) -> int:
    """Evaluates this process's share; the first process writes the results.

    The arguments are those of `restore.commands.train.work`.
    """
    config = config or run_folder.read_config(folder)
    setting = check(config, settings.Evaluate)
    with launcher.group(setting.runtime) as device, ExitStack() as stack:
        folder = Path(distributed.from_first(str(folder)))
        if new:
            run_folder.refuse_taken(folder, config)
        run_folder.log_to(None)
        job = EvaluateJob(setting)
        if new and distributed.rank() == 0:
            stack.enter_context(run_folder.filling(folder, config))
        distributed.gather(None)  # nobody goes on before the folder is there
        run_folder.log_to(folder)
        log.info(job.loaded.sentence())
        if setting.protocol is None:
            log.info("protocol %s, as in the validation of these weights", job.protocol.name)
        dashboard = run_logger.Journal(folder, config, config["wandb"], "evaluate")
        done = False
        try:
            _measure_all(folder, setting, job, device, dashboard)
            done = True
        finally:
            dashboard.close(failed=not done)
        if distributed.rank() == 0:
            run_folder.finish(folder)
        return 0


def _measure_all(
    folder: Path,
    setting: settings.Evaluate,
    job: EvaluateJob,
    device: torch.device,
    dashboard: run_logger.Journal,
) -> None:
    """Evaluates with each kind of reference; several come into folders of their own."""
    results: dict[str, tuple[EvaluationResult, dict[str, Any]]] = {}
    alone = len(job.items) == 1
    for kind in job.items:
        place = folder if alone else folder / kind.replace("/", "_")
        results[kind] = result, summary = _measure(place, setting, job, kind, device)
        if distributed.rank() == 0:
            prefix = setting.split if alone else f"{setting.split}/{kind}"
            _show(dashboard, prefix, result, summary)
    if distributed.rank() == 0:
        dashboard.summary(summary if alone else _compare(folder, results))


def _measure(
    folder: Path, setting: settings.Evaluate, job: EvaluateJob, kind: str, device: torch.device
) -> tuple[EvaluationResult, dict[str, Any]]:
    """Evaluates with one kind of reference; the first process writes the results."""

    def keep(problem: Problem, restored: Restoration, _: Tensor) -> None:
        _save(folder, problem, restored)

    runner = Runner(job.model.to(device), setting.runtime, device)
    if job.model.generative:
        mark = f"{job.loaded.fingerprint}-{setting.runtime.precision}"
        runner = KeepingRunner(runner, folder / ".drawn", mark)
    evaluator = Evaluator(
        runner,
        job.metrics,
        setting.loader,
        Options(setting.seed, setting.limit, folder / "pictures", setting.pictures),
        keep if setting.save else None,
    )
    result = evaluator.evaluate(job.items[kind])
    if not result.rows:
        nothing = UserError(f"no image of the split could be read: {result.skipped[0]}")
        distributed.fail_together([nothing])
    facts = _facts(setting, job, kind, result)
    if job.model.generative:
        facts["sampler"] = job.loaded.config["backbone"].get("sampler")
    values = {"restored": result.mean(), result.baseline: result.mean("baseline")}
    if distributed.rank() == 0:
        folder.mkdir(exist_ok=True)
        _write(folder, facts, result, values)
        if isinstance(runner, KeepingRunner):
            runner.clear()
    return result, {**facts, **values}


def _facts(
    setting: settings.Evaluate, job: EvaluateJob, kind: str, result: EvaluationResult
) -> dict[str, Any]:
    """Everything that says what the numbers mean."""
    return {
        "weights": str(job.loaded.path),
        "sha256": job.loaded.fingerprint,
        "origin": job.loaded.origin,
        "data": dict(setting.data),
        "split": setting.split,
        "references": _given(setting.data) if kind == "given" else kind,
        "protocol": job.protocol.name,
        "task changed": _changes(setting),
        "images": len(result.rows),
        "without a value": result.without(),
        "why without": result.reasons,
        "skipped": [list(entry) for entry in result.skipped],
        "not measured": result.missing,
        "measured by": result.sentences,
        "higher is better": result.directions,
    }


def _given(data: Mapping[str, Any]) -> str:
    return _named(data["references"]) if data.get("references") else "the data's own"


def _save(folder: Path, problem: Problem, restored: Restoration) -> None:
    """Keeps what went in and what came out, ready for `restore apply`, `compare` and `report`."""
    pictures = {"restored": restored.image, "target": problem.target}
    for place, sample in enumerate(restored.samples[1:], 2):
        pictures[f"restored_{place}"] = sample
    if restored.samples:
        drawn = torch.stack(restored.samples)
        pictures |= {"mean": drawn.mean(0), "deviation": drawn.std(0, correction=0)}
    pictures |= {"low": problem.inputs["low"]} if "low" in problem.inputs else {}
    given = problem.inputs.get("reference", [])
    for place, picture in enumerate(given if isinstance(given, list) else [given], 1):
        pictures["reference" if place == 1 else f"reference_{place}"] = picture
    if (mask := problem.hole_mask) is not None and (whole := problem.undamaged) is not None:
        pictures |= {"whole": whole, "mask": mask.expand_as(whole), "input": whole * (1 - mask)}
    for kind, picture in pictures.items():
        if picture is not None:
            path = folder / kind / f"{problem.keys[0]}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            save_png(path, picture[0])
    if restored.index is not None:
        path = folder / choices.FOLDER / f"{problem.keys[0]}.npz"
        path.parent.mkdir(parents=True, exist_ok=True)
        choices.write(path, restored)


def _write(
    folder: Path, facts: dict[str, Any], result: EvaluationResult, values: dict[str, Any]
) -> None:
    """`images.csv`, `summary.json`, `table.md`."""
    names = list(result.rows[0]["restored"])
    base = [f"{result.baseline}/{name}" for name in result.rows[0]["baseline"]]
    head = ["key", *names, *base, *result.rows[0]["facts"]]
    rows = [
        [row["key"], *(v for m in ("restored", "baseline", "facts") for v in row[m].values())]
        for row in result.rows
    ]
    files.write_text(folder / "images.csv", tabular.comma_separated(head, rows))
    binned = {"by share of holes": holes.by_share(result.rows)} if holes.known(result.rows) else {}
    legend = Legend(facts["higher is better"])
    several = samples.drawn(result.rows)
    drawn = {"samples": samples.summary(result.rows, legend)} if several else {}
    files.write_text(folder / "summary.json", files.to_json({**facts, **values, **binned, **drawn}))
    text = table(facts, result.baseline, values) + holes.section(result.rows, result.baseline)
    text += samples.section(result.rows, legend)
    files.write_text(folder / "table.md", text)
    log.info("\n%s", text)
    log.info("images.csv, summary.json and pictures in %s", folder)


def _show(
    dashboard: run_logger.Journal, prefix: str, result: EvaluationResult, summary: dict[str, Any]
) -> None:
    """Numbers and pictures on the dashboard, their names behind the prefix."""
    base = result.baseline
    dashboard.numbers({f"{prefix}/{k}": v for k, v in summary["restored"].items()}, 0)
    dashboard.numbers({f"{prefix}/{base}/{k}": v for k, v in summary[base].items()}, 0)
    dashboard.pictures({f"{prefix}/{k}": v for k, v in result.sheets.items()}, 0)


def _compare(
    folder: Path, results: dict[str, tuple[EvaluationResult, dict[str, Any]]]
) -> dict[str, Any]:
    """`references.csv`, `references.md` and `summary.json`: kinds of references side by side.

    Returns the summary.
    """
    rows = reference_table.shared({kind: result for kind, (result, _) in results.items()})
    if not any(rows.values()):
        raise UserError("references: no image could be read with every kind")
    result, facts = next(iter(results.values()))
    facts = {**facts, "references": "compared", "images": len(next(iter(rows.values())))}
    del facts["restored"]
    summary = {**facts, "references": reference_table.means(rows)}
    files.write_text(folder / "summary.json", files.to_json(summary))
    files.write_text(folder / "references.csv", reference_table.per_image(rows))
    text = "\n".join([*_heading(facts), "", reference_table.table(rows, result.baseline)])
    files.write_text(folder / "references.md", text)
    log.info("\n%s", text)
    log.info("references.csv, summary.json and a folder for each kind in %s", folder)
    return summary


def _heading(facts: dict[str, Any]) -> list[str]:
    """What the numbers below mean, in two lines."""
    source = str(facts["data"]["_target_"]).rpartition(".")[2]
    return [
        f"{source} {facts['split']}, N = {facts['images']}, protocol {facts['protocol']}, "
        f"references: {facts['references']}",
        f"weights {facts['weights']} (sha256 {facts['sha256']}…; {facts['origin']})",
        *([f"task changed: {_plainly(facts['task changed'])}"] if facts["task changed"] else []),
        *([_plainly({"sampler": facts["sampler"]})] if facts.get("sampler") else []),
    ]


def _plainly(changes: dict[str, Any]) -> str:
    """Settings in a line, parts by their class."""
    words = []
    for name, value in changes.items():
        if isinstance(value, dict) and "_target_" in value:
            inner = {key: inside for key, inside in value.items() if key != "_target_"}
            value = f"{value['_target_'].rpartition('.')[2]}({_plainly(inner)})"
        words.append(f"{name}={value}")
    return ", ".join(words)


def table(facts: dict[str, Any], baseline: str, measured: dict[str, Any]) -> str:
    """The result as a Markdown table, with everything that says what its numbers mean."""
    values, base = measured["restored"], measured[baseline]
    legend = Legend(facts["higher is better"])
    rows = [
        [name, *(tabular.number(row.get(key, math.nan)) for key in values)]
        for name, row in ((baseline, base), ("restored", values))
    ]
    lines = [*_heading(facts), "", tabular.markdown(["", *values], rows)]
    for name, count in facts["without a value"].items():
        metric = legend.metric(name)
        why = facts["why without"].get(metric, "too small or without such pixels")
        lines.append(f"{name}: {count} of {facts['images']} image(s) have no value ({why})")
    for name, reason in facts["not measured"].items():
        lines.append(f"{name}: not measured: {reason}")
    lines += facts["measured by"].values()
    if facts["skipped"]:
        lines.append(_skips(facts["skipped"]))
    return "\n".join(lines) + "\n"


def _skips(skipped: Sequence[Sequence[str]]) -> str:
    lines = [f"{len(skipped)} image(s) could not be read and were skipped:"]
    return "\n".join([*lines, *(f"  {path}: {reason}" for path, reason in skipped)])
