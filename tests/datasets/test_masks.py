"""Masks: files of every kind checked, sizes, splits, strokes measured against QD-IMD's."""

import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy import ndimage

from restore.cli import main
from restore.datasets import scribbles
from restore.datasets.masks import Box, Centre, Hybrid, MaskFolder, Outpaint, QdImd, Strokes
from restore.errors import UnreadableImage, UserError
from tests.helpers.pictures import truncate

SHRINK = 4


def plate(seed: int, side: int = 512) -> np.ndarray:
    """Holes like strokes, HW bool."""
    rng = np.random.default_rng(seed)
    holes = np.zeros((side, side), bool)
    for _ in range(4):
        top, left = rng.integers(0, side // 2, 2)
        height, width = rng.permutation(
            [rng.integers(side // 80, side // 26), rng.integers(side // 5, side // 2)]
        )
        holes[top : top + height, left : left + width] = True
    return holes


def write(path: Path, holes: np.ndarray, bits: int = 8) -> Path:
    """As QD-IMD's files are: 0 = hole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(~holes) if bits == 1 else Image.fromarray(np.uint8(255) * ~holes)
    assert picture.mode == ("1" if bits == 1 else "L")
    picture.save(path)
    return path


def folder(root: Path, count: int = 24, bits: int = 8) -> Path:
    for number in range(count):
        kind = "test" if number % 4 == 0 else "train"
        write(root / f"{number:05d}_{kind}.png", plate(number), bits)
    return root


def draw(masks, split="train", seed=0, height=64, width=64, key="a"):
    return masks.draw(split, key, height, width, SHRINK, np.random.default_rng(seed))


# ---- QD-IMD


def test_files_of_one_and_of_eight_bits_are_the_same_masks(tmp_path: Path, caplog):
    with caplog.at_level(logging.INFO, "restore"):
        one, eight = (QdImd(str(folder(tmp_path / str(bits), bits=bits))) for bits in (1, 8))
    shares = [plate(number).mean() for number in range(24)]
    for record in caplog.records:
        assert "black (0) = hole" in record.getMessage()
        said = float(record.getMessage().partition("median ")[2].partition(" %")[0])
        assert min(shares) <= said / 100 <= max(shares)
    assert len(caplog.records) == 2
    for seed in range(6):
        for first, second in zip(draw(one, seed=seed), draw(eight, seed=seed), strict=True):
            assert torch.equal(first, second)
            assert first.dtype == torch.bool


def test_the_wrong_polarity_is_said(tmp_path: Path):
    for number in range(8):
        write(tmp_path / f"{number:05d}_train.png", ~plate(number))
    with pytest.raises(UserError, match=r"(?s)black.*% of the pictures would be holes.*other way"):
        QdImd(str(tmp_path))


def test_the_wrong_size_is_said(tmp_path: Path):
    for number in range(8):
        write(tmp_path / f"{number:05d}_train.png", plate(number, 256))
    with pytest.raises(UserError, match=r"256×256 pixels, and QD-IMD's masks have 512×512"):
        QdImd(str(tmp_path))


def test_a_truncated_file_is_named_when_it_is_drawn(tmp_path: Path):
    masks = QdImd(str(folder(tmp_path)))
    for path in tmp_path.glob("*_test.png"):
        truncate(path)
    with pytest.raises(UnreadableImage, match=r"_test\.png"):
        draw(masks, "test")
    assert draw(masks, "train")[0].any()


def test_a_picture_in_colours_is_no_mask(tmp_path: Path):
    rng = np.random.default_rng(0)
    for number in range(3):
        array = rng.integers(0, 256, (512, 512, 3), dtype=np.uint8)
        Image.fromarray(array).save(tmp_path / f"{number:05d}_train.png")
    with pytest.raises(UserError, match=r"as a mask: .* neither black nor white"):
        QdImd(str(tmp_path))


def test_a_folder_without_such_names_is_said(tmp_path: Path):
    write(tmp_path / "a.png", plate(0))
    with pytest.raises(UserError, match="masks=folder takes masks of any names"):
        QdImd(str(tmp_path))


@pytest.mark.parametrize("kind", ["nearest", "as_published"])
def test_resizing_is_pils(tmp_path: Path, kind: str):
    """Written out plainly: the known part resized, a hole is what is 0."""
    write(tmp_path / "00000_train.png", plate(3))
    large, small = draw(QdImd(str(tmp_path), kind, 0.0), height=256, width=256)
    known = Image.fromarray(np.uint8(255) * ~plate(3))
    method = {"nearest": Image.Resampling.NEAREST, "as_published": Image.Resampling.BICUBIC}[kind]
    for mask, side in ((large, 256), (small, 64)):
        assert np.array_equal(mask[0], np.array(known.resize((side, side), method)) == 0)


def test_published_resizing_thins_strokes_more_in_the_small_mask(tmp_path: Path):
    """17.9 % of the area became 13.8 and 5.2 % in the published code, and stays so by nearest."""
    holes = scribbles.drawing(np.random.default_rng(1))
    write(tmp_path / "00000_train.png", holes)
    for kind in ("nearest", "as_published"):
        pair = draw(QdImd(str(tmp_path), kind, 0.0), height=256, width=256)
        large, small = (mask.float().mean().item() for mask in pair)
        if kind == "nearest":
            assert large == pytest.approx(holes.mean(), rel=0.03)
            assert small == pytest.approx(holes.mean(), rel=0.1)
        else:
            assert small < 0.6 * large
            assert large < 0.9 * holes.mean()


def test_nothing_is_stretched(tmp_path: Path):
    """A mask for an oblong picture is the middle part of that shape."""
    holes = np.zeros((512, 512), bool)
    holes[246:266, 246:266] = True
    write(tmp_path / "00000_train.png", holes)
    large, _ = draw(QdImd(str(tmp_path), "nearest", 0.0), height=64, width=128)
    rows, columns = (large[0].any(axis).sum().item() for axis in (1, 0))
    assert (rows, columns) == (5, 5)


# ---- splits


def drawn(masks, split: str) -> set[bytes]:
    return {draw(masks, split, seed, 128, 128)[0].numpy().tobytes() for seed in range(100)}


@pytest.mark.parametrize("kind", ["qd_imd", "folder"])
def test_splits_never_share_a_mask(tmp_path: Path, kind: str):
    root = str(folder(tmp_path))
    masks = QdImd(root, valid=0.3) if kind == "qd_imd" else MaskFolder(root, "black", valid=0.2)
    found = {split: drawn(masks, split) for split in ("train", "valid", "test")}
    assert all(len(some) > 1 for some in found.values())
    assert sum(len(some) for some in found.values()) == len(set().union(*found.values())) <= 24


def test_a_split_without_masks_is_said(tmp_path: Path):
    write(tmp_path / "00000_train.png", plate(0))
    with pytest.raises(UserError, match=r"no masks are left for the split 'test' .*0 for test"):
        draw(QdImd(str(tmp_path)), "test")


# ---- folders


def test_a_folder_by_name(tmp_path: Path):
    holes = {name: plate(seed, 128) for seed, name in enumerate(["a", "b/c"])}
    for name, mask in holes.items():
        write(tmp_path / f"{name}.png", ~mask)  # white = hole
    masks = MaskFolder(str(tmp_path), "white", "name")
    for name, mask in holes.items():
        assert np.array_equal(draw(masks, "test", key=name, height=128, width=128)[0][0], mask)
    with pytest.raises(UserError, match="has no mask named d"):
        draw(masks, key="d")


def test_a_folders_wrong_polarity_is_said(tmp_path: Path):
    write(tmp_path / "a.png", plate(0, 100))
    with pytest.raises(UserError, match=r"masks\.hole=white or black"):
        MaskFolder(str(tmp_path), "white")
    assert MaskFolder(str(tmp_path), "black", valid=0, test=0).files["train"]


# ---- made ones


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    height=st.integers(8, 130),
    width=st.integers(8, 130),
    bounds=st.tuples(st.floats(0.05, 0.9), st.floats(0.05, 0.9)).map(sorted),
)
def test_boxes_and_missing_borders_are_of_the_size_asked_for(seed, height, width, bounds):
    least, most = bounds
    for masks in (Box(least, most), Outpaint(least, most, "one"), Outpaint(least, most, "all")):
        mask, small = draw(masks, seed=seed, height=height, width=width)
        assert mask.shape == (1, height, width)
        assert small.shape == (1, height // SHRINK, width // SHRINK)
        share = mask.float().mean().item()
        off = (height + width) / (height * width)  # a row and a column, by rounding
        assert least - off <= share <= most + off
        part = mask[0] if isinstance(masks, Box) else ~mask[0]
        rows, columns = part.any(1).nonzero(), part.any(0).nonzero()
        around = (rows.max() - rows.min() + 1) * (columns.max() - columns.min() + 1)
        assert part.sum() == around, "not a rectangle"
        if masks.__dict__.get("sides") == "one":
            assert (rows.max() - rows.min() + 1 == height) or (
                columns.max() - columns.min() + 1 == width
            )


def test_outpainting_meets_all_four_sides():
    met = {
        tuple(draw(Outpaint(), seed=seed)[0][0, [0, -1, 32, 32], [32, 32, 0, -1]].tolist())
        for seed in range(40)
    }
    assert met == {tuple(i == side for i in range(4)) for side in range(4)}


def test_the_middle_of_palette_s_tests():
    mask, small = draw(Centre(), height=256, width=128)
    expected = torch.zeros(1, 256, 128, dtype=torch.bool)
    expected[:, 64:192, 32:96] = True
    assert torch.equal(mask, expected)
    assert small.sum() * SHRINK**2 == expected.sum()


def test_a_box_and_strokes_make_one_mask():
    both, small = draw(Hybrid(Box(), Strokes()), seed=3)
    rng = np.random.default_rng(3)
    box, strokes = (kind.draw("train", "a", 64, 64, SHRINK, rng) for kind in (Box(), Strokes()))
    assert torch.equal(both, box[0] | strokes[0])
    assert torch.equal(small, box[1] | strokes[1])
    assert both.sum() > max(box[0].sum(), strokes[0].sum())


@pytest.mark.parametrize("masks", [Strokes(), Box(), Outpaint(), Hybrid(Box(), Strokes())])
def test_the_same_chance_is_the_same_mask(masks):
    first, again, other = (draw(masks, seed=seed)[0] for seed in (5, 5, 6))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


# ---- strokes against QD-IMD


def measured(holes_HW: np.ndarray) -> tuple[float, float, float, int]:
    """Thickness (median width, % of the side), hole share, length (sides), separate pieces."""
    side = max(holes_HW.shape)
    labels, _ = ndimage.label(holes_HW, np.ones((3, 3)))
    pieces = [(labels == i).sum() for i in range(1, labels.max() + 1)]
    depth = ndimage.distance_transform_edt(np.pad(holes_HW, 1))[1:-1, 1:-1]
    ridge = (depth == ndimage.maximum_filter(depth, 3)) & holes_HW
    thickness = 2 * float(np.median(depth[ridge])) - 1
    share = float(holes_HW.mean())
    length = holes_HW.sum() / thickness / side
    return 100 * thickness / side, share, length, sum(size > 1e-4 * side**2 for size in pieces)


def test_strokes_are_pen_strokes():
    """Bounds for what is drawn, from QD-IMD's examples (docs/masks.md): it may not drift."""
    found = np.array([measured(scribbles.drawing(np.random.default_rng(s))) for s in range(60)])
    thickness, share, length, pieces = np.median(found, axis=0)
    assert 1.6 <= thickness <= 3.5
    assert 0.07 <= share <= 0.22
    assert 3 <= length <= 9
    assert 1 <= pieces <= 4
    assert found[:, 1].min() > 0.01
    assert found[:, 1].max() < 0.5


# ---- through a command


def test_wrong_masks_stop_a_run_in_one_sentence(tmp_path: Path, capfd):
    for number in range(8):
        write(tmp_path / "qd" / f"{number:05d}_train.png", ~plate(number))
    line = ["train", "task=partial_sr", "data=partial_sr_demo", "masks=qd_imd"]
    more = [f"masks.root={tmp_path / 'qd'}", "pretrained.vgg19=random", "runtime.device=cpu"]
    assert main([*line, *more, f"folder={tmp_path / 'run'}"]) == 2
    said = capfd.readouterr().err.strip()
    assert len(said.splitlines()) == 1
    assert "painted the other way" in said
    assert not (tmp_path / "run").exists()
