"""Comparison sheets: what goes in, what comes out and how far off it is, side by side."""

from math import ceil

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib import colormaps
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from restore.types import Problem, Restoration

CAPTION = 18  # height of the line above a panel, pixels
GAP = 4  # between two panels


def comparison(
    problem: Problem, restored: Restoration, baseline_name: str, baseline: Tensor
) -> Tensor:
    """A sheet of the first picture of a batch.

    Panels: low (pixels enlarged), references, baseline, restored, target, error (absolute, x4) and
    score map, those that there are.

    Returns:
        uint8 3HW.
    """
    height, width = restored.image.shape[-2:]
    panels: dict[str, Tensor] = {}
    if "low" in problem.inputs:
        panels["low"] = F.interpolate(problem.inputs["low"][:1].float(), (height, width))[0]
    if "reference" in problem.inputs:
        given = problem.inputs["reference"]
        for place, picture in enumerate(given if isinstance(given, list) else [given], 1):
            name = "reference" if place == 1 else f"reference {place}"
            panels[name] = _fit(picture[0], height)
    panels[baseline_name] = baseline[0]
    panels["restored"] = restored.image[0]
    if problem.target is not None:
        panels["target"] = problem.target[0]
        error = (restored.image[0] - problem.target[0]).abs().mean(0)
        panels["error x4"] = _heat(error * 4)
    if restored.score is not None:
        score = F.interpolate(restored.score[:1].float(), (height, width))[0, 0]
        panels[f"score {score.min():.2f}…{score.max():.2f}"] = _heat(_stretch(score))
    return side_by_side(panels)


def score_map(restored: Restoration) -> Tensor:
    """The first picture's score as colours, of one scale (0 to 1) for all, so that maps compare.

    Returns:
        uint8 3HW, of the restored picture's size.
    """
    assert restored.score is not None
    score = F.interpolate(restored.score[:1].float(), restored.image.shape[-2:])[0, 0]
    return (_heat(score.clamp(0, 1)) * 255).round().byte().cpu()


def side_by_side(panels: dict[str, Tensor]) -> Tensor:
    """Pictures (3HW in [0, 1], any sizes) in a row, each under its name; uint8 3HW.

    A panel is as wide as its picture, or as its name where that is wider.
    """
    arrays = {
        name: (panel.detach().float().clamp(0, 1) * 255).round().byte().cpu().permute(1, 2, 0)
        for name, panel in panels.items()
    }
    font = ImageFont.load_default()
    widths = {name: max(a.shape[1], ceil(font.getlength(name)) + 4) for name, a in arrays.items()}
    height = max(a.shape[0] for a in arrays.values()) + CAPTION
    width = sum(widths.values()) + GAP * (len(widths) - 1)
    sheet = Image.new("RGB", (width, height), "white")
    draw, left = ImageDraw.Draw(sheet), 0
    for name, array in arrays.items():
        draw.text((left + 2, 2), name, fill="black", font=font)
        sheet.paste(Image.fromarray(array.contiguous().numpy()), (left, CAPTION))
        left += widths[name] + GAP
    return torch.from_numpy(np.array(sheet)).permute(2, 0, 1)


def _fit(picture: Tensor, height: int) -> Tensor:
    """The picture, made smaller if it is higher than the others."""
    if picture.shape[-1] <= 4 * height and picture.shape[-2] <= height:
        return picture
    ratio = min(height / picture.shape[-2], 4 * height / picture.shape[-1])
    size = [max(1, round(side * ratio)) for side in picture.shape[-2:]]
    return F.interpolate(picture[None].float(), size, mode="area")[0]


def _stretch(x: Tensor) -> Tensor:
    low, high = x.min(), x.max()
    return (x - low) / (high - low).clamp_min(1e-6)


def _heat(x_HW: Tensor) -> Tensor:
    coloured = colormaps["magma"](x_HW.detach().clamp(0, 1).cpu().numpy())[..., :3]
    return torch.from_numpy(coloured).permute(2, 0, 1).float()
