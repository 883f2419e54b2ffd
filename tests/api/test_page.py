"""Every block of docs/python.md runs, in its order; so do the examples of docstrings."""

import doctest
from pathlib import Path

import pytest

import restore.api
import restore.config.registry
import restore.inference.pipeline
from tests import ROOT
from tests.helpers import pages
from tests.helpers.stand_ins import MORE, StandIns, smaller

PAGE = ROOT / "docs" / "python.md"
BLOCKS = [block for block in pages.blocks(PAGE) if block.language == "python"]


def test_the_page_runs(tmp_path: Path, tmp_path_factory, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    text = "\n".join(line for block in BLOCKS for line in block.lines)
    stand_ins = StandIns(tmp_path_factory.mktemp("stand_ins"))
    stand_ins.place("docs/python.md", text.replace('"', " "), tmp_path)
    train, evaluate = restore.api.train, restore.api.evaluate
    monkeypatch.setattr(restore.api, "train", lambda words: train([*words, *smaller(words)]))
    monkeypatch.setattr(
        restore.api, "evaluate", lambda words: evaluate([*words, *MORE["evaluate"]])
    )
    names: dict[str, object] = {}
    for block in BLOCKS:
        source = "\n" * (block.line - 1) + "\n".join(block.lines)
        exec(compile(source, str(PAGE), "exec"), names)
    assert "picture: values from 255 to 255" in capsys.readouterr().out
    assert names["sharp"].size == tuple(4 * side for side in (32, 24))  # type: ignore[attr-defined]
    assert names["target"].shape == (2, 3, 64, 64)  # type: ignore[attr-defined]
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
