"""`restore compare`: right numbers, the right pictures, and every sentence that they need."""

import csv
import math
from pathlib import Path

import numpy as np
import pytest
import skimage.data
from PIL import Image

from restore.cli import main
from tests.plain_metrics import plain_psnr, plain_ssim

HERE = ["runtime.device=cpu", "runtime.threads=1", "resamples=199"]
KEYS = ["a", "b", "c", "d", "e"]
SIZE = (40, 48)


def holes(key: str) -> np.ndarray:
    """HW bool: none in `e`, else strokes and boxes of growing share, one at the picture's edge."""
    mask = np.zeros(SIZE, bool)
    place = KEYS.index(key)
    if key != "e":
        mask[8 : 14 + 4 * place, 10 : 30 + 2 * place] = True
        mask[30:, 5:9] = True
    return mask


@pytest.fixture(scope="module")
def scene(tmp_path_factory) -> Path:
    """Two truths, masks and the results of two methods."""
    root = tmp_path_factory.mktemp("scene")
    rng = np.random.default_rng(0)
    photo = skimage.data.astronaut()
    for place, key in enumerate(KEYS):
        high = photo[50 * place :, 100:][: SIZE[0], : SIZE[1]]
        small = Image.fromarray(high).resize((12, 10))
        low = np.array(small.resize(SIZE[::-1]))
        pictures = {"high": high, "low": low, "mask": np.where(holes(key), 255, 0)}
        for method, spread in (("one", 10), ("two", 20)):
            noise = rng.normal(0, spread, high.shape) * (1 + 2 * holes(key)[..., None])
            pictures[method] = np.clip(np.rint(high + noise), 0, 255)
        for name, picture in pictures.items():
            (root / name).mkdir(exist_ok=True)
            Image.fromarray(picture.astype(np.uint8)).save(root / name / f"{key}.png")
    return root


def pixels(path: Path) -> np.ndarray:
    return np.array(Image.open(path).convert("RGB")).astype(np.float64)


def plain_ring(mask: np.ndarray, width: int = 4) -> np.ndarray:
    """Pixels with both kinds within so many pixels, counted out."""
    found = np.zeros_like(mask)
    for y, x in np.ndindex(mask.shape):
        around = mask[max(0, y - width) : y + width + 1, max(0, x - width) : x + width + 1]
        found[y, x] = around.any() and not around.all()
    return found


def plain(restored: np.ndarray, target: np.ndarray, region: np.ndarray) -> dict[str, float]:
    """PSNR over the region's pixels and SSIM of the windows whose middle lies in it."""
    if not region.any():
        return {"psnr": math.nan, "ssim": math.nan}
    maps = [plain_ssim(restored[..., c], target[..., c]) for c in range(3)]
    inside = region[5:-5, 5:-5]
    return {
        "psnr": plain_psnr(restored[region], target[region]),
        "ssim": float(np.mean([m[inside].mean() for m in maps])),
    }


def options(scene: Path) -> list[str]:
    return [
        f"methods.one={scene / 'one'}",
        f"methods.two={scene / 'two'}",
        f"truths.high={scene / 'high'}",
        f"truths.low={scene / 'low'}",
        f"holes={scene / 'mask'}",
        *HERE,
    ]


def rows(path: Path) -> list[dict[str, str]]:
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def compared(scene: Path, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "compared"
    assert main(["compare", f"folder={folder}", *options(scene)]) == 0
    return folder


def test_every_number_is_the_plain_ones(scene: Path, compared: Path):
    found = {(r["key"], r["truth"], r["method"]): r for r in rows(compared / "images.csv")}
    assert len(found) == len(KEYS) * 2 * 2
    for (key, truth, method), row in found.items():
        restored, target = (pixels(scene / kind / f"{key}.png") for kind in (method, truth))
        regions = {"": np.ones(SIZE, bool), "_holes": holes(key), "_ring": plain_ring(holes(key))}
        for name, region in regions.items():
            for metric, value in plain(restored, target, region).items():
                told = row[f"{metric}{name}"]
                assert float(told or "nan") == pytest.approx(value, abs=1e-9, nan_ok=True)
        assert float(row["hole_share"]) == pytest.approx(holes(key).mean())
