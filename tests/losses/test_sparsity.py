"""Sparsity of dynamic convolutions: the loss, the training schedule, pictures of the masks."""

import math
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from restore.cli import main
from restore.errors import UserError
from restore.images import mask_sheets
from restore.losses.sparsity import Sparsity
from restore.models import weights
from restore.models.backbones.dynamic import GumbelGate
from restore.types import Restoration


def masks_of(seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    sizes = {"shallow.trunk.0": 4, "stages.0.trunks.0.0": 4, "stages.1.trunks.1.0": 9}
    drawn = {
        name: torch.rand(2, 1, side, side + 1, generator=generator) for name, side in sizes.items()
    }
    return {name: (x < 0.4).float().requires_grad_() for name, x in drawn.items()}


@settings(max_examples=30, deadline=None)
@given(
    budget=st.sampled_from([-1.0, 0.0, 0.3, 0.7, 1.0]),
    step=st.integers(0, 9),
    excluded=st.sampled_from([[], ["shallow"], ["stages.1", "shallow"]]),
    seed=st.integers(0, 2**31),
)
def test_sparsity_is_the_formula(budget, step, excluded, seed):
    loss = Sparsity(budget, 0.33, excluded)
    loss.set_step(step, 10)
    masks = masks_of(seed)
    held = math.cos(min(step / 10 / 0.33, 1) * math.pi / 2) ** 2
    low, high = budget * held, 1 - (1 - budget) * held
    work, total, excess, counted = 0.0, 0, 0.0, 0
    for name, mask in masks.items():
        if any(name.startswith(prefix) for prefix in excluded):
            continue
        x = mask.detach().double().numpy()[:, 0]
        seen = sum(
            any(
                x[n, i + a, j + b]
                for a in (-1, 0, 1)
                for b in (-1, 0, 1)
                if 0 <= i + a < x.shape[1] and 0 <= j + b < x.shape[2]
            )
            for n in range(x.shape[0])
            for i in range(x.shape[1])
            for j in range(x.shape[2])
        )
        share = (x.sum() + seen) / 2 / x.size
        work, total = work + share * x.size, total + x.size
        excess, counted = excess + max(0, share - high) ** 2 + max(0, low - share) ** 2, counted + 1
    value = loss(Restoration(torch.zeros(1), block_masks=masks), None, {})
    assert value.item() == pytest.approx((work / total - budget) ** 2 + excess / counted, abs=1e-6)
    value.backward()
    for name, mask in masks.items():
        assert (mask.grad is None) == any(name.startswith(prefix) for prefix in excluded)


def test_sparsity_needs_masks():
    with pytest.raises(UserError, match="trunk=dynamic"):
        Sparsity(0.7, 0.33, [])(Restoration(torch.zeros(1), block_masks={}), None, {})


def test_sheet_of_masks_shows_each_where_it_is_one():
    left, all_of_it = torch.zeros(1, 1, 12, 24), torch.ones(1, 1, 12, 24)
    left[..., :12] = 1
    drawn = mask_sheets.sheet({"shallow.trunk.0": left, "shallow.trunk.1": all_of_it})
    assert drawn.dtype == torch.uint8
    row = drawn[0, -20]
    assert row[:48].min() == 255
    assert row[48:96].max() == 0
    assert row[-96:].min() == 255


def test_training_tells_parts_the_step_and_draws_the_masks(tmp_path: Path, monkeypatch):
    told = []
    set_step = GumbelGate.set_step

    def overheard(self, step, steps):
        told.append((step, steps))
        set_step(self, step, steps)

    monkeypatch.setattr(GumbelGate, "set_step", overheard)
    folder = tmp_path / "run"
    place = "stages.reconstruction.objectives.restoration"
    code = main(
        [
            "train",
            f"folder={folder}",
            "pretrained.vgg19=random",
            "backbone.features=8",
            "backbone.blocks=[1,1,1,1]",
            "trunk=dynamic",
            "trunk.noise_until=0.5",
            "task.crop=32",
            "task.reference_crop=32",
            "trainer.batch_size=2",
            "trainer.log_every=1",
            "trainer.pictures=1",
            "stages.reconstruction.epochs=null",
            "stages.reconstruction.steps=4",
            f"+loss@{place}.losses.sparsity=sparsity",
            f"{place}.losses.sparsity.exclude=[shallow]",
            "wandb.mode=disabled",
            "loader.workers=0",
            "runtime.device=cpu",
        ]
    )
    assert code == 0
    assert sorted(set(told)) == [(step, 4) for step in range(4)]
    assert len(list((folder / "pictures").rglob("*_masks.png"))) == 1
    metrics = (folder / "metrics.csv").read_text()
    assert metrics.count("train/sparsity") == 4
    model = weights.load(folder).backbone()
    assert all(gate.noise_until == 0.5 for gate in model.modules() if isinstance(gate, GumbelGate))
