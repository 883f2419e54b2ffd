"""Output folders of the public Palette implementation, read as it writes them.

For each picture BASE there are `GT_BASE` (what went in, whole), `Mask_BASE` (the same with white
holes), `Out_BASE` (the result) and `Process_BASE` (a sheet of 3×3 frames: the input with noise in
its holes, seven steps, the result). All take the suffix of the input, so that JPEG inputs give JPEG
results. No file holds the mask itself; here it is won back from those that show it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import torch
from scipy.ndimage import distance_transform_edt, median_filter
from torch import Tensor
from torchvision.utils import make_grid

from restore.errors import UnreadableImage, UserError
from restore.images.io import find, read_rgb

Part = Literal["GT", "Process", "Out", "Mask"]
PARTS: tuple[Part, ...] = ("GT", "Process", "Out", "Mask")

# Frames of a sheet, its rows of them, and the grey line around each (torchvision's make_grid).
FRAMES, _ROWS, _LINE, _GREY = 9, 3, 2, 128
# How many of the frames before the last are still full of noise in the holes.
_NOISY = 7

# What JPEG does to pixels, on a scale of 255. Found on made-up strokes at quality 75 with 4:2:0
# chroma, where these values give the fewest wrong pixels (2 to 6 % of a thin stroke's), and on
# published results with a square hole (6 wrong pixels of 16384 at most).
_WHITE, _CHANGED, _NOISE = 32, 16, 40

_LOSSY = (".jpg", ".jpeg", ".webp")


def file_name(part: Part, base: str) -> str:
    """What a file is called that is written in this layout."""
    return f"{part}_{base}.png"


def sheet(frames: Sequence[Tensor]) -> Tensor:
    """`Process_` of nine frames (uint8 3HW), uint8 3HW."""
    grid = make_grid([*frames], nrow=_ROWS, padding=_LINE, pad_value=_GREY)
    assert grid.dtype == torch.uint8
    return grid


@dataclass(frozen=True)
class RecoveredMask:
    """A mask won back from pictures that show it.

    `hole_HW` is true inside; `doubtful` counts the pixels that could be either (white with and
    without the hole) and follow the nearest that is sure; `source` says what it was won from.
    """

    hole_HW: Tensor
    doubtful: int
    source: str


def locate(folder: Path) -> Path | None:
    """The folder of results in a Palette experiment, or that folder itself; None for any other.

    Raises UserError when an experiment holds results of several epochs.
    """
    if any(path.name.startswith(("Out_", "Process_")) for path in folder.iterdir()):
        return folder
    results = folder / "results" / "test"
    if not results.is_dir():
        return None
    epochs = [path for path in sorted(results.iterdir()) if path.is_dir()]
    if len(epochs) != 1:
        raise UserError(
            f"{results} holds {len(epochs)} folders of results; name the one that is meant"
        )
    return epochs[0]


class PaletteFolder:
    """The results of one test run.

    Raises UserError when there are none, or two inputs differ in their suffix alone.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.bases: dict[str, dict[Part, Path]] = {}
        for path in find(folder):
            for part in PARTS:
                if path.parent == folder and path.name.startswith(f"{part}_"):
                    base = path.stem.removeprefix(f"{part}_")
                    files = self.bases.setdefault(base, {})
                    if part in files:
                        raise UserError(f"{files[part]} and {path} have the same name; one must go")
                    files[part] = path
        if not self.bases:
            raise UserError(f"{folder} holds no Out_, Process_, Mask_ or GT_ pictures")

    def having(self, *parts: Part) -> list[str]:
        """The bases for which one of the parts is there, in natural order."""
        return [base for base, files in self.bases.items() if any(part in files for part in parts)]

    @cached_property
    def lossy(self) -> int:
        """How many results are of a lossy kind."""
        return sum(self._is_lossy(base) for base in self.having("Out", "Process"))

    def result(self, base: str) -> Tensor:
        """The result, uint8 3HW: `Out_`, or the last frame of `Process_`."""
        files = self.bases[base]
        return read_rgb(files["Out"]) if "Out" in files else self.frames(base)[-1]

    def whole(self, base: str) -> Tensor:
        """What went in, without holes, uint8 3HW: `GT_`."""
        return read_rgb(self.bases[base]["GT"])

    def frames(self, base: str) -> list[Tensor]:
        """The nine frames of `Process_`, uint8 3HW each, from noise to the result.

        Raises UnreadableImage when the sheet is not 3×3.
        """
        path = self.bases[base]["Process"]
        sheet = read_rgb(path)
        sides = [(side - _LINE) / _ROWS - _LINE for side in sheet.shape[-2:]]
        height, width = (int(side) for side in sides)
        if [height, width] != sides or min(height, width) < 1:
            raise UnreadableImage(path, "it is no sheet of 3×3 frames (sample_num other than 8?)")
        tops, lefts = ([_LINE + i * (side + _LINE) for i in range(3)] for side in (height, width))
        return [sheet[:, top : top + height, left : left + width] for top in tops for left in lefts]

    def mask(self, base: str) -> RecoveredMask | None:
        """The mask that Palette worked with, or None where nothing shows it.

        Raises UnreadableImage when pictures of the same base do not fit each other.
        """
        files = self.bases[base]
        lossy = self._is_lossy(base)
        if "Mask" in files and files.keys() & {"Out", "GT", "Process"}:
            shown = read_rgb(files["Mask"])
            others = {"Out_" if "Out" in files else "Process_": self.result(base)}
            if "GT" in files:
                others["GT_"] = self.whole(base)
            for name, other in others.items():
                if other.shape != shown.shape:
                    raise UnreadableImage(files["Mask"], f"it is not of the size of its {name}")
            hole, doubtful = from_white(shown, list(others.values()), lossy)
            return RecoveredMask(hole, doubtful, " and ".join(["Mask_", *others]))
        if "Process" in files:
            hole = from_noise(self.frames(base), lossy)
            return RecoveredMask(hole, 0, "the noise in Process_")
        return None

    def _is_lossy(self, base: str) -> bool:
        return any(path.suffix.lower() in _LOSSY for path in self.bases[base].values())


def from_white(shown_3HW: Tensor, others: list[Tensor], lossy: bool) -> tuple[Tensor, int]:
    """Holes from the picture with white holes and pictures without them.

    White there and another colour elsewhere is a hole for sure, anything else than white is known
    for sure. White in all of them is decided by the nearest pixel that is sure.

    Args:
        shown_3HW: uint8, holes white.
        others: uint8 3HW each, the same picture with its holes filled.
        lossy: whether the files were JPEGs, where white is not quite white.

    Returns:
        Holes HW (bool), and the number of pixels decided by their neighbours.
    """
    white = shown_3HW.amin(0) >= 255 - (_WHITE if lossy else 0)
    changed = torch.zeros_like(white)
    for other in others:
        difference = (shown_3HW.int() - other.int()).abs().amax(0)
        changed |= difference > (_CHANGED if lossy else 0)
    hole, doubtful = white & changed, white & ~changed
    if not hole.any():
        return hole, int(doubtful.sum())
    rows, columns = distance_transform_edt(
        doubtful.numpy(), return_distances=False, return_indices=True
    )
    return hole[torch.from_numpy(rows), torch.from_numpy(columns)], int(doubtful.sum())


def from_noise(frames: list[Tensor], lossy: bool) -> Tensor:
    """Holes HW (bool) from the frames of a sheet: where they differ from the last one."""
    last = frames[-1].float()
    distance = torch.stack([(f.float() - last).abs().amax(0) for f in frames[:_NOISY]]).mean(0)
    if not lossy:
        return distance > 0
    # Single pixels are chance: noise that came near the result, or JPEG's waves around an edge.
    mask = median_filter((distance > _NOISE).numpy(), size=3, mode="nearest")
    return torch.from_numpy(mask)
