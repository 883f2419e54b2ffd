"""What protocols do to pictures before they are made small."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from restore.config import registry
from restore.data.frames import Cropped, Framed, Padded, framed
from restore.data.references import replaced
from restore.errors import UserError
from restore.types import Restoration, Sample

SIDES = st.integers(33, 70)


def sample(*sides: int) -> Sample:
    rng = np.random.default_rng(sides[0])
    target, reference = (
        torch.from_numpy(rng.integers(0, 256, (3, *size), np.uint8))
        for size in (sides[:2], sides[2:])
    )
    return Sample(key="a", target=target, reference=reference)


@settings(max_examples=20, deadline=None)
@given(SIDES, SIDES, SIDES, SIDES)
def test_masa_keeps_the_target_in_the_middle_of_its_own_border(a: int, b: int, c: int, d: int):
    sides = (a, b, c, d)
    given_, (framed, box) = sample(*sides), Padded()(sample(*sides))
    above, left = box[:2]
    pads = [(-side % 32) for side in sides[:2]]
    expected = np.pad(
        given_["target"].numpy(),
        ((0, 0), (pads[0] // 2, -(-pads[0] // 2)), (pads[1] // 2, -(-pads[1] // 2))),
        "edge",
    )
    assert np.array_equal(framed["target"].numpy(), expected)
    assert (above, left) == (pads[0] // 2, pads[1] // 2)
    assert box[2:] == tuple(sides[:2])
    more = [(0, -side % 16) for side in sides[2:]]
    reference = np.pad(given_["reference"].numpy(), ((0, 0), *more), "edge")
    assert np.array_equal(framed["reference"].numpy(), reference)


@settings(max_examples=20, deadline=None)
@given(SIDES, SIDES, SIDES, SIDES, st.sampled_from([4, 32]))
def test_both_are_cut_and_then_as_large_by_zeros(a: int, b: int, c: int, d: int, multiple: int):
    given_, (framed, box) = sample(a, b, c, d), Cropped(multiple)(sample(a, b, c, d))
    cut = [side // multiple * multiple for side in (a, b, c, d)]
    high, wide = max(cut[0], cut[2]), max(cut[1], cut[3])
    assert box == (0, 0, cut[0], cut[1])
    for name, height, width in (("target", *cut[:2]), ("reference", *cut[2:])):
        picture = framed[name]
        assert picture.shape == (3, high, wide)
        assert torch.equal(picture[:, :height, :width], given_[name][:, :height, :width])
        assert not picture[:, height:].any()
        assert not picture[:, :, width:].any()


def test_masa_stitches_references_below_each_other():
    pictures = [sample(33, 33, *sides)["reference"] for sides in ((60, 47), (64, 64), (5, 33))]
    given_ = Sample(key="a", target=sample(33, 40, 1, 1)["target"], reference=pictures)
    framed, _ = Padded(canvas=64)(given_)
    expected = []
    for picture in pictures:
        pads = [64 - side for side in picture.shape[-2:]]
        around = [(pad // 2, pad - pad // 2) for pad in pads]
        expected.append(np.pad(picture.numpy(), ((0, 0), *around), "edge"))
    assert np.array_equal(framed["reference"].numpy(), np.concatenate(expected, 1))
    with pytest.raises(UserError, match="larger than the protocol's canvas"):
        Padded(canvas=32)(given_)


def test_a_framed_task_measures_what_is_inside():
    task = Framed(registry.build("task", "reference_sr"), Padded())
    given_ = sample(35, 41, 40, 37)
    item = task.eval_item(given_)
    batch = {name: [x] if name == "key" else x[None] for name, x in item.items()}
    problem = task.prepare(batch)
    assert problem.inputs["low"].shape == (1, 3, 16, 16)
    assert problem.inputs["reference_low"].shape == (1, 3, 12, 12)
    assert torch.equal((problem.target[0] * 255).round().byte(), given_["target"])
    whole = torch.rand(1, 3, 64, 64)
    restored = task.postprocess(Restoration(whole), problem)
    assert torch.equal(restored.image, whole[..., 14:49, 11:52])
    assert task.baseline(problem)[1].shape == (1, 3, 35, 41)


def test_a_low_picture_of_its_own_is_refused():
    task = Framed(registry.build("task", "reference_sr"), Cropped(4))
    with pytest.raises(UserError, match="makes the low picture"):
        task.eval_item({**sample(40, 40, 40, 40), "low": torch.zeros(3, 10, 10)})


def test_what_stands_in_for_a_reference_is_framed_too():
    source, task = replaced(
        "none", [sample(35, 41, 40, 37)], registry.build("task", "reference_sr")
    )
    item = framed(task, Padded(), 16).eval_item(source[0])
    assert item["low"].shape == (3, 16, 16)
    assert "reference" not in item


@settings(max_examples=20, deadline=None)
@given(SIDES, SIDES, st.sampled_from([None, 4, 16]))
def test_a_network_gets_references_with_sides_that_it_takes(
    high: int, wide: int, multiple: int | None
):
    task = framed(registry.build("task", "reference_sr"), None, multiple)
    given_ = sample(35, 41, high, wide)
    reference = task.eval_item(given_)["reference"].numpy()
    picture = given_["reference"].numpy()
    if multiple is None:
        assert np.array_equal(reference, picture[:, : high // 4 * 4, : wide // 4 * 4])
    else:
        more = [(0, 0), (0, -high % multiple), (0, -wide % multiple)]
        assert np.array_equal(reference, np.pad(picture, more, "edge"))
