"""CUFED: the reference super-resolution data of SRNTT and TTSR.

Training: `train/input` and `train/ref`, 160×160 patches with the same names. Testing: CUFED5,
`test/CUFED5/NNN_0.png` … `NNN_5.png`, input and five references of falling similarity.
"""

from pathlib import Path
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import BeforeValidator, Field
from torch import Tensor

from restore.errors import UserError
from restore.images.io import find, read_rgb
from restore.types import Pictures, Place, Sample
from restore.utils.names import printable

_CANVAS = 500
_LEVELS = ["1", "2", "3", "4", "5"]
# Typed without quotes, a level is a number.
Level = Annotated[
    Literal["1", "2", "3", "4", "5"],
    BeforeValidator(lambda x: str(x) if isinstance(x, int) else x),
]
Levels = Annotated[list[Level], Field(min_length=1)]


class CufedTrain:
    """Pairs of patches."""

    def __init__(self, root: Path):
        self.targets = find(root / "train" / "input")
        named = [printable(path.name) for path in self.targets]
        references = {printable(path.name): path for path in find(root / "train" / "ref")}
        missing = [name for name in named if name not in references]
        if missing:
            raise UserError(
                f"{root / 'train' / 'ref'} lacks {len(missing)} reference(s), such as {missing[0]}"
            )
        self.references = [references[name] for name in named]

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> Sample:
        target, reference = self.targets[index], self.references[index]
        return Sample(
            key=printable(target.stem), target=read_rgb(target), reference=read_rgb(reference)
        )


class Cufed5:
    """The test groups with some of their references, or all of them stitched together."""

    def __init__(self, root: Path, references: list[str], together: bool):
        folder = root / "test" / "CUFED5"
        self.references, self.together = references, together
        self.targets = [path for path in find(folder) if path.stem.endswith("_0")]
        if not self.targets:
            raise UserError(f"{folder} holds no inputs NNN_0.png")
        for target in self.targets:
            for path in self._paths(target):
                if not path.is_file():
                    raise UserError(f"the group of {target} lacks its reference {path.name}")

    def _paths(self, target: Path) -> list[Path]:
        group = target.stem.removesuffix("_0")
        return [target.with_name(f"{group}_{level}{target.suffix}") for level in self.references]

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> Sample:
        target = self.targets[index]
        pictures = [read_rgb(path) for path in self._paths(target)]
        reference: Pictures = pictures[0] if len(pictures) == 1 else pictures
        if self.together:
            reference = stitched(pictures, printable(target.stem))
        return Sample(key=printable(target.stem), target=read_rgb(target), reference=reference)


def stitched(pictures: list[Tensor], key: str) -> Tensor:
    """References one below the other, each at the top left of a black 500×500 canvas.

    Raises UserError for a reference that is larger than the canvas.
    """
    canvases = []
    for picture in pictures:
        height, width = picture.shape[-2:]
        if max(height, width) > _CANVAS:
            raise UserError(
                f"{key}: a reference of {width}×{height} pixels is larger than its {_CANVAS} canvas"
            )
        canvases.append(F.pad(picture, (0, _CANVAS - width, 0, _CANVAS - height)))
    return torch.cat(canvases, dim=-2)


class Cufed:
    """CUFED for training, CUFED5 for validation and test (the published choice).

    Args:
        root: the folder that holds `train` and `test`.
        references: which of the five test references: `1` (most alike) … `5`; a list of them, or
            `all`, of which the best patches are taken; `stitched`, all five on one canvas, as
            TTSR's headline numbers were made.
    """

    def __init__(self, root: Place, references: Level | Literal["all", "stitched"] | Levels = "1"):
        self.root, self.together = Path(root), references == "stitched"
        chosen = references if isinstance(references, list) else [references]
        self.references = _LEVELS if chosen[0] in ("all", "stitched") else [*map(str, chosen)]

    def split(self, name: str) -> CufedTrain | Cufed5:
        """`train`, or CUFED5 for `valid` and `test`."""
        if name == "train":
            return CufedTrain(self.root)
        return Cufed5(self.root, self.references, self.together)
