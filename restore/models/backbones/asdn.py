"""ASDN: one network for any real scale, by interpolating between levels and by recursion.

Shen, Wang, Zhang: "ASDN: A Deep Convolutional Network for Arbitrary Scale Image Super-Resolution",
2020 (arXiv 2010.02414; below: ASDN).
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, NamedTuple

from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import relu

from restore.data.scale_schedule import enlarged, level_scale, schedule
from restore.errors import UserError
from restore.models.backbones.blocks import conv, shrink, within
from restore.models.backbones.feature_mapping import FeatureMapping
from restore.models.backbones.layouts import Table, count, matched
from restore.models.backbones.single_image import refuse_more
from restore.models.protocol import Backbone, Recognised
from restore.types import Restoration

Levels = Annotated[int, Field(ge=2)]
Largest = Annotated[float, Field(gt=1, le=8)]

# A ratio this near to a level, in steps between two, is that level: ratios are quotients.
_NEAR = 1e-6


class SpatialAttention(nn.Module):
    """Each value times a weight in (0, 1) that depends on the values at its place.

    Hu et al., "Channel-wise and Spatial Feature Modulation Network for Single Image
    Super-Resolution", 2018, section III-C, but with a weight for each channel as the course
    project has it, whose number of parameters is the published one.

    Args:
        features: channels.
        expansion: how many times more channels are between the two 1×1 convolutions.
    """

    def __init__(self, features: int, expansion: int = 2):
        super().__init__()
        self.expand = conv(features, features * expansion, 1)
        self.reduce = conv(features * expansion, features, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.reduce(relu(self.expand(x))).sigmoid()


class Branch(nn.Module):
    """Image reconstruction branch of one level: features to what its picture lacks, N3HW.

    It begins small, so that with a global skip the network begins near bicubic.
    """

    def __init__(self, features: int, spatial_attention: bool):
        super().__init__()
        self.project = conv(features, 3, 1)
        shrink([self.project])
        nn.init.zeros_(self.project.bias)  # type: ignore[arg-type]
        self.attention = SpatialAttention(3) if spatial_attention else nn.Identity()

    def forward(self, features: Tensor) -> Tensor:
        return self.attention(self.project(features))


class Neighbours(NamedTuple):
    """The levels about a ratio, and how near it is to the lower one, from 0 to below 1."""

    lower: int
    upper: int
    weight: float

    def run(self) -> set[int]:
        """The levels that count."""
        return {self.lower, self.upper} if self.weight else {self.upper}


def neighbours(ratio: float, levels: int, largest: float) -> Neighbours:
    """Levels r_{i−1} < ratio ≤ r_i, i = ⌈(L − 1)(r − 1)⌉, and w_r = (L − 1)(r_i − r) (ASDN).

    There the largest is 2. At a level the weight is 0; at 1 both are level 0.
    """
    place = (ratio - 1) * (levels - 1) / (largest - 1)
    upper = math.ceil(place - _NEAR)
    weight = upper - place
    return Neighbours(max(0, upper - 1), upper, weight if weight > _NEAR else 0.0)


class ASDN(Backbone):
    """Arbitrary-scale deep network.

    The low picture is enlarged by bicubic, features of it are mapped once, and the branches of the
    two levels next to the ratio say what is missing. Scales beyond the last level are done in
    several steps.

    Args:
        mapping: the trunk; see `restore.models.backbones.feature_mapping`.
        levels: branches L, for the ratios 1 + l · (largest − 1) / (L − 1).
        largest: ratio of the last level.
        spatial_attention: whether branches end with it.
        global_skip: whether the enlarged picture is added to what the branches make.
    """

    takes_scale = True

    def __init__(
        self,
        mapping: FeatureMapping,
        levels: Levels = 11,
        largest: Largest = 2.0,
        spatial_attention: bool = True,
        global_skip: bool = True,
    ):
        super().__init__()
        self.levels, self.largest, self.global_skip = levels, largest, global_skip
        self.mapping = mapping
        self.branches = nn.ModuleList(
            Branch(mapping.features, spatial_attention) for _ in range(levels)
        )
        # Without a schedule it enlarges by whole pixels.
        self.scale = math.floor(largest)
        self.reach = mapping.reach

    def level(self, picture: Tensor, ratio: float) -> Tensor:
        """A picture enlarged by a ratio from 1 to the largest, N3HW in [0, 1], made sharp.

        O_r = O_{r_i} + w_r · (O_{r_{i−1}} − O_{r_i}) (ASDN).
        """
        lower, upper, weight = self._neighbours(ratio)
        features = self.mapping(picture)
        missing = self.branches[upper](features)
        if weight:
            missing = missing + weight * (self.branches[lower](features) - missing)
        return picture + missing if self.global_skip else missing.to(picture.dtype)

    def forward(
        self,
        low: Tensor,
        low_up: Tensor | None = None,
        ratios: Tensor | None = None,
        **others: Tensor,
    ) -> Restoration:
        """Enlarges `low` by the product of the ratios.

        Args:
            low: N3HW in [0, 1].
            low_up: only its size is looked at: the result's. None: H and W times the scale, any
                part of a pixel counted as one.
            ratios: N, steps, 1, 1, alike for all N; each from 1 to the last level's. None: one step
                to the largest whole scale.
            others: none are taken.

        Returns:
            Image N3hw in [0, 1]; in training it is not cut off there, so that losses see (and
            gradients undo) what goes beyond.

        Raises:
            UserError: the task hands over more, or a ratio beyond the levels.
        """
        refuse_more(self, others, "any_scale")
        steps = schedule(self.scale, self.largest)
        if ratios is not None:
            steps = ratios[0].flatten().tolist()
        final = None if low_up is None else (low_up.shape[-2], low_up.shape[-1])
        image = enlarged(low, steps, self.level, final)
        if not self.training:
            return Restoration(within(image, 0, 1))
        # Branches of other levels get gradients of 0, not none: processes that train together, and
        # optimizers with a memory, expect every parameter in every step.
        used = {n for ratio in steps for n in self._neighbours(ratio).run()}
        for place, branch in enumerate(self.branches):
            if place not in used:
                image = image + 0 * sum(p.sum() for p in branch.parameters())
        return Restoration(image)

    @classmethod
    def recognise(cls, published: Mapping[str, Tensor], path: Path) -> Recognised | None:
        """See `Backbone.recognise`.

        Known is the layout of the course project. It does not hold what channel attention sees of
        each channel: it is taken to be the largest value, as there.
        """
        if "deconvolution.weight" in published:
            return None  # FSDN's, whose other layers have the same names
        state = matched(published, _LAYOUT, _LAYERS, "ASDN")
        if state is None:
            return None
        levels = count(state, r"branches\.\d+\.project\.weight")
        assumed = "backbone.mapping.pooling=max"
        overrides = ["backbone=asdn", f"task.levels={levels}", *trunk_overrides(state), assumed]
        return Recognised(overrides, state, assumed=[assumed])

    def _neighbours(self, ratio: float) -> Neighbours:
        pair = neighbours(ratio, self.levels, self.largest)
        if not 0 <= pair.upper < self.levels:
            last = level_scale(self.levels - 1, self.levels, self.largest)
            raise UserError(f"a step of {ratio:g} is beyond the network's levels, 1 to {last:g}")
        return pair


def trunk_overrides(state: Mapping[str, Tensor]) -> list[str]:
    """The sizes of the trunk `mapping=bidense` that weights belong to, as overrides."""
    first = "mapping.blocks.0"
    width = len(state[f"{first}.compress.weight"])
    numbers = {
        "blocks": count(state, r"mapping\.blocks\.\d+\.gather\.weight"),
        "width": width,
        "growth": len(state[f"{first}.dense.layers.0.weight"]),
        "convolutions": count(state, rf"{first}\.dense\..*\.weight"),
        "first": len(state["mapping.head.weight"]),
        "reduction": width // len(state[f"{first}.attention.reduce.weight"]),
    }
    return [f"backbone.mapping.{name}={number}" for name, number in numbers.items()]


_LAYERS = (
    "mapping.head",
    "mapping.blocks.0.dense.layers.0",
    "mapping.blocks.0.attention.reduce",
    "branches.1.attention.reduce",
)
_BLOCK = r"feature_mapping_branch\.dabs\.(\d+)\.base"
_BRANCH = r"image_reconstruction_branches\.(\d+)"
_LAYOUT: Table = [
    (r"feature_mapping_branch\.low_level_features", "mapping.head"),
    (rf"{_BLOCK}\.0\.input_compression_layer", r"mapping.blocks.\1.compress"),
    (rf"{_BLOCK}\.0\.intra_layers\.(\d+)\.base\.0", r"mapping.blocks.\1.dense.layers.\2"),
    (rf"{_BLOCK}\.0\.output_compression_layer", r"mapping.blocks.\1.gather"),
    (rf"{_BLOCK}\.1\.attention\.1", r"mapping.blocks.\1.attention.reduce"),
    (rf"{_BLOCK}\.1\.attention\.3", r"mapping.blocks.\1.attention.expand"),
    (rf"{_BRANCH}\.transform_into_image", r"branches.\1.project"),
    (rf"{_BRANCH}\.sa\.sa\.0", r"branches.\1.attention.expand"),
    (rf"{_BRANCH}\.sa\.sa\.2", r"branches.\1.attention.reduce"),
]
