"""Texture attention: which reference patch each place of the input takes, and how.

An attention is an embedding (what of the features is compared) and a matching rule (how queries
and keys become a choice). Both are parts of their own: a new one is a class and a yaml.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import reduce
from operator import add
from typing import Any

import torch
from torch import Tensor, nn

from restore.errors import UserError
from restore.models.attention.embedding import Pixels
from restore.models.attention.rules import MatchingRule
from restore.models.attention.transfer import Value, pack, steps


@dataclass(frozen=True)
class Memory:
    """The reference side, made once and used for any number of inputs.

    `keys` N, C, H, W embedded features of each reference; `values`, coarse to fine, each of all
    references. Instead of these, `pictures`: of each reference, the values as they are, for
    transfers that look for themselves (`TextureAttention.locate` and `places`).
    """

    keys: list[Tensor]
    values: list[Value]
    pictures: list[list[Tensor]] = field(default_factory=list)

    def __add__(self, other: "Memory") -> "Memory":
        """The union of references, of any sizes; of equal matches the first memory's wins."""
        values = [one + two for one, two in zip(self.values, other.values)]
        pictures = [*self.pictures, *other.pictures]
        return Memory([*self.keys, *other.keys], values, pictures)


@dataclass(frozen=True)
class Transfer:
    """What an input takes from the reference.

    `score` N1HW; `textures` N, C, s·H, s·W for each value (see `transfer.Textures`); `index` NHW
    row-major positions in the key's grid, counted on through several references (the one of most
    weight, where a rule takes a mean; −1: none), or None where a rule tells none. With `flow`
    (N2HW: how far down and right of a position its match lies) the textures are the reference's
    own, not brought to their places.
    """

    score: Tensor
    textures: Sequence[Tensor]
    index: Tensor | None
    flow: Tensor | None = None


class TextureAttention(nn.Module):
    """Finds for each place of the input what the reference offers, and transfers it.

    Args:
        embedding: what is compared and transferred; see `embedding.Pixels`.
        matching: queries, keys and values to score, textures, index; see `rules.MatchingRule`.
    """

    embedding: Pixels

    def __init__(self, embedding: Pixels, matching: MatchingRule):
        super().__init__()
        self.embedding, self.matching = embedding, matching

    def fit(self, inputs: int) -> None:
        """Told how many channels the coarsest features have, before anything else is asked.

        Raises UserError where it was made for another number.
        """
        self.embedding.fit(inputs)

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

    def remember(self, key_NCHW: Tensor, values: list[Tensor]) -> Memory:
        """The same for `locate` and `places`; no number need divide the values' sides."""
        memory = self.encode_reference(key_NCHW, [])
        return replace(memory, pictures=[self.embedding.values(values)])

    def locate(self, query_NCHW: Tensor, memory: Memory) -> Transfer:
        """Where the textures are, for transfers that fetch them themselves.

        Of a rule that chooses one place of one reference: the reference's textures and the flow to
        it. Of any other, which takes means or chooses among several: textures that are in place.

        Args:
            query_NCHW: as for a call.
            memory: from `remember`.
        """
        heads = self.embedding.heads
        if self.matching.chooses_one and heads == 1 and len(memory.keys) == 1:
            matched = self(query_NCHW, Memory(memory.keys, []))
            assert matched.index is not None
            grid = memory.keys[0].shape[-2], memory.keys[0].shape[-1]
            return replace(matched, textures=memory.pictures[0], flow=steps(matched.index, grid))
        parts = [
            [pack(_split(value, heads), (key.shape[-2], key.shape[-1])) for value in values]
            for key, values in zip(memory.keys, memory.pictures)
        ]
        packed = [reduce(add, several) for several in zip(*parts)]
        matched = self(query_NCHW, Memory(memory.keys, packed))
        return replace(matched, textures=[*matched.textures])  # they are looked at as a whole

    def places(self, query_NCHW: Tensor, memory: Memory) -> list[Transfer]:
        """Where in each reference by itself what fits lies.

        The one texture of each transfer is N2HW: column and row in the key's grid, the mean where
        several textures would be laid over each other.

        Args:
            query_NCHW: as for a call.
            memory: from `remember`.
        """
        transfers = []
        for key in memory.keys:
            packed = pack(_columns_and_rows(key), (key.shape[-2], key.shape[-1]))
            transfers.append(_normalised(self(query_NCHW, Memory([key], [packed]))))
        return transfers

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
        if heads > 1:  # the heads' scores are averaged, and no one index tells their choices
            textures = [_merge(texture, heads) for texture in textures]
            score, index = score.view(N, heads, H, W).mean(1, keepdim=True), None
        return Transfer(score, textures, index)


class AllPairsAttention(nn.Module):
    """What a `TextureAttention` computes in evaluation, with one reference, for a file.

    All pairs are compared at once, see `restore.models.attention.all_pairs`.

    Args:
        attention: whose embedding and matching rule it takes over.
        scales: of the textures, coarse to fine, relative to the coarsest features.

    Raises:
        UserError: the rule has no such form.
    """

    def __init__(self, attention: TextureAttention, scales: Sequence[int]):
        super().__init__()
        rule = type(attention.matching)
        if rule.all_pairs is MatchingRule.all_pairs:
            raise UserError(f"attention with the rule {rule.__name__} cannot be exported")
        self.embedding, self.matching = attention.embedding, attention.matching
        self.scales = scales

    def encode_reference(self, key_NCHW: Tensor, values: list[Tensor]) -> Memory:
        """See `TextureAttention.encode_reference`; values stay pictures."""
        embedding, heads = self.embedding, self.embedding.heads
        pictures = [_as_pictures(value, heads) for value in embedding.values(values)]
        return Memory([_as_pictures(embedding.key(key_NCHW), heads)], pictures)  # type: ignore[arg-type]

    def remember(self, key_NCHW: Tensor, values: list[Tensor]) -> Memory:
        """See `TextureAttention.remember`."""
        values = self.embedding.values(values)
        return replace(self.encode_reference(key_NCHW, []), pictures=[values])

    def locate(self, query_NCHW: Tensor, memory: Memory) -> Transfer:
        """See `TextureAttention.locate`."""
        (key,), (pictures,) = memory.keys, memory.pictures
        if not (self.matching.chooses_one and self.embedding.heads == 1):
            values: Any = [_as_pictures(value, self.embedding.heads) for value in pictures]
            return self(query_NCHW, replace(memory, values=values))
        query = self.embedding.query(query_NCHW)
        score, index = self.matching.choose_of_all_pairs(query, key, self.embedding.patch)
        flow = steps(index, (key.shape[-2], key.shape[-1]))
        return Transfer(score[:, None], pictures, None, flow)

    def places(self, query_NCHW: Tensor, memory: Memory) -> list[Transfer]:
        """See `TextureAttention.places`: there is one reference."""
        coded: Any = [_columns_and_rows(memory.keys[0])]
        return [_normalised(self._transfer(query_NCHW, replace(memory, values=coded), [1]))]

    def forward(self, query_NCHW: Tensor, memory: Memory) -> Transfer:
        """See `TextureAttention.forward`."""
        return self._transfer(query_NCHW, memory, self.scales)

    def _transfer(self, query_NCHW: Tensor, memory: Memory, scales: Sequence[int]) -> Transfer:
        heads, patch = self.embedding.heads, self.embedding.patch
        N, _, H, W = query_NCHW.shape
        query = _as_pictures(self.embedding.query(query_NCHW), heads)
        (key,) = memory.keys
        values: list[Tensor] = memory.values  # type: ignore[assignment]
        score, textures = self.matching.all_pairs(query, key, values, scales, patch)
        textures = [x.reshape(N, -1, *x.shape[-2:]) for x in textures]
        return Transfer(score.view(N, heads, H, W).mean(1, keepdim=True), textures, None)


def _columns_and_rows(key: Tensor) -> Tensor:
    """Column and row of each position of a key, and ones: N3HW."""
    one = torch.ones_like(key[:, :1])
    return torch.cat([one.cumsum(3) - 1, one.cumsum(2) - 1, one], 1)


def _normalised(transfer: Transfer) -> Transfer:
    """Columns and rows, that many times too large as their ones say."""
    (coded,) = transfer.textures
    return replace(transfer, textures=[coded[:, :2] / coded[:, 2:].clamp_min(1e-3)])


def _as_pictures(x: Tensor, heads: int) -> Tensor:
    """`_split` by operations that a file can hold."""
    N, C, H, W = x.shape
    return x.reshape(N * heads, C // heads, H, W)


def _split(x_NCHW: Tensor, heads: int) -> Tensor:
    """Heads, which are equal parts of the channels, as images of their own."""
    return x_NCHW.unflatten(1, (heads, -1)).flatten(0, 1) if heads > 1 else x_NCHW


def _merge(x_NCHW: Tensor, heads: int) -> Tensor:
    return x_NCHW.unflatten(0, (-1, heads)).flatten(1, 2) if heads > 1 else x_NCHW


def _exact(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()
