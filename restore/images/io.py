"""Picture files: reading any usual kind, writing without losing what the kind can hold."""

import logging
import math
import os
import re
import struct
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import tifffile
import torch
from PIL import Image
from torch import Tensor

from restore.errors import UnreadableImage, UserError
from restore.images import encoding
from restore.images.decoding import Picture, decode
from restore.utils.files import whole
from restore.utils.names import key, printable

log = logging.getLogger("restore")

SUFFIXES = (
    *(".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".tif", ".tiff"),
    *(".bmp", ".ppm", ".pgm", ".pbm", ".pnm", ".gif"),
)
# Pictures too, but of kinds that are not read.
_UNREAD = (
    *(".avif", ".heic", ".heif", ".jxl", ".jp2", ".j2k", ".tga", ".psd", ".exr", ".hdr"),
    *(".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".rw2", ".raf"),
)
# Folders of thumbnails and the like that systems leave beside pictures; hidden ones are left out
# too.
_BYPRODUCTS = ("@eaDir", "__MACOSX")
# What every folder of a training or an evaluation holds: its pictures are results, not data.
_RESULTS = {"config.yaml", "environment.json"}
_WRITABLE = {
    ".png": "PNG",
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".webp": "WEBP",
    ".tif": "TIFF",
    ".tiff": "TIFF",
}
# Pixels a side.
_LARGEST = {"JPEG": 65500, "WEBP": 16383}


def find(folder: Path) -> list[Path]:
    """All pictures below a folder, in natural order.

    Linked folders are read like others, each folder once. Hidden files and folders are left out,
    and, with a warning, folders of trainings and evaluations and files of kinds that are not read.

    Raises UserError when there is no such folder, or no picture in it.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"there is no folder {folder}")
    paths: list[Path] = []
    unread: list[Path] = []
    results: list[Path] = []
    seen: set[tuple[int, int]] = set()
    # Links after everything else, so that a folder has its own name rather than a link's.
    todo, linked = [folder], list[Path]()
    while todo or linked:
        place = todo.pop() if todo else linked.pop(0)
        try:
            state = place.stat()
            entries = sorted(os.scandir(place), key=lambda entry: entry.name)
        except OSError as error:
            raise UserError(f"cannot read the folder {place}: {error}") from error
        if (state.st_dev, state.st_ino) in seen:
            continue
        seen.add((state.st_dev, state.st_ino))
        if place != folder and {entry.name for entry in entries} >= _RESULTS:
            results.append(place)
            continue
        for entry in entries:
            path = place / entry.name
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                if entry.name not in _BYPRODUCTS:
                    (linked if entry.is_symlink() else todo).append(path)
            elif path.suffix.lower() in SUFFIXES and (entry.is_file() or entry.is_symlink()):
                paths.append(path)  # a link that leads nowhere too: reading it says so
            elif path.suffix.lower() in _UNREAD:
                unread.append(path)
    for some, what in ((unread, "kind(s) of picture not read"), (results, "folder(s) of results")):
        if some:
            log.warning(
                "%s: %d %s left out, such as %s",
                *(printable(folder), len(some), what, printable(some[0])),
            )
    if not paths:
        raise UserError(f"there are no pictures below {folder} (known: {', '.join(SUFFIXES)})")
    return sorted(paths, key=lambda path: _natural(str(path.relative_to(folder))))


def by_name(folder: Path) -> dict[str, Path]:
    """All pictures below a folder by their names in it (`restore.utils.names.key`), natural order.

    Raises UserError as `find`, and when two pictures have the same name.
    """
    named: dict[str, Path] = {}
    for path in find(folder):
        name = key(path, folder)
        if name in named:
            pair = [printable(other) for other in (named[name], path)]
            if pair[0] == pair[1]:
                pair = [ascii(str(other)) for other in (named[name], path)]
            raise UserError(f"{pair[0]} and {pair[1]} have the same name; one must go")
        named[name] = path
    return named


def _natural(name: str) -> tuple[list[tuple[int, str]], str]:
    parts = re.split(r"([0-9]+)", name)
    return [(int(p), "") if p.isdecimal() else (-1, p.lower()) for p in parts], name


def load(path: Path) -> Picture:
    """Decodes a picture whole, upright (EXIF rotation applied); of several frames, the first.

    Raises UnreadableImage when it is missing, truncated, no picture, or claims too many pixels.
    """
    path = Path(path)
    if not path.is_file():
        raise UnreadableImage(path, "there is no such file")
    with readable(path):
        return decode(path)


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Whatever decoders raise over a damaged file becomes UnreadableImage, which names it."""
    try:
        yield
    except _BROKEN as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UnreadableImage(path, reason) from error


# What the decoders raise over a damaged file.
_BROKEN = (
    OSError,
    EOFError,
    SyntaxError,
    ValueError,
    IndexError,
    KeyError,
    TypeError,
    OverflowError,
    MemoryError,
    struct.error,
    zlib.error,
    cv2.error,
    tifffile.TiffFileError,
    Image.DecompressionBombError,
)


def read_rgb(path: Path) -> Tensor:
    """A picture as uint8 3HW, upright, its transparency dropped.

    Raises UnreadableImage; see `load`.
    """
    return to_uint8(load(path).colour)


def to_image(picture: Picture) -> Image.Image:
    """A PIL picture of mode L, LA, RGB or RGBA, 8 bits, or I;16 for an opaque grey one of 16."""
    deep = picture.bits == 16 and picture.grey and picture.alpha is None
    array = to_array(picture, opaque=False, deep=deep)
    image = Image.fromarray(array[..., 0] if array.shape[2] == 1 else array)
    if picture.icc:
        image.info["icc_profile"] = picture.icc
    return image


def as_float(picture: Tensor) -> Tensor:
    """8-bit values as [0, 1]; floats as they are."""
    return picture.float() / 255 if picture.dtype == torch.uint8 else picture


def to_uint8(image: Tensor) -> Tensor:
    """Values in [0, 1] as 8 bits, rounded; 8 bits as they are."""
    if image.dtype == torch.uint8:
        return image.detach()
    return (image.detach().float().clamp(0, 1) * 255).round().to(torch.uint8)


def writable(path: Path) -> None:
    """Raises UserError when pictures of this suffix cannot be written."""
    if path.suffix.lower() not in _WRITABLE:
        raise UserError(f"cannot write {path}: the suffix must be one of {', '.join(_WRITABLE)}")


def fits(path: Path, height: int, width: int) -> None:
    """Raises UserError when the kind of file cannot hold so many pixels."""
    kind = _WRITABLE[path.suffix.lower()]
    most = _LARGEST.get(kind, math.inf)
    if max(height, width) > most:
        raise UserError(
            f"cannot write {path}: {kind} holds at most {most} pixels a side, not "
            f"{width}×{height}; take suffix=.png"
        )


def save(path: Path, picture: Picture, quality: int = 95) -> None:
    """Writes a picture, whole or not at all.

    PNG and TIFF keep 16 bits and transparency, WebP transparency; JPEG has neither, and what was
    transparent becomes white.

    Args:
        path: its suffix chooses the kind.
        picture: what to write.
        quality: of JPEG and WebP, 1 to 100; a WebP whose picture came from one that lost nothing
            loses nothing either.

    Raises:
        UserError: the kind is unknown or too small for the picture, or the disk refuses.
    """
    save_bands(path, [picture], picture.colour.shape[-2], quality)


def save_bands(path: Path, bands: Iterable[Picture], height: int, quality: int = 95) -> None:
    """The same of a picture that comes as bands of its rows, from the top, alike but for them.

    PNG and TIFF are written as they come, so that no more than one band is in memory.
    """
    writable(path)
    coming = iter(bands)
    first = next(coming)
    fits(path, height, first.colour.shape[-1])
    kind = _WRITABLE[path.suffix.lower()]
    rows = (
        to_array(band, opaque=kind == "JPEG", deep=kind in ("PNG", "TIFF"))
        for band in chain([first], coming)
    )
    with whole(path) as temporary:
        if kind == "TIFF":
            encoding.write_tiff(temporary, rows, height, first.icc)
        elif kind == "PNG":
            encoding.write_png(temporary, rows, height, first.icc)
        else:
            array = _together(rows, height)
            image = Image.fromarray(array[..., 0] if array.shape[2] == 1 else array)
            more: dict[str, Any] = {"icc_profile": first.icc} if first.icc else {}
            if kind == "WEBP" and first.lossless_webp:
                more |= {"lossless": True, "exact": True}
            else:
                more["quality"] = quality
            image.save(temporary, kind, **more)


def _together(rows: Iterator[np.ndarray], height: int) -> np.ndarray:
    """All rows, without holding the bands beside them."""
    first = next(rows)
    if len(first) == height:
        return first
    array = np.empty((height, *first.shape[1:]), first.dtype)
    top = 0
    for band in chain([first], rows):
        array[top : top + len(band)] = band
        top += len(band)
    assert top == height, (top, height)
    return array


def to_array(picture: Picture, opaque: bool, deep: bool) -> np.ndarray:
    """HWC pixels, uint16 where the picture has 16 bits and `deep` allows it, else uint8."""
    colour, alpha = picture.colour, picture.alpha
    colour = colour[:1] if picture.grey else colour
    deep = deep and picture.bits == 16
    channels = [colour] if alpha is None or opaque else [colour, alpha]
    if alpha is not None and opaque:
        share = as_float(alpha)
        channels = [as_float(colour) * share + (1 - share)]
    levels = [_levels(x, 65535 if deep else 255) for x in channels]
    return np.ascontiguousarray(np.concatenate(levels, -1))


def _levels(x_CHW: Tensor, most: int) -> np.ndarray:
    """Whole numbers up to 255 or 65535, HWC."""
    if x_CHW.dtype == torch.uint8 and most == 255:
        return x_CHW.detach().permute(1, 2, 0).cpu().numpy()
    values = as_float(x_CHW.detach()).float().clamp(0, 1).mul_(most).round_()
    return values.permute(1, 2, 0).cpu().numpy().astype(np.uint8 if most == 255 else np.uint16)


def save_png(path: Path, image_CHW: Tensor) -> None:
    """Writes uint8 or float [0, 1] pixels as an 8-bit PNG, whole or not at all."""
    save(path, Picture(image_CHW))
