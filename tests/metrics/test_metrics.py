"""Metrics of torchmetrics by their class alone: values, ranges, refusals, processes, names."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torchmetrics import Metric
from torchmetrics.image import (
    FrechetInceptionDistance,
    LearnedPerceptualImagePatchSimilarity,
    MultiScaleStructuralSimilarityIndexMeasure,
    StructuralSimilarityIndexMeasure,
    TotalVariation,
    VisualInformationFidelity,
)

from restore.config import registry
from restore.config.groups import searching
from restore.errors import UserError
from restore.metrics.image_metric import About, ImageMetric
from restore.metrics.legend import Legend, is_better
from restore.metrics.protocol import MeasurementProtocol
from restore.metrics.selection import Selection, build, regions
from tests import ROOT

ABOUT = About(4)
RGB = MeasurementProtocol("rgb", "rgb")


def pictures(seed: int, height: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    rng = torch.Generator().manual_seed(seed)
    x = torch.rand(1, 3, height, width, generator=rng)
    return x, (x + 0.2 * torch.rand(x.shape, generator=rng)).clamp(0, 1)


def eight(x: torch.Tensor) -> torch.Tensor:
    return (x.double() * 255).round().float() / 255


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 10**6), height=st.integers(41, 60), width=st.integers(41, 60))
def test_a_class_of_torchmetrics_gets_what_it_expects(seed, height, width):
    """Pictures rounded to 8 bits, in [0, 1]; a range that is left open is that; VIF's is 255."""
    x, y = pictures(seed, height, width)
    for made, expected in (
        (
            StructuralSimilarityIndexMeasure(),
            StructuralSimilarityIndexMeasure(data_range=1.0)(eight(x), eight(y)),
        ),
        (
            VisualInformationFidelity(),
            VisualInformationFidelity()(255 * eight(x), 255 * eight(y)),
        ),
        (TotalVariation(), TotalVariation()(eight(x))),
    ):
        metric = ImageMetric("m", made)
        first = metric.value(x, y, ABOUT)
        assert first == pytest.approx(expected.item(), rel=1e-5)
        metric.value(y, x, ABOUT)
        assert metric.value(x, y, ABOUT) == first, "a value is of its picture alone"
        assert metric.per_image


def test_lpips_of_torchmetrics_is_given_its_range(monkeypatch):
    seen = []

    class Network(nn.Module):
        def forward(self, x, y, normalize=False):
            seen.append((x.min().item(), x.max().item(), normalize))
            return (x - y).abs().mean().view(1)

    monkeypatch.setattr(
        "torchmetrics.image.lpip._NoTrainLpips", lambda net: Network(), raising=True
    )
    x = torch.tensor([0.0, 0.5, 1.0]).view(1, 1, 1, 3).expand(1, 3, 4, 3)
    for normalize in (False, True):
        metric = ImageMetric("l", LearnedPerceptualImagePatchSimilarity(normalize=normalize))
        metric.value(x, x, ABOUT)
    assert seen == [(-1, 1, False), (0, 1, True)]


class Brightness(nn.Module):
    """A stand-in for Inception: three numbers of a picture in 8 bits."""

    num_features = 3

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        assert pictures.dtype == torch.uint8
        return pictures.double().mean((2, 3)).float()


def test_a_metric_of_sets_has_one_value():
    theirs = FrechetInceptionDistance(Brightness())
    metric = ImageMetric("fid", FrechetInceptionDistance(Brightness()))
    for seed in range(5):
        x, y = pictures(seed, 12, 14)
        metric.update(x, y, ABOUT)
        theirs.update((x * 255).round().byte(), real=False)
        theirs.update((y * 255).round().byte(), real=True)
    assert not metric.per_image
    assert metric.compute() == pytest.approx(theirs.compute().item(), rel=1e-5)
    one = ImageMetric("fid", FrechetInceptionDistance(Brightness()))
    one.update(*pictures(0, 12, 14), ABOUT)
    assert math.isnan(one.compute())
    assert "More than one sample" in next(iter(one.reasons))


def test_what_a_metric_refuses_has_no_value_and_a_reason():
    metric = ImageMetric("ms_ssim", MultiScaleStructuralSimilarityIndexMeasure())
    assert math.isnan(metric.value(*pictures(0, 100, 170), ABOUT))
    assert "160" in next(iter(metric.reasons))
    assert 0 < metric.value(*pictures(0, 180, 176), ABOUT) < 1


def node(target: str, **arguments) -> dict:
    return {"_target_": target, **arguments}


@pytest.mark.parametrize(
    ("metric", "said"),
    [
        (node("torchmetrics.image.QualityWithNoReference"), "metric.m: .* cannot measure"),
        (node("torch.nn.Identity"), "is no torchmetrics.Metric"),
        (node("torchmetrics.MeanMetric", aggregate=1), "metric.m"),
        (node("torchmetrics.image.StructuralSimilarityIndexMeasure", sigma="x"), "metric.m"),
        ("torchmetrics.image.UniversalImageQualityIndex", "a metric's yaml gives its name first"),
        (node("torchmetrics.image.NoSuchMetric"), "there is no 'torchmetrics.image.NoSuchMetric'"),
    ],
)
def test_mistakes_are_one_sentence(metric, said):
    with pytest.raises(UserError, match=said) as raised:
        build({"m": metric}, RGB)
    assert "\n" not in str(raised.value)


class Lacking(Metric):
    """Looks for its weights no earlier than when it is first used."""

    higher_is_better = True

    def update(self, preds: torch.Tensor, target: torch.Tensor) -> None:
        raise ConnectionError("nobody answers")

    def compute(self) -> torch.Tensor:
        return torch.zeros(())


def test_what_is_not_at_hand_is_left_out_with_the_reason():
    lacking = node("tests.metrics.test_metrics.Lacking")
    chosen = build({"psnr": node("restore.metrics.fidelity.PSNR"), "mine": lacking}, RGB)
    assert chosen.keys() == ["psnr"]
    assert chosen.missing == {"mine": "nobody answers"}
    with pytest.raises(
        UserError, match=r"none of the chosen metrics can be measured .mine: nobody answers"
    ):
        build({"mine": lacking}, RGB)


def test_a_metric_is_built_by_its_name():
    metric = registry.build("metric", "psnr")
    x, y = pictures(1, 12, 12)
    metric.update(x, y)
    expected = 10 * math.log10(1 / (eight(x) - eight(y)).square().mean().item())
    assert metric.compute().item() == pytest.approx(expected, abs=1e-4)


def test_every_metric_here_is_one_and_says_which_way_is_better():
    for key in registry.names("metric"):
        assert Legend({}).higher_is_better(key) is not None, key
        assert Legend({}).metric(f"{key}_y_s4") == key


def test_a_metric_of_ones_own_folder_says_which_way_is_better(tmp_path: Path):
    (tmp_path / "metric").mkdir()
    own = "uqi:\n  _target_: torchmetrics.image.UniversalImageQualityIndex\n"
    (tmp_path / "metric" / "uqi.yaml").write_text(own)
    (tmp_path / "metric" / "other.yaml").write_text("_target_: nowhere.There\n")
    with searching(tmp_path):
        legend = Legend({})
    assert legend.higher_is_better("uqi_holes") is True
    assert legend.higher_is_better("other") is None
    assert Legend({}).higher_is_better("uqi") is None


def test_building_metrics_leaves_chance_as_it_was():
    """Or weights that are drawn after them would depend on what is measured."""
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    build({"vif": node("torchmetrics.image.VisualInformationFidelity")}, RGB)
    assert torch.equal(torch.rand(4), expected)


def test_by_region_follows_from_the_signature():
    """A metric of one's own that takes weights is measured on holes too, under their names."""

    class Mine(Metric):
        higher_is_better = False
        full_state_update = False

        def __init__(self):
            super().__init__()
            self.add_state("total", torch.zeros(()), dist_reduce_fx="sum")

        def update(self, preds, target, weight=None):
            error = (preds - target).abs().mean(1, keepdim=True)
            error = error if weight is None else (error * weight).sum() / weight.sum()
            self.total += error.mean()

        def compute(self):
            return self.total

    x, y = pictures(3, 20, 22)
    mask = torch.zeros(1, 1, 20, 22)
    mask[..., 5:9, 7:12] = 1
    chosen = Selection([ImageMetric("mae", Mine())], {})
    values = chosen.measure(x, y, ABOUT, regions(mask))
    error = (eight(x) - eight(y)).abs().mean(1)
    assert values["mae"] == pytest.approx(error.mean().item(), abs=1e-6)
    assert values["mae_holes"] == pytest.approx(error[0, 5:9, 7:12].mean().item(), abs=1e-6)
    assert list(values) == ["mae", "mae_holes", "mae_ring"]


def test_copies_share_networks_and_no_values():
    fid = FrechetInceptionDistance(Brightness())
    chosen = Selection([ImageMetric("fid", fid)], {})
    one, other = chosen.fresh(), chosen.fresh()
    for seed in range(3):
        one.measure(*pictures(seed, 9, 9), ABOUT, {"": None})
    assert one.metrics[0].metric.inception is other.metrics[0].metric.inception is fid.inception
    assert math.isfinite(one.pooled()["fid"])
    assert math.isnan(other.pooled()["fid"])
    assert chosen.fresh(whole_sets=False).keys() == []


# Each of two processes has the pictures at its places; the last one may have none.
PROGRAM = """
import json
import torch
from torch import nn
from torchmetrics.image import KernelInceptionDistance, FrechetInceptionDistance
from restore.config.settings import Runtime
from restore.engine import launcher
from restore.metrics.fidelity import PSNR
from restore.metrics.image_metric import About, ImageMetric
from restore.metrics.perceptual import FID, KID
from restore.utils import distributed
from tests.metrics.test_metrics import Brightness, pictures

class Wide(Brightness):
    num_features = 2048
    def forward(self, x):
        return super().forward(x).repeat(1, 683)[:, :2048]
    def sentence(self):
        return ""

runtime = Runtime(
    device="cpu", devices=1, precision="fp32", channels_last=False, compile=False, threads=1
)
with launcher.group(runtime):
    results = {}
    for count in (2, 4):
        metrics = {
            "fid": FID(Wide()),
            "kid": KID(Wide()),
            "theirs": FrechetInceptionDistance(Brightness()),
            "lists": KernelInceptionDistance(Brightness(), subsets=1, subset_size=count),
            "psnr": PSNR(),
        }
        for name, metric in metrics.items():
            own = ImageMetric(name, metric)
            for seed in range(count)[distributed.rank() :: distributed.world()]:
                own.update(*pictures(seed, 16, 16), About(4))
            results[f"{name} of {count}"] = own.compute()
            assert not own.reasons, own.reasons
    if distributed.rank() == 0:
        print(json.dumps(results))
"""


@pytest.mark.slow
def test_processes_together_equal_one(tmp_path: Path):
    """Of sums, of lists of features, and where one of three has no picture."""
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    results = []
    for processes in (1, 3):
        line = ["-m", "torch.distributed.run", f"--nproc-per-node={processes}", "--standalone"]
        done = subprocess.run(
            [sys.executable, *line, str(program)],
            capture_output=True,
            text=True,
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
            timeout=300,
        )
        assert done.returncode == 0, done.stderr
        results.append(json.loads(done.stdout.splitlines()[-1]))
    alone, together = results
    assert len(alone) == 10
    assert together == pytest.approx(alone, rel=1e-5, abs=1e-6)


def test_names_become_words():
    legend = Legend({"mine": False, "mine_too": True, "odd": None})
    assert legend.words("psnr_holes") == "PSNR holes"
    assert legend.words("ms_ssim") == "MS SSIM"
    assert legend.arrow("mine_y_s4") == " ↓"
    assert legend.arrow("mine_too_ring") == " ↑"
    assert legend.arrow("odd") == legend.arrow("nobody_knows") == ""
    assert legend.words("nobody_knows") == "NOBODY KNOWS"


@pytest.mark.parametrize("higher", [True, False])
def test_nan_is_never_better(higher):
    nan = math.nan
    assert not is_better(nan, 1.0, higher)
    assert not is_better(nan, nan, higher)
    assert is_better(1.0, nan, higher)
    assert is_better(2.0, 1.0, higher) == higher
    assert is_better(1.0, 2.0, higher) != higher
    assert not is_better(1.0, 1.0, higher)
    assert is_better(np.inf, 1.0, True)
