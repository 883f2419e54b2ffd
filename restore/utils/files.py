"""Text files that are written whole or not at all, and what JSON and YAML are made of."""

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml


def to_yaml(config: Mapping[str, Any]) -> str:
    """The configuration as the text of `config.yaml`."""
    return yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True)


def to_json(values: Mapping[str, Any]) -> str:
    """The values as JSON that any reader takes, which knows neither NaN (null) nor infinity."""
    return json.dumps(_finite(values), indent=2, allow_nan=False) + "\n"


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else str(value)
    return value


def write_text(path: Path, text: str) -> None:
    """Writes a text file whole or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
