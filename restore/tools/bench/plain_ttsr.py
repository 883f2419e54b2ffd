"""The published TTSR and the main networks of its published ablations, written out plainly.

It reads a state dict under its published names and says, operation by operation, what the
implementations that such files come from do: the measure for correctness and for speed. Values
lie in [-1, 1].
"""

from collections.abc import Iterator

import torch
import torch.nn.functional as F

from restore.models.backbones import ttsr_layouts
from restore.tools.bench.plain import attend

State = dict[str, torch.Tensor]
Textures = dict[int, torch.Tensor]


def _conv(state: State, name: str, x: torch.Tensor, stride: int = 1) -> torch.Tensor:
    weight = state[f"MainNet.{name}.weight"]
    bias = state.get(f"MainNet.{name}.bias")
    return F.conv2d(x, weight, bias, stride, padding=weight.shape[-1] // 2)


def _up(x: torch.Tensor, ratio: int) -> torch.Tensor:
    return F.interpolate(x, scale_factor=ratio, mode="bicubic") if ratio > 1 else x


def _residuals(state: State, name: str, x: torch.Tensor) -> torch.Tensor:
    i = 0
    while f"MainNet.{name}.{i}.conv1.weight" in state:
        y = _conv(state, f"{name}.{i}.conv2", F.relu(_conv(state, f"{name}.{i}.conv1", x)))
        unit = f"{name}.{i}.masker.maskconv"
        if f"MainNet.{unit}.conv.weight" in state:
            fc = state[f"MainNet.{unit}.fc.weight"], state[f"MainNet.{unit}.fc.bias"]
            asked = (
                _conv(state, f"{unit}.conv", x) + F.linear(x.mean((2, 3)), *fc)[:, :, None, None]
            )
            y = y * (asked >= 0)
        x = x + y
        i += 1
    return x


def _fuse(
    state: State, level: int, x: torch.Tensor, texture: torch.Tensor, score: torch.Tensor
) -> torch.Tensor:
    both = torch.cat([x, texture], 1)
    gate = f"cca{level}{level}_head.conv_du"
    if f"MainNet.{gate}.0.weight" in state:
        centred = both - both.mean((2, 3), keepdim=True)
        contrast = centred.square().mean((2, 3), keepdim=True).sqrt()
        y = F.relu(_conv(state, f"{gate}.0", contrast + both.mean((2, 3), keepdim=True)))
        both = both * torch.sigmoid(_conv(state, f"{gate}.2", y))
        return x + _conv(state, f"conv{level}{level}_head", both)
    weight = _up(score, 2 ** (level - 1))
    return x + _conv(state, f"conv{level}{level}_head", both) * weight


def _shallow(state: State, low: torch.Tensor) -> torch.Tensor:
    x = F.relu(_conv(state, "SFE.conv_head", low))
    return x + _conv(state, "SFE.conv_tail", _residuals(state, "SFE.RBs", x))


def _first(state: State, low: torch.Tensor, textures: dict, score: torch.Tensor) -> torch.Tensor:
    x = _fuse(state, 1, _shallow(state, low), textures[1], score)
    return x + _conv(state, "conv11_tail", _residuals(state, "RB11", x))


def _enlarged(state: State, name: str, x: torch.Tensor, ratio: int) -> torch.Tensor:
    return F.relu(F.pixel_shuffle(_conv(state, name, x), ratio))


def _tail(state: State, name: str, x: torch.Tensor) -> torch.Tensor:
    x = _conv(state, f"{name}.conv_tail2", _conv(state, f"{name}.conv_tail1", x))
    return x.clamp(-1, 1)


def three_scales(
    state: State, low: torch.Tensor, textures: Textures, score: torch.Tensor
) -> torch.Tensor:
    """The paper's network; also with dynamic convolutions or channel attention."""
    x1 = _first(state, low, textures, score)
    x2 = _fuse(state, 2, _enlarged(state, "conv12", x1, 2), textures[2], score)
    to2 = F.relu(_conv(state, "ex12.conv12", _up(x1, 2)))
    to1 = F.relu(_conv(state, "ex12.conv21", x2, 2))
    y1 = F.relu(_conv(state, "ex12.conv_merge1", torch.cat([x1, to1], 1)))
    y2 = F.relu(_conv(state, "ex12.conv_merge2", torch.cat([x2, to2], 1)))
    x1 = x1 + _conv(state, "conv21_tail", _residuals(state, "RB21", y1))
    x2 = x2 + _conv(state, "conv22_tail", _residuals(state, "RB22", y2))
    x3 = _fuse(state, 3, _enlarged(state, "conv23", x2, 2), textures[3], score)
    x12 = F.relu(_conv(state, "ex123.conv12", _up(x1, 2)))
    x13 = F.relu(_conv(state, "ex123.conv13", _up(x1, 4)))
    x21 = F.relu(_conv(state, "ex123.conv21", x2, 2))
    x23 = F.relu(_conv(state, "ex123.conv23", _up(x2, 2)))
    x31 = F.relu(_conv(state, "ex123.conv31_1", x3, 2))
    x31 = F.relu(_conv(state, "ex123.conv31_2", x31, 2))
    x32 = F.relu(_conv(state, "ex123.conv32", x3, 2))
    y1 = F.relu(_conv(state, "ex123.conv_merge1", torch.cat([x1, x21, x31], 1)))
    y2 = F.relu(_conv(state, "ex123.conv_merge2", torch.cat([x2, x12, x32], 1)))
    y3 = F.relu(_conv(state, "ex123.conv_merge3", torch.cat([x3, x13, x23], 1)))
    x1 = x1 + _conv(state, "conv31_tail", _residuals(state, "RB31", y1))
    x2 = x2 + _conv(state, "conv32_tail", _residuals(state, "RB32", y2))
    x3 = x3 + _conv(state, "conv33_tail", _residuals(state, "RB33", y3))
    x13 = F.relu(_conv(state, "merge_tail.conv13", _up(x1, 4)))
    x23 = F.relu(_conv(state, "merge_tail.conv23", _up(x2, 2)))
    x = F.relu(_conv(state, "merge_tail.conv_merge", torch.cat([x3, x13, x23], 1)))
    return _tail(state, "merge_tail", x)


def without_x2(
    state: State, low: torch.Tensor, textures: Textures, score: torch.Tensor
) -> torch.Tensor:
    """Experiment 3_1: from ×1 to ×4 at once; the way back is one convolution of stride 4."""
    x1 = _first(state, low, textures, score)
    x3 = _fuse(state, 3, _enlarged(state, "conv13", x1, 4), textures[3], score)
    x13 = F.relu(_conv(state, "ex13.conv12", _up(x1, 4)))
    x31 = F.relu(_conv(state, "ex13.conv21", x3, 4))
    y1 = F.relu(_conv(state, "ex13.conv_merge1", torch.cat([x1, x31], 1)))
    y3 = F.relu(_conv(state, "ex13.conv_merge2", torch.cat([x3, x13], 1)))
    x1 = x1 + _conv(state, "conv31_tail", _residuals(state, "RB31", y1))
    x3 = x3 + _conv(state, "conv33_tail", _residuals(state, "RB33", y3))
    x13 = F.relu(_conv(state, "merge_tail.conv13", _up(x1, 4)))
    x = F.relu(_conv(state, "merge_tail.conv_merge", torch.cat([x3, x13], 1)))
    return _tail(state, "merge_tail", x)


def without_x4_fusion(
    state: State, low: torch.Tensor, textures: Textures, score: torch.Tensor
) -> torch.Tensor:
    """Experiment 3_2: at ×4 no texture, no exchange, and nothing to merge with."""
    x = _enlarged(state, "conv13", _first(state, low, textures, score), 4)
    x = x + _conv(state, "conv33_tail", _residuals(state, "RB33", x))
    return _tail(state, "tail", x)


def extract(state: State, image: torch.Tensor) -> list[torch.Tensor]:
    """Features of a picture in [0, 1], fine to coarse."""
    x = F.conv2d(image, state["LTE.sub_mean.weight"], state["LTE.sub_mean.bias"])
    features = []
    for name in ("slice1.0", "slice2.2", "pool", "slice2.5", "slice3.7", "pool", "slice3.10"):
        if name == "pool":
            x = F.max_pool2d(x, 2)
            continue
        x = F.relu(F.conv2d(x, state[f"LTE.{name}.weight"], state[f"LTE.{name}.bias"], padding=1))
        if name in ("slice1.0", "slice2.5", "slice3.10"):
            features.append(x)
    return features


def whole(
    state: State,
    low: torch.Tensor,
    low_up: torch.Tensor,
    reference: torch.Tensor,
    reference_low_up: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor, list[torch.Tensor]]:
    """The paper's network from pictures in [0, 1] to a picture in [0, 1], score and textures."""
    query, key = extract(state, low_up)[-1], extract(state, reference_low_up)[-1]
    values = extract(state, reference)[::-1]
    score, textures, _ = attend(query, key, values)
    image = three_scales(state, low * 2 - 1, dict(zip((1, 2, 3), textures)), score)
    return (image + 1) / 2, score, textures


def published(model: torch.nn.Module, blocks: list[int]) -> State:
    """The tensors themselves of a `TTSR` with three scales, under their published names."""
    own = dict(model.named_parameters()) | dict(model.named_buffers())
    state: State = {}
    names = [f"{name}.{kind}" for name in _layers(blocks) for kind in ("weight", "bias")]
    layout = ttsr_layouts.PublishedLevels(dict.fromkeys(names, torch.empty(0)))
    for name in names:
        ours = ttsr_layouts.own_name(name, layout)
        assert ours is not None
        state[name] = own[ours]
    state["LTE.sub_mean.weight"] = torch.diag(own["extractor.factor"]).view(3, 3, 1, 1)
    state["LTE.sub_mean.bias"] = own["extractor.shift"]
    return state


def _layers(blocks: list[int]) -> Iterator[str]:
    for i in range(blocks[0]):
        yield from (f"MainNet.SFE.RBs.{i}.conv{j}" for j in (1, 2))
    for stage in (1, 2, 3):
        for level in range(1, stage + 1):
            yield f"MainNet.conv{stage}{level}_tail"
            for i in range(blocks[stage]):
                yield from (f"MainNet.RB{stage}{level}.{i}.conv{j}" for j in (1, 2))
    single = (
        "SFE.conv_head SFE.conv_tail conv11_head conv22_head conv33_head conv12 conv23 "
        "ex12.conv12 ex12.conv21 ex12.conv_merge1 ex12.conv_merge2 ex123.conv12 ex123.conv13 "
        "ex123.conv21 ex123.conv23 ex123.conv31_1 ex123.conv31_2 ex123.conv32 ex123.conv_merge1 "
        "ex123.conv_merge2 ex123.conv_merge3 merge_tail.conv13 merge_tail.conv23 "
        "merge_tail.conv_merge merge_tail.conv_tail1 merge_tail.conv_tail2"
    )
    yield from (f"MainNet.{name}" for name in single.split())
    yield from (f"LTE.slice{name}" for name in ("1.0", "2.2", "2.5", "3.7", "3.10"))
