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
            if match := re.fullmatch(pattern, layer):
                new = match.expand(own) if isinstance(own, str) else own(match)
                renamed[f"{new}.{kind}"] = value
                break
        else:
            unknown.append(name)
    return renamed, unknown


def matched(
    published: Mapping[str, Tensor], table: Table, layers: Iterable[str], network: str
) -> dict[str, Tensor] | None:
    """The tensors under our names, which they may have already; None for another network's.

    Args:
        published: names that end in `weight`, `weight_v` or the like, by layer.
        table: see `rename`.
        layers: ours, which tell the network: each with a bias and a weight, normalised or not.
        network: its name, for the sentence.

    Raises:
        UserError: it is this network's, and holds more than there is a place for.
    """
    if _has(published, layers):
        return dict(published)
    renamed, unknown = rename(published, table)
    if not _has(renamed, layers):
        return None
    if unknown:
        raise UserError(
            f"the file holds a variant of {network} that is not supported: no place for "
            f"'{unknown[0]}' ({len(unknown)} such)"
        )
    return renamed


def _has(state: Mapping[str, Tensor], layers: Iterable[str]) -> bool:
    return all(
        f"{layer}.bias" in state and not {f"{layer}.weight", f"{layer}.weight_v"}.isdisjoint(state)
        for layer in layers
    )


def count(names: Iterable[str], pattern: str) -> int:
    """How many names a pattern fits."""
    return sum(re.fullmatch(pattern, name) is not None for name in names)
