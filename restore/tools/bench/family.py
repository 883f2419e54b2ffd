"""Networks with a reference: time and memory, and matching beside the published formulation."""

import sys
from pathlib import Path
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field

from restore.config import registry
from restore.errors import UserError
from restore.models.attention import TextureAttention
from restore.models.attention.embedding import Pixels
from restore.models.attention.rules import HardInside
from restore.models.attention.windows import Windows
from restore.tools.bench import plain_family
from restore.tools.bench.measure import (
    COMPARED,
    Row,
    compared,
    in_process,
    log,
    report,
    write_table,
)

Matching = Literal["inside", "windows"]
_RANDOM = ("pretrained.vgg19=random", "pretrained.contrastive=random")


class Family:
    """Each case in a process of its own; whole networks have no plain formulation beside them.

    Args:
        networks: backbones that are measured whole.
        matchings: attentions whose search is measured beside the published formulation.
        sizes: sides of the restored picture and of the reference in pixels.
        repeats: timed runs of each, whose median is reported.
    """

    def __init__(
        self,
        networks: list[str],
        matchings: list[Matching],
        sizes: Annotated[list[Annotated[int, Field(ge=32, multiple_of=32)]], Field(min_length=1)],
        repeats: Annotated[int, Field(ge=1)],
    ):
        for name in networks:
            with torch.device("meta"):
                network = registry.build("backbone", name, *_RANDOM)
            if not network.takes_reference:
                raise UserError(f"benchmark.networks: {name} takes no reference")
        self.networks, self.matchings = networks, matchings
        self.sizes, self.repeats = sizes, repeats

    def run(self, folder: Path, device: torch.device) -> None:
        """Measures, prints a table, and writes it as csv."""
        rows: list[Row] = []
        for size in self.sizes:
            for name in self.matchings:
                row = compared(__name__, name, size, self.repeats, device.type)
                rows.append({"what": f"attention={name}", "size": f"{size}×{size}", **row})
                log.info("%s", rows[-1])
            for network in self.networks:
                measured = in_process(__name__, "whole", network, size, self.repeats, device.type)
                row = {f"ours {unit}": round(value, 1) for unit, value in measured.items()}
                rows.append({"what": f"backbone={network}", "size": f"{size}×{size}", **row})
                log.info("%s", rows[-1])
        write_table(rows, ["what", "size", *COMPARED], folder, "family")


def _case(method: str, name: str, size: int, repeats: int, device: str) -> None:
    torch.manual_seed(0)
    if method == "whole":
        network = registry.build("backbone", name, *_RANDOM).to(device).eval()
        picture = torch.rand(1, 3, size, size, device=device)
        small = F.interpolate(picture, scale_factor=0.25)
        inputs = {"low": small, "low_up": picture, "reference": picture.flip(-1)}
        inputs |= {"reference_low_up": picture.flip(-1), "reference_low": small.flip(-1)}

        def call() -> None:
            network(**inputs)

        warm = call if repeats > 1 else (lambda: None)
    else:
        channels, side = (64 if name == "windows" else 256), size // 4
        query, key = (torch.randn(1, channels, side, side, device=device) for _ in range(2))
        attention = TextureAttention(Pixels(), Windows() if name == "windows" else HardInside())
        published = plain_family.windows if name == "windows" else plain_family.inside

        def search(side: int) -> None:
            one, other = query[..., :side, :side], key[..., :side, :side]
            if method == "plain":
                published(one, other)
            else:
                attention(one, attention.encode_reference(other, []))

        def call() -> None:
            search(side)

        def warm() -> None:
            search(8)

    with torch.inference_mode():
        report(call, warm, repeats, device)


if __name__ == "__main__":
    kind, what, side, often, place = sys.argv[1:]
    _case(kind, what, int(side), int(often), place)
