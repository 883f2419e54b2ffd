"""Decoded pictures as files of which only those pages are read that are looked at."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor


def write(path: Path, picture_CHW: Tensor) -> None:
    """Writes a uint8 picture as a `.npy` file of rows, columns, channels."""
    with open(path, "wb") as file:
        np.save(file, picture_CHW.permute(1, 2, 0).contiguous().numpy())


def read(path: Path) -> Tensor:
    """The picture as uint8 CHW, its pixels still on the disk.

    So a caller cuts its part out before it copies. Writing to the tensor changes no file.

    Raises:
        OSError: there is no such file.
        ValueError, EOFError: the file is damaged.
    """
    # "c": changes stay in memory. Read-only memory is nothing that torch knows.
    return torch.from_numpy(np.load(path, mmap_mode="c")).permute(2, 0, 1)
