"""Critics: the published one to the last level, all of them for any use they are put to."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import multiprocessing, nn

from restore.config import registry
from restore.errors import UserError
from restore.losses.adversarial import BackboneTerm, CriticTerm, RelativisticAverage
from restore.losses.penalties import GradientPenalty, input_gradient, interpolated
from restore.losses.perceptual import FrobeniusPerceptual
from restore.losses.pixel import L1, L2, Charbonnier, TotalVariation
from restore.losses.triplet import Triplet
from restore.models.batch_norm import BatchNorm
from restore.models.discriminators.srgan import SRGANDiscriminator
from restore.models.discriminators.ttsr import TTSRDiscriminator
from restore.models.discriminators.unet import UNetDiscriminator
from restore.types import Problem, Restoration
from restore.utils import distributed
from tests.helpers import published


def test_published_critic_and_its_loss():
    critic = TTSRDiscriminator(160)
    layers = [layer for layer in critic.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    names = [f"conv{i}" for i in range(1, 11)] + ["fc1", "fc2"]
    keys = {
        f"{name}.{kind}": list(getattr(layer, kind).shape)
        for name, layer in zip(names, layers, strict=True)
        for kind in ("weight", "bias")
    }
    held = published.weights(keys, gain=1.0)
    for name, layer in zip(names, layers):
        layer.load_state_dict({kind: held[f"{name}.{kind}"] for kind in ("weight", "bias")})
    golden = np.load(published.GOLDEN / "discriminator_public.npz")
    rng = np.random.default_rng(3)
    # The published values lie in [-1, 1]; ours in [0, 1].
    real, fake = (
        torch.from_numpy(((rng.random((2, 3, 160, 160)) * 2 - 1).astype(np.float32) + 1) / 2)
        for _ in range(2)
    )
    with torch.no_grad():
        np.testing.assert_allclose(critic(real), golden["out_d_real"], atol=1e-6)
        np.testing.assert_allclose(critic(fake), golden["out_d_fake"], atol=1e-6)
    problem, models = Problem({}, real, ["a", "b"]), {"discriminator": critic}
    rule = registry.build("adversarial", "wasserstein")
    loss = CriticTerm(rule)(Restoration(fake), problem, models)
    penalty = 10 * GradientPenalty(range=2.0).measured(
        critic, interpolated(real, fake, torch.tensor([0.3, 0.8]))
    )
    assert penalty.item() == pytest.approx(float(golden["out_gp"]), rel=1e-5)
    assert (loss + penalty).item() == pytest.approx(float(golden["out_loss_d"]), rel=1e-5)


def test_published_critic_is_made_for_one_size():
    with pytest.raises(UserError, match=r"32×32, not 40×32"):
        TTSRDiscriminator(32)(torch.rand(1, 3, 32, 40))
    assert TTSRDiscriminator(33)(torch.rand(2, 3, 33, 33)).shape == (2, 1)


def test_srgan_critic_is_the_papers():
    critic = SRGANDiscriminator()
    convs = [layer for layer in critic.modules() if isinstance(layer, nn.Conv2d)]
    widths = [64, 64, 128, 128, 256, 256, 512, 512]
    assert [layer.out_channels for layer in convs] == widths
    assert [layer.stride[0] for layer in convs] == [1, 2] * 4
    norms = [layer for layer in critic.modules() if isinstance(layer, nn.BatchNorm2d)]
    assert [layer.num_features for layer in norms] == widths[1:]
    # At the paper's crop of 96 nothing is averaged: 6×6×512 features go on as they are.
    image = torch.rand(2, 3, 96, 96)
    x = critic.convs(image * 2 - 1)
    assert x.shape == (2, 512, 6, 6)
    torch.testing.assert_close(
        critic.eval()(image), critic.judge[2:](critic.convs(image * 2 - 1).flatten(1))
    )


def test_spectral_norm_of_each_layer_becomes_one():
    torch.manual_seed(0)
    critic = UNetDiscriminator(features=8)
    for _ in range(60):
        critic(torch.rand(1, 3, 8, 8))
    normed = [*critic.down, *critic.up, *critic.tail]
    assert len(normed) == 8
    for layer in normed:
        norm = torch.linalg.matrix_norm(layer.weight.flatten(1), 2)
        assert norm.item() == pytest.approx(1, abs=0.05)


@pytest.fixture(scope="module")
def made():
    """Each critic of the configuration, small where it has a width."""
    overrides = {
        "ttsr": ["task.crop=32", "task.reference_crop=32"],
        "masa": ["task.crop=32", "task.reference_crop=32"],
        "unet": ["discriminator.features=8"],
    }
    torch.manual_seed(0)
    names = registry.names("discriminator")
    return {n: registry.build("discriminator", n, *overrides.get(n, [])) for n in names}


@pytest.mark.parametrize("size", [(32, 32), (29, 41)])
def test_every_critic_judges_and_can_be_kept_smooth(made, size):
    assert made.keys() >= {"ttsr", "srgan", "unet", "masa", "c2_matching"}
    image = torch.rand(2, 3, *size)
    for name, critic in made.items():
        if name in ("ttsr", "masa") and size != (32, 32):
            continue  # made for one size
        answer = critic(image)
        assert answer.shape == ((2, 1, *size) if name == "unet" else (2, 1))
        norm = input_gradient(critic, image).norm(dim=1)
        assert (norm > 0).all()
        critic.zero_grad(set_to_none=True)
        (norm - 1).square().mean().backward()
        gradients = [p.grad for p in critic.parameters() if p.grad is not None]
        assert all(torch.isfinite(g).all() for g in gradients)
        moved = [g.abs().max() > 0 for g in gradients]
        assert sum(moved) > len(moved) / 2, name


def alike(kind: type[nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    norm = kind(5).double()
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    return nn.Sequential(nn.Conv2d(3, 5, 3).double(), norm, nn.Tanh(), nn.Conv2d(5, 1, 3).double())


def learned(critic: nn.Module, real: torch.Tensor, fake: torch.Tensor) -> torch.Tensor:
    """All gradients of a relativistic loss and a penalty at random places, in a row."""
    problem, models = Problem({}, real, []), {"discriminator": critic}
    loss = CriticTerm(RelativisticAverage())(Restoration(fake), problem, models)
    loss = loss + GradientPenalty()(Restoration(fake), problem, models)
    loss.backward()
    return averaged([p.grad for p in critic.parameters()])


def weighted(real: torch.Tensor, fake: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """The gradient of all weighted terms, of a network that shifts colours, judged by pixels."""
    torch.manual_seed(1)
    network, judge = (nn.Conv2d(3, outputs, 1).double() for outputs in (3, 1))
    problem, models = Problem({}, real, [], weight), {"discriminator": judge}
    restored, rule = Restoration(network(fake)), RelativisticAverage()
    terms = [L1(), L2(), Charbonnier(), TotalVariation(), BackboneTerm(rule), CriticTerm(rule)]
    sum(term(restored, problem, models) for term in terms).backward()
    return averaged([p.grad for model in (network, judge) for p in model.parameters()])


def of_the_batch(real: torch.Tensor, fake: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """The gradient of terms that are no mean over pictures alike, of a network as above."""
    torch.manual_seed(2)
    network = nn.Conv2d(3, 3, 1).double()
    image = network(fake)
    size = image.shape[2:]
    places = torch.cartesian_prod(*map(torch.arange, size)).flip(1).double()
    # Of most pictures that have little weight no place is known.
    unknown = 99.0 * (weight.mean((1, 2, 3)) < 0.1).double().view(-1, 1, 1)
    vectors = F.normalize(image, dim=1), F.normalize(real, dim=1)
    loss = Triplet(least=1).measured(*vectors, places + unknown, 0.0)
    frobenius = FrobeniusPerceptual("random", "conv1_1").double()
    loss = loss + frobenius(Restoration(image), Problem({}, real, []), {})
    loss.backward()
    return averaged([p.grad for p in network.parameters()])


def averaged(gradients: list[torch.Tensor]) -> torch.Tensor:
    distributed.average(gradients)
    return torch.cat([g.flatten() for g in gradients])


def half(rank: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    real, fake, weight = (x[rank::2] for x in torch.load(Path(folder) / "pictures.pt"))
    critic = alike(BatchNorm)
    torch.manual_seed(rank)  # as in training, where each process has chance of its own
    found = learned(critic, real, fake), critic.state_dict()
    terms = weighted(real, fake, weight), of_the_batch(real, fake, weight)
    if rank == 0:
        torch.save((*found, *terms), Path(folder) / "learned.pt")
    dist.destroy_process_group()


def test_two_processes_learn_what_one_does(tmp_path: Path):
    rng = np.random.default_rng(0)
    real, fake = (torch.from_numpy(rng.random((6, 3, 9, 8))) for _ in range(2))
    weight = torch.from_numpy(rng.random((6, 1, 9, 8)))
    # Nearly all that counts falls to one process, and to the other hardly anything.
    weight[1::2] *= torch.from_numpy(rng.random((3, 1, 9, 8)) > 0.9)
    torch.save((real, fake, weight), tmp_path / "pictures.pt")
    os.environ["OMP_NUM_THREADS"] = "1"
    multiprocessing.spawn(half, (str(tmp_path),), nprocs=2)
    gradients, state, *terms = torch.load(tmp_path / "learned.pt")
    one = alike(nn.BatchNorm2d)
    torch.manual_seed(0)
    torch.testing.assert_close(gradients, learned(one, real, fake), rtol=1e-5, atol=1e-7)
    for found, kind in zip(terms, (weighted, of_the_batch), strict=True):
        torch.testing.assert_close(found, kind(real, fake, weight), rtol=1e-5, atol=1e-7)
    for name, value in one.state_dict().items():
        torch.testing.assert_close(state[name], value)
