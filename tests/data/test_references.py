"""Every kind of reference against a plain formulation, and what it is worth."""

import csv
import json
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from restore.cli import main
from restore.config import registry
from restore.data.loading import EvalItems, TrainItems, collate
from restore.data.references import replaced
from restore.datasets.sample import SamplePhotos
from restore.errors import UserError
from restore.images.io import save_png
from restore.types import Sample
from tests.helpers.tiny import CROPS, NETWORK

LIGHTS = {"brighter": [2**0.5] * 3, "darker": [0.5**0.5] * 3, "tinted": [1.1, 1.0, 0.9]}
KINDS = ["given", *LIGHTS, "black", "noise", "other_image", "self", "none"]


class Pictures:
    """A split of pictures without references."""

    def __init__(self, count: int = 5):
        rng = np.random.default_rng(count)
        self.pictures = [
            torch.from_numpy(rng.integers(0, 256, (3, 32 + 4 * i, 40), np.uint8))
            for i in range(count)
        ]

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, index: int) -> Sample:
        return Sample(key=f"picture {index}", target=self.pictures[index])


def task(*overrides: str, name: str = "reference_sr"):
    more = ["task.crop=32", "task.reference_crop=48", "pretrained.vgg19=random"]
    return registry.build("task", name, *more, *overrides)


def resized(picture: torch.Tensor, height: int, width: int) -> torch.Tensor:
    image = Image.fromarray(picture.permute(1, 2, 0).contiguous().numpy())
    made = image.resize((width, height), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(made)).permute(2, 0, 1)


def inputs(task, item: dict) -> dict[str, torch.Tensor]:
    return task.prepare(collate([{**item, "skipped": []}])).inputs


def test_given_is_the_data_sets_own():
    source, own = SamplePhotos().split("test"), task()
    assert replaced("given", source, own) == (source, own)


@pytest.mark.parametrize("kind", KINDS[1:])
def test_nothing_else_changes(kind):
    source, own = SamplePhotos().split("valid"), task()
    degradation = own.degradation
    other, changed = replaced(kind, source, own)
    assert len(other) == len(source)
    assert own.degradation is degradation, "the task given must stay as it was"
    for index in range(len(source)):
        clean, made = own.eval_item(source[index]), changed.eval_item(other[index])
        for name in ("target", "low", "low_up"):
            assert torch.equal(clean[name], made[name])
        assert clean["key"] == made["key"]
        assert torch.equal(
            source[index]["reference"], SamplePhotos().split("valid")[index]["reference"]
        )


@pytest.mark.parametrize("kind", LIGHTS)
def test_the_given_one_in_another_light(kind):
    source = SamplePhotos().split("valid")
    other, _ = replaced(kind, source, task())
    for index in range(len(source)):
        light = (source[index]["reference"].double().numpy() / 255) ** 2.2
        light *= np.reshape(LIGHTS[kind], (3, 1, 1))
        expected = np.minimum(light, 1) ** (1 / 2.2) * 255
        assert np.abs(other[index]["reference"].numpy() - expected).max() < 0.51
    with pytest.raises(UserError, match=f"no reference picture that could be {kind}"):
        replaced(kind, Pictures(), task())[0][0]


def test_black():
    source, changed = replaced("black", Pictures(), task())
    for index, picture in enumerate(Pictures().pictures):
        item = changed.eval_item(source[index])
        for name in ("reference", "reference_low_up"):
            assert item[name].shape == picture.shape
            assert not item[name].any()


def test_noise():
    source, changed = replaced("noise", Pictures(), task())
    drawn = []
    for index, picture in enumerate(Pictures().pictures):
        item = changed.eval_item(source[index])
        rng = np.random.default_rng(zlib.crc32(f"picture {index}".encode()))
        expected = torch.from_numpy(rng.integers(0, 256, tuple(picture.shape), np.uint8))
        assert torch.equal(item["reference"], expected)
        height, width = picture.shape[-2:]
        low = resized(expected, height // 4, width // 4)
        assert torch.equal(item["reference_low_up"], resized(low, height, width))
        drawn.append(expected.flatten())
    values = torch.cat(drawn).double()
    assert values.mean().item() == pytest.approx(127.5, abs=1.5)
    assert values.std().item() == pytest.approx((256**2 / 12) ** 0.5, abs=1)


@pytest.mark.parametrize("count", range(2, 10))
def test_other_image(count):
    pictures = Pictures(count)
    source, _ = replaced("other_image", pictures, task())
    chosen = []
    for index in range(count):
        reference = source[index]["reference"]
        found = [i for i, p in enumerate(pictures.pictures) if p is reference]
        assert found not in ([index], [])
        chosen += found
    assert sorted(chosen) == list(range(count)), "each picture helps once"


def test_other_image_needs_another():
    with pytest.raises(UserError, match="two images"):
        replaced("other_image", Pictures(1), task())


def test_own_upsampled_low_picture():
    source, changed = replaced("self", Pictures(), task())
    for index, picture in enumerate(Pictures().pictures):
        height, width = picture.shape[-2:]
        low_up = resized(resized(picture, height // 4, width // 4), height, width)
        again = resized(resized(low_up, height // 4, width // 4), height, width)
        made = inputs(changed, changed.eval_item(source[index]))
        for name, expected in (("reference", low_up), ("reference_low_up", again)):
            torch.testing.assert_close(made[name][0], expected / 255, atol=1e-7, rtol=0)


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["degradation=tensor_bicubic"],
        ["degradation=noisy"],
        ["degradation=noisy", "degradation@degradation.base=tensor_bicubic"],
        ["degradation=noisy_published"],
    ],
    ids=lambda overrides: "+".join(o.rpartition("=")[2] for o in overrides) or "pil_bicubic",
)
def test_own_and_none_with_every_degradation(overrides):
    pictures = Pictures()
    plain = task(*overrides)
    for kind in ("self", "none"):
        source, changed = replaced(kind, pictures, plain)
        given = Sample(**pictures[2], reference=pictures[2]["target"])
        expected = inputs(plain, plain.eval_item(given))
        made = inputs(changed, changed.eval_item(source[2]))
        assert torch.equal(made["low"], expected["low"])
        assert torch.equal(made["low_up"], expected["low_up"])
        if kind == "none":
            assert made.keys() == {"low", "low_up"}
        else:
            assert torch.equal(made["reference"], expected["low_up"])
            assert made["reference_low_up"].shape == made["reference"].shape
            assert not torch.equal(made["reference_low_up"], made["reference"])


@pytest.mark.parametrize("degradation", ["pil_bicubic", "tensor_bicubic", "noisy"])
def test_own_reference_in_training_is_the_crops(degradation):
    plain = task(f"degradation={degradation}", "task.augment=false", "task.reference_crop=32")
    source, changed = replaced("self", Pictures(), plain)
    items = TrainItems(source, changed, 1, "raise")
    for place in range(5):
        made = inputs(changed, items[place])
        assert torch.equal(made["reference"], made["low_up"])


@pytest.mark.parametrize("kind", KINDS)
def test_training_items_are_batched_and_repeatable(kind):
    photos = SamplePhotos().split("train")
    source, changed = replaced(kind, photos, task())
    one, two = TrainItems(source, changed, 1, "raise"), TrainItems(source, changed, 1, "raise")
    forth, back = [one[i] for i in range(4)], [two[i] for i in reversed(range(4))][::-1]
    batches = [changed.prepare(collate(items)).inputs for items in (forth, back)]
    assert all(torch.equal(batches[0][name], batches[1][name]) for name in batches[0])
    assert batches[0]["low"].shape == (4, 3, 8, 8)
    if kind != "none":
        assert batches[0]["reference"].shape == (4, 3, 48, 48)
        assert batches[0]["reference_low_up"].shape == (4, 3, 48, 48)


@pytest.mark.parametrize("kind", [kind for kind in KINDS[1:] if kind not in LIGHTS])
def test_the_kinds_need_no_references(kind):
    source, changed = replaced(kind, Pictures(), task())
    assert changed.eval_item(source[0])["target"].shape == (3, 32, 40)


@pytest.mark.parametrize(
    "fusion",
    [
        pytest.param(x, marks=[] if x in ("score", "gated", "merged") else pytest.mark.slow)
        for x in registry.names("fusion")
    ],
)
def test_none_means_no_texture(fusion):
    torch.manual_seed(0)
    model = registry.build("backbone", "ttsr", *NETWORK, f"fusion={fusion}").eval()
    pictures = EvalItems(SamplePhotos().split("valid"), task(), "raise")
    given = inputs(task(), pictures[0])
    with torch.inference_mode():
        bare = model(given["low"], given["low_up"])
        full = model(**given)
    assert not bare.score.any()
    assert not any(texture.any() for texture in bare.textures)
    assert [t.shape for t in bare.textures] == [t.shape for t in full.textures]
    assert not torch.equal(bare.image, full.image)
    if fusion == "score":  # whatever the texture is, a score of 0 takes nothing of it
        for stage in model.stages:
            torch.nn.init.zeros_(stage.fusion.conv.weight)
            torch.nn.init.zeros_(stage.fusion.conv.bias)
        with torch.inference_mode():
            torch.testing.assert_close(model(**given).image, bare.image)


QUICK = ["wandb.mode=disabled", "runtime.device=cpu", "runtime.threads=1", "loader.workers=0"]
TRAIN = [
    *NETWORK,
    *QUICK,
    *CROPS,
    "trainer.batch_size=2",
    "trainer.pictures=1",
    "stages.reconstruction.epochs=null",
    "stages.reconstruction.steps=1",
]


@pytest.mark.parametrize(
    "kind",
    [pytest.param(k, marks=[] if k in ("given", "none") else pytest.mark.slow) for k in KINDS],
)
def test_every_kind_trains(kind, tmp_path: Path):
    assert main(["train", f"folder={tmp_path / 'run'}", *TRAIN, f"reference={kind}"]) == 0
    assert list((tmp_path / "run").rglob("*.png"))


EVALUATE = [*QUICK, "pictures=0", "protocol=rgb", "metric=[psnr,ssim]"]


def evaluate(weights: Path, folder: Path, *overrides: str) -> Path:
    """Three small pairs, unless the overrides name other data."""
    pairs = weights.parent / "pairs"
    if not any(override.startswith("data=") for override in overrides):
        data = [f"data.{name}={pairs / name}" for name in ("targets", "references")]
        overrides = ("data=folder", *data, "data.test=1", *overrides)
    line = ["evaluate", f"weights={weights}", f"folder={folder}", *EVALUATE, *overrides]
    assert main(line) == 0
    return folder


def lines(path: Path) -> list[dict[str, str]]:
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("references") / "run"
    rate = "stages.reconstruction.objectives.restoration.optimizer.lr=0.01"
    assert main(["train", f"folder={folder}", *TRAIN, rate, "reference=self"]) == 0
    photos = SamplePhotos().split("test")
    for place in range(3):
        for name in ("target", "reference"):
            picture = photos[place][name][:, 40:88, 8 : 64 + 8 * place]
            (folder.parent / "pairs" / f"{name}s").mkdir(parents=True, exist_ok=True)
            save_png(folder.parent / "pairs" / f"{name}s" / f"{place}.png", picture)
    return folder


@pytest.mark.slow
def test_the_sweep_equals_separate_runs(trained: Path, tmp_path: Path):
    swept = evaluate(trained, tmp_path / "swept", f"references=[{','.join(KINDS)}]")
    alone = {kind: evaluate(trained, tmp_path / kind, f"references=[{kind}]") for kind in KINDS}
    rows = lines(swept / "references.csv")
    assert len(rows) == 3 * len(KINDS)
    black = {row["key"]: row for row in lines(alone["black"] / "images.csv")}
    summary = json.loads((swept / "summary.json").read_text())["references"]
    table = (swept / "references.md").read_text()
    seen = set()
    for kind in KINDS:
        own = lines(alone[kind] / "images.csv")
        assert own == lines(swept / kind / "images.csv")
        mine = [row for row in rows if row["reference"] == kind]
        assert [row["key"] for row in mine] == [row["key"] for row in own]
        for name in ("psnr_rgb", "ssim_rgb"):
            gains = []
            for row, separate in zip(mine, own):
                assert row[name] == separate[name]
                gains.append(float(row[name]) - float(black[row["key"]][name]))
                assert float(row[f"{name}/over_black"]) == pytest.approx(gains[-1], abs=1e-12)
            mean = json.loads((alone[kind] / "summary.json").read_text())["restored"][name]
            assert summary[kind][name] == mean
            assert summary[kind][f"{name}/over_black"] == pytest.approx(sum(gains) / 3, abs=1e-12)
        seen.add(summary[kind]["psnr_rgb"])
        told = [f"{summary[kind][n]:.4f}" for n in ("psnr_rgb", "ssim_rgb")]
        told += [f"{summary[kind][f'{n}/over_black']:+.4f}" for n in ("psnr_rgb", "ssim_rgb")]
        assert f"| {kind} | {' | '.join(told)} |" in table
    assert len(seen) == len(KINDS), "each kind must make a difference to this network"
    base = json.loads((alone["given"] / "summary.json").read_text())
    gain = base["restored"]["psnr_rgb"] - base["bicubic"]["psnr_rgb"]
    assert f"Of the {gain:+.4f} psnr_rgb that 'given' gains over bicubic" in table


@pytest.mark.slow
def test_the_sweep_on_two_processes(trained: Path, tmp_path: Path):
    kinds = "references=[other_image,black,none]"
    one = evaluate(trained, tmp_path / "one", kinds)
    two = evaluate(trained, tmp_path / "two", kinds, "runtime.devices=2")
    assert (one / "references.csv").read_text() == (two / "references.csv").read_text()


def test_weights_are_evaluated_with_what_they_were_trained_with(trained: Path, tmp_path: Path):
    plain = evaluate(trained, tmp_path / "plain")
    own = evaluate(trained, tmp_path / "own", "references=[self]")
    given = evaluate(trained, tmp_path / "given", "references=[given]")
    assert (plain / "images.csv").read_text() == (own / "images.csv").read_text()
    assert (plain / "images.csv").read_text() != (given / "images.csv").read_text()


def test_references_of_the_data_set_are_kinds_too(trained: Path, tmp_path: Path):
    folder = tmp_path / "cufed" / "test" / "CUFED5"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for group in range(2):
        for level in range(6):
            pixels = rng.integers(0, 256, (24, 28, 3), np.uint8)
            Image.fromarray(pixels).save(folder / f"{group:03d}_{level}.png")
    data = ["data=cufed", f"data.root={tmp_path / 'cufed'}"]
    swept = evaluate(trained, tmp_path / "swept", *data, "references=[1,5,black]")
    for kind in ("1", "5"):
        line = [*data, "references=[given]", f"data.references='{kind}'"]
        alone = evaluate(trained, tmp_path / kind, *line)
        own = (alone / "images.csv").read_text()
        assert own == (swept / kind / "images.csv").read_text()


def test_unreadable_pictures_leave_the_comparison_whole(trained: Path, tmp_path: Path):
    (tmp_path / "pictures").mkdir()
    rng = np.random.default_rng(0)
    for number in range(3):
        pixels = rng.integers(0, 256, (24, 28, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / "pictures" / f"{number}.png")
    (tmp_path / "pictures" / "1.png").write_bytes(b"no picture")
    folder = tmp_path / "pictures"
    data = ["data=folder", f"data.targets={folder}", "data.test=1", "loader.on_error=skip"]
    swept = evaluate(trained, tmp_path / "swept", *data, "references=[other_image,black]")
    rows = lines(swept / "references.csv")
    # With three pictures the second helps the first, so the first has no other image.
    assert {row["key"] for row in rows} == {"2"}
    assert "N = 1," in (swept / "references.md").read_text()


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["references=[given,blak]"], "there is no kind 'blak'; choose one of given, first"),
        (["data=cufed", "data.root=x", "references=[6]"], "data.references=6"),
        (["references=black"], "references=black"),
    ],
)
def test_mistakes_are_named_before_any_work(trained, tmp_path, capfd, overrides, said):
    line = ["evaluate", f"weights={trained}", f"folder={tmp_path / 'x'}", *EVALUATE, *overrides]
    assert main(line) == 2
    assert said in capfd.readouterr().err
    assert not (tmp_path / "x" / "config.yaml").exists()


def test_one_of_several_alone():
    pictures = [torch.full((3, 8, 8), value, dtype=torch.uint8) for value in (10, 20)]

    class Several(Pictures):
        def __getitem__(self, index: int) -> Sample:
            return Sample(key="x", target=self.pictures[index], reference=pictures)

    own = task()
    for place, kind in enumerate(("first", "second")):
        source, _ = replaced(kind, Several(), own)
        assert torch.equal(source[0]["reference"], pictures[place])
    source, _ = replaced("second", SamplePhotos().split("test"), own)
    with pytest.raises(UserError, match=r"has 1 reference picture\(s\): no second one"):
        source[0]
