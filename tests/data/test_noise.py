"""Each kind of noise against its theory, and drawn the same when drawn again."""

import io
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from restore.config import registry
from restore.data.noise import Gaussian, Jpeg, Poisson, Speckle
from restore.errors import UserError

LEVELS = (0.1, 0.35, 0.8)
SIDE = 400  # a variance from 3·SIDE² draws is within 1 % in all but one of a hundred thousand cases


def flat(level: float) -> torch.Tensor:
    return torch.full((3, SIDE, SIDE), level)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize(
    ("noise", "variance"),
    [
        (Gaussian(0.07), lambda x: 0.07**2),
        (Gaussian(0.5), lambda x: 0.25),
        (Speckle(0.2), lambda x: (0.2 * x) ** 2),
        (Poisson(30.0), lambda x: x / 30),
        (Poisson(1000.0), lambda x: x / 1000),
    ],
)
def test_mean_and_variance_at_each_signal(noise, variance, level):
    noisy = noise(flat(level), rng()).double()
    expected = variance(level)
    assert noisy.mean().item() == pytest.approx(level, abs=5 * (expected / noisy.numel()) ** 0.5)
    assert noisy.var().item() == pytest.approx(expected, rel=0.015)


@pytest.mark.parametrize("noise", [Gaussian(0.1), Speckle(0.3), Poisson(50.0)])
def test_pixels_and_channels_are_independent(noise):
    left = noise(flat(0.5), rng()).double() - 0.5
    left /= left.std()
    for other in (left.roll(1, -1), left.roll(1, -2), left.roll(1, 0), left.roll(3, -1)):
        assert abs((left * other).mean().item()) < 5 / left.numel() ** 0.5


@pytest.mark.parametrize("noise", [Gaussian(0.1), Speckle(0.3)])
def test_normal_noise_is_normal(noise):
    drawn = noise(flat(0.5), rng()).double() - 0.5
    drawn /= drawn.std()
    assert abs((drawn**3).mean().item()) < 0.03
    assert (drawn**4).mean().item() == pytest.approx(3, abs=0.05)
    assert drawn.min() < -4
    assert drawn.max() > 4


def test_poisson_counts_photons():
    noisy = Poisson(7.0)(flat(0.4), rng()).double() * 7
    torch.testing.assert_close(noisy, noisy.round(), atol=1e-5, rtol=0)
    shares = torch.bincount(noisy.round().long().flatten(), minlength=20)[:4] / noisy.numel()
    expected = [np.exp(-2.8) * 2.8**k / factorial for k, factorial in enumerate((1, 1, 2, 6))]
    assert shares.tolist() == pytest.approx(expected, abs=0.003)
    below = Poisson(7.0)(torch.full((3, 8, 8), -0.2), rng())
    assert not below.any(), "below black there are no photons"


def test_nothing_is_clipped():
    noisy = Gaussian(0.5)(flat(0.9), rng())
    assert noisy.max() > 2
    assert noisy.min() < -0.5


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 100), st.integers(1, 40), st.integers(1, 40), st.integers(0, 99))
def test_jpeg_equals_pils(quality, height, width, seed):
    array = rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(array).save(file, "JPEG", quality=quality)
    expected = torch.from_numpy(np.array(Image.open(file))).permute(2, 0, 1)
    picture = torch.from_numpy(array).permute(2, 0, 1)
    for given_as in (picture, picture.float() / 255):
        made = Jpeg(quality)(given_as, rng())
        assert made.dtype == torch.uint8
        assert torch.equal(made, expected)


def test_jpeg_takes_values_beyond_white():
    beyond = torch.tensor([-0.4, 1.7]).view(1, 1, 2, 1).expand(3, 1, 2, 16).reshape(3, 2, 16)
    assert torch.equal(Jpeg(90)(beyond, rng()), Jpeg(90)(beyond.clamp(0, 1), rng()))


NAMES = registry.names("noise")


@cache
def built(name: str) -> Any:
    return registry.build("noise", name, "degradation=noisy")


@pytest.mark.parametrize("name", NAMES)
def test_the_same_generator_gives_the_same_noise(name):
    noise = built(name)
    picture = torch.from_numpy(rng(3).integers(0, 256, (3, 24, 40), np.uint8))
    before = picture.clone()
    one, again, other = (noise(picture, rng(seed)) for seed in (5, 5, 6))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    assert torch.equal(picture, before), "the clean picture must stay"
    assert one.shape == picture.shape


@pytest.mark.parametrize("name", NAMES)
def test_bytes_and_floats_get_the_same_noise(name):
    noise = built(name)
    picture = torch.from_numpy(rng(3).integers(0, 256, (3, 24, 40), np.uint8))
    assert torch.equal(noise(picture, rng(5)), noise(picture.float() / 255, rng(5)))


def test_a_range_is_drawn_for_each_picture():
    noise, chance = Gaussian((0.02, 0.2)), rng()
    picture = torch.full((3, 40, 40), 0.5)
    drawn = np.array([noise(picture, chance).std().item() for _ in range(400)])
    assert drawn.min() < 0.025
    assert drawn.max() > 0.195
    assert drawn.mean() == pytest.approx(0.11, abs=0.01)
    assert drawn.std() == pytest.approx(0.18 / 12**0.5, rel=0.1)


def test_a_range_of_qualities_holds_both_ends():
    array = torch.from_numpy(rng().integers(0, 256, (3, 16, 16), np.uint8))
    possible = {q: Jpeg(q)(array, rng()) for q in (20, 21, 22)}
    noise, chance, seen = Jpeg((20, 22)), rng(), set()
    for _ in range(40):
        made = noise(array, chance)
        seen |= {q for q, picture in possible.items() if torch.equal(made, picture)}
    assert seen == {20, 21, 22}


def test_a_range_that_falls_is_refused():
    with pytest.raises(UserError, match=r"noise\.sigma=\[0\.3, 0\.1\]"):
        Gaussian((0.3, 0.1))


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["noise.sigma=-0.1"], "noise.sigma=-0.1"),
        (["noise.sigma=[0.1]"], "noise.sigma"),
        (["noise=poisson", "noise.peak=0"], "noise.peak=0"),
        (["noise=jpeg", "noise.quality=101"], "noise.quality=101"),
        (["noise=salt"], "choose one of blind, gaussian"),
        (["degradation.place=between"], "degradation.place=between"),
    ],
)
def test_mistakes_are_named(overrides, said):
    with pytest.raises(UserError, match=said.replace("[", r"\[")):
        registry.build("degradation", "noisy", *overrides)
