"""Noisy low pictures against plain formulations, repeatable where they must be."""

import copy
import io
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from restore.cli import main
from restore.config import compose, plain, registry
from restore.config.settings import Loader
from restore.data.degradation import PilBicubic
from restore.data.loading import EvalItems, TrainItems, eval_batches
from restore.data.noise import Gaussian, Jpeg, Poisson
from restore.data.noisy import Noisy
from restore.datasets.sample import SamplePhotos
from restore.tasks.reference_sr import ReferenceSR
from restore.types import Sample


def task(*overrides: str, name: str = "denoise_sr"):
    more = ["task.crop=64", "task.reference_crop=64", "pretrained.vgg19=random"]
    return registry.build("task", name, *more, *overrides)


def sample(height: int = 32, width: int = 48, key: str = "a/b", seed: int = 0) -> Sample:
    rng = np.random.default_rng(seed)
    # Smooth pictures with full contrast, so that clipping and bicubic overshoot both happen.
    small = rng.integers(0, 256, (2, height // 8 + 1, width // 8 + 1, 3), np.uint8)
    target, reference = (
        np.asarray(Image.fromarray(picture).resize((width, height), Image.Resampling.BICUBIC))
        for picture in small
    )
    return Sample(key=key, target=chw(target), reference=chw(reference))


def chw(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.array(array)).permute(2, 0, 1).contiguous()


def hwc(picture: torch.Tensor) -> np.ndarray:
    return picture.permute(1, 2, 0).contiguous().numpy()


def chance(key: str, seed: int) -> np.random.Generator:
    return np.random.default_rng([zlib.crc32(key.encode()), seed])


def resized(array_HWC: np.ndarray, height: int, width: int) -> np.ndarray:
    """PIL's bicubic, of bytes or, a channel at a time, of floats."""
    if array_HWC.dtype == np.uint8:
        return np.asarray(
            Image.fromarray(array_HWC).resize((width, height), Image.Resampling.BICUBIC)
        )
    planes = [
        Image.fromarray(array_HWC[..., c].astype(np.float32)).resize(
            (width, height), Image.Resampling.BICUBIC
        )
        for c in range(3)
    ]
    return np.stack([np.asarray(plane) for plane in planes], -1)


def agree(made: torch.Tensor, expected_HWC: np.ndarray, tolerance: float = 1e-6) -> None:
    assert made.is_floating_point() == (expected_HWC.dtype != np.uint8)
    torch.testing.assert_close(
        made.double(), chw(expected_HWC.astype(np.float64)), atol=tolerance, rtol=0
    )


@pytest.mark.parametrize("clip", [True, False])
@settings(max_examples=20, deadline=None)
@given(
    st.integers(1, 12),
    st.integers(1, 12),
    st.floats(0, 0.5),
    st.integers(0, 9),
    st.text(max_size=9),
)
def test_noise_after_downscaling(clip, rows, columns, sigma, seed, key):
    item = sample(rows * 4, columns * 4, key, seed)
    made = ReferenceSR(Noisy(PilBicubic(), Gaussian(sigma), clip=clip, seed=seed)).eval_item(item)
    normal = chance(key, seed).standard_normal((3, rows, columns), np.float32)
    clean = resized(hwc(item["target"]), rows, columns) / np.float32(255)
    low = clean + np.float32(sigma) * normal.transpose(1, 2, 0)
    low = low.clip(0, 1) if clip else low
    low_up = resized(low, rows * 4, columns * 4)
    agree(made["low"], low)
    agree(made["low_up"], low_up.clip(min(0, low.min()), max(1, low.max())))
    assert torch.equal(made["target"], item["target"])
    assert torch.equal(made["reference"], item["reference"])
    quarter = resized(hwc(item["reference"]), rows, columns)
    agree(made["reference_low_up"], resized(quarter, rows * 4, columns * 4))


@pytest.mark.parametrize("clip", [True, False])
def test_noise_before_downscaling(clip):
    item = sample()
    made = task("noise.sigma=0.4", "degradation.place=before", f"degradation.clip={clip}")
    made = made.eval_item(item)
    normal = chance("a/b", 1).standard_normal((3, 32, 48), np.float32).transpose(1, 2, 0)
    noisy = hwc(item["target"]) / np.float32(255) + np.float32(0.4) * normal
    noisy = noisy.clip(0, 1) if clip else noisy
    ends = min(0, noisy.min()), max(1, noisy.max())
    low = resized(noisy, 8, 12).clip(*ends)
    agree(made["low"], low)
    agree(made["low_up"], resized(low, 32, 48).clip(min(0, low.min()), max(1, low.max())))
    assert torch.equal(made["target"], item["target"])
    if not clip:
        assert made["low"].max() > 1
        assert made["low"].min() < 0


def test_averaging_weakens_noise_that_comes_before():
    grey = Sample(key="grey", target=torch.full((3, 256, 256), 128, dtype=torch.uint8))
    grey["reference"] = grey["target"]
    spread = {
        place: task(f"degradation.place={place}", "noise.sigma=0.05").eval_item(grey)["low"].std()
        for place in ("before", "after")
    }
    # Antialiased bicubic ÷4 is a weighted mean: of σ is left the root of its weights' squares' sum,
    # once an axis.
    far = np.abs((np.arange(16) - 7.5) / 4)
    near = 1.5 * far**3 - 2.5 * far**2 + 1
    weights = np.where(far < 1, near, -0.5 * far**3 + 2.5 * far**2 - 4 * far + 2)
    weights /= weights.sum()
    assert spread["after"].item() == pytest.approx(0.05, rel=0.02)
    assert spread["before"].item() == pytest.approx(0.05 * (weights**2).sum(), rel=0.03)


def test_the_course_projects_noise():
    item = sample(64, 96)
    made = task("degradation=noisy_published").eval_item(item)
    normal = chance("a/b", 1).standard_normal((3, 16, 24), np.float32).transpose(1, 2, 0)
    # In the project's own range [-1, 1], where σ is 0.25.
    clean = resized(hwc(item["target"]), 16, 24)
    clean_up = resized(clean, 64, 96) / 127.5 - 1
    low = clean / 127.5 - 1 + 0.25 * normal
    low_up = clean_up + cv2.resize(0.25 * normal, (96, 64), interpolation=cv2.INTER_CUBIC)
    agree(made["low"] * 2 - 1, low.astype(np.float32), 2e-6)
    agree(made["low_up"] * 2 - 1, low_up.astype(np.float32), 1e-5)
    assert made["low"].max() > 1
    assert made["low"].min() < 0


def test_jpeg_of_the_low_picture_stays_in_bytes():
    item = sample()
    made = task("noise=jpeg", "noise.quality=30").eval_item(item)
    file = io.BytesIO()
    Image.fromarray(resized(hwc(item["target"]), 8, 12)).save(file, "JPEG", quality=30)
    low = np.asarray(Image.open(file))
    agree(made["low"], low, 0)
    agree(made["low_up"], resized(low, 32, 48), 0)


def test_on_top_of_a_degradation_of_the_device():
    item = sample()
    base = task("degradation=tensor_bicubic", name="reference_sr")
    batch = {k: [v] if k == "key" else v[None] for k, v in base.eval_item(item).items()}
    clean = base.prepare(batch).inputs
    noisy = task("degradation@degradation.base=tensor_bicubic", "noise.sigma=0.2")
    batch = {k: [v] if k == "key" else v[None] for k, v in noisy.eval_item(item).items()}
    made = noisy.prepare(batch).inputs
    normal = torch.from_numpy(chance("a/b", 1).standard_normal((3, 8, 12), np.float32))
    low = (clean["low"] + 0.2 * normal).clamp(0, 1)
    torch.testing.assert_close(made["low"], low)
    enlarged = base.degradation.device({"key": ["a/b"], "low": low}, 4)["low_up"]
    torch.testing.assert_close(made["low_up"], enlarged)
    torch.testing.assert_close(made["reference_low_up"], clean["reference_low_up"])


def test_noise_upon_noise():
    camera = Noisy(Noisy(PilBicubic(), Poisson(40.0)), Jpeg(60))
    item = sample()
    made = camera.worker(item, 4)
    chances = chance("a/b", 1)
    clean = resized(hwc(item["target"]), 8, 12).transpose(2, 0, 1) / np.float32(255)
    photons = chances.poisson(clean.astype(np.float64) * 40.0) / 40.0
    file = io.BytesIO()
    bytes_HWC = np.round(photons.clip(0, 1).transpose(1, 2, 0) * 255).astype(np.uint8)
    Image.fromarray(bytes_HWC).save(file, "JPEG", quality=60)
    agree(made["low"], np.asarray(Image.open(file)), 0)


@pytest.mark.parametrize("name", registry.names("noise"))
@pytest.mark.parametrize("place", ["before", "after"])
def test_evaluation_is_the_same_each_time(name, place):
    overrides = [f"noise={name}", f"degradation.place={place}"]
    item = sample()
    made = task(*overrides)
    once, again = made.eval_item(item), copy.deepcopy(made).eval_item(item)
    assert all(torch.equal(once[k], again[k]) for k in ("low", "low_up"))
    if name == "jpeg":
        return
    other_key = made.eval_item(Sample(**{**item, "key": "b"}))
    other_seed = task(*overrides, "degradation.seed=2").eval_item(item)
    assert not torch.equal(once["low"], other_key["low"])
    assert not torch.equal(once["low"], other_seed["low"])


@pytest.mark.parametrize("workers", [0, 1])
def test_evaluation_is_the_same_for_any_number_of_processes(workers):
    items = EvalItems(SamplePhotos().split("test"), task(), "raise")
    alone = {b["key"][0]: b["low"] for b in eval_batches(items, Loader(0, "raise"), 0, 1, None)}
    shared = {}
    for rank in range(3):
        for batch in eval_batches(items, Loader(workers, "raise"), rank, 3, None):
            shared[batch["key"][0]] = batch["low"]
    assert alone.keys() == shared.keys()
    assert all(torch.equal(alone[key], shared[key]) for key in alone)


@pytest.mark.parametrize("degradation", ["noisy", "noisy_published"])
def test_training_items_depend_on_seed_and_position_alone(degradation):
    def items(seed: int) -> TrainItems:
        return TrainItems(
            SamplePhotos().split("train"), task(f"degradation={degradation}"), seed, "raise"
        )

    one, two = items(3), items(3)
    forth = [one[place]["low"] for place in range(7)]
    back = [two[place]["low"] for place in reversed(range(7))][::-1]
    assert all(torch.equal(a, b) for a, b in zip(forth, back))
    assert not torch.equal(items(4)[0]["low"], forth[0])


def test_each_epoch_has_noise_of_its_own():
    class One:
        def __len__(self):
            return 1

        def __getitem__(self, index):
            return sample(64, 64)

    items = TrainItems(One(), task("task.augment=false", "task.jitter=0"), 1, "raise")
    first, second = items[0], items[1]
    assert torch.equal(first["target"], second["target"])
    assert not torch.equal(first["low"], second["low"])


def test_all_but_the_noise_is_reference_srs():
    photos = SamplePhotos().split("train")
    plain_items = TrainItems(photos, task(name="reference_sr"), 5, "raise")
    noisy_items = TrainItems(photos, task(), 5, "raise")
    silent_items = TrainItems(photos, task("noise.sigma=0"), 5, "raise")
    for place in range(6):
        clean, noisy, silent = (items[place] for items in (plain_items, noisy_items, silent_items))
        for name in ("target", "reference", "reference_low_up"):
            assert torch.equal(clean[name], noisy[name])
        torch.testing.assert_close(silent["low"], clean["low"].float() / 255)
        assert (noisy["low"] - silent["low"]).std() > 0.03


def test_a_low_picture_that_is_given_gets_no_noise():
    item = sample()
    given_low = Sample(key="photo", low=item["target"], reference=item["reference"])
    clean = task(name="reference_sr").eval_item(given_low)
    for degradation in ("noisy", "noisy_published"):
        made = task(f"degradation={degradation}").eval_item(given_low)
        assert made.keys() == clean.keys()
        assert all(torch.equal(made[k], clean[k]) for k in clean if k != "key")


def test_the_yaml_is_reference_sr_with_noise():
    one, two = (plain(compose("train", [f"task={n}"])) for n in ("denoise_sr", "reference_sr"))
    noisy = one["task"].pop("degradation")
    assert noisy["base"] == two["task"].pop("degradation")
    assert one["task"] == two["task"]


@pytest.mark.slow
def test_trains_and_evaluates_to_the_same_numbers_twice(tmp_path: Path):
    tiny = [
        "task=denoise_sr",
        "pretrained.vgg19=random",
        "backbone.blocks=[1,1,1,1]",
        "backbone.features=8",
        "task.crop=32",
        "task.reference_crop=32",
        "trainer.batch_size=2",
        "stages.reconstruction.epochs=null",
        "stages.reconstruction.steps=2",
        "trainer.pictures=0",
    ]
    quick = ["wandb.mode=disabled", "runtime.device=cpu", "runtime.threads=1", "loader.workers=0"]
    assert main(["train", f"folder={tmp_path / 'run'}", *tiny, *quick]) == 0
    tables = []
    for turn, workers in enumerate(("0", "2")):
        folder = tmp_path / f"evaluated{turn}"
        line = ["evaluate", f"weights={tmp_path / 'run'}", f"folder={folder}", *quick]
        assert main([*line, f"loader.workers={workers}", "pictures=0", "limit=3"]) == 0
        tables.append((folder / "images.csv").read_text())
    assert tables[0] == tables[1]
