"""LPIPS and FID on made-up weights equal their libraries; without weights they are not taken.

The weights are random: they say nothing of quality, but a random network's numbers are as exact
as a trained one's.
"""

import math
from pathlib import Path

import lpips
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import linalg
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
from torchvision import models

from restore.errors import UserError
from restore.metrics.image_metric import About, ImageMetric
from restore.metrics.legend import declared
from restore.metrics.perceptual import FID, LPIPS, Inception, frechet
from restore.metrics.protocol import MeasurementProtocol
from restore.metrics.selection import build
from restore.models.pretrained import MissingWeights
from tests.helpers.made_up import spread


@pytest.fixture(scope="module")
def alexnet(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "alexnet.pth"
    torch.manual_seed(0)
    state = spread(models.alexnet()).state_dict()
    torch.save({name: tensor for name, tensor in state.items() if "features" in name}, path)
    return path


@pytest.fixture(scope="module")
def inception(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "inception.pth"
    torch.manual_seed(0)
    model = models.inception_v3(num_classes=1008, aux_logits=False, init_weights=False)
    torch.save(spread(model).state_dict(), path)
    return path


@pytest.fixture
def no_cache(tmp_path: Path):
    """Torch's cache of downloads, empty for the time of a test."""
    before = torch.hub.get_dir()
    torch.hub.set_dir(str(tmp_path / "hub"))
    yield tmp_path / "hub"
    torch.hub.set_dir(before)


def eight_bit(seed: int, *shape: int) -> torch.Tensor:
    rng = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, shape, generator=rng) / 255


def value(metric: ImageMetric, x: torch.Tensor, y: torch.Tensor) -> float:
    with torch.inference_mode():
        return metric.value(x, y, About(4))


def test_lpips_equals_the_package(alexnet: Path):
    theirs = lpips.LPIPS(net="alex", pnet_rand=True, verbose=False).eval()
    state = torch.load(alexnet)
    for part in theirs.net.children():
        for place, layer in part.named_children():
            for kind, tensor in layer.named_parameters():
                tensor.data = state[f"features.{place}.{kind}"]
    mine = ImageMetric("lpips", LPIPS(str(alexnet)))
    every = []
    for seed, (height, width) in enumerate([(31, 31), (48, 40), (31, 70)]):
        x, y = eight_bit(seed, 2, 1, 3, height, width)
        with torch.inference_mode():
            every.append(theirs(x, y, normalize=True).item())
        assert value(mine, x, y) == pytest.approx(every[-1], abs=1e-6)
        # what it is given is measured as 8 bits would hold it
        near = x + 0.3 / 255 * torch.sign(torch.rand_like(x) - 0.5)
        assert every[-1] > 0.01
        assert value(mine, near, y) == pytest.approx(every[-1], abs=1e-6)
    whole = LPIPS(str(alexnet))
    for seed, size in enumerate([(31, 31), (48, 40), (31, 70), (8, 8)]):
        whole.update(*eight_bit(seed, 2, 1, 3, *size))
    assert whole.compute().item() == pytest.approx(np.mean(every), abs=1e-6)
    assert str(alexnet) in mine.sentence()
    assert whole.fingerprint in mine.sentence()
    assert mine.higher_is_better is False


def test_lpips_has_no_value_where_alexnet_has_no_pixel(alexnet: Path):
    mine = ImageMetric("lpips", LPIPS(str(alexnet)))
    assert math.isnan(value(mine, *eight_bit(0, 2, 1, 3, 30, 64)))
    assert math.isfinite(value(mine, *eight_bit(0, 2, 1, 3, 31, 31)))


@pytest.mark.parametrize("kind", ["vgg", "no weights", "damaged"])
def test_lpips_refuses_another_file(kind, tmp_path: Path):
    path = tmp_path / "weights.pth"
    if kind == "vgg":
        torch.save(models.vgg11().features.state_dict(prefix="features."), path)
    elif kind == "no weights":
        torch.save({"a": torch.zeros(1)}, path)
    else:
        path.write_bytes(b"PK\x03\x04 not quite")
    with pytest.raises(UserError, match=r"weights\.pth"):
        LPIPS(str(path))


@pytest.mark.parametrize("weights", ["missing.pth", "random"])
def test_lpips_is_never_taken_on_random_weights(weights, no_cache: Path):
    with pytest.raises(UserError, match=f"pretrained.alexnet={weights}: no such file"):
        LPIPS(weights)


def test_without_weights_a_metric_says_how_to_supply_them(no_cache: Path):
    for make, file, key in (
        (LPIPS, "alexnet-owt-7be5be79.pth", "pretrained.alexnet=FILE"),
        (Inception, "weights-inception-2015-12-05-6726825d.pth", "pretrained.inception=FILE"),
    ):
        with pytest.raises(MissingWeights) as raised:
            make(download=False)
        assert str(no_cache / "checkpoints" / file) in str(raised.value)
        assert key in str(raised.value)
    with pytest.raises(UserError, match=r"pretrained.inception=nothing\.pth: no such"):
        Inception("nothing.pth")


def test_a_metric_of_torchmetrics_downloads_nothing_where_that_is_forbidden(tmp_path: Path):
    node = {
        "_target_": "torchmetrics.image.LearnedPerceptualImagePatchSimilarity",
        "net_type": "squeeze",
    }
    forbidding = {"download": False, "cache": str(tmp_path / "cache")}
    protocol = MeasurementProtocol("rgb", "rgb")
    selection = build({"psnr": declared("psnr"), "other": node}, protocol, forbidding)
    assert selection.keys() == ["psnr"]
    reason = selection.missing["other"]
    assert reason.startswith("it needs a file from download.pytorch.org")
    assert "pretrained.download=false" in reason


def test_weights_in_the_cache_are_found(alexnet: Path, no_cache: Path):
    place = no_cache / "checkpoints" / "alexnet-owt-7be5be79.pth"
    place.parent.mkdir(parents=True)
    place.write_bytes(alexnet.read_bytes())
    assert LPIPS(download=False).path == place


def root_formula(x: np.ndarray, y: np.ndarray) -> float:
    """Heusel et al. 2017, equation 6, as written."""
    a, b = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    cross = np.trace(linalg.sqrtm(a @ b)).real
    return float(((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(a) + np.trace(b) - 2 * cross)


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    width=st.integers(2, 12),
    extra=st.tuples(st.integers(4, 40), st.integers(4, 40)),
)
def test_frechet_equals_the_formula_with_a_matrix_root(seed, width, extra):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(width + extra[0], width)) @ rng.normal(size=(width, width))
    y = rng.normal(size=(width + extra[1], width)) @ rng.normal(size=(width, width)) + 0.5
    assert frechet(x, y) == pytest.approx(root_formula(x, y), rel=1e-6, abs=1e-6)
    assert frechet(y, x) == pytest.approx(frechet(x, y), rel=1e-9, abs=1e-9)
    assert frechet(x[::-1], y) == pytest.approx(frechet(x, y), rel=1e-9, abs=1e-9)
    assert frechet(x, x) == pytest.approx(0, abs=1e-9 * np.square(x).sum())


def test_frechet_of_far_fewer_pictures_than_features():
    """In two dimensions' worth of spread the root can be taken by hand."""
    x, y = np.zeros((2, 50)), np.zeros((2, 50))
    x[:, 0], y[:, 0] = (-1, 1), (-3, 3)  # variances 2 and 18 along one axis
    assert frechet(x, y) == pytest.approx(2 + 18 - 2 * np.sqrt(2 * 18))
    y = np.roll(y, 1, axis=1)  # along another axis: nothing shared
    assert frechet(x, y) == pytest.approx(2 + 18)
    assert frechet(x, x + 2) == pytest.approx(4 * 50)


def test_fid_equals_its_parts(inception: Path):
    sizes = [(20, 32), (33, 21), (24, 24)]
    restored = [eight_bit(i, 1, 3, *size) for i, size in enumerate(sizes)]
    target = [eight_bit(9 + i, 1, 3, *size) for i, size in enumerate(sizes)]
    mine = ImageMetric("fid", FID(Inception(str(inception))))
    theirs = FeatureExtractorInceptionV3(
        "inception", ["2048"], feature_extractor_weights_path=str(inception)
    )
    sets = []
    with torch.inference_mode():
        for pictures in (restored, target):
            eight = [(picture * 255).round().byte() for picture in pictures]
            sets.append(torch.cat([theirs(x)[0] for x in eight]).double().numpy())
        for x, y in zip(restored, target):
            mine.update(x, y, About(4))
    # The distance is the same in any basis; one of the six rows' own makes its matrices small.
    basis, _ = np.linalg.qr(np.concatenate(sets).T)
    x, y = (z @ basis for z in sets)
    a, b = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    roots = np.sqrt(np.clip(linalg.eigvals(a @ b).real, 0, None)).sum()
    expected = ((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(a) + np.trace(b) - 2 * roots
    assert expected > 1e-3
    assert mine.compute() == pytest.approx(expected, rel=1e-4)
    assert "N = 3" in mine.sentence()
    assert not mine.per_image


def test_fid_of_one_picture_has_no_value(inception: Path):
    metric = FID(Inception(str(inception)))
    for real in (True, False):
        metric.update(torch.zeros(1, 3, 20, 20, dtype=torch.uint8), real=real)
    assert math.isnan(metric.compute())


def test_fid_refuses_another_file(alexnet: Path, tmp_path: Path):
    with pytest.raises(UserError, match="does not hold torch-fidelity's Inception"):
        Inception(str(alexnet))
    (tmp_path / "damaged.pth").write_bytes(b"not weights")
    with pytest.raises(UserError, match=r"damaged\.pth"):
        Inception(str(tmp_path / "damaged.pth"))
