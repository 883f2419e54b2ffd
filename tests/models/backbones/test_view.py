"""The view of a reference: in the input's light, as sharp, and judged by how well it fits."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from restore.config import compose, plain, registry
from restore.errors import UserError
from restore.models import weights
from restore.models.backbones.upsampling import downsample
from restore.models.backbones.view import MatchedView, mean_view
from tests.helpers.scenes import own_places, scene


def seen(view: MatchedView, reference, low, score):
    low_up = F.interpolate(low, scale_factor=4, mode="bilinear")
    return view(reference, own_places(low), low, low_up, score)


@given(
    seed=st.integers(0, 10**6),
    gains=st.lists(st.floats(0.6, 1.6), min_size=3, max_size=3),
)
def test_a_factor_for_each_channel_is_found_and_taken_away(seed, gains):
    picture, score = scene(seed), torch.full((1, 1, 12, 16), 0.8)
    low = downsample(picture, 4)
    lit, _ = seen(MatchedView(steps=0), picture * torch.tensor(gains).view(3, 1, 1), low, score)
    assert (lit - picture).abs().max() < 0.01


def test_light_may_change_from_region_to_region():
    picture, score = scene(1, 64, 256), torch.full((1, 1, 16, 64), 0.8)
    falling = torch.linspace(1.5, 0.7, 256).expand(1, 3, 64, 256)
    view, low = MatchedView(window=3.0, steps=0), downsample(picture, 4)
    lit, _ = seen(view, picture * falling, low, score)
    assert (lit - picture).abs().mean() < 0.01 < (picture * falling - picture).abs().mean()


def test_light_that_was_cut_off_is_at_least_as_bright():
    picture = scene(7)
    low, score = downsample(picture, 4), torch.full((1, 1, 12, 16), 0.8)
    clipped = (picture * 2.8).clamp(max=1)
    cut = clipped == 1
    assert 0.1 < cut.float().mean() < 0.7
    view = MatchedView(window=2.0, steps=0)
    lit, _ = view(clipped, own_places(low), low, picture, score)
    # What low_up says there; elsewhere the reference has it all.
    assert (lit - picture)[cut].abs().mean() < 0.02
    assert (lit - picture)[~cut].abs().mean() < 0.02


def test_what_does_not_fit_says_nothing_of_the_light():
    picture = scene(2)
    low, score = downsample(picture, 4), torch.full((1, 1, 12, 16), 0.9)
    score[..., 8:] = 0.0
    reference = picture.clone()
    reference[..., 32:] = 1.0  # something else, much brighter
    lit, _ = seen(MatchedView(window=2.0, steps=0), reference, low, score)
    assert (lit - picture)[..., :28].abs().max() < 0.02


@pytest.mark.parametrize(("right", "below"), [(0.4, -0.3), (-0.7, 0.6)])
def test_places_are_moved_to_where_both_show_the_same(right, below):
    picture = scene(4, 96, 128)
    low, score = downsample(picture, 4), torch.full((1, 1, 24, 32), 0.8)
    wrong = own_places(low) + torch.tensor([right, below]).view(1, 2, 1, 1)
    inner = (..., slice(12, -12), slice(12, -12))
    errors = []
    for steps in (0, 3):
        view = MatchedView(steps=steps, step_window=2.0)
        lit, _ = view(0.7 * picture, wrong, low, picture, score)
        errors.append((lit - picture)[inner].square().mean())
    assert errors[1] < errors[0] / 10


def test_places_lie_in_the_middle_of_low_pixels():
    picture = scene(6)
    low, score = downsample(picture, 4), torch.ones(1, 1, 12, 16)
    lit, _ = seen(MatchedView(steps=0), picture, low, score)
    torch.testing.assert_close(lit, picture, atol=1e-4, rtol=0)


def test_the_score_falls_where_the_view_is_unlike_the_input():
    picture = scene(8)
    reference = picture.clone()
    reference[..., 32:] = picture[..., 32:].flip(2)
    low, score = downsample(picture, 4), torch.full((1, 1, 12, 16), 0.9)
    _, lowered = seen(MatchedView(steps=0), reference, low, score)
    assert lowered[..., :5].min() > 0.85
    assert lowered[..., 11:].mean() < 0.6
    assert not seen(MatchedView(), picture, low, 0 * score)[1].any(), "none stays none"


def textured(seed: int) -> torch.Tensor:
    """A picture with details at every frequency, the finest ones weaker."""
    chance = torch.Generator().manual_seed(seed)
    size = (96, 128)
    frequency = torch.hypot(torch.fft.fftfreq(size[0])[:, None], torch.fft.fftfreq(size[1])[None])
    spectrum = torch.fft.fft2(torch.randn(1, 3, *size, generator=chance)) / (frequency + 0.02)
    picture = torch.fft.ifft2(spectrum).real
    return 0.5 + 0.1 * picture / picture.std()


def softened(picture: torch.Tensor, deviation: float) -> torch.Tensor:
    """After a Gaussian filter, by its Fourier transform."""
    steps = [torch.fft.fftfreq(side) for side in picture.shape[-2:]]
    squares = steps[0][:, None] ** 2 + steps[1][None] ** 2
    spectrum = torch.fft.fft2(picture) * torch.exp(-2 * (torch.pi * deviation) ** 2 * squares)
    return torch.fft.ifft2(spectrum).real


INNER = (..., slice(12, -12), slice(12, -12))


MIDDLE = (..., slice(3, -3), slice(3, -3))


def error(view: torch.Tensor, picture: torch.Tensor) -> float:
    return float((view - picture)[INNER].square().mean())


@settings(deadline=None, max_examples=8)
@given(seed=st.integers(0, 10**6), deviation=st.floats(1.0, 3.0), contrast=st.floats(0.8, 1.25))
def test_a_view_that_is_too_sharp_is_blurred(seed, deviation, contrast):
    sharp = textured(seed)
    soft, score = softened(sharp, deviation), torch.full((1, 1, 24, 32), 0.8)
    low = downsample(soft, 4)
    lit, _ = seen(MatchedView(steps=0), 0.5 + contrast * (sharp - 0.5), low, score)
    # What is left of the finest details, beside those of the target.
    left = [(x - softened(x, 1.5))[INNER].std() for x in (lit, soft, sharp)]
    assert abs(left[0] / contrast - left[1]) < 0.25 * (left[2] - left[1])


@settings(deadline=None, max_examples=8)
@given(seed=st.integers(0, 10**6))
def test_a_view_that_is_too_soft_is_sharpened_and_trusted_less_the_softer_it_is(seed):
    sharp, score = textured(seed), torch.full((1, 1, 24, 32), 0.8)
    low = downsample(sharp, 4)
    scores = []
    for deviation in (0.0, 1.0, 4.0):
        soft = softened(sharp, deviation)
        lit, lowered = MatchedView(steps=0)(soft, own_places(low), low, softened(sharp, 1.5), score)
        assert error(lit, sharp) < (0.8 if deviation == 1 else 1.0) * error(soft, sharp) + 1e-4
        scores.append(float(lowered[MIDDLE].mean()))
    assert scores[0] > 0.75
    assert scores[0] > scores[1] > scores[2]
    assert scores[2] < 0.1


def test_what_a_view_shows_wrongly_says_how_much_of_it_to_believe():
    picture, view = textured(3), MatchedView()
    low, low_up = downsample(picture, 4), softened(picture, 2.0)
    assert view.trust(picture, low, low_up)[MIDDLE].min() > 0.99
    # A view that is wrong where the low picture shows it, of a picture that is known: nothing.
    wrong = picture + 0.1 * softened(textured(4) - 0.5, 3.0)
    assert view.trust(wrong, low, picture)[MIDDLE].max() < 0.1
    # As wrong as low_up, seen at the low picture's size and above it.
    some = view.trust(picture + 0.6 * (textured(5) - 0.5), low, low_up)[MIDDLE].mean()
    assert 0.1 < some < 0.9
    assert MatchedView(doubt=0).trust(wrong, low, picture).min() == 1


def test_the_mean_of_views_is_that_of_the_better_ones():
    picture, chance = scene(9), torch.Generator().manual_seed(0)
    noisy = [picture + 0.1 * torch.randn(picture.shape, generator=chance) for _ in range(2)]
    alike = [torch.full((1, 1, 12, 16), 0.8)] * 2
    mean, score = mean_view(list(zip(noisy, alike)))
    assert (mean - picture).square().mean() < 0.6 * (noisy[0] - picture).square().mean()
    torch.testing.assert_close(score, alike[0])
    better, score = mean_view([(picture, alike[0]), (1 - picture, 0.3 * alike[0])])
    torch.testing.assert_close(better, picture, atol=1e-3, rtol=0)
    torch.testing.assert_close(score, alike[0], atol=1e-3, rtol=0)


def shipped() -> dict:
    line = ["experiment=shipped/ttsr_x4", "data.photos.targets=photos", "backbone.base=null"]
    return plain(compose("train", line))["backbone"]


def test_a_reference_that_does_not_fit_changes_nothing_beside_one_that_does():
    torch.manual_seed(0)
    network = registry.instantiate(shipped(), "backbone").eval()
    torch.nn.init.normal_(network.merge.tail2.weight, std=0.1)
    scenery = scene(5, 64, 64)
    low, black = downsample(scenery, 4), torch.zeros(1, 3, 40, 48)
    low_up = F.interpolate(low, scale_factor=4, mode="bicubic")
    with torch.no_grad():
        alone = network(low, low_up, scenery, scenery)
        for several in ([scenery, black], [black, scenery]):
            both = network(low, low_up, several, several)
            torch.testing.assert_close(both.image, alone.image, atol=1e-4, rtol=0)
        none = network(low, low_up)
    assert (alone.image - low_up.clamp(0, 1)).abs().max() > 0.01
    # The gate keeps what is there without a reference.
    torch.testing.assert_close(none.image, low_up.clamp(0, 1), atol=1e-3, rtol=0)


def test_what_is_added_is_nothing_that_the_low_picture_holds():
    torch.manual_seed(1)
    network = registry.instantiate(shipped(), "backbone").eval()
    torch.nn.init.normal_(network.merge.tail2.weight, std=0.01)
    scenery = scene(3, 64, 96)
    low = downsample(scenery, 4)
    low_up = F.interpolate(low, scale_factor=4, mode="bilinear")
    with torch.no_grad():
        added = network(low, low_up, scenery, scenery).image - low_up
    assert added.std() > 1e-3
    assert downsample(added, 4)[..., 2:-2, 2:-2].abs().max() < 0.2 * added.abs().max()


def test_the_bundled_network_with_a_reference_of_another_sharpness():
    network = weights.load("ttsr_x4").backbone()
    sharp = textured(11)

    def gain(target_blur: float, reference_blur: float) -> float:
        target = softened(sharp, target_blur)
        reference = softened(sharp.roll((8, -12), (2, 3)), reference_blur)
        low = downsample(target, 4)
        with torch.no_grad():
            without, given = (network(low, target, *two).image for two in ((), 2 * (reference,)))
        return float(10 * torch.tensor(error(without, target) / error(given, target)).log10())

    assert gain(0, 0) > 1
    assert gain(1.5, 0) > -0.05
    assert gain(0, 1) > -0.05
    assert gain(0, 3) > -0.05


@pytest.mark.parametrize(("times", "most"), [(0.6, 0.9), (2.0, 0.8)])
def test_the_bundled_network_with_a_reference_of_another_size(times, most):
    network = weights.load("ttsr_x4").backbone()
    target = textured(11)
    reference = F.interpolate(target, scale_factor=times, mode="bicubic", antialias=True)
    reference = reference.clamp(0, 1)[..., : 4 * int(reference.shape[-2] // 4), :]
    reference = reference[..., : 4 * int(reference.shape[-1] // 4)]
    low = downsample(target, 4)
    low_up = F.interpolate(low, scale_factor=4, mode="bicubic")
    with torch.no_grad():
        without, given = (network(low, low_up, *two) for two in ((), 2 * (reference,)))
    assert error(given.image, target) < most * error(without.image, target)
    # What it says of places is of the reference as it was given.
    assert given.grids == [(reference.shape[-2] // 4, reference.shape[-1] // 4)]
    column, row = times * (own_places(low)[0] + 0.5) - 0.5
    width = given.grids[0][1]
    inner = (slice(2, -2), slice(2, -2))
    found_row, found_column = (x[0][inner] for x in (given.index // width, given.index % width))
    assert (found_row - row[inner]).abs().median() <= 1
    assert (found_column - column[inner]).abs().median() <= 1


def test_sizes_begin_with_the_reference_s_own():
    with pytest.raises(UserError, match=r"backbone\.view\.scales=\[0.5, 1.0\]"):
        MatchedView(scales=[0.5, 1.0])


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"global_skip": False}, r"backbone\.gate goes with backbone\.global_skip=true"),
        (
            {
                "transfer": {
                    "_target_": "restore.models.backbones.transfer.DeformableTransfer",
                    "_partial_": True,
                }
            },
            r"backbone\.view goes with transfer=folded",
        ),
    ],
)
def test_parts_that_do_not_go_together_are_refused(changes, said):
    with pytest.raises(UserError, match=said):
        registry.instantiate({**shipped(), **changes}, "backbone")
