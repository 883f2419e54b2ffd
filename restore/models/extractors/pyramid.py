"""MASA-SR's encoder: one small network for the low picture, the reference and the shrunk one."""

from typing import Annotated

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from restore.errors import UserError
from restore.models.backbones.blocks import ResidualTrunk, conv, through
from restore.models.extractors import Extractor


class PyramidExtractor(Extractor):
    """Three levels of residual blocks, each at half the resolution of the one before.

    Lu, Li, Tao, Lu, Jia: "MASA-SR: Matching Acceleration and Spatial Adaptation for
    Reference-Based Image Super-Resolution", CVPR 2021. What is compared are the finest features of
    the low picture and of the reference shrunk to its resolution; what is transferred are those of
    the reference. It is trained with the rest.

    Args:
        features: channels of all levels.
        blocks: residual blocks of each level; None: four.
        trainable: whether training changes it.
    """

    def __init__(
        self,
        features: Annotated[int, Field(ge=1)] = 64,
        blocks: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=3, max_length=3)]
        | None = None,
        trainable: bool = True,
    ):
        super().__init__()
        blocks = [4, 4, 4] if blocks is None else blocks
        self.channels = (features, features, features)
        self.heads = nn.ModuleList(
            [conv(3, features), *(conv(features, features, stride=2) for _ in range(2))]
        )
        self.trunks = nn.ModuleList(ResidualTrunk(features, count) for count in blocks)
        self.requires_grad_(trainable)
        # Of the finest level in positions of the low picture, of the coarsest in quarters.
        self.reach = 1 + 2 * max(blocks[0], sum(blocks))

    def forward(self, image: Tensor) -> list[Tensor]:
        x, features = image, []
        for head, trunk in zip(self.heads, self.trunks):
            x, _ = through(trunk, F.relu_(head(x)))
            features.append(x)
        return features

    def query(self, low: Tensor, low_up: Tensor) -> Tensor:
        return self._finest(low)

    def key(
        self, reference: Tensor, reference_low_up: Tensor, reference_low: Tensor | None = None
    ) -> Tensor:
        if reference_low is None:
            raise UserError(
                "this extractor compares with the reference shrunk to the low picture's "
                "resolution (reference_low), which the task does not hand over: choose "
                "task=reference_sr"
            )
        return self._finest(reference_low)

    def _finest(self, image: Tensor) -> Tensor:
        return through(self.trunks[0], F.relu_(self.heads[0](image)))[0]
