"""Every method's pictures against every truth: whole, inside the holes and along their border."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor
from tqdm import tqdm

from restore.errors import UserError
from restore.images.masks import agreement
from restore.metrics.holes import ring
from restore.metrics.perceptual import Lpips
from restore.metrics.protocol import Protocol
from restore.tools.compare.distances import Distances
from restore.tools.compare.methods import Method, size
from restore.tools.compare.palette import PaletteFolder
from restore.tools.compare.statistics import mean

Read = Callable[[str], Tensor]

# Measures of whole sets rather than of single images.
POOLED = ("fid", "kid")


@dataclass
class MethodResults:
    """A method that is run here: what it is, and where an image's input and reference come from."""

    maker: Method
    inputs: Read
    references: Read | None

    def picture(self, key: str, hole_HW: Tensor | None) -> Tensor:
        """The result, uint8 3HW; UserError as `Method.make`, or for an input that is broken."""
        reference = None if self.references is None else self.references(key)
        return self.maker.make(self.inputs(key), hole_HW, reference)


@dataclass
class Measured:
    """What was measured.

    `values[truth][method]` holds a dict of values for each of `keys`, in their order; `pooled` the
    values of whole sets. `shares` are hole shares of the images (None without masks), `doubtful`
    pixels whose place in or outside the holes is a guess, `holes` by Palette folder how well the
    holes that it shows agree with those measured on (intersection over union, per image).
    """

    keys: list[str]
    values: dict[str, dict[str, list[dict[str, float]]]] = field(default_factory=dict)
    pooled: dict[str, dict[str, dict[str, float]]] = field(default_factory=dict)
    shares: list[float] | None = None
    doubtful: dict[str, int] = field(default_factory=dict)
    holes: dict[str, list[float]] = field(default_factory=dict)

    def names(self) -> list[str]:
        """The measures, in the order in which they are shown."""
        first = next(iter(next(iter(self.values.values())).values()))
        pooled = next(iter(next(iter(self.pooled.values())).values()), {}) if self.pooled else {}
        return [*first[0], *pooled]

    def mean(self, truth: str, method: str, name: str) -> float:
        """A measure over all images: of a whole set, or the mean of those that have a value."""
        pooled = self.pooled.get(truth, {}).get(method, {})
        return pooled[name] if name in pooled else mean(self.column(truth, method, name))

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

    def load(self, key: str) -> "Image":
        """The same with the results of the methods that are run here."""
        image = self.read(key)
        first, like = next(iter(image.truths.items()))
        found = {}
        for title, method in self.methods.items():
            if isinstance(method, MethodResults):
                made = method.picture(key, image.hole_HW)
                found[title] = _fitting(title, made, first, like)
            else:
                found[title] = image.results[title]
        return replace(image, results=found)


@dataclass(frozen=True)
class Image:
    """One image: truths and results uint8 3HW, holes, what Palette folders show of their own."""

    truths: dict[str, Tensor]
    results: dict[str, Tensor]
    hole_HW: Tensor | None
    doubtful: int
    shown: dict[str, Tensor]


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
    pictures: Pictures,
    keys: list[str],
    protocol: Protocol,
    lpips: Lpips | None,
    distances: Distances | None,
    device: torch.device,
) -> Measured:
    """Measures the images.

    Args:
        pictures: where they come from.
        keys: the images.
        protocol: of PSNR and SSIM; what it shaves "by the scale" is nothing here.
        lpips: None: not measured.
        distances: of whole sets, as yet empty; None: not measured.
        device: where LPIPS runs.

    Raises:
        UserError: a method that is run here cannot make one of them.
    """
    found = Measured(keys)
    found.values = {t: {m: [] for m in pictures.methods} for t in pictures.truths}
    found.shares = None if pictures.mask is None else []
    for key in tqdm(keys, desc="compare", unit="img", leave=False, disable=None):
        try:
            image = pictures.load(key)
        except UserError as error:
            raise UserError(f"{key}: {error}") from error
        if image.hole_HW is not None:
            assert found.shares is not None
            found.shares.append(image.hole_HW.double().mean().item())
            if image.doubtful:
                found.doubtful[key] = image.doubtful
            for title, other in image.shown.items():
                found.holes.setdefault(title, []).append(agreement(image.hole_HW, other))
        for truth, target in image.truths.items():
            for method, restored in image.results.items():
                values = compare(restored, target, image.hole_HW, protocol)
                if lpips is not None:
                    x, y = (z[None].float().to(device) / 255 for z in (restored, target))
                    values |= lpips.update("lpips", x, x, y)
                found.values[truth][method].append(values)
        if distances is not None:
            for title, picture in image.truths.items():
                distances.add(f"truth {title}", picture)
            for title, picture in image.results.items():
                distances.add(f"method {title}", picture)
    if distances is not None:
        found.pooled = {
            truth: {m: distances.between(f"method {m}", f"truth {truth}") for m in pictures.methods}
            for truth in pictures.truths
        }
    return found


def names(holes: bool, lpips: bool) -> list[str]:
    """The measures of single images that are taken, those of holes first."""
    regions = ["_holes", "", "_ring"] if holes else [""]
    found = [f"{metric}{region}" for region in regions for metric in ("psnr", "ssim")]
    return [*found, "lpips"] if lpips else found


def compare(
    restored: Tensor, target: Tensor, hole_HW: Tensor | None, protocol: Protocol
) -> dict[str, float]:
    """PSNR and SSIM of one picture (uint8 3HW): whole, on hole pixels, along their border.

    In the holes SSIM is the mean of its map over the hole pixels that are a window's middle.
    """
    regions: dict[str, Tensor | None] = {"": None}
    if hole_HW is not None:
        inside = hole_HW[None, None].double()
        regions = {"_holes": inside, "": None, "_ring": ring(inside)}
    values: dict[str, float] = {}
    x, y = (z[None].double() / 255 for z in (restored, target))
    for region, weight in regions.items():
        for name, value in protocol.measure(x, y, 0, weight)[0].items():
            values[name.partition("_")[0] + region] = value
    return values


def _fitting(what: str, x: Tensor, first: str, like: Tensor) -> Tensor:
    if x.shape[-2:] != like.shape[-2:]:
        raise UserError(f"{what} is {size(x)}, truth {first} {size(like)}")
    return x
