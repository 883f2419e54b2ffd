"""Validation with any metric: on the dashboard, at its own pace, and as what best.pt goes by."""

import csv
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torchmetrics import Metric
from torchvision import models

from restore.cli import main
from restore.models import checkpoint
from tests.helpers.tiny import ALONE, CROPS, NETWORK
from tests.helpers.wandb_files import wandb_run

TINY = [
    *NETWORK,
    *CROPS,
    "trainer.batch_size=1",
    "trainer.pictures=0",
    "trainer.valid_every=1",
    "stages.reconstruction.epochs=null",
]


def train(folder: Path, *overrides: str) -> int:
    return main(["train", f"folder={folder}", *TINY, *ALONE, *overrides])


def valid(folder: Path) -> dict[str, dict[int, float]]:
    values: dict[str, dict[int, float]] = {}
    with open(folder / "metrics.csv", newline="") as file:
        for row in csv.DictReader(file):
            if row["name"].startswith("valid/"):
                name = row["name"].removeprefix("valid/")
                values.setdefault(name, {})[int(row["step"])] = float(row["value"])
    return values


def test_fid_is_in_the_run_s_offline_dashboard(tmp_path: Path):
    torch.manual_seed(0)
    model = models.inception_v3(num_classes=1008, aux_logits=False, init_weights=False)
    torch.save(model.state_dict(), tmp_path / "inception.pth")
    folder = tmp_path / "run"
    more = ["metric=[psnr,fid]", f"pretrained.inception={tmp_path / 'inception.pth'}"]
    more += ["trainer.slow_metrics_every=2", "stages.reconstruction.steps=3"]
    assert train(folder, *more, "wandb.mode=offline") == 0
    values = valid(folder)
    assert list(values["psnr_y_ttsr"]) == [1, 2, 3]
    assert list(values["fid"]) == list(values["bicubic/fid"]) == [2, 3], (
        "its own clock, and the end"
    )
    found = wandb_run(folder)
    ways = {record.name: record.summary for record in found["metric"]}
    assert (ways["valid/fid"].min, ways["valid/fid"].max) == (True, False)
    assert (ways["valid/psnr_y_ttsr"].max, ways["valid/psnr_y_ttsr"].min) == (True, False)
    logged = [
        json.loads(item.value_json)
        for record in found["history"]
        for item in record.item
        if "valid/fid" in (item.key, *item.nested_key)
    ]
    assert logged == pytest.approx(list(values["fid"].values()))


class Turn(Metric):
    """Values by the number of validations so far: NaN, then 3, 1, 2, NaN."""

    higher_is_better = False
    full_state_update = False
    values = (math.nan, 3.0, 1.0, 2.0, math.nan)
    calls = 0
    images = 1

    def __init__(self) -> None:
        super().__init__()
        self.add_state("value", torch.zeros(()), dist_reduce_fx="sum")

    def update(self, preds: torch.Tensor, target: torch.Tensor) -> None:
        """Counts pictures, of which those of the probe (made up, of one size) do not count."""
        if preds.shape[-2:] != (256, 256):
            self.value += self.values[min(Turn.calls // (2 * Turn.images), 4)]
            Turn.calls += 1

    def compute(self) -> torch.Tensor:
        return self.value


class Undirected(Turn):
    higher_is_better = None


def yaml_of(root: Path, target: str) -> str:
    """A search path with the metric `turn`."""
    (root / "metric").mkdir(parents=True)
    (root / "metric" / "turn.yaml").write_text(f"# of a test\nturn:\n  _target_: {target}\n")
    return f"hydra.searchpath=[file://{root}]"


def test_best_goes_by_the_metric_named_and_nan_is_never_best(tmp_path: Path, monkeypatch: Any):
    monkeypatch.setattr(Turn, "calls", 0)
    monkeypatch.setattr(Turn, "images", 2)  # of the sample's validation split
    search = yaml_of(tmp_path / "mine", "tests.engine.test_validation.Turn")
    folder = tmp_path / "run"
    more = [search, "metric=[psnr,turn]", "trainer.best=turn", "stages.reconstruction.steps=5"]
    assert train(folder, *more) == 0
    turn = valid(folder)["turn"]
    assert [turn[step] for step in (2, 3, 4)] == [3, 1, 2]
    assert math.isnan(turn[1])
    assert math.isnan(turn[5])
    assert checkpoint.read(folder / "checkpoints" / "best.pt")["step"] == 3
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["best"] == 1
    assert summary["best metric"] == "turn"
    assert summary["higher is better"] == {"psnr": True, "turn": False}


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (
            ["trainer.best=lpisp"],
            "trainer.best=lpisp: it is not measured; choose one of psnr, turn",
        ),
        (["trainer.best=turn"], "trainer.best=turn: this metric does not say whether higher"),
        (["metric=[psnr,tune]"], "metric=tune: no such choice"),
        (["metric.psnr.channel=y"], "'metric.psnr.channel' is not a setting"),
    ],
)
def test_mistakes_are_one_sentence(more, said, tmp_path: Path, capfd):
    search = yaml_of(tmp_path / "mine", "tests.engine.test_validation.Undirected")
    chosen = ["metric=[psnr,turn]"] if not more[0].startswith("metric=") else []
    line = [search, *chosen, *more, "stages.reconstruction.steps=1"]
    assert train(tmp_path / "run", *line) == 2
    text = capfd.readouterr().err.strip()
    assert said in text
    assert len(text.splitlines()) == 1
