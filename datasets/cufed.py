"""CUFED: the reference super-resolution data of SRNTT and TTSR.

Training: `train/input` and `train/ref`, 160×160 patches with the same names. Testing: CUFED5,
`test/CUFED5/NNN_0.png` … `NNN_5.png`, input and five references of falling similarity.
"""

from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from restore.errors import UserError
from restore.images import find, read_rgb
from restore.types import Sample

_CANVAS = 500


class CufedTrain:
    """Pairs of patches."""

    def __init__(self, root: Path):
        self.targets = find(root / "train" / "input")
        references = {path.name: path for path in find(root / "train" / "ref")}
        missing = [path.name for path in self.targets if path.name not in references]
        if missing:
            raise UserError(
                f"{root / 'train' / 'ref'} lacks {len(missing)} reference(s), such as {missing[0]}"
            )
        self.references = [references[path.name] for path in self.targets]

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> Sample:
        target, reference = self.targets[index], self.references[index]
        return Sample(key=target.stem, target=read_rgb(target), reference=read_rgb(reference))


class Cufed5:
    """The test groups with the reference of a protocol."""

    def __init__(self, root: Path, references: str):
        folder = root / "test" / "CUFED5"
        self.references = ["1", "2", "3", "4", "5"] if references == "stitched" else [references]
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
        reference = pictures[0] if len(pictures) == 1 else stitched(pictures, target.stem)
        return Sample(key=target.stem, target=read_rgb(target), reference=reference)


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
        references: which of the five test references: `1` (most alike) … `5`, or `stitched`, all
            five on one canvas, as TTSR's headline numbers were made.
    """

    def __init__(self, root: str, references: Literal["1", "2", "3", "4", "5", "stitched"] = "1"):
        self.root, self.references = Path(root), references

    def split(self, name: str) -> CufedTrain | Cufed5:
        """`train`, or CUFED5 for `valid` and `test`."""
        return CufedTrain(self.root) if name == "train" else Cufed5(self.root, self.references)
