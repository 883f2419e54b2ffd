"""Working through the rows of large feature maps, with the result of working on them whole."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

# Numbers of a map of features that are held at once where nothing is trained.
LARGEST_MAP = 1 << 25
_CACHED = 1 << 17  # of a part of one that stays in a CPU's cache
_CONVOLVED = 1 << 20  # of one by which convolutions take no longer than by the whole
_LEAST = 32  # rows of such a one: few would mean that many beside them are made twice


def at_once() -> bool:
    """Whether all is made at once: what is trained, or written down for other programs."""
    return written() or torch.is_grad_enabled()


def written() -> bool:
    """Whether operations are written down, for other programs or to be compiled."""
    return torch.compiler.is_compiling() or torch.jit.is_tracing()


def at_a_time(numbers: Mapping[str, int], x: Tensor) -> int:
    """How many numbers are worked on at a time where x lies.

    Args:
        numbers: by type of device: of `cpu`, which holds for those that are not named, too, as many
            as stay in its cache; of `cuda` more, as a GPU has little to do with few.
    """
    return numbers.get(x.device.type, numbers["cpu"])


class Rows(NamedTuple):
    """Rows of a picture: `top` to before `bottom` are wanted, `first` to before `last` computed.

    `height` is that of the picture.
    """

    top: int
    bottom: int
    first: int
    last: int
    height: int

    @property
    def ends(self) -> tuple[bool, bool]:
        """Whether the picture's first and last rows are computed."""
        return self.first == 0, self.last == self.height

    def nearer(self, reach: int) -> "Rows":
        """The same, with fewer rows beside those that are wanted."""
        first, last = max(0, self.top - reach), min(self.height, self.bottom + reach)
        return Rows(self.top, self.bottom, first, last, self.height)

    def of(self, x: Tensor, times: int = 1) -> Tensor:
        """The rows that are computed, of a map with `times` as many rows."""
        return x[..., self.first * times : self.last * times, :]

    def wanted(self, y: Tensor, times: int = 1, lost: int = 0) -> Tensor:
        """Those that are wanted, of what was made of those that are computed.

        `lost` were not made at an end that is not the picture's.
        """
        first = self.first if self.ends[0] else self.first + lost
        return y[..., (self.top - first) * times : (self.bottom - first) * times, :]


def cut(height: int, most: int, reach: int, step: int = 1) -> list[Rows]:
    """Rows that together are all, from the top.

    Args:
        height: of the picture.
        most: rows that may be computed together. Where they are few, there are no more parts than
            if as many were wanted of each as are computed on either side.
        reach: how far rows beside those that are wanted are felt in them.
        step: rows that are computed begin at multiples of it, and end there or with the picture.
    """
    if height <= most:
        return [Rows(0, height, 0, height, height)]
    beside = -(-reach // step) * step
    high = max(step, beside, (most - 2 * beside) // step * step)
    parts = -(-height // high)
    high = -(-height // (parts * step)) * step  # no more of them, but alike
    tops = range(0, height, high)
    ends = [(min(top + high, height), min(top + high + beside, height)) for top in tops]
    return [
        Rows(top, bottom, max(0, top - beside), last, height)
        for top, (bottom, last) in zip(tops, ends)
    ]


def in_cache(x: Tensor) -> list[Rows]:
    """Rows of a map NCHW of which several parts, at a time, stay in a CPU's cache."""
    height = x.shape[-2]
    if at_once() or x.device.type != "cpu":
        return cut(height, height, 0)
    return cut(height, max(1, _CACHED // (x.numel() // height)), 0)


def to_convolve(x: Tensor, reach: int, step: int = 1) -> list[Rows]:
    """Rows of a map NCHW that go through convolutions together; see `cut`.

    Bands are worth it where rows lie one behind the other in memory, channels last.
    """
    height = x.shape[-2]
    if at_once() or x.device.type != "cpu" or x.stride(1) != 1:
        return cut(height, height, reach)
    high = max(_LEAST, _CONVOLVED // (x.numel() // height))
    return cut(height, high + 2 * reach, reach, step)


def together(
    make: Callable[[Rows], Tensor], parts: list[Rows], times: int = 1, place: Tensor | None = None
) -> Tensor:
    """What is made of rows, one below the other.

    Args:
        make: of `Rows` those that are wanted, N, C, `times` · (bottom − top), W.
        parts: from `cut`.
        times: see `make`.
        place: where the result may go if it is of the same kind: a map that `make` sees, row by row
            as it was, and that nothing else needs.
    """
    if len(parts) == 1:
        return make(parts[0])
    result: Tensor | None = None
    waiting: tuple[Tensor, Tensor] | None = None
    for part in parts:
        some = make(part)
        if result is None:
            result = (
                place if place is not None and _alike(place, some) else _high(some, times, part)
            )
        goal = result[..., part.top * times : part.bottom * times, :]
        if result is place:  # the next rows see these as they were
            if waiting is not None:
                waiting[0].copy_(waiting[1])
            waiting = goal, some
        else:
            goal.copy_(some)
        del some  # before the next are made
    if waiting is not None:
        waiting[0].copy_(waiting[1])
    assert result is not None
    return result


def _alike(x: Tensor, y: Tensor) -> bool:
    return x.dtype == y.dtype and x.shape[:2] == y.shape[:2] and x.shape[-1] == y.shape[-1]


def _high(some: Tensor, times: int, part: Rows) -> Tensor:
    """A map for all rows, which lies in memory as some of them do: channels first or last."""
    last = some.shape[1] > 1 and some.stride(1) == 1
    return torch.empty(
        (*some.shape[:2], part.height * times, some.shape[-1]),
        dtype=some.dtype,
        device=some.device,
        memory_format=torch.channels_last if last else torch.contiguous_format,
    )


def quartered(
    make: Callable[[Tensor], Tensor], image: Tensor, reach: int | None, channels: int
) -> Tensor:
    """Features at a quarter of a picture's resolution, in bands where that is large.

    Args:
        make: features N, C, h/4, w/4 of pictures N3hw.
        image: N3HW.
        reach: how far, in positions of the features, a pixel is felt; None: everywhere.
        channels: that `make` has at full resolution.
    """
    if reach is None or at_once():
        return make(image)
    most = LARGEST_MAP // (len(image) * channels * 4 * image.shape[-1])
    parts = cut(image.shape[-2] // 4, most, reach)
    return together(lambda some: some.wanted(make(some.of(image, 4))), parts)
