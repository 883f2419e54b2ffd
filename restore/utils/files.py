"""Files that are written whole or not at all, and what JSON and YAML are made of."""

import errno
import json
import logging
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import yaml

from restore.errors import Unwritable

log = logging.getLogger("restore")

# What keeps anything from being written to a disk.
REFUSALS = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "what you may store on this disk is used up (quota)",
    errno.EFBIG: "the file would become larger than files may be (ulimit -f)",
    errno.EROFS: "the disk is read-only",
}


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


def refusal(error: OSError) -> str:
    """Why the system refused to write, in words."""
    return REFUSALS.get(error.errno or 0) or error.strerror or str(error)


@contextmanager
def whole(path: Path, sync: bool = False) -> Iterator[Path]:
    """Gives another name to write to; afterwards the file stands at `path`.

    At any moment `path` is what it was before or all that was written, never a part.

    Args:
        path: in a folder that exists.
        sync: wait until it is on the disk, so that it outlives a power cut.

    Raises Unwritable when the system refuses, whatever the library that wrote made of that.
    """
    stem = os.fsencode(path.stem)[:100].decode(errors="ignore")
    temporary = path.with_name(f".{stem}.{os.getpid()}{path.suffix}")
    try:
        yield temporary
        if sync:
            with open(temporary, "rb+") as file:
                os.fsync(file.fileno())
        os.replace(temporary, path)
    except Exception as error:
        known = isinstance(error, OSError) and error.errno
        reason = refusal(error) if known else _refused(temporary)  # type: ignore[arg-type]
        if reason is None and not isinstance(error, OSError):
            raise
        raise Unwritable(f"cannot write {path}: {reason or error}") from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def _refused(path: Path) -> str | None:
    """Why nothing more can be added to a file; None where it can."""
    try:
        with open(path, "ab") as file:
            file.write(bytes(1 << 16))
    except OSError as error:
        return refusal(error)
    return None


def write_bytes(path: Path, data: bytes) -> None:
    """Writes a file whole or not at all; Unwritable where the system refuses."""
    with whole(path) as temporary:
        temporary.write_bytes(data)


def write_text(path: Path, text: str) -> None:
    """Writes a text file (UTF-8) whole or not at all; Unwritable where the system refuses."""
    with whole(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def make_folder(path: Path) -> None:
    """Makes a folder and those above it where they are missing; Unwritable where it cannot be."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise Unwritable(f"cannot make the folder {path}: {refusal(error)}") from error


_failing: set[str] = set()


@contextmanager
def optional(what: str) -> Iterator[None]:
    """A disk that refuses costs what is written here and nothing else.

    It is said once, and again only after it has worked meanwhile.
    """
    try:
        yield
    except (Unwritable, OSError) as error:
        if isinstance(error, OSError) and error.errno not in REFUSALS:
            raise
        if what not in _failing:
            _failing.add(what)
            log.warning("%s: %s; continuing without", what, error)
    else:
        _failing.discard(what)
