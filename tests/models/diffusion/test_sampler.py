"""Sampling against the public implementation, and against its formulas written out."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from restore.errors import UserError
from restore.models.diffusion.schedule import Schedule
from tests.helpers import palette


def replay(noises: torch.Tensor):
    queue = iter(noises)
    return lambda: next(queue)


def test_schedule_of_the_public_implementation():
    meta, case = palette.golden("palette_restoration")
    told = dict(meta["schedule"])
    gammas = palette.schedule(told.pop("schedule"), **told).gammas
    np.testing.assert_allclose(gammas, case["gammas"].numpy(), rtol=1e-6)


@pytest.mark.parametrize(
    ("count", "first", "last", "end"), [(2000, 1e-6, 0.01, 4.4e-5), (1000, 1e-4, 0.09, 6.6e-21)]
)
def test_published_schedules_end_in_noise(count, first, last, end):
    assert Schedule("linear", count, first, last).gammas[-1] == pytest.approx(end, rel=0.02)


def test_shapes_of_schedules():
    def variances(shape):
        return Schedule(shape, 40, 0.01, 0.2).variances

    assert variances("constant").tolist() == [0.2] * 40
    assert np.diff(np.sqrt(variances("quadratic"))) == pytest.approx(
        [np.diff(np.sqrt(variances("quadratic"))).mean()] * 39
    )
    for share, shape in ((4, "warmup10"), (20, "warmup50")):
        rising = np.linspace(0.01, 0.2, share)
        assert variances(shape).tolist() == pytest.approx([*rising, *[0.2] * (40 - share)])
    gammas = Schedule("cosine", 40, 0.01, 0.2).gammas
    angle = (np.arange(1, 40) / 40 + 0.008) / 1.008 * np.pi / 2
    first = np.cos(0.008 / 1.008 * np.pi / 2) ** 2
    assert gammas[:-1] == pytest.approx(np.cos(angle) ** 2 / first, rel=1e-6)
    even = Schedule("jsd", 40, 0.01, 0.2)
    assert even.gammas == pytest.approx(np.arange(39, -1, -1) / 40)
    with pytest.raises(UserError, match="leaves nothing of the picture"):
        palette.sampler(even)
    assert palette.sampler(even, steps=5).places == [38, 28, 19, 10, 0]
    with pytest.raises(UserError, match="more than"):
        Schedule("linear", 4, 0.5, 0.1)


def test_sampling_of_the_public_implementation():
    meta, case = palette.golden("palette_restoration")
    model = palette.of_case(meta)
    known, hole, start = case["in_gt"], case["in_mask"] > 0, case["in_cond"]
    with torch.inference_mode():
        frames = [*model.frames(start, known, hole, start, replay(case["noises"]))]
        torch.testing.assert_close(frames[-1], case["out"], atol=1e-4, rtol=0)
        shown = [start, *(frames[len(frames) - 1 - t] for t in (4, 2, 0))]
        torch.testing.assert_close(torch.cat(shown), case["frames"], atol=1e-4, rtol=0)
        every = torch.ones_like(hole)
        noises = replay(case["noises_no_mask"])
        *_, last = model.frames(start, known, every, start, noises)
        torch.testing.assert_close(last, case["out_no_mask"], atol=1e-4, rtol=0)


@settings(max_examples=15, deadline=None)
@given(
    shape=st.sampled_from(["linear", "quadratic", "warmup10", "warmup50", "constant", "cosine"]),
    count=st.integers(2, 50),
    first=st.floats(1e-5, 0.05),
    last=st.floats(0.06, 0.6),
    height=st.integers(1, 5),
    width=st.integers(1, 5),
    seed=st.integers(0, 999),
)
def test_all_steps_are_ancestral_sampling(shape, count, first, last, height, width, seed):
    rng = np.random.default_rng(seed)
    sizes = (2, 3, height, width)
    known, start = rng.uniform(-1, 1, sizes), rng.standard_normal(sizes)
    hole = rng.random((2, 1, height, width)) < 0.5
    noises = [rng.standard_normal(sizes) for _ in range(count - 1)]
    schedule = Schedule(shape, count, first, last)

    def estimate(y, gamma):  # any function of what the network is given
        return np.tanh(y * (1 + gamma)) - 0.3 * known

    expected = palette.plain_ancestral(schedule.gammas, estimate, known, hole, start, noises)

    region, kept = torch.from_numpy(hole), torch.from_numpy(known)

    def told(y, gamma_N1):
        y = torch.where(region, y, kept) if y is not begun else y
        return torch.from_numpy(estimate(y.numpy(), gamma_N1[0, 0].item()))

    begun = torch.from_numpy(start)
    frames = palette.sampler(schedule).frames(
        told, begun, replay(torch.from_numpy(np.stack(noises)))
    )
    *_, last_frame = frames
    found = torch.where(region, last_frame, kept)
    np.testing.assert_allclose(found.numpy(), expected, atol=2e-4)


@settings(max_examples=15, deadline=None)
@given(
    count=st.integers(3, 30),
    share=st.floats(0.1, 1),
    eta=st.floats(0, 1),
    seed=st.integers(0, 999),
)
def test_a_network_that_knows_the_picture_leads_to_it(count, share, eta, seed):
    """Whatever the steps, and on the way each frame has as much noise as its γ says."""
    rng = torch.Generator().manual_seed(seed)
    clean = torch.rand(1, 3, 40, 40, generator=rng) * 1.8 - 0.9
    schedule = Schedule("linear", count, 0.01, 0.3)
    sampler = palette.sampler(schedule, max(1, round(share * count)), eta)

    def told(y, gamma_N1):
        gamma = gamma_N1[:, :, None, None]
        return (y - gamma.sqrt() * clean) / (1 - gamma).sqrt()

    def noise():
        return torch.randn(clean.shape, generator=rng)

    gamma = schedule.gammas[-1]
    start = gamma**0.5 * clean + (1 - gamma) ** 0.5 * noise()
    frames = [*sampler.frames(told, start, noise)]
    torch.testing.assert_close(frames[-1], clean, atol=1e-4, rtol=0)
    for place, frame in zip(sampler.places[1:], frames):
        gamma = schedule.gammas[place]
        left = (frame - gamma**0.5 * clean).square().mean()
        assert left == pytest.approx(1 - gamma, rel=0.1)


def test_few_steps_are_spread_over_the_schedule():
    sampler = palette.sampler(Schedule("linear", 100, 1e-4, 0.09), steps=5, eta=0.0)
    assert sampler.places == [99, 74, 50, 25, 0]
    with pytest.raises(UserError, match="has 100 steps"):
        palette.sampler(Schedule("linear", 100, 1e-4, 0.09), steps=101)


def test_few_steps_are_not_wasted_on_noise():
    """Of the published 1000 steps, more than half leave less than a ten-thousandth."""
    schedule = Schedule("linear", 1000, 1e-4, 0.09)
    top = palette.sampler(schedule, steps=10, eta=0.0).places[0]
    assert schedule.gammas[top] >= 1e-4 > schedule.gammas[top + 1]
    assert palette.sampler(schedule).places == [*reversed(range(1000))]
