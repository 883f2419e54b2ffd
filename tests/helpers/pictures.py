"""Pictures for tests of the data's way, and PIL's resizing called plainly."""

from pathlib import Path

import numpy as np
import skimage.data
import torch
from PIL import Image


def photo(name: str = "astronaut", height: int = 64, width: int = 64, at: int = 100) -> np.ndarray:
    """A part of one of scikit-image's photos, HW3 uint8."""
    return np.ascontiguousarray(getattr(skimage.data, name)()[at : at + height, at : at + width])


def coordinates(height: int, width: int, label: int = 0) -> torch.Tensor:
    """3HW uint8 whose pixels say where they are: row, column, label (all below 256)."""
    rows, columns = np.mgrid[:height, :width]
    return torch.from_numpy(np.stack([rows, columns, np.full_like(rows, label)]).astype(np.uint8))


def write(path: Path, array_HWC: np.ndarray) -> Path:
    """Writes a picture, its kind by the suffix; makes the folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array_HWC).save(path)
    return path


def truncate(path: Path) -> None:
    """Cuts a picture's file off in the middle."""
    held = path.read_bytes()
    path.write_bytes(held[: len(held) // 2])


def chw(array_HWC: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(array_HWC.transpose(2, 0, 1)))


def hwc(tensor_CHW: torch.Tensor) -> np.ndarray:
    return tensor_CHW.permute(1, 2, 0).numpy()


def resized(array_HWC: np.ndarray, height: int, width: int) -> np.ndarray:
    """PIL's 8-bit bicubic."""
    return np.array(Image.fromarray(array_HWC).resize((width, height), Image.Resampling.BICUBIC))


def down_up(array_HWC: np.ndarray, scale: int) -> tuple[np.ndarray, np.ndarray]:
    """Shrunk by the scale (sides rounded down), and that enlarged to the size before."""
    height, width = array_HWC.shape[:2]
    low = resized(array_HWC, height // scale, width // scale)
    return low, resized(low, height, width)
