"""Partial super-resolution and inpainting: items, codings, commands and hole metrics."""

import csv
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image
from skimage.metrics import structural_similarity
from skimage.restoration import inpaint_biharmonic

from restore.cli import main
from restore.config import registry
from restore.config.settings import Runtime
from restore.datasets.partial_demo import PartialDemo
from restore.errors import UserError
from restore.images.filling import blended, filled
from restore.images.io import read_rgb, save_png
from restore.images.overlap import Overlap, pair, share
from restore.inference.restorer import Restorer
from restore.metrics import holes, selection
from restore.metrics.image_metric import About
from restore.models import weights
from restore.tasks.partial_sr import PartialSR
from restore.types import Problem, Restoration, Sample
from tests.helpers.pictures import chw, coordinates, hwc, photo, resized

CODINGS = ["zero_reserved", "mask_channel"]
SLOW_CODING = pytest.param("mask_channel", marks=pytest.mark.slow)


def task(*overrides: str, split: str = "valid") -> PartialSR:
    return registry.build("task", "partial_sr", "task.crop=64", *overrides).for_split(split)


def sample(side: int = 150, seed: int = 0, key: str = "a") -> Sample:
    target = chw(photo("astronaut", side, side, at=60))
    return Sample(key=key, target=target, low_up=chw(photo("coffee", side, side, at=20 + seed)))


def items(made: PartialSR, count: int, of: Sample | None = None):
    of = of or sample()
    return [made.train_item(of, np.random.default_rng([7, i])) for i in range(count)]


def batch(*of) -> dict:
    joined = {k: torch.stack([i[k] for i in of]) for k in of[0] if torch.is_tensor(of[0][k])}
    joined["key"] = [i["key"] for i in of]
    return joined | ({"overlap": [i["overlap"] for i in of]} if "overlap" in of[0] else {})


# ---- where crops lie


@settings(max_examples=40, deadline=None)
@given(
    sides=st.tuples(st.integers(40, 200), st.integers(40, 200)),
    bounds=st.sampled_from([(0.0, 0.0), (0.2, 0.6), (0.5, 1.0), (0.0, 1.0)]),
    seed=st.integers(0, 2**32),
)
def test_overlap_is_as_asked_for_and_as_counted(sides, bounds, seed):
    allowed = Overlap(*bounds, 1)
    found = pair(*sides, (32, 20), allowed, np.random.default_rng(seed))
    assert found is not None
    seen = np.zeros((2, *sides), bool)
    for plane, window in zip(seen, found):
        part = window.of(torch.from_numpy(plane))
        part[:] = True
        assert tuple(part.shape) == (32, 20), "inside the picture"
    common = (seen[0] & seen[1]).sum() / (32 * 20)
    assert share(*found) == pytest.approx(common)
    assert bounds[0] - 1e-9 <= common <= bounds[1] + 1e-9


def test_as_published_crops_are_at_most_192_pixels_apart():
    """The published code: the offset is any of −192…192 of 256 pixels along each axis."""
    published = registry.build("task", "partial_sr").overlap
    rng = np.random.default_rng(0)
    offsets = []
    for _ in range(1500):
        here, there = pair(700, 700, (256, 256), published, rng)
        offsets.append((there.top - here.top, there.left - here.left))
    offsets = np.array(offsets)
    assert np.abs(offsets).max() <= 192
    assert np.abs(offsets).max() > 185
    # Uniform: mean 0, variance (385² − 1) / 12.
    assert np.abs(offsets.mean(0)).max() < 12
    assert np.allclose(offsets.var(0), (385**2 - 1) / 12, rtol=0.1)


@pytest.mark.parametrize(("overlap", "least", "most"), [("[0,0]", 0, 0), ("[0.2,0.6]", 0.2, 0.6)])
def test_items_state_their_overlap(overlap, least, most):
    """Read off pixels that say where they are."""
    place = coordinates(150, 150)
    for item in items(task(f"task.overlap={overlap}"), 20, Sample(key="a", target=place)):
        seen = [set(map(tuple, item[k][:2].flatten(1).T.tolist())) for k in ("target", "reference")]
        assert item["overlap"] == pytest.approx(len(seen[0] & seen[1]) / 64**2)
        assert least <= item["overlap"] <= most


def test_a_picture_without_room_is_said():
    small = Sample(key="s", target=coordinates(80, 80))
    with pytest.raises(UserError, match=r"80×80 pixels there is no room for two crops of 64×64"):
        task("task.overlap=[0,0]").eval_item(small)
    with pytest.raises(UserError, match=r"smaller than task\.crop=64"):
        task().train_item(Sample(key="s", target=coordinates(50, 80)), np.random.default_rng(0))
    with pytest.raises(UserError, match="give the smaller share first"):
        task("task.overlap=[0.6,0.2]")


def test_augmentation_turns_an_items_pictures_alike():
    plain, turned = (items(task(f"task.augment={on}"), 12) for on in ("false", "true"))
    kinds = set()
    for one, other in zip(plain, turned):
        ways = [
            (turns, flip)
            for turns in range(4)
            for flip in (False, True)
            if all(
                torch.equal(way(one[k], turns, flip), other[k])
                for k in ("target", "low_up", "whole", "reference", "mask", "low", "low_mask")
            )
        ]
        assert ways
        kinds.update(ways)
    assert len(kinds) > 3


def way(picture: torch.Tensor, turns: int, flip: bool) -> torch.Tensor:
    return (picture.flip(-1) if flip else picture).rot90(turns, (-2, -1))


# ---- holes


def test_six_of_ten_items_are_damaged():
    damaged = np.mean([bool(i["mask"].any()) for i in items(task(), 150)])
    assert abs(damaged - 0.6) < 4 * math.sqrt(0.6 * 0.4 / 150)
    assert not any(i["mask"].any() for i in items(task("task.holes=0"), 10))
    assert all(i["mask"].any() for i in items(task("task.holes=1"), 10))


def test_low_pictures_are_pils_quarter():
    item = items(task("task.holes=0"), 1)[0]
    assert np.array_equal(hwc(item["low"]), resized(hwc(item["low_up"]), 16, 16))
    assert torch.equal(item["low_up"], item["whole"])


@pytest.mark.parametrize("coding", CODINGS)
def test_what_lies_under_holes_never_reaches_the_network(coding: str):
    made = task(f"task.coding={coding}", "task.holes=1")
    problems = []
    for value in (0, 255):
        picture = sample()
        item = items(made, 1, picture)[0]
        mask = item["mask"].expand(3, -1, -1)
        cut = {**item, "low_up": torch.where(mask, value, item["whole"]).to(torch.uint8)}
        again = made._item(
            {k: cut[k] for k in ("key", "target", "low_up", "reference", "mask")},
            "train",
            np.random.default_rng(0),
            None,
        )
        problems.append(made.prepare(batch(again)))
    for name, value in problems[0].inputs.items():
        assert torch.equal(value, problems[1].inputs[name]), name


def test_zero_is_reserved_for_holes():
    made = task("task.holes=1")
    dark = Sample(key="d", target=torch.zeros(3, 150, 150, dtype=torch.uint8))
    item = items(made, 1, dark)[0]
    inputs = made.prepare(batch(item)).inputs
    assert set(inputs) == {"low", "low_up", "reference", "reference_low_up"}
    for name, mask in (("low_up", item["mask"]), ("low", item["low_mask"])):
        zero = (inputs[name][0] == 0).all(0)
        assert torch.equal(zero, mask[0])
        assert inputs[name][0][:, ~mask[0]].mul(255).round().unique().tolist() == [1]
    # Where a low pixel holds some hole it is one: none shows what was filled in.
    blocks = item["mask"][0].unfold(0, 4, 4).unfold(1, 4, 4).flatten(2).any(-1)
    assert torch.equal(blocks, item["low_mask"][0])


def test_the_mask_is_a_channel():
    made = task("task.holes=1", "task.coding=mask_channel")
    item = items(made, 1)[0]
    inputs = made.prepare(batch(item)).inputs
    assert torch.equal(inputs["mask"][0].bool(), item["low_mask"])
    assert torch.equal(inputs["mask_up"][0].bool(), item["mask"])
    known = ~item["mask"][0]
    given = (inputs["low_up"][0] * 255).round().byte()
    assert torch.equal(given[:, known], item["whole"][:, known])


def test_the_published_low_picture_shows_what_is_under_thin_strokes():
    made = task("task.holes=1", "task.low_holes=as_published", "masks.resize=as_published")
    seen = 0
    for item in items(made, 8):
        whole_low = torch.from_numpy(resized(hwc(item["whole"]), 16, 16)).permute(2, 0, 1)
        known = ~item["low_mask"][0]
        assert torch.equal(item["low"][:, known], whole_low[:, known])
        blocks = item["mask"][0].unfold(0, 4, 4).unfold(1, 4, 4).flatten(2).any(-1)
        seen += int((blocks & known).sum())
    assert seen > 0


def test_evaluation_repeats_itself_and_its_splits_draw_masks_of_their_own():
    one, other = (task("task.holes=1").eval_item(sample(key="k")) for _ in range(2))
    assert all(torch.equal(one[k], other[k]) for k in ("target", "mask", "low", "reference"))
    assert not torch.equal(one["mask"], task("task.holes=1").eval_item(sample(key="l"))["mask"])


# ---- filling and keeping


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32), height=st.integers(1, 40), width=st.integers(1, 40))
@example(seed=70068, height=13, width=24)
def test_filling_stays_in_range_and_ignores_holes(seed: int, height: int, width: int):
    rng = np.random.default_rng(seed)
    picture = torch.from_numpy(rng.random((1, 3, height, width), np.float32))
    mask = torch.from_numpy(rng.random((1, 1, height, width)) < rng.random())
    result = filled(picture, mask)
    assert torch.equal(result, filled(torch.where(mask, torch.nan, picture), mask))
    assert torch.equal(result.where(~mask, 0), picture.where(~mask, 0))
    if mask.all():
        assert (result == 0.5).all()
    else:
        kept = picture.flatten(2)[:, :, ~mask.flatten()]
        assert (result.amin((2, 3)) >= kept.amin(2)).all()
        assert (result.amax((2, 3)) <= kept.amax(2)).all()


def test_filling_of_strokes_is_as_good_as_scikit_images_biharmonic():
    target = photo("astronaut", 128, 128, at=20) / np.float32(255)
    mask = task("task.holes=1").masks.draw("train", "", 128, 128, 4, np.random.default_rng(3))[0]
    damaged = np.where(hwc(mask), 0, target)
    known = torch.from_numpy(damaged).permute(2, 0, 1)[None]
    plain = inpaint_biharmonic(damaged, hwc(mask)[..., 0], channel_axis=-1).clip(0, 1)
    error = [
        np.square(x - target)[hwc(mask)[..., 0]].mean()
        for x in (plain, hwc(filled(known, mask[None])[0]))
    ]
    assert 10 * math.log10(error[1] / error[0]) < 0.2


@pytest.mark.parametrize("border", [0, 1, 3])
def test_kept_pixels_and_no_seam(border: int):
    """Where the result is lighter by a constant, no step at the border is larger than its share."""
    mask = torch.zeros(1, 1, 48, 48)
    mask[..., 16:30, 20:37] = 1
    outside = torch.full((1, 3, 48, 48), 0.4)
    inside = outside + 0.1
    made = task("task.known=kept", f"task.border={border}")
    problem = Problem({}, None, ["a"], hole_mask=mask, filled=outside, undamaged=outside)
    image = made.postprocess(Restoration(inside.clone()), problem).image
    assert torch.equal(image[..., 16:30, 20:37], inside[..., 16:30, 20:37]), "all of the hole"
    far = torch.nn.functional.max_pool2d(mask, 4 * border + 1, 1, 2 * border) == 0
    assert torch.equal(image[far.expand_as(image)], outside[far.expand_as(image)])
    steps = max(image.diff(dim=-1).abs().max(), image.diff(dim=-2).abs().max()).item()
    assert steps <= 0.1 / (2 * border + 1) + 1e-6
    # `restored` keeps nothing, and what is given is never changed.
    free = task("task.known=restored").postprocess(Restoration(inside.clone()), problem).image
    assert torch.equal(free, inside)


def test_a_hole_at_the_edge_is_blended_too():
    mask = torch.zeros(1, 1, 20, 20)
    mask[..., :5, :] = 1
    image = blended(torch.ones(1, 3, 20, 20), torch.zeros(1, 3, 20, 20), mask, 2)
    column = image[0, 0, :, 10]
    assert (column[:5] == 1).all()
    assert (column[9:] == 0).all()
    assert torch.allclose(-column[4:10].diff(), torch.tensor([0.2] * 4 + [0.0]), atol=1 / 4)


# ---- metrics


@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_hole_metrics_against_a_plain_formulation(seed: int):
    rng = np.random.default_rng(seed)
    target = photo("coffee", 40, 44, at=50)
    restored = np.clip(target + rng.integers(-30, 31, target.shape), 0, 255).astype(np.uint8)
    mask = np.zeros((40, 44), bool)
    top, left = rng.integers(0, 25, 2)
    mask[top : top + 9, left : left + 12] = True
    protocol = registry.build("protocol", "rgb")
    x, y = (chw(z)[None].float() / 255 for z in (restored, target))
    problem = Problem({}, y, ["a"], hole_mask=torch.from_numpy(mask)[None, None].float())
    metrics = selection.build(None, protocol)
    found = metrics.measure(x, y, About(4), selection.regions(problem.hole_mask))
    near = np.zeros_like(mask)
    for row in range(40):
        for column in range(44):
            around = mask[max(0, row - 4) : row + 5, max(0, column - 4) : column + 5]
            near[row, column] = around.any() and not around.all()
    squared = np.square(restored.astype(np.float64) - target).mean(-1)
    _, similarity = structural_similarity(
        *(restored.astype(np.float64), target.astype(np.float64)),
        data_range=255,
        channel_axis=-1,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        full=True,
    )
    similarity = similarity.mean(-1)[5:-5, 5:-5]
    for name, region in (("holes", mask), ("ring", near)):
        psnr = 10 * math.log10(255**2 / squared[region].mean())
        assert found[f"psnr_rgb_{name}"] == pytest.approx(psnr, abs=1e-6)
        inner = similarity[region[5:-5, 5:-5]]
        if inner.size:
            assert found[f"ssim_rgb_{name}"] == pytest.approx(inner.mean(), abs=1e-6)
        else:
            assert math.isnan(found[f"ssim_rgb_{name}"])


def test_bins_by_share_of_holes():
    """A share on the limit belongs to the lower bin; pictures without holes have a bin alone."""
    shares = [0.0, 0.0, 0.05, 0.1, 0.1 + 1 / 65536, 0.3, 0.55]
    rows = [
        {
            "facts": {"hole_share": value},
            "restored": {"psnr": 20.0 + i, "psnr_holes": 10.0 + i if value else math.nan},
            "baseline": {"psnr": 1.0 * i, "psnr_holes": 2.0 * i if value else math.nan},
        }
        for i, value in enumerate(shares)
    ]
    table = holes.by_share(rows)
    assert {name: entry["images"] for name, entry in table.items()} == {
        "none": 2,
        "0-10 %": 2,
        "10-20 %": 1,
        "20-30 %": 1,
        "50-60 %": 1,
    }
    assert table["0-10 %"]["restored"] == {"psnr": 22.5, "psnr_holes": 12.5}
    rows[2]["baseline"]["psnr_holes"] = math.nan  # what one lacks is in neither's mean
    assert holes.by_share(rows)["0-10 %"]["restored"] == {"psnr": 22.5, "psnr_holes": 13.0}
    rows[2]["baseline"]["psnr_holes"] = 4.0
    assert math.isnan(table["none"]["restored"]["psnr_holes"])
    text = holes.section(rows, "filled")
    assert "5 of 7 images have some" in text
    assert "| none | 2 | restored | 20.5000 | – |" in text


# ---- data


def test_demo_splits_share_no_scene():
    splits = {name: PartialDemo().split(name) for name in ("train", "valid", "test")}
    scenes = {
        name: {part.photo.replace("_right", "_left") for part in split.parts}
        for name, split in splits.items()
    }
    assert sum(map(len, scenes.values())) == len(set().union(*scenes.values()))
    assert all(min(s["target"].shape[1:]) >= 190 for v in splits.values() for s in v)


def test_ffhq_pairs(tmp_path: Path):
    for name in ("a", "b", "c"):
        Image.fromarray(photo("astronaut", 70, 70)).save(tmp_path / f"{name}.png")
    where = f"data.root={tmp_path}"
    data = registry.build("data", "ffhq", where, "data.count=2")
    found = data.split("test")
    assert [found[i]["key"] for i in range(len(found))] == ["a", "b"]
    target = photo("astronaut", 70, 70)
    assert np.array_equal(hwc(found[0]["low_up"]), resized(resized(target, 50, 50), 70, 70))
    central = registry.build("data", "ffhq", where, "data.view=central").split("test")[0]
    assert np.array_equal(hwc(central["low_up"]), resized(target[10:60, 10:60], 70, 70))
    with pytest.raises(UserError, match="no split 'train'"):
        data.split("train")


# ---- through the commands

SMALL = [
    *("experiment=thesis/1", "data=partial_sr_demo", "masks=strokes", "pretrained.vgg19=random"),
    *("backbone.blocks=[1,1,1,1]", "backbone.features=8", "task.crop=64", "schedule=[full]"),
    *("stages.full.epochs=null", "stages.full.steps=2", "trainer.batch_size=2"),
    *("wandb.mode=disabled", "loader.workers=0", "runtime.device=cpu"),
    "task.low_holes=damaged",  # as published, it would see under holes what apply cannot
]


@pytest.fixture(
    scope="module",
    params=[CODINGS[0], *(pytest.param(x, marks=pytest.mark.slow) for x in CODINGS[1:])],
)
def run(request, tmp_path_factory) -> Path:
    """Two steps of training, with either coding."""
    folder = tmp_path_factory.mktemp(request.param) / "run"
    more = [f"task.coding={request.param}"]
    if request.param == "mask_channel":
        more += ["backbone.inputs=4", "backbone.details=true"]
    assert main(["train", f"folder={folder}", *SMALL, *more]) == 0
    return folder


def test_training_evaluation_and_apply_agree(run: Path, tmp_path: Path):
    """What evaluation saved, given to apply with its mask, comes out as evaluation restored it."""
    change = "task={holes: 1, known: kept, overlap: [0.2, 0.6]}"
    line = ["data=partial_sr_demo", "protocol=rgb", "limit=3", "save=true", change]
    more = ["wandb.mode=disabled", "loader.workers=0", "runtime.device=cpu", "pictures=0"]
    test = tmp_path / "test"
    assert main(["evaluate", f"weights={run}", f"folder={test}", *line, *more]) == 0
    summary = json.loads((test / "summary.json").read_text())
    rows = list(csv.DictReader((test / "images.csv").read_text().splitlines()))
    assert len(rows) == summary["images"] == 3
    assert sum(entry["images"] for entry in summary["by share of holes"].values()) == 3
    for row in rows:
        pictures = {k: read_rgb(test / k / f"{row['key']}.png") for k in ("restored", "target")}
        mask = read_rgb(test / "mask" / f"{row['key']}.png")[0] > 127
        assert float(row["hole_share"]) == pytest.approx(mask.double().mean().item())
        assert 0.2 <= float(row["overlap"]) <= 0.6
        squared = (pictures["restored"].double() - pictures["target"]).square()[:, mask].mean()
        psnr = 10 * math.log10(255**2 / squared.item())
        assert float(row["psnr_rgb_holes"]) == pytest.approx(psnr, abs=1e-4)
    config = run / "config.yaml"
    before = config.read_text()
    folders = [f"{k}={test / k}" for k in ("input", "reference", "mask")]
    made = tmp_path / "made"
    assert main(["apply", f"weights={run}", *folders, f"output={made}", "runtime.device=cpu"]) == 0
    assert config.read_text() == before
    for row in rows:
        mine, its = (read_rgb(f / f"{row['key']}.png") for f in (made, test / "restored"))
        mask = read_rgb(test / "mask" / f"{row['key']}.png")[:1] > 127
        assert mine.shape == its.shape
        # Training left `known` at `restored`; in the holes both are the network's.
        assert (mine.int() - its.int()).abs()[mask.expand_as(mine)].max() <= 1
        far = torch.nn.functional.max_pool2d(mask[None].float(), 9, 1, 4)[0] == 0
        whole = read_rgb(test / "whole" / f"{row['key']}.png")
        assert torch.equal(its[far.expand_as(its)], whole[far.expand_as(its)]), "known: kept"


def test_tiles_show_no_seam(run: Path):
    loaded = weights.load(run)
    loaded.config["task"] |= {"known": "kept"}
    restorer = Restorer(loaded, Runtime("cpu", 1, "fp32", True, False, None), torch.device("cpu"))
    picture = chw(photo("coffee", 181, 230))
    rng = np.random.default_rng(1)
    mask = restorer.task.masks.draw("test", "", 181, 230, 4, rng)[0]
    memory = restorer.encode_reference(chw(photo("astronaut", 61, 50)))
    whole, parts = (restorer.restore(picture, memory, tile, False, mask) for tile in (None, 30))
    assert whole.shape == picture.shape
    assert (whole - parts).abs().max() < 1e-4
    turned = restorer.restore(picture, memory, None, True, mask)
    assert (whole - turned).abs().mean() < 0.1


def test_apply_says_what_is_wrong_with_masks(run: Path, tmp_path: Path, capfd):
    rng = np.random.default_rng(0)
    for name, side in (("in", 40), ("reference", 40), ("mask", 36)):
        save_png(tmp_path / f"{name}.png", chw(np.uint8(255) * (rng.random((side, side, 3)) > 0.5)))
    line = [f"{k}={tmp_path / v}.png" for k, v in (("input", "in"), ("reference", "reference"))]
    line += [f"output={tmp_path / 'out.png'}", f"weights={run}", "runtime.device=cpu"]
    for name, part in (("mask", "mask.png"), ("none", "there is no such file")):
        assert main(["apply", *line, f"mask={tmp_path / name}.png"]) == 2
        said = capfd.readouterr().err.strip()
        assert len(said.splitlines()) == 1
        assert part in said
    assert not (tmp_path / "out.png").exists()


def test_a_network_of_three_channels_refuses_the_mask(capfd, tmp_path: Path):
    folder = tmp_path / "run"
    assert main(["train", f"folder={folder}", *SMALL, "task.coding=mask_channel"]) == 2
    assert "backbone.inputs=4" in capfd.readouterr().err
