"""LPIPS, FID and KID, by the libraries that papers use and with their published weights.

Never on random weights in silence: without its file a metric raises `MissingWeights`, which says
how to supply it.
"""

import hashlib
import importlib.metadata
import math
import warnings
from collections import OrderedDict
from pathlib import Path

import lpips
import numpy as np
import torch
from scipy import linalg
from torch import Tensor, nn
from torchmetrics import Metric
from torchmetrics.utilities.data import dim_zero_cat

from restore.errors import UserError
from restore.metrics.functional import rounded
from restore.models import checkpoint
from restore.models.pretrained import file_of

# Below this side AlexNet's second pooling has no pixel left to give.
_ALEXNET_SIDE = 31
_FEATURES = 2048
# Rows of a block of KID's table of kernel values.
_BLOCK = 2048
# Pictures whose features are kept, for the next metric or method that asks for the same.
_REMEMBERED = 64


class LPIPS(Metric):
    """LPIPS (Zhang et al., CVPR 2018) with AlexNet, version 0.1; mean over pictures.

    Of pictures rounded to 8 bits. The linear heads ship with the package `lpips`; the trunk is
    torchvision's AlexNet.

    Args:
        weights: `imagenet` (torchvision's file) or the file's path.
        cache, download: see `pretrained.file_of`.
    """

    higher_is_better = False
    is_differentiable = False
    full_state_update = False
    total: Tensor
    count: Tensor

    def __init__(
        self, weights: str | None = "imagenet", cache: str | None = None, download: bool = True
    ):
        super().__init__()
        self.path = file_of("alexnet", weights, cache, download)
        self.fingerprint = checkpoint.fingerprint(self.path)
        with warnings.catch_warnings():
            # lpips asks torchvision for its trunk in a way that torchvision has given up.
            warnings.filterwarnings(
                "ignore", "(?s).*'(pretrained|weights)'", UserWarning, module="torchvision"
            )
            self.net = lpips.LPIPS(net="alex", pnet_rand=True, verbose=False).eval()
        self.requires_grad_(False)
        trunk = self.net.net  # its names: slice1.0.weight where torchvision has features.0.weight
        state = checkpoint.read(self.path)
        names = {name: f"features.{name.partition('.')[2]}" for name in trunk.state_dict()}
        taken = {name: state[theirs] for name, theirs in names.items() if theirs in state}
        checkpoint.load_into(trunk, taken, f"pretrained.alexnet={self.path}")
        self.add_state("total", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, preds: Tensor, target: Tensor) -> None:
        """Takes pictures, N3HW in [0, 1]; such as are too small for AlexNet do not count."""
        if min(target.shape[-2:]) < _ALEXNET_SIDE:
            return
        x, y = (rounded(picture).float() * 2 - 1 for picture in (preds, target))
        distances = self.net(x, y).double().flatten()
        self.total += distances.sum()
        self.count += distances.numel()

    def compute(self) -> Tensor:
        """The mean distance, NaN of no picture."""
        return self.total / self.count

    def sentence(self) -> str:
        """Which program and weights."""
        version = importlib.metadata.version("lpips")
        return f"package lpips {version}, AlexNet of {self.path} (sha256 {self.fingerprint}…)"


class Inception(nn.Module):
    """The 2048 features of Inception v3 as the published FID has them.

    Network, resizing (TensorFlow 1 bilinear, 299×299) and normalisation are torch-fidelity's. It
    serves any metric of torchmetrics that takes a `feature` network.

    Args:
        weights: `imagenet` or None (torch-fidelity's file), or the file's path.
        cache, download: see `pretrained.file_of`.
    """

    num_features = _FEATURES

    def __init__(self, weights: str | None = None, cache: str | None = None, download: bool = True):
        super().__init__()
        self.path = file_of("inception", weights, cache, download)
        self.fingerprint = checkpoint.fingerprint(self.path)
        self.net = _network(self.path, self.fingerprint)

    def forward(self, pictures_N3HW: Tensor) -> Tensor:
        """Features N×2048 of pictures in 8 bits."""
        rows = []
        for picture in pictures_N3HW:
            data = picture.cpu().contiguous()
            digest = hashlib.sha256(data.numpy().tobytes()).hexdigest()
            key = self.fingerprint, tuple(data.shape), digest
            if key not in _FEATURES_OF:
                _FEATURES_OF[key] = self.net(picture[None])[0].detach().cpu()
                while len(_FEATURES_OF) > _REMEMBERED:
                    _FEATURES_OF.popitem(last=False)
            rows.append(_FEATURES_OF[key].to(picture.device))
        return torch.cat(rows)

    def sentence(self) -> str:
        """Which program and weights."""
        version = importlib.metadata.version("torch-fidelity")
        return (
            f"Inception features of torch-fidelity {version} with its resizing (TensorFlow 1 "
            f"bilinear to 299×299), weights {self.path} (sha256 {self.fingerprint}…)"
        )


# One network and one memory for all metrics of a process that use the same file.
_NETWORKS: dict[str, nn.Module] = {}
_FEATURES_OF: OrderedDict[tuple[str, tuple[int, ...], str], Tensor] = OrderedDict()


def _network(path: Path, fingerprint: str) -> nn.Module:
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    if fingerprint not in _NETWORKS:
        checkpoint.read(path)  # refuses anything but plain weights before the library opens it
        try:
            network = FeatureExtractorInceptionV3(
                "inception", [str(_FEATURES)], feature_extractor_weights_path=str(path)
            ).eval()
        except (RuntimeError, KeyError) as error:
            reason = str(error).splitlines()[0]
            raise UserError(f"{path} does not hold torch-fidelity's Inception: {reason}") from error
        _NETWORKS[fingerprint] = network.requires_grad_(False)
    return _NETWORKS[fingerprint]


class _OfFeatures(Metric):
    """A distance between two sets of pictures, of their Inception features.

    Args:
        feature: the network.
    """

    higher_is_better = False
    is_differentiable = False
    full_state_update = False
    real_features: list[Tensor]
    fake_features: list[Tensor]

    def __init__(self, feature: Inception):
        super().__init__()
        self.feature = feature
        self.count = 0
        self.add_state("real_features", [], dist_reduce_fx="cat")
        self.add_state("fake_features", [], dist_reduce_fx="cat")

    def update(self, imgs: Tensor, real: bool) -> None:
        """Takes pictures, N3HW in 8 bits, of the true set or of the other."""
        (self.real_features if real else self.fake_features).append(self.feature(imgs))

    def compute(self) -> Tensor:
        """The distance; NaN of fewer than two pictures, which have no spread."""
        sets = [
            dim_zero_cat(rows).double().cpu().numpy() if len(rows) else np.empty((0, _FEATURES))
            for rows in (self.fake_features, self.real_features)
        ]
        self.count = min(map(len, sets))
        return torch.tensor(
            math.nan if self.count < 2 else self.distance(*sets), dtype=torch.float64
        )

    def distance(self, x: np.ndarray, y: np.ndarray) -> float:
        """The distance of two sets of rows."""
        raise NotImplementedError

    def sentence(self) -> str:
        """Which program and weights, on how many pictures."""
        return (
            f"whole pictures, N = {self.count} a set (not comparable with other N), "
            f"{self.feature.sentence()}"
        )


class FID(_OfFeatures):
    """Fréchet inception distance (Heusel et al., NeurIPS 2017)."""

    def distance(self, x: np.ndarray, y: np.ndarray) -> float:
        """See `frechet`."""
        return frechet(x, y)


class KID(_OfFeatures):
    """Kernel inception distance (Bińkowski et al., ICLR 2018), over all pairs."""

    def distance(self, x: np.ndarray, y: np.ndarray) -> float:
        """See `kernel`."""
        return kernel(x, y)

    def sentence(self) -> str:
        """Which program and weights, on how many pictures, and which estimate."""
        return (
            f"{super().sentence()}; unbiased estimate over all pairs, cubic polynomial kernel "
            "(Bińkowski et al. 2018); can be below zero"
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


def kernel(x: np.ndarray, y: np.ndarray) -> float:
    """Squared maximum mean discrepancy of two sets of rows, unbiased, in float64.

    The kernel is (x·y / d + 1)³ for rows of d values (Bińkowski et al., ICLR 2018). They average
    over blocks of pictures to save time; this is the mean over all pairs.
    """
    return _off_diagonal(x) + _off_diagonal(y) - 2 * _total(x, y) / (len(x) * len(y))


def _off_diagonal(x: np.ndarray) -> float:
    own = ((np.square(x).sum(1) / x.shape[1] + 1) ** 3).sum()
    return (_total(x, x) - float(own)) / (len(x) * (len(x) - 1))


def _total(x: np.ndarray, y: np.ndarray) -> float:
    sums = [
        ((x[at : at + _BLOCK] @ y.T / x.shape[1] + 1) ** 3).sum() for at in range(0, len(x), _BLOCK)
    ]
    return math.fsum(sums)
