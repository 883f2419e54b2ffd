"""Time and memory of one sampling step of Palette's network, beside the plain formulation."""

import sys
from pathlib import Path
from typing import Annotated

import torch
from pydantic import Field

from restore.config.settings import Precision
from restore.models.diffusion.unet import UNet
from restore.models.precision import autocast, layout
from restore.tools.bench import plain_unet
from restore.tools.bench.measure import COMPARED, Row, compared, log, report, write_table


class Diffusion:
    """The network of the published size, each case in a process of its own.

    Args:
        sizes: sides of the picture in pixels.
        precisions: to run in; speed-ups are against the plain formulation in the same precision.
        batch: pictures at a time.
        repeats: timed runs of each, whose median is reported.
    """

    def __init__(
        self,
        sizes: Annotated[list[Annotated[int, Field(ge=8, multiple_of=8)]], Field(min_length=1)],
        precisions: Annotated[list[Precision], Field(min_length=1)],
        batch: Annotated[int, Field(ge=1)],
        repeats: Annotated[int, Field(ge=1)],
    ):
        self.sizes, self.precisions = sizes, precisions
        self.batch, self.repeats = batch, repeats

    def run(self, folder: Path, device: torch.device) -> None:
        """Measures, prints a table, and writes it as csv."""
        rows: list[Row] = []
        for size in self.sizes:
            for precision in self.precisions:
                case = (size, precision, self.batch, self.repeats, device.type)
                row = {"size": f"{size}×{size}", "precision": precision}
                rows.append({**row, **compared(__name__, *case)})
                log.info("%s", rows[-1])
        write_table(rows, ["size", "precision", *COMPARED], folder, "diffusion")


def _case(method: str, size: int, precision: str, batch: int, repeats: int, device: str) -> None:
    torch.manual_seed(0)
    model = UNet().eval().to(device)
    form = layout(precision, device, "auto" if method == "ours" else False)
    model.to(memory_format=form)
    state = dict(model.named_parameters())

    def step(side: int) -> None:
        x = torch.randn(batch, 6, side, side, device=device).contiguous(memory_format=form)
        gamma = torch.full((batch, 1), 0.5, device=device)
        if method == "ours":
            model(x, gamma)
        else:
            plain_unet.whole(state, x, gamma, blocks=2)

    # As in sampling, weights are cast once for all steps.
    with torch.inference_mode(), autocast(precision, device):
        report(lambda: step(size), lambda: step(8), repeats, device)


if __name__ == "__main__":
    how, side, kind, count, often, place = sys.argv[1:]
    _case(how, int(side), kind, int(count), int(often), place)
