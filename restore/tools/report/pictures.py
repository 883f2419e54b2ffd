"""Pictures for the page: small, each held once, with where their textures came from."""

import base64
import hashlib
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from restore.errors import UserError
from restore.images.decoding import opened
from restore.images.io import readable
from restore.models.attention import choices
from restore.tools.report.comparable_groups import ComparableGroup
from restore.tools.report.runs import Evaluation
from restore.utils import foreign

_KINDS = ("target", "low", "mask")


@dataclass
class Album:
    """Encoded pictures, and what is looked at with them, each content once.

    `held` has them in base64; a name is the place in it.

    Args:
        side: largest side, pixels; larger pictures are made smaller.
        quality: of WebP, 1 to 100.
    """

    side: int
    quality: int

    def __post_init__(self) -> None:
        self.contents: list[str] = []
        self._names: dict[str, int] = {}  # by what tells contents apart
        self.notes: dict[str, str] = {}  # on files that could not be taken

    def add(self, path: Path | None, lossless: bool = False) -> int | None:
        """The picture's name; None where there is no such file or it is damaged, which is noted."""
        if path is None or not path.exists():
            return None
        try:
            return self._added(path, lossless)
        except UserError as error:
            self.notes[str(path)] = f"left out: {error}"
            return None

    def _added(self, path: Path, lossless: bool) -> int:
        with foreign.reading(path), foreign.open_regular(path) as source:
            mark = hashlib.file_digest(source, "sha256").hexdigest()
        if mark not in self._names:
            with readable(path), opened(path) as image:
                picture = image.convert("L" if lossless else "RGB")
            picture.thumbnail((self.side, self.side), Image.Resampling.LANCZOS)
            file = io.BytesIO()
            picture.save(file, "WEBP", quality=self.quality, lossless=lossless, method=3)
            self._hold(mark, file.getvalue())
        return self._names[mark]

    def keep(self, content: bytes) -> int:
        """The name of some bytes."""
        mark = hashlib.sha256(content).hexdigest()
        if mark not in self._names:
            self._hold(mark, content)
        return self._names[mark]

    def _hold(self, mark: str, content: bytes) -> None:
        self._names[mark] = len(self.contents)
        self.contents.append(base64.b64encode(content).decode())


def gather(condition: ComparableGroup, album: Album, count: int) -> dict[str, Any]:
    """The pictures of a condition's images, those on which variants differ most first.

    Returns:
        By key of the image: `shown`, names by `target`, `low`, `mask`; `references`, a list of
        them; `restored`, by the row's place and the seed's place in it, the name and, where
        the evaluation kept it, what `_choices` returns.
    """
    entries: dict[str, Any] = {}
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
                    entry["references"] = _references(one, key, album)
        if entry["restored"]:
            entries[key] = entry
    return entries


def _ranked(condition: ComparableGroup) -> list[str]:
    """Images in falling order of the variants' spread in the first measure of single ones."""
    of_images = (len(condition.keys),)
    rows: list[np.ndarray] = []
    for name in condition.measures:
        every = [row.values[name] for row in condition.rows if row.variant and name in row.values]
        rows = rows or [values.mean(0) for values in every if values.shape[1:] == of_images]
    if len(rows) < 2:
        return condition.keys
    spreads = np.ptp(np.stack(rows), axis=0)
    order = np.argsort(-np.nan_to_num(spreads, nan=-1.0), kind="stable")
    return [condition.keys[place] for place in order]


def _references(one: Evaluation, key: str, album: Album) -> list[int]:
    names: list[int] = []
    while True:
        kind = f"reference_{len(names) + 1}" if names else "reference"
        name = album.add(one.picture(kind, key))
        if name is None:
            return names
        names.append(name)


def _choices(path: Path | None, album: Album) -> dict[str, Any]:
    """Names of little-endian positions (uint16 or, of many, uint32) and of uint8 scores.

    A score of 1 is 255. With them the sizes.
    """
    if path is None or not path.exists():
        return {}
    try:
        matches = choices.read(path)
    except UserError as error:
        album.notes[str(path)] = f"left out: {error}"
        return {}
    score = np.clip(np.rint(matches.score * 255), 0, 255).astype(np.uint8)
    few = int(matches.grids.prod(1).sum()) <= 1 << 16
    return {
        "size": list(matches.index.shape),
        "grids": matches.grids.tolist(),
        "index": album.keep(matches.index.astype("<u2" if few else "<u4").tobytes()),
        "score": album.keep(score.tobytes()),
    }
