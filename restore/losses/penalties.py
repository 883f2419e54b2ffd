"""Terms that keep a critic smooth, by the gradient of its answer with respect to the picture."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from restore.losses.pixel import Range
from restore.types import Problem, Restoration
from restore.utils import distributed


def input_gradient(critic: nn.Module, image: Tensor) -> Tensor:
    """Gradient N×(3·H·W) of the critic's answer with respect to each picture N3HW in [0, 1].

    Itself differentiable. Where the critic answers for each pixel, it is of their mean.
    """
    image = image.detach().requires_grad_()
    # In half precision a gradient of a gradient would fall below the smallest number.
    with torch.enable_grad(), torch.autocast(image.device.type, enabled=False):
        answer = critic(image).flatten(1).mean(1).sum()
        (gradient,) = torch.autograd.grad(answer, image, create_graph=True)
    return gradient.flatten(1)


def interpolated(real: Tensor, fake: Tensor, share: Tensor) -> Tensor:
    """`share` (N) of each real picture and the rest of each restored one."""
    share = share.view(-1, 1, 1, 1)
    return real * share + fake * (1 - share)


class GradientPenalty:
    """E[(‖∇D(x)‖ − 1)²], x between a real and a restored picture at random; its usual weight: 10.

    Gulrajani et al.: "Improved Training of Wasserstein GANs", NeurIPS 2017, equation 3. It speaks
    of each picture alone, so it means little for a critic with batch normalisation.

    Args:
        range: of the pictures that the norm is 1 for: 2 as published for TTSR, whose critic sees
            values in [-1, 1].
        critic: the critic's name among the models.
    """

    def __init__(self, range: Range = 1.0, critic: str = "discriminator"):
        self.range, self.critic = range, critic

    def __call__(
        self, restored: Restoration, problem: Problem, models: Mapping[str, nn.Module]
    ) -> Tensor:
        assert problem.target is not None, "training problems have a target"
        share = distributed.rand(len(problem.target), problem.target.device)
        return self.measured(
            models[self.critic], interpolated(problem.target, restored.image, share)
        )

    def measured(self, critic: nn.Module, image: Tensor) -> Tensor:
        """The penalty at given pictures N3HW."""
        norm = input_gradient(critic, image).norm(dim=1) / self.range
        return (norm - 1).square().mean()


class R1:
    """½E[‖∇D(x)‖²] at real pictures; its weight is the paper's γ, 10 there.

    Mescheder, Geiger, Nowozin: "Which Training Methods for GANs do actually Converge?", ICML 2018,
    equation 9.

    Args:
        range: of the pictures that the gradient is taken for: 2 for values in [-1, 1].
        critic: the critic's name among the models.
    """

    def __init__(self, range: Range = 1.0, critic: str = "discriminator"):
        self.range, self.critic = range, critic

    def __call__(
        self, restored: Restoration, problem: Problem, models: Mapping[str, nn.Module]
    ) -> Tensor:
        assert problem.target is not None, "training problems have a target"
        gradient = input_gradient(models[self.critic], problem.target) / self.range
        return gradient.square().sum(1).mean() / 2
