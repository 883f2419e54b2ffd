"""The game between a backbone and a critic: five rules, and the two players' terms.

A critic gives logits, higher for pictures that it takes for real: N×1, or N1HW for each pixel.
"""

from collections.abc import Callable, Mapping
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from restore.losses import weighted_mean
from restore.types import Problem, Restoration
from restore.utils import distributed

Mean = Callable[[Tensor], Tensor]


class Rule(Protocol):
    """What each player is told to make small, from logits of real and restored pictures.

    `relative` says whether the backbone's part looks at the real pictures too; where not, it gets
    None for them.
    """

    relative: bool

    def critic(self, real: Tensor, fake: Tensor, mean: Mean) -> Tensor: ...

    def backbone(self, real: Tensor | None, fake: Tensor, mean: Mean) -> Tensor: ...


class Wasserstein:
    """Critic E[D(fake)] − E[D(real)], backbone −E[D(fake)].

    Arjovsky, Chintala, Bottou: "Wasserstein GAN", ICML 2017; TTSR. Needs
    `penalties.GradientPenalty` beside it.
    """

    relative = False

    def critic(self, real: Tensor, fake: Tensor, mean: Mean) -> Tensor:
        return mean(fake) - mean(real)

    def backbone(self, real: Tensor | None, fake: Tensor, mean: Mean) -> Tensor:
        return -mean(fake)


class Standard:
    """Critic −E[log σ(D(real))] − E[log(1 − σ(D(fake)))], backbone −E[log σ(D(fake))].

    Goodfellow et al.: "Generative Adversarial Nets", NeurIPS 2014, with the backbone's
    non-saturating part. (TTSR's code halves the critic's part: then give it the weight 0.5.)
    """

    relative = False

    def critic(self, real: Tensor, fake: Tensor, mean: Mean) -> Tensor:
        return mean(F.softplus(-real)) + mean(F.softplus(fake))

    def backbone(self, real: Tensor | None, fake: Tensor, mean: Mean) -> Tensor:
        return mean(F.softplus(-fake))


class LeastSquares:
    """Critic ½E[(D(real) − 1)²] + ½E[D(fake)²], backbone ½E[(D(fake) − 1)²].

    Mao et al.: "Least Squares Generative Adversarial Networks", ICCV 2017, equation 9.
    """

    relative = False

    def critic(self, real: Tensor, fake: Tensor, mean: Mean) -> Tensor:
        return (mean((real - 1).square()) + mean(fake.square())) / 2

    def backbone(self, real: Tensor | None, fake: Tensor, mean: Mean) -> Tensor:
        return mean((fake - 1).square()) / 2


class Hinge:
    """Critic E[max(0, 1 − D(real))] + E[max(0, 1 + D(fake))], backbone −E[D(fake)].

    Lim, Ye: "Geometric GAN", 2017; Miyato et al.: "Spectral Normalization for Generative
    Adversarial Networks", ICLR 2018, equations 16, 17.
    """

    relative = False

    def critic(self, real: Tensor, fake: Tensor, mean: Mean) -> Tensor:
        return mean(F.relu(1 - real)) + mean(F.relu(1 + fake))

    def backbone(self, real: Tensor | None, fake: Tensor, mean: Mean) -> Tensor:
        return -mean(fake)


class RelativisticAverage:
    """How much more real than the other kind's average: r = D(real) − E[D(fake)], f the reverse.

    Critic −E[log σ(r)] − E[log(1 − σ(f))], backbone −E[log(1 − σ(r))] − E[log σ(f)].
    Jolicoeur-Martineau: "The relativistic discriminator", ICLR 2019, equations 11, 12; ESRGAN
    equations 1, 2. The averages run over the batches of all processes.
    """

    relative = True

    def critic(self, real: Tensor, fake: Tensor, mean: Mean) -> Tensor:
        return _relativistic(real, fake, mean, lambda x: distributed.mean(mean(x)))

    def backbone(self, real: Tensor | None, fake: Tensor, mean: Mean) -> Tensor:
        assert real is not None
        return self.critic(fake, real, mean)


class RelativisticFixedAverage(RelativisticAverage):
    """`RelativisticAverage` whose critic takes the averages for given, as MASA-SR's code has it.

    The values are the same; no gradient reaches the critic through the averages.
    """

    def critic(self, real: Tensor, fake: Tensor, mean: Mean) -> Tensor:
        return _relativistic(real, fake, mean, lambda x: distributed.mean(mean(x)).detach())

    def backbone(self, real: Tensor | None, fake: Tensor, mean: Mean) -> Tensor:
        assert real is not None
        return super().critic(fake, real, mean)


def _relativistic(real: Tensor, fake: Tensor, mean: Mean, average: Mean) -> Tensor:
    """A critic's part, the average of the other kind's logits taken as the rule has it."""
    r, f = real - average(fake), fake - average(real)
    return mean(F.softplus(-r)) + mean(F.softplus(f))


def _mean_by(weight: Tensor | None) -> Mean:
    """Of logits for pixels each counts by its weight; of logits for pictures all do alike."""
    return lambda x: weighted_mean(x, weight if x.ndim == 4 else None)


class CriticTerm:
    """What the critic learns from: real pictures and restored ones.

    Args:
        rule: of the game.
        critic: the critic's name among the models.
    """

    def __init__(self, rule: Rule, critic: str = "discriminator"):
        self.rule, self.critic = rule, critic

    def __call__(
        self, restored: Restoration, problem: Problem, models: Mapping[str, nn.Module]
    ) -> Tensor:
        assert problem.target is not None, "training problems have a target"
        fake = models[self.critic](restored.image.detach()).float()
        real = models[self.critic](problem.target).float()
        return self.rule.critic(real, fake, _mean_by(problem.weight))


class BackboneTerm:
    """What the backbone learns from the critic, which the loop holds fixed meanwhile.

    Args:
        rule: of the game.
        critic: the critic's name among the models.
    """

    def __init__(self, rule: Rule, critic: str = "discriminator"):
        self.rule, self.critic = rule, critic

    def __call__(
        self, restored: Restoration, problem: Problem, models: Mapping[str, nn.Module]
    ) -> Tensor:
        assert problem.target is not None, "training problems have a target"
        real = None
        if self.rule.relative:
            with torch.no_grad():
                real = models[self.critic](problem.target).float()
        fake = models[self.critic](restored.image).float()
        return self.rule.backbone(real, fake, _mean_by(problem.weight))
