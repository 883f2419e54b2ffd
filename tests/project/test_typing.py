"""mypy sees our own types: a wrong call is refused, in the tree and where it is installed."""

import re
import subprocess
import sys
import venv
from pathlib import Path

import pytest

from tests import ROOT
from tests.helpers.checkouts import checkout, wheel

pytest.importorskip("mypy")

# Right calls, and in each line that says so a wrong one.
SCRIPT = """
import restore
from restore.data.degradation import PilBicubic
from restore.datasets.folder import Folder
from restore.metrics.protocol import MeasurementProtocol
from restore.tasks.single_sr import SingleSR

task = SingleSR(PilBicubic(), 4, 48)
task.crop + 1
SingleSR(PilBicubic(), "four")  # wrong: arg-type
task.crops  # wrong: attr-defined
Folder(targets="PHOTOS").split("train")
Folder(targets="PHOTOS").split(3)  # wrong: arg-type
Folder(goals="PHOTOS")  # wrong: call-arg
net = restore.load("wdsr_b_x4", scale=4)
net("photo.jpg", tile=64)
restore.load("wdsr_b_x4", scale="four")  # wrong: arg-type
net.encode()  # wrong: attr-defined
restore.list("backbone")[0].upper()
restore.train(["experiment=demo"]).best.name
restore.train(["experiment=demo"]).worst  # wrong: attr-defined
"""
WRONG = {
    (number, found[1])
    for number, line in enumerate(SCRIPT.splitlines(), 1)
    if (found := re.search(r"# wrong: (.*)", line))
}


def bare_python(folder: Path) -> Path:
    """A Python without packages, so that mypy need not read PyTorch's."""
    venv.create(folder, with_pip=False, symlinks=True)
    return folder / "bin" / "python"


def refused(folder: Path, python: Path) -> set[tuple[int, str]]:
    """Lines of the script that mypy refuses, and why.

    In the tree mypy also reads our own files, of which it then says what only the missing packages
    are to blame for; `make lint` checks those with the packages.
    """
    (folder / "script.py").write_text(SCRIPT)
    (folder / "mypy.ini").write_text("[mypy]\nignore_missing_imports = true\n")
    command = [sys.executable, "-m", "mypy", "--cache-dir", str(folder / "cache")]
    command += ["--python-executable", str(python)]
    done = subprocess.run([*command, "script.py"], cwd=folder, capture_output=True, text=True)
    lines = [line for line in done.stdout.splitlines() if re.match(r"script\.py:.* error: ", line)]
    found = [re.match(r"script\.py:(\d+): error: .*\[([\w-]+)\]$", line) for line in lines]
    assert all(found), done.stdout + done.stderr
    return {(int(match[1]), match[2]) for match in found if match}


def test_a_wrong_call_is_refused_where_it_is_installed(tmp_path: Path):
    """Four folders of the tree are one package of the wheel, whose py.typed holds for all."""
    unpacked = wheel(checkout(tmp_path / "source"), tmp_path / "wheel")
    python = bare_python(tmp_path / "venv")
    (site,) = (tmp_path / "venv").glob("lib/python*/site-packages")
    for part in unpacked.iterdir():
        part.rename(site / part.name)
    assert (site / "restore" / "py.typed").is_file()
    assert refused(tmp_path, python) == WRONG


def test_a_wrong_call_is_refused_in_the_tree(tmp_path: Path, monkeypatch):
    monkeypatch.setenv("MYPYPATH", str(ROOT))
    assert refused(tmp_path, bare_python(tmp_path / "venv")) == WRONG
