"""What a run costs is counted: against plain formulas, and over stops."""

import json
import time
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from restore.config import registry
from restore.config.settings import Runtime
from restore.engine import cost
from restore.inference.runner import Runner
from restore.models.attention.search import nearest_patch, nearest_pixel
from restore.types import Problem
from tests.helpers.runs import train

RUNTIME = Runtime("cpu", 1, "fp32", True, False, None)


@pytest.mark.parametrize("search", [nearest_patch, nearest_pixel])
@pytest.mark.parametrize("shape", [(1, 3, 5, 7, 4, 6), (2, 8, 4, 4, 9, 3)])
def test_matching_counts_a_product_and_a_sum_a_channel_of_each_pair(search, shape):
    N, C, H, W, Hk, Wk = shape
    with FlopCounterMode(display=False) as counter:
        search(torch.rand(N, C, H, W), torch.rand(N, C, Hk, Wk))
    pairs = torch.rand(N, H * W, C) @ torch.rand(N, C, Hk * Wk)
    assert counter.get_total_flops() == 2 * C * pairs.numel()


def test_a_network_by_hand():
    model = registry.build("backbone", "edsr", "backbone.blocks=2", "backbone.features=8")
    problem = Problem({"low": torch.rand(3, 3, 10, 6)}, None, ["a", "b", "c"])
    once = cost.forward(Runner(model, RUNTIME, torch.device("cpu")), problem)
    products = 0

    def count(module: nn.Module, inputs, output: torch.Tensor) -> None:
        nonlocal products
        products += output[0].numel() * module.weight[0].numel()

    for part in model.modules():
        if isinstance(part, nn.Conv2d):
            part.register_forward_hook(count)
    with torch.no_grad():
        model(low=problem.inputs["low"][:1])
    assert once["flops"] == 2 * products
    assert once["ms"] > 0


def test_attention_is_part_of_a_network():
    flops = {}
    for size in (32, 64):
        model = registry.build(
            "backbone", "ttsr", "pretrained.vgg19=random", "backbone.blocks=[1,1,1,1]"
        )
        pictures = {
            "low": torch.rand(1, 3, size // 4, size // 4),
            "low_up": torch.rand(1, 3, size, size),
            "reference": torch.rand(1, 3, size, size),
            "reference_low_up": torch.rand(1, 3, size, size),
        }
        problem = Problem(pictures, None, ["a"])
        flops[size] = cost.forward(Runner(model, RUNTIME, torch.device("cpu")), problem)["flops"]
    # All but the matching grows with the area (×4), the matching with its square (×16).
    positions = (32 // 4) ** 2
    assert flops[64] - 4 * flops[32] == pytest.approx((16 - 4) * 2 * 256 * positions**2, rel=0.02)


def test_parameters_that_are_frozen():
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    model[0].requires_grad_(False)
    assert cost.parameters(model) == {"total": 26, "trained": 10, "frozen": 16}


def test_a_meter_goes_on_where_it_stopped():
    device = torch.device("cpu")
    first = cost.Meter(device)
    with first.working(), first.waiting():
        time.sleep(0.05)
    held = first.state()
    again = cost.Meter(device, held)
    with again.working():
        time.sleep(0.02)
    now = again.state()
    assert held["waited"] == now["waited"] >= 0.05
    assert now["steps"] >= held["steps"] + 0.02
    assert now["seconds"] >= held["seconds"] + 0.02
    assert now["peak"] >= held["peak"] > 10e6


def test_processes_are_put_together():
    parts = [
        {"seconds": 20.0, "steps": 10.0, "waited": 1.0, "joules": 50.0, "peak": 5.0},
        {"seconds": 21.0, "steps": 8.0, "waited": 3.0, "joules": 70.0, "peak": 9.0},
    ]
    found = cost.account(parts, 400, "nvml")
    assert found["time"] == {"seconds": 21.0, "training": 10.0}
    assert found["images_per_s"] == 40
    assert found["data_wait"] == pytest.approx(0.2)
    assert found["memory"] == {"peak": 9, "by_rank": [5, 9]}
    assert found["energy"] == {"joules": 120.0, "by": "nvml"}
    assert cost.account(parts, 400, "rapl")["energy"]["joules"] == 50, "one machine's, once"
    assert cost.account(parts, 400, None)["energy"] is None


def test_energy_of_processors(tmp_path: Path, monkeypatch):
    zone = tmp_path / "intel-rapl:0"
    zone.mkdir()
    (zone / "max_energy_range_uj").write_text("10000000")
    (zone / "energy_uj").write_text("9000000")
    monkeypatch.setattr(cost, "_RAPL", tmp_path)
    energy = cost.Energy(torch.device("cpu"))
    (zone / "energy_uj").write_text("9500000")
    assert energy.sample() == pytest.approx(0.5)
    (zone / "energy_uj").write_text("1000000")  # it has begun anew
    assert energy.sample() == pytest.approx(2.0)
    (zone / "energy_uj").unlink()
    assert cost.Energy(torch.device("cpu")).source is None


def test_a_run_says_what_it_cost(tmp_path: Path):
    assert train(tmp_path / "run", "stages.reconstruction.steps=2") == 0
    spent = json.loads((tmp_path / "run" / "summary.json").read_text())["cost"]
    assert spent["parameters"]["total"] > 1000
    assert spent["flops"]["forward"] > 1e6
    assert spent["of"]["low"] == [8, 8]
    assert 0 <= spent["data_wait"] < 1
    assert spent["images_per_s"] == pytest.approx(2 * 4 / spent["time"]["training"])
    assert spent["time"]["training"] < spent["time"]["seconds"]
    assert spent["memory"]["by_rank"] == [spent["memory"]["peak"]]


@pytest.mark.parametrize("name", ["wdsr_a", "wdsr_b"])
def test_normalised_weights_are_counted_through(name):
    """Every convolution works on the low picture: two operations a weight and pixel at least."""
    small = ["backbone.blocks=1", "backbone.features=8"]
    model = registry.build("backbone", name, *small)
    problem = Problem({"low": torch.rand(1, 3, 8, 8)}, None, ["a"])
    found = cost.forward(Runner(model, RUNTIME, torch.device("cpu")), problem)["flops"]
    held = sum(p.numel() for n, p in model.named_parameters() if n.endswith("original1"))
    assert 2 * held * 64 <= found <= 2.1 * held * 64
