"""Reading run folders (of `restore train`) and evaluation folders (of `restore evaluate`)."""

import csv
import json
import math
import os
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from restore.engine import run_folder
from restore.errors import UserError

# Folders inside runs and evaluations that hold no others.
_INNER = {
    *("pictures", "checkpoints", "wandb", "restored", "target", "low", "whole", "mask", "input"),
    "attention",
}


@dataclass
class Run:
    """A training run, or weights that came from elsewhere (then without config and history).

    `history` holds by name of the number its (step, value) pairs; `overrides` what was typed to
    start it, without the keys that name no difference in the result.
    """

    folder: Path
    config: dict[str, Any] = field(default_factory=dict)
    overrides: dict[str, str] = field(default_factory=dict)
    history: dict[str, list[tuple[int, float]]] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)

    @property
    def seed(self) -> int | None:
        """That of the configuration."""
        return self.config.get("seed")


@dataclass
class Evaluation:
    """What one evaluation measured: values by measure and image.

    `means` are over the images that have a value, `pooled` measures of the whole set among them;
    `values` hold NaN where an image has none. `baseline` names the method without learning, whose
    values of the whole set are `baseline_pooled`.
    """

    folder: Path
    weights: str
    facts: dict[str, Any]
    keys: list[str]
    values: dict[str, list[float]]
    means: dict[str, float]
    baseline: str
    baseline_values: dict[str, list[float]]
    baseline_pooled: dict[str, float] = field(default_factory=dict)

    def picture(self, kind: str, key: str, suffix: str = ".png") -> Path:
        """Where `save=true` keeps a picture."""
        return self.folder / kind / f"{key}{suffix}"


@dataclass
class Found:
    """Everything in some folders, and sentences on what could not be taken."""

    runs: list[Run]
    evaluations: list[tuple[Run, Evaluation]]
    notes: list[str]


def find(folders: Sequence[str]) -> Found:
    """Every run and evaluation in the folders and in folders below them.

    Raises UserError when a folder is not there or none holds any.
    """
    runs: dict[Path, Run] = {}
    evaluations: dict[Path, Evaluation] = {}
    notes: list[str] = []
    for name in folders:
        root = Path(name)
        if not root.is_dir():
            raise UserError(f"{root} is not a folder of runs or evaluations")
        for place in _places(root):
            try:
                if not (place / "config.yaml").exists():
                    notes.append(f"{place}: {_state(place)}")
                    continue
                config = run_folder.read_config(place)
                if "schedule" in config:
                    runs[place.resolve()] = run = _run(place, config)
                    if not run.summary:
                        notes.append(
                            f"{place}: {_state(place)}; its curves are shown, its numbers left out"
                        )
                elif "weights" in config:
                    evaluations |= {one.folder.resolve(): one for one in _evaluations(place)}
            except UserError as error:
                notes.append(f"left out: {error}")
    if not runs and not evaluations:
        told = "; ".join(notes)
        raise UserError(
            f"{', '.join(folders)}: there is neither a run of restore train nor an evaluation"
            + (f" that can be read ({told})" if told else "")
        )
    return _joined(runs, list(evaluations.values()), notes)


def _state(folder: Path) -> str:
    """How far a run is that has not come to its end, and why, where it says so."""
    told = _json(folder / "status.json")
    reason = f" ({told['reason']})" if told.get("reason") else ""
    return f"{told.get('state', 'not at its end')}{reason}"


def _places(root: Path) -> Iterator[Path]:
    for place, inner, files in os.walk(root):
        if "config.yaml" in files:  # elsewhere a folder of these names may be a run's
            inner[:] = [x for x in inner if x not in _INNER and not x.startswith("reference")]
        inner.sort(key=_natural)
        if not {"config.yaml", "status.json"}.isdisjoint(files):
            yield Path(place)


def _natural(name: str) -> list[tuple[int, int | str]]:
    """By which 9 comes before 10."""
    parts = re.split(r"([0-9]+)", name)
    return [(0, int(part)) if place % 2 else (1, part) for place, part in enumerate(parts)]


def _run(folder: Path, config: dict[str, Any]) -> Run:
    history = defaultdict(list)
    for row in _rows(folder / "metrics.csv"):
        try:
            history[row["name"]].append((int(row["step"]), float(row["value"])))
        except (KeyError, TypeError, ValueError):
            continue  # the line that a stopped run was writing
    return Run(folder, config, _overrides(folder), dict(history), _json(folder / "summary.json"))


def _overrides(folder: Path) -> dict[str, str]:
    """What was typed, by the sweep's note, the folder's name or the command of a single run."""
    job = _json(folder / "job.json").get("overrides")
    command = _json(folder / "environment.json").get("command") or []
    if isinstance(job, list):
        words = job
    elif "=" in folder.name:
        words = re.split(r",(?=[\w.@/+~]+=)", folder.name)
    elif "-m" not in command and "--multirun" not in command:
        words = command[1:]
    else:
        words = []
    pairs = (str(word).lstrip("+~").partition("=") for word in words if "=" in str(word))
    return {key: value for key, _, value in pairs}


def _evaluations(folder: Path) -> list[Evaluation]:
    """One, or one for each kind of reference."""
    summary = _json(folder / "summary.json")
    if not summary:
        raise UserError(f"{folder} holds an evaluation that has not come to its end")
    if isinstance(summary.get("references"), Mapping):
        places = [folder / kind.replace("/", "_") for kind in summary["references"]]
        return [_evaluation(place, _json(place / "summary.json")) for place in places]
    return [_evaluation(folder, summary)]


def _evaluation(folder: Path, summary: dict[str, Any]) -> Evaluation:
    rows = list(_rows(folder / "images.csv"))
    if "restored" not in summary or not rows:
        raise UserError(f"{folder} holds no results of single images (images.csv)")
    try:
        return _measured(folder, summary, rows)
    except (KeyError, ValueError) as error:
        raise UserError(f"{folder} holds damaged results: {error}") from error


def _measured(folder: Path, summary: dict[str, Any], rows: list[dict[str, str]]) -> Evaluation:
    means = {name: _number(value) for name, value in summary["restored"].items()}
    base = {name.rpartition("/") for name in rows[0] if name.rpartition("/")[2] in means}
    prefix = next((first for first, slash, _ in sorted(base) if slash), "")
    return Evaluation(
        folder,
        str(summary["weights"]),
        summary,
        [row["key"] for row in rows],
        {name: [_number(row[name]) for row in rows] for name in means if name in rows[0]},
        means,
        prefix,
        {
            name: [_number(row[f"{prefix}/{name}"]) for row in rows]
            for name in means
            if prefix and f"{prefix}/{name}" in rows[0]
        },
        {
            name: _number(value)
            for name, value in (summary.get(prefix) or {}).items()
            if name in means and name not in rows[0]
        },
    )


def _joined(runs: dict[Path, Run], evaluations: list[Evaluation], notes: list[str]) -> Found:
    """Evaluations with the runs whose weights they measured."""
    joined = []
    foreign: dict[str, Run] = {}
    for one in evaluations:
        run = _trained(runs, one.weights)
        if run is None:
            run = foreign.setdefault(one.weights, Run(Path(one.weights)))
        joined.append((run, one))
    return Found([*runs.values(), *foreign.values()], joined, notes)


def _trained(runs: dict[Path, Run], weights: str) -> Run | None:
    """The run in whose folder the weights lie, wherever both may have been moved to since."""
    path = Path(weights).resolve()
    place = path.parent.parent if path.parent.name == "checkpoints" else path
    if place in runs:
        return runs[place]
    same = [run for known, run in runs.items() if known.name == place.name]
    return same[0] if len(same) == 1 else None


def _rows(path: Path) -> Iterator[dict[str, str]]:
    if path.exists():
        with open(path, newline="", encoding="utf-8") as file:
            yield from csv.DictReader(file)


def _json(path: Path) -> dict[str, Any]:
    """A JSON file's object; empty when there is no such file."""
    if not path.exists():
        return {}
    try:
        held = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is damaged: {error}") from error
    return held if isinstance(held, dict) else {}


def _number(value: Any) -> float:
    return math.nan if value in (None, "") else float(value)
