"""Texture attention: which reference patch each place of the input takes, and how.

An attention is an embedding (what of the features is compared) and a matching rule (how queries
and keys become a choice). Both are parts of their own: a new one is a class and a yaml.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from restore.attention.transfer import pack, unpack


@dataclass(frozen=True)
class Memory:
    """The reference side, made once and used for any number of inputs.

    `key` N, C, H, W embedded features; `rows` each value as `transfer.pack` has it; `channels` of
    each value.
    """

    key: Tensor
    rows: list[Tensor]
    channels: list[int]


@dataclass(frozen=True)
class Transfer:
    """What an input takes from the reference.

    `score` N1HW; `textures` N, C, s·H, s·W for each value; `index` NHW row-major positions in the
    key's grid, or None where a rule makes no choice.
    """

    score: Tensor
    textures: list[Tensor]
    index: Tensor | None


class TextureAttention(nn.Module):
    """Finds for each place of the input what the reference offers, and transfers it.

    Args:
        embedding: features N, C, H, W to what is compared, same H and W.
        matching: (query, key, rows) to (score, textures as rows, index); see `matching.Hard`.
    """

    def __init__(self, embedding: nn.Module, matching: nn.Module):
        super().__init__()
        self.embedding, self.matching = embedding, matching

    def remember(self, key_NCHW: Tensor, values: list[Tensor]) -> Memory:
        """The reference's features: the key, and values whose sides are multiples of the key's."""
        H, W = key_NCHW.shape[-2:]
        with torch.autocast(key_NCHW.device.type, enabled=False):
            key = _exact(self.embedding(key_NCHW))
            rows = [pack(_exact(value), (H, W)) for value in values]
        return Memory(key, rows, [value.shape[1] for value in values])

    def forward(self, query_NCHW: Tensor, memory: Memory) -> Transfer:
        """The transfer to each position of the query's features."""
        N, _, H, W = query_NCHW.shape
        # Half precision would choose among near-equals by its rounding; matching stays exact.
        with torch.autocast(query_NCHW.device.type, enabled=False):
            query = _exact(self.embedding(query_NCHW))
            score, rows, index = self.matching(query, memory.key, memory.rows)
        textures = [unpack(part, C, (N, H, W)) for part, C in zip(rows, memory.channels)]
        return Transfer(score, textures, index)


def _exact(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()
