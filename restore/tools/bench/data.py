"""Training items a second from decoded pictures on the disk, beside decoding files each time."""

import json
import time
from pathlib import Path
from typing import Annotated

import cv2
import numpy as np
import skimage.data
import torch
from PIL import Image
from pydantic import Field

from restore.config import registry
from restore.errors import UserError
from restore.images import memory_mapped
from restore.tools.bench.measure import Row, log, write_table
from restore.types import Sample, Source

Size = Annotated[list[Annotated[int, Field(ge=64)]], Field(min_length=2, max_length=2)]

# What is measured of which data set: cutting crops alone, or what a task makes of a sample.
_PARTS = {
    ("sr_raw", "crop"): None,
    ("sr_raw", "item"): ("partial_sr", "task.holes=0"),
    ("sr_raw", "item with holes"): ("partial_sr", "task.holes=1"),
    ("div2k", "crop"): None,
    ("div2k", "item"): ("single_sr", "degradation=pil_bicubic"),
}


class DataBenchmark:
    """One process reading crops of made-up photos as large as real ones, which lie in memory.

    `crop`: the parts that an item is made of, cut and copied; `item`: what the task makes of a
    sample, with its low pictures; `item with holes`: also with its mask, filled.

    Args:
        jpeg: height and width of SR-RAW's pictures; a sample has two.
        png: those of DIV2K's; a sample has one.
        crop: side of the crops.
        pictures: of each data set.
        seconds: timed of each kind. The mean counts.
    """

    def __init__(
        self,
        jpeg: Size,
        png: Size,
        crop: Annotated[int, Field(ge=8)] = 256,
        pictures: Annotated[int, Field(ge=1)] = 3,
        seconds: Annotated[float, Field(gt=0)] = 3,
    ):
        if crop > min(*jpeg, *png):
            raise UserError(
                f"benchmark.crop={crop}: a picture has {min(*jpeg, *png)} pixels a side"
            )
        self.jpeg, self.png, self.crop = jpeg, png, crop
        self.pictures, self.seconds = pictures, seconds

    def run(self, folder: Path, device: torch.device) -> None:
        """Measures, prints a table, and writes `data.csv`; the photos stay in `photos`."""
        photos = folder / "photos"
        _write_pairs(photos, self.jpeg, self.pictures)
        _write_div2k(photos, self.png, self.pictures)
        rows: list[Row] = []
        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # as in a loader's process
        try:
            for name, part in _PARTS:
                height, width = self.png if name == "div2k" else self.jpeg
                row: Row = {"data": name, "of": part, "pictures": f"{width}×{height}"}
                for how in ("decode", "mapped"):
                    speed = _speed(_split(how, name, photos), name, part, self.crop, self.seconds)
                    row[f"{how} items/s"] = round(speed, 2)
                row["speed-up"] = round(row["mapped items/s"] / row["decode items/s"], 1)
                rows.append(row)
                log.info("%s", row)
        finally:
            torch.set_num_threads(threads)
        write_table(rows, [*rows[0]], folder, "data")


def _photo(size: Size, number: int) -> np.ndarray:
    """A picture with a photo's content and a camera's noise, HW3 uint8."""
    whole = cv2.resize(skimage.data.astronaut(), size[::-1], interpolation=cv2.INTER_CUBIC)
    noise = np.random.default_rng(number).normal(0, 3, whole.shape)
    return np.rint(np.roll(whole, 97 * number, 1) + noise).clip(0, 255).astype(np.uint8)


def _write_pairs(photos: Path, size: Size, count: int) -> None:
    """The same pairs as JPEG files, and as `restore prepare` keeps them."""
    prepared = photos / "sr_raw"
    for number in range(count):
        for name in ("target", "low_up"):
            picture = _photo(size, number)
            path = photos / name / f"{number}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture).save(path, quality=95)
            kept = prepared / "pairs" / "scene" / str(number) / f"{name}.npy"
            kept.parent.mkdir(parents=True, exist_ok=True)
            memory_mapped.write(kept, torch.from_numpy(picture).permute(2, 0, 1))
    records = [{"key": f"scene/{number}", "kept": True} for number in range(count)]
    (prepared / "pairs.json").write_text(json.dumps(records), encoding="utf-8")


def _write_div2k(photos: Path, size: Size, count: int) -> None:
    for number in range(count):
        path = photos / "DIV2K_train_HR" / f"{number:04d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(_photo(size, number)).save(path)


class _Decoded:
    """Samples whose files are decoded each time, by PIL and nothing more."""

    def __init__(self, folders: dict[str, Path]):
        self.files = {name: sorted(folder.iterdir()) for name, folder in folders.items()}

    def __len__(self) -> int:
        return len(self.files["target"])

    def __getitem__(self, index: int) -> Sample:
        sample = Sample(key=str(index))
        for name, files in self.files.items():
            with Image.open(files[index], formats=["PNG", "JPEG"]) as image:
                picture = torch.from_numpy(np.array(image)).permute(2, 0, 1)
            sample[name] = picture  # type: ignore[literal-required]
        return sample


def _split(how: str, name: str, photos: Path) -> Source:
    if how == "decode" and name == "div2k":
        return _Decoded({"target": photos / "DIV2K_train_HR"})
    if how == "decode":
        return _Decoded({part: photos / part for part in ("target", "low_up")})
    choice = {
        "div2k": [f"data.root={photos}", "data.lows=null", f"data.cache={photos / 'decoded'}"],
        "sr_raw": [f"data.root={photos / 'sr_raw'}", "data.valid=0"],
    }[name]
    split: Source = registry.build("data", name, *choice).split("train")
    return split


def _speed(split: Source, name: str, part: str, crop: int, seconds: float) -> float:
    """Items a second, at random places of random pictures."""
    choice = _PARTS[name, part]
    task = choice and registry.build("task", *choice, f"task.crop={crop}")
    rng = np.random.default_rng(0)

    def read() -> None:
        sample = split[int(rng.integers(len(split)))]
        if task:
            task.train_item(sample, rng)
            return
        height, width = sample["target"].shape[-2:]
        for picture in (value for value in sample.values() if isinstance(value, torch.Tensor)):
            # The input's crop and, of pairs, the reference's.
            for _ in range(2 if len(sample) > 2 else 1):
                top, left = rng.integers(height - crop + 1), rng.integers(width - crop + 1)
                picture[:, top : top + crop, left : left + crop].contiguous()

    for place in range(len(split)):
        split[place]  # fills the cache
    read()
    start, count = time.perf_counter(), 0
    while count < 3 or time.perf_counter() - start < seconds:
        read()
        count += 1
    return count / (time.perf_counter() - start)
