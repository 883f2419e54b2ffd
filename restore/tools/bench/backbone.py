"""Speed and memory of networks for one picture, beside the same run plainly.

Plainly: normalisation is worked out again at every call rather than folded into the weights, and
pictures and weights lie as torch lays them (contiguous) rather than channels last.
"""

import sys
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Field
from torch.utils.flop_counter import FlopCounterMode

from restore.config import registry
from restore.config.settings import Precision
from restore.images.tiling import Window, tiled
from restore.models.fuse_batch_norm import fuse_batch_norm
from restore.models.precision import autocast, layout
from restore.tools.bench.measure import COMPARED, Row, compared, log, report, write_table

Size = Annotated[list[Annotated[int, Field(ge=8)]], Field(min_length=2, max_length=2)]


class BackboneBenchmark:
    """Networks at their configurations' own sizes, ×4 (ASDN ×2), each case in a process of its own.

    Args:
        networks: names of backbones.
        sizes: height and width of the low pictures.
        precisions: to run in; both ways alike.
        tile: side of tiles in low pixels, measured beside the whole where the network allows tiles
            and the picture is larger.
        repeats: timed runs of each, whose median is reported.
        most: cases of more operations than so many 10¹² are left out, and said.
    """

    def __init__(
        self,
        networks: Annotated[list[str], Field(min_length=1)],
        sizes: Annotated[list[Size], Field(min_length=1)],
        precisions: Annotated[list[Precision], Field(min_length=1)],
        tile: Annotated[int, Field(ge=16)],
        repeats: Annotated[int, Field(ge=1)],
        most: Annotated[float, Field(gt=0)],
    ):
        self.networks, self.sizes, self.precisions = networks, sizes, precisions
        self.tile, self.repeats, self.most = tile, repeats, most

    def run(self, folder: Path, device: torch.device) -> None:
        """Measures, prints a table, and writes `backbone.csv`."""
        rows: list[Row] = []
        for name in self.networks:
            model = _built(name)
            parameters = sum(p.numel() for p in model.parameters())
            for height, width in self.sizes:
                operations = _operations(name, height * width)
                head = {"network": name, "low": f"{width}×{height}", "parameters": parameters}
                head["GFLOP"] = round(operations / 1e9, 1)
                if operations > self.most * 1e12:
                    log.info("left out (benchmark.most=%g): %s", self.most, head)
                    continue
                tiles = [0]
                if model.reach is not None and max(height, width) > self.tile:
                    tiles.append(self.tile)
                for precision in self.precisions:
                    for tile in tiles:
                        case = (name, height, width, precision, tile, self.repeats, device.type)
                        row = {**head, "precision": precision, "tiles": tile or "whole"}
                        row |= compared(__name__, *case)
                        row["images/s"] = round(1000 / row["ours ms"], 2)
                        rows.append(row)
                        log.info("%s", row)
        columns = ["network", "low", "precision", "tiles", "parameters", "GFLOP"]
        write_table(rows, [*columns, *COMPARED[:3], "images/s", *COMPARED[3:]], folder, "backbone")


def _built(name: str) -> Any:
    torch.manual_seed(0)
    return registry.build("backbone", name).eval()


def _operations(name: str, pixels: int) -> float:
    """Products and additions, which grow with the area in networks of convolutions."""
    side = 16
    model = fuse_batch_norm(_built(name))  # the counter cannot look into weight normalisation
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        model(torch.zeros(1, 3, side, side))
    return counter.get_total_flops() * pixels / side**2


def _case(
    method: str,
    name: str,
    height: int,
    width: int,
    precision: str,
    tile: int,
    repeats: int,
    device: str,
) -> None:
    model = _built(name)
    form = layout(precision, device, "auto" if method == "ours" else False)
    if method == "ours":
        model = fuse_batch_norm(model)
    model = model.to(device, memory_format=form)

    def restore(low: torch.Tensor) -> torch.Tensor:
        def part(window: Window) -> torch.Tensor:
            return model(window.of(low).contiguous(memory_format=form)).image

        sides = low.shape[-2], low.shape[-1]
        with torch.inference_mode(), autocast(precision, device):
            if not tile:
                return part(Window(0, 0, *sides))
            return tiled(part, *sides, tile=tile, overlap=model.reach, scale=model.scale)

    low = torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(0)).to(device)
    report(lambda: restore(low), lambda: restore(low[..., :16, :16]), repeats, device)


if __name__ == "__main__":
    how, what, *sides, kind, cut, often, place = sys.argv[1:]
    _case(how, what, int(sides[0]), int(sides[1]), kind, int(cut), int(often), place)
