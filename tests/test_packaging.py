"""What is installed is what is here."""

import tomllib
from pathlib import Path

ROOT = Path(__file__).parent.parent
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
