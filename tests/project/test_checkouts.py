"""Two copies of the project on one machine never mix, with links and without."""

import json
from pathlib import Path

import pytest

from tests.helpers.checkouts import checkout, python, wheel

# Imports what the commands import by name, and says where every module of ours lies.
EVERYTHING = """
import json, sys
import restore
from restore.cli import main
assert main(["list"]) == 0
restore.build("task", "single_sr"), restore.build("data", "sample"), restore.load(scale=4)
from restore.config import conf
files = [m.__file__ for n, m in sys.modules.items() if n.split(".")[0] == "restore" and m.__file__]
print(json.dumps([*files, str(conf())]))
"""


def places(told: str) -> set[Path]:
    return {Path(file).resolve() for file in json.loads(told.splitlines()[-1])}


def test_in_a_second_checkout_every_module_is_its_own(tmp_path: Path):
    second = checkout(tmp_path / "second")
    done = python(second, "-m", "restore", "list", "task")
    assert (done.returncode, done.stderr) == (0, "")
    assert "reference_sr" in done.stdout
    done = python(second, "-c", EVERYTHING)
    assert done.returncode == 0, done.stderr
    found = places(done.stdout)
    assert len(found) > 50
    assert [file for file in found if not file.is_relative_to(second.resolve())] == []
    assert {"tasks", "datasets", "conf"} <= {file.relative_to(second).parts[0] for file in found}


@pytest.fixture(scope="module")
def without_links(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkout(tmp_path_factory.mktemp("checkouts") / "plain", links=False)


def test_without_links_a_checkout_says_so_rather_than_use_another(without_links: Path):
    for words in (["list"], ["train", "experiment=demo"]):
        done = python(without_links, "-m", "restore", *words)
        assert done.returncode == 2
        assert "core.symlinks" in done.stderr
        assert len(done.stderr.strip().splitlines()) == 1, done.stderr


@pytest.mark.slow
def test_without_links_what_is_installed_is_whole(without_links: Path, tmp_path: Path):
    installed = wheel(without_links, tmp_path / "wheel")
    (tmp_path / "elsewhere").mkdir()
    done = python(tmp_path / "elsewhere", "-c", EVERYTHING, installed=installed)
    assert done.returncode == 0, done.stderr
    found = places(done.stdout)
    assert {file.relative_to(installed.resolve()).parts[:2] for file in found} >= {
        ("restore", part) for part in ("tasks", "datasets", "conf")
    }
