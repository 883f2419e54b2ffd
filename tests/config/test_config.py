"""What is wrong in a configuration is said in one sentence, before any work, with exit code 2."""

from pathlib import Path
from typing import Annotated

import pytest
from omegaconf import OmegaConf
from pydantic import Field

from restore.cli import main
from restore.config import check, check_part, compose, plain, registry, settings
from restore.errors import UserError

OBJECTIVE = "stages.reconstruction.objectives.restoration"

BAD = [
    # (command and overrides, what the sentence must contain)
    ("train data=folder data.train=1", ["'data.train' is not a setting", "targets", "valid"]),
    ("train stpes=5", ["'stpes' is not a setting", "schedule", "seed"]),
    ("train trainer.batchsize=5", ["'trainer.batchsize' is not a setting", "batch_size"]),
    (
        "train loader.batch_size=5",
        ["'loader.batch_size' is not a setting", "mean 'trainer.b"],
    ),
    ("train trainer.batch_size=abc", ["trainer.batch_size=abc", "integer"]),
    ("train trainer.batch_size=0", ["trainer.batch_size=0", "greater than or equal to 1"]),
    ("train trainer.ema=1.5", ["trainer.ema=1.5", "less than 1"]),
    ("train trainer.save_every=2.5", ["trainer.save_every=2.5", "integer"]),
    ("train trainer=fast", ["trainer=fast", "choose one of default"]),
    ("train backbone=unet", ["backbone=unet", "ttsr"]),
    ("train attention=softest", ["attention=softest", "hard"]),
    ("train task=paint", ["task=paint", "reference_sr"]),
    ("train data=imagenet", ["data=imagenet", "sample", "folder", "cufed"]),
    ("train protocol=psnr", ["protocol=psnr", "ttsr"]),
    ("train experiment=none", ["experiment=none", "demo"]),
    (
        "train experiment=shiped/asdn",
        ["experiment=shiped/asdn: no such", "demo, ", "did you mean 'shipped/asdn'?"],
    ),
    ("train experiment=shipped/asd", ["experiment=shipped/asd: no such", "demo, ", "'shipped/a"]),
    ("train hydra/launcher=jobli", ["hydra/launcher=jobli", "basic, joblib", "mean 'joblib'"]),
    ("train schedule=[]", ["schedule", "at least 1"]),
    ("train schedule=[warm]", ["'warm'", "reconstruction"]),
    ("train schedule=[reconstruction,reconstruction]", ["twice"]),
    ("train task.scale=0", ["task.scale=0", "greater than or equal to 1"]),
    # A discriminator takes the same number from there, and is told of elsewhere.
    ("train task.crop=abc", ["restore train: task.crop=abc", "integer"]),
    ("train discriminator=ttsr task.crop=abc", ["restore train: task.crop=abc", "integer"]),
    ("train degradation=noisy noise.sigma=abc", ["restore train: noise.sigma=abc"]),
    ("train task.scales=4", ["'task.scales' is not a setting", "scale"]),
    ("train backbone.blocks=[1,2] pretrained.vgg19=random", ["backbone.blocks", "4 numbers"]),
    ("train backbone.blocks=[1,2,3,x]", ["backbone.blocks[3]=x", "integer"]),
    ("train backbone.features=-1", ["backbone.features=-1"]),
    ("train runtime.precision=fp8", ["runtime.precision=fp8", "bf16"]),
    ("train runtime.device=tpu", ["runtime.device=tpu", "cuda"]),
    ("train loader.on_error=ignore", ["loader.on_error=ignore", "skip"]),
    ("train seed=-1", ["seed=-1"]),
    ("train wandb.mode=maybe", ["wandb.mode=maybe", "offline"]),
    (
        "train stages.reconstruction.objectives.restoration.losses.reconstruction.weight=-1",
        ["losses.reconstruction.weight=-1", "greater than or equal to 0"],
    ),
    ("train stages.reconstruction.steps=5", ["steps or epochs"]),
    (
        "train stages.reconstruction.objectives.restoration.optimizer.lr=fast",
        ["optimizer.lr=fast"],
    ),
    (
        "train stages.reconstruction.objectives.restoration.optimizer.learning_rate=1",
        ["'stages.reconstruction.objectives.restoration.optimizer.learning_rate'", "lr"],
    ),
    ("train init=missing.pt pretrained.vgg19=random", ["there is no weights file missing.pt"]),
    ("train resume=nowhere", ["nowhere is not a run folder"]),
    ("train trainer.batch_size=true", ["trainer.batch_size=true", "number", "not true or false"]),
    ("train trainer.batch_size='3'", ["trainer.batch_size='3'", "text"]),
    ("train trainer.batch_size=most", ["trainer.batch_size=most", "integer", "or", "'auto'"]),
    ("train runtime.channels_last=most", ["runtime.channels_last=most", "boolean", "or", "'auto'"]),
    ("train trainer.ema=true", ["trainer.ema=true", "number", "not true or false"]),
    ("train trainer.lr_scaling=sqrt", ["trainer.base_batch_size is missing"]),
    ("train runtime.compile=1", ["runtime.compile=1", "true or false"]),
    ("train runtime.compile=0.0", ["runtime.compile=0.0", "true or false"]),
    ("train runtime.threads=false", ["runtime.threads=false", "number"]),
    ("train seed='1'", ["seed='1'", "text"]),
    ("train task.scale=true", ["task.scale=true", "number"]),
    ("train task.scale='4'", ["task.scale='4'", "text"]),
    ("train backbone.blocks=[1,2,true,4]", ["backbone.blocks[2]=true", "number"]),
    ("train backbone.global_skip=1", ["backbone.global_skip=1", "true or false"]),
    ("train attention=reduced attention.embedding.channels=true", ["channels=true", "number"]),
    (f"train {OBJECTIVE}.optimizer.lr=true", ["optimizer.lr=true", "number"]),
    (f"train {OBJECTIVE}.optimizer.betas=[0.9,'0.99']", ["optimizer.betas[1]='0.99'", "text"]),
    (
        f"train {OBJECTIVE}.losses.reconstruction.weight=true",
        ["reconstruction.weight=true", "number"],
    ),
    (
        f"train {OBJECTIVE}.param_groups.extractor.lr=fast",
        ["param_groups.extractor.lr=fast", "number"],
    ),
    (f"train +{OBJECTIVE}.param_groups.extractor.rate=1", ["extractor.rate' is not", "lr"]),
    ("train loss=l2", ["'loss' has several places", f"loss@{OBJECTIVE}.losses.reconstruction=…"]),
    (f"train loss@{OBJECTIVE}.losses.reconstruction=l3", ["loss=l3", "charbonnier"]),
    (f"train {OBJECTIVE}.losses.reconstruction.weigth=2", ["weigth' is not", "'weight'?"]),
    (f"train +{OBJECTIVE}.losses.mine.weight=2", [f"{OBJECTIVE}.losses.mine is no loss"]),
    (f"train {OBJECTIVE}.losses.reconstruction.weight=0", ["every loss has the weight 0"]),
    (f"train optimizer@{OBJECTIVE}.optimizer=admw", ["optimizer=admw", "adamw"]),
    ("train +trainr.batch_size=2", ["'trainr' is not a setting", "mean 'trainer'"]),
    ("train pretrained.vgg19=missing.pth", ["missing.pth"]),
    ("train data=folder", ["data."]),
    ("evaluate", ["weights has no value"]),
    ("evaluate weights=missing.pt", ["there is no weights file missing.pt"]),
    ("evaluate attention=hard weights=x", ["'attention' cannot be chosen here"]),
    ("evaluate split=tset weights=x", ["split=tset", "test"]),
    ("bench benchmark=nothing", ["benchmark=nothing", "matching"]),
    ("list attentions", ["attention"]),
    ("paint", ["no command 'paint'", "train"]),
]


@pytest.mark.parametrize(
    ("line", "parts"),
    # Two of three each time.
    [
        pytest.param(line, parts, id=line, marks=[] if number % 3 else pytest.mark.slow)
        for number, (line, parts) in enumerate(BAD)
    ],
)
def test_one_sentence_and_exit_code_2(line, parts, tmp_path: Path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    assert main(line.split()) == 2
    said = capfd.readouterr().err.strip()
    assert len(said.splitlines()) == 1, said
    for part in parts:
        assert part in said
    assert "Traceback" not in said
    left = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert left == [], "something was written although nothing was done"


def test_cuda_on_a_machine_without_it(tmp_path: Path, monkeypatch, capfd):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    monkeypatch.chdir(tmp_path)
    assert main(["train", "runtime.device=cuda", "pretrained.vgg19=random"]) == 2
    assert "no CUDA device" in capfd.readouterr().err


@pytest.mark.parametrize("command", ["train", "evaluate", "bench"])
def test_the_yaml_and_the_types_name_the_same_keys(command):
    overrides = ["weights=x"] if command == "evaluate" else []
    config = plain(compose(command, overrides))
    check(config, getattr(settings, command.capitalize()))


@pytest.mark.parametrize("name", registry.names("experiment"))
def test_every_experiment_composes(name):
    config = compose("train", [f"experiment={name}"])
    for key in _missing(OmegaConf.to_container(config)):  # folders of data that only the user has
        OmegaConf.update(config, key, "somewhere")
    check(plain(config), settings.Train)


def _missing(node, path: str = "") -> list[str]:
    if isinstance(node, dict):
        return [key for name, part in node.items() for key in _missing(part, f"{path}.{name}")]
    return [path[1:]] if node == "???" else []


@pytest.mark.parametrize("group", registry.groups())
def test_every_choice_says_what_it_is(group):
    for name in registry.names(group):
        assert len(registry.describe(group, name)) > 10, f"conf/{group}/{name}.yaml"


@pytest.mark.parametrize(
    ("command", "words", "group", "choice"),
    [
        ("evaluate", ["weights=x"], "protocol", "y"),
        ("evaluate", ["weights=x"], "masks", "box"),
        ("train", [], "experiment", "demo"),
    ],
)
def test_null_is_no_choice_where_none_is_the_default(command, words, group, choice):
    def of(*more: str) -> dict:
        return plain(compose(command, [*words, "folder=here", *more]))

    expected, other = of(), of(f"{group}={choice}")
    assert other != expected
    assert of(f"{group}=null") == of(f"{group}={choice}", f"{group}=null") == expected
    assert of(f"{group}=null", f"{group}={choice}") == other
    with pytest.raises(UserError, match="runtime=null: no such choice; choose one of default"):
        of("runtime=null")


def test_a_backbone_without_attention_refuses_it(tmp_path: Path, monkeypatch):
    (tmp_path / "backbone").mkdir()
    (tmp_path / "backbone" / "plain.yaml").write_text("# none\n_target_: torch.nn.Identity\n")
    monkeypatch.chdir(tmp_path)
    line = ["train", "--config-dir", str(tmp_path), "backbone=plain", "attention=hard"]
    assert main(line) == 2


def test_registry_names_its_choices():
    with pytest.raises(UserError, match="choose one of"):
        registry.build("attention", "nothing")


def test_a_folder_that_cannot_be_made_is_named(tmp_path, capfd):
    (tmp_path / "file").write_text("")
    assert main(["train", f"folder={tmp_path / 'file' / 'run'}"]) == 2
    message = capfd.readouterr().err
    assert "cannot make the folder" in message
    assert len(message.strip().splitlines()) == 1


class Part:
    """Takes an argument of each kind that YAML can say, as parts of `conf/` do."""

    def __init__(
        self,
        count: Annotated[int, Field(ge=1)] = 1,
        share: float | None = None,
        pair: tuple[int, float] = (1, 0.5),
        file: Path = Path(),
        name: str | int = "a",
        flag: bool = False,
        table: dict[str, list[float]] | None = None,
    ):
        pass


GOOD = [
    {"count": 3, "share": 1, "pair": [2, 1], "file": "a/b", "name": "3", "flag": True},
    {"count": 100000.0, "share": 1e-4, "name": 3, "table": {"a": [1, 2.5]}},
]
WRONG = [
    ("count", True, "true"),
    ("count", "3", "'3'"),
    ("count", 2.5, "2.5"),
    ("share", False, "false"),
    ("share", "0.5", "'0.5'"),
    ("pair", [True, 1], "[0]=true"),
    ("pair", [1, "1"], "[1]='1'"),
    ("name", True, "true"),
    ("flag", 1, "true or false"),
    ("flag", 0.0, "true or false"),
    ("flag", "yes", "true or false"),
    ("table", {"a": [1, True]}, "table.a[1]=true"),
    ("table", {"a": [1, "2"]}, "table.a[1]='2'"),
]


@pytest.mark.parametrize("arguments", GOOD, ids=str)
def test_what_yaml_can_say_of_a_type_is_taken(arguments):
    check_part("part", {"_target_": f"{__name__}.Part", **arguments})


@pytest.mark.parametrize(("name", "value", "said"), WRONG, ids=str)
def test_a_truth_value_a_number_and_a_text_are_three_things(name, value, said):
    with pytest.raises(UserError) as caught:
        check_part("part", {"_target_": f"{__name__}.Part", name: value})
    assert str(caught.value).startswith(f"part.{name}")
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
