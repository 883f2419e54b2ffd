"""Made-up run and evaluation folders, as `restore train` and `restore evaluate` leave them,
and what a report made of them holds.
"""

import csv
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skimage.data
import torch
import yaml
from PIL import Image

from restore.models.attention import choices
from restore.types import Restoration

SIZE = (48, 64)  # of the pictures
GRID = (12, 16)  # of the attention's places, a quarter


def run(folder: Path, attention: str, seed: int, channels: int = 256, done: bool = True) -> Path:
    """A training run with three validations."""
    rng = np.random.default_rng([seed, channels, len(attention)])
    folder.mkdir(parents=True)
    part = {"_target_": attention.title(), "embedding": {"_target_": "E", "channels": channels}}
    config = {"schedule": ["reconstruction"], "seed": seed, "attention": part}
    (folder / "config.yaml").write_text(yaml.safe_dump({**config, "folder": str(folder)}))
    command = ["restore train", f"attention={attention}", f"seed={seed}"]
    command += [f"attention.embedding.channels={channels}"]
    (folder / "environment.json").write_text(json.dumps({"command": command}))
    lines = [
        [step, name, value + rng.normal(0, 0.05)]
        for step in (50, 100, 150)
        for name, value in (("valid/psnr_y", 27 + step / 50), ("valid/bicubic/psnr_y", 27.0))
    ]
    with open(folder / "metrics.csv", "w", newline="") as file:
        csv.writer(file).writerows([["step", "name", "value"], *lines])
    if done:
        cost = {
            "parameters": {"total": 1_000_000 + 1000 * channels},
            "flops": {"forward": 4e9 + 1e7 * channels},
            "of": {"low": [16, 16], "reference": [[64, 64], [32, 32]]},
            "energy": None,
        }
        (folder / "summary.json").write_text(json.dumps({"step": 150, "cost": cost}))
    return folder


def evaluation(
    folder: Path, weights: Path, gain: float, keys: list[str], pictures: bool = True, seed: int = 0
) -> np.ndarray:
    """An evaluation of PSNR and LPIPS over images; returns the PSNRs."""
    rng = np.random.default_rng([seed, int(1000 * gain)])
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump({"weights": str(weights)}))
    base = 25 + np.arange(len(keys)) % 7
    psnr = base + gain + rng.normal(0, 0.2, len(keys))
    lpips = 0.3 - gain / 20 + rng.normal(0, 0.01, len(keys))
    with open(folder / "images.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["key", "psnr_y", "lpips", "bicubic/psnr_y", "bicubic/lpips"])
        writer.writerows(zip(keys, psnr, lpips, base, [0.4] * len(keys)))
    summary = {
        "weights": str(weights / "checkpoints" / "best.pt"),
        "data": {"_target_": "restore.datasets.sample.SamplePhotos"},
        "split": "test",
        "references": "the data's own",
        "protocol": "y",
        "restored": {"psnr_y": psnr.mean(), "lpips": lpips.mean()},
        "bicubic": {"psnr_y": base.mean(), "lpips": 0.4},
    }
    (folder / "summary.json").write_text(json.dumps(summary))
    if pictures:
        for place, key in enumerate(keys):
            _save(folder, key, place, rng)
    return psnr


def _save(folder: Path, key: str, place: int, rng: np.random.Generator) -> None:
    high = skimage.data.astronaut()[2 * place :, 3 * place :][: SIZE[0], : SIZE[1]]
    noisy = np.clip(high + rng.normal(0, 8, high.shape), 0, 255).astype(np.uint8)
    mask = np.zeros(SIZE, np.uint8)
    mask[10:20, 12:30] = 255
    small = np.array(Image.fromarray(high).resize(GRID[::-1]))
    shown = {"restored": noisy, "target": high, "reference": high[:, ::-1], "low": small}
    for kind, picture in {**shown, "mask": mask}.items():
        path = folder / kind / f"{key}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.ascontiguousarray(picture)).save(path)
    path = folder / "attention" / f"{key}.npz"
    path.parent.mkdir(exist_ok=True)
    image, score = torch.zeros(1, 3, 8, 8), torch.full((1, 1, *GRID), 0.6)
    choices.write(path, Restoration(image, score=score, index=chosen()[None], grids=[GRID]))


def chosen() -> torch.Tensor:
    """hw: each place takes what lies three rows down and, mirrored, across."""
    rows, columns = np.mgrid[: GRID[0], : GRID[1]]
    there = (rows + 3) % GRID[0] * GRID[1] + (GRID[1] - 1 - columns)
    return torch.from_numpy(there)


def block(folder: Path) -> dict[str, Any]:
    """What the script of the report's page reads."""
    text = (folder / "index.html").read_text(encoding="utf-8")
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    assert found
    return json.loads(found[1], parse_constant=pytest.fail)
