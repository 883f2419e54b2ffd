"""The extractor of C2-Matching and DATSR: compares by two trained stems, hands over another's."""

from collections.abc import Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from restore.errors import UserError
from restore.models import checkpoint
from restore.models.extractors import Extractor
from restore.models.pretrained import IMAGENET_MEAN, IMAGENET_STD, Provenance, vgg_layers
from restore.utils.foreign import at_home

# VGG16 up to conv3_1, no ReLU behind it; VGG19 begins alike.
_LAYERS = 11


class ContrastiveStems(nn.Module):
    """Unit vectors of an enlarged low picture and of a sharp one, alike where they show the same.

    Two VGG16 up to conv3_1 that are trained to agree (Jiang et al., "Robust Reference-based
    Super-Resolution via C2-Matching", CVPR 2021, section 3.2).

    Args:
        weights: `random`, or a file: as C2-Matching publishes it (feature_extraction.pth), or a
            checkpoint or run folder of `backbone=matching`.

    Raises:
        UserError: no file is given, or it holds no such stems.
    """

    channels = 256
    reach = 5
    sharpness = 1 / 0.15  # of the published distillation
    factor: Tensor
    shift: Tensor

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
        mean, std = torch.tensor(IMAGENET_MEAN), torch.tensor(IMAGENET_STD)
        self.register_buffer("factor", (1 / std).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("shift", (-mean / std).view(1, 3, 1, 1), persistent=False)
        self.provenance = Provenance("matching stems", "random")
        if weights != "random":
            path = Path(at_home(weights))
            checkpoint.load_into(self, _read(path), f"pretrained.contrastive={path}")
            self.provenance = Provenance(
                "matching stems", "file", str(path), checkpoint.fingerprint(path)
            )

    def query(self, low: Tensor, low_up: Tensor) -> Tensor:
        """N, 256, H/4, W/4 of an enlarged low picture N3HW in [0, 1]."""
        return F.normalize(self.features(self.low, low_up), dim=1)

    def key(self, reference: Tensor) -> Tensor:
        """The same of a sharp picture."""
        return F.normalize(self.features(self.sharp, reference), dim=1)

    def features(self, stem: nn.Module, image: Tensor) -> Tensor:
        """What a stem makes of a picture, not normalised."""
        return stem(image * self.factor + self.shift)


class ContrastiveExtractor(Extractor):
    """Compares by stems that are trained for it, and hands over the features of another extractor.

    Args:
        textures: whose features are transferred (C2-Matching: VGG19).
        matching: what makes queries and keys.
        trainable: whether training changes the stems.
    """

    def __init__(self, textures: Extractor, matching: ContrastiveStems, trainable: bool = False):
        super().__init__()
        self.textures, self.matching = textures, matching.requires_grad_(trainable)
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


# Places of VGG's convolutions by the names that the published file gives them.
_NAMES = {"conv1_1": 0, "conv1_2": 2, "conv2_1": 5, "conv2_2": 7, "conv3_1": 10}
_BRANCHES = {"feature_extraction_image1.": "low", "feature_extraction_image2.": "sharp"}


def _read(path: Path) -> dict[str, Tensor]:
    """The stems of a file, under our names."""
    if not path.exists():
        raise UserError(f"pretrained.contrastive={path}: no such file")
    if path.is_dir():
        path = checkpoint.of_run(path)
    held = checkpoint.read(path)
    if held.get("format") == checkpoint.FORMAT:
        held = checkpoint.own(held, path)
        held = held["ema"] or held["models"]["backbone"]
        own = {k.removeprefix("network."): v for k, v in held.items() if k.startswith("network.")}
    else:
        own = published_stems(held)
    if not own:
        raise UserError(
            f"pretrained.contrastive={path} holds no matching extractor, neither C2-Matching's "
            "(feature_extraction_image1.model.conv1_1.weight …) nor one of backbone=matching"
        )
    return own


def published_stems(held: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The published file's entries under our names; its mean and deviation are ImageNet's."""
    state = {}
    for name, value in held.items():
        for before, stem in _BRANCHES.items():
            layer, _, kind = name.removeprefix(f"{before}model.").partition(".")
            if name.startswith(before) and layer in _NAMES:
                state[f"{stem}.{_NAMES[layer]}.{kind}"] = value
    return state
