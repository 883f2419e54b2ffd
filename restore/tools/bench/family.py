"""Networks with a reference, whole and their matching alone, beside the published formulation."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from restore.config import registry
from restore.config.settings import Precision
from restore.errors import UserError
from restore.images.tiling import Window, tiled
from restore.inference.pipeline import automatic_tile
from restore.models.backbones.ttsr import TTSR
from restore.models.precision import autocast, convolutions, layout
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
_APART = "levels from fp32"
_RANDOM = ("pretrained.vgg19=random", "pretrained.contrastive=random")


class Family:
    """Each case in a process of its own.

    Args:
        networks: backbones that are measured whole.
        matchings: attentions that are measured alone.
        sizes: sides of the restored picture and of the reference in pixels.
        precisions: that the networks run in, both ways alike; in bf16 also how many levels of 8
            bits our picture is away from ours in fp32 at most. Matching is fp32 in either.
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
        precisions: Annotated[list[Precision], Field(min_length=1)],
        repeats: Annotated[int, Field(ge=1)],
        large: bool = False,
    ):
        self.networks, self.matchings = networks, matchings
        self.sizes, self.precisions = sizes, precisions
        self.repeats, self.large = repeats, large

    def run(self, folder: Path, device: torch.device) -> None:
        """Measures, prints a table, and writes it as csv.

        Raises UserError for a network that is not there or takes no reference.
        """
        for name in self.networks:
            if not registry.build("backbone", name, *_RANDOM).takes_reference:
                raise UserError(f"benchmark.networks: {name} takes no reference")
        rows: list[Row] = []
        for size in self.sizes:
            cases: list[tuple[str, str, str]]
            cases = [("attention", name, "fp32") for name in self.matchings]
            cases += [
                ("backbone", name, kind) for name in self.networks for kind in self.precisions
            ]
            for group, name, precision in cases:
                case = (group, name, size, size, precision, self.repeats, device.type)
                row = {"what": f"{group}={name}", "size": f"{size}×{size}", "precision": precision}
                rows.append(row | compared(__name__, *case))
                log.info("%s", rows[-1])
        for network in self.networks if self.large else []:
            large = ("ours", "backbone", network, 2040, 1356, "fp32", 1, device.type)
            measured = in_process(__name__, *large)
            row = {"what": f"backbone={network}", "size": "2040×1356", "precision": "fp32"}
            rows.append(row | {f"ours {unit}": round(x) for unit, x in measured.items()})
            log.info("%s", rows[-1])
        write_table(
            rows, ["what", "size", "precision", *COMPARED, f"ours {_APART}"], folder, "family"
        )


def _network(
    method: str, name: str, width: int, height: int, device: str, form: torch.memory_format
) -> Callable[[], object]:
    network = registry.build("backbone", name, *_RANDOM).to(device).eval()
    inputs = {}
    for what in ("", "reference_"):
        small = torch.rand(1, 3, height // 4, width // 4, device=device)
        inputs[f"{what}low"] = small
        inputs[f"{what}low_up"] = F.interpolate(small, scale_factor=4.0)
    inputs["reference"] = torch.rand(1, 3, height, width, device=device)
    if method == "ours":
        network.to(memory_format=form)
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
    return lambda: [*attention(query, attention.encode_reference(key, values)).textures]


def _case(
    method: str,
    kind: str,
    name: str,
    width: int,
    height: int,
    precision: str,
    repeats: int,
    device: str,
) -> None:
    torch.manual_seed(0)
    if kind == "backbone":
        call, small = (
            _network(method, name, *size, device, layout(precision, device))
            for size in ((width, height), (32, 32))
        )
    else:
        call, small = (_matching(method, name, side, device) for side in (width, 32))

    def apart() -> dict[str, float]:
        picture: Any = call()
        with torch.autocast(device, enabled=False), convolutions("fp32"):
            other: Any = call()
            return {_APART: 255 * float((picture - other).abs().max())}

    rounded = precision != "fp32" and method == "ours"
    with torch.inference_mode(), autocast(precision, device):
        report(call, small, repeats, device, apart if rounded else dict)


if __name__ == "__main__":
    how, part, which, wide, high, form, often, place = sys.argv[1:]
    _case(how, part, which, int(wide), int(high), form, int(often), place)
