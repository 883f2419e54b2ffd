"""What is mistyped is one sentence and exit code 2, and leaves nothing behind."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from restore.cli import main
from restore.models import checkpoint
from tests.helpers import stored_scene as scenes
from tests.helpers.pictures import photo, write

STAGE = "stages.reconstruction.objectives.restoration"
APPLY = ["apply", "weights=run", *scenes.QUIET]


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder with three photos, a run, and names that look like something else."""
    root = tmp_path_factory.mktemp("mistakes")
    scenes.run(root / "run", scenes.entries(scenes.configuration(root)))
    for name in ("in", "~t", "${x}", "2024"):
        write(root / f"{name}.png", photo(height=16, width=16))
    (root / "true").mkdir()
    return root


@pytest.fixture(autouse=True)
def here(place: Path, monkeypatch) -> Path:
    monkeypatch.chdir(place)
    return place


def train(*more: str) -> list[str]:
    data = ["data=folder", "data.targets=photos", "data.valid=1", "data.test=1"]
    return ["train", *scenes.NETWORK, *scenes.SHORT, *scenes.QUIET, *data, *more]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (train("trainer=null"), "trainer=null: no such choice"),
        (train("task=3"), "task=3: no such choice"),
        (train("seed=99999999999999999999"), "2^63"),
        (train(f"{STAGE}.optimizer.lr=nan"), "finite"),
        (train(f"{STAGE}.optimizer.lr=inf"), "finite"),
        (train(f"{STAGE}.optimizer.lr=1e30"), "less than"),
        (train(f"+{STAGE}.param_groups.body.lr=1e30"), "less than"),
        (train(f"{STAGE}.optimizer.betas=[0.9,1.5]"), "betas[1]"),
        (train(f"{STAGE}.optimizer.eps=-1"), "eps"),
        (train(f"+{STAGE}.optimizer.weight_decay=-1"), "weight_decay"),
        (train(f"+{STAGE}.optimizer._args_=[1]"), "_args_"),
        (train("trainer.batch_size=3", "trainer.accumulate_steps=2"), "does not divide"),
        (train("folder="), "without a value"),
        (train("data.targets=''"), "without a value"),
        (train("=3"), "names no setting"),
        (train("folder=in.png/run"), "cannot make the folder"),
        (["train", "-m", "resume=run"], "resume: to resume a sweep"),
        (["train", "-m", "protocol=glob(nothing*)"], "nothing that it stands for"),
        (["evaluate", "-m", "weights=run", "limit=range(3,1)"], "nothing that it stands for"),
        (["train", "-x"], "no option -x"),
        (["train", "-m", "backbone=edsr,wdsr_a", "seed=range(x)"], "seed=range(x): input should"),
        (["report", ""], "without a name"),
        (["train", "--experimental-rerun", "x"], "--experimental-rerun"),
        (["train", "--config-dir"], "--config-dir"),
        (["train", "resume=run", "data.targets=/nowhere"], "/nowhere"),
        (["train", "resume=run", "data.valid=0.5"], "data.targets"),
        (["train", "resume=run", "data.other=a/b"], "data.targets"),
        (["train", "resume=run", "seed=2"], "cannot be changed"),
        (["train", "resume=2024"], "2024 is not a run folder"),
        (["evaluate", "-m", "weights=nowhere", "limit=1,2", "folder=a/b"], "nowhere"),
        ([*APPLY, "input=", "output=o.png"], "without a value"),
        (["apply", "weights=run", "input=/", *scenes.QUIET], "give output"),
        (["apply", "weights=/etc/passwd", "input=in.png"], "neither torch.save nor safetensors"),
        (["scales", "weights=run", "runtime.compile=true"], "runtime.compile"),
        (["compare", "methods.own=run", "runtime.compile=true"], "runtime.compile"),
    ],
)
def test_one_sentence(line: list[str], said: str, here: Path, capfd):
    before = {path for path in here.rglob("*") if "run" not in path.parts}
    assert main(line) == 2
    told = capfd.readouterr().err.strip()
    assert len(told.splitlines()) == 1, told
    assert said in told
    assert {path for path in here.rglob("*") if "run" not in path.relative_to(here).parts} <= before


def test_names_are_taken_as_they_are(here: Path):
    for name in ("~t.png", "${x}.png", "./2024.png"):
        assert main([*APPLY, f"input={name}", f"output=out_{Path(name).stem[:1]}.png"]) == 0
    made = [path.read_bytes() for path in sorted(here.glob("out_?.png"))]
    assert len(made) == 3
    assert len(set(made)) == 1
    for path in here.glob("out_?.png"):
        path.unlink()


def test_a_number_is_a_name_where_a_name_is_asked_for(here: Path, tmp_path: Path, monkeypatch):
    for name in ("photos", "in.png"):
        os.symlink(here / name, tmp_path / name)
    shutil.copytree(here / "photos", tmp_path / "1.50")
    shutil.copytree(here / "run", tmp_path / "false")
    monkeypatch.chdir(tmp_path)
    assert main(train("data.targets=1.50", "folder=007")) == 0
    line = ["weights=false", "input=1.50", "output=true", *scenes.QUIET]
    assert main(["apply", *line]) == 0
    assert sorted(path.name for path in Path("true").iterdir()) == ["0.png", "1.png", "2.png"]
    listed = ["007", "1.50", "false", "in.png", "photos", "true"]
    assert sorted(path.name for path in Path().iterdir()) == listed


def test_what_is_seen_late_leaves_the_folder_to_the_corrected_command(here: Path, tmp_path: Path):
    """The last of three pictures does not fit the task."""
    shutil.copytree(here / "photos", tmp_path / "lows")
    for number, side in enumerate((16, 16, 5)):
        write(tmp_path / "lows" / f"{number}.png", photo(height=side, width=side))
    line = ["evaluate", "weights=run", *train()[-4:], *scenes.QUIET]
    line += ["loader.workers=0", "wandb.mode=disabled", "metric=[psnr]", "pictures=3", "save=true"]
    folder = tmp_path / "new" / "evaluation"
    assert main([*line, f"data.lows={tmp_path / 'lows'}", f"folder={folder}"]) == 2
    assert not folder.parent.exists()
    assert main([*line, f"folder={folder}"]) == 0
    more = ["stages.reconstruction.steps=3", "data.test=0", f"folder={tmp_path / 'a' / 'run'}"]
    assert main(train(*more, f"data.lows={tmp_path / 'lows'}")) == 2
    assert not (tmp_path / "a").exists()


def test_a_tilde_is_the_users_folder_everywhere(here: Path, monkeypatch, tmp_path: Path):
    monkeypatch.setenv("HOME", str(tmp_path))
    shutil.copytree(here / "photos", tmp_path / "photos")
    shutil.copytree(here / "run", tmp_path / "run")
    line = [*train("data.targets=~/photos", "init=~/run", "folder=~/new")]
    assert main(line) == 0
    assert (tmp_path / "new" / "summary.json").exists()
    assert main(["apply", "weights=~/new", "input=~/photos", "output=~/out", *scenes.QUIET]) == 0
    assert len(list((tmp_path / "out").iterdir())) == 3
    assert main(["report", "~/new", "folder=~/page"]) == 0
    assert not (here / "~").exists()


def test_moved_data_are_named_when_a_run_goes_on(tmp_path: Path, here: Path):
    line = train("folder=moved", "stages.reconstruction.steps=2", "trainer.save_every=1")
    shutil.copytree(here / "photos", tmp_path / "elsewhere")
    try:
        (tmp_path / "elsewhere").rename("here")
        assert main([*line, "data.targets=here"]) == 0
        Path("here").rename(tmp_path / "2025")
        assert main(["train", "resume=moved", f"data.targets={tmp_path / 'elsewhere'}"]) == 2
        assert main(["train", "resume=moved", "data.test=0.5"]) == 2
        assert main(["train", "resume=moved", f"data.targets={tmp_path / '2025'}"]) == 0
        assert main(["train", "resume=moved"]) == 0, "the folder knows where they are now"
    finally:
        shutil.rmtree(here / "moved", ignore_errors=True)


@pytest.mark.parametrize(
    "encoding", ["cp1252", *(pytest.param(x, marks=pytest.mark.slow) for x in ("latin-1", "ascii"))]
)
def test_a_screen_of_another_encoding(encoding: str, here: Path):
    environment = {
        **os.environ,
        "PYTHONIOENCODING": encoding,
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    line = [sys.executable, "-m", "restore", *APPLY, "input=天.png", "output=out.png"]
    done = subprocess.run(line, capture_output=True, cwd=here, env=environment)
    assert done.returncode == 2
    assert b"Traceback" not in done.stderr
    assert b"there is no such file" in done.stderr


def damaged(run: Path, goal: Path, **entries) -> Path:
    """A copy of a run whose last checkpoint has other entries; None leaves one out."""
    shutil.copytree(run, goal)
    path = goal / "checkpoints" / "last.pt"
    held = {**checkpoint.read(path), **entries}
    held.pop("format")
    left_out = [key for key, value in entries.items() if value is None]
    checkpoint.write(path, {key: value for key, value in held.items() if key not in left_out})
    return goal


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("trained")
    line = [*scenes.NETWORK, *scenes.SHORT, *scenes.QUIET, *scenes.data(root)]
    assert main(["train", *line, f"folder={root / 'run'}"]) == 0
    return root / "run"


@pytest.mark.slow
def test_what_a_run_needs_to_go_on(trained: Path, tmp_path: Path, capfd):
    state = checkpoint.read(trained / "checkpoints" / "last.pt")
    name = "reconstruction/restoration"
    optimizer = state["optimizers"][name]
    moments = {k: {**v, "exp_avg": torch.zeros(1, 2)} for k, v in optimizer["state"].items()}
    cases = [
        {key: None} for key in ("optimizers", "models", "step", "scaler", "unlogged", "config")
    ]
    cases += [{"step": 1e9}, {"step": 10**9}, {"optimizers": {}}, {"unlogged": []}]
    cases += [{"models": {"other": {}}}, {"best": "good"}, {"spent": 3}]
    cases += [{"optimizers": {name: {**optimizer, "state": moments}}}]
    cases += [{"optimizers": {name: {"state": {}, "param_groups": []}}}]
    for number, entries in enumerate(cases):
        folder = damaged(trained, tmp_path / str(number), **entries)
        capfd.readouterr()
        assert main(["train", f"resume={folder}"]) == 2, entries.keys()
        told = capfd.readouterr().err.strip()
        assert len(told.splitlines()) == 1, told
        assert "last.pt" in told
    odd = Path(shutil.copytree(trained, tmp_path / "odd"))
    (odd / "metrics.csv").write_bytes(b"step,name,value\n\xff\xfe,\x00")
    assert main(["train", f"resume={odd}"]) == 2
    assert "metrics.csv is damaged" in capfd.readouterr().err
    assert main(["train", f"resume={trained}"]) == 0


def test_a_result_that_is_no_number_is_told(trained: Path, tmp_path: Path, capfd):
    """Sound weights, but their products do not fit."""
    state = checkpoint.read(trained / "checkpoints" / "last.pt")
    huge = {n: torch.full_like(x, 3e38) for n, x in state["models"]["backbone"].items()}
    folder = damaged(trained, tmp_path / "run", models={"backbone": huge})
    path = folder / "checkpoints"
    held = checkpoint.read(path / "last.pt")
    checkpoint.write(path / "best.pt", {**held, "ema": None})
    picture = write(tmp_path / "lake.png", photo(height=16, width=16))
    capfd.readouterr()
    line = ["apply", f"weights={folder}", f"input={picture}", f"output={tmp_path / 'o.png'}"]
    assert main([*line, *scenes.QUIET]) == 2
    told = capfd.readouterr().err
    assert "lake.png" in told
    assert "fp32" in told
    assert not (tmp_path / "o.png").exists()
