"""Sheets of masks: where each block of a network with dynamic convolutions was executed."""

import torch
import torch.nn.functional as F
from torch import Tensor

from restore.images.sheets import side_by_side

_SIDE = 96  # of a mask's longer side, pixels
_GAP = 4  # between two rows


def sheet(masks: dict[str, Tensor]) -> Tensor:
    """The masks of a batch's first picture, a row for each trunk, a panel for each block.

    Args:
        masks: N1HW, 1 where executed, by the name of the block; its last part is the number in
            the trunk that the rest names.

    Returns:
        uint8 3HW; over each mask its block and the share that was executed.
    """
    trunks: dict[str, dict[str, Tensor]] = {}
    for name, mask in masks.items():
        trunk, _, number = name.rpartition(".")
        first = mask[0].detach().float()
        label = f"{number}: {100 * first.mean():.0f} %"
        row = trunks.setdefault(trunk, {})
        row[label if row else f"{trunk} {label}"] = _fit(first)
    rows = [side_by_side(panels) for panels in trunks.values()]
    width = max(row.shape[-1] for row in rows)
    padded = [F.pad(row, (0, width - row.shape[-1], 0, _GAP), value=255) for row in rows]
    return torch.cat(padded, dim=1)


def _fit(mask_1HW: Tensor) -> Tensor:
    H, W = mask_1HW.shape[-2:]
    ratio = _SIDE / max(H, W)
    size = [max(1, round(H * ratio)), max(1, round(W * ratio))]
    # A position that vanishes between two pixels is still seen as grey.
    resized = F.interpolate(mask_1HW[None], size, mode="area" if ratio < 1 else "nearest")
    return resized[0].expand(3, -1, -1)
