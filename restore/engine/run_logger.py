"""Where the numbers and pictures of a run go: `metrics.csv` and Weights & Biases."""

import csv
import errno
import io
import logging
import os
import uuid
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from restore.engine.run_folder import variant
from restore.errors import Unwritable
from restore.metrics.legend import Legend
from restore.utils import distributed
from restore.utils.files import optional, refusal, to_json, write_text
from restore.utils.foreign import reading

log = logging.getLogger("restore")

_TAG = 64  # letters that the dashboard takes
_IDENTITY = "wandb_id.txt"
SHOWN = "shown.json"  # what pictures and tables the dashboard has, for a layout of it


class Numbers:
    """`metrics.csv`: a line `step,name,value` for each number, in the order of steps.

    Lines that a full disk refuses are kept and written when it has room again.

    Args:
        path: the file; what it holds of steps after `step` is dropped, since a run that goes on
            from there will write it again.
    """

    def __init__(self, path: Path, step: int):
        kept = [["step", "name", "value"]]
        if path.exists():
            with reading(path), open(path, newline="", encoding="utf-8") as file:
                rows = [row for row in csv.reader(file) if len(row) == 3 and row[0].isdecimal()]
            kept += [row for row in rows if int(row[0]) <= step]
        write_text(path, _csv(kept))
        self._missing, self._waiting = f"numbers are missing in {path} for now", b""
        self._file = open(path, "ab", buffering=0)  # noqa: SIM115

    def write(self, values: Mapping[str, float], step: int) -> None:
        """Adds the values of a step."""
        self._waiting += _csv([step, name, repr(v)] for name, v in values.items()).encode()
        with optional(self._missing):
            self._flush()

    def _flush(self) -> None:
        end = os.fstat(self._file.fileno()).st_size
        try:
            if self._file.write(self._waiting) < len(self._waiting):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            self._file.truncate(end)  # no part of a line
            raise Unwritable(refusal(error)) from error
        self._waiting = b""

    def close(self) -> None:
        """Closes the file."""
        if self._waiting:
            with optional(self._missing):
                self._flush()
        self._file.close()


def _csv(rows: Iterable[Iterable[Any]]) -> str:
    file = io.StringIO()
    csv.writer(file, lineterminator="\n").writerows(rows)
    return file.getvalue()


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
        self._folder = folder
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
                reason = " ".join(str(error).split())
                log.warning("the dashboard cannot be started with wandb.mode=%s: %s", mode, reason)
                self.identity = None  # the name of what was begun there is taken
        return None

    def _tell(self, act: Callable[[Any], object]) -> None:
        """A dashboard that fails must never stop a run; it is left out from then on, and said."""
        if self._run is None:
            return
        try:
            with optional("the dashboard misses something"):
                act(self._run)
        except Exception as error:  # of many classes, some of them private to wandb
            log.warning("the dashboard failed and is switched off: %s", error)
            self._run = None

    def _show(self, kind: str, names: Iterable[str]) -> None:
        """Keeps in `shown.json` by what names which kind of thing is looked at."""
        known = self._shown.setdefault(kind, [])
        if added := [name for name in names if name not in known]:
            known += added
            with optional(f"{self._folder / SHOWN} is not up to date"):
                write_text(self._folder / SHOWN, to_json(self._shown))

    def numbers(self, values: Mapping[str, float], step: int) -> None:
        """Logs values by name."""
        if self._numbers is not None:
            self._numbers.write(values, step)
            self._tell(lambda run: run.log({**values, "step": step}))

    def define(self, names: Iterable[str], directions: Mapping[str, bool | None]) -> None:
        """Lets the dashboard's summary keep the best value of names beside the last.

        Args:
            names: of numbers, metrics' names behind a slash.
            directions: by metric whether higher is better; of None only the last value is kept.
        """
        legend = Legend(directions)
        for name in names:
            better = legend.higher_is_better(name.rpartition("/")[2])
            if name in self._defined or better is None:
                continue
            way = "max" if better else "min"
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
            self._numbers.close()
        self._tell(lambda run: run.finish(exit_code=int(failed)))
