"""The stage with all losses: every game, in the published order, the same however it is run."""

import copy
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from restore.cli import main
from restore.config import check, compose, plain, registry, settings
from restore.data.loading import collate, to_device
from restore.engine.training import Training
from restore.errors import UserError
from restore.losses.penalties import interpolated
from restore.models import checkpoint
from tests.helpers.runs import numbers
from tests.helpers.tiny import ALONE, CROPS, NETWORK

# A network, critics and pictures small enough that a step takes a fraction of a second.
TINY = [
    *NETWORK,
    "backbone.variance_init=true",
    *CROPS,
    "trainer.batch_size=4",
    "trainer.log_every=1",
    "trainer.valid_every=100",
    "trainer.pictures=0",
    "schedule=[full]",
    "stages.full.epochs=null",
    "stages.full.steps=4",
    *ALONE,
]
# A game in which nothing is drawn at random, with a critic that normalises over the batch.
FIXED = [
    "discriminator=srgan",
    "discriminator.features=8",
    "adversarial=relativistic",
    "loss@stages.full.objectives.critic.losses.penalty=r1",
]
CRITIC = "stages.full.objectives.critic"


def train(folder: Path, *overrides: str) -> int:
    return main(["train", f"folder={folder}", *TINY, *overrides])


def begun(folder: Path, *overrides: str) -> Training:
    """A run that is built but not begun."""
    config = plain(compose("train", [f"folder={folder}", *TINY, *overrides]))
    return Training(config, check(config, settings.Train), folder, torch.device("cpu"))


def step(training: Training) -> dict[str, float]:
    """One step on its first four items, as the loop takes it."""
    batch = to_device(collate([training.items[i] for i in range(4)]), training.device)
    return training.learner.advance(training.learner.stages[0], [batch])


def models(folder: Path) -> dict[str, torch.Tensor]:
    held = checkpoint.read(folder / "checkpoints" / "last.pt")["models"]
    return {f"{m}.{name}": value for m, state in held.items() for name, value in state.items()}


@pytest.mark.parametrize(
    ("rule", "critic"),
    [
        *(
            pytest.param(rule, ["discriminator=ttsr"], marks=pytest.mark.slow)
            for rule in registry.names("adversarial")
        ),
        ("hinge", ["discriminator=srgan", "discriminator.features=8"]),
        ("relativistic", ["discriminator=unet", "discriminator.features=8"]),
    ],
)
def test_every_game_changes_both_players_and_stays_finite(tmp_path: Path, rule, critic):
    lighter = "stages.full.objectives.restoration.losses.perceptual.weight=0"
    training = begun(tmp_path, f"adversarial={rule}", *critic, lighter)
    before = copy.deepcopy(training.learner.models)
    for _ in range(2):
        values = step(training)
    assert all(np.isfinite(value) for value in values.values())
    for name, model in training.learner.models.items():
        changed = [
            not torch.equal(a, b)
            for a, b in zip(model.parameters(), before[name].parameters(), strict=True)
        ]
        assert sum(changed) > 0.8 * len(changed), name
        assert all(torch.isfinite(p).all() for p in model.parameters())
        assert all(p.requires_grad for p in model.parameters())


def test_a_step_is_the_published_one(tmp_path: Path):
    """Against the published loop written out: critic on what was restored, then the backbone."""
    training = begun(tmp_path, f"{CRITIC}.steps_per_iteration=2")
    # The published critic's step and the terms of PROTOCOLS, from the same start.
    net, critic = (
        copy.deepcopy(training.learner.models[name]) for name in ("backbone", "discriminator")
    )
    vgg = training.learner.stages[0].objectives["restoration"].losses["perceptual"].layers
    extractor = [p for n, p in net.named_parameters() if n.startswith("extractor.")]
    main_ = [p for n, p in net.named_parameters() if not n.startswith("extractor.")]
    groups = [{"params": main_}, {"params": extractor, "lr": 1e-5}]
    adam = torch.optim.Adam(groups, lr=1e-4, betas=(0.9, 0.999), eps=1e-8)
    adam_critic = torch.optim.Adam(critic.parameters(), lr=1e-4, betas=(0.0, 0.9), eps=1e-8)
    mean = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
    std = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    batch = collate([training.items[i] for i in range(4)])
    for number in range(2):
        values = step(training)
        seed = np.random.SeedSequence([1, number, 0]).generate_state(1, np.uint64)[0] >> 1
        torch.manual_seed(int(seed))
        problem = training.task.prepare(batch)
        real = problem.target * 2 - 1
        answer = net(**problem.inputs)
        fake = answer.image * 2 - 1
        for _ in range(2):
            adam_critic.zero_grad()
            game = (critic((fake.detach() + 1) / 2) - critic((real + 1) / 2)).mean()
            hat = interpolated(real, fake.detach(), torch.rand(4)).requires_grad_()
            (slope,) = torch.autograd.grad(critic((hat + 1) / 2).sum(), hat, create_graph=True)
            (game + 10 * (slope.flatten(1).norm(dim=1) - 1).square().mean()).backward()
            adam_critic.step()
        frozen = copy.deepcopy(net.extractor).requires_grad_(False)
        textures, score = answer.textures, answer.score
        transferal = 0.0
        for texture, feature in zip(textures, frozen((fake + 1) / 2)[::-1], strict=True):
            s = F.interpolate(score, texture.shape[-2:], mode="bicubic").sigmoid()
            transferal = transferal + F.mse_loss(feature * s, texture * s) / 3
        perceptual = F.mse_loss(*(vgg(((x + 1) / 2 - mean) / std) for x in (fake, real)))
        loss = F.l1_loss(fake, real) + 0.01 * perceptual + 0.01 * transferal
        loss = loss - 0.001 * critic((fake + 1) / 2).mean()
        adam.zero_grad()
        loss.backward()
        adam.step()
        assert values["restoration/loss"] == pytest.approx(loss.item(), rel=1e-4)
        assert values["loss"] == values["restoration/loss"]
    for own, plainly in (
        (training.learner.models["backbone"], net),
        (training.learner.models["discriminator"], critic),
    ):
        for (name, a), b in zip(own.named_parameters(), plainly.parameters(), strict=True):
            # Adam's first steps are as long as the rate, whichever way a rounding error points.
            apart = (a - b).abs()
            assert apart.mean() < 2e-6, name


def test_the_critic_steps_as_often_as_told(tmp_path: Path):
    folder = tmp_path / "run"
    assert train(folder, f"{CRITIC}.steps_per_iteration=3", "stages.full.steps=2") == 0
    held = checkpoint.read(folder / "checkpoints" / "last.pt")["optimizers"]
    counts = {
        name: {int(entry["step"]) for entry in state["state"].values()}
        for name, state in held.items()
    }
    assert counts == {"full/critic": {6}, "full/restoration": {2}}
    assert "RANDOM" in (log := (folder / "log.txt").read_text())
    assert "full.restoration.perceptual" in log


def test_the_backbone_may_step_twice_each_time_from_a_new_answer(tmp_path: Path):
    node = "stages.full.objectives.restoration"
    # A rate at which the answer is another after one step.
    more = [
        f"{node}.losses.{term}.weight=0" for term in ("perceptual", "transferal", "adversarial")
    ]
    more += [f"{node}.optimizer.lr=0.01"]
    once, twice = begun(tmp_path, *more), begun(tmp_path, *more, f"{node}.steps_per_iteration=2")
    first, second = (step(once)["restoration/loss"] for _ in range(2))
    assert step(twice)["restoration/loss"] == pytest.approx((first + second) / 2, rel=1e-4)
    assert first != pytest.approx(second, rel=1e-2)


def test_the_best_checkpoint_is_of_the_last_stage(tmp_path: Path):
    folder = tmp_path / "run"
    node = "stages.full.objectives.restoration"
    more = ["schedule=[reconstruction,full]", "backbone.global_skip=true", "trainer.valid_every=1"]
    more += [
        f"stages.{name}.{key}"
        for name in ("reconstruction", "full")
        for key in ("epochs=null", "steps=1")
    ]
    # The second stage spoils what the first left, and is yet what was asked for in the end.
    more += [f"{node}.optimizer.lr=0.1", f"{node}.losses.perceptual.weight=0"]
    assert train(folder, *more) == 0
    psnr = {step: v for (step, name), v in numbers(folder).items() if name.startswith("valid/psnr")}
    assert psnr[2] < psnr[1]
    assert checkpoint.read(folder / "checkpoints" / "best.pt")["step"] == 2


def test_a_step_of_the_backbone_leaves_the_critic_without_gradients(tmp_path: Path):
    training = begun(tmp_path)
    critic, backbone = training.learner.models["discriminator"], training.learner.models["backbone"]
    step(training)
    for model in (critic, backbone):
        model.zero_grad(set_to_none=True)
    problem = training.task.prepare(collate([training.items[0]]))
    restored = backbone(**problem.inputs)
    objectives, models = training.learner.stages[0].objectives, training.learner.models
    sum(objectives["restoration"].terms(restored, problem, models).values()).backward()
    assert all(p.grad is None for p in critic.parameters())
    assert all(p.grad is not None for p in backbone.parameters())
    backbone.zero_grad(set_to_none=True)
    restored = backbone(**problem.inputs)
    sum(objectives["critic"].terms(restored, problem, models).values()).backward()
    assert all(p.grad is None for p in backbone.parameters())
    assert all(p.grad is not None for p in critic.parameters())


@pytest.mark.slow
def test_going_on_with_a_critic_equals_never_having_stopped(tmp_path: Path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    more = ["discriminator=srgan", "discriminator.features=8", "trainer.ema=0.9"]
    more += ["trainer.save_every=1"]
    assert train(whole, *more) == 0
    command = [sys.executable, "-m", "restore", "train", f"folder={parts}", *TINY, *more]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    end = time.monotonic() + 120
    while not (parts / "checkpoints" / "last.pt").exists():
        assert process.poll() is None, process.stdout.read()
        assert time.monotonic() < end
        time.sleep(0.005)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode in (0, 130), output
    assert main(["train", f"resume={parts}"]) == 0
    assert numbers(parts) == numbers(whole)
    a, b = models(parts), models(whole)
    assert any(name.startswith("discriminator.") and "running_mean" in name for name in a)
    assert all(torch.equal(a[name], b[name]) for name in b)


@pytest.mark.slow
def test_two_processes_equal_one(tmp_path: Path):
    # With places between the pictures that the penalty draws at random.
    more = [*FIXED[:3], "stages.full.steps=2"]
    assert train(tmp_path / "one", *more) == 0
    assert train(tmp_path / "two", *more, "runtime.devices=2") == 0
    values, expected = numbers(tmp_path / "two"), numbers(tmp_path / "one")
    assert values.keys() == expected.keys()
    for key, value in expected.items():
        assert values[key] == pytest.approx(value, rel=2e-3, abs=1e-4), key
    a, b = models(tmp_path / "two"), models(tmp_path / "one")
    for name in b:
        torch.testing.assert_close(a[name], b[name], atol=5e-4, rtol=5e-3)


def test_micro_batches_equal_a_whole_one(tmp_path: Path):
    # A critic without normalisation, which would be over each micro-batch on its own.
    game = [*FIXED[2:], "discriminator=ttsr", "adversarial=hinge"]
    one, other = (begun(tmp_path, *game) for _ in range(2))
    values = step(one)
    batches = [collate([other.items[i] for i in places]) for places in ((0, 1), (2, 3))]
    assert other.learner.advance(other.learner.stages[0], batches) == pytest.approx(
        values, rel=1e-4, abs=1e-6
    )
    for name, model in one.learner.models.items():
        for a, b in zip(model.parameters(), other.learner.models[name].parameters()):
            assert (a.grad - b.grad).abs().max() <= 1e-4 * a.grad.abs().max() + 1e-8, name


@pytest.mark.parametrize("precision", ["bf16", pytest.param("fp16", marks=pytest.mark.slow)])
def test_half_precision_plays_too(tmp_path: Path, precision):
    # The CPU takes its time over convolutions in fp16.
    lighter = "stages.full.objectives.restoration.losses.perceptual.weight=0"
    training = begun(tmp_path, f"runtime.precision={precision}", lighter)
    before = copy.deepcopy(training.learner.models)
    for _ in range(2):
        assert all(np.isfinite(value) for value in step(training).values())
    for name, model in training.learner.models.items():
        assert all(torch.isfinite(p).all() for p in model.parameters())
        pairs = zip(model.parameters(), before[name].parameters())
        assert any(not torch.equal(a, b) for a, b in pairs)


def test_what_is_infinite_leaves_a_summary_that_any_program_reads(tmp_path: Path):
    Image.new("RGB", (40, 40)).save(tmp_path / "black.png")
    data = ["data=folder", "data.valid=1"]
    data += [f"data.{kind}={tmp_path}" for kind in ("targets", "references")]
    first = ["schedule=[reconstruction]", "stages.reconstruction.epochs=null"]
    more = [*first, "stages.reconstruction.steps=1", "backbone.global_skip=true", *data]
    assert train(tmp_path / "run", *more, "trainer.batch_size=1") == 0

    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is not JSON")

    text = (tmp_path / "run" / "summary.json").read_text()
    assert json.loads(text, parse_constant=refuse)["best"] == "inf"


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (
            ["discriminator.size=160"],
            "discriminator=ttsr is made for pictures of 160×160, not 32×32",
        ),
        (
            ["discriminator=unet", "task.crop=4", "task.reference_crop=4"],
            "discriminator=unet needs pictures of at least 8 pixels a side, not 4×4",
        ),
        (
            ["discriminator=srgan", "task.crop=8", "task.reference_crop=8"],
            "the perceptual loss at relu5_1 needs pictures of at least 16 pixels a side, not 8×8",
        ),
    ],
)
def test_crops_that_do_not_fit_are_refused_before_any_work(tmp_path: Path, capfd, overrides, said):
    assert train(tmp_path / "run", *overrides) == 2
    error = capfd.readouterr().err.strip()
    assert said in error
    assert len(error.splitlines()) == 1
    assert not (tmp_path / "run" / "config.yaml").exists()


def test_a_term_without_weight_needs_not_even_its_file(tmp_path: Path, capfd):
    node = "stages.full.objectives.restoration"
    missing = f"{node}.losses.perceptual.weights=missing.pth"
    assert train(tmp_path / "a", missing, "stages.full.steps=1") == 2
    assert "missing.pth" in capfd.readouterr().err
    training = begun(tmp_path / "b", missing, f"{node}.losses.perceptual.weight=0")
    assert set(training.learner.stages[0].objectives["restoration"].losses) == {
        "reconstruction",
        "transferal",
        "adversarial",
    }
    nothing = [f"{CRITIC}.losses.{name}.weight=0" for name in ("adversarial", "penalty")]
    with pytest.raises(UserError, match="every loss has the weight 0"):
        begun(tmp_path / "c", *nothing)


# Recipe → epochs by stage, items a step, weights of the stage `full`.
RECIPES = {
    "ttsr": ([("reconstruction", 2), ("full", 50)], 9, [1, 0.01, 0.01, 0.001]),
    "ttsr_reconstruction": ([("reconstruction", 200)], 9, None),
    "thesis_0_1": ([("reconstruction", 30)], 8, None),
    "thesis_0_2": ([("reconstruction", 2), ("full", 30)], 6, [1, 0.01, 0, 0.001]),
    "thesis": ([("reconstruction", 10), ("full", 500)], 20, [1, 0.01, 0, 0.01]),
}


def test_recipes_are_the_documents():
    assert set(registry.names("recipe")) == {
        *RECIPES,
        *(f"family_small{more}" for more in ("", "_common", "_places")),  # nobody's but ours
        "srgan",  # test_srgan.py
    }
    for name, (stages, batch, weights) in RECIPES.items():
        setting = check(plain(compose("train", [f"recipe={name}"])), settings.Train)
        assert [(stage, setting.stages[stage].epochs) for stage in setting.schedule] == stages
        assert setting.trainer.batch_size == batch
        full = setting.stages["full"].objectives
        assert list(full) == ["critic", "restoration"]
        held = full["restoration"].weights
        terms = ["reconstruction", "perceptual", "transferal", "adversarial"]
        assert weights is None or [held[term] for term in terms] == weights
        assert full["critic"].weights == {"adversarial": 1, "penalty": 10}


# Weights to begin from -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def wider(tmp_path_factory) -> Path:
    """A run of one step of another network: more blocks, no second fusion."""
    folder = tmp_path_factory.mktemp("runs") / "wider"
    other = ["backbone.blocks=[2,1,1,1]", "attention=reduced", "attention.embedding.channels=16"]
    first = ["schedule=[reconstruction]", "stages.reconstruction.epochs=null"]
    assert train(folder, *other, *first, "stages.reconstruction.steps=1") == 0
    return folder


def test_other_weights_are_refused_unless_told_and_then_accounted_for(tmp_path: Path, wider: Path):
    with pytest.raises(UserError, match="init_partial=true loads the tensors that fit"):
        begun(tmp_path, f"init={wider}")
    training = begun(tmp_path, f"init={wider}", "init_partial=true")
    theirs, own = models(wider), training.learner.models["backbone"].state_dict()
    theirs = {n.removeprefix("backbone."): v for n, v in theirs.items() if "backbone." in n}
    surplus = set(theirs) - set(own)
    assert surplus
    said = training.learner.begun.splitlines()
    assert f"loaded: {len(own)} of the model's {len(own)} tensors" in said
    assert {line.strip() for line in said if line.startswith("  ")} == surplus
    assert all(torch.equal(own[name], theirs[name]) for name in own)


def test_what_has_another_shape_or_no_name_keeps_its_values_and_is_told(
    tmp_path: Path, wider: Path
):
    other = ["backbone.features=16", "backbone.blocks=[3,1,1,1]"]
    fresh = begun(tmp_path, *other).learner.models["backbone"].state_dict()
    training = begun(tmp_path, *other, f"init={wider}", "init_partial=true")
    said, own = training.learner.begun, training.learner.models["backbone"].state_dict()
    theirs = checkpoint.read(wider / "checkpoints" / "last.pt")["models"]["backbone"]
    for name, value in own.items():
        if name not in theirs:
            assert f"  {name}" in said.splitlines()
            assert torch.equal(value, fresh[name])
        elif theirs[name].shape != value.shape:
            told = f"  {name} {tuple(theirs[name].shape)} instead of {tuple(value.shape)}"
            assert told in said.splitlines()
            assert torch.equal(value, fresh[name])
        else:
            assert torch.equal(value, theirs[name])
            assert f"  {name}" not in said.splitlines()
    assert {"extractor.layers.0.weight"} <= {
        n for n in own if torch.equal(own[n], theirs.get(n, fresh[n]))
    }


def test_weights_that_share_nothing_are_refused(tmp_path: Path):
    module = torch.nn.Linear(2, 2)
    with pytest.raises(UserError, match="no tensor that this model has"):
        checkpoint.load_what_fits(module, {"weight": torch.zeros(3, 3)}, "somewhere.pt")


def test_the_report_of_what_was_loaded_is_in_the_log_and_resuming_needs_no_weights(
    tmp_path: Path, wider: Path
):
    weights = tmp_path / "weights.pt"
    weights.write_bytes((wider / "checkpoints" / "last.pt").read_bytes())
    folder = tmp_path / "run"
    first = ["schedule=[reconstruction]", "stages.reconstruction.epochs=null"]
    first += ["stages.reconstruction.steps=1", f"init={weights}", "init_partial=true"]
    assert train(folder, *first) == 0
    log = (folder / "log.txt").read_text()
    assert "begun from" in log
    assert "in the file, but not of this model" in log
    weights.unlink()
    assert main(["train", f"resume={folder}"]) == 0
