"""Every method's pictures against every truth: whole, inside the holes and along their border."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor
from tqdm import tqdm

from restore.errors import UserError
from restore.images.masks import agreement
from restore.metrics.image_metric import About
from restore.metrics.selection import Selection, regions
from restore.tools.compare.methods import Asked, Drawn, Method, size
from restore.tools.compare.palette import PaletteFolder
from restore.utils.tabular import mean

Read = Callable[[str], Tensor]

# Where metrics of pixels are taken, in the order of the tables' columns.
REGIONS = ["_holes", "", "_ring"]


@dataclass
class MethodResults:
    """A method that is run here: what it is, and where an image's input and reference come from."""

    maker: Method
    inputs: Read
    references: Read | None
    measured: Callable[[str, Tensor], Tensor] | None = None  # the part that is

    def asked(self, key: str, hole_HW: Tensor | None) -> Asked:
        """What it is asked of an image; UserError for an input that is broken."""
        reference = None if self.references is None else self.references(key)
        return Asked(self.inputs(key), hole_HW, reference, key)

    def picture(self, key: str, hole_HW: Tensor | None) -> Tensor:
        """The result, uint8 3HW; UserError as `Method.make`, or for an input that is broken."""
        result = self.maker.make(self.asked(key, hole_HW))
        return result if self.measured is None else self.measured(key, result)


@dataclass
class Measured:
    """What was measured.

    `values[truth][method]` holds a dict of values for each of `keys`, in their order;
    `pooled[truth][method]` the values of metrics that whole sets have; `sentences` what measured
    them, `reasons` why images have no value. `shares` are hole shares of the images (None without
    masks), `costs` by method what is known of each result besides its picture (the `seconds` that
    it took here, the `spread` of several samples), `doubtful` pixels whose place in or outside the
    holes is a guess, `holes` by Palette folder how well the holes that it shows agree with those
    measured on (intersection over union, per image).
    """

    keys: list[str]
    values: dict[str, dict[str, list[dict[str, float]]]] = field(default_factory=dict)
    pooled: dict[str, dict[str, dict[str, float]]] = field(default_factory=dict)
    sentences: dict[str, str] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)
    shares: list[float] | None = None
    costs: dict[str, list[dict[str, float]]] = field(default_factory=dict)
    doubtful: dict[str, int] = field(default_factory=dict)
    holes: dict[str, list[float]] = field(default_factory=dict)

    def names(self) -> list[str]:
        """The values' names, in the order in which they are shown."""
        return [*self.image_names(), *self._of_sets()]

    def image_names(self) -> list[str]:
        """Those of values that single images have."""
        return [*next(iter(next(iter(self.values.values())).values()))[0]]

    def _of_sets(self) -> dict[str, float]:
        return next(iter(next(iter(self.pooled.values())).values()), {}) if self.pooled else {}

    def mean(
        self, truth: str, method: str, name: str, places: Sequence[int] | None = None
    ) -> float:
        """A metric's value: of a whole set, or the mean over images.

        The mean is over the images (of those at `places`; None: all) where every method has a
        value, so that all means are of the same.
        """
        pooled = self.pooled.get(truth, {}).get(method, {})
        if name in pooled:
            return pooled[name]
        every = self.values[truth]
        chosen = range(len(self.keys)) if places is None else places
        known = [i for i in chosen if not any(math.isnan(rows[i][name]) for rows in every.values())]
        return mean([every[method][i][name] for i in known])

    def unequal(self) -> dict[str, int]:
        """By name of how many images some methods have a value and others none."""
        counts: dict[str, int] = {}
        for every in self.values.values():
            for name in self.image_names():
                lacking = [[math.isnan(row[name]) for row in rows] for rows in every.values()]
                count = sum(any(of_image) and not all(of_image) for of_image in zip(*lacking))
                counts[name] = max(counts.get(name, 0), count)
        return {name: count for name, count in counts.items() if count}

    def column(self, truth: str, method: str, name: str) -> list[float]:
        """A measure's values of every image."""
        return [row[name] for row in self.values[truth][method]]


@dataclass
class Pictures:
    """Where an image's pictures come from; each gives uint8 3HW by the image's key.

    `mask` gives its holes (bool HW) and how many of their pixels are a guess, or is None;
    `palettes` are folders that show the holes which their method worked with, and the images' names
    there.
    """

    methods: dict[str, Read | MethodResults]
    truths: dict[str, Read]
    mask: Callable[[str], tuple[Tensor, int]] | None
    palettes: dict[str, tuple[PaletteFolder, dict[str, str]]]

    def read(self, key: str) -> "Image":
        """All of an image that is in files.

        Raises UserError when some of it cannot be read, or is not as large as the first truth.
        """
        truths = {title: read(key) for title, read in self.truths.items()}
        first, like = next(iter(truths.items()))
        for title, x in truths.items():
            _fitting(f"truth {title}", x, first, like)
        hole, doubtful = (None, 0) if self.mask is None else self.mask(key)
        if hole is not None:
            _fitting("its mask", hole, first, like)
        results = {}
        for title, method in self.methods.items():
            if isinstance(method, MethodResults):
                method.inputs(key)
                if method.references is not None:
                    method.references(key)
            else:
                results[title] = _fitting(title, method(key), first, like)
        shown = {}
        for title, (folder, names) in self.palettes.items():
            mask = folder.mask(names[key])
            if mask is not None and mask.hole_HW.shape == like.shape[-2:]:
                shown[title] = mask.hole_HW
        return Image(truths, results, hole, doubtful, shown)

    def draw(self, keys: Sequence[str]) -> None:
        """Has what networks draw drawn, several pictures at once, before it is loaded."""
        for method in self.methods.values():
            if isinstance(method, MethodResults) and isinstance(method.maker, Drawn):
                shown = tqdm(keys, desc="draw", unit="img", leave=False, disable=None)
                method.maker.draw(method.asked(key, self._hole(key)) for key in shown)

    def _hole(self, key: str) -> Tensor | None:
        return None if self.mask is None else self.mask(key)[0]

    def load(self, key: str) -> "Image":
        """The same with the results of the methods that are run here."""
        image = self.read(key)
        first, like = next(iter(image.truths.items()))
        results = {}
        costs = {}
        for title, method in self.methods.items():
            if isinstance(method, MethodResults):
                begun = time.perf_counter()
                picture = method.picture(key, image.hole_HW)
                costs[title] = {"seconds": time.perf_counter() - begun}
                if isinstance(method.maker, Drawn):  # read here, drawn before
                    costs[title] = method.maker.about(key)
                results[title] = _fitting(title, picture, first, like)
            else:
                results[title] = image.results[title]
        return replace(image, results=results, costs=costs)


@dataclass(frozen=True)
class Image:
    """One image: truths and results uint8 3HW, holes, what Palette folders show of their own."""

    truths: dict[str, Tensor]
    results: dict[str, Tensor]
    hole_HW: Tensor | None
    doubtful: int
    shown: dict[str, Tensor]
    costs: dict[str, dict[str, float]] = field(default_factory=dict)


def usable(
    pictures: Pictures, keys: list[str], on_error: Literal["raise", "skip"]
) -> tuple[list[str], list[tuple[str, str]]]:
    """Reads every image once: which can be measured, and which not with the reason.

    Raises UserError over the first that cannot where `on_error` says so, or when none can.
    """
    good, bad = [], []
    for key in tqdm(keys, desc="read", unit="img", leave=False, disable=None):
        try:
            pictures.read(key)
            good.append(key)
        except UserError as error:
            if on_error == "raise":
                raise UserError(
                    f"{key}: {error}; on_error=skip leaves such images out and lists them"
                ) from error
            bad.append((key, str(error)))
    if not good:
        raise UserError(f"no image can be measured: {': '.join(bad[0])}")
    return good, bad


def measure(
    pictures: Pictures, keys: list[str], metrics: Selection, device: torch.device
) -> Measured:
    """Measures the images.

    Args:
        pictures: where they come from.
        keys: the images.
        metrics: what is measured; what a protocol shaves "by the scale" is nothing here. In the
            holes SSIM is the mean of its map over the hole pixels that are a window's middle.
        device: where they run.

    Raises:
        UserError: a method that is run here cannot make one of them.
    """
    results = Measured(keys)
    results.values = {t: {m: [] for m in pictures.methods} for t in pictures.truths}
    results.shares = None if pictures.mask is None else []
    metrics = metrics.to(device)
    own = {t: {m: metrics.fresh() for m in pictures.methods} for t in pictures.truths}
    about = About(scale=0)
    pictures.draw(keys)
    for key in tqdm(keys, desc="compare", unit="img", leave=False, disable=None):
        try:
            image = pictures.load(key)
        except UserError as error:
            raise UserError(f"{key}: {error}") from error
        hole = image.hole_HW
        if hole is not None:
            assert results.shares is not None
            results.shares.append(hole.double().mean().item())
            if image.doubtful:
                results.doubtful[key] = image.doubtful
            for title, other in image.shown.items():
                results.holes.setdefault(title, []).append(agreement(hole, other))
        for title, cost in image.costs.items():
            results.costs.setdefault(title, []).append(cost)
        every = regions(None if hole is None else hole[None, None].double().to(device))
        where = {region: every[region] for region in REGIONS if region in every}
        for truth, target in image.truths.items():
            for method, restored in image.results.items():
                x, y = (z[None].to(device).float() / 255 for z in (restored, target))
                with torch.inference_mode():
                    row = own[truth][method].measure(x, y, about, where, plain_names=True)
                results.values[truth][method].append(row)
    results.pooled = {t: {m: one.pooled() for m, one in of.items()} for t, of in own.items()}
    for one in (one for of in own.values() for one in of.values()):
        results.sentences |= one.sentences()
        results.reasons |= one.reasons()
    return results


def _fitting(what: str, x: Tensor, first: str, like: Tensor) -> Tensor:
    if x.shape[-2:] != like.shape[-2:]:
        raise UserError(f"{what} is {size(x)}, truth {first} {size(like)}")
    return x
