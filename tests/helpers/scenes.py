"""Scenes with details of all sizes, and where each of their low pixels lies."""

import torch
import torch.nn.functional as F


def scene(seed: int, height: int = 48, width: int = 64) -> torch.Tensor:
    """A picture with details of all sizes, none near black or white."""
    chance = torch.Generator().manual_seed(seed)
    sizes = [(height // step, width // step) for step in (16, 4, 1)]
    layers = [
        F.interpolate(torch.rand(1, 3, *size, generator=chance), (height, width), mode="bilinear")
        for size in sizes
    ]
    return 0.15 + 0.4 * sum(layers) / len(layers)


def own_places(low: torch.Tensor) -> torch.Tensor:
    """Each low pixel's own place."""
    height, width = low.shape[-2:]
    row, column = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return torch.stack([column, row])[None].float()
