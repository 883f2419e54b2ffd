"""Which network a file of weights is of: wrappings of trainers, and what each backbone says."""

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from restore.config import locate, registry
from restore.errors import UserError
from restore.models import weights
from restore.models.protocol import Backbone, CannotTell
from tests.helpers.pictures import photo, write
from tests.helpers.published import State, fresh


def under(prefix: str) -> Callable[[State], State]:
    return lambda state: {f"{prefix}{name}": value for name, value in state.items()}


CRITIC = {"discriminator.conv.weight": torch.zeros(3)}
AVERAGED: dict[str, Callable[[State], Any]] = {
    "ema": lambda s: {"ema": s, "model": other(s)},
    "params_ema": lambda s: {"params": other(s), "params_ema": s},
    "generator_ema.": lambda s: {
        "meta": {},
        "state_dict": {**under("generator.")(other(s)), **under("generator_ema.")(s), **CRITIC},
    },
    "AveragedModel": lambda s: {"n_averaged": torch.tensor(7), **under("module.")(s)},
}
WRAPPED: dict[str, Callable[[State], Any]] = {
    "plain": lambda s: s,
    "compiled": under("_orig_mod."),
    "parallel and compiled": under("module._orig_mod."),
    "Lightning around DataParallel": lambda s: {
        "state_dict": under("model.module.")(s) | CRITIC,
        "epoch": 3,
    },
    "MMEditing": lambda s: {"meta": {}, "state_dict": under("generator.")(s) | CRITIC},
    "net_g": lambda s: {"net_g": s, "net_d": CRITIC, "iter": 100},
    "net_g inside params": lambda s: {"params": under("net_g.")(s)},
    "GAN in one dictionary": lambda s: under("net_g.")(s) | under("net_d.")(CRITIC),
    "model_state_dict in half": lambda s: {
        "model_state_dict": {
            name: x.half() if x.is_floating_point() else x for name, x in s.items()
        }
    },
}


def other(state: State) -> State:
    """The same names with other values: what was not averaged."""
    return {name: value + 1 for name, value in state.items()}


# Each averaging every time, of the wrappings every other one.
@pytest.mark.parametrize(
    "wrapping",
    [
        *(pytest.param(x, marks=[pytest.mark.slow] * (n % 2)) for n, x in enumerate(WRAPPED)),
        *AVERAGED,
    ],
)
def test_wrappings_of_trainers_come_off(wrapping, tmp_path: Path):
    state = fresh("srgan_generator", seed=2)
    torch.save(state, tmp_path / "plain.pt")
    torch.save((WRAPPED | AVERAGED)[wrapping](state), tmp_path / "wrapped.pt")
    expected, found = (weights.load(tmp_path / f"{name}.pt") for name in ("plain", "wrapped"))
    assert found.config["backbone"] == expected.config["backbone"]
    assert found.state.keys() == expected.state.keys()
    for name, value in expected.state.items():
        torch.testing.assert_close(found.state[name], value, atol=2e-3, rtol=1e-3)
    if "half" not in wrapping:
        assert all(torch.equal(found.state[name], x) for name, x in expected.state.items())


def test_a_file_without_tensors_is_a_sentence(tmp_path: Path):
    torch.save({"state_dict": {}, "epoch": 3}, tmp_path / "w.pt")
    with pytest.raises(UserError, match="holds no state dict"):
        weights.load(tmp_path / "w.pt")


# A yaml without a target is another size of a network whose own yaml names it.
TARGETS = {name: registry.target("backbone", name) for name in registry.names("backbone")}


@pytest.mark.parametrize("name", [name for name, target in TARGETS.items() if target])
def test_a_backbone_says_what_it_is(name, tmp_path: Path):
    kind = locate(TARGETS[name], name)
    assert issubclass(kind, Backbone)
    stranger = {"nobody.knows.weight": torch.zeros(2, 2)}
    torch.save(stranger, tmp_path / "w.pt")
    try:
        assert kind.recognise(stranger, tmp_path / "w.pt") is None
    except CannotTell:
        assert kind.asked_last


_TRUNK = [f"backbone.mapping.{size}=8" for size in ("width", "growth")]
SMALL = {
    "asdn": ["backbone.mapping.blocks=2", "backbone.mapping.pooling=max", *_TRUNK],
    "fsdn": [
        *("backbone.mapping.blocks=2", *_TRUNK),
        *("backbone.mapping.first=12", "backbone.mapping.convolutions=3", "backbone.levels=2"),
        "task.scale=3",
    ],
    "edsr": ["backbone.blocks=2", "backbone.features=8", "task.scale=3"],
    "srresnet": ["backbone.blocks=2", "backbone.features=8", "task.scale=2"],
    "wdsr_a": ["backbone.blocks=2", "backbone.features=8", "task.scale=2"],
    "wdsr_b": ["backbone.blocks=2", "backbone.features=10", "task.scale=3"],
}


@pytest.mark.parametrize("name", SMALL)
def test_its_own_state_dict_goes_round(name, tmp_path: Path):
    """A file that holds nothing but what `state_dict()` gives, under our names."""
    torch.manual_seed(4)
    model = registry.build("backbone", name, *SMALL[name]).eval()
    torch.save(model.state_dict(), tmp_path / "w.pt")
    found = weights.load(tmp_path / "w.pt").backbone()
    low = torch.rand(1, 3, 9, 7)
    with torch.no_grad():
        torch.testing.assert_close(found(low).image, model(low).image, atol=1e-5, rtol=1e-4)


_TTSR = ["pretrained.vgg19=random", "backbone.features=8", "backbone.blocks=[2,1,3,1]"]


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["backbone.exchange=null", "backbone.textures=[1,4]"],
        ["trunk=dynamic", "fusion=channel", "fusion.reduction=4"],
        ["attention=reduced", "attention.embedding.channels=16", "attention.embedding.values=true"],
        ["attention=projection", "attention.embedding.channels=24", "fusion=gated"],
        ["backbone.scales=[1,4]", "backbone.blocks=[1,2,1]", "backbone.textures=[1]"],
        [
            "task=partial_sr",
            "task.coding=mask_channel",
            "backbone.inputs=4",
            "backbone.details=true",
        ],
    ],
    ids=str,
)
def test_a_plain_state_dict_of_ttsr_goes_round(overrides, tmp_path: Path):
    torch.manual_seed(4)
    model = registry.build("backbone", "ttsr", *_TTSR, *overrides).eval()
    torch.save(model.state_dict(), tmp_path / "w.pt")
    loaded = weights.load(tmp_path / "w.pt")
    assert "attention=" in loaded.origin, "what is assumed is said"
    low, low_up = torch.rand(1, 3, 6, 7), torch.rand(1, 3, 24, 28)
    given = {"low": low, "low_up": low_up, "reference": torch.rand(1, 3, 20, 24)}
    given["reference_low_up"] = torch.rand(1, 3, 20, 24)
    if model.takes_mask:
        given |= {"mask": low[:, :1].round(), "mask_up": low_up[:, :1].round()}
    with torch.no_grad():
        expected, result = model(**given), loaded.backbone()(**given)
    torch.testing.assert_close(result.image, expected.image, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(result.score, expected.score, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("name", "more"), [("c2_matching", []), ("datsr", ["trunk.depth=1"])])
def test_a_plain_state_dict_under_names_of_old_is_recognised(name: str, more, tmp_path: Path):
    small = ["backbone.features=8", "backbone.blocks=1", "extractor=pyramid", *more]
    state = registry.build("backbone", name, *small).state_dict()
    old = {re.sub(r"^(enlarge\.\d)\.conv\.", r"\1.", key): value for key, value in state.items()}
    assert old.keys() != state.keys()
    for entries in (state, old):
        network = weights.recognise(entries, tmp_path)
        assert f"backbone={name}" in network.overrides
        assert network.state.keys() == state.keys()


OWN = '''
"""A network from outside the package."""

import random

import torch
from torch import nn

from restore.models.protocol import Backbone, ExportForm, PictureInput, Recognised
from restore.types import Restoration


class Noisy(nn.Module):
    def __init__(self):
        super().__init__()
        self.chance = True

    def prepare_export(self):
        self.chance = False

    def forward(self, x):
        # As TorchScript would write it, whatever is drawn while it looks stays for ever.
        return x + 1e-9 * random.random() if self.chance else x


class Mine(Backbone):
    """Nearest neighbours, mixed."""

    reach = 0

    def __init__(self, width: int, scale: int):
        super().__init__()
        self.scale = scale
        self.first, self.last = nn.Conv2d(3, width, 1), nn.Conv2d(width, 3, 1)
        self.noisy = Noisy()

    def forward(self, low, low_up=None):
        x = torch.sigmoid(self.last(self.noisy(self.first(low))))
        return Restoration(nn.functional.interpolate(x, scale_factor=self.scale, mode="nearest"))

    @classmethod
    def recognise(cls, published, path):
        if "enter.weight" not in published:
            return None
        names = {"enter": "first", "leave": "last"}
        state = {
            f"{names[layer]}.{kind}": value
            for (layer, kind), value in ((n.split("."), x) for n, x in published.items())
        }
        width = len(published["enter.bias"])
        chosen = ["backbone=mine", f"backbone.width={width}", "task.scale=3"]
        return Recognised(chosen, state, assumed=["task.scale=3"])

    def export_form(self):
        return ExportForm({"small": PictureInput("what is enlarged")}, note="nearest neighbours")

    def __call__(self, low=None, low_up=None, small=None):
        return super().__call__(small if low is None else low, low_up)
'''
YAML = """# of my own
defaults:
  - override /task@_global_.task: single_sr

_target_: own.Mine
width: 4
scale: ${task.scale}
"""


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A folder with a backbone, its yaml, and three that are broken in different ways."""
    (tmp_path / "own.py").write_text(OWN)
    (tmp_path / "raises.py").write_text("raise RuntimeError('no such accelerator')\n")
    conf = tmp_path / "conf" / "backbone"
    conf.mkdir(parents=True)
    (conf / "mine.yaml").write_text(YAML)
    (conf / "aa_no_yaml.yaml").write_text("_target_: [\n")
    (conf / "ab_not_there.yaml").write_text("_target_: nowhere.There\n")
    (conf / "ac_raises.yaml").write_text("_target_: raises.Network\n")
    rng = torch.Generator().manual_seed(5)
    shapes = {"enter.weight": (6, 3, 1, 1), "enter.bias": (6,)}
    shapes |= {"leave.weight": (3, 6, 1, 1), "leave.bias": (3,)}
    torch.save({n: torch.randn(s, generator=rng) for n, s in shapes.items()}, tmp_path / "w.pt")
    return tmp_path


def restore(folder: Path, command: str, *options: str) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "restore", command, "--config-dir", "conf", *options]
    return subprocess.run(line, capture_output=True, text=True, cwd=folder)


def test_a_backbone_of_ones_own_is_recognised_and_exported(outside: Path):
    """One file and one yaml, outside the package; broken neighbours are no hindrance."""
    done = restore(outside, "export", "weights=w.pt", "format=torchscript", "folder=out")
    assert done.returncode == 0, done.stderr
    assert "nearest neighbours" in done.stdout
    facts = json.loads((outside / "out" / "network.json").read_text())
    assert facts["network"] == "Mine"
    assert facts["inputs"] == ["small"]
    assert facts["scale"] == 3
    assert "published Mine layout, task.scale=3" in facts["weights"]
    state = torch.load(outside / "w.pt")
    low = torch.rand(2, 3, 5, 9)
    enter, leave = (state[f"{name}.weight"][..., 0, 0] for name in ("enter", "leave"))
    x = torch.einsum("nchw,fc->nfhw", low, enter) + state["enter.bias"][:, None, None]
    x = torch.einsum("nchw,fc->nfhw", x, leave) + state["leave.bias"][:, None, None]
    expected = x.sigmoid().repeat_interleave(3, 2).repeat_interleave(3, 3)
    found = torch.jit.load(str(outside / "out" / "network.pt"))(low)
    torch.testing.assert_close(found, expected)

    write(outside / "low.png", photo(height=7, width=9))
    done = restore(outside, "apply", "weights=w.pt", "input=low.png", "output=high.png")
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_what_could_not_be_asked_is_named_when_nobody_knows_a_file(outside: Path):
    torch.save({"nobody.knows.weight": torch.zeros(2, 2)}, outside / "strange.pt")
    done = restore(outside, "export", "weights=strange.pt", "format=torchscript", "folder=out")
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    for said in (
        "no model known here",
        "mine",
        "backbone=aa_no_yaml could not be asked",
        "backbone=ab_not_there could not be asked (backbone=ab_not_there._target_: there is no",
        "backbone=ac_raises could not be asked (no such accelerator)",
    ):
        assert said in done.stderr
