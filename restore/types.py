"""What is handed from dataset to task to backbone to losses."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Protocol, Required, TypedDict, get_args, runtime_checkable

import numpy as np
import torch
from torch import Tensor

# A setting that names a file or folder; where it lies may change without its being another one.
Place = Annotated[str, "place"]


def is_place(hint: Any) -> bool:
    """Whether an annotation is `Place`, or a list of them or a choice with one."""
    return "place" in getattr(hint, "__metadata__", ()) or any(map(is_place, get_args(hint)))


# One picture, or several of any sizes, whose union is searched.
Pictures = Tensor | list[Tensor]


def map_tensors(function: Callable[[Tensor], Tensor], value: Any) -> Any:
    """The function of a picture, or of each of several; anything else (a key) as it is."""
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, list) and value and all(isinstance(x, Tensor) for x in value):
        return [function(x) for x in value]
    return value


class Sample(TypedDict, total=False):
    """One item of a dataset.

    Pictures are CHW, RGB, uint8 or float in [0, 1]; masks are 1HW with 1 = hole. `target` is the
    ground truth, `low` its degraded picture (H/scale × W/scale), `low_up` that upsampled to the
    target's size, `reference` another high-resolution picture of any size, or several,
    `reference_low` the same downsampled, `reference_low_up` and upsampled again. `grey` says
    that the target's file had one channel, whose values the three hold alike. `epoch` is which of
    training's it is, from 0. `homography` (3×3, float64) takes the target's pixel coordinates
    (x, y, 1) to the reference's, where that is known exactly.
    """

    key: Required[str]
    target: Tensor
    low: Tensor
    low_up: Tensor
    reference: Pictures
    reference_low: Pictures
    reference_low_up: Pictures
    mask: Tensor
    grey: bool
    epoch: int
    homography: Tensor


class Source(Protocol):
    """One split of a dataset: a picklable sequence of samples with a fixed order."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Sample: ...


@runtime_checkable
class DrawnSource(Protocol):
    """A split whose training samples are drawn anew each time; evaluation has fixed ones."""

    def draw(self, index: int, rng: np.random.Generator) -> Sample:
        """A sample of the place `index`, random through `rng` alone."""
        ...


class Dataset(Protocol):
    """A source of pictures with the splits `train`, `valid` and `test`."""

    def split(self, name: str) -> Source: ...


@dataclass(frozen=True)
class Problem:
    """A batch ready for a backbone: float pictures NCHW in [0, 1] on the device.

    `weight` (N1HW, ≥ 0) says how much each pixel counts in losses and metrics; None means equally.
    `target` is None when there is no ground truth (a user's photo). `grey` says that the targets
    come from files of one channel, which some protocols measure in another way.

    Where the task knows holes: `hole_mask` (N1HW, 1 = hole), `filled` (N3HW, what the network was
    given at the target's size, its holes filled), `undamaged` (the same before it was damaged),
    `overlap` (N: share of the input that the reference shows too). `homography` (N33) as a
    `Sample` has it. `box`: top, left, height and width of the part of the restored picture that is
    measured, where a protocol frames pictures (`restore.data.frames`).
    """

    inputs: dict[str, Any]  # Pictures
    target: Tensor | None
    keys: list[str]
    weight: Tensor | None = None
    grey: bool = False
    hole_mask: Tensor | None = None
    filled: Tensor | None = None
    undamaged: Tensor | None = None
    overlap: Any = None
    homography: Tensor | None = None
    box: tuple[int, int, int, int] | None = None


@dataclass
class Restoration:
    """A backbone's answer: `image` NCHW in [0, 1], and what losses and pictures look at.

    Where the backbone has them: `score` (N1hw, the soft attention map), `textures` (transferred
    features, coarse to fine), `index` (Nhw, flat position in the references' coarsest grids),
    `grids` (height and width of each of those), `block_masks` (N1hw by the name of a block, 1 where
    it was executed); `query` and `key` (NChw) and their `sharpness`, where matching itself is
    trained; `to_predict` and `predicted` (NCHW, 0 where nothing is drawn), where a diffusion
    network is. `samples` are all that were drawn of a picture, the first of which is `image`, where
    there are several; `frames`, where they are asked for, lead from noise to `image`.
    """

    image: Tensor
    score: Tensor | None = None
    textures: Sequence[Tensor] = ()
    index: Tensor | None = None
    grids: list[tuple[int, int]] = field(default_factory=list)
    block_masks: dict[str, Tensor] = field(default_factory=dict)
    query: Tensor | None = None
    key: Tensor | None = None
    sharpness: Tensor | float = 1.0
    to_predict: Tensor | None = None
    predicted: Tensor | None = None
    samples: list[Tensor] = field(default_factory=list)
    frames: list[Tensor] = field(default_factory=list)


@runtime_checkable
class Scheduled(Protocol):
    """A part of a network, a loss or a task that changes in the course of training."""

    def set_step(self, step: int, steps: int) -> None:
        """Told before each step: which it is, from 0, of how many.

        Parts of networks and tasks are told the steps of the whole run, losses those of their
        stage.
        """
        ...


@runtime_checkable
class TransfersTextures(Protocol):
    """A backbone whose restorations hold `textures` and `score`."""

    def texture_features(self, image: Tensor) -> list[Tensor]:
        """What the textures of a picture N3HW in [0, 1] are, fine to coarse.

        The extractor is held fixed at its current weights: gradients reach the picture alone.
        """
        ...


@runtime_checkable
class SizeConstrained(Protocol):
    """A critic or a loss that does not take pictures of every size."""

    def check_size(self, height: int, width: int) -> None:
        """Raises UserError, which names both sizes, for pictures that it cannot take."""
        ...


@runtime_checkable
class SplitAware(Protocol):
    """A task whose evaluation differs between splits, as its masks do."""

    def for_split(self, name: str) -> Any:
        """The same task for the evaluation of `train`, `valid` or `test`."""
        ...


class Task(Protocol):
    """How pictures become a problem, and an answer a result.

    `crop` is the side of training targets in pixels; `takes_reference` says whether a sample's
    reference reaches the network.
    """

    scale: int
    crop: int
    takes_reference: bool

    def train_item(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """Crop, augment and (where the protocol demands it) degrade; runs in a loader worker."""
        ...

    def eval_item(self, sample: Sample) -> Sample:
        """The same without randomness, for whole pictures."""
        ...

    def prepare(self, batch: dict[str, Any], generator: torch.Generator | None = None) -> Problem:
        """Batch of `train_item`s or `eval_item`s, on the device, to a problem."""
        ...

    def postprocess(self, restored: Restoration, problem: Problem) -> Restoration:
        """What is done to a backbone's answer before losses and metrics."""
        ...

    def baseline(self, problem: Problem) -> tuple[str, Tensor]:
        """Name and result of the method without learning that every table shows (bicubic)."""
        ...


@runtime_checkable
class InpaintingTask(Task, Protocol):
    """A task that takes pictures as large as its results, with holes.

    `shrink` is how many times smaller the network's low picture is; `margin` how far, in pixels of
    that, the task itself (not the network) feels what lies beside a window of a picture.
    """

    shrink: int
    margin: int

    def fill_holes(self, sample: Sample) -> Sample:
        """A picture without a target, its holes filled: ready to be cut into windows.

        Its sides are continued to multiples of `shrink`; windows at such multiples are samples for
        `eval_item`, whose results are those of the whole.
        """
        ...


@runtime_checkable
class AnyScaleTask(Task, Protocol):
    """A task whose scale is reached in steps, by `ratios`."""

    ratios: list[float]
