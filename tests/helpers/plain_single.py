"""Single-image networks written down plainly from the state dicts that were published."""

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.helpers import published

State = dict[str, Tensor]
MEAN = torch.tensor([0.4488, 0.4371, 0.4040]).view(1, 3, 1, 1)


def conv(state: State, name: str, x: Tensor, groups: int = 1) -> Tensor:
    """A convolution that keeps the size, its weight as it is or as norm and direction."""
    if f"{name}.weight_v" in state:
        direction = state[f"{name}.weight_v"]
        norm = direction.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
        weight = state[f"{name}.weight_g"] * direction / norm
    else:
        weight = state[f"{name}.weight"]
    return F.conv2d(x, weight, state[f"{name}.bias"], padding=weight.shape[-1] // 2, groups=groups)


def norm(state: State, name: str, x: Tensor) -> Tensor:
    """Batch normalisation by the stored statistics."""
    mean, var, gain, shift = (
        state[f"{name}.{part}"].view(1, -1, 1, 1)
        for part in ("running_mean", "running_var", "weight", "bias")
    )
    return (x - mean) / (var + 1e-5).sqrt() * gain + shift


def srresnet(state: State, low: Tensor, ratios: list[int]) -> Tensor:
    """The public SRResNet's forward pass, pictures in [-1, 1] inside."""
    x = first = F.prelu(conv(state, "conv01.body.0", low * 2 - 1), state["conv01.body.1.weight"])
    blocks = sum(name.endswith(".body.0.body.2.weight") for name in state)
    for block in range(blocks):
        name = f"body.{block}.body"
        y = norm(state, f"{name}.0.body.1", conv(state, f"{name}.0.body.0", x))
        y = F.prelu(y, state[f"{name}.0.body.2.weight"])
        x = x + norm(state, f"{name}.1.body.1", conv(state, f"{name}.1.body.0", y))
    x = norm(state, "conv02.body.1", conv(state, "conv02.body.0", x)) + first
    for place, ratio in enumerate(ratios):
        x = F.pixel_shuffle(conv(state, f"tail.{place}.body.0.body.0", x), ratio)
        x = F.prelu(x, state[f"tail.{place}.body.2.weight"])
    return (torch.tanh(conv(state, "last_conv.body.0", x)) + 1) / 2


def layers(shapes: dict[str, tuple[int, int, int]], weight_norm: bool = False) -> State:
    """A state dict of convolutions, by name: inputs, outputs, kernel."""
    keys: dict[str, list[int]] = {}
    for name, (inputs, outputs, kernel) in shapes.items():
        keys[f"{name}.bias"] = [outputs]
        stored = f"{name}.weight_v" if weight_norm else f"{name}.weight"
        keys[stored] = [outputs, inputs, kernel, kernel]
        if weight_norm:
            keys[f"{name}.weight_g"] = [outputs, 1, 1, 1]
    return published.weights(keys, gain=1.0)


def far(model: torch.nn.Module, size: int = 48) -> int:
    """How many low pixels away a change of one pixel is felt at most."""
    generator = torch.Generator().manual_seed(5)
    low = torch.rand(1, 3, size, size, generator=generator)
    changed = low.clone()
    changed[..., size // 2, size // 2] = 1 - changed[..., size // 2, size // 2]
    enlarged: Callable[[Tensor], Tensor] = model.double().eval().enlarged  # type: ignore[assignment]
    with torch.no_grad():
        felt = (enlarged(low.double()) - enlarged(changed.double())).abs().amax((0, 1)).nonzero()
    assert len(felt)
    return int((felt // model.scale - size // 2).abs().max())


def drawn(height: int, width: int, seed: int = 0) -> Tensor:
    """A batch of two pictures in [0, 1]."""
    values = np.random.default_rng(seed).random((2, 3, height, width), np.float32)
    return torch.from_numpy(values)
