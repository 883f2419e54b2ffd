"""A sweep's folder: which job lies where, what is done, and the table of it.

The same command always means the same folder (`runs/sweeps/NAME`). Each job has its run folder in
it, named by what differs (`channels=64,seed=1`), with `job.json` (all that it was asked for) and
`status.json` (how far it is).
"""

import hashlib
import json
import re
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override

from restore.runs import status
from restore.config import compose, names, plain
from restore.errors import UserError
from restore.runs.journal import to_json, write_text

# What may differ between two stretches of one run: where it lies and runs, and who watches.
FREE = (
    *("folder", "resume", "wandb", "runtime.device", "runtime.devices", "runtime.threads"),
    *("loader.workers", "trainer.log_every", "trainer.pictures"),
)
_LONGEST = 100  # letters of a folder's name


@dataclass
class Sweep:
    """What a command line asks for.

    Args:
        overrides: for Hydra, the folder among them.
        folder: of the sweep.
        swept: the keys that differ between its jobs.
        jobs: each job's folder, when the sweeper tries every combination; else unknown (None).
    """

    overrides: list[str]
    folder: Path
    swept: list[str]
    jobs: list[Path] | None = None
    begun: float = field(default_factory=time.time)


def several(overrides: Sequence[str]) -> bool:
    """Whether a command line asks for a sweep."""
    return not {"-m", "--multirun", "hydra.mode=MULTIRUN"}.isdisjoint(overrides)


def prepare(overrides: list[str]) -> Sweep:
    """Finds the sweep's folder and jobs, composing each before any work, and makes the folders.

    Raises UserError where a job's configuration cannot be composed: then nothing is begun.
    """
    typed = [o for o in overrides if not o.startswith("-")]
    parsed = OverridesParser.create().parse_overrides(typed)
    own = [o for o in parsed if not o.key_or_group.startswith(("hydra.", "hydra/"))]
    fixed = [o for o in own if not o.is_sweep_override()]
    params, plain_sweeper = _parameters(parsed)
    ranged = [o for o in [*params, *own] if o.is_sweep_override()]
    swept = list(dict.fromkeys([_key(o) for o in [*params, *ranged]]))
    if "folder" in swept:
        raise UserError("folder: a sweep lies in one; each of its jobs has its own in there")
    given = next((o.get_value_element_as_str() for o in own if _key(o) == "folder"), None)
    folder = Path(given.strip("'\"") if given else f"runs/sweeps/{_title(fixed, swept)}")
    sweep = Sweep([*overrides, *([] if given else [f"folder='{folder}'"])], folder, swept)
    if plain_sweeper:
        jobs = list(_combinations([*params, *own]))
        configs = [plain(compose("train", job)) for job in jobs]
        sweep.jobs = [claim(folder, config, job, swept) for config, job in zip(configs, jobs)]
    return sweep


def _parameters(typed: list[Override]) -> tuple[list[Override], bool]:
    """What a named sweep adds, and whether every combination is what its sweeper tries."""
    from omegaconf import OmegaConf

    # Others may be about what only the jobs have, such as a backbone that is swept.
    lines = [o.input_line or "" for o in typed if re.match(r"hydra[./]|sweep$", _key(o))]
    about = compose("train", lines, with_hydra=True).hydra
    params = OmegaConf.to_container(about.sweeper.get("params") or OmegaConf.create({}))
    assert isinstance(params, dict)
    lines = [f"{key!s}={value}" for key, value in params.items()]
    every = str(about.sweeper._target_).endswith("BasicSweeper")
    return OverridesParser.create().parse_overrides(lines), every


def _key(override: Override) -> str:
    return str(override.get_key_element()).lstrip("+~")


def _combinations(overrides: list[Override]) -> list[list[str]]:
    """The overrides of each job, as Hydra's own sweeper makes them."""
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper

    (jobs,) = BasicSweeper.split_arguments(overrides, None)
    return jobs


def _title(fixed: list[Override], swept: list[str]) -> str:
    """A sweep's name, from the command line in any order; only the swept values are left out."""
    values = {_key(o): str(o.get_value_element_as_str()) for o in fixed}
    named = [values.pop(key) for key in ("experiment", "sweep") if key in values]
    kept = sorted(f"{key}={value}" for key, value in values.items() if not _free(key))
    name = "-".join([*named, ",".join(sorted(_short(swept).values()))][: 2 if named else 1])
    return _safe(f"{name}-{_digest(kept)[:6]}" if kept else name)


def _free(key: str) -> bool:
    return key in FREE or key.startswith(tuple(f"{name}." for name in FREE))


def _digest(values: Any) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def _short(keys: Sequence[str]) -> dict[str, str]:
    """For each dotted key the shortest end that no other of them has."""
    found = {}
    for key in keys:
        steps = key.split(".")
        for count in range(1, len(steps) + 1):
            found[key] = ".".join(steps[-count:])
            if sum(f".{other}".endswith(f".{found[key]}") for other in keys) == 1:
                break
    return found


def _safe(name: str) -> str:
    """The name, of letters that need no quotes in a shell, and not too long to read."""
    name = re.sub(r"[^\w.+=,-]+", "-", name).strip("-.") or "one"
    return name if len(name) <= _LONGEST else f"{name[:_LONGEST]}-{_digest(name)[:8]}"


def assignments(overrides: Sequence[str], swept: Sequence[str]) -> dict[str, str]:
    """The swept keys' values in a job, in the order of the keys."""
    parsed = OverridesParser.create().parse_overrides(list(overrides))
    values = {_key(o): str(o.get_value_element_as_str()) for o in parsed}
    return {key: values[key] for key in sorted(swept) if key in values}


def tags(overrides: Sequence[str]) -> list[str]:
    """What was typed for a run, but not where it lies and runs, as tags for the dashboard."""
    parsed = OverridesParser.create().parse_overrides(list(overrides))
    values = {_key(o): str(o.get_value_element_as_str()) for o in parsed}
    return [f"{key}={value}" for key, value in sorted(values.items()) if not _free(key)]


def identity(config: Mapping[str, Any], parameters: Mapping[str, str]) -> str:
    """What a job is, whatever the order and manner in which it was asked for, as 16 hex digits."""

    def kept(node: Mapping[str, Any], path: str = "") -> dict[str, Any]:
        return {
            key: kept(value, f"{path}{key}.") if isinstance(value, Mapping) else value
            for key, value in node.items()
            if f"{path}{key}" not in FREE
        }

    also = {key: value for key, value in parameters.items() if _free(key)}
    return _digest([kept(config), also])[:16]


def claim(
    folder: Path, config: Mapping[str, Any], overrides: Sequence[str], swept: Sequence[str]
) -> Path:
    """The folder of a job within the sweep's: the one it has already, or a new one."""
    parameters = assignments(overrides, swept)
    own = identity(config, parameters)
    short = _short(sorted(swept))
    name = _safe(",".join(f"{short[key]}={value}" for key, value in parameters.items()))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with status.locked(folder / ".lock", patience=60):
            for path in sorted(folder.glob("*/job.json")):
                if json.loads(path.read_text(encoding="utf-8")).get("identity") == own:
                    return path.parent
            path = folder / name
            if path.exists():  # the same name, yet something else in it was another
                path = folder / f"{name}-{own[:8]}"
            path.mkdir(exist_ok=True)
            asked = sorted(o for o in overrides if not o.startswith("folder="))
            about = {"identity": own, "parameters": parameters, "overrides": asked}
            status.tell(path, state=status.WAITING)
            write_text(path / "job.json", to_json(about))
            return path
    except OSError as error:
        raise UserError(f"cannot make the folder {error.filename}: {error.strerror}") from error


def state(folder: Path) -> dict[str, Any]:
    """A job's status; one that says it runs while nobody is at it has been interrupted."""
    found = status.read(folder)
    if found.get("state") == status.RUNNING and not status.busy(folder):
        found["state"] = status.INTERRUPTED
    return found


def announce(sweep: Sweep) -> str:
    """What there is to do, in a sentence."""
    if sweep.jobs is None:
        return f"sweep {sweep.folder}: the sweeper chooses its jobs as it goes"
    states = [state(job).get("state") for job in sweep.jobs]
    done = states.count(status.FINISHED)
    begun = sum((job / "checkpoints" / "last.pt").exists() for job in sweep.jobs) - done
    running = states.count(status.RUNNING)
    told = [f"{done} done already"] * bool(done) + [f"{begun} to go on with"] * bool(begun)
    told += [f"{running} of them running elsewhere"] * bool(running)
    told += [f"{len(states) - done - begun} from the start"]
    return f"sweep {sweep.folder}: {len(states)} jobs, {', '.join(told)}"


def conclude(sweep: Sweep) -> tuple[str, bool]:
    """The table at the end, and whether some job failed."""
    jobs = sweep.jobs
    if jobs is None:
        every = [path.parent for path in sorted(sweep.folder.glob("*/job.json"))]
        jobs = [job for job in every if status.read(job).get("updated", 0) >= sweep.begun]
    states = [state(job).get("state") for job in jobs]
    counts = [f"{states.count(s)} {s}" for s in dict.fromkeys(states)]
    lines = [table(jobs), f"sweep {sweep.folder}: {', '.join(counts) or 'no jobs'}"]
    return "\n".join(lines), status.FAILED in states


def table(jobs: Sequence[Path]) -> str:
    """A line for each job: progress, best metric, time left, where; then why some failed."""
    rows = [("job", "state", "step", "best", "left", "where")]
    reasons = []
    for job in jobs:
        now = state(job)
        step, total = now.get("step"), now.get("total")
        share = f"{step}/{total} {100 * step // total:3d}%" if step is not None and total else ""
        best = f"{now['metric']} {now['best']:.4f}" if now.get("best") is not None else ""
        left = now.get("seconds_left") if now.get("state") == status.RUNNING else None
        where = f"{now.get('host')}:{now.get('pid')}" if left is not None else ""
        if devices := where and now.get("devices"):
            where += f" cuda {devices}"
        rows.append((job.name, now.get("state", "?"), share, best, _time(left), where))
        if now.get("state") == status.FAILED:
            reasons.append(f"{job.name}: {now.get('reason')}")
    widths = [max(len(row[place]) for row in rows) for place in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(w) for cell, w in zip(row, widths)).rstrip() for row in rows]
    return "\n".join([*lines, *reasons])


def _time(seconds: float | None) -> str:
    if seconds is None:
        return ""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}"


def show(arguments: list[str]) -> None:
    """`restore sweep DIR [watch=true]`: the table; with `watch` anew until nothing runs.

    Raises UserError when the folder holds no sweep.
    """
    watch = {"watch=true": True, "watch=false": False}
    folders = [Path(argument) for argument in arguments if argument not in watch]
    live = any(watch.get(argument, False) for argument in arguments)
    if len(folders) != 1:
        raise UserError("name one folder of a sweep: restore sweep DIR [watch=true]")
    while True:
        jobs = [path.parent for path in sorted(folders[0].glob("*/job.json"))]
        if not jobs:
            raise UserError(f"{folders[0]} holds no sweep")
        clear = "\033[2J\033[H" if live and sys.stdout.isatty() else ""
        print(clear + table(jobs), flush=True)
        if not live or all(state(job).get("state") != status.RUNNING for job in jobs):
            return
        time.sleep(2)


def refuse_alone(choices: Mapping[str, Any]) -> None:
    """Raises UserError when a named sweep was chosen for a single run."""
    if choices.get("sweep"):
        raise UserError(
            f"sweep={choices['sweep']} is many runs: add -m (restore train -m sweep=…; "
            f"there are {', '.join(names('sweep'))})"
        )
