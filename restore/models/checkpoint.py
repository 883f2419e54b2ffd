"""Checkpoint files: written whole or not at all, read without running code from them."""

import copy
import hashlib
import pickle
import re
import warnings
import zipfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any, TypeVar

import torch
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError, with_config
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from restore.config import renames
from restore.errors import UserError
from restore.utils.files import whole

FORMAT = "restore/1"

Schema = TypeVar("Schema", bound="_Weights")
_TENSORS = ConfigDict(arbitrary_types_allowed=True)


def write(path: Path, state: dict[str, Any]) -> None:
    """Saves the state; at any moment `path` holds the old file or the new one, never a part.

    Raises Unwritable when the disk refuses (full, read-only); the old file is then untouched.
    """
    with whole(path, sync=True) as temporary:
        torch.save({"format": FORMAT, **state}, temporary)


def read(path: Path) -> dict[str, Any]:
    """Any file of tensors that `torch.save` or safetensors wrote, onto the CPU.

    Raises UserError for a file that is missing, damaged, claims more than it holds, or holds more
    than plain data.
    """
    if not path.is_file():
        raise UserError(f"there is no weights file {path}")
    try:
        state = _load(path)
    except pickle.UnpicklingError as error:
        refused = re.search(r"Unsupported global: GLOBAL (\S+)", str(error))
        reason = f" (it holds {refused[1]})" if refused else ""
        raise UserError(
            f"{path} is not a file of plain weights, and nothing else is loaded{reason}"
        ) from error
    except UserError:
        raise
    except Exception as error:  # of many unrelated classes, over bytes that may be anything
        telling = isinstance(error, SafetensorError | RuntimeError | OSError | zipfile.BadZipFile)
        lines = str(error).splitlines() if telling else []
        reason = lines[0] if lines else "neither torch.save nor safetensors wrote it"
        raise UserError(f"{path} is damaged or no weights file: {reason}") from error
    if not isinstance(state, dict):
        raise UserError(f"{path} holds a {type(state).__name__}, not a dictionary of weights")
    return state


def of_run(folder: Path) -> Path:
    """The checkpoint that a run folder is known by: its best, else its last."""
    best, last = (folder / "checkpoints" / f"{name}.pt" for name in ("best", "last"))
    return best if best.is_file() else last


def own(state: dict[str, Any], path: Path) -> dict[str, Any]:
    """What `read` gave, found to be a network with its configuration as checkpoints of ours have.

    Raises UserError that names what is missing or of another kind.
    """
    return {**state, **vars(_checked(_Weights, state, path))}


def read_run(path: Path) -> dict[str, Any]:
    """A checkpoint that a run can go on from.

    Raises UserError for any other, as `read` does.
    """
    state = read(path)
    if state.get("format") != FORMAT:
        raise UserError(f"{path} is no checkpoint of restore train")
    return {**state, **vars(_checked(_Run, state, path))}


@with_config(_TENSORS)
@dataclass
class _Weights:
    """What every checkpoint of ours has."""

    config: dict[str, Any]
    models: dict[str, dict[str, Tensor]]
    ema: dict[str, Tensor] | None
    step: Annotated[int, Field(ge=0, strict=True)]


@with_config(_TENSORS)
@dataclass
class _Run(_Weights):
    """What a run needs besides, to go on."""

    averaged: Annotated[int, Field(ge=0, strict=True)]
    optimizers: dict[str, dict[str, Any]]
    scaler: dict[str, Any]
    best: float | None
    unlogged: Annotated[list[tuple[dict[str, float], int]], Field(min_length=1)]
    identity: str | None
    # With a value, so that runs from before there was this entry can go on.
    spent: list[dict[str, Any]] = field(default_factory=list)


def _checked(schema: type[Schema], state: dict[str, Any], path: Path) -> Schema:
    given = {entry.name: state[entry.name] for entry in fields(schema) if entry.name in state}
    try:
        entries = TypeAdapter(schema).validate_python(given)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        key = ".".join(map(str, first["loc"]))
        raise UserError(f"{path} is a damaged checkpoint: {key}: {first['msg'].lower()}") from error
    if "backbone" not in entries.models:
        raise UserError(f"{path} is a damaged checkpoint: models: there is no backbone")
    backbone = renames.tensors(entries.config, entries.models["backbone"])
    entries.models = {**entries.models, "backbone": backbone}
    if entries.ema is not None:
        entries.ema = renames.tensors(entries.config, entries.ema)
    return entries


def _load(path: Path) -> Any:
    """What the file holds, once it is found to hold what it claims."""
    if path.suffix == ".safetensors":
        return load_file(path)  # which holds its header against the file's size
    size = path.stat().st_size
    packed = zipfile.is_zipfile(path)
    if packed:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
        # torch.save packs nothing. An entry may be named twice, and then counts twice.
        claimed = sum(entry.file_size for entry in entries)
        if claimed > size or any(entry.compress_type for entry in entries):
            raise UserError(
                f"{path} is no weights file: its {size:,} bytes claim to unpack to {claimed:,}"
            )
    # Of a mapped file nothing is in memory before it is used, and no tensor can reach beyond it.
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Detected pickle protocol")  # what follows says it better
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=packed or None)
    storages: dict[int, int] = {}
    total = 0
    for tensor in _tensors(state, path):
        if tensor.layout != torch.strided or tensor.is_quantized or tensor.device.type != "cpu":
            raise UserError(f"{path} holds tensors that are no plain arrays of numbers")
        own, needed = tensor.untyped_storage(), tensor.numel() * tensor.element_size()
        storages[own.data_ptr()] = own.nbytes()
        total += needed
        if total > max(_MOST_SHARED * size, _ALWAYS_FINE):
            raise UserError(f"{path} is no weights file: its tensors claim more than it holds")
    if sum(storages.values()) > size:
        raise UserError(f"{path} is no weights file: its tensors claim more than it holds")
    # The file may be changed while this is in use.
    return copy.deepcopy(state) if packed else state


# How many times over a file's tensors may use the same numbers, as tied layers do.
_MOST_SHARED = 4
# Bytes that tensors may claim whatever the file's size, as those of repeated values do.
_ALWAYS_FINE = 2**27
_MOST_ENTRIES = 1_000_000


def _tensors(state: Any, path: Path) -> Iterator[Tensor]:
    """Every tensor, each object once.

    Raises UserError where there is no end of entries.
    """
    seen: dict[int, Any] = {}
    waiting = [state]
    while waiting:
        node = waiting.pop()
        if id(node) in seen:
            continue
        if isinstance(node, Tensor):
            yield node
        inner: Iterable[Any] = ()
        if isinstance(node, dict):
            inner = node.values()
        elif isinstance(node, list | tuple | set):
            inner = node
        else:
            continue
        seen[id(node)] = node
        if len(seen) > _MOST_ENTRIES:
            raise UserError(f"{path} is no weights file: it holds too many entries")
        waiting.extend(inner)


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
        "of another shape or kind": fit.unlike,
    }
    complaints = [f"{len(n)} {what} (such as {n[0]})" for what, n in misfits.items() if n]
    if complaints:
        raise UserError(f"{origin} holds the weights of another model: {', '.join(complaints)}")
    _refuse_damaged(module, state, fit.fitting, origin)
    module.load_state_dict(state)


def build(make: Callable[[], torch.nn.Module], state: dict[str, Any], origin: str) -> Any:
    """A model that is described beside its weights, with them.

    A description may ask for any size. So the model is first made without memory, and given up
    as soon as it has more than the weights.

    Raises UserError that names what does not fit.
    """
    # Parts are put together of others, and a parameter may be put in two places on the way.
    numbers = 4 * sum(x.numel() for x in state.values()) + 4096
    tensors = 4 * len(state) + 64

    def counted(module: Any, name: str, parameter: Any) -> None:
        nonlocal numbers, tensors
        if parameter is not None:
            numbers, tensors = numbers - parameter.numel(), tensors - 1
        if numbers < 0 or tensors < 0:
            raise _TooLargeError

    watch = torch.nn.modules.module.register_module_parameter_registration_hook(counted)
    try:
        with torch.device("meta"):
            make()
    except _TooLargeError:
        raise UserError(
            f"{origin} holds the weights of another model: its configuration asks for a larger one"
        ) from None
    except Exception:
        pass  # either it computes with numbers while it is made, or what follows says it better
    finally:
        watch.remove()
    model = make()
    if not isinstance(model, torch.nn.Module):
        raise UserError(f"{origin}: its backbone is no network")
    load_into(model, state, origin)
    return model


class _TooLargeError(BaseException):
    """Ends the making of a model; nothing on the way takes it for an error of its own."""


def _refuse_damaged(
    module: torch.nn.Module, state: dict[str, Any], names: list[str], origin: str
) -> None:
    own = module.state_dict()
    for name in names:
        if own[name].is_floating_point() and not state[name].to(own[name].dtype).isfinite().all():
            raise UserError(f"{origin} holds weights that are no finite numbers (such as {name})")


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
            ("not loaded, as the file has another shape or kind", self.unlike),
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
    _refuse_damaged(module, state, fit.fitting, origin)
    module.load_state_dict(module.state_dict() | {name: state[name] for name in fit.fitting})
    return fit


def _compare(module: torch.nn.Module, state: dict[str, Any]) -> Fit:
    own = module.state_dict()
    shared = [name for name in own if name in state]
    unlike = {name: said for name in shared if (said := _unlike(own[name], state[name]))}
    return Fit(
        fitting=[name for name in shared if name not in unlike],
        missing=[name for name in own if name not in state],
        surplus=[name for name in state if name not in own],
        unlike=[f"{name} {said}" for name, said in unlike.items()],
    )


def _unlike(own: Tensor, given: Any) -> str:
    """How a tensor of a file differs from the model's in shape or kind of number; "" if it fits."""
    if not isinstance(given, Tensor):
        return f"{type(given).__name__} instead of a tensor"
    if given.shape != own.shape:
        return f"{tuple(given.shape)} instead of {tuple(own.shape)}"
    # Fractions of any precision stand for one another, whole numbers likewise.
    kinds = [(x.is_floating_point(), x.is_complex(), x.dtype == torch.bool) for x in (own, given)]
    return "" if kinds[0] == kinds[1] else f"{_dtype(given)} instead of {_dtype(own)}"


def _dtype(x: Tensor) -> str:
    return str(x.dtype).removeprefix("torch.")
