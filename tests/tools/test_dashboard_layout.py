"""The dashboard's layout has a panel for everything that a run logs, and for nothing else."""

import json
from pathlib import Path
from typing import Any

import pytest

from restore.cli import main
from restore.engine.run_folder import variant
from restore.tools.report.layout import workspace
from restore.tools.report.runs import find
from tests.helpers.report_scene import evaluation
from tests.helpers.runs import TINY
from tests.helpers.wandb_files import entries, wandb_run

workspaces = pytest.importorskip("wandb_workspaces.workspaces")
v2 = pytest.importorskip("wandb_workspaces.reports.v2")


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A run with holes and scores, its dashboard offline."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    small = [word for word in TINY if not word.startswith(("wandb.", "task."))]
    steps = ["stages.reconstruction.steps=1", "trainer.valid_every=1", "wandb.group=sizes"]
    assert main(["train", f"folder={folder}", "experiment=demo_inpainting", *small, *steps]) == 0
    return folder


def panels(run: Path) -> dict[str, list[Any]]:
    made = workspace(find([str(run)]).runs, "restore", "me", "all")
    return {section.name: section.panels for section in made.sections}


def leaves(node: Any, path: str) -> set[str]:
    if isinstance(node, dict):
        return set().union(*(leaves(inner, f"{path}.{key}") for key, inner in node.items()))
    return {path} if isinstance(node, int | float) else set()


def test_everything_that_an_offline_run_holds_has_its_panel(run: Path):
    found, shown = wandb_run(run), panels(run)
    history: dict[str, Any] = {}
    for record in found["history"]:
        history |= entries(record.item)
    history = {key: x for key, x in history.items() if key != "step" and not key.startswith("_")}
    kinds = {k.removesuffix("|_type"): x for k, x in history.items() if k.endswith("|_type")}
    every = [panel for section in shown.values() for panel in section]
    drawn = [name for p in every if isinstance(p, v2.LinePlot) for name in p.y]
    assert sorted(drawn) == sorted(key for key in history if "|" not in key)
    seen = [name for p in every if isinstance(p, v2.MediaBrowser) for name in p.media_keys]
    assert sorted(seen) == sorted(key for key, kind in kinds.items() if kind == "image-file")
    tables = [p.table_name for p in every if isinstance(p, v2.WeavePanelSummaryTable)]
    assert tables == [key for key, kind in kinds.items() if "table" in kind] != []
    summary: dict[str, Any] = {}
    for record in found["summary"]:
        summary |= entries(record.update)
    bars = [m.name for p in every if isinstance(p, v2.BarPlot) for m in p.metrics]
    assert sorted(bars) == sorted(leaves(summary["cost"], "cost"))
    titles = ["Quality", "Training", "Cost", "Pictures", "Holes", "Score maps"]
    assert list(shown) == titles
    assert all(p.media_keys[0].startswith("valid/score/") for p in shown["Score maps"])
    assert all(len(panel.y) == 2 for panel in shown["Quality"]), "beside the one without learning"


def test_score_maps_are_pictures_of_their_own(run: Path):
    history: dict[str, Any] = {}
    for record in wandb_run(run)["history"]:
        history |= entries(record.item)
    (path,) = (x for key, x in history.items() if key.startswith("valid/score/") and "|path" in key)
    media = next(run.glob("wandb/offline-run-*/files")) / path
    (kept,) = run.glob("pictures/*/000_score.png")
    assert media.read_bytes() == kept.read_bytes()


def test_runs_are_grouped_by_what_they_try(run: Path, tmp_path: Path):
    made = workspace(find([str(run)]).runs, "restore", "me", "all")
    assert [key.name for key in made.runset_settings.groupby] == ["variant"]
    assert made.runset_settings.filters == "Metric(\"Group\") in ['sizes']"
    assert entries(wandb_run(run)["run"][0].config.update)["variant"] == "run"
    job = {"parameters": {"attention": "soft", "seed": "2", "trainer.ema": "0.9"}}
    (tmp_path / "job.json").write_text(json.dumps(job))
    assert variant(tmp_path) == "attention=soft, trainer.ema=0.9"


def test_without_a_key_nothing_is_saved_and_it_is_said(run: Path, monkeypatch, capsys):
    monkeypatch.setenv("HOME", str(run))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", str(run / "none"))
    assert main(["dashboard", str(run)]) == 2
    said = capsys.readouterr().err
    assert "cannot be saved at W&B" in said
    assert "API key" in said
    assert len(said.strip().splitlines()) == 1


def test_evaluations_alone_make_no_layout(tmp_path: Path, capsys):
    evaluation(tmp_path / "test", tmp_path / "run", 1.0, ["a"], pictures=False)
    assert main(["dashboard", str(tmp_path), "project=mine"]) == 2
    assert "no run of restore train" in capsys.readouterr().err
