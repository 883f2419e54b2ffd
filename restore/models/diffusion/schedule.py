"""How much of a picture is left after each step towards noise."""

import math
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from restore.errors import UserError

Variance = Annotated[float, Field(gt=0, lt=1)]
Shape = Literal["linear", "quadratic", "warmup10", "warmup50", "constant", "jsd", "cosine"]


class Schedule:
    """Variances of the noise that each step adds, and what they leave of the picture.

    After step t a picture y is √γ_t · y + √(1 − γ_t) · noise, γ_t the product of 1 − variance of
    all steps up to t (Ho et al., "Denoising Diffusion Probabilistic Models", NeurIPS 2020,
    equation 4, where γ is ᾱ).

    Args:
        shape: how the variances rise: `linear`; `quadratic`: their roots do; `warmup10` and
            `warmup50`: linear over the first 10 or 50 %, then constant; `constant`; without
            `first` and `last`, `jsd`: 1/T, 1/(T − 1), …, 1, by which γ falls evenly to 0
            (Sohl-Dickstein et al., ICML 2015), and `cosine` (Nichol, Dhariwal, ICML 2021).
        steps: how many.
        first, last: variances.
    """

    def __init__(
        self,
        shape: Shape,
        steps: Annotated[int, Field(ge=2, le=1_000_000)],
        first: Variance,
        last: Variance,
    ):
        if first > last:
            raise UserError(f"schedule.first={first} is more than schedule.last={last}")
        self.variances = _variances(shape, steps, first, last)
        # γ of each step, float64, falling.
        self.gammas = np.cumprod(1 - self.variances)

    def __len__(self) -> int:
        return len(self.gammas)


def _variances(shape: Shape, steps: int, first: float, last: float) -> np.ndarray:
    if shape == "quadratic":
        return np.linspace(math.sqrt(first), math.sqrt(last), steps) ** 2
    if shape == "jsd":
        return 1 / np.linspace(steps, 1, steps)
    if shape == "constant":
        return np.full(steps, last)
    if shape == "cosine":
        offset = 0.008
        share = (np.arange(steps + 1) / steps + offset) / (1 + offset)
        left = np.cos(share * math.pi / 2) ** 2
        return np.minimum(1 - left[1:] / left[:-1], 0.999)
    if shape == "linear":
        return np.linspace(first, last, steps)
    variances = np.full(steps, last)
    rising = int(steps * int(shape.removeprefix("warmup")) / 100)
    variances[:rising] = np.linspace(first, last, rising)
    return variances
