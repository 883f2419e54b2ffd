"""Terms that compare pictures pixel by pixel."""

from collections.abc import Mapping
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from restore.losses import weighted_mean
from restore.types import Problem, Restoration

# Pictures are in [0, 1]; published weights of terms may belong to another range.
Range = Annotated[float, Field(gt=0, allow_inf_nan=False)]


def difference(restored: Restoration, problem: Problem) -> Tensor:
    """Restored minus target, NCHW in [-1, 1]."""
    assert problem.target is not None, "training problems have a target"
    return restored.image - problem.target


class L1:
    """Mean absolute error, of values in [0, 1] times `range` (TTSR's reconstruction loss).

    Args:
        range: 2 for the published TTSR, which compares pictures in [-1, 1].
    """

    def __init__(self, range: Range = 1.0):
        self.range = range

    def __call__(
        self, restored: Restoration, problem: Problem, models: Mapping[str, nn.Module]
    ) -> Tensor:
        error = difference(restored, problem).abs()
        return weighted_mean(error, problem.weight) * self.range


class L2:
    """Mean squared error, of values in [0, 1] times `range`."""

    def __init__(self, range: Range = 1.0):
        self.range = range

    def __call__(
        self, restored: Restoration, problem: Problem, models: Mapping[str, nn.Module]
    ) -> Tensor:
        error = difference(restored, problem).square()
        return weighted_mean(error, problem.weight) * self.range**2


class Charbonnier:
    """Mean of √(d² + ε²), d the error of values in [0, 1] times `range`.

    Lai, Huang, Ahuja, Yang: "Deep Laplacian Pyramid Networks for Fast and Accurate
    Super-Resolution", CVPR 2017, section 3.3: the absolute error, smooth at 0.

    Args:
        epsilon: errors well below it count squared.
    """

    def __init__(
        self,
        epsilon: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1e-3,
        range: Range = 1.0,
    ):
        self.epsilon, self.range = epsilon, range

    def __call__(
        self, restored: Restoration, problem: Problem, models: Mapping[str, nn.Module]
    ) -> Tensor:
        error = difference(restored, problem) * self.range
        return weighted_mean((error.square() + self.epsilon**2).sqrt(), problem.weight)


class TotalVariation:
    """Roughness of the answer alone: mean |step to the right| + mean |step down|.

    Rudin, Osher, Fatemi: "Nonlinear total variation based noise removal algorithms", Physica D
    1992, in its anisotropic form, of values in [0, 1] times `range`. A step counts by the smaller
    of its two pixels' weights.
    """

    def __init__(self, range: Range = 1.0):
        self.range = range

    def __call__(
        self, restored: Restoration, problem: Problem, models: Mapping[str, nn.Module]
    ) -> Tensor:
        image, weight = restored.image, problem.weight
        total = image.new_zeros(())
        for axis in (-1, -2):
            count = image.shape[axis] - 1
            if count == 0:
                continue  # a single row or column has no steps that way
            steps = image.diff(dim=axis).abs()
            between = None
            if weight is not None:
                between = torch.minimum(
                    weight.narrow(axis, 0, count), weight.narrow(axis, 1, count)
                )
            total = total + weighted_mean(steps, between)
        return total * self.range
