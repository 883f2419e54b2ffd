"""`restore export format=palette`: the items of an evaluation, and a class that reads them."""

import importlib.util
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from restore.cli import main
from restore.config import registry
from tests.helpers.pictures import photo, write

TINY = ["task.crop=64", "task.holes=1"]


@pytest.fixture(scope="module")
def exported(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("export") / "set"
    options = ["data=partial_sr_demo", *TINY, "format.splits=[valid,test]"]
    assert main(["export", f"folder={folder}", *options]) == 0
    return folder


def pixels(path: Path) -> np.ndarray:
    return np.array(Image.open(path))


def listed(path: Path) -> list[Path]:
    return [Path(line) for line in path.read_text().splitlines()]


def test_everything_has_its_name_in_every_folder(exported: Path):
    for split, count in (("valid", 2), ("test", 9)):
        whole, masks = (listed(exported / f"{split}{end}.flist") for end in ("", "_mask"))
        assert [path.name for path in whole] == [path.name for path in masks]
        assert len(whole) == count
        for path in [*whole, *masks]:
            assert path.is_file()
            assert not set(str(path)) & set(" #,\t")  # where NumPy would cut the line
        for kind in ("whole", "mask", "target", "reference"):
            names = sorted(path.name for path in (exported / split / kind).iterdir())
            assert names == sorted(path.name for path in whole)


def test_pictures_and_holes_are_those_that_an_evaluation_takes(exported: Path):
    task = registry.build("task", "partial_sr", *TINY, command="export").for_split("test")
    source = registry.build("data", "partial_sr_demo", command="export").split("test")
    for place in range(len(source)):
        item = task.eval_item(source[place])
        for kind in ("whole", "target", "reference"):
            found = pixels(exported / "test" / kind / f"{item['key']}.png")
            assert np.array_equal(found, item[kind].permute(1, 2, 0).numpy())
        mask = pixels(exported / "test" / "mask" / f"{item['key']}.png")
        assert np.array_equal(mask, np.where(item["mask"][0, ..., None], 255, 0).repeat(3, -1))


def test_the_class_for_palette_gives_what_its_own_would(exported: Path):
    config = json.loads((exported / "datasets.json").read_text())["datasets"]["test"]
    assert config["which_dataset"]["name"] == ["data.palette_pictures", "MaskedPictures"]
    assert "//" not in (exported / "datasets.json").read_text()  # a comment to Palette
    spec = importlib.util.spec_from_file_location("taken", exported / "palette_pictures.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    items = module.MaskedPictures(**config["which_dataset"]["args"])
    assert len(items) == 9
    for place, path in enumerate(listed(exported / "test.flist")):
        item = items[place]
        image = pixels(path).transpose(2, 0, 1) / 127.5 - 1
        hole = pixels(exported / "test" / "mask" / path.name)[..., 0] == 255
        assert np.allclose(item["gt_image"], image, atol=1e-6)
        assert np.array_equal(item["mask"][0], hole)
        assert item["mask"].shape == (1, 64, 64)
        assert (item["mask_image"].numpy()[:, hole] == 1).all()
        for name in ("mask_image", "cond_image"):
            assert np.allclose(item[name].numpy()[:, ~hole], image[:, ~hole], atol=1e-6)
        assert 0.8 < item["cond_image"][:, torch.from_numpy(hole)].std() < 1.2
        assert item["path"] == path.name
        assert {item[name].dtype for name in ("gt_image", "mask")} == {torch.float32}
    with pytest.raises(ValueError, match="64, 64"):
        module.MaskedPictures(**{**config["which_dataset"]["args"], "image_size": [32, 32]})[0]


def test_another_place_for_the_files(tmp_path: Path):
    options = ["data=partial_sr_demo", *TINY, "format.splits=[valid]", "format.root=/data/set"]
    assert main(["export", f"folder={tmp_path / 'set'}", *options]) == 0
    first = (tmp_path / "set" / "valid.flist").read_text().splitlines()[0]
    assert first.startswith("/data/set/valid/whole/chelsea_0_0")


def test_names_that_lists_cannot_hold_and_pictures_of_other_sizes(tmp_path: Path, capsys):
    write(tmp_path / "in" / "a b" / "c#1.png", photo(height=150, width=150))
    write(tmp_path / "in" / "tiny.png", photo(height=40, width=60))
    options = ["data=folder", f"data.targets={tmp_path / 'in'}", "data.test=1", *TINY]
    assert main(["export", f"folder={tmp_path / 'set'}", *options]) == 0
    assert [path.name for path in listed(tmp_path / "set" / "test.flist")] == ["a_b_c_1.png"]
    assert "1 left out: tiny (60×40)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ([], "data has no value: give data="),
        (["data=partial_sr_demo", "task.crop=64", "format.side=128"], "has 128×128 pixels"),
        (["data=partial_sr_demo", "format.splits=[]"], "format.splits"),
        (["data=partial_sr_demo", "format.splits=[tset]"], "format.splits"),
        (["data=partial_sr_demo", "format.side=100"], "format.side=100"),
        (["format=pallete"], "format=pallete: no such choice; choose one of .*palette"),
    ],
)
def test_mistakes_are_one_sentence_and_leave_nothing(options, said, tmp_path: Path, capsys):
    folder = tmp_path / "set"
    assert main(["export", f"folder={folder}", *options]) == 2
    told = capsys.readouterr().err.strip()
    assert len(told.splitlines()) == 1
    assert re.search(said, told)
    assert not folder.exists()


def test_a_folder_that_holds_something_is_not_written_into(tmp_path: Path, capsys):
    (tmp_path / "mine.txt").write_text("x")
    assert main(["export", f"folder={tmp_path}", "data=partial_sr_demo"]) == 2
    assert "is there already" in capsys.readouterr().err
