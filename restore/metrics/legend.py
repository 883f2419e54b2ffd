"""What the names of values mean: which metric each is of, where better is, its heading."""

import math
from collections.abc import Mapping
from functools import cache
from typing import Any

import yaml

from restore.config import locate, registry
from restore.errors import UserError


class Legend:
    """Words and directions for names of values, such as `psnr_y_holes`.

    Args:
        directions: by metric whether higher is better (None: neither). Metrics that are not among
            them are looked up in `conf/metric`.
    """

    def __init__(self, directions: Mapping[str, bool | None]):
        self._directions = {**_declared_directions(*registry.names("metric")), **directions}

    def metric(self, name: str) -> str:
        """The metric that a value is of; the name itself where none is known."""
        fitting = [key for key in self._directions if name == key or name.startswith(f"{key}_")]
        return max(fitting, key=len, default=name)

    def higher_is_better(self, name: str) -> bool | None:
        """Whether a higher value is better; None: neither is, or nobody knows."""
        return self._directions.get(self.metric(name))

    def arrow(self, name: str) -> str:
        """↑ or ↓, to where better is, behind a blank; empty where neither is."""
        better = self.higher_is_better(name)
        return "" if better is None else " ↑" if better else " ↓"

    def words(self, name: str) -> str:
        """A heading: `PSNR holes` for `psnr_holes`."""
        key = self.metric(name)
        rest = name.removeprefix(key).strip("_").replace("_", " ")
        return " ".join([key.upper().replace("_", " "), *([rest] if rest else [])])


def is_better(value: float, than: float, higher: bool) -> bool:
    """Whether a value beats another; NaN beats nothing, and everything beats it."""
    if math.isnan(value):
        return False
    return math.isnan(than) or (value > than if higher else value < than)


def declared(key: str) -> dict[str, Any]:
    """A metric's node as its yaml has it; empty where that names no metric `key`."""
    content = yaml.safe_load(registry.text("metric", key) or "")
    node = content.get(key) if isinstance(content, dict) else None
    return node if isinstance(node, dict) else {}


def directions_of(nodes: Mapping[str, Mapping[str, Any]]) -> dict[str, bool | None]:
    """By name what the classes of a configuration's metrics say, as far as these are there."""
    directions: dict[str, bool | None] = {}
    for key, node in nodes.items():
        try:
            part = locate(str(node.get("_target_")), key)
        except UserError:
            continue  # a class of a user's that this program does not see
        directions[key] = getattr(part, "higher_is_better", None)
    return directions


@cache
def _declared_directions(*keys: str) -> dict[str, bool | None]:
    return directions_of({key: declared(key) for key in keys})
