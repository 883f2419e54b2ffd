"""`restore report`: numbers against SciPy, and the page in a real browser."""

import csv
import json
import math
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skimage.data
from hypothesis import given, settings
from hypothesis import strategies as st
from playwright.sync_api import sync_playwright
from scipy import stats

from restore.cli import main
from restore.tools.report.comparable_groups import ComparableGroup, Row
from restore.tools.report.runs import Run
from restore.tools.report.statistics import compare
from restore.tools.report.variants import Variant, variants
from tests.helpers.pictures import truncate, write
from tests.helpers.report_scene import GRID, SIZE, block, chosen, evaluation, run

KEYS = [f"photo {place:02d}" for place in range(12)]
VARIANTS = [("hard", 256, 1.0), ("soft", 256, 1.4), ("reduced", 64, 0.8), ("reduced", 16, 0.2)]
SEEDS = [1, 2, 3]


@pytest.fixture(scope="module")
def scene(tmp_path_factory) -> Path:
    """Twelve runs and their evaluations; the last variant's third seed was never evaluated."""
    root = tmp_path_factory.mktemp("scene")
    for attention, channels, gain in VARIANTS:
        for seed in SEEDS:
            name = f"{attention}{channels}_{seed}"
            folder = run(root / "runs" / name, attention, seed, channels)
            if (channels, seed) != (16, 3):
                evaluation(root / "tests" / name, folder, gain, KEYS, seed == 1, seed)
    return root


@pytest.fixture(scope="module")
def made(scene: Path, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("report") / "out"
    assert main(["report", str(scene / "runs"), str(scene / "tests"), f"folder={folder}"]) == 0
    return folder


def measured(scene: Path, name: str, seeds: list[int]) -> np.ndarray:
    """Seeds × images, read by other hands."""
    rows = []
    for seed in seeds:
        with open(scene / "tests" / f"{name}_{seed}" / "images.csv", newline="") as file:
            rows.append([float(row["psnr_y"]) for row in csv.DictReader(file)])
    return np.array(rows)


def test_numbers_are_scipys(scene: Path, made: Path):
    """Means, deviations and every test of every pair, from the csv files by SciPy."""
    condition = block(made)["conditions"][0]
    labels = [row["label"] for row in condition["rows"]]
    assert set(labels) == {"bicubic", *(f"{name}, channels={n}" for name, n, _ in VARIANTS)}
    for name, channels, _ in VARIANTS:
        seeds = SEEDS if channels != 16 else SEEDS[:2]
        own = measured(scene, f"{name}{channels}", seeds)
        row = condition["rows"][labels.index(f"{name}, channels={channels}")]
        assert row["seeds"] == seeds
        assert row["means"]["psnr_y"] == pytest.approx(
            [own.mean(), own.mean(1).std(ddof=1)], rel=1e-5
        )
        other = measured(scene, "soft256", seeds)
        at = [labels.index(x) for x in (row["label"], "soft, channels=256")]
        pair = condition["pairs"]["psnr_y"][at[0]][at[1]]
        if at[0] == at[1]:
            assert pair is None
            continue
        assert pair[0] == pytest.approx((own - other).mean(), rel=1e-5)
        expected = [
            stats.ttest_rel(own.mean(0), other.mean(0)).pvalue,
            stats.wilcoxon(own.mean(0), other.mean(0)).pvalue,
            stats.ttest_rel(own.mean(1), other.mean(1)).pvalue,
        ]
        assert pair[3:6] == pytest.approx(expected, rel=1e-5)
        assert pair[6:] == [len(KEYS), len(seeds)]


def test_the_interval_is_scipys_percentile_bootstrap_where_there_is_one_seed():
    rng = np.random.default_rng(3)
    own, other = rng.normal(1, 1, (1, 30)), rng.normal(0.5, 1, (1, 30))
    found = compare(own, other, 0.9, 100_000, 1)
    plain = stats.bootstrap(
        ((own - other)[0],),
        np.mean,
        confidence_level=0.9,
        n_resamples=100_000,
        method="percentile",
        rng=np.random.default_rng(2),
    ).confidence_interval
    assert [found.low, found.high] == pytest.approx([plain.low, plain.high], abs=0.015)


def test_the_interval_holds_images_and_seeds():
    """Drawn one by one, seeds and images with replacement, it comes out the same."""
    rng = np.random.default_rng(5)
    gaps = rng.normal(0, 1, (4, 1)) + rng.normal(0, 1, (1, 15)) + rng.normal(0, 0.1, (4, 15))
    found = compare(gaps, np.zeros((1, 15)), 0.95, 20_000, 1)
    means = [
        gaps[np.ix_(rng.integers(0, 4, 4), rng.integers(0, 15, 15))].mean() for _ in range(20_000)
    ]
    assert [found.low, found.high] == pytest.approx(np.quantile(means, [0.025, 0.975]), abs=0.03)
    alone = compare(gaps.mean(0)[None], np.zeros((1, 15)), 0.95, 20_000, 1)
    assert found.high - found.low > 1.3 * (alone.high - alone.low)


@given(st.integers(1, 4), st.integers(2, 12), st.integers(0, 10_000))
@settings(max_examples=30, deadline=None)
def test_turned_round_a_comparison_changes_its_sign_alone(seeds, images, chance):
    rng = np.random.default_rng(chance)
    one, two = rng.normal(size=(seeds, images)), rng.normal(size=(seeds, images))
    one[rng.integers(seeds), rng.integers(images)] = np.nan
    found = compare(one, two, 0.95, 50, 1).reversed().row()
    assert found == pytest.approx(compare(two, one, 0.95, 50, 1).row(), nan_ok=True)
    assert found[6] == images - 1


@given(st.integers(1, 4), st.integers(2, 60), st.sampled_from([1, 8]), st.integers(0, 10_000))
@settings(max_examples=20, deadline=None)
def test_tests_are_scipys_of_means_with_ties_zeros_and_missing_images(
    seeds, images, decimals, chance
):
    rng = np.random.default_rng(chance)
    one = np.round(27 + rng.normal(size=(seeds, images)), decimals)
    two = np.round(one + rng.normal(0.1, 0.2, (seeds, images)), decimals)
    two[:, rng.random(images) < 0.2] = one[:, 0].mean()  # in all seeds alike
    whole = (rng.random(images) < 0.8) | (np.arange(images) < 2)
    one[rng.integers(seeds), ~whole] = [np.nan, np.inf, -np.inf][chance % 3]
    found = compare(one, two, 0.95, 20, 1)
    a, b = one[:, whole], two[:, whole]
    assert found.mean == pytest.approx((a - b).mean(), abs=1e-12)
    assert (found.images, found.seeds) == (whole.sum(), seeds)
    gaps = a.mean(0) - b.mean(0)
    if np.ptp(gaps) > 1e-6:
        p = stats.ttest_rel(a.mean(0), b.mean(0)).pvalue
        assert found.t_images == pytest.approx(p, rel=1e-9)
    if gaps.any():
        p = stats.wilcoxon(a.mean(0), b.mean(0)).pvalue
        assert found.wilcoxon_images == pytest.approx(p, rel=1e-9)
    if seeds > 1 and np.ptp(a.mean(1) - b.mean(1)) > 1e-6:
        p = stats.ttest_rel(a.mean(1), b.mean(1)).pvalue
        assert found.t_seeds == pytest.approx(p, rel=1e-9)
    elif seeds == 1:
        assert math.isnan(found.t_seeds)


def test_gaps_that_rounding_alone_sets_apart_are_not_tested():
    values = np.random.default_rng(1).normal(27, 1, (3, 40))
    found = compare(values, values - 0.1, 0.95, 50, 1)
    assert math.isnan(found.t_images)
    assert math.isnan(found.t_seeds)


@pytest.mark.parametrize("gaps", [np.zeros((3, 5)), np.full((2, 4), np.nan), np.ones((1, 1))])
def test_where_nothing_can_be_tested_nothing_is_said(gaps):
    found = compare(gaps, np.zeros_like(gaps), 0.95, 50, 1)
    assert math.isnan(found.t_images)
    assert math.isnan(found.t_seeds)


def test_tables_hold_the_same_in_every_form(made: Path):
    with open(made / "table.csv", newline="") as file:
        rows = {row["variant"]: row for row in csv.DictReader(file)}
    row = rows["hard, channels=256"]
    assert row["parameters"] == "1256000"
    assert row["GFLOPs"] == "6.56"
    assert "energy (kJ)" not in row
    assert any("low 16×16, reference 64×64 + 32×32 pixels" in n for n in block(made)["notes"])
    markdown, latex = ((made / f"table.{kind}").read_text() for kind in ("md", "tex"))
    for name in ("PSNR (y) ↑", "LPIPS ↓"):
        for text in (row[name], rows["bicubic"][name]):
            assert text in markdown
            assert text.replace("±", r"$\pm$") in latex
    assert r"\toprule" in latex
    text = (made / "differences.md").read_text()
    assert "| bicubic |" in text
    assert "Wilcoxon" in text


def test_seeds_are_one_variant_and_folders_may_move(scene: Path, tmp_path: Path):
    """Evaluations find their runs by name where the path they hold is another machine's."""
    moved = tmp_path / "moved"
    shutil.copytree(scene, moved)
    for path in moved.rglob("summary.json"):
        path.write_text(path.read_text().replace(str(scene), "/elsewhere"))
    assert main(["report", str(moved), f"folder={tmp_path / 'out'}", "pictures=0"]) == 0
    data = block(tmp_path / "out")
    assert [variant["seeds"] for variant in data["variants"]] == [SEEDS] * 4
    assert data["overrides"] == ["attention", "attention.embedding.channels"]
    assert [len(row["seeds"]) for row in data["conditions"][0]["rows"][1:]].count(3) == 3


def test_a_network_without_a_reference_stands_beside_those_with_theirs(tmp_path: Path):
    """Each measured as it was trained; what was measured otherwise has a table of its own."""
    for name, trained, kind in [
        ("with", "given", "the data's own"),
        ("without", "none", "none"),
        ("blinded", "given", "black"),
    ]:
        folder = run(tmp_path / "runs" / name, name, 1)
        config = folder / "config.yaml"
        config.write_text(config.read_text() + f"reference: {trained}\n")
        evaluation(tmp_path / "tests" / name, folder, 1.0, KEYS, pictures=False)
        summary = tmp_path / "tests" / name / "summary.json"
        summary.write_text(summary.read_text().replace("the data's own", kind))
    line = [str(tmp_path / "runs"), str(tmp_path / "tests"), f"folder={tmp_path / 'out'}"]
    assert main(["report", *line, "pictures=0"]) == 0
    tables = block(tmp_path / "out")["conditions"]
    labels = [[row["label"] for row in table["rows"]] for table in tables]
    assert labels[0] == ["bicubic", "with", "without"]
    assert labels[1] == ["bicubic", "blinded"]


def test_weights_from_elsewhere_stand_beside_runs(scene: Path, tmp_path: Path):
    """They have no overrides by which anything could be told of them."""
    evaluation(tmp_path / "tests" / "published", tmp_path / "published", 1.2, KEYS, pictures=False)
    folders = [str(scene / "runs"), str(scene / "tests"), str(tmp_path / "tests")]
    assert main(["report", *folders, f"folder={tmp_path / 'out'}", "pictures=0"]) == 0
    labels = [row["label"] for row in block(tmp_path / "out")["conditions"][0]["rows"]]
    assert labels[-1] == "published"


def test_what_is_damaged_is_told(tmp_path: Path):
    for name, value in [("low", "1"), ("words", "much"), ("reference", "")]:
        folder = run(tmp_path / "runs" / name, name, 1)
        evaluation(tmp_path / "tests" / name, folder, 1.0, KEYS[:3], name == "low")
        table = tmp_path / "tests" / name / "images.csv"
        lines = table.read_text(encoding="utf-8").splitlines()
        cells = lines[2].split(",")
        lines[2] = ",".join([cells[0], value, *cells[2:]] if value else cells[:1])
        table.write_text("\n".join(lines), encoding="utf-8")
    line = ["report", str(tmp_path / "runs"), str(tmp_path / "tests"), f"folder={tmp_path / 'out'}"]
    assert main(line) == 0
    data = block(tmp_path / "out")
    assert [row["label"] for row in data["conditions"][0]["rows"]] == [
        "bicubic",
        "low",
        "reference",
    ]
    assert any("words" in note and "'much'" in note for note in data["notes"])
    assert data["conditions"][0]["fewer"] == ["reference: only 2 of 3 images"]
    truncate(tmp_path / "tests" / "low" / "restored" / f"{KEYS[1]}.png")
    assert main([*line[:3], f"folder={tmp_path / 'other'}"]) == 0
    assert any(f"{KEYS[1]}.png" in note for note in block(tmp_path / "other")["notes"])


HOSTILE = [
    "a\"b'</script><script>alert(1)</script>",
    "<!-- <script> --> --!>",
    r"[50%] & \b_c #1 ~ ^{2} | $x$",
    "名前 ünï — ☃",
    "x" * 300,
]


@pytest.fixture(scope="module")
def hostile(tmp_path_factory) -> Path:
    """Names that would break out of whatever holds them; images of their own in each; one seed."""
    root = tmp_path_factory.mktemp("hostile")
    for place, name in enumerate(HOSTILE):
        folder = run(root / "runs" / str(place), name, 1)
        (folder / "job.json").write_text(json.dumps({"overrides": [f"attention={name}"]}))
        if place == 1:
            (folder / "metrics.csv").unlink()
        keys = [f"{n} <b>'\"& --> é" for n in range(1 if place == 4 else 6 - place)]
        evaluation(root / "tests" / str(place), folder, 1 + place, keys, place < 2)
    line = [str(root / "runs"), str(root / "tests"), f"folder={root / 'out'}"]
    assert main(["report", *line, "title=<i>&--></title>"]) == 0
    return root / "out"


def test_names_stand_as_they_are(hostile: Path):
    (condition,) = block(hostile)["conditions"][:1]
    assert [row["label"] for row in condition["rows"]] == ["bicubic", *HOSTILE]
    with open(hostile / "table.csv", newline="", encoding="utf-8") as file:
        assert [row["variant"] for row in csv.DictReader(file)] == ["bicubic", *HOSTILE]
    latex = (hostile / "table.tex").read_text(encoding="utf-8")
    plain = r"\{}[50\%] \& \textbackslash{}b\_c \#1 \textasciitilde{} \textasciicircum{}\{2\} "
    assert plain.replace(r"\{}[", "{}[") + r"\textbar{} \$x\$ & 1" in latex
    rows = latex.partition(r"\midrule")[2].partition(r"\bottomrule")[0].strip().splitlines()
    counts = [len(re.findall(r"(?<!\\)&", row)) for row in rows]
    assert counts == [counts[0]] * (len(HOSTILE) + 1)
    markdown = (hostile / "table.md").read_text(encoding="utf-8")
    assert not re.search(r"(?<!\\)<[a-z/!]", markdown)


def test_what_was_measured_on_fewer_images_says_so(hostile: Path):
    (condition,) = block(hostile)["conditions"][:1]
    assert "名前 ünï — ☃: only 3 of 6 images" in condition["fewer"]
    assert "only 3 of 6 images" in (hostile / "table.md").read_text(encoding="utf-8")
    assert not any(HOSTILE[0] in sentence for sentence in condition["fewer"])
    pairs = condition["pairs"]["psnr_y"]
    assert pairs[1][4][6] == 3, "over those that both have"
    assert pairs[1][5][2:6] == [None] * 4, "one image, one seed"
    assert all(np.isfinite(condition["rows"][0]["values"]["psnr_y"][0])), "of whoever has them"


def test_of_a_seed_trained_twice_the_mean_is_paired():
    values = {"psnr": np.array([[1.0, 2.0, 4.0], [3.0, 3.0, 3.0], [5.0, 6.0, 8.0]])}
    own = Row("own", Variant("own", []), [1, 1, 2], values)
    other = Row("other", Variant("other", []), [1, 2], {"psnr": np.zeros((2, 3))})
    condition = ComparableGroup("", [], ["a", "b", "c"], ["psnr"], [own, other])
    found = condition.compared(own, other, "psnr", 0.95, 50, 1)
    assert found is not None
    assert found.seeds == 2
    assert found.mean == pytest.approx(np.mean([2, 2.5, 3.5, 5, 6, 8]))


def test_runs_alone_are_compared_by_their_validation(scene: Path, tmp_path: Path):
    runs = tmp_path / "runs"
    shutil.copytree(scene / "runs", runs)
    run(runs / "stopped", "soft", 4, done=False)
    (runs / "begun").mkdir()
    (runs / "begun" / "status.json").write_text('{"state": "failed", "reason": "no memory"}')
    assert main(["report", str(runs), f"folder={tmp_path / 'out'}"]) == 0
    data = block(tmp_path / "out")
    (condition,) = data["conditions"]
    assert condition["measures"][0]["name"] == "psnr_y"
    soft = next(row for row in condition["rows"] if "soft" in row["label"])
    assert soft["seeds"] == SEEDS
    assert any("no memory" in note for note in data["notes"])
    assert any("stopped" in note and "not at its end" in note for note in data["notes"])
    assert [len(curve) for curve in data["curves"]["valid/psnr_y"]] == [3] * 4


COURSE = {  # parameters and PSNR, as the course comparison prints them
    ("edsr", 1): (409_731, 27.5),
    ("wdsr_a", 1): (92_304, 27.8),
    ("wdsr_b", 1): (36_809, 27.7),
    ("edsr", 8): (926_723, 27.9),
    ("wdsr_a", 8): (609_520, 28.2),
    ("wdsr_b", 8): (165_560, 28.2),
}


@pytest.fixture(scope="module")
def course(tmp_path_factory) -> Path:
    """The report of networks of equal numbers of blocks, each against the EDSR of as many."""
    root = tmp_path_factory.mktemp("course")
    for (backbone, blocks), (parameters, psnr) in COURSE.items():
        folder = root / "sweep" / f"backbone={backbone},blocks={blocks}"
        folder.mkdir(parents=True)
        part = {"_target_": backbone, "blocks": blocks}
        config = {"schedule": ["reconstruction"], "seed": 1, "backbone": part}
        (folder / "config.yaml").write_text(json.dumps(config))
        typed = ["sweep=x", f"backbone={backbone}", f"backbone.blocks={blocks}"]
        typed += ["backbone.normalisation=weight"] * (backbone != "edsr")
        (folder / "job.json").write_text(json.dumps({"overrides": typed}))
        rows = [f"{step},valid/psnr_rgb,{psnr - 3 / step}" for step in (10, 20)]
        (folder / "metrics.csv").write_text("\n".join(["step,name,value", *rows]))
        cost = {"parameters": {"total": parameters}}
        (folder / "summary.json").write_text(json.dumps({"step": 20, "cost": cost}))
    out = root / "out"
    assert main(["report", str(root / "sweep"), f"folder={out}", "against=backbone=edsr"]) == 0
    return out


def test_the_course_table_compares_networks_of_as_many_blocks(course: Path):
    with open(course / "percent.csv", newline="") as file:
        rows = {row["variant"]: row for row in csv.DictReader(file)}
    assert len(rows) == 4, "an EDSR is not compared with itself"
    for (backbone, blocks), (parameters, psnr) in COURSE.items():
        if backbone == "edsr":
            continue
        base, its = COURSE["edsr", blocks]
        row = rows[f"{backbone}, blocks={blocks}, normalisation=weight"]
        assert float(row["parameters, % of it"]) == pytest.approx(100 * parameters / base, abs=0.01)
        gain = 100 * (psnr - 0.15) / (its - 0.15) - 100
        assert float(row["PSNR (rgb) ↑, % more"]) == pytest.approx(gain, abs=0.01)
    row = rows["wdsr_a, blocks=1, normalisation=weight"]
    assert row["parameters, % of it"] == "22.53", "as the document has it"
    with open(course / "table.csv", newline="") as file:
        table = {row["variant"]: row["parameters"] for row in csv.DictReader(file)}
    assert sorted(map(int, table.values())) == sorted(count for count, _ in COURSE.values())
    (condition,) = block(course)["conditions"]
    assert [base["label"] for base in condition["bases"][len(COURSE) :]] == [
        *("backbone=edsr", "backbone=wdsr_a", "backbone=wdsr_b"),
        *("backbone.blocks=1", "backbone.blocks=8"),
    ]


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["{tmp}/nothing"], ["nothing", "not a folder"]),
        (["{tmp}"], ["neither a run", "nor an evaluation"]),
        (["{scene}", "against=best"], ["against", "'best'", "bicubic"]),
        (["{scene}", "level=1"], ["level"]),
        ([], ["folders"]),
    ],
)
def test_mistakes_are_one_sentence(arguments, parts, scene, tmp_path, capsys):
    words = [word.format(tmp=tmp_path, scene=scene) for word in arguments]
    assert main(["report", *words, f"folder={tmp_path / 'out'}"]) == 2
    said = capsys.readouterr().err
    assert len(said.strip().splitlines()) == 1
    for part in parts:
        assert part in said
    assert not (tmp_path / "out").exists()


# In a browser ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    names = ("chromium", "chromium-browser", "google-chrome", "chrome")
    path = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, names)), None)
    with sync_playwright() as started:
        path = path or started.chromium.executable_path
        if not Path(path).exists():
            pytest.skip("no Chromium here, on the path, by CHROMIUM or playwright")
        opened = started.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield opened
        opened.close()


class Tab:
    """A page that was opened, with whatever went wrong on it."""

    def __init__(self, browser: Any, folder: Path, page: Any = None, **options: Any):
        self.page = page or browser.new_page(**options)
        self.wrong: list[str] = []
        self.page.on("console", lambda said: self.wrong.append(said.text))
        self.page.on("pageerror", lambda error: self.wrong.append(str(error)))
        self.page.on("request", self._asked)
        self.page.goto((folder / "index.html").as_uri())
        self.page.wait_for_selector("#wall[aria-busy=false]", state="attached")

    def _asked(self, request: Any) -> None:
        if not request.url.startswith(("file:", "data:", "blob:")):
            self.wrong.append(f"asked for {request.url}")

    def column(self, heading: str) -> list[str]:
        heads = self.page.locator("#variants thead th").all_inner_texts()
        place = next(i for i, text in enumerate(heads) if text.startswith(heading)) + 1
        return self.page.locator(f"#variants tbody tr > :nth-child({place})").all_inner_texts()

    def views(self) -> Any:
        """Restored pictures."""
        return self.page.locator("#wall .view:has(.over)")


@pytest.fixture
def tab(browser, made: Path) -> Iterator[Tab]:
    opened = Tab(browser, made, viewport={"width": 1300, "height": 900})
    yield opened
    wrong = opened.wrong
    opened.page.close()
    assert not wrong


def test_sorting_sorts(tab: Tab):
    button = tab.page.locator("#variants thead button", has_text="PSNR (y) ↑").first
    for direction in ("descending", "ascending"):
        button.click()
        values = [float(text.partition(" ")[0]) for text in tab.column("PSNR (y) ↑")]
        assert values == sorted(values, reverse=direction == "descending")
        assert tab.page.locator(f"#variants th[aria-sort={direction}]").count() == 1
    tab.page.keyboard.press("Enter")  # the heading has the focus still
    assert tab.page.locator("#variants th[aria-sort=descending]").count() == 1


def test_another_baseline_turns_the_differences(tab: Tab):
    tab.page.select_option("#against", label="bicubic")
    gaps = tab.column("Δ PSNR")
    assert gaps[0] == "–"
    assert all(text.startswith("+") for text in gaps[1:])
    tab.page.select_option("#measure", label="LPIPS ↓")
    assert all(text.startswith("−") for text in tab.column("Δ LPIPS")[1:])


def test_the_course_page_has_its_table_and_plots(browser, course: Path):
    tab = Tab(browser, course, viewport={"width": 1300, "height": 900})
    shares = dict(zip(tab.column("variant"), tab.column("parameters, % of it")))
    assert shares["wdsr_b, blocks=8, normalisation=weight"] == "17.87"
    assert shares["edsr, blocks=8"] == "–"
    assert tab.page.locator("#variants tr.against").count() == 2
    assert tab.page.locator("#curve polyline").count() == len(COURSE)
    assert "valid/psnr_rgb" in tab.page.locator("#curve").inner_text()
    titles = [x.text_content() for x in tab.page.locator("#pareto .point title").all()]
    assert any("parameters 36809" in (title or "") for title in titles)
    tab.page.select_option("#against", label="edsr, blocks=1")
    shares = dict(zip(tab.column("variant"), tab.column("parameters, % of it")))
    assert shares["edsr, blocks=8"] == "226.18"
    assert not tab.wrong
    tab.page.close()


def test_filters_take_variants_away_everywhere(tab: Tab):
    before = tab.views().count()
    tab.page.uncheck("[data-override='attention=reduced']")
    assert not any("reduced" in text for text in tab.column("variant"))
    assert tab.views().count() == before - 2
    assert "reduced" not in tab.page.locator("#pareto").inner_text()


def test_the_slider_wipes_and_zoom_moves_all_together(tab: Tab):
    tab.page.fill("#wipe", "30")
    clips = tab.page.eval_on_selector_all(
        "#wall .over", "all => all.map(one => getComputedStyle(one).clipPath)"
    )
    assert len(clips) == len(VARIANTS)
    assert set(clips) == {"inset(0px 70% 0px 0px)"}
    tab.page.fill("#zoom", "4")
    shapes = "all => all.map(one => getComputedStyle(one).transform)"
    stacks = "#wall figure:not(.fixed) .stack"
    zoomed = tab.page.eval_on_selector_all(stacks, shapes)
    assert all(one.startswith("matrix(4, 0, 0, 4") for one in zoomed)
    box = tab.views().first.bounding_box()
    tab.page.mouse.move(box["x"] + 50, box["y"] + 50)
    tab.page.mouse.down()
    tab.page.mouse.move(box["x"] + 80, box["y"] + 60)
    tab.page.mouse.up()
    moved = tab.page.eval_on_selector_all(stacks, shapes)
    for before, after in zip(zoomed, moved):  # widths differ by fractions of a pixel
        shift = np.subtract(*([float(x) for x in one[7:-1].split(",")] for one in (after, before)))
        assert shift == pytest.approx([0, 0, 0, 0, 30, 10], abs=0.1)


def test_hovering_shows_where_a_texture_came_from(tab: Tab):
    view = tab.views().first
    view.scroll_into_view_if_needed()
    box, (rows, columns) = view.bounding_box(), GRID
    row, column = 2, 5
    tab.page.mouse.move(
        box["x"] + box["width"] * (column + 0.5) / columns,
        box["y"] + box["height"] * (row + 0.5) / rows,
    )
    there, across = divmod(int(chosen()[row, column]), columns)
    assert f"reference, row {there}, column {across};" in tab.page.inner_text("#link")
    assert "score 0.60" in tab.page.inner_text("#link")
    reference = tab.page.locator("#wall .fixed .view").bounding_box()
    cell = tab.page.locator("#wall > svg rect.middle").bounding_box()
    assert cell["x"] == pytest.approx(
        reference["x"] + reference["width"] * across / columns, abs=1.5
    )
    assert cell["y"] == pytest.approx(reference["y"] + reference["height"] * there / rows, abs=1.5)
    assert tab.page.locator("#wall > svg line").count() == 1
    assert view.bounding_box() == box  # nothing moved under the pointer
    boxes = [one.bounding_box() for one in tab.page.locator("#wall > svg rect").all()]
    width, height = reference["width"] / columns, reference["height"] / rows
    found = sorted(
        (round((b["y"] - cell["y"]) / height), round((b["x"] - cell["x"]) / width)) for b in boxes
    )
    plain = [
        (int(chosen()[row - dy, column - dx]), dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)
    ]
    assert found == sorted(
        (at // columns + dy - there, at % columns + dx - across) for at, dy, dx in plain
    )
    view.focus()
    tab.page.keyboard.press("ArrowDown")
    assert f"row {row + 1}, column {column} of" in tab.page.inner_text("#link")
    tab.page.mouse.move(1, 1)
    tab.page.locator("#image").focus()


def test_keys_images_holes_and_score(tab: Tab):
    first = tab.page.input_value("#image")
    tab.page.keyboard.press("j")
    assert tab.page.input_value("#image") != first
    tab.page.keyboard.press("k")
    assert tab.page.input_value("#image") == first
    tab.page.wait_for_selector("#wall canvas.outline", state="attached")
    drawn = "one => one.getContext('2d').getImageData(0, 0, one.width, one.height).data"
    edge = tab.page.eval_on_selector(
        "#wall canvas.outline", f"one => {{ const d = ({drawn})(one); let n = 0;"
        " for (let i = 3; i < d.length; i += 4) n += d[i] > 0; return n; }"
    )  # fmt: skip
    assert edge == 2 * (10 + 18) - 4  # the border of the box that was painted
    count = tab.page.locator("#wall canvas").count()
    tab.page.keyboard.press("h")
    tab.page.wait_for_function(f"document.querySelectorAll('#wall canvas').length > {count}")
    before = tab.page.evaluate("getComputedStyle(document.body).backgroundColor")
    tab.page.keyboard.press("t")
    assert tab.page.evaluate("getComputedStyle(document.body).backgroundColor") != before


def test_charts_show_every_variant_and_points_open_pictures(tab: Tab):
    assert tab.page.locator("#curve polyline").count() == len(VARIANTS)
    assert tab.page.locator("#curve .band").count() == len(VARIANTS)
    assert tab.page.locator("#pareto .front").count() == 1
    assert tab.page.locator("#pareto .point").count() == len(VARIANTS)
    assert tab.page.locator("#embedding .point").count() == len(VARIANTS)
    assert tab.page.locator("#scatter .point").count() == len(KEYS)
    point = tab.page.locator("#scatter .point").nth(3)
    point.focus()
    tab.page.keyboard.press("Enter")
    assert tab.page.input_value("#image") == KEYS[3]
    tab.page.locator("#worst button").first.click()
    assert tab.page.input_value("#image") == tab.page.locator("#worst button").first.inner_text()


def test_tables_are_saved(tab: Tab, made: Path):
    for kind in ("csv", "md", "tex"):
        with tab.page.expect_download() as waited:
            tab.page.click(f"[data-save={kind}]")
        text = Path(waited.value.path()).read_text(encoding="utf-8")
        assert text.startswith((made / f"table.{kind}").read_text(encoding="utf-8"))


@pytest.mark.parametrize(("width", "scheme"), [(360, "dark"), (1300, "light")])
def test_it_fits_a_phone_follows_the_theme_and_prints(browser, made, width, scheme):
    tab = Tab(browser, made, viewport={"width": width, "height": 700}, color_scheme=scheme)
    assert tab.page.evaluate("document.documentElement.scrollWidth") <= width
    colour = tab.page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (colour == "rgb(255, 255, 255)") == (scheme == "light")
    tab.page.emulate_media(media="print")
    assert (
        tab.page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    )
    assert not tab.page.locator("#controls").is_visible()
    assert tab.page.pdf()[:5] == b"%PDF-"
    assert not tab.wrong
    tab.page.close()


@pytest.fixture(scope="module")
def twenty(tmp_path_factory) -> Path:
    """The report of twenty runs of a hundred images, each picture another."""
    root = tmp_path_factory.mktemp("twenty")
    keys = [f"{place:03d}" for place in range(100)]
    astronaut = skimage.data.astronaut()
    for place in range(20):
        folder, own = run(root / "r" / str(place), "hard", 1, 16 + place), root / "e"
        evaluation(own / str(place), folder, 1 + place / 40, keys, place == 0)
        if place:
            shutil.copytree(own / "0" / "attention", own / str(place) / "attention")
            for i, key in enumerate(keys):
                cut = astronaut[4 * i :, 20 * place :][: SIZE[0], : SIZE[1]]
                write(own / str(place) / "restored" / f"{key}.png", np.ascontiguousarray(cut))
    assert main(["report", str(root), f"folder={root / 'out'}", "resamples=200"]) == 0
    return root / "out"


def test_twenty_runs_of_a_hundred_images_open(browser, twenty: Path):
    """In processor time of the page's own thread, which no other load of the machine changes."""
    page = browser.new_page(viewport={"width": 1300, "height": 900})
    tools = page.context.new_cdp_session(page)
    tools.send("Performance.enable", {"timeDomain": "threadTicks"})
    tab = Tab(browser, twenty, page)
    told = {one["name"]: one["value"] for one in tools.send("Performance.getMetrics")["metrics"]}
    assert told["TaskDuration"] < 1
    assert tab.column("attention.embedding.channels") == [
        "bicubic", *(f"channels={channels}" for channels in range(16, 36))
    ]  # fmt: skip
    assert tab.views().count() == 20
    assert not tab.wrong
    tab.page.close()


class Finger:
    """One that touches a page."""

    def __init__(self, page: Any):
        self.tools = page.context.new_cdp_session(page)

    def drag(self, x: float, y: float, to_x: float) -> None:
        """From a place on the screen to one beside it, in steps."""
        self._touch("touchStart", [{"x": x, "y": y}])
        for share in (0.2, 0.6, 1):
            self._touch("touchMove", [{"x": x + share * (to_x - x), "y": y}])
        self._touch("touchEnd", [])

    def _touch(self, kind: str, points: list[dict[str, float]]) -> None:
        self.tools.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})


@pytest.fixture
def phone(browser, twenty: Path) -> Iterator[Tab]:
    screen = {"width": 360, "height": 740}
    page = browser.new_page(viewport=screen, device_scale_factor=3, has_touch=True, is_mobile=True)
    tab = Tab(browser, twenty, page)
    yield tab
    assert tab.page.evaluate("[document.documentElement.scrollWidth, scrollX]") == [360, 0]
    page.close()
    assert not tab.wrong


def test_on_a_phone_tables_scroll_within_themselves(phone: Tab):
    for name in ("variants", "worst"):
        frame = phone.page.locator(f".scroll:has(> #{name})")
        assert frame.bounding_box()["width"] <= 360
        wide = frame.evaluate("one => one.scrollWidth > one.clientWidth")
        assert wide == (name == "variants")
    frame = phone.page.locator(".scroll:has(> #variants)")
    last = phone.page.locator("#variants thead th").last
    assert last.bounding_box()["x"] > 360
    frame.evaluate("one => { one.scrollLeft = 10000; }")
    assert last.bounding_box()["x"] + last.bounding_box()["width"] <= 360
    assert phone.page.locator("#variants tbody th").first.bounding_box()["x"] >= 0


def test_on_a_phone_filters_are_tapped(phone: Tab):
    box = phone.page.locator("label:has([data-override='attention.embedding.channels=35'])")
    box.scroll_into_view_if_needed()
    where = box.bounding_box()
    assert 0 <= where["x"] <= where["x"] + where["width"] <= 360
    assert where["height"] >= 24, "WCAG 2.5.8, pixels of CSS"
    box.tap()
    assert "channels=35" not in phone.column("attention.embedding.channels")
    assert phone.views().count() == 19


def test_on_a_phone_fingers_wipe(phone: Tab):
    slider, finger = phone.page.locator("#wipe"), Finger(phone.page)
    slider.scroll_into_view_if_needed()
    box = slider.bounding_box()
    finger.drag(box["x"] + 5, box["y"] + box["height"] / 2, box["x"] + 0.7 * box["width"])
    assert 60 < int(slider.input_value()) < 80
    clip = phone.views().first.locator(".over").evaluate("one => getComputedStyle(one).clipPath")
    assert clip == f"inset(0px {100 - int(slider.input_value())}% 0px 0px)"
    phone.page.fill("#wipe", "10")
    view = phone.views().first
    view.scroll_into_view_if_needed()
    box = view.bounding_box()
    x, y = box["x"] + 0.2 * box["width"], box["y"] + box["height"] / 2
    finger.drag(x, y, x + 0.5 * box["width"])
    assert slider.input_value() == "60"


def test_on_a_phone_a_tap_shows_where_a_texture_came_from(phone: Tab):
    view, (rows, columns) = phone.views().nth(3), GRID
    view.scroll_into_view_if_needed()
    box = view.bounding_box()
    row, column = 5, 9
    at = {"x": box["width"] * (column + 0.5) / columns, "y": box["height"] * (row + 0.5) / rows}
    view.tap(position=at)
    there, across = divmod(int(chosen()[row, column]), columns)
    assert f"reference, row {there}, column {across};" in phone.page.inner_text("#link")
    assert phone.page.locator("#wall > svg line").count() == 1
    phone.page.locator("#wall .fixed .view").tap()
    assert phone.page.inner_text("#link") == ""


def test_hostile_names_fit_a_phone_and_stay_text(browser, hostile: Path):
    tab = Tab(browser, hostile, viewport={"width": 360, "height": 740})
    assert tab.page.title() == "<i>&--></title>"
    shown = [text.strip() for text in tab.column("attention")]
    assert shown == ["bicubic", *HOSTILE]
    assert tab.page.evaluate("document.documentElement.scrollWidth") == 360
    with tab.page.expect_download() as waited:
        tab.page.click("[data-save=csv]")
    saved = Path(waited.value.path()).read_text(encoding="utf-8")
    assert saved.startswith((hostile / "table.csv").read_text(encoding="utf-8"))
    for measure in ("LPIPS ↓", "PSNR (y) ↑"):
        tab.page.select_option("#measure", label=measure)
        for place in range(len(HOSTILE) + 1):
            tab.page.select_option("#against", str(place))
    assert not tab.wrong
    tab.page.close()


def test_parts_that_no_override_tells_apart_are_named_by_their_classes():
    deep = {"_target_": "a.b.Deep", "textures": {"_target_": "a.Flat", "channels": 3}}
    wide = {"_target_": "a.c.Wide", "weights": "x"}
    runs = [
        Run(
            Path(name),
            {"extractor": part, "backbone": {"extractor": part}, "rate": rate, "rule": rule},
            {"attention": rule},
        )
        for name, part, rate, rule in [
            ("a", deep, 0.1, "hard"),
            ("b", wide, 1.1, "hard"),
            ("c", wide, 1.1, "soft"),
        ]
    ]
    assert [variant.label for variant in variants(runs)[0]] == [
        "hard, extractor=Deep, rate=0.1",
        "hard, extractor=Wide, rate=1.1",
        "soft",
    ]
