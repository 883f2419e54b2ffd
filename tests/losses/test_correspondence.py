"""The correspondence loss against the same written out position by position."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from restore.errors import UserError
from restore.images import warp
from restore.losses.correspondence import Correspondence, true_places
from restore.types import Problem, Restoration


def unit(rng: np.random.Generator, *shape: int) -> torch.Tensor:
    return torch.nn.functional.normalize(
        torch.from_numpy(rng.standard_normal(shape)).float(), dim=1
    )


def matrix(rng: np.random.Generator, side: int) -> np.ndarray:
    ends = np.array([[0, 0], [side - 1, 0], [side - 1, side - 1], [0, side - 1]], float)
    return warp.from_points(ends, ends + rng.uniform(-side / 5, side / 5, (4, 2)))


def plainly(query, key, matrices, sharpness, step):
    """Each position by itself: the cross-entropy with weights on four places."""
    losses = []
    for image, homography in enumerate(matrices):
        own = []
        _, H, W = query[image].shape
        _, rows, columns = key[image].shape
        for y in range(H):
            for x in range(W):
                at = (np.array([[x, y]]) * step) + (step - 1) / 2
                there = (warp.mapped(homography, at)[0] - (step - 1) / 2) / step
                if not (0 <= there[0] <= columns - 1 and 0 <= there[1] <= rows - 1):
                    continue
                vector = query[image, :, y, x].double()
                likeness = (key[image].double() * vector[:, None, None]).sum(0) * sharpness
                probability = likeness.flatten().softmax(0).view(rows, columns)
                total = 0.0
                for row in range(rows):
                    for column in range(columns):
                        near = max(0, 1 - abs(there[0] - column)) * max(0, 1 - abs(there[1] - row))
                        total -= near * math.log(probability[row, column])
                own.append(total)
        if own:
            losses.append(np.mean(own))
    return np.mean(losses)


@given(seed=st.integers(0, 10**6), height=st.integers(3, 6), width=st.integers(3, 6))
def test_equals_the_sum_over_positions(seed, height, width):
    rng = np.random.default_rng(seed)
    query, key = unit(rng, 2, 5, height, width), unit(rng, 2, 5, height + 1, width + 2)
    matrices = [matrix(rng, 4 * width) for _ in range(2)]
    problem = Problem(
        {"low_up": torch.zeros(2, 3, 4 * height, 4 * width)},
        None,
        ["a", "b"],
        homography=torch.from_numpy(np.stack(matrices)),
    )
    restored = Restoration(torch.zeros(1), query=query, key=key, sharpness=torch.tensor(7.0))
    expected = plainly(query, key, matrices, 7.0, 4)
    assert Correspondence()(restored, problem, {}).item() == pytest.approx(expected, rel=1e-4)


def test_a_reference_of_something_else_does_not_count():
    rng = np.random.default_rng(0)
    query, key = unit(rng, 2, 5, 4, 4).requires_grad_(), unit(rng, 2, 5, 4, 4)
    away, here = warp.translation(1e6, 1e6), np.eye(3)
    inputs = {"low_up": torch.zeros(2, 3, 16, 16)}

    def loss(*matrices):
        stack = torch.from_numpy(np.stack(matrices))
        problem = Problem(inputs, None, ["a", "b"], homography=stack)
        restored = Restoration(torch.zeros(1), query=query, key=key, sharpness=3.0)
        return Correspondence()(restored, problem, {})

    loss(here, away).backward()
    assert query.grad[0].abs().max() > 0
    assert query.grad[1].abs().max() == 0
    assert loss(away, away).item() == 0


def test_places_of_an_unmoved_reference_are_ones_own():
    places = true_places(torch.eye(3, dtype=torch.float64)[None], 3, 4, 4)
    expected = [[x, y] for y in range(3) for x in range(4)]
    np.testing.assert_allclose(places[0].numpy(), expected, atol=1e-12)


def test_what_it_needs_is_said():
    image = torch.zeros(1, 3, 8, 8)
    problem = Problem({"low_up": image}, None, ["a"], homography=torch.eye(3)[None])
    with pytest.raises(UserError, match="backbone=matching"):
        Correspondence()(Restoration(image), problem, {})
    vectors = torch.ones(1, 2, 2, 2)
    restored = Restoration(image, query=vectors, key=vectors)
    with pytest.raises(UserError, match="data=warped"):
        Correspondence()(restored, Problem({"low_up": image}, None, ["a"]), {})
