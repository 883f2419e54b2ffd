"""Embeddings: what of the features is compared, and what is transferred."""

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from restore.errors import UserError


class Pixels(nn.Module):
    """The features as they are: their 3×3 patches are compared, 9 · C numbers (TTSR 3.2).

    Attributes:
        patch: side of the patches that a matching rule compares.
        heads: equal parts of the channels that are matched each on their own; the values are
            split alike.
        in_values: whether `values` changes the coarsest ones.
    """

    patch = 3
    heads = 1
    in_values = False

    def fit(self, inputs: int) -> None:
        """See `TextureAttention.fit`."""

    def query(self, features_NCHW: Tensor) -> Tensor:
        """What is looked for."""
        return features_NCHW

    def key(self, features_NCHW: Tensor) -> Tensor:
        """What it is compared with."""
        return features_NCHW

    def values(self, values: list[Tensor]) -> list[Tensor]:
        """What is transferred, coarse to fine."""
        return values

    def channels(self, channels: list[int]) -> list[int]:
        """How many channels `values` makes of these."""
        return channels


class Reduced(Pixels):
    """Fewer channels by a 3×3 convolution, the same for queries and keys (thesis, section 6.2.2).

    The patches compared are 9 · `channels` numbers.

    Args:
        inputs: channels of the coarsest features; None: as many as they turn out to have (VGG19's
            256 until that is known).
        channels: channels after the convolution; as many as `inputs` means no convolution.
        values: transfer the reduced features at the coarsest scale too, as the thesis does.
        trainable: False leaves the convolution at its random start, as happened in the thesis,
            whose optimizer did not know it.
    """

    def __init__(
        self,
        inputs: Annotated[int, Field(ge=1)] | None = None,
        channels: Annotated[int, Field(ge=1)] = 64,
        values: bool = False,
        trainable: bool = True,
    ):
        super().__init__()
        self.stated, self.width, self.in_values = inputs, channels, values
        self.trainable = trainable
        self._reduce(inputs or 256)
        self.requires_grad_(trainable)

    def _reduce(self, inputs: int) -> None:
        same = self.width == inputs
        self.reduce = nn.Identity() if same else nn.Conv2d(inputs, self.width, 3, padding=1)
        self.inputs = inputs

    def fit(self, inputs: int) -> None:
        if inputs == self.inputs:
            return
        if self.stated is not None:
            raise UserError(
                f"attention.embedding.inputs={self.stated}, but the extractor's coarsest features "
                f"have {inputs} channels"
            )
        self._reduce(inputs)
        self.reduce.requires_grad_(self.trainable)

    def query(self, features_NCHW: Tensor) -> Tensor:
        return self.reduce(features_NCHW)

    def key(self, features_NCHW: Tensor) -> Tensor:
        return self.reduce(features_NCHW)

    def values(self, values: list[Tensor]) -> list[Tensor]:
        return [self.reduce(values[0]), *values[1:]] if self.in_values and values else values

    def channels(self, channels: list[int]) -> list[int]:
        if not self.in_values:
            return channels
        if channels[0] != self.inputs:
            raise UserError(
                "attention.embedding.values=true reduces the textures at ×1, and the network has "
                "none there (backbone.textures)"
            )
        return [self.width, *channels[1:]]


class Projection(Reduced):
    """Linear maps of whole 3×3 patches, one for queries and one for keys (thesis, 6.2.4).

    A linear map of unfolded patches is a 3×3 convolution; what it returns is compared as it is.

    Args:
        inputs, channels, values: as in `Reduced`, which comes first.
        width: numbers that are compared; None for as many as a patch has, 9 · `channels`.
        heads: parts that the projected numbers and the values are split into, each matched on its
            own (Vaswani et al. 2017, section 3.2.2).
        start: `identity`, so that an untrained projection compares the patches themselves (needs
            `width` 9 · `channels`), or `random`, as in the thesis.
        trainable: False leaves everything here at its start, as happened in the thesis.
    """

    patch = 1

    def __init__(
        self,
        inputs: Annotated[int, Field(ge=1)] | None = None,
        channels: Annotated[int, Field(ge=1)] = 64,
        values: bool = False,
        width: Annotated[int, Field(ge=1)] | None = None,
        heads: Annotated[int, Field(ge=1)] = 1,
        start: Literal["identity", "random"] = "identity",
        trainable: bool = True,
    ):
        super().__init__(inputs, channels, values, trainable)
        patch = 9 * channels
        width = width or patch
        if width % heads:
            raise UserError(
                f"attention.embedding: a width of {width} does not divide by {heads} heads"
            )
        if start == "identity" and width != patch:
            raise UserError(
                "attention.embedding.start=identity needs a width of "
                f"9 · channels = {patch}, not {width}"
            )
        self.heads = heads
        self.project_query = nn.Conv2d(channels, width, 3, padding=1, bias=False)
        self.project_key = nn.Conv2d(channels, width, 3, padding=1, bias=False)
        if start == "identity":
            for layer in (self.project_query, self.project_key):
                layer.weight.data = torch.eye(patch).view_as(layer.weight)
        self.requires_grad_(trainable)

    def query(self, features_NCHW: Tensor) -> Tensor:
        return self.project_query(self.reduce(features_NCHW))

    def key(self, features_NCHW: Tensor) -> Tensor:
        return self.project_key(self.reduce(features_NCHW))
