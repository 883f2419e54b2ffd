"""Working through the rows of large feature maps, with the result of working on them whole."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

# Numbers of a map of features that are held at once where nothing is trained.
LARGEST_MAP = 1 << 25
_CACHED = 1 << 17  # of a part of one that stays in a CPU's cache


def at_once() -> bool:
    """Whether all is made at once: what is trained, or written down for other programs."""
    return written() or torch.is_grad_enabled()


def written() -> bool:
    """Whether operations are written down, for other programs or to be compiled."""
    return torch.compiler.is_compiling() or torch.jit.is_tracing()


def at_a_time(numbers: int, x: Tensor) -> int:
    """Numbers that are worked on at a time where x lies.

    On a CPU as many as stay in its cache; a GPU is busy with many times as many only.
    """
    return numbers if x.device.type == "cpu" else numbers << 4


class Rows(NamedTuple):
    """Rows of a picture: `top` to before `bottom` are wanted, `first` to before `last` computed."""

    top: int
    bottom: int
    first: int
    last: int

    def of(self, x: Tensor, times: int = 1) -> Tensor:
        """The rows that are computed, of a map with `times` as many rows."""
        return x[..., self.first * times : self.last * times, :]

    def wanted(self, y: Tensor, times: int = 1) -> Tensor:
        """Those that are wanted, of what was made of those that are computed."""
        return y[..., (self.top - self.first) * times : (self.bottom - self.first) * times, :]


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
        return [Rows(0, height, 0, height)]
    beside = -(-reach // step) * step
    high = max(step, beside, (most - 2 * beside) // step * step)
    parts = -(-height // high)
    high = -(-height // (parts * step)) * step  # no more of them, but alike
    return [
        Rows(top, min(top + high, height), max(0, top - beside), min(top + high + beside, height))
        for top in range(0, height, high)
    ]


def in_cache(x: Tensor) -> list[Rows]:
    """Rows of a map NCHW of which several parts, at a time, stay in a CPU's cache."""
    height = x.shape[-2]
    if at_once() or x.device.type != "cpu":
        return cut(height, height, 0)
    return cut(height, max(1, _CACHED // (x.numel() // height)), 0)


def together(make: Callable[[Rows], Tensor], parts: list[Rows], times: int = 1) -> Tensor:
    """What is made of rows, one below the other.

    Args:
        make: of `Rows` those that are wanted, N, C, `times` · (bottom − top), W.
        parts: from `cut`.
        times: see `make`.
    """
    if len(parts) == 1:
        return make(parts[0])
    result: Tensor | None = None
    for part in parts:
        some = make(part)
        if result is None:  # lies in memory as the parts do: channels first or last
            last = some.shape[1] > 1 and some.stride(1) == 1
            result = torch.empty(
                (*some.shape[:2], parts[-1].bottom * times, some.shape[-1]),
                dtype=some.dtype,
                device=some.device,
                memory_format=torch.channels_last if last else torch.contiguous_format,
            )
        result[..., part.top * times : part.bottom * times, :] = some
        del some  # before the next are made
    assert result is not None
    return result


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
