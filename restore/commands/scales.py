"""`restore scales`: fidelity against scale, of a network of any scale beside others and bicubic."""

import logging
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import matplotlib
import torch
from pydantic import Field
from torch import Tensor, nn

from restore.config import check, registry, settings
from restore.data.loading import EvalItems, look
from restore.engine import launcher, run_folder
from restore.errors import UserError
from restore.images.bicubic import resized
from restore.inference.evaluation import Evaluator, Options
from restore.inference.runner import Runner
from restore.metrics import selection
from restore.metrics.legend import Legend
from restore.metrics.protocol import MeasurementProtocol
from restore.metrics.selection import Selection
from restore.models import weights
from restore.models.weights import Loaded
from restore.types import Restoration
from restore.utils import files, tabular

log = logging.getLogger("restore")

# By method, then scale: the metrics' values, under names without channel and border.
Results = dict[str, dict[float, dict[str, float]]]


@dataclass
class Scales:
    """`restore scales`."""

    weights: str
    beside: list[str]
    scales: Annotated[list[Annotated[float, Field(ge=1, le=32)]], Field(min_length=1)]
    data: settings.Node
    split: Literal["train", "valid", "test"]
    protocol: settings.Node
    pretrained: settings.Node
    runtime: settings.Runtime
    loader: settings.Loader
    limit: settings.Positive | None
    folder: str
    metric: dict[str, settings.Node] | None = None


class Resized(nn.Module):
    """A network of one whole scale for any other: what it makes is resized by bicubic.

    Args:
        network: called with the low picture.
        scale: of the network.
    """

    def __init__(self, network: nn.Module, scale: int):
        super().__init__()
        self.network, self.scale = network, scale

    def forward(self, low: Tensor, low_up: Tensor, ratios: Tensor) -> Restoration:
        """The result of `low_up`'s size; the product of the ratios is the scale asked for."""
        image = self.network(low=low, low_up=low_up).image
        factor = math.prod(ratios[0].flatten().tolist()) / self.scale
        height, width = low_up.shape[-2:]
        return Restoration(resized(image, factor, height, width).clamp(0, 1))


def main(config: dict[str, Any], overrides: list[str]) -> int:
    """Evaluates at each scale, and writes `scales.csv`, `scales.md`, `scales.png`, `summary.json`.

    Returns the exit code 0.
    """
    setting = check(config, Scales)
    folder = Path(setting.folder)
    if setting.runtime.devices > 1:
        raise UserError(f"runtime.devices={setting.runtime.devices}: scales works on one device")
    device = launcher.device(setting.runtime)
    launcher.refuse_compile(setting.runtime)
    if setting.runtime.threads:
        torch.set_num_threads(setting.runtime.threads)
    run_folder.refuse_taken(folder, config)
    run_folder.log_to(None)
    loaded = weights.load(Path(setting.weights))
    if not loaded.takes_scale():
        raise UserError(
            f"weights={setting.weights} belong to a network of one fixed scale: give "
            "them as beside=[…], and as weights those of backbone=asdn"
        )
    methods: dict[str, tuple[weights.Loaded, nn.Module]] = {
        _title(loaded): (loaded, loaded.backbone())
    }
    for path in setting.beside:
        other = weights.load(Path(path))
        methods |= {_title(other): (other, _any_scale(other, path))}
    if len(methods) <= len(setting.beside):
        raise UserError(f"beside={setting.beside} has the same weights twice")
    protocol = registry.instantiate(setting.protocol, "protocol")
    metrics = selection.build(setting.metric, protocol, setting.pretrained)
    for key, reason in metrics.missing.items():
        log.warning("%s is not measured: %s", key, reason)
    scales = sorted({float(scale) for scale in setting.scales})
    splits = {scale: _split(setting, loaded, scale) for scale in scales}
    for items in splits.values():
        look(items)
    with run_folder.filling(folder, config):
        run_folder.log_to(folder)
        _write(folder, *_measure(setting, methods, splits, protocol, metrics, device))
        run_folder.finish(folder)
    return 0


def _measure(
    setting: Scales,
    methods: dict[str, tuple[Loaded, nn.Module]],
    splits: dict[float, EvalItems],
    protocol: MeasurementProtocol,
    metrics: Selection,
    device: torch.device,
) -> tuple[dict[str, Any], Results]:
    """Every method at every scale, and what the numbers mean."""
    results: Results = {}
    count = 0
    for scale, items in splits.items():
        for title, (_, model) in methods.items():
            evaluator = Evaluator(
                Runner(model.to(device), setting.runtime, device),
                metrics,
                setting.loader,
                Options(limit=setting.limit, title=f"×{scale:g} {title}"),
            )
            result = evaluator.evaluate(items)
            if not result.rows:
                raise UserError(f"no image of the split could be read: {result.skipped[0]}")
            count = len(result.rows)
            names = {metric.name(items.task.scale): metric.key for metric in metrics.metrics}
            base, values = (
                {key: result.mean(method)[name] for name, key in names.items()}
                for method in ("baseline", "restored")
            )
            results.setdefault(result.baseline, {})[scale] = base
            results.setdefault(title, {})[scale] = values
            log.info("×%g: %s %.4f, %s %.4f", scale, title, *_firsts(values, base, result.baseline))
    facts = {
        "weights": {title: (str(w.path), w.fingerprint) for title, (w, _) in methods.items()},
        "data": dict(setting.data),
        "split": setting.split,
        "protocol": protocol.name,
        "images": count,
        "higher is better": metrics.directions(),
    }
    return facts, results


def _any_scale(loaded: Loaded, path: str) -> nn.Module:
    model = loaded.backbone()
    if loaded.takes_scale():
        return model
    if model.takes_reference:
        raise UserError(f"beside: {path} needs a reference picture")
    return Resized(model, loaded.task().scale)


def _title(loaded: Loaded) -> str:
    """The network's class and a word on its weights, to tell two of a kind apart."""
    name = loaded.config["backbone"]["_target_"].rpartition(".")[2]
    scale = "" if loaded.takes_scale() else f" ×{loaded.task().scale} resized"
    return f"{name}{scale} {loaded.fingerprint[:6]}"


def _split(setting: Scales, loaded: Loaded, scale: float) -> EvalItems:
    """The split as it is seen at a scale."""
    task = loaded.task({"scale": scale, "ratios": None})
    data = setting.data
    if "scale" in data:
        data = {**data, "scale": task.scale}
    source = registry.instantiate(data, "data").split(setting.split)
    return EvalItems(source, task, setting.loader.on_error)


def _firsts(
    values: dict[str, float], base: dict[str, float], baseline: str
) -> tuple[float, str, float]:
    name = next(iter(values))
    return values[name], baseline, base[name]


def _write(folder: Path, facts: dict[str, Any], results: Results) -> None:
    names = list(next(iter(next(iter(results.values())).values())))
    rows = [
        [f"{scale:g}", method, *values.values()]
        for method, by_scale in results.items()
        for scale, values in by_scale.items()
    ]
    cells = tabular.comma_separated(["scale", "method", *names], rows)
    files.write_text(folder / "scales.csv", cells)
    text = "\n".join([*_heading(facts), "", table(results)])
    files.write_text(folder / "scales.md", text)
    plain = {method: {f"{s:g}": v for s, v in by.items()} for method, by in results.items()}
    files.write_text(folder / "summary.json", files.to_json({**facts, "scales": plain}))
    plot(results, facts, folder / "scales.png")
    log.info("\n%s", text)
    log.info("scales.csv, scales.md, scales.png and summary.json in %s", folder)


def _heading(facts: dict[str, Any]) -> Iterator[str]:
    source = str(facts["data"]["_target_"]).rpartition(".")[2]
    name = facts["data"].get("name", "")
    yield (
        f"{source} {name} {facts['split']}, N = {facts['images']}, protocol {facts['protocol']} "
        "(shave: the scale rounded up), low pictures by the bicubic of the task"
    )
    for title, (path, mark) in facts["weights"].items():
        yield f"{title}: {path} (sha256 {mark}…)"


def table(results: Results) -> str:
    """Every metric as Markdown, a row for each scale and a column for each method."""
    rows = [
        [f"×{scale:g}", *(" / ".join(map(_cell, by[scale].values())) for by in results.values())]
        for scale in next(iter(results.values()))
    ]
    return tabular.markdown(["scale", *results], rows)


def _cell(value: float) -> str:
    return tabular.number(value, 2 if abs(value) >= 10 else 4)


def plot(results: Results, facts: dict[str, Any], path: Path) -> None:
    """The first metric against scale, which doubles from tick to tick, and its gain."""
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(10, 4))
    base = next(iter(results.values()))
    key = next(iter(next(iter(base.values()))))
    words = Legend(facts["higher is better"]).words(key)
    for method, by_scale in results.items():
        scales = list(by_scale)
        values = [of_scale[key] for of_scale in by_scale.values()]
        gain = [value - base[scale][key] for scale, value in zip(scales, values)]
        axes[0].plot(scales, values, marker=".", label=method)
        axes[1].plot(scales, gain, marker=".", label=method)
    for axis, label in zip(axes, (words, f"{words}, gain over {next(iter(results))}")):
        axis.set_xscale("log", base=2)
        axis.xaxis.set_major_formatter(lambda value, _: f"×{value:g}")
        axis.set_xlabel("scale")
        axis.set_ylabel(label)
        axis.grid(alpha=0.3)
    axes[0].legend(fontsize="small")
    axes[0].set_title(f"N = {facts['images']}, protocol {facts['protocol']}", fontsize="small")
    figure.tight_layout()
    with files.whole(path) as temporary:
        figure.savefig(temporary, dpi=120)
    pyplot.close(figure)
