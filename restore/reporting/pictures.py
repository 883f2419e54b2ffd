"""Pictures for the page: small, each held once, with where their textures came from."""

import base64
import hashlib
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from restore.attention import choices
from restore.reporting.conditions import Condition

_KINDS = ("target", "low", "mask")


@dataclass
class Album:
    """Encoded pictures, and what is looked at with them, by identities of their contents.

    Args:
        side: largest side, pixels; larger pictures are made smaller.
        quality: of WebP, 1 to 100.
    """

    side: int
    quality: int

    def __post_init__(self) -> None:
        self.held: dict[str, str] = {}

    def add(self, path: Path, lossless: bool = False) -> str | None:
        """The picture's identity; None where there is no such file."""
        if not path.exists():
            return None
        name = hashlib.sha256(path.read_bytes()).hexdigest()[:16]
        if name not in self.held:
            picture = Image.open(path).convert("L" if lossless else "RGB")
            picture.thumbnail((self.side, self.side), Image.Resampling.LANCZOS)
            file = io.BytesIO()
            picture.save(file, "WEBP", quality=self.quality, lossless=lossless, method=3)
            self.held[name] = base64.b64encode(file.getvalue()).decode()
        return name

    def keep(self, held: bytes) -> str:
        """The identity of some bytes."""
        name = hashlib.sha256(held).hexdigest()[:16]
        self.held.setdefault(name, base64.b64encode(held).decode())
        return name


def gather(condition: Condition, album: Album, count: int) -> dict[str, Any]:
    """The pictures of a condition's images, those on which variants differ most first.

    Returns:
        By key of the image: `shown`, identities by `target`, `low`, `mask`; `references`, a list of
        them; `restored`, by the row's place and the seed's place in it, the identity and, where
        the evaluation kept it, what `_choices` returns.
    """
    found: dict[str, Any] = {}
    for key in _ranked(condition)[:count]:
        entry: dict[str, Any] = {"shown": {}, "references": [], "restored": {}}
        for place, row in enumerate(condition.rows):
            for seed, one in enumerate(row.evaluations):
                name = album.add(one.picture("restored", key))
                if name is None:
                    continue
                entry["restored"][f"{place}/{seed}"] = {
                    "picture": name,
                    **_choices(one.picture(choices.FOLDER, key, ".npz"), album),
                }
                if not entry["shown"]:
                    for kind in _KINDS:
                        other = album.add(one.picture(kind, key), lossless=kind == "mask")
                        if other is not None:
                            entry["shown"][kind] = other
                    entry["references"] = _references(one.folder, key, album)
        if entry["restored"]:
            found[key] = entry
    return found


def _ranked(condition: Condition) -> list[str]:
    """Images in falling order of the variants' spread in the first measure; ties in their order."""
    name = next((m for m in condition.measures if len(condition.keys) > 1), None)
    rows = [
        row.values[name].mean(0) for row in condition.rows if row.variant and name in row.values
    ]
    if len(rows) < 2:
        return condition.keys
    spreads = np.ptp(np.stack(rows), axis=0)
    order = np.argsort(-np.nan_to_num(spreads, nan=-1.0), kind="stable")
    return [condition.keys[place] for place in order]


def _references(folder: Path, key: str, album: Album) -> list[str]:
    names: list[str] = []
    while True:
        kind = f"reference_{len(names) + 1}" if names else "reference"
        name = album.add(folder / kind / f"{key}.png")
        if name is None:
            return names
        names.append(name)


def _choices(path: Path, album: Album) -> dict[str, Any]:
    """Identities of little-endian positions (uint16 or, of many, uint32) and of uint8 scores.

    A score of 1 is 255. With them the sizes.
    """
    if not path.exists():
        return {}
    held = choices.read(path)
    score = np.clip(np.rint(held.score * 255), 0, 255).astype(np.uint8)
    few = int(held.grids.prod(1).sum()) <= 1 << 16
    return {
        "size": list(held.index.shape),
        "grids": held.grids.tolist(),
        "index": album.keep(held.index.astype("<u2" if few else "<u4").tobytes()),
        "score": album.keep(score.tobytes()),
    }
