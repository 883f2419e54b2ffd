"""The groups of `conf/` are the registry: whatever has a name there can be built and works."""

import inspect
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from restore import conf
from restore.cli import main
from restore.config import locate, registry, renames
from restore.errors import UserError
from restore.models.backbones.reference import ReferenceBackbone
from restore.tools import contract

CONF = Path(conf.__file__).parent
FILES = sorted(path.relative_to(CONF) for path in CONF.glob("*/**/*.yaml"))
CHOICES = [(path.parts[0], "/".join(path.with_suffix("").parts[1:])) for path in FILES]


def targets(node: Any) -> list[str]:
    if isinstance(node, dict):
        own = [node["_target_"]] if "_target_" in node else []
        return own + [target for value in node.values() for target in targets(value)]
    return [target for value in node for target in targets(value)] if isinstance(node, list) else []


def test_groups_and_names_are_the_tree():
    assert registry.groups() == sorted({group for group, _ in CHOICES})
    for group in registry.groups():
        assert registry.names(group) == sorted(name for own, name in CHOICES if own == group)


def test_list_shows_every_group_and_name(capsys):
    assert main(["list"]) == 0
    group, shown = "", set()
    for line in capsys.readouterr().out.splitlines():
        if line.endswith("=") and not line.startswith(" "):
            group = line[:-1]
        else:
            name, _, told = line.strip().partition(" ")
            shown.add((group, name))
            first = (CONF / group / f"{name}.yaml").read_text(encoding="utf-8").splitlines()
            assert told.strip() in [line.removeprefix("#").strip() for line in first]
            assert len(told.strip()) > 10
    assert shown == set(CHOICES)


def test_list_shows_the_groups_asked_for(capsys):
    assert main(["list", "attention", "backbone"]) == 0
    heads = [line for line in capsys.readouterr().out.splitlines() if line.endswith("=")]
    assert heads == ["attention=", "backbone="]
    assert main(["list", "atention"]) == 2
    said = capsys.readouterr().err
    assert "there is no group 'atention'" in said
    assert len(said.strip().splitlines()) == 1


@pytest.mark.parametrize("path", FILES, ids=str)
def test_what_a_file_names_is_there_and_explained(path: Path):
    for target in targets(yaml.safe_load((CONF / path).read_text(encoding="utf-8"))):
        part = locate(target, str(path))
        assert callable(part)
        if target.startswith("restore."):
            assert inspect.getdoc(part), f"{target} has no docstring"


def test_unknown_things_are_one_sentence_with_the_choices():
    for line, said in [
        (("backbnoe", "ttsr"), "there is no group 'backbnoe'; choose one of .*backbone"),
        (("backbone", "tsr"), "backbone=tsr: no such choice; choose one of .*ttsr"),
        (("backbone", "ttsr", "backbone.featuers=8"), "'backbone.featuers' is not a setting"),
        (("backbone", "ttsr", "backbone.features=x"), "backbone.features=x: .*integer"),
        (("data", "cufed"), "data.root has no value"),
        (("loader", "default"), "loader=default is a set of settings"),
        (("experiment", "demo"), "experiment=demo is a set of settings"),
    ]:
        with pytest.raises(UserError, match=said) as raised:
            registry.build(*line)
        assert "\n" not in str(raised.value)


# What every backbone promises to tasks, tiles, checkpoints and losses.

_TRUNK = ["backbone.mapping.blocks=1", "backbone.mapping.width=8", "backbone.mapping.growth=8"]
SMALL = {
    "ttsr": ["backbone.features=8", "backbone.blocks=[1,1,1,1]"],
    "asdn": _TRUNK,
    "fsdn": _TRUNK,
    "palette": ["backbone.network.features=32", "backbone.network.multipliers=[1,1]"],
    "masa": ["backbone.features=8", "backbone.blocks=[1,1,1,1,1,1]", "extractor.features=8"],
    "c2_matching": ["backbone.features=8", "backbone.blocks=1", "backbone.content_blocks=1"],
    "datsr": [
        *("backbone.features=8", "backbone.blocks=1", "backbone.unused_blocks=1"),
        *("trunk.heads=2", "trunk.depth=2", "extractor=pyramid", "extractor.features=8"),
    ],
    "edsr_large": ["backbone.blocks=1", "backbone.features=8"],
}


RANDOM = ["pretrained.vgg19=random", "pretrained.contrastive=random"]


@cache
def backbone(name: str, *overrides: str) -> Any:
    torch.manual_seed(0)
    chosen = [*RANDOM, *SMALL.get(name, []), *overrides]
    return registry.build("backbone", name, *chosen).eval()


# spandrel makes one of a file alone: tests/models/backbones/test_spandrel.py.
@pytest.mark.parametrize("name", sorted({*registry.names("backbone")} - {"spandrel"}))
class TestBackbones:
    def test_enlarges_a_picture_by_its_scale(self, name):
        contract.restores(backbone(name))

    def test_pictures_of_a_batch_do_not_touch(self, name):
        contract.keeps_pictures_apart(backbone(name))

    def test_its_state_dict_goes_round(self, name):
        torch.manual_seed(99)
        other = registry.build("backbone", name, *RANDOM, *SMALL.get(name, [])).eval()
        contract.goes_round(backbone(name), other)

    def test_every_trainable_parameter_learns(self, name):
        contract.learns(backbone(name))

    def test_says_how_far_it_looks(self, name):
        contract.reaches(backbone(name))

    @pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
    def test_is_the_same_on_cuda(self, name):
        contract.same_on(backbone(name), torch.device("cuda"))


def takes_textures(name: str) -> bool:
    target = registry.target("backbone", name)
    return target is not None and issubclass(locate(target, name), ReferenceBackbone)


@pytest.mark.parametrize("name", [n for n in registry.names("backbone") if takes_textures(n)])
def test_a_network_takes_references_of_other_sizes_several_and_none(name):
    contract.takes_references(backbone(name))
    contract.works_in_rows(backbone(name))


@pytest.mark.parametrize("group", ["attention", "trunk", "transfer", "fusion", "extractor"])
def test_ttsr_takes_every_choice(group):
    for name in registry.names(group):
        more = {"timm": ["extractor.weights=random"]}.get(name, [])
        model = backbone("ttsr", f"{group}={name}", *more)
        with torch.inference_mode():
            image = model(**contract.inputs(model)).image
        assert image.shape == (2, 3, 40, 52), name
        assert image.isfinite().all(), name
        if torch.cuda.is_available():
            contract.same_on(model, torch.device("cuda"))


def test_a_part_of_ones_own_costs_a_class_and_a_yaml(tmp_path: Path):
    """Handed in from outside the package, as an experiment would be."""
    (tmp_path / "own.py").write_text(
        "from restore.metrics.protocol import MeasurementProtocol\n"
        "class Mine(MeasurementProtocol):\n"
        "    def __init__(self, name: str, shave: int):\n"
        "        super().__init__(name, 'rgb', shave)\n"
    )
    folder = tmp_path / "conf" / "protocol"
    folder.mkdir(parents=True)
    (folder / "mine.yaml").write_text("# of my own\n_target_: own.Mine\nname: mine\nshave: 2\n")
    line = [sys.executable, "-m", "restore", "train", "--config-dir", str(tmp_path / "conf")]
    options = ["protocol=mine", "pretrained.vgg19=random", "--cfg", "job", "--package", "protocol"]
    done = subprocess.run([*line, *options], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "own.Mine" in done.stdout
    wrong = [*line, "protocol=mine", "protocol.shave=two", "pretrained.vgg19=random"]
    done = subprocess.run(
        wrong, capture_output=True, text=True, cwd=tmp_path, env={"PYTHONPATH": str(tmp_path)}
    )
    assert done.returncode == 2
    assert "protocol.shave=two" in done.stderr


def test_stored_protocols_go_on_under_their_new_name():
    old = {"protocol": {"_target_": "restore.metrics.protocol.Protocol", "name": "rgb"}}
    assert renames.current(old)["protocol"] == {
        "_target_": "restore.metrics.protocol.MeasurementProtocol",
        "name": "rgb",
    }
