"""The network that tells noise, against the public implementation's outputs."""

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from restore.models.diffusion.unet import UNet, embedding
from restore.tools.bench import plain_unet
from tests import GOLDEN
from tests.helpers import palette


def test_forward_pass_of_the_public_implementation():
    meta, case = palette.golden("palette_unet_tiny")
    network = palette.of_case(meta).denoise_fn
    seen: dict[str, torch.Tensor] = {}
    parts = {"middle": network.middle_block, "middle_attention": network.middle_block[1]}
    parts |= {f"input_{i}": part for i, part in enumerate(network.input_blocks)}
    parts |= {f"output_{i}": part for i, part in enumerate(network.output_blocks)}
    for name, part in parts.items():
        part.register_forward_hook(lambda _, __, out, name=name: seen.update({name: out}))
    with torch.inference_mode():
        out = network(case["in_x"], case["in_gammas"])
        level = embedding(case["in_gammas"][:, 0], network.features)
        torch.testing.assert_close(level, case["gamma_embedding"], atol=1e-6, rtol=0)
        torch.testing.assert_close(network.cond_embed(level), case["cond_embed"])
    assert {f"{name}_mean" for name in seen} <= case.keys()
    for name, found in seen.items():
        torch.testing.assert_close(found.mean(1), case[f"{name}_mean"], atol=1e-4, rtol=0)
    torch.testing.assert_close(out, case["out"], atol=1e-4, rtol=0)


def test_an_odd_embedding_ends_in_zero():
    level = embedding(torch.tensor([0.3, 0.9]), 5)
    assert level[:, 4].tolist() == [0, 0]
    torch.testing.assert_close(level[:, :4], embedding(torch.tensor([0.3, 0.9]), 4))


def test_the_published_size_has_the_published_tensors():
    held = json.loads((GOLDEN / "palette_inpainting.json").read_text())
    with torch.device("meta"):
        network = UNet()
    own = {f"denoise_fn.{name}": list(x.shape) for name, x in network.state_dict().items()}
    assert own == {k: v for k, v in held["keys"].items() if k not in held["computed"]}
    assert sum(p.numel() for p in network.parameters()) == held["parameters"]


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_bf16_tells_nearly_the_same(layout):
    meta, case = palette.golden("palette_unet_tiny")
    network = palette.of_case(meta).denoise_fn.to(memory_format=layout)
    given = case["in_x"].contiguous(memory_format=layout)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        out = network(given, case["in_gammas"]).float()
    assert (out - case["out"]).square().mean().sqrt() < 0.05 * case["out"].std()


@settings(max_examples=8, deadline=None)
@given(
    features=st.sampled_from([16, 32]),
    multipliers=st.lists(st.sampled_from([2, 4]), min_size=1, max_size=3),
    blocks=st.integers(1, 2),
    attention=st.lists(st.sampled_from([1, 2, 4, 16]), max_size=2),
    head=st.sampled_from([8, 16, 32]),
    sides=st.tuples(st.integers(2, 4), st.integers(2, 4)),
    count=st.integers(1, 2),
    seed=st.integers(0, 999),
)
def test_is_the_plain_formulation(
    features, multipliers, blocks, attention, head, sides, count, seed
):
    """The one that `restore bench` measures against, itself held against the public outputs."""
    torch.manual_seed(seed)
    multipliers = [m * 16 // features for m in multipliers]
    network = UNet(6, 3, features, multipliers, blocks, attention, head).eval()
    height, width = (side * network.multiple for side in sides)
    x, gamma = torch.randn(count, 6, height, width), torch.rand(count, 1)
    with torch.inference_mode():
        plain = plain_unet.whole(dict(network.named_parameters()), x, gamma, blocks, head)
        torch.testing.assert_close(network(x, gamma), plain, atol=1e-4, rtol=1e-4)


def test_the_plain_formulation_gives_the_public_outputs():
    meta, case = palette.golden("palette_unet_tiny")
    state = dict(palette.of_case(meta).denoise_fn.named_parameters())
    with torch.inference_mode():
        out = plain_unet.whole(state, case["in_x"], case["in_gammas"], meta["unet"]["res_blocks"])
    torch.testing.assert_close(out, case["out"], atol=1e-4, rtol=0)
