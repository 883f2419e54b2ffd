"""The number formats that a network runs in."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch

_HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}


@contextmanager
def autocast(precision: str, device: str) -> Iterator[None]:
    """Context in which networks and losses run, forward.

    Args:
        precision: `fp32`; `tf32`: convolutions on CUDA with 10 bits of mantissa, as is PyTorch's
            default; `bf16` and `fp16`: what torch.autocast does in them.
        device: `cpu` or `cuda`.
    """
    half = _HALF.get(precision)
    with convolutions(precision), torch.autocast(device, half, enabled=half is not None):
        yield


@contextmanager
def convolutions(precision: str) -> Iterator[None]:
    """The part of `autocast` that holds for the way backward, too.

    Products of matrices, and with them what is compared, are exact in either, as is PyTorch's
    default.
    """
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = precision != "fp32"
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before


def layout(
    precision: str, device: str, channels_last: bool | Literal["auto"] = "auto"
) -> torch.memory_format:
    """The memory layout that networks and their inputs have.

    Args:
        precision, device: see `autocast`.
        channels_last: `auto`: yes, but for `fp32` on CUDA, where cuDNN turns every map round first.
    """
    if channels_last == "auto":
        channels_last = device == "cpu" or precision != "fp32"
    return torch.channels_last if channels_last else torch.contiguous_format
