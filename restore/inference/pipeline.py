"""From a picture to a restored picture: what `restore.load` returns and `restore apply` runs."""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from restore.config.settings import Runtime, StandIn
from restore.errors import RunFailure, UserError
from restore.images.convert import AnyPicture, convert, convert_mask
from restore.images.io import Picture, as_float, to_uint8
from restore.images.masks import Polarity
from restore.inference import any_scale
from restore.models.weights import Loaded
from restore.utils.foreign import at_home

# What `reference` may say instead of pictures; a file of such a name is reached as ./black.
STAND_INS: tuple[StandIn, ...] = get_args(StandIn)

Tile = int | Literal["auto"] | None

_SMALLEST = 16  # side of a tile, in low pixels


@dataclass(frozen=True)
class EncodedReference:
    """What a network made of a reference; good for any number of pictures.

    `memory` is the network's own, `network` the fingerprint of its weights and its scale.
    """

    memory: Any
    network: tuple[str, float]


# One reference, several that are used together, one that was encoded, or what stands in for it.
AnyReference = AnyPicture | Sequence[AnyPicture] | EncodedReference


class Pipeline:
    """A network with its weights that restores pictures of any kind and size.

    >>> import numpy as np
    >>> import restore
    >>> net = restore.load("wdsr_b_x4", device="cpu")
    >>> net
    Pipeline(WDSR ×4 on cpu, ...)
    >>> net(np.zeros((8, 12, 3), np.uint8)).shape
    (32, 48, 3)

    Args:
        loaded: weights with their task and network.
        runtime: precision and layout.
        device: where it runs.
        scale: enlargement of each side, for networks of any scale; None: the weights' own.

    Raises:
        UserError: a network of one scale is asked for another.
    """

    def __init__(
        self,
        loaded: Loaded,
        runtime: Runtime,
        device: torch.device,
        scale: float | None = None,
    ):
        self.loaded = loaded
        self.restorer = any_scale.restorer(loaded, runtime, device, scale)
        self._last: tuple[list[Any], EncodedReference] | None = None

    @property
    def scale(self) -> float:
        """Enlargement of each side."""
        return self.restorer.scale

    @property
    def takes_reference(self) -> bool:
        """Whether a reference picture is needed."""
        return self.restorer.takes_reference

    @property
    def fills_holes(self) -> bool:
        """Whether a mask may be given."""
        return self.restorer.fills

    @property
    def stand_in(self) -> StandIn | None:
        """What the weights were trained with in place of references, and are restored with."""
        trained = self.loaded.config.get("reference")
        return trained if self.takes_reference and trained in STAND_INS else None

    def __repr__(self) -> str:
        name = self.loaded.config["backbone"]["_target_"].rpartition(".")[2]
        where = f"{name} ×{self.scale:g} on {self.restorer.device}"
        return f"{type(self).__name__}({where}, {self.loaded.sentence()})"

    def __call__(
        self,
        picture: Any,
        *,
        reference: AnyReference | None = None,
        mask: Any = None,
        tile: Tile = "auto",
        ensemble: bool = False,
        holes_are: Polarity = "white",
    ) -> Any:
        """Restores a picture, or each of several.

        Args:
            picture: a path; a PIL picture; an array HW or HWC, or a tensor HW, CHW or NCHW, of
                uint8, uint16 (arrays) or float in [0, 1]; or a list of such.
            reference: another sharp picture of the same scene, of any size and kind; several in a
                list are used together; `black`, `noise`, `self` or `none` stand in for it. It is
                the reference of all pictures, but for NCHW, which may bring one for each. What was
                made of it is kept until another one is given; see also `encode_reference`.
            mask: of the picture's size, black and white, or bool with true for a hole; one for all
                pictures, or a list (NCHW: N1HW) with one for each. Only for tasks that fill holes.
            tile: largest side of tiles in pixels of the network's low picture; `auto`: tiles where
                the picture is larger than 400×400 (with a reference 512×512); None: never.
            ensemble: mean over eight flips and turns: eight times slower, a little better.
            holes_are: what masks paint holes with.

        Returns:
            The same kind, `scale` times as large: a PIL picture for a path, a list for a list.
            Grey stays grey, transparency is kept, and a colour profile too.

        Raises:
            UserError: something that cannot be read, or does not fit the network.
            RunFailure: the device's memory is too small.
        """
        more: dict[str, Any] = {"tile": tile, "ensemble": ensemble, "holes_are": holes_are}
        if isinstance(picture, Tensor) and picture.ndim == 4:
            if len(picture) == 0:
                raise UserError("picture: there are none in the batch")
            references = _of_each(reference, len(picture))
            masks = _of_each(mask, len(picture))
            return torch.stack(
                [
                    self(one, reference=its, mask=hole, **more)
                    for one, its, hole in zip(picture, references, masks)
                ]
            )
        if isinstance(picture, list | tuple):
            masks = list(mask) if isinstance(mask, list | tuple) else [mask] * len(picture)
            if len(masks) != len(picture):
                raise UserError(f"mask: {len(masks)} masks for {len(picture)} pictures")
            return [
                self(one, reference=reference, mask=hole, **more)
                for one, hole in zip(picture, masks)
            ]
        self.check_mask(given=mask is not None)
        converted = convert(picture)
        holes = None
        if mask is not None:
            height, width = converted.picture.colour.shape[-2:]
            holes = convert_mask(mask, holes_are, (height, width))
        memory = self.memory(reference, converted.picture, _key(picture), holes)
        restored = self.restore(converted.picture, memory, holes, tile, ensemble, _key(picture))
        return converted.back(restored)

    def encode_reference(self, *references: AnyPicture) -> EncodedReference:
        """Prepares a reference (several: used together), for calls with `reference=`.

        The last one is kept: the same pictures again are not encoded again.
        """
        self.check_reference(given=True)
        keys = [_identity(one) for one in references]
        if self._last is None or not _alike(self._last[0], keys):
            self._last = None  # two at once may be too much for the device's memory
            memories = [
                self.restorer.encode_reference(_reference_pixels(one)) for one in references
            ]
            network = self.loaded.fingerprint, self.scale
            self._last = keys, EncodedReference(sum(memories[1:], memories[0]), network)
        return self._last[1]

    def memory(
        self,
        reference: AnyReference | None,
        picture: Picture,
        key: str,
        mask: Tensor | None = None,
    ) -> Any:
        """What the network makes of a picture's reference, for `restore`.

        Args:
            reference: as for a call; None: what the weights were trained with, if they were trained
                without references.
            picture: the picture that it is for.
            key: its name, for the noise.
            mask: its holes, 1HW bool.
        """
        reference = self.stand_in if reference is None else reference
        self.check_reference(given=reference is not None)
        if reference is None:
            return None
        if isinstance(reference, EncodedReference):
            if reference.network != (self.loaded.fingerprint, self.scale):
                raise UserError(
                    "reference: it was encoded by another network, or for another scale"
                )
            return reference.memory
        if isinstance(reference, str) and reference in STAND_INS:
            return self.restorer.stand_in(reference, _pixels(picture), key, mask)
        several = reference if isinstance(reference, list | tuple) else [reference]
        if not several:
            raise UserError("reference: an empty list")
        return self.encode_reference(*several).memory

    def check_reference(self, given: bool) -> None:
        """Raises UserError where one is given to a network that takes none, or the reverse."""
        if given and not self.takes_reference:
            raise UserError("reference: these weights are of a network or task that takes none")
        if self.takes_reference and not given:
            raise UserError(
                "these weights need a reference picture: give reference=…, or one of "
                f"{', '.join(STAND_INS)}"
            )

    def check_mask(self, given: bool) -> None:
        """Raises UserError where one is given to a task without holes, or none where one must."""
        if given and not self.fills_holes:
            raise UserError("mask: these weights are of a task that fills no holes")
        if self.restorer.needs_mask and not given:
            raise UserError("mask: these weights do nothing but fill holes: give their mask")

    def check_tile(self, tile: Tile) -> None:
        """Raises UserError for tiles that are too small or would change the result."""
        if not isinstance(tile, int):
            if tile not in ("auto", None):
                raise UserError(f"tile={tile!r}: give a number, 'auto' or None")
            return
        if tile < _SMALLEST:
            raise UserError(f"tile={tile}: at least {_SMALLEST}")
        if self.restorer.reach is None:
            raise UserError(
                f"tile={tile}: this network depends on the whole picture, or its "
                "receptive field is unknown, so tiles would change the result; leave "
                "tile out"
            )

    def restore(
        self,
        picture: Picture,
        memory: Any,
        mask: Tensor | None = None,
        tile: Tile = "auto",
        ensemble: bool = False,
        key: str = "picture",
    ) -> Picture:
        """The picture enlarged and its holes (1HW bool) filled, see `bands`."""
        height, width = self.restorer.size(*picture.colour.shape[-2:])
        colour = torch.empty(3, height, width)
        alpha = None if picture.alpha is None else torch.empty(1, height, width)
        top = 0
        for band in self.bands(picture, memory, mask, tile, ensemble, key):
            rows = slice(top, top + band.colour.shape[-2])
            colour[:, rows] = band.colour
            if alpha is not None and band.alpha is not None:
                alpha[:, rows] = band.alpha
            top = rows.stop
        assert top == height, (top, height)
        return replace(picture, colour=colour, alpha=alpha)

    @property
    def at_once(self) -> int:
        """How many pictures the network is best given together."""
        return self.restorer.runner.at_once

    def together(
        self, pictures: Sequence[Picture], masks: Sequence[Tensor | None], keys: Sequence[str]
    ) -> list[Tensor | None]:
        """Colours for `bands` of several pictures; None where they had better be made one by one.

        That is where there is but one, or one fails, which shall not take the others with it.
        """
        if len(pictures) > 1:
            with suppress(UserError, torch.OutOfMemoryError):
                lows = [_pixels(picture) for picture in pictures]
                return [*self.restorer.together(lows, masks, keys)]
        return [None] * len(pictures)

    def bands(
        self,
        picture: Picture,
        memory: Any,
        mask: Tensor | None = None,
        tile: Tile = "auto",
        ensemble: bool = False,
        key: str = "picture",
        colour: Tensor | None = None,
    ) -> Iterator[Picture]:
        """The picture enlarged and its holes (1HW bool) filled, some rows at a time from the top.

        `key` is its name, of which a network that draws its answer makes its chance; `colour` what
        `together` made of it already.
        It keeps its transparency, depth and colour profile. Where tiles are taken, no more than a
        band of the result as high as a tile is in memory.

        Transparency goes through the network as a grey picture, and is then kept between the least
        and the greatest of the 3×3 given pixels around: what was wholly opaque stays so.
        """
        self.check_mask(given=mask is not None)
        self.check_tile(tile)
        height, width = picture.colour.shape[-2:]
        sides = self.restorer.works_on(height, width)
        whole, reach = self.restorer.whole, self.restorer.reach
        side = automatic_tile(*sides, reach, whole) if tile == "auto" else tile
        if colour is None:
            colours = self.restorer.bands(_pixels(picture), memory, side, ensemble, mask, key)
        else:
            colours = iter([colour])
        alphas: Iterator[Tensor] | None = None
        if picture.alpha is not None:
            layer = replace(picture, colour=picture.alpha.expand(3, -1, -1), alpha=None)
            alphas = self.restorer.bands(_pixels(layer), memory, side, ensemble)
        top = 0
        try:
            for band in colours:
                if picture.grey:
                    band = band.mean(0, keepdim=True).expand(3, -1, -1)
                alpha = None
                if alphas is not None:
                    alpha = next(alphas).mean(0, keepdim=True)
                    assert alpha.shape[-2:] == band.shape[-2:]
                    alpha = alpha.clamp(*self._around(picture, top, alpha.shape[-2]))
                top += band.shape[-2]
                yield replace(picture, colour=band, alpha=alpha)
        except torch.OutOfMemoryError as error:
            raise RunFailure(
                f"the device's memory is too small for a picture of {width}×{height}; take a "
                "smaller tile (such as tile=128), a smaller reference, or the CPU"
            ) from error

    def _around(self, picture: Picture, top: int, height: int) -> tuple[Tensor, Tensor]:
        """Least and greatest transparency around each pixel of some rows of the result."""
        assert picture.alpha is not None
        sides = picture.alpha.shape[-2:]
        size = self.restorer.size(*sides)
        rows = torch.arange(top, top + height) * sides[0] // size[0]
        columns = torch.arange(size[1]) * sides[1] // size[1]
        first, last = max(0, int(rows[0]) - 1), int(rows[-1]) + 2
        near = as_float(picture.alpha[:, first:last])
        least = -F.max_pool2d(-near, 3, stride=1, padding=1)
        most = F.max_pool2d(near, 3, stride=1, padding=1)
        at = (rows - first)[:, None], columns
        return least[:, *at], most[:, *at]


def automatic_tile(height: int, width: int, reach: int | None, whole: int) -> int | None:
    """Tiles, where the network allows them, for pictures that would fill a laptop's memory.

    A tile and what it overlaps are together no more than the largest picture that is taken whole,
    a square of the side `whole`.
    """
    if reach is None or height * width <= whole**2:
        return None
    return max(whole - 2 * reach, whole // 4)


def _pixels(picture: Picture) -> Tensor:
    """What a task gets: 8 bits, whatever they are stored in, for protocols that degrade in 8 bits.

    A picture with levels between those keeps them.
    """
    eight = to_uint8(picture.colour)
    if picture.bits == 8 or torch.allclose(as_float(eight), picture.colour, rtol=0, atol=1e-6):
        return eight
    return picture.colour


def _reference_pixels(reference: AnyPicture) -> Tensor:
    """A reference in 8 bits, as data sets read it: networks are trained and measured with that.

    Matching can take other places for what is not rounded, as copies that are smaller are not then.
    """
    return to_uint8(convert(reference, "reference").picture.colour)


def _of_each(given: Any, count: int) -> list[Any]:
    """What a batch brings for each of its pictures, or the same for all.

    Raises UserError for a batch of another size.
    """
    if not (isinstance(given, Tensor) and given.ndim == 4):
        return [given] * count
    if len(given) != count:
        raise UserError(f"a batch of {len(given)} for one of {count} pictures")
    return list(given)


def _key(picture: object) -> str:
    return Path(picture).stem if isinstance(picture, str | Path) else "picture"


def _identity(picture: AnyPicture) -> Any:
    """What tells a picture from others: a file's place and time, or all its pixels."""
    if isinstance(picture, str | Path):
        path = Path(at_home(picture))
        if path.is_file():
            return str(path.resolve()), path.stat().st_mtime_ns, path.stat().st_size
    return _reference_pixels(picture)


def _alike(some: list[Any], others: list[Any]) -> bool:
    return len(some) == len(others) and all(
        a.dtype == b.dtype and torch.equal(a, b)
        if isinstance(a, Tensor) and isinstance(b, Tensor)
        else type(a) is type(b) and a == b
        for a, b in zip(some, others)
    )
