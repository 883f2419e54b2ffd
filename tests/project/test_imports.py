"""Who may import whom: downwards only, in the order of the rooms."""

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from tests import ROOT

# From the ground up. A module imports of its own room and of those before it, also where the import
# stands inside a function. The last are single modules; what is above them is the package's door.
ROOMS = [
    *("version", "errors", "types", "utils", "config", "images", "data", "models", "losses"),
    *("metrics", "inference", "engine", "tools", "commands", "api", "cli"),
    *("__init__", "__main__"),
]
# Parts that only the configuration names: no room imports them, and they import no higher than
# the room beside them.
PARTS = {"tasks": "data", "datasets": "images"}


def modules() -> dict[str, Path]:
    """Every module of ours by its name, those behind the links too, each once."""
    folders = {"restore": ROOT / "restore", **{f"restore.{n}": ROOT / n for n in PARTS}}
    return {
        ".".join([package, *path.relative_to(folder).with_suffix("").parts]): path
        for package, folder in folders.items()
        for path in sorted(folder.rglob("*.py"))
        if not path.is_relative_to(ROOT / "restore" / "conf")
        and (package != "restore" or path.relative_to(folder).parts[0] not in PARTS)
    }


MODULES = modules()


def imported(path: Path) -> Iterator[str]:
    """The modules of ours that a file imports, wherever the statement stands."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            # `from restore import api` names a module; `from restore.api import load` is in one.
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            if name.partition(".")[0] == "restore":
                yield module_of(name)
            assert name.partition(".")[0] not in (*PARTS, "conf"), (
                f"{path}: {name} without restore."
            )


def module_of(name: str) -> str:
    """The module that an imported name lies in."""
    while name:
        for module in (name, f"{name}.__init__"):
            if module in MODULES:
                return module
        name = name.rpartition(".")[0]
    raise AssertionError("not a module of ours")


def room(module: str) -> str:
    return module.split(".")[1]


def test_every_module_has_a_room():
    assert {room(module) for module in MODULES} == {*ROOMS, *PARTS}


@pytest.mark.parametrize("module", MODULES)
def test_no_import_runs_upwards(module: str):
    own = room(module)
    if own in PARTS:
        allowed = {own, *ROOMS[: ROOMS.index(PARTS[own]) + 1]}
    else:
        allowed = {*ROOMS[: ROOMS.index(own) + 1]}
    wrong = {name for name in imported(MODULES[module]) if room(name) not in allowed}
    assert wrong == set()


def test_no_modules_import_each_other_in_a_circle():
    graph = {name: set(imported(path)) - {name} for name, path in MODULES.items()}
    del graph["restore.__init__"]  # the door; what it opens is loaded when it is used
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" imports ".join(error.args[1]))


def test_tests_share_by_helpers_alone():
    """A test file that others import from cannot be changed or run by itself."""
    shared = ("tests.helpers", "tests.ROOT", "tests.GOLDEN", "tests.SHARED")
    found = [
        f"{path.relative_to(ROOT)} imports {node.module}.{alias.name}"
        for path in sorted((ROOT / "tests").rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("tests")
        for alias in node.names
        if not f"{node.module}.{alias.name}".startswith(shared)
    ]
    assert found == []
