"""What C2-Matching and DATSR compare by: two stems of VGG16 that are trained to agree."""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from restore.errors import UserError
from restore.models.backbones.rows import quartered
from restore.models.matching_network import Matcher
from restore.models.normalisation import Normalising
from restore.models.pretrained import vgg_layers

# VGG16 up to conv3_1, no ReLU behind it; VGG19 begins alike.
_LAYERS = 11


class ContrastiveStems(Normalising, Matcher):
    """Unit vectors of an enlarged low picture and of a sharp one, alike where they show the same.

    Two VGG16 up to conv3_1 that are trained to agree (Jiang et al., "Robust Reference-based
    Super-Resolution via C2-Matching", CVPR 2021, section 3.2).

    Args:
        weights: see `Matcher.load`; files are feature_extraction.pth, as C2-Matching publishes it,
            or torchvision's VGG16, from which its teacher begins.

    Raises:
        UserError: no file is given, or it holds no such stems.
    """

    channels = 256
    reach = 5
    known_files = (
        "neither C2-Matching's (feature_extraction_image1.model.conv1_1.weight …), nor one of "
        "backbone=matching_contrastive, nor torchvision's VGG16"
    )
    sharpness = 1 / 0.15  # of the published distillation

    def __init__(self, weights: str | None):
        super().__init__()
        if weights is None:
            raise UserError(
                "C2-Matching and DATSR compare by a matching extractor that lies in a file of its "
                "own, feature_extraction.pth of https://github.com/yumingj/C2-Matching: give "
                "pretrained.contrastive=FILE (apply and evaluate: extractor=FILE), or random"
            )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.low, self.sharp = (vgg_layers(_LAYERS) for _ in range(2))
            for layer in self.modules():
                if isinstance(layer, nn.Conv2d):
                    nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
                    nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
            self.sharp.load_state_dict(self.low.state_dict())
        self.set_normalisation(persistent=False)
        self.load(weights, "pretrained.contrastive", "matching extractor")

    def published(self, entries: dict[str, Any]) -> dict[str, Tensor]:
        return published_stems(entries) or _both(entries) or super().published(entries)

    def query(self, low: Tensor, low_up: Tensor) -> Tensor:
        return F.normalize(self.features(self.low, low_up), dim=1)

    def key(self, reference: Tensor) -> Tensor:
        return F.normalize(self.features(self.sharp, reference), dim=1)

    def features(self, stem: nn.Module, image: Tensor) -> Tensor:
        """What a stem makes of a picture, not normalised."""
        return quartered(lambda some: stem(self.normalised(some)), image, self.reach, 64)


# Places of VGG's convolutions by the names that the published file gives them.
_NAMES = {"conv1_1": 0, "conv1_2": 2, "conv2_1": 5, "conv2_2": 7, "conv3_1": 10}
_BRANCHES = {"feature_extraction_image1.": "low", "feature_extraction_image2.": "sharp"}


def published_stems(entries: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The published file's entries under our names; its mean and deviation are ImageNet's."""
    state = {}
    for name, value in entries.items():
        for before, stem in _BRANCHES.items():
            layer, _, kind = name.removeprefix(f"{before}model.").partition(".")
            if name.startswith(before) and layer in _NAMES:
                state[f"{stem}.{_NAMES[layer]}.{kind}"] = value
    return state


def _both(entries: Mapping[str, Any]) -> dict[str, Tensor]:
    """Two times the beginning of torchvision's VGG16; VGG19 has the same names for other layers."""
    if "features.28.weight" not in entries or "features.30.weight" in entries:
        return {}
    names = [f"{place}.{kind}" for place in _NAMES.values() for kind in ("weight", "bias")]
    return {f"{s}.{n}": entries[f"features.{n}"] for s in ("low", "sharp") for n in names}
