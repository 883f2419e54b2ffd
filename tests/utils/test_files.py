"""Files are written whole or not at all, and a disk that refuses is named."""

from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

from restore.errors import Unwritable
from restore.models import checkpoint
from restore.utils import files
from tests.helpers.disk import fill, no_larger_than, small_disk

NOISE = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)

WRITERS = {
    "text.txt": lambda path: path.write_text("x" * 9999),
    "weights.pt": lambda path: torch.save({"x": torch.rand(5000)}, path),
    "arrays.npz": lambda path: np.savez(path, NOISE),
    "picture.png": lambda path: Image.fromarray(NOISE).save(path),
    "picture.webp": lambda path: Image.fromarray(NOISE).save(path, lossless=True),
    "figure.png": lambda path: Figure().savefig(path),
}


@pytest.mark.parametrize("name", WRITERS)
def test_whatever_writes_the_reason_is_said_and_the_old_file_stays(name: str, tmp_path: Path):
    path = tmp_path / name
    path.write_bytes(b"old")
    refused = pytest.raises(Unwritable, match=f"{name}: .*larger than files may")
    with no_larger_than(900), refused, files.whole(path) as temporary:
        WRITERS[name](temporary)
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == [name]
    with files.whole(path) as temporary:
        WRITERS[name](temporary)
    assert path.stat().st_size > 900
    assert [p.name for p in tmp_path.iterdir()] == [name]


def test_a_full_disk_is_called_so(tmp_path: Path):
    with small_disk(tmp_path / "disk", 1 << 17) as disk:
        checkpoint.write(disk / "last.pt", {"step": 1})
        filler = fill(disk)
        for write in (
            lambda: checkpoint.write(disk / "last.pt", {"step": 2, "x": torch.rand(9999)}),
            lambda: files.write_text(disk / "a.txt", "a" * 9999),
            lambda: files.write_bytes(disk / "a.txt", b"a" * 9999),
        ):
            with pytest.raises(Unwritable, match="the disk is full"):
                write()
        filler.unlink()
        assert checkpoint.read(disk / "last.pt")["step"] == 1
        assert [path.name for path in disk.iterdir()] == ["last.pt"]


def test_a_mistake_in_what_writes_is_no_refusal(tmp_path: Path):
    with pytest.raises(ZeroDivisionError), files.whole(tmp_path / "a"):
        raise ZeroDivisionError
    with pytest.raises(UnicodeEncodeError):
        files.write_text(tmp_path / "a", "\ud800")
    with pytest.raises(Unwritable, match="No such file or directory"):
        files.write_text(tmp_path / "none" / "a", "")
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize("stem", ["名" * 84, "a" * 251, "x"])
def test_any_name_that_the_disk_takes(stem: str, tmp_path: Path):
    files.write_text(tmp_path / f"{stem}.md", "text")
    assert [path.name for path in tmp_path.iterdir()] == [f"{stem}.md"]


def test_what_is_optional_is_missed_once_a_time(tmp_path: Path, caplog):
    for size in (10, 10, 99, 10):
        with no_larger_than(size), files.optional("the notes are missing"):
            files.write_text(tmp_path / "notes", "n" * 50)
    said = [record.message for record in caplog.records]
    assert len(said) == 2
    assert all(line.startswith("the notes are missing: cannot write") for line in said)
