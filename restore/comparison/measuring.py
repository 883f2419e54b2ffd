"""Every method's pictures against every truth: whole, inside the holes and along their border."""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from restore.comparison.distances import Distances
from restore.comparison.masks import agreement
from restore.comparison.palette import PaletteFolder
from restore.comparison.statistics import mean
from restore.degradation import pil_resize
from restore.errors import UserError
from restore.images import to_uint8
from restore.inpainting import Inpainter
from restore.metrics.holes import ring
from restore.metrics.perceptual import Lpips
from restore.metrics.protocol import Protocol

Read = Callable[[str], Tensor]

# Measures of whole sets rather than of single images.
POOLED = ("fid", "kid")


@dataclass
class Baseline:
    """A method without training, run here: fills the holes of the inputs.

    `inputs` and `references` give pictures (uint8 3HW) by an image's key.
    """

    inpainter: Inpainter
    inputs: Read
    references: Read | None

    def picture(self, key: str, hole_HW: Tensor) -> Tensor:
        """The filled input, uint8 3HW of the mask's size.

        An input smaller by a whole factor is filled at its own size, with every pixel a hole that
        covers any of one, and enlarged by PIL's bicubic: nothing from inside the holes gets in.

        Raises UserError when the input has another size, or cannot be filled.
        """
        given = self.inputs(key).float() / 255
        reference = None if self.references is None else self.references(key).float() / 255
        height, width = hole_HW.shape
        factor = height // given.shape[-2]
        if factor < 1 or tuple(given.shape[-2:]) != (height // factor, width // factor):
            raise UserError(f"the input is {_size(given)}, the mask {_size(hole_HW)}")
        small = hole_HW
        if factor > 1:
            small = F.max_pool2d(hole_HW[None].float(), factor)[0] > 0
        filled = to_uint8(self.inpainter.fill(given, small, reference))
        return filled if factor == 1 else pil_resize(filled, height, width)


@dataclass
class Measured:
    """What was measured of the images that could be.

    `values[truth][method]` holds a dict of values for each of `keys`, in their order; `pooled` the
    values of whole sets. `shares` are hole shares of the images (None without masks), `doubtful`
    pixels whose place in or outside the holes is a guess, `holes` by Palette folder how well the
    holes that it shows agree with those measured on (intersection over union, per image).
    """

    keys: list[str] = field(default_factory=list)
    values: dict[str, dict[str, list[dict[str, float]]]] = field(default_factory=dict)
    pooled: dict[str, dict[str, dict[str, float]]] = field(default_factory=dict)
    shares: list[float] | None = None
    doubtful: dict[str, int] = field(default_factory=dict)
    holes: dict[str, list[float]] = field(default_factory=dict)
    left_out: list[tuple[str, str]] = field(default_factory=list)

    def names(self) -> list[str]:
        """The measures, those of the holes first."""
        first = next(iter(next(iter(self.values.values())).values()))
        found = list(dict.fromkeys(name for row in first for name in row))
        pooled = next(iter(next(iter(self.pooled.values())).values()), {}) if self.pooled else {}
        return sorted(found, key=lambda n: not n.endswith("_holes")) + list(pooled)

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

    `mask` gives its holes (bool HW) and how many of their pixels are a guess, or is None.
    """

    methods: dict[str, Read | Baseline]
    truths: dict[str, Read]
    mask: Callable[[str], tuple[Tensor, int]] | None
    palettes: dict[str, tuple[PaletteFolder, dict[str, str]]]

    def load(self, key: str) -> tuple[dict[str, Tensor], dict[str, Tensor], Tensor | None, int]:
        """Truths, methods' results, holes and doubtful pixels of one image.

        Raises UserError when one cannot be read, or is not as large as the first truth.
        """
        truths = {title: read(key) for title, read in self.truths.items()}
        first, shape = next((title, x.shape[-2:]) for title, x in truths.items())

        def fitting(what: str, x: Tensor) -> Tensor:
            if x.shape[-2:] != shape:
                raise UserError(f"{what} is {_size(x)}, {first} {shape[1]}×{shape[0]}")
            return x

        for title, x in truths.items():
            fitting(f"truth {title}", x)
        hole, doubtful = (None, 0) if self.mask is None else self.mask(key)
        if hole is not None:
            fitting("its mask", hole)
        results = {}
        for title, method in self.methods.items():
            if isinstance(method, Baseline):
                assert hole is not None
                results[title] = fitting(title, method.picture(key, hole))
            else:
                results[title] = fitting(title, method(key))
        return truths, results, hole, doubtful


def measure(
    pictures: Pictures,
    keys: list[str],
    protocol: Protocol,
    lpips: Lpips | None,
    distances: Distances | None,
    device: torch.device,
) -> Measured:
    """Measures every image that can be read and whose pictures fit each other.

    Args:
        pictures: where they come from.
        keys: the images.
        protocol: of PSNR and SSIM; what it shaves "by the scale" is nothing here.
        lpips: None: not measured.
        distances: of whole sets, as yet empty; None: not measured.
        device: where LPIPS runs.

    Raises:
        UserError: no image at all could be measured.
    """
    found = Measured()
    found.values = {t: {m: [] for m in pictures.methods} for t in pictures.truths}
    found.shares = None if pictures.mask is None else []
    for key in tqdm(keys, desc="compare", unit="img", leave=False):
        try:
            truths, results, hole, doubtful = pictures.load(key)
            shown = {n: _shown(p, names[key]) for n, (p, names) in pictures.palettes.items()}
        except UserError as error:
            found.left_out.append((key, str(error)))
            continue
        found.keys.append(key)
        if hole is not None:
            assert found.shares is not None
            found.shares.append(hole.double().mean().item())
            if doubtful:
                found.doubtful[key] = doubtful
            for title, other in shown.items():
                if other is not None and other.shape == hole.shape:
                    found.holes.setdefault(title, []).append(agreement(hole, other))
        for truth, target in truths.items():
            for method, restored in results.items():
                values = compare(restored, target, hole, protocol)
                if lpips is not None:
                    x, y = (z[None].float().to(device) / 255 for z in (restored, target))
                    values |= lpips.update("lpips", x, x, y)
                found.values[truth][method].append(values)
        if distances is not None:
            for title, picture in truths.items():
                distances.add(f"truth {title}", picture)
            for title, picture in results.items():
                distances.add(f"method {title}", picture)
    if not found.keys:
        raise UserError(f"no image could be measured: {'; '.join(map(': '.join, found.left_out))}")
    if distances is not None:
        found.pooled = {
            truth: {m: distances.between(f"method {m}", f"truth {truth}") for m in pictures.methods}
            for truth in pictures.truths
        }
    return found


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


def _shown(folder: PaletteFolder, base: str) -> Tensor | None:
    mask = folder.mask(base)
    return None if mask is None else mask.hole_HW


def _size(x: Tensor) -> str:
    return f"{x.shape[-1]}×{x.shape[-2]}"
