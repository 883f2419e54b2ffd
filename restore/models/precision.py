"""The number formats that a network runs in."""

from collections.abc import Iterator
from contextlib import contextmanager

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
