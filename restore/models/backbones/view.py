"""The reference as the camera of the low picture would have seen it: in place, and in its light."""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from restore.errors import UserError
from restore.models.backbones.upsampling import bilinear, downsample, upsample
from restore.models.geometry import finer, gradients, sampled

# Values near the largest of 8 bits, where light has been cut off.
_SATURATED = 0.97
# Of the values' squares: what a window must hold before it counts.
_FLAT = 1e-4
# Window of likeness, in low pixels, and the mean square of what is no difference.
_NEAR, _UNNOTICED = 1.5, 1e-3
# How much more the better of two views weighs: e to the power of this times the scores' difference.
_DECIDED = 20.0
# What a view can be made: sharper by unsharp masks of these amounts, softer by Gaussian blurs of
# these deviations, in pixels of the view. The masks' own deviation.
_SHARPENED, _SOFTENED, _MASK = (3.0, 1.0), tuple(0.5 * 2 ** (i / 2) for i in range(7)), 1.5
# Energies of the finest band that differ by less than this share are alike, by twice it no more.
_ALIKE = 0.1
# Deviations of the filters that part bands of the low picture, in its pixels: the finest lies above
# the first, the middle one between the other two. The window for energies; the least that counts.
_FINEST, _MIDDLE, _REGION, _LEAST_ENERGY = 0.5, (0.8, 2.5), 8.0, 1e-6
# A step towards the low picture, in low pixels, and how much faster than it places may change.
_FARTHEST, _STEEPEST = 0.5, 2.0


class MatchedView(nn.Module):
    """A reference sampled where attention says, in the input's light, and how well it then fits.

    Made as small as the input, the view must look like it, so four things are corrected:

    1. Light differs between photos by the exposure and the balance of colours, which are a factor
       for each channel of the values (in linear light and, by another exponent, in those of a
       file). The factor is the ratio of the two pictures' means in a Gaussian window, each place
       weighing as much as its score, so it may change from region to region. Where light was cut
       off, which a brighter photo has more of, a value says no more than that it was at least so
       large: it becomes that of `low_up`, with the details of the other channels, if that is
       larger.
    2. Places are moved by what brings the two together (Lucas and Kanade, "An Iterative Image
       Registration Technique", IJCAI 1981): least squares of the differences in a window, by the
       view's gradient, some times over.
    3. Sharpness differs by the lens, the focus and the distance. What blurs a picture takes more
       from the finest band that the low picture has than from the one below it, so the two bands'
       energies, compared between low picture and view, say which of the two is softer, whatever
       their contrasts are. A sharper view is blurred, a softer one sharpened by an unsharp mask,
       until the bands agree. What no mask can bring back is not there: the more the view was
       softer, and the less it has above the low picture's bands beside what `low_up` has there,
       the lower is the score.
    4. Where it still looks otherwise the score is lowered: times a / (a + d), d the mean square of
       the differences in a window of 1.5 low pixels, and a the input's variance there times
       `tolerance`.

    Nothing in it is trained.

    Args:
        window: standard deviation of the window in which light is compared, in low pixels.
        steps: how often places are moved.
        step_window: standard deviation of the window for that.
        tolerance: see above.
        doubt: see `trust`.
        scales: sizes of the reference that it is searched at, relative to its own, which is first:
            each is as a reference of its own (see `mean_view`).
    """

    def __init__(
        self,
        window: Annotated[float, Field(gt=0, le=64)] = 3.0,
        steps: Annotated[int, Field(ge=0)] = 2,
        step_window: Annotated[float, Field(gt=0, le=64)] = 2.5,
        tolerance: Annotated[float, Field(gt=0)] = 2.0,
        doubt: Annotated[float, Field(ge=0)] = 2.0,
        scales: Sequence[Annotated[float, Field(ge=0.1, le=10)]] = (1.0,),
    ):
        if not scales or scales[0] != 1:
            raise UserError(
                f"backbone.view.scales={[*scales]}: the first is 1, the reference's own"
            )
        super().__init__()
        self.window, self.steps, self.step_window = window, steps, step_window
        self.tolerance, self.doubt, self._scales = tolerance, doubt, tuple(scales)
        # Each comparison of light with its linear interpolation, each step with its gradients.
        light = len(_gaussian(window)) // 2 + 3
        self.reach = light + steps * (light + len(_gaussian(step_window)) // 2 + 2)
        # What is like the input before sharpness and after it, bands, regions, and how they change;
        # the trust in what is found. Two pixels of each are those of making smaller.
        self.reach += 3 * (len(_gaussian(_NEAR)) // 2 + 2) + len(_gaussian(_SOFTENED[-1])) // 8 + 1
        self.reach += len(_gaussian(_MIDDLE[1])) // 2 + len(_gaussian(_REGION)) // 2
        self.reach += 2 * (len(_gaussian(1.0)) // 2) + 4

    @property
    def scales(self) -> tuple[float, ...]:
        """What a reference is searched at; its own alone in forms for other programs.

        These are written down for all sizes, and resizing would be for one.
        """
        written = torch.compiler.is_compiling() or torch.jit.is_tracing()
        return (1.0,) if written else self._scales

    def forward(
        self, reference: Tensor, places: Tensor, low: Tensor, low_up: Tensor, score: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The view N3(4H)(4W) and its score N1HW.

        Args:
            reference: N3(4H')(4W') in [0, 1].
            places: N2HW, where each low pixel lies in it: column and row, in pixels of its low
                version (H'×W').
            low: N3HW in [0, 1].
            low_up: N3(4H)(4W), the best that is known without a reference.
            score: N1HW.
        """
        with torch.autocast(low.device.type, enabled=False):
            reference, places, low, score = (x.float() for x in (reference, places, low, score))
            for _ in range(self.steps):
                lit, cut = self._lit(reference, places, low, score)
                shown = 1 - F.avg_pool2d(cut.amax(1, keepdim=True), 4)
                places = _closer(places, downsample(lit, 4), low, shown, self.step_window)
            lit, cut = self._lit(reference, places, low, score)
            low_up = low_up.detach().float()
            view = filled(lit, cut, low_up)
            weight = score * self._likeness(downsample(view, 4), low)
            view, lowered = _as_sharp(view, low, low_up, weight)
            return view, score * lowered * self._likeness(downsample(view, 4), low)

    def trust(self, view: Tensor, low: Tensor, low_up: Tensor) -> Tensor:
        """Which share of the difference between a view and `low_up` to believe, N1HW from 0 to 1.

        In what the low picture does not hold, the two differ by the errors of both. Those of the
        view are assumed to be `doubt` times those that are seen at the low picture's size, in mean
        squares of windows of 1.5 low pixels. What they leave is the share of `low_up`'s errors, and
        so what is best taken over of a difference (Wiener).
        """
        with torch.autocast(low.device.type, enabled=False):
            view, low = view.float().mean(1, keepdim=True), low.float().mean(1, keepdim=True)
            wrong = _blurred((low - downsample(view, 4)).square(), _NEAR)
            apart = unheld(view - low_up.detach().float().mean(1, keepdim=True)).square()
            apart = _blurred(F.avg_pool2d(apart, 4), _NEAR)
            return (1 - self.doubt * wrong / (apart + 1e-7)).clamp(0, 1)

    def _likeness(self, small: Tensor, low: Tensor) -> Tensor:
        """How much a view made small is like the low picture, N1HW from 0 to 1."""
        difference = _blurred((low - small).square().mean(1, keepdim=True), _NEAR)
        grey = low.mean(1, keepdim=True)
        variance = _blurred(grey.square(), _NEAR) - _blurred(grey, _NEAR).square()
        allowed = self.tolerance * variance.clamp_min(0) + _UNNOTICED
        return allowed / (allowed + difference)

    def _lit(
        self, reference: Tensor, places: Tensor, low: Tensor, score: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The reference at the places in the light of `low`, and from 0 to 1 where it is cut off.

        Both N3(4H)(4W).
        """
        seen = sampled(reference, finer(places, 4))
        cut = cut_off(seen)
        weight = score * (1 - F.avg_pool2d(cut, 4)) + 1e-3
        there = _blurred(weight * downsample(seen, 4), self.window) + 1e-3
        # Both bounds of one kind, else ONNX's translation has no such clamp.
        gain = ((_blurred(weight * low, self.window) + 1e-3) / there).clamp(0.25, 4.0)
        return seen * bilinear(gain, 4), cut


def mean_view(views: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Of several views and their scores one: at each place a mean, by a softmax of the scores.

    Views that fit alike are averaged, which lessens the errors of both; one that fits clearly worse
    than another hardly counts.
    """
    if len(views) == 1:
        return views[0]
    scores = torch.cat([score for _, score in views], 1)
    weights = torch.softmax(_DECIDED * _blurred(scores, 1.0), 1)
    shares = bilinear(weights, 4).split(1, 1)
    picture = sum(share * view for share, (view, _) in zip(shares, views))
    assert isinstance(picture, Tensor)
    return picture, (weights * scores).sum(1, keepdim=True)


def resized(reference: Tensor, scale: float) -> Tensor:
    """A picture N3HW in [0, 1] at about a scale, with sides that divide by 4, of 16 at least."""
    if scale == 1:
        return reference
    height, width = (max(16, 4 * round(side * scale / 4)) for side in reference.shape[-2:])
    x = F.interpolate(reference.float(), (height, width), mode="bicubic", antialias=True)
    return x.clamp(0, 1).to(reference.dtype)


def unheld(x: Tensor) -> Tensor:
    """What a picture NC(4H)(4W) made four times smaller does not hold."""
    return x - upsample(downsample(x, 4), 4)


def _as_sharp(view: Tensor, low: Tensor, low_up: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """The view N3(4H)(4W) as sharp as the low picture, and a factor on the score, N1HW.

    `weight`, N1HW, is how much each place counts.
    """

    def energies(grey: Tensor) -> tuple[Tensor, Tensor]:
        finest = grey - _blurred(grey, _FINEST)
        middle = _blurred(grey, _MIDDLE[0]) - _blurred(grey, _MIDDLE[1])
        return _blurred(weight * finest**2, _REGION), _blurred(weight * middle**2, _REGION)

    small = low.mean(1, keepdim=True)
    finest, middle = energies(small)
    # Elsewhere both are the same, so what does not fit has no edges in the bands of what does.
    fits = (10 * weight - 3).clamp(0, 1)
    mask = view - _blurred(view, _MASK)
    levels = [view + amount * mask for amount in _SHARPENED] + [view]
    levels += [_blurred(view, deviation) for deviation in _SOFTENED]
    seen = downsample(torch.cat([level.mean(1, keepdim=True) for level in levels], 1), 4)
    fine, coarse = energies(small + fits * (seen - small))
    contrast = ((middle + _LEAST_ENERGY) / (coarse + _LEAST_ENERGY)).clamp(0.25, 4.0)
    ratios: list[Tensor] = []  # of the energies; they rise from level to level
    for ratio in ((finest + _LEAST_ENERGY) / (contrast * fine + _LEAST_ENERGY)).split(1, 1):
        ratios.append(torch.maximum(ratio, ratios[-1]) if ratios else ratio)
    # How many levels it is to that at which the ratio is 1.
    steps = [
        ((1 - one) / (other - one).clamp_min(1e-6)).clamp(0, 1) for one, other in pairwise(ratios)
    ]
    own = len(_SHARPENED)
    change = sum(steps[own:]) - sum(1 - step for step in steps[:own])
    softer = ratios[own]
    unlike = torch.maximum(softer, 1 / softer) - 1
    place = own + change * (unlike / _ALIKE - 1).clamp(0, 1)
    place = bilinear(_blurred(place, 1.0), 4)
    picture = torch.zeros_like(view)
    for number, level in enumerate(levels):
        picture = picture + level * (1 - (place - number).abs()).clamp_min(0)
    softer = (_blurred(softer, 1.0) - 1).clamp_min(0)
    known, offered = (
        _blurred(F.avg_pool2d(unheld(x.mean(1, keepdim=True)).square(), 4), 2 * _NEAR) + 1e-6
        for x in (low_up, picture)
    )
    return picture, (1 - softer * known / offered).clamp(0, 1)


def cut_off(x: Tensor) -> Tensor:
    """Where light has been cut off, from 0 to 1, of values in [0, 1]."""
    return ((x - _SATURATED) / (1 - _SATURATED)).clamp(0, 1)


def filled(lit: Tensor, cut: Tensor, low_up: Tensor) -> Tensor:
    """Values that are cut off, as `low_up` and the details of the other channels have them."""
    whole = 1 - cut
    details = (whole * (lit - low_up)).sum(1, keepdim=True) / whole.sum(1, keepdim=True).clamp_min(
        1
    )
    return lit + cut * (low_up + details - lit).clamp_min(0)


def _closer(places: Tensor, small: Tensor, low: Tensor, shown: Tensor, window: float) -> Tensor:
    """Places N2HW moved so that `small`, what is seen there, becomes more like `low` (N3HW).

    `shown`, N1HW, is how much each place counts.
    """
    across, down = gradients(small)
    missing = low - small

    def summed(x: Tensor) -> Tensor:
        return _blurred(shown * x.sum(1, keepdim=True), window)

    xx, yy, xy = summed(across**2) + _FLAT, summed(down**2) + _FLAT, summed(across * down)
    x, y = summed(across * missing), summed(down * missing)
    scale = xx * yy - xy * xy
    right = ((yy * x - xy * y) / scale).clamp(-_FARTHEST, _FARTHEST)
    below = ((xx * y - xy * x) / scale).clamp(-_FARTHEST, _FARTHEST)
    by_column, by_row = (x.clamp(-_STEEPEST, _STEEPEST) for x in gradients(places))
    return places + by_column * right + by_row * below


def _gaussian(deviation: float) -> list[float]:
    half = max(1, round(2.5 * deviation))
    # Numbers, not tensors, whose values a file for other programs cannot hold.
    taps = [math.exp(-((at / deviation) ** 2) / 2) for at in range(-half, half + 1)]
    return [tap / sum(taps) for tap in taps]


def _blurred(x: Tensor, deviation: float) -> Tensor:
    """Each channel after a Gaussian filter, its borders continued."""
    taps = x.new_tensor(_gaussian(deviation))
    half, channels = len(taps) // 2, x.shape[1]
    x = F.pad(x, (half,) * 4, mode="replicate")
    x = F.conv2d(x, taps.view(1, 1, 1, -1).expand(channels, -1, -1, -1), groups=channels)
    return F.conv2d(x, taps.view(1, 1, -1, 1).expand(channels, -1, -1, -1), groups=channels)
