"""Losses of matching against the same written out position by position."""

import math

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from restore.errors import UserError
from restore.images import warp
from restore.losses.correspondence import Correspondence, true_places
from restore.losses.triplet import Distillation, Triplet
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


KINDS = st.sampled_from(["any", "alike", "columns", "zero"])
DISTILLATION = Distillation("random")


def drawn(rng: np.random.Generator, kind: str, *shape: int) -> torch.Tensor:
    """Unit vectors in double precision: any, all alike, alike in each column, or zeros."""
    vectors = torch.from_numpy(rng.standard_normal(shape)) * (kind != "zero")
    part = {"alike": vectors[..., :1, :1], "columns": vectors[..., :1, :]}.get(kind, vectors)
    return torch.nn.functional.normalize(part.expand(shape), dim=1).clone().requires_grad_()


def known_points(places, key, border):
    """Of each position whose place lies inside the reference: its number, and the place."""
    rows, columns = key.shape[1:]
    return [
        (number, (min(round(x), columns - 1), min(round(y), rows - 1)))
        for number, (x, y) in enumerate(places.tolist())
        if border < x < columns - border and border < y < rows - border
    ]


def far(one, other, radius):
    return max(abs(one[0] - other[0]), abs(one[1] - other[1])) > radius


def plain_triplet(query, key, points, margin, radius):
    """Each point by itself: its distance, and that to everything that is false for it."""
    _, H, W = query.shape
    vectors = {(x, y): query[:, y, x] for y in range(H) for x in range(W)}
    total = 0 * query.sum()
    for number, (x, y) in points:
        here = (number % W, number // W)
        false = [
            2 - 2 * vectors[here] @ key[:, row, column]
            for _, (column, row) in points
            if far((column, row), (x, y), radius)
        ]
        false += [2 - 2 * key[:, y, x] @ v for at, v in vectors.items() if far(at, here, radius)]
        if false:
            excess = margin + 2 - 2 * vectors[here] @ key[:, y, x] - min(false)
            total = total + excess * (excess > 0)
    return total / len(points)


def plain_divergence(student, teacher, points, temperature):
    """Each point by itself: Σ p log(p / q) over all points' places."""
    total = 0 * student[0].sum()
    for number, _ in points:
        chances = []
        for query, key in (student, teacher):
            vector = query.flatten(1)[:, number]
            shares = [(vector @ key[:, y, x] / temperature).exp() for _, (x, y) in points]
            chances.append([share / sum(shares) for share in shares])
        total = total + sum(p * (p / q).log() for q, p in zip(*chances))
    return total / len(points)


@settings(max_examples=20, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    sizes=st.tuples(st.integers(1, 2), st.integers(2, 5), *[st.integers(1, 5)] * 4),
    kind=KINDS,
    border=st.sampled_from([0.0, 0.8]),
    margin=st.sampled_from([0.0, 1.0, 9.0]),
    radius=st.integers(0, 3),
    least=st.integers(1, 5),
)
@example(0, (1, 3, 3, 3, 4, 4), "any", 0.0, 9.0, 3, 1)  # nothing is false
def test_terms_of_known_points_equal_the_sum_over_them(
    seed, sizes, kind, border, margin, radius, least
):
    rng = np.random.default_rng(seed)
    images, channels, H, W, rows, columns = sizes
    student, teacher = (
        (
            drawn(rng, kind, images, channels, H, W),
            drawn(rng, kind, images, channels, rows, columns),
        )
        for _ in range(2)
    )
    places = torch.from_numpy(rng.uniform(-1, 6, (images, H * W, 2)))
    triplets, divergences = [0 * student[0].sum()], [0 * student[0].sum()]
    for image in range(images):
        points = known_points(places[image], student[1][image], border)
        if len(points) >= least:
            own, other = ([x[image] for x in vectors] for vectors in (student, teacher))
            triplets.append(plain_triplet(*own, points, margin, radius))
            divergences.append(plain_divergence(own, other, points, DISTILLATION.temperature))
    DISTILLATION.least = least
    for value, terms in (
        (Triplet(margin, radius, border, least).measured(*student, places, border), triplets),
        (DISTILLATION.measured(student, teacher, places, border), divergences),
    ):
        expected = sum(terms) / max(1, len(terms) - 1)
        torch.testing.assert_close(value, expected, rtol=1e-9, atol=1e-9)
        found, wanted = (
            torch.autograd.grad(x, student, allow_unused=True, materialize_grads=True)
            for x in (value, expected)
        )
        assert all(gradient.isfinite().all() for gradient in found)
        if kind == "any":  # else several are the most alike
            torch.testing.assert_close(found, wanted, rtol=1e-7, atol=1e-9)


def test_vectors_are_compared_in_full_precision():
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((1, 64, 1, 1)) + 0.05 * rng.standard_normal((2, 64, 12, 12))
    query, key = torch.nn.functional.normalize(torch.from_numpy(vectors).float(), dim=1).split(1)
    image, same = torch.zeros(1, 3, 48, 48), torch.eye(3)[None]
    problem = Problem({"low_up": image}, image, ["a"], homography=same)
    restored = Restoration(image, query=query, key=key, sharpness=torch.tensor(7.0))
    places, DISTILLATION.least = true_places(same, 12, 12, 4, 0.0).float(), 128
    values = []
    for half in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            values.append(
                [
                    Correspondence()(restored, problem, {}),
                    Triplet(0.0, 1, 0.0)(restored, problem, {}),
                    DISTILLATION.measured((query, key), (key, query.roll(1, 2)), places, -1.0),
                ]
            )
    torch.testing.assert_close(values[1], values[0], rtol=1e-5, atol=0)
