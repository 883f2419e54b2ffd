"""The main network of the published TTSR and of its published ablations, written out plainly.

It reads a state dict under its published names and says, operation by operation, what the
implementations that such files come from do. Values lie in [-1, 1].
"""

import torch
import torch.nn.functional as F

State = dict[str, torch.Tensor]


def conv(state: State, name: str, x: torch.Tensor, stride: int = 1) -> torch.Tensor:
    weight = state[f"MainNet.{name}.weight"]
    bias = state.get(f"MainNet.{name}.bias")
    return F.conv2d(x, weight, bias, stride, padding=weight.shape[-1] // 2)


def up(x: torch.Tensor, ratio: int) -> torch.Tensor:
    return F.interpolate(x, scale_factor=ratio, mode="bicubic") if ratio > 1 else x


def residuals(state: State, name: str, x: torch.Tensor) -> torch.Tensor:
    i = 0
    while f"MainNet.{name}.{i}.conv1.weight" in state:
        y = conv(state, f"{name}.{i}.conv2", F.relu(conv(state, f"{name}.{i}.conv1", x)))
        unit = f"{name}.{i}.masker.maskconv"
        if f"MainNet.{unit}.conv.weight" in state:
            fc = state[f"MainNet.{unit}.fc.weight"], state[f"MainNet.{unit}.fc.bias"]
            asked = conv(state, f"{unit}.conv", x) + F.linear(x.mean((2, 3)), *fc)[:, :, None, None]
            y = y * (asked >= 0)
        x = x + y
        i += 1
    return x


def fuse(state: State, level: int, x: torch.Tensor, texture: torch.Tensor, score: torch.Tensor):
    both = torch.cat([x, texture], 1)
    gate = f"cca{level}{level}_head.conv_du"
    if f"MainNet.{gate}.0.weight" in state:
        centred = both - both.mean((2, 3), keepdim=True)
        contrast = centred.square().mean((2, 3), keepdim=True).sqrt()
        y = F.relu(conv(state, f"{gate}.0", contrast + both.mean((2, 3), keepdim=True)))
        both = both * torch.sigmoid(conv(state, f"{gate}.2", y))
        return x + conv(state, f"conv{level}{level}_head", both)
    weight = up(score, 2 ** (level - 1))
    return x + conv(state, f"conv{level}{level}_head", both) * weight


def shallow(state: State, low: torch.Tensor) -> torch.Tensor:
    x = F.relu(conv(state, "SFE.conv_head", low))
    return x + conv(state, "SFE.conv_tail", residuals(state, "SFE.RBs", x))


def first(state: State, low: torch.Tensor, textures: dict, score: torch.Tensor) -> torch.Tensor:
    x = fuse(state, 1, shallow(state, low), textures[1], score)
    return x + conv(state, "conv11_tail", residuals(state, "RB11", x))


def enlarged(state: State, name: str, x: torch.Tensor, ratio: int) -> torch.Tensor:
    return F.relu(F.pixel_shuffle(conv(state, name, x), ratio))


def tail(state: State, name: str, x: torch.Tensor) -> torch.Tensor:
    x = conv(state, f"{name}.conv_tail2", conv(state, f"{name}.conv_tail1", x))
    return x.clamp(-1, 1)


def three_scales(state: State, low, textures: dict, score) -> torch.Tensor:
    """The paper's network; also with dynamic convolutions or channel attention."""
    x1 = first(state, low, textures, score)
    x2 = fuse(state, 2, enlarged(state, "conv12", x1, 2), textures[2], score)
    to2 = F.relu(conv(state, "ex12.conv12", up(x1, 2)))
    to1 = F.relu(conv(state, "ex12.conv21", x2, 2))
    y1 = F.relu(conv(state, "ex12.conv_merge1", torch.cat([x1, to1], 1)))
    y2 = F.relu(conv(state, "ex12.conv_merge2", torch.cat([x2, to2], 1)))
    x1 = x1 + conv(state, "conv21_tail", residuals(state, "RB21", y1))
    x2 = x2 + conv(state, "conv22_tail", residuals(state, "RB22", y2))
    x3 = fuse(state, 3, enlarged(state, "conv23", x2, 2), textures[3], score)
    x12 = F.relu(conv(state, "ex123.conv12", up(x1, 2)))
    x13 = F.relu(conv(state, "ex123.conv13", up(x1, 4)))
    x21 = F.relu(conv(state, "ex123.conv21", x2, 2))
    x23 = F.relu(conv(state, "ex123.conv23", up(x2, 2)))
    x31 = F.relu(conv(state, "ex123.conv31_1", x3, 2))
    x31 = F.relu(conv(state, "ex123.conv31_2", x31, 2))
    x32 = F.relu(conv(state, "ex123.conv32", x3, 2))
    y1 = F.relu(conv(state, "ex123.conv_merge1", torch.cat([x1, x21, x31], 1)))
    y2 = F.relu(conv(state, "ex123.conv_merge2", torch.cat([x2, x12, x32], 1)))
    y3 = F.relu(conv(state, "ex123.conv_merge3", torch.cat([x3, x13, x23], 1)))
    x1 = x1 + conv(state, "conv31_tail", residuals(state, "RB31", y1))
    x2 = x2 + conv(state, "conv32_tail", residuals(state, "RB32", y2))
    x3 = x3 + conv(state, "conv33_tail", residuals(state, "RB33", y3))
    x13 = F.relu(conv(state, "merge_tail.conv13", up(x1, 4)))
    x23 = F.relu(conv(state, "merge_tail.conv23", up(x2, 2)))
    x = F.relu(conv(state, "merge_tail.conv_merge", torch.cat([x3, x13, x23], 1)))
    return tail(state, "merge_tail", x)


def without_x2(state: State, low, textures: dict, score) -> torch.Tensor:
    """Experiment 3_1: from ×1 to ×4 at once; the way back is one convolution of stride 4."""
    x1 = first(state, low, textures, score)
    x3 = fuse(state, 3, enlarged(state, "conv13", x1, 4), textures[3], score)
    x13 = F.relu(conv(state, "ex13.conv12", up(x1, 4)))
    x31 = F.relu(conv(state, "ex13.conv21", x3, 4))
    y1 = F.relu(conv(state, "ex13.conv_merge1", torch.cat([x1, x31], 1)))
    y3 = F.relu(conv(state, "ex13.conv_merge2", torch.cat([x3, x13], 1)))
    x1 = x1 + conv(state, "conv31_tail", residuals(state, "RB31", y1))
    x3 = x3 + conv(state, "conv33_tail", residuals(state, "RB33", y3))
    x13 = F.relu(conv(state, "merge_tail.conv13", up(x1, 4)))
    x = F.relu(conv(state, "merge_tail.conv_merge", torch.cat([x3, x13], 1)))
    return tail(state, "merge_tail", x)


def without_x4_fusion(state: State, low, textures: dict, score) -> torch.Tensor:
    """Experiment 3_2: at ×4 no texture, no exchange, and nothing to merge with."""
    x = enlarged(state, "conv13", first(state, low, textures, score), 4)
    x = x + conv(state, "conv33_tail", residuals(state, "RB33", x))
    return tail(state, "tail", x)
