"""The view of a reference where the input has holes: in place, in its light, or not used."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from restore.config import registry
from restore.errors import UserError
from restore.images.filling import filled
from restore.models.backbones.fusion import Gate
from restore.models.backbones.partial_view import PartialView, _continued
from tests.helpers.scenes import own_places, scene


def holes(height: int, width: int, top: int, left: int, side: int) -> tuple[torch.Tensor, ...]:
    """A square hole, and the low pixels that have some of it."""
    mask_up = torch.zeros(1, 1, height, width)
    mask_up[..., top : top + side, left : left + side] = 1
    return F.max_pool2d(mask_up, 4), mask_up


def seen(reference, picture, mask, mask_up, places=None, score=0.9):
    """What the view makes of a picture with holes, and what was there before."""
    low_up = filled(picture, mask_up)
    low = F.avg_pool2d(low_up, 4)
    places = own_places(low) if places is None else places
    with torch.no_grad():
        found, scores = PartialView(Gate(15.0, 0.5))(
            reference, places, low, low_up, torch.full_like(mask, score), mask, mask_up
        )
    return found, low_up, scores


def error(one, other, mask):
    return float(((one - other).square() * mask).sum() / (3 * mask.sum()))


@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 10**6), top=st.integers(8, 36), left=st.integers(8, 52))
def test_a_hole_shows_what_the_reference_has_there(seed, top, left):
    picture = scene(seed, 64, 80)
    mask, mask_up = holes(64, 80, top, left, 20)
    wrong = own_places(F.avg_pool2d(picture, 4)) + 0.4
    found, low_up, _ = seen(picture, picture, mask, mask_up, wrong)
    assert error(found, picture, mask_up) < 0.25 * error(low_up, picture, mask_up)


def test_its_light_is_that_of_what_is_around():
    picture = scene(3, 64, 80)
    mask, mask_up = holes(64, 80, 20, 30, 24)
    gains = torch.tensor([0.8, 1.1, 1.2]).view(1, 3, 1, 1)
    found, low_up, _ = seen(picture * gains, picture, mask, mask_up)
    assert error(found, picture, mask_up) < 0.25 * error(low_up, picture, mask_up)


def test_what_lies_in_the_hole_has_no_part_in_it():
    """Neither what the input's filling shows there, nor where it was matched to."""
    picture = scene(4, 64, 80)
    mask, mask_up = holes(64, 80, 20, 30, 24)
    low = F.avg_pool2d(picture, 4)
    lost = torch.where(mask > 0, 3.0, own_places(low))
    found, _, _ = seen(picture, picture, mask, mask_up)
    other, _, _ = seen(picture, torch.where(mask_up > 0, 0.5, picture), mask, mask_up, lost)
    assert ((found - other).abs() * mask_up).max() < 0.02


@pytest.mark.parametrize("kind", ["black", "unrelated", "low score"])
def test_where_no_reference_fits_the_input_stays_as_it_was(kind):
    picture = scene(5, 64, 80)
    mask, mask_up = holes(64, 80, 20, 30, 24)
    reference = {"black": 0 * picture, "unrelated": scene(6, 64, 80)}.get(kind, picture)
    score = 0.1 if kind == "low score" else 0.4
    found, low_up, _ = seen(reference, picture, mask, mask_up, score=score)
    assert (found - low_up).abs().max() < 0.05
    assert (found - low_up).abs().mean() < 2e-3


def test_a_reference_that_ends_in_the_hole_fills_no_more_than_it_shows():
    picture = scene(7, 64, 96)
    mask, mask_up = holes(64, 96, 20, 36, 24)
    found, low_up, scores = seen(picture[..., :48], picture, mask, mask_up)
    assert not scores[..., 6:10, 13:].any()
    shown, beyond = mask_up.clone(), mask_up.clone()
    shown[..., 44:], beyond[..., :52] = 0, 0
    assert error(found, picture, shown) < 0.2 * error(low_up, picture, shown)
    assert (found - low_up)[..., 52:].abs().max() < 0.01


@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_places_of_holes_go_on_as_around_them(seed):
    """By an affine map with a little of the second degree, some matches being wrong."""
    chance = np.random.default_rng(seed)
    own = own_places(torch.zeros(1, 1, 20, 24))
    x, y = (own - torch.tensor([12.0, 10.0]).view(1, 2, 1, 1)).unbind(1)
    a, b, c, d = (float(v) for v in chance.uniform(-0.15, 0.15, 4))
    bent = float(chance.uniform(-0.004, 0.004))
    true = own + torch.stack([a * x + b * y + bent * x * y, c * x + d * y + bent * x * x], 1)
    trust = torch.full((1, 1, 20, 24), 0.8)
    trust[..., 6:14, 8:16] = 0
    wrong = torch.from_numpy(chance.random((1, 1, 20, 24)) < 0.05)
    places = torch.where(wrong, true + 6, true)
    places[..., 6:14, 8:16] = 0
    apart = (_continued(places, trust) - true).norm(dim=1)
    assert apart[..., 6:14, 8:16].max() < 0.5
    assert apart.median() < 0.1


def test_it_learns_after_it_was_evaluated():
    picture = scene(8, 64, 80)
    mask, mask_up = holes(64, 80, 20, 30, 24)
    low = F.avg_pool2d(picture, 4)
    view = PartialView(Gate(15.0, 0.5))
    given = picture, own_places(low), low, filled(picture, mask_up)
    with torch.inference_mode():
        view(*given, torch.full_like(mask, 0.9), mask, mask_up)
    score = torch.full_like(mask, 0.9, requires_grad=True)
    found, _ = view(*given, score, mask, mask_up)
    ((found - picture).square() * mask_up).sum().backward()
    for learned in (score, view.gate.threshold):
        assert learned.grad is not None
        assert learned.grad.isfinite().all()
        assert learned.grad.any()


def test_ratios_of_focal_lengths_are_drawn_between_two():
    zoomed = registry.build("degradation", "zoomed", "degradation.zoom=[1.2,3.0]")
    drawn = [zoomed.zoom(np.random.default_rng(i)) for i in range(200)]
    assert 1.2 <= min(drawn) < 1.3 < 2.8 < max(drawn) <= 3.0
    assert zoomed.zoom() == pytest.approx((1.2 * 3.0) ** 0.5)
    with pytest.raises(UserError, match="smallest comes first"):
        registry.build("degradation", "zoomed", "degradation.zoom=[3.0,1.2]")
