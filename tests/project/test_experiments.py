"""Every experiment of the documents starts: two steps on data shaped like the real set."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image

from restore.cli import main
from restore.config import compose, registry
from restore.models import weights
from tests.helpers.ablations import VARIANTS

# Every file of the documents' folders; the demos run in full by `make`.
DOCUMENTS = [
    name for name in registry.names("experiment") if name.startswith(("course/", "thesis/"))
]
# Each is held against its settings by tests/config/test_config.py; one of each kind is trained here
# every time.
EVERY_TIME = ("thesis/6",)


@pytest.fixture(scope="module")
def cufed(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("cufed")
    rng = np.random.default_rng(0)
    names = ["train/input/a.png", "train/ref/a.png", "train/input/b.png", "train/ref/b.png"]
    names += ["test/CUFED5/000_0.png", "test/CUFED5/000_1.png"]
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(root / name)
    return root


@pytest.fixture(scope="module")
def sr_raw(tmp_path_factory) -> Path:
    """Prepared pairs of thirty scenes, some of which are kept for validation."""
    root = tmp_path_factory.mktemp("sr_raw")
    rng = np.random.default_rng(0)
    keys = [f"{number:05d}/1" for number in range(30)]
    for key in keys:
        for name in ("target", "low_up"):
            (root / "pairs" / key).mkdir(parents=True, exist_ok=True)
            picture = rng.integers(0, 256, (80, 80, 3), dtype=np.uint8)
            np.save(root / "pairs" / key / f"{name}.npy", picture)
    records = [{"key": key, "kept": True} for key in keys]
    (root / "pairs.json").write_text(json.dumps(records), "utf-8")
    return root


@pytest.fixture(scope="module")
def qd_imd(tmp_path_factory) -> Path:
    """Masks of 1 bit, 512×512, a black bar in each, for each split some."""
    root = tmp_path_factory.mktemp("qd_imd")
    for number in range(40):
        plate = np.ones((512, 512), bool)
        plate[10 * number : 10 * number + 80, 100:400] = False
        name = f"{number:05d}_{'test' if number % 4 == 0 else 'train'}.png"
        Image.fromarray(plate).save(root / name)
    return root


@pytest.fixture(scope="module")
def begun(cufed: Path, tmp_path_factory) -> Path:
    """A run of reference super-resolution, which experiment 6 of the thesis begins from."""
    folder = tmp_path_factory.mktemp("begun") / "run"
    train("thesis/0_2", folder, f"data.root={cufed}")
    return folder


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[] if name in EVERY_TIME else [pytest.mark.slow])
        for name in DOCUMENTS
    ],
)
def test_it_trains_two_steps(name: str, request: pytest.FixtureRequest, tmp_path: Path):
    data = compose("train", [f"experiment={name}"]).data._target_
    if data.endswith(".SrRaw"):
        places = [f"data.root={request.getfixturevalue('sr_raw')}"]
        places.append(f"masks.root={request.getfixturevalue('qd_imd')}")
    else:
        places = [f"data.root={request.getfixturevalue('cufed')}"]
    if name == "thesis/6":
        places.append(f"init={request.getfixturevalue('begun')}")
    train(name, tmp_path / "run", *places)
    state = weights.load(tmp_path / "run").state
    assert all(torch.isfinite(value).all() for value in state.values())


def train(name: str, folder: Path, *places: str) -> None:
    """Trains an experiment in small, a step of each of its stages."""
    choice = [f"experiment={name}", "pretrained.vgg19=random", *places]
    config = compose("train", choice)
    lengths = [
        line
        for stage in config.schedule
        for line in (f"stages.{stage}.epochs=null", f"stages.{stage}.steps=1")
    ]
    small = [
        f"backbone.blocks={[1] * len(config.backbone.blocks)}",
        "backbone.features=8",
        *(f"task.{key}=32" for key in ("crop", "reference_crop") if key in config.task),
        "trainer.batch_size=2",
        "trainer.log_every=1",
        "wandb.mode=disabled",
        "loader.workers=0",
        "runtime.device=cpu",
    ]
    assert main(["train", f"folder={folder}", *choice, *small, *lengths]) == 0


THESIS = "task", "masks", "schedule", "stages", "trainer", "attention", "init"
# What each row of the thesis's tables differs in from experiment 1, as its text has it.
ROWS = {
    "2_128": {"attention.embedding.channels": 128, "trainer.batch_size": 22},
    "2_64": {"attention.embedding.channels": 64, "trainer.batch_size": 24},
    "2_32": {"attention.embedding.channels": 32, "trainer.batch_size": 28},
    "3": {"attention.matching._target_": "restore.models.attention.soft.Soft"},
    "4": {"attention.embedding._target_": "restore.models.attention.embedding.Projection"},
    "5": {"task.overlap": [0, 0], "task.holes": 1},
    "6": {"init": "TTSR.pt"},
}


def test_the_thesis_stated_its_first_experiment_so():
    config = compose("train", ["experiment=thesis/1", "data.root=.", "masks.root=."])
    assert config.schedule == ["reconstruction", "full"]
    assert (config.stages.reconstruction.epochs, config.stages.full.epochs) == (10, 500)
    losses = config.stages.full.objectives.restoration.losses
    assert {name: node.weight for name, node in losses.items() if node.weight} == {
        "reconstruction": 1.0,
        "perceptual": 0.01,
        "adversarial": 0.01,
    }
    assert config.trainer.batch_size == 20
    assert (config.task.crop, config.task.holes, config.task.coding) == (256, 0.6, "zero_reserved")
    assert config.task.overlap == "as_published"
    assert config.task.known == "restored"
    assert config.masks.resize == "as_published"


@pytest.mark.parametrize("row", ROWS)
def test_a_row_of_the_thesis_differs_as_it_says(row: str):
    first = compose("train", ["experiment=thesis/1"])
    init = ["init=TTSR.pt"] if row == "6" else []
    other = compose("train", [f"experiment=thesis/{row}", *init])
    for key, value in ROWS[row].items():
        assert OmegaConf.select(other, key) == value, key
        assert OmegaConf.select(first, key) != value, key
    # And in nothing that is not of the same part.
    parts = {key.partition(".")[0] for key in ROWS[row]}
    for part in set(THESIS) - parts:
        left, right = (OmegaConf.to_container(c)[part] for c in (first, other))
        assert left == right, part


@pytest.mark.parametrize(
    ("name", "variant"),
    [("3_1", "suite_3_1"), ("3_2", "suite_3_2"), ("6_1", "suite_6_1"), ("8", "suite_8")],
)
def test_its_network_is_the_published_one(name: str, variant: str):
    overrides = [f"experiment=course/{name}", "pretrained.vgg19=random", "data.root=."]
    node = compose("train", overrides).backbone
    reference = compose("train", ["pretrained.vgg19=random", *VARIANTS[variant][0]]).backbone
    for key in ("blocks", "scales", "features", "fusion", "exchange", "attention"):
        assert node[key] == reference[key], key
    assert node.trunk._target_ == reference.trunk._target_
