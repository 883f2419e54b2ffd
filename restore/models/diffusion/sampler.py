"""From noise back to a picture, by a network that predicts the noise in it."""

import math
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Annotated

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from restore.errors import UserError
from restore.models.diffusion.schedule import Schedule

# γ below which a picture is taken for noise alone.
_NOISE = 1e-4

Estimate = Callable[[Tensor, Tensor], Tensor]
Noise = Callable[[], Tensor]


class Sampler:
    """Steps from noise to a picture (Song, Meng, Ermon, "Denoising Diffusion Implicit Models").

    At each step the network's noise gives an estimate of the clean picture, clamped to [-1, 1];
    from it, and the noise that it implies, follows the picture of the next step (ICLR 2021,
    equations 12 and 16). With all steps and `eta` 1 this is the ancestral sampling of Ho et al.
    (NeurIPS 2020), by which Palette is published.

    Args:
        schedule: of the noise.
        steps: how many of the schedule's are taken, evenly spaced from where something of the
            picture is left to its end; None: all.
        eta: noise that each step adds: 0: none, the start alone decides; 1: as much as ancestral
            sampling.
        seed: of the noise, together with a picture's key and the sample's number.
        samples: results that are drawn of a picture.
        batch_size: results that are drawn at once, of pictures of one size.
    """

    def __init__(
        self,
        schedule: Schedule,
        steps: Annotated[int, Field(ge=1)] | None,
        eta: Annotated[float, Field(ge=0, le=1)],
        seed: Annotated[int, Field(ge=0)],
        samples: Annotated[int, Field(ge=1)],
        batch_size: Annotated[int, Field(ge=1)] = 8,
    ):
        count = len(schedule)
        if steps is not None and steps > count:
            raise UserError(f"sampler.steps={steps}: the schedule has {count} steps")
        self.schedule, self.eta, self.seed = schedule, eta, seed
        self.samples, self.batch_size = samples, batch_size
        top = count - 1
        if steps is not None:  # few are not wasted on what is nothing but noise
            top = max(steps - 1, int((schedule.gammas >= _NOISE).sum()) - 1)
        if not schedule.gammas[top]:
            raise UserError(
                "sampler.schedule leaves nothing of the picture in the end, from where no step "
                "leads back: take fewer steps than it has (sampler.steps=…)"
            )
        places = np.linspace(top, 0, steps or count).round().astype(int)
        # Steps of the schedule, from noise to picture.
        self.places: list[int] = places.tolist()

    def frames(self, estimate: Estimate, start_NCHW: Tensor, noise: Noise) -> Iterator[Tensor]:
        """What each step gives, in [-1, 1] but for the noise; the last one is the result.

        Args:
            estimate: the noise in a picture NCHW, given γ as N1.
            start_NCHW: the noise to begin with.
            noise: draws standard normal noise NCHW, once for each step that adds some.
        """
        y = start_NCHW
        gammas = [*(float(self.schedule.gammas[place]) for place in self.places), 1.0]
        for gamma, after in pairwise(gammas):
            predicted = estimate(y, torch.full((len(y), 1), gamma, device=y.device)).float()
            clean = math.sqrt(1 / gamma) * y - math.sqrt(1 / gamma - 1) * predicted
            clean = clean.clamp(-1, 1)
            # In float64: near the picture, 1 − γ is all rounding in float32.
            added = self.eta * math.sqrt((1 - after) / (1 - gamma) * (1 - gamma / after))
            kept = math.sqrt(max(0.0, 1 - after - added**2) / (1 - gamma))
            y = (math.sqrt(after) - kept * math.sqrt(gamma)) * clean + kept * y
            if added > 0:
                y = y + added * noise()
            yield y
