"""Palette through the commands: published files and runs, sampled, measured, trained."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from restore.cli import main
from restore.config import compose, plain, registry
from restore.datasets.folder import Folder
from restore.models import weights as loading
from restore.models.backbones.palette import Palette
from restore.tools.compare import sources
from tests.helpers import palette
from tests.helpers.runs import assert_equal_runs
from tests.helpers.tiny import ALONE

FEW = ["sampler=ddim", "sampler.steps=2"]
TWO = ["sampler.batch_size=2"]
CPU = ["runtime.device=cpu", "runtime.threads=1"]
MEASURED = ["metric=[psnr]", "pictures=0", "masks=box", *ALONE]


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    """A file as the public implementation writes it."""
    path = tmp_path_factory.mktemp("weights") / "60_Network.pth"
    state = palette.tiny().state_dict()
    torch.save({**state, "gammas": torch.zeros(2000)}, path)
    return path


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for name in "abcd":
        coarse = Image.fromarray(rng.integers(0, 256, (5, 6, 3)).astype(np.uint8))
        coarse.resize((24, 20), Image.Resampling.BILINEAR).save(root / f"{name}.png")
    return root


@pytest.fixture(scope="module")
def masks(tmp_path_factory) -> Path:
    """Of `apply`: one for each photo."""
    root = tmp_path_factory.mktemp("masks")
    for place, name in enumerate("abcd"):
        plate = np.zeros((20, 24), np.uint8)
        plate[5 + place : 13 + place, 6:17] = 255
        Image.fromarray(plate).save(root / f"{name}.png")
    return root


def pixels(path: Path) -> np.ndarray:
    return np.array(Image.open(path).convert("RGB"))


def apply(weights: Path, *words: str) -> int:
    return main(["apply", f"weights={weights}", *FEW, *CPU, *words])


def evaluate(weights: Path, photos: Path, folder: Path, *words: str) -> int:
    data = ["data=folder", f"data.targets={photos}", "data.test=1"]
    words = (f"folder={folder}", *data, *FEW, *MEASURED, *words)
    return main(["evaluate", f"weights={weights}", *words])


def rows(folder: Path) -> list[dict[str, str]]:
    with open(folder / "images.csv", newline="") as file:
        return list(csv.DictReader(file))


class TestApply:
    def test_keeps_what_is_known_and_draws_of_the_name_alone(
        self, weights, photos, masks, tmp_path: Path
    ):
        options = [f"input={photos}", f"mask={masks}", f"output={tmp_path / 'all'}"]
        assert apply(weights, *options) == 0
        for name in "abcd":
            given, mask = pixels(photos / f"{name}.png"), pixels(masks / f"{name}.png") > 0
            result = pixels(tmp_path / "all" / f"{name}.png")
            assert (result[~mask] == given[~mask]).all()
            assert (result[mask] != given[mask]).mean() > 0.5
        one = [f"input={photos / 'c.png'}", f"mask={masks / 'c.png'}"]
        assert apply(weights, *one, f"output={tmp_path / 'c.png'}") == 0
        assert (tmp_path / "c.png").read_bytes() == (tmp_path / "all" / "c.png").read_bytes()
        assert apply(weights, *one, f"output={tmp_path / 'd.png'}", "sampler.seed=2") == 0
        assert (pixels(tmp_path / "d.png") != pixels(tmp_path / "c.png")).any()

    def test_goes_on_where_it_was_killed(self, weights, photos, masks, tmp_path: Path, monkeypatch):
        line = [f"input={photos}", f"mask={masks}", f"output={tmp_path / 'out'}", *TWO]
        die_after(monkeypatch, 1)
        with pytest.raises(Killed):
            apply(weights, *line)
        done = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*.png")}
        assert len(done) == 2
        drawn = die_after(monkeypatch, 99)
        assert apply(weights, *line) == 0
        assert len(drawn) == 1
        assert all(
            (tmp_path / "out" / name).stat().st_mtime_ns == time for name, time in done.items()
        )


class Killed(BaseException):
    pass


def die_after(monkeypatch, count: int) -> list[int]:
    """Ends the process over a batch, in effect; returns a list that grows with each drawn one."""
    drawn: list[int] = []
    draw = Palette._draw if not hasattr(Palette._draw, "inner") else Palette._draw.inner

    def counted(self, *given):
        if len(drawn) == count:
            raise Killed
        drawn.append(1)
        return draw(self, *given)

    counted.inner = draw
    monkeypatch.setattr(Palette, "_draw", counted)
    return drawn


class TestMistakes:
    @pytest.mark.parametrize(
        ("words", "said"),
        [
            ([], "do nothing but fill holes: give their mask"),
            (["mask=small.png"], "small.png (3×3) is not of the size of the picture (24×20)"),
            (["mask=nowhere.png"], "there is no such file"),
            (["mask=right.png", "sampler.steps=2000"], "the schedule has 1000 steps"),
            (["mask=right.png", "sampler.eta=2"], "sampler.eta=2"),
            (["mask=right.png", "sampler.samples=2"], "apply writes one result"),
        ],
    )
    def test_are_a_sentence(self, words, said, weights, photos, tmp_path, monkeypatch, capfd):
        monkeypatch.chdir(tmp_path)
        Image.fromarray(np.zeros((3, 3), np.uint8)).save("small.png")
        Image.fromarray(np.zeros((20, 24), np.uint8)).save("right.png")
        assert apply(weights, f"input={photos / 'a.png'}", "output=out.png", *words) == 2
        told = capfd.readouterr().err.strip()
        assert said in told
        assert len(told.splitlines()) == 1
        assert not Path("out.png").exists()

    def test_weights_that_draw_nothing_take_no_sampler(self, photos, capfd):
        assert apply(Path("wdsr_b_x2"), f"input={photos / 'a.png'}") == 2
        assert "whose results are not drawn" in capfd.readouterr().err

    def test_wrong_weights(self, weights, photos, masks, tmp_path: Path, capfd):
        state = torch.load(weights, weights_only=True)
        del state["denoise_fn.out.2.bias"]
        torch.save(state, tmp_path / "w.pth")
        line = [f"input={photos}", f"mask={masks}", f"output={tmp_path / 'out'}"]
        assert apply(tmp_path / "w.pth", *line) == 2
        assert "1 missing (such as denoise_fn.out.2.bias)" in capfd.readouterr().err
        assert not (tmp_path / "out").exists()


class TestEvaluate:
    def test_goes_on_where_it_was_killed(self, weights, photos, tmp_path: Path, monkeypatch):
        whole, cut = tmp_path / "whole", tmp_path / "cut"
        assert evaluate(weights, photos, whole, *TWO) == 0
        assert not (whole / ".drawn").exists()
        die_after(monkeypatch, 1)
        with pytest.raises(Killed):
            evaluate(weights, photos, cut, *TWO)
        drawn = die_after(monkeypatch, 99)
        assert evaluate(weights, photos, cut, *TWO) == 0
        assert len(drawn) == 1
        assert not (cut / ".drawn").exists()
        for name in ("images.csv", "table.md"):
            assert (cut / name).read_text() == (whole / name).read_text()

    def test_on_the_same_problems_as_other_networks(self, weights, photos, tmp_path: Path):
        """Crops and holes are those of the task, not of the network."""
        run = tmp_path / "run"
        network = ["backbone.blocks=[1,1,1,1]", "backbone.features=8", "pretrained.vgg19=random"]
        line = ["task=inpainting", "task.crop=16", "backbone.inputs=4", "data=folder", *network]
        steps = ["stages.reconstruction.epochs=null", "stages.reconstruction.steps=1"]
        line += [f"data.targets={photos}", "data.valid=1", "metric=[psnr]", *steps, *ALONE]
        assert main(["train", f"folder={run}", "masks=box", *line]) == 0
        crop = "task={crop: 16}"
        assert evaluate(weights, photos, tmp_path / "palette", crop, "save=true") == 0
        words = [w for w in MEASURED if w != "masks=box"]
        data = ["data=folder", f"data.targets={photos}", "data.test=1", "save=true", *words]
        assert main(["evaluate", f"weights={run}", f"folder={tmp_path / 'ours'}", *data]) == 0
        for kind in ("target", "mask", "whole"):
            for name in "abcd":
                files = [tmp_path / who / kind / f"{name}.png" for who in ("ours", "palette")]
                assert files[0].read_bytes() == files[1].read_bytes()
        data = Folder(str(photos), test=1)
        asked = sources.drawn_problems(data, loading.load(run).task(), crops=2)
        assert asked.whole is None, "nothing is sharper than the input"
        assert [*asked.mask] == [f"{name}{crop}" for name in "abcd" for crop in ("", "_crop2")]
        for name in "abcd":
            target, mask = (
                pixels(tmp_path / "ours" / k / f"{name}.png") for k in ("target", "mask")
            )
            assert (asked.target.read[name]().permute(1, 2, 0).numpy() == target).all()
            assert (asked.mask[name]().numpy() == (mask[..., 0] > 0)).all()
            assert (asked.mask[f"{name}_crop2"]() != asked.mask[name]()).any()

    def test_several_samples_are_reported_as_such(self, weights, photos, tmp_path: Path):
        assert evaluate(weights, photos, tmp_path / "one") == 0
        assert evaluate(weights, photos, tmp_path / "two", "sampler.samples=3", "save=true") == 0
        one, three = (
            json.loads((tmp_path / f / "summary.json").read_text()) for f in ("one", "two")
        )
        first = pytest.approx(one["restored"], rel=1e-4)
        assert three["restored"] == first, "the first sample is the result"
        found = three["samples"]["psnr_rgb_holes"]
        by_hand = {"mean": [], "deviation": [], "best": []}
        for name in "abcd":
            folder = tmp_path / "two"
            target, mask = (
                pixels(folder / "target" / f"{name}.png"),
                pixels(folder / "mask" / f"{name}.png"),
            )
            values = []
            for kind in ("restored", "restored_2", "restored_3"):
                error = (pixels(folder / kind / f"{name}.png") - target.astype(float))[mask > 0]
                values.append(10 * np.log10(255**2 / np.square(error).mean()))
            by_hand["mean"].append(np.mean(values))
            by_hand["deviation"].append(np.std(values))
            by_hand["best"].append(np.max(values))
        for kind, values in by_hand.items():
            assert found[kind] == pytest.approx(np.mean(values), abs=0.01)
        assert "best of 3" in (tmp_path / "two" / "table.md").read_text()
        assert "best of" not in (tmp_path / "one" / "table.md").read_text()


SMALL = [
    *("backbone=palette", "backbone.network.features=32", "backbone.network.multipliers=[1,1]"),
    *("backbone.network.blocks=1", "sampler.steps=2", "task.crop=16", "metric=[psnr]"),
    *("trainer.batch_size=2", "trainer.ema=0.9", "trainer.log_every=1", "trainer.pictures=0"),
    *("trainer.valid_every=2", "trainer.save_every=1", "data.valid=1", "masks=hybrid"),
]


def train(folder: Path, photos: Path, *words: str) -> int:
    data = ["data=folder", f"data.targets={photos}", "stages.reconstruction.steps=4"]
    return main(["train", f"folder={folder}", *SMALL, *data, *ALONE, *words])


class TestTraining:
    def test_goes_on_exactly_and_can_be_used(self, photos, masks, tmp_path: Path, monkeypatch):
        from restore.engine.learner import Learner

        assert train(tmp_path / "whole", photos) == 0
        advance, steps = Learner.advance, []

        def stopping(self, *given):
            if len(steps) == 2:
                raise Killed
            steps.append(1)
            return advance(self, *given)

        monkeypatch.setattr(Learner, "advance", stopping)
        with pytest.raises(Killed):
            train(tmp_path / "cut", photos)
        monkeypatch.setattr(Learner, "advance", advance)
        assert main(["train", f"resume={tmp_path / 'cut'}"]) == 0
        assert_equal_runs(tmp_path / "whole", tmp_path / "cut")
        line = [f"input={photos}", f"mask={masks}", f"output={tmp_path / 'out'}"]
        assert apply(tmp_path / "cut", *line) == 0
        package = tmp_path / "package"
        words = ["export", f"weights={tmp_path / 'cut'}", "format=package", f"folder={package}"]
        assert main(words) == 0
        assert json.loads((package / "card.json").read_text())["scale"] == 1
        assert apply(package, *line[:2], f"output={tmp_path / 'packaged'}") == 0
        one, other = (pixels(tmp_path / f / "a.png").astype(int) for f in ("out", "packaged"))
        assert abs(one - other).mean() < 5

    def test_uncropping(self, photos, tmp_path: Path):
        """What lies inside stays; what is outside was drawn by the weights that were trained."""
        run, folder = tmp_path / "run", tmp_path / "test"
        sides = ["masks=outpaint", "masks.sides=all"]
        assert train(run, photos, *sides, "stages.reconstruction.steps=2") == 0
        line = [f"weights={run}", f"folder={folder}", "data=folder", f"data.targets={photos}"]
        words = [word for word in MEASURED if word != "masks=box"]
        assert main(["evaluate", *line, "data.test=1", "save=true", *words]) == 0
        for name in "abcd":
            target, restored, mask = (
                pixels(folder / kind / f"{name}.png") for kind in ("target", "restored", "mask")
            )
            hole = mask > 0
            assert not hole[4:12, 4:12].any()
            assert hole[[0, -1]].all()
            assert hole[:, [0, -1]].all()
            assert (restored[~hole] == target[~hole]).all()
            assert (restored[hole] != target[hole]).mean() > 0.5

    def test_partial_super_resolution_draws_all_of_the_picture(self, photos, tmp_path: Path):
        task = ["task=partial_sr", "task.coding=mask_channel"]
        run = tmp_path / "run"
        assert train(run, photos, *task, "stages.reconstruction.steps=1") == 0
        assert apply(run, f"input={photos / 'a.png'}", f"output={tmp_path / 'a.png'}") == 0
        assert (pixels(tmp_path / "a.png") != pixels(photos / "a.png")).any(-1).mean() > 0.9


@pytest.mark.parametrize(
    ("name", "gpus", "batch", "pictures"),
    [("places2", 4, 10, 660_000), ("celebahq", 2, 3, 930_000)],
)
def test_recipes_are_the_published_ones(name, gpus, batch, pictures):
    """Pictures are counted by each GPU's process."""
    config = compose("train", [f"experiment=palette/{name}", "data.targets=."])
    trainer, stage = config.trainer, config.stages.reconstruction
    assert config.data.resize == 256
    assert trainer.batch_size == gpus * batch
    assert trainer.batch_size * stage.steps == gpus * pictures
    assert trainer.ema == 0.9999
    objective = stage.objectives.restoration
    assert list(objective.losses) == ["noise"]
    assert (objective.optimizer.lr, objective.lr_schedule.name) == (5e-5, "constant")
    noise = config.backbone.schedule
    assert (noise.steps, noise.first, noise.last) == (2000, 1e-6, 0.01)
    network = registry.instantiate(plain(config.backbone.network), "network")
    assert sum(p.numel() for p in network.parameters()) == 62_641_347
