"""Pairs of views: their correspondence is exact, whatever crops and turns come after."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from restore.config import registry
from restore.data.degradation import PilBicubic
from restore.data.loading import EvalItems, TrainItems, collate
from restore.data.references import replaced
from restore.datasets.warped import Warped
from restore.errors import UserError
from restore.images import warp
from restore.tasks.reference_sr import ReferenceSR
from restore.types import Sample
from tests.helpers.pictures import chw, coordinates, photo, write

GEOMETRY_ALONE = {"exposure": 0.0, "colour": 0.0}


class Coded:
    """Photos whose first two channels say where a pixel lies."""

    def __init__(self, height: int = 200, width: int = 220, count: int = 3):
        self.photo = coordinates(height, width)
        self.count = count

    def split(self, name: str) -> "Coded":
        return self

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Sample:
        return Sample(key=f"photo{index}", target=self.photo)


def disagreement(item: Sample, least: int = 50) -> float:
    """Largest difference of what target and reference show at corresponding places, in pixels."""
    target, reference = item["target"].float(), item["reference"].float()
    height, width = target.shape[-2:]
    rows, columns = np.mgrid[0:height, 0:width]
    points = np.stack([columns.ravel(), rows.ravel()], 1).astype(float)
    there = warp.mapped(item["homography"].numpy(), points)
    sides = np.array([reference.shape[-1], reference.shape[-2]])
    inside = ((there >= 2) & (there <= sides - 3)).all(1)
    assert inside.sum() > least
    # Beyond the photo's edge views are mirrored, so the codes turn back there.
    code = reference[:2].numpy()
    nearest = np.rint(there[inside]).astype(int)
    found = code[:, nearest[:, 1], nearest[:, 0]].T
    wanted = target[:2].numpy()[:, rows.ravel()[inside], columns.ravel()[inside]].T
    return float(np.abs(found - wanted).max())


@given(seed=st.integers(0, 10**6))
def test_the_homography_takes_each_place_to_its_like(seed):
    data = Warped(Coded(), size=64, rotation=30, scale=(0.8, 1.5), **GEOMETRY_ALONE)
    sample = data.split("train").draw(0, np.random.default_rng(seed))
    # A reference's pixel is up to 1.3 of the target's, and its place is rounded to the nearest.
    assert disagreement(sample) <= 2.5


@pytest.mark.parametrize("augment", ["apart", "together", False])
@pytest.mark.parametrize("at", ["same", "random"])
def test_crops_and_turns_carry_it_along(augment, at):
    data = Warped(Coded(), size=96, rotation=10, **GEOMETRY_ALONE)
    task = ReferenceSR(
        PilBicubic(), crop=64, reference_crop=72, augment=augment, reference_at=at, jitter=8
    )
    items = TrainItems(data.split("train"), task, seed=4, on_error="raise")
    for position in range(12):
        assert disagreement(items[position], least=1) <= 2.5


def test_together_turns_both_alike():
    data = Warped(Coded(), size=64, rotation=0, scale=(1, 1), corners=0, shift=0, **GEOMETRY_ALONE)
    task = ReferenceSR(PilBicubic(), crop=64, reference_crop=64, augment="together")
    items = TrainItems(data.split("train"), task, seed=1, on_error="raise")
    turns = 0
    for position in range(8):
        item = items[position]
        assert (item["target"].float() - item["reference"].float()).abs().max() <= 1
        turns += not bool(item["target"][0, 0, 0] < item["target"][0, 0, -1])
    assert turns > 0, "something was turned"


def test_evaluation_is_the_same_each_time_and_training_is_not():
    data = Warped(Coded(), size=48)
    one, two = data.split("valid"), data.split("valid")
    for index in range(3):
        for name in ("target", "reference", "homography"):
            assert torch.equal(one[index][name], two[index][name])
    task = ReferenceSR(PilBicubic(), crop=48, reference_crop=48)
    items = TrainItems(data.split("train"), task, seed=1, on_error="raise")
    again = TrainItems(data.split("train"), task, seed=1, on_error="raise")
    assert torch.equal(items[5]["reference"], again[5]["reference"])
    assert not torch.equal(items[5]["reference"], items[8]["reference"]), "another epoch's views"


def test_a_stand_in_for_the_reference_leaves_the_views_drawn():
    data = Warped(Coded(), size=48)
    task = ReferenceSR(PilBicubic(), crop=48, reference_crop=48, augment=False)
    given = TrainItems(data.split("train"), task, seed=1, on_error="raise")
    source, changed = replaced("black", data.split("train"), task)
    black = TrainItems(source, changed, seed=1, on_error="raise")
    for position in range(5):
        assert torch.equal(given[position]["target"], black[position]["target"])
        assert not black[position]["reference"].any()
        assert "homography" not in black[position]


def test_light_noise_compression_and_hidden_parts_change_the_reference_alone():
    rng = np.random.default_rng(0)

    class One:
        def split(self, name):
            return self

        def __len__(self):
            return 2

        def __getitem__(self, index):
            return Sample(key="a", target=chw(photo(height=120, width=130, at=100 + index)))

    still = {"rotation": 0, "scale": (1, 1), "corners": 0, "shift": 0, **GEOMETRY_ALONE}
    for change in (
        {"exposure": 0.5},
        {"colour": 0.2},
        {"noise": 0.1},
        {"jpeg": 1.0},
        {"occluded": 1.0},
    ):
        data = Warped(One(), size=80, **{**still, **change})
        sample = data.split("train").draw(0, rng)
        plain = Warped(One(), size=80, **still).split("train").draw(0, np.random.default_rng(1))
        assert torch.equal(plain["target"], plain["reference"])
        difference = (sample["target"].float() - sample["reference"].float()).abs()
        assert difference.max() > 3, change
        if "occluded" in change:
            assert (difference.amax(0) == 0).float().mean() > 0.8, "the rest is as it was"


def test_from_a_folder_by_the_command_tree(tmp_path: Path):
    for number in range(3):
        write(tmp_path / f"{number}.png", photo(height=70, width=90, at=60 * number))
    words = [f"data.photos.targets={tmp_path}", "data.photos.test=1", "data.size=64"]
    data = registry.build("data", "warped", *words)
    task = registry.build("task", "reference_sr")
    items = EvalItems(data.split("test"), task, "raise")
    batch = collate([items[0]])
    assert batch["target"].shape == (1, 3, 64, 64)
    assert batch["homography"].shape == (1, 3, 3)


@pytest.mark.parametrize(
    ("setting", "words"), [({"corners": 0.3}, "0.25"), ({"scale": (2, 1)}, "smallest")]
)
def test_impossible_strengths_are_refused(setting, words):
    with pytest.raises(UserError, match=words):
        Warped(Coded(), **setting)


def test_parallax_moves_near_things_along_one_line_and_hides_others():
    plain = {"rotation": 0, "scale": (1, 1), "corners": 0, "shift": 0, **GEOMETRY_ALONE}
    data = Warped(Coded(), size=64, parallax=0.2, **plain)
    hidden = 0
    for seed in range(10):
        sample = data.split("train").draw(0, np.random.default_rng(seed))
        assert "homography" not in sample
        rows, columns = np.mgrid[0:64, 0:64]
        start = sample["target"][:2, 0, 0].numpy().astype(float)
        there = sample["reference"][:2].numpy() - start[:, None, None]
        moved = np.stack([there[0] - rows, there[1] - columns])[:, 16:-16, 16:-16].reshape(2, -1)
        assert np.linalg.norm(moved, axis=0).max() <= 0.2 * 64 * 1.5 + 1
        # Along one line: the second singular value is what rounding leaves.
        first, second = np.linalg.svd(moved, compute_uv=False)
        assert second < 0.6 * np.sqrt(moved.shape[1]) or second < 0.2 * first
        places = {tuple(place) for place in np.rint(there).reshape(2, -1).T}
        hidden += len(places) < 0.9 * 64 * 64
    assert hidden > 0


def test_several_references_are_views_of_their_own():
    sample = Warped(Coded(), size=48, references=3).split("test")[0]
    assert len(sample["reference"]) == 3
    assert "homography" not in sample
    one, two, three = sample["reference"]
    assert not torch.equal(one, two)
    assert not torch.equal(two, three)
    alone = Warped(Coded(), size=48).split("test")[0]
    assert torch.equal(one, alone["reference"]), "the first is what it is alone"
