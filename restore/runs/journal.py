"""What a run leaves behind: configuration, environment, log, numbers, pictures, dashboard."""

import csv
import importlib.metadata
import json
import logging
import math
import os
import platform
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from restore.errors import UserError
from restore.runs import distributed

log = logging.getLogger("restore")

# Which way a metric is better, by a part of its name: what the dashboard's summary keeps.
_BEST = {"psnr": "max", "ssim": "max", "lpips": "min", "fid": "min", "mae": "min"}
_TAG = 64  # letters that the dashboard takes
_IDENTITY = "wandb_id.txt"
SHOWN = "shown.json"  # what pictures and tables the dashboard has, for a layout of it


def make_folder(folder: Path, config: Mapping[str, Any]) -> None:
    """Creates a run folder with its configuration (`config.yaml`) and `environment.json`.

    Raises UserError when the folder holds a run already or cannot be made.
    """
    refuse_taken(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / "environment.json", to_json(environment()))
        write_text(folder / "config.yaml", to_yaml(config))
    except OSError as error:
        raise UserError(f"cannot make the run folder {folder}: {error}") from error


def refuse_taken(folder: Path) -> None:
    """Raises UserError when the folder holds a run or an evaluation already."""
    if not (folder / "config.yaml").exists():
        return
    if "schedule" in read_config(folder):
        raise UserError(
            f"{folder} holds a run already: name another folder, or go on with that run by "
            f"restore train resume={folder}"
        )
    raise UserError(f"{folder} holds an evaluation already: name another folder, or remove it")


def read_config(folder: Path) -> dict[str, Any]:
    """The configuration of a run folder; UserError when there is none."""
    path = folder / "config.yaml"
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{folder} is not a run folder: {error}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{path} is damaged: {reason}") from error
    if not isinstance(config, dict):
        raise UserError(f"{path} is damaged: it holds no settings")
    return config


def to_yaml(config: Mapping[str, Any]) -> str:
    """The configuration as the text of `config.yaml`."""
    return yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True)


def to_json(values: Mapping[str, Any]) -> str:
    """The values as JSON that any reader takes, which knows neither NaN (null) nor infinity."""
    return json.dumps(_finite(values), indent=2, allow_nan=False) + "\n"


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else str(value)
    return value


def write_text(path: Path, text: str) -> None:
    """Writes a text file whole or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def environment() -> dict[str, Any]:
    """Machine, versions of what matters, and the project's commit where it is a checkout."""
    packages = ["restore", "torch", "torchvision", "hydra-core", "timm", "lpips", "torchmetrics"]
    packages += ["scikit-image", "pillow", "numpy", "wandb"]
    root = Path(__file__).resolve().parents[2]
    git = ["git", "-C", str(root)]
    commit = changed = None
    if (root / ".git").exists():
        commit = _output([*git, "rev-parse", "HEAD"])
        changed = bool(_output([*git, "status", "--porcelain"]))
    return {
        "command": sys.argv,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "cuda": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        "packages": {name: importlib.metadata.version(name) for name in packages},
        "commit": commit,
        "changed": changed,
    }


def _output(command: list[str]) -> str | None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def log_to(folder: Path | None) -> None:
    """Sends the project's messages to the screen and to `log.txt`; only from the first process."""
    logger = logging.getLogger("restore")
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
        handler.close()
    logger.propagate = False
    if distributed.rank() != 0:
        logger.addHandler(logging.NullHandler())
        return
    logger.setLevel(logging.INFO)
    screen = _Screen()
    screen.setFormatter(logging.Formatter("%(message)s"))
    logger.addHandler(screen)
    if folder is not None:
        file = logging.FileHandler(folder / "log.txt", encoding="utf-8")
        file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        logger.addHandler(file)


class _Screen(logging.Handler):
    """Prints above a progress bar rather than through it."""

    def emit(self, record: logging.LogRecord) -> None:
        from tqdm import tqdm

        tqdm.write(self.format(record), file=sys.stdout)
        sys.stdout.flush()


def variant(folder: Path) -> str:
    """What a run tries, whatever its seed: its sweep's parameters, or the folder's name."""
    try:
        job = json.loads((folder / "job.json").read_text(encoding="utf-8"))
    except OSError:
        return folder.name
    tried = {key: value for key, value in job["parameters"].items() if key != "seed"}
    return ", ".join(f"{key}={value}" for key, value in tried.items()) or "all"


class Numbers:
    """`metrics.csv`: a line `step,name,value` for each number, in the order of steps.

    Args:
        path: the file; what it holds of steps after `step` is dropped, since a run that goes on
            from there will write it again.
    """

    def __init__(self, path: Path, step: int):
        kept = [["step", "name", "value"]]
        if path.exists():
            with open(path, newline="", encoding="utf-8") as file:
                rows = [row for row in csv.reader(file) if len(row) == 3 and row[0].isdigit()]
            kept += [row for row in rows if int(row[0]) <= step]
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        with open(temporary, "w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows(kept)
        os.replace(temporary, path)
        self._file = open(path, "a", newline="", encoding="utf-8", buffering=1)  # noqa: SIM115

    def write(self, values: Mapping[str, float], step: int) -> None:
        """Adds the values of a step."""
        csv.writer(self._file).writerows([step, name, repr(v)] for name, v in values.items())

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


class Journal:
    """Takes the numbers and pictures of a run, on the first process; nothing on the others.

    Args:
        folder: the run folder.
        config: what the dashboard shows as the run's configuration.
        wandb: `mode`, `project`, `entity`, `group`, `tags`.
        job: `train` or `evaluate`.
        step: the step that the run goes on from.
        identity: the dashboard's id of the run, when it goes on.
    """

    def __init__(
        self,
        folder: Path,
        config: Mapping[str, Any],
        wandb: Mapping[str, Any],
        job: str,
        step: int = 0,
        identity: str | None = None,
    ):
        self.identity = identity
        self._defined: set[str] = set()
        self._table: Any = None
        self._shown: dict[str, list[str]] = {}
        self._folder, self._full = folder, False
        self._numbers: Numbers | None = None
        self._run: Any = None
        if distributed.rank() != 0:
            return
        self._numbers = Numbers(folder / "metrics.csv", step)
        if wandb["mode"] != "disabled":
            self._run = self._start(folder, config, wandb, job)

    def _start(
        self, folder: Path, config: Mapping[str, Any], settings: Mapping[str, Any], job: str
    ) -> Any:
        import wandb

        # A server that cannot be had must not stop a run: its files are then kept for `wandb sync`.
        kept = folder / _IDENTITY
        if kept.exists():  # begun before, maybe killed before its first checkpoint
            self.identity = kept.read_text(encoding="utf-8").strip()
        for mode in dict.fromkeys((settings["mode"], "offline")):
            self.identity = self.identity or uuid.uuid4().hex[:8]
            try:
                run = wandb.init(
                    mode=mode,
                    project=settings["project"],
                    entity=settings["entity"],
                    group=settings["group"],
                    tags=list(dict.fromkeys(tag[:_TAG] for tag in settings["tags"])),
                    job_type=job,
                    name=folder.name,
                    id=self.identity,
                    resume="allow" if mode == "online" else None,
                    dir=str(folder),
                    config={**config, "variant": variant(folder)},
                    settings=wandb.Settings(
                        silent=True, console="off", init_timeout=60, finish_timeout=600
                    ),
                )
                run.define_metric("*", step_metric="step")
                write_text(kept, f"{self.identity}\n")
                return run
            except Exception as error:  # of many classes, some of them private to wandb
                told = " ".join(str(error).split())
                log.warning("the dashboard cannot be had with wandb.mode=%s: %s", mode, told)
                self.identity = None  # the name of what was begun there is taken
        return None

    def _tell(self, act: Callable[[Any], object]) -> None:
        """A dashboard that fails must never stop a run; it is left out from then on, and said."""
        if self._run is None:
            return
        try:
            act(self._run)
        except Exception as error:  # of many classes, some of them private to wandb
            log.warning("the dashboard failed and is off from here on: %s", error)
            self._run = None

    def _show(self, kind: str, names: Iterable[str]) -> None:
        """Keeps in `shown.json` by what names which kind of thing is looked at."""
        known = self._shown.setdefault(kind, [])
        if added := [name for name in names if name not in known]:
            known += added
            write_text(self._folder / SHOWN, to_json(self._shown))

    def numbers(self, values: Mapping[str, float], step: int) -> None:
        """Logs values by name."""
        if self._numbers is not None:
            self._write(values, step)
            self._define(values)
            self._tell(lambda run: run.log({**values, "step": step}))

    def _write(self, values: Mapping[str, float], step: int) -> None:
        """A full disk costs numbers, and is said once; it does not cost the training."""
        assert self._numbers is not None
        try:
            self._numbers.write(values, step)
        except OSError as error:
            if not self._full:
                log.warning("metrics.csv misses numbers from step %d on: %s", step, error)
            self._full = True

    def _define(self, values: Mapping[str, float]) -> None:
        """Lets the summary keep a validation's best value beside the last."""
        for name in values.keys() - self._defined:
            way = next((way for part, way in _BEST.items() if part in name), None)
            if name.startswith("valid/") and way is not None:
                self._tell(
                    lambda run, n=name, w=way: run.define_metric(  # type: ignore[misc]
                        n, step_metric="step", summary=f"{w},last"
                    )
                )
            self._defined.add(name)

    def table(self, rows: Iterable[Mapping[str, Any]], step: int) -> None:
        """Adds a validation's pictures to the dashboard's table `valid/comparison`.

        Args:
            rows: each with `picture` (a name), `file` (its comparison sheet) and metrics by name.
            step: of the validation.
        """
        added = [dict(row) for row in rows]
        if self._run is None or not added:
            return
        import wandb

        def act(run: Any) -> None:
            names = [name for name in added[0] if name not in ("picture", "file")]
            if self._table is None:
                columns: list[str | int] = ["step", "picture", "sheet", *names]
                self._table = wandb.Table(columns=columns, log_mode="INCREMENTAL")
            for row in added:
                sheet = wandb.Image(str(row["file"]))
                self._table.add_data(step, row["picture"], sheet, *(row[n] for n in names))
            run.log({"valid/comparison": self._table, "step": step})
            self._show("tables", ["valid/comparison"])

        self._tell(act)

    def masked(self, pictures: Mapping[str, tuple[Path, np.ndarray]], step: int) -> None:
        """Shows pictures with their holes (HW, 1 = hole) as an overlay to switch on and off."""
        if self._run is None or not pictures:
            return
        import wandb

        def act(run: Any) -> None:
            names = {0: "known", 1: "hole"}
            shown = {
                name: wandb.Image(
                    str(file), masks={"holes": {"mask_data": holes, "class_labels": names}}
                )
                for name, (file, holes) in pictures.items()
            }
            run.log({**shown, "step": step})
            self._show("holes", shown)

        self._tell(act)

    def artifact(self, path: Path, name: str) -> None:
        """Keeps a file of weights on the dashboard, as a version of the run's model."""
        if self._run is None or not path.exists():
            return
        import wandb

        def act(run: Any) -> None:
            kept = wandb.Artifact(f"model-{self.identity}", type="model")
            kept.add_file(str(path))
            run.log_artifact(kept, aliases=[name])

        self._tell(act)

    def pictures(self, files: Mapping[str, Path], step: int, kind: str = "sheets") -> None:
        """Shows picture files by name on the dashboard, `sheets` or `scores`."""
        if self._run is None or not files:
            return
        import wandb

        def act(run: Any) -> None:
            shown = {name: wandb.Image(str(path)) for name, path in files.items()}
            run.log({**shown, "step": step})
            self._show(kind, shown)

        self._tell(act)

    def summary(self, values: Mapping[str, Any]) -> None:
        """Sets the run's final values."""
        self._tell(lambda run: run.summary.update(dict(values)))

    def close(self, failed: bool = False) -> None:
        """Ends the run on the dashboard."""
        if self._numbers is not None:
            with suppress(OSError):  # a full disk has been told of
                self._numbers.close()
        self._tell(lambda run: run.finish(exit_code=int(failed)))
