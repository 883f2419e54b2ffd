"""Every term against its formula, written out plainly in double precision."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from restore.config import registry
from restore.errors import UserError
from restore.losses import adversarial
from restore.losses.adversarial import BackboneTerm, CriticTerm
from restore.losses.diffusion import NoisePrediction
from restore.losses.penalties import R1, GradientPenalty, input_gradient, interpolated
from restore.losses.perceptual import FrobeniusPerceptual, Perceptual, layer_count
from restore.losses.pixel import L1, L2, Charbonnier, TotalVariation
from restore.losses.transferal import TransferalPerceptual
from restore.models import weights
from restore.types import Problem, Restoration
from tests.helpers import published

SHAPES = st.tuples(*(st.integers(1, n) for n in (3, 3, 7, 9)))
RANGES = st.sampled_from([1.0, 2.0, 255.0])
quick = settings(max_examples=30, deadline=None)


def pair(shape, seed, weighted):
    """An answer and a problem in double precision, and the same as arrays."""
    rng = np.random.default_rng(seed)
    x, y = rng.random(shape), rng.random(shape)
    w = None
    if weighted:
        w = (rng.random((shape[0], 1, *shape[2:])) > 0.4) * rng.random((shape[0], 1, *shape[2:]))
    problem = Problem({}, torch.from_numpy(y), ["a"], None if w is None else torch.from_numpy(w))
    return Restoration(torch.from_numpy(x)), problem, x, y, w


def plain_mean(error, w):
    """Mean of NCHW by weight N1HW, pixel by pixel."""
    if w is None:
        return error.sum() / error.size
    total = sum(
        error[n, c, i, j] * w[n, 0, i, j]
        for n, c, i, j in np.ndindex(error.shape)  #
    )
    return total / w.sum() / error.shape[1] if w.sum() else 0.0


@quick
@given(SHAPES, st.integers(0, 1000), st.booleans(), RANGES)
def test_pixel_terms(shape, seed, weighted, span):
    restored, problem, x, y, w = pair(shape, seed, weighted)
    d = (x - y) * span
    formulas = {
        L1(span): np.abs(d),
        L2(span): d**2,
        Charbonnier(0.02, span): np.sqrt(d**2 + 0.0004),
    }
    for term, error in formulas.items():
        assert term(restored, problem, {}).item() == pytest.approx(plain_mean(error, w), rel=1e-9)


@quick
@given(SHAPES, st.integers(0, 1000), st.booleans(), RANGES)
def test_total_variation(shape, seed, weighted, span):
    restored, problem, x, _, w = pair(shape, seed, weighted)
    w = np.ones((shape[0], 1, *shape[2:])) if w is None else w
    expected = 0.0
    for down, right in ((0, 1), (1, 0)):
        sums = [0.0, 0.0]
        for n, c, i, j in np.ndindex(x.shape):
            i2, j2 = i + down, j + right
            if i2 < x.shape[2] and j2 < x.shape[3]:
                both = min(w[n, 0, i, j], w[n, 0, i2, j2])
                sums[0] += both * abs(x[n, c, i2, j2] - x[n, c, i, j]) * span
                sums[1] += both
        expected += sums[0] / sums[1] if sums[1] else 0.0
    assert TotalVariation(span)(restored, problem, {}).item() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("term", [L1(), L2(), Charbonnier(), TotalVariation()])
def test_pixels_without_weight_have_neither_value_nor_gradient(term):
    restored, problem, *_ = pair((2, 3, 6, 5), 0, weighted=True)
    image = restored.image.requires_grad_()
    value = term(restored, problem, {})
    (gradient,) = torch.autograd.grad(value, image)
    outside = (problem.weight == 0).expand_as(image)
    assert outside.any()
    assert gradient[outside].abs().max() == 0
    assert gradient[~outside].abs().max() > 0
    changed = Restoration(torch.where(outside, torch.rand_like(image), image))
    assert term(changed, problem, {}).item() == pytest.approx(value.item())


def layers_of_torchvision() -> dict[str, int]:
    """Names to the number of layers up to them, by walking through torchvision's network."""
    with torch.device("meta"):
        features = torchvision.models.vgg19(weights=None).features
    names, block, place = {}, 1, 0
    for index, layer in enumerate(features):
        if isinstance(layer, nn.MaxPool2d):
            block, place = block + 1, 0
        elif isinstance(layer, nn.Conv2d):
            place += 1
            names[f"conv{block}_{place}"] = index + 1
        else:
            names[f"relu{block}_{place}"] = index + 1
    return names


def test_layers_are_counted_as_torchvision_does():
    names = layers_of_torchvision()
    assert len(names) == 32
    assert {name: layer_count(name) for name in names} == names
    for wrong in ("relu1_3", "conv6_1", "pool1", "relu5", "RELU1_1"):
        with pytest.raises(ValueError, match="relu5_4"):
            layer_count(wrong)


@pytest.mark.parametrize("power", [1, 2])
@pytest.mark.parametrize("layer", ["conv1_1", "relu1_2", "conv2_1", "relu3_1", "conv3_4"])
def test_perceptual(layer, power):
    term = Perceptual("random", layer, power).double()
    rng = np.random.default_rng(power)
    x, y = (torch.from_numpy(rng.random((2, 3, 21, 17))) for _ in range(2))
    state, features = term.layers.state_dict(), []
    for image in (x, y):
        mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
        h = (image - mean.double().view(3, 1, 1)) / std.double().view(3, 1, 1)
        for name, last in layers_of_torchvision().items():
            kind, block, place = name[:4], int(name[4]), int(name[6])
            if kind == "conv":
                if place == 1 and block > 1:
                    h = F.max_pool2d(h, 2)
                h = F.conv2d(h, state[f"{last - 1}.weight"], state[f"{last - 1}.bias"], padding=1)
            else:
                h = h.clamp_min(0)
            if name == layer:
                break
        features.append(h.numpy())
    expected = (np.abs(features[0] - features[1]) ** power).mean()
    value = term(Restoration(x), Problem({}, y, ["a"]), {})
    assert value.item() == pytest.approx(expected, rel=1e-6)


FROBENIUS = FrobeniusPerceptual("random", "conv2_1").double()


@quick
@given(
    st.tuples(st.integers(1, 3), st.just(3), st.integers(2, 5), st.integers(2, 5)),
    st.integers(0, 1000),
    st.booleans(),
)
def test_frobenius_perceptual_is_one_root_of_the_whole_batch(shape, seed, same):
    restored, problem, *_ = pair(shape, seed, weighted=False)
    image = problem.target.clone() if same else restored.image
    image.requires_grad_()
    value = FROBENIUS(Restoration(image), problem, {})
    features = [FROBENIUS.features(x).detach().numpy() for x in (image, problem.target)]
    squares = sum(d**2 for d in (features[0] - features[1]).flat)
    assert value.item() == pytest.approx(squares**0.5, rel=1e-6, abs=1e-15)
    (gradient,) = torch.autograd.grad(value, image)
    assert gradient.isfinite().all()
    assert bool(gradient.any()) != same


def test_perceptual_says_where_its_weights_are_from_and_what_is_too_small():
    term = Perceptual("random", "relu5_1")
    assert "RANDOM" in term.provenance.sentence()
    assert not any(p.requires_grad for p in term.parameters())
    image = torch.rand(1, 3, 15, 40)
    with pytest.raises(UserError, match="at least 16 pixels"):
        term(Restoration(image), Problem({}, image, ["a"]), {})


@pytest.fixture(scope="module")
def ttsr(tmp_path_factory):
    """The golden network of `ttsr_public.npz`, its answer, and the golden values."""
    file = tmp_path_factory.mktemp("weights") / "published.pt"
    keys = published.keys_with_blocks(published.small_ttsr(), [2, 2, 1, 1])
    torch.save(published.weights(keys, gain=1.0), file)
    model = weights.load(file).backbone()
    golden = np.load(published.GOLDEN / "ttsr_public.npz")
    names = {"low": "lr", "low_up": "lrsr", "reference": "ref", "reference_low_up": "refsr"}
    inputs = {own: (torch.from_numpy(golden[f"in_{x}"]) + 1) / 2 for own, x in names.items()}
    target = (torch.from_numpy(golden["in_hr"]) + 1) / 2
    return model, model(**inputs), Problem(inputs, target, ["golden"]), golden


def test_transferal_loss_equals_the_published_one(ttsr):
    model, restored, problem, golden = ttsr
    for term, name in (
        (TransferalPerceptual(power=2, score=True), "out_tpl_l2_S"),
        (TransferalPerceptual(power=1, score=False), "out_tpl_l1"),
    ):
        value = term(restored, problem, {"backbone": model})
        assert value.item() == pytest.approx(float(golden[name]), rel=1e-5)


def test_transferal_loss_reaches_the_extractor_only_through_what_it_transferred(ttsr):
    model, restored, problem, _ = ttsr
    textures = [texture.detach() for texture in restored.textures]
    fixed = {"score": restored.score.detach(), "textures": textures}
    image = restored.image.detach().requires_grad_()
    term = TransferalPerceptual()
    model.zero_grad(set_to_none=True)
    term(Restoration(image, **fixed), problem, {"backbone": model}).backward()
    assert image.grad.abs().max() > 0
    assert all(p.grad is None for p in model.extractor.parameters())
    term(restored, problem, {"backbone": model}).backward(retain_graph=True)
    assert all(p.grad.abs().max() > 0 for p in model.extractor.parameters())


def test_transferal_loss_refuses_what_it_cannot_compare(ttsr):
    model, restored, problem, _ = ttsr
    with pytest.raises(UserError, match="weight 0"):
        TransferalPerceptual()(Restoration(restored.image), problem, {"backbone": model})
    fewer = replace(restored, textures=[x[:, :32] for x in restored.textures])
    with pytest.raises(UserError, match="32 channels"):
        TransferalPerceptual()(fewer, problem, {"backbone": model})


# Adversarial ---------------------------------------------------------------------------------


def sigma(x):
    return 1 / (1 + np.exp(-x))


# For each rule: critic's and backbone's formula of real logits r and restored f, and the mean E.
FORMULAS = {
    "Wasserstein": (lambda r, f, E: E(f) - E(r), lambda r, f, E: -E(f)),
    "Standard": (
        lambda r, f, E: -E(np.log(sigma(r))) - E(np.log(1 - sigma(f))),
        lambda r, f, E: -E(np.log(sigma(f))),
    ),
    "LeastSquares": (
        lambda r, f, E: 0.5 * E((r - 1) ** 2) + 0.5 * E(f**2),
        lambda r, f, E: 0.5 * E((f - 1) ** 2),
    ),
    "Hinge": (
        lambda r, f, E: E(np.maximum(0, 1 - r)) + E(np.maximum(0, 1 + f)),
        lambda r, f, E: -E(f),
    ),
    "RelativisticAverage": (
        lambda r, f, E: -E(np.log(sigma(r - E(f)))) - E(np.log(1 - sigma(f - E(r)))),
        lambda r, f, E: -E(np.log(1 - sigma(r - E(f)))) - E(np.log(sigma(f - E(r)))),
    ),
}
# The same values; what differs is where gradients go.
FORMULAS["RelativisticFixedAverage"] = FORMULAS["RelativisticAverage"]


class Recall(nn.Module):
    """A critic that knows its answers by heart: `real` where the picture is the target."""

    def __init__(self, target, real, fake):
        super().__init__()
        self.target, self.real, self.fake = target, real, fake

    def forward(self, image):
        # In terms of the picture, so that gradients pass.
        kept = self.real if torch.equal(image, self.target) else self.fake
        return kept + 0 * image.sum()


@quick
@given(
    st.sampled_from(sorted(FORMULAS)),
    st.integers(0, 1000),
    st.sampled_from([(3, 1), (1, 1), (2, 1, 5, 4)]),
    st.booleans(),
)
def test_adversarial_rules(name, seed, shape, weighted):
    rng = np.random.default_rng(seed)
    real, fake = rng.normal(0, 3, shape), rng.normal(0, 3, shape)
    restored, problem, _, _, w = pair((shape[0], 3, 5, 4), seed, weighted)
    critic = Recall(problem.target, torch.from_numpy(real), torch.from_numpy(fake))
    rule = getattr(adversarial, name)()
    pixelwise = w if len(shape) == 4 else None

    def mean(x):
        return plain_mean(np.broadcast_to(x, shape), pixelwise)

    expected = [formula(real, fake, mean) for formula in FORMULAS[name]]
    models = {"discriminator": critic}
    values = [term(rule)(restored, problem, models).item() for term in (CriticTerm, BackboneTerm)]
    assert values == pytest.approx(expected, rel=1e-5, abs=1e-6)


@quick
@given(st.integers(0, 1000), st.integers(1, 5), st.sampled_from([0.1, 3.0, 30.0]), st.booleans())
def test_gradients_of_relativistic_critics(seed, count, spread, fixed):
    """The slope of softplus is σ; the averages pass it on to all pictures, unless fixed."""
    rng = np.random.default_rng(seed)
    r, f = rng.normal(0, spread, (2, count, 1))
    below, above = sigma(f.mean() - r), sigma(f - r.mean())
    passed = 0 if fixed else 1
    expected = (
        -(below + passed * above.mean()) / count,
        (above + passed * below.mean()) / count,
    )
    rule = adversarial.RelativisticFixedAverage if fixed else adversarial.RelativisticAverage
    logits = [torch.from_numpy(x).requires_grad_() for x in (r, f)]
    found = torch.autograd.grad(rule().critic(*logits, torch.mean), logits)
    for gradient, plain in zip(found, expected):
        np.testing.assert_allclose(gradient, plain, rtol=1e-6, atol=1e-8)
    # The backbone's part, with the roles exchanged, has them from the averages too.
    below, above = sigma(r.mean() - f), sigma(r - f.mean())
    (found,) = torch.autograd.grad(
        rule().backbone(logits[0].detach(), logits[1], torch.mean), logits[1]
    )
    np.testing.assert_allclose(found, -(below + above.mean()) / count, rtol=1e-6, atol=1e-8)


def test_every_rule_of_the_configuration_is_tested():
    kinds = {type(registry.build("adversarial", n)).__name__ for n in registry.names("adversarial")}
    assert kinds == set(FORMULAS)


@pytest.mark.parametrize("name", sorted(FORMULAS))
def test_rules_pull_the_two_players_apart(name):
    """The critic wants real up and restored down, the backbone restored up."""
    rule = getattr(adversarial, name)()
    real, fake = (torch.zeros(4, 1, dtype=torch.float64, requires_grad=True) for _ in range(2))
    up, down = torch.autograd.grad(rule.critic(real, fake, torch.mean), (real, fake))
    assert (up < 0).all()
    # Least squares wants restored pictures at 0, where they are.
    assert (down >= 0).all() if name == "LeastSquares" else (down > 0).all()
    (gained,) = torch.autograd.grad(rule.backbone(real, fake, torch.mean), fake)
    assert (gained < 0).all()


class Parabola(nn.Module):
    """D(x) = ½a‖x‖², whose gradient is a·x."""

    def __init__(self, a):
        super().__init__()
        self.a = nn.Parameter(torch.tensor(a, dtype=torch.float64))

    def forward(self, image):
        return self.a / 2 * image.square().flatten(1).sum(1, keepdim=True)


@quick
@given(st.integers(0, 1000), st.floats(0.1, 3), st.sampled_from([1.0, 2.0]))
def test_penalties_and_their_gradient(seed, a, span):
    restored, problem, x, y, _ = pair((3, 3, 4, 5), seed, weighted=False)
    critic = Parabola(a)
    share = np.random.default_rng(seed).random(3)
    between = interpolated(problem.target, restored.image, torch.from_numpy(share))
    s = share[:, None, None, None]
    norms = np.sqrt(((s * y + (1 - s) * x) ** 2).sum((1, 2, 3))) / span
    value = GradientPenalty(span).measured(critic, between)
    assert value.item() == pytest.approx(((a * norms - 1) ** 2).mean(), rel=1e-9)
    (slope,) = torch.autograd.grad(value, critic.a)
    assert slope.item() == pytest.approx((2 * (a * norms - 1) * norms).mean(), rel=1e-6, abs=1e-9)
    squares = (y**2).sum((1, 2, 3)) / span**2
    value = R1(span)(restored, problem, {"discriminator": critic})
    assert value.item() == pytest.approx(0.5 * a**2 * squares.mean(), rel=1e-9)
    (slope,) = torch.autograd.grad(value, critic.a)
    assert slope.item() == pytest.approx(a * squares.mean(), rel=1e-9)


def test_penalty_lies_between_the_pictures():
    restored, problem, *_ = pair((4, 3, 5, 5), 0, weighted=False)
    critic = Parabola(1.0)
    torch.manual_seed(0)
    share = torch.rand(4)
    torch.manual_seed(0)
    value = GradientPenalty()(restored, problem, {"discriminator": critic})
    between = interpolated(problem.target, restored.image, share)
    norms = between.flatten(1).norm(dim=1)
    assert value.item() == pytest.approx((norms - 1).square().mean().item())


def test_input_gradient_of_answers_for_pixels_is_of_their_mean():
    image = torch.rand(2, 3, 4, 4, dtype=torch.float64)
    gradient = input_gradient(lambda x: x.square().sum(1, keepdim=True), image)
    torch.testing.assert_close(gradient, (2 * image / 16).flatten(1))


def test_noise_counts_where_it_is_told_and_over_all_pixels():
    rng = torch.Generator().manual_seed(3)
    noise, predicted = torch.randn(2, 2, 3, 5, 4, generator=rng)
    hole = torch.rand(2, 1, 5, 4, generator=rng) < 0.4
    restored = Restoration(predicted, to_predict=noise * hole, predicted=predicted * hole)
    expected = ((noise - predicted).square() * hole).sum() / noise.numel()
    found = NoisePrediction()(restored, Problem({}, None, ["a", "b"]), {})
    torch.testing.assert_close(found, expected)
    with pytest.raises(UserError, match="backbone=palette"):
        NoisePrediction()(Restoration(predicted), Problem({}, None, ["a"]), {})
