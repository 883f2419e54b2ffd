"""Degradations: PIL's to the bit, the tensor one against a slow float64 formulation."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from restore.data.degradation import PilBicubic, TensorBicubic
from restore.errors import UserError
from restore.types import Sample
from tests.helpers.pictures import chw, down_up, hwc, photo, resized

shape = st.tuples(st.integers(1, 9), st.integers(1, 9))


def noise(height: int, width: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@settings(max_examples=40, deadline=None)
@given(low=shape, ref=shape, scale=st.sampled_from([1, 2, 3, 4, 8]), seed=st.integers(0, 2**31))
def test_pil_bicubic_to_the_bit(low, ref, scale, seed):
    target = noise(low[0] * scale, low[1] * scale, seed)
    reference = noise(ref[0] * scale, ref[1] * scale, seed + 1)
    sample = Sample(key="a", target=chw(target), reference=chw(reference))
    out = PilBicubic().worker(sample, scale)
    expected = down_up(target, scale)
    np.testing.assert_array_equal(hwc(out["low"]), expected[0])
    np.testing.assert_array_equal(hwc(out["low_up"]), expected[1])
    np.testing.assert_array_equal(hwc(out["reference_low_up"]), down_up(reference, scale)[1])
    np.testing.assert_array_equal(hwc(out["target"]), target)
    assert "low" not in sample, "the sample that came in was changed"
    assert PilBicubic().device({"anything": 1}, scale) == {"anything": 1}


@pytest.mark.parametrize("name", ["astronaut", "chelsea", "coffee"])
def test_pil_bicubic_on_photos(name):
    target = photo(name, 120, 96)
    out = PilBicubic().worker(Sample(key="a", target=chw(target)), 4)
    np.testing.assert_array_equal(hwc(out["low_up"]), down_up(target, 4)[1])
    assert "reference_low_up" not in out


def test_a_low_picture_that_is_given_stays():
    target, low = noise(16, 24, 0), noise(4, 6, 1)
    out = PilBicubic().worker(Sample(key="a", target=chw(target), low=chw(low)), 4)
    np.testing.assert_array_equal(hwc(out["low"]), low)
    np.testing.assert_array_equal(hwc(out["low_up"]), resized(low, 16, 24))


def test_without_a_target_the_low_picture_is_enlarged():
    low, reference = noise(5, 7, 1), noise(18, 13, 2)
    out = PilBicubic().worker(Sample(key="a", low=chw(low), reference=chw(reference)), 4)
    np.testing.assert_array_equal(hwc(out["low_up"]), resized(low, 20, 28))
    np.testing.assert_array_equal(hwc(out["reference_low_up"]), down_up(reference, 4)[1])


@pytest.mark.parametrize("kind", [PilBicubic(), TensorBicubic()])
def test_sizes_that_do_not_fit(kind):
    def degraded(**pictures):
        if isinstance(kind, PilBicubic):
            return kind.worker(Sample(key="rock", **pictures), 4)
        batch = {name: picture[None].float() / 255 for name, picture in pictures.items()}
        return kind.device({"key": ["rock"], **batch}, 4)

    with pytest.raises(UserError, match=r"rock.*10×8 pixels do not divide by the scale 4"):
        degraded(target=chw(noise(8, 10, 0)))
    with pytest.raises(UserError, match=r"rock.*\(3×2\) times 4.*\(8×8\)"):
        degraded(target=chw(noise(8, 8, 0)), low=chw(noise(2, 3, 0)))


def keys(x: float, a: float = -0.5) -> float:
    """Cubic convolution (Keys 1981, eq. 4 with the free parameter a)."""
    x = abs(x)
    if x < 1:
        return (a + 2) * x**3 - (a + 3) * x**2 + 1
    return a * (x**3 - 5 * x**2 + 8 * x - 4) if x < 2 else 0.0


def matrix(size: int, new: int) -> np.ndarray:
    """The resizing of one side as a matrix: the kernel widened when shrinking, cut at the edges."""
    ratio = size / new
    wide = max(1.0, ratio)
    weights = np.array(
        [[keys((j + 0.5 - (i + 0.5) * ratio) / wide) for j in range(size)] for i in range(new)]
    )
    return weights / weights.sum(axis=1, keepdims=True)


def slow(picture: np.ndarray, height: int, width: int) -> np.ndarray:
    """Bicubic of CHW float64."""
    rows, columns = matrix(picture.shape[1], height), matrix(picture.shape[2], width)
    return np.clip(rows @ picture @ columns.T, 0, 1)


@settings(max_examples=40, deadline=None)
@given(low=shape, ref=shape, scale=st.sampled_from([1, 2, 3, 4]), seed=st.integers(0, 2**31))
def test_tensor_bicubic_against_a_slow_formulation(low, ref, scale, seed):
    rng = np.random.default_rng(seed)
    target = rng.random((3, low[0] * scale, low[1] * scale))
    reference = rng.random((3, ref[0] * scale, ref[1] * scale))
    batch = {
        "key": ["a"],
        "target": torch.from_numpy(target)[None],
        "reference": torch.from_numpy(reference)[None],
    }
    out = TensorBicubic().device(batch, scale)
    expected = slow(target, *low)
    np.testing.assert_allclose(out["low"][0].numpy(), expected, atol=1e-9)
    up = slow(expected, *target.shape[1:])
    np.testing.assert_allclose(out["low_up"][0].numpy(), up, atol=1e-9)
    up = slow(slow(reference, *ref), *reference.shape[1:])
    np.testing.assert_allclose(out["reference_low_up"][0].numpy(), up, atol=1e-9)
    assert TensorBicubic().worker(Sample(key="a"), scale) == {"key": "a"}


def test_both_kinds_agree_but_for_the_rounding():
    target = chw(photo("coffee", 96, 64))
    eight = PilBicubic().worker(Sample(key="a", target=target), 4)
    smooth = TensorBicubic().device({"key": ["a"], "target": target[None].float() / 255}, 4)
    for name, levels in (("low", 1.01), ("low_up", 2.0)):
        difference = (smooth[name][0] * 255 - eight[name].float()).abs().max()
        assert difference <= levels, name
