"""Losses of other libraries, which compare two pictures: those of torch.nn, LPIPS, and so on."""

import copy
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from restore.errors import UserError
from restore.losses import Loss, weighted_mean
from restore.types import Problem, Restoration


def as_loss(part: Any, place: str, range: float) -> Loss:
    """What an objective calls for its term, of a part that may compare two pictures alone.

    Which it is follows from the arguments that a call needs: (restoration, problem, models) is our
    own contract, two are a restored picture and its target.

    Args:
        part: as its yaml makes it.
        place: where it stands in the configuration, for messages.
        range: of the pictures, the objective's.

    Raises:
        UserError: it takes something else.
    """
    if not callable(part):
        raise UserError(f"{place}: a {type(part).__name__} is no loss, as it cannot be called")
    try:
        signature = inspect.signature(part.forward if isinstance(part, nn.Module) else part)
    except (TypeError, ValueError):  # a function of a C library keeps it to itself
        return part
    parameters = list(signature.parameters.values())
    needed = [p for p in parameters if p.default is p.empty and p.kind in _BY_PLACE]
    if len(needed) == 2:
        return TwoPictures(part, range)
    theirs = type(part).__module__.startswith("torch.")
    if theirs or (len(needed) != 3 and not any(p.kind is p.VAR_POSITIONAL for p in parameters)):
        names = ", ".join(p.name for p in needed) or "nothing"
        raise UserError(
            f"{place}: a loss is called with (restoration, problem, models), or with a restored "
            f"picture and its target; {type(part).__name__} takes {names}"
        )
    return part


_BY_PLACE = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


class TwoPictures(nn.Module):
    """A function of a restored picture and its target, as a loss.

    Pictures N3HW come in the objective's range: [-1, 1] for 2, else from 0 to it. Where the
    function can give every pixel's value (`reduction="mean"`, as in torch.nn) the mean counts
    pixels by the problem's weight map; any other function's values are averaged as they are.

    Args:
        function: of the two pictures.
        range: of the pictures.
    """

    def __init__(self, function: Callable[[Tensor, Tensor], Tensor], range: float):
        super().__init__()
        self.by_pixel = getattr(function, "reduction", None) == "mean"
        if self.by_pixel:
            function = copy.copy(function)
            function.reduction = "none"  # type: ignore[attr-defined]
        if isinstance(function, nn.Module):
            function.requires_grad_(False).eval()
        self.function, self.range = function, range

    def forward(
        self, restored: Restoration, problem: Problem, models: Mapping[str, nn.Module]
    ) -> Tensor:
        assert problem.target is not None, "training problems have a target"
        x, y = (self._in_range(picture) for picture in (restored.image, problem.target))
        try:
            value = self.function(x, y)
        except (torch.OutOfMemoryError, torch.AcceleratorError):
            raise
        except (IndexError, RuntimeError, TypeError, ValueError) as error:
            name = getattr(self.function, "__name__", type(self.function).__name__)
            reason = " ".join(str(error).split())
            raise UserError(f"the loss {name} cannot compare two pictures: {reason}") from error
        if self.by_pixel and value.shape == x.shape:
            return weighted_mean(value, problem.weight)
        return value.mean()

    def _in_range(self, picture: Tensor) -> Tensor:
        return picture * 2 - 1 if self.range == 2 else picture * self.range
