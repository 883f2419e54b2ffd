"""TTSR's transferal perceptual loss: the answer shall show the textures it was handed."""

from collections.abc import Mapping
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from restore.errors import UserError
from restore.types import Problem, Restoration, TransfersTextures


class TransferalPerceptual:
    """Mean over scales of mean |(φ(restored) − T) · σ(S)|^power (TTSR, "Loss Function").

    φ is the backbone's own texture extractor, T the textures transferred at that scale, S the
    attention's score, bicubically brought to the scale. φ is held fixed at its current weights;
    through T and S the loss does train it, as published. The paper's equation has no S, the
    published training has. A problem's weight map has no say, as features see more than a pixel.

    Args:
        power: 2 as published; 1: absolute differences.
        score: whether the score takes part.
    """

    def __init__(self, power: Literal[1, 2] = 2, score: bool = True):
        self.power, self.score = power, score

    def __call__(
        self, restored: Restoration, problem: Problem, models: Mapping[str, nn.Module]
    ) -> Tensor:
        backbone, textures = models["backbone"], restored.textures
        if not isinstance(backbone, TransfersTextures) or not textures:
            raise UserError(
                "the transferal loss needs a backbone that transfers textures (such as ttsr); "
                "take the term out: give it the weight 0"
            )
        features = backbone.texture_features(restored.image)
        by_size = {feature.shape[-2:]: feature for feature in features}
        terms = [
            self._distance(by_size.get(texture.shape[-2:]), texture, restored.score)
            for texture in textures
        ]
        return torch.stack(terms).mean()

    def _distance(self, feature: Tensor | None, texture: Tensor, score: Tensor | None) -> Tensor:
        if feature is None or feature.shape != texture.shape:
            raise UserError(
                f"the transferal loss cannot compare transferred textures of {texture.shape[1]} "
                f"channels with the extractor's {feature.shape[1] if feature is not None else 0}; "
                "take the term out (weight 0) or transfer the extractor's own features "
                "(attention.embedding.values=false)"
            )
        error = feature.float() - texture.float()
        if self.score:
            assert score is not None, "textures come with their score"
            if score.shape[-2:] != texture.shape[-2:]:
                score = F.interpolate(score, texture.shape[-2:], mode="bicubic")
            error = error * score.sigmoid()
        return error.abs().pow(self.power).mean()
