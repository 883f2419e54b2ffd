"""Scenes photographed at several focal lengths: which pictures make a pair.

SR-RAW (Zhang et al., "Zoom to Learn, Learn to Zoom", CVPR 2019) has a folder for each scene with
`00001.JPG` (240 mm) … `00007.JPG` (24 mm).
"""

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from restore.errors import UnreadableImage, UserError
from restore.images.decoding import opened
from restore.images.io import find, readable

# What the data set's own scripts leave beside the pictures.
_DERIVED = ("cropped", "aligned", "compare")
# Tags of EXIF.
_EXIF, _FOCAL_LENGTH = 0x8769, 0x920A


@dataclass(frozen=True)
class Pair:
    """A picture and the next wider one of its scene, with their focal lengths in mm."""

    scene: str
    target: Path
    wide: Path
    focal: float
    wide_focal: float

    @property
    def key(self) -> str:
        """Its name, unique in the data set, fit for a path."""
        return f"{self.scene}/{self.target.stem}_{self.wide.stem}"


@dataclass(frozen=True)
class Refused:
    """A picture or scene of which no pair can be made, and why."""

    key: str
    reason: str


def focal_length(path: Path) -> float | None:
    """The focal length in mm that a picture's EXIF data tell; None when they do not.

    Raises UnreadableImage when it is no picture.
    """
    with readable(path), opened(path) as image:
        tag: Any = image.getexif().get_ifd(_EXIF).get(_FOCAL_LENGTH)
    try:
        value = float(tag)
    except (TypeError, ValueError, ZeroDivisionError):
        return None
    return value if 0 < value < float("inf") else None


def pairs(root: Path) -> tuple[list[Pair], list[Refused]]:
    """Every picture with the next wider one of its scene, in the order of scenes.

    A scene is a folder that holds JPEG files itself.

    Raises:
        UserError: there is no such folder, it holds no JPEG files, or none tells its focal length.
    """
    scenes: dict[str, list[Path]] = {}
    for path in find(root):
        folder = path.parent.relative_to(root)
        if path.suffix.lower() in (".jpg", ".jpeg") and folder.name not in _DERIVED:
            name = folder.as_posix() if folder.name else root.resolve().name
            scenes.setdefault(name, []).append(path)
    if not scenes:
        raise UserError(f"there are no JPEG files below {root}, in folders one a scene")
    accepted: list[Pair] = []
    refused: list[Refused] = []
    lengths_known = 0
    for scene, files in scenes.items():
        lengths: list[tuple[float, Path]] = []
        for path in files:
            key = f"{scene}/{path.name}"
            try:
                length = focal_length(path)
            except UnreadableImage as error:
                refused.append(Refused(key, f"cannot be read: {error.reason}"))
                continue
            if length is None:
                refused.append(Refused(key, "its EXIF data tell no focal length"))
                continue
            lengths.append((length, path))
        lengths_known += len(lengths)
        lengths.sort(key=lambda entry: -entry[0])  # stable: equal ones in the order of names
        if len(lengths) == 1:
            refused.append(Refused(f"{scene}/{lengths[0][1].name}", "alone in its scene"))
        accepted += [
            Pair(scene, tele, wide, focal, wide_focal)
            for (focal, tele), (wide_focal, wide) in pairwise(lengths)
        ]
    if not lengths_known:
        raise UserError(
            f"none of the {len(refused)} pictures below {root} tells its focal length in EXIF "
            f"({refused[0].key}: {refused[0].reason}): take the camera's own files"
        )
    return accepted, refused
