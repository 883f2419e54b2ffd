"""Flips, quarter turns, crops and padding against numpy."""

from collections import Counter

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from restore.images.augment import corner, cropped, padded, turn, turned
from tests.helpers.pictures import coordinates

side = st.integers(1, 9)
HOWS = [(bool(a), bool(b), k) for a in (0, 1) for b in (0, 1) for k in range(4)]


@settings(max_examples=40, deadline=None)
@given(size=st.tuples(side, side), how=st.sampled_from(HOWS))
def test_turned_is_fliplr_then_flipud_then_rot90(size, how):
    picture = coordinates(*size)
    array = picture.numpy().transpose(1, 2, 0)
    across, along, quarters = how
    array = np.fliplr(array) if across else array
    array = np.flipud(array) if along else array
    expected = np.rot90(array, quarters).transpose(2, 0, 1)
    got = turned(picture, how)
    assert got.is_contiguous()
    np.testing.assert_array_equal(got.numpy(), expected)


def test_the_turns_are_the_eight_symmetries_of_a_square_equally_often():
    picture = coordinates(3, 3)
    seen = Counter(tuple(turned(picture, how).flatten().tolist()) for how in HOWS)
    array = picture.numpy()
    symmetries = {
        tuple(np.rot90(side, k, (1, 2)).flatten().tolist())
        for side in (array, array[:, :, ::-1])
        for k in range(4)
    }
    assert len(symmetries) == 8
    assert seen == dict.fromkeys(symmetries, 2)


def test_every_turn_is_drawn_equally_often():
    rng = np.random.default_rng(0)
    drawn = Counter(turn(rng) for _ in range(3200))
    assert set(drawn) == set(HOWS)
    # 200 each are expected; 5 standard deviations are 68.
    assert all(abs(count - 200) < 70 for count in drawn.values())


@settings(max_examples=40, deadline=None)
@given(
    size=st.integers(1, 40),
    crop=st.integers(1, 50),
    step=st.integers(1, 6),
    seed=st.integers(0, 2**31),
)
def test_corners_lie_inside_on_the_grid(size, crop, step, seed):
    place = corner(size, crop, step, np.random.default_rng(seed))
    assert place % step == 0
    assert 0 <= place <= max(0, size - crop)


def test_every_corner_is_reached():
    rng = np.random.default_rng(0)
    assert {corner(23, 10, 4, rng) for _ in range(200)} == {0, 4, 8, 12}
    assert {corner(13, 10, 1, rng) for _ in range(200)} == {0, 1, 2, 3}


@settings(max_examples=40, deadline=None)
@given(size=st.tuples(side, side), box=st.tuples(*[st.integers(0, 12)] * 4))
def test_cropped_leaves_out_what_lies_outside(size, box):
    picture = coordinates(*size)
    top, left, height, width = box
    expected = [
        [(r, c) for c in range(size[1]) if left <= c < left + width]
        for r in range(size[0])
        if top <= r < top + height
    ]
    got = cropped(picture, *box)
    assert got.shape[1] == len(expected)
    assert [[tuple(got[:2, r, c].tolist()) for c in range(got.shape[2])]
            for r in range(got.shape[1])] == expected  # fmt: skip


@settings(max_examples=40, deadline=None)
@given(size=st.tuples(side, side), more=st.tuples(st.integers(0, 5), st.integers(0, 5)))
def test_padded_puts_the_picture_top_left_on_black(size, more):
    picture = coordinates(*size) + 1
    height, width = size[0] + more[0], size[1] + more[1]
    expected = np.zeros((3, height, width), np.uint8)
    expected[:, : size[0], : size[1]] = picture
    got = padded(picture, height, width)
    assert got.dtype == torch.uint8
    np.testing.assert_array_equal(got.numpy(), expected)
