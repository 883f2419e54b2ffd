"""What a network says of itself: the contract between backbones and the code that uses them.

Generic code (loading, export, tiling, `restore apply`, benchmarks) asks these and knows no network
by name. A new one is a class and a yaml in `conf/backbone`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol, runtime_checkable

from torch import Tensor, nn

from restore.errors import UserError
from restore.types import Restoration


@dataclass(frozen=True)
class Recognised:
    """A published state dict as a network of ours.

    Args:
        overrides: of the configuration of `restore train`: which backbone, and what its sizes are.
        state: the weights under our names.
        assumed: those of the overrides that the file does not say for certain.
        beside: names of entries that are not the network's and were left out.
        parts: of the network that the file lacks, such as an extractor that lies in another file:
            they are made with the weights that their own settings name.
        name: of the network; None: its class's.
    """

    overrides: Sequence[str]
    state: Mapping[str, Tensor]
    assumed: Sequence[str] = ()
    beside: Sequence[str] = ()
    parts: Sequence[str] = ()
    name: str | None = None


class CannotTell(UserError):
    """A backbone cannot say whether a file is one of its own, such as where a package lacks."""


@dataclass(frozen=True)
class PictureInput:
    """One of the pictures that a network is called with, for a file that other programs run.

    Args:
        about: what it is, for the file's description.
        sides: whose sides it has: of the low picture, or of the reference, whose are others.
        times: how many times larger they are than the low picture (or an eighth, say, of …).
        channels: 3 colours in [0, 1], or 1: zeros and ones.
    """

    about: str
    sides: Literal["low", "reference"] = "low"
    times: int = 1
    channels: Literal[1, 3] = 3


@dataclass(frozen=True)
class ExportForm:
    """How a network is called in a file: its inputs by name, in order, and what is to be known.

    `least` is the smallest side of a low picture, and of one as small of the reference.
    """

    inputs: dict[str, PictureInput] = field(
        default_factory=lambda: {"low": PictureInput("what is enlarged")}
    )
    note: str = ""
    least: int = 1


@runtime_checkable
class PreparesExport(Protocol):
    """A network, or a part of one, that a file has to hold in another way."""

    def prepare_export(self) -> None:
        """Called on a copy: from now on the operations that run must not depend on the pictures.

        Neither on what they show nor on how large they are, and nothing is random.

        Raises UserError for what has no such form.
        """
        ...


class Backbone(nn.Module):
    """A network that restores pictures; `forward` takes what the task hands over, by name.

    Attributes:
        scale: enlargement of each side; of a network of any scale, what it does when not told.
        reach: how far, in low pixels, an input pixel is felt in the output, at most, so that tiles
            that overlap by it show no seam; None: everywhere, or unknown.
        whole: side, in low pixels, of the largest square that is restored at once, not in tiles.
        takes_reference: `forward` takes `reference`, `reference_low_up` and `reference_low`, or
            `memory` of them.
        reference_multiple: references of any size are continued, by their last pixels, to sides
            that divide by this; None: they are cut to sides that divide by the scale.
        takes_mask: `forward` takes `mask` and `mask_up`, 1 = hole.
        needs_mask: it does nothing without holes.
        generative: its answer is drawn by chance: `forward` takes `keys`, the pictures' names, of
            which alone its chance is made; in training instead `target`, of which it learns.
        at_once: pictures of one size that are best given to it together, outside training.
        takes_scale: it enlarges by any ratio up to `largest`, see `level`.
        asked_last: `recognise` may know files that another backbone knows better.
    """

    scale: int
    reach: int | None
    whole: int = 400
    takes_reference: bool = False
    reference_multiple: ClassVar[int | None] = None
    takes_mask: bool = False
    needs_mask: bool = False
    generative: bool = False
    at_once: int = 1
    takes_scale: ClassVar[bool] = False
    asked_last: ClassVar[bool] = False
    largest: float

    def forward(self, *args: Any, **kwargs: Any) -> Restoration:
        """The restored picture N3(sH)(sW) in [0, 1] of `low` N3HW, and what losses look at."""
        raise NotImplementedError

    @classmethod
    def recognise(cls, published: Mapping[str, Tensor], path: Path) -> Recognised | None:
        """A published state dict as one of this class, None for another network's.

        Args:
            published: what the file holds, float32, without the wrappings of trainers.
            path: the file.

        Raises:
            UserError: it is of this class, and a variant that is not supported.
            CannotTell: see there; others are asked.
        """
        return None

    def export_form(self) -> ExportForm:
        """How the network is called in a file that other programs run.

        Parts that a file has to hold in another way are `PreparesExport`.
        """
        return ExportForm()

    def encode_reference(
        self, reference: Any, reference_low_up: Any, reference_low: Any = None
    ) -> Any:
        """What `forward` takes as `memory`, good for many pictures (where `takes_reference`)."""
        raise NotImplementedError

    def level(self, picture: Tensor, ratio: float) -> Tensor:
        """A picture that bicubic has enlarged by `ratio`, made sharp (where `takes_scale`)."""
        raise NotImplementedError
