"""Losses and critics of MASA-SR and C2-Matching beside values of the published code."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from restore.losses.adversarial import (
    BackboneTerm,
    CriticTerm,
    RelativisticFixedAverage,
    Wasserstein,
)
from restore.losses.penalties import GradientPenalty, interpolated
from restore.losses.perceptual import FrobeniusPerceptual, Perceptual
from restore.losses.triplet import Distillation, Triplet
from restore.models.discriminators.c2_matching import SquashedDiscriminator
from restore.models.discriminators.masa import MASADiscriminator
from restore.models.extractors.contrastive import ContrastiveStems, published_stems
from restore.models.pretrained import vgg_layers
from restore.types import Problem, Restoration
from tests import GOLDEN
from tests.helpers.published import drawn

SIZES = {"conv1_1": (3, 64), "conv1_2": (64, 64), "conv2_1": (64, 128)}
SIZES |= {"conv2_2": (128, 128), "conv3_1": (128, 256)}


class Golden:
    """Values of a file, and what they were made with."""

    def __init__(self, name: str):
        self.values = np.load(GOLDEN / "family" / f"{name}_losses.npz")
        self.meta = json.loads(str(self.values["meta"]))

    def __getitem__(self, name: str) -> Tensor:
        return torch.from_numpy(self.values[name])

    def critic(self, network: nn.Module, keys: dict[str, str]) -> nn.Module:
        """Our critic with the recipe's weights, by the published names of its layers."""
        own = network.state_dict()
        names = {f"{k}.{kind}": f"{v}.{kind}" for k, v in keys.items() for kind in KINDS}
        names = {new: old for new, old in names.items() if new in own}
        assert names.keys() == own.keys()
        shapes = {names[new]: list(own[new].shape) for new in own}
        state = drawn(shapes, self.meta["gains"]["discriminator"])
        network.load_state_dict({new: state[old] for new, old in names.items()})
        return network.train()

    def vgg(self, layers: int, path: Path) -> str:
        """A file of VGG19's first layers."""
        shapes = {f"features.{k}": [*v.shape] for k, v in vgg_layers(layers).state_dict().items()}
        torch.save(drawn(shapes, self.meta["gains"]["vgg19"]), path / "vgg.pth")
        return str(path / "vgg.pth")


KINDS = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")


def pictures(side: int) -> tuple[Tensor, Tensor]:
    rng = np.random.default_rng(3)
    real, fake = (torch.from_numpy(np.float32(rng.random((2, 3, side, side)))) for _ in range(2))
    return real, fake


def stems(golden: Golden, prefix: str = "") -> ContrastiveStems:
    keys = {
        f"{prefix}feature_extraction_image{branch}.model.{layer}.{kind}": shape
        for branch in (1, 2)
        for layer, (inputs, outputs) in SIZES.items()
        for kind, shape in (("weight", [outputs, inputs, 3, 3]), ("bias", [outputs]))
    }
    state = drawn(keys, golden.meta["gains"]["extractor"], golden.meta["tie"])
    network = ContrastiveStems("random")
    network.load_state_dict(published_stems({k.removeprefix(prefix): v for k, v in state.items()}))
    return network


@torch.no_grad()
def test_matching_is_trained_by_the_published_losses():
    golden = Golden("c2")
    places = golden["coordinates"][:, ::4, ::4, :2].flatten(1, 2) / 4
    teacher, student = stems(golden, "teacher."), stems(golden)
    key = golden["in_ref"]
    told = teacher.query(golden["in_gt"], golden["in_gt"]), teacher.key(key)
    seen = student.query(golden["in_up"], golden["in_up"]), student.key(key)
    triplet = Triplet()
    loss = triplet.measured(*told, places, 2.5)
    torch.testing.assert_close(loss, golden["teacher_loss"][0], atol=1e-5, rtol=0)
    term = Distillation("random")
    distilled = term.measured(seen, told, places, 2.5)
    torch.testing.assert_close(distilled, golden["student_distillation"], atol=1e-5, rtol=0)
    loss = triplet.measured(*seen, places, 2.5) + 15 * distilled
    torch.testing.assert_close(loss, golden["student_loss"][0], atol=1e-5, rtol=0)


@torch.no_grad()
def test_perceptual_losses_are_as_published(tmp_path: Path):
    golden = Golden("c2")
    loss = FrobeniusPerceptual(golden.vgg(30, tmp_path), "relu5_1")
    problem = Problem({}, golden["in_gt"], ["a"])
    value = 1e-4 * loss(Restoration(golden["in_up"]), problem, {})
    torch.testing.assert_close(value, golden["percep_fro"], atol=1e-5, rtol=0)
    golden = Golden("masa")
    real, fake = (picture[..., :64, :64] for picture in pictures(160))
    loss = Perceptual(golden.vgg(35, tmp_path), "conv5_4", 1)
    value = loss(Restoration(fake), Problem({}, real, ["a"]), {})
    torch.testing.assert_close(value, golden["percep"], atol=1e-5, rtol=0)
    # The published pictures are BGR.
    turned = Perceptual(golden.vgg(35, tmp_path), "conv5_4", 1, bgr=True)
    value = turned(Restoration(fake.flip(1)), Problem({}, real.flip(1), ["a"]), {})
    torch.testing.assert_close(value, golden["percep"], atol=1e-5, rtol=0)


def test_the_squashed_critic_is_the_published_one():
    golden = Golden("c2")
    keys = {}
    for block in range(5):
        for place, layer in enumerate((0, 1, 3, 4)):
            own = block * 6 + (0, 1, 3, 4)[place]
            keys[f"convs.{own}"] = f"conv_block{block + 1}.{layer}"
    keys |= {"judge.1": "out_block.1", "judge.3": "out_block.3"}
    critic = golden.critic(SquashedDiscriminator(), keys)
    real, fake = pictures(64)
    with torch.no_grad():
        for name, picture in (("critic_real", real), ("critic_fake", fake)):
            assert torch.allclose(critic(picture).flatten(), golden[name].flatten(), atol=1e-5)
        problem, models = Problem({}, real, ["a"]), {"discriminator": critic}
        loss = CriticTerm(Wasserstein())(Restoration(fake), problem, models)
        torch.testing.assert_close(loss, golden["d_real"] + golden["d_fake"], atol=1e-5, rtol=0)
    share = torch.tensor([0.3, 0.8])
    penalty = 10 * GradientPenalty().measured(critic, interpolated(real, fake, share))
    torch.testing.assert_close(penalty.detach(), golden["gradient_penalty"], atol=1e-5, rtol=0)


def test_the_relativistic_critic_is_the_published_one():
    golden = Golden("masa")
    keys, place = {}, 0
    for block in range(5):
        for half in (0, 1):
            normed = (block, half) != (0, 0)
            keys[f"convs.{place}"] = f"conv{block}_{half}"
            if normed:
                keys[f"convs.{place + 1}"] = f"bn{block}_{half}"
            place += 3 if normed else 2
    keys |= {"judge.1": "linear1", "judge.3": "linear2"}
    critic = golden.critic(MASADiscriminator(160), keys)
    real, fake = pictures(160)
    problem, models = Problem({}, real, ["a"]), {"discriminator": critic}
    loss = CriticTerm(RelativisticFixedAverage())(Restoration(fake), problem, models) / 2
    torch.testing.assert_close(loss.detach(), golden["d_loss"], atol=1e-5, rtol=0)
    optimizer = torch.optim.Adam(critic.parameters(), 1e-4, betas=(0.0, 0.9))
    loss.backward()
    optimizer.step()
    with torch.no_grad():
        value = BackboneTerm(RelativisticFixedAverage())(Restoration(fake), problem, models) / 2
    torch.testing.assert_close(value, golden["g_loss_after_step"], atol=1e-3, rtol=1e-5)


def test_matching_needs_points(monkeypatch: pytest.MonkeyPatch):
    vectors = F.normalize(torch.randn(1, 8, 6, 6), dim=1)
    places = torch.stack(torch.meshgrid(torch.arange(6.0), torch.arange(6.0), indexing="xy"), -1)
    flat = places.view(1, 36, 2)
    assert Triplet().measured(vectors, vectors, flat, 0.0) == 0
    assert Triplet(least=4).measured(vectors, vectors, flat, 0.0) > 0
