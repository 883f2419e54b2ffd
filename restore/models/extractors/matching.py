"""Extractors that compare by a network trained to match, and hand over another's features."""

from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from restore.models.backbones.upsampling import upsample
from restore.models.extractors import Extractor
from restore.models.matching_network import Matcher

Positive = Annotated[int, Field(ge=1)]

_PARTS = ("textures", "matching")


class MatchingExtractor(Extractor):
    """Queries and keys of a matching network, textures of another extractor.

    Args:
        matching: makes queries and keys (`restore.models.matching_network.Matcher`).
        textures: whose features are transferred.
        trainable: which of its parts training changes, as far as they themselves let it: a list of
            `textures` and `matching`; true: both, false: none.
    """

    def __init__(
        self,
        matching: Matcher,
        textures: Extractor,
        trainable: bool | list[Literal["textures", "matching"]] = False,
    ):
        super().__init__()
        self.matching, self.textures = matching, textures
        trained = trainable if isinstance(trainable, list) else _PARTS if trainable else ()
        for name in _PARTS:
            if name not in trained:
                self.get_submodule(name).requires_grad_(False)
        self.channels = textures.channels
        reach = textures.reach
        self.reach = None if reach is None else max(reach, matching.reach)

    @property
    def matched(self) -> int:
        return self.matching.channels

    def query(self, low: Tensor, low_up: Tensor) -> Tensor:
        return self.matching.query(low, low_up)

    def key(
        self, reference: Tensor, reference_low_up: Tensor, reference_low: Tensor | None = None
    ) -> Tensor:
        return self.matching.key(reference)

    def forward(self, image: Tensor) -> list[Tensor]:
        return self.textures(image)


class DetailExtractor(Extractor):
    """Three convolutions over a picture and what it has more than a low one: trained with the rest.

    Args:
        channels: at full, half and quarter resolution.
        trainable: whether training changes it.
    """

    reach = 4  # of the enlarged picture that is taken away

    def __init__(
        self,
        channels: tuple[Positive, Positive, Positive] = (32, 48, 64),
        trainable: bool = True,
    ):
        super().__init__()
        self.channels = channels
        full, half, quarter = channels
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.at_full = nn.Conv2d(6, full, 3, padding=1)
            self.at_half = nn.Conv2d(full, half, 4, stride=2, padding=1)
            self.at_quarter = nn.Conv2d(half, quarter, 4, stride=2, padding=1)
        self.requires_grad_(trainable)

    def forward(self, image: Tensor) -> list[Tensor]:
        # What a picture four times smaller lacks is what is looked for.
        details = image - upsample(F.avg_pool2d(image, 4), 4)
        full = F.relu(self.at_full(torch.cat([image - 0.5, 4 * details], 1)))
        half = F.relu(self.at_half(full))
        return [full, half, F.relu(self.at_quarter(half))]
