"""Where holes come from: drawn strokes, boxes, missing borders, folders of mask pictures.

A kind of masks draws, for a split, one mask of the size asked for: a pure function of the generator
(and, for masks that belong to pictures, of the picture's key). Kinds with files give each split
files of its own; drawn ones hardly ever come out twice. Every mask also comes in a small version
of its own, as some protocols cut the holes of the low picture apart from the large one's.
"""

import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
from PIL import Image
from pydantic import Field
from torch import Tensor

from restore.datasets import scribbles
from restore.datasets.shares import position
from restore.errors import UnreadableImage, UserError
from restore.images.io import by_name, find
from restore.images.masks import Polarity, read
from restore.types import Place
from restore.utils.names import printable

log = logging.getLogger("restore")

Resize = Literal["nearest", "as_published"]
Share = Annotated[float, Field(gt=0, lt=1)]
Pair = tuple[Tensor, Tensor]

_SIDE = 512  # of QD-IMD's masks
_LOOKED_AT = 32  # masks whose holes are measured before work begins


class Strokes:
    """Hand-drawn looking strokes, drawn here: what QD-IMD's masks are like.

    Args:
        resize: see `QdImd`.
    """

    def __init__(self, resize: Resize = "nearest"):
        self.resize: Resize = resize

    def draw(
        self, split: str, key: str, height: int, width: int, shrink: int, rng: np.random.Generator
    ) -> Pair:
        """A mask 1HW and its small version 1, H/shrink, W/shrink; bool, true = hole."""
        plate = scribbles.drawing(rng)
        return _pair(plate, height, width, shrink, self.resize)


class QdImd:
    """The Quick Draw Irregular Mask Dataset: 512×512 PNGs of 1 or 8 bits, 0 = hole, 255 = known.

    The thesis resizes them by PIL's bicubic and calls a hole what is still 0, for the large and the
    small picture each on its own; that makes strokes thinner, and more so in the small one.

    Args:
        root: folder of `NNNNN_train.png` and `NNNNN_test.png`, or of folders `train` and `test`.
        resize: `nearest`: keeps the strokes' thickness; `as_published`: bicubic, see above.
        valid: share of the training masks that validation has for itself.
    """

    def __init__(
        self,
        root: Place,
        resize: Resize = "nearest",
        valid: Annotated[float, Field(ge=0, lt=1)] = 0.1,
    ):
        self.resize: Resize = resize
        kinds: dict[str, list[Path]] = {"train": [], "valid": [], "test": []}
        for path in find(Path(root)):
            said = re.search(r"_(train|test)$", path.stem)
            kind = said[1] if said else path.parent.name
            if kind == "train" and position(printable(path.stem)) < valid:
                kind = "valid"
            if kind in kinds:
                kinds[kind].append(path)
        if not kinds["train"] and not kinds["test"]:
            raise UserError(
                f"masks.root={root} holds no NNNNN_train.png or NNNNN_test.png; "
                "masks=folder takes masks of any names"
            )
        self.files = kinds
        _told(f"QD-IMD of {root}", kinds["train"] or kinds["test"], self._read, "black (0)")

    def draw(
        self, split: str, key: str, height: int, width: int, shrink: int, rng: np.random.Generator
    ) -> Pair:
        """See `Strokes.draw`."""
        files = _of_split(self.files, split)
        return _pair(
            self._read(files[rng.integers(len(files))]), height, width, shrink, self.resize
        )

    def _read(self, path: Path) -> np.ndarray:
        holes = read(path, "black").numpy()
        if holes.shape != (_SIDE, _SIDE):
            raise UserError(
                f"{path} has {holes.shape[1]}×{holes.shape[0]} pixels, and QD-IMD's masks have "
                f"{_SIDE}×{_SIDE}; masks=folder takes masks of any size"
            )
        return holes


class MaskFolder:
    """Mask pictures of any size and name.

    Args:
        root: the folder, read recursively.
        hole: what holes are painted with: `white` (LaMa's and Palette's convention) or `black`.
        pairing: `random`: any mask of the split; `name`: the mask whose name is the picture's key,
            of which each picture must have one.
        resize: see `QdImd`.
        valid: share of the masks kept for validation, of which training has none.
        test: share kept for testing, the same. With `name` the pictures' own splits hold.
    """

    def __init__(
        self,
        root: Place,
        hole: Polarity = "white",
        pairing: Literal["random", "name"] = "random",
        resize: Resize = "nearest",
        valid: Annotated[float, Field(ge=0, le=1)] = 0.1,
        test: Annotated[float, Field(ge=0, le=1)] = 0.1,
    ):
        self.root, self.hole, self.pairing = root, hole, pairing
        self.resize: Resize = resize
        self.named = by_name(Path(root))
        self.files: dict[str, list[Path]] = {"train": [], "valid": [], "test": []}
        for name, path in self.named.items():
            at = position(name)
            kind = "valid" if at < valid else "test" if at < valid + test else "train"
            self.files[kind].append(path)
        _told(f"masks of {root}", list(self.named.values()), self._read, hole)

    def draw(
        self, split: str, key: str, height: int, width: int, shrink: int, rng: np.random.Generator
    ) -> Pair:
        """See `Strokes.draw`."""
        if self.pairing == "random":
            files = _of_split(self.files, split)
            path = files[rng.integers(len(files))]
        elif key in self.named:
            path = self.named[key]
        else:
            raise UserError(
                f"masks.root={self.root} has no mask named {key}; with masks.pairing=name each "
                "picture needs one"
            )
        return _pair(self._read(path), height, width, shrink, self.resize)

    def _read(self, path: Path) -> np.ndarray:
        return read(path, self.hole).numpy()


class Box:
    """One box at a random place.

    Args:
        least, most: its share of the picture's area.
        slender: largest ratio of its sides.
    """

    def __init__(
        self,
        least: Share = 0.1,
        most: Share = 0.4,
        slender: Annotated[float, Field(ge=1)] = 2.0,
    ):
        self.least, self.most, self.slender = *_ordered(least, most), slender

    def draw(
        self, split: str, key: str, height: int, width: int, shrink: int, rng: np.random.Generator
    ) -> Pair:
        """See `Strokes.draw`."""
        area = rng.uniform(self.least, self.most) * height * width
        ratio = np.exp(rng.uniform(-1, 1) * np.log(self.slender))
        # No longer than the picture: what it loses along one side it gains along the other.
        tall = min(max(np.sqrt(area * ratio), area / width), height)
        rows = min(height, max(1, round(tall)))
        columns = min(width, max(1, round(area / rows)))
        top = rng.integers(height - rows + 1)
        left = rng.integers(width - columns + 1)
        holes = np.zeros((height, width), bool)
        holes[top : top + rows, left : left + columns] = True
        return _pair_of(holes, shrink)


class Centre:
    """The middle of the picture.

    Args:
        side: of the hole, as a share of the picture's.
    """

    def __init__(self, side: Share = 0.5):
        self.side = side

    def draw(
        self, split: str, key: str, height: int, width: int, shrink: int, rng: np.random.Generator
    ) -> Pair:
        """See `Strokes.draw`."""
        rows, columns = (max(1, round(side * self.side)) for side in (height, width))
        top, left = (height - rows) // 2, (width - columns) // 2
        holes = np.zeros((height, width), bool)
        holes[top : top + rows, left : left + columns] = True
        return _pair_of(holes, shrink)


class Hybrid:
    """A box and strokes in one mask."""

    def __init__(self, box: Box, strokes: Strokes):
        self.box, self.strokes = box, strokes

    def draw(
        self, split: str, key: str, height: int, width: int, shrink: int, rng: np.random.Generator
    ) -> Pair:
        """See `Strokes.draw`."""
        box = self.box.draw(split, key, height, width, shrink, rng)
        strokes = self.strokes.draw(split, key, height, width, shrink, rng)
        return box[0] | strokes[0], box[1] | strokes[1]


class Outpaint:
    """The picture's outside is missing: on one side, or all around.

    Args:
        least, most: share of the picture's area that is missing.
        sides: `one`, drawn from the four, or `all`.
    """

    def __init__(self, least: Share = 0.2, most: Share = 0.5, sides: Literal["one", "all"] = "one"):
        self.least, self.most, self.sides = *_ordered(least, most), sides

    def draw(
        self, split: str, key: str, height: int, width: int, shrink: int, rng: np.random.Generator
    ) -> Pair:
        """See `Strokes.draw`."""
        share = rng.uniform(self.least, self.most)
        holes = np.ones((height, width), bool)
        if self.sides == "all":
            kept = np.sqrt(1 - share)
            rows, columns = (max(1, round(side * kept)) for side in (height, width))
            top, left = (height - rows) // 2, (width - columns) // 2
            holes[top : top + rows, left : left + columns] = False
            return _pair_of(holes, shrink)
        side = int(rng.integers(4))
        seen = np.rot90(holes, side)  # a view: its top rows are one of the four sides
        seen[max(1, round(share * len(seen))) :] = False
        return _pair_of(holes, shrink)


def _told(what: str, files: list[Path], read_one: Callable[[Path], np.ndarray], hole: str) -> None:
    """Says what is taken for holes, once it has been seen that it can be right.

    Raises UserError when most of most masks would be holes (their polarity is the other one), or
    when none of those looked at is a mask.
    """
    shares: list[float] = []
    failure: UnreadableImage | None = None
    for path in files[:: max(1, len(files) // _LOOKED_AT)][:_LOOKED_AT]:
        try:
            shares.append(float(read_one(path).mean()))
        except UnreadableImage as error:
            failure = error  # of a few, said when they are needed
    if not shares:
        if failure is not None:
            raise failure
        return
    middle = float(np.median(shares))
    if middle > 0.5:
        raise UserError(
            f"{what}: with {hole} = hole, {middle:.0%} of the pictures would be holes (median of "
            f"{len(shares)} masks); they seem to be painted the other way: "
            "masks=folder masks.hole=white or black takes either"
        )
    log.info(
        "%s: %s = hole, median %.1f %% of the area (%d masks looked at)",
        *(what, hole, 100 * middle, len(shares)),
    )


def _of_split(files: dict[str, list[Path]], split: str) -> list[Path]:
    if not files[split]:
        raise UserError(
            f"no masks are left for the split '{split}' (there are "
            + ", ".join(f"{len(paths)} for {kind}" for kind, paths in files.items())
            + "); each mask belongs to one split"
        )
    return files[split]


def _ordered(least: float, most: float) -> tuple[float, float]:
    if least > most:
        raise UserError(f"masks.least={least} is more than masks.most={most}")
    return least, most


def _pair(plate: np.ndarray, height: int, width: int, shrink: int, resize: Resize) -> Pair:
    """A drawn or read mask at two sizes, its middle part of their shape (nothing is stretched)."""
    rows, columns = plate.shape
    if rows * width > columns * height:
        kept = max(1, round(columns * height / width))
        plate = plate[(rows - kept) // 2 :][:kept]
    elif rows * width < columns * height:
        kept = max(1, round(rows * width / height))
        plate = plate[:, (columns - kept) // 2 :][:, :kept]
    sizes = ((height, width), (max(1, height // shrink), max(1, width // shrink)))
    large, small = (torch.from_numpy(_resized(plate, *size, resize))[None] for size in sizes)
    return large, small


def _resized(holes: np.ndarray, height: int, width: int, resize: Resize) -> np.ndarray:
    kind = Image.Resampling.NEAREST if resize == "nearest" else Image.Resampling.BICUBIC
    known = Image.fromarray(np.where(holes, 0, 255).astype(np.uint8))
    return np.array(known.resize((width, height), kind)) == 0


def _pair_of(holes: np.ndarray, shrink: int) -> Pair:
    height, width = holes.shape
    return _pair(holes, height, width, shrink, "nearest")
