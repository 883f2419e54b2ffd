"""Files and names from others, of which anything may be wrong.

Whatever a file holds, reading it ends in plain data or in a `UserError` that names the file. Only
regular files are opened, and what they would take in memory is known before it is taken.
"""

import csv
import errno
import io
import json
import math
import os
import stat
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from restore.errors import UserError

_MOST_TEXT = 64 << 20  # bytes; a million steps of numbers
_MOST_ARRAYS = 256 << 20  # bytes of one npz, unpacked
_MOST_ALIASES = 1000
_MOST_DEPTH = 100


def at_home(path: str | Path) -> str:
    """The path with `~` or `~/…` as the user's own folder; `~name.png` is a name."""
    text = str(path)
    return os.path.expanduser(text) if text == "~" or text.startswith("~/") else text


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Whatever goes wrong meanwhile is said in a sentence about the file.

    The parsers of foreign files raise errors of many unrelated classes.
    """
    try:
        yield
    except UserError:
        raise
    except OSError as error:
        if error.errno is None:  # not the system's: Pillow's, of a picture that is cut off
            raise UserError(f"{path} is damaged: {error}") from error
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    except RecursionError as error:
        raise UserError(f"{path} is damaged: it is nested too deep") from error
    except Exception as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        if isinstance(error, KeyError):
            reason = f"it has no {reason}"
        raise UserError(f"{path} is damaged: {reason}") from error


def open_regular(path: Path) -> io.BufferedReader:
    """The file for reading. Raises OSError for a pipe, a device or a folder, which could hang."""
    # A pipe opens at once with this flag, and is then seen to be one.
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise OSError(errno.EINVAL, "it is no regular file")
    return os.fdopen(handle, "rb")


def read_text(path: Path) -> str:
    """A text file; UserError when there is none, or it is no UTF-8 or too large to be one."""
    with reading(path), open_regular(path) as file:
        content = file.read(_MOST_TEXT + 1)
        if len(content) > _MOST_TEXT:
            raise ValueError(f"it is larger than {_MOST_TEXT >> 20} MB")
        return content.decode("utf-8")


def read_json(path: Path) -> dict[str, Any]:
    """The object of a JSON file; UserError when there is none."""
    text = read_text(path)
    with reading(path):
        return _object(json.loads(text), path)


class _Loader(yaml.SafeLoader):
    """YAML as it is written here: aliases are few, and mappings are not merged."""

    aliases = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            self.aliases += 1
            if self.aliases > _MOST_ALIASES:
                raise yaml.YAMLError("it refers to itself too often")
        return super().compose_node(parent, index)

    def flatten_mapping(self, node: Any) -> None:
        if any(key.tag == "tag:yaml.org,2002:merge" for key, _ in node.value):
            raise yaml.YAMLError("it merges mappings (<<)")


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping of a YAML file; UserError when there is none."""
    text = read_text(path)
    with reading(path):
        return _object(yaml.load(text, _Loader), path)


def _object(content: Any, path: Path) -> dict[str, Any]:
    if not isinstance(content, dict):
        raise UserError(f"{path} is damaged: it holds no settings or facts")
    level: list[Any] = [content]
    for _ in range(_MOST_DEPTH):
        # Each node once for each level, however many aliases lead to it.
        inner = {id(x): x for node in level for x in _inside(node)}
        level = list(inner.values())
        if not level:
            return content
    raise RecursionError


def _inside(node: Any) -> list[Any]:
    inner = node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()
    return [x for x in inner if isinstance(x, dict | list)]


def read_csv(path: Path) -> list[dict[str, str]]:
    """The rows of a csv file with a heading; UserError for one that is none.

    Cells that a row lacks are empty.
    """
    text = read_text(path)
    with reading(path):
        rows = csv.DictReader(io.StringIO(text, newline=""), restval="")
        return [{k: v for k, v in row.items() if k is not None} for row in rows]


def read_npz(path: Path, names: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Arrays of an npz file; UserError where one is missing, holds objects, or is too large."""
    with reading(path), open_regular(path) as file, zipfile.ZipFile(file) as archive:
        sizes = {name: archive.getinfo(f"{name}.npy").file_size for name in names}
        if sum(sizes.values()) > _MOST_ARRAYS:
            raise ValueError(f"it would take {sum(sizes.values()) >> 20} MB unpacked")
        return {name: _array(archive, name, size) for name, size in sizes.items()}


def _array(archive: zipfile.ZipFile, name: str, size: int) -> np.ndarray:
    with archive.open(f"{name}.npy") as file:
        version = np.lib.format.read_magic(file)
        if version not in ((1, 0), (2, 0)):
            raise ValueError(f"{name} is of an unknown version")
        old = version == (1, 0)
        header = np.lib.format.read_array_header_1_0 if old else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = header(file)
        if dtype.hasobject or math.prod(shape) * dtype.itemsize > size:
            raise ValueError(f"{name} claims more than it holds")
        content = file.read(math.prod(shape) * dtype.itemsize)
    array = np.frombuffer(content, dtype)
    return array.reshape(shape[::-1]).T if fortran else array.reshape(shape)
