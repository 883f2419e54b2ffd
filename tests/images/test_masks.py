"""Masks as programs save them: decided by what the file holds, or refused by naming it."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy import ndimage

from restore.datasets.masks import MaskFolder
from restore.errors import UnreadableImage, UserError
from restore.images.masks import read


def holes(side: int = 64) -> np.ndarray:
    plate = np.zeros((side, side), bool)
    plate[10:30, 12:20] = plate[40:44, 5:60] = True
    return plate


def saved(path: Path, array: np.ndarray) -> Path:
    Image.fromarray(array).save(path)
    return path


@settings(max_examples=60, deadline=None)
@given(
    pair=st.lists(st.integers(0, 65535), min_size=2, max_size=2, unique=True),
    deep=st.booleans(),
    suffix=st.sampled_from([".png", ".tif"]),
)
def test_of_two_values_the_larger_is_white(tmp_path_factory, pair, deep, suffix):
    kind = np.uint16 if deep else np.uint8
    low, high = sorted(pair if deep else {value % 256 for value in pair} | {0, 1})[:2]
    path = tmp_path_factory.mktemp("masks") / f"a{suffix}"
    saved(path, np.where(holes(), high, low).astype(kind))
    np.testing.assert_array_equal(read(path, "white"), holes())
    np.testing.assert_array_equal(read(path, "black"), ~holes())


@pytest.mark.parametrize("white", [1, 50, 127, 255])
def test_eight_bits(tmp_path: Path, white: int):
    path = saved(tmp_path / "a.png", (holes() * white).astype(np.uint8))
    np.testing.assert_array_equal(read(path, "white"), holes())


def test_sixteen_bits_that_hold_255(tmp_path: Path):
    path = saved(tmp_path / "a.png", (holes() * 255).astype(np.uint16))
    np.testing.assert_array_equal(read(path, "white"), holes())


@pytest.mark.parametrize(("value", "white"), [(0, False), (1, False), (200, True), (255, True)])
def test_one_value_is_what_it_is_nearer_to(tmp_path: Path, value: int, white: bool):
    path = saved(tmp_path / "a.png", np.full((8, 9), value, np.uint8))
    assert (read(path, "white") == white).all()


def test_greys_along_borders(tmp_path: Path):
    array = (holes() * 255).astype(np.uint8)
    Image.fromarray(array).save(tmp_path / "a.jpg", quality=85)
    np.testing.assert_array_equal(read(tmp_path / "a.jpg", "white"), holes())
    large = Image.fromarray(array).resize((256, 256), Image.Resampling.BICUBIC)
    large.save(tmp_path / "b.png")
    expected = np.asarray(large) > 127
    np.testing.assert_array_equal(read(tmp_path / "b.png", "white"), expected)


@pytest.mark.parametrize(
    ("values", "named"), [((0, 1, 2, 3), "0, 1, 2, 3 of"), ((0, 127, 255), "0, 127, 255 of")]
)
@pytest.mark.parametrize("small", [False, True])
def test_maps_of_labels_are_refused_by_their_values(tmp_path: Path, values, named, small):
    array = np.full((64, 64), values[0], np.uint8)
    for place, value in enumerate(values[1:]):
        side = 8 if small else 16  # of 64 pixels' values: below or above what greys may take
        array[2 + 18 * place :, 3:][:side, :side] = value
    with pytest.raises(UnreadableImage, match=f"values {named} 0 to 255.*two values, the larger"):
        read(saved(tmp_path / "a.png", array), "white")


def test_photos_and_colours_are_refused(tmp_path: Path):
    rng = np.random.default_rng(0)
    noise = ndimage.gaussian_filter(rng.random((40, 40)), 2)
    array = np.uint8(255 * (noise - noise.min()) / np.ptp(noise))
    with pytest.raises(UnreadableImage, match=r"values 0, .* more of 0 to 255, and \d+%"):
        read(saved(tmp_path / "a.png", array), "white")
    red = np.zeros((64, 64, 3), np.uint8)
    red[..., 0] = holes() * 255
    with pytest.raises(UnreadableImage, match="coloured"):
        read(saved(tmp_path / "a.png", red), "white")


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparency_is_refused_rather_than_passed_over(tmp_path: Path, mode: str):
    alpha = np.uint8(255) * ~holes()
    white = np.full((*alpha.shape, len(mode) - 1), 255, np.uint8)
    path = saved(tmp_path / "a.png", np.concatenate([white, alpha[..., None]], -1))
    with pytest.raises(UnreadableImage, match="transparent parts"):
        read(path, "white")
    # Transparency that hides nothing is none.
    grey = np.repeat(np.uint8(255) * holes()[..., None], len(mode) - 1, -1)
    path = saved(tmp_path / "a.png", np.concatenate([grey, np.full_like(grey[..., :1], 255)], -1))
    np.testing.assert_array_equal(read(path, "white"), holes())


def test_training_has_the_holes_of_such_files(tmp_path: Path):
    for number in range(6):
        saved(tmp_path / f"{number}.png", holes().astype(np.uint8))
    masks = MaskFolder(str(tmp_path), valid=0, test=0)
    large, _ = masks.draw("train", "a", 64, 64, 4, np.random.default_rng(0))
    assert torch.equal(large[0], torch.from_numpy(holes()))
    for path in tmp_path.iterdir():
        saved(path, (holes() * 1 + np.eye(64)).astype(np.uint8))
    with pytest.raises(UserError, match="the values 0, 1, 2 of 0 to 255"):
        MaskFolder(str(tmp_path))
