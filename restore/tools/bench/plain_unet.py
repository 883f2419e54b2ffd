"""Palette's U-Net written out plainly: attention by its whole table, no fused operations.

What it takes is a state dict under the published names, without `denoise_fn.`.
"""

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

State = Mapping[str, Tensor]


def _norm(state: State, name: str, x: Tensor) -> Tensor:
    y = F.group_norm(x.float(), 32, state[f"{name}.weight"], state[f"{name}.bias"])
    return y.type(x.dtype)


def _silu(x: Tensor) -> Tensor:
    return x * torch.sigmoid(x)


def _conv(state: State, name: str, x: Tensor) -> Tensor:
    weight = state[f"{name}.weight"]
    return F.conv2d(x, weight, state[f"{name}.bias"], padding=weight.shape[-1] // 2)


def _linear(state: State, name: str, x: Tensor) -> Tensor:
    return F.linear(x, state[f"{name}.weight"], state[f"{name}.bias"])


def _block(state: State, name: str, x: Tensor, level: Tensor, resample: str) -> Tensor:
    y = _silu(_norm(state, f"{name}.in_layers.0", x))
    if resample == "down":
        x, y = F.avg_pool2d(x, 2), F.avg_pool2d(y, 2)
    elif resample == "up":
        x, y = (F.interpolate(z, scale_factor=2, mode="nearest") for z in (x, y))
    y = _conv(state, f"{name}.in_layers.2", y)
    scale, shift = _linear(state, f"{name}.emb_layers.1", _silu(level))[..., None, None].chunk(2, 1)
    y = _norm(state, f"{name}.out_layers.0", y) * (1 + scale) + shift
    y = _conv(state, f"{name}.out_layers.3", _silu(y))
    if f"{name}.skip_connection.weight" in state:
        x = _conv(state, f"{name}.skip_connection", x)
    return x + y


def _attention(state: State, name: str, x: Tensor, head: int) -> Tensor:
    N, C, H, W = x.shape
    y = _norm(state, f"{name}.norm", x).reshape(N, C, H * W)
    qkv = F.conv1d(y, state[f"{name}.qkv.weight"], state[f"{name}.qkv.bias"])
    query, key, value = qkv.reshape(N * C // head, 3 * head, H * W).split(head, dim=1)
    factor = 1 / math.sqrt(math.sqrt(head))
    weights = torch.einsum("bct,bcs->bts", query * factor, key * factor)
    weights = torch.softmax(weights.float(), dim=-1).type(weights.dtype)
    attended = torch.einsum("bts,bcs->bct", weights, value).reshape(N, C, H * W)
    out = F.conv1d(attended, state[f"{name}.proj_out.weight"], state[f"{name}.proj_out.bias"])
    return x + out.reshape(N, C, H, W)


def _steps(
    state: State, place: str, x: Tensor, level: Tensor, head: int, resample: str = ""
) -> Tensor:
    number = 0
    while True:
        name = f"{place}.{number}"
        if f"{name}.in_layers.0.weight" in state:
            # Of two blocks at a place, the second one enlarges.
            x = _block(state, name, x, level, "up" if place[0] == "o" and number else resample)
        elif f"{name}.qkv.weight" in state:
            x = _attention(state, name, x, head)
        elif f"{name}.weight" in state:
            x = _conv(state, name, x)
        else:
            return x
        number += 1


def _count(state: State, part: str) -> int:
    return len({name.split(".")[1] for name in state if name.startswith(f"{part}.")})


def whole(state: State, x: Tensor, gamma_N1: Tensor, blocks: int, head: int = 32) -> Tensor:
    """The noise in `x` N6HW, of a network with so many blocks at each resolution.

    `head` is how many channels each head of its attention has.
    """
    half = state["cond_embed.0.weight"].shape[1] // 2
    places = torch.arange(half, dtype=torch.float32, device=x.device)
    angles = gamma_N1 * torch.exp(-math.log(10000) * places / half)[None]
    level = _linear(state, "cond_embed.0", torch.cat([angles.cos(), angles.sin()], 1))
    level = _linear(state, "cond_embed.2", _silu(level))
    kept = []
    for place in range(_count(state, "input_blocks")):
        down = "down" if place and place % (blocks + 1) == 0 else ""
        x = _steps(state, f"input_blocks.{place}", x, level, head, down)
        kept.append(x)
    x = _block(state, "middle_block.0", x, level, "")
    x = _attention(state, "middle_block.1", x, head)
    x = _block(state, "middle_block.2", x, level, "")
    for place in range(_count(state, "output_blocks")):
        x = _steps(state, f"output_blocks.{place}", torch.cat([x, kept.pop()], 1), level, head)
    return _conv(state, "out.2", _silu(_norm(state, "out.0", x)))
