"""Any metric of torchmetrics' kind as evaluations use it: one restored picture at a time."""

import inspect
import math
import warnings
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.image import (
    InceptionScore,
    LearnedPerceptualImagePatchSimilarity,
    VisualInformationFidelity,
)
from torchmetrics.utilities.distributed import gather_all_tensors

from restore.errors import UserError
from restore.images.io import to_uint8
from restore.metrics.functional import rounded
from restore.models.precision import convolutions
from restore.utils import distributed

_PROBE = 256  # side that any of torchmetrics' metrics can take


@dataclass(frozen=True)
class About:
    """What a metric may ask about a picture beside it: the scale, weights of pixels (N1HW), grey.

    `grey` says that the target's file has one channel.
    """

    scale: float
    weight: Tensor | None = None
    grey: bool = False


class ImageMetric:
    """A metric under its name.

    What it is handed follows from the signature of its `update`: `(imgs, real)` takes restored and
    true pictures apart and has one value for a whole set; a single argument takes the restored
    picture alone; any other takes the restored picture and its target. Arguments called `scale`,
    `weight` and `grey` are handed what `About` holds. Pictures are N3HW in [0, 1], rounded to 8
    bits, or what a class of torchmetrics expects in their place.

    Its direction is the class's `higher_is_better` (None: neither). `per_image = False` on a class
    says that single pictures have no value.

    Args:
        key: its name.
        metric: the metric; its networks are put into evaluation mode.

    Raises:
        UserError: it takes something other than pictures.
    """

    def __init__(self, key: str, metric: Metric):
        self.key, self.metric = key, metric.eval()
        metric.requires_grad_(False)
        metric.dist_sync_fn = _gather_states
        parameters = inspect.signature(type(metric).update).parameters
        self._asked = parameters.keys() & {"scale", "weight", "grey"}
        needed = [
            name
            for name, parameter in list(parameters.items())[1:]
            if parameter.default is parameter.empty and name not in self._asked
        ]
        self.of_sets = "real" in parameters
        if not 1 <= len(needed) <= 2:
            raise UserError(
                f"metric.{key}: {type(metric).__name__}.update takes {', '.join(needed) or 'none'}"
                "; a metric takes a picture, a picture and its target, or pictures and real="
            )
        self._alone = len(needed) == 1
        self.per_image = bool(getattr(metric, "per_image", not isinstance(metric, InceptionScore)))
        self.per_image = self.per_image and not self.of_sets
        self.higher_is_better: bool | None = metric.higher_is_better
        # Pictures are in [0, 1], which a class that asks for the range need not guess.
        if getattr(metric, "data_range", 0) is None:
            metric.data_range = 1.0
        self.reasons: dict[str, int] = {}  # why pictures have no value, and how many

    @property
    def by_region(self) -> bool:
        """Whether it can be taken on some pixels alone."""
        return "weight" in self._asked

    def name(self, scale: float) -> str:
        """The key, with what the metric says that its values depend on."""
        label = getattr(self.metric, "label", None)
        return self.key if label is None else f"{self.key}_{label(scale)}"

    def sentence(self) -> str | None:
        """Which program and which weights measure it; None where its name says all."""
        own = getattr(self.metric, "sentence", None)
        if own is not None:
            return f"{self.key}: {own()}"
        if type(self.metric).__module__.startswith("torchmetrics."):
            return (
                f"{self.key}: torchmetrics {version('torchmetrics')}, {type(self.metric).__name__}"
            )
        return None

    def probe(self) -> None:
        """Measures a made-up picture, as some classes look for their weights no earlier than that.

        Raises ImportError or OSError for what is not at hand, UserError where it takes no pictures.
        """
        device = self.metric.device
        pictures = torch.rand(2, 1, 3, _PROBE, _PROBE, device=device)
        self.update(pictures[0], pictures[1], About(1.0))
        self.metric.reset()
        if self.reasons:
            raise UserError(self._refusal(next(iter(self.reasons))))

    def value(self, restored: Tensor, target: Tensor, about: About) -> float:
        """A picture's value, 13HW; NaN where the metric refuses it (too small, for example)."""
        self.metric.reset()
        value = self._guarded(
            lambda: self.metric(*self._pictures(restored, target), **self._more(about))
        )
        self.metric.reset()
        return value

    def update(self, restored: Tensor, target: Tensor, about: About) -> None:
        """Takes a picture into a metric of whole sets."""

        def act() -> float:
            x, y = self._pictures(restored, target)
            if self.of_sets:
                self.metric.update(y, real=True)
                self.metric.update(x, real=False)
            else:
                self.metric.update(*([x] if self._alone else [x, y]), **self._more(about))
            return 0.0

        self._guarded(act)

    def compute(self) -> float:
        """The value of the whole set, over all processes; NaN where there is none."""
        with warnings.catch_warnings():
            had_pictures = self.metric.update_count > 0
            value = math.nan
            if distributed.world() > 1:
                # Of several processes one may have had no picture, and must take part all the same.
                warnings.filterwarnings("ignore", "The ``compute`` method of metric", UserWarning)
                self._join_lists()
            try:
                value = self._guarded(self.metric.compute)
            except UserError:
                # Some classes learn from pictures what they need for the value; those of a process
                # without any take part in the gathering, and take over what another has.
                if had_pictures or distributed.world() == 1:
                    raise
        parts: list[tuple[bool, float]] = distributed.gather((had_pictures, value))
        return next((value for had, value in parts if had), math.nan)

    def _join_lists(self) -> None:
        """Makes one tensor of each list of features, as processes must gather equally many."""
        for name, state in self.metric.metric_state.items():
            if isinstance(state, list):
                one = torch.cat(state) if state else torch.empty(0, device=self.metric.device)
                setattr(self.metric, name, [one])

    def _refusal(self, reason: str) -> str:
        return f"metric.{self.key}: {type(self.metric).__name__} cannot measure pictures: {reason}"

    def _more(self, about: About) -> dict[str, Any]:
        return {name: getattr(about, name) for name in self._asked}

    def _pictures(self, restored: Tensor, target: Tensor) -> list[Tensor]:
        pictures = [restored] if self._alone and not self.of_sets else [restored, target]
        return [self._expected(picture) for picture in pictures]

    def _expected(self, picture: Tensor) -> Tensor:
        """The picture in the values that the metric's class expects."""
        metric = self.metric
        bytes_ = self.of_sets or isinstance(metric, InceptionScore)
        if bytes_ and not getattr(metric, "normalize", False):
            return to_uint8(picture)
        picture = rounded(picture).float()
        if isinstance(metric, LearnedPerceptualImagePatchSimilarity):
            return picture if metric.normalize else picture * 2 - 1
        if isinstance(metric, VisualInformationFidelity):
            return picture * 255  # the variance of its noise is meant for that
        return picture

    def _guarded(self, act: Any) -> float:
        """A number of the metric's; NaN, and the reason kept, where it refuses pictures."""
        try:
            with torch.autocast(self.metric.device.type, enabled=False), convolutions("fp32"):
                value = act()
        except torch.OutOfMemoryError:
            raise
        except (ValueError, RuntimeError) as error:
            reason = " ".join(str(error).split())[:200]
            self.reasons[reason] = self.reasons.get(reason, 0) + 1
            return math.nan
        except (TypeError, AttributeError, KeyError) as error:
            raise UserError(self._refusal(" ".join(str(error).split()))) from error
        if isinstance(value, tuple | list):  # a mean and its spread
            value = value[0]
        return float(torch.as_tensor(value).double().mean())


def _gather_states(state: Tensor, group: Any = None) -> list[Tensor]:
    """Gathers as torchmetrics does, also where a process has had no picture.

    Its empty state has one dimension then, and the others' may have more.
    """
    shapes = distributed.gather((tuple(state.shape), state.dtype))
    filled = next((one for one in shapes if math.prod(one[0])), None)
    if filled is not None and not state.numel():
        state = state.new_empty((0, *filled[0][1:]), dtype=filled[1])
    gathered: list[Tensor] = gather_all_tensors(state, group)
    return gathered
