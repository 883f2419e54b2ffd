"""Time and memory of hard texture attention, beside the plain published formulation."""

import sys
from pathlib import Path
from typing import Annotated

import matplotlib
import torch
from pydantic import Field

from restore.models.attention import TextureAttention
from restore.models.attention.embedding import Pixels
from restore.models.attention.rules import Hard
from restore.tools.bench.measure import (
    COMPARED,
    Row,
    compared,
    in_process,
    log,
    neighbours,
    report,
    write_table,
)
from restore.tools.bench.plain import attend
from restore.utils import files

# What is measured again beside busy neighbours.
_BUSY = ("plain ms", "ours ms", "speed-up")

# The three feature pictures of TTSR: channels, and size relative to the coarsest.
_VALUES = ((256, 1), (128, 2), (64, 4))


class MatchingBenchmark:
    """Search and transfer for pictures of several sizes, each method in a process of its own.

    Args:
        sizes: sides of input and reference in pixels; features have a quarter of that.
        repeats: timed runs of each, whose median is reported.
        large: also our own method alone at 2040×1356 pixels, which takes minutes.
        neighbours: other processes that each keep a core busy while all is measured once more;
            0: only on the machine as it is.
    """

    def __init__(
        self,
        sizes: list[Annotated[int, Field(ge=8)]],
        repeats: Annotated[int, Field(ge=1)] = 5,
        large: bool = False,
        neighbours: Annotated[int, Field(ge=0)] = 0,
    ):
        self.sizes, self.repeats, self.large = sizes, repeats, large
        self.neighbours = neighbours

    def run(self, folder: Path, device: torch.device) -> None:
        """Measures, prints a table, and writes `matching.csv` and `matching.png`."""
        rows: list[Row] = []
        for size in self.sizes:
            case = size, size, self.repeats, device.type
            row = compared(__name__, *case)
            if self.neighbours:
                with neighbours(self.neighbours):
                    beside = compared(__name__, *case)
                row |= {f"{name}, busy": beside[name] for name in _BUSY}
            rows.append({"size": f"{size}×{size}", **row})
            log.info("%s", rows[-1])
        if self.large:
            measured = in_process(__name__, "ours", 1356, 2040, 1, device.type)
            row = {f"ours {unit}": round(value) for unit, value in measured.items()}
            rows.append({"size": "2040×1356", **row})
        busy = [f"{name}, busy" for name in _BUSY] if self.neighbours else []
        write_table(rows, ["size", *COMPARED, *busy], folder, "matching")
        _plot([row for row in rows if "plain ms" in row], folder / "matching.png")


def _plot(rows: list[Row], path: Path) -> None:
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(9, 3.5))
    for axis, unit in zip(axes, ("ms", "MB")):
        for method in ("plain", "ours"):
            axis.plot(
                [row["size"] for row in rows],
                [row[f"{method} {unit}"] for row in rows],
                marker="o",
                label=method,
            )
        axis.set_yscale("symlog" if unit == "MB" else "log")
        axis.set_ylabel(unit)
        axis.legend()
    figure.tight_layout()
    with files.whole(path) as temporary:
        figure.savefig(temporary, dpi=120)
    pyplot.close(figure)


def _case(method: str, height: int, width: int, repeats: int, device: str) -> None:
    torch.manual_seed(0)
    H, W = height // 4, width // 4
    query, key = (torch.rand(1, 256, H, W, device=device) for _ in range(2))
    values = [torch.rand(1, C, H * s, W * s, device=device) for C, s in _VALUES]
    if method == "ours":  # each in the layout that its network's convolutions work in
        query, key, *values = (
            x.contiguous(memory_format=torch.channels_last) for x in (query, key, *values)
        )
    attention = TextureAttention(Pixels(), Hard())

    def ours(side: int | None = None) -> None:
        memory = attention.encode_reference(key[..., :side, :side], values if side is None else [])
        attention(query[..., :side, :side], memory)

    def plain() -> None:
        attend(query, key, values)

    with torch.inference_mode():
        report(plain if method == "plain" else ours, lambda: ours(2), repeats, device)


if __name__ == "__main__":
    name, high, wide, often, kind = sys.argv[1:]
    _case(name, int(high), int(wide), int(often), kind)
