"""A network that finds in a sharp reference what a low picture shows, trained to do just that.

Contrastive correspondence (C2-Matching, Jiang et al., CVPR 2021, section 3.2) with the gap in
resolution learned rather than bridged by enlarging the low picture or blurring the reference: each
of the two has layers of its own before those that they share. Where theirs is VGG16's beginning,
with a receptive field of 40 pixels, dilated convolutions see 300, at a third of VGG19's operations.
"""

from pathlib import Path
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from restore.errors import UserError
from restore.models import checkpoint
from restore.models.pretrained import Provenance
from restore.utils.foreign import at_home

# Trained by `experiment=matching`; what it was trained on and measures stands beside it.
BUNDLED = Path(__file__).with_name("extractors") / "matching.pt"


class Matcher(nn.Module):
    """Unit vectors of a low and of a sharp picture, alike where both show the same: the contract.

    Attributes:
        channels: of the vectors.
        reach: how far, in low pixels, one is felt in them.
        sharpness: the inverse of the temperature at which likeness is told apart.
        provenance: where its weights come from.
    """

    channels: int
    reach: int
    sharpness: float | Tensor
    provenance: Provenance
    known_files = "as backbone=matching trains it"

    def query(self, low: Tensor, low_up: Tensor) -> Tensor:
        """N, `channels`, H, W of a low picture N3HW in [0, 1] and the same enlarged four times."""
        raise NotImplementedError

    def key(self, reference: Tensor) -> Tensor:
        """N, `channels`, H/4, W/4 of a sharp picture N3HW in [0, 1]."""
        raise NotImplementedError

    def published(self, entries: dict[str, Any]) -> dict[str, Tensor]:
        """The state dict in a file that is no checkpoint of ours; empty where there is none."""
        return _network(entries)

    def load(self, weights: str, setting: str, name: str) -> None:
        """Takes the weights of a file, or says that they are random.

        Args:
            weights: `random`, `bundled`, or a checkpoint or run folder of a backbone that trains
                such a network, or what `published` knows.
            setting: where a user gives them, for messages.
            name: of the network, for the output.

        Raises:
            UserError: there is no such file, or it holds none.
        """
        if weights == "random":
            self.provenance = Provenance(name, "random")
            return
        bundled = weights == "bundled"
        path = BUNDLED if bundled else Path(at_home(weights))
        if not path.exists():
            raise UserError(f"{setting}={weights}: no such file")
        if path.is_dir():
            path = checkpoint.of_run(path)
        entries = checkpoint.read(path)
        if entries.get("format") == checkpoint.FORMAT:
            entries = checkpoint.own(entries, path)
            state = _network(entries["ema"] or entries["models"]["backbone"])
        else:
            state = self.published(entries)
        if not state:
            raise UserError(f"{setting}={weights}: {path} holds no {name}, {self.known_files}")
        state = {k: x.float() if x.is_floating_point() else x for k, x in state.items()}
        checkpoint.load_into(self, state, f"{setting}={path}")
        mark = checkpoint.fingerprint(path)
        kind = "bundled" if bundled else "file"
        self.provenance = Provenance(name, kind, str(path), mark)


def _network(entries: dict[str, Any]) -> dict[str, Tensor]:
    """Of a whole backbone's entries those of its matching network."""
    inside = {k.removeprefix("network."): x for k, x in entries.items() if k.startswith("network.")}
    return inside if all(isinstance(x, Tensor) for x in inside.values()) else {}


class DilatedBlock(nn.Module):
    """x + conv(relu(conv(relu(x)))), both convolutions dilated; it begins as the identity.

    Args:
        channels: of input and output.
        dilation: distance of a convolution's taps.
    """

    def __init__(self, channels: int, dilation: int):
        super().__init__()
        layers = [
            nn.Conv2d(channels, channels, 3, padding=dilation, dilation=dilation) for _ in range(2)
        ]
        self.first, self.second = layers
        nn.init.zeros_(self.second.weight)
        assert self.second.bias is not None
        nn.init.zeros_(self.second.bias)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(F.relu(self.first(F.relu(x))))


class MatchingNetwork(Matcher):
    """Unit vectors for each pixel of a low picture and each 4×4 pixels of a sharp one.

    Where both show the same, the vectors are alike.

    Args:
        channels: of the vectors and the layers before them.
        dilations: of the shared blocks, in order.
        weights: see `Matcher.load`; None: it is trained from a start of its own.
    """

    def __init__(
        self,
        channels: Annotated[int, Field(ge=8)] = 64,
        dilations: Annotated[list[Annotated[int, Field(ge=1)]], Field(min_length=1)] | None = None,
        weights: str | None = None,
    ):
        super().__init__()
        self.channels = channels
        with torch.random.fork_rng(devices=[], enabled=weights is not None):
            if weights is not None:
                torch.manual_seed(0)
            self._make(channels, [1, 2, 4, 1, 2, 4] if dilations is None else dilations)
        if weights is not None:
            self.load(weights, "extractor.matching.weights", "matching network")

    def _make(self, channels: int, dilations: list[int]) -> None:
        self.low = nn.Sequential(
            nn.Conv2d(3, channels, 5, padding=2),
            DilatedBlock(channels, 1),
            DilatedBlock(channels, 1),
        )
        self.sharp = nn.Sequential(
            nn.Conv2d(3, channels // 2, 4, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(channels // 2, channels, 4, stride=2, padding=1),
            DilatedBlock(channels, 1),
            DilatedBlock(channels, 1),
        )
        self.shared = nn.Sequential(*(DilatedBlock(channels, d) for d in dilations))
        self.last = nn.Sequential(nn.ReLU(), nn.Conv2d(channels, channels, 1))
        # How far, in low pixels, one is felt: 5×5, then two dilated 3×3 a block.
        self.reach = 2 + 2 * (1 + 1) + 2 * sum(dilations)
        # How sharply likeness is told apart: the inverse of the softmax's temperature.
        self.log_sharpness = nn.Parameter(torch.tensor(3.0))

    @property
    def sharpness(self) -> Tensor:  # type: ignore[override]
        return self.log_sharpness.exp()

    def query(self, low: Tensor, low_up: Tensor | None = None) -> Tensor:
        return self._vectors(self.low(low - 0.5))

    def key(self, reference: Tensor) -> Tensor:
        return self._vectors(self.sharp(reference - 0.5))

    def _vectors(self, x: Tensor) -> Tensor:
        return F.normalize(self.last(self.shared(x)).float(), dim=1)
