"""Terms of objectives: how far an answer is from what it should be.

A term is called with the answer, the problem and all models by name, and returns one number, the
mean over what it compares. Terms that compare pixel by pixel weigh that mean with the problem's
weight map, where there is one. A term that is a module is brought to the models' device and holds
nothing that is trained; what it holds is not in checkpoints.
"""

from collections.abc import Mapping
from typing import Protocol

from torch import Tensor, nn

from restore.types import Problem, Restoration
from restore.utils import distributed


class Loss(Protocol):
    """What an objective calls for each of its terms."""

    def __call__(
        self, restored: Restoration, problem: Problem, models: Mapping[str, nn.Module]
    ) -> Tensor: ...


def weighted_mean(error: Tensor, weight: Tensor | None) -> Tensor:
    """Mean of `error` (NCHW), each pixel counting by `weight` (N1HW); 0 where nothing counts.

    A process divides by the mean of all processes' weights, so that the mean of their results, and
    of their gradients, is that of one process with the whole batch, however unequally the weights
    fall to them. A step's micro-batches count alike, as those to come are not known.
    """
    if weight is None:
        return error.mean()
    weight = weight.expand_as(error)
    return (error * weight).sum() / distributed.mean(weight.sum()).clamp_min(1e-12)
