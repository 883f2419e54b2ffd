"""The single-image benchmarks, DIV2K, and the cache of decoded pictures."""

import multiprocessing
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from restore.config import registry
from restore.data.loading import collate
from restore.datasets.cache import Cache
from restore.errors import UnreadableImage, UserError
from restore.images.bicubic import resize
from restore.metrics.fidelity import PSNR
from tests.helpers.pictures import chw, photo, resized, truncate, write

# The benchmarks -----------------------------------------------------------------------------


@pytest.fixture
def sets(tmp_path: Path) -> Path:
    """A set with stored low pictures at ×4, which are PIL's: so one sees where they come from."""
    for i, (height, width) in enumerate([(32, 40), (35, 42)]):
        picture = photo("coffee", height, width, 60 * i)
        write(tmp_path / "Set5" / "HR" / f"img_{i:03d}.png", picture)
        low = resized(picture[: height // 4 * 4, : width // 4 * 4], height // 4, width // 4)
        write(tmp_path / "Set5" / "LR_bicubic" / "X4" / f"img_{i:03d}x4.png", low)
    write(tmp_path / "Set5" / "HR" / "img_010.png", photo("chelsea", 24, 20)[..., 0])
    low = np.full((6, 5), 70, np.uint8)
    write(tmp_path / "Set5" / "LR_bicubic" / "X4" / "img_010x4.png", low)
    return tmp_path


def benchmark(root: Path, *overrides: str, command: str = "train"):
    return registry.build("data", "benchmark", f"data.root={root}", *overrides, command=command)


def test_stored_low_pictures_are_read(sets: Path):
    split = benchmark(sets).split("test")
    assert [split[i]["key"] for i in range(len(split))] == ["img_000", "img_001", "img_010"]
    assert [split[i]["grey"] for i in range(len(split))] == [False, False, True]
    picture = photo("coffee", 35, 42, 60)[:32, :40]
    assert torch.equal(split[1]["target"], chw(picture)), "cut at the bottom and right"
    assert torch.equal(split[1]["low"], chw(resized(picture, 8, 10)))
    assert split[2]["target"].shape == (3, 24, 20)
    assert (split[2]["low"] == 70).all()
    assert split[2]["low"].shape == (3, 6, 5)
    assert len(benchmark(sets).split("valid")) == 3


@pytest.mark.parametrize("edges", ["replicate", "mirror"])
@pytest.mark.parametrize("scale", [3, 2.7, 1.01, 20])
def test_other_low_pictures_are_matlabs(sets: Path, scale: float, edges: str):
    split = benchmark(sets, f"data.scale={scale}", f"data.edges={edges}").split("test")
    for sample, (height, width) in ((split[0], (32, 40)), (split[1], (35, 42))):
        if scale == int(scale):
            height, width = (int(side // scale * scale) for side in (height, width))
        assert sample["target"].shape[-2:] == (height, width)
        assert torch.equal(sample["low"], resize(sample["target"], 1 / scale, edges))


def test_the_scale_is_the_tasks_unless_it_is_given(sets: Path):
    assert benchmark(sets, "task.scale=2", "task.crop=32").scale == 2
    elsewhere = {"command": "evaluate"}  # which has no task in its configuration
    assert benchmark(sets, "weights=x", **elsewhere).scale == 4
    assert benchmark(sets, "weights=x", "data.scale=3", **elsewhere).scale == 3


def test_what_is_not_there_is_named(sets: Path):
    with pytest.raises(UserError, match=r"Set14/HR; .* has Set5"):
        benchmark(sets, "data.name=Set14").split("test")
    with pytest.raises(UserError, match="without a split 'train'"):
        benchmark(sets).split("train")
    with pytest.raises(UserError, match=r"img_000.*smaller than 33 pixels"):
        benchmark(sets, "data.scale=33").split("test")[0]
    (sets / "Set5" / "LR_bicubic" / "X4" / "img_001x4.png").unlink()
    with pytest.raises(UserError, match=r"X4 lacks 1 of 3 low pictures, such as img_001x4\.png"):
        benchmark(sets).split("test")
    with pytest.raises(UserError, match=r"data\.scale=0\.5"):
        benchmark(sets, "data.scale=0.5")


# Luma of grey pictures ----------------------------------------------------------------------


def test_a_file_of_one_channel_is_its_own_luma():
    """Not so a grey picture stored as RGB: MATLAB's luma has 219 levels, so less error."""
    rng = np.random.default_rng(0)
    grey = rng.integers(0, 256, (2, 1, 1, 32, 32))
    pair = [torch.from_numpy(x / 255).float().expand(-1, 3, -1, -1) for x in grey]
    error = np.square(grey[0] - grey[1])[..., 4:-4, 4:-4].mean()
    psnr = PSNR(registry.build("protocol", "y8"))
    own, converted = (psnr(*pair, scale=4, grey=grey).item() for grey in (True, False))
    assert own == pytest.approx(10 * np.log10(255**2 / error), abs=1e-9)
    assert converted - own == pytest.approx(20 * np.log10(255 / 219), abs=0.01)
    rgb = PSNR(registry.build("protocol", "rgb"))(*pair, scale=4, grey=True).item()
    assert rgb == pytest.approx(
        10 * np.log10(255**2 / np.square(grey[0] - grey[1]).mean()), abs=1e-4
    )


def test_the_task_hands_on_that_a_picture_is_grey(sets: Path):
    split = benchmark(sets).split("test")
    task = registry.build("task", "single_sr")
    for i, grey in enumerate([False, False, True]):
        batch = collate([{**task.eval_item(split[i]), "skipped": []}])
        problem = task.prepare(batch)
        assert problem.grey is grey
        assert problem.target.shape[1] == problem.inputs["low"].shape[1] == 3


# DIV2K --------------------------------------------------------------------------------------


@pytest.fixture
def div2k(tmp_path: Path) -> Path:
    root = tmp_path / "DIV2K"
    for part, numbers in (("train", range(1, 4)), ("valid", range(801, 805))):
        for number in numbers:
            picture = photo("astronaut", 48, 64, number % 100)
            write(root / f"DIV2K_{part}_HR" / f"{number:04d}.png", picture)
            for track, level in (("bicubic", 0), ("unknown", 9)):
                folder = root / f"DIV2K_{part}_LR_{track}" / "X4"
                write(folder / f"{number:04d}x4.png", resized(picture, 12, 16) // 2 + level)
    return root


@pytest.mark.parametrize("cache", [[], ["data.cache=null"]])
@pytest.mark.parametrize(("track", "level"), [("bicubic", 0), ("unknown", 9)])
def test_div2k_pairs(div2k: Path, cache: list[str], track: str, level: int):
    data = registry.build(
        "data", "div2k", f"data.root={div2k}", f"data.lows={track}", "data.valid=2", *cache
    )
    keys = {"train": [1, 2, 3], "valid": [801, 802], "test": [801, 802, 803, 804]}
    for _ in range(2):  # the second time from the cache
        for name, numbers in keys.items():
            split = pickle.loads(pickle.dumps(data.split(name)))
            assert [split[i]["key"] for i in range(len(split))] == [f"{n:04d}" for n in numbers]
            picture = photo("astronaut", 48, 64, numbers[-1] % 100)
            sample = split[len(split) - 1]
            assert torch.equal(sample["target"], chw(picture))
            assert torch.equal(sample["low"], chw(resized(picture, 12, 16) // 2 + level))
    assert (div2k / "decoded").is_dir() == (not cache)


def test_div2k_without_low_pictures(div2k: Path):
    build = ("data", "div2k", f"data.root={div2k}")
    assert "low" not in registry.build(*build, "data.lows=null").split("train")[0]
    with pytest.raises(UserError, match=r"no folder .*LR_bicubic/X3; with data\.lows=null"):
        registry.build(*build, "data.scale=3").split("train")
    (div2k / "DIV2K_train_LR_bicubic" / "X4" / "0002x4.png").unlink()
    with pytest.raises(UserError, match=r"lacks 1 of 3 low pictures, such as 0002x4\.png"):
        registry.build(*build).split("train")


# The cache ----------------------------------------------------------------------------------


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write(tmp_path / "HR" / "a.b.png", photo("coffee", 40, 30))


def kept(cache: Path) -> list[Path]:
    return sorted(path for path in cache.rglob("*") if path.is_file())


def test_only_the_first_reading_decodes(source: Path, tmp_path: Path):
    cache = Cache(tmp_path / "cache")
    first = cache.read(source)
    assert torch.equal(first, chw(photo("coffee", 40, 30)))
    (file,) = kept(tmp_path / "cache")
    held = np.load(file)
    assert held.dtype == np.uint8
    np.testing.assert_array_equal(held, photo("coffee", 40, 30))
    np.save(file, held // 2)  # what is read from now on comes from here
    assert torch.equal(cache.read(source), chw(held // 2))


def test_writing_to_a_picture_changes_no_file(source: Path, tmp_path: Path):
    cache = Cache(tmp_path / "cache")
    picture = cache.read(source)
    picture.zero_()
    assert torch.equal(cache.read(source), chw(photo("coffee", 40, 30)))


@pytest.mark.parametrize("what", ["content", "time"])
def test_a_changed_source_is_decoded_again(source: Path, tmp_path: Path, what: str):
    cache = Cache(tmp_path / "cache")
    cache.read(source)
    state = source.stat()
    write(source, photo("chelsea", 22, 33) if what == "content" else photo("coffee", 40, 30) ^ 255)
    if what == "content":  # another size of the file, at the same time
        os.utime(source, ns=(state.st_atime_ns, state.st_mtime_ns))
        expected = photo("chelsea", 22, 33)
    else:
        os.utime(source, ns=(state.st_atime_ns, state.st_mtime_ns + 1_000_000))
        expected = photo("coffee", 40, 30) ^ 255
    assert torch.equal(cache.read(source), chw(expected))
    assert len(kept(tmp_path / "cache")) == 1, "the stale file stays"


def test_pictures_of_the_same_name_stay_apart(source: Path, tmp_path: Path):
    other = write(tmp_path / "more" / "HR" / "a.b.png", photo("chelsea", 40, 30))
    cache = Cache(tmp_path / "cache")
    for _ in range(2):
        assert torch.equal(cache.read(source), chw(photo("coffee", 40, 30)))
        assert torch.equal(cache.read(other), chw(photo("chelsea", 40, 30)))
    assert len(kept(tmp_path / "cache")) == 2


@pytest.mark.parametrize("left", [0, 60, 200])
def test_a_cut_off_cache_file_is_made_again(source: Path, tmp_path: Path, left: int):
    cache = Cache(tmp_path / "cache")
    cache.read(source)
    (file,) = kept(tmp_path / "cache")
    os.truncate(file, left)
    assert torch.equal(cache.read(source), chw(photo("coffee", 40, 30)))
    np.testing.assert_array_equal(np.load(file), photo("coffee", 40, 30))


def test_a_broken_source_is_not_kept(source: Path, tmp_path: Path):
    truncate(source)
    cache = Cache(tmp_path / "cache")
    for path in (source, source.with_name("missing.png")):
        with pytest.raises(UnreadableImage, match=path.name):
            cache.read(path)
    assert not kept(tmp_path)[1:], "something was written"


def test_a_folder_that_cannot_be_written_is_named(source: Path, tmp_path: Path):
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(UserError, match=r"cannot keep decoded pictures in .*data\.cache=null"):
        Cache(tmp_path / "cache").read(source)


@pytest.mark.slow
def test_processes_fill_it_together(source: Path, tmp_path: Path):
    others = [write(source.with_name(f"{i}.png"), photo("chelsea", 90, 90, i)) for i in range(6)]
    expected = [int(chw(photo("chelsea", 90, 90, i)).sum()) for i in range(6)]
    with multiprocessing.get_context("spawn").Pool(3) as pool:
        task = [(tmp_path / "cache", others)] * 6
        assert pool.starmap(_sums, task) == [expected] * 6
    assert len(kept(tmp_path / "cache")) == 6


def _sums(folder: Path, paths: list[Path]) -> list[int]:
    cache = Cache(folder)
    return [int(cache.read(path).numpy().sum()) for path in paths]
