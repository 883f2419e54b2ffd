"""The Python of README, docs/quickstart.md and docs/python.md runs, and that of docstrings."""

import doctest
from pathlib import Path
from typing import Any

import pytest

import restore.api
import restore.config.registry
import restore.inference.pipeline
from tests import ROOT
from tests.helpers import pages
from tests.helpers.stand_ins import MORE, StandIns, smaller


@pytest.fixture
def run_page(tmp_path: Path, tmp_path_factory, monkeypatch):
    """Runs the blocks of a page in an empty folder; returns the names that they define."""
    monkeypatch.chdir(tmp_path)
    train, evaluate = restore.api.train, restore.api.evaluate
    monkeypatch.setattr(restore.api, "train", lambda words: train([*words, *smaller(words)]))
    monkeypatch.setattr(
        restore.api, "evaluate", lambda words: evaluate([*words, *MORE["evaluate"]])
    )

    def run(name: str) -> dict[str, Any]:
        page = ROOT / name
        blocks = [block for block in pages.blocks(page) if block.language == "python"]
        text = "\n".join(line for block in blocks for line in block.lines)
        stand_ins = StandIns(tmp_path_factory.mktemp("stand_ins"))
        stand_ins.place(name, text.replace('"', " "), tmp_path)
        for path, content in pages.files(page).items():
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            Path(path).write_text(content, encoding="utf-8")
        names: dict[str, Any] = {}
        for block in blocks:
            source = "\n" * (block.line - 1) + "\n".join(block.lines)
            exec(compile(source, str(page), "exec"), names)
        return names

    return run


def test_the_quickstart_runs(run_page):
    names = run_page("docs/quickstart.md")
    assert names["result"].mean["psnr_y_ttsr"] > 10
    assert Path("sharp.png").exists()


def test_the_readme_runs(run_page):
    assert run_page("README.md")["net"].scale == 4
    assert len(list(Path.cwd().glob("*.png"))) == 1


@pytest.mark.slow
def test_the_page_runs(run_page, capsys):
    names = run_page("docs/python.md")
    assert "picture: values from 255 to 255" in capsys.readouterr().out
    assert names["sharp"].size == tuple(4 * side for side in (32, 24))
    assert names["target"].shape == (2, 3, 64, 64)
    assert names["psnr"]
    assert names["best"] in (1e-3, 5e-4)


@pytest.mark.parametrize(
    "module", [restore.api, restore.inference.pipeline, restore.config.registry]
)
def test_the_examples_of_docstrings_run(module, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    flags = doctest.ELLIPSIS | doctest.IGNORE_EXCEPTION_DETAIL
    found = doctest.testmod(module, optionflags=flags)
    assert found.attempted > 0
    assert found.failed == 0
