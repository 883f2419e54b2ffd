"""Picture files: reading any usual kind, writing without losing what the kind can hold."""

import math
import re
import struct
import zlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import tifffile
import torch
from PIL import Image, ImageOps
from torch import Tensor

from restore.errors import UnreadableImage, UserError
from restore.utils.files import whole

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp", ".ppm", ".pgm", ".gif")
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


@dataclass(frozen=True)
class Picture:
    """A decoded picture and what its file said about it.

    `colour` is 3HW float32 in [0, 1] (grey ones hold their grey three times), `alpha` 1HW or None,
    `bits` 8 or 16 a channel, `grey` whether the file had one channel, `icc` its colour profile.
    """

    colour: Tensor
    alpha: Tensor | None = None
    bits: int = 8
    grey: bool = False
    icc: bytes | None = None


def find(folder: Path) -> list[Path]:
    """All pictures below a folder, in natural order.

    Raises UserError when there is no such folder, or no picture in it.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"there is no folder {folder}")
    found = [
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and path.is_file()
    ]
    if not found:
        raise UserError(f"there are no pictures below {folder} (known: {', '.join(SUFFIXES)})")
    return sorted(found, key=lambda path: _natural(str(path.relative_to(folder))))


def by_name(folder: Path) -> dict[str, Path]:
    """All pictures below a folder by their path in it without the suffix, in natural order.

    Raises UserError as `find`, and when two pictures have the same name.
    """
    named: dict[str, Path] = {}
    for path in find(folder):
        name = path.relative_to(folder).with_suffix("").as_posix()
        if name in named:
            raise UserError(f"{named[name]} and {path} have the same name; one must go")
        named[name] = path
    return named


def _natural(name: str) -> tuple[list[tuple[int, str]], str]:
    parts = re.split(r"([0-9]+)", name)
    return [(int(p), "") if p.isdecimal() else (-1, p.lower()) for p in parts], name


def load(path: Path) -> Picture:
    """Decodes a picture whole, upright (EXIF rotation applied); of several frames, the first.

    Raises UnreadableImage when it is missing, truncated or no picture.
    """
    path = Path(path)
    if not path.is_file():
        raise UnreadableImage(path, "there is no such file")
    try:
        return _decode(path)
    except _BROKEN as error:
        raise UnreadableImage(path, str(error) or type(error).__name__) from error


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


def _decode(path: Path) -> Picture:
    with open(path, "rb") as file:
        head = file.read(26)
    # PIL would cut pixels of 16 bits to 8.
    if head[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        deep = _deep_tiff(path)
        if deep is not None:
            return deep
    with Image.open(path) as opened:
        if opened.format == "PNG" and head[24] == 16:
            array = _deep_png(path, grey=head[25] in (0, 4))
            upright = _upright(array, opened.getexif().get(_TURNED, 1))
            return replace(from_array(upright), icc=opened.info.get("icc_profile"))
        opened.load()
        return from_image(opened)


def from_image(opened: Image.Image) -> Picture:
    """A decoded PIL picture, upright (EXIF rotation applied).

    Raises ValueError for pixels of 32 bits.
    """
    icc = opened.info.get("icc_profile")
    image = ImageOps.exif_transpose(opened)
    if image.mode.startswith("I;16") or (image.mode == "I" and opened.format == "PPM"):
        return replace(from_array(np.array(image).astype(np.uint16)[..., None]), icc=icc)
    if image.mode in ("I", "F"):
        raise ValueError("its pixels have 32 bits; pictures of 8 or 16 bits a channel are known")
    transparent = image.mode in ("LA", "PA", "RGBA", "La", "RGBa") or "transparency" in image.info
    grey = image.mode in ("1", "L", "LA", "La")
    if image.mode == "CMYK":
        icc = None  # a CMYK profile says nothing about the RGB that is made of it
    array = np.array(image.convert("RGBA" if transparent else "RGB"))
    return replace(from_array(array), grey=grey, icc=icc)


def to_image(picture: Picture) -> Image.Image:
    """A PIL picture of mode L, LA, RGB or RGBA, 8 bits, or I;16 for an opaque grey one of 16."""
    deep = picture.bits == 16 and picture.grey and picture.alpha is None
    array = to_array(picture, opaque=False, deep=deep)
    image = Image.fromarray(array[..., 0] if array.shape[2] == 1 else array)
    if picture.icc:
        image.info["icc_profile"] = picture.icc
    return image


def _deep_png(path: Path, grey: bool) -> np.ndarray:
    """HWC pixels of a 16-bit PNG as they are stored, with transparency as the last channel."""
    array = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_UNCHANGED)
    if array is None or array.dtype != np.uint16:
        raise ValueError("its 16-bit pixels cannot be decoded")
    array = array[..., None] if array.ndim == 2 else array
    order = {1: [0], 3: [2, 1, 0], 4: [0, 3] if grey else [2, 1, 0, 3]}[array.shape[2]]
    return array[..., order]


def _deep_tiff(path: Path) -> Picture | None:
    """A TIFF of 16-bit grey or RGB; None for any other."""
    kinds = tifffile.PHOTOMETRIC
    with tifffile.TiffFile(path) as file:
        page = file.pages.first
        plain = page.photometric in (kinds.MINISBLACK, kinds.MINISWHITE, kinds.RGB)
        if page.dtype != np.uint16 or page.bitspersample != 16 or not plain:
            return None
        tags = {code: page.tags[code].value for code in (_TURNED, _PROFILE) if code in page.tags}
        easy = tifffile.COMPRESSION.NONE, tifffile.COMPRESSION.ADOBE_DEFLATE
        if page.compression in easy and page.predictor in (1, 2):
            array = page.asarray()
            array = np.moveaxis(array, 0, -1) if page.axes == "SYX" else array
            array = _upright(array if array.ndim == 3 else array[..., None], tags.get(_TURNED, 1))
        else:  # OpenCV knows more compressions, and turns the picture itself
            found = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_UNCHANGED)
            if found is None or found.dtype != np.uint16:
                raise ValueError("its 16-bit pixels cannot be decoded")
            found = found[..., None] if found.ndim == 2 else found
            array = found[..., {1: [0], 3: [2, 1, 0], 4: [2, 1, 0, 3]}[found.shape[2]]]
        if page.photometric == kinds.MINISWHITE:
            array = 65535 - array
    if array.shape[2] > 4:
        raise ValueError(f"it has {array.shape[2]} channels")
    return replace(from_array(array), icc=tags.get(_PROFILE))


# Tags of EXIF and TIFF.
_TURNED, _PROFILE = 274, 34675


def _upright(array_HWC: np.ndarray, orientation: int) -> np.ndarray:
    """Undoes EXIF's orientation, 1 to 8; anything else means nothing."""
    if orientation not in range(2, 9):
        return array_HWC
    if orientation >= 5:
        array_HWC = array_HWC.transpose(1, 0, 2)
    rows = -1 if orientation in (3, 4, 7, 8) else 1
    columns = -1 if orientation in (2, 3, 6, 7) else 1
    return array_HWC[::rows, ::columns]


def from_array(array_HWC: np.ndarray) -> Picture:
    """The picture of uint8 or uint16 pixels HWC, the last of two or four channels transparency."""
    bits = 8 * array_HWC.itemsize
    planes = np.ascontiguousarray(array_HWC.transpose(2, 0, 1), dtype=np.float32)
    picture = torch.from_numpy(planes).div_(2**bits - 1)
    channels = picture.shape[0]
    alpha = picture[-1:] if channels in (2, 4) else None
    colour = picture[:3] if channels >= 3 else picture[:1].expand(3, -1, -1)
    return Picture(colour.contiguous(), alpha, bits, grey=channels < 3)


def read_rgb(path: Path) -> Tensor:
    """A picture as uint8 3HW, upright, its transparency dropped.

    Raises UnreadableImage; see `load`.
    """
    return to_uint8(load(path).colour)


def to_uint8(image: Tensor) -> Tensor:
    """Values in [0, 1] as 8 bits, rounded."""
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
        quality: of JPEG and WebP, 1 to 100.

    Raises:
        UserError: the kind is unknown or too small for the picture, or the disk refuses.
    """
    writable(path)
    fits(path, *picture.colour.shape[-2:])
    kind = _WRITABLE[path.suffix.lower()]
    array = to_array(picture, opaque=kind == "JPEG", deep=kind in ("PNG", "TIFF"))
    with whole(path) as temporary:
        if kind == "TIFF":
            _save_tiff(temporary, array, picture.icc)
        elif array.dtype == np.uint16:
            _save_deep_png(temporary, array, picture.icc)
        else:
            image = Image.fromarray(array[..., 0] if array.shape[2] == 1 else array)
            more: dict[str, Any] = {"icc_profile": picture.icc} if picture.icc else {}
            if kind in ("JPEG", "WEBP"):
                more |= {"quality": quality}
            image.save(temporary, kind, **more)


def to_array(picture: Picture, opaque: bool, deep: bool) -> np.ndarray:
    """HWC pixels, uint16 where the picture has 16 bits and `deep` allows it, else uint8."""
    channels = picture.colour[:1] if picture.grey else picture.colour
    if picture.alpha is not None:
        if opaque:
            channels = channels * picture.alpha + (1 - picture.alpha)
        else:
            channels = torch.cat([channels, picture.alpha])
    deep = deep and picture.bits == 16
    values = channels.detach().float().clamp(0, 1).mul_(65535 if deep else 255).round_()
    array = values.permute(1, 2, 0).cpu().numpy()
    return np.ascontiguousarray(array, dtype=np.uint16 if deep else np.uint8)


def _save_tiff(path: Path, array_HWC: np.ndarray, icc: bytes | None) -> None:
    channels = array_HWC.shape[2]
    tifffile.imwrite(
        path,
        array_HWC if channels > 1 else array_HWC[..., 0],
        photometric="rgb" if channels >= 3 else "minisblack",
        planarconfig="contig" if channels > 1 else None,
        extrasamples=["unassalpha"] if channels in (2, 4) else None,
        compression="zlib",
        iccprofile=icc,
        metadata=None,
    )


def _save_deep_png(path: Path, array_HWC: np.ndarray, icc: bytes | None) -> None:
    """A PNG of 16 bits (W3C, PNG third edition), which PIL does not write."""
    height, width, channels = array_HWC.shape
    kind = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    lines = array_HWC.astype(">u2").view(np.uint8).reshape(height, -1)
    # Each line's difference to the one above ("Up", filter 2), which packs better.
    lines = np.concatenate([lines[:1], lines[1:] - lines[:-1]])
    filtered = np.pad(lines, ((0, 0), (1, 0)), constant_values=2)
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, 0))]
    if icc:
        chunks.append((b"iCCP", b"profile\0\0" + zlib.compress(icc)))
    packed = zlib.compress(filtered.tobytes())
    step = 1 << 26  # a chunk holds less than 2 GiB
    chunks += [(b"IDAT", packed[at : at + step]) for at in range(0, len(packed), step)]
    chunks.append((b"IEND", b""))
    with open(path, "wb") as file:
        file.write(b"\x89PNG\r\n\x1a\n")
        for name, body in chunks:
            checksum = zlib.crc32(body, zlib.crc32(name))
            file.write(struct.pack(">I", len(body)) + name + body + struct.pack(">I", checksum))


def save_png(path: Path, image_CHW: Tensor) -> None:
    """Writes uint8 or float [0, 1] pixels as an 8-bit PNG, whole or not at all."""
    colour = image_CHW.float() / 255 if image_CHW.dtype == torch.uint8 else image_CHW
    save(path, Picture(colour))
