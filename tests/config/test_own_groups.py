"""A part may bring a group of its own, from a folder outside the project."""

from pathlib import Path

import pytest
import torch

import restore
from restore.cli import main
from restore.config import check, compose, plain, registry, settings, stored
from restore.config.groups import searching
from restore.errors import UserError
from restore.models import checkpoint, weights
from tests.helpers.tiny import ALONE

NETWORK = '''"""A network whose last layer is a part."""

import torch
from torch import nn

from restore.models.protocol import Backbone
from restore.types import Restoration


class Shuffle(nn.Module):
    def __init__(self, scale: int, gain: float):
        super().__init__()
        self.gain = gain
        self.conv = nn.Conv2d(3, 3 * scale**2, 3, padding=1)
        self.shuffle = nn.PixelShuffle(scale)

    def forward(self, x):
        return self.shuffle(self.conv(x)) * self.gain


class Net(Backbone):
    takes_reference = False
    reach = 1

    def __init__(self, scale: int, upsampler: nn.Module):
        super().__init__()
        self.scale, self.upsampler = scale, upsampler

    def forward(self, low, low_up=None, **others):
        return Restoration((0.5 + self.upsampler(low)).clamp(0, 1))
'''


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A folder with a backbone and the group that it brings; returns the search path."""
    (tmp_path / "own_upsampled.py").write_text(NETWORK)
    monkeypatch.syspath_prepend(str(tmp_path))
    for group, name, text in (
        (
            "backbone",
            "own",
            "defaults:\n  - /upsampler@_global_.upsampler: shuffle\n"
            "  - override /task@_global_.task: single_sr\n  - _self_\n\n"
            "_target_: own_upsampled.Net\nscale: ${task.scale}\nupsampler: ${upsampler}\n",
        ),
        (
            "upsampler",
            "shuffle",
            "_target_: own_upsampled.Shuffle\nscale: ${task.scale}\ngain: ${strength.gain}\n",
        ),
        (
            "upsampler",
            "weak",
            "defaults:\n  - shuffle\n  - _self_\n\ngain: 0.01\n",
        ),
        # Settings without a class of their own are a group too.
        ("strength", "low", "gain: 0.1\n"),
    ):
        (tmp_path / "conf" / group).mkdir(parents=True, exist_ok=True)
        (tmp_path / "conf" / group / f"{name}.yaml").write_text(f"# mine\n{text}")
    return f"hydra.searchpath=[file://{tmp_path / 'conf'}]"


SMALL = ["task.crop=32", "trainer.batch_size=2", "trainer.pictures=0", "trainer.valid_every=100"]
LENGTH = ["stages.reconstruction.epochs=null", "stages.reconstruction.steps=2"]


def test_it_trains_goes_on_and_is_evaluated(own: str, tmp_path: Path):
    line = [own, "backbone=own", "+strength=low", "upsampler.scale=4", *SMALL, *LENGTH, *ALONE]
    run = tmp_path / "run"
    assert main(["train", f"folder={run}", *line]) == 0
    assert main(["train", f"resume={run}"]) == 2, "a stored run names parts that conf names"
    assert main(["train", f"resume={run}", own]) == 0
    with stored.trusting(searched=[f"file://{tmp_path / 'conf'}"]):
        loaded = weights.load(run)
        assert loaded.backbone().upsampler.gain == 0.1
    before = loaded.state
    measured = tmp_path / "measured"
    told = ["runtime.device=cpu", "limit=1", "pictures=0", "wandb.mode=disabled"]
    told += ["loader.workers=0"]
    assert main(["evaluate", own, f"weights={run}", f"folder={measured}", *told]) == 0
    assert list(measured.glob("*.json"))
    with stored.trusting(searched=[f"file://{tmp_path / 'conf'}"]):
        after = weights.load(run).state
    assert all(torch.equal(value, before[name]) for name, value in after.items())


def test_python_takes_the_folder_as_an_argument(own: str, tmp_path: Path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert "upsampler" not in restore.list()
    assert "own" not in restore.list("backbone")
    with pytest.raises(UserError, match="there is no group 'upsampler'"):
        restore.build("upsampler", "weak")
    assert "upsampler" in restore.list(config_dir="conf")
    assert restore.list("upsampler", config_dir=tmp_path / "conf") == ["shuffle", "weak"]
    chosen = ["+strength=low", "task.scale=3"]
    net = restore.build("backbone", "own", *chosen, config_dir="conf")
    assert net.upsampler.gain == 0.1
    config = plain(compose("train", [own, "backbone=own", *chosen]))
    entries = {"config": config, "models": {"backbone": net.state_dict()}, "ema": None, "step": 7}
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    checkpoint.write(tmp_path / "run" / "checkpoints" / "last.pt", entries)
    with pytest.raises(UserError, match="names 'own_upsampled"):
        restore.load("run", device="cpu")
    assert restore.load("run", device="cpu", config_dir="conf").scale == 3
    with pytest.raises(UserError, match="config_dir nowhere: there is no such folder"):
        restore.load("run", device="cpu", config_dir="nowhere")


def test_list_shows_the_users_own(own: str, tmp_path: Path, capsys):
    folder = str(tmp_path / "conf")
    for words in (["--config-dir", folder], [f"--config-dir={folder}"], ["-cd", folder]):
        assert main(["list", "upsampler", "backbone", *words]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert lines[0] == "upsampler="
        assert [line.split() for line in lines[1:3]] == [["shuffle", "mine"], ["weak", "mine"]]
        names = [line.split()[0] for line in lines[4:]]
        assert {"own", "edsr"} <= {*names}
        assert names == sorted(names)
    assert main(["list", *words]) == 0
    assert {"upsampler=", "strength=", "task="} <= {*capsys.readouterr().out.splitlines()}
    assert main(["list", "upsampler"]) == 2
    capsys.readouterr()
    assert main(["list", "--config-dir", "nowhere"]) == 2
    assert "--config-dir nowhere: there is no such folder" in capsys.readouterr().err


def test_its_group_is_chosen_like_any_other(own: str):
    for name, gain in (("shuffle", 0.1), ("weak", 0.01)):
        config = plain(
            compose("train", [own, "backbone=own", "+strength=low", f"upsampler={name}"])
        )
        setting = check(config, settings.Train)
        assert registry.instantiate(setting.backbone, "backbone").upsampler.gain == gain


def test_what_no_group_put_there_is_refused_with_what_is_near(own: str, tmp_path: Path):
    folder = tmp_path / "conf" / "experiment"
    folder.mkdir()
    for name, text in (("section", "trainr: {batch_size: 2}"), ("group", "upsamplr: {gain: 1.0}")):
        (folder / f"{name}.yaml").write_text(f"# @package _global_\n# wrong\n{text}\n")
    line = [own, "backbone=own", "+strength=low"]
    for name, near in (("section", "trainer"), ("group", "upsampler")):
        with pytest.raises(UserError, match=f"is not a setting; did you mean '{near}'") as raised:
            compose("train", [*line, f"experiment={name}"])
        assert "\n" not in str(raised.value)
    config = plain(compose("train", line))
    assert check(config, settings.Train).backbone["upsampler"]["gain"] == 0.1


def test_a_mistyped_setting_is_explained_with_the_users_own_parts(own: str, tmp_path: Path, capsys):
    folder = str(tmp_path / "conf")
    assert main(["train", "--config-dir", folder, "backbone=own", "trainer.batchsize=2"]) == 2
    assert "did you mean 'batch_size'" in capsys.readouterr().err
    assert main(["train", "--config-dir", folder, "backbone=own", "upsampler.gian=2"]) == 2
    assert "did you mean 'gain'" in capsys.readouterr().err


def test_a_yaml_that_was_changed_is_read_anew(own: str, tmp_path: Path):
    folder = tmp_path / "conf"
    path = folder / "strength" / "low.yaml"
    text = path.read_text()
    with searching(folder):
        for gain in ("0.1", "0.375"):
            path.write_text(text.replace("0.1", gain))
            words = ["backbone=own", "+strength=low"]
            first, second = compose("train", words), compose("train", words)
            first.upsampler.gain = 5  # a change of the one is none of the other
            assert plain(second)["upsampler"]["gain"] == float(gain)
