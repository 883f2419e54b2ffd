"""Weights of other people's networks: downloaded, from a file, or (said aloud) random."""

import hashlib
import socket
import urllib.error
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torchvision import models

from restore.errors import UserError
from restore.models import checkpoint

# Of the colours, in [0, 1], that torchvision's networks were trained on.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
# The first digits of the SHA-256 that the published files' own names carry.
_OFFICIAL = {"vgg19": "dcbb9e9d"}

_PATIENCE = 30.0  # seconds without an answer


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
            features = _vgg19(layers)
            for layer in features:
                if isinstance(layer, nn.Conv2d):
                    nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
                    nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
        return features, Provenance("VGG19", "random")
    state, provenance = _state("vgg19", "VGG19", weights, models.VGG19_Weights.IMAGENET1K_V1)
    held = {
        name.removeprefix("features."): tensor
        for name, tensor in state.items()
        if name.startswith("features.")
    }
    with torch.device("meta"):
        whole = _vgg19(_LAYERS).state_dict()
    # All of them, though fewer may be wanted: VGG16 begins with the same names and shapes.
    if held.keys() != whole.keys():
        raise UserError(
            f"pretrained.vgg19={provenance.path} holds no VGG19 as torchvision or timm name its "
            "parts (features.0.weight … features.34.bias)"
        )
    features = _vgg19(layers)
    taken = {name: held[name] for name in features.state_dict()}
    checkpoint.load_into(features, taken, f"pretrained.vgg19={provenance.path}")
    return features, provenance


# Configuration E of Simonyan and Zisserman 2015, table 1: filters of a convolution and its ReLU
# (which counts as a layer of its own), 0 for a pooling.
_WIDTHS = 2 * [64] + [0] + 2 * [128] + [0] + 4 * [256] + [0] + 2 * (4 * [512] + [0])
_LAYERS = sum(2 if width else 1 for width in _WIDTHS)


def _vgg19(layers: int) -> nn.Sequential:
    """VGG19's first layers, without making the large ones behind them."""
    made: list[nn.Module] = []
    channels = 3
    for width in _WIDTHS:
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
        return checkpoint.read(path), _from_file(key, name, path, "file")
    cached = Path(torch.hub.get_dir()) / "checkpoints" / published.url.rpartition("/")[2]
    if not cached.is_file():
        _download(published.url, cached, key, name)
    return checkpoint.read(cached), _from_file(key, name, cached, "imagenet")


def _download(url: str, to: Path, key: str, name: str) -> None:
    """Fetches a file whole or not at all, its hash compared with the one in its name."""
    waited = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_PATIENCE)  # else a network that swallows packets holds us for ever
    try:
        to.parent.mkdir(parents=True, exist_ok=True)
        digits = to.stem.rpartition("-")[2]
        torch.hub.download_url_to_file(url, str(to), hash_prefix=digits, progress=False)
    except (urllib.error.URLError, OSError, RuntimeError) as error:
        raise UserError(
            f"{name}'s published weights cannot be downloaded ({error}); put the file "
            f"{to.name} at {to}, or give pretrained.{key}=FILE, or pretrained.{key}=random"
        ) from error
    finally:
        socket.setdefaulttimeout(waited)


def _from_file(key: str, name: str, path: Path, kind: str) -> Provenance:
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return Provenance(name, kind, str(path), digest[:12], digest.startswith(_OFFICIAL[key]))
