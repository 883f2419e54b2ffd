"""Weights that anyone can rebuild, for the published layouts (tests/golden)."""

import json
import re
import zlib

import numpy as np
import torch

from tests import GOLDEN

State = dict[str, torch.Tensor]


def weights(keys: dict[str, list[int]], gain: float) -> dict[str, torch.Tensor]:
    """A state dict whose every tensor is drawn from a seed that its name gives."""
    state = {}
    for key, shape in keys.items():
        rng = np.random.default_rng(zlib.crc32(key.encode()))
        drawn = rng.standard_normal(shape)
        drawn *= gain / np.sqrt(np.prod(shape[1:])) if len(shape) > 1 else 0.01
        state[key] = torch.from_numpy(np.asarray(drawn, dtype=np.float32))
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    if "LTE.sub_mean.weight" in keys:
        matrix = torch.diag(torch.tensor(1 / std, dtype=torch.float32))
        state["LTE.sub_mean.weight"] = matrix.view(3, 3, 1, 1)
        state["LTE.sub_mean.bias"] = torch.tensor(-mean / std, dtype=torch.float32)
    return state


def drawn(
    keys: dict[str, list[int]],
    gains: list[tuple[str, float]],
    tie: tuple[str, str, float] | None = None,
) -> State:
    """The same with a gain by parts of names, with norm layers, and with branches that are alike.

    Args:
        keys: names and shapes.
        gains: parts of names and their gains; the first that is in a name counts.
        tie: names that hold the first are a mixture of their own values and of those with the
            second in its place.
    """
    return {key: torch.from_numpy(_drawn(key, shape, gains, tie)) for key, shape in keys.items()}


def _drawn(
    key: str,
    shape: list[int],
    gains: list[tuple[str, float]],
    tie: tuple[str, str, float] | None = None,
) -> np.ndarray:
    if tie is not None and tie[0] in key:
        own, other = (_drawn(name, shape, gains) for name in (key, key.replace(*tie[:2])))
        return np.float32(tie[2]) * other + np.float32(np.sqrt(1 - tie[2] ** 2)) * own
    rng = np.random.default_rng(zlib.crc32(key.encode()))
    if key.endswith("num_batches_tracked"):
        return np.zeros(shape, np.int64)
    if key.endswith("running_var"):
        return np.asarray(0.5 + rng.random(shape), np.float32)
    if key.endswith((".mean", ".std")) and shape == [1, 3, 1, 1]:
        of = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
        return np.float32(of[key.rpartition(".")[2]]).reshape(shape)
    values = rng.standard_normal(shape)
    if len(shape) > 1:
        gain = next(g for part, g in gains if part in key)
        values = values * gain / np.sqrt(np.prod(shape[1:]))
    elif key.endswith("running_mean"):
        values = 0.05 * values
    elif key.endswith("weight"):
        values = 1 + 0.1 * values
    else:
        values = 0.01 * values
    return np.float32(values)


def layout(name: str) -> dict[str, list[int]]:
    """The names and shapes of a golden file."""
    return json.loads((GOLDEN / name).read_text())["keys"]


def small_ttsr() -> dict[str, list[int]]:
    """The layout of the published TTSR with few features."""
    return layout("official_small/case.json")


def case(name: str) -> dict[str, torch.Tensor]:
    """The state dict of a golden case."""
    held = json.loads((GOLDEN / name / "case.json").read_text())
    return weights(held["keys"], held["gain"])


def keys_with_blocks(keys: dict[str, list[int]], blocks: list[int]) -> dict[str, list[int]]:
    """The keys of a published TTSR cut down to fewer residual blocks."""
    kept = {}
    for key, shape in keys.items():
        found = re.match(r"MainNet\.(?:SFE\.RBs|RB(\d)\d)\.(\d+)\.", key)
        if found is None or int(found[2]) < blocks[int(found[1] or 0)]:
            kept[key] = shape
    return kept


def keys_of(layout: str) -> dict[str, list[int]]:
    name = "thesis_soft" if layout == "thesis_reduced" else layout
    file = GOLDEN / f"{name}.json"
    file = file if file.exists() else GOLDEN / name / "case.json"
    return json.loads(file.read_text())["keys"]


def fresh(layout: str, seed: int) -> State:
    """Weights that nobody has seen, of sizes that keep the variance of what passes through."""
    generator = torch.Generator().manual_seed(seed)
    state: State = {}
    for key, shape in keys_of(layout).items():
        if key.endswith("num_batches_tracked"):
            state[key] = torch.tensor(5)
        elif key.endswith("running_var"):
            state[key] = torch.rand(shape, generator=generator) + 0.5
        elif shape == [1] or (len(shape) == 1 and key.endswith("weight")):
            state[key] = torch.rand(shape, generator=generator)  # of normalisation and PReLU
        else:
            drawn = torch.randn(shape, generator=generator)
            fan = int(np.prod(shape[1:]))
            state[key] = drawn * (fan**-0.5 if len(shape) > 1 else 0.02)
    fixed = weights({"LTE.sub_mean.weight": [3, 3, 1, 1]}, gain=1.0)
    return state | ({} if layout == "srgan_generator" else fixed)
