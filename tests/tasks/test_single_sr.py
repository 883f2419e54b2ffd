"""Single-image super-resolution: the task, and its networks by way of the commands."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from restore.cli import main
from restore.config import registry
from restore.data.degradation import PilBicubic
from restore.errors import UserError
from restore.images.io import read_rgb
from restore.models import checkpoint, weights
from restore.tasks.single_sr import SingleSR
from restore.types import Sample
from tests.helpers.pictures import chw, coordinates, down_up, hwc, photo, write
from tests.helpers.tiny import ALONE

NETWORKS = {
    "edsr": ["backbone.blocks=1", "backbone.features=8"],
    "wdsr_a": ["backbone.blocks=1", "backbone.features=8"],
    "wdsr_b": ["backbone.blocks=2", "backbone.features=8", "backbone.normalisation=batch"],
    "srresnet": ["backbone.blocks=1", "backbone.features=8"],
}
TINY = [
    "task.crop=24",
    "trainer.batch_size=4",
    "trainer.log_every=1",
    "trainer.valid_every=2",
    "trainer.pictures=0",
    "stages.reconstruction.steps=2",
    *ALONE,
]
QUIET = ["runtime.device=cpu", "runtime.threads=1"]


def train(folder: Path, name: str, *overrides: str) -> int:
    return main(
        ["train", f"folder={folder}", f"backbone={name}", *NETWORKS[name], *TINY, *overrides]
    )


def task(**options) -> SingleSR:
    return SingleSR(PilBicubic(), **options)


# The task -------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    scale=st.sampled_from([1, 2, 3, 4, 8]),
    parts=st.integers(1, 4),
    stored=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)
def test_a_training_item_shows_one_place(height, width, scale, parts, stored, seed):
    """Pixels that hold their own row and column say where a crop and its low picture are from."""
    target = coordinates(height, width)
    sample = Sample(key="a", target=target, reference=torch.zeros(3, 9, 9, dtype=torch.uint8))
    if stored:  # row and column of the low pixel, each one more, to tell it from padding
        sample["low"] = coordinates(-(-height // scale), -(-width // scale)) + 1
    maker = task(scale=scale, crop=parts * scale, augment=False)
    if min(height, width) < scale:
        with pytest.raises(UserError, match="smaller"):
            maker.train_item(sample, np.random.default_rng(seed))
        return
    item = maker.train_item(sample, np.random.default_rng(seed))
    assert set(item) == {"key", "target", "low", "low_up"}
    side = parts * scale
    assert item["target"].shape == item["low_up"].shape == (3, side, side)
    assert item["low"].shape == (3, parts, parts)
    top, left = (int(v) for v in item["target"][:2, 0, 0])
    assert top % scale == left % scale == 0
    inner = target[:, top : top + side, left : left + side]
    inner = inner[:, : height // scale * scale - top, : width // scale * scale - left]
    rows, columns = inner.shape[-2:]
    assert torch.equal(item["target"][:, :rows, :columns], inner)
    assert item["target"].sum() == inner.sum(), "black around it"
    low = item["low"][:, : rows // scale, : columns // scale]
    if stored:
        expected = sample["low"][:, top // scale :, left // scale :]
        assert torch.equal(low, expected[:, : rows // scale, : columns // scale])
    else:
        assert np.array_equal(hwc(low), down_up(hwc(inner), scale)[0])


def test_target_and_low_turn_together():
    sample = Sample(key="a", target=chw(photo(height=24, width=24)))
    maker = task(scale=4, crop=24)
    low = down_up(hwc(sample["target"]), 4)[0]
    seen = set()
    for seed in range(60):
        item = maker.train_item(sample, np.random.default_rng(seed))
        turns = [
            (flip, quarters)
            for flip in (False, True)
            for quarters in range(4)
            if torch.equal(item["target"], _turn(sample["target"], flip, quarters))
        ]
        assert len(turns) == 1
        assert torch.equal(item["low"], _turn(chw(low), *turns[0]))
        seen.add(turns[0])
    assert len(seen) == 8


def _turn(picture: torch.Tensor, flip: bool, quarters: int) -> torch.Tensor:
    return (picture.flip(-1) if flip else picture).rot90(quarters, (-2, -1))


@pytest.mark.parametrize("scale", [2, 3, 8])
def test_evaluation_crops_to_the_scale_and_the_baseline_is_bicubic(scale):
    picture = photo(height=35, width=29)
    maker = task(scale=scale, crop=24)
    item = maker.eval_item(
        Sample(key="a", target=chw(picture), reference=torch.zeros(3, 1, 1, dtype=torch.uint8))
    )
    kept = picture[: 35 // scale * scale, : 29 // scale * scale]
    low, low_up = down_up(kept, scale)
    problem = maker.prepare({name: [v] if name == "key" else v[None] for name, v in item.items()})
    assert set(problem.inputs) == {"low", "low_up"}
    name, baseline = maker.baseline(problem)
    assert name == "bicubic"
    for made, expected in (
        (problem.target, kept),
        (baseline, low_up),
        (problem.inputs["low"], low),
    ):
        np.testing.assert_allclose(hwc(made[0]) * 255, expected, atol=1e-4)


def test_what_does_not_fit_is_refused():
    with pytest.raises(UserError, match=r"task\.crop=24.*task\.scale=5"):
        task(scale=5, crop=24)
    wrong = Sample(key="a", target=coordinates(16, 16), low=coordinates(4, 5))
    for step in (task().eval_item, lambda s: task().train_item(s, np.random.default_rng(0))):
        with pytest.raises(UserError, match=r"5×4.*16×16"):
            step(wrong)
    with pytest.raises(UserError, match="needs a target"):
        task().train_item(Sample(key="a", low=coordinates(4, 4)), np.random.default_rng(0))


# The commands ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", [pytest.param(x, marks=[] if x == "wdsr_b" else pytest.mark.slow) for x in NETWORKS]
)
def test_trained_evaluated_and_applied_without_a_reference(tmp_path: Path, name):
    run, scale = tmp_path / "run", 3
    assert train(run, name, f"task.scale={scale}") == 0
    begun = registry.build("backbone", name, *NETWORKS[name], f"task.scale={scale}").state_dict()
    trained = checkpoint.read(run / "checkpoints" / "last.pt")
    assert trained["step"] == 2
    assert trained["models"]["backbone"].keys() == begun.keys()
    folder = tmp_path / "test"
    line = ["evaluate", f"weights={run}", f"folder={folder}", "wandb.mode=disabled", "limit=1"]
    assert main([*line, "pictures=0", "protocol=y", "loader.workers=0", *QUIET]) == 0
    source, goal = tmp_path / "in.png", tmp_path / "out.png"
    write(source, photo(height=20, width=33))
    assert main(["apply", f"weights={run}", f"input={source}", f"output={goal}", *QUIET]) == 0
    with torch.no_grad():
        # The network as it was trained, its normalisation not folded.
        model = registry.build("backbone", name, *NETWORKS[name], f"task.scale={scale}").eval()
        model.load_state_dict(
            checkpoint.read(run / "checkpoints" / "best.pt")["models"]["backbone"]
        )
        expected = model(read_rgb(source)[None].float() / 255).image[0] * 255
    assert (read_rgb(goal) - expected).abs().max() <= 0.51


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("single") / "run"
    assert (
        train(folder, "edsr", "stages.reconstruction.objectives.restoration.optimizer.lr=0.01") == 0
    )
    return folder


def test_tiles_show_no_seam(run: Path, tmp_path: Path):
    source = write(tmp_path / "in.png", photo(height=50, width=70))
    outputs = []
    for tile in ("null", "16"):
        goal = tmp_path / f"{tile}.png"
        line = [f"weights={run}", f"input={source}", f"output={goal}", f"tile={tile}"]
        assert main(["apply", *line, *QUIET]) == 0
        outputs.append(read_rgb(goal).int())
    assert outputs[0].shape == (3, 200, 280)
    # Convolutions over pictures of another size may round another way.
    assert (outputs[0] - outputs[1]).abs().max() <= 1
    assert (outputs[0] != outputs[1]).float().mean() < 1e-3


def test_the_ensemble_is_the_mean_of_eight(run: Path, tmp_path: Path):
    source, goal = write(tmp_path / "in.png", photo(height=12, width=17)), tmp_path / "out.png"
    line = [f"weights={run}", f"input={source}", f"output={goal}", "ensemble=true"]
    assert main(["apply", *line, *QUIET]) == 0
    low = read_rgb(source)[None].float() / 255
    model = weights.load(run).backbone()
    results = []
    with torch.no_grad():
        for transposed in (False, True):
            for axes in ([], [-1], [-2], [-1, -2]):
                picture = low.mT if transposed else low
                back = model(picture.flip(axes)).image.flip(axes)
                results.append(back.mT if transposed else back)
    expected = torch.stack(results).mean(0)[0] * 255
    assert (results[0] - results[5]).abs().max() > 1e-4, "else there is nothing to average"
    assert (read_rgb(goal) - expected).abs().max() <= 0.51


def test_ones_own_targets_alone(tmp_path: Path):
    for number in range(3):
        write(tmp_path / "pictures" / f"{number}.png", photo(height=30 + number, at=80 * number))
    data = ["data=folder", f"data.targets={tmp_path / 'pictures'}", "data.valid=1"]
    assert train(tmp_path / "run", "wdsr_b", *data) == 0


def test_a_reference_is_not_wanted(run: Path, tmp_path: Path, capfd):
    source = write(tmp_path / "in.png", photo())
    line = [f"weights={run}", f"input={source}", f"reference={source}", "output=out.png"]
    assert main(["apply", *line, *QUIET]) == 2
    assert "takes none" in capfd.readouterr().err


def test_the_wrong_task_is_refused_in_a_sentence(tmp_path: Path, capfd):
    more = ["task=reference_sr", "task.reference_crop=24", "pretrained.vgg19=random"]
    more.append("stage@stages.reconstruction=pixel")
    assert train(tmp_path / "run", "edsr", *more) == 2
    said = capfd.readouterr().err
    assert "task=single_sr" in said
    assert "Traceback" not in said
