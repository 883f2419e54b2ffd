"""Formats of `restore export`: data sets for other people's programs."""

from pathlib import Path
from typing import Protocol


class Format(Protocol):
    """One kind of export."""

    def write(self, folder: Path) -> list[str]:
        """Writes everything into the folder, which is there and empty.

        Returns sentences about what was written.

        Raises:
            UserError: what is to be written does not fit the format.
        """
        ...
