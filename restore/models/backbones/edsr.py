"""EDSR: residual blocks without batch normalisation, for one picture.

Lim, Son, Kim, Nah, Lee: "Enhanced Deep Residual Networks for Single Image Super-Resolution",
CVPR Workshops 2017 (below: EDSR), figures 2c and 3.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from restore.errors import UserError
from restore.models.backbones.blocks import ResidualBlock, SubPixel, conv, repeat
from restore.models.backbones.layouts import Table, count, matched
from restore.models.backbones.single_image import (
    DIV2K_MEAN,
    Blocks,
    Colours,
    Features,
    Mean,
    Range,
    Scale,
    SingleImage,
    ratios,
    reach_above,
)
from restore.models.protocol import Recognised


class EDSR(SingleImage):
    """Enhanced deep super-resolution network.

    Args:
        scale: enlargement of each side.
        blocks: residual blocks.
        features: channels.
        residual_scale: factor on each block's branch; the paper has 0.1 for 256 features.
        mean: colour that is subtracted at first and added at last.
        range: of the pictures inside; the published network sees values up to 255.
    """

    def __init__(
        self,
        scale: Scale,
        blocks: Blocks = 16,
        features: Features = 64,
        residual_scale: Annotated[float, Field(gt=0, le=1)] = 1.0,
        mean: Mean = DIV2K_MEAN,  # type: ignore[assignment]
        range: Range = 255.0,
    ):
        super().__init__()
        self.scale = scale
        self.colours = Colours(mean, range)
        self.head = conv(3, features)
        self.body = repeat(blocks, lambda: ResidualBlock(features, residual_scale))
        self.after = conv(features, features)
        self.enlarge = nn.Sequential(*(SubPixel(features, ratio) for ratio in ratios(scale)))
        self.tail = conv(features, 3)
        self.reach = 2 + 2 * blocks + reach_above(scale, last_kernel=3)

    def enlarged(self, low: Tensor) -> Tensor:
        x = self.head(self.colours(low))
        x = self.after(self.body(x)) + x
        return self.colours.back(self.tail(self.enlarge(x)))

    @classmethod
    def recognise(cls, published: Mapping[str, Tensor], path: Path) -> Recognised | None:
        """See `Backbone.recognise`.

        Known are the layouts of the paper's PyTorch implementation, which holds the mean and range
        of colours, and of BasicSR, which does not. Neither holds the factor on the branches: it is
        taken to be the paper's, 0.1 for networks of 256 features and more, else 1.
        """
        colours = {n: x for n, x in published.items() if n.startswith(("sub_mean.", "add_mean."))}
        others = {name: value for name, value in published.items() if name not in colours}
        renamed = matched(others, _LAYOUTS, _LAYERS, "EDSR")
        if renamed is None:
            return None
        features = len(renamed["head.weight"])
        scale = 1
        for place in range(count(renamed, r"enlarge\.\d\.conv\.weight")):
            scale *= math.isqrt(len(renamed[f"enlarge.{place}.conv.weight"]) // features)
        blocks = count(renamed, r"body\.\d+\.conv1\.weight")
        assumed = f"backbone.residual_scale={0.1 if features >= 256 else 1.0}"
        overrides = [
            "backbone=edsr",
            f"task.scale={scale}",
            f"backbone.blocks={blocks}",
            f"backbone.features={features}",
            assumed,
            *(_colours(colours) if colours else []),
        ]
        return Recognised(overrides, renamed, assumed=[assumed])


_LAYERS = ("head", "body.0.conv1", "after", "enlarge.0.conv", "tail")

_LAYOUTS: Table = [
    (r"head\.0|conv_first", "head"),
    (r"body\.(\d+)\.(?:body\.0|conv1)", r"body.\1.conv1"),
    (r"body\.(\d+)\.(?:body\.2|conv2)", r"body.\1.conv2"),
    (r"body\.\d+|conv_after_body", "after"),
    # Convolutions and shuffles take turns.
    (r"(?:tail\.0|upsample)\.(\d)", lambda match: f"enlarge.{int(match[1]) // 2}.conv"),
    (r"tail\.1|conv_last", "tail"),
]


def _colours(published: Mapping[str, Tensor]) -> list[str]:
    """Overrides for the mean and range that two 1×1 convolutions hold, x − m·r and x + m·r."""
    shift = published["sub_mean.bias"]
    weights = [published[f"{name}_mean.weight"].flatten(1) for name in ("sub", "add")]
    if not (
        torch.equal(shift, -published["add_mean.bias"])
        and all(torch.equal(weight, torch.eye(3)) for weight in weights)
    ):
        raise UserError("the file's sub_mean and add_mean do more than to shift colours by a mean")
    # A mean colour is below 1, and above 1 when white is 255.
    inside = 255.0 if shift.abs().max() > 1 else 1.0
    mean = [round(value / inside, 6) for value in (-shift).tolist()]
    return [f"backbone.mean={mean}".replace(" ", ""), f"backbone.range={inside}"]
