"""A configuration from a file names parts that are known for their place, or nothing is done."""

import copy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from restore.cli import main
from restore.config import compose, names, plain, registry, stored
from restore.engine import run_folder
from restore.errors import UserError
from restore.models import weights
from tests.helpers import stored_scene as scenes
from tests.helpers.pictures import photo, write

# A module in the working folder, which says so when it is imported.
TRAP = "trap_of_a_checkpoint.spring"
TARGETS = [
    *(TRAP, "torch.load", "torch.hub.load", "numpy.save", "os.system", "subprocess.Popen"),
    *("builtins.eval", "builtins.exec", "pathlib.Path.write_text", "shutil.rmtree"),
    *("functools.partial", "hydra.utils.call", "hydra.utils.instantiate", "torch.nn.Conv2d"),
    *("restore.utils.files.write_text", "restore.engine.run_folder._output"),
    *("restore.cli.main", "restore.models.checkpoint.read", "restore.models.weights.load"),
    *("restore.models.backbones.edsr.SingleImage", "restore.models.backbones.edsr.nn.Conv2d"),
    *("", ".", "..", "edsr", "${oc.env:HOME}", "restore.models.backbones.edsr.EDSR "),
]
PLACES = [
    ("backbone",),
    ("backbone", "extra"),
    ("task",),
    ("task", "degradation"),
    ("task", "degradation", "deep", "deeper"),
    ("protocol",),
    ("data",),
    ("stages", "reconstruction", "objectives", "restoration", "optimizer"),
    ("stages", "reconstruction", "objectives", "restoration", "losses", "reconstruction"),
    ("stages", "reconstruction", "models", "critic"),
    ("somewhere",),
]


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("stored")


@pytest.fixture(scope="module")
def config(root: Path) -> dict[str, Any]:
    return scenes.configuration(root)


@pytest.fixture(autouse=True)
def trap(tmp_path: Path, monkeypatch) -> Path:
    """The working folder, with the module in it; afterwards nothing has imported it."""
    name = TRAP.partition(".")[0]
    (tmp_path / f"{name}.py").write_text(
        "import pathlib\npathlib.Path('sprung').touch()\n"
        "def spring(*a, **k): pathlib.Path('sprung').touch()\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    assert not (tmp_path / "sprung").exists()
    assert name not in sys.modules


@pytest.mark.parametrize("place", PLACES, ids=".".join)
@pytest.mark.parametrize("target", TARGETS)
def test_no_other_target_is_taken(config, target: str, place: tuple[str, ...]):
    for node in ({"_target_": target}, {"_target_": target, "_partial_": True}):
        for value in (node, [node], {"a": [{"b": node}]}):
            with pytest.raises(UserError, match="nothing was loaded"):
                stored.stored(scenes.changed(config, place, value), "a file")


@pytest.mark.parametrize(
    ("place", "target"),
    [
        (("backbone",), "restore.losses.pixel.L1"),
        (("backbone",), "restore.tools.bench.data.DataBenchmark"),
        (("task",), "restore.tools.export.network.Onnx"),
        (("task", "degradation"), "restore.datasets.folder.Folder"),
        (("protocol",), "restore.metrics.perceptual.LPIPS"),
        (("data",), "restore.datasets.masks.Box"),
    ],
)
def test_a_part_of_another_kind_is_refused(config, place, target):
    with pytest.raises(UserError, match="of another kind"):
        stored.stored(scenes.changed(config, place, {"_target_": target}), "a file")


@pytest.mark.parametrize("key", ["_args_", "_recursive_", "_convert_", "_mode_", "__class__"])
def test_what_is_special_to_hydra_is_refused(config, key: str):
    with pytest.raises(UserError, match=key):
        stored.stored(scenes.changed(config, ("backbone", key), [1]), "a file")


def test_partial_stands_only_where_conf_has_it(config):
    with pytest.raises(UserError, match="nothing was loaded"):
        stored.stored(scenes.changed(config, ("backbone", "_partial_"), True), "a file")


def test_every_configuration_of_ours_may_be_stored():
    """All groups' choices that stand in a training, and what is named for nothing else."""
    for group in ("backbone", "task", "data", "protocol", "degradation", "stage", "noise"):
        for name in names(group):
            text = (Path(stored.__file__).parents[1] / "conf" / group / f"{name}.yaml").read_text()
            node = yaml.safe_load(text)
            node = {group: {key: value for key, value in node.items() if key != "defaults"}}
            assert stored.stored(node, "a file") == node
    for options in (
        ["backbone=ttsr", "attention=straight_through"],
        ["experiment=demo_inpainting"],
        *(["backbone=ttsr", f"extractor={name}"] for name in names("extractor")),
    ):
        whole = plain(compose("train", [*options, "pretrained.vgg19=random"]))
        assert stored.stored(whole, "a file") == whole
    penalty = {"_target_": "restore.losses.penalties.R1", "range": 2.0}
    assert stored.stored({"losses": {"smooth": penalty}}, "a file")
    optimizer = {"_target_": "torch.optim.AdamW", "_partial_": True}
    assert stored.stored({"optimizer": optimizer}, "a file")


def test_old_names_are_followed_first(config):
    old = scenes.changed(
        config, ("task", "degradation", "_target_"), "restore.bicubic.MatlabBicubic"
    )
    new = stored.stored(old, "a file")
    assert new["task"]["degradation"]["_target_"] == "restore.images.bicubic.MatlabBicubic"
    evil = scenes.changed(config, ("backbone", "_target_"), "restore.pictures.images.save_png")
    with pytest.raises(UserError, match="nothing was loaded"):
        stored.stored(evil, "a file")


def test_a_text_is_a_text(config, monkeypatch):
    """References in it are followed by nobody, and where no text belongs it is refused."""
    monkeypatch.setenv("SECRET", "7")
    for text in ("${oc.env:SECRET}", "${backbone.features}", "\\${x}", "${", "???"):
        node = {"_target_": "restore.datasets.folder.Folder", "targets": text}
        with pytest.raises(UserError) as raised:
            registry.instantiate(node, "data")
        assert text in str(raised.value)
        with pytest.raises(UserError, match=r"backbone\.features"):
            registry.instantiate({**config["backbone"], "features": text}, "backbone")


def test_only_plain_data_is_taken(config):
    cycle: dict[str, Any] = {}
    cycle["again"] = cycle
    many: Any = "a"
    for _ in range(40):
        many = [many, many]
    deep: Any = {}
    for _ in range(5000):
        deep = {"a": deep}
    for odd in (object(), {1, 2}, b"bytes", print, cycle, many, deep, {(1, 2): 3}, 1j):
        with pytest.raises(UserError, match="configuration"):
            stored.stored({**config, "odd": odd}, "a file")
    for odd in (None, [], "text", 3):
        with pytest.raises(UserError, match="configuration"):
            stored.stored(odd, "a file")


def commands(run: Path, root: Path) -> list[list[str]]:
    """Every command that reads a run's weights or its configuration."""
    pictures = root / "photos"
    quiet = [*scenes.QUIET, "loader.workers=0"]
    found = [f"data.targets={pictures}", "data=folder", "data.valid=1", "data.test=1"]
    return [
        ["apply", f"weights={run}", f"input={pictures}", "output=out", *scenes.QUIET],
        ["evaluate", f"weights={run}", *found, *quiet, "wandb.mode=disabled"],
        ["scales", f"weights={run}", *found, *quiet],
        ["compare", f"methods.own={run}", f"truths.whole={pictures}", *scenes.QUIET],
        ["export", f"weights={run}", "format=onnx", "folder=out"],
        ["export", f"weights={run}", "format=torchscript", "folder=out"],
        ["export", f"weights={run}", "format=torch_export", "folder=out"],
        ["export", f"weights={run}", "format=package", "folder=out"],
        ["train", *scenes.NETWORK, *scenes.SHORT, *quiet, *found, f"init={run}", "folder=new"],
        ["train", f"resume={run}"],
    ]


@pytest.mark.parametrize("place", [("backbone",), ("task", "degradation")], ids=".".join)
@pytest.mark.parametrize("number", range(10))
def test_every_command_refuses_it(root, config, place, number: int, tmp_path: Path, capfd):
    held = scenes.entries(config)
    evil = scenes.changed(config, place, {"_target_": TRAP})
    run = scenes.run(tmp_path / "run", {**held, "config": evil})
    line = commands(run, root)[number]
    before = sorted(tmp_path.rglob("*"))
    assert main(line) == 2
    said = capfd.readouterr().err.strip().splitlines()[-1]
    assert TRAP in said
    assert "--config-dir" in said
    assert sorted(tmp_path.rglob("*")) == before, "nothing is left behind"


@pytest.mark.slow
def test_processes_that_read_a_run_folder_refuse_it(config, tmp_path: Path):
    evil = scenes.changed(config, ("backbone",), {"_target_": TRAP})
    run = scenes.run(tmp_path / "run", {**scenes.entries(config), "config": evil})
    line = [sys.executable, "-m", "restore.commands.worker", "train", str(run)]
    done = subprocess.run(line, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 2
    assert TRAP in done.stderr
    with pytest.raises(UserError, match=TRAP):
        run_folder.read_config(run)
    assert run_folder.look_at_config(run)["backbone"]["_target_"] == TRAP


@pytest.mark.slow
def test_a_part_of_ones_own_goes_on_with_the_folder_that_names_it(
    tmp_path: Path, capfd, monkeypatch
):
    """In a run, in a run that goes on, in a sweep (whose jobs are processes), and in evaluation."""
    (tmp_path / "own_protocol.py").write_text(
        "from restore.metrics.protocol import MeasurementProtocol\n"
        "class Mine(MeasurementProtocol):\n"
        "    def __init__(self, name: str, shave: int):\n"
        "        super().__init__(name, 'rgb', shave)\n"
    )
    folder = tmp_path / "mine" / "protocol"
    folder.mkdir(parents=True)
    (folder / "own.yaml").write_text("# own\n_target_: own_protocol.Mine\nname: own\nshave: 2\n")
    monkeypatch.setenv("PYTHONPATH", f"{Path(stored.__file__).parents[2]}:{tmp_path}")
    mine = ["--config-dir", str(tmp_path / "mine")]
    line = [*scenes.NETWORK, *scenes.SHORT, *scenes.QUIET, *scenes.data(tmp_path)]
    assert main(["train", *mine, *line, "protocol=own", "folder=run"]) == 0
    assert main(["train", "-m", *mine, *line, "protocol=own", "seed=5", "folder=sweep"]) == 0
    capfd.readouterr()
    picture = write(tmp_path / "in.png", photo(height=16, width=16))
    apply = ["apply", "weights=run", f"input={picture}", "output=out.png", *scenes.QUIET]
    for command in (["train", "resume=run"], apply):
        assert main(command) == 2
        assert "'own_protocol.Mine' as protocol" in capfd.readouterr().err
        assert main([command[0], *mine, *command[1:]]) == 0
    assert (tmp_path / "out.png").exists()
    capfd.readouterr()
    assert main(["report", "run", "folder=page"]) == 0, "a report builds nothing"


def test_what_was_trusted_is_so_no_longer(config):
    evil = scenes.changed(config, ("protocol",), {"_target_": "own.Part"})
    with stored.trusting(copy.deepcopy(evil)):
        assert stored.stored(evil, "a file")["protocol"] == {"_target_": "own.Part"}
        with pytest.raises(UserError, match="another kind"):
            stored.stored(scenes.changed(config, ("task",), {"_target_": "own.Part"}), "a file")
    with pytest.raises(UserError, match="nothing was loaded"):
        stored.stored(evil, "a file")


def test_weights_are_read_without_their_data(root, config, tmp_path: Path):
    """The places that only training builds are held against `conf` too, and not built."""
    held = scenes.entries(config)
    gone = scenes.changed(config, ("data", "targets"), "/nowhere")
    run = scenes.run(tmp_path / "run", {**held, "config": gone})
    assert weights.load(run).backbone()
