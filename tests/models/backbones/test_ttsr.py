"""The published TTSR, to the last level."""

from pathlib import Path

import numpy as np
import pytest
import torch

from restore.cli import main
from restore.config import compose, plain, registry
from restore.errors import UserError
from restore.images.io import read_rgb
from restore.models import weights
from tests.helpers import published

RANDOM = "pretrained.vgg19=random"


def test_forward_pass_equals_the_published_one(tmp_path: Path):
    keys = published.keys_with_blocks(published.small_ttsr(), [2, 2, 1, 1])
    file = tmp_path / "published.pt"
    torch.save(published.weights(keys, gain=1.0), file)
    loaded = weights.load(file)
    assert loaded.config["backbone"]["blocks"] == [2, 2, 1, 1]
    golden = np.load(published.GOLDEN / "ttsr_public.npz")
    inputs = {
        own: (torch.from_numpy(golden[theirs]) + 1) / 2
        for own, theirs in (
            ("low", "in_lr"),
            ("low_up", "in_lrsr"),
            ("reference", "in_ref"),
            ("reference_low_up", "in_refsr"),
        )
    }
    with torch.no_grad():
        restored = loaded.backbone()(**inputs)
    np.testing.assert_allclose(restored.image * 2 - 1, golden["out_sr"], atol=1e-4)
    np.testing.assert_allclose(restored.score, golden["out_S"], atol=1e-4)
    for texture, name in zip(restored.textures, ("lv3", "lv2", "lv1")):
        means = golden[f"out_T_{name}_mean"]
        np.testing.assert_allclose(texture.mean((2, 3)), means, atol=1e-4)


@pytest.mark.parametrize("wrapped", [False, True], ids=["plain", "lightning"])
def test_command_line_restores_to_the_level(tmp_path: Path, wrapped: bool):
    state = published.case("official_small")
    if wrapped:
        state = {"epoch": 3, "state_dict": {f"model.{k}": v for k, v in state.items()}}
    torch.save(state, tmp_path / "weights.ckpt")
    folder = published.GOLDEN / "official_small"
    output = tmp_path / "restored.png"
    code = main(
        [
            "apply",
            f"weights={tmp_path / 'weights.ckpt'}",
            f"input={folder / 'low.png'}",
            f"reference={folder / 'reference.png'}",
            f"output={output}",
        ]
    )
    assert code == 0
    difference = read_rgb(output).int() - read_rgb(folder / "expected.png").int()
    assert difference.abs().max() <= 1


@pytest.mark.parametrize(
    ("blocks", "main_network", "with_two_extractors"),
    [
        ([16, 16, 8, 4], 6_174_275, 7_284_955),
        ([8, 8, 4, 2], None, 5_069_275),
        ([4, 4, 2, 1], None, 3_961_435),
    ],
)
def test_parameter_counts(blocks, main_network, with_two_extractors):
    model = registry.build("backbone", "ttsr", RANDOM, f"backbone.blocks={blocks}")
    extractor = sum(p.numel() for p in model.extractor.parameters())
    rest = sum(p.numel() for p in model.parameters()) - extractor
    # The published counts hold the extractor twice, each with its 12 fixed normalisation weights.
    assert rest + 2 * (extractor + 12) == with_two_extractors
    assert main_network in (None, rest)


def test_default_layout_is_recognised(tmp_path: Path):
    file = tmp_path / "default.pt"
    torch.save(published.weights(published.layout("official_default.json"), 0.5), file)
    loaded = weights.load(file)
    assert loaded.config["backbone"]["blocks"] == [16, 16, 8, 4]
    loaded.backbone()


def test_a_key_too_many_or_too_few_is_refused(tmp_path: Path):
    state = published.case("official_small")
    more = state | {"MainNet.new.weight": torch.zeros(1)}
    torch.save(more, tmp_path / "more.pt")
    with pytest.raises(UserError, match=r"MainNet\.new\.weight"):
        weights.load(tmp_path / "more.pt")
    del state["MainNet.conv23.bias"]
    torch.save(state, tmp_path / "less.pt")
    with pytest.raises(UserError, match="another model: 1 missing"):
        weights.load(tmp_path / "less.pt").backbone()


def test_untrained_network_with_the_skip_is_its_upsampled_input():
    torch.manual_seed(0)
    model = registry.build(
        "backbone", "ttsr", RANDOM, "backbone.blocks=[1,1,1,1]", "backbone.global_skip=true"
    )
    low, low_up = torch.rand(1, 3, 6, 5), torch.rand(1, 3, 24, 20)
    reference = torch.rand(1, 3, 16, 32)
    with torch.no_grad():
        restored = model(low, low_up, reference, reference)
    torch.testing.assert_close(restored.image, low_up)


def shipped(*more: str) -> list[str]:
    return ["experiment=shipped/ttsr_x4", "data.photos.targets=photos", *more]


def test_untrained_network_with_a_base_gives_the_picture_of_the_base():
    node = plain(compose("train", shipped()))["backbone"]
    torch.manual_seed(0)
    model = registry.instantiate(node, "backbone").eval()
    low, low_up = torch.rand(1, 3, 6, 5), torch.rand(1, 3, 24, 20)
    reference = torch.rand(1, 3, 16, 32)
    with torch.no_grad():
        restored = model(low, low_up, reference, reference)
        expected = weights.load("wdsr_b_x4").backbone()(low).image
        torch.testing.assert_close(restored.image, expected.clamp(0, 1))
    restored = model(low, low_up)
    restored.image.sum().backward()
    assert all(p.grad is None for p in model.base.parameters())
    assert model.reach >= model.base.reach
    with pytest.raises(UserError, match=r"backbone\.base: its network must enlarge 4 times"):
        registry.instantiate({**node, "inputs": 4}, "backbone")


@pytest.mark.slow
def test_reach_is_as_far_as_an_input_pixel_is_felt():
    torch.manual_seed(1)
    model = registry.build("backbone", "ttsr", RANDOM, "backbone.blocks=[1,1,1,1]")
    size, middle = 96, 48
    low = torch.rand(1, 3, size, size)
    reference = torch.rand(1, 3, 32, 32)
    changed = low.clone()
    changed[..., middle, middle] += 0.5
    with torch.no_grad():
        memory = model.encode_reference(reference, reference)
        outputs = []
        for picture in (low, changed):
            up = torch.nn.functional.interpolate(picture, scale_factor=4)
            outputs.append(model(picture, up, memory=memory).image)
    felt = (outputs[0] - outputs[1]).abs().amax((0, 1)).nonzero()
    far = (felt.float() / 4 - middle).abs().max()
    assert 0 < far <= model.reach


def test_what_lies_beside_the_model_in_a_file_is_left_and_named(tmp_path: Path):
    state = published.case("official_small")
    copy = {f"LTE_copy.{k.removeprefix('LTE.')}": v for k, v in state.items() if k[:4] == "LTE."}
    inside = {f"model.{key}": value for key, value in (state | copy).items()}
    beside = {"discriminator.conv1.weight": torch.zeros(3), "vgg19.slice1.0.bias": torch.zeros(2)}
    torch.save({"epoch": 3, "state_dict": inside | beside}, tmp_path / "weights.ckpt")
    loaded = weights.load(tmp_path / "weights.ckpt")
    torch.testing.assert_close(
        loaded.backbone().shallow.head.weight, state["MainNet.SFE.conv_head.weight"]
    )
    assert "without what is not the model: discriminator.conv1.weight, vgg19" in loaded.sentence()
