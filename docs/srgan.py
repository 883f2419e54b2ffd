"""What PSNR becomes when a picture's range is misread: `python docs/srgan.py [FOLDER]`.

The restored picture is MATLAB's bicubic of a quarter of the size, of each picture in the folder, or
of scikit-image's photos. docs/srgan.md explains the readings.
"""

import math
import sys
from collections.abc import Iterator
from pathlib import Path

import skimage.data
import torch
from torch import Tensor

from restore.images.bicubic import resize
from restore.images.io import find, read_rgb
from restore.metrics.protocol import MeasurementProtocol

PHOTOS = ("astronaut", "chelsea", "coffee", "rocket")
SCALE = 4


def pictures(folder: Path | None = None) -> Iterator[Tensor]:
    """3HW uint8, cut to multiples of the scale."""
    found: Iterator[Tensor]
    if folder is None:
        arrays = (getattr(skimage.data, name)() for name in PHOTOS)
        found = (torch.from_numpy(array).permute(2, 0, 1) for array in arrays)
    else:
        found = (read_rgb(path) for path in find(folder))
    for picture in found:
        height, width = (side - side % SCALE for side in picture.shape[-2:])
        yield picture[:, :height, :width].contiguous()


def readings(target: Tensor) -> dict[str, float]:
    """PSNR in dB of one picture, 3HW uint8, under each reading of the range."""
    restored = resize(resize(target, 1 / SCALE), SCALE)
    x, y = restored[None].float() / 255, target[None].float() / 255
    tanh = 2 * x - 1  # what a network that ends in tanh gives
    luma = MeasurementProtocol("y", "y", "scale").planes(x, y, SCALE)
    return {
        "right, luma without the border": -10
        * math.log10((luma[0] - luma[1]).square().mean() / 255**2),
        "right, RGB": psnr(x, y),
        "tanh's values cut to [0, 1]": psnr(tanh.clamp(0, 1), y),
        "the target itself, read so": psnr((2 * y - 1).clamp(0, 1), y),
        "tanh's values as they are": psnr(tanh, y),
        "both in [-1, 1], peak 1": psnr(tanh, 2 * y - 1),
    }


def psnr(x: Tensor, y: Tensor) -> float:
    """Of all values together, for a peak of 1."""
    return -10 * math.log10((x - y).double().square().mean().item())


def means(folder: Path | None = None) -> dict[str, float]:
    """The mean of each reading over the pictures."""
    rows = [readings(picture) for picture in pictures(folder)]
    return {name: math.fsum(row[name] for row in rows) / len(rows) for name in rows[0]}


if __name__ == "__main__":
    for title, value in means(Path(sys.argv[1]) if sys.argv[1:] else None).items():
        print(f"{value:6.2f} dB  {title}")
