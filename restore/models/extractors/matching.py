"""The extractor that compares by a network trained to match, and hands over features of its own."""

from pathlib import Path
from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from restore.errors import UserError
from restore.models import checkpoint
from restore.models.backbones.upsampling import upsample
from restore.models.extractors import Extractor
from restore.models.matching_network import MatchingNetwork
from restore.models.pretrained import Provenance
from restore.utils.foreign import at_home

Positive = Annotated[int, Field(ge=1)]

# Trained by `experiment=matching`; what it was trained on and measures stands beside it.
WEIGHTS = Path(__file__).with_name("matching.pt")


class MatchingExtractor(Extractor):
    """Queries and keys of a `MatchingNetwork`; transfers features that are trained with the rest.

    Args:
        weights: of the matching network: `bundled` (comes with the package), `random`, or the path
            of a checkpoint or run folder of `backbone=matching`.
        trainable: whether training changes the pyramid.
        train_matching: whether it changes the matching network too.
        channels: of the pyramid at full, half and quarter resolution.
    """

    def __init__(
        self,
        weights: str = "bundled",
        trainable: bool = True,
        train_matching: bool = False,
        channels: tuple[Positive, Positive, Positive] = (32, 48, 64),
    ):
        super().__init__()
        self.channels = channels
        full, half, quarter = channels
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.network = MatchingNetwork()
            self.at_full = nn.Conv2d(6, full, 3, padding=1)
            self.at_half = nn.Conv2d(full, half, 4, stride=2, padding=1)
            self.at_quarter = nn.Conv2d(half, quarter, 4, stride=2, padding=1)
        self.provenance = Provenance("matching network", "random")
        if weights != "random":
            self.provenance = _load(self.network, weights)
        self.requires_grad_(trainable)
        self.network.requires_grad_(train_matching)
        self.reach = self.network.reach

    @property
    def matched(self) -> int:
        return self.network.channels

    def query(self, low: Tensor, low_up: Tensor) -> Tensor:
        return self.network.query(low)

    def key(
        self, reference: Tensor, reference_low_up: Tensor, reference_low: Tensor | None = None
    ) -> Tensor:
        return self.network.key(reference)

    def forward(self, image: Tensor) -> list[Tensor]:
        # What a picture four times smaller lacks is what is looked for.
        details = image - upsample(F.avg_pool2d(image, 4), 4)
        full = F.relu(self.at_full(torch.cat([image - 0.5, 4 * details], 1)))
        half = F.relu(self.at_half(full))
        return [full, half, F.relu(self.at_quarter(half))]


def _load(network: MatchingNetwork, weights: str) -> Provenance:
    path = WEIGHTS if weights == "bundled" else Path(at_home(weights))
    if path.is_dir():
        path = checkpoint.of_run(path)
    state = checkpoint.read(path)
    if state.get("format") == checkpoint.FORMAT:
        entries = checkpoint.own(state, path)
        state = entries["ema"] or entries["models"]["backbone"]
    inner = {
        name.removeprefix("network."): value
        for name, value in state.items()
        if name.startswith("network.") and isinstance(value, Tensor)
    }
    if not inner:
        raise UserError(
            f"extractor.weights={weights}: {path} holds no network of backbone=matching"
        )
    single = {k: x.float() if x.is_floating_point() else x for k, x in inner.items()}
    checkpoint.load_into(network, single, f"extractor.weights={path}")
    own = weights == "bundled"
    return Provenance("matching network", "file", str(path), checkpoint.fingerprint(path), own)
