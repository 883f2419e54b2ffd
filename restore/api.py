"""What `import restore` offers to notebooks and scripts: what the commands do, as functions.

Mistakes raise `restore.UserError`, work that could not be finished `restore.RunFailure`; Ctrl-C is
a KeyboardInterrupt, in training after the run has been saved. What belongs to the calling program
stays as it was: its arguments, working folder, logging, Hydra and torch's generator.
"""

import logging
import os
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from omegaconf import open_dict

from restore.config import check, compose, conf, names, plain, registry, settings, stored
from restore.config.groups import searching
from restore.config.settings import Precision
from restore.engine import run_folder
from restore.errors import RunFailure, UserError
from restore.inference.pipeline import Pipeline
from restore.models import bundled, weights
from restore.utils.foreign import at_home, read_csv, read_json
from restore.utils.signals import INTERRUPTED


def load(
    source: str | Path | None = None,
    *,
    scale: float | None = None,
    takes_reference: bool = False,
    fills_holes: bool = False,
    device: str | torch.device = "auto",
    precision: Precision = "fp32",
    model: Sequence[str] = (),
    config_dir: str | Path | None = None,
) -> Pipeline:
    """A network with its weights, ready for pictures.

    >>> import restore
    >>> restore.load("wdsr_b_x4").scale
    4
    >>> restore.load(scale=2.5).scale
    2.5

    The weights are read anew each time, which takes about a second: keep what is returned.

    Args:
        source: the name of a bundled network, a run folder, one of our checkpoints, or a published
            file; None: the bundled network for the scale.
        scale: enlargement of each side; None: the network's own, or the one it was validated with.
        takes_reference: with no `source`, whether the network of the scale shall be the one that a
            reference is given to.
        fills_holes: the same of a mask; the scale is 1 then.
        device: `auto` (CUDA where there is one), `cpu`, `cuda`, `cuda:1`, or torch's.
        precision: number format of the network.
        model: configuration overrides for a published file that fits several models.
        config_dir: a folder of your own yamls, for a network of classes of your own: weights may
            name no other classes than these and the project's.

    Raises:
        UserError: no such weights, or a device, precision or scale that is not to be had.
    """
    text = conf().joinpath("runtime", "default.yaml").read_text(encoding="utf-8")
    node = {**yaml.safe_load(text), "precision": precision}
    runtime = check(node, settings.Runtime)
    place = _device(device)
    if source is None:
        source = bundled.choose(scale, None, takes_reference, fills_holes)
    elif bundled.named(source) is None and not Path(at_home(source)).exists():
        known = ", ".join(network.name for network in bundled.networks(bundled.FOLDER))
        raise UserError(
            f"there is no file or folder {source}, and no network of that name: {known}"
        )
    with _own_parts(config_dir):
        return Pipeline(weights.load(source, list(model)), runtime, place, scale)


@contextmanager
def _own_parts(config_dir: str | Path | None) -> Iterator[None]:
    """While it lasts, the yamls of a folder can be chosen, and files may name what they name."""
    folders = [] if config_dir is None else [at_home(str(config_dir))]
    with searching(*folders), stored.trusting(searched=folders):
        yield


def _device(name: str | torch.device) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        wanted = torch.device(name)
    except (RuntimeError, TypeError) as error:
        raise UserError(f"device={name}: choose auto, cpu, cuda or cuda:1") from error
    if wanted.type == "cuda" and (wanted.index or 0) >= torch.cuda.device_count():
        raise UserError(
            f"device={name}: this machine has {torch.cuda.device_count()} CUDA device(s) that "
            "torch can use"
        )
    return wanted


def build(group: str, name: str, *overrides: str, config_dir: str | Path | None = None) -> Any:
    """The part `name` of a group of the configuration as an object.

    >>> import restore
    >>> net = restore.build("backbone", "edsr", "backbone.blocks=2", "backbone.features=8")
    >>> sum(weight.numel() for weight in net.parameters()) < 50_000
    True

    Args:
        group: as `restore.list()` has them.
        name: as `restore.list(group)` has them.
        overrides: of its settings, as behind `restore train`.
        config_dir: a folder of your own yamls, which are there too.

    Raises:
        UserError: no such group, name or setting, or a set of settings that is no part.
    """
    with _own_parts(config_dir):
        return registry.build(group, name, *overrides)


def choices(group: str | None = None, config_dir: str | Path | None = None) -> list[str]:
    """`restore.list`: the groups of the configuration, or the names that can be chosen in one.

    >>> import restore
    >>> "edsr" in restore.list("backbone")
    True

    Args:
        group: None: the groups themselves.
        config_dir: a folder of your own yamls, which are there too.

    Raises UserError when there is no such group.
    """
    with _own_parts(config_dir):
        if group is None:
            return registry.groups()
        registry.check_group(group)
        return names(group)


@dataclass(frozen=True)
class TrainingRun:
    """A run folder of `restore train`.

    >>> import restore
    >>> restore.TrainingRun("runs/nowhere")
    Traceback (most recent call last):
    ...
    restore.errors.UserError: runs/nowhere is not a run folder: …
    """

    folder: Path

    def __init__(self, folder: str | Path):
        object.__setattr__(self, "folder", Path(at_home(folder)))
        if "schedule" not in run_folder.look_at_config(self.folder):
            raise UserError(f"{folder} is not the folder of a training")

    @property
    def config(self) -> dict[str, Any]:
        """The resolved configuration."""
        return run_folder.look_at_config(self.folder)

    @property
    def summary(self) -> dict[str, Any]:
        """Best and last values and costs; empty before the run has come to its end."""
        return _json(self.folder / "summary.json")

    @property
    def metrics(self) -> list[dict[str, Any]]:
        """Every number so far, in order: rows of `step`, `name` and `value`."""
        return [
            {"step": int(row["step"]), "name": row["name"], "value": float(row["value"])}
            for row in _rows(self.folder / "metrics.csv")
        ]

    @property
    def best(self) -> Path:
        """The checkpoint with the best validation."""
        return self.folder / "checkpoints" / "best.pt"

    @property
    def last(self) -> Path:
        """The latest checkpoint."""
        return self.folder / "checkpoints" / "last.pt"

    def load(self, **options: Any) -> Pipeline:
        """The trained network, of the best checkpoint where there is one; options as `load`."""
        return load(self.folder, **options)


@dataclass(frozen=True)
class EvaluationRun:
    """A folder of `restore evaluate`.

    `rows` hold a dict for each image: its `key` and every number, of the restored picture under the
    metric's name, of the baseline as `bicubic/psnr_y`; None where there is none. With several kinds
    of references there is a row for each image and kind.
    """

    folder: Path
    rows: list[dict[str, Any]]
    summary: dict[str, Any]

    @property
    def mean(self) -> dict[str, Any]:
        """Each metric over the images; by kind where several kinds of references were compared."""
        return self.summary["restored" if "restored" in self.summary else "references"]


def train(overrides: str | Sequence[str] = (), config_dir: str | Path | None = None) -> TrainingRun:
    """Trains, or goes on with a run, as `restore train` does.

    Args:
        overrides: as behind the command, such as `["experiment=demo", "seed=2"]`.
        config_dir: a folder of your own yamls, for parts of your own.

    Returns:
        The finished run.

    Raises:
        UserError: a mistake in what was asked, before anything is done.
        RunFailure: it could not be finished.
        KeyboardInterrupt: it was asked to stop, and is saved: `train(["resume=FOLDER"])` goes on.
    """
    from restore.commands import train as command

    with _own_parts(config_dir):
        config = _run("train", overrides, command.main)
    return TrainingRun(config["resume"] or config["folder"])


def evaluate(
    overrides: str | Sequence[str] = (), config_dir: str | Path | None = None
) -> EvaluationRun:
    """Measures weights on a data set, as `restore evaluate` does.

    Args:
        overrides: as behind the command, such as `["weights=runs/demo", "protocol=y"]`.
        config_dir: a folder of your own yamls, for parts of your own.

    Raises:
        UserError, RunFailure, KeyboardInterrupt: as `train`.
    """
    from restore.commands import evaluate as command

    with _own_parts(config_dir):
        config = _run("evaluate", overrides, command.main)
    folder = Path(config["folder"])
    several = (folder / "references.csv").exists()
    rows = [
        {name: _number(value) if name not in ("key", "reference") else value for name, value in row}
        for row in map(dict.items, _rows(folder / ("references.csv" if several else "images.csv")))
    ]
    return EvaluationRun(folder, rows, _json(folder / "summary.json"))


def _run(
    command: str,
    overrides: str | Sequence[str],
    main: Callable[[dict[str, Any], list[str]], int],
) -> dict[str, Any]:
    """Runs a command to its end; returns its configuration."""
    from restore.commands import composed
    from restore.tools.sweep import sweeps

    typed = [overrides] if isinstance(overrides, str) else [*overrides]
    if options := [word for word in typed if word.startswith("-")]:
        raise UserError(
            f"{options[0]} is for the command line; from Python, call restore.{command} in a loop"
        )

    def once(words: list[str]) -> dict[str, Any]:
        composition = compose(command, words, with_hydra=True)
        sweeps.refuse_alone(composition.hydra.runtime.choices)
        own = [str(word) for word in composition.hydra.overrides.task]
        with open_dict(composition):
            del composition["hydra"]
        config = plain(composition)
        with _left_as_it_was(), stored.trusting(config):
            _ended(main(config, own))
        return config

    return composed.with_texts(composed.overrides_of(command, typed), once)


def _ended(code: int) -> None:
    if code == INTERRUPTED:
        raise KeyboardInterrupt
    if code:
        raise RunFailure(f"a training process ended with code {code}; its message is above")


@contextmanager
def _left_as_it_was() -> Iterator[None]:
    """Gives the calling program back its logging, generators, threads and environment."""
    from restore.engine.launcher import PARENT

    logger = logging.getLogger("restore")
    before = logger.handlers, logger.propagate, logger.level
    logger.handlers = []
    variables = {name: os.environ.get(name) for name in (PARENT, "OMP_NUM_THREADS")}
    states, threads = (random.getstate(), np.random.get_state()), torch.get_num_threads()  # noqa: NPY002
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else []
    try:
        with torch.random.fork_rng(devices=devices):
            yield
    finally:
        for handler in logger.handlers:
            handler.close()
        logger.handlers, logger.propagate, level = before
        logger.setLevel(level)
        random.setstate(states[0])
        np.random.set_state(states[1])  # noqa: NPY002
        torch.set_num_threads(threads)
        for name, value in variables.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


def _json(path: Path) -> dict[str, Any]:
    return read_json(path) if path.exists() else {}


def _rows(path: Path) -> list[dict[str, str]]:
    return read_csv(path) if path.exists() else []


def _number(value: str) -> float | None:
    return float(value) if value else None
