"""Palette: what it draws depends on its chance alone, and what is known stays."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from restore.config import registry
from restore.errors import UserError
from restore.images.io import read_rgb
from restore.models import weights
from restore.models.diffusion.unet import UNet
from restore.tools.compare import palette as layout
from tests import GOLDEN
from tests.helpers import palette


def problem(count: int, height: int, width: int, seed: int = 0):
    rng = torch.Generator().manual_seed(seed)
    low_up = torch.rand(count, 3, height, width, generator=rng)
    mask = torch.zeros(count, 1, height, width)
    mask[..., height // 4 : -height // 4, width // 4 : -width // 4] = 1
    return {"low_up": low_up, "mask_up": mask, "keys": [f"picture {i}" for i in range(count)]}


def drawn(model: nn.Module, given) -> torch.Tensor:
    with torch.inference_mode():
        return model(**given).image


def test_training_loss_of_the_public_implementation():
    meta, case = palette.golden("palette_loss")
    model = palette.of_case(meta)
    for name, region in (
        ("loss_masked", case["in_mask"] > 0),
        ("loss_no_mask", torch.ones_like(case["in_mask"]) > 0),
    ):
        model.zero_grad()
        restored = model.denoised(
            *(case["in_cond"], case["in_gt"], region),
            *(case["in_t"].long(), case["in_uniform"], case["in_noise"]),
        )
        loss = (restored.to_predict - restored.predicted).square().mean()
        assert loss.item() == pytest.approx(case[name].item(), abs=1e-5)
        if name == "loss_masked":
            loss.backward()
            gradients = {key: p.grad for key, p in model.named_parameters()}
            for key, expected in (("out.2", "last"), ("input_blocks.0.0", "first")):
                found = gradients[f"denoise_fn.{key}.bias"]
                torch.testing.assert_close(found, case[f"grad_{expected}_bias"], atol=1e-5, rtol=0)
            norm = torch.stack([g.norm() for g in gradients.values()]).norm()
            assert norm.item() == pytest.approx(case["grad_norm"].item(), rel=1e-4)


def test_files_of_the_public_implementation():
    folder = GOLDEN / "palette_files"
    meta = json.loads((folder / "case.json").read_text())
    model = palette.of_case(meta)
    noises = iter(torch.from_numpy(np.load(folder / "noises.npz")["noises"])[:, None])
    result = read_rgb(folder / "Out_input.png")[None]
    hole = torch.zeros(1, 1, 32, 32, dtype=torch.bool)
    hole[..., 8:24, 8:24] = True
    known = result.float() / 127.5 - 1  # outside the hole, the picture itself
    condition = torch.where(hole, next(noises), known)
    with torch.inference_mode():
        frames = [*model.frames(condition, known, hole, condition, lambda: next(noises))]
    written = ((frames[-1] + 1) * 127.5).round().clamp(0, 255)
    assert (written - result).abs().max() <= 1
    assert (written != result).float().mean() < 0.01
    every = [condition, *(frames[15 - t] for t in range(14, -1, -2))]
    shown = torch.cat([x.clamp(-1, 1) for x in every])
    sheet = layout.sheet([*((shown + 1) * 127.5).round().byte()])
    expected = read_rgb(folder / "Process_input.png")
    assert (sheet.int() - expected.int()).abs().max() <= 1


class TestVelocity:
    def test_says_of_a_picture_what_its_noise_says(self):
        """The same picture is drawn, and estimated in training, from either."""
        noise, velocity = palette.tiny(steps=4), palette.tiny(steps=4, predicts="velocity")
        noise.denoise_fn, velocity.denoise_fn = Pixelwise(), Velocity(Pixelwise())
        given = problem(2, 16, 16)
        torch.testing.assert_close(drawn(velocity, given), drawn(noise, given), atol=1e-4, rtol=0)
        answers = []
        for model in (noise, velocity):
            torch.manual_seed(3)
            answers.append(model.train()(**given, target=given["low_up"].flip(-1)))
        torch.testing.assert_close(answers[1].image, answers[0].image, atol=1e-4, rtol=0)

    def test_is_learnt_as_such(self):
        """γ is one half where the schedule has a single value: x and ε weigh the same."""
        model = palette.tiny(predicts="velocity")
        model.schedule.gammas = np.full(20, 0.5)
        clean, noise = torch.randn(2, 1, 3, 16, 16, generator=torch.Generator().manual_seed(1))
        region = torch.ones(1, 1, 16, 16, dtype=torch.bool)
        step, share = torch.tensor([5]), torch.tensor([[0.5]])
        restored = model.denoised(clean, clean, region, step, share, noise)
        torch.testing.assert_close(restored.to_predict, (noise - clean) * 0.5**0.5)


class TestResidual:
    """A network that looks at the noisy picture alone shows what is made of its answer."""

    @staticmethod
    def model(residual: float | None):
        model = palette.tiny(steps=4, residual=residual)
        model.denoise_fn = Drawn()
        return model

    def test_around_grey_is_the_picture(self):
        given = problem(2, 16, 16)
        given["low_up"].fill_(0.5)
        both = [drawn(self.model(r), given) for r in (None, 1.0)]
        torch.testing.assert_close(both[1], both[0], atol=1e-5, rtol=0)
        target, answers = torch.rand(2, 3, 16, 16) * 0.8 + 0.1, []
        for residual in (None, 1.0):
            torch.manual_seed(2)
            answers.append(self.model(residual).train()(**given, target=target))
        torch.testing.assert_close(answers[1].to_predict, answers[0].to_predict)
        hole = given["mask_up"].expand_as(target) > 0
        torch.testing.assert_close(answers[1].image[hole], answers[0].image[hole])

    def test_is_added_to_the_filling_in_its_unit(self):
        given = problem(2, 16, 16)
        given["low_up"] = given["low_up"] * 0.2 + 0.4
        brighter = {**given, "low_up": given["low_up"] + 0.1}
        small, large = (drawn(self.model(r), given) - given["low_up"] for r in (0.2, 0.4))
        torch.testing.assert_close(2 * small, large, atol=1e-5, rtol=0)
        assert (large.abs() > 0.01).any()
        assert large.abs().max() <= 0.2 + 1e-6
        moved = drawn(self.model(0.4), brighter) - brighter["low_up"]
        torch.testing.assert_close(moved, large, atol=1e-5, rtol=0)

    def test_what_is_learnt_is_the_difference(self):
        given, model = problem(1, 16, 16), self.model(0.5)
        seen = []
        model.denoise_fn.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
        model.schedule.gammas = np.full(20, 1 - 1e-9)  # hardly any noise
        target = (given["low_up"] + 0.05 * given["mask_up"]).clamp(0, 1)
        model.train()(**given, target=target)
        torch.testing.assert_close(seen[0][:, :3], 2 * given["low_up"] - 1)
        expected = (target - given["low_up"]) * 4
        torch.testing.assert_close(seen[0][:, 3:], expected, atol=1e-3, rtol=0)


class Drawn(nn.Module):
    multiple = 2

    def forward(self, x, gamma_N1):
        return torch.tanh(x[:, 3:] * (1 + gamma_N1[:, :, None, None]))


class Velocity(nn.Module):
    """What a network that predicts noise says, by way of the picture that follows from it."""

    multiple = 2

    def __init__(self, inner: nn.Module):
        super().__init__()
        self.inner = inner

    def forward(self, x, gamma_N1):
        gamma, noise = gamma_N1[:, :, None, None], self.inner(x, gamma_N1)
        clean = (x[:, 3:] - (1 - gamma).sqrt() * noise) / gamma.sqrt()
        return gamma.sqrt() * noise - (1 - gamma).sqrt() * clean


def test_patches_are_an_exchange_of_places_for_channels():
    """A network that takes squares of pixels is one of fewer pixels and more channels."""
    torch.manual_seed(0)
    patched = UNet(features=32, multipliers=[1, 1], blocks=1, dropout=0, patch=2).eval()
    plain = UNet(24, 12, features=32, multipliers=[1, 1], blocks=1, dropout=0).eval()
    plain.load_state_dict(patched.state_dict())
    x, gamma = torch.randn(1, 6, 8, 12), torch.tensor([[0.3]])
    # Rows and columns of each square, in that order, behind the channel.
    squares = x.view(1, 6, 4, 2, 6, 2).permute(0, 1, 3, 5, 2, 4).reshape(1, 24, 4, 6)
    answer = plain(squares, gamma).view(1, 3, 2, 2, 4, 6).permute(0, 1, 4, 2, 5, 3)
    torch.testing.assert_close(patched(x, gamma), answer.reshape(1, 3, 8, 12))


class TestChance:
    def test_is_of_the_picture_alone(self):
        model = palette.tiny(steps=3)
        both = problem(2, 16, 16)
        one = {name: value[1:] for name, value in both.items()}
        torch.testing.assert_close(drawn(model, both)[1:], drawn(model, one), atol=1e-5, rtol=0)
        torch.manual_seed(4)  # nothing else has a part in it
        assert torch.equal(drawn(model, one), drawn(model, one))
        turned = {
            name: value[::-1] if name == "keys" else value.flip(0) for name, value in both.items()
        }
        torch.testing.assert_close(
            drawn(model, both).flip(0), drawn(model, turned), atol=1e-5, rtol=0
        )

    @pytest.mark.parametrize("eta", [0.0, 1.0])
    def test_differs_by_key_seed_and_sample(self, eta):
        given = problem(1, 16, 16)
        image = drawn(palette.tiny(steps=3, eta=eta), given)
        other = drawn(palette.tiny(steps=3, eta=eta), {**given, "keys": ["another"]})
        seed = drawn(palette.tiny(steps=3, eta=eta, seed=2), given)
        with torch.inference_mode():
            samples = palette.tiny(steps=3, eta=eta, samples=2)(**given).samples
        torch.testing.assert_close(samples[0], image, atol=1e-4, rtol=0)
        for unlike in (other, seed, samples[1]):
            assert (unlike - image).abs().mean() > 0.01


@pytest.mark.parametrize("steps", [16, 3])
def test_frames_are_those_that_the_public_implementation_keeps(steps):
    """Of 16 steps the start and every second one; of fewer than eight some are shown twice."""
    model, given = palette.tiny(steps=steps), problem(2, 16, 16)
    with torch.inference_mode():
        every = model(**given, frames=steps)
        few = model(**given, frames=8)
    assert len(few.frames) == 9
    assert torch.equal(few.frames[-1], few.image)
    for number, frame in enumerate(few.frames):
        assert torch.equal(frame, every.frames[-(-number * steps // 8)])
    noisy = (few.frames[0] != given["low_up"]).any(1, keepdim=True)
    assert torch.equal(noisy, given["mask_up"] > 0)


def test_what_is_known_stays_to_the_last_bit():
    given = problem(2, 12, 20)
    given["mask_up"][1] = 0
    image = drawn(palette.tiny(steps=2), given)
    known = given["mask_up"].expand_as(image) == 0
    assert torch.equal(image[known], given["low_up"][known])
    assert (image[0] != given["low_up"][0]).any()
    assert image.min() >= 0
    assert image.max() <= 1


def test_what_lies_in_holes_is_not_looked_at():
    model, given = palette.tiny(steps=2), problem(1, 16, 16)
    hidden = torch.where(given["mask_up"] > 0, 0.5, given["low_up"])
    assert torch.equal(drawn(model, given), drawn(model, {**given, "low_up": hidden}))


def test_all_is_drawn_where_nothing_is_kept():
    given = problem(1, 16, 16)
    image = drawn(palette.tiny(steps=2, known="restored"), given)
    assert (image != given["low_up"]).all(1).float().mean() > 0.9


class TestWindows:
    def test_of_a_network_that_looks_at_single_pixels_make_no_seam(self):
        """Where all windows say the same, their mean is what one would say of the whole."""
        given = problem(1, 37, 52)
        whole, parts = palette.tiny(steps=4, size=64), palette.tiny(steps=4, size=16)
        for model in (whole, parts):
            model.denoise_fn = Pixelwise()
        torch.testing.assert_close(drawn(parts, given), drawn(whole, given), atol=1e-5, rtol=0)

    def test_without_holes_are_not_looked_at(self):
        model, given = palette.tiny(steps=1, size=16), problem(1, 64, 64)
        given["mask_up"].zero_()[..., 2:6, 3:7] = 1
        asked = []
        model.denoise_fn.register_forward_hook(lambda *_: asked.append(1))
        drawn(model, given)
        assert len(asked) == 1


class Pixelwise(nn.Module):
    multiple = 2

    def forward(self, x, gamma_N1):
        return torch.tanh(x[:, 3:] + x[:, :3] * gamma_N1[:, :, None, None])


class TestPublishedFiles:
    def test_are_recognised(self, tmp_path: Path):
        meta, _ = palette.golden("palette_restoration")
        model = palette.of_case(meta)
        buffers = dict.fromkeys(("gammas", "posterior_mean_coef1"), torch.zeros(2000))
        torch.save({**buffers, **model.state_dict()}, tmp_path / "60_Network.pth")
        torch.save(model.state_dict(), tmp_path / "60_Network_ema.pth")
        for name in ("60_Network", "60_Network_ema"):
            loaded = weights.load(tmp_path / f"{name}.pth", ["sampler.steps=2"])
            network = loaded.config["backbone"]["network"]
            assert (network["features"], network["multipliers"]) == (32, [1, 2])
            assert (network["blocks"], network["attention"]) == (1, [2])
            found = loaded.backbone().state_dict()
            assert found.keys() == model.state_dict().keys()
            assert all(torch.equal(found[key], x) for key, x in model.state_dict().items())
            assert ("gammas" in loaded.origin) == (name == "60_Network")
            assert loaded.config["sampler"]["schedule"]["last"] == 0.09
            assert loaded.config["sampler"]["eta"] == 1
        few = weights.load(tmp_path / "60_Network.pth", ["sampler=ddim"]).config["backbone"]
        assert (few["sampler"]["eta"], few["sampler"]["steps"]) == (0, 50)

    @pytest.mark.parametrize("multipliers", [[1], [1, 1, 2]])
    @pytest.mark.parametrize("blocks", [1, 2])
    def test_of_other_sizes_too(self, multipliers, blocks, tmp_path: Path):
        network = UNet(features=32, multipliers=multipliers, blocks=blocks, attention=[2])
        state = {f"denoise_fn.{name}": x for name, x in network.state_dict().items()}
        torch.save(state, tmp_path / "1_Network.pth")
        found = weights.load(tmp_path / "1_Network.pth").backbone()
        assert found.denoise_fn.state_dict().keys() == network.state_dict().keys()

    def test_of_another_kind_are_a_sentence(self, tmp_path: Path):
        state = dict(palette.tiny().state_dict())
        state["denoise_fn.input_blocks.0.0.weight"] = torch.zeros(32, 4, 3, 3)
        torch.save(state, tmp_path / "w.pth")
        with pytest.raises(UserError, match="4 channels of input"):
            weights.load(tmp_path / "w.pth")


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("network.head=7", "network.head=7 does not divide"),
        ("schedule.steps=1000000000000", "less than or equal to 1000000"),
        ("sampler.schedule.steps=1000000000000", "less than or equal to 1000000"),
        ("network.features=33", "no multiple of 32"),
    ],
)
def test_senseless_settings_are_refused_before_memory(setting: str, words: str):
    name = setting.partition("=")[0]
    place = setting if name.startswith("sampler") else f"backbone.{setting}"
    with pytest.raises(UserError, match=re.escape(words)):
        registry.build("backbone", "palette", place)
