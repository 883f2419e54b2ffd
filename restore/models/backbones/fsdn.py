"""FSDN: ASDN made a network of one whole scale, for what fixed scales can do better.

Shen, Wang, Zhang: "ASDN: A Deep Convolutional Network for Arbitrary Scale Image Super-Resolution",
2020 (arXiv 2010.02414): a transposed convolution before the reconstruction branch, fine-tuned from
ASDN.
"""

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from restore.models.backbones.asdn import Branch, Levels, trunk_overrides
from restore.models.backbones.feature_mapping import FeatureMapping
from restore.models.backbones.single_image import Scale, SingleImage
from restore.models.backbones.upsampling import MATLAB, upsample
from restore.models.protocol import Recognised

_BRANCH = re.compile(r"branches\.(\d+)\.attention\.reduce\.weight")


class FSDN(SingleImage):
    """Fixed-scale deep network: works on the low picture, and enlarges features.

    The transposed convolution begins as bilinear interpolation of each feature by itself, and trunk
    and branch have the names that they have in ASDN: after a warm start from it the network is an
    ASDN that interpolates its features.

    Args:
        mapping: the trunk, as in the ASDN that it is begun from.
        scale: enlargement of each side.
        levels: of that ASDN, whose last level's branch is taken over.
        spatial_attention: whether the branch ends with it.
        global_skip: whether the bicubic picture is added.
    """

    def __init__(
        self,
        mapping: FeatureMapping,
        scale: Scale,
        levels: Levels = 11,
        spatial_attention: bool = True,
        global_skip: bool = True,
    ):
        super().__init__()
        self.scale, self.global_skip = scale, global_skip
        self.mapping = mapping
        self.deconvolution = bilinear(mapping.features, scale)
        self.last = str(levels - 1)
        self.branches = nn.ModuleDict({self.last: Branch(mapping.features, spatial_attention)})
        # Bicubic needs two low pixels to each side, the transposed convolution one.
        self.reach = None if mapping.reach is None else max(2, mapping.reach + 1)

    @classmethod
    def recognise(cls, published: Mapping[str, Tensor], path: Path) -> Recognised | None:
        """See `Backbone.recognise`: a plain state dict, with ASDN's own trunk and attention.

        It does not hold what channel attention sees of each channel, nor whether the bicubic
        picture is added.
        """
        branches = [match for name in published if (match := _BRANCH.fullmatch(name))]
        trunk = "mapping.blocks.0.attention.reduce.weight"
        if len(branches) != 1 or not {"deconvolution.weight", trunk} <= published.keys():
            return None
        kernel = published["deconvolution.weight"].shape[-1]
        assumed = ["backbone.mapping.pooling=mean", "backbone.global_skip=true"]
        overrides = [
            "backbone=fsdn",
            f"task.scale={(kernel + 1) // 2}",
            f"backbone.levels={int(branches[0][1]) + 1}",
            *trunk_overrides(published),
            *assumed,
        ]
        return Recognised(overrides, dict(published), assumed=assumed)

    def enlarged(self, low: Tensor) -> Tensor:
        missing = self.branches[self.last](self.deconvolution(self.mapping(low)))
        if not self.global_skip:
            return missing
        return missing + upsample(low, self.scale, MATLAB)


def bilinear(features: int, scale: int) -> nn.ConvTranspose2d:
    """Transposed convolution to `scale` times the size that begins as bilinear interpolation.

    Each feature by itself: the branch after it mixes them linearly, so that one across features
    would say little more, with `features` times the weights.
    """
    kernel = 2 * scale - scale % 2
    layer = nn.ConvTranspose2d(
        features, features, kernel, scale, padding=(kernel - scale) // 2, groups=features
    )
    away = torch.arange(kernel) - (kernel - 1) / 2
    tent = 1 - away.abs() / scale
    with torch.no_grad():
        layer.weight.copy_(tent[:, None] * tent)
        nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
    return layer
