"""PSNR and SSIM equal two formulations of other hands: scikit-image's, and a slow plain one."""

from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from restore.config import registry
from restore.metrics.fidelity import PSNR, SSIM
from restore.metrics.functional import planes, psnr, rounded, shaved, ssim
from restore.metrics.protocol import MeasurementProtocol
from tests.helpers.plain_metrics import (
    PUBLISHED,
    TTSR,
    library_ssim,
    plain_planes,
    plain_psnr,
    plain_ssim,
)

PROTOCOLS = registry.names("protocol")


def pair(seed: int, height: int, width: int, noise: float) -> np.ndarray:
    """Two 8-bit pictures alike, 2×3×H×W: smooth colours with some noise between them."""
    rng = np.random.default_rng(seed)
    wave = np.sin(np.linspace(0, rng.uniform(1, 9), width))[None, None]
    ramp = np.linspace(*rng.uniform(0, 255, 2), height)[None, :, None]
    x = ramp + rng.uniform(0, 90) * wave + rng.normal(0, 8, (3, height, width))
    y = x + rng.normal(rng.normal(0, 3), noise, x.shape)
    return np.clip(np.round(np.stack([x, y])), 0, 255).astype(np.uint8)


def as_images(pictures: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    x, y = torch.from_numpy(pictures).float() / 255
    return x[None], y[None]


shapes = {
    "seed": st.integers(0, 10**6),
    "height": st.integers(31, 40),  # with 10 shaved at each side, SSIM's window still fits
    "width": st.integers(31, 40),
    "noise": st.floats(0.5, 60),
}


def measured(
    protocol: MeasurementProtocol,
    x: torch.Tensor,
    y: torch.Tensor,
    scale: float,
    weight: torch.Tensor | None = None,
) -> dict[str, float]:
    """Mean PSNR and SSIM of a batch, by the names that tables have."""
    values = {}
    for key, metric in (("psnr", PSNR(protocol)), ("ssim", SSIM(protocol))):
        metric.update(x, y, scale, weight)
        values[f"{key}_{metric.label(scale)}"] = metric.compute().item()
    return values


@cache
def built(name: str) -> MeasurementProtocol:
    return registry.build("protocol", name)


def test_every_protocol_is_tested():
    assert set(PROTOCOLS) == set(PUBLISHED)


@pytest.mark.parametrize("name", PROTOCOLS)
@settings(max_examples=8, deadline=None)
@given(**shapes)
def test_protocols_equal_the_published_formulas(name, seed, height, width, noise):
    pictures = pair(seed, height, width, noise)
    protocol = built(name)
    values = measured(protocol, *as_images(pictures), 4)
    x, y = (plain_planes(picture, name) for picture in pictures)
    decibels, mine = values.values()
    assert decibels == pytest.approx(plain_psnr(x, y), abs=1e-6)
    assert mine == pytest.approx(np.mean([plain_ssim(*both) for both in zip(x, y)]), abs=1e-6)
    assert mine == pytest.approx(np.mean([library_ssim(*both) for both in zip(x, y)]), abs=1e-6)


@pytest.mark.parametrize("name", PROTOCOLS)
def test_values_are_named_by_channel_and_border(name):
    values = measured(built(name), *as_images(pair(0, 30, 30, 9)), 3)
    expected = {
        "ttsr": "y_ttsr",
        "y": "y_s3",
        "y8": "y8_s3",
        "y_shave4": "y_s4",
        "rgb": "rgb",
        "rgb_shave4": "rgb_s4",
        "div2k": "rgb_s9",
        "masa": "y",
        "masa_stitched": "y",
        "c2_matching": "y_s4",
        "datsr": "y_s4",
        "common": "y_s4",
    }[name]
    assert list(values) == [f"psnr_{expected}", f"ssim_{expected}"]


def test_ttsr_weighs_the_difference_as_its_code_does():
    # Its evaluation: the difference of values in [0, 1] times the weights over 256.
    pictures = pair(3, 24, 24, 20)
    values = measured(built("ttsr"), *as_images(pictures), 4)
    difference = (pictures[0] / 255.0 - pictures[1] / 255.0) * TTSR[:, None, None] * 1.0
    error = np.mean(difference.sum(0) ** 2)
    assert values["psnr_y_ttsr"] == pytest.approx(-10 * np.log10(error), abs=1e-6)


@settings(max_examples=20, deadline=None)
@given(**shapes)
def test_whole_weights_count_as_often_as_they_say(seed, height, width, noise):
    """A weight of k equals the pixel being there k times."""
    x, y = (plain_planes(picture, "ttsr") for picture in pair(seed, height, width, noise))
    weight = np.random.default_rng(seed).integers(0, 4, (height, width))
    weight[height // 2, width // 2] = 1
    both = [torch.from_numpy(z)[None] for z in (x, y)]
    given_weight = torch.from_numpy(weight)[None, None].float()
    times = weight.ravel()
    repeated = (np.repeat(z.ravel(), times) for z in (x, y))
    assert psnr(*both, given_weight).item() == pytest.approx(plain_psnr(*repeated), abs=1e-6)
    middles = np.repeat(plain_ssim(x[0], y[0]).ravel(), weight[5:-5, 5:-5].ravel())
    assert ssim(*both, given_weight).item() == pytest.approx(middles.mean(), abs=1e-6)


@pytest.mark.parametrize("name", PROTOCOLS)
def test_equal_weights_change_nothing(name):
    protocol = built(name)
    x, y = as_images(pair(5, 33, 32, 12))
    without = measured(protocol, x, y, 4)
    within = measured(protocol, x, y, 4, torch.full((1, 1, 33, 32), 0.3))
    assert within == pytest.approx(without, abs=1e-9)


def test_only_weighed_pixels_are_looked_at():
    x, y = as_images(pair(7, 30, 30, 10))
    hole = torch.zeros(1, 1, 30, 30)
    hole[..., 10:16, 12:20] = 1
    spoiled = torch.where(hole.bool(), x, 1 - x)
    protocol = built("rgb")
    clean = measured(protocol, x, y, 4, hole)
    dirty = measured(protocol, spoiled, y, 4, hole)
    assert dirty["psnr_rgb"] == clean["psnr_rgb"]


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), count=st.integers(1, 4), border=st.integers(0, 3))
def test_a_batch_is_its_pictures_one_by_one(seed, count, border):
    rng = torch.Generator().manual_seed(seed)
    x, y = torch.rand(2, count, 3, 20, 24, generator=rng)
    protocol = MeasurementProtocol("test", "rgb", border)
    together = measured(protocol, x, y, 4)
    alone = [measured(protocol, a[None], b[None], 4) for a, b in zip(x, y)]
    for name, value in together.items():
        assert value == pytest.approx(np.mean([one[name] for one in alone]), abs=1e-9)


def test_pictures_without_a_value_are_in_no_mean():
    x, y = as_images(pair(4, 24, 24, 9))
    metric = PSNR(built("rgb"))
    metric.update(x, y)
    expected = metric.compute().item()
    metric.update(x, y, weight=torch.zeros(1, 1, 24, 24))
    assert metric.compute().item() == expected
    metric.reset()
    assert np.isnan(metric.compute().item())


def test_equal_pictures():
    x, _ = as_images(pair(1, 20, 20, 5))
    values = measured(built("y8"), x, x, 4)
    assert values == {"psnr_y8_s4": np.inf, "ssim_y8_s4": 1.0}


def test_what_is_measured_is_rounded_to_8_bits():
    x = torch.full((1, 3, 16, 16), 100.4 / 255)
    y = torch.full((1, 3, 16, 16), 99.6 / 255)
    values = measured(built("rgb"), x, y, 4)
    assert values["psnr_rgb"] == np.inf, "both are 100 in 8 bits"
    beyond = torch.full((1, 3, 16, 16), 1.7)
    values = measured(built("rgb"), beyond, torch.ones_like(beyond), 4)
    assert values["psnr_rgb"] == np.inf, "what is whiter than white is white"
    assert rounded(torch.tensor([0.5 / 255 + 1e-6, -3.0, 2.0])).tolist() == [1 / 255, 0, 1]


def test_a_grey_picture_is_its_own_luma():
    grey = torch.rand(1, 1, 12, 12)
    for channel in ("y", "y8", "y_ttsr", "rgb"):
        torch.testing.assert_close(planes(grey, channel), grey.double() * 255)


@pytest.mark.parametrize(
    ("height", "width", "shave", "has_psnr", "has_ssim"),
    [
        (1, 1, 0, True, False),
        (10, 40, 0, True, False),
        (40, 10, 0, True, False),
        (11, 11, 0, True, True),
        (18, 19, 4, True, False),
        (19, 19, 4, True, True),
        (8, 30, 4, False, False),
        (3, 3, 4, False, False),
    ],
)
def test_what_is_too_small_has_no_value(height, width, shave, has_psnr, has_ssim):
    x, y = as_images(pair(2, height, width, 20))
    protocol = MeasurementProtocol("test", "rgb", shave)
    psnr_value, ssim_value = measured(protocol, x, y, 4).values()
    assert np.isnan(psnr_value) != has_psnr
    assert np.isnan(ssim_value) != has_ssim


def test_nothing_that_counts_has_no_value():
    x, y = as_images(pair(2, 20, 20, 20))
    values = measured(built("rgb"), x, y, 4, torch.zeros(1, 1, 20, 20))
    assert all(np.isnan(value) for value in values.values())


def test_halves_of_luma_go_up():
    """65.481 R + 128.553 G + 24.966 B over 255, for colours where it ends in a half."""
    r, g, b = np.meshgrid(*[np.arange(0, 256, 3)] * 3)
    on_half = (65481 * r + 128553 * g + 24966 * b) % 255_000 == 127_500
    colours = np.stack([r[on_half], g[on_half], b[on_half]])
    assert colours.shape[1] > 3
    image = torch.from_numpy(colours).float()[None, :, None] / 255
    exact = (colours * [[65481], [128553], [24966]]).sum(0) / 255_000 + 16.5
    assert np.array_equal(planes(image, "y8").numpy().ravel(), np.rint(exact))


def test_shaving_keeps_the_middle():
    x = torch.arange(7 * 9).view(1, 1, 7, 9)
    assert torch.equal(shaved(x, 2), x[..., 2:5, 2:7])
    assert torch.equal(shaved(x, 0), x)
    assert shaved(x, 4).numel() == 0
