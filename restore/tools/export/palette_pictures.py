"""Pictures with masks of their own, for the public Palette implementation.

Copy this file into its folder `data` and name it in the configuration:
"which_dataset": {"name": ["data.palette_pictures", "MaskedPictures"], "args": {...}}.
Its own data set, `InpaintDataset`, has a mask_mode "file" that is empty, and reads lists of files
by a name that NumPy gave up in version 1.24. This file needs nothing but torch, NumPy and Pillow.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset


class MaskedPictures(Dataset):
    """What `InpaintDataset` gives, with the holes of mask files.

    Pictures are 3HW in [-1, 1], masks 1HW with 1 = hole. An item holds `gt_image`, `cond_image`
    (noise in the holes), `mask_image` (white in the holes), `mask`, and `path`, the file's name.

    Args:
        data_root: a text file with the path of a picture in each line.
        mask_root: the same for masks, in the same order; white is a hole.
        data_len: only the first so many pictures; all where it is not above 0.
        image_size: height and width that every file must have.

    Raises:
        ValueError: as many masks as pictures are wanted, all of `image_size`.
    """

    def __init__(
        self,
        data_root: str,
        mask_root: str,
        data_len: int = -1,
        image_size: tuple[int, int] = (256, 256),
    ):
        self.imgs, self.masks = (
            [line.strip() for line in Path(root).read_text(encoding="utf-8").splitlines() if line]
            for root in (data_root, mask_root)
        )
        if len(self.imgs) != len(self.masks):
            raise ValueError(f"{len(self.imgs)} pictures and {len(self.masks)} masks")
        if data_len > 0:
            self.imgs, self.masks = self.imgs[:data_len], self.masks[:data_len]
        self.image_size = tuple(image_size)

    def __len__(self) -> int:
        return len(self.imgs)

    def __getitem__(self, index: int) -> dict[str, Any]:
        image = self._read(self.imgs[index], "RGB") * 2 - 1
        mask = (self._read(self.masks[index], "L") > 0.5).float()
        return {
            "gt_image": image,
            "cond_image": image * (1 - mask) + mask * torch.randn_like(image),
            "mask_image": image * (1 - mask) + mask,
            "mask": mask,
            "path": Path(self.imgs[index]).name,
        }

    def _read(self, path: str, mode: str) -> Tensor:
        with Image.open(path, formats=["PNG"]) as opened:
            array = np.asarray(opened.convert(mode), dtype=np.float32) / 255
        if array.shape[:2] != self.image_size:
            raise ValueError(f"{path} has {array.shape[:2]} pixels, not {self.image_size}")
        return torch.from_numpy(array.reshape(*array.shape[:2], -1)).permute(2, 0, 1).contiguous()
