"""The course project's variants of TTSR: published checkpoints, counts, dynamic convolutions."""

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from restore.cli import main
from restore.config import registry
from restore.errors import UserError
from restore.images.io import read_rgb
from restore.models import weights
from restore.models.backbones.dynamic import DynamicBlock, GumbelGate, MaskUnit
from restore.models.backbones.sparse import add_branch, dilate
from restore.tools.bench.plain import attend
from tests.helpers import published
from tests.helpers.ablations import VARIANTS

RANDOM = "pretrained.vgg19=random"
SMALL = [RANDOM, "backbone.features=8", "backbone.blocks=[1,1,1,1]"]


def state_of(name: str) -> dict[str, torch.Tensor]:
    file = published.GOLDEN / f"{name}.json"
    if not file.exists():
        file = published.GOLDEN / name / "case.json"
    return published.weights(json.loads(file.read_text())["keys"], gain=1.0)


@pytest.mark.parametrize("name", VARIANTS)
def test_parameter_counts(name: str):
    overrides, count, _ = VARIANTS[name]
    model = registry.build("backbone", "ttsr", RANDOM, *overrides)
    extractor = sum(p.numel() for p in model.extractor.parameters())
    # The published counts hold the extractor twice, each with its 12 fixed normalisation weights.
    assert sum(p.numel() for p in model.parameters()) + extractor + 2 * 12 == count


@pytest.mark.parametrize("name", VARIANTS)
def test_published_layout_equals_the_plain_formulation(name: str, tmp_path: Path):
    state = state_of(name)
    torch.save({"state_dict": {f"model.{k}": v for k, v in state.items()}}, tmp_path / "w.ckpt")
    model = weights.load(tmp_path / "w.ckpt").backbone()
    generator = torch.Generator().manual_seed(len(name))
    low = torch.rand(1, 3, 7, 9, generator=generator)
    low_up = torch.rand(1, 3, 28, 36, generator=generator)
    reference, blurred = (torch.rand(1, 3, 24, 40, generator=generator) for _ in range(2))
    with torch.no_grad():
        values = list(reversed(model.extractor(reference)))
        query, key = model.extractor(low_up)[-1], model.extractor(blurred)[-1]
        score, textures, _ = attend(query, key, values)
        expected = VARIANTS[name][2](state, low * 2 - 1, dict(enumerate(textures, 1)), score)
        restored = model(low, low_up, reference, blurred)
    assert expected.abs().max() > 0.01, "weights that say nothing test nothing"
    torch.testing.assert_close(restored.image * 2 - 1, expected, atol=2e-5, rtol=0)


def test_dynamic_convolutions_restore_to_the_level(tmp_path: Path):
    torch.save(published.case("suite_8"), tmp_path / "weights.pt")
    folder, output = published.GOLDEN / "suite_8", tmp_path / "restored.png"
    line = {
        "weights": tmp_path / "weights.pt",
        "input": folder / "low.png",
        "reference": folder / "reference.png",
        "output": output,
    }
    assert main(["apply", *(f"{key}={value}" for key, value in line.items())]) == 0
    difference = read_rgb(output).int() - read_rgb(folder / "expected.png").int()
    assert difference.abs().max() <= 1


@pytest.mark.parametrize(
    ("name", "surplus"),
    [
        ("suite_3_1", "MainNet.RB22.0.conv1.weight"),
        ("suite_3_2", "MainNet.cca11_foot.weight"),
        ("suite_8", "MainNet.RB11.0.masker.gumbel.weight"),
    ],
)
def test_what_has_no_place_is_refused(name: str, surplus: str, tmp_path: Path):
    torch.save(state_of(name) | {surplus: torch.zeros(1)}, tmp_path / "more.pt")
    with pytest.raises(UserError, match=surplus.rpartition(".")[0].replace(".", r"\.")):
        weights.load(tmp_path / "more.pt").backbone()


@pytest.mark.parametrize(
    ("trainable", "trained"),
    [("true", {0, 2, 5, 7, 10}), ("false", set()), ("[1]", {7, 10}), ("[4,1]", {0, 7, 10})],
)
def test_extractor_is_trained_where_asked(trainable: str, trained: set[int]):
    model = registry.build("backbone", "ttsr", *SMALL, f"extractor.trainable={trainable}")
    named = model.extractor.layers.named_parameters()
    assert {int(name.partition(".")[0]) for name, p in named if p.requires_grad} == trained


@pytest.mark.parametrize(
    "overrides",
    [
        ["backbone.scales=[1,4]", "backbone.blocks=[1,1,1]", "backbone.exchange=null"],
        ["backbone.scales=[4]", "backbone.blocks=[1,1]"],
        ["backbone.scales=[4,1]", "backbone.blocks=[1,1,1]"],
        ["backbone.scales=[1,1,4]"],
        ["backbone.scales=[1,4]"],
        ["backbone.textures=[1,1]"],
    ],
    ids=str,
)
def test_scales_must_fit(overrides: list[str]):
    fits = len(overrides) == 3
    if fits:
        registry.build("backbone", "ttsr", *SMALL[:2], *overrides)
        return
    with pytest.raises(UserError, match=r"backbone\.(scales|blocks|textures)="):
        registry.build("backbone", "ttsr", *SMALL, *overrides)


@pytest.mark.parametrize("part", ["trunk=dynamic", "fusion=channel"])
def test_means_over_the_whole_picture_allow_no_tiles(part: str, tmp_path: Path, capfd):
    name = "suite_8" if part == "trunk=dynamic" else "suite_6_1"
    assert registry.build("backbone", "ttsr", *SMALL, part).reach is None
    torch.save(state_of(name), tmp_path / "weights.pt")
    folder = published.GOLDEN / "suite_8"
    paths = {"weights": tmp_path / "weights.pt", "input": folder / "low.png"}
    paths |= {"reference": folder / "reference.png", "output": tmp_path / "restored.png"}
    assert main(["apply", "tile=16", *(f"{key}={path}" for key, path in paths.items())]) == 2
    assert "tile=16: this network" in capfd.readouterr().err
    assert not (tmp_path / "restored.png").exists()


@pytest.mark.slow
def test_reach_without_x2_is_as_far_as_an_input_pixel_is_felt():
    torch.manual_seed(1)
    overrides = ["backbone.scales=[1,4]", "backbone.textures=[1,4]", "backbone.blocks=[1,1,1]"]
    model = registry.build("backbone", "ttsr", *SMALL[:2], *overrides).double()
    size, middle = 56, 28
    low = torch.rand(1, 3, size, size, dtype=torch.float64)
    changed = low.clone()
    changed[..., middle, middle] += 0.5
    with torch.no_grad():
        memory = model.encode_reference(*[torch.rand(1, 3, 32, 32, dtype=torch.float64)] * 2)
        outputs = [
            model(x, torch.nn.functional.interpolate(x, scale_factor=4), memory=memory).image
            for x in (low, changed)
        ]
    felt = (outputs[0] - outputs[1]).abs().amax((0, 1)).nonzero()
    assert 0 < (felt.double() / 4 - middle).abs().max() <= model.reach


# Dynamic convolutions --------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(
    size=st.tuples(*[st.integers(1, n) for n in (3, 9, 11)]),
    share=st.sampled_from([0.0, 0.02, 0.3, 0.8, 1.0]),
    bias=st.booleans(),
    seed=st.integers(0, 2**31),
)
def test_skipping_equals_masking(size, share, bias, seed):
    torch.manual_seed(seed)
    N, H, W = size
    x = torch.randn(N, 6, H, W)
    mask = (torch.rand(N, 1, H, W) < share).float()
    first, second = (torch.nn.Conv2d(6, 6, 3, padding=1, bias=bias) for _ in range(2))
    with torch.no_grad():
        expected = x + second(first(x).relu()) * mask
        before = x.clone()
        result = add_branch(x, mask, first, second)
    torch.testing.assert_close(result, expected, atol=1e-5, rtol=0)
    assert torch.equal(x, before)


def test_skipping_computes_nothing_for_an_empty_mask():
    """NaN weights would show in whatever is computed."""
    layer = torch.nn.Conv2d(4, 4, 3, padding=1)
    torch.nn.init.constant_(layer.weight, torch.nan)
    x = torch.randn(1, 4, 6, 6)
    mask = torch.zeros(1, 1, 6, 6)
    assert torch.equal(add_branch(x, mask, layer, layer), x)
    mask[..., 2, 3] = 1
    assert add_branch(x, mask, layer, layer).isnan().any(1).sum() == 1


def test_a_network_that_skips_equals_one_that_masks():
    torch.manual_seed(2)
    masking, skipping = (
        registry.build("backbone", "ttsr", "trunk=dynamic", *SMALL, f"trunk.skip_below={below}")
        for below in (0.0, 1.0)
    )
    skipping.load_state_dict(masking.state_dict())
    inputs = torch.rand(2, 3, 8, 8), torch.rand(2, 3, 32, 32), *[torch.rand(2, 3, 16, 24)] * 2
    with torch.no_grad():
        dense, sparse = masking.eval()(*inputs), skipping.eval()(*inputs)
    torch.testing.assert_close(sparse.image, dense.image, atol=1e-5, rtol=0)
    names = list(dense.block_masks)
    assert names == ["shallow.trunk.0", "stages.0.trunks.0.0"] + [
        f"stages.{s}.trunks.{t}.0" for s in (1, 2) for t in range(s + 1)
    ]
    modules = dict(masking.named_modules())
    assert all(isinstance(modules[name], DynamicBlock) for name in names)
    for name in names:
        assert torch.equal(dense.block_masks[name], sparse.block_masks[name])


def test_gate_in_evaluation_is_the_sign():
    logits = torch.tensor([-3.0, -1e-6, 0.0, 2.0])
    gate = GumbelGate((1.0, 1.0), 1.0).eval()
    assert gate(logits).tolist() == [0, 0, 1, 1]


def test_gate_draws_as_often_as_the_sigmoid_says():
    """A sum of a logit and logistic noise is positive with the sigmoid's probability."""
    torch.manual_seed(3)
    gate = GumbelGate((1.0, 0.3), 1.0)
    for step in (0, 50):
        gate.set_step(step, 100)
        for logit in (-1.5, 0.0, 0.7):
            drawn = gate(torch.full((200_000,), logit))
            assert set(drawn.unique().tolist()) == {0.0, 1.0}
            expected = 1 / (1 + torch.tensor(-logit).exp())
            assert abs(drawn.mean() - expected) < 0.005


def test_gate_passes_the_gradient_of_the_soft_decision():
    """Without noise the gradient is σ'(x/τ)/τ; the temperature falls geometrically."""
    logits = torch.tensor([-2.0, -0.3, 0.4, 1.0], dtype=torch.float32, requires_grad=True)
    gate = GumbelGate((2.0, 0.5), 0.0)
    for step, temperature in ((0, 2.0), (50, 1.0), (100, 0.5)):
        gate.set_step(step, 100)
        (gradient,) = torch.autograd.grad(gate(logits).sum(), logits)
        soft = torch.sigmoid(logits.detach() / temperature)
        torch.testing.assert_close(gradient, soft * (1 - soft) / temperature)


def test_noise_ends_where_it_is_told_to():
    logits = torch.full((1000,), 0.1)
    gate = GumbelGate((1.0, 1.0), 0.8)
    gate.set_step(79, 100)
    assert 0 < gate(logits).mean() < 1
    gate.set_step(80, 100)
    assert gate(logits).mean() == 1


def test_published_and_corrected_schedules():
    gates = {}
    for name in ("dynamic", "dynamic_published"):
        model = registry.build("backbone", "ttsr", *SMALL, f"trunk={name}")
        gates[name] = next(m for m in model.modules() if isinstance(m, GumbelGate))
    assert (gates["dynamic_published"].start, gates["dynamic_published"].end) == (1, 1)
    assert gates["dynamic_published"].noise_until == 1
    assert gates["dynamic"].end < gates["dynamic"].start
    assert gates["dynamic"].noise_until < 1


@settings(max_examples=20, deadline=None)
@given(size=st.tuples(*[st.integers(1, n) for n in (3, 8, 9)]), seed=st.integers(0, 2**31))
def test_a_mask_unit_is_a_convolution_and_a_linear_map_of_the_means(size, seed):
    torch.manual_seed(seed)
    N, H, W = size
    unit, x = MaskUnit(5), torch.randn(N, 5, H, W)
    expected = unit.conv(x) + unit.fc(x.mean((2, 3))).view(N, 1, 1, 1)
    torch.testing.assert_close(unit(x), expected, atol=1e-5, rtol=0)


def test_a_mask_unit_learns_from_what_it_lets_through():
    torch.manual_seed(4)
    block = DynamicBlock(8, GumbelGate((1.0, 1.0), 1.0), 0.5)
    x = torch.randn(2, 8, 6, 7)
    features, mask = block(x)
    (features.square().mean() + mask.mean()).backward()
    for name, parameter in block.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_dilation_is_what_a_3x3_convolution_sees():
    mask = torch.zeros(1, 1, 7, 8)
    mask[..., 3, 4] = mask[..., 0, 0] = 1
    kernel = torch.ones(1, 1, 3, 3)
    seen = torch.nn.functional.conv2d(mask, kernel, padding=1) > 0
    assert torch.equal(dilate(mask).bool(), seen)
