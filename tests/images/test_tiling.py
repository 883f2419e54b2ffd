"""A picture worked through in tiles is the picture worked through whole."""

import numpy as np
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from restore.config import compose, plain, registry
from restore.config.settings import Runtime
from restore.images.tiling import Window, tiled, windows
from restore.inference.restorer import Restorer, mean_over_turns
from restore.models.weights import Loaded

RUNTIME = Runtime("cpu", 1, "fp32", True, False, None)
sides = st.integers(1, 60)


@settings(max_examples=40, deadline=None)
@given(height=sides, width=sides, tile=st.integers(1, 70), overlap=st.integers(0, 20))
def test_windows_cover_every_pixel_once(height: int, width: int, tile: int, overlap: int):
    covered = torch.zeros(height, width, dtype=torch.int64)
    pairs = windows(height, width, tile, overlap)
    for computed, kept in pairs:
        kept.of(covered).add_(1)
        assert max(kept.height, kept.width) <= tile
        # What is computed reaches as far as the overlap, or the picture, allows.
        assert computed.top == max(0, kept.top - overlap)
        assert computed.left == max(0, kept.left - overlap)
        assert computed.top + computed.height == min(height, kept.top + kept.height + overlap)
        assert computed.left + computed.width == min(width, kept.left + kept.width + overlap)
    assert (covered == 1).all()
    areas = [kept.height for _, kept in pairs], [kept.width for _, kept in pairs]
    assert all(max(sizes) - min(sizes) <= 1 for sizes in areas), "the parts are uneven"


@settings(max_examples=25, deadline=None)
@given(
    height=sides,
    width=sides,
    tile=st.integers(4, 40),
    scale=st.sampled_from([1, 2, 4]),
    layers=st.integers(1, 3),
    seed=st.integers(0, 9),
)
def test_tiled_equals_whole_for_convolutions(height, width, tile, scale, layers, seed):
    torch.manual_seed(seed)
    convolutions = [nn.Conv2d(3, 3, 3, padding=1) for _ in range(layers)]
    after = nn.Conv2d(3, 3, 5, padding=2)  # felt one more input pixel away, after enlarging by two
    picture = torch.rand(1, 3, height, width)

    def network(x: torch.Tensor) -> torch.Tensor:
        for convolution in convolutions:
            x = convolution(x).tanh()
        return after(F.interpolate(x, scale_factor=scale))

    calls: list[Window] = []

    def part(window: Window) -> torch.Tensor:
        calls.append(window)
        return network(window.of(picture))

    reach = layers + 2
    with torch.no_grad():
        result = tiled(part, height, width, tile=tile, overlap=reach, scale=scale)
        whole = network(picture)
    assert (result - whole).abs().max() < 1e-6
    longest = max(max(window.height, window.width) for window in calls)
    assert longest <= max(tile + 2 * reach, 1)


def test_too_small_an_overlap_shows():
    torch.manual_seed(0)
    convolution = nn.Conv2d(1, 1, 9, padding=4)
    picture = torch.rand(1, 1, 40, 40)
    with torch.no_grad():
        whole = convolution(picture)
        for overlap, close in ((4, True), (3, False)):
            result = tiled(
                lambda window: convolution(window.of(picture)),
                *(40, 40),
                tile=16,
                overlap=overlap,
                scale=1,
            )
            assert ((result - whole).abs().max() < 1e-6) == close


def ttsr(*overrides: str) -> Restorer:
    torch.manual_seed(0)
    parts = ["pretrained.vgg19=random", "backbone.features=8", "backbone.blocks=[1,1,1,1]"]
    config = plain(compose("train", [*parts, *overrides]))
    model = registry.instantiate(config["backbone"], "backbone")
    with torch.no_grad():  # larger weights, so that what comes from afar is seen
        for parameter in model.stages.parameters():
            parameter.mul_(2)
        model.merge.tail2.weight.mul_(10)
    return Restorer(Loaded(config, model.state_dict(), None, "", ""), RUNTIME, torch.device("cpu"))


def test_ttsr_with_one_memory_shows_no_seam():
    restorer = ttsr()
    low = torch.rand(3, 44, 49)
    memory = restorer.encode_reference(torch.rand(3, 40, 60))
    whole = restorer.restore(low, memory, None)
    assert whole.std() > 0.05
    assert 0 < ((whole == 0) | (whole == 1)).float().mean() < 0.9, "the test shows too little"
    for tile in (24, 45):
        parts = restorer.restore(low, memory, tile)
        assert (parts - whole).abs().max() < 1e-4


def test_eight_bit_pictures_differ_by_a_level_at_most():
    restorer = ttsr("backbone.global_skip=true")
    low = torch.randint(0, 256, (3, 44, 37), dtype=torch.uint8)
    memory = restorer.encode_reference(torch.randint(0, 256, (3, 24, 24), dtype=torch.uint8))
    whole, parts = (restorer.restore(low, memory, tile) for tile in (None, 24))
    assert (parts - whole).abs().max() <= 1 / 255 + 1e-6


def test_the_ensemble_in_tiles_equals_the_ensemble_of_the_whole():
    restorer = ttsr()
    low = torch.rand(3, 6, 90)
    memory = restorer.encode_reference(torch.rand(3, 16, 24))
    whole, parts = (restorer.restore(low, memory, tile, ensemble=True) for tile in (None, 45))
    assert (parts - whole).abs().max() < 1e-4
    assert (whole - restorer.restore(low, memory, None)).abs().max() > 1e-3


def test_mean_over_turns_meets_all_eight():
    picture = torch.arange(6.0).view(1, 2, 3)
    seen = []

    def keep(turned: torch.Tensor) -> torch.Tensor:
        seen.append(turned.clone())
        return turned

    assert torch.equal(mean_over_turns(keep, picture), picture)
    transposed = picture.transpose(1, 2)
    expected = [
        part.flip(axes) for part in (picture, transposed) for axes in ((), (1,), (2,), (1, 2))
    ]
    assert len(seen) == 8
    assert all(any(torch.equal(one, other) for one in seen) for other in expected)


def test_the_mean_over_turns_stays_between_its_parts():
    rng = np.random.default_rng(0)
    for _ in range(50):
        parts = torch.from_numpy(rng.random((8, 1, 1, 40, 40), np.float32) * 1e-6 + 0.3)
        if rng.random() < 0.3:
            parts = parts[:1].expand_as(parts)
        left = iter(parts)
        seen: list[torch.Tensor] = []

        def answer(turned: torch.Tensor, left=left, seen=seen) -> torch.Tensor:
            seen.append(next(left))
            return seen[-1]

        mean = mean_over_turns(answer, torch.zeros(1, 1, 40, 40))
        turned_back = torch.stack(
            [
                (part.flip(-1) if number % 2 else part).rot90(-(number // 2), (-2, -1))
                for number, part in enumerate(seen)
            ]
        )
        assert (mean >= turned_back.amin(0)).all()
        assert (mean <= turned_back.amax(0)).all()
