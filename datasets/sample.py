"""The built-in photos: what scikit-image carries inside its package, nothing to download.

The Middlebury "motorcycle" pair (Scharstein et al., GCPR 2014) shows one scene from two places:
left is the input, right the reference. The other photos have one view: to be evaluated, a part has
its neighbour in the same photo as its reference; to be trained on, it has itself, and the task's
crops and turns make the difference.
"""

from pathlib import Path
from typing import NamedTuple

import skimage.data
from torch import Tensor

from restore.errors import UserError
from restore.images.io import read_rgb
from restore.types import Sample


class Area(NamedTuple):
    """A part of a photo, in pixels."""

    top: int
    left: int
    height: int
    width: int


class PhotoPair(NamedTuple):
    """A target and its reference."""

    photo: str
    target: Area
    reference_photo: str
    reference: Area


def _stereo(target: Area, reference: Area) -> PhotoPair:
    return PhotoPair("motorcycle_left.png", target, "motorcycle_right.png", reference)


def _single(photo: str, target: Area, reference: Area) -> PhotoPair:
    return PhotoPair(photo, target, photo, reference)


# A point of the left view lies 7 to 60 pixels further left in the right one. So the regions of
# training end 64 columns before those of evaluation begin, in both views: no trained pixel and
# nothing that was trained on is ever seen in evaluation.
_SPLITS: dict[str, list[PhotoPair]] = {
    "train": [
        _stereo(Area(0, 0, 500, 416), Area(0, 0, 500, 416)),
        _single("astronaut.png", Area(0, 0, 512, 240), Area(0, 0, 512, 240)),
        _single("chelsea.png", Area(0, 0, 300, 220), Area(0, 0, 300, 220)),
        _single("coffee.png", Area(0, 0, 400, 300), Area(0, 0, 400, 300)),
        _single("rocket.jpg", Area(0, 0, 427, 320), Area(0, 0, 427, 320)),
    ],
    "valid": [
        _stereo(Area(0, 544, 160, 192), Area(0, 484, 160, 252)),
        _single("astronaut.png", Area(0, 256, 128, 128), Area(0, 384, 128, 128)),
    ],
    "test": [
        _stereo(Area(176, 544, 160, 192), Area(176, 484, 160, 252)),
        _stereo(Area(336, 544, 160, 192), Area(336, 484, 160, 252)),
        _single("astronaut.png", Area(160, 256, 160, 128), Area(160, 384, 160, 128)),
        _single("chelsea.png", Area(40, 240, 160, 104), Area(40, 344, 160, 104)),
        _single("coffee.png", Area(120, 320, 160, 136), Area(120, 456, 160, 136)),
        _single("rocket.jpg", Area(200, 336, 160, 144), Area(200, 480, 160, 144)),
    ],
}


class SampleSplit:
    """The items of one split."""

    def __init__(self, items: list[PhotoPair]):
        self.items = items
        self._photos: dict[str, Tensor] = {}

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Sample:
        item = self.items[index]
        return Sample(
            key=f"{Path(item.photo).stem}_{item.target.top}_{item.target.left}",
            target=self._part(item.photo, item.target),
            reference=self._part(item.reference_photo, item.reference),
        )

    def _part(self, photo: str, box: Area) -> Tensor:
        if photo not in self._photos:
            # Looked up as a file, never fetched: these photos are inside the package.
            self._photos[photo] = read_rgb(Path(skimage.data.__file__).parent / photo)
        top, left, height, width = box
        return self._photos[photo][:, top : top + height, left : left + width]


class SamplePhotos:
    """Scikit-image's photos, with splits that share no pixel."""

    def split(self, name: str) -> SampleSplit:
        """The split `train`, `valid` or `test`."""
        if name not in _SPLITS:
            raise UserError(
                f"the sample photos have no split '{name}'; choose one of {', '.join(_SPLITS)}"
            )
        return SampleSplit(_SPLITS[name])
