"""Smooth filling of holes, beside the same written out for whole pictures."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from restore.images.filling import blended, filled


def laplacian(height: int, width: int) -> np.ndarray:
    """Each pixel less the mean of its four neighbours, the last pixels again beyond the edge."""
    number = np.arange(height * width).reshape(height, width)
    around = np.pad(number, 1, mode="edge")
    matrix = np.eye(height * width)
    for beside in (around[:-2, 1:-1], around[2:, 1:-1], around[1:-1, :-2], around[1:-1, 2:]):
        np.add.at(matrix, (number.ravel(), beside.ravel()), -0.25)
    return matrix


def membrane(x: np.ndarray, hole: np.ndarray) -> np.ndarray:
    """Coarse to fine: means of known pixels, interpolated back and relaxed four times; HW."""
    height, width = x.shape
    if height == width == 1:
        return np.where(hole, 0.5, x)
    rows, columns = (np.arange(0, side, 2) for side in x.shape)
    counted = np.add.reduceat(np.add.reduceat(1.0 - hole, rows, 0), columns, 1)
    added = np.add.reduceat(np.add.reduceat(np.where(hole, 0, x), rows, 0), columns, 1)
    coarse = membrane(added / np.maximum(counted, 1e-9), counted == 0)
    for axis, side in enumerate(x.shape):
        # Middles of pixels on the coarse axis; beyond its ends its last pixels.
        ratio = coarse.shape[axis] / side
        at = np.maximum((np.arange(side) + 0.5) * ratio - 0.5, 0)
        low = np.floor(at).astype(int)
        high = np.minimum(low + 1, coarse.shape[axis] - 1)
        share = (at - low)[:, None] if axis == 0 else at - low
        coarse = coarse.take(low, axis) * (1 - share) + coarse.take(high, axis) * share
    result = np.where(hole, coarse, x)
    means = np.eye(x.size) - laplacian(height, width)
    for _ in range(4):
        result = np.where(hole, (means @ result.ravel()).reshape(x.shape), x)
    return result


def biharmonic(start: np.ndarray, hole: np.ndarray) -> np.ndarray:
    """24 steps of conjugate gradients for the square of the Laplacian in the holes; HW."""
    square = np.linalg.matrix_power(laplacian(*start.shape), 2)
    inside = hole.ravel()
    matrix = square[np.ix_(inside, inside)]
    x = start.ravel()[inside]
    rest = -(square @ start.ravel())[inside]
    way = rest
    for _ in range(24):
        if rest @ rest < 1e-24:
            break
        step = (rest @ rest) / (way @ matrix @ way)
        x, left = x + step * way, rest - step * (matrix @ way)
        way, rest = left + (left @ left) / (rest @ rest) * way, left
    result = start.copy()
    known = start[~hole]
    result[hole] = x.clip(known.min(), known.max()) if known.size else 0.5
    return result


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    height=st.integers(1, 19),
    width=st.integers(1, 19),
    share=st.floats(0.05, 0.8),
)
def test_equals_the_plain_formulation(seed, height, width, share):
    rng = np.random.default_rng(seed)
    pictures = rng.random((2, 3, height, width))
    masks = rng.random((2, 1, height, width)) < share
    made = filled(torch.from_numpy(pictures), torch.from_numpy(masks))
    for result, picture, mask in zip(made, pictures, masks, strict=True):
        for got, channel in zip(result, picture, strict=True):
            expected = channel
            if mask.any():
                expected = biharmonic(membrane(channel, mask[0]), mask[0])
            np.testing.assert_allclose(got, expected, atol=2e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_slope_goes_on_across_a_hole(dtype):
    """The biharmonic surface of a plane is the plane; a mean of neighbours alone is not enough."""
    plane = torch.linspace(0, 1, 32, dtype=dtype).expand(1, 3, 32, 32) * 0.6 + 0.2
    mask = torch.zeros(1, 1, 32, 32, dtype=torch.bool)
    mask[..., 10:14, 6:26] = True
    result = filled(torch.where(mask, torch.nan, plane), mask)
    assert result.dtype == dtype
    torch.testing.assert_close(result, plane, atol=1e-3, rtol=0)


def test_values_stay_within_the_known_ones():
    """Cases that a smoothed start, itself one rounding off, let through; and many more."""
    cases = [(70068, 13, 24), *((seed, 1 + seed % 17, 1 + seed * 7 % 23) for seed in range(120))]
    for seed, height, width in cases:
        rng = np.random.default_rng(seed)
        picture = torch.from_numpy(rng.random((1, 3, height, width), np.float32))
        mask = torch.from_numpy(rng.random((1, 1, height, width)) < rng.random())
        result = filled(picture, mask)
        if mask.all():
            assert (result == 0.5).all()
            continue
        known = picture[0][:, ~mask[0, 0]]
        assert (result[0].amin((1, 2)) >= known.amin(1)).all(), seed
        assert (result[0].amax((1, 2)) <= known.amax(1)).all(), seed


def test_a_constant_is_filled_with_itself():
    for seed in range(60):
        rng = np.random.default_rng(seed)
        sides = rng.integers(1, 30, 2)
        constant = torch.from_numpy(rng.random((1, 3, 1, 1), np.float32)).expand(1, 3, *sides)
        mask = torch.from_numpy(rng.random((1, 1, *sides)) < rng.random())
        mask[..., 0, 0] = False
        assert torch.equal(filled(torch.where(mask, torch.nan, constant), mask), constant), seed


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32), border=st.integers(0, 4))
def test_blending_stays_between_the_two(seed: int, border: int):
    rng = np.random.default_rng(seed)
    inside, outside = torch.from_numpy(rng.random((2, 1, 3, 19, 23), np.float32))
    if seed % 2:  # nearly alike, where rounding shows
        inside = outside + (inside - 0.5) * 1e-6
    mask = torch.from_numpy(rng.random((1, 1, 19, 23)) < 0.1).float()
    result = blended(inside, outside, mask, border)
    assert (result >= torch.minimum(inside, outside)).all()
    assert (result <= torch.maximum(inside, outside)).all()
    assert torch.equal(result[mask.expand_as(result) > 0], inside[mask.expand_as(result) > 0])
    assert torch.equal(blended(inside, inside, mask, border), inside)
