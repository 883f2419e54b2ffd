"""Several references of unequal sizes at once: their union, from the data to the table."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from restore.cli import main
from restore.config import registry
from restore.data.loading import EvalItems, TrainItems, collate
from restore.datasets.cufed import Cufed, stitched
from restore.datasets.folder import Folder
from restore.errors import UserError
from restore.images.io import read_rgb, save_png
from restore.tools.bench import plain_ttsr
from tests.helpers import plain_attention, published

QUICK = ["wandb.mode=disabled", "runtime.device=cpu", "runtime.threads=1", "loader.workers=0"]
# Height and width of each reference; not all divide by four.
SIZES = {"a": (41, 50), "b": (32, 71), "c": (60, 28)}


def picture(height: int, width: int, seed: int) -> torch.Tensor:
    """8-bit pixels that are neither flat nor noise."""
    coarse = np.random.default_rng(seed).integers(0, 256, (height // 4 + 2, width // 4 + 2, 3))
    image = Image.fromarray(coarse.astype(np.uint8))
    array = np.array(image.resize((width, height), Image.Resampling.BICUBIC))
    return torch.from_numpy(array).permute(2, 0, 1)


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """Folders `targets`, `a`, `b`, `c` of two pictures each, and published weights `w.pt`."""
    folder = tmp_path_factory.mktemp("several")
    for place, name in enumerate(("targets", *SIZES)):
        (folder / name).mkdir()
        for number in range(2):
            size = SIZES.get(name, (36, 44 + 8 * number))
            save_png(folder / name / f"{number}.png", picture(*size, seed=10 * place + number))
    held = json.loads((published.GOLDEN / "official_small" / "case.json").read_text())
    keys = published.keys_with_blocks(held["keys"], [1, 1, 1, 1])
    torch.save(published.weights(keys, gain=1.0), folder / "w.pt")
    return folder


def data(made: Path, *names: str) -> list[str]:
    references = ",".join(str(made / name) for name in names)
    return [
        *("data=folder", f"data.targets={made / 'targets'}", f"data.references=[{references}]"),
        "data.test=1",
    ]


def evaluate(made: Path, folder: Path, *overrides: str) -> Path:
    fixed = [f"weights={made / 'w.pt'}", f"folder={folder}", "pictures=0", "metric=[psnr,ssim]"]
    assert main(["evaluate", *fixed, *QUICK, *overrides]) == 0
    return folder


def rows(path: Path) -> list[dict[str, str]]:
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def resized(pixels: torch.Tensor, height: int, width: int) -> torch.Tensor:
    image = Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy())
    array = np.array(image.resize((width, height), Image.Resampling.BICUBIC))
    return torch.from_numpy(array).permute(2, 0, 1)


def plainly(state: dict[str, torch.Tensor], target: torch.Tensor, references: list[torch.Tensor]):
    """The published network over all patches of all references, unfolded: restored, score."""

    def features(pixels: torch.Tensor) -> list[torch.Tensor]:
        return plain_ttsr.extract(state, pixels[None] / 255)

    height, width = (side // 4 for side in target.shape[1:])
    low = resized(target, height, width)
    keys, values = [], []
    for reference in references:
        rows, columns = (side // 4 * 4 for side in reference.shape[1:])
        reference = reference[:, :rows, :columns].contiguous()
        small = resized(reference, rows // 4, columns // 4)
        keys.append(features(resized(small, rows, columns))[-1])
        values.append(features(reference)[::-1])
    query = features(resized(low, 4 * height, 4 * width))[-1]
    score, textures = plain_attention.attend(query, keys, values, best=1)
    image = plain_ttsr.three_scales(
        state, low[None] / 127.5 - 1, dict(enumerate(textures, 1)), score
    )
    return ((image[0].clamp(-1, 1) + 1) * 127.5).round(), score


def test_evaluation_is_over_the_union(made: Path, tmp_path: Path):
    state = torch.load(made / "w.pt")
    chosen = ["a", "b", "c"]
    folder = evaluate(made, tmp_path / "all", *data(made, *chosen), "save=true", "protocol=rgb")
    text = (folder / "table.md").read_text()
    assert f"references: {'+'.join(str(made / name) for name in chosen)}" in text
    for number, row in enumerate(rows(folder / "images.csv")):
        target = read_rgb(made / "targets" / f"{number}.png")
        references = [read_rgb(made / name / f"{number}.png") for name in chosen]
        with torch.no_grad():
            expected, score = plainly(state, target, references)
            alone = [plainly(state, target, [reference]) for reference in references]
        best = torch.stack([own for _, own in alone])
        torch.testing.assert_close(score, best.amax(0), atol=1e-5, rtol=0)
        assert len(best.argmax(0).unique()) == 3, "each reference must be of use somewhere"
        restored = read_rgb(folder / "restored" / f"{number}.png")
        assert (restored - expected).abs().max() <= 1
        assert all((restored - image).abs().max() > 3 for image, _ in alone)
        error = (expected - target).double().square().mean()
        psnr = 10 * np.log10(255**2 / error.item())
        assert float(row["psnr_rgb"]) == pytest.approx(psnr, abs=2e-3)
        for place, reference in enumerate(references, 1):
            name = "reference" if place == 1 else f"reference_{place}"
            height, width = (side // 4 * 4 for side in reference.shape[1:])
            kept = read_rgb(folder / name / f"{number}.png")
            assert torch.equal(kept, reference[:, :height, :width])


def test_apply_gives_what_evaluation_gives(made: Path, tmp_path: Path):
    folder = evaluate(made, tmp_path / "all", *data(made, "c", "a"), "save=true", "limit=1")
    given = f"reference=[{folder / 'reference'},{folder / 'reference_2'}]"
    line = [
        f"weights={made / 'w.pt'}",
        f"input={folder / 'low'}",
        given,
        f"output={tmp_path / 'o'}",
    ]
    assert main(["apply", *line, "runtime.device=cpu"]) == 0
    one, other = read_rgb(tmp_path / "o" / "0.png"), read_rgb(folder / "restored" / "0.png")
    assert (one.int() - other.int()).abs().max() <= 1


@pytest.mark.slow
def test_two_processes_and_pictures(made: Path, tmp_path: Path):
    more = [*data(made, "a", "b"), "references=[given,black]"]
    one = evaluate(made, tmp_path / "one", *more, "pictures=2")
    two = evaluate(made, tmp_path / "two", *more, "runtime.devices=2")
    assert (one / "references.csv").read_text() == (two / "references.csv").read_text()
    assert len(list((one / "given" / "pictures").glob("*.png"))) == 2


# Data ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cufed(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("cufed")
    (root / "test" / "CUFED5").mkdir(parents=True)
    for group in range(2):
        for level in range(6):
            pixels = picture(24 + 3 * level, 40 - 2 * level, seed=10 * group + level)
            save_png(root / "test" / "CUFED5" / f"{group:03d}_{level}.png", pixels)
    return root


@pytest.mark.parametrize(
    ("chosen", "levels"),
    [("all", [1, 2, 3, 4, 5]), ([1, 2, 3], [1, 2, 3]), (["5", 2], [5, 2]), ([4], [4]), (3, [3])],
)
def test_references_of_cufed5(cufed: Path, chosen, levels: list[int]):
    for sample in Cufed(str(cufed), chosen).split("test"):
        group = sample["key"].removesuffix("_0")
        files = [cufed / "test" / "CUFED5" / f"{group}_{level}.png" for level in levels]
        given = sample["reference"] if len(levels) > 1 else [sample["reference"]]
        assert all(torch.equal(x, read_rgb(file)) for x, file in zip(given, files, strict=True))


def test_stitched_are_all_on_a_canvas(cufed: Path):
    every, one = (Cufed(str(cufed), kind).split("test")[1] for kind in ("all", "stitched"))
    assert torch.equal(one["reference"], stitched(every["reference"], "x"))


def test_sweep_over_the_references_of_the_data(made: Path, cufed: Path, tmp_path: Path):
    source = ["data=cufed", f"data.root={cufed}", "protocol=rgb"]
    kinds = ["1", "all", "1+2", "black"]
    typed = "references=[1,all,[1,2],black]"
    swept = evaluate(made, tmp_path / "swept", *source, typed)
    assert {row["reference"] for row in rows(swept / "references.csv")} == set(kinds)
    alone = evaluate(made, tmp_path / "alone", *source, "data.references=[1,2]")
    assert "references: 1+2" in (alone / "table.md").read_text()
    assert (swept / "1+2" / "images.csv").read_text() == (alone / "images.csv").read_text()
    means = json.loads((swept / "summary.json").read_text())["references"]
    assert len({means[kind]["psnr_rgb"] for kind in kinds}) == len(kinds)


@pytest.mark.parametrize(
    ("typed", "said"),
    [("6", "data.references=6"), ("[1,6]", "data.references"), ("[]", "data.references")],
)
def test_references_that_cufed5_has_not(made: Path, cufed: Path, tmp_path, capfd, typed, said):
    line = [f"weights={made / 'w.pt'}", f"folder={tmp_path / 'x'}", "data=cufed"]
    assert main(["evaluate", *line, f"data.root={cufed}", f"data.references={typed}"]) == 2
    error = capfd.readouterr().err.strip()
    assert said in error
    assert len(error.splitlines()) == 1
    assert not (tmp_path / "x").exists()


# Training ------------------------------------------------------------------------------------


def task(*overrides: str):
    more = ["task.crop=32", "task.reference_crop=40", "task.jitter=0", "pretrained.vgg19=random"]
    return registry.build("task", "reference_sr", *more, *overrides)


DEGRADATIONS = ["pil_bicubic", "tensor_bicubic", "matlab_bicubic", "noisy", "noisy_published"]


@pytest.mark.parametrize("degradation", DEGRADATIONS)
def test_each_reference_is_degraded_as_if_alone(made: Path, degradation: str):
    own = task(f"degradation={degradation}")
    several = Folder(str(made / "targets"), [str(made / name) for name in SIZES], test=1)
    got = own.prepare(collate([EvalItems(several.split("test"), own, "raise")[1]])).inputs
    for place, name in enumerate(SIZES):
        single = Folder(str(made / "targets"), str(made / name), test=1).split("test")
        alone = own.prepare(collate([EvalItems(single, own, "raise")[1]])).inputs
        assert torch.equal(got["low"], alone["low"])
        for kind in ("reference", "reference_low_up"):
            assert torch.equal(got[kind][place], alone[kind])


def test_training_items_have_a_crop_of_each(made: Path):
    own = task()
    source = Folder(str(made / "targets"), [str(made / name) for name in SIZES], test=1)
    items = TrainItems(source.split("train"), own, 1, "raise")
    batch = own.prepare(collate([items[place] for place in range(6)])).inputs
    assert [x.shape for x in batch["reference"]] == [(6, 3, 40, 40)] * 3
    ways = set()
    for row in range(6):
        for place, name in enumerate(SIZES):
            crop, blurred = (batch[k][place][row] * 255 for k in ("reference", "reference_low_up"))
            wholes = [read_rgb(made / name / f"{number}.png") for number in range(2)]
            found = [
                (how, whole) for how in TURNS for whole in wholes if _is_part(how(crop), whole)
            ]
            assert len(found) == 1, "a turned crop of its own reference, the rest black"
            how, whole = found[0]
            height, width = (min(side, 40) for side in whole.shape[1:])
            part = how(crop)[:, :height, :width].round().byte()
            expected = resized(resized(part, height // 4, width // 4), height, width)
            assert torch.equal(how(blurred)[:, :height, :width].round().byte(), expected)
            ways.add((row, TURNS.index(how)))
    assert len(ways) > 6, "references are turned each in its own way"


# Back from flips and quarter turns.
TURNS = [
    lambda x, axes=axes, quarters=quarters: x.rot90(-quarters, (-2, -1)).flip(axes)
    for axes in ([], [-1])
    for quarters in range(4)
]


def _is_part(crop: torch.Tensor, whole: torch.Tensor) -> bool:
    """Whether the crop, less its black margin, is somewhere in the picture."""
    height, width = (min(a, 40) for a in whole.shape[1:])
    part = crop[:, :height, :width]
    if crop[:, height:].any() or crop[:, :, width:].any():
        return False
    windows = whole.unfold(1, height, 1).unfold(2, width, 1)
    return bool((windows == part.round().byte()[:, None, None]).all(-1).all(-1).all(0).any())


def test_numbers_of_references_that_differ_are_refused():
    one, two = (
        {"key": key, "skipped": [], "reference": [torch.zeros(3, 8, 8)] * count}
        for key, count in (("x", 1), ("y", 2))
    )
    with pytest.raises(UserError, match=r"differ in size \(x \(8, 8\), y \(8, 8\) \+ \(8, 8\)\)"):
        collate([one, two])


def test_training_with_several(made: Path, tmp_path: Path):
    small = ["backbone.blocks=[1,1,1,1]", "backbone.features=8", "pretrained.vgg19=random"]
    clock = ["trainer.batch_size=2", "trainer.pictures=1", "stages.reconstruction.epochs=null"]
    crops = ["task.crop=32", "task.reference_crop=32", "stages.reconstruction.steps=2"]
    source = [*data(made, "a", "b"), "data.valid=1"]
    line = [f"folder={tmp_path / 'run'}", *small, *clock, *crops, *QUICK, *source]
    assert main(["train", *line]) == 0
    with open(tmp_path / "run" / "metrics.csv", newline="") as file:
        values = {row["name"]: float(row["value"]) for row in csv.DictReader(file)}
    assert np.isfinite(values["train/loss"])
    assert list((tmp_path / "run" / "pictures").rglob("*.png"))
