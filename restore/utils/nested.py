"""Mappings in mappings, such as a configuration."""

from collections.abc import Iterator, Mapping
from typing import Any


def leaves(node: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every value with its dotted key; an empty mapping is a value.

    >>> dict(leaves({"a": {"b": 1, "c": {}}, "d": 2}))
    {'a.b': 1, 'a.c': {}, 'd': 2}
    """
    if isinstance(node, Mapping) and node:
        for key, value in node.items():
            yield from leaves(value, f"{path}.{key}" if path else str(key))
    else:
        yield path, node
