"""The command line itself: help, the version, and what is said to a word that cannot be read."""

import re
import shlex
from pathlib import Path

import pytest

from restore.cli import COMMANDS, main
from restore.commands import composed, usage, words
from restore.config import compose, names
from restore.version import __version__
from tests import ROOT

COMPOSED = [name for name in COMMANDS if (ROOT / "conf" / f"{name}.yaml").is_file()]


@pytest.mark.parametrize("command", COMPOSED)
@pytest.mark.parametrize("word", ["--help", "-h", "help"])
def test_help_tells_every_setting_with_its_comment(command: str, word: str, capfd):
    assert main([command, word]) == 0
    told = capfd.readouterr().out
    config = compose(command, [])
    lines = (ROOT / "conf" / f"{command}.yaml").read_text(encoding="utf-8").splitlines()
    own = [line for line in lines[lines.index("defaults:") :] if re.match(r"[a-z_]+: \S", line)]
    assert own
    for line in own:
        key, comment = line.partition(": ")[0], line.partition(" # ")[2]
        assert key in set(config)
        assert re.search(rf"^  {key}=", told, re.MULTILINE), key
        assert comment in told
    for group in ("data", "task", "backbone"):
        if group in config and any(f"- {group}: " in line for line in lines):
            assert all(name in told for name in names(group)[:3])


@pytest.mark.parametrize("command", COMPOSED)
def test_the_examples_of_help_can_be_composed(command: str):
    examples = usage.read(command).examples
    assert examples
    for example in examples:
        program, named, *typed = shlex.split(example)
        assert (program, named) == ("restore", command)
        overrides = composed.overrides_of(command, typed)
        if "-m" in overrides:  # the first of its jobs
            overrides = [o.split(",")[0] for o in overrides if o != "-m"]
        compose(command, overrides)


@pytest.mark.parametrize(
    ("line", "part"),
    [
        (["list", "--help"], "restore list attention backbone"),
        (["sweep", "help"], "watch=true"),
        (["help", "train"], "restore train experiment=demo"),
        (["-h"], "restore COMMAND --help"),
        ([], "usage: restore COMMAND"),
    ],
)
def test_the_other_ways_to_ask(line: list[str], part: str, capfd):
    assert main(line) == 0
    assert part in capfd.readouterr().out


def test_the_version_is_the_packages(capfd):
    assert main(["--version"]) == 0
    assert capfd.readouterr().out == f"restore {__version__}\n"


MEANT = [
    (["apply", "photo.jpg"], "'photo.jpg' has no key; did you mean input=photo.jpg?"),
    (["apply", "input", "=", "photo.jpg"], "input needs a value: input=VALUE, without spaces"),
    (["apply", "input=photo.jpg", "x.png"], "'x.png' has no key; did you mean input=x.png?"),
    (["evaluate", "runs/demo"], "did you mean weights=runs/demo?"),
    (["train", "edsr"], "did you mean backbone=edsr?"),
    (["train", "demo"], "did you mean experiment=demo?"),
    (["train", "begun"], "did you mean resume=begun?"),
    (["train", "nonsense"], "settings are key=value, as in restore train experiment=demo"),
    (["train", "--backbone", "edsr"], "no option --backbone; settings have no dashes: backbone="),
    (["train", "--backbone=edsr"], "settings have no dashes: backbone=edsr"),
]


@pytest.mark.parametrize(("line", "sentence"), MEANT, ids=[" ".join(line) for line, _ in MEANT])
def test_a_word_that_cannot_be_read_is_answered_with_the_right_form(
    line: list[str], sentence: str, tmp_path: Path, monkeypatch, capfd
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "begun").mkdir()
    (tmp_path / "begun" / "config.yaml").write_text("schedule: []\n")
    before = sorted(tmp_path.rglob("*"))
    assert main(line) == 2
    said = capfd.readouterr().err.strip()
    assert len(said.splitlines()) == 1
    assert sentence in said
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("option", ["--cfg", "-c", "--multirun", "--config-dir", "--multi"])
def test_hydras_own_options_stay(option: str):
    words.check("train", [option, "job"] if option in ("--cfg", "-c", "--config-dir") else [option])
