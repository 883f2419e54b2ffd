"""ASDN and FSDN: levels, recursion, any real scale by way of the commands."""

import csv
import math
import os
import shutil
import signal
import threading
import time
from collections import Counter
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st
from omegaconf import DictConfig

from restore.cli import main
from restore.commands.scales import Resized
from restore.config import check, compose, plain, registry
from restore.config.settings import Runtime
from restore.data import scale_schedule
from restore.errors import UserError
from restore.images import bicubic
from restore.images.io import read_rgb
from restore.images.tiling import windows
from restore.inference.any_scale import AnyScaleRestorer, _Enlarged
from restore.models import checkpoint, weights
from restore.models.backbones.asdn import neighbours
from restore.models.backbones.fsdn import bilinear
from restore.tasks.any_scale import AnyScale
from restore.types import Restoration, Sample
from tests.helpers.pictures import chw, photo, write
from tests.helpers.plain_single import State, conv, drawn, layers

QUIET = ["runtime.device=cpu", "runtime.threads=1"]
RUNTIME = plain(compose("apply", ["input=x"]))["runtime"]
SMALL = [
    "backbone.mapping.blocks=2",
    "backbone.mapping.width=6",
    "backbone.mapping.growth=5",
    "backbone.mapping.convolutions=2",
    "backbone.mapping.first=4",
    "backbone.mapping.reduction=2",
]
TINY = [
    *SMALL,
    "task.crop=24",
    "trainer.batch_size=4",
    "trainer.log_every=1",
    "trainer.valid_every=1000",
    "trainer.pictures=0",
    "wandb.mode=disabled",
    "loader.workers=0",
    *QUIET,
]
SWITCHES = [(ca, sa, sc) for ca in (0, 1) for sa in (0, 1) for sc in (0, 1)]


def asdn(*overrides: str, seed: int = 0) -> torch.nn.Module:
    """A small network, whose branches say more than they do at first."""
    torch.manual_seed(seed)
    model = registry.build("backbone", "asdn", *SMALL, *overrides).eval()
    with torch.no_grad():
        for branch in model.branches:
            branch.project.weight.mul_(5)
    return model


def switched(ca: int, sa: int, sc: int) -> list[str]:
    return [
        f"backbone.mapping.channel_attention={bool(ca)}",
        f"backbone.spatial_attention={bool(sa)}",
        f"backbone.global_skip={bool(sc)}",
    ]


def stepped(*ratios: float) -> torch.Tensor:
    return torch.tensor(ratios, dtype=torch.float64).view(1, -1, 1, 1)


def write_run(folder: Path, name: str = "asdn", *overrides: str) -> Path:
    """A run folder as training leaves it."""
    config = plain(compose("train", [f"backbone={name}", *overrides]))
    torch.manual_seed(0)
    model = registry.instantiate(config["backbone"], "backbone")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.5)
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    entries = {"config": config, "models": {"backbone": model.state_dict()}, "ema": None, "step": 7}
    checkpoint.write(folder / "checkpoints" / "last.pt", entries)
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    return write_run(tmp_path_factory.mktemp("asdn") / "run", "asdn", *SMALL)


@pytest.fixture(scope="module")
def local(tmp_path_factory) -> Path:
    """Without channel attention, whose means tiles would change."""
    off = "backbone.mapping.channel_attention=false"
    return write_run(tmp_path_factory.mktemp("asdn") / "local", "asdn", *SMALL, off)


# Sizes ----------------------------------------------------------------------------------------


def count(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize(
    ("experiment", "published"),
    [("paper", 22_405_168), ("course", 828_928), ("course_complex", 1_111_270)],
)
def test_parameter_counts(experiment, published):
    """The published numbers are of what runs at one level: the trunk and one branch."""
    with torch.device("meta"):  # no numbers are drawn
        model = registry.build("backbone", "asdn", f"experiment=asdn/{experiment}", "data.root=.")
    one = count(model.branches[0])
    assert count(model.mapping) + one == published
    assert count(model) == published + 10 * one
    assert len(model.branches) == 11


# Levels ---------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(levels=st.integers(2, 101), thousandths=st.integers(1000, 2000))
def test_neighbours_are_the_papers(levels, thousandths):
    ratio = Fraction(thousandths, 1000)
    place = (levels - 1) * (ratio - 1)
    found = neighbours(float(ratio), levels, 2.0)
    assert found.upper == math.ceil(place)
    assert found.lower == max(0, found.upper - 1)
    exact = (levels - 1) * (1 + Fraction(found.upper, levels - 1) - ratio)
    assert found.weight == pytest.approx(float(exact), abs=1e-9)
    assert (found.weight == 0) == (place.denominator == 1)


def test_the_documents_example():
    assert neighbours(1.27, 11, 2.0)[:2] == (2, 3)
    assert neighbours(1.27, 11, 2.0).weight == pytest.approx(0.3)


def test_other_largest_ratio():
    for level in range(4):
        scale = scale_schedule.level_scale(level, 4, 4.0)
        assert scale == level + 1
        assert neighbours(scale, 4, 4.0) == (max(0, level - 1), level, 0)
    assert neighbours(2.25, 4, 4.0) == (1, 2, 0.75)


def plain_level(
    state: State, picture: torch.Tensor, level: int, ca: int, sa: int, sc: int
) -> torch.Tensor:
    """One level's result, from the state dict alone."""
    every = [conv(state, "mapping.head", picture)]
    for block in range(2):
        name = f"mapping.blocks.{block}"
        inside = [conv(state, f"{name}.compress", torch.cat(every, 1))]
        for layer in range(2):
            before = torch.cat(inside, 1)
            inside.append(F.relu(conv(state, f"{name}.dense.layers.{layer}", before)))
        result = inside[0] + conv(state, f"{name}.gather", torch.cat(inside, 1))
        if ca:
            means = result.flatten(2).mean(2)[..., None, None]
            hidden = F.relu(conv(state, f"{name}.attention.reduce", means))
            result = result * conv(state, f"{name}.attention.expand", hidden).sigmoid()
        every.append(result)
    missing = conv(state, f"branches.{level}.project", torch.cat(every, 1))
    if sa:
        hidden = F.relu(conv(state, f"branches.{level}.attention.expand", missing))
        missing = missing * conv(state, f"branches.{level}.attention.reduce", hidden).sigmoid()
    return picture + missing if sc else missing


@pytest.mark.parametrize("switches", SWITCHES)
def test_levels_and_what_lies_between_equal_the_plain_formulation(switches):
    model = asdn(*switched(*switches)).double()
    state = model.state_dict()
    assert any("blocks.0.attention" in name for name in state) == bool(switches[0])
    assert any("branches.0.attention" in name for name in state) == bool(switches[1])
    picture = drawn(7, 9).double()
    with torch.no_grad():
        levels = [plain_level(state, picture, level, *switches) for level in range(11)]
        assert (levels[3] - levels[4]).abs().max() > 1e-3, "levels that agree test nothing"
        for level in range(11):
            ours = model.level(picture, scale_schedule.level_scale(level, 11, 2.0))
            torch.testing.assert_close(ours, levels[level], atol=1e-12, rtol=0)
        for ratio in (1.003, 1.27, 1.449, 1.9999):
            upper = math.ceil(10 * (ratio - 1))
            phase = levels[upper - 1] - levels[upper]
            expected = levels[upper] + 10 * (1 + upper / 10 - ratio) * phase
            torch.testing.assert_close(model.level(picture, ratio), expected, atol=1e-9, rtol=0)


def course_state(blocks: int, convolutions: int, levels: int) -> State:
    """The layout of the course project: 12 channels first, 8 between blocks, 6 within, 4 squeezed.

    Reduction is by 2.
    """
    shapes = {"feature_mapping_branch.low_level_features": (3, 12, 3)}
    for block in range(blocks):
        name = f"feature_mapping_branch.dabs.{block}.base"
        shapes[f"{name}.0.input_compression_layer"] = (12 + 8 * block, 8, 1)
        shapes[f"{name}.0.output_compression_layer"] = (8 + 6 * convolutions, 8, 1)
        for layer in range(convolutions):
            shapes[f"{name}.0.intra_layers.{layer}.base.0"] = (8 + 6 * layer, 6, 3)
        shapes[f"{name}.1.attention.1"] = (8, 4, 1)
        shapes[f"{name}.1.attention.3"] = (4, 8, 1)
    for level in range(levels):
        name = f"image_reconstruction_branches.{level}"
        shapes[f"{name}.transform_into_image"] = (12 + 8 * blocks, 3, 1)
        shapes[f"{name}.sa.sa.0"] = (3, 6, 1)
        shapes[f"{name}.sa.sa.2"] = (6, 3, 1)
    return layers(shapes)


def plain_course(state: State, picture: torch.Tensor, level: int, blocks: int) -> torch.Tensor:
    """The course project's forward pass of one level, on a picture already enlarged."""
    every = conv(state, "feature_mapping_branch.low_level_features", picture)
    for block in range(blocks):
        name = f"feature_mapping_branch.dabs.{block}.base"
        inside = compressed = conv(state, f"{name}.0.input_compression_layer", every)
        layer = 0
        while f"{name}.0.intra_layers.{layer}.base.0.weight" in state:
            made = F.relu(conv(state, f"{name}.0.intra_layers.{layer}.base.0", inside))
            inside, layer = torch.cat([inside, made], 1), layer + 1
        result = compressed + conv(state, f"{name}.0.output_compression_layer", inside)
        hidden = F.relu(conv(state, f"{name}.1.attention.1", F.adaptive_max_pool2d(result, 1)))
        result = result * conv(state, f"{name}.1.attention.3", hidden).sigmoid()
        every = torch.cat([every, result], 1)
    name = f"image_reconstruction_branches.{level}"
    missing = conv(state, f"{name}.transform_into_image", every)
    hidden = F.relu(conv(state, f"{name}.sa.sa.0", missing))
    return picture + missing * conv(state, f"{name}.sa.sa.2", hidden).sigmoid()


@pytest.mark.parametrize(("blocks", "convolutions", "levels"), [(2, 3, 11), (1, 1, 5)])
def test_the_course_projects_weights_load(tmp_path: Path, blocks, convolutions, levels):
    state = course_state(blocks, convolutions, levels)
    torch.save({"state_dict": state}, tmp_path / "course.pth")
    loaded = weights.load(tmp_path / "course.pth")
    assert "backbone.mapping.pooling=max" in loaded.origin
    model = loaded.backbone()
    picture = drawn(9, 8)
    with torch.no_grad():
        for level in range(levels):
            ours = model.level(picture, 1 + level / (levels - 1))
            expected = plain_course(state, picture, level, blocks)
            assert (expected - picture).abs().max() > 1e-2
            torch.testing.assert_close(ours, expected, atol=1e-5, rtol=0)


def test_a_variant_of_the_course_projects_is_refused(tmp_path: Path):
    state = course_state(1, 1, 5) | {"feature_mapping_branch.more.weight": torch.zeros(1)}
    torch.save(state, tmp_path / "course.pth")
    with pytest.raises(UserError, match=r"variant of ASDN.*feature_mapping_branch\.more"):
        weights.load(tmp_path / "course.pth")


def test_only_the_neighbouring_branches_run_and_the_trunk_once():
    model, calls = asdn(), Counter()
    for place, branch in enumerate(model.branches):
        branch.register_forward_hook(lambda *_, place=place: calls.update([place]))
    model.mapping.register_forward_hook(lambda *_: calls.update(["trunk"]))
    for ratios, expected in (
        ([1.27], {2: 1, 3: 1}),
        ([1.3], {3: 1}),
        ([1.0], {0: 1}),
        ([2.0, 2.0, 1.55], {10: 2, 5: 1, 6: 1}),
    ):
        calls.clear()
        with torch.no_grad():
            model(drawn(3, 4), ratios=stepped(*ratios).expand(2, -1, 1, 1))
        assert calls == {**expected, "trunk": len(ratios)}


def test_branches_that_do_not_run_get_gradients_of_zero():
    model = asdn().train()
    restored = model(drawn(5, 6), ratios=stepped(1.27).expand(2, -1, 1, 1))
    restored.image.square().sum().backward()
    for place, branch in enumerate(model.branches):
        moved = [bool(p.grad.abs().sum() > 0) for p in branch.parameters()]
        assert all(moved) if place in (2, 3) else not any(moved)
    assert all(p.grad is not None for p in model.parameters())


def test_gradients_are_those_of_the_plain_formulation():
    model = asdn().double()
    picture = drawn(5, 6).double().requires_grad_()
    weight = torch.randn(2, 3, 5, 6, dtype=torch.float64)
    names, parameters = zip(*model.named_parameters())
    state = dict(zip(names, parameters))
    both = [plain_level(state, picture, level, 1, 1, 1) for level in (2, 3)]
    expected = both[1] + 0.3 * (both[0] - both[1])
    for image, other in ((model.level(picture, 1.27), expected),):
        ours = torch.autograd.grad(
            (image * weight).sum(), [picture, *parameters], allow_unused=True
        )
        theirs = torch.autograd.grad(
            (other * weight).sum(), [picture, *parameters], allow_unused=True
        )
        for a, b in zip(ours, theirs):
            assert (a is None) == (b is None)
            if a is not None:
                torch.testing.assert_close(a, b, atol=1e-9, rtol=1e-9)


def test_no_ratio_beyond_the_levels_and_no_other_picture():
    with pytest.raises(UserError, match=r"2\.5.*1 to 2"):
        asdn()(drawn(3, 3), ratios=stepped(2.5))
    with pytest.raises(UserError, match="task=any_scale"):
        asdn()(drawn(3, 3), reference=drawn(3, 3))


def test_only_training_sees_what_goes_beyond_black_and_white():
    model = asdn()
    with torch.no_grad():
        for branch in model.branches:
            branch.project.bias.fill_(5.0)
        assert model(drawn(4, 4)).image.max() == 1
        assert model.train()(drawn(4, 4)).image.max() > 1.5


@pytest.mark.parametrize("name", registry.names("mapping"))
def test_any_trunk_and_how_far_it_looks(name):
    small = {
        "bidense": [*SMALL, "backbone.mapping.channel_attention=false"],
        "edsr": ["backbone.mapping.blocks=2", "backbone.mapping.features=4"],
        "vdsr": ["backbone.mapping.convolutions=4", "backbone.mapping.features=4"],
        "rdn": [
            f"backbone.mapping.{n}=2" for n in ("blocks", "features", "growth", "convolutions")
        ],
    }[name]
    torch.manual_seed(1)
    choice = f"mapping@backbone.mapping={name}"
    model = registry.build("backbone", "asdn", choice, *small).eval().double()
    # ReLUs that are shut would hide how far it looks.
    for parameter in model.mapping.parameters():
        parameter.data.abs_()
    picture = torch.rand(1, 3, 31, 31, dtype=torch.float64)
    changed = picture.clone()
    changed[..., 15, 15] += 1
    with torch.no_grad():
        features = model.mapping(picture)
        felt = (model.mapping(changed) - features).abs().amax((0, 1)).nonzero()
        assert features.shape == (1, model.mapping.features, 31, 31)
        assert model(picture, ratios=stepped(1.5)).image.shape == (1, 3, 47, 47)
    assert int((felt - 15).abs().max()) == model.reach


# Bicubic and recursion ------------------------------------------------------------------------


def plain_bicubic(line: np.ndarray, factor: float, length: int) -> np.ndarray:
    """MATLAB's, of one line, one sum at a time."""
    narrow = min(factor, 1.0)
    result = []
    for place in range(length):
        middle = (place + 0.5) / factor - 0.5
        total = weight = 0.0
        for near in range(math.floor(middle - 2 / narrow), math.ceil(middle + 2 / narrow) + 1):
            part = float(bicubic.keys(np.array([narrow * (middle - near)]))[0])
            total += part * line[min(max(near, 0), len(line) - 1)]
            weight += part
        result.append(total / weight)
    return np.array(result)


@settings(max_examples=30, deadline=None)
@given(
    height=st.integers(1, 9),
    width=st.integers(1, 9),
    factor=st.floats(0.3, 3.2),
    seed=st.integers(0, 2**16),
)
def test_bicubic_in_float_equals_the_plain_formulation(height, width, factor, seed):
    picture = torch.from_numpy(np.random.default_rng(seed).random((1, 1, height, width)))
    rows, columns = (math.ceil(side * factor) for side in (height, width))
    ours = bicubic.resized(picture, factor, rows, columns)[0, 0].numpy()
    between = np.stack([plain_bicubic(c, factor, rows) for c in picture[0, 0].numpy().T], 1)
    expected = np.stack([plain_bicubic(row, factor, columns) for row in between])
    np.testing.assert_allclose(ours, expected, atol=1e-9)


def test_bicubic_in_float_has_gradients():
    picture = torch.rand(1, 1, 3, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: bicubic.resized(x, 1.7, 5, 6), (picture,))


@settings(max_examples=40, deadline=None)
@given(hundredths=st.integers(100, 3200), largest=st.sampled_from([1.5, 2.0, 4.0]))
def test_the_schedule_has_the_fewest_steps_and_the_largest_first(hundredths, largest):
    scale = hundredths / 100
    ratios = scale_schedule.schedule(scale, largest)
    assert math.prod(ratios) == pytest.approx(scale, rel=1e-12)
    assert all(ratio == largest for ratio in ratios[:-1])
    assert 1 <= ratios[-1] <= largest + 1e-9
    assert len(ratios) == 1 or largest ** (len(ratios) - 1) < scale


def sizes(height: int, width: int, ratios: list[float]) -> list[tuple[int, ...]]:
    """What a recursion's steps are given to restore, and its result's sides."""
    seen: list[tuple[int, ...]] = []

    def keep(picture: torch.Tensor, ratio: float) -> torch.Tensor:
        seen.append(tuple(picture.shape[-2:]))
        return picture

    result = scale_schedule.enlarged(torch.zeros(1, 3, height, width), ratios, keep)
    return [*seen, tuple(result.shape[-2:])]


@settings(max_examples=40, deadline=None)
@given(height=st.integers(1, 60), width=st.integers(1, 60), hundredths=st.integers(100, 3200))
@example(height=20, width=100, hundredths=110)  # 20 · 1.1 is 22.000000000000004 in floats
def test_sizes_of_the_schedule_are_exact(height, width, hundredths):
    scale = Fraction(hundredths, 100)
    ratios = scale_schedule.schedule(float(scale), 2.0)
    exact = [Fraction(2) ** n for n in range(1, len(ratios))] + [scale, scale]
    expected = [(math.ceil(height * s), math.ceil(width * s)) for s in exact]
    assert sizes(height, width, ratios) == expected


@settings(max_examples=40, deadline=None)
@given(
    height=st.integers(1, 60),
    width=st.integers(1, 60),
    hundredths=st.tuples(st.integers(100, 200), st.integers(100, 200)),
)
def test_no_step_adds_its_rounding_to_that_of_another(height, width, hundredths):
    first, second = (Fraction(n, 100) for n in hundredths)
    exact = [first, first * second, first * second]
    expected = [(math.ceil(height * s), math.ceil(width * s)) for s in exact]
    assert sizes(height, width, [float(first), float(second)]) == expected


def test_a_step_meets_what_the_one_before_made():
    model, low = asdn(), drawn(5, 7)
    with torch.no_grad():
        ours = model(low, ratios=stepped(2.0, 1.35).expand(2, -1, 1, 1)).image
        middle = model.level(bicubic.resized(low, 2.0, 10, 14), 2.0).clamp(0, 1)
        expected = model.level(bicubic.resized(middle, 1.35, 14, 19), 1.35).clamp(0, 1)
    assert torch.equal(ours, expected)


def test_schedules_of_the_documents_table():
    for scale, ratios in (
        (3, [1.732, 1.732]),
        (3, [1.5, 2.0]),
        (3, [2.0, 1.5]),
        (3, [1.442, 1.442, 1.442]),
        (4, [1.587, 1.587, 1.587]),
        (4, [1.8, 1.8, 1.234]),
        (4, [2.0, 1.8, 1.111]),
    ):
        exact = scale_schedule.fitted(ratios, scale, 2.0)
        assert math.prod(exact) == pytest.approx(scale, rel=1e-12)
        assert exact == pytest.approx(ratios, abs=2e-3)
    for ratios, said in (([2.0, 1.8, 1.1], "3.96"), ([3.0], "from 1 to 2")):
        with pytest.raises(UserError, match=said):
            scale_schedule.fitted(ratios, 4 if len(ratios) > 1 else 3, 2.0)


# FSDN -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [2, 3, 4, 8])
def test_the_transposed_convolution_begins_as_bilinear(scale):
    features = torch.rand(1, 4, 6, 7)
    with torch.no_grad():
        ours = bilinear(4, scale)(features)
    expected = F.interpolate(features, scale_factor=scale, mode="bilinear", align_corners=False)
    assert ours.shape == expected.shape
    inner = (..., slice(scale, -scale), slice(scale, -scale))
    torch.testing.assert_close(ours[inner], expected[inner])


def test_fsdn_begins_as_an_asdn_that_interpolates_its_features():
    base = asdn()
    fsdn = registry.build("backbone", "fsdn", *SMALL, "task.scale=3").eval()
    fit = checkpoint.load_what_fits(fsdn, base.state_dict(), "here")
    assert sorted(fit.missing) == ["deconvolution.bias", "deconvolution.weight"]
    assert all(name.startswith("branches.") for name in fit.surplus)
    low = drawn(6, 5)
    with torch.no_grad():
        features = base.mapping(low)
        large = F.interpolate(features, scale_factor=3, mode="bilinear", align_corners=False)
        expected = bicubic.resized(low, 3, 18, 15) + base.branches[10](large)
        ours = fsdn.enlarged(low)
    assert ours.shape == (2, 3, 18, 15)
    torch.testing.assert_close(ours[..., 3:-3, 3:-3], expected[..., 3:-3, 3:-3])


@pytest.mark.parametrize("scale", [2, 3, 8])
def test_how_far_fsdn_looks(scale):
    off = "backbone.mapping.channel_attention=false"
    model = registry.build("backbone", "fsdn", *SMALL, off, f"task.scale={scale}").double()
    for parameter in model.parameters():
        parameter.data.abs_().add_(0.01)
    low = torch.rand(1, 3, 19, 19, dtype=torch.float64)
    changed = low.clone()
    changed[..., 9, 9] += 1
    with torch.no_grad():
        felt = (model.enlarged(low) - model.enlarged(changed)).abs().amax((0, 1)).nonzero()
    assert int((felt // scale - 9).abs().max()) == model.reach


def test_fsdn_is_trained_from_an_asdn(run: Path, tmp_path: Path):
    line = ["backbone=fsdn", *TINY, "task.scale=2", f"init={run}", "init_partial=true"]
    folder = tmp_path / "fsdn"
    assert main(["train", f"folder={folder}", *line, "stages.reconstruction.steps=1"]) == 0
    said = (folder / "log.txt").read_text()
    assert "deconvolution.weight" in said
    loaded = weights.load(folder)
    assert loaded.state.keys() == registry.build("backbone", "fsdn", *SMALL).state_dict().keys()


# The task -------------------------------------------------------------------------------------


def task(**options) -> AnyScale:
    return AnyScale(bicubic.MatlabBicubic(), **options)


def batch(item: dict) -> dict:
    return {k: v[None] if isinstance(v, torch.Tensor) else [v] for k, v in item.items()}


def test_training_pictures_are_of_the_level_that_the_step_draws():
    maker = task(crop=96, augment=False)
    target = chw(photo(height=96, width=96))
    drawn_at = {}
    for step in range(80):
        maker.set_step(step, 100)
        item = maker.train_item(Sample(key="a", target=target), np.random.default_rng(0))
        assert set(item) == {"key", "target"}
        problem = maker.prepare(batch(item))
        ratio = problem.inputs["ratios"].item()
        low = bicubic.resize(target, 1 / ratio)
        assert torch.equal(problem.inputs["low"][0] * 255, low.float())
        assert low.shape[-1] == math.ceil(96 / ratio - 1e-9)
        assert problem.inputs["low_up"].shape[-2:] == (96, 96)
        drawn_at[step] = ratio
    assert sorted(set(drawn_at.values())) == pytest.approx([1 + n / 10 for n in range(11)])
    again = task(crop=96)
    for step in (31, 7):
        again.set_step(step, 5)
        assert again.drawn == drawn_at[step], "of the step alone, not of what ran before"
    other = task(crop=96, seed=2)
    draws = []
    for step in drawn_at:
        other.set_step(step, 5)
        draws.append(other.drawn)
    assert draws != [*drawn_at.values()]


@pytest.mark.parametrize(("scale", "kept"), [(2.0, (34, 28)), (2.7, (35, 29)), (1.01, (35, 29))])
def test_evaluation_keeps_the_whole_picture_at_scales_that_are_not_whole(scale, kept):
    target = chw(photo(height=35, width=29))
    maker = task(scale=scale)
    problem = maker.prepare(batch(maker.eval_item(Sample(key="a", target=target))))
    expected = target[:, : kept[0], : kept[1]]
    assert torch.equal(problem.target[0] * 255, expected.float())
    low = bicubic.resize(expected, 1 / scale)
    assert torch.equal(problem.inputs["low"][0] * 255, low.float())
    name, base = maker.baseline(problem)
    assert (name, base.shape[-2:]) == ("bicubic", kept)
    assert math.prod(problem.inputs["ratios"].flatten().tolist()) == pytest.approx(scale)
    with torch.no_grad():
        assert asdn()(**problem.inputs).image.shape == problem.target.shape


def test_a_degradation_that_comes_too_soon_is_refused():
    from restore.data.degradation import PilBicubic

    maker = AnyScale(PilBicubic(), crop=8)
    item = maker.train_item(
        Sample(key="a", target=chw(photo(height=9, width=9))), np.random.default_rng(0)
    )
    with pytest.raises(UserError, match="degradation=matlab_bicubic"):
        maker.prepare(batch(item))


# Training -------------------------------------------------------------------------------------


def train(folder: Path, *overrides: str) -> int:
    return main(["train", f"folder={folder}", "backbone=asdn", *TINY, *overrides])


def losses(folder: Path) -> dict[int, float]:
    with open(folder / "metrics.csv", newline="") as file:
        rows = csv.DictReader(file)
        return {int(r["step"]): float(r["value"]) for r in rows if r["name"] == "train/loss"}


def last(folder: Path) -> dict[str, torch.Tensor]:
    return checkpoint.read(folder / "checkpoints" / "last.pt")["models"]["backbone"]


@pytest.mark.slow
def test_going_on_equals_never_having_stopped(tmp_path: Path):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    steps = "stages.reconstruction.steps=30"
    assert train(whole, steps) == 0

    def interrupt() -> None:
        while not (broken / "metrics.csv").exists() or len(losses(broken)) < 2:
            time.sleep(0.001)
        os.kill(os.getpid(), signal.SIGINT)

    watcher = threading.Thread(target=interrupt)
    watcher.start()
    code = train(broken, steps)
    watcher.join()
    assert code == 130, "stopped in the middle"
    assert 2 <= checkpoint.read(broken / "checkpoints" / "last.pt")["step"] < 30
    assert main(["train", f"resume={broken}"]) == 0
    assert losses(broken) == losses(whole)
    a, b = last(whole), last(broken)
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_micro_batches_share_a_level(tmp_path: Path):
    """Of two micro-batches at different levels the sum would be another than of the whole batch."""
    steps = "stages.reconstruction.steps=3"
    assert train(tmp_path / "one", steps) == 0
    assert train(tmp_path / "two", steps, "trainer.accumulate_steps=2") == 0
    one, two = losses(tmp_path / "one"), losses(tmp_path / "two")
    assert [*two.values()] == pytest.approx([*one.values()], rel=1e-4)


EXPERIMENTS = [name for name in registry.names("experiment") if name.startswith("asdn/")]
# Of these, one is trained; the others differ from it in switches and numbers of the network alone.
ALIKE = {"asdn/ablation_": "asdn/ablation_none", "asdn/levels_": "asdn/levels_101"}


@pytest.fixture(scope="module")
def div2k(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("div2k")
    for place in range(1, 12):
        write(root / f"DIV2K_train_HR/{place:04d}.png", photo(height=40, width=44, at=10 * place))
    for place in range(801, 803):
        write(root / f"DIV2K_valid_HR/{place:04d}.png", photo(height=24, width=20, at=place // 8))
    return root


def tiny(config: DictConfig) -> dict[str, int]:
    """Small numbers for the trunk of an experiment, of those that it has."""
    small = {"blocks": 2, "width": 4, "growth": 4, "first": 4, "features": 4, "convolutions": 2}
    return {key: value for key, value in small.items() if key in config.backbone.mapping}


def one_of_many(name: str) -> str | None:
    return next((one for begin, one in ALIKE.items() if name.startswith(begin)), None)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(x, marks=[] if x == "asdn/course" else pytest.mark.slow)
        for x in EXPERIMENTS
        if one_of_many(x) in (None, x)
    ],
)
def test_an_experiment_trains_two_steps(name: str, div2k: Path, tmp_path: Path):
    choice = [f"experiment={name}", f"data.root={div2k}", "data.cache=null", "data.valid=1"]
    chosen = tiny(compose("train", choice))
    small = [f"backbone.mapping.{key}={value}" for key, value in chosen.items()]
    rest = [line for line in TINY if line not in SMALL]
    line = [*choice, *small, *rest, "stages.reconstruction.steps=2"]
    assert main(["train", f"folder={tmp_path / 'run'}", *line]) == 0
    assert all(value.isfinite().all() for value in weights.load(tmp_path / "run").state.values())


@pytest.mark.slow
@pytest.mark.parametrize("name", [x for x in EXPERIMENTS if one_of_many(x) not in (None, x)])
def test_an_experiment_differs_from_one_that_trains_in_its_network_alone(name: str):
    config, other = (
        compose("train", [f"experiment={x}", "data.root=."]) for x in (name, one_of_many(name))
    )
    config.backbone.mapping.update(tiny(config))
    found, like = plain(config), plain(other)
    network = registry.instantiate(found.pop("backbone"), "backbone")
    like.pop("backbone")
    for one in (found, like):
        one.pop("folder")
        one["task"].pop("levels")  # which are the network's
    assert found == like
    step = network.levels // 2 / (network.levels - 1)
    image = network(torch.rand(2, 3, 6, 7), ratios=stepped(1 + step).expand(2, -1, 1, 1)).image
    image.square().mean().backward()
    assert all(p.grad.isfinite().all() for p in network.parameters())


# Apply ----------------------------------------------------------------------------------------


def apply(weights_of: Path, source: Path, goal: Path, *more: str) -> int:
    line = [f"weights={weights_of}", f"input={source}", f"output={goal}", *more]
    return main(["apply", *line, *QUIET])


@pytest.mark.parametrize(
    ("height", "width", "scale"),
    [
        (1, 1, 31.9),
        (7, 513, 1.01),
        (20, 10, 1.1),
        (6, 5, 1),
        *(
            pytest.param(*x, marks=pytest.mark.slow)
            for x in [(1, 1, 1.01), (7, 513, 2.7), (3, 9, 31.9)]
        ),
    ],
)
def test_apply_makes_any_scale_of_any_size(run: Path, tmp_path: Path, height, width, scale):
    picture = np.tile(photo(height=height, width=min(width, 300)), (1, 2, 1))[:, :width]
    source, goal = write(tmp_path / "in.png", picture), tmp_path / "out.png"
    assert apply(run, source, goal, f"scale={scale}") == 0
    exact = Fraction(str(scale))
    assert read_rgb(goal).shape == (3, math.ceil(height * exact), math.ceil(width * exact))
    model = weights.load(run).backbone()
    with torch.no_grad():
        low = read_rgb(source)[None].float() / 255
        expected = model(low, ratios=stepped(*scale_schedule.schedule(scale, 2.0))).image[0] * 255
    assert (read_rgb(goal) - expected).abs().max() <= 0.51


def test_transparency_follows_any_scale(run: Path, tmp_path: Path):
    picture = np.concatenate([photo(height=5, width=8), np.full((5, 8, 1), 255, np.uint8)], 2)
    source, goal = write(tmp_path / "in.png", picture), tmp_path / "out.png"
    assert apply(run, source, goal, "scale=2.7") == 0
    from PIL import Image

    with Image.open(goal) as image:
        assert (image.mode, image.size) == ("RGBA", (22, 14))
        assert np.asarray(image)[..., 3].min() == 255


def test_tiles_of_any_scale_show_no_seam(local: Path, tmp_path: Path):
    source = write(tmp_path / "in.png", photo(height=23, width=31))
    outputs = []
    for tile in ("null", "16"):
        assert apply(local, source, tmp_path / f"{tile}.png", f"tile={tile}", "scale=3.3") == 0
        outputs.append(read_rgb(tmp_path / f"{tile}.png").int())
    assert outputs[0].shape == (3, 76, 103)
    assert (outputs[0] - outputs[1]).abs().max() <= 1
    assert (outputs[0] != outputs[1]).float().mean() < 1e-3


@settings(max_examples=25, deadline=None)
@given(
    sides=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    ratio=st.floats(1, 2),
    tile=st.integers(1, 30),
    overlap=st.integers(0, 9),
    rows=st.integers(1, 12),
)
def test_windows_of_an_enlarged_picture_are_cut_from_all_of_it(sides, ratio, tile, overlap, rows):
    """To the bit, and of the picture no more rows are kept than they need."""
    picture = torch.rand(1, 3, *sides)
    end = scale_schedule.size(*sides, ratio)
    whole = bicubic.resized(picture, ratio, *end)
    part = _Enlarged(iter(picture.split(rows, -2)), sides, ratio, torch.device("cpu"))
    for window, _ in windows(*end, tile, overlap):
        assert torch.equal(part.of(window), window.of(whole))
        assert part._rows.shape[-2] <= window.height / ratio + 5 + rows


def test_a_restorer_of_any_scale_holds_bands(local: Path):
    """Each band comes before the picture has been read to its end."""
    loaded = weights.load(local)
    runtime = check({**RUNTIME, "precision": "fp32"}, Runtime)
    made = AnyScaleRestorer(loaded, runtime, torch.device("cpu"), 3.3)
    low = torch.rand(3, 60, 20)
    found = list(made.bands(low, None, 16))
    assert max(band.shape[-2] for band in found) <= 16
    with torch.no_grad():
        steps = scale_schedule.schedule(3.3, 2.0)
        expected = loaded.backbone()(low[None], ratios=stepped(*steps)).image[0]
    torch.testing.assert_close(torch.cat(found, -2), expected, atol=1e-5, rtol=0)


def test_an_answer_that_is_no_number_is_told(run: Path, tmp_path: Path, capfd):
    shutil.copytree(run, tmp_path / "run")
    path = tmp_path / "run" / "checkpoints" / "last.pt"
    held = checkpoint.read(path)
    huge = {n: torch.full_like(x, 3e38) for n, x in held["models"]["backbone"].items()}
    checkpoint.write(path, {**held, "models": {"backbone": huge}})
    source = write(tmp_path / "in.png", photo(height=6, width=9))
    assert apply(tmp_path / "run", source, tmp_path / "out.png", "scale=2.7") == 2
    assert "not finite (NaN or infinity) in fp32" in capfd.readouterr().err
    assert not (tmp_path / "out.png").exists()


def test_the_ensemble_is_the_mean_of_eight_at_each_step(run: Path, tmp_path: Path):
    source, goal = write(tmp_path / "in.png", photo(height=6, width=9)), tmp_path / "out.png"
    assert apply(run, source, goal, "ensemble=true", "scale=2.7") == 0
    model = weights.load(run).backbone()

    def eight(picture: torch.Tensor, ratio: float) -> torch.Tensor:
        results = []
        for transposed in (False, True):
            for axes in ([], [-1], [-2], [-1, -2]):
                turned = (picture.mT if transposed else picture).flip(axes)
                back = model.level(turned, ratio).flip(axes)
                results.append(back.mT if transposed else back)
        return torch.stack(results).mean(0)

    with torch.no_grad():
        low = read_rgb(source)[None].float() / 255
        expected = scale_schedule.enlarged(low, scale_schedule.schedule(2.7, 2.0), eight)[0].clamp(
            0, 1
        )
    assert (read_rgb(goal) - expected * 255).abs().max() <= 0.51


def test_what_cannot_be_is_said_in_a_sentence(run: Path, tmp_path: Path, capfd):
    source = write(tmp_path / "in.png", photo(height=6, width=9))
    small = ["backbone.blocks=1", "backbone.features=4", "task.scale=2"]
    fixed = write_run(tmp_path / "edsr", "edsr", *small)
    for place, more, said in (
        (fixed, ["scale=2.7"], "scale=2.7: this network only enlarges by 2"),
        (run, ["scale=33"], "scale=33"),
        (run, ["scale=0.5"], "scale=0.5"),
        (run, ["tile=16"], "depends on the whole picture"),
        (run, [f"reference={source}"], "takes none"),
    ):
        assert apply(place, source, tmp_path / "out.png", *more) == 2
        told = capfd.readouterr().err
        assert said in told
        assert len(told.strip().splitlines()) == 1
    assert apply(fixed, source, tmp_path / "out.png", "scale=2") == 0
    assert read_rgb(tmp_path / "out.png").shape == (3, 12, 18)


# Evaluation -----------------------------------------------------------------------------------


class Nearest(torch.nn.Module):
    def forward(self, low, low_up):
        return Restoration(F.interpolate(low, scale_factor=2))


@pytest.mark.parametrize("scale", [1.3, 2.0, 2.7])
def test_a_whole_scale_is_resized_to_any(scale):
    low = drawn(6, 7)
    height, width = scale_schedule.size(6, 7, scale)
    ratios = stepped(scale).expand(2, -1, 1, 1)
    made = Resized(Nearest(), 2)(low, torch.zeros(2, 3, height, width), ratios).image
    doubled = F.interpolate(low, scale_factor=2)
    expected = bicubic.resized(doubled, scale / 2, height, width).clamp(0, 1)
    assert torch.equal(made, expected)
    if scale == 2:
        assert torch.equal(made, doubled)


def test_fidelity_against_scale(run: Path, tmp_path: Path):
    fixed = write_run(
        tmp_path / "edsr", "edsr", "backbone.blocks=1", "backbone.features=4", "task.scale=2"
    )
    folder = tmp_path / "curve"
    line = [f"weights={run}", f"beside=[{fixed}]", "scales=[2.7,1.1,2]", f"folder={folder}"]
    more = ["limit=2", "loader.workers=0", *QUIET]
    assert main(["scales", *line, *more]) == 0
    with open(folder / "scales.csv", newline="") as file:
        rows = {
            (r["method"].split()[0], r["scale"]): float(r["psnr"]) for r in csv.DictReader(file)
        }
    names = ["bicubic", "ASDN", "EDSR"]
    assert [*rows] == [(name, scale) for name in names for scale in ("1.1", "2", "2.7")]
    assert (folder / "scales.png").stat().st_size > 5000
    assert "N = 2, protocol y" in (folder / "scales.md").read_text()
    # The same as `evaluate` says, one scale at a time.
    place = tmp_path / "one"
    line = [f"weights={run}", "task={scale: 2.7}", f"folder={place}", "protocol=y", "pictures=0"]
    assert main(["evaluate", *line, "wandb.mode=disabled", *more]) == 0
    with open(place / "images.csv", newline="") as file:
        found = [
            (float(r["psnr_y_s3"]), float(r["bicubic/psnr_y_s3"])) for r in csv.DictReader(file)
        ]
    assert rows["ASDN", "2.7"] == pytest.approx(np.mean([a for a, _ in found]))
    assert rows["bicubic", "2.7"] == pytest.approx(np.mean([b for _, b in found]))


def test_other_schedules_are_evaluated(run: Path, tmp_path: Path):
    values = []
    for name, ratios in (("a", "null"), ("b", "[1.5, 2.0]")):
        line = [f"task={{scale: 3, ratios: {ratios}}}", f"folder={tmp_path / name}", "protocol=y"]
        more = ["limit=1", "pictures=0", "loader.workers=0", "wandb.mode=disabled", *QUIET]
        assert main(["evaluate", f"weights={run}", *line, *more]) == 0
        with open(tmp_path / name / "images.csv", newline="") as file:
            values.append(float(next(csv.DictReader(file))["psnr_y_s3"]))
    assert values[0] != values[1]


def test_the_curve_is_of_networks_of_any_scale(tmp_path: Path, capfd):
    small = ["backbone.blocks=1", "backbone.features=4", "task.scale=2"]
    fixed = write_run(tmp_path / "edsr", "edsr", *small)
    assert main(["scales", f"weights={fixed}", f"folder={tmp_path / 'curve'}", *QUIET]) == 2
    assert "beside=" in capfd.readouterr().err
    assert not (tmp_path / "curve").exists()
