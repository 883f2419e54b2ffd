"""How often matching finds the right place, apart from super-resolution.

A query of each position of a low picture is matched with a reference whose correspondence is known
exactly (`data=warped`), and the distance to the true place is counted, against rotation, scale,
exposure and noise, for each extractor and attention variant.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import matplotlib
import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from restore.config import registry
from restore.data.degradation import pil_resize
from restore.errors import UserError
from restore.losses.correspondence import true_places
from restore.models.attention import TextureAttention
from restore.models.extractors import Extractor
from restore.tools.bench.measure import Row, log, write_table
from restore.types import Dataset, Pictures

_SCALE = 4


class CorrespondenceBenchmark:
    """Share of positions whose match lies within some target pixels of the truth.

    Positions whose true place lies outside the reference do not count.

    Args:
        data: makes pairs of known correspondence of the arguments that differ; the test split is
            used (`restore.datasets.warped.Warped`).
        conditions: by name, arguments of the data that differ.
        extractors: names of `conf/extractor`, each with overrides after commas
            (`vgg19,extractor.weights=FILE`).
        attentions: names of `conf/attention`; those that tell no choice are refused.
        within: target pixels, in the larger of both directions.
        pairs: how many of each condition.
    """

    def __init__(
        self,
        data: Callable[..., Dataset],
        conditions: dict[str, dict[str, Any]],
        extractors: Annotated[list[str], Field(min_length=1)],
        attentions: Annotated[list[str], Field(min_length=1)],
        within: Annotated[list[Annotated[float, Field(gt=0)]], Field(min_length=1)],
        pairs: Annotated[int, Field(ge=1)] = 20,
    ):
        self.data, self.conditions = data, conditions
        self.extractors, self.attentions = extractors, attentions
        self.within, self.pairs = within, pairs

    def run(self, folder: Path, device: torch.device) -> None:
        """Measures, prints a table, and writes `correspondence.csv` and `correspondence.png`."""
        rows: list[Row] = []
        for words in self.extractors:
            name, *overrides = words.split(",")
            extractor = registry.build("extractor", name, *overrides).to(device).eval()
            for rule in self.attentions:
                attention = registry.build("attention", rule).to(device).eval()
                attention.fit(extractor.matched)
                for condition, changes in self.conditions.items():
                    shares = self._shares(extractor, attention, changes, device)
                    title = words if len(self.attentions) == 1 else f"{words} {rule}"
                    rows.append({"matching": title, "pairs": condition, **shares})
                    log.info("%s", rows[-1])
        write_table(rows, ["matching", "pairs", *self._columns], folder, "correspondence")
        _plot(rows, self._columns, folder / "correspondence.png")

    @property
    def _columns(self) -> list[str]:
        return [f"≤ {limit:g} px" for limit in self.within]

    def _shares(
        self,
        extractor: Extractor,
        attention: TextureAttention,
        changes: Mapping[str, Any],
        device: torch.device,
    ) -> dict[str, float]:
        split = self.data(**changes).split("test")
        means = []
        for index in range(min(self.pairs, len(split))):
            sample = split[index]
            distance = _distances(
                extractor,
                attention,
                sample["target"],
                sample["reference"],
                sample["homography"],
                device,
            )
            if len(distance):
                means.append([float((distance <= limit).double().mean()) for limit in self.within])
        if not means:
            raise UserError("benchmark.data: no pair of the test split shows anything in common")
        shares = [round(float(share), 3) for share in np.mean(means, axis=0)]
        return dict(zip(self._columns, shares))


def _distances(
    extractor: Extractor,
    attention: TextureAttention,
    target: Tensor,
    reference: Pictures,
    homography: Tensor,
    device: torch.device,
) -> Tensor:
    """Target pixels from each position's match to its true place, where there is one."""
    assert isinstance(reference, Tensor), "one reference, of known correspondence"
    target, reference = (_divisible(x) for x in (target, reference))
    low = pil_resize(target, target.shape[-2] // _SCALE, target.shape[-1] // _SCALE)
    low_up, reference_low_up = (_blurred(x) for x in (target, reference))
    inputs = [x[None].to(device).float() / 255 for x in (low, low_up, reference, reference_low_up)]
    with torch.inference_mode():
        query = extractor.query(inputs[0], inputs[1])
        memory = attention.encode_reference(extractor.key(inputs[2], inputs[3]), [])
        index = attention(query, memory).index
    if index is None:
        raise UserError("this attention tells no choice, so its matches cannot be judged")
    rows, columns = memory.keys[0].shape[-2:]
    chosen = index[0].flatten().cpu()
    there = torch.stack([chosen % columns, chosen // columns], -1).double()
    truth = true_places(homography[None], query.shape[-2], query.shape[-1], _SCALE)[0]
    limit = torch.tensor([columns - 1, rows - 1])
    inside = ((truth >= 0) & (truth <= limit)).all(-1)
    return ((there - truth).abs().amax(-1) * _SCALE)[inside]


def _divisible(picture: Tensor) -> Tensor:
    height, width = (side // _SCALE * _SCALE for side in picture.shape[-2:])
    return picture[:, :height, :width]


def _blurred(picture: Tensor) -> Tensor:
    height, width = picture.shape[-2:]
    return pil_resize(pil_resize(picture, height // _SCALE, width // _SCALE), height, width)


def _plot(rows: list[Row], columns: list[str], path: Path) -> None:
    matplotlib.use("Agg")
    from matplotlib import pyplot

    conditions = list(dict.fromkeys(row["pairs"] for row in rows))
    figure, axes = pyplot.subplots(1, len(columns), figsize=(3.2 * len(columns), 3.4), sharey=True)
    for axis, column in zip(np.atleast_1d(axes), columns):
        for name in dict.fromkeys(row["matching"] for row in rows):
            own = {row["pairs"]: row[column] for row in rows if row["matching"] == name}
            axis.plot(conditions, [own[c] for c in conditions], marker="o", label=name)
        axis.set_title(f"share {column}")
        axis.tick_params(axis="x", rotation=60)
        axis.set_ylim(0, 1)
    np.atleast_1d(axes)[0].legend(fontsize="small")
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
