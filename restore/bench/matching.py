"""Time and memory of hard texture attention, beside the plain published formulation."""

import csv
import json
import logging
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import matplotlib
import torch
from pydantic import Field
from torch import Tensor

from restore.attention import TextureAttention
from restore.attention.embedding import Pixels
from restore.attention.matching import Hard
from restore.bench.plain import attend

log = logging.getLogger("restore")

# The three feature pictures of TTSR: channels, and size relative to the coarsest.
_VALUES = ((256, 1), (128, 2), (64, 4))


class Matching:
    """Search and transfer for pictures of several sizes, each method in a process of its own.

    Args:
        sizes: sides of input and reference in pixels; features have a quarter of that.
        repeats: timed runs of each, after one that is not; the median is reported.
        large: also our own method alone at 2040×1356 pixels, which takes minutes.
    """

    def __init__(
        self,
        sizes: list[Annotated[int, Field(ge=8)]],
        repeats: Annotated[int, Field(ge=1)] = 5,
        large: bool = False,
    ):
        self.sizes, self.repeats, self.large = sizes, repeats, large

    def run(self, folder: Path, device: torch.device) -> None:
        """Measures, prints a table, and writes `matching.csv` and `matching.png`."""
        rows = []
        for size in self.sizes:
            row: dict[str, Any] = {"size": f"{size}×{size}"}
            for method in ("plain", "ours"):
                row |= self._measure(method, size, size, self.repeats, device)
            row["speed-up"] = round(row["plain ms"] / row["ours ms"], 1)
            row["memory ratio"] = round(row["plain MB"] / max(1, row["ours MB"]), 1)
            rows.append(row)
            log.info("%s", row)
        if self.large:
            row = {"size": "2040×1356", **self._measure("ours", 1356, 2040, 1, device)}
            rows.append(row)
        columns = ["size", "plain ms", "ours ms", "speed-up", "plain MB", "ours MB", "memory ratio"]
        lines = ["| " + " | ".join(columns) + " |", "|---" * len(columns) + "|"]
        for row in rows:
            lines.append("| " + " | ".join(str(row.get(name, "–")) for name in columns) + " |")
        log.info("\n%s", "\n".join(lines))
        with open(folder / "matching.csv", "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, columns)
            writer.writeheader()
            writer.writerows(rows)
        _plot(rows, folder / "matching.png")
        log.info("matching.csv and matching.png in %s", folder)

    def _measure(
        self, method: str, height: int, width: int, repeats: int, device: torch.device
    ) -> dict[str, float]:
        case = [method, str(height), str(width), str(repeats), device.type]
        command = [sys.executable, "-m", "restore.bench.matching", *case]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        measured = json.loads(done.stdout)
        return {
            f"{method} ms": round(measured["seconds"] * 1000, 1),
            f"{method} MB": round(measured["bytes"] / 2**20),
        }


def _plot(rows: list[dict[str, Any]], path: Path) -> None:
    matplotlib.use("Agg")
    from matplotlib import pyplot

    rows = [row for row in rows if "plain ms" in row]
    figure, axes = pyplot.subplots(1, 2, figsize=(9, 3.5))
    for axis, unit in zip(axes, ("ms", "MB")):
        for method in ("plain", "ours"):
            axis.plot(
                [row["size"] for row in rows],
                [row[f"{method} {unit}"] for row in rows],
                marker="o",
                label=method,
            )
        axis.set_yscale("log")
        axis.set_ylabel(unit)
        axis.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def _case(method: str, height: int, width: int, repeats: int, device: str) -> dict[str, float]:
    """Seconds of a call (median) and bytes that it takes beyond its inputs."""
    torch.manual_seed(0)
    H, W = height // 4, width // 4
    query, key = (torch.rand(1, 256, H, W, device=device) for _ in range(2))
    values = [torch.rand(1, C, H * s, W * s, device=device) for C, s in _VALUES]
    attention = TextureAttention(Pixels(), Hard())

    def call() -> Tensor:
        if method == "plain":
            return attend(query, key, values)[0]
        return attention(query, attention.remember(key, values)).score

    with torch.inference_mode():
        attention(query[..., :4, :4], attention.remember(key[..., :2, :2], [key[..., :2, :2]]))
        before = _memory(device)
        times = []
        for _ in range(repeats + (repeats > 1)):
            start = time.perf_counter()
            call()[0, 0, 0, 0].item()
            times.append(time.perf_counter() - start)
    warm = times[1:] if repeats > 1 else times
    return {"seconds": statistics.median(warm), "bytes": _memory(device) - before}


def _memory(device: str) -> int:
    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    name, high, wide, often, kind = sys.argv[1:]
    print(json.dumps(_case(name, int(high), int(wide), int(often), kind)))
