"""Time of dynamic convolutions against the share that is executed, beside the dense network."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import matplotlib
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from restore.config import registry
from restore.models.backbones.dynamic import DynamicBlock
from restore.models.backbones.sparse import executed
from restore.tools.bench.measure import log, write_table
from restore.utils import files

_COLUMNS = ["size", "mask %", "work %", "blocks ms", "blocks ×", "network ms", "network ×"]
# Mask cells: as coarse as the masks that networks learn, which follow a picture's contents.
_CELL = 8


class DynConvBenchmark:
    """The course project's network with masks of given shares, and the same without masks.

    Args:
        sizes: sides of the restored picture and of the reference, in pixels.
        shares: of the positions that the masks let through.
        repeats: timed runs of each, after one that is not; the shortest is reported.
    """

    def __init__(
        self,
        sizes: Annotated[list[Annotated[int, Field(ge=16, multiple_of=4)]], Field(min_length=1)],
        shares: Annotated[list[Annotated[float, Field(ge=0, le=1)]], Field(min_length=2)],
        repeats: Annotated[int, Field(ge=1)],
    ):
        self.sizes, self.shares, self.repeats = sizes, sorted(shares), repeats

    def run(self, folder: Path, device: torch.device) -> None:
        """Measures, prints a table and where skipping pays, writes `dynconv.csv` and `.png`."""
        dense = self._model("residual", device)
        dynamic = self._model("dynamic", device)
        rows = []
        for size in self.sizes:
            base = self._row(dense, size, device)
            rows.append({"size": f"{size}×{size}", "mask %": "dense", **base})
            measured = []
            for share in self.shares:
                _force(dynamic, share)
                row = self._row(dynamic, size, device)
                for part in ("blocks", "network"):
                    row[f"{part} ×"] = round(base[f"{part} ms"] / row[f"{part} ms"], 2)
                measured.append({"size": f"{size}×{size}", "mask %": round(100 * share), **row})
                log.info("%s", measured[-1])
            rows += measured
            log.info(_verdict(size, measured))
        write_table(rows, _COLUMNS, folder, "dynconv")
        _plot(rows, folder / "dynconv.png")

    def _model(self, trunk: str, device: torch.device) -> Any:
        torch.manual_seed(0)
        model = registry.build("backbone", "ttsr", "pretrained.vgg19=random", f"trunk={trunk}")
        return model.to(device).eval()

    def _row(self, model: Any, size: int, device: torch.device) -> dict[str, float]:
        generator = torch.Generator().manual_seed(0)
        low, low_up, reference = (
            torch.rand(1, 3, side, side, generator=generator).to(device)
            for side in (size // 4, size, size)
        )
        features = {
            scale: torch.rand(1, 64, size // 4 * scale, size // 4 * scale).to(device)
            for scale in (1, 2, 4)
        }
        trunks = [(model.shallow.trunk, 1)]
        for stage in model.stages:
            trunks += zip(stage.trunks, (1, 2, 4))
        with torch.inference_mode():
            memory = model.encode_reference(reference, reference)
            network = self._time(lambda: model(low, low_up, memory=memory).image, device)
            blocks = self._time(lambda: [t(features[scale])[0] for t, scale in trunks][-1], device)
            masks = model(low, low_up, memory=memory).block_masks.values()
        row = {"blocks ms": round(blocks * 1000, 1), "network ms": round(network * 1000, 1)}
        if masks:
            work = [executed(mask) * mask.numel() for mask in masks]
            total = sum(mask.numel() for mask in masks)
            row["work %"] = round(100 * float(sum(work)) / total)
        return row

    def _time(self, call: Callable[[], Tensor], device: torch.device) -> float:
        times = []
        for _ in range(self.repeats + 1):
            start = time.perf_counter()
            call()
            if device.type == "cuda":
                torch.cuda.synchronize()
            times.append(time.perf_counter() - start)
        return min(times[1:])  # whatever else the machine does only adds to it


class _Forced(nn.Module):
    """In a gate's place: a patchy mask of the share wanted, whatever the logits."""

    def __init__(self, share: float):
        super().__init__()
        self.share = share
        self.masks: dict[torch.Size, Tensor] = {}

    def forward(self, logits: Tensor) -> Tensor:
        if logits.shape not in self.masks:
            H, W = logits.shape[-2:]
            generator = torch.Generator().manual_seed(0)
            cells = torch.rand(1, 1, -(-H // _CELL) + 1, -(-W // _CELL) + 1, generator=generator)
            field = F.interpolate(cells, (H, W), mode="bicubic").flatten()
            mask = torch.zeros(H * W)
            mask[field.argsort(descending=True)[: round(self.share * H * W)]] = 1
            self.masks[logits.shape] = mask.view(1, 1, H, W).to(logits.device)
        return self.masks[logits.shape]


def _force(model: nn.Module, share: float) -> None:
    gate = _Forced(share)
    for part in model.modules():
        if isinstance(part, DynamicBlock):
            part.gate = gate  # type: ignore[assignment]
            part.skip_below = 2.0  # always position by position, to see what it costs


def _verdict(size: int, rows: list[dict[str, Any]]) -> str:
    """At which share of the work skipping stops to pay."""
    parts = []
    for part in ("blocks", "network"):
        works, gains = [row["work %"] for row in rows], [row[f"{part} ×"] for row in rows]
        losing = next((i for i, gain in enumerate(gains) if gain < 1), None)
        if losing == 0:
            parts.append(f"never for the {part}")
        elif losing is None:
            parts.append(f"always for the {part}")
        else:
            (w0, w1), (g0, g1) = works[losing - 1 : losing + 1], gains[losing - 1 : losing + 1]
            edge = w0 + (g0 - 1) / (g0 - g1) * (w1 - w0)
            parts.append(f"for the {part} below {edge:.0f} % of the work")
    return f"{size}×{size}: skipping pays {', '.join(parts)}"


def _plot(rows: list[dict[str, Any]], path: Path) -> None:
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(9, 3.5))
    for axis, part in zip(axes, ("blocks", "network")):
        for size in dict.fromkeys(row["size"] for row in rows):
            some = [row for row in rows if row["size"] == size and "work %" in row]
            axis.plot([r["work %"] for r in some], [r[f"{part} ×"] for r in some], "o-", label=size)
        axis.axhline(1, color="grey", linewidth=1)
        axis.set_xlabel("work done, % of the residual blocks'")
        axis.set_ylabel(f"{part}: dense time / time")
        axis.legend()
    figure.tight_layout()
    with files.whole(path) as temporary:
        figure.savefig(temporary, dpi=120)
    pyplot.close(figure)
