"""The deformable convolution beside torchvision's own, values and gradients."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torchvision.ops import deform_conv2d

from restore.models.backbones import deformable
from restore.models.backbones.deformable import deformable_conv

SIDE = st.integers(1, 9)


def published(x: Tensor, offsets: Tensor, mask: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """torchvision's, which wants pictures of one size: zeros continue the smaller one."""
    sizes = [max(pair) for pair in zip(x.shape[-2:], offsets.shape[-2:])]
    h, w = offsets.shape[-2:]
    x, offsets, mask = (
        F.pad(y, (0, sizes[1] - y.shape[-1], 0, sizes[0] - y.shape[-2])) for y in (x, offsets, mask)
    )
    return deform_conv2d(x, offsets, weight, bias, padding=1, mask=mask)[..., :h, :w]


def drawn(N: int, groups: int, each: int, one: tuple, other: tuple, spread: float, seed: int):
    torch.manual_seed(seed)
    C = groups * each
    shapes = [(N, C, *one), (N, 18 * groups, *other), (N, 9 * groups, *other), (3, C, 3, 3), (3,)]
    values = [torch.randn(shape, dtype=torch.float64) for shape in shapes]
    values[1] *= spread
    return [value.requires_grad_() for value in values]


@settings(max_examples=25, deadline=None)
@given(
    N=st.integers(1, 2),
    groups=st.integers(1, 3),
    each=st.integers(1, 3),
    one=st.tuples(SIDE, SIDE),
    other=st.tuples(SIDE, SIDE),
    spread=st.sampled_from([0.0, 0.7, 3.0, 40.0]),
    table=st.sampled_from([1, 500, 1 << 20]),
    seed=st.integers(0, 2**31),
)
def test_it_is_torchvisions(N, groups, each, one, other, spread, table, seed):
    inputs = drawn(N, groups, each, one, other, spread, seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(deformable._TABLE, "cpu", table)  # how many rows at a time changes nothing
        ours = deformable_conv(*inputs)
        theirs = published(*inputs)
        torch.testing.assert_close(ours, theirs)
        weights = torch.randn_like(ours)
        expected = torch.autograd.grad((theirs * weights).sum(), inputs)
        # Where a place lies on a line between pixels the derivative by it has two values.
        by = [0, 2, 3, 4] if spread == 0 else range(5)
        made = torch.autograd.grad((ours * weights).sum(), inputs)
        for place in by:
            torch.testing.assert_close(made[place], expected[place])
