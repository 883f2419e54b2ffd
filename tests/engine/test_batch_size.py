"""`trainer.batch_size=auto` finds what fits, and leaves the run as the typed number makes it."""

import copy
import math
from pathlib import Path

import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import settings as rules
from hypothesis import strategies as some

from restore.cli import main
from restore.config import check, compose, plain, settings
from restore.engine import memory
from restore.engine.batch_size import Trials, by_line, by_trial, sized
from restore.engine.batch_size_probe import BatchSizeProbe
from restore.engine.training import Training
from restore.models import checkpoint
from restore.utils.files import to_yaml
from tests.helpers.tiny import ALONE, CROPS, NETWORK

TINY = [
    *NETWORK,
    *CROPS,
    "trainer.log_every=1",
    "trainer.valid_every=100",
    "trainer.pictures=0",
    "stages.reconstruction.epochs=null",
    "stages.reconstruction.steps=2",
    *ALONE,
]


def configured(folder: Path, *overrides: str) -> dict:
    return plain(compose("train", [f"folder={folder}", *TINY, *overrides]))


def begun(folder: Path, *overrides: str) -> Training:
    config = configured(folder, *overrides)
    return Training(config, check(config, settings.Train), folder, torch.device("cpu"))


def largest(most: int, quantum: int, limit: int) -> int:
    """The plain answer: the last multiple of the quantum that is at most both."""
    return max(range(0, min(most, limit) + 1, quantum))


class Device:
    """A device of so many bytes that refuses a step that needs more, as CUDA does."""

    def __init__(self, memory: int, start: int, item: int):
        self.memory, self.start, self.item = memory, start, item
        self.tried: list[int] = []

    def needs(self, size: int) -> int:
        return self.start + size * self.item

    def step(self, size: int) -> None:
        self.tried.append(size)
        if self.needs(size) > self.memory:
            raise torch.OutOfMemoryError("out of memory")

    def fits(self, size: int) -> bool:
        try:
            self.step(size)
        except torch.OutOfMemoryError:
            return False
        return True

    def peak(self, size: int) -> int | None:
        return self.needs(size) if self.fits(size) else None

    @property
    def most(self) -> int:
        return max(0, (self.memory - self.start) // self.item)


devices = some.builds(
    Device, some.integers(0, 10**6), some.integers(0, 10**5), some.integers(1, 10**5)
)
quanta = some.integers(1, 12)
limits = some.integers(12, 2000)


@rules(deadline=None, max_examples=40)
@given(devices, quanta, limits)
def test_trials_find_the_largest(device: Device, quantum: int, limit: int):
    assert by_trial(device.fits, quantum, limit) == largest(device.most, quantum, limit)
    assert all(size % quantum == 0 and 0 < size <= limit for size in device.tried)
    assert len(device.tried) <= 2 * math.log2(limit / quantum + 1) + 2


@rules(deadline=None, max_examples=40)
@given(devices, quanta, limits)
def test_a_line_finds_the_largest_to_a_tenth(device: Device, quantum: int, limit: int):
    found = by_line(device.peak, device.memory, quantum, limit)
    assert found <= largest(device.most, quantum, limit)
    aim = Device(int(0.95 * device.memory), device.start, device.item).most
    assert found >= largest(aim, quantum, limit) / 1.05 - quantum
    assert (found == 0) == (device.most < quantum)
    fitting = 0
    for size in device.tried:
        assert size <= max(quantum, 4 * fitting), "it must not run far ahead of what it has seen"
        fitting = max(fitting, size if device.needs(size) <= device.memory else 0)
    assert len(device.tried) <= 12


@rules(deadline=None, max_examples=40)
@given(some.lists(some.integers(0, 1000), min_size=60, max_size=60), some.integers(1, 20000))
def test_whatever_the_memory_does_what_is_found_was_seen_to_fit(steps, budget):
    peaks = [sum(steps[: size + 1]) for size in range(60)]
    tried = []

    def peak(size: int) -> int | None:
        tried.append(size)
        return peaks[size] if peaks[size] <= 1.2 * budget else None

    found = by_line(peak, budget, 1, 59)
    assert found == 0 or (found in tried and peaks[found] <= budget)
    assert (found == 0) == (peaks[1] > budget)
    assert len(tried) == len(set(tried)), "no size is tried twice"


@pytest.mark.parametrize("version", [1, 2])
def test_what_is_available_heeds_every_control_group_above(tmp_path: Path, version, monkeypatch):
    root = tmp_path if version == 2 else tmp_path / "memory"
    names = {
        1: ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
        2: ("memory.max", "memory.current", "inactive_file"),
    }[version]

    def limit(folder: Path, most: object, used: int, files: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / names[0]).write_text(f"{most}\n")
        (folder / names[1]).write_text(f"{used}\n")
        (folder / "memory.stat").write_text(f"anon 1\n{names[2]} {files}\n")

    groups = tmp_path / "groups"
    groups.write_text("5:cpu:/else\n" + ("4:memory:" if version == 1 else "0::") + "/job/step\n")
    assert memory.available(groups, tmp_path) > 10**7
    limit(root / "job" / "step", "max" if version == 2 else 2**63 - 4096, 5000, 0)
    assert memory.available(groups, tmp_path) > 10**7
    limit(root / "job", 10_000, 7000, 500)
    assert memory.available(groups, tmp_path) == 3500
    limit(root, 4_000, 3000, 0)
    assert memory.available(groups, tmp_path) == 1000
    monkeypatch.setenv(memory.SHARE, "900")
    assert memory.available(groups, tmp_path) == 900, "nor more than a sweep gives its job"


def test_a_rehearsal_changes_no_weights_and_plays_every_stage(tmp_path: Path):
    both = ["schedule=[reconstruction,full]", "stages.full.epochs=null", "stages.full.steps=3"]
    terms = "stages.full.objectives.restoration.losses"
    both += [f"{terms}.perceptual.weight=0", f"{terms}.transferal.weight=0"]
    training = begun(tmp_path, *both, "trainer.batch_size=2", "trainer.accumulate_steps=2")
    learner = training.learner
    before = copy.deepcopy({name: m.state_dict() for name, m in learner.models.items()})
    BatchSizeProbe(training, world=1).take(4)
    for name, model in learner.models.items():
        assert all(torch.equal(v, before[name][k]) for k, v in model.state_dict().items()), name
    for stage in learner.stages:
        for objective in stage.objectives.values():
            held = objective.optimizer.state
            assert sum("exp_avg" in entry for entry in held.values()) > 0.9 * len(
                objective.parameters
            )


def test_where_steps_differ_the_largest_is_rehearsed(tmp_path: Path):
    own = ("backbone.", "task.reference", "pretrained", "stages.")
    line = ["backbone=asdn", f"folder={tmp_path}", *(o for o in TINY if not o.startswith(own))]
    line += ["backbone.mapping.blocks=1", "backbone.mapping.width=8", "backbone.mapping.growth=8"]
    config = plain(compose("train", [*line, "trainer.batch_size=1"]))
    training = Training(config, check(config, settings.Train), tmp_path, torch.device("cpu"))
    probe = BatchSizeProbe(training, world=1)
    task = training.task
    for stage in training.learner.stages:
        task.set_step(probe.starts[stage.name], training.learner.total)
        drawn = task.drawn
        others = []
        for step in range(stage.first, stage.first + 30):
            task.set_step(step, training.learner.total)
            others.append(task.drawn)
        # A small scale leaves a large low picture.
        assert drawn <= min(others) < max(others)


@pytest.mark.slow
def test_a_process_over_its_budget_ends_and_the_next_size_is_tried_afresh(tmp_path: Path):
    config = sized(configured(tmp_path), 1)
    order = {"config": to_yaml(config), "folder": str(tmp_path), "device": "cpu"}
    tried: list[int] = []
    with Trials({**order, "world": 1, "share": 0.5, "budget": 10**8}, tried.append) as trials:
        assert trials.items == 5
        assert trials.peak(256) is None
        alone = trials.peak(1)
    assert tried == [256, 1]
    assert alone is not None
    assert 10**7 < alone < 10**8


@pytest.mark.slow
def test_a_run_is_that_of_the_number_typed_and_never_looks_again(tmp_path: Path, capsys):
    found, typed = tmp_path / "found", tmp_path / "typed"
    rate = ["trainer.lr_scaling=sqrt", "trainer.base_batch_size=1"]
    # More than the five pictures there are: each time they come in another crop.
    auto = [*TINY, *rate, "trainer.batch_size=auto", "trainer.max_batch_size=7"]
    assert main(["train", f"folder={found}", *auto]) == 0
    said = capsys.readouterr().out
    assert "trainer.batch_size=auto: 7, which take" in said
    assert "because of trainer.max_batch_size" in said
    assert "batches of 7, learning rates × 2.646" in said
    assert yaml.safe_load((found / "config.yaml").read_text())["trainer"]["batch_size"] == 7
    assert main(["train", f"folder={typed}", *TINY, *rate, "trainer.batch_size=7"]) == 0
    lines = [
        [line for line in (folder / "metrics.csv").read_text().splitlines() if "_per_s" not in line]
        for folder in (found, typed)
    ]
    assert lines[0] == lines[1]
    assert len(lines[0]) > 5
    one, other = (checkpoint.read(f / "checkpoints" / "last.pt") for f in (found, typed))
    for name, tensor in one["models"]["backbone"].items():
        assert torch.equal(tensor, other["models"]["backbone"][name])
    capsys.readouterr()
    assert main(["train", f"resume={found}", "runtime.threads=1"]) == 0
    assert "auto" not in capsys.readouterr().out


@pytest.mark.slow
def test_what_cannot_fit_is_said_and_leaves_no_run(tmp_path: Path, capfd):
    line = [*TINY, "trainer.batch_size=auto", "trainer.memory_fraction=0.0001"]
    assert main(["train", f"folder={tmp_path / 'run'}", *line]) == 2
    said = capfd.readouterr().err.strip().splitlines()[-1]
    assert "memory" in said
    assert "trainer.batch_size=auto" in said
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_several_processes_agree_on_no_more_than_an_epoch(tmp_path: Path):
    line = [*TINY, "trainer.batch_size=auto", "runtime.devices=2", "trainer.memory_fraction=0.3"]
    line += ["stages.reconstruction.steps=null", "stages.reconstruction.epochs=1"]
    assert main(["train", f"folder={tmp_path / 'run'}", *line]) == 0
    config = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert config["trainer"]["batch_size"] == 4, "the largest even number of five items"
    assert checkpoint.read(tmp_path / "run" / "checkpoints" / "last.pt")["step"] == 2


@pytest.mark.parametrize(("rule", "factor"), [("constant", 1), ("linear", 4), ("sqrt", 2)])
def test_the_rule_of_rates(tmp_path: Path, rule, factor):
    settled = [f"trainer.lr_scaling={rule}", "trainer.base_batch_size=2", "trainer.batch_size=8"]
    training = begun(tmp_path, *settled)
    (stage,) = training.learner.stages
    (objective,) = stage.objectives.values()
    objective.set_lr(0)
    rates = [group["lr"] for group in objective.optimizer.param_groups]
    assert rates == pytest.approx([1e-4 * factor, 1e-5 * factor], rel=1e-12)
