"""The term that a diffusion network is trained on."""

from collections.abc import Mapping

from torch import Tensor, nn

from restore.errors import UserError
from restore.types import Problem, Restoration


class NoisePrediction:
    """Mean squared error of the noise that the network predicts (Ho et al., 2020, equation 14).

    Of the velocity, where the network predicts that (`Palette.predicts`).

    As Palette is published, it counts where the picture is drawn, and is the mean over all pixels:
    it grows with the holes.
    """

    def __call__(
        self, restored: Restoration, problem: Problem, models: Mapping[str, nn.Module]
    ) -> Tensor:
        if restored.to_predict is None or restored.predicted is None:
            raise UserError(
                "the loss noise_prediction needs a backbone that predicts noise (backbone=palette)"
            )
        return (restored.predicted - restored.to_predict).square().mean()
