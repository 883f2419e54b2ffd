"""Progress bars that stop no work."""

import sys
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

from tqdm import tqdm


class _Stream:
    """The screen, or a file in its place, on a disk that may be full: then a line is missing."""

    def __init__(self) -> None:
        self.stream = sys.stderr

    def write(self, text: str) -> None:
        with suppress(OSError):
            self.stream.write(text)

    def flush(self) -> None:
        with suppress(OSError):
            self.stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


def bar(items: Iterable[Any] | None = None, title: str | None = None, **more: Any) -> tqdm:
    """Tqdm's bar; `more` is tqdm's."""
    return tqdm(items, title, file=_Stream(), **more)
