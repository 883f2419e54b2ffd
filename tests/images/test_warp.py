"""Views through homographies: against functions known everywhere, turns, and scikit-image."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage
from skimage import transform

from restore.images import warp
from restore.images.augment import turned
from tests.helpers.pictures import photo


def waves(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Three slow waves in [0, 1], known at every real place."""
    return np.stack(
        [
            0.5 + 0.4 * np.sin(x / 9 + y / 23),
            0.5 + 0.4 * np.cos(x / 17 - y / 11),
            0.5 + 0.4 * np.sin(y / 13) * np.cos(x / 19),
        ]
    )


def wavy(height: int, width: int) -> torch.Tensor:
    rows, columns = np.mgrid[0:height, 0:width]
    return torch.from_numpy(waves(columns, rows)).float()


def somewhat(rng: np.random.Generator, size: float) -> np.ndarray:
    """A homography whose views of 40×48 lie within a picture of 160×160."""
    ends = np.array([[0, 0], [47, 0], [47, 39], [0, 39]], float)
    angle = rng.uniform(-math.pi, math.pi)
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    corners = (ends - ends.mean(0)) @ turn * size + 80 + rng.uniform(-4, 4, (4, 2))
    return warp.from_points(ends, corners)


@given(seed=st.integers(0, 10**6), size=st.floats(0.4, 1.15))
def test_a_view_shows_what_lies_at_the_mapped_place(seed, size):
    matrix = somewhat(np.random.default_rng(seed), size)
    seen = warp.view(wavy(160, 160), matrix, 40, 48).numpy()
    rows, columns = np.mgrid[0:40, 0:48]
    there = warp.mapped(matrix, np.stack([columns.ravel(), rows.ravel()], 1).astype(float))
    expected = waves(there[:, 0], there[:, 1]).reshape(3, 40, 48)
    assert np.abs(seen - expected).max() < 4e-3


@given(seed=st.integers(0, 10**6), size=st.floats(1.3, 2.2))
def test_a_view_of_a_larger_part_takes_means(seed, size):
    rng = np.random.default_rng(seed)
    matrix = somewhat(rng, size)
    noise = torch.from_numpy(rng.random((3, 160, 160), np.float32))
    seen = warp.view(noise, matrix, 40, 48)
    # Of independent values a single lookup keeps most of the spread; a mean over pixels loses it.
    assert seen.std() < 0.75 * noise.std()
    assert seen.mean() == pytest.approx(0.5, abs=0.02)


@given(
    height=st.integers(3, 9),
    width=st.integers(3, 9),
    across=st.booleans(),
    along=st.booleans(),
    quarters=st.integers(0, 3),
)
def test_turning_is_that_of_augmentation(height, width, across, along, quarters):
    start = torch.rand(3, height, width, generator=torch.Generator().manual_seed(0))
    how = (across, along, quarters)
    expected = turned(start, how)
    back = np.linalg.inv(warp.turning(height, width, how))
    seen = warp.view(start, back, *expected.shape[-2:])
    torch.testing.assert_close(seen, expected, atol=1e-5, rtol=0)


def test_like_scikit_image_on_a_smooth_picture():
    rng = np.random.default_rng(3)
    rough = photo(height=160, width=160) / 255
    smooth = ndimage.gaussian_filter(rough, (3, 3, 0)).astype(np.float32)
    matrix = somewhat(rng, 0.8)
    there = transform.warp(smooth, transform.ProjectiveTransform(matrix), output_shape=(40, 48))
    seen = warp.view(torch.from_numpy(smooth).permute(2, 0, 1), matrix, 40, 48)
    # scikit-image interpolates linearly here.
    assert np.abs(seen.permute(1, 2, 0).numpy() - there).max() < 0.01


def test_homographies_take_points_where_they_were_told():
    rng = np.random.default_rng(5)
    start = np.array([[0, 0], [9, 0], [9, 7], [0, 7]], float)
    end = start + rng.uniform(-1, 1, (4, 2))
    np.testing.assert_allclose(warp.mapped(warp.from_points(start, end), start), end, atol=1e-9)
    np.testing.assert_allclose(
        warp.mapped(warp.translation(2, -3), start), start + np.array([2, -3])
    )
