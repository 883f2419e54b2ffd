"""Shifted windows where a picture's sides are no multiples of theirs, and in place."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from restore.config import registry
from restore.models.backbones.swin import SwinTrunk


@settings(max_examples=10, deadline=None)
@given(
    sides=st.tuples(*[st.integers(1, 30)] * 2),
    batch=st.integers(1, 2),
    window=st.sampled_from([2, 4, 8]),
    depth=st.integers(1, 3),
    together=st.sampled_from([1, 1 << 10, 1 << 17]),
    seed=st.integers(0, 2**31),
)
@torch.no_grad()
def test_in_place_it_is_what_timm_makes(sides, batch, window, depth, together, seed):
    torch.manual_seed(seed)
    trunk = SwinTrunk(8, 2, depth=depth, heads=2, window=window).eval()
    x = torch.randn(batch, 8, *sides)
    trunk.in_place = False
    expected, _ = trunk(x)
    trunk.in_place = True
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(trunk.forward.__globals__["_TOGETHER"], "cpu", together)
        found, _ = trunk(x)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_one_end_of_a_picture_is_not_felt_at_the_other():
    torch.manual_seed(0)
    trunk = SwinTrunk(8, 1, depth=2, heads=2, window=4).eval()
    x = torch.randn(1, 8, 21, 21)
    changed = x.clone()
    changed[..., 0, 0] += 1
    felt = (trunk(x)[0] - trunk(changed)[0]).abs().amax((0, 1)).nonzero()
    assert 0 < felt.max() <= 7  # two windows, and the convolution


@pytest.mark.parametrize("wrong", range(5))
@torch.no_grad()
def test_what_is_wrong_at_a_cut_is_felt_no_farther_than_it_says(wrong: int):
    torch.manual_seed(0)
    trunk = SwinTrunk(8, 2, depth=3, heads=2, window=4).eval()
    x = torch.randn(1, 8, 56, 6)
    part = x[..., 8:, :].clone()
    part[..., :wrong, :] += 1
    first = trunk.felt(wrong)
    assert first <= wrong + trunk.reach
    torch.testing.assert_close(trunk(part)[0][..., first:, :], trunk(x)[0][..., 8 + first :, :])
    assert part.shape[-2] - first > 10, "nothing was compared"


def test_windows_allow_no_tiles():
    small = ["backbone.blocks=[1,1,1,1]", "backbone.features=8", "extractor=pyramid"]
    assert registry.build("backbone", "ttsr", *small).reach is not None
    assert registry.build("backbone", "ttsr", *small, "trunk=swin").reach is None
