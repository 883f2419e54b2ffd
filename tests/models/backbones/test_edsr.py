"""EDSR: the published sizes, layouts and arithmetic."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from restore.config import registry
from restore.errors import UserError
from restore.models import weights
from tests.helpers.plain_single import MEAN, State, conv, drawn, far, layers

STEPS = {2: [2], 3: [3], 4: [2, 2], 8: [2, 2, 2]}


def edsr(*overrides: str) -> torch.nn.Module:
    return registry.build("backbone", "edsr", *overrides).eval()


def state_of(scale: int, blocks: int = 2, features: int = 8) -> State:
    """The layout of the paper's PyTorch implementation."""
    shapes = {"head.0": (3, features, 3), f"body.{blocks}": (features, features, 3)}
    for block in range(blocks):
        for place in (0, 2):
            shapes[f"body.{block}.body.{place}"] = (features, features, 3)
    for place, ratio in enumerate(STEPS[scale]):
        shapes[f"tail.0.{2 * place}"] = (features, features * ratio**2, 3)
    state = layers({**shapes, "tail.1": (features, 3, 3)})
    for name, sign in (("sub", -1), ("add", 1)):
        state[f"{name}_mean.weight"] = torch.eye(3).view(3, 3, 1, 1)
        state[f"{name}_mean.bias"] = sign * 255 * MEAN.flatten()
    return state


def as_basicsr(state: State) -> State:
    renamed = {}
    for name, value in state.items():
        layer, kind = name.rsplit(".", 1)
        parts = layer.split(".")
        if parts[0] in ("sub_mean", "add_mean"):
            continue
        if parts[0] == "body":
            inner = {"0": "conv1", "2": "conv2"}
            layer = "conv_after_body" if len(parts) == 2 else f"body.{parts[1]}.{inner[parts[3]]}"
        elif parts[:2] == ["tail", "0"]:
            layer = f"upsample.{parts[2]}"
        else:
            layer = {"head.0": "conv_first", "tail.1": "conv_last"}[layer]
        renamed[f"{layer}.{kind}"] = value
    return renamed


def plain(state: State, low: torch.Tensor, scale: int, factor: float = 1.0) -> torch.Tensor:
    """The published forward pass, from values in [0, 255] to values in [0, 255]."""
    x = conv(state, "sub_mean", low * 255)
    x = first = conv(state, "head.0", x)
    blocks = sum(name.endswith(".body.0.weight") for name in state)
    for block in range(blocks):
        y = F.relu(conv(state, f"body.{block}.body.0", x))
        x = x + factor * conv(state, f"body.{block}.body.2", y)
    x = conv(state, f"body.{blocks}", x) + first
    for place, ratio in enumerate(STEPS[scale]):
        x = F.pixel_shuffle(conv(state, f"tail.0.{2 * place}", x), ratio)
    return conv(state, "add_mean", conv(state, "tail.1", x)) / 255


def save(path: Path, state: object) -> Path:
    torch.save(state, path)
    return path


@pytest.mark.parametrize(
    ("blocks", "count"), [(1, 409_731), (3, 557_443), (5, 705_155), (8, 926_723)]
)
def test_parameter_counts(blocks, count):
    model = edsr(f"backbone.blocks={blocks}")
    assert sum(p.numel() for p in model.parameters()) == count


def test_the_large_one_is_the_papers():
    model = registry.build("backbone", "edsr_large")
    assert round(sum(p.numel() for p in model.parameters()) / 1e6) == 43
    assert (len(model.body), model.body[0].residual_scale) == (32, 0.1)


@pytest.mark.parametrize("scale", [2, 3, 4, 8])
@pytest.mark.parametrize("layout", ["paper", "basicsr"])
def test_published_layout_equals_the_plain_formulation(tmp_path: Path, scale, layout):
    state = state_of(scale)
    held = state if layout == "paper" else {"params": as_basicsr(state)}
    loaded = weights.load(save(tmp_path / "w.pt", held))
    assert loaded.config["task"]["scale"] == scale
    low = drawn(5, 9)
    with torch.no_grad():
        expected = plain(state, low, scale).clamp(0, 1)
        image = loaded.backbone()(low).image
    assert image.shape == (2, 3, 5 * scale, 9 * scale)
    assert expected.std() > 0.05, "weights that say nothing test nothing"
    torch.testing.assert_close(image, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    "wrapping", ["state_dict", "model", "model_state_dict", "params", "generator"]
)
def test_a_trainers_checkpoint_in_half_precision_loads(tmp_path: Path, wrapping):
    """Within another dictionary, of several devices, beside an optimizer's state."""
    state = {name: value.half() for name, value in state_of(2).items()}
    inner = {f"module.{name}": value for name, value in state.items()}
    beside = {"epoch": 3, "optimizer": {"state": {0: {"step": 5}}, "param_groups": []}}
    loaded = weights.load(save(tmp_path / "w.pt", {**beside, wrapping: inner}))
    low = drawn(5, 9)
    with torch.no_grad():
        expected = plain({n: x.float() for n, x in state.items()}, low, 2).clamp(0, 1)
        torch.testing.assert_close(loaded.backbone()(low).image, expected, atol=1e-5, rtol=0)


def test_colours_of_the_file_are_taken(tmp_path: Path):
    state = state_of(2)
    for name, sign in (("sub", -1), ("add", 1)):
        state[f"{name}_mean.bias"] = sign * torch.tensor([0.5, 0.25, 0.75])
    config = weights.load(save(tmp_path / "w.pt", state)).config["backbone"]
    assert (config["mean"], config["range"]) == ([0.5, 0.25, 0.75], 1.0)
    state["add_mean.bias"] += 1
    with pytest.raises(UserError, match="add_mean"):
        weights.load(save(tmp_path / "odd.pt", state))


def test_the_factor_on_branches_is_the_papers_unless_said(tmp_path: Path):
    low = drawn(3, 4)
    state = state_of(2, blocks=1, features=256)
    file = save(tmp_path / "w.pt", state)
    assert "residual_scale=0.1" in weights.load(file).origin, "what is assumed is said"
    for model, factor in (([], 0.1), (["backbone.residual_scale=0.5"], 0.5)):
        with torch.no_grad():
            image = weights.load(file, model).backbone()(low).image
            expected = plain(state, low, 2, factor).clamp(0, 1)
        torch.testing.assert_close(image, expected, atol=1e-5, rtol=0)


def test_what_is_no_edsr_is_not_taken_for_one(tmp_path: Path):
    state = state_of(2)
    with pytest.raises(UserError, match="body\\.0\\.gate"):
        weights.load(save(tmp_path / "more.pt", state | {"body.0.gate.weight": torch.zeros(1)}))
    # RCAN's blocks lie one level deeper in the same implementation.
    deeper = {name.replace("body.0.body", "body.0.body.0.body"): v for name, v in state.items()}
    with pytest.raises(UserError, match="no model known"):
        weights.load(save(tmp_path / "rcan.pt", deeper))


@pytest.mark.parametrize("scale", [2, 3, 4, 8])
def test_reach_is_as_far_as_an_input_pixel_is_felt(scale):
    torch.manual_seed(scale)
    model = edsr("backbone.blocks=2", "backbone.features=6", f"task.scale={scale}")
    assert far(model) == model.reach


@pytest.mark.parametrize("size", [(1, 1), (1, 6), (7, 513)])
def test_any_size(size):
    model = edsr("backbone.blocks=1", "backbone.features=4", "task.scale=3")
    with torch.no_grad():
        image = model(drawn(*size)).image
    assert image.shape == (2, 3, size[0] * 3, size[1] * 3)
    assert 0 <= image.min() <= image.max() <= 1


def test_only_training_sees_what_goes_beyond_black_and_white():
    model = edsr("backbone.blocks=1", "backbone.features=4")
    with torch.no_grad():
        model.tail.bias.fill_(500.0)
        assert model(drawn(4, 4)).image.max() == 1
        assert model.train()(drawn(4, 4)).image.max() > 1.5


def test_no_other_scale_and_no_other_picture():
    with pytest.raises(UserError, match=r"backbone\.scale"):
        edsr("task.scale=5", "task.crop=100")
    model = edsr("backbone.blocks=1", "backbone.features=4")
    with pytest.raises(UserError, match="task=single_sr"):
        model(drawn(4, 4), reference=drawn(8, 8))
