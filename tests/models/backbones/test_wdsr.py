"""WDSR-A and -B: the published sizes, layouts and arithmetic, and normalisation folded away."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from restore.config import registry
from restore.errors import UserError
from restore.models import weights
from restore.models.fuse_batch_norm import fuse_batch_norm
from tests.helpers.plain_single import MEAN, State, conv, drawn, far, layers

NAMES = ("wdsr_a", "wdsr_b")
SMALL = ["backbone.blocks=2", "backbone.features=8"]
# The convolutions of a block by their place in its sequence: inputs, outputs, kernel, for eight
# features; 0.8 of them, rounded down, are six.
BLOCKS = {
    "wdsr_a": {"0": (8, 32, 3), "2": (32, 8, 3)},
    "wdsr_b": {"0": (8, 48, 1), "2": (48, 6, 1), "3": (6, 8, 3)},
}


def wdsr(name: str, *overrides: str) -> torch.nn.Module:
    return registry.build("backbone", name, *overrides).eval()


def state_of(name: str, scale: int, blocks: int = 2, weight_norm: bool = True) -> State:
    """The layout of the paper's implementation."""
    shapes = {"head.0": (3, 8, 3), "tail.0": (8, 3 * scale**2, 3), "skip.0": (3, 3 * scale**2, 5)}
    for block in range(blocks):
        for place, shape in BLOCKS[name].items():
            shapes[f"body.{block}.body.{place}"] = shape
    return layers(shapes, weight_norm)


def as_written_by(author: str, state: State, blocks: int = 2) -> State:
    """The same weights as other implementations store them."""
    if author == "yjn870":
        return {name.replace(".body.", ".module."): value for name, value in state.items()}
    if author == "torch":  # parametrized, as torch stores weight normalisation today
        for old, new in (("weight_g", "original0"), ("weight_v", "original1")):
            state = {n.replace(old, f"parametrizations.weight.{new}"): v for n, v in state.items()}
        return state
    renamed = {}
    for name, value in state.items():  # ychfan's, all in one sequence
        parts = name.split(".")
        if parts[0] == "body":
            parts[1] = str(int(parts[1]) + 1)
        elif parts[0] in ("head", "tail"):
            parts = ["body", "0" if parts[0] == "head" else str(blocks + 1), *parts[2:]]
        renamed[".".join(parts)] = value
    return renamed


def plain(
    state: State, low: torch.Tensor, name: str, scale: int, mean: torch.Tensor, span: float
) -> torch.Tensor:
    """The published forward pass; `span` is what the difference of black and white becomes."""
    inside = (low - mean) * span
    x = conv(state, "head.0", inside)
    for block in range(2):
        y = F.relu(conv(state, f"body.{block}.body.0", x))
        for place in list(BLOCKS[name])[1:]:
            y = conv(state, f"body.{block}.body.{place}", y)
        x = x + y
    x = F.pixel_shuffle(conv(state, "tail.0", x), scale)
    x = x + F.pixel_shuffle(conv(state, "skip.0", inside), scale)
    return x / span + mean


def restless(model: torch.nn.Module) -> torch.nn.Module:
    """Gains, biases and statistics unlike those that a network begins with."""
    generator = torch.Generator().manual_seed(3)
    for name, value in model.state_dict().items():
        if value.is_floating_point() and value.squeeze().dim() <= 1:
            value.mul_(0.5 + torch.rand(value.shape, generator=generator))
            if not name.endswith(("running_var", "original0")):
                value.add_(0.1 * torch.randn(value.shape, generator=generator))
    return model


def count(model: torch.nn.Module) -> int:
    """Parameters without the gains of weight normalisation."""
    return sum(p.numel() for name, p in model.named_parameters() if "original0" not in name)


@pytest.mark.parametrize(
    ("name", "counts"),
    [
        ("wdsr_a", {1: 92_304, 3: 240_080, 5: 387_856, 8: 609_520}),
        ("wdsr_b", {1: 36_809, 3: 73_595, 5: 110_381, 8: 165_560}),
    ],
)
def test_parameter_counts(name, counts):
    for blocks, expected in counts.items():
        assert count(wdsr(name, f"backbone.blocks={blocks}")) == expected


def test_the_count_with_gains_is_the_papers():
    model = wdsr("wdsr_a", "task.scale=2")
    assert sum(p.numel() for p in model.parameters()) == 1_190_100


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("scale", "weight_norm"), [(2, True), (3, True), (4, True), (8, True), (4, False)]
)
def test_published_layout_equals_the_plain_formulation(tmp_path: Path, name, scale, weight_norm):
    state = state_of(name, scale, weight_norm=weight_norm)
    torch.save(state, tmp_path / "w.pt")
    loaded = weights.load(tmp_path / "w.pt")
    assert loaded.config["task"]["scale"] == scale
    low = drawn(6, 5)
    with torch.no_grad():
        expected = plain(state, low, name, scale, MEAN, 2.0).clamp(0, 1)
        image = loaded.backbone()(low).image
    assert expected.std() > 0.05, "weights that say nothing test nothing"
    torch.testing.assert_close(image, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("author", ["yjn870", "torch", "ychfan"])
def test_other_implementations_load_too(tmp_path: Path, name, author):
    state = state_of(name, scale=2)
    torch.save(as_written_by(author, state), tmp_path / "w.pt")
    low = drawn(6, 5, seed=1)
    colours = (torch.tensor(0.5), 1.0) if author == "ychfan" else (MEAN, 2.0)
    with torch.no_grad():
        expected = plain(state, low, name, 2, *colours).clamp(0, 1)
        image = weights.load(tmp_path / "w.pt").backbone()(low).image
    torch.testing.assert_close(image, expected, atol=1e-5, rtol=0)


def test_channels_of_any_number_are_found_again(tmp_path: Path):
    for features, inside, few in ((24, 100, 19), (7, 40, 3), (32, 192, 25)):
        names = {"0": (features, inside, 1), "2": (inside, few, 1), "3": (few, features, 3)}
        shapes = {"head.0": (3, features, 3), "tail.0": (features, 12, 3), "skip.0": (3, 12, 5)}
        shapes |= {f"body.0.body.{place}": shape for place, shape in names.items()}
        torch.save(layers(shapes), tmp_path / "w.pt")
        branch = weights.load(tmp_path / "w.pt").backbone().body[0].branch
        assert (branch.expand.out_channels, branch.reduce.out_channels) == (inside, few)


def test_a_variant_is_refused_by_name(tmp_path: Path):
    state = state_of("wdsr_b", 2) | {"body.0.body.5.weight_g": torch.zeros(1)}
    torch.save(state, tmp_path / "w.pt")
    with pytest.raises(UserError, match=r"WDSR.*body\.0\.body\.5"):
        weights.load(tmp_path / "w.pt")


@pytest.mark.parametrize(
    ("name", "overrides"),
    [
        ("wdsr_a", []),
        ("wdsr_b", []),
        ("wdsr_b", ["backbone.normalisation=batch"]),
        ("wdsr_a", ["backbone.normalisation=batch", "backbone.block.convolution=separable"]),
        ("wdsr_a", ["backbone.block.convolution=grouped"]),
    ],
)
def test_folding_changes_nothing_but_the_layers(name, overrides):
    model = restless(wdsr(name, *SMALL, *overrides))
    low = drawn(6, 7)
    with torch.no_grad():
        before = model(low).image
        fuse_batch_norm(model)
        torch.testing.assert_close(model(low).image, before, atol=2e-6, rtol=0)
    kinds = {type(part).__name__ for part in model.modules()}
    assert not [kind for kind in kinds if "Norm" in kind or "Parametrized" in kind]
    # All that is left is the layers' own, so that it goes along to another device.
    assert {name for name, _ in model.named_parameters()} == set(model.state_dict())
    assert all(
        isinstance(part.weight, torch.nn.Parameter)
        for part in model.modules()
        if isinstance(part, torch.nn.Conv2d)
    )


@pytest.mark.parametrize(("convolution", "groups"), [("grouped", 2), ("separable", 4)])
def test_other_wide_convolutions(convolution, groups):
    options = [f"backbone.block.convolution={convolution}", f"backbone.block.groups={groups}"]
    model = wdsr("wdsr_a", *SMALL, *options, "backbone.normalisation=none")
    state = model.state_dict()
    x = torch.randn(1, 8, 5, 5, generator=torch.Generator().manual_seed(0))
    y = x
    for name, inputs in (("expand", 8), ("project", 32)):
        layer = f"body.0.branch.{name}"
        if convolution == "separable":
            y = conv(state, f"{layer}.1", conv(state, f"{layer}.0", y, groups=inputs))
        else:
            assert state[f"{layer}.weight"].shape[1] == inputs // groups
            y = conv(state, layer, y, groups=groups)
        y = F.relu(y) if name == "expand" else y
    with torch.no_grad():
        torch.testing.assert_close(model.body[0](x), x + y, atol=1e-5, rtol=0)


def test_groups_that_do_not_divide_are_refused():
    with pytest.raises(UserError, match=r"groups=3"):
        wdsr("wdsr_a", "backbone.block.convolution=grouped", "backbone.block.groups=3")


def test_weight_normalisation_trains_norm_and_direction():
    model = registry.build("backbone", "wdsr_b", *SMALL)
    model(drawn(6, 6)).image.mean().backward()
    assert all(p.grad is not None for p in model.parameters())
    with torch.no_grad():
        before = model(drawn(6, 6)).image
        for name, value in model.named_parameters():
            if name.endswith("original1"):
                value.mul_(3.0)  # a direction has no length
        torch.testing.assert_close(model(drawn(6, 6)).image, before, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("scale", "normalisation"), [(2, "weight"), (3, "batch"), (4, "none"), (8, "weight")]
)
def test_it_can_begin_with_bicubic(scale, normalisation):
    options = [*SMALL, f"task.scale={scale}", f"backbone.normalisation={normalisation}"]
    torch.manual_seed(scale)
    low = torch.rand(2, 3, 13, 10)
    bicubic = F.interpolate(low, scale_factor=scale, mode="bicubic", align_corners=False)
    inside = (..., slice(2 * scale, -2 * scale), slice(2 * scale, -2 * scale))
    distance = {}
    for start in ("bicubic", "random"):
        network = wdsr("wdsr_b", *options, f"backbone.start={start}")
        with torch.no_grad():
            distance[start] = (network.enlarged(low) - bicubic)[inside].abs().max()
    assert distance["bicubic"] < 0.02  # the hundredth of the blocks' noise
    assert distance["random"] > 0.2
    # Without the blocks' share it is bicubic.
    network = wdsr("wdsr_b", *options, "backbone.start=bicubic")
    with torch.no_grad():
        features = network.tail(network.body(network.head(network.colours(low))))
        share = F.pixel_shuffle(features, scale) / network.colours.range
        torch.testing.assert_close(
            (network.enlarged(low) - share)[inside], bicubic[inside], atol=1e-5, rtol=0
        )


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("scale", "blocks"), [(2, 3), (3, 0), (4, 2)])
def test_reach_is_as_far_as_an_input_pixel_is_felt(name, scale, blocks):
    torch.manual_seed(scale)
    model = wdsr(name, f"backbone.blocks={blocks}", "backbone.features=6", f"task.scale={scale}")
    assert far(model) == model.reach


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", [(1, 1), (2, 1), (7, 513)])
def test_any_size(name, size):
    model = wdsr(name, "backbone.blocks=1", "backbone.features=4", "task.scale=8")
    with torch.no_grad():
        image = model(drawn(*size)).image
    assert image.shape == (2, 3, size[0] * 8, size[1] * 8)
    assert 0 <= image.min() <= image.max() <= 1
