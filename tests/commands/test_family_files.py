"""Published files of MASA-SR, C2-Matching and DATSR on the command line, to the level."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from restore.cli import main
from restore.images.io import read_rgb
from tests import SHARED
from tests.helpers.published import drawn

pytestmark = pytest.mark.skipif(not SHARED.is_dir(), reason="the golden pictures are not here")


def files(case: Path) -> tuple[dict, list[str]]:
    """What is known of a case, and the words that name its files, made in the working folder."""
    about = json.loads((case / "case.json").read_text())
    for name, network in about["weights"].items():
        computed = ("relative_position_index", "attn_mask")
        keys = {k: shape for k, shape in network["keys"].items() if not k.endswith(computed)}
        torch.save(drawn(keys, network["gains"], network.get("tie")), f"{name}.pth")
    if about["method"] == "masa":
        return about, ["weights=masa.pth"]
    more = ["extractor=extractor.pth", "pretrained.vgg19=vgg19.pth"]
    return about, ["weights=restoration.pth", *more]


def differences(path: Path, case: Path) -> int:
    one, other = (read_rgb(file).int() for file in (path, case / "expected.png"))
    assert one.shape == other.shape
    return int((one - other).abs().max())


@pytest.mark.parametrize(
    "name", ["c2_matching", *(pytest.param(x, marks=pytest.mark.slow) for x in ("masa", "datsr"))]
)
def test_apply_is_as_published(name: str, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    case = SHARED / "golden" / name
    _, words = files(case)
    inputs = [f"input={case / 'low.png'}", f"reference={case / 'reference.png'}"]
    assert main(["apply", *words, *inputs, "output=out.png", "runtime.device=cpu"]) == 0
    assert differences(tmp_path / "out.png", case) <= 1


@pytest.mark.slow
@pytest.mark.parametrize("name", ["masa_padded", "c2_matching_padded", "datsr_cropped"])
def test_evaluate_by_its_own_protocol_is_as_published(name: str, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    case = SHARED / "golden" / name
    about, words = files(case)
    for folder, name in (("targets", "original"), ("references", "reference")):
        Path(folder).mkdir()
        shutil.copy(case / f"{name}.png", f"{folder}/a.png")
    line = ["data=folder", "data.targets=targets", "data.references=references", "data.test=1"]
    line += [
        f"protocol={about['method']}",
        "save=true",
        "folder=ev",
        "runtime.device=cpu",
        "loader.workers=0",
    ]
    assert main(["evaluate", *words, *line, "metric=[psnr,ssim]"]) == 0
    assert differences(next(tmp_path.glob("ev/**/restored/a.png")), case) <= 1
    measured = json.loads(next(tmp_path.glob("ev/**/summary.json")).read_text())["restored"]
    border = "" if about["method"] == "masa" else "_s4"
    for metric in ("psnr_y", "ssim_y"):
        expected = about["metrics"][metric]
        assert measured[f"{metric}{border}"] == pytest.approx(expected, abs=5e-6)
