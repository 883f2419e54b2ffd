"""What is done in parts, where nothing is trained, is what is done at once."""

from functools import partial
from unittest.mock import patch

import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from restore.models.backbones import blocks, rows
from restore.models.backbones.blocks import (
    ResidualTrunk,
    add_convolved,
    conv,
    side_by_side,
    through,
)
from restore.models.backbones.fusion import DualAggregation, Moments, SpatialAdaptation
from restore.models.backbones.upsampling import bilinear
from restore.models.extractors import Extractor

SIDES = st.tuples(st.integers(1, 40), st.integers(1, 9))


@settings(max_examples=10, deadline=None)
@given(
    channels=st.lists(st.integers(1, 5), min_size=1, max_size=3),
    sides=SIDES,
    stride=st.integers(1, 2),
    bias=st.booleans(),
    rows_added=st.sampled_from([1, 4, 40]),
)
def test_maps_are_convolved_as_if_they_lay_side_by_side(channels, sides, stride, bias, rows_added):
    layer = conv(sum(channels), 4, stride=stride, bias=bias).double()
    maps = [torch.randn(2, count, *sides, dtype=torch.float64) for count in channels]
    expected = layer(torch.cat(maps, 1))
    torch.testing.assert_close(side_by_side(layer, iter(maps)), expected)
    with torch.no_grad(), patch.multiple(blocks, _ADDED=1, _LEAST_ROWS=rows_added):
        torch.testing.assert_close(side_by_side(layer, iter(maps)), expected)


@torch.no_grad()
def test_of_what_is_added_few_rows_are_there_at_a_time():
    layer = conv(2, 3).double()
    x, y = torch.randn(1, 2, 50, 4).double(), torch.randn(1, 3, 50, 4).double()
    expected, heights = y + layer(x), []

    def convolve(some: torch.Tensor) -> torch.Tensor:
        heights.append(some.shape[-2])
        return layer(some)

    with patch.multiple(blocks, _ADDED=8 * y[..., 0, :].numel(), _LEAST_ROWS=1):
        add_convolved(y, x, convolve)
    torch.testing.assert_close(y, expected)
    assert max(heights) <= 8


@settings(max_examples=10, deadline=None)
@given(sides=SIDES, cached=st.sampled_from([1, 100, 1 << 17]), last=st.booleans())
def test_textures_are_adapted_in_parts_as_at_once(sides, cached, last):
    x, texture = torch.randn(2, 3, *sides) * 4 + 7, torch.randn(2, 3, *sides) - 5
    if last:
        x, texture = (y.contiguous(memory_format=torch.channels_last) for y in (x, texture))
    adapt = SpatialAdaptation(3)
    both = F.relu(adapt.shared(torch.cat([x, texture], 1)))
    apart = x.flatten(2)
    deviation = apart.std(2) if apart.shape[2] > 1 else torch.zeros(2, 3)
    variance, mean = torch.var_mean(texture, (2, 3), correction=0, keepdim=True)
    factor = adapt.gamma(both) + deviation[..., None, None]
    expected = (texture - mean) / (variance + 1e-5).sqrt() * factor
    expected = expected + adapt.beta(both) + x.mean((2, 3), keepdim=True)
    torch.testing.assert_close(adapt(x, texture), expected, atol=1e-4, rtol=1e-4)
    with torch.no_grad(), patch.object(rows, "_CACHED", cached):
        torch.testing.assert_close(adapt(x, texture), expected, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(Moments.of(texture).variance, variance)


@settings(max_examples=15, deadline=None)
@given(
    half=st.tuples(st.integers(1, 30), st.integers(1, 4)),
    least=st.sampled_from([4, 7, 20]),
    seed=st.integers(0, 2**31),
)
def test_rows_go_through_convolutions_some_at_a_time_as_all_at_once(half, least, seed):
    torch.manual_seed(seed)
    sides = 2 * half[0], 2 * half[1]
    x = torch.randn(2, 3, *half, dtype=torch.float64).to(memory_format=torch.channels_last)
    texture = torch.randn(2, 3, *sides, dtype=torch.float64).to(memory_format=torch.channels_last)
    trunk, adapt = ResidualTrunk(3, 2, 0.5).double(), SpatialAdaptation(3).double()
    aggregate = DualAggregation(3).double()
    expected = [
        trunk(texture)[0],
        adapt(bilinear(x, 2), texture).float(),
        aggregate(x, texture),
    ]
    with torch.no_grad(), patch.multiple(rows, _CONVOLVED=1, _LEAST=least):
        before = texture.clone()
        torch.testing.assert_close(trunk(texture)[0], expected[0])
        torch.testing.assert_close(adapt(x, texture).float(), expected[1])
        assert torch.equal(texture, before), "what may be needed is as it was"
        in_place = [
            lambda y: through(trunk, y)[0],
            lambda y: adapt.replace(x, y).float(),
            partial(aggregate, x),
        ]
        for make, result in zip(in_place, expected):
            y = texture.clone()
            torch.testing.assert_close(make(y), result)


class _Blurred(Extractor):
    channels, reach = (1, 1, 3), 1

    def forward(self, image: torch.Tensor) -> list[torch.Tensor]:
        blurred = F.avg_pool2d(image, 5, 1, padding=2, count_include_pad=False)
        return [image[:, :1], image[:, :1, ::2, ::2], F.avg_pool2d(blurred, 4)]


@settings(max_examples=10, deadline=None)
@given(high=st.integers(1, 20), wide=st.integers(1, 4), largest=st.sampled_from([1, 1 << 9]))
@torch.no_grad()
def test_what_is_compared_of_large_pictures_is_made_in_bands(high, wide, largest):
    image = torch.rand(2, 3, 4 * high, 4 * wide)
    extractor = _Blurred()
    with patch.object(rows, "LARGEST_MAP", largest):
        found = extractor.query(image[..., ::4, ::4], image)
    torch.testing.assert_close(found, extractor(image)[-1])
