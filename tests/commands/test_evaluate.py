"""`restore evaluate`: right numbers, the same for any number of processes, and what they mean."""

import csv
import json
import math
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import skimage.data
import torch
from PIL import Image
from torchvision import models

from restore.cli import main
from restore.images.sheets import CAPTION, GAP, comparison, side_by_side
from restore.models import checkpoint
from restore.types import Problem, Restoration
from tests.helpers.plain_metrics import library_ssim, plain_planes, plain_psnr
from tests.helpers.tiny import ALONE, TWO_STEPS

# Keys of which two differ only by what a file system or a sheet's name may not hold.
SIZES = {
    "a/b": (32, 40),
    "a_b": (36, 32),
    "c d": (33, 35),
    "e": (40, 32),
    "f": (32, 32),
    "g.x": (48, 32),
    "h": (32, 44),
}


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    """Small parts of a photo, targets and references."""
    root = tmp_path_factory.mktemp("photos")
    photo = skimage.data.astronaut()
    for place, (key, (height, width)) in enumerate(SIZES.items()):
        for kind, left in (("targets", 100), ("references", 110)):
            top = 20 + 50 * place
            path = root / kind / f"{key}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(photo[top : top + height, left : left + width]).save(path)
    return root


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    assert main(["train", f"folder={folder}", *TWO_STEPS, *ALONE]) == 0
    return folder


@pytest.fixture(scope="module")
def alexnet(tmp_path_factory) -> Path:
    """A made-up file for LPIPS."""
    path = tmp_path_factory.mktemp("weights") / "alexnet.pth"
    torch.manual_seed(0)
    torch.save(models.alexnet().features.state_dict(prefix="features."), path)
    return path


@pytest.fixture(scope="module")
def options(photos: Path, alexnet: Path) -> list[str]:
    return [*on(photos), "save=true", "pictures=3", f"pretrained.alexnet={alexnet}"]


@pytest.fixture(scope="module")
def alone(trained: Path, options: list[str], tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("evaluations") / "alone"
    assert evaluate(folder, trained, *options) == 0
    return folder


def on(photos: Path) -> list[str]:
    """Every picture of a folder, as the test split."""
    return [
        "data=folder",
        f"data.targets={photos / 'targets'}",
        f"data.references={photos / 'references'}",
        "data.test=1",
    ]


def evaluate(folder: Path, weights: Path, *overrides: str) -> int:
    return main(["evaluate", f"weights={weights}", f"folder={folder}", *ALONE, *overrides])


def rows(folder: Path) -> list[dict[str, str]]:
    with open(folder / "images.csv", newline="") as file:
        return list(csv.DictReader(file))


def summary(folder: Path) -> dict:
    return json.loads((folder / "summary.json").read_text(), parse_constant=pytest.fail)


def pixels(path: Path) -> np.ndarray:
    return np.array(Image.open(path)).transpose(2, 0, 1)


def test_the_numbers_are_those_of_the_saved_pictures(alone: Path):
    """Measured again from the files, by other hands; the baseline is PIL's bicubic."""
    found = rows(alone)
    assert [row["key"] for row in found] == list(SIZES)
    for row in found:
        target, restored, low = (
            pixels(alone / kind / f"{row['key']}.png") for kind in ("target", "restored", "low")
        )
        size = target.shape[:0:-1]
        up = Image.fromarray(low.transpose(1, 2, 0)).resize(size, Image.Resampling.BICUBIC)
        for name, picture in (("", restored), ("bicubic/", np.array(up).transpose(2, 0, 1))):
            x, y = plain_planes(picture, "ttsr"), plain_planes(target, "ttsr")
            assert float(row[f"{name}psnr_y_ttsr"]) == pytest.approx(plain_psnr(x, y), abs=1e-4)
            ssim = library_ssim(x[0], y[0]).mean()
            assert float(row[f"{name}ssim_y_ttsr"]) == pytest.approx(ssim, abs=1e-4)


def test_the_summary_says_what_the_numbers_mean(alone: Path, trained: Path, photos: Path):
    held, found = summary(alone), rows(alone)
    weights = trained / "checkpoints" / "best.pt"
    assert held["weights"] == str(weights)
    assert held["sha256"] == checkpoint.fingerprint(weights)
    assert "step 2" in held["origin"]
    assert held["protocol"] == "ttsr"
    assert held["images"] == len(SIZES)
    assert held["split"] == "test"
    assert held["references"] == str(photos / "references")
    assert set(held["not measured"]) == {"fid"}
    names = ["psnr_y_ttsr", "ssim_y_ttsr"]
    for method, prefix in (("restored", ""), ("bicubic", "bicubic/")):
        assert list(held[method]) == [*names, "lpips"]
        for name, value in held[method].items():
            values = [float(row[f"{prefix}{name}"]) for row in found]
            assert value == pytest.approx(np.mean(values), abs=1e-9)


def test_the_table_can_be_read_alone(alone: Path):
    held, text = summary(alone), (alone / "table.md").read_text()
    for needed in ("N = 7", "protocol ttsr", held["sha256"], held["references"]):
        assert needed in text
    for method in ("bicubic", "restored"):
        values = [held[method].get(name) for name in held["restored"]]
        cells = ["–" if value is None else f"{value:.4f}" for value in values]
        assert f"| {method} | {' | '.join(cells)} |" in text
    for reason in held["not measured"].values():
        assert reason in text
    assert text in (alone / "log.txt").read_text()


def test_the_number_of_processes_is_no_matter(alone, trained, options, tmp_path: Path):
    folder = tmp_path / "shared"
    assert evaluate(folder, trained, *options, "runtime.devices=3") == 0
    mine, theirs = rows(folder), rows(alone)
    assert [row["key"] for row in mine] == [row["key"] for row in theirs], (
        "none missing, none twice"
    )
    for one, other in zip(mine, theirs):
        assert one.keys() == other.keys()
        for name in one.keys() - {"key"}:
            assert float(one[name]) == pytest.approx(float(other[name]), abs=1e-9)
    one, other = summary(folder), summary(alone)
    for method in ("restored", "bicubic"):
        assert one.pop(method) == pytest.approx(other.pop(method), abs=1e-9)
    assert one == other
    files = {path.relative_to(folder) for path in folder.rglob("*.png")}
    assert files == {path.relative_to(alone) for path in alone.rglob("*.png")}
    for path in files:
        assert (folder / path).read_bytes() == (alone / path).read_bytes()


@pytest.mark.slow
def test_more_processes_than_images(trained: Path, options, alone: Path, tmp_path: Path):
    folder = tmp_path / "shared"
    assert evaluate(folder, trained, *options, "limit=1", "runtime.devices=2") == 0
    (only,) = rows(folder)
    first = rows(alone)[0]
    assert only.pop("key") == first.pop("key")
    numbers = ({name: float(value) for name, value in row.items()} for row in (only, first))
    assert next(numbers) == pytest.approx(next(numbers), abs=1e-9)


@pytest.fixture(scope="module")
def broken(photos: Path, tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("broken")
    for path in photos.rglob("*.png"):
        copy = root / path.relative_to(photos)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(path.read_bytes())
    damaged = root / "targets" / "c d.png"
    damaged.write_bytes(damaged.read_bytes()[:200])
    return root


@pytest.mark.parametrize("processes", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_an_unreadable_image_is_named(processes, broken, trained, tmp_path: Path, capfd):
    devices = f"runtime.devices={processes}"
    assert evaluate(tmp_path / "raise", trained, *on(broken), devices) == 2
    said = capfd.readouterr().err
    assert said.count(f"restore evaluate: cannot read the image {broken}/targets/c d.png") == 1
    assert "Traceback" not in said


def test_an_unreadable_image_can_be_skipped(broken, trained, tmp_path: Path):
    folder = tmp_path / "skip"
    assert evaluate(folder, trained, *on(broken), "loader.on_error=skip") == 0
    assert [row["key"] for row in rows(folder)] == [key for key in SIZES if key != "c d"]
    assert summary(folder)["images"] == len(SIZES) - 1
    assert [entry[0] for entry in summary(folder)["skipped"]] == [f"{broken}/targets/c d.png"]
    assert f"{broken}/targets/c d.png" in (folder / "table.md").read_text()


def test_comparison_sheets_show_every_part(alone: Path):
    names = [f"{i:03d}_{key}.png" for i, key in enumerate(["a-b", "a_b", "c-d"])]
    assert sorted(path.name for path in (alone / "pictures").iterdir()) == names
    for name, key in zip(names, SIZES):
        sheet = pixels(alone / "pictures" / name)
        target = pixels(alone / "target" / f"{key}.png")
        height = target.shape[1]
        reference = pixels(alone / "reference" / f"{key}.png")
        assert sheet.shape[1] == CAPTION + max(height, reference.shape[1])
        for kind in ("target", "restored", "reference"):
            part = pixels(alone / kind / f"{key}.png")
            assert places(sheet, part) == 1, f"{name} lacks the {kind}"
        low = pixels(alone / "low" / f"{key}.png")
        assert places(sheet, low.repeat(4, 1).repeat(4, 2)) == 1


def places(sheet: np.ndarray, part: np.ndarray) -> int:
    """How often a picture stands in a sheet, just below the captions."""
    height, width = part.shape[1:]
    band = sheet[:, CAPTION : CAPTION + height]
    starts = range(band.shape[2] - width + 1)
    return sum(np.array_equal(band[:, :, at : at + width], part) for at in starts)


def test_a_sheet_has_the_parts_in_their_order():
    rng = torch.Generator().manual_seed(0)
    low, reference = (
        torch.rand(1, 3, 10, 30, generator=rng),
        torch.rand(1, 3, 44, 90, generator=rng),
    )
    target = torch.rand(1, 3, 40, 120, generator=rng)
    score = torch.rand(1, 1, 10, 30, generator=rng)
    problem = Problem({"low": low, "reference": reference}, target, ["x"])
    sheet = comparison(problem, Restoration(target, score), "bicubic", target).numpy()
    fitted = 90 * 40 // 44 + 1
    widths = [120, fitted, 120, 120, 120, 120, 120]
    assert sheet.shape == (3, 40 + CAPTION, sum(widths) + GAP * (len(widths) - 1))
    starts = np.cumsum([0, *(width + GAP for width in widths)])[:-1]
    panels = [sheet[:, CAPTION:, at : at + width] for at, width in zip(starts, widths)]
    eight = (target[0] * 255).round().byte().numpy()
    for panel in panels[2:5]:
        assert np.array_equal(panel, eight)
    error = panels[5]
    assert (error == error[:, :1, :1]).all(), "nothing is wrong anywhere"
    assert panels[6].std() > 10
    for at, width in zip(starts, widths):
        assert sheet[:, :CAPTION, at : at + width].min() < 100, "each has its caption"
    without = comparison(Problem({"low": low}, None, ["x"]), Restoration(target), "bicubic", target)
    assert without.shape[-1] == 3 * 120 + 2 * GAP


def test_the_error_map_shows_where_it_is():
    target = torch.zeros(1, 3, 20, 60)
    restored = target.clone()
    restored[..., 5:10, 40:50] = 0.2
    sheet = comparison(Problem({}, target, ["x"]), Restoration(restored), "none", target)
    error = sheet[:, CAPTION:, -60:].float().sum(0)
    bright = error > error.min()
    assert bright.sum() == 5 * 10
    assert bright[5:10, 40:50].all()


def test_a_small_picture_has_room_for_its_name():
    wide = side_by_side({"a name that is long": torch.zeros(3, 4, 4), "b": torch.zeros(3, 4, 4)})
    one = side_by_side({"a name that is long": torch.zeros(3, 4, 4)})
    assert wide.shape[-1] > one.shape[-1] > 80
    ink = (one[:, :CAPTION] < 128).any(0).any(0).nonzero()
    assert ink.max() < one.shape[-1] - 1


@pytest.mark.parametrize("taken", ["an evaluation", "a run"])
def test_a_folder_is_never_written_twice(taken, alone: Path, trained: Path, photos: Path, capfd):
    folder = alone if taken == "an evaluation" else trained
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    for devices in (1, 2):
        assert evaluate(folder, trained, *on(photos), f"runtime.devices={devices}") == 2
        said = capfd.readouterr().err.strip()
        assert f"{folder} holds {taken} already" in said
        assert "name another folder" in said
        assert ("resume=" in said) == (taken == "a run"), "there is no going on with an evaluation"
        assert len(said.splitlines()) == 1
    assert before == {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("protocol=psnr", ["protocol=psnr", "ttsr", "y_shave4"]),
        ("split=tset", ["split=tset", "valid"]),
        ("split=valid", ["split 'valid'"]),
        ("limit=0", ["limit=0"]),
        ("protocol=ttsr protocol.shave=-1", ["protocol.shave"]),
        ("protocol=ttsr protocol.channel=luma", ["protocol.channel", "luma"]),
        ("protocol.shave=2", ["protocol.shave needs a protocol to change", "rgb_shave4"]),
        ("pretrained.alexnet=gone.pth", ["pretrained.alexnet=gone.pth", "no such file"]),
        ("weights=gone.pt", ["gone.pt"]),
    ],
)
@pytest.mark.parametrize("processes", [1, 2])
def test_mistakes_are_one_sentence(
    override, parts, processes, trained, photos, tmp_path: Path, capfd
):
    folder = tmp_path / "evaluation"
    options = [*on(photos), f"runtime.devices={processes}", *override.split()]
    assert evaluate(folder, trained, *options) == 2
    said = capfd.readouterr().err.strip()
    assert len(said.splitlines()) == 1
    assert said.startswith("restore evaluate: ")
    for part in parts:
        assert part in said
    assert not folder.exists(), "nothing is left of what was not begun"


def test_weights_that_need_a_reference_say_so(trained: Path, photos: Path, tmp_path: Path, capfd):
    folder = tmp_path / "evaluation"
    assert evaluate(folder, trained, *on(photos), "data.references=null") == 2
    assert "a/b has no reference picture" in capfd.readouterr().err


def test_low_pictures_of_another_size_are_named(trained: Path, photos: Path, tmp_path: Path, capfd):
    for path in (photos / "targets").rglob("*.png"):
        low = tmp_path / "lows" / path.relative_to(photos / "targets")
        low.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (5, 5)).save(low)
    line = [*on(photos), f"data.lows={tmp_path / 'lows'}"]
    assert evaluate(tmp_path / "evaluation", trained, *line) == 2
    said = capfd.readouterr().err
    assert "a/b" in said
    assert "Traceback" not in said


def test_pictures_too_small_for_ssim_are_counted(trained: Path, photos: Path, tmp_path: Path):
    for kind in ("targets", "references"):
        (tmp_path / kind).mkdir()
        for key in ("e", "f"):
            whole = Image.open(photos / kind / f"{key}.png")
            whole.save(tmp_path / kind / f"{key}.png")
        whole.crop((0, 0, 32, 8)).save(tmp_path / kind / "tiny.png")
    folder = tmp_path / "evaluation"
    assert evaluate(folder, trained, *on(tmp_path)) == 0
    *others, tiny = rows(folder)
    assert tiny["ssim_y_ttsr"] == tiny["bicubic/ssim_y_ttsr"] == ""
    assert math.isfinite(float(tiny["psnr_y_ttsr"]))
    held = summary(folder)
    assert held["without a value"] == {"ssim_y_ttsr": 1}
    mean = np.mean([float(row["ssim_y_ttsr"]) for row in others])
    assert held["restored"]["ssim_y_ttsr"] == pytest.approx(mean, abs=1e-9)
    assert "ssim_y_ttsr: 1 of 3" in (folder / "table.md").read_text()


def test_a_picture_without_any_error_is_infinite(trained: Path, tmp_path: Path):
    """Flat pictures are restored by bicubic without an error; the files must stay readable."""
    for kind in ("targets", "references"):
        (tmp_path / kind).mkdir()
        Image.new("RGB", (32, 32), (90, 90, 90)).save(tmp_path / kind / "flat.png")
    folder = tmp_path / "evaluation"
    assert evaluate(folder, trained, *on(tmp_path)) == 0
    assert summary(folder)["bicubic"]["psnr_y_ttsr"] == "inf"
    assert float(rows(folder)[0]["bicubic/psnr_y_ttsr"]) == math.inf


def test_perceptual_measures_where_their_files_are(alone: Path, alexnet: Path):
    held = summary(alone)
    assert min(float(row["lpips"]) for row in rows(alone)) > 0
    assert checkpoint.fingerprint(alexnet) in held["measured by"]["lpips"]
    assert "pretrained.inception=FILE" in held["not measured"]["fid"]


def test_a_measure_can_be_left_out(trained: Path, photos: Path, tmp_path: Path):
    folder = tmp_path / "evaluation"
    assert evaluate(folder, trained, *on(photos), "limit=1", "metric=[psnr,ssim,lpips]") == 0
    assert set(summary(folder)["not measured"]) == {"lpips"}


def test_an_evaluation_that_was_ended_can_be_typed_again(
    tmp_path: Path, trained: Path, options: list[str], monkeypatch, capfd
):
    line = ["evaluate", f"weights={trained}", f"folder={tmp_path / 'out'}", "limit=1", *options]

    def ended(*_: object) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr("restore.commands.evaluate._write", ended)
        assert main(line) == 130
    assert not (tmp_path / "out" / "summary.json").exists()
    assert main([*line[:-1], "limit=2", line[-1]]) == 2
    assert "an unfinished job with other settings" in capfd.readouterr().err
    assert main(line) == 0
    assert (tmp_path / "out" / "summary.json").exists()
    assert main(line) == 2
    assert "holds an evaluation already" in capfd.readouterr().err
