"""Losses: how far a restoration is from what it should be.

Each is the mean over what it compares. Those that compare pixel by pixel weigh that mean with the
problem's weight map, where there is one. `conf/loss` has them by name; docs/losses.md explains.
Other libraries' functions of two pictures become such losses in `two_pictures`.
"""

from collections.abc import Mapping
from typing import Protocol

from torch import Tensor, nn

from restore.types import Problem, Restoration
from restore.utils import distributed


class Loss(Protocol):
    """What an objective calls for each of its terms, and multiplies by its weight.

    One that is a module is moved to the models' device; nothing in it is trained, and what it holds
    is not in checkpoints. It may be `restore.types.Scheduled` and `SizeConstrained` too.
    """

    def __call__(
        self, restored: Restoration, problem: Problem, models: Mapping[str, nn.Module]
    ) -> Tensor:
        """The unweighted loss of a batch.

        Args:
            restored: what the backbone made of the batch. Its graph reaches the backbone where the
                objective trains that; for a critic's objective it holds a detached picture alone.
            problem: the batch; `problem.target` is never None in training.
            models: by name: `backbone`, and those that the stage lists. Only the objective's own
                gets gradients.

        Returns:
            A tensor without dimensions.

        Raises:
            UserError: it does not fit the backbone.
        """
        ...


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
