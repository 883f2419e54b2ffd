"""One's own pictures: targets, and by the same file names references and low pictures."""

import hashlib
from pathlib import Path
from typing import Annotated

from pydantic import Field

from restore.errors import UserError
from restore.images.io import by_name, read_rgb
from restore.types import Sample


def position(key: str) -> float:
    """A number in [0, 1) that depends on the name alone, evenly spread: shares cut splits of it."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:4], "big") / 2**32


class FolderSplit:
    """Pictures of one split."""

    def __init__(
        self,
        targets: dict[str, Path],
        references: list[dict[str, Path]],
        lows: dict[str, Path],
    ):
        self.keys = list(targets)
        self.targets, self.references, self.lows = targets, references, lows

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, index: int) -> Sample:
        key = self.keys[index]
        sample = Sample(key=key, target=read_rgb(self.targets[key]))
        given = [read_rgb(paths[key]) for paths in self.references]
        if given:
            sample["reference"] = given[0] if len(given) == 1 else given
        if self.lows:
            sample["low"] = read_rgb(self.lows[key])
        return sample


class Folder:
    """Folders of pictures, read recursively and paired by path and name without the suffix.

    Args:
        targets: high-resolution pictures.
        references: their references, or None; of several folders, each gives every target one, and
            the best patches of all are taken.
        lows: their low pictures, made before, or None to have them made.
        valid: share of the pictures kept for validation.
        test: share kept for testing. Which ones depends on each one's name alone, so pictures that
            are added later move no other. With a share of 1 every picture is in that split and in
            training, and none in the other unless its share is 1 too.
    """

    def __init__(
        self,
        targets: str,
        references: str | list[str] | None = None,
        lows: str | None = None,
        valid: Annotated[float, Field(ge=0, le=1)] = 0.1,
        test: Annotated[float, Field(ge=0, le=1)] = 0.1,
    ):
        self.targets = by_name(Path(targets))
        folders = [references] if isinstance(references, str) else references or []
        self.references = [self._partners("references", folder) for folder in folders]
        self.lows = {} if lows is None else self._partners("lows", lows)
        if max(valid, test) < 1 < valid + test:
            raise UserError(
                f"data.valid={valid} and data.test={test} are more than all pictures together"
            )
        self.shares = {"valid": valid, "test": test}

    def _partners(self, what: str, folder: str) -> dict[str, Path]:
        found = by_name(Path(folder))
        missing = [name for name in self.targets if name not in found]
        if missing:
            raise UserError(
                f"data.{what}={folder} lacks {len(missing)} of {len(self.targets)} pictures, "
                f"such as {missing[0]}"
            )
        return found

    def split(self, name: str) -> FolderSplit:
        """The split `train`, `valid` or `test`; UserError when no picture falls into it."""
        if name not in ("train", *self.shares):
            raise UserError(f"data.targets has no split '{name}'; choose of train, valid, test")
        chosen = {key: path for key, path in self.targets.items() if self._belongs(key, name)}
        if not chosen:
            what = f"raise data.{name}" if name in self.shares else "lower data.valid and data.test"
            raise UserError(
                f"none of the {len(self.targets)} pictures of data.targets falls into the split "
                f"'{name}': {what}"
            )
        return FolderSplit(chosen, self.references, self.lows)

    def _belongs(self, key: str, name: str) -> bool:
        if 1 in self.shares.values():
            return self.shares.get(name, 1) == 1
        place = position(key)
        valid, test = self.shares["valid"], self.shares["test"]
        if name == "valid":
            return place < valid
        if name == "test":
            return valid <= place < valid + test
        return place >= valid + test
