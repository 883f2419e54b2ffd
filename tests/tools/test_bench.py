"""The measurements run, and compare networks that compute the same."""

import csv

import pytest
import torch

from restore.cli import main
from restore.config import registry
from restore.errors import UserError
from restore.tools.bench import measure, plain_ttsr


def test_the_plain_network_computes_the_same():
    model = registry.build("backbone", "ttsr", "pretrained.vgg19=random")
    state = plain_ttsr.published(model, [16, 16, 8, 4])
    own = {id(x) for x in [*model.parameters()]}
    told = {id(x) for name, x in state.items() if "sub_mean" not in name}
    assert told == own
    torch.manual_seed(0)
    inputs = {"low": torch.rand(1, 3, 6, 8), "low_up": torch.rand(1, 3, 24, 32)}
    inputs |= {name: torch.rand(1, 3, 16, 20) for name in ("reference", "reference_low_up")}
    with torch.no_grad():
        restored = model(**inputs)
        image, score, textures = plain_ttsr.whole(state, **inputs)
    torch.testing.assert_close(restored.image, image, atol=1e-5, rtol=0)
    torch.testing.assert_close(restored.score, score, atol=1e-5, rtol=0)
    for one, other in zip(restored.textures, textures):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("benchmark", "more"),
    [
        ("matching", ["benchmark.sizes=[16]", "benchmark.neighbours=0"]),
        pytest.param("matching", ["benchmark.sizes=[16]"], marks=pytest.mark.slow),
        pytest.param(
            "family",
            ["benchmark.sizes=[32]", "benchmark.networks=[]", "benchmark.matchings=[windows]"],
            marks=pytest.mark.slow,
        ),
        pytest.param(
            "forward",
            ["benchmark.sizes=[32]", "benchmark.precisions=[bf16]"],
            marks=pytest.mark.slow,
        ),
        pytest.param(
            "train_step",
            ["benchmark.sizes=[32]", "benchmark.precisions=[fp32]"],
            marks=pytest.mark.slow,
        ),
        pytest.param(
            "diffusion",
            ["benchmark.sizes=[16]", "benchmark.precisions=[fp32]"],
            marks=pytest.mark.slow,
        ),
    ],
)
@pytest.mark.slow
def test_tables_hold_both_methods_and_their_ratio(tmp_path, benchmark, more):
    folder = tmp_path / "bench"
    words = [f"benchmark={benchmark}", f"folder={folder}", "benchmark.repeats=1", *more]
    assert main(["bench", *words]) == 0
    with open(folder / f"{benchmark}.csv", newline="", encoding="utf-8") as file:
        (row,) = csv.DictReader(file)
    assert float(row["plain ms"]) > 0
    assert float(row["ours ms"]) > 0
    ratio = float(row["plain ms"]) / float(row["ours ms"])
    assert float(row["speed-up"]) == pytest.approx(ratio, abs=0.06)
    if benchmark == "matching" and "benchmark.neighbours=0" not in more:
        ratio = float(row["plain ms, busy"]) / float(row["ours ms, busy"])
        assert float(row["speed-up, busy"]) == pytest.approx(ratio, abs=0.06)


@pytest.mark.slow
def test_networks_of_one_picture_beside_the_same_run_plainly(tmp_path):
    line = [
        "benchmark=backbone",
        "benchmark.networks=[wdsr_b]",
        "benchmark.sizes=[[8,40],[4000,4000]]",
    ]
    line += [
        "benchmark.precisions=[fp32]",
        "benchmark.tile=16",
        "benchmark.repeats=1",
        "benchmark.most=0.1",
    ]
    assert main(["bench", f"folder={tmp_path}", *line]) == 0
    with open(tmp_path / "backbone.csv", newline="", encoding="utf-8") as file:
        whole, tiled = csv.DictReader(file)
    assert (whole["tiles"], tiled["tiles"]) == ("whole", "16")
    model = registry.build("backbone", "wdsr_b")
    assert int(whole["parameters"]) == sum(p.numel() for p in model.parameters())
    # Every convolution works on the low picture, so twice a weight a pixel; biases are not counted.
    weights = sum(p.numel() for n, p in model.named_parameters() if n.endswith("original1"))
    assert float(whole["GFLOP"]) == pytest.approx(2 * weights * 320 / 1e9, abs=0.06)
    for row in (whole, tiled):
        assert float(row["images/s"]) == pytest.approx(1000 / float(row["ours ms"]), rel=0.05)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (["benchmark=family", "benchmark.networks=[edsr]"], "edsr takes no reference"),
        (["benchmark=family", "benchmark.networks=[nothing]"], "backbone=nothing: no such choice"),
        (["benchmark=data", "benchmark.crop=9999"], "benchmark.crop=9999: a picture has 1356"),
    ],
)
def test_mistakes_are_one_sentence(tmp_path, capfd, line, words):
    assert main(["bench", *line, f"folder={tmp_path / 'bench'}"]) == 2
    said = capfd.readouterr().err.strip().splitlines()
    assert len(said) == 1, said
    assert words in said[0]
    assert not any(tmp_path.iterdir())


@pytest.mark.slow
def test_a_mistake_in_a_process_of_its_own_is_the_user_s():
    with pytest.raises(UserError, match=r"^EDSR takes the low picture alone"):
        measure.in_process("restore.tools.bench.family", "whole", "edsr", 32, 1, "cpu")
