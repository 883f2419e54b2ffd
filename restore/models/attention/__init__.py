"""Texture attention: which reference patch each place of the input takes, and how.

An attention is an embedding (what of the features is compared) and a matching rule (how queries
and keys become a choice). Both are parts of their own: a new one is a class and a yaml.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from restore.models.attention.embedding import Pixels
from restore.models.attention.transfer import Value, pack


@dataclass(frozen=True)
class Memory:
    """The reference side, made once and used for any number of inputs.

    `keys` N, C, H, W embedded features of each reference; `values`, coarse to fine, each of all
    references.
    """

    keys: list[Tensor]
    values: list[Value]

    def __add__(self, other: "Memory") -> "Memory":
        """The union of references, of any sizes; of equal matches the first memory's wins."""
        values = [one + two for one, two in zip(self.values, other.values)]
        return Memory([*self.keys, *other.keys], values)


@dataclass(frozen=True)
class Transfer:
    """What an input takes from the reference.

    `score` N1HW; `textures` N, C, s·H, s·W for each value; `index` NHW row-major positions in the
    key's grid, counted on through several references (the one of most weight, where a rule takes a
    mean), or None where a rule tells none.
    """

    score: Tensor
    textures: list[Tensor]
    index: Tensor | None


class TextureAttention(nn.Module):
    """Finds for each place of the input what the reference offers, and transfers it.

    Args:
        embedding: what is compared and transferred; see `embedding.Pixels`.
        matching: queries, keys and values to score, textures, index; see `matching.Hard`.
    """

    embedding: Pixels

    def __init__(self, embedding: Pixels, matching: nn.Module):
        super().__init__()
        self.embedding, self.matching = embedding, matching

    def channels(self, channels: list[int]) -> list[int]:
        """Channels of the textures, coarse to fine, from those of the extractor's features."""
        return self.embedding.channels(channels)

    def encode_reference(self, key_NCHW: Tensor, values: list[Tensor]) -> Memory:
        """The reference's features: the key, and values whose sides are multiples of the key's."""
        embedding, heads = self.embedding, self.embedding.heads
        H, W = key_NCHW.shape[-2:]
        with torch.autocast(key_NCHW.device.type, enabled=False):
            key = _split(embedding.key(_exact(key_NCHW)), heads)
        values = embedding.values(values)  # what is only handed on may stay in half precision
        return Memory([key], [pack(_split(value, heads), (H, W)) for value in values])

    def forward(self, query_NCHW: Tensor, memory: Memory) -> Transfer:
        """The transfer to each position of the query's features."""
        embedding, heads = self.embedding, self.embedding.heads
        N, _, H, W = query_NCHW.shape
        # Half precision would choose among near-equals by its rounding; matching stays exact.
        with torch.autocast(query_NCHW.device.type, enabled=False):
            query = _split(embedding.query(_exact(query_NCHW)), heads)
            score, textures, index = self.matching(
                query, memory.keys, memory.values, embedding.patch
            )
        textures = [_merge(texture, heads) for texture in textures]
        if heads > 1:  # the heads' scores are averaged, and no one index tells their choices
            score, index = score.view(N, heads, H, W).mean(1, keepdim=True), None
        return Transfer(score, textures, index)


def _split(x_NCHW: Tensor, heads: int) -> Tensor:
    """Heads, which are equal parts of the channels, as images of their own."""
    return x_NCHW.unflatten(1, (heads, -1)).flatten(0, 1) if heads > 1 else x_NCHW


def _merge(x_NCHW: Tensor, heads: int) -> Tensor:
    return x_NCHW.unflatten(0, (-1, heads)).flatten(1, 2) if heads > 1 else x_NCHW


def _exact(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()
