"""Dynamic convolutions: residual blocks that are executed only where their input asks for it.

Verelst, Tuytelaars: "Dynamic Convolutions: Exploiting Spatial Sparsity for Faster Inference",
CVPR 2020 (below: DynConv), section 3.
"""

from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from restore.models.backbones.blocks import ResidualBlock, conv
from restore.models.backbones.sparse import add_branch, executed

Share = Annotated[float, Field(ge=0, le=1)]


class MaskUnit(nn.Module):
    """How much each position asks for execution: logits N1HW of features NCHW.

    A 3×3 convolution for the place, plus a linear map of the channels' means for the picture.
    """

    def __init__(self, features: int):
        super().__init__()
        self.fc = nn.Linear(features, 1)
        self.conv = conv(features, 1)

    def forward(self, x: Tensor) -> Tensor:
        H, W = x.shape[-2:]
        # With one output, a 3×3 convolution spends its time on moving inputs about. Nine products
        # at each position, summed at their nine distances, take a third of it.
        taps = F.conv2d(x, self.conv.weight[0].permute(1, 2, 0).reshape(9, -1, 1, 1))
        taps = F.pad(taps.float(), (1, 1, 1, 1))
        summed = [taps[:, 3 * i + j, i : i + H, j : j + W] for i in range(3) for j in range(3)]
        place = torch.stack(summed, 1).sum(1, keepdim=True) + self.conv.bias  # type: ignore[operator]
        return place + self.fc(x.mean((2, 3)))[:, :, None, None]


class GumbelGate(nn.Module):
    """Logits to decisions, 1 or 0, with a gradient in training (DynConv section 3.2).

    In training, logistic noise (the difference of two Gumbel variables) is added, and the gradient
    is that of the sigmoid of the sum over the temperature: straight-through Gumbel-softmax. In
    evaluation the sign alone decides.

    Args:
        temperature: at the first and last step; geometric in between.
        noise_until: share of the training after which there is no more noise, so that what is
            trained last is what will be evaluated.
    """

    progress: Tensor

    def __init__(self, temperature: tuple[float, float], noise_until: float):
        super().__init__()
        self.start, self.end = temperature
        self.noise_until = noise_until
        # Given anew at every step, so it belongs to no checkpoint; a tensor, so that a compiled
        # network need not be compiled anew for it.
        self.register_buffer("progress", torch.zeros(()), persistent=False)

    def set_step(self, step: int, steps: int) -> None:
        """Told by the training loop before each step: which it is, from 0, of how many."""
        self.progress.fill_(step / steps)

    def forward(self, logits: Tensor) -> Tensor:
        logits = logits.float()
        if not self.training:
            return (logits >= 0).float()
        uniform = torch.rand_like(logits).clamp(1e-6, 1 - 1e-6)
        noisy = logits + uniform.logit() * (self.progress < self.noise_until)
        temperature = self.start * (self.end / self.start) ** self.progress
        soft = torch.sigmoid(noisy / temperature)
        return (noisy >= 0).float() + (soft - soft.detach())


class DynamicBlock(ResidualBlock):
    """x + m · conv(ReLU(conv(x))), m the mask that a mask unit and a gate make of x.

    Without gradients, where less than `skip_below` of its work is asked for, the rest is skipped;
    at 0 nothing ever is, and nothing depends on how much is asked for.
    """

    def __init__(self, features: int, gate: GumbelGate, skip_below: float):
        super().__init__(features, bias=False)
        self.masker = MaskUnit(features)
        self.gate = gate
        self.skip_below = skip_below

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        """Features, and the mask N1HW (float32)."""
        mask = self.gate(self.masker(x))
        skips = self.skip_below > 0 and not torch.is_grad_enabled()
        if skips and executed(mask) < self.skip_below:
            return add_branch(x, mask, self.conv1, self.conv2), mask
        return x + self.branch(x) * mask.to(x.dtype), mask

    def prepare_export(self) -> None:
        """Nothing is skipped: what a picture asks for cannot change which operations run."""
        self.skip_below = 0


class DynamicTrunk(nn.ModuleList):
    """Dynamic residual blocks one after another; see `blocks.ResidualTrunk` for how it is called.

    Args:
        features: channels.
        count: blocks.
        temperature: of the Gumbel-softmax, at the first and the last step of training.
        noise_until: share of the training after which the noise ends.
        skip_below: in evaluation, a block whose mask asks for less than this share of its work
            goes position by position; above it, the whole picture at once is faster (`restore
            bench what=dynconv`).
    """

    whole_picture = True

    def __init__(
        self,
        features: int,
        count: int,
        temperature: tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]],
        noise_until: Share,
        skip_below: Share,
    ):
        gate = GumbelGate((temperature[0], temperature[1]), noise_until)
        super().__init__(DynamicBlock(features, gate, skip_below) for _ in range(count))

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        masks = []
        for block in self:
            x, mask = block(x)
            masks.append(mask)
        return x, masks
