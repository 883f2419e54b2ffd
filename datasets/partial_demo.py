"""Scikit-image's photos for partial super-resolution: each split shows scenes of its own.

Everything lies inside scikit-image's package; nothing is downloaded. A sample is a sharp picture,
some 200 to 500 pixels a side, of which the task cuts input and reference, and makes the wide one.
"""

from pathlib import Path
from typing import NamedTuple

import skimage.data
from torch import Tensor

from restore.errors import UserError
from restore.images.io import read_rgb
from restore.types import Sample


class Part(NamedTuple):
    """A part of a photo, in pixels; a height of 0 stands for the whole photo."""

    photo: str
    top: int = 0
    left: int = 0
    height: int = 0
    width: int = 0


# No photo is in two splits, and both views of the motorcycle are in the same one.
_SPLITS: dict[str, list[Part]] = {
    "train": [
        Part("motorcycle_left.png"),
        Part("motorcycle_right.png"),
        Part("coffee.png"),
        Part("rocket.jpg"),
        Part("camera.png"),
        Part("coins.png"),
        Part("hubble_deep_field.jpg", 0, 0, 436, 500),
        Part("ihc.png"),
        Part("brick.png"),
        Part("grass.png"),
    ],
    "valid": [
        Part("chelsea.png", 0, 0, 300, 224),
        Part("chelsea.png", 0, 227, 300, 224),
    ],
    "test": [
        Part("astronaut.png", 0, 0, 256, 256),
        Part("astronaut.png", 0, 256, 256, 256),
        Part("astronaut.png", 256, 0, 256, 256),
        Part("astronaut.png", 256, 256, 256, 256),
        Part("gravel.png", 0, 0, 256, 256),
        Part("gravel.png", 256, 256, 256, 256),
        Part("moon.png", 128, 128, 256, 256),
        Part("page.png", 0, 0, 191, 192),
        Part("page.png", 0, 192, 191, 192),
    ],
}


class PartialDemoSplit:
    """The pictures of one split."""

    def __init__(self, parts: list[Part]):
        self.parts = parts
        self._photos: dict[str, Tensor] = {}

    def __len__(self) -> int:
        return len(self.parts)

    def __getitem__(self, index: int) -> Sample:
        photo, top, left, height, width = self.parts[index]
        if photo not in self._photos:
            self._photos[photo] = read_rgb(Path(skimage.data.__file__).parent / photo)
        picture = self._photos[photo]
        key = Path(photo).stem
        if height:
            picture = picture[:, top : top + height, left : left + width]
            key = f"{key}_{top}_{left}"
        return Sample(key=key, target=picture)


class PartialDemo:
    """Photos whose splits share no scene."""

    def split(self, name: str) -> PartialDemoSplit:
        """The split `train`, `valid` or `test`."""
        if name not in _SPLITS:
            raise UserError(
                f"these photos have no split '{name}'; choose one of {', '.join(_SPLITS)}"
            )
        return PartialDemoSplit(_SPLITS[name])
