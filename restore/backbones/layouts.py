"""Published state dicts, renamed layer by layer."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence

from torch import Tensor

from restore.errors import UserError

# A pattern of a whole layer's name, and its name here (with \1 for what the pattern captured).
Table = Sequence[tuple[str, str | Callable[[re.Match[str]], str]]]


def rename(published: Mapping[str, Tensor], table: Table) -> tuple[dict[str, Tensor], list[str]]:
    """The tensors under our names, by the first pattern that fits, and the names that none fits."""
    renamed: dict[str, Tensor] = {}
    unknown: list[str] = []
    for name, value in published.items():
        layer, _, kind = name.rpartition(".")
        for pattern, own in table:
            if found := re.fullmatch(pattern, layer):
                new = found.expand(own) if isinstance(own, str) else own(found)
                renamed[f"{new}.{kind}"] = value
                break
        else:
            unknown.append(name)
    return renamed, unknown


def refuse(unknown: Sequence[str], network: str) -> None:
    """Raises UserError when a state dict that is a network's holds more than it has a place for."""
    if unknown:
        raise UserError(
            f"the file holds a variant of {network} that is not supported: no place for "
            f"'{unknown[0]}' ({len(unknown)} such)"
        )


def count(names: Iterable[str], pattern: str) -> int:
    """How many names a pattern fits."""
    return sum(re.fullmatch(pattern, name) is not None for name in names)
