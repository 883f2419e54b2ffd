"""From samples to batches: the same items whatever reads them, each once, and broken files."""

import itertools
import logging
import multiprocessing
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from restore.config import registry
from restore.config.settings import Loader
from restore.data import loading
from restore.data.loading import (
    Batch,
    EvalItems,
    Positions,
    TrainItems,
    collate,
    eval_batches,
    to_device,
    train_batches,
)
from restore.errors import UnreadableImage, UserError
from restore.types import Sample
from tests import ROOT
from tests.helpers.pictures import coordinates, photo, truncate, write


class Places:
    """A source whose pictures say at each pixel where it is, so that crops can be told apart."""

    def __init__(self, count: int = 5, side: int = 240):
        self.count, self.side = count, side

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Sample:
        picture = coordinates(self.side, self.side, index)
        return Sample(key=str(index), target=picture, reference=picture)


def task(crop: int = 16, *more: str):
    return registry.build(
        "task",
        "reference_sr",
        "task.scale=1",
        f"task.crop={crop}",
        f"task.reference_crop={crop}",
        *more,
    )


def stream(
    items: TrainItems,
    steps: tuple[int, int],
    batch: int,
    accumulate_steps: int = 1,
    world: int = 1,
    workers: int = 0,
) -> Iterator[tuple[int, Batch, int]]:
    """Position, micro-batch and row in it of every item that all processes together are handed."""
    for rank in range(world):
        positions = Positions(*steps, batch, accumulate_steps, rank, world)
        batches = train_batches(items, positions, Loader(workers, "raise"), False)
        assert len(batches) == len(positions) == (steps[1] - steps[0]) * accumulate_steps
        for places, micro in zip(positions, batches, strict=True):
            assert len(places) == len(micro["key"]) == batch // accumulate_steps // world
            yield from ((place, micro, row) for row, place in enumerate(places))


def pictures(batch: Batch) -> list[str]:
    return [name for name, value in batch.items() if isinstance(value, torch.Tensor)]


# Which items ----------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(
    first=st.integers(0, 50),
    steps=st.integers(0, 6),
    micro=st.integers(1, 4),
    accumulate_steps=st.integers(1, 4),
    world=st.integers(1, 4),
)
def test_a_step_has_the_same_items_however_it_is_shared_out(
    first, steps, micro, accumulate_steps, world
):
    batch = micro * accumulate_steps * world
    shares = [list(Positions(first, first + steps, batch, accumulate_steps, r, world))
              for r in range(world)]  # fmt: skip
    alone = list(Positions(first, first + steps, batch, accumulate_steps, 0, 1))
    for place, micros in enumerate(zip(*shares, strict=True)):
        together = [position for row in zip(*micros, strict=True) for position in row]
        assert together == alone[place], "each micro-batch has the same items, in turn"
    for step in range(steps):
        own = [share[step * accumulate_steps : (step + 1) * accumulate_steps] for share in shares]
        assert all(len(part) == micro for parts in own for part in parts)
        everyone = sorted(place for parts in own for part in parts for place in part)
        assert everyone == list(range((first + step) * batch, (first + step + 1) * batch))


@pytest.mark.parametrize(("accumulate_steps", "world"), [(4, 1), (1, 4), (2, 2)])
def test_a_batch_that_cannot_be_shared_out_is_refused(accumulate_steps, world):
    with pytest.raises(UserError, match=r"trainer\.batch_size=6 does not divide"):
        Positions(0, 1, 6, accumulate_steps, 0, world)


@pytest.mark.parametrize(
    "setup",
    [
        {"batch": 6},
        {"batch": 6, "workers": 2},
        {"batch": 6, "accumulate_steps": 3},
        {"batch": 6, "world": 2, "workers": 1},
        {"batch": 6, "world": 3},
        {"batch": 12, "accumulate_steps": 2, "world": 2, "workers": 2},
    ],
    ids=str,
)
def test_items_depend_on_seed_and_position_alone(setup):
    source = registry.build("data", "sample").split("train")
    small = registry.build("task", "reference_sr", "task.crop=16", "task.reference_crop=24")
    items = TrainItems(source, small, 3, "raise")
    fresh = TrainItems(source, small, 3, "raise")
    other = TrainItems(source, small, 4, "raise")
    steps = 24 // setup["batch"]
    seen, differing = set(), 0
    for place, batch, row in stream(items, (0, steps), **setup):
        alone = fresh[place]
        assert batch["key"][row] == alone["key"]
        names = pictures(batch)
        references = {"reference", "reference_low", "reference_low_up"}
        assert set(names) == {"target", "low", "low_up"} | references
        for name in names:
            assert torch.equal(batch[name][row], alone[name]), name
        differing += not torch.equal(batch["target"][row], other[place]["target"])
        seen.add(place)
    assert seen == set(range(24))
    assert differing > 20, "the seed makes no difference"


def test_going_on_later_equals_never_having_stopped():
    items = TrainItems(Places(), task(), 0, "raise")
    whole = {place: batch["target"][row] for place, batch, row in stream(items, (0, 8), 4)}
    rest = {
        place: batch["target"][row]
        for place, batch, row in stream(TrainItems(Places(), task(), 0, "raise"), (5, 8), 4)
    }
    assert set(rest) == set(range(20, 32))
    assert all(torch.equal(whole[place], picture) for place, picture in rest.items())


def test_no_crop_is_drawn_twice_in_workers_processes_or_epochs():
    """With workers that were forked with one generator, they would draw the same ones."""
    items = TrainItems(Places(), task(16, "task.augment=false"), 0, "raise")
    drawn = {"target": [], "reference": []}
    for _, batch, row in stream(items, (0, 10), 8, world=2, workers=2):  # 80 items: 16 epochs
        for name, corners in drawn.items():
            corners.append(tuple(batch[name][row, :2, 0, 0].tolist()))
    # Among 225² places, two of 80 draws meet with a chance of 6 %; with this seed none do.
    assert len(drawn["target"]) == len(set(drawn["target"])) == 80
    offsets = np.array(drawn["reference"]) - np.array(drawn["target"])
    assert len({tuple(offset) for offset in offsets.tolist()}) > 60


@pytest.mark.parametrize("world", [1, 2, 4])
def test_an_epoch_visits_every_target_once(world):
    count, epochs = 5, 8
    items = TrainItems(Places(count), task(), 1, "raise")
    keys = {
        place: batch["key"][row] for place, batch, row in stream(items, (0, 10), 4, world=world)
    }
    orders = [[keys[epoch * count + i] for i in range(count)] for epoch in range(epochs)]
    assert all(sorted(order) == list("01234") for order in orders)
    assert len({tuple(order) for order in orders}) > 4, "the epochs' orders are alike"


# Broken files -----------------------------------------------------------------------------------


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    """Seven pictures, the fourth cut off, the sixth no picture at all."""
    for i in range(7):
        write(tmp_path / "t" / f"{i}.png", photo("chelsea", 32, 32, 20 * i))
    truncate(tmp_path / "t" / "3.png")
    (tmp_path / "t" / "5.png").write_bytes(b"these are not pixels")
    return tmp_path / "t"


def folder(path: Path):
    more = f"data.targets={path}", f"data.references={path}", "data.valid=1"
    return registry.build("data", "folder", *more).split("valid")


@pytest.mark.parametrize("workers", [0, 2])
def test_a_broken_image_stops_with_its_name_and_the_reason(broken: Path, workers):
    loader = Loader(workers, "raise")
    training = train_batches(
        TrainItems(folder(broken), task(), 0, "raise"), Positions(0, 7, 1, 1, 0, 1), loader, False
    )
    evaluation = eval_batches(EvalItems(folder(broken), task(), "raise"), loader, 0, 1, None)
    for batches in (training, evaluation):
        with pytest.raises(UnreadableImage) as caught:
            list(batches)
        assert caught.value.path in (str(broken / "3.png"), str(broken / "5.png"))
        assert caught.value.reason in str(caught.value)
        assert len(str(caught.value).splitlines()) == 1, "a traceback instead of a sentence"
        # The error is still held here, and with it every frame that it came through.
        assert not multiprocessing.active_children(), "workers wait for the collector of cycles"
    assert caught.value.path == str(broken / "3.png"), "evaluation goes in order"
    assert "truncated" in caught.value.reason


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_broken_images_are_skipped_and_counted(broken: Path, workers):
    items = TrainItems(folder(broken), task(), 0, "skip")
    batches = train_batches(items, Positions(0, 7, 3, 1, 0, 1), Loader(workers, "skip"), False)
    keys, skipped = [], []
    for batch in batches:
        assert len(batch["key"]) == len(batch["target"]) == 3, "a batch came out smaller"
        keys += batch["key"]
        skipped += batch["skipped"]
    assert set(keys) == set("01246")
    assert {path for path, _ in skipped} == {str(broken / "3.png"), str(broken / "5.png")}
    assert all(reason for _, reason in skipped)
    # Three epochs: each meets each broken one at its own place, and again on the way from the
    # other one's place where that comes right before.
    assert 6 <= len(skipped) <= 9


@pytest.mark.parametrize("world", [2, *(pytest.param(n, marks=pytest.mark.slow) for n in (1, 3))])
def test_evaluation_skips_and_keeps_the_others_places(broken: Path, world):
    items = EvalItems(folder(broken), task(), "skip")
    found, skipped = {}, []
    for rank in range(world):
        for batch in eval_batches(items, Loader(0, "skip"), rank, world, None):
            skipped += batch["skipped"]
            if "key" in batch:
                found[batch["place"][0]] = batch["key"][0]
    assert found == {0: "0", 1: "1", 2: "2", 4: "4", 6: "6"}
    assert sorted(Path(path).name for path, _ in skipped) == ["3.png", "5.png"]


def test_when_nothing_can_be_read(tmp_path: Path):
    for i in range(2):
        (tmp_path / f"{i}.png").write_bytes(b"no picture")
    with pytest.raises(UserError, match=r"none of the 2 training images can be read.*\d\.png"):
        TrainItems(folder(tmp_path), task(), 0, "skip")[0]


@pytest.mark.parametrize("kind", [TrainItems, EvalItems])
def test_an_empty_split(kind):
    with pytest.raises(UserError, match="empty"):
        kind(Places(0), task(), *([0] if kind is TrainItems else []), "raise")


# Evaluation -------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 2, 7])
def test_evaluation_sees_every_item_once(count):
    items = EvalItems(Places(count, 16), task(), "raise")
    for world, limit in itertools.product((1, 2, 3), (None, 1, 5, 100)):
        seen = []
        for rank in range(world):
            batches = eval_batches(items, Loader(0, "raise"), rank, world, limit)
            mine = [(batch["place"], batch["key"], batch["target"].shape[0]) for batch in batches]
            assert len(mine) == len(batches)
            seen += mine
        expected = range(min(count, limit or count))
        assert sorted(seen) == [([place], [str(place)], 1) for place in expected], (world, limit)


def test_evaluation_by_workers_keeps_the_order():
    items = EvalItems(Places(7, 16), task(), "raise")
    batches = eval_batches(items, Loader(2, "raise"), 0, 1, None)
    assert [batch["place"][0] for batch in batches] == list(range(7))


# Batches ----------------------------------------------------------------------------------------


class Unequal(Places):
    """Pictures of different heights."""

    def __getitem__(self, index: int) -> Sample:
        picture = coordinates(16 + index, 20)
        return Sample(key=f"picture{index}", target=picture, reference=picture)


class Whole:
    """Leaves samples as they are."""

    scale = 1

    def train_item(self, sample, rng):
        return sample


@pytest.mark.parametrize("workers", [0, 1])
def test_pictures_of_unequal_size_in_a_batch_are_named(workers):
    positions = Positions(0, 1, 2, 1, 0, 1)
    items = TrainItems(Unequal(2), Whole(), 0, "raise")
    with pytest.raises(UserError) as caught:
        list(train_batches(items, positions, Loader(workers, "raise"), False))
    said = str(caught.value)
    assert len(said.splitlines()) == 1
    for part in ("picture0 (16, 20)", "picture1 (17, 20)", "task.crop", "'target'"):
        assert part in said


def test_a_picture_that_only_some_have_is_named():
    whole = {"key": "a", "target": coordinates(2, 2), "low": coordinates(1, 1), "skipped": []}
    part = {"key": "b", "target": coordinates(2, 2), "skipped": []}
    with pytest.raises(UserError, match=r"'low'.*a \(1, 1\), b none"):
        collate([whole, part])


def test_tensors_go_to_the_device_and_the_rest_stays():
    batch = collate([{"key": "a", "target": coordinates(2, 3), "skipped": [("f", "why")]}])
    moved = to_device(batch, torch.device("meta"))
    assert moved["target"].device.type == "meta"
    assert (moved["key"], moved["skipped"]) == (["a"], [("f", "why")])


# Shared memory ----------------------------------------------------------------------------------


@pytest.mark.parametrize("references", [1, 2])
def test_a_small_shared_memory_changes_nothing_but_the_way(monkeypatch, caplog, references):
    class Several(Places):
        def __getitem__(self, index: int) -> Sample:
            sample = super().__getitem__(index)
            others = [sample["target"], sample["target"].flip(-1)]
            return Sample(key=str(index), target=sample["target"], reference=others[:references])

    items = TrainItems(Several(3, 40), task(), 0, "raise")
    positions = Positions(0, 4, 2, 1, 0, 1)
    plain = list(train_batches(items, positions, Loader(0, "raise"), False))
    monkeypatch.setattr(loading, "_shared_memory", lambda: 60 << 20)
    with caplog.at_level(logging.INFO, "restore"):
        piped = list(train_batches(items, positions, Loader(2, "raise"), False))
    assert "use pipes instead of shared memory: /dev/shm has less than 2 GiB free" in caplog.text
    for one, other in zip(plain, piped, strict=True):
        assert one.keys() == other.keys()
        for name, value in one.items():
            pairs = zip(value, other[name], strict=True)
            for x, y in pairs:
                assert torch.equal(x, y) if torch.is_tensor(x) else x == y
                assert type(x) is type(y)


SMALL = """
mount -t tmpfs -o size=2m tmpfs /dev/shm || exit 77
exec {python} -c '
import torch
from restore.config.settings import Loader
from restore.data.loading import EvalItems, eval_batches
class Large:
    def __len__(self): return 8
    def __getitem__(self, index):
        return dict(key=str(index), target=torch.full((3, 1000, 1000), index, dtype=torch.uint8))
class Task:
    def eval_item(self, sample): return sample
batches = eval_batches(EvalItems(Large(), Task(), "raise"), Loader(2, "raise"), 0, 1, None)
assert [int(batch["target"].float().mean()) for batch in batches] == list(range(8))
'
"""


@pytest.mark.skipif(shutil.which("unshare") is None, reason="no unshare to have a /dev/shm with")
def test_pictures_larger_than_the_shared_memory_arrive():
    """In a /dev/shm of 2 MiB, as containers have small ones: nothing dies, nothing hangs."""
    script = SMALL.format(python=sys.executable)
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", script],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    if done.returncode == 77 or done.stderr.startswith("unshare:"):
        pytest.skip("this user may not mount")
    assert done.returncode == 0, done.stderr
