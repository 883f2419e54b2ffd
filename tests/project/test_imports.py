"""Who may import whom."""

import ast
from pathlib import Path

import pytest

from tests import ROOT


def imported(file: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def ours(folder: str, *allowed: str) -> list[str]:
    return [
        f"{file.relative_to(ROOT)} imports {name}"
        for file in sorted((ROOT / folder).rglob("*.py"))
        for name in imported(file)
        if (name.startswith("restore.") or name.split(".")[0] in ("tasks", "datasets", "conf"))
        and not name.startswith(allowed)
    ]


@pytest.mark.parametrize("part", ["restore.tasks", "restore.datasets", "tasks", "datasets"])
def test_the_core_knows_no_task_and_no_dataset(part):
    files = sorted((ROOT / "restore").rglob("*.py"))
    assert files
    for file in files:
        found = [n for n in imported(file) if n == part or n.startswith(f"{part}.")]
        assert not found, f"{file} imports {found}"


def test_datasets_import_only_types_and_image_helpers():
    allowed = (
        "types",
        "images",
        "data.zoom",
        "errors",
        "datasets",
    )
    assert ours("datasets", *(f"restore.{name}" for name in allowed)) == []


def test_tasks_do_not_import_datasets():
    assert not [line for line in ours("tasks") if "restore.datasets" in line]


def test_tests_share_by_helpers_alone():
    """A test file that others import from cannot be changed or run by itself."""
    shared = ("tests.helpers", "tests.ROOT", "tests.GOLDEN", "tests.SHARED")
    found = [
        f"{file.relative_to(ROOT)} imports {name}"
        for file in sorted((ROOT / "tests").rglob("*.py"))
        for name in imported(file)
        if name.startswith("tests") and not name.startswith(shared)
    ]
    assert found == []
