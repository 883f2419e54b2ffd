"""Which pictures of a folder are for training, validation and testing, by their names alone."""

import hashlib
from collections.abc import Mapping
from typing import TypeVar

from restore.errors import UserError

Item = TypeVar("Item")


def position(key: str) -> float:
    """A number in [0, 1) that depends on the name alone, evenly spread: shares cut splits of it."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:4], "big") / 2**32


class Shares:
    """Splits `train`, `valid` and `test` of things that have names.

    What is added later moves nothing else to another split.

    Args:
        valid: share kept for validation, in [0, 1].
        test: share kept for testing. With a share of 1 everything is in that split and in training,
            and nothing in the other unless its share is 1 too.

    Raises:
        UserError: the shares are more than everything.
    """

    def __init__(self, valid: float, test: float):
        if max(valid, test) < 1 < valid + test:
            raise UserError(
                f"data.valid={valid} and data.test={test} are more than all pictures together"
            )
        self.valid, self.test = valid, test

    def split(self, items: Mapping[str, Item], name: str, what: str) -> dict[str, Item]:
        """Those that belong to a split.

        Args:
            items: by name.
            name: of the split.
            what: the items are, for messages, such as `pictures of data.targets`.

        Raises:
            UserError: no such split, or nothing falls into it.
        """
        if name not in ("train", "valid", "test"):
            raise UserError(f"{what}: there is no split '{name}'; choose one of train, valid, test")
        chosen = {key: item for key, item in items.items() if self._belongs(key, name)}
        if not chosen:
            way = "lower data.valid and data.test" if name == "train" else f"raise data.{name}"
            raise UserError(f"none of the {len(items)} {what} falls into the split '{name}': {way}")
        return chosen

    def _belongs(self, key: str, name: str) -> bool:
        if 1 in (self.valid, self.test):
            return {"valid": self.valid, "test": self.test}.get(name, 1) == 1
        at = position(key)
        if at < self.valid:
            return name == "valid"
        return name == ("test" if at < self.valid + self.test else "train")
