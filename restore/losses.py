"""Terms of objectives: how far an answer is from what it should be.

A term is called with the answer, the problem and all models by name, and returns one number, the
mean over what it compares. A problem's weight map, where there is one, weighs the mean.
"""

from collections.abc import Mapping
from typing import Protocol

from torch import Tensor, nn

from restore.types import Problem, Restoration


class Loss(Protocol):
    """What an objective calls for each of its terms."""

    def __call__(
        self, restored: Restoration, problem: Problem, models: Mapping[str, nn.Module]
    ) -> Tensor: ...


def weighted_mean(error: Tensor, weight: Tensor | None) -> Tensor:
    """Mean of `error` (NCHW), each pixel counting by `weight` (N1HW); 0 where nothing counts."""
    if weight is None:
        return error.mean()
    weight = weight.expand_as(error)
    return (error * weight).sum() / weight.sum().clamp_min(1e-12)


class L1:
    """Mean absolute error, of values in [0, 1] times `range` (TTSR equation 9).

    Args:
        range: 2 for the published TTSR, which compares pictures in [-1, 1].
    """

    def __init__(self, range: float = 1.0):
        self.range = range

    def __call__(
        self, restored: Restoration, problem: Problem, models: Mapping[str, nn.Module]
    ) -> Tensor:
        assert problem.target is not None
        error = (restored.image - problem.target).abs()
        return weighted_mean(error, problem.weight) * self.range


class L2:
    """Mean squared error, of values in [0, 1] times `range`."""

    def __init__(self, range: float = 1.0):
        self.range = range

    def __call__(
        self, restored: Restoration, problem: Problem, models: Mapping[str, nn.Module]
    ) -> Tensor:
        assert problem.target is not None
        error = (restored.image - problem.target).square()
        return weighted_mean(error, problem.weight) * self.range**2
