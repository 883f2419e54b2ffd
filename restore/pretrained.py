"""Weights of other people's networks: downloaded, from a file, or (said aloud) random."""

import hashlib
import urllib.error
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torchvision import models

from restore import checkpoint
from restore.errors import UserError

# Of the colours, in [0, 1], that torchvision's networks were trained on.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
# The first digits of the SHA-256 that the published files' own names carry.
_OFFICIAL = {"vgg19": "dcbb9e9d", "vgg16": "397923af", "alexnet": "7be5be79"}


@dataclass(frozen=True)
class Provenance:
    """Where a network's weights come from.

    `kind` is `imagenet`, `file` or `random`; `official` whether the file is the published one.
    """

    name: str
    kind: str
    path: str = ""
    fingerprint: str = ""
    official: bool = False

    def sentence(self) -> str:
        """For the output, each time the network is used."""
        if self.kind == "random":
            return f"{self.name}: RANDOM weights (seed 0), not trained on anything"
        told = "the published file" if self.official else "not the published file"
        return f"{self.name}: weights of {self.path} (sha256 {self.fingerprint}…, {told})"


def vgg19_features(weights: str, layers: int) -> tuple[nn.Sequential, Provenance]:
    """The first `layers` layers of VGG19's features.

    Args:
        weights: `imagenet` (torchvision's file, from its cache or downloaded), `random` (always
            the same ones), or the path of a VGG19 state dict of torchvision or timm.
        layers: how many, as torchvision counts them (12: up to relu3_1).

    Raises:
        UserError: nothing to download from, or a file that holds no VGG19.
    """
    if weights == "random":
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            features = _empty_features(layers)
            for layer in features:
                if isinstance(layer, nn.Conv2d):
                    nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
                    nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
        return features, Provenance("VGG19", "random")
    state, provenance = _state("vgg19", "VGG19", weights, models.VGG19_Weights.IMAGENET1K_V1)
    features = _empty_features(layers)
    wanted = {f"features.{name}" for name in features.state_dict()}
    if not wanted <= state.keys():
        raise UserError(f"pretrained.vgg19={provenance.path} holds no VGG19 state dict")
    taken = {name.removeprefix("features."): state[name] for name in wanted}
    checkpoint.load_into(features, taken, f"pretrained.vgg19={provenance.path}")
    return features, provenance


def _empty_features(layers: int) -> nn.Sequential:
    """VGG19's first layers, without making the large ones behind them."""
    made: list[nn.Module] = []
    channels = 3
    plan = [
        64,
        64,
        0,
        128,
        128,
        0,
        256,
        256,
        256,
        256,
        0,
        512,
        512,
        512,
        512,
        0,
        512,
        512,
        512,
        512,
        0,
    ]
    for width in plan:
        if len(made) >= layers:
            break
        if width == 0:
            made.append(nn.MaxPool2d(2, 2))
        else:
            made += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU(inplace=True)]
            channels = width
    return nn.Sequential(*made[:layers])


def _state(
    key: str, name: str, weights: str, published: models.WeightsEnum
) -> tuple[dict[str, Tensor], Provenance]:
    """A state dict from a download or a file."""
    if weights != "imagenet":
        path = Path(weights)
        if not path.is_file():
            raise UserError(
                f"pretrained.{key}={weights}: no such file; give a file, imagenet or random"
            )
        state = checkpoint.read(path)
        return state, _from_file(key, name, path, "file")
    cached = Path(torch.hub.get_dir()) / "checkpoints" / published.url.rpartition("/")[2]
    try:
        state = published.get_state_dict(progress=False, check_hash=True)
    except (urllib.error.URLError, OSError, RuntimeError) as error:
        raise UserError(
            f"{name}'s published weights cannot be downloaded ({error}); put the file "
            f"{cached.name} at {cached}, or give pretrained.{key}=FILE, or pretrained.{key}=random"
        ) from error
    return dict(state), _from_file(key, name, cached, "imagenet")


def _from_file(key: str, name: str, path: Path, kind: str) -> Provenance:
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return Provenance(name, kind, str(path), digest[:12], digest.startswith(_OFFICIAL[key]))
