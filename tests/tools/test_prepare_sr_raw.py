"""Raw scenes of several focal lengths made into aligned pairs, and read as a data set."""

import csv
import json
import os
import pickle
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
import skimage.data
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from restore.cli import main
from restore.config import registry
from restore.datasets.sr_raw import SrRaw
from restore.errors import UserError
from restore.tools.prepare import photometry, rectangle, scenes
from restore.tools.prepare.alignment import Unrelated, align, expected
from restore.tools.prepare.blocks import shifts
from restore.tools.prepare.rectangle import largest
from restore.tools.prepare.warp import Warp
from tests.helpers.pictures import truncate

SIZE = 300, 400  # height and width of all made-up photos
ZOOM = 1.5  # from 150 mm to 100 mm


def scene(name: str) -> np.ndarray:
    """A scene larger than what the wide lens sees, float 0 to 1."""
    photo = getattr(skimage.data, name)()
    return cv2.resize(photo, (840, 640), interpolation=cv2.INTER_CUBIC).astype(np.float32) / 255


def truth(shift=(0.0, 0.0), turn=0.0, tilt=(0.0, 0.0), radial=0.0, zoom=ZOOM) -> Warp:
    """What a camera that moved between two photos does to the target's pixels."""
    height, width = SIZE
    centring = np.array([[1, 0, -(width - 1) / 2], [0, 1, -(height - 1) / 2], [0, 0, 1.0]])
    cos, sin = np.cos(np.deg2rad(turn)), np.sin(np.deg2rad(turn))
    moved = np.array([[cos, -sin, shift[0]], [sin, cos, shift[1]], [*tilt, 1.0]])
    central = expected(SIZE, SIZE, zoom).matrix
    return Warp(central @ np.linalg.inv(centring) @ moved @ centring, SIZE, radial)


def photographed(whole: np.ndarray, mapping: Warp) -> tuple[np.ndarray, np.ndarray]:
    """The two photos, uint8: the target sees the scene's middle, the wide one what follows.

    Written without the code that is tested: the distortion is undone by repetition, and the lens
    averages over 4×4 rays a pixel.
    """
    (height, width), (rows, columns) = SIZE, whole.shape[:2]
    top, left = (rows - height) // 2, (columns - width) // 2
    fine = 4
    y, x = (np.mgrid[: height * fine, : width * fine] + 0.5) / fine - 0.5
    middle_x, middle_y = (width - 1) / 2, (height - 1) / 2
    u, v = x - middle_x, y - middle_y
    for _ in range(15):
        factor = 1 + mapping.radial * (u**2 + v**2) / (middle_x**2 + middle_y**2)
        u, v = (x - middle_x) / factor, (y - middle_y) / factor
    back = np.linalg.inv(mapping.matrix)
    ray = np.stack([u + middle_x, v + middle_y, np.ones_like(u)], -1) @ back.T
    ray = (ray[..., :2] / ray[..., 2:] + (left, top)).astype(np.float32)
    seen = cv2.remap(whole, ray[..., 0], ray[..., 1], cv2.INTER_CUBIC, borderMode=cv2.BORDER_WRAP)
    wide = seen.reshape(height, fine, width, fine, 3).mean((1, 3))
    target = whole[top : top + height, left : left + width]
    return tuple(np.rint(x.clip(0, 1) * 255).astype(np.uint8) for x in (target, wide))


def shot(path: Path, picture: np.ndarray, focal: float | None) -> Path:
    """Writes a JPEG file as a camera does."""
    exif = Image.Exif()
    if focal is not None:
        exif.get_ifd(0x8769)[0x920A] = focal
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture).save(path, quality=96, exif=exif)
    return path


def grey(picture: np.ndarray) -> np.ndarray:
    return cv2.cvtColor(picture.astype(np.float32) / 255, cv2.COLOR_RGB2GRAY)


def corners() -> np.ndarray:
    height, width = SIZE
    return np.array([[0, 0], [width - 1, 0], [0, height - 1], [width - 1, height - 1]])


def off(found: Warp, true: Warp) -> float:
    """The largest error at the target's corners, in its own pixels."""
    return float(np.hypot(*(found(corners()) - true(corners())).T).max()) * ZOOM


def prepare(root: Path, output: Path, *more: str) -> int:
    small = ["preparation.smallest=128", f"root={root}", f"output={output}"]
    return main(["prepare", "data=sr_raw", "workers=1", "data.valid=0", *small, *more])


def records(output: Path) -> dict[str, dict]:
    return {r["key"]: r for r in json.loads((output / "pairs.json").read_text("utf-8"))}


# Alignment ----------------------------------------------------------------------------------

MOTIONS = {
    "shift": {"shift": (46.0, -31.0)},
    "turn": {"shift": (-22.5, 17.25), "turn": 2.0},
    "tilt": {"shift": (30.0, 12.0), "turn": -1.0, "tilt": (3e-5, -2e-5)},
}


@pytest.mark.parametrize("photo", ["astronaut", pytest.param("coffee", marks=pytest.mark.slow)])
@pytest.mark.parametrize("motion", MOTIONS)
def test_corners_are_found_below_half_a_pixel(photo: str, motion: str):
    true = truth(**MOTIONS[motion])
    target, wide = photographed(scene(photo), true)
    dark = (0.8 * wide.astype(float) + 5).astype(np.uint8)
    # Focal lengths on the file are rounded: the zoom told is not quite the true one.
    found = align(grey(target), grey(dark), ZOOM * 1.02, "homography", False, 1600)
    assert off(found.mapping, true) < 0.1
    assert found.correlation > 0.98


def test_an_affine_map_finds_shift_and_turn():
    true = truth(**MOTIONS["turn"])
    target, wide = photographed(scene("astronaut"), true)
    found = align(grey(target), grey(wide), ZOOM, "affine", False, 1600).mapping
    assert off(found, true) < 0.1
    assert found.matrix[2].tolist() == [0, 0, 1]


def test_small_copies_of_large_pictures_are_enough_to_start():
    true = truth(**MOTIONS["turn"])
    target, wide = photographed(scene("astronaut"), true)
    found = align(grey(target), grey(wide), ZOOM, "homography", False, 256)
    assert off(found.mapping, true) < 0.1


@pytest.mark.parametrize("radial", [-0.04, 0.03])
def test_the_radial_term_is_found(radial: float):
    true = truth(shift=(20.0, -9.0), turn=1.0, radial=radial)
    target, wide = photographed(scene("astronaut"), true)
    with_it, without = (
        align(grey(target), grey(wide), ZOOM, "homography", flag, 1600).mapping
        for flag in (True, False)
    )
    assert with_it.radial == pytest.approx(radial, abs=0.002)
    assert off(with_it, true) < 0.2
    assert off(without, true) > 0.5


def test_what_moves_in_the_scene_does_not_pull_the_rest():
    true = truth(shift=(12.0, 8.0))
    target, wide = photographed(scene("astronaut"), true)
    changed = wide.copy()
    changed[90:190, 90:170] = changed[90:190, 101:181]  # 15 pixels of the target
    found = align(grey(target), grey(changed), ZOOM, "homography", False, 1600)
    assert off(found.mapping, true) < 0.5


def test_pictures_of_two_places_are_not_aligned():
    target, _ = photographed(scene("astronaut"), truth())
    _, wide = photographed(scene("coffee"), truth())
    with pytest.raises(Unrelated, match="no common view"):
        align(grey(target), grey(wide), ZOOM, "homography", False, 1600)


def test_another_zoom_than_that_of_the_focal_lengths_is_no_match():
    target, wide = photographed(scene("astronaut"), truth(zoom=1.2))
    with pytest.raises(Unrelated, match="zoom"):
        align(grey(target), grey(wide), 1.8, "homography", False, 1600)


@settings(max_examples=25, deadline=None)
@given(
    st.tuples(st.floats(-40, 40), st.floats(-40, 40)),
    st.floats(-3, 3),
    st.floats(-0.05, 0.05),
    st.tuples(st.integers(0, 60), st.integers(0, 60)),
)
def test_grids_of_parts_are_the_mapping_of_points(shift, turn, radial, corner):
    mapping = truth(shift, turn, (2e-5, 1e-5), radial)
    part = rectangle.Window(*corner, 270, 30)
    xs, ys = mapping.grid(part)
    for row, column in ((0, 0), (269, 29), (256, 3)):
        point = mapping(np.array([[corner[1] + column, corner[0] + row]]))[0]
        assert (xs[row, column], ys[row, column]) == pytest.approx(tuple(point), abs=1e-3)


@pytest.mark.parametrize("move", [(0.4, -0.3), (1.7, 0.6), (-5.0, 3.0)])
def test_blocks_tell_how_far_they_are_off(move: tuple[float, float]):
    whole = cv2.cvtColor(scene("coffee"), cv2.COLOR_RGB2GRAY)
    first = whole[100:400, 100:500]
    matrix = np.array([[1, 0, 100 - move[0]], [0, 1, 100 - move[1]]])
    second = cv2.warpAffine(whole, matrix, (400, 300), flags=cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP)
    seen = shifts(first, second * 0.7 + 0.1, 1.5)
    assert len(seen.far) > 30
    assert np.abs(np.median(seen.moves, axis=0) - move).max() < 0.05
    assert np.mean(seen.alike > 0.9) > 0.9


# The common rectangle -----------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
def test_the_rectangle_is_the_largest_of_its_grid(seed: int):
    rng = np.random.default_rng(seed)
    cells = rng.random((5, 6)) < 0.75
    valid = np.kron(cells, np.ones((8, 8), dtype=bool))[: 8 * 5 - 3, : 8 * 6 - 5]
    areas = [0]
    for top in range(5):
        for bottom in range(top + 1, 6):
            for left in range(6):
                for right in range(left + 1, 7):
                    if cells[top:bottom, left:right].all():
                        rows = min(8 * bottom, valid.shape[0]) - 8 * top
                        areas.append(rows * (min(8 * right, valid.shape[1]) - 8 * left))
    found = largest(valid)
    assert found.of(torch.from_numpy(valid)).all()
    assert found.height * found.width == max(areas)


# Colours ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["polynomial", "histogram"])
def test_a_change_of_colours_is_undone(kind: str):
    picture = np.rint(scene("coffee") * 255).astype(np.uint8)
    levels = np.arange(256)
    changes = [0.8 * levels + 10, 255 * (levels / 255) ** 1.2, 0.9 * levels]
    changed = photometry.apply(picture, np.stack(changes))
    curves = photometry.curves(changed, picture, kind)
    restored = photometry.apply(changed, curves)
    assert (np.diff(curves, axis=1) >= 0).all()
    before, after = (np.abs(x.astype(float) - picture).mean((0, 1)) for x in (changed, restored))
    assert before.min() > 5
    assert after.max() < 1.2
    same = photometry.apply(changed, photometry.curves(changed, picture, "none"))
    assert np.array_equal(same, changed)


def test_a_few_wrong_pixels_do_not_bend_the_polynomial():
    picture = np.rint(scene("astronaut") * 255).astype(np.uint8)
    goal = photometry.apply(picture, np.tile(0.85 * np.arange(256) + 12, (3, 1)))
    wrong = goal.copy()
    wrong[:100, :200] = 255  # something bright has come into the scene
    curves = photometry.curves(picture, wrong, "polynomial")
    assert np.abs(curves[:, 20:236] - (0.85 * np.arange(20, 236) + 12)).max() < 2


# Which pictures -----------------------------------------------------------------------------


def test_pairs_are_neighbours_by_focal_length(tmp_path: Path):
    dot = np.zeros((8, 8, 3), np.uint8)
    lengths = {"00001": 240, "00002": 150, "00003": 70, "00004": 100, "00005": None}
    for name, focal in lengths.items():
        shot(tmp_path / "train" / "00007" / f"{name}.JPG", dot, focal)
    shot(tmp_path / "train" / "00007" / "cropped" / "00002.JPG", dot, 150)
    shot(tmp_path / "train" / "00009" / "00001.JPG", dot, 240)
    pairs, refused = scenes.pairs(tmp_path)
    keys = ["00001_00002", "00002_00004", "00004_00003"]
    assert [pair.key for pair in pairs] == [f"train/00007/{key}" for key in keys]
    assert [pair.focal / pair.wide_focal for pair in pairs] == [1.6, 1.5, pytest.approx(10 / 7)]
    told = {entry.key: entry.reason for entry in refused}
    assert told == {
        "train/00007/00005.JPG": "its EXIF data tell no focal length",
        "train/00009/00001.JPG": "alone in its scene",
    }


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (None, "there is no folder"),
        ({}, "there are no pictures"),
        ({"a/1.png": 50}, "no JPEG files"),
        ({"a/1.jpg": None, "a/2.jpg": None}, "none of the 2 pictures .* tells its focal length"),
    ],
)
def test_folders_without_pairs_are_refused(tmp_path: Path, capsys, content, sentence: str):
    root = tmp_path / "raw"
    if content is not None:
        root.mkdir()
        for name, focal in content.items():
            shot(root / name, np.zeros((8, 8, 3), np.uint8), focal)
    assert prepare(root, tmp_path / "out") == 2
    said = capsys.readouterr().err
    assert len(said.strip().splitlines()) == 1
    assert re.search(sentence, said)
    assert not (tmp_path / "out").exists()


# The command --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def raw(tmp_path_factory) -> Path:
    """Six scenes: three good ones, one of two places, one truncated, one without EXIF."""
    root = tmp_path_factory.mktemp("raw")
    for number, photo in enumerate(["astronaut", "coffee", "rocket"]):
        moved = truth(shift=(25.0 - 20 * number, 14.0 * number), turn=number - 1.0)
        target, wide = photographed(scene(photo), moved)
        warm = (wide.astype(float) * [0.9, 0.8, 0.7] + [6, 2, 0]).astype(np.uint8)
        shot(root / photo / "00001.JPG", target, 150)
        shot(root / photo / "00002.JPG", warm, 100)
    shutil.copytree(root / "astronaut", root / "two_places")
    shutil.copy(root / "coffee" / "00002.JPG", root / "two_places")
    shutil.copytree(root / "coffee", root / "truncated")
    truncate(root / "truncated" / "00002.JPG")
    shutil.copytree(root / "coffee", root / "untold")
    with Image.open(root / "coffee" / "00002.JPG") as image:
        shot(root / "untold" / "00002.JPG", np.array(image), None)
    return root


@pytest.fixture(scope="module")
def prepared(raw: Path, tmp_path_factory) -> Path:
    output = tmp_path_factory.mktemp("prepared") / "out"
    assert prepare(raw, output, "preparation.photometry=polynomial") == 0
    return output


def content(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_what_is_kept_and_why_not(prepared: Path):
    told = records(prepared)
    kept = [key for key, record in told.items() if record["kept"]]
    assert kept == [f"{name}/00001_00002" for name in ("astronaut", "coffee", "rocket")]
    for key in kept:
        assert told[key]["residual"] < 0.3
        assert told[key]["moving"] < 0.1
        assert max(map(abs, told[key]["bias_before"])) > 10
        assert max(map(abs, told[key]["bias_after"])) < 1
    assert "no common view" in told["two_places/00001_00002"]["reason"]
    assert "00002.JPG cannot be read" in told["truncated/00001_00002"]["reason"]
    assert told["untold/00002.JPG"]["reason"] == "its EXIF data tell no focal length"
    assert told["untold/00001.JPG"]["reason"] == "alone in its scene"
    assert len(told) == 7


def test_the_alignment_reported_is_the_true_one(prepared: Path):
    told = records(prepared)
    for number, photo in enumerate(["astronaut", "coffee", "rocket"]):
        true = truth(shift=(25.0 - 20 * number, 14.0 * number), turn=number - 1.0)
        record = told[f"{photo}/00001_00002"]
        assert off(Warp(np.array(record["matrix"]), SIZE), true) < 0.5
        assert record["shift_x"] == pytest.approx(25 - 20 * number, abs=0.5)
        assert record["shift_y"] == pytest.approx(14 * number, abs=0.5)
        assert record["rotation"] == pytest.approx(number - 1, abs=0.05)
        assert record["zoom_found"] == pytest.approx(ZOOM, abs=0.005)


def test_the_report_shows_every_pair_by_itself(prepared: Path):
    page = (prepared / "report.html").read_text("utf-8")
    told = records(prepared)
    for key, record in told.items():
        assert key in page
        assert record["kept"] or record["reason"].split(":")[0] in page
    assert "http" not in page
    # Whole views of each pair that could be read, details of those that were aligned.
    assert page.count('src="data:image/jpeg;base64,') == 3 * 4 + 1 * 2
    lines = (prepared / "pairs.csv").read_text("utf-8").splitlines()
    assert len(lines) == 1 + len(told)


def test_pairs_are_read_as_they_lie(prepared: Path, raw: Path):
    split = pickle.loads(pickle.dumps(SrRaw(str(prepared), valid=0).split("train")))
    assert len(split) == 3
    sample = split[0]
    assert sample["key"] == "astronaut/00001_00002"
    assert sample["target"].shape == sample["low_up"].shape
    assert sample["target"].dtype == sample["low_up"].dtype == torch.uint8
    with Image.open(raw / "astronaut" / "00001.JPG") as image:
        photo = torch.from_numpy(np.array(image)).permute(2, 0, 1)
    # The target is a part of the photo, not a pixel of it changed.
    height, width = sample["target"].shape[-2:]
    places = [
        (top, left)
        for top in range(0, SIZE[0] - height + 1)
        for left in range(0, SIZE[1] - width + 1)
        if torch.equal(photo[:, top, left : left + width], sample["target"][:, 0])
    ]
    assert any(
        torch.equal(photo[:, t : t + height, left : left + width], sample["target"])
        for t, left in places
    )


def test_the_task_takes_crops_of_both(prepared: Path):
    split = registry.build("data", "sr_raw", f"data.root={prepared}", "data.valid=0").split("train")
    task = registry.build(
        "task", "partial_sr", "task.crop=64", "task.holes=0", "task.overlap=[0.2,0.6]"
    )
    for seed in range(5):
        item = task.train_item(split[0], np.random.default_rng(seed))
        for name in ("target", "low_up", "reference", "reference_low_up"):
            assert item[name].shape == (3, 64, 64)
        assert 0.2 <= item["overlap"] <= 0.6
        for sharp, wide in (("target", "low_up"), ("reference", "reference_low_up")):
            apart = (item[sharp].float() - item[wide].float()).abs().mean()
            other = (item[sharp].float() - item[wide].float().flip(-1)).abs().mean()
            assert apart < 12
            assert apart < other


def test_scenes_are_in_one_split_each(prepared: Path):
    data = SrRaw(str(prepared), valid=0.4, test=0.4)
    data.keys = [f"{scene:05d}/{pair}" for scene in range(200) for pair in ("1_2", "2_3")]
    names = {name: data.split(name).keys for name in ("train", "valid", "test")}
    assert sorted(key for keys in names.values() for key in keys) == sorted(data.keys)
    places = [{key.split("/")[0] for key in keys} for keys in names.values()]
    assert sum(map(len, places)) == 200
    assert all(len(place) > 20 for place in places)
    with pytest.raises(UserError, match=r"raise data\.test"):
        SrRaw(str(prepared), valid=0.1).split("test")


@pytest.mark.slow
def test_two_processes_make_the_same(raw: Path, prepared: Path, tmp_path: Path):
    more = ["preparation.photometry=polynomial", "workers=2"]
    assert prepare(raw, tmp_path / "out", *more) == 0
    assert content(tmp_path / "out") == content(prepared)


@pytest.mark.slow
def test_killed_and_run_again_it_makes_the_same(raw: Path, prepared: Path, tmp_path: Path, capsys):
    output = tmp_path / "out"
    line = ["prepare", "data=sr_raw", f"root={raw}", f"output={output}", "data.valid=0"]
    line += ["preparation.photometry=polynomial", "preparation.smallest=128"]
    command = subprocess.Popen(
        [sys.executable, "-m", "restore", *line, "workers=2"], stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 60
    while not (done := list(output.glob("pairs/*/[!.]*/record.json"))):
        assert time.monotonic() < deadline
        assert command.poll() is None
        time.sleep(0.002)
    command.kill()
    command.wait()
    assert not (output / "pairs.json").exists()
    with pytest.raises(UserError, match="holds no finished preparation"):
        SrRaw(str(output))
    for record in done:
        if json.loads(record.read_text("utf-8"))["kept"]:
            np.load(record.parent / "target.npy")
    # What a death in the middle of writing leaves.
    half = output / "pairs" / "rocket" / ".00001_00002"
    half.mkdir(parents=True, exist_ok=True)
    (half / "target.npy").write_bytes(b"\x93NUMPY")
    before = {path: path.stat().st_mtime_ns for path in done}
    assert main([*line, "workers=1"]) == 0
    assert "are done already" in capsys.readouterr().out
    assert content(output) == content(prepared)
    assert before == {path: path.stat().st_mtime_ns for path in done}


def test_only_what_has_changed_is_made_again(prepared: Path, raw: Path, tmp_path: Path):
    root, output = tmp_path / "raw", tmp_path / "out"
    for name in ("astronaut", "coffee"):
        shutil.copytree(raw / name, root / name)
    assert prepare(root, output) == 0
    times = {p: p.stat().st_mtime_ns for p in output.rglob("target.npy")}
    shutil.copy(raw / "coffee" / "00002.JPG", root / "astronaut" / "00002.JPG")
    os.utime(root / "astronaut" / "00002.JPG")
    assert prepare(root, output) == 0
    assert not records(output)["astronaut/00001_00002"]["kept"]
    left = output / "pairs" / "coffee" / "00001_00002" / "target.npy"
    assert list(output.rglob("target.npy")) == [left]
    assert left.stat().st_mtime_ns == times[left]


def test_mistakes_are_said(raw: Path, prepared: Path, tmp_path: Path, capsys):
    def said(root: Path, output: Path, *more: str) -> str:
        assert prepare(root, output, *more) == 2
        (sentence,) = capsys.readouterr().err.strip().splitlines()
        return sentence

    assert "preparation.photometry=polynomial" in said(raw, prepared)
    assert "lies inside root" in said(raw, raw / "out")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("mine")
    assert "is not empty" in said(raw, tmp_path / "full")
    assert "preparation.motion" in said(raw, tmp_path / "x", "preparation.motion=turn")
    assert main(["prepare", "data=div2k", f"root={raw}", f"output={tmp_path / 'x'}"]) == 2
    assert "choose one of sr_raw" in capsys.readouterr().err


def test_pairs_that_move_or_lie_apart_are_dropped(tmp_path: Path, capsys):
    target, wide = photographed(scene("astronaut"), truth())
    strip = wide[60:240, 90:200].copy()
    wide[60:240, 110:220] = strip  # nearly half of the view has moved by 30 pixels
    shot(tmp_path / "raw" / "a" / "1.jpg", target, 150)
    shot(tmp_path / "raw" / "a" / "2.jpg", wide, 100)
    assert prepare(tmp_path / "raw", tmp_path / "out") == 1
    assert "no pair could be kept" in capsys.readouterr().err
    (record,) = records(tmp_path / "out").values()
    assert "have moved or changed" in record["reason"]
    assert (tmp_path / "out" / "report.html").exists()


# Speed --------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_measurement_of_reading_runs(tmp_path: Path):
    small = [
        "benchmark.jpeg=[96,128]",
        "benchmark.png=[64,96]",
        "benchmark.crop=32",
        "benchmark.pictures=1",
    ]
    assert (
        main(
            [
                "bench",
                "benchmark=data",
                f"folder={tmp_path / 'b'}",
                "benchmark.seconds=0.01",
                *small,
            ]
        )
        == 0
    )
    with open(tmp_path / "b" / "data.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [(row["data"], row["of"]) for row in rows] == [
        ("sr_raw", "crop"), ("sr_raw", "item"), ("sr_raw", "item with holes"),
        ("div2k", "crop"), ("div2k", "item"),
    ]  # fmt: skip
    for row in rows:
        ratio = float(row["mapped items/s"]) / float(row["decode items/s"])
        assert float(row["speed-up"]) == pytest.approx(ratio, abs=0.06)
