"""How much of a network with dynamic convolutions shall be executed."""

import math
from collections.abc import Mapping
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from restore.errors import UserError
from restore.models.backbones.sparse import executed
from restore.types import Problem, Restoration


class Sparsity:
    """(executed share − budget)² of the network, plus the blocks' mean excess of their bounds.

    Verelst, Tuytelaars, CVPR 2020, section 3.3. A block's share of its work is at first bound to
    the budget, from above and below; the bounds loosen to 1 and 0, so that it becomes the
    network's matter how the blocks share it out. Excess is squared.

    Args:
        budget: of the masked blocks' work, from 0 to 1. The course project passes −1 for "no
            constraint" in its first stage, where in truth it draws towards executing nothing.
        anneal: share of the stage after which the bounds are loose.
        exclude: beginnings of the names of blocks that do not count.
    """

    def __init__(
        self,
        budget: Annotated[float, Field(ge=-1, le=1)],
        anneal: Annotated[float, Field(gt=0, le=1)],
        exclude: list[str],
    ):
        self.budget, self.anneal = budget, anneal
        self.exclude = tuple(f"{name}." for name in exclude)
        self.progress = 0.0

    def set_step(self, step: int, steps: int) -> None:
        """Told by the training loop before each step: which it is, from 0, of how many."""
        self.progress = step / steps

    @property
    def bounds(self) -> tuple[float, float]:
        """Lowest and highest share of a block's work that costs nothing at this step."""
        tightness = math.cos(min(self.progress / self.anneal, 1) * math.pi / 2) ** 2
        return tightness * self.budget, 1 - tightness * (1 - self.budget)

    def __call__(
        self, restored: Restoration, problem: Problem, models: Mapping[str, nn.Module]
    ) -> Tensor:
        masks = [
            mask for name, mask in restored.block_masks.items() if not name.startswith(self.exclude)
        ]
        if not masks:
            raise UserError(
                "the sparsity loss needs a backbone with masks (such as trunk=dynamic) in blocks "
                "that it does not exclude; take the term out: give it the weight 0"
            )
        shares = torch.stack([executed(mask) for mask in masks])
        sizes = shares.new_tensor([mask.numel() for mask in masks])
        lowest, highest = self.bounds
        excess = (shares - highest).relu().square() + (lowest - shares).relu().square()
        network = (shares * sizes).sum() / sizes.sum()
        return (network - self.budget).square() + excess.mean()
