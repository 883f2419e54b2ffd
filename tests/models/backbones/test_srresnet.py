"""SRResNet: the public layout and arithmetic."""

import json
from pathlib import Path

import pytest
import torch

from restore.config import registry
from restore.errors import UserError
from restore.models import weights
from restore.models.fuse_batch_norm import fuse_batch_norm
from tests.helpers import published
from tests.helpers.plain_single import State, drawn, far, srresnet

KEYS = json.loads((published.GOLDEN / "srgan_generator.json").read_text())["keys"]


def state_of(keys: dict[str, list[int]]) -> State:
    """Weights for the layout; statistics and slopes such as training leaves them."""
    state = published.weights(keys, gain=1.0)
    for place, name in enumerate(keys):
        if name.endswith("num_batches_tracked"):
            state[name] = torch.tensor(7 + place)
        elif name.endswith("running_var"):
            state[name] = 0.5 + 50 * state[name].abs()
        elif name.endswith("running_mean"):
            state[name] = 10 * state[name]
        elif keys[name] == [1]:
            state[name] = torch.tensor([0.05 + 0.3 * (place % 3)])
        elif name.endswith(".body.1.weight"):
            state[name] = 0.3 + 10 * state[name]
    return state


def few(blocks: int, ratios: list[int]) -> dict[str, list[int]]:
    """The layout cut down to fewer blocks, its steps of enlargement by other ratios."""
    keys = {}
    for name, shape in KEYS.items():
        if name.startswith("body.") and int(name.split(".")[1]) >= blocks:
            continue
        if name.startswith("tail."):
            place = int(name.split(".")[1])
            if place >= len(ratios):
                continue
            shape = [64 * ratios[place] ** 2, *shape[1:]] if shape != [1] else shape
        keys[name] = shape
    return keys


def test_the_full_layout_fits_the_defaults(tmp_path: Path):
    torch.save(state_of(KEYS), tmp_path / "w.pt")
    loaded = weights.load(tmp_path / "w.pt")
    names = registry.build("backbone", "srresnet").state_dict()
    assert {name: list(v.shape) for name, v in loaded.state.items()} == {
        name: list(v.shape) for name, v in names.items()
    }
    loaded.backbone()


@pytest.mark.parametrize("ratios", [[2], [3], [2, 2], [2, 2, 2]])
def test_published_layout_equals_the_plain_formulation(tmp_path: Path, ratios):
    keys = few(2, [2, 2] if len(ratios) == 3 else ratios)
    if len(ratios) == 3:
        keys |= {n.replace("tail.1", "tail.2"): s for n, s in keys.items() if "tail.1" in n}
    state = state_of(keys)
    torch.save({"state_dict": {f"module.{n}": v for n, v in state.items()}}, tmp_path / "w.pt")
    low = drawn(5, 8)
    with torch.no_grad():
        expected = srresnet(state, low, ratios)
        image = weights.load(tmp_path / "w.pt").backbone()(low).image
    assert expected.std() > 0.05, "weights that say nothing test nothing"
    torch.testing.assert_close(image, expected, atol=2e-5, rtol=0)


def test_steps_that_are_not_ours_are_refused(tmp_path: Path):
    torch.save(state_of(few(1, [4])), tmp_path / "w.pt")
    with pytest.raises(UserError, match=r"\[4\]"):
        weights.load(tmp_path / "w.pt")


def test_a_variant_is_refused_by_name(tmp_path: Path):
    state = state_of(few(1, [2, 2])) | {"conv03.body.0.weight": torch.zeros(1)}
    torch.save(state, tmp_path / "w.pt")
    with pytest.raises(UserError, match=r"conv03\.body\.0\.weight"):
        weights.load(tmp_path / "w.pt")


def small(*overrides: str) -> torch.nn.Module:
    return registry.build(
        "backbone", "srresnet", "backbone.blocks=2", "backbone.features=6", *overrides
    )


def test_folding_changes_nothing_but_the_layers():
    model = small()
    for seed in range(3):  # so that there are statistics
        model(drawn(12, 12, seed))
    model.eval()
    with torch.no_grad():
        before = model(drawn(6, 7)).image
        fuse_batch_norm(model)
        torch.testing.assert_close(model(drawn(6, 7)).image, before, atol=2e-6, rtol=0)
    assert not any(isinstance(part, torch.nn.BatchNorm2d) for part in model.modules())


@pytest.mark.parametrize("scale", [2, 3, 4, pytest.param(8, marks=pytest.mark.slow)])
@pytest.mark.parametrize("last", [3, pytest.param(9, marks=pytest.mark.slow)])
def test_reach_is_as_far_as_an_input_pixel_is_felt(scale, last):
    torch.manual_seed(scale)
    model = small(f"task.scale={scale}", f"backbone.last_kernel={last}")
    assert far(model, size=64) == model.reach


@pytest.mark.parametrize("size", [(1, 1), (7, 513)])
def test_any_size(size):
    model = small("task.scale=2").eval()
    with torch.no_grad():
        image = model(drawn(*size)).image
    assert image.shape == (2, 3, size[0] * 2, size[1] * 2)
    assert 0 <= image.min() <= image.max() <= 1
