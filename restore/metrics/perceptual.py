"""LPIPS and FID, by the libraries that papers use, where their networks' weights are at hand.

Never on random weights in silence: `missing` says why a measure cannot be taken here, and how it
could.
"""

import importlib.metadata
import math
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lpips
import numpy as np
import torch
from scipy import linalg
from torch import Tensor, nn
from torchvision import models

from restore.errors import UserError
from restore.images.io import to_uint8
from restore.metrics.functional import rounded
from restore.models import checkpoint

# Below this side AlexNet's second pooling has no pixel left to give.
_ALEXNET_SIDE = 31


class Lpips(nn.Module):
    """LPIPS (Zhang et al., CVPR 2018) with AlexNet, version 0.1; smaller is nearer.

    Of pictures rounded to 8 bits. The linear heads ship with the package `lpips`; the trunk is
    torchvision's AlexNet.

    Args:
        weights: `imagenet` (torchvision's file, where its cache holds it) or the file's path.
    """

    def __init__(self, weights: str):
        super().__init__()
        published = models.AlexNet_Weights.IMAGENET1K_V1
        cached = Path(torch.hub.get_dir()) / "checkpoints" / published.url.rpartition("/")[2]
        path = cached if weights == "imagenet" else Path(weights)
        self.missing: str | None = None
        if not path.is_file():
            if weights != "imagenet":
                raise UserError(f"pretrained.alexnet={weights}: there is no such file")
            self.missing = (
                f"AlexNet's weights are not on this machine; put {cached.name} at {cached} "
                "or give pretrained.alexnet=FILE"
            )
            return
        self.path, self.fingerprint = path, checkpoint.fingerprint(path)
        with warnings.catch_warnings():
            # lpips asks torchvision for its trunk in a way that torchvision has given up.
            warnings.filterwarnings(
                "ignore", "(?s).*'(pretrained|weights)'", UserWarning, module="torchvision"
            )
            self.net = lpips.LPIPS(net="alex", pnet_rand=True, verbose=False).eval()
        self.requires_grad_(False)
        trunk = self.net.net  # its names: slice1.0.weight where torchvision has features.0.weight
        held = checkpoint.read(path)
        names = {name: f"features.{name.partition('.')[2]}" for name in trunk.state_dict()}
        taken = {name: held[theirs] for name, theirs in names.items() if theirs in held}
        checkpoint.load_into(trunk, taken, f"pretrained.alexnet={path}")

    def update(
        self, name: str, restored: Tensor, baseline: Tensor, target: Tensor | None
    ) -> dict[str, float]:
        """The distance of one restored picture from its target, 13HW in [0, 1].

        NaN for a picture smaller than AlexNet's pooling needs.
        """
        assert target is not None
        if min(target.shape[-2:]) < _ALEXNET_SIDE:
            return {name: math.nan}
        x, y = (rounded(picture).float() * 2 - 1 for picture in (restored, target))
        with torch.autocast(restored.device.type, enabled=False):
            return {name: self.net(x, y).item()}

    def pooled(self, name: str, gather: Callable[[Any], list[Any]]) -> dict[str, float]:
        """Nothing beyond the images' own values."""
        return {}

    def sentence(self) -> str:
        """What measured it."""
        version = importlib.metadata.version("lpips")
        return (
            f"lpips: package lpips {version}, AlexNet of {self.path} (sha256 {self.fingerprint}…)"
        )


class Fid(nn.Module):
    """Fréchet inception distance (Heusel et al., NeurIPS 2017) of restored and target pictures.

    Inception, its resizing (TensorFlow 1 bilinear, 299×299) and features as torch-fidelity has
    them, of pictures rounded to 8 bits. The features of all processes' pictures come together, in
    float64.

    Args:
        weights: torch-fidelity's Inception file, or None for its place in torch's cache.
    """

    def __init__(self, weights: str | None):
        super().__init__()
        self.missing: str | None = None
        name = "weights-inception-2015-12-05-6726825d.pth"
        cached = Path(torch.hub.get_dir()) / "checkpoints" / name
        path = cached if weights is None else Path(weights)
        if not path.is_file():
            if weights is not None:
                raise UserError(f"pretrained.inception={weights}: there is no such file")
            self.missing = (
                f"Inception's weights are not on this machine; put {name} at {cached} "
                "or give pretrained.inception=FILE"
            )
            return
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

        self.path, self.fingerprint = path, checkpoint.fingerprint(path)
        checkpoint.read(path)  # refuses anything but plain weights before the library opens it
        try:
            self.net = FeatureExtractorInceptionV3(
                "inception", ["2048"], feature_extractor_weights_path=str(path)
            ).eval()
        except (RuntimeError, KeyError) as error:
            reason = str(error).splitlines()[0]
            raise UserError(f"{path} does not hold torch-fidelity's Inception: {reason}") from error
        self.requires_grad_(False)
        self.features: dict[str, list[Tensor]] = {"restored": [], "target": []}
        self.count = 0

    def update(
        self, name: str, restored: Tensor, baseline: Tensor, target: Tensor | None
    ) -> dict[str, float]:
        """Notes the features of one restored picture and its target, 13HW in [0, 1]."""
        assert target is not None
        with torch.autocast(restored.device.type, enabled=False):
            for kind, picture in (("restored", restored), ("target", target)):
                self.features[kind].append(self.net(to_uint8(picture))[0].double().cpu())
        return {}

    def pooled(self, name: str, gather: Callable[[Any], list[Any]]) -> dict[str, float]:
        """The distance over all processes' pictures."""
        own = {
            kind: torch.cat([*found, torch.empty(0, 2048, dtype=torch.float64)]).numpy()
            for kind, found in self.features.items()
        }
        parts = gather(own)
        both = [np.concatenate([part[kind] for part in parts]) for kind in ("restored", "target")]
        self.count = len(both[0])
        if self.count < 2:
            return {name: math.nan}  # one picture has no spread
        return {name: frechet(*both)}

    def sentence(self) -> str:
        """What measured it."""
        version = importlib.metadata.version("torch-fidelity")
        return (
            f"fid: torch-fidelity {version}, N = {self.count} (not comparable with other N), "
            f"Inception of {self.path} (sha256 {self.fingerprint}…)"
        )


def frechet(x: np.ndarray, y: np.ndarray) -> float:
    """Fréchet distance of the normal distributions fitted to two sets of rows, in float64.

    |μx − μy|² + tr(A + B − 2 (A B)^½) with the covariances A, B. The last trace is the sum of the
    singular values of X Yᵀ, where A = XᵀX and B = YᵀY: for centred rows no covariance, no root of
    a matrix that is hardly ever of full rank.
    """
    means = x.mean(0) - y.mean(0)
    centred = [(z - z.mean(0)) / np.sqrt(len(z) - 1) for z in (x, y)]
    # In place of each set the R of its QR, which is no taller than wide and has the same product.
    roots = [np.asarray(np.linalg.qr(z, mode="r")) for z in centred]
    spread = sum(np.square(root).sum() for root in roots)
    shared = linalg.svdvals(roots[0] @ roots[1].T).sum()
    return float(np.square(means).sum() + spread - 2 * shared)
