"""What is installed is what is here."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests import ROOT

SETUP = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
PLACES = SETUP["package-dir"]


def place(package: str) -> Path:
    return ROOT / PLACES.get(package, package.replace(".", "/"))


def test_every_package_is_installed():
    here = {path.parent for path in (ROOT / "restore").rglob("__init__.py")}
    here |= {ROOT / name for name in ("tasks", "datasets", "conf")}
    assert {place(package) for package in SETUP["packages"]} == here


def test_every_file_that_is_no_module_is_installed():
    kept = {
        file
        for package, patterns in SETUP["package-data"].items()
        for pattern in patterns
        for file in place(package).glob(pattern)
    }
    here = {
        file
        for package in SETUP["packages"]
        for file in place(package).rglob("*")
        if file.is_file() and file.suffix not in (".py", ".pyc")
    }
    assert here == kept


def test_it_builds_without_a_warning_and_with_every_file(tmp_path: Path):
    pytest.importorskip("setuptools")
    code = "import setuptools; setuptools.setup()"
    words = ["egg_info", "--egg-base", tmp_path, "build", "--build-base", tmp_path / "build"]
    command = [sys.executable, "-c", code, *map(str, words)]
    told = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert told.returncode == 0, told.stderr
    assert "Warning" not in told.stderr
    built = tmp_path / "build" / "lib"
    expected = {
        Path(package.replace(".", "/")) / file.relative_to(place(package))
        for package in SETUP["packages"]
        for file in place(package).rglob("*")
        if file.is_file() and file.suffix != ".pyc"
    }
    assert {file.relative_to(built) for file in built.rglob("*") if file.is_file()} == expected
