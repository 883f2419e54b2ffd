"""Filling without training: the libraries' own results, and exemplars as an exhaustive search."""

import cv2
import numpy as np
import pytest
import skimage.data
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.restoration import inpaint_biharmonic

from restore.config import registry
from restore.errors import UserError
from restore.inference.inpainting.exemplar import Exemplar, Patches, doubled, halved, touching
from restore.inference.inpainting.membrane import Membrane
from tests.helpers.pictures import chw, photo

NAMES = ["biharmonic", "exemplar", "navier_stokes", "telea"]


def scene(seed: int, height: int = 36, width: int = 44) -> tuple[torch.Tensor, torch.Tensor]:
    """A part of a photo, and holes of two boxes, one of them at the edge."""
    rng = np.random.default_rng(seed)
    top, left = rng.integers(0, 400, 2)
    picture = skimage.data.astronaut()[top : top + height, left : left + width]
    hole = torch.zeros(height, width, dtype=torch.bool)
    y, x = rng.integers(2, 20, 2)
    hole[y : y + 9, x : x + 11] = True
    hole[-4:, : rng.integers(3, 20)] = True
    return chw(picture).float() / 255, hole


def test_all_are_there_by_name():
    assert registry.names("method") == NAMES


@pytest.mark.parametrize("seed", [0, 1])
def test_biharmonic_is_scikit_images(seed):
    picture, hole = scene(seed)
    ours = registry.build("method", "biharmonic", command="compare").fill(picture, hole, None)
    array = picture.double().permute(1, 2, 0).numpy().copy()
    array[hole.numpy()] = 0
    theirs = inpaint_biharmonic(array, hole.numpy(), channel_axis=-1)
    expected = torch.from_numpy(np.clip(theirs, 0, 1)).permute(2, 0, 1).float()
    assert torch.allclose(ours, expected, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "flag"), [("telea", cv2.INPAINT_TELEA), ("navier_stokes", cv2.INPAINT_NS)]
)
@pytest.mark.parametrize("radius", [2.0, 5.0])
def test_opencvs_own(name, flag, radius):
    picture, hole = scene(2)
    ours = registry.build("method", name, f"method.radius={radius}", command="compare")
    array = np.rint(picture.permute(1, 2, 0).numpy() * 255).astype(np.uint8)
    array[hole.numpy()] = 0
    theirs = cv2.inpaint(array, hole.numpy().astype(np.uint8), radius, flag)
    found = (ours.fill(picture, hole, None) * 255).round().byte()
    assert torch.equal(found, chw(theirs))


@pytest.mark.parametrize("name", NAMES)
def test_what_lies_in_holes_is_not_looked_at_and_what_lies_outside_stays(name):
    inpainter = registry.build("method", name, command="compare")
    picture, hole = scene(3)
    reference = scene(4)[0]
    found = inpainter.fill(picture, hole, reference)
    other = torch.where(hole, torch.rand(picture.shape), picture)
    assert torch.equal(inpainter.fill(other, hole, reference), found)
    assert torch.equal(found[:, ~hole], picture[:, ~hole])
    assert found.min() >= 0
    assert found.max() <= 1
    assert torch.isfinite(found).all()
    assert torch.equal(inpainter.fill(picture, hole & False, reference), picture)
    with pytest.raises(UserError, match="hole covers the whole picture"):
        inpainter.fill(picture, hole | True, reference)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 3), st.integers(12, 20), st.integers(12, 20))
def test_the_nearest_patch_is_that_of_an_exhaustive_search(seed, radius, height, width):
    rng = np.random.default_rng(seed)
    picture = rng.random((3, height, width), np.float32)
    trust = rng.random((height, width), np.float32)
    trust[rng.random((height, width)) < 0.3] = 0
    reference = rng.random((3, width, height), np.float32)
    places = np.stack([rng.integers(0, height, 8), rng.integers(0, width, 8)], 1)
    patches = Patches(torch.from_numpy(reference), radius)
    found = patches.nearest(
        torch.from_numpy(picture), torch.from_numpy(trust), torch.from_numpy(places)
    )

    def distance(place: np.ndarray, middle: tuple[int, int]) -> float:
        total = 0.0
        for dy in range(-radius, radius + 1):
            for dx in range(-radius, radius + 1):
                y, x = place[0] + dy, place[1] + dx
                if 0 <= y < height and 0 <= x < width:
                    gap = picture[:, y, x] - reference[:, middle[0] + dy, middle[1] + dx]
                    total += float(trust[y, x]) * float(np.square(gap.astype(np.float64)).sum())
        return total

    middles = [
        (y, x) for y in range(radius, width - radius) for x in range(radius, height - radius)
    ]
    for place, middle in zip(places, found.tolist()):
        assert tuple(middle) in middles
        best = min(distance(place, other) for other in middles)
        assert distance(place, tuple(middle)) == pytest.approx(best, abs=1e-4)


def test_laid_patches_average_where_they_overlap():
    reference = torch.rand(3, 9, 10)
    places = torch.tensor([[0, 0], [2, 1], [4, 6]])
    matched = torch.tensor([[1, 1], [5, 5], [7, 8]])
    colours, there = Patches(reference, 1).laid(places, matched, 6, 7)
    total, count = np.zeros((3, 6, 7)), np.zeros((6, 7))
    for (y, x), (v, u) in zip(places.tolist(), matched.tolist()):
        for dy in (-1, 0, 1):
            for dx in (-1, 0, 1):
                if 0 <= y + dy < 6 and 0 <= x + dx < 7:
                    total[:, y + dy, x + dx] += reference[:, v + dy, u + dx].numpy()
                    count[y + dy, x + dx] += 1
    assert np.array_equal(there.numpy(), count > 0)
    assert np.allclose(colours.numpy(), total / np.maximum(count, 1), atol=1e-6)


@pytest.mark.parametrize(("down", "right"), [(16, 8), (13, 9)])
def test_a_reference_that_shows_what_is_missing_brings_it_back(down, right):
    whole = chw(photo("chelsea", height=120, width=120, at=150)).float() / 255
    picture, reference = whole[:, :88, :84], whole[:, down:, right:]
    hole = torch.zeros(88, 84, dtype=torch.bool)
    hole[40:60, 30:52] = True

    def error(name: str, reference: torch.Tensor) -> float:
        inpainter = registry.build("method", name, command="compare")
        found = inpainter.fill(picture, hole, reference)
        return (found - picture)[:, hole].square().mean().item()

    smooth = error("biharmonic", reference)
    assert error("exemplar", reference) < 0.5 * smooth
    # In other light, too: what differs around the hole is taken off inside.
    assert error("exemplar", reference * 0.9 + 0.02) < 0.6 * smooth


@pytest.mark.parametrize("size", [(7, 7), (9, 30), (31, 17)])
def test_exemplars_of_any_size(size):
    picture, reference = torch.rand(3, *size), torch.rand(3, 8, 11)
    hole = torch.zeros(size, dtype=torch.bool)
    hole[1:, 1:] = True  # all but the first row and column
    found = Exemplar().fill(picture, hole, reference)
    assert torch.isfinite(found).all()
    assert (found[:, hole] != 0).float().mean() > 0.9
    with pytest.raises(UserError, match="reference is 11×6, smaller than a patch"):
        Exemplar().fill(picture, hole, reference[:, :6])


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**31), st.integers(3, 9), st.integers(3, 9))
def test_the_membrane_is_the_mean_of_its_neighbours(seed, height, width):
    rng = np.random.default_rng(seed)
    hole = rng.random((height, width)) < 0.5
    hole[0, 0] = False
    hole[1, 1] = True
    values = rng.random((2, height, width), np.float32)
    found = Membrane(torch.from_numpy(hole)).over(torch.from_numpy(values)).numpy()
    assert np.array_equal(found[:, ~hole], values[:, ~hole])
    for y, x in np.argwhere(hole):
        near = [(y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)]
        near = [(v, u) for v, u in near if 0 <= v < height and 0 <= u < width]
        mean = np.mean([found[:, v, u] for v, u in near], axis=0)
        assert np.allclose(found[:, y, x], mean, atol=1e-5)


def test_half_and_double():
    hole = torch.zeros(5, 6, dtype=torch.bool)
    hole[0, 1] = hole[4, 5] = True
    picture = torch.rand(3, 5, 6)
    small, holes = halved(picture, hole)
    assert holes.nonzero().tolist() == [[0, 0], [2, 2]]
    assert torch.allclose(small[:, 1, 1], picture[:, 2:4, 2:4].mean((1, 2)))
    assert torch.allclose(small[:, 2, 0], picture[:, 4, :2].mean(1))
    places, matched = doubled(torch.tensor([[1, 2]]), torch.tensor([[3, 0]]))
    assert (places - matched).tolist() == [[-4, 4]] * 4
    assert sorted(places.tolist()) == [[2, 4], [2, 5], [3, 4], [3, 5]]
    reached = {(y, x) for y, x in touching(hole, 1).tolist()}
    assert reached == {
        (0, 0),
        (0, 1),
        (0, 2),
        (1, 0),
        (1, 1),
        (1, 2),
        (3, 4),
        (3, 5),
        (4, 4),
        (4, 5),
    }
