"""Reading run folders (of `restore train`) and evaluation folders (of `restore evaluate`)."""

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
from restore.utils import foreign

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

    def picture(self, kind: str, key: str, suffix: str = ".png") -> Path | None:
        """Where `save=true` keeps a picture; None for a key that leads out of its folder."""
        place = self.folder / kind
        path = place / f"{key}{suffix}"
        # What a file names is no path: neither by dots nor by a link does it lead elsewhere.
        inside = "\0" not in key and path.resolve().is_relative_to(place.resolve())
        return path if inside and place.resolve().parent == self.folder.resolve() else None


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
                config = run_folder.look_at_config(place)
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
        reasons = "; ".join(notes)
        raise UserError(
            f"{', '.join(folders)}: there is neither a run of restore train nor an evaluation"
            + (f" that can be read ({reasons})" if reasons else "")
        )
    return _joined(runs, list(evaluations.values()), notes)


def _state(folder: Path) -> str:
    """How far a run is that has not come to its end, and why, where it says so."""
    status = _json(folder / "status.json")
    reason = f" ({status['reason']})" if status.get("reason") else ""
    return f"{status.get('state', 'not at its end')}{reason}"


def _places(root: Path) -> Iterator[Path]:
    for place, inner, names in os.walk(root):
        if "config.yaml" in names:  # elsewhere a folder of these names may be a run's
            inner[:] = [x for x in inner if x not in _INNER and not x.startswith("reference")]
        inner.sort(key=_natural)
        if not {"config.yaml", "status.json"}.isdisjoint(names):
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
    with foreign.reading(folder / "config.yaml"):
        seed = config.get("seed")
        if not isinstance(seed, int | None) or not isinstance(config["schedule"], list):
            raise ValueError("its seed or schedule is none")
    return Run(folder, config, _overrides(folder), dict(history), _json(folder / "summary.json"))


def _overrides(folder: Path) -> dict[str, str]:
    """What was typed, by the sweep's note, the folder's name or the command of a single run."""
    job = _json(folder / "job.json").get("overrides")
    command = _json(folder / "environment.json").get("command")
    command = command if isinstance(command, list) else []
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
        raise UserError(f"{folder} holds an evaluation that did not finish")
    if isinstance(summary.get("references"), Mapping):
        places = [folder / str(kind).replace("/", "_") for kind in summary["references"]]
        if odd := next((p for p in places if p.resolve().parent != folder.resolve()), None):
            raise UserError(f"{folder} is damaged: {odd.name} is no folder in it")
        return [_evaluation(place, _json(place / "summary.json")) for place in places]
    return [_evaluation(folder, summary)]


def _evaluation(folder: Path, summary: dict[str, Any]) -> Evaluation:
    rows = _rows(folder / "images.csv")
    if "restored" not in summary or not rows:
        raise UserError(f"{folder} holds no results of single images (images.csv)")
    with foreign.reading(folder / "summary.json"):
        _check_facts(summary)
        return _measured(folder, summary, rows)


def _check_facts(summary: dict[str, Any]) -> None:
    """Raises KeyError or ValueError where what the page tells of an evaluation is not there."""
    for name in ("weights", "split", "protocol", "references"):
        if not isinstance(summary[name], str):
            raise ValueError(f"{name} is no text")
    if "\0" in summary["weights"]:
        raise ValueError("weights names no file")
    if not isinstance(summary["data"], dict) or not isinstance(summary["data"]["_target_"], str):
        raise ValueError("data names no data set")
    if not isinstance(summary["restored"], dict):
        raise ValueError("restored holds no numbers")
    if not isinstance(summary.get("task changed") or {}, dict):
        raise ValueError("task changed holds no settings")
    directions = summary.get("higher is better") or {}
    if any(not isinstance(better, bool | None) for better in dict(directions).values()):
        raise ValueError("higher is better is not said by true or false")


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
    untrained: dict[str, Run] = {}
    for one in evaluations:
        run = _trained(runs, one.weights)
        if run is None:
            run = untrained.setdefault(one.weights, Run(Path(one.weights)))
        joined.append((run, one))
    return Found([*runs.values(), *untrained.values()], joined, notes)


def _trained(runs: dict[Path, Run], weights: str) -> Run | None:
    """The run in whose folder the weights lie, wherever both may have been moved to since."""
    path = Path(weights).resolve()
    place = path.parent.parent if path.parent.name == "checkpoints" else path
    if place in runs:
        return runs[place]
    same = [run for known, run in runs.items() if known.name == place.name]
    return same[0] if len(same) == 1 else None


def _rows(path: Path) -> list[dict[str, str]]:
    return foreign.read_csv(path) if path.exists() else []


def _json(path: Path) -> dict[str, Any]:
    """A JSON file's object; empty when there is no such file."""
    return foreign.read_json(path) if path.exists() else {}


def _number(value: Any) -> float:
    number = math.nan if value in (None, "") else float(value)
    if math.isinf(number):
        raise ValueError("a number is infinite")
    return number
