"""Checkpoint files: written whole or not at all, read without running code from them."""

import hashlib
import pickle
import re
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from restore.errors import UserError
from restore.utils.files import whole

FORMAT = "restore/1"


def write(path: Path, state: dict[str, Any]) -> None:
    """Saves the state; at any moment `path` holds the old file or the new one, never a part.

    Raises Unwritable when the disk refuses (full, read-only); the old file is then untouched.
    """
    with whole(path, sync=True) as temporary:
        torch.save({"format": FORMAT, **state}, temporary)


def read(path: Path) -> dict[str, Any]:
    """Any file of tensors that `torch.save` or safetensors wrote, onto the CPU.

    Raises UserError for a file that is missing, damaged, or holds more than plain data.
    """
    if not path.is_file():
        raise UserError(f"there is no weights file {path}")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        refused = re.search(r"Unsupported global: GLOBAL (\S+)", str(error))
        reason = f" (it holds {refused[1]})" if refused else ""
        raise UserError(
            f"{path} is not a file of plain weights, and nothing else is loaded{reason}"
        ) from error
    except (
        SafetensorError,
        RuntimeError,
        EOFError,
        OSError,
        zipfile.BadZipFile,
        KeyError,
        ValueError,
    ) as error:
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
    fit = _compare(module, state)
    misfits = {
        "missing": fit.missing,
        "surplus": fit.surplus,
        "of another shape": fit.unlike,
    }
    told = [f"{len(n)} {what} (such as {n[0]})" for what, n in misfits.items() if n]
    if told:
        raise UserError(f"{origin} holds the weights of another model: {', '.join(told)}")
    module.load_state_dict(state)


@dataclass(frozen=True)
class Fit:
    """How a state dict fits a module, by the names of tensors.

    `missing`: only the module has them; `surplus`: only the state dict; `unlike`: both, in
    different shapes (which follow the name).
    """

    fitting: list[str]
    missing: list[str]
    surplus: list[str]
    unlike: list[str]

    def report(self) -> str:
        """What was loaded, and for everything else why not, in lines."""
        wanted = len(self.fitting) + len(self.missing) + len(self.unlike)
        lines = [f"loaded: {len(self.fitting)} of the model's {wanted} tensors"]
        for why, names in (
            ("not loaded, as the file has another shape", self.unlike),
            ("not loaded, as the file has none of the name", self.missing),
            ("in the file, but not of this model", self.surplus),
        ):
            if names:
                lines.append(f"{why}: {len(names)}")
                lines += [f"  {name}" for name in names]
        return "\n".join(lines)


def load_what_fits(module: torch.nn.Module, state: dict[str, Any], origin: str) -> Fit:
    """Loads the tensors whose names and shapes agree; the others keep their values.

    Raises UserError when none does.
    """
    fit = _compare(module, state)
    if not fit.fitting:
        raise UserError(f"{origin} holds no tensor that this model has, by name and shape")
    module.load_state_dict(module.state_dict() | {name: state[name] for name in fit.fitting})
    return fit


def _compare(module: torch.nn.Module, state: dict[str, Any]) -> Fit:
    own = module.state_dict()
    shared = [name for name in own if name in state]
    fitting = [name for name in shared if state[name].shape == own[name].shape]
    return Fit(
        fitting,
        missing=[name for name in own if name not in state],
        surplus=[name for name in state if name not in own],
        unlike=[
            f"{name} {tuple(state[name].shape)} instead of {tuple(own[name].shape)}"
            for name in shared
            if state[name].shape != own[name].shape
        ],
    )
