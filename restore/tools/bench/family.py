"""Networks with a reference, whole and their matching alone, beside the published formulation."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from restore.config import registry
from restore.errors import UserError
from restore.images.tiling import Window, tiled
from restore.inference.pipeline import automatic_tile
from restore.models.backbones.ttsr import TTSR
from restore.models.protocol import Backbone
from restore.tools.bench import plain_family, plain_ttsr
from restore.tools.bench.measure import (
    COMPARED,
    Row,
    compared,
    in_process,
    log,
    report,
    write_table,
)

Matching = Literal["hard", "inside", "windows"]
# Channels of the features that each compares, and of those that it transfers in the same go.
_FEATURES = {
    "hard": (256, [(256, 1), (128, 2), (64, 4)]),
    "inside": (256, []),
    "windows": (64, [(64, 1), (64, 2), (64, 4)]),
}
_RANDOM = ("pretrained.vgg19=random", "pretrained.contrastive=random")


class Family:
    """Each case in a process of its own.

    Args:
        networks: backbones that are measured whole.
        matchings: attentions that are measured alone.
        sizes: sides of the restored picture and of the reference in pixels.
        repeats: timed runs of each, whose median is reported.
        large: also the networks, without the plain formulation, at 2040×1356 pixels with a
            reference of that size, which takes many minutes; the memory is then that of the whole
            process.
    """

    def __init__(
        self,
        networks: list[str],
        matchings: list[Matching],
        sizes: Annotated[list[Annotated[int, Field(ge=32, multiple_of=32)]], Field(min_length=1)],
        repeats: Annotated[int, Field(ge=1)],
        large: bool = False,
    ):
        self.networks, self.matchings = networks, matchings
        self.sizes, self.repeats, self.large = sizes, repeats, large

    def run(self, folder: Path, device: torch.device) -> None:
        """Measures, prints a table, and writes it as csv.

        Raises UserError for a network that is not there or takes no reference.
        """
        for name in self.networks:
            if not registry.build("backbone", name, *_RANDOM).takes_reference:
                raise UserError(f"benchmark.networks: {name} takes no reference")
        rows: list[Row] = []
        for size in self.sizes:
            cases: list[tuple[str, str]] = [("attention", name) for name in self.matchings]
            cases += [("backbone", name) for name in self.networks]
            for kind, name in cases:
                row = compared(__name__, kind, name, size, size, self.repeats, device.type)
                rows.append({"what": f"{kind}={name}", "size": f"{size}×{size}", **row})
                log.info("%s", rows[-1])
        for network in self.networks if self.large else []:
            case = ("ours", "backbone", network, 2040, 1356, 1, device.type)
            measured = in_process(__name__, *case)
            row = {f"ours {unit}": round(value) for unit, value in measured.items()}
            rows.append({"what": f"backbone={network}", "size": "2040×1356", **row})
            log.info("%s", rows[-1])
        write_table(rows, ["what", "size", *COMPARED], folder, "family")


def _network(method: str, name: str, width: int, height: int, device: str) -> Callable[[], object]:
    network = registry.build("backbone", name, *_RANDOM).to(device).eval()
    inputs = {}
    for what in ("", "reference_"):
        small = torch.rand(1, 3, height // 4, width // 4, device=device)
        inputs[f"{what}low"] = small
        inputs[f"{what}low_up"] = F.interpolate(small, scale_factor=4.0)
    inputs["reference"] = torch.rand(1, 3, height, width, device=device)
    if method == "ours":
        network.to(memory_format=torch.channels_last)
        return lambda: _restored(network, **inputs)
    if isinstance(network, TTSR):
        state = plain_ttsr.published(network, [16, 16, 8, 4])
        del inputs["reference_low"]
        return lambda: plain_ttsr.whole(state, **inputs)
    plain_family.published(network, "windows" if name == "masa" else "inside")
    return lambda: network(**inputs)


def _restored(network: Backbone, low: Tensor, low_up: Tensor, **reference: Tensor) -> Tensor:
    """As `restore apply` does it: in tiles where the picture is large and the network allows it."""
    height, width = low.shape[-2:]
    memory = network.encode_reference(**reference)

    def part(window: Window) -> Tensor:
        restored: Tensor = network(window.of(low), window.of(low_up, 4), memory=memory).image
        return restored

    tile = automatic_tile(height, width, network.reach, network.whole)
    return tiled(part, height, width, tile=tile, overlap=network.reach or 0, scale=4)


def _matching(method: str, name: str, size: int, device: str) -> Callable[[], object]:
    channels, transferred = _FEATURES[name]
    side = size // 4
    query, key = (torch.randn(1, channels, side, side, device=device) for _ in range(2))
    values = [torch.randn(1, C, s * side, s * side, device=device) for C, s in transferred]
    if method == "plain":
        attention = plain_family.PlainAttention(name)
    else:
        attention = registry.build("attention", name)
    if name == "inside":
        return lambda: attention.locate(query, attention.remember(key, values))
    return lambda: attention(query, attention.encode_reference(key, values))


def _case(
    method: str, kind: str, name: str, width: int, height: int, repeats: int, device: str
) -> None:
    torch.manual_seed(0)
    if kind == "backbone":
        call, small = (
            _network(method, name, *size, device) for size in ((width, height), (32, 32))
        )
    else:
        call, small = (_matching(method, name, side, device) for side in (width, 32))
    with torch.inference_mode():
        report(call, small, repeats, device)


if __name__ == "__main__":
    how, part, which, wide, high, often, place = sys.argv[1:]
    _case(how, part, which, int(wide), int(high), int(often), place)
