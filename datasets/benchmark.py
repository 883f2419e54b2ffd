"""The single-image benchmarks as everyone keeps them: Set5, Set14, BSD100, Urban100, Manga109.

`Set5/HR/NAME.png` and, where they were stored, low pictures `Set5/LR_bicubic/X4/NAMEx4.png`.
"""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field
from torch import Tensor

from restore.errors import UserError
from restore.images.bicubic import resize
from restore.images.io import find, load, read_rgb, to_uint8
from restore.types import Place, Sample
from restore.utils import names


class BenchmarkSplit:
    """All pictures of a set with their low ones, and whether their file was grey."""

    def __init__(
        self,
        targets: list[Path],
        lows: list[Path] | None,
        scale: float,
        edges: Literal["replicate", "mirror"],
    ):
        self.targets, self.lows, self.scale, self.edges = targets, lows, scale, edges

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> Sample:
        path = self.targets[index]
        picture = load(path)
        target = whole(to_uint8(picture.colour), self.scale, path)
        if self.lows is None:
            low = resize(target, 1 / self.scale, self.edges)
        else:
            low = read_rgb(self.lows[index])
        return Sample(key=names.printable(path.stem), target=target, low=low, grey=picture.grey)


def whole(picture: Tensor, scale: float, path: Path) -> Tensor:
    """The picture without the rest, at the bottom and right, that a whole scale does not divide.

    At any other scale nothing is cut off. Raises UserError when nothing would be left.
    """
    if scale != int(scale):
        return picture
    height, width = (side - side % int(scale) for side in picture.shape[-2:])
    if not height or not width:
        raise UserError(f"{path}: the picture is smaller than {scale:g} pixels")
    return picture[:, :height, :width].contiguous()


class Benchmark:
    """One set; it has no training part, and `valid` and `test` are all of it.

    Low pictures are read where the set's folder has them for this scale; others are made by
    MATLAB's bicubic, which gives the bits of the stored ones.

    Args:
        root: the folder that holds the sets' folders.
        name: the set's folder.
        scale: of the low pictures, any real number ≥ 1.
        edges: of low pictures that are made; see `restore.images.bicubic.resize`.
    """

    def __init__(
        self,
        root: Place,
        name: str = "Set5",
        scale: Annotated[float, Field(ge=1)] = 4,
        edges: Literal["replicate", "mirror"] = "replicate",
    ):
        self.root, self.name, self.scale = Path(root), name, float(scale)
        self.edges: Literal["replicate", "mirror"] = edges

    def split(self, name: str) -> BenchmarkSplit:
        """All pictures, for `valid` and `test`.

        Raises UserError for `train`, and where the set or some of its low pictures are not there.
        """
        if name not in ("valid", "test"):
            raise UserError(f"data={self.name} is a benchmark without a split '{name}'")
        folder = self.root / self.name / "HR"
        if not folder.is_dir():
            sets = sorted(path.parent.name for path in self.root.glob("*/HR"))
            raise UserError(
                f"there is no folder {folder}; {self.root} has {', '.join(sets) or '–'}"
            )
        targets = find(folder)
        return BenchmarkSplit(targets, self._lows(targets), self.scale, self.edges)

    def _lows(self, targets: list[Path]) -> list[Path] | None:
        folder = self.root / self.name / "LR_bicubic" / f"X{self.scale:g}"
        if not folder.is_dir():
            return None
        lows = [folder / f"{path.stem}x{self.scale:g}{path.suffix}" for path in targets]
        missing = [path.name for path in lows if not path.is_file()]
        if missing:
            raise UserError(
                f"{folder} lacks {len(missing)} of {len(lows)} low pictures, such as "
                f"{missing[0]}; remove the folder to have all of them made"
            )
        return lows
