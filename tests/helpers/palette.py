"""Palette's golden cases, small networks of its kind, and its sampling written out plainly."""

import json
import zlib
from typing import Any

import numpy as np
import torch

from restore.models.backbones.palette import Palette
from restore.models.diffusion.sampler import Sampler
from restore.models.diffusion.schedule import Schedule
from restore.models.diffusion.unet import UNet
from tests import GOLDEN

State = dict[str, torch.Tensor]


def weights(keys: dict[str, list[int]], gains: list[tuple[str, float]]) -> State:
    """A state dict that anyone can rebuild: each tensor of a seed that its name gives."""
    state = {}
    for key, shape in keys.items():
        drawn = np.random.default_rng(zlib.crc32(key.encode())).standard_normal(shape)
        if len(shape) > 1:
            drawn *= next(g for part, g in gains if part in key) / np.sqrt(np.prod(shape[1:]))
        else:
            drawn = 1 + 0.1 * drawn if key.endswith("weight") else 0.01 * drawn
        state[key] = torch.from_numpy(drawn.astype(np.float32))
    return state


def golden(name: str) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """The facts and the arrays of a golden file."""
    held = dict(np.load(GOLDEN / f"{name}.npz"))
    meta = json.loads(str(held.pop("meta")))
    return meta, {key: torch.from_numpy(np.asarray(value)) for key, value in held.items()}


def schedule(shape: str, n_timestep: int, linear_start: float, linear_end: float) -> Schedule:
    """One as the public configurations name it."""
    return Schedule(shape, n_timestep, linear_start, linear_end)  # type: ignore[arg-type]


def sampler(of: Schedule, steps: int | None = None, eta: float = 1.0, **more: int) -> Sampler:
    return Sampler(of, steps, eta, **{"seed": 1, "samples": 1, **more})


def of_case(meta: dict[str, Any]) -> Palette:
    """The network of a golden case with its weights; its schedule trains and samples."""
    unet, told = meta["unet"], dict(meta.get("schedule", DEFAULT))
    network = UNet(
        features=unet["inner_channel"],
        multipliers=unet["channel_mults"],
        blocks=unet["res_blocks"],
        attention=unet["attn_res"],
        head=unet["num_head_channels"],
        dropout=unet["dropout"],
    )
    noise = schedule(told.pop("schedule"), **told)
    model = Palette(network, noise, sampler(noise), size=64)
    model.load_state_dict(weights(meta["keys"], meta["gains"]))
    return model.eval()


DEFAULT = {"schedule": "linear", "n_timestep": 20, "linear_start": 1e-4, "linear_end": 0.4}


def tiny(steps: int | None = None, eta: float = 1.0, size: int = 16, **more: Any) -> Palette:
    """A network of random weights that draws in twenty steps or fewer."""
    torch.manual_seed(7)
    network = UNet(features=32, multipliers=[1, 1], blocks=1, attention=[], dropout=0.1)
    noise = schedule("linear", 20, 1e-4, 0.4)
    own = {name: more.pop(name) for name in ("known", "predicts", "residual") if name in more}
    return Palette(network, noise, sampler(noise, steps, eta, **more), size, **own).eval()


def plain_ancestral(
    gammas: np.ndarray,
    estimate: Any,
    known: np.ndarray,
    hole: np.ndarray,
    start: np.ndarray,
    noises: list[np.ndarray],
) -> np.ndarray:
    """Ho et al.'s ancestral sampling by its own formulas, in float64."""
    y, queue = start, list(noises)
    for t in reversed(range(len(gammas))):
        gamma, before = gammas[t], gammas[t - 1] if t else 1.0
        alpha = gamma / before
        clean = (y - np.sqrt(1 - gamma) * estimate(y, gamma)) / np.sqrt(gamma)
        clean = clean.clip(-1, 1)
        mean = (1 - alpha) * np.sqrt(before) / (1 - gamma) * clean
        mean = mean + (1 - before) * np.sqrt(alpha) / (1 - gamma) * y
        y = mean
        if t:
            variance = (1 - alpha) * (1 - before) / (1 - gamma)
            y = mean + np.sqrt(variance) * queue.pop(0)
        y = np.where(hole, y, known)
    return y
