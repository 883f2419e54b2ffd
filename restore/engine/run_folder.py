"""The folder of a run: its configuration, what it ran on, and its log."""

import importlib.metadata
import json
import logging
import os
import platform
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import yaml

from restore.config import renames
from restore.errors import UserError
from restore.utils import distributed
from restore.utils.files import to_json, to_yaml, write_text

log = logging.getLogger("restore")


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
    return renames.current(config)


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
