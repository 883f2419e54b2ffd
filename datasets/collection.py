"""Photos of places: each one's reference is another photo of the same place.

`PLACE/photo.jpg`, any number of places. Which photo of a place is the reference is decided by
likeness: how many SIFT features (Lowe, IJCV 2004) two photos share, each other's nearest and
clearly nearer than the second.
"""

from functools import cached_property
from pathlib import Path
from typing import Annotated

import cv2
import numpy as np
import torch
from PIL import Image
from pydantic import Field
from torch import Tensor

from restore import types
from restore.datasets.shares import Shares
from restore.errors import UserError
from restore.images.io import by_name, read_rgb
from restore.types import Sample

# Likeness is judged on photos of about this size, with Lowe's threshold.
_SIDE, _RATIO = 640, 0.75


class Place:
    """The photos of one place, and how alike they are."""

    def __init__(self, photos: list[Path]):
        self.photos = photos

    @cached_property
    def likeness(self) -> np.ndarray:
        """Shared features of each two photos, NN; the diagonal is -1."""
        described = [_described(read_rgb(path)) for path in self.photos]
        count = len(described)
        shared = np.full((count, count), -1)
        for first in range(count):
            for second in range(first + 1, count):
                both = _shared(described[first], described[second])
                shared[first, second] = shared[second, first] = both
        return shared

    def alike(self, index: int, count: int) -> list[int]:
        """The `count` others that are most like a photo, the most alike first."""
        order = np.argsort(-self.likeness[index], kind="stable")
        return [int(other) for other in order if other != index][:count]


class CollectionSplit:
    """The photos of some places, each with its references."""

    def __init__(self, places: dict[str, Place], references: int, longest_side: int | None):
        self.items = [
            (f"{name}/{path.stem}", place, index)
            for name, place in places.items()
            for index, path in enumerate(place.photos)
        ]
        self.references, self.longest_side = references, longest_side

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Sample:
        key, place, own = self.items[index]
        others = [self._read(place.photos[i]) for i in place.alike(own, self.references)]
        reference = others[0] if len(others) == 1 else others
        return Sample(key=key, target=self._read(place.photos[own]), reference=reference)

    def _read(self, path: Path) -> Tensor:
        picture = read_rgb(path)
        if self.longest_side is None or max(picture.shape[-2:]) <= self.longest_side:
            return picture
        return _shrunk(picture, self.longest_side)


class Collection:
    """Folders of photos of one place each.

    Args:
        root: the folder of places.
        references: how many of a place's other photos each photo has, the most alike first.
        longest_side: larger photos are shrunk to it (PIL's Lanczos filter); None: as they are.
        valid: share of the places kept for validation, by their names alone.
        test: share of the places kept for testing; 1: all, which are then trained on too.
    """

    def __init__(
        self,
        root: types.Place,
        references: Annotated[int, Field(ge=1)] = 1,
        longest_side: Annotated[int, Field(ge=16)] | None = None,
        valid: Annotated[float, Field(ge=0, le=1)] = 0.1,
        test: Annotated[float, Field(ge=0, le=1)] = 0.1,
    ):
        places: dict[str, list[Path]] = {}
        for name, path in by_name(Path(root)).items():
            place = str(name).rpartition("/")[0]
            if not place:
                raise UserError(
                    f"{path} is in no place's folder: data.root must hold PLACE/photo.jpg"
                )
            places.setdefault(place, []).append(path)
        small = [name for name, photos in places.items() if len(photos) <= references]
        if small:
            raise UserError(
                f"data.references={references}: {root}/{small[0]} has {len(places[small[0]])} "
                "photo(s), and each needs that many others"
            )
        self.places = {name: Place(sorted(photos)) for name, photos in sorted(places.items())}
        self.references, self.longest_side = references, longest_side
        self.shares = Shares(valid, test)

    def split(self, name: str) -> CollectionSplit:
        """The split `train`, `valid` or `test`; UserError when no place falls into it."""
        chosen = self.shares.split(self.places, name, "places of data.root")
        return CollectionSplit(chosen, self.references, self.longest_side)


def _shrunk(picture: Tensor, longest: int) -> Tensor:
    height, width = picture.shape[-2:]
    share = longest / max(height, width)
    sides = max(1, round(width * share)), max(1, round(height * share))
    image = Image.fromarray(picture.permute(1, 2, 0).contiguous().numpy())
    smaller = np.array(image.resize(sides, Image.Resampling.LANCZOS))
    return torch.from_numpy(smaller).permute(2, 0, 1).contiguous()


def _described(picture: Tensor) -> np.ndarray:
    """The descriptors of a photo's SIFT features."""
    if max(picture.shape[-2:]) > _SIDE:
        picture = _shrunk(picture, _SIDE)
    grey = cv2.cvtColor(picture.permute(1, 2, 0).contiguous().numpy(), cv2.COLOR_RGB2GRAY)
    _, descriptors = cv2.SIFT.create(nfeatures=2000).detectAndCompute(grey, None)
    return np.empty((0, 128), np.float32) if descriptors is None else descriptors


def _shared(first: np.ndarray, second: np.ndarray) -> int:
    """How many features are each other's nearest, and clearly so."""
    if min(len(first), len(second)) < 2:
        return 0
    there, back = (_nearest(a, b) for a, b in ((first, second), (second, first)))
    return sum(back.get(theirs) == own for own, theirs in there.items())


def _nearest(queries: np.ndarray, keys: np.ndarray) -> dict[int, int]:
    pairs = cv2.BFMatcher(cv2.NORM_L2).knnMatch(queries, keys, k=2)
    return {
        best.queryIdx: best.trainIdx
        for best, second in pairs
        if best.distance < _RATIO * second.distance
    }
