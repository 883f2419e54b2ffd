"""Names: of pictures, by which files belong together, and of files that are made of them."""

import hashlib
import os
import unicodedata
from pathlib import Path

# Bytes of a file's name that usual file systems take.
_MOST = 255


def key(path: Path, folder: Path) -> str:
    """A picture's name within a folder: its path without the suffix, the same on every system.

    Composed and decomposed letters (macOS) are one, and bytes that are no UTF-8 become %XX, so that
    a name can be printed, hashed and written down.
    """
    return printable(path.relative_to(folder).with_suffix("").as_posix())


def printable(path: object) -> str:
    """A path as text that every file and terminal of UTF-8 takes; letters composed (NFC)."""
    name = unicodedata.normalize("NFC", str(path))
    # Python keeps a byte b that is no UTF-8 as the letter U+DC00 + b.
    return "".join(f"%{ord(c) - 0xDC00:02X}" if "\udc80" <= c <= "\udcff" else c for c in name)


def fitting(name: str, most: int = _MOST) -> str:
    """A file's name cut to so many bytes, where it is longer, and told apart by a hash.

    The suffix stays.
    """
    whole = os.fsencode(name)
    if len(whole) <= most:
        return name
    stem, suffix = os.path.splitext(name)
    mark = f"-{hashlib.sha256(whole).hexdigest()[:8]}{suffix}"
    room = most - len(os.fsencode(mark))
    return os.fsencode(stem)[:room].decode("utf-8", "ignore") + mark
