"""Pairs for reference super-resolution: crops that lie where they should, whole pictures, sizes."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from restore.config import registry
from restore.data.loading import TrainItems
from restore.errors import UserError
from restore.tasks.reference_sr import ReferenceSR, recoloured
from restore.types import Sample
from tests.helpers.pictures import chw, coordinates, down_up, hwc, photo, resized

side = st.integers(4, 40)


def task(*overrides: str, crop: int = 16, reference_crop: int = 16):
    return registry.build(
        "task",
        "reference_sr",
        f"task.crop={crop}",
        f"task.reference_crop={reference_crop}",
        *overrides,
    )


PLAIN = "task.augment=false", "task.jitter=0"
TASKS = {
    "turned": task(),
    "plain": task(*PLAIN),
    "large": task(*PLAIN, crop=24, reference_crop=32),
    "random": task("task.reference_at=random", "task.augment=false"),
    "jitter": task("task.augment=false", "task.jitter=3"),
}


def noise(height: int, width: int, seed: int) -> torch.Tensor:
    rng = np.random.default_rng(seed)
    return torch.from_numpy(rng.integers(0, 256, (3, height, width), dtype=np.uint8))


def place(picture: torch.Tensor) -> tuple[int, int]:
    """Where the top left pixel of a part of `coordinates` comes from."""
    return int(picture[0, 0, 0]), int(picture[1, 0, 0])


@settings(max_examples=40, deadline=None)
@given(size=st.tuples(side, side), reference=st.tuples(side, side), seed=st.integers(0, 2**31))
def test_low_pictures_are_those_of_the_crops(size, reference, seed):
    sample = Sample(key="a", target=noise(*size, seed), reference=noise(*reference, seed + 1))
    item = TASKS["plain"].train_item(sample, np.random.default_rng(seed))
    height, width = (min(16, v // 4 * 4) for v in size)
    target = hwc(item["target"])[:height, :width]
    low, low_up = down_up(target, 4)
    np.testing.assert_array_equal(hwc(item["low"])[: height // 4, : width // 4], low)
    np.testing.assert_array_equal(hwc(item["low_up"])[:height, :width], low_up)
    part = hwc(item["reference"])[: reference[0], : reference[1]]
    got = hwc(item["reference_low_up"])[: reference[0], : reference[1]]
    np.testing.assert_array_equal(got, down_up(part, 4)[1])
    # What a small picture leaves of the crop's square is black.
    assert not item["target"][:, height:].any()
    assert not item["target"][:, :, width:].any()
    for name in ("target", "low", "low_up", "reference", "reference_low_up"):
        assert item[name].shape == ((3, 4, 4) if name == "low" else (3, 16, 16))


@settings(max_examples=40, deadline=None)
@given(
    size=st.tuples(side, side), more=st.tuples(*[st.integers(0, 1)] * 2), seed=st.integers(0, 2**31)
)
def test_a_given_low_picture_is_cropped_and_turned_with_its_target(size, more, seed):
    # Some data sets round the low picture's sides up: the last row and column are then left out.
    rounded = [-(-v // 4) if up else v // 4 for v, up in zip(size, more, strict=True)]
    sample = Sample(
        key="a",
        target=coordinates(*size) + 1,
        low=coordinates(*rounded) + 1,
        reference=coordinates(*size),
    )
    item = TASKS["turned"].train_item(sample, np.random.default_rng(seed))
    there = item["target"][:2].int() - 1
    held = (there >= 0).all(0)
    low = (item["low"][:2].int() - 1).repeat_interleave(4, 1).repeat_interleave(4, 2)
    assert held.sum() == min(16, size[0] // 4 * 4) * min(16, size[1] // 4 * 4)
    assert torch.equal(there[:, held] // 4, low[:, held])
    assert (low[:, ~held] == -1).all()


def test_crops_reach_every_place_on_the_grid():
    sample = Sample(key="a", target=coordinates(26, 33), reference=coordinates(26, 33))
    seen = set()
    for seed in range(200):
        item = TASKS["plain"].train_item(sample, np.random.default_rng(seed))
        seen.add(place(item["target"]))
    assert seen == {(top, left) for top in (0, 4, 8) for left in (0, 4, 8, 12, 16)}


@pytest.mark.parametrize("seed", range(10))
def test_the_same_place_in_the_reference(seed):
    rng = np.random.default_rng(seed)
    sample = Sample(key="a", target=coordinates(90, 70), reference=coordinates(90, 70))
    item = TASKS["plain"].train_item(sample, rng)
    assert torch.equal(item["reference"], item["target"])
    # A reference of another size: the crops' middles lie at the same share of the sides.
    sample["reference"] = coordinates(180, 210)
    item = TASKS["large"].train_item(sample, rng)
    for axis, (own, other) in enumerate(((90, 180), (70, 210))):
        middle = (place(item["target"])[axis] + 12) / own
        start = place(item["reference"])[axis]
        wish = min(max(middle * other - 16, 0), other - 32)
        assert abs(start - wish) <= 0.5


def test_the_same_place_for_a_target_smaller_than_the_crop():
    sample = Sample(key="a", target=coordinates(8, 60), reference=coordinates(80, 60))
    item = TASKS["plain"].train_item(sample, np.random.default_rng(0))
    assert place(item["reference"]) == (40 - 8, place(item["target"])[1])


def test_jitter_moves_the_reference_by_as_much_as_was_said():
    sample = Sample(key="a", target=coordinates(200, 200), reference=coordinates(200, 200))
    offsets = set()
    for seed in range(300):
        item = TASKS["jitter"].train_item(sample, np.random.default_rng(seed))
        target, reference = place(item["target"]), place(item["reference"])
        if all(3 <= at <= 200 - 16 - 3 for at in target):  # away from the edges
            offsets.add((reference[0] - target[0], reference[1] - target[1]))
        assert item["reference"].shape == (3, 16, 16)
    assert offsets == {(y, x) for y in range(-3, 4) for x in range(-3, 4)}


def test_a_reference_from_anywhere():
    sample = Sample(key="a", target=coordinates(20, 20), reference=coordinates(19, 21))
    pairs = set()
    for seed in range(600):
        item = TASKS["random"].train_item(sample, np.random.default_rng(seed))
        pairs.add((place(item["target"]), place(item["reference"])))
    assert {one for one, _ in pairs} == {(y, x) for y in (0, 4) for x in (0, 4)}
    assert {other for _, other in pairs} == {(y, x) for y in range(4) for x in range(6)}
    assert len(pairs) > 90, "the reference's place hangs on the target's"


def test_an_item_is_a_pure_function_and_leaves_its_sample_alone():
    sample = Sample(key="a", target=chw(photo()), reference=chw(photo("coffee")))
    before = {name: sample[name].clone() for name in ("target", "reference")}
    one, other = (TASKS["turned"].train_item(sample, np.random.default_rng(5)) for _ in range(2))
    for name in ("target", "low", "low_up", "reference", "reference_low_up"):
        assert torch.equal(one[name], other[name])
        assert one[name].dtype == torch.uint8
    assert all(torch.equal(sample[name], picture) for name, picture in before.items())
    assert set(sample) == {"key", "target", "reference"}


@settings(max_examples=40, deadline=None)
@given(size=st.tuples(side, side), reference=st.tuples(side, side), seed=st.integers(0, 2**31))
def test_evaluation_takes_the_whole_pictures_to_multiples_of_the_scale(size, reference, seed):
    sample = Sample(key="a", target=noise(*size, seed), reference=noise(*reference, seed + 1))
    item = TASKS["turned"].eval_item(sample)
    arrays = []
    for name, (height, width) in (("target", size), ("reference", reference)):
        arrays.append(hwc(sample[name])[: height // 4 * 4, : width // 4 * 4])
        np.testing.assert_array_equal(hwc(item[name]), arrays[-1])
    low, low_up = down_up(arrays[0], 4)
    np.testing.assert_array_equal(hwc(item["low"]), low)
    np.testing.assert_array_equal(hwc(item["low_up"]), low_up)
    np.testing.assert_array_equal(hwc(item["reference_low_up"]), down_up(arrays[1], 4)[1])


@pytest.mark.parametrize("low", [(5, 7), (6, 8), (5, 8)])
def test_evaluation_of_a_given_low_picture(low):
    sample = Sample(
        key="a", target=noise(23, 30, 0), low=noise(*low, 1), reference=noise(16, 16, 2)
    )
    item = TASKS["plain"].eval_item(sample)
    assert torch.equal(item["low"], sample["low"][:, :5, :7])
    np.testing.assert_array_equal(hwc(item["low_up"]), resized(hwc(item["low"]), 20, 28))
    assert torch.equal(item["target"], sample["target"][:, :20, :28])


@pytest.mark.parametrize("degradation", ["pil_bicubic", "tensor_bicubic"])
@pytest.mark.parametrize("scale", [1, 2, 4])
def test_a_batch_becomes_a_problem(degradation, scale):
    own = task(f"degradation={degradation}", f"task.scale={scale}")
    sample = Sample(key="a", target=chw(photo()), reference=chw(photo("coffee", 30, 50)))
    items = [own.train_item(sample, np.random.default_rng(i)) for i in range(2)]
    batch = {name: torch.stack([i[name] for i in items]) for name in items[0] if name != "key"}
    problem = own.prepare({**batch, "key": ["a", "b"]})
    assert problem.keys == ["a", "b"]
    assert problem.weight is None
    small = (2, 3, 16 // scale, 16 // scale)
    assert {name: tuple(v.shape) for name, v in problem.inputs.items()} == {
        "low": small,
        "low_up": (2, 3, 16, 16),
        "reference": (2, 3, 16, 16),
        "reference_low": small,
        "reference_low_up": (2, 3, 16, 16),
    }
    for picture in [*problem.inputs.values(), problem.target]:
        assert picture.dtype == torch.float32
        assert picture.min() >= 0
        assert 0.1 < picture.max() <= 1
    torch.testing.assert_close(problem.target, batch["target"].float() / 255)
    name, baseline = own.baseline(problem)
    assert name == "bicubic"
    assert torch.equal(baseline, problem.inputs["low_up"])
    if scale == 1:
        torch.testing.assert_close(baseline, problem.target)
    else:
        error = (baseline - problem.target).abs().mean()
        assert 0 < error < 0.1


def test_sizes_that_do_not_divide_by_the_scale_are_refused():
    for name in ("crop", "reference_crop"):
        with pytest.raises(UserError, match=rf"task\.{name}=50 does not divide by task\.scale=4"):
            task(f"task.{name}=50")


@pytest.mark.parametrize("evaluating", [False, True])
def test_pictures_that_do_not_fit_are_named(evaluating):
    def made(**pictures: torch.Tensor) -> None:
        sample = Sample(key="rock", **pictures)  # type: ignore[typeddict-item]
        if evaluating:
            TASKS["plain"].eval_item(sample)
        else:
            TASKS["plain"].train_item(sample, np.random.default_rng(0))

    target = noise(32, 40, 0)
    with pytest.raises(UserError, match="rock has no reference picture"):
        made(target=target)
    with pytest.raises(UserError, match="rock: the target is smaller than 4 pixels"):
        made(target=noise(3, 40, 0), reference=target)
    for size in ((16, 20), (7, 10), (8, 9), (10, 8), (32, 40)):
        with pytest.raises(UserError, match=r"rock: the low picture .* divided by the scale 4"):
            made(target=target, reference=target, low=noise(*size, 1))
    if not evaluating:
        with pytest.raises(UserError, match="rock: training needs a target"):
            made(low=noise(8, 8, 0), reference=target)


def test_a_tiny_reference_is_no_obstacle_to_training():
    sample = Sample(key="a", target=noise(16, 16, 0), reference=noise(1, 3, 1))
    item = TASKS["plain"].train_item(sample, np.random.default_rng(0))
    assert torch.equal(item["reference"][:, :1, :3], sample["reference"])
    assert not item["reference"][:, 1:].any()
    assert not item["reference"][:, :, 3:].any()


def test_pictures_are_turned_in_some_epochs_alone():
    pictures = [
        Sample(key=str(i), target=noise(16, 16, i), reference=noise(16, 16, 9 + i))
        for i in range(4)
    ]

    def items(**more) -> TrainItems:
        made = ReferenceSR(TASKS["plain"].degradation, 4, 16, 16, **more)
        return TrainItems(pictures, made, 0, "raise")

    some = items(augment_epochs=[1, 3])
    for epoch, kind in enumerate([False, "apart", "apart", False]):
        expected = items(augment=kind)
        for place in range(4 * epoch, 4 * epoch + 4):
            for name in ("target", "reference"):
                assert torch.equal(some[place][name], expected[place][name])


def test_pairs_are_swapped_and_one_picture_recoloured():
    pair = {"target": chw(photo()), "reference": chw(photo("coffee", 30, 50))}
    swapping = task("task.swap=1", "task.augment=false", "task.jitter=0")
    plain = task("task.augment=false", "task.jitter=0")
    rng = np.random.default_rng
    item = swapping.train_item(Sample(key="a", **pair), rng(1))
    other = Sample(key="a", target=pair["reference"], reference=pair["target"])
    # One number is drawn for the swap and one for the colours before anything else.
    after = rng(1)
    after.random(2)
    expected = plain.train_item(other, after)
    assert torch.equal(item["target"], expected["target"])
    assert torch.equal(item["reference"], expected["reference"])
    coloured = task("task.recolour=1", "task.augment=false")
    for seed in range(4):
        mixed = coloured._mixed(Sample(key="a", **pair), rng(seed))
        changed = [not torch.equal(mixed[name], picture) for name, picture in pair.items()]
        assert sum(changed) == 1


def test_what_falls_below_zero_comes_out_positive():
    class Least:
        def uniform(self, low: float, high: float) -> float:
            return low

    dark = torch.tensor([[[0, 10, 100, 255]]], dtype=torch.uint8)
    assert recoloured(dark, Least()).tolist() == [[[20, 13, 50, 158]]]
