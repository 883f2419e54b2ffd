"""Decoded pictures on disk, so that a crop costs what it is large, not what its picture is."""

import hashlib
import os
from pathlib import Path

from torch import Tensor

from restore.errors import Unwritable, UserError
from restore.images import memory_mapped
from restore.images.io import read_rgb
from restore.utils.files import make_folder, whole
from restore.utils.names import fitting

# Bytes of the source's name in a kept file's.
_STEM = 150


class Cache:
    """A folder of decoded pictures, filled as they are asked for, by any number of processes.

    A picture becomes one uint8 `.npy` file (HW3), written whole or not at all. Its name carries the
    source's path, size and time of change: what was made of a file that has changed since is never
    read again, and goes when its successor comes.

    Args:
        folder: holds the files; None: nothing is kept, every reading decodes.
    """

    def __init__(self, folder: Path | None):
        self.folder = folder

    def read(self, path: Path) -> Tensor:
        """A picture as uint8 3HW, of whose file only those pages are read that are looked at.

        So a caller cuts its part out before it copies. Writing to the tensor changes no file.

        Raises:
            UnreadableImage: the source is damaged or missing.
            UserError: the cache's folder cannot be written.
        """
        if self.folder is None:
            return read_rgb(path)
        kept = self._place(path)
        if kept is None:
            return read_rgb(path)  # which says what is wrong with it
        try:
            return memory_mapped.read(kept)
        except OSError:
            pass  # not kept yet, or not to be had: then writing says why
        except (ValueError, EOFError):
            kept.unlink(missing_ok=True)  # a crash of the machine left it without its content
        self._write(kept, read_rgb(path))
        return memory_mapped.read(kept)

    def _place(self, path: Path) -> Path | None:
        assert self.folder is not None
        try:
            state = path.stat()
        except OSError:
            return None
        where = hashlib.sha256(os.fsencode(path.resolve())).hexdigest()[:12]
        name = f"{fitting(path.stem, _STEM)}.{where}.{state.st_size}-{state.st_mtime_ns}.npy"
        return self.folder / path.parent.name / name

    def _write(self, kept: Path, picture_CHW: Tensor) -> None:
        try:
            make_folder(kept.parent)
            with whole(kept) as temporary:
                memory_mapped.write(temporary, picture_CHW)
            source = kept.name.rsplit(".", 2)[0]
            for other in kept.parent.iterdir():
                if other.name.startswith(f"{source}.") and other != kept:
                    other.unlink(missing_ok=True)
        except (OSError, Unwritable) as error:
            raise UserError(
                f"cannot keep decoded pictures in {kept.parent}: {error}; give data.cache another "
                "folder, or data.cache=null to decode every time"
            ) from error
