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

from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException

from restore.config import NotText, check, compose, explain, names, plain, settings
from restore.config.groups import composing, own_folders
from restore.engine import memory, status
from restore.errors import UserError
from restore.utils.files import to_json, write_text
from restore.utils.foreign import read_json

# What may differ between two stretches of one run: where it lies and runs, and who watches.
FREE = (
    *("folder", "resume", "wandb", "runtime.device", "runtime.devices", "runtime.threads"),
    *("loader.workers", "trainer.log_every", "trainer.pictures"),
)
_SEARCHED = "hydra.searchpath"
_LONGEST = 100  # letters of a folder's name


@dataclass
class Sweep:
    """What a command line asks for.

    Args:
        grids: for Hydra, the folder among them; more than one for a sweep that is made of sweeps.
        folder: of the sweep.
        swept: the keys that differ between its jobs.
        jobs: each job's folder, when the sweeper tries every combination; else unknown (None).
        begun: when, in seconds since 1970.
        room: bytes of memory that were free then, before any job had taken some.
    """

    grids: list[list[str]]
    folder: Path
    swept: list[str]
    jobs: list[Path] | None = None
    begun: float = field(default_factory=time.time)
    room: int = field(default_factory=memory.available)


def several(overrides: Sequence[str]) -> bool:
    """Whether a command line asks for a sweep."""
    return not {"-m", "--multirun", "hydra.mode=MULTIRUN"}.isdisjoint(overrides)


def refuse_empty(overrides: Sequence[str]) -> None:
    """Raises UserError for a pattern or a range that stands for nothing, and so for no job."""
    typed = [o for o in _searched(overrides) if not o.startswith("-")]
    for override in _parsed(typed):
        if override.is_sweep_override() and not _values(override):
            raise UserError(f"{override.input_line}: there is nothing that it stands for")


def prepare(overrides: list[str]) -> Sweep:
    """Finds the sweep's folder and jobs, composing each before any work, and makes the folders.

    Raises UserError where a job's configuration cannot be composed, or where none is allowed: then
    nothing is begun.
    """
    overrides = _searched(overrides)
    options = [o for o in overrides if o.startswith("-")]
    typed = [o for o in overrides if not o.startswith("-")]
    grids = [_Grid(words) for words in _grids(typed)]
    swept = list(dict.fromkeys(key for grid in grids for key in grid.swept))
    if any(_key(o) == "resume" for o in _own(_parsed(typed))):
        raise UserError(
            "resume: to resume a sweep, repeat the command that started it; a "
            "single run is resumed by restore train resume=RUN, without -m"
        )
    if "folder" in swept:
        raise UserError(
            "folder: give one folder for the whole sweep; each job gets its own folder inside it"
        )
    own = _own(_parsed(typed))
    given = next((o.get_value_element_as_str() for o in own if _key(o) == "folder"), None)
    folder = Path(given.strip("'\"") if given else f"runs/sweeps/{_title(own, swept)}")
    place = [] if given else [f"folder='{folder}'"]
    sweep = Sweep([[*options, *grid.words, *place] for grid in grids], folder, swept)
    if all(grid.every for grid in grids):
        jobs = [job for grid in grids for job in grid.jobs()]
        configs = [plain(compose("train", job)) for job in jobs]
        mistakes = [mistake for config in configs if (mistake := _mistake(config))]
        if mistakes and len(mistakes) == len(configs):
            raise mistakes[0]
        claimed = [claim(folder, config, job, swept) for config, job in zip(configs, jobs)]
        sweep.jobs = list(dict.fromkeys(claimed))
    return sweep


def _mistake(config: dict[str, Any]) -> UserError | None:
    """What is wrong with a job, which keeps that one from beginning and no other.

    Raises NotText for a number that has to be read anew as a text.
    """
    try:
        check(config, settings.Train)
    except NotText:
        raise
    except UserError as error:
        return error
    return None


def _searched(words: Sequence[str]) -> list[str]:
    """The command line with `--config-dir DIR` as an override, which a job is composed with too.

    Raises UserError when there is no such folder.
    """
    folders, rest = own_folders(words)
    places = ",".join(repr(f"file://{folder}") for folder in folders)
    return [*rest, f"{_SEARCHED}=[{places}]"] if folders else rest


def _parsed(words: Sequence[str]) -> list[Override]:
    try:
        with composing():  # glob(…) is over the groups that are there
            loader = GlobalHydra.instance().config_loader()
            return OverridesParser.create(config_loader=loader).parse_overrides(list(words))
    except HydraException as error:
        raise UserError(explain(error, "train", list(words))) from error


def _own(parsed: Sequence[Override]) -> list[Override]:
    """Those that are about the run, not about Hydra."""
    return [o for o in parsed if not o.key_or_group.startswith(("hydra.", "hydra/"))]


def _grids(words: list[str]) -> list[list[str]]:
    """What Hydra is asked for, once for each grid that the command line names.

    `sweep=a,b` is both, one after the other; so is a named sweep whose own parameters have a
    `sweep` of several, to each of which its other parameters are added.
    """
    parsed = _parsed(words)
    chosen = next((o for o in parsed if _key(o) == "sweep"), None)
    if chosen is None:
        return [words]
    rest = [word for word, o in zip(words, parsed) if _key(o) != "sweep"]
    if len(listed := _values(chosen)) > 1:
        return [grid for name in listed for grid in _grids([f"sweep={name}", *rest])]
    params = _parameters(parsed)[0]
    inner = next((o for o in params if _key(o) == "sweep"), None)
    if inner is None:
        return [words]
    more = [str(o.input_line) for o in params if o is not inner]
    return [grid for name in _values(inner) for grid in _grids([f"sweep={name}", *more, *rest])]


def _values(override: Override) -> list[str]:
    if override.is_sweep_override():
        return list(map(str, override.sweep_string_iterator()))
    return [str(override.get_value_element_as_str())]


class _Grid:
    """One of a sweep's grids.

    Args:
        words: overrides, at most one named sweep among them.
    """

    def __init__(self, words: list[str]):
        self.words = words
        parsed = _parsed(words)
        self.params, self.every = _parameters(parsed)
        self.typed = _own(parsed)
        ranged = [o for o in self.typed if o.is_sweep_override()]
        self.swept = list(dict.fromkeys(_key(o) for o in [*self.params, *ranged]))

    def jobs(self) -> list[list[str]]:
        """The overrides of each job, as Hydra's own sweeper makes them."""
        from hydra._internal.core_plugins.basic_sweeper import BasicSweeper

        (jobs,) = BasicSweeper.split_arguments([*self.params, *self.typed], None)
        where = [word for word in self.words if word.startswith(f"{_SEARCHED}=")]
        return [[*where, *job] for job in jobs]


def _parameters(typed: list[Override]) -> tuple[list[Override], bool]:
    """What a named sweep adds, and whether every combination is what its sweeper tries."""
    from omegaconf import OmegaConf

    # Others may be about what only the jobs have, such as a backbone that is swept.
    lines = [o.input_line or "" for o in typed if re.match(r"hydra[./]|sweep$", _key(o))]
    about = compose("train", lines, with_hydra=True).hydra
    params = OmegaConf.to_container(about.sweeper.get("params") or OmegaConf.create({}))
    assert isinstance(params, dict)
    every = str(about.sweeper._target_).endswith("BasicSweeper")
    return _parsed([f"{key!s}={value}" for key, value in params.items()]), every


def _key(override: Override) -> str:
    return str(override.get_key_element()).lstrip("+~")


def _title(typed: list[Override], swept: list[str]) -> str:
    """A sweep's name, from the command line in any order; only the swept values are left out."""
    fixed = [o for o in typed if not o.is_sweep_override() or _key(o) == "sweep"]
    values = {_key(o): "+".join(sorted(_values(o))) for o in fixed}
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
    short = {}
    for key in keys:
        steps = key.split(".")
        for count in range(1, len(steps) + 1):
            short[key] = ".".join(steps[-count:])
            if sum(f".{other}".endswith(f".{short[key]}") for other in keys) == 1:
                break
    return short


def _safe(name: str) -> str:
    """The name, of letters that need no quotes in a shell, and not too long to read."""
    name = re.sub(r"[^\w.+=,-]+", "-", name).strip("-.") or "one"
    return name if len(name) <= _LONGEST else f"{name[:_LONGEST]}-{_digest(name)[:8]}"


def assignments(overrides: Sequence[str], swept: Sequence[str]) -> dict[str, str]:
    """The swept keys' values in a job, in the order of the keys."""
    values = {_key(o): str(o.get_value_element_as_str()) for o in _parsed(overrides)}
    return {key: values[key] for key in sorted(swept) if key in values}


def tags(overrides: Sequence[str]) -> list[str]:
    """What was typed for a run, but not where it lies and runs, as tags for the dashboard."""
    values = {_key(o): str(o.get_value_element_as_str()) for o in _parsed(overrides)}
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
                if read_json(path).get("identity") == own:
                    return path.parent
            path = folder / name
            if (path / "job.json").exists() or (path / "config.yaml").exists():
                # The same name, yet something else in it was another.
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
    """A job's status; one that says it is at work while nobody is has been interrupted."""
    current = status.read(folder)
    if current.get("state") in status.AT_WORK and not status.busy(folder):
        current["state"] = status.INTERRUPTED
    return current


def announce(sweep: Sweep) -> str:
    """What there is to do, in a sentence."""
    if sweep.jobs is None:
        return f"sweep {sweep.folder}: the sweeper chooses its jobs as it goes"
    states = [state(job).get("state") for job in sweep.jobs]
    done = states.count(status.FINISHED)
    begun = sum((job / "checkpoints" / "last.pt").exists() for job in sweep.jobs) - done
    running = sum(job_state in status.AT_WORK for job_state in states)
    counts = [f"{done} done already"] * bool(done) + [f"{begun} to go on with"] * bool(begun)
    counts += [f"{running} of them running elsewhere"] * bool(running)
    counts += [f"{len(states) - done - begun} from the start"]
    return f"sweep {sweep.folder}: {len(states)} jobs, {', '.join(counts)}"


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
        if now.get("state") == status.SEARCHING:
            share = f"batches of {now.get('tried')}"
        best = f"{now['metric']} {now['best']:.4f}" if now.get("best") is not None else ""
        left = now.get("seconds_left") if now.get("state") == status.RUNNING else None
        at_work = now.get("state") in status.AT_WORK
        where = f"{now.get('host')}:{now.get('pid')}" if at_work else ""
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
        if not live or all(state(job).get("state") not in status.AT_WORK for job in jobs):
            return
        time.sleep(2)


def refuse_alone(choices: Mapping[str, Any]) -> None:
    """Raises UserError when a named sweep was chosen for a single run."""
    if choices.get("sweep"):
        raise UserError(
            f"sweep={choices['sweep']} is many runs: add -m (restore train -m sweep=…; "
            f"there are {', '.join(names('sweep'))})"
        )
