"""Rows one after another make what all rows at once do."""

import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from restore.models.backbones.rows import Rows, cut, together


@given(
    height=st.integers(1, 60),
    most=st.integers(0, 40),
    reach=st.integers(0, 7),
    step=st.integers(1, 5),
    times=st.integers(1, 3),
)
def test_a_sum_over_neighbours_is_that_of_the_whole(height, most, reach, step, times):
    parts = cut(height, most, reach, step)
    assert all(part.first % step == 0 for part in parts)
    assert all(part.last % step == 0 or part.last == height for part in parts)
    assert [part.top for part in parts[1:]] == [part.bottom for part in parts[:-1]]
    high = max(part.bottom - part.top for part in parts)
    assert len(parts) == 1 or (high - step) * len(parts) < height, "lower ones would do"
    x = torch.randn(2, 1, times * height, 3, dtype=torch.float64)
    kernel = torch.ones(1, 1, 2 * reach * times + 1, 1, dtype=torch.float64)

    def summed(y: torch.Tensor) -> torch.Tensor:
        return F.conv2d(y, kernel, padding=(reach * times, 0))

    def some_summed(some: Rows) -> torch.Tensor:
        return some.wanted(summed(some.of(x, times)), times)

    expected = summed(x)
    torch.testing.assert_close(together(some_summed, parts, times), expected)
    torch.testing.assert_close(together(some_summed, parts, times, place=x), expected)


def test_no_more_rows_are_computed_than_may_be():
    parts = cut(1000, 100, 10, 4)
    assert max(part.last - part.first for part in parts) <= 100
    assert len(parts) == 14  # 76 rows each, and 12 beside them
