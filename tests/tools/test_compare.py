"""`restore compare`: right numbers, the right pictures, and every sentence that they need."""

import csv
import json
import math
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import skimage.data
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy.stats import bootstrap
from torchmetrics.image import UniversalImageQualityIndex
from torchvision import models
from torchvision.utils import make_grid

from restore.cli import main
from restore.config import compose, registry
from restore.config import plain as plainly
from restore.config.settings import Runtime
from restore.metrics.legend import Legend
from restore.metrics.perceptual import kernel
from restore.models.weights import Loaded
from restore.tools.compare.measuring import Measured
from restore.tools.compare.methods import Asked, Trained
from restore.tools.compare.pages import choices
from restore.tools.compare.palette import PaletteFolder, locate
from restore.tools.compare.sources import match
from restore.tools.compare.statistics import Difference, bins, paired
from restore.tools.compare.tables import Column, Table, best
from tests import SHARED
from tests.helpers.made_up import spread
from tests.helpers.pictures import photo, resized, truncate, write
from tests.helpers.plain_metrics import plain_psnr, plain_ssim

HERE = ["runtime.device=cpu", "runtime.threads=1", "resamples=199"]
KEYS = ["a", "b", "c", "d", "e"]
SIZE = (40, 48)


def holes(key: str) -> np.ndarray:
    """HW bool: none in `e`, else strokes and boxes of growing share, one at the picture's edge."""
    mask = np.zeros(SIZE, bool)
    place = KEYS.index(key)
    if key != "e":
        mask[8 : 14 + 4 * place, 10 : 30 + 2 * place] = True
        mask[30:, 5:9] = True
    return mask


@pytest.fixture(scope="module")
def scene(tmp_path_factory) -> Path:
    """Two truths, masks and the results of two methods."""
    root = tmp_path_factory.mktemp("scene")
    rng = np.random.default_rng(0)
    photo = skimage.data.astronaut()
    for place, key in enumerate(KEYS):
        high = photo[50 * place :, 100:][: SIZE[0], : SIZE[1]]
        small = Image.fromarray(high).resize((12, 10))
        low = np.array(small.resize(SIZE[::-1]))
        pictures = {"high": high, "low": low, "mask": np.where(holes(key), 255, 0)}
        for method, sigma in (("one", 10), ("two", 20)):
            noise = rng.normal(0, sigma, high.shape) * (1 + 2 * holes(key)[..., None])
            pictures[method] = np.clip(np.rint(high + noise), 0, 255)
        for name, picture in pictures.items():
            (root / name).mkdir(exist_ok=True)
            Image.fromarray(picture.astype(np.uint8)).save(root / name / f"{key}.png")
    return root


def pixels(path: Path) -> np.ndarray:
    return np.array(Image.open(path).convert("RGB")).astype(np.float64)


def plain_ring(mask: np.ndarray, width: int = 4) -> np.ndarray:
    """Pixels with both kinds within so many pixels, counted out."""
    found = np.zeros_like(mask)
    for y, x in np.ndindex(mask.shape):
        around = mask[max(0, y - width) : y + width + 1, max(0, x - width) : x + width + 1]
        found[y, x] = around.any() and not around.all()
    return found


def plain(restored: np.ndarray, target: np.ndarray, region: np.ndarray) -> dict[str, float]:
    """PSNR over the region's pixels and SSIM of the windows whose middle lies in it."""
    if not region.any():
        return {"psnr": math.nan, "ssim": math.nan}
    maps = [plain_ssim(restored[..., c], target[..., c]) for c in range(3)]
    inside = region[5:-5, 5:-5]
    return {
        "psnr": plain_psnr(restored[region], target[region]),
        "ssim": float(np.mean([m[inside].mean() for m in maps])),
    }


def options(scene: Path) -> list[str]:
    return [
        f"methods.one={scene / 'one'}",
        f"methods.two={scene / 'two'}",
        f"truths.high={scene / 'high'}",
        f"truths.low={scene / 'low'}",
        f"holes={scene / 'mask'}",
        *HERE,
    ]


def rows(path: Path) -> list[dict[str, str]]:
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def compared(scene: Path, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "compared"
    assert main(["compare", f"folder={folder}", *options(scene)]) == 0
    return folder


def test_every_number_is_the_plain_ones(scene: Path, compared: Path):
    found = {(r["key"], r["truth"], r["method"]): r for r in rows(compared / "images.csv")}
    assert len(found) == len(KEYS) * 2 * 2
    for (key, truth, method), row in found.items():
        restored, target = (pixels(scene / kind / f"{key}.png") for kind in (method, truth))
        regions = {"": np.ones(SIZE, bool), "_holes": holes(key), "_ring": plain_ring(holes(key))}
        for name, region in regions.items():
            for metric, value in plain(restored, target, region).items():
                told = row[f"{metric}{name}"]
                assert float(told or "nan") == pytest.approx(value, abs=1e-9, nan_ok=True)
        assert float(row["hole_share"]) == pytest.approx(holes(key).mean())


def test_means_are_over_images_that_have_a_value(scene: Path, compared: Path):
    table = {row["method"]: row for row in rows(compared / "table.csv")}
    each = rows(compared / "images.csv")
    titles = {"psnr_holes": "PSNR holes ↑", "psnr": "PSNR ↑", "psnr_ring": "PSNR ring ↑"}
    for truth in ("high", "low"):
        for method in ("one", "two"):
            for name, title in titles.items():
                values = [
                    float(row[name])
                    for row in each
                    if (row["truth"], row["method"]) == (truth, method) and row[name]
                ]
                assert len(values) == (len(KEYS) if name == "psnr" else len(KEYS) - 1)
                told = table[method][f"{truth}/{title}"]
                assert float(told) == pytest.approx(np.mean(values), abs=0.005)


def test_every_table_says_which_truth_which_pixels_how_many(scene: Path, compared: Path):
    text = (compared / "table.md").read_text()
    for sentence in [
        "N = 5 images",
        "protocol rgb",
        f"truth high: {scene / 'high'}",
        f"truth low: {scene / 'low'}",
        "PSNR over hole pixels only, SSIM map averaged at hole pixels",
        "1 image(s) without holes are left out of the columns holes and ring",
        "holes are white",
        "lpips: not measured: AlexNet's published weights cannot be downloaded",
        "fid: not measured: Inception's published weights cannot be downloaded",
        "kid: not measured",
    ]:
        assert sentence in text
        assert sentence in (compared / "table.tex").read_text()
    for kind in ("table", "differences", "bins_high", "bins_low"):
        for suffix in ("csv", "md", "tex", "html"):
            assert (compared / f"{kind}.{suffix}").stat().st_size > 0
    assert "paired BCa bootstrap" in (compared / "differences.md").read_text()
    assert "199 resamples" in (compared / "differences.md").read_text()


def test_bins_hold_the_images_of_their_share(compared: Path):
    head = (compared / "bins_high.csv").read_text().splitlines()[0]
    for low, high in [(0, 10), (10, 20), (20, 30), (30, 40), (40, 50), (50, 60)]:
        inside = [k for k in KEYS if low < 100 * holes(k).mean() <= high]
        said = f"{low}–{high} % (N = {len(inside)})/PSNR ↑"
        assert (said in head) == bool(inside)
        if inside:
            values = [
                float(r["psnr"])
                for r in rows(compared / "images.csv")
                if (r["truth"], r["method"]) == ("high", "one") and r["key"] in inside
            ]
            told = rows(compared / "bins_high.csv")[0][said]
            assert float(told) == pytest.approx(np.mean(values), abs=0.005)
    assert bins([0.0, 0.1, 0.1001, 0.7], [0, 0.1, 0.5]) == {
        "0–10 %": [1],
        "10–50 %": [2],
        "50–100 %": [3],
    }


class Cells(HTMLParser):
    """The rows of the tables of a page."""

    def __init__(self, text: str):
        super().__init__()
        self.rows: list[list[str]] = []
        self.images: list[str] = []
        self.inside = False
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")
            self.inside = True
        elif tag == "img":
            self.images.append(dict(attrs)["src"])

    def handle_endtag(self, tag):
        self.inside = self.inside and tag not in ("td", "th")

    def handle_data(self, data):
        if self.inside and self.rows and self.rows[-1] and data.strip():
            self.rows[-1][-1] += data


def test_all_kinds_of_a_table_say_the_same():
    columns = [Column("A & B", "PSNR_x ↑", "psnr"), Column("A & B", "LPIPS ↓", "lpips")]
    lines = [("a|b", ["1.00", "∞"]), ("50 %", ["–", "0.25"])]
    table = Table("T", "method", columns, lines, ["100 % of <it>"], {(0, 0)})
    assert list(csv.reader(table.csv().splitlines()))[1:] == [
        ["a|b", "1.00", "∞"],
        ["50 %", "–", "0.25"],
    ]
    assert r"| a\|b | **1.00** | ∞ |" in table.markdown()
    latex = table.latex()
    assert r"\multicolumn{2}{c}{A \& B}" in latex
    assert r"a\textbar{}b & \textbf{1.00} & $\infty$ \\" in latex
    assert r"50 \% & -- & 0.25 \\" in latex
    assert all(line.startswith("%") for line in latex.splitlines() if "<it>" in line)
    assert Cells(table.html()).rows[-2:] == [["a|b", "1.00", "∞"], ["50 %", "–", "0.25"]]
    assert "&lt;it&gt;" in table.html()


def test_the_best_of_a_column():
    columns = ["psnr", "lpips", "fid"]
    values = [{0: 30.0, 1: 0.2, 2: math.nan}, {0: math.inf, 1: 0.1, 2: 5.0}, {0: 20.0, 1: 0.1}]
    expected = {(1, 0), (1, 1), (2, 1)}  # one value alone is no best
    assert best(columns, values, Legend({})) == expected
    undirected = best(columns, values, Legend({"psnr": None}))
    assert undirected == {(1, 1), (2, 1)}


def test_the_thesis_s_table(scene: Path, tmp_path: Path):
    options_ = [*options(scene), "layout=thesis_6_5"]
    assert main(["compare", f"folder={tmp_path / 'out'}", *options_]) == 0
    head = (tmp_path / "out" / "table.csv").read_text().splitlines()[0]
    assert head == "method,HR/PSNR ↑,HR/SSIM ↑,LR/PSNR ↑,LR/SSIM ↑"
    text = (tmp_path / "out" / "table.md").read_text()
    assert "fid: not measured" in text
    each = [
        float(r["psnr_holes"])
        for r in rows(tmp_path / "out" / "images.csv")
        if r["method"] == "one" and r["truth"] == "low" and r["psnr_holes"]
    ]
    assert float(rows(tmp_path / "out" / "table.csv")[0]["LR/PSNR ↑"]) == pytest.approx(
        np.mean(each), abs=0.005
    )


def test_pictures_are_the_worst_the_best_and_where_methods_differ(scene: Path, compared: Path):
    of = {
        (r["method"], r["key"]): float(r["psnr_holes"] or "nan")
        for r in rows(compared / "images.csv")
        if r["truth"] == "high"
    }
    found = Measured(KEYS)
    found.values = {"high": {m: [{"psnr_holes": of[m, k]} for k in KEYS] for m in ("one", "two")}}
    chosen = choices(found, "high", "one", "psnr_holes", 2, 1, lower=False)
    ranked = sorted(range(4), key=lambda i: of["one", KEYS[i]])
    assert chosen["worst"] == ranked[:2]
    assert chosen["best"] == ranked[:-3:-1]
    spread = sorted(range(4), key=lambda i: -abs(of["one", KEYS[i]] - of["two", KEYS[i]]))
    assert chosen["differ"] == spread[:2]
    assert len(set(chosen["random"])) == 2
    told = rows(compared / "differ.csv")
    assert [row["image"] for row in told] == [KEYS[i] for i in spread]
    page = Cells((compared / "index.html").read_text())
    assert len(page.images) == 4
    for path in page.images:
        with Image.open(compared / path) as sheet:
            width, height = sheet.size
        assert height >= 4 * SIZE[0]
        assert width >= 5 * SIZE[1]  # two truths, the holes, two methods


def shifted(values: np.ndarray, seed: int) -> Difference:
    return paired(values.tolist(), [0.0] * len(values), 0.95, 499, seed)


def test_intervals_hold_the_true_mean_as_often_as_they_say():
    rng = np.random.default_rng(1)
    draws = [rng.gamma(2, 1, 30) for _ in range(120)]  # mean 2, skewed
    inside = [gap.low <= 2 <= gap.high for gap in (shifted(d, i) for i, d in enumerate(draws))]
    assert 0.87 <= np.mean(inside) <= 0.99


@settings(max_examples=20, deadline=None)
@given(
    st.lists(st.integers(-500, 500).map(lambda n: n / 8), min_size=3, max_size=12),
    st.integers(0, 99),
)
def test_intervals_are_of_pairs(gaps, seed):
    """What both methods have in common, however much it varies, is not in the interval."""
    common = np.random.default_rng(seed).integers(-(2**20), 2**20, len(gaps)) / 8  # exact sums
    one = paired((common + gaps).tolist(), common.tolist(), 0.9, 199, seed)
    two = paired(gaps, [0.0] * len(gaps), 0.9, 199, seed)
    assert one.mean == pytest.approx(np.mean(gaps), abs=1e-9)
    assert (one.low, one.high) == pytest.approx((two.low, two.high), abs=1e-6)
    assert one.low <= one.mean + 1e-9
    assert one.mean - 1e-9 <= one.high
    expected = (
        bootstrap(
            (np.array(gaps),),
            np.mean,
            confidence_level=0.9,
            n_resamples=199,
            rng=np.random.default_rng(seed),
        )
        if np.ptp(gaps)
        else None
    )
    if expected is not None:
        assert two.low == pytest.approx(expected.confidence_interval.low, nan_ok=True)


def test_values_that_are_missing_or_endless_are_in_no_interval():
    gap = paired([1, 2, math.nan, math.inf, 5], [0, 0, 0, 0, math.nan], 0.9, 199, 1)
    assert (gap.mean, gap.count) == (1.5, 2)
    assert paired([1.0], [0.0], 0.9, 199, 1).count == 1
    assert math.isnan(paired([1.0], [0.0], 0.9, 199, 1).low)
    assert paired([2.0, 2.0], [1.0, 1.0], 0.9, 199, 1) == Difference(1, 1, 1, 2)
    assert paired([math.inf], [0.0], 0.9, 199, 1).count == 0


def test_kid_is_the_mean_over_all_pairs():
    rng = np.random.default_rng(0)
    x, y = rng.random((5, 7)), rng.random((4, 7))

    def k(u, v):
        return (u @ v / 7 + 1) ** 3

    own = sum(k(x[i], x[j]) for i in range(5) for j in range(5) if i != j) / 20
    other = sum(k(y[i], y[j]) for i in range(4) for j in range(4) if i != j) / 12
    crossed = sum(k(u, v) for u in x for v in y) / 20
    assert kernel(x, y) == pytest.approx(own + other - 2 * crossed, abs=1e-12)


# Matching -----------------------------------------------------------------------------------------


def test_what_is_missing_on_either_side_is_listed(scene: Path, tmp_path: Path, capsys):
    for kind, left in (("one", "b"), ("high", "c"), ("mask", "d")):
        shutil.copytree(scene / kind, tmp_path / kind)
        (tmp_path / kind / f"{left}.png").unlink()
    shutil.copy(scene / "one" / "a.png", tmp_path / "one" / "only.png")
    given_ = [f"methods.one={tmp_path / 'one'}", f"methods.two={scene / 'two'}"]
    given_ += [f"truth={tmp_path / 'high'}", f"holes={tmp_path / 'mask'}", *HERE]
    assert main(["compare", f"folder={tmp_path / 'out'}", *given_]) == 0
    told = (tmp_path / "out" / "left_out.txt").read_text().splitlines()
    assert told == [
        "one lacks 1 image(s): b",
        "two lacks 1 image(s): only",
        "truth target lacks 2 image(s): c, only",
        "masks lacks 2 image(s): d, only",
        "one alone has 1 image(s): only",
    ]
    assert "N = 2 images" in (tmp_path / "out" / "table.md").read_text()
    assert "one lacks 1 image(s): b" in capsys.readouterr().out


def test_names_match_by_base_name_where_that_is_clear():
    found = match({"a": ["x/1 b", "2"], "b": ["1_b", "y/2"]}, ["a", "b"])
    assert found.names == {"1_b": {"a": "x/1 b", "b": "1_b"}, "2": {"a": "2", "b": "y/2"}}
    found = match({"a": ["x/1", "y/1"], "b": ["x_1", "y_1"]}, ["a", "b"])
    assert sorted(found.names) == ["x_1", "y_1"]
    found = match({"a": ["1 b", "1_b"], "b": ["1_b"]}, ["a", "b"])
    assert found.names == {"1_b": {"a": "1_b", "b": "1_b"}}
    assert found.missing == {"b": ["1 b"]}


# Palette ------------------------------------------------------------------------------------------


def palette_folder(
    root: Path, suffix: str, keys=("a", "b", "c"), parts=("GT", "Out", "Mask", "Process")
) -> Path:
    """What the public code leaves behind, its sheets made by torchvision as there."""
    folder = root / "test_x_220101_000000" / "results" / "test" / "0"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(5)
    for place, key in enumerate(keys):
        whole = skimage.data.astronaut()[30 * place :, 60:][:64, :64] / 127.5 - 1
        hole = np.zeros((64, 64, 1), bool)
        hole[10 : 30 + 5 * place, 20:50] = True
        result = np.where(hole, np.clip(whole + rng.normal(0, 0.1, whole.shape), -1, 1), whole)
        steps = [
            np.where(hole, (1 - t) * rng.normal(0, 1, whole.shape) + t * result, whole)
            for t in np.linspace(0, 1, 9) ** 4
        ]
        sheet = make_grid(torch.tensor(np.stack(steps)).permute(0, 3, 1, 2).clamp(-1, 1), nrow=3)
        pictures = {
            "GT": whole,
            "Out": result,
            "Mask": np.where(hole, 1, whole),
            "Process": sheet.permute(1, 2, 0).numpy(),
        }
        for part in parts:
            array = ((pictures[part] + 1) * 127.5).round().astype(np.uint8)
            Image.fromarray(array).save(folder / f"{part}_{key}{suffix}")
        (root / "mask").mkdir(exist_ok=True)
        Image.fromarray((hole[..., 0] * 255).astype(np.uint8)).save(root / "mask" / f"{key}.png")
    return root / "test_x_220101_000000"


def agreement(x: torch.Tensor, path: Path) -> float:
    hole = torch.from_numpy(np.array(Image.open(path)) > 127)
    return float((x & hole).sum() / (x | hole).sum())


@pytest.mark.parametrize("parts", [("GT", "Out", "Mask", "Process"), ("Out", "Mask"), ("Process",)])
@pytest.mark.parametrize(("suffix", "least"), [(".png", 1.0), (".jpg", 0.93)])
def test_a_palette_folder_is_read_as_it_is(tmp_path: Path, suffix, least, parts):
    found = PaletteFolder(locate(palette_folder(tmp_path, suffix, parts=parts)))
    assert found.having("Out", "Process") == ["a", "b", "c"]
    for key in ("a", "b", "c"):
        mask = found.mask(key)
        # A pixel that is white anyway, or that was guessed to the last level, cannot be seen.
        assert agreement(mask.hole_HW, tmp_path / "mask" / f"{key}.png") >= least - 0.02
        if "Out" in parts and "Process" in parts and suffix == ".png":
            assert torch.equal(found.frames(key)[-1], found.result(key))


def test_palette_against_its_own_truth_in_one_word(tmp_path: Path, capsys):
    folder = palette_folder(tmp_path, ".jpg")
    lines = [f"methods.palette={folder}", "methods.fill=telea", f"folder={tmp_path / 'out'}", *HERE]
    assert main(["compare", *lines]) == 0
    text = (tmp_path / "out" / "table.md").read_text()
    assert "Palette's output; 3 of 3 files are JPEG or WebP, whose loss is in its numbers" in text
    assert "truth GT_" in text
    assert "masks: won back from palette's pictures" in text
    assert "fill: Telea (radius=3), run here on" in text
    values = {(r["key"], r["method"]): r for r in rows(tmp_path / "out" / "images.csv")}
    assert len(values) == 6
    results = folder / "results" / "test" / "0"
    for key in ("a", "b", "c"):
        restored, target = (pixels(results / f"{part}_{key}.jpg") for part in ("Out", "GT"))
        told = float(values[key, "palette"]["psnr"])
        assert told == pytest.approx(plain_psnr(restored, target), abs=1e-9)


def test_masks_turned_round_or_of_others_are_noticed(tmp_path: Path, capsys):
    folder = palette_folder(tmp_path, ".png")
    given_ = [f"methods.palette={folder}", f"holes={tmp_path / 'mask'}", *HERE]
    code = main(["compare", *given_, "holes_are=black", f"folder={tmp_path / 'one'}"])
    assert code == 2
    assert "are white there; give holes_are=white" in capsys.readouterr().err
    assert main(["compare", *given_, f"folder={tmp_path / 'two'}"]) == 0
    assert "palette: its pictures show the same holes" in (tmp_path / "two/table.md").read_text()
    for path in (tmp_path / "mask").iterdir():
        array = np.zeros((64, 64), np.uint8)
        array[40:60, 5:20] = 255
        Image.fromarray(array).save(path)
    assert main(["compare", *given_, f"folder={tmp_path / 'three'}"]) == 0
    said = (tmp_path / "three" / "table.md").read_text()
    assert "palette worked with OTHER HOLES in 3 of 3 images" in said


REAL = SHARED / "data" / "palette_samples"


@pytest.mark.skipif(not REAL.is_dir(), reason="published samples are not here")
def test_published_samples():
    found = PaletteFolder(locate(REAL))
    square = torch.zeros(256, 256, dtype=torch.bool)
    square[64:192, 64:192] = True
    assert len(found.having("Out", "Process")) == 8
    for base in [*found.having("Out"), "02323"]:
        hole = found.mask(base).hole_HW
        assert int((hole ^ square).sum()) <= 12
    sides = {"Places365_test_00309553": (slice(0, 128), slice(None))}
    for base, part in sides.items():
        hole = torch.zeros(256, 256, dtype=torch.bool)
        hole[part] = True
        assert int((found.mask(base).hole_HW ^ hole).sum()) <= 12
    for base in found.having("Process"):
        assert found.result(base).shape == (3, 256, 256)


# Runs and problems --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A small network for both jobs, trained two steps, and its evaluation with everything kept."""
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    tiny = ["task=partial_sr", "data=partial_sr_demo", "pretrained.vgg19=random"]
    tiny += ["backbone.blocks=[1,1,1,1]", "backbone.features=8", "task.crop=32", "task.holes=1"]
    tiny += ["stages.reconstruction.epochs=null", "stages.reconstruction.steps=2"]
    tiny += ["trainer.batch_size=2", "trainer.pictures=0"]
    here = ["wandb.mode=disabled", "loader.workers=0", "runtime.device=cpu", "runtime.threads=1"]
    assert main(["train", f"folder={folder}", *tiny, *here]) == 0
    more = [f"weights={folder}", f"folder={folder / 'test'}", "save=true", "data=partial_sr_demo"]
    assert main(["evaluate", *more, *here, "limit=3", "protocol=rgb"]) == 0
    return folder


def test_a_run_here_is_its_evaluation(trained: Path, tmp_path: Path):
    """Weights, what they restored before, and a baseline, on the problems of the evaluation."""
    lines = [
        f"methods.kept={trained / 'test'}",
        f"methods.run={trained}",
        "methods.ns=navier_stokes",
    ]
    lines += ["methods.other=exemplar", f"folder={tmp_path / 'out'}", *HERE]
    assert main(["compare", *lines]) == 0
    found = {(r["key"], r["truth"], r["method"]): r for r in rows(tmp_path / "out/images.csv")}
    assert {truth for _, truth, _ in found} == {"high", "low"}
    for row in rows(trained / "test" / "images.csv"):
        kept = found[row["key"], "high", "kept"]
        for ours, theirs in (("psnr", "psnr_rgb"), ("psnr_holes", "psnr_rgb_holes")):
            assert float(kept[ours]) == pytest.approx(float(row[theirs]), abs=1e-4)
        again = found[row["key"], "high", "run"]
        assert float(again["psnr"]) == pytest.approx(float(kept["psnr"]), abs=0.05)
    text = (tmp_path / "out" / "table.md").read_text()
    assert "run: weights:" in text
    assert "trained here, step 2" in text


def test_a_network_whose_task_hands_no_reference_needs_none():
    """TTSR for single images; with its own task it cannot do without."""
    tiny = ["backbone.blocks=[0,0,0,0]", "backbone.features=2", "pretrained.vgg19=random"]
    given = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (3, 6, 9), np.uint8))
    made = {}
    for task in ("single_sr", "reference_sr"):
        config = plainly(compose("train", ["backbone=ttsr", f"task={task}", "task.crop=32", *tiny]))
        torch.manual_seed(0)
        state = registry.instantiate(config["backbone"], "backbone").state_dict()
        loaded = Loaded(config, state, Path("w.pt"), "", "here")
        runtime = Runtime("cpu", 1, "fp32", False, False, 1)
        made[task] = Trained(loaded, runtime, torch.device("cpu"))
    assert not made["single_sr"].needs_reference
    assert made["reference_sr"].needs_reference
    restored = made["single_sr"].make(
        Asked(given, reference_3HW=torch.zeros(3, 8, 8, dtype=torch.uint8))
    )
    assert torch.equal(restored, made["single_sr"].make(Asked(given)))
    assert restored.shape == (3, 24, 36)


def test_an_export_is_a_set_of_problems(trained: Path, tmp_path: Path):
    folder = tmp_path / "set"
    lines = ["data=partial_sr_demo", "task.crop=32", "task.holes=1"]
    assert main(["export", f"folder={folder}", *lines]) == 0
    lines = [f"problems={folder / 'test'}", f"methods.run={trained}", "methods.telea=telea"]
    assert main(["compare", *lines, f"folder={tmp_path / 'out'}", *HERE]) == 0
    assert "N = 9 images" in (tmp_path / "out" / "table.md").read_text()


# Mistakes -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (["methods.one=nothing"], "methods.one=nothing: there is no such folder, nor a baseline"),
        (["methods.one=no/where"], "methods.one=no/where: there is no such folder"),
        (["truths.high=no/where"], "truths.high=no/where: there is no such folder"),
        (["holes=no/where"], "holes=no/where: there is no such folder"),
        (["problems=no/where"], "problems=no/where: there is no such folder"),
        (["methods.one={other}"], "no image has the same name"),
        (["methods.one={wrong}"], "a: one is 20×20, truth high 48×40; on_error=skip"),
        (["methods.one={broken}"], "cannot read the image .*broken/c.png"),
        (["holes={high}"], "as a mask: .* neither black nor white"),
        (["methods.filled=exemplar"], "filled needs references: give references=FOLDER"),
        (["against=three"], "against=three: no such method; choose one of one, two"),
        (["rank=ssmi"], "rank=ssmi: no such measure; choose one of psnr_holes"),
        (["bins=[0.2,0.1]"], "the edges must rise"),
        (["level=2"], "level=2"),
        (["layout=thesis"], "layout=thesis: no such choice; choose one of full, thesis_6_5"),
        (["methods.one={empty}"], "there are no pictures below"),
        (["truth={high}", "truths.target={high}"], "name the same truth"),
    ],
)
def test_mistakes_are_one_sentence(change, said, scene: Path, tmp_path: Path, capsys):
    for kind in ("other", "wrong", "broken", "empty"):
        (tmp_path / kind).mkdir()
    shutil.copytree(scene / "one", tmp_path / "broken", dirs_exist_ok=True)
    truncate(tmp_path / "broken" / "c.png")
    Image.new("RGB", (48, 40)).save(tmp_path / "other" / "zzz.png")
    for key in KEYS:
        Image.new("RGB", (20, 20)).save(tmp_path / "wrong" / f"{key}.png")
    places = {kind: tmp_path / kind for kind in ("other", "wrong", "broken", "empty")}
    change = [text.format(**places, high=scene / "high") for text in change]
    folder = tmp_path / "out"
    assert main(["compare", *options(scene), *change, f"folder={folder}"]) == 2
    told = capsys.readouterr().err.strip()
    assert len(told.splitlines()) == 1
    assert re.search(said, told)
    assert not folder.exists()


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ([], "there is nothing to compare: give methods.NAME=FOLDER"),
        (["methods.one={one}"], "there is no truth to measure against: give truth=FOLDER"),
        (["methods.a=telea", "truth={high}"], "a fills holes: give holes=FOLDER"),
        (
            ["methods.a={one}", "truth={high}", "layout=thesis_6_5", "layout.measures=[fid]"],
            "layout: none of its",
        ),
    ],
)
def test_what_is_missing_is_said(lines, said, scene: Path, tmp_path: Path, capsys):
    lines = [text.format(one=scene / "one", high=scene / "high") for text in lines]
    assert main(["compare", *lines, f"folder={tmp_path / 'out'}", *HERE]) == 2
    assert said in capsys.readouterr().err


def test_broken_images_can_be_left_out_and_are_listed(scene: Path, tmp_path: Path):
    shutil.copytree(scene / "one", tmp_path / "one")
    truncate(tmp_path / "one" / "b.png")
    lines = [*options(scene), f"methods.one={tmp_path / 'one'}", "on_error=skip"]
    assert main(["compare", *lines, f"folder={tmp_path / 'out'}"]) == 0
    assert "b is left out: cannot read" in (tmp_path / "out" / "left_out.txt").read_text()
    assert {row["key"] for row in rows(tmp_path / "out" / "images.csv")} == set(KEYS) - {"b"}


def test_without_masks_whole_pictures_are_compared(scene: Path, tmp_path: Path):
    lines = [f"methods.one={scene / 'one'}", f"truth={scene / 'high'}", *HERE]
    assert main(["compare", *lines, f"folder={tmp_path / 'out'}"]) == 0
    assert "no masks were given: whole pictures only" in (tmp_path / "out/table.md").read_text()
    assert set(rows(tmp_path / "out" / "images.csv")[0]) >= {"psnr", "ssim"}
    assert not (tmp_path / "out" / "bins.csv").exists()
    # A second comparison does not go over the first.
    assert main(["compare", *lines, f"folder={tmp_path / 'out'}"]) == 2


def test_fid_and_kid_say_what_they_are(scene: Path, tmp_path: Path):
    """With made-up weights: of whole sets, with everything that such a number needs."""
    torch.manual_seed(0)
    model = models.inception_v3(num_classes=1008, aux_logits=False, init_weights=False)
    torch.save(spread(model).state_dict(), tmp_path / "inception.pth")
    (tmp_path / "three").mkdir()
    for key in KEYS[:3]:
        shutil.copy(scene / "one" / f"{key}.png", tmp_path / "three")
    lines = [f"methods.one={tmp_path / 'three'}", f"truths.high={scene / 'high'}", *HERE]
    lines += [f"pretrained.inception={tmp_path / 'inception.pth'}", "pictures=1"]
    assert main(["compare", *lines, f"folder={tmp_path / 'out'}"]) == 0
    (row,) = rows(tmp_path / "out" / "table.csv")
    assert float(row["high/FID ↓"]) > 0
    assert math.isfinite(float(row["high/KID ↓"]))
    text = (tmp_path / "out" / "table.md").read_text()
    for sentence in ("N = 3 a set", "torch-fidelity", "299×299", "inception.pth (sha256"):
        assert sentence in text


def test_any_metric_of_torchmetrics_is_compared(scene: Path, tmp_path: Path):
    """By a yaml alone, single pictures and intervals included; without a list of ours anywhere."""
    folder = tmp_path / "mine" / "metric"
    folder.mkdir(parents=True)
    (folder / "uqi.yaml").write_text(
        "# universal image quality index\nuqi:\n"
        "  _target_: torchmetrics.image.UniversalImageQualityIndex\n"
    )
    lines = [f"methods.one={scene / 'one'}", f"methods.two={scene / 'two'}", "rank=uqi", *HERE]
    lines += [f"truth={scene / 'high'}", "metric=[uqi,psnr]", "pictures=1"]
    search = f"hydra.searchpath=[file://{tmp_path / 'mine'}]"
    assert main(["compare", *lines, search, f"folder={tmp_path / 'out'}"]) == 0
    library = UniversalImageQualityIndex()
    for row in rows(tmp_path / "out" / "images.csv"):
        x, y = (
            torch.from_numpy(pixels(scene / kind / f"{row['key']}.png")).float()
            for kind in (row["method"], "high")
        )
        expected = library(*(z.permute(2, 0, 1)[None] / 255 for z in (x, y))).item()
        assert float(row["uqi"]) == pytest.approx(expected, abs=1e-6)
        library.reset()
    table = {r["method"]: r for r in rows(tmp_path / "out" / "table.csv")}
    assert float(table["one"]["target/UQI ↑"]) > float(table["two"]["target/UQI ↑"])
    assert "[" in rows(tmp_path / "out" / "differences.csv")[0]["target/UQI ↑"]
    differ = rows(tmp_path / "out" / "differ.csv")
    assert {row["best"] for row in differ} == {"one"}


def test_means_are_over_the_same_images():
    nan = math.nan
    results = Measured(["a", "b", "c"])
    results.values = {
        "t": {
            "one": [{"m": 1.0}, {"m": nan}, {"m": 3.0}],
            "two": [{"m": 5.0}, {"m": 9.0}, {"m": 7.0}],
        }
    }
    assert results.mean("t", "one", "m") == 2
    assert results.mean("t", "two", "m") == 6
    assert results.mean("t", "two", "m", [0, 1]) == 5
    assert results.unequal() == {"m": 1}


@pytest.mark.parametrize("protocol", ["masa", "c2_matching", "common"])
def test_inputs_are_made_of_the_targets_within_the_protocol_s_frame(protocol, tmp_path: Path):
    target, reference = photo("coffee", 45, 54), photo("coffee", 50, 37, 9)
    write(tmp_path / "targets" / "a.png", target)
    write(tmp_path / "references" / "a.png", reference)
    words = [f"truth={tmp_path / 'targets'}", f"references={tmp_path / 'references'}"]
    words += [
        "methods.network=wdsr_b_x4",
        "methods.bicubic=bicubic",
        "inputs=degraded",
        "degradation=pil_bicubic",
    ]
    words += [
        f"protocol={protocol}",
        "metric=[psnr]",
        "pictures=1",
        "runtime.device=cpu",
        "runtime.threads=1",
        "resamples=99",
    ]
    assert main(["compare", *words, f"folder={tmp_path / 'out'}"]) == 0
    if protocol == "masa":  # 45×54 to 64×64, in the middle, the odd pixel below
        framed = np.pad(target, ((9, 10), (5, 5), (0, 0)), "edge")
        part = (slice(9, 54), slice(5, 59))
    else:  # cut to 44×52; C2-Matching's then as large as the reference
        high, wide = (48, 52) if protocol == "c2_matching" else (44, 52)
        framed = np.zeros((high, wide, 3), np.uint8)
        framed[:44, :52] = target[:44, :52]
        part = (slice(0, 44), slice(0, 52))
    H, W = framed.shape[:2]
    enlarged = resized(resized(framed, H // 4, W // 4), H, W)
    one, other = (
        16 + x[part].astype(float) @ [65.481, 128.553, 24.966] / 255 for x in (enlarged, framed)
    )
    if protocol != "masa":
        one, other = one[4:-4, 4:-4], other[4:-4, 4:-4]
    expected = 10 * np.log10(255**2 / np.mean((one - other) ** 2))
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["values"]["target"]["bicubic"]["psnr"] == pytest.approx(expected, abs=1e-5)
    assert (tmp_path / "out" / "differences.md").exists(), "the paired test"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (["methods.b=bicubic"], "how large the inputs are"),
        (["methods.n=wdsr_b_x4", "methods.m=wdsr_b_x2"], "n ×4, m ×2"),
        (["methods.n=wdsr_b_x4", "protocol=masa"], "give references=FOLDER"),
    ],
)
def test_what_cannot_be_degraded_is_one_sentence(change, said, tmp_path: Path, capsys):
    write(tmp_path / "targets" / "a.png", photo("coffee", 24, 24))
    line = [
        "compare",
        f"truth={tmp_path / 'targets'}",
        "inputs=degraded",
        "degradation=pil_bicubic",
        *change,
    ]
    assert (
        main(
            [
                *line,
                f"folder={tmp_path / 'out'}",
                "runtime.device=cpu",
                "runtime.threads=1",
                "resamples=99",
            ]
        )
        == 2
    )
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
