"""Other copies of the project than the one that the tests run from."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from tests import ROOT

_CODE = ("conf", "tasks", "datasets", "restore")
_FILES = ("pyproject.toml", "README.md", "LICENSE")


def checkout(goal: Path, links: bool = True) -> Path:
    """A second checkout; without `links` as git makes it where the system has none: text files."""
    bare = shutil.ignore_patterns("__pycache__")
    goal.mkdir(parents=True)
    for name in _CODE:
        shutil.copytree(ROOT / name, goal / name, symlinks=True, ignore=bare)
    for name in _FILES:
        shutil.copy(ROOT / name, goal / name)
    for part in _CODE[:3]:
        assert (goal / "restore" / part).is_symlink()
        if not links:
            (goal / "restore" / part).unlink()
            (goal / "restore" / part).write_text(f"../{part}")
    return goal


def wheel(source: Path, goal: Path) -> Path:
    """The wheel of a checkout, unpacked into a folder."""
    words = ["wheel", "--no-deps", "--no-build-isolation", "--quiet", "--wheel-dir", str(goal)]
    subprocess.run([sys.executable, "-m", "pip", *words, str(source)], check=True)
    (file,) = goal.glob("*.whl")
    shutil.unpack_archive(file, goal / "unpacked", "zip")
    return goal / "unpacked"


def python(folder: Path, *words: str, installed: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Python run from a folder, while another copy of the project is installed."""
    environment = {**os.environ, "PYTHONPATH": str(installed), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, *words]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
