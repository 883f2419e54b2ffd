"""Sources of pictures: what is in which split, which file belongs to which, and what is refused."""

import json
import pickle
import random
from pathlib import Path

import numpy as np
import pytest
import skimage.data
import torch
from PIL import Image

from restore.config import registry
from restore.datasets.cufed import Cufed
from restore.datasets.folder import Folder
from restore.datasets.sample import Area, SamplePhotos
from restore.errors import UnreadableImage, UserError
from restore.images import memory_mapped
from tests.helpers.pictures import chw, down_up, hwc, photo, truncate, write

SPLITS = ("train", "valid", "test")


# The built-in photos ------------------------------------------------------------------------


def shown(name: str, sides: tuple[str, ...] = ("target", "reference")) -> dict[str, np.ndarray]:
    """By photo, whether each pixel is in the targets or references of a split."""
    seen: dict[str, np.ndarray] = {}
    for item in SamplePhotos().split(name).items:
        for side, file, box in (
            ("target", item.photo, item.target),
            ("reference", item.reference_photo, item.reference),
        ):
            if side in sides:
                if file not in seen:
                    with Image.open(Path(skimage.data.__file__).parent / file) as opened:
                        seen[file] = np.zeros((opened.height, opened.width), bool)
                seen[file][inside(box)] = True
    return seen


def inside(box: Area) -> tuple[slice, slice]:
    return slice(box.top, box.top + box.height), slice(box.left, box.left + box.width)


@pytest.mark.parametrize("one", SPLITS)
def test_sample_splits_share_no_pixel(one):
    for other in set(SPLITS) - {one}:
        a, b = shown(one), shown(other)
        for file in a.keys() & b.keys():
            assert not (a[file] & b[file]).any(), f"{file}: {one} and {other}"


def views() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Left view, right view, and how many pixels further left the right one shows a point."""
    left, right, disparity = skimage.data.stereo_motorcycle()
    return left, right, np.where(np.isfinite(disparity), disparity, np.nan)


def carried(mask_HW: np.ndarray, disparity: np.ndarray) -> np.ndarray:
    """Where the right view shows what the left one shows inside the mask.

    Points of unknown disparity (hidden in one view) are carried by every disparity of the scene.
    """
    right = np.zeros_like(mask_HW)
    rows, columns = np.nonzero(mask_HW & np.isfinite(disparity))
    exact = columns - disparity[rows, columns]
    for place in (np.floor(exact), np.ceil(exact)):
        there = (place >= 0) & (place < mask_HW.shape[1])
        right[rows[there], place[there].astype(int)] = True
    rows, columns = np.nonzero(mask_HW & ~np.isfinite(disparity))
    for step in range(int(np.nanmin(disparity)), int(np.ceil(np.nanmax(disparity))) + 1):
        there = columns >= step
        right[rows[there], columns[there] - step] = True
    return right


def test_the_disparity_map_means_what_the_tests_below_take_it_for():
    left, right, disparity = views()
    rows, columns = np.nonzero(np.isfinite(disparity) & (np.arange(741) >= 64))
    difference = {}
    for sign in (-1, 1):
        there = np.clip(np.rint(columns + sign * disparity[rows, columns]).astype(int), 0, 740)
        apart = left[rows, columns].astype(float) - right[rows, there]
        difference[sign] = np.abs(apart).mean()
    assert difference[-1] < 0.5 * difference[1]


@pytest.mark.parametrize("evaluated", ["valid", "test"])
def test_the_stereo_pair_shows_no_evaluated_point_in_training(evaluated):
    disparity = views()[2]
    left, right = "motorcycle_left.png", "motorcycle_right.png"
    trained = shown("train")
    assert trained[left].any()
    assert trained[right].any()
    # What is restored in evaluation, seen from the right, is in no reference of training.
    targets = shown(evaluated, ("target",))[left]
    assert targets.any()
    assert not (carried(targets, disparity) & trained[right]).any()
    # Nor is what was trained on in a reference of evaluation.
    references = shown(evaluated, ("reference",))[right]
    assert references.any()
    assert not (carried(trained[left], disparity) & references).any()


@pytest.mark.parametrize("name", SPLITS)
def test_a_stereo_reference_shows_its_target(name):
    disparity = views()[2]
    for item in SamplePhotos().split(name).items:
        if item.photo != "motorcycle_left.png":
            continue
        target, reference = np.zeros((2, 500, 741), bool)
        target[inside(item.target)] = True
        reference[inside(item.reference)] = True
        target &= np.isfinite(disparity)
        seen = carried(target, disparity)
        assert (seen & reference).sum() > 0.85 * seen.sum()


@pytest.mark.parametrize("name", SPLITS)
def test_sample_items_are_the_photos_parts_in_a_fixed_order(name):
    split, again = SamplePhotos().split(name), SamplePhotos().split(name)
    keys = [split[i]["key"] for i in range(len(split))]
    assert keys == [again[i]["key"] for i in reversed(range(len(again)))][::-1]
    assert len(set(keys)) == len(keys) > 0
    photos = {
        "motorcycle_left.png": skimage.data.stereo_motorcycle()[0],
        "motorcycle_right.png": skimage.data.stereo_motorcycle()[1],
        "astronaut.png": skimage.data.astronaut(),
        "chelsea.png": skimage.data.chelsea(),
        "coffee.png": skimage.data.coffee(),
        "rocket.jpg": skimage.data.rocket(),
    }
    for i, item in enumerate(split.items):
        sample = split[i]
        expected = photos[item.photo][inside(item.target)]
        assert expected.shape == (item.target.height, item.target.width, 3), "beyond the photo"
        np.testing.assert_array_equal(hwc(sample["target"]), expected)
        expected = photos[item.reference_photo][inside(item.reference)]
        assert expected.shape == (item.reference.height, item.reference.width, 3)
        np.testing.assert_array_equal(hwc(sample["reference"]), expected)


def test_sample_refuses_an_unknown_split():
    with pytest.raises(UserError, match=r"'vaild'.*train, valid, test"):
        SamplePhotos().split("vaild")


# Folders ------------------------------------------------------------------------------------

LOSSLESS = (".png", ".PNG", ".tif", ".TIF", ".tiff", ".bmp", ".BMP", ".ppm")
LOSSY = (".jpg", ".JPG", ".jpeg", ".JPEG", ".Jpg", ".webp", ".WEBP")


@pytest.mark.parametrize("suffix", LOSSLESS + LOSSY)
def test_every_usual_kind_is_read(tmp_path: Path, suffix):
    array = photo("chelsea", 40, 56)
    write(tmp_path / "t" / f"cat{suffix}", array)
    split = Folder(str(tmp_path / "t"), test=1).split("test")
    assert [split[i]["key"] for i in range(len(split))] == ["cat"]
    got = hwc(split[0]["target"])
    assert got.dtype == np.uint8
    if suffix in LOSSLESS:
        np.testing.assert_array_equal(got, array)
    else:
        assert np.abs(got.astype(float) - array).mean() < 6
        assert got.shape == array.shape


@pytest.mark.parametrize("suffix", [".pgm", ".gif", ".PGM"])
def test_grey_pictures_have_three_equal_channels(tmp_path: Path, suffix):
    grey = photo("camera", 32, 24)
    write(tmp_path / "t" / f"a{suffix}", grey)
    got = hwc(Folder(str(tmp_path / "t"), test=1).split("test")[0]["target"])
    np.testing.assert_array_equal(got, np.stack([grey] * 3, -1))


def scatter(folder: Path, names: list[str]) -> None:
    """Writes small pictures, made in an order of chance."""
    for name in random.Random(0).sample(names, len(names)):
        write(folder / name, np.full((4, 4, 3), len(name), np.uint8))


def keys(folder: Folder, name: str) -> list[str]:
    try:
        return list(folder.split(name).keys)
    except UserError:
        return []


def test_recursive_in_natural_order_without_other_files(tmp_path: Path):
    names = ["b.png", "a10.png", "a9.jpg", "a/c.png", "a/B/2.tif", "a/B/10.PNG", "a09.jpg"]
    scatter(tmp_path / "t", names)
    for other in (".hidden.png", "notes.txt", "a/data.npz", "Thumbs.db"):
        (tmp_path / "t" / other).write_bytes(b"no picture")
    assert keys(Folder(str(tmp_path / "t"), test=1), "test") == [
        "a09", "a9", "a10", "a/B/2", "a/B/10", "a/c", "b"
    ]  # fmt: skip


def test_pairs_by_name_whatever_the_suffix(tmp_path: Path):
    arrays = {}
    for kind, suffix, at in (("t", ".png", 0), ("r", ".TIF", 50), ("low", ".bmp", 90)):
        for name in ("one", "two", "deep/one", "with.dots"):
            arrays[kind, name] = photo("coffee", 16, 12, at + len(name))
            write(tmp_path / kind / f"{name}{suffix}", arrays[kind, name])
    write(tmp_path / "r" / "spare.png", photo())  # a reference that nobody needs does no harm
    folder = Folder(*(str(tmp_path / kind) for kind in ("t", "r", "low")), valid=1)
    split = folder.split("valid")
    assert len(split) == 4
    for i in range(4):
        sample = split[i]
        for name, kind in (("target", "t"), ("reference", "r"), ("low", "low")):
            np.testing.assert_array_equal(hwc(sample[name]), arrays[kind, sample["key"]])


def test_targets_alone(tmp_path: Path):
    scatter(tmp_path / "t", ["a.png"])
    assert set(Folder(str(tmp_path / "t"), test=1).split("test")[0]) == {"key", "target"}


def test_splits_part_the_folder_by_name_alone(tmp_path: Path):
    few = [f"{i:03d}.png" for i in range(0, 300, 3)]
    every = [f"{i:03d}.png" for i in range(300)]
    for name, names in (("few", few), ("every", every)):
        (tmp_path / name).mkdir()
        for file in random.Random(1).sample(names, len(names)):
            (tmp_path / name / file).touch()
    shares = {"valid": 0.2, "test": 0.3}
    splits = {}
    for name in SPLITS:
        held = keys(Folder(str(tmp_path / "every"), **shares), name)
        splits[name] = set(held)
        assert held == sorted(held)
        before = keys(Folder(str(tmp_path / "few"), **shares), name)
        assert before == [key for key in held if f"{key}.png" in few], "added pictures moved others"
    assert set.union(*splits.values()) == {name.removesuffix(".png") for name in every}
    assert sum(map(len, splits.values())) == 300
    # Five standard deviations of a binomial share are 35 and 40 pictures.
    assert abs(len(splits["valid"]) - 60) < 35
    assert abs(len(splits["test"]) - 90) < 40


def test_a_share_of_one_is_every_picture(tmp_path: Path):
    scatter(tmp_path / "t", [f"{i}.png" for i in range(5)])
    folder = Folder(str(tmp_path / "t"), valid=1)
    assert len(keys(folder, "valid")) == len(keys(folder, "train")) == 5
    with pytest.raises(UserError, match=r"none of the 5 pictures.*'test': raise data\.test"):
        folder.split("test")


def test_a_broken_picture_is_named_when_it_is_read(tmp_path: Path):
    for kind in ("t", "r"):
        for i in range(3):
            write(tmp_path / kind / f"{i}.png", photo())
    truncate(tmp_path / "r" / "1.png")
    split = Folder(str(tmp_path / "t"), str(tmp_path / "r"), test=1).split("test")
    assert split[0]["key"] == "0"
    assert split[2]["key"] == "2"
    with pytest.raises(UnreadableImage, match="truncated") as caught:
        split[1]
    assert caught.value.path == str(tmp_path / "r" / "1.png")


@pytest.mark.parametrize("what", ["references", "lows"])
def test_a_missing_partner_is_named(tmp_path: Path, what):
    scatter(tmp_path / "t", ["a.png", "sub/b.png", "c.png"])
    scatter(tmp_path / "p", ["a.jpg", "b.jpg", "c.jpg"])
    with pytest.raises(UserError, match=rf"data\.{what}=.*lacks 1 of 3 pictures, such as sub/b$"):
        Folder(str(tmp_path / "t"), **{what: str(tmp_path / "p")})


def test_bad_folders(tmp_path: Path):
    scatter(tmp_path / "twice", ["a.png", "a.jpg"])
    with pytest.raises(UserError, match=r"a\.(png|jpg) and .*a\.(png|jpg) have the same name"):
        Folder(str(tmp_path / "twice"))
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "a.txt").touch()
    with pytest.raises(UserError, match=r"no pictures below .*empty"):
        Folder(str(tmp_path / "empty"))
    with pytest.raises(UserError, match=r"no folder .*nowhere"):
        Folder(str(tmp_path / "nowhere"))
    scatter(tmp_path / "t", ["a.png"])
    with pytest.raises(UserError, match=r"no folder .*nowhere"):
        Folder(str(tmp_path / "t"), references=str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match=r"no folder .*a\.png"):
        Folder(str(tmp_path / "t" / "a.png"))
    with pytest.raises(UserError, match="more than all pictures"):
        Folder(str(tmp_path / "t"), valid=0.6, test=0.5)
    with pytest.raises(UserError, match=r"lower data\.valid and data\.test"):
        Folder(str(tmp_path / "t"), valid=0.5, test=0.5).split("train")
    with pytest.raises(UserError, match=r"no split 'tets'; choose one of train, valid, test"):
        Folder(str(tmp_path / "t")).split("tets")


# CUFED --------------------------------------------------------------------------------------

SIZES = {0: (41, 58), 1: (43, 50), 2: (38, 61), 3: (64, 40), 4: (30, 30), 5: (45, 47)}


@pytest.fixture
def cufed(tmp_path: Path) -> Path:
    """A made-up data set in the published layout."""
    for i in range(3):
        write(tmp_path / "train" / "input" / f"{i:03d}_0.png", photo("astronaut", 160, 160, 60 * i))
        size = (160, 160) if i else (101, 134)
        write(tmp_path / "train" / "ref" / f"{i:03d}_0.png", photo("coffee", *size, 40 * i))
    for group in ("000", "005", "012"):
        for level, size in SIZES.items():
            array = photo("rocket", *size, 10 * level + int(group))
            write(tmp_path / "test" / "CUFED5" / f"{group}_{level}.png", array)
    return tmp_path


def decoded(path: Path) -> np.ndarray:
    with Image.open(path) as opened:
        return np.array(opened)


@pytest.mark.parametrize(
    ("split", "level"), [("valid", "1"), *(("test", level) for level in "12345")]
)
def test_cufed5_reference_protocols(cufed: Path, level, split):
    items = registry.build("data", "cufed", f"data.root={cufed}", f"data.references='{level}'")
    task = registry.build("task", "reference_sr")
    held = items.split(split)
    assert [held[i]["key"] for i in range(len(held))] == ["000_0", "005_0", "012_0"]
    for i, group in enumerate(("000", "005", "012")):
        # As published: both cropped at the top left to a multiple of 4, then degraded.
        target, reference = (
            array[: array.shape[0] // 4 * 4, : array.shape[1] // 4 * 4]
            for array in (
                decoded(cufed / "test" / "CUFED5" / f"{group}_{k}.png") for k in ("0", level)
            )
        )
        item = task.eval_item(held[i])
        low, low_up = down_up(target, 4)
        expected = {
            "target": target,
            "low": low,
            "low_up": low_up,
            "reference": reference,
            "reference_low_up": down_up(reference, 4)[1],
        }
        for name, array in expected.items():
            np.testing.assert_array_equal(hwc(item[name]), array, err_msg=name)


def test_cufed5_stitched(cufed: Path):
    held = Cufed(str(cufed), "stitched").split("test")
    for i, group in enumerate(("000", "005", "012")):
        expected = np.zeros((2500, 500, 3), np.uint8)
        for level in range(1, 6):
            array = decoded(cufed / "test" / "CUFED5" / f"{group}_{level}.png")
            top = 500 * (level - 1)
            expected[top : top + array.shape[0], : array.shape[1]] = array
        sample = held[i]
        np.testing.assert_array_equal(hwc(sample["reference"]), expected)
        np.testing.assert_array_equal(
            hwc(sample["target"]), decoded(cufed / "test" / "CUFED5" / f"{group}_0.png")
        )


def test_cufed5_canvas_is_large_enough_or_refused(cufed: Path):
    place = cufed / "test" / "CUFED5" / "005_3.png"
    full = np.arange(500 * 500 * 3, dtype=np.uint32).astype(np.uint8).reshape(500, 500, 3)
    write(place, full)
    got = Cufed(str(cufed), "stitched").split("test")[1]["reference"]
    np.testing.assert_array_equal(hwc(got)[1000:1500], full)
    write(place, np.zeros((20, 501, 3), np.uint8))
    with pytest.raises(UserError, match=r"005_0.*501×20.*500"):
        Cufed(str(cufed), "stitched").split("test")[1]


def test_cufed_lacking_files_are_named(cufed: Path):
    (cufed / "test" / "CUFED5" / "005_4.png").unlink()
    assert len(Cufed(str(cufed), "3").split("test")) == 3
    for protocol in ("4", "stitched"):
        with pytest.raises(UserError, match=r"005_0\.png lacks its reference 005_4\.png"):
            Cufed(str(cufed), protocol).split("test")
    (cufed / "train" / "ref" / "001_0.png").unlink()
    with pytest.raises(UserError, match=r"ref lacks 1 reference\(s\), such as 001_0\.png"):
        Cufed(str(cufed)).split("train")
    with pytest.raises(UserError, match=r"no folder .*CUFED5"):
        Cufed(str(cufed / "train")).split("test")
    write(cufed / "other" / "test" / "CUFED5" / "000_1.png", photo())
    with pytest.raises(UserError, match=r"holds no inputs NNN_0\.png"):
        Cufed(str(cufed / "other")).split("valid")


def turns(array_HWC: np.ndarray) -> dict[tuple[int, int, int], np.ndarray]:
    """All flips and quarter turns, in the published order: left-right, up-down, turn."""
    found = {}
    for across in (0, 1):
        for along in (0, 1):
            for quarters in range(4):
                flipped = np.fliplr(array_HWC) if across else array_HWC
                flipped = np.flipud(flipped) if along else flipped
                found[across, along, quarters] = np.rot90(flipped, quarters)
    return found


def which(turned: np.ndarray, candidates: dict) -> set[tuple[int, int, int]]:
    return {how for how, array in candidates.items() if np.array_equal(array, turned)}


def test_cufed_training_items_are_the_published_ones(cufed: Path):
    """Degraded, padded with zeros to 160×160, then flipped and turned, reference on its own."""
    held = registry.build("data", "cufed", f"data.root={cufed}").split("train")
    task = registry.build("task", "reference_sr", "task.jitter=0")
    assert len(held) == 3
    drawn = set()
    for i in range(3):
        target = decoded(cufed / "train" / "input" / f"{i:03d}_0.png")
        part = decoded(cufed / "train" / "ref" / f"{i:03d}_0.png")
        low, low_up = down_up(target, 4)
        height, width = part.shape[:2]
        reference, reference_low_up = np.zeros((2, 160, 160, 3), np.uint8)
        reference[:height, :width] = part
        reference_low_up[:height, :width] = down_up(part, 4)[1]
        plain = {"target": target, "low": low, "low_up": low_up,
                 "reference": reference, "reference_low_up": reference_low_up}  # fmt: skip
        every = {name: turns(array) for name, array in plain.items()}
        for seed in range(20):
            item = task.train_item(held[i], np.random.default_rng([i, seed]))
            how = {name: which(hwc(item[name]), every[name]) for name in plain}
            assert how["target"] == how["low"] == how["low_up"], "the input was not turned as one"
            assert how["reference"] == how["reference_low_up"]
            assert how["target"]
            assert how["reference"]
            drawn.add((min(how["target"]), min(how["reference"])))
    # 60 draws of 64 pairs of symmetries: about 39 different ones when the two are independent.
    assert len({one for one, _ in drawn}) == len({other for _, other in drawn}) == 8
    assert len(drawn) > 25


# All of them --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", registry.names("data"))
def test_splits_go_to_other_processes_whole(name, cufed: Path, tmp_path: Path):
    scatter(tmp_path / "t", ["a.png", "b.png"])
    scatter(tmp_path / "sets" / "Set5" / "HR", ["a.png", "b.png"])
    scatter(tmp_path / "div2k" / "DIV2K_valid_HR", ["0801.png", "0802.png"])
    (tmp_path / "pairs" / "s" / "1").mkdir(parents=True)
    for part in ("target", "low_up"):
        memory_mapped.write(
            tmp_path / "pairs" / "s" / "1" / f"{part}.npy", torch.ones(3, 4, 4).byte()
        )
    (tmp_path / "pairs.json").write_text(json.dumps([{"key": "s/1", "kept": True}]))
    needed = {
        "sample": [],
        "partial_sr_demo": [],
        "cufed": [f"data.root={cufed}"],
        "folder": [f"data.targets={tmp_path / 't'}", "data.test=1"],
        "ffhq": [f"data.root={tmp_path / 't'}"],
        "benchmark": [f"data.root={tmp_path / 'sets'}"],
        "div2k": [f"data.root={tmp_path / 'div2k'}", "data.lows=null"],
        "sr_raw": [f"data.root={tmp_path}", "data.valid=0", "data.test=1"],
        "warped": [f"data.photos.targets={tmp_path / 't'}", "data.photos.test=1", "data.size=16"],
        "collection": [f"data.root={tmp_path / 'sets'}", "data.test=1"],
    }
    split = registry.build("data", name, *needed[name]).split("test")
    again = pickle.loads(pickle.dumps(split))
    assert len(again) == len(split) > 0
    for i in range(len(split)):
        sample, other = split[i], again[i]
        assert sample.keys() == other.keys()
        assert sample["key"] == other["key"]
        assert torch.equal(sample["target"], other["target"])
        assert sample["target"].dtype == torch.uint8
        assert chw(hwc(sample["target"])).shape == sample["target"].shape


def test_a_folder_s_pictures_as_palette_s_public_code_reads_them(tmp_path: Path):
    rng = np.random.default_rng(0)
    given = Image.fromarray(rng.integers(0, 256, (21, 34, 3)).astype(np.uint8))
    given.save(tmp_path / "a.png")
    sample = Folder(str(tmp_path), test=1, resize=16).split("test")[0]
    expected = np.array(given.resize((16, 16), Image.Resampling.BILINEAR))
    assert (sample["target"].permute(1, 2, 0).numpy() == expected).all()
    with pytest.raises(UserError, match=r"data\.resize"):
        Folder(str(tmp_path), lows=str(tmp_path), resize=16)
