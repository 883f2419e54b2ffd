"""SRGAN: its two phases and their variants, and the report's number."""

import math
import runpy
from pathlib import Path
from typing import Any

import pytest
import skimage.data
import torch
from omegaconf import DictConfig
from skimage.metrics import peak_signal_noise_ratio

from restore.cli import main
from restore.config import compose, registry
from restore.models import weights
from tests import ROOT
from tests.helpers.pictures import photo, write

SCRIPT = ROOT / "docs" / "srgan.py"


def composed(name: str) -> DictConfig:
    return compose("train", [f"experiment=srgan/{name}", "data.root=.", "pretrained.vgg19=random"])


def terms(config: DictConfig, stage: str, objective: str) -> dict[str, float]:
    """Terms that are not of weight 0."""
    losses = config.stages[stage].objectives[objective].losses
    return {name: node.weight for name, node in losses.items() if node.weight}


def test_the_paper_has_two_phases():
    config = composed("paper")
    assert config.schedule == ["reconstruction", "full"]
    first, second = config.stages.reconstruction, config.stages.full
    assert (first.steps, second.steps) == (1_000_000, 200_000)
    assert first.objectives.restoration.losses.reconstruction._target_.endswith(".L2")
    assert terms(config, "reconstruction", "restoration") == {"reconstruction": 1.0}
    assert terms(config, "full", "restoration") == {"content": 0.006, "adversarial": 0.001}
    content = second.objectives.restoration.losses.content
    assert (content.layer, content.power) == ("relu5_4", 2)
    assert terms(config, "full", "critic") == {"adversarial": 1.0}
    for objective in second.objectives.values():
        assert objective.optimizer.lr == 1e-4
        assert (objective.lr_schedule.step_size, objective.lr_schedule.factor) == (100_000, 0.1)
    assert (config.task.scale, config.task.crop, config.trainer.batch_size) == (4, 96, 16)
    assert (config.backbone.blocks, config.backbone.first_kernel) == (16, 9)


@pytest.mark.parametrize(
    ("name", "rule", "critic", "critic_terms"),
    [
        ("paper", "Standard", "SRGANDiscriminator", {"adversarial": 1.0}),
        ("lsgan", "LeastSquares", "SRGANDiscriminator", {"adversarial": 1.0}),
        ("wgan", "Wasserstein", "TTSRDiscriminator", {"adversarial": 1.0, "penalty": 10.0}),
    ],
)
def test_variants_differ_in_the_game_alone(name, rule, critic, critic_terms):
    config = composed(name)
    for objective in config.stages.full.objectives.values():
        assert objective.losses.adversarial.rule._target_.endswith(f".{rule}")
    assert config.stages.full.models.discriminator._target_.endswith(f".{critic}")
    assert terms(config, "full", "critic") == critic_terms
    paper = composed("paper")
    assert terms(config, "full", "restoration") == terms(paper, "full", "restoration")
    assert config.stages.reconstruction == paper.stages.reconstruction


def test_the_report_keeps_squared_error_and_smooths():
    config = composed("report")
    assert {"reconstruction", "content", "total_variation", "adversarial"} == set(
        terms(config, "full", "restoration")
    )
    assert config.stages.reconstruction.epochs == 2 * config.stages.full.epochs == 2000
    assert composed("srresnet").schedule == ["reconstruction"]


def test_the_second_phase_goes_on_from_the_first(tmp_path: Path):
    """A schedule of the second alone, begun from weights of the first."""
    for number in range(3):
        write(tmp_path / "photos" / f"{number}.png", photo(height=32, width=32, at=60 * number))
    line = ["experiment=srgan/paper", "pretrained.vgg19=random", "data=folder", "task.crop=32"]
    line += [f"data.targets={tmp_path / 'photos'}", "data.valid=1", "trainer.batch_size=2"]
    line += ["backbone.blocks=1", "backbone.features=4", "discriminator.features=4"]
    line += ["wandb.mode=disabled", "loader.workers=0", "runtime.device=cpu", "trainer.pictures=0"]
    first, second = tmp_path / "first", tmp_path / "second"
    alone = ["schedule=[reconstruction]", "stages.reconstruction.steps=2"]
    assert main(["train", f"folder={first}", *line, *alone]) == 0
    tiny = "stages.full.objectives.restoration.optimizer.lr=1e-9"
    onwards = [f"init={first}", "schedule=[full]", "stages.full.steps=1", tiny]
    assert main(["train", f"folder={second}", *line, *onwards]) == 0
    before, after = weights.load(first).state, weights.load(second).state
    for name in before:
        if name.endswith(".weight") and before[name].ndim == 4:
            torch.testing.assert_close(after[name], before[name], atol=1e-7, rtol=0)


# The report's 10.89 dB ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def script() -> dict[str, Any]:
    return runpy.run_path(str(SCRIPT))


def test_a_tanh_cut_to_0_1_reads_as_the_report(script):
    """The figures of docs/srgan.md, and that the right ones are far above."""
    found = script["means"]()
    expected = {"right, luma": 28.90, "right, RGB": 27.18, "tanh's values cut": 10.56}
    for name, value in expected.items():
        (measured,) = (v for key, v in found.items() if key.startswith(name))
        assert measured == pytest.approx(value, abs=0.01)
        assert f"{value:.2f}" in SCRIPT.with_suffix(".md").read_text(encoding="utf-8")


def test_its_decibels_are_those_of_scikit_image(script):
    target = torch.from_numpy(skimage.data.coffee()).permute(2, 0, 1)
    found = script["readings"](target)
    y = target.numpy() / 255
    expected = peak_signal_noise_ratio(y, (2 * y - 1).clip(0, 1), data_range=1)
    assert found["the target itself, read so"] == pytest.approx(expected, abs=1e-4)
    assert math.isfinite(found["right, RGB"])


def test_here_a_network_with_a_tanh_hands_over_pictures_in_0_1():
    torch.manual_seed(0)
    model = registry.build("backbone", "srresnet", "backbone.blocks=1", "backbone.features=4")
    model.tail.bias.data.copy_(torch.tensor([-9.0, 0.0, 9.0]))  # black, grey, white
    model.tail.weight.data.zero_()
    image = model.eval()(torch.rand(1, 3, 5, 5)).image
    assert image.mean((0, 2, 3)).tolist() == pytest.approx([0, 0.5, 1], abs=1e-6)
