"""FID and KID between sets of pictures, from one pass of Inception over each set."""

import importlib.metadata
import math

import numpy as np
import torch
from torch import Tensor

from restore.metrics.perceptual import Fid, frechet

# Rows of a block of KID's table of kernel values.
_BLOCK = 2048


class Distances:
    """Inception features of several sets of pictures, and the distances between two of them.

    Args:
        inception: holds the network and says which file it came from.
        device: where it runs.
    """

    def __init__(self, inception: Fid, device: torch.device):
        self.inception = inception.to(device)
        self.device = device
        self.rows: dict[str, list[np.ndarray]] = {}

    @torch.inference_mode()
    def add(self, title: str, picture_3HW: Tensor) -> None:
        """Notes the features of a picture (uint8) of the set `title`."""
        feature = self.inception.net(picture_3HW[None].to(self.device))[0]
        self.rows.setdefault(title, []).append(feature.double().cpu().numpy()[0])

    def between(self, one: str, other: str) -> dict[str, float]:
        """FID and KID of two sets; NaN of fewer than two pictures."""
        x, y = (np.stack(self.rows[title]) for title in (one, other))
        if min(len(x), len(y)) < 2:
            return {"fid": math.nan, "kid": math.nan}
        return {"fid": frechet(x, y), "kid": kernel(x, y)}

    def sentences(self) -> list[str]:
        """What measured it, on how many pictures."""
        version = importlib.metadata.version("torch-fidelity")
        count = max((len(rows) for rows in self.rows.values()), default=0)
        return [
            f"FID, KID: whole pictures, N = {count} a set (not comparable with other N), "
            f"Inception features of torch-fidelity {version} with its resizing (TensorFlow 1 "
            f"bilinear to 299×299), weights {self.inception.path} "
            f"(sha256 {self.inception.fingerprint}…)",
            "KID: unbiased estimate over all pairs, cubic polynomial kernel (Bińkowski et al. "
            "2018); can be below zero",
        ]


def kernel(x: np.ndarray, y: np.ndarray) -> float:
    """Squared maximum mean discrepancy of two sets of rows, unbiased, in float64.

    The kernel is (x·y / d + 1)³ for rows of d values (Bińkowski et al., ICLR 2018). They average
    over blocks of pictures to save time; this is the mean over all pairs.
    """
    return _off_diagonal(x) + _off_diagonal(y) - 2 * _total(x, y) / (len(x) * len(y))


def _off_diagonal(x: np.ndarray) -> float:
    own = ((np.square(x).sum(1) / x.shape[1] + 1) ** 3).sum()
    return (_total(x, x) - float(own)) / (len(x) * (len(x) - 1))


def _total(x: np.ndarray, y: np.ndarray) -> float:
    sums = [
        ((x[at : at + _BLOCK] @ y.T / x.shape[1] + 1) ** 3).sum() for at in range(0, len(x), _BLOCK)
    ]
    return math.fsum(sums)
