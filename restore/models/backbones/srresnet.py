"""SRResNet, the generator of SRGAN.

Ledig et al.: "Photo-Realistic Single Image Super-Resolution Using a Generative Adversarial
Network", CVPR 2017 (below: SRGAN), figure 4.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from restore.errors import UserError
from restore.models.backbones.blocks import SubPixel, conv, repeat
from restore.models.backbones.layouts import Table, count, matched
from restore.models.backbones.single_image import (
    Blocks,
    Features,
    Scale,
    SingleImage,
    ratios,
    reach_above,
)
from restore.models.batch_norm import BatchNorm
from restore.models.protocol import Recognised

Kernel = Literal[3, 5, 7, 9]


class NormalisedBlock(nn.Module):
    """x + norm(conv(PReLU(norm(conv(x))))), one slope for all channels."""

    def __init__(self, features: int):
        super().__init__()
        self.first = nn.Sequential(conv(features, features), BatchNorm(features))
        self.relu = nn.PReLU()
        self.second = nn.Sequential(conv(features, features), BatchNorm(features))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(self.relu(self.first(x)))


class SRResNet(SingleImage):
    """Residual blocks with batch normalisation and PReLU; pictures in [-1, 1], a tanh at the end.

    Args:
        scale: enlargement of each side.
        blocks: residual blocks.
        features: channels.
        first_kernel: side of the first convolution.
        last_kernel: of the last; the paper has 9, the public implementation whose weights load 3.
    """

    def __init__(
        self,
        scale: Scale,
        blocks: Blocks = 16,
        features: Features = 64,
        first_kernel: Kernel = 9,
        last_kernel: Kernel = 3,
    ):
        super().__init__()
        self.scale = scale
        self.head = nn.Sequential(conv(3, features, first_kernel), nn.PReLU())
        self.body = repeat(blocks, lambda: NormalisedBlock(features))
        self.after = nn.Sequential(conv(features, features), BatchNorm(features))
        self.enlarge = nn.Sequential(
            *(nn.Sequential(SubPixel(features, ratio), nn.PReLU()) for ratio in ratios(scale))
        )
        self.tail = conv(features, 3, last_kernel)
        self.reach = first_kernel // 2 + 2 * blocks + 1 + reach_above(scale, last_kernel)

    def enlarged(self, low: Tensor) -> Tensor:
        x = self.head(low * 2 - 1)
        x = self.after(self.body(x)) + x
        return (torch.tanh(self.tail(self.enlarge(x)).float()) + 1) / 2

    @classmethod
    def recognise(cls, published: Mapping[str, Tensor], path: Path) -> Recognised | None:
        """See `Backbone.recognise`.

        Known is the layout of dongheehand's SRGAN-PyTorch, that the course project on SRGAN used.
        """
        layers = ("head.0", "after.1", "enlarge.0.0.conv")
        renamed = matched(published, _LAYOUT, layers, "SRResNet")
        if renamed is None:
            return None
        features = len(renamed["head.0.weight"])
        ways = [
            math.isqrt(len(renamed[f"enlarge.{place}.0.conv.weight"]) // features)
            for place in range(count(renamed, r"enlarge\.\d+\.0\.conv\.weight"))
        ]
        scale = math.prod(ways)
        if ways != ratios(scale):
            raise UserError(
                f"the file's SRResNet enlarges in steps of {ways}, here {ratios(scale)}"
            )
        blocks = count(renamed, r"body\.\d+\.first\.0\.weight")
        overrides = [
            "backbone=srresnet",
            f"task.scale={scale}",
            f"backbone.blocks={blocks}",
            f"backbone.features={features}",
            f"backbone.first_kernel={renamed['head.0.weight'].shape[-1]}",
            f"backbone.last_kernel={renamed['tail.weight'].shape[-1]}",
        ]
        return Recognised(overrides, renamed)


_LAYOUT: Table = [
    (r"conv01\.body\.([01])", r"head.\1"),
    (r"body\.(\d+)\.body\.0\.body\.([01])", r"body.\1.first.\2"),
    (r"body\.(\d+)\.body\.0\.body\.2", r"body.\1.relu"),
    (r"body\.(\d+)\.body\.1\.body\.([01])", r"body.\1.second.\2"),
    (r"conv02\.body\.([01])", r"after.\1"),
    (r"tail\.(\d+)\.body\.0\.body\.0", r"enlarge.\1.0.conv"),
    (r"tail\.(\d+)\.body\.2", r"enlarge.\1.1"),
    (r"last_conv\.body\.0", "tail"),
]
