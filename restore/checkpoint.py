"""Checkpoint files: written whole or not at all, read without running code from them."""

import hashlib
import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch

from restore.errors import UserError

FORMAT = "restore/1"


def write(path: Path, state: dict[str, Any]) -> None:
    """Saves the state; at any moment `path` holds the old file or the new one, never a part.

    Raises UserError when the disk refuses (full, read-only); the old file is then untouched.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(temporary, "wb") as file:
            torch.save({"format": FORMAT, **state}, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except (OSError, RuntimeError) as error:
        temporary.unlink(missing_ok=True)
        raise UserError(f"cannot write the checkpoint {path}: {error}") from error


def read(path: Path) -> dict[str, Any]:
    """Any file of tensors that `torch.save` wrote, onto the CPU.

    Raises UserError for a file that is missing, damaged, or holds more than plain data.
    """
    if not path.is_file():
        raise UserError(f"there is no weights file {path}")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"{path} is not a file of plain weights, and nothing else is loaded: {reason}"
        ) from error
    except (RuntimeError, EOFError, OSError, zipfile.BadZipFile, KeyError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{path} is damaged or no weights file: {reason}") from error
    if not isinstance(state, dict):
        raise UserError(f"{path} holds a {type(state).__name__}, not a dictionary of weights")
    return state


def fingerprint(path: Path) -> str:
    """The first 12 hex digits of the file's SHA-256."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:12]


def load_into(module: torch.nn.Module, state: dict[str, Any], origin: str) -> None:
    """Loads a state dict, all of it.

    Raises UserError that names what does not fit: these are then another model's weights.
    """
    own = module.state_dict()
    missing = [name for name in own if name not in state]
    surplus = [name for name in state if name not in own]
    unlike = [
        f"{name} {tuple(state[name].shape)} instead of {tuple(own[name].shape)}"
        for name in own
        if name in state and state[name].shape != own[name].shape
    ]
    if missing or surplus or unlike:
        told = [
            f"{len(names)} {what} (such as {names[0]})"
            for what, names in (
                ("missing", missing),
                ("surplus", surplus),
                ("of another shape", unlike),
            )
            if names
        ]
        raise UserError(f"{origin} holds the weights of another model: {', '.join(told)}")
    module.load_state_dict(state)
