"""Bicubic upsampling and downsampling against torch's."""

import shutil

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from restore.models.backbones.upsampling import downsample, upsample


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    shape=st.tuples(*(st.integers(1, 9) for _ in range(4))),
    ratio=st.sampled_from([2, 3, 4]),
)
def test_equals_torch_with_gradients(seed, shape, ratio):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(shape, generator=generator, dtype=torch.float64, requires_grad=True)
    expected = F.interpolate(x, scale_factor=ratio, mode="bicubic", align_corners=False)
    made = upsample(x, ratio)
    torch.testing.assert_close(made, expected)
    weight = torch.randn(expected.shape, generator=generator, dtype=torch.float64)
    gradients = [torch.autograd.grad((y * weight).sum(), x)[0] for y in (made, expected)]
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("ratio", [2, 3, 4])
def test_made_smaller_as_torch_does_it_but_at_the_borders(ratio):
    x = torch.rand(2, 3, 9 * ratio, 11 * ratio, dtype=torch.float64)
    expected = F.interpolate(x, (9, 11), mode="bicubic", antialias=True)
    inner = (..., slice(2, -2), slice(2, -2))
    torch.testing.assert_close(downsample(x, ratio)[inner], expected[inner])
    plain = torch.full_like(x, 0.3)
    torch.testing.assert_close(downsample(plain, ratio), torch.full((2, 3, 9, 11), 0.3).double())


@pytest.mark.skipif(not shutil.which("c++"), reason="torch.compile needs a C++ compiler")
@pytest.mark.slow
def test_its_gradient_can_be_compiled_for_channels_last():
    """Where `runtime.compile=true` broke: between convolutions, channels last."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 3), Up(), nn.Conv2d(4, 2, 3))
    network.to(memory_format=torch.channels_last)
    x = torch.rand(2, 3, 8, 9).to(memory_format=torch.channels_last)
    found = []
    for model in (network, torch.compile(network)):
        network.zero_grad()
        model(x).square().mean().backward()
        found.append([p.grad.clone() for p in network.parameters()])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


class Up(nn.Module):
    def forward(self, x):
        return upsample(x, 2)


def test_half_precision_stays_near():
    x = torch.rand(1, 8, 10, 11, generator=torch.Generator().manual_seed(0))
    expected = F.interpolate(x, scale_factor=4, mode="bicubic", align_corners=False)
    made = upsample(x.bfloat16(), 4)
    assert made.dtype == torch.bfloat16
    torch.testing.assert_close(made.float(), expected, atol=0.03, rtol=0)
