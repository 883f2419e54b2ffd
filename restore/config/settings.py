"""What the framework itself reads from the configuration, with types and ranges.

The defaults stand in `conf/`, once; these classes say what is allowed. Parts (nodes with a
`_target_`) stay plain dictionaries here: their own signatures say what they take.
"""

import math
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field

Node = dict[str, Any]
Count = Annotated[int, Field(ge=0)]
Positive = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, lt=1)]
Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Rate = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Precision = Literal["fp32", "tf32", "bf16", "fp16"]
# What stands in for a sample's reference; see `restore.data.references`.
StandIn = Literal["black", "noise", "self", "none"]
Reference = Literal[
    "given",
    "first",
    "second",
    "brighter",
    "darker",
    "tinted",
    "black",
    "noise",
    "other_image",
    "self",
    "none",
]

# Any class below refuses keys that it does not know, but for the groups of a training: a part may
# bring a group of its own, and `restore.config.compose` has refused whatever else there was.
STRICT = ConfigDict(extra="forbid")
OPEN = ConfigDict(extra="ignore")


# Ranges of arguments that torch's optimizers share. A larger learning rate leaves nothing of
# float32 weights of the usual size.
OPTIMIZER: dict[str, Any] = {
    "lr": Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)],
    "betas": tuple[Share, Share],
    "momentum": Share,
    "eps": Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)],
    "weight_decay": Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)],
}


@dataclass
class Runtime:
    """Where and how a model runs."""

    device: Literal["auto", "cpu", "cuda"]
    devices: Positive
    precision: Precision
    channels_last: bool | Literal["auto"]
    compile: bool
    threads: Positive | None


@dataclass
class Loader:
    """How samples are read."""

    workers: Count
    on_error: Literal["raise", "skip"]


def without_weight(loss: Node) -> Node:
    """A loss's node as a part: without the weight, which is the objective's."""
    return {key: value for key, value in loss.items() if key != "weight"}


@dataclass
class LrSchedule:
    """The learning rate's way over a stage: warm-up, then constant, step, cosine or linear.

    `epochs` is how long cosine and linear take, where that is not the stage's length.
    """

    warmup_steps: Count
    name: Literal["constant", "step", "cosine", "linear"]
    step_size: Positive | Annotated[list[Positive], Field(min_length=1)] | None
    factor: Annotated[float, Field(ge=0, le=1)]
    # With a value, so that runs from before there was this setting can go on.
    epochs: Rate | None = None


@dataclass
class Objective:
    """One model's losses and its optimizer.

    A loss's `weight`, which is 1 where it says none, stands in its own node; the rest of the node
    is the part. `range` is what losses that depend on the pictures' range refer to. One that
    `continues` takes over the optimizer's state and the schedule's count of steps.
    """

    model: str
    losses: Annotated[dict[str, Node], Field(min_length=1)]
    optimizer: Node
    param_groups: dict[str, dict[str, Any]]
    lr_schedule: LrSchedule
    clip_grad_norm: Rate | None
    steps_per_iteration: Positive
    # With values, so that runs from before there were these settings can go on.
    range: Rate = 1.0
    continues: bool = False

    @property
    def weights(self) -> dict[str, float]:
        """What each loss is multiplied by."""
        return {name: float(node.get("weight", 1.0)) for name, node in self.losses.items()}

    @property
    def parts(self) -> dict[str, Node]:
        """The losses that take part, as nodes to instantiate: those of weight 0 are not made."""
        return {
            name: without_weight(node)
            for name, node in self.losses.items()
            if self.weights[name] > 0
        }


@dataclass
class Stage:
    """A part of training: how long, with which models besides the backbone, which objectives."""

    steps: Positive | None
    epochs: Rate | None
    models: dict[str, Node]
    objectives: Annotated[dict[str, Objective], Field(min_length=1)]


@dataclass
class Trainer:
    """The loop's clock, and how much it takes at a time."""

    batch_size: Positive | Literal["auto"]
    accumulate_steps: Positive
    ema: Annotated[float, Field(gt=0, lt=1)] | None
    valid_every: Positive
    save_every: Positive
    pictures: Count
    log_every: Positive
    # With values, so that runs from before there were these settings can go on.
    max_batch_size: Positive = 512
    memory_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.8
    lr_scaling: Literal["constant", "linear", "sqrt"] = "constant"
    base_batch_size: Positive | None = None
    slow_metrics_every: Positive | None = None
    best: str | None = None

    @property
    def items(self) -> int:
        """`batch_size`, once a number has been found for `auto`."""
        assert isinstance(self.batch_size, int)
        return self.batch_size

    @property
    def lr_factor(self) -> float:
        """What the learning rates are multiplied by, for batches of another size than their own.

        `linear`: proportional to the batch (Goyal et al., Accurate, Large Minibatch SGD, 2017,
        section 2.1: for SGD). `sqrt`: to its square root, which keeps the variance of a step
        (Hoffer et al., Train longer, generalize better, 2017, section 4; for Adam Malladi et al.,
        On the SDEs and Scaling Rules for Adaptive Gradient Algorithms, 2022, whose rule would
        change the betas too).
        """
        if self.lr_scaling == "constant":
            return 1.0
        assert self.base_batch_size is not None
        ratio = self.items / self.base_batch_size
        return ratio if self.lr_scaling == "linear" else math.sqrt(ratio)


@dataclass
class Wandb:
    """The dashboard."""

    mode: Literal["offline", "online", "disabled"]
    project: str
    entity: str | None
    group: str | None
    tags: list[str]
    artifact: Literal["none", "best", "last"] = "none"


@dataclass
class Train:
    """`restore train`, apart from the groups that its parts refer to, such as `attention`."""

    task: Node
    data: Node
    backbone: Node
    protocol: Node
    pretrained: Node
    runtime: Runtime
    loader: Loader
    stages: dict[str, Stage]
    schedule: Annotated[list[str], Field(min_length=1)]
    reference: Reference
    trainer: Trainer
    wandb: Wandb
    seed: Count
    init: str | None
    init_partial: bool
    resume: str | None
    folder: str
    # None: PSNR and SSIM, as before metrics could be chosen.
    metric: dict[str, Node] | None = None


@dataclass
class Evaluate:
    """`restore evaluate`."""

    weights: str
    model: list[str]
    data: Node
    split: Literal["train", "valid", "test"]
    references: list[str | int | list[str | int]] | None
    task: dict[str, Any] | None
    pretrained: Node
    runtime: Runtime
    loader: Loader
    wandb: Wandb
    pictures: Count
    save: bool
    limit: Positive | None
    seed: Count
    folder: str
    # Null: PSNR and SSIM.
    metric: dict[str, Node] | None = None
    # Null: that of the weights' own configuration.
    protocol: Node | None = None
    masks: Node | None = None
    # Null: that of the weights' own configuration.
    sampler: Node | None = None


@dataclass
class Bench:
    """`restore bench`."""

    benchmark: Node
    runtime: Runtime
    folder: str
