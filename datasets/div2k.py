"""DIV2K (Agustsson & Timofte, CVPRW 2017): 800 pictures of 2K for training, 100 for validation.

`DIV2K_train_HR/0001.png` …, `DIV2K_valid_HR/0801.png` …; low pictures of the tracks `bicubic` and
`unknown` as `DIV2K_train_LR_bicubic/X4/0001x4.png`.
"""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from restore.datasets.cache import Cache
from restore.errors import UserError
from restore.images.io import find
from restore.types import Place, Sample
from restore.utils.names import printable


class Div2kSplit:
    """Pictures, and low ones where a track was chosen."""

    def __init__(self, targets: list[Path], lows: list[Path] | None, cache: Cache):
        self.targets, self.lows, self.cache = targets, lows, cache

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> Sample:
        target = self.targets[index]
        sample = Sample(key=printable(target.stem), target=self.cache.read(target))
        if self.lows is not None:
            sample["low"] = self.cache.read(self.lows[index])
        return sample


class Div2k:
    """DIV2K: `train` is its training part, `test` its validation part, `valid` that one's begin.

    Args:
        root: the folder that holds `DIV2K_train_HR` and its like.
        lows: track of the low pictures; None: the task makes its own.
        scale: of the track's pictures.
        valid: pictures of the split `valid`; EDSR watched ten.
        cache: folder for decoded pictures (about 8 GB when all have been read), filled on the way;
            None: every picture is decoded whole each time.
    """

    def __init__(
        self,
        root: Place,
        lows: Literal["bicubic", "unknown"] | None = "bicubic",
        scale: Annotated[int, Field(ge=1)] = 4,
        valid: Annotated[int, Field(ge=1)] = 10,
        cache: Place | None = None,
    ):
        self.root, self.lows, self.scale, self.valid = Path(root), lows, scale, valid
        self.cache = Cache(None if cache is None else Path(cache))

    def split(self, name: str) -> Div2kSplit:
        """The split `train`, `valid` or `test`.

        Raises UserError where the folder, a picture or its low picture is not there.
        """
        part = "train" if name == "train" else "valid"
        targets = find(self.root / f"DIV2K_{part}_HR")
        if name == "valid":
            targets = targets[: self.valid]
        return Div2kSplit(targets, self._lows(part, targets), self.cache)

    def _lows(self, part: str, targets: list[Path]) -> list[Path] | None:
        if self.lows is None:
            return None
        folder = self.root / f"DIV2K_{part}_LR_{self.lows}" / f"X{self.scale}"
        if not folder.is_dir():
            raise UserError(
                f"there is no folder {folder}; with data.lows=null the low pictures are made"
            )
        lows = [folder / f"{path.stem}x{self.scale}{path.suffix}" for path in targets]
        missing = [path.name for path in lows if not path.is_file()]
        if missing:
            raise UserError(
                f"{folder} lacks {len(missing)} of {len(lows)} low pictures, such as {missing[0]}"
            )
        return lows
