"""Folders and names as users have them: links, by-products, letters of two makes, odd bytes."""

import logging
import os
import unicodedata
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from restore.datasets.folder import Folder
from restore.errors import UserError
from restore.images.io import Picture, by_name, find, load, save
from restore.inference.evaluation import _SHEET_NAME, _safe
from restore.tools.compare.sources import flat
from restore.utils.names import fitting, key, printable

PLAIN = Image.fromarray(np.full((8, 8, 3), 99, np.uint8))
PIXELS = torch.full((3, 8, 8), 99, dtype=torch.uint8)


def make(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        PLAIN.save(path, "PNG")


def listed(folder: Path) -> list[str]:
    return [path.relative_to(folder).as_posix() for path in find(folder)]


def test_linked_folders_are_read_once_and_loops_end(tmp_path: Path):
    make(*(tmp_path / "data" / f"{n}.png" for n in range(3)))
    make(*(tmp_path / "elsewhere" / "deep" / f"{n}.png" for n in range(4)))
    (tmp_path / "data" / "more").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "data" / "again").symlink_to(tmp_path / "data")
    (tmp_path / "elsewhere" / "back").symlink_to(tmp_path / "data")
    (tmp_path / "data" / "3.png").symlink_to(tmp_path / "elsewhere" / "deep" / "0.png")
    expected = [f"{n}.png" for n in range(4)] + [f"more/deep/{n}.png" for n in range(4)]
    assert listed(tmp_path / "data") == expected
    # A folder that is there itself keeps its name, whatever links to it.
    make(tmp_path / "data" / "z" / "0.png")
    (tmp_path / "data" / "a").symlink_to(tmp_path / "data" / "z")
    assert "z/0.png" in listed(tmp_path / "data")
    assert "a/0.png" not in listed(tmp_path / "data")


def test_a_link_that_leads_nowhere_is_named(tmp_path: Path):
    (tmp_path / "a.png").symlink_to(tmp_path / "gone.png")
    assert listed(tmp_path) == ["a.png"]
    with pytest.raises(UserError, match=r"a\.png: there is no such file"):
        load(tmp_path / "a.png")


def test_what_systems_and_runs_leave_is_no_data(tmp_path: Path, caplog):
    make(tmp_path / "1.png", tmp_path / "sub" / "2.jfif", tmp_path / "3.JPE")
    for name in (".ipynb_checkpoints", ".thumbnails", "@eaDir", "__MACOSX", "sub/.cache"):
        make(tmp_path / name / "x.png")
    make(tmp_path / "runs" / "one" / "pictures" / "x.png")
    for name in ("config.yaml", "environment.json"):
        (tmp_path / "runs" / "one" / name).touch()
    (tmp_path / "4.heic").touch()
    with caplog.at_level(logging.WARNING, "restore"):
        assert listed(tmp_path) == ["1.png", "3.JPE", "sub/2.jfif"]
    told = " ".join(record.getMessage() for record in caplog.records)
    assert "1 kind(s) of picture not read left out, such as " in told
    assert "4.heic" in told
    assert "1 folder(s) of results left out" in told
    # Asked for themselves, such folders are read.
    assert listed(tmp_path / ".thumbnails") == ["x.png"]
    assert listed(tmp_path / "runs" / "one") == ["pictures/x.png"]


def test_letters_composed_and_decomposed_are_one_name(tmp_path: Path):
    name = "Übung é"
    composed, apart = (unicodedata.normalize(form, name) for form in ("NFC", "NFD"))
    assert composed != apart
    make(tmp_path / "targets" / f"{composed}.png", tmp_path / "references" / f"{apart}.jpg")
    folder = Folder(str(tmp_path / "targets"), str(tmp_path / "references"), valid=0, test=1)
    sample = folder.split("test")[0]
    assert sample["key"] == composed
    assert "reference" in sample
    assert flat(apart) == flat(composed)
    make(tmp_path / "targets" / f"{apart}.png")
    with pytest.raises(UserError, match=r"U\\u0308bung.*have the same name") as caught:
        by_name(tmp_path / "targets")
    assert "\\xdcbung" in str(caught.value)


def test_names_that_are_no_utf8(tmp_path: Path):
    raw = os.fsdecode(b"caf\xe9 \xff")
    make(tmp_path / f"{raw}.png")
    (only,) = find(tmp_path)
    assert key(only, tmp_path) == "caf%E9 %FF"
    assert by_name(tmp_path) == {"caf%E9 %FF": only}
    assert Folder(str(tmp_path), valid=0, test=1).split("test")[0]["key"] == "caf%E9 %FF"
    only.write_bytes(b"no picture")
    with pytest.raises(UserError) as caught:
        load(only)
    str(caught.value).encode("utf-8")


@given(name=st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1))
def test_fitting_names_fit_and_stay_apart(name: str):
    for most in (40, 255):
        short = fitting(name + ".png", most)
        assert len(os.fsencode(short)) <= most
        assert short.endswith(".png")
        assert (short == name + ".png") == (len(os.fsencode(name + ".png")) <= most)
        long = name * (300 // len(name) + 1)
        assert fitting(long + "a.png", most) != fitting(long + "b.png", most)
    assert printable(printable(name)) == printable(name)


@pytest.mark.parametrize("name", ["字" * 83, "x" * 251, "é" * 125])
def test_long_names_can_be_written(tmp_path: Path, name: str):
    path = tmp_path / f"{name}.png"
    save(path, Picture(PIXELS))
    assert [other.name for other in tmp_path.iterdir()] == [path.name]
    sheet = fitting(f"{7:03d}_{_safe(f'folder/{name}')}", _SHEET_NAME)
    save(tmp_path / f"{sheet}_masks.png", Picture(PIXELS))
    assert len(os.fsencode(f"{flat(name)}.png")) <= 255
