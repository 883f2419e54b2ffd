"""The metrics that are chosen for a command: built, copied for each method, measured together."""

import copy
import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics import Metric

from restore.config import locate, registry
from restore.errors import UserError
from restore.metrics import holes
from restore.metrics.image_metric import About, ImageMetric
from restore.metrics.legend import declared
from restore.metrics.protocol import MeasurementProtocol
from restore.models.pretrained import MissingWeights, library_downloads

Nodes = Mapping[str, dict[str, Any]]
# What is measured where nothing is chosen, as in runs stored before metrics could be.
DEFAULT = ("psnr", "ssim")


class Selection:
    """Metrics by name, and why others that were chosen cannot be taken here.

    One selection measures the pictures of one method; `fresh` gives one for another, which shares
    the networks.
    """

    def __init__(self, metrics: list[ImageMetric], missing: dict[str, str]):
        self.metrics, self.missing = metrics, missing

    def fresh(self, whole_sets: bool = True) -> "Selection":
        """The same metrics without values; those of whole sets only where asked for."""
        kept = [metric for metric in self.metrics if metric.per_image or whole_sets]
        return Selection([ImageMetric(m.key, _copied(m.metric)) for m in kept], self.missing)

    def to(self, device: torch.device) -> "Selection":
        """Moves them to a device."""
        for metric in self.metrics:
            metric.metric.to(device)
        return self

    def keys(self) -> list[str]:
        """The names of those that can be taken."""
        return [metric.key for metric in self.metrics]

    def directions(self) -> dict[str, bool | None]:
        """By name whether higher is better; None: neither is."""
        return {metric.key: metric.higher_is_better for metric in self.metrics}

    def image_names(self, regions: list[str]) -> list[str]:
        """Names of single pictures' values without channel and border: `psnr_holes`, `lpips`."""
        by_region = [metric.key for metric in self.metrics if metric.by_region]
        others = [m.key for m in self.metrics if m.per_image and not m.by_region]
        return [f"{key}{region}" for region in regions for key in by_region] + others

    def set_names(self) -> list[str]:
        """Names of the values of whole sets."""
        return [metric.key for metric in self.metrics if not metric.per_image]

    def measure(
        self,
        restored: Tensor,
        target: Tensor,
        about: About,
        regions: Mapping[str, Tensor | None],
        plain_names: bool = False,
    ) -> dict[str, float]:
        """The values of one picture, 13HW; metrics of whole sets take note of it.

        Args:
            restored: in [0, 1].
            target: likewise.
            about: scale, weights of pixels, grey.
            regions: by the end of the name (`_holes`) the pixels that metrics by region are taken
                on too (N1HW, 1 inside); None: all.
            plain_names: without channel and border.
        """
        values: dict[str, float] = {}
        for end, region in regions.items():
            within = _within(about, region)
            for metric in self.metrics:
                if metric.by_region:
                    name = metric.key if plain_names else metric.name(about.scale)
                    values[f"{name}{end}"] = metric.value(restored, target, within)
        for metric in self.metrics:
            if not metric.per_image:
                metric.update(restored, target, about)
            elif not metric.by_region:
                name = metric.key if plain_names else metric.name(about.scale)
                values[name] = metric.value(restored, target, about)
        return values

    @torch.inference_mode()
    def pooled(self) -> dict[str, float]:
        """The values of whole sets, over all processes; each must call it."""
        return {metric.key: metric.compute() for metric in self.metrics if not metric.per_image}

    def sentences(self) -> dict[str, str]:
        """Which programs and weights measured, as far as a name does not say."""
        sentences = {metric.key: metric.sentence() for metric in self.metrics}
        return {key: sentence for key, sentence in sentences.items() if sentence is not None}

    def reasons(self) -> dict[str, str]:
        """Why pictures have no value, of metrics that said so."""
        return {metric.key: next(iter(metric.reasons)) for metric in self.metrics if metric.reasons}


def _within(about: About, region: Tensor | None) -> About:
    if region is None:
        return about
    weight = region if about.weight is None else region * about.weight
    return About(about.scale, weight, about.grey)


def _copied(metric: Metric) -> Metric:
    """A copy without values that shares the metric's networks."""
    shared = {
        id(part): part
        for part in metric.children()
        if isinstance(part, nn.Module) and not isinstance(part, Metric)
    }
    other = copy.deepcopy(metric, shared)
    other.reset()
    return other


@torch.random.fork_rng(devices=[])
def build(
    nodes: Nodes | None,
    protocol: MeasurementProtocol,
    pretrained: Mapping[str, Any] | None = None,
) -> Selection:
    """The metrics of a configuration's `metric`; without any PSNR and SSIM.

    A metric whose arguments have a `protocol` is handed the one chosen. Chance that is drawn
    here changes nothing elsewhere, such as the first weights of the network that is trained.

    Args:
        nodes: by name.
        protocol: for metrics that follow one.
        pretrained: the settings of that name, which hold for what libraries fetch by themselves.

    Raises:
        UserError: a node is no metric, or its class cannot be made. One whose weights or packages
            are not at hand is left out, with the reason.
    """
    if not nodes:
        nodes = {key: declared(key) for key in DEFAULT}
    metrics, missing = [], {}
    for key, node in nodes.items():
        path = f"metric.{key}"
        if not isinstance(node, Mapping) or "_target_" not in node:
            raise UserError(
                f"{path}: a metric's yaml gives its name first and what belongs to it below, "
                "indented: NAME:, then _target_: …"
            )
        more = {"protocol": protocol} if _takes_protocol(node, path) else {}
        try:
            with library_downloads(pretrained, "it"):
                image_metric = _built(key, dict(node), **more)
        except (ImportError, OSError, MissingWeights) as error:
            missing[key] = " ".join(str(error).split())
            continue
        except UserError as error:
            if not isinstance(error.__cause__, ImportError | OSError):
                raise
            missing[key] = " ".join(str(error.__cause__).split())
            continue
        metrics.append(image_metric)
    if not metrics:
        why = "; ".join(f"{key}: {reason}" for key, reason in missing.items())
        raise UserError(f"metric: none of the chosen metrics can be measured ({why})")
    return Selection(metrics, missing)


def _built(key: str, node: dict[str, Any], **more: Any) -> ImageMetric:
    """A metric under its name, tried once where it may look for its weights no earlier."""
    metric = registry.instantiate(node, f"metric.{key}", **more)
    if not isinstance(metric, Metric):
        raise UserError(f"metric.{key}._target_={node['_target_']} is no torchmetrics.Metric")
    image_metric = ImageMetric(key, metric)
    if not type(metric).__module__.startswith("restore."):
        with torch.inference_mode():
            image_metric.probe()
    return image_metric


def _takes_protocol(node: Mapping[str, Any], path: str) -> bool:
    part = locate(str(node["_target_"]), path)
    return "protocol" not in node and "protocol" in inspect.signature(part).parameters


def regions(mask_N1HW: Tensor | None) -> dict[str, Tensor | None]:
    """What metrics by region are taken on: all pixels; where there are holes, these and a ring."""
    if mask_N1HW is None:
        return {"": None}
    return {"": None, "_holes": mask_N1HW, "_ring": holes.ring(mask_N1HW)}
