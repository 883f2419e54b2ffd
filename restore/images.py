"""Picture files: reading any usual kind, writing without losing what the kind can hold."""

import os
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
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from restore.errors import UnreadableImage, UserError

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp", ".ppm", ".pgm", ".gif")
_WRITABLE = {
    ".png": "PNG",
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".webp": "WEBP",
    ".tif": "TIFF",
    ".tiff": "TIFF",
}


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


def _natural(name: str) -> list[tuple[int, str]]:
    return [(int(p), "") if p.isdigit() else (-1, p.lower()) for p in re.split(r"(\d+)", name)]


def load(path: Path) -> Picture:
    """Decodes a picture whole, upright (EXIF rotation applied).

    Raises UnreadableImage when it is missing, truncated or no picture.
    """
    path = Path(path)
    if not path.is_file():
        raise UnreadableImage(path, "there is no such file")
    try:
        with Image.open(path) as opened:
            icc = opened.info.get("icc_profile")
            deep = _sixteen_bit(path, opened)
            if deep is not None:
                return replace(_from_array(deep, 16), icc=icc)
            opened.load()
            image = ImageOps.exif_transpose(opened)
        transparent = (
            image.mode in ("LA", "PA", "RGBA", "La", "RGBa") or "transparency" in image.info
        )
        grey = image.mode in ("1", "L", "LA", "La", "I", "F")
        if image.mode == "CMYK":
            icc = None  # a CMYK profile says nothing about the RGB that is made of it
        array = np.array(image.convert("RGBA" if transparent else "RGB"))
    except (
        OSError,
        UnidentifiedImageError,
        SyntaxError,
        ValueError,
        EOFError,
        Image.DecompressionBombError,
    ) as error:
        raise UnreadableImage(path, str(error) or type(error).__name__) from error
    return replace(_from_array(array, 8), grey=grey, icc=icc)


def _sixteen_bit(path: Path, opened: Image.Image) -> np.ndarray | None:
    """HWC pixels of a 16-bit file, which PIL would cut to 8 bits; None for any other."""
    if opened.format not in ("PNG", "TIFF"):
        return None
    raw = np.frombuffer(path.read_bytes(), np.uint8)
    if opened.format == "PNG" and raw[24] != 16:  # the bit depth in PNG's first chunk
        return None
    if opened.format == "TIFF" and opened.tag_v2.get(258, (8,))[0] != 16:  # type: ignore[attr-defined]
        return None
    array = cv2.imdecode(raw, cv2.IMREAD_UNCHANGED)
    if array is None:
        raise UnreadableImage(path, "its 16-bit pixels cannot be decoded")
    if array.dtype != np.uint16:
        return None
    array = array[..., None] if array.ndim == 2 else array
    order = {1: [0], 3: [2, 1, 0], 4: [2, 1, 0, 3]}[array.shape[2]]
    turn = _TURNS.get(opened.getexif().get(0x0112, 1), lambda x: x)
    return turn(array[..., order])


# EXIF's orientations as turns of arrays.
_TURNS = {
    2: lambda x: x[:, ::-1],
    3: lambda x: x[::-1, ::-1],
    4: lambda x: x[::-1],
    5: lambda x: x.transpose(1, 0, 2),
    6: lambda x: np.rot90(x, -1),
    7: lambda x: x[::-1, ::-1].transpose(1, 0, 2),
    8: lambda x: np.rot90(x),
}


def _from_array(array_HWC: np.ndarray, bits: int) -> Picture:
    picture = torch.from_numpy(
        np.ascontiguousarray(array_HWC.transpose(2, 0, 1)).astype(np.float32)
    )
    picture = picture / (2**bits - 1)
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


def save(path: Path, picture: Picture, quality: int = 95) -> None:
    """Writes a picture, whole or not at all.

    PNG and TIFF keep 16 bits and transparency, WebP transparency; JPEG has neither, and what was
    transparent becomes white.

    Args:
        path: its suffix chooses the kind.
        picture: what to write.
        quality: of JPEG and WebP, 1 to 100.
    """
    writable(path)
    kind = _WRITABLE[path.suffix.lower()]
    channels = picture.colour[:1] if picture.grey else picture.colour
    if picture.alpha is not None:
        if kind == "JPEG":
            channels = channels * picture.alpha + (1 - picture.alpha)
        else:
            channels = torch.cat([channels, picture.alpha])
    array = channels.detach().double().clamp(0, 1).permute(1, 2, 0).cpu().numpy()
    temporary = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        if picture.bits == 16 and kind in ("PNG", "TIFF"):
            _save_deep(temporary, kind, np.round(array * 65535).astype(np.uint16), picture.icc)
        else:
            eight = np.round(array * 255).astype(np.uint8)
            image = Image.fromarray(eight[..., 0] if eight.shape[2] == 1 else eight)
            more: dict[str, Any] = {"icc_profile": picture.icc} if picture.icc else {}
            if kind in ("JPEG", "WEBP"):
                more |= {"quality": quality}
            image.save(temporary, kind, **more)
        os.replace(temporary, path)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error}") from error
    finally:
        temporary.unlink(missing_ok=True)


def _save_deep(path: Path, kind: str, array_HWC: np.ndarray, icc: bytes | None) -> None:
    if kind == "TIFF":
        channels = array_HWC.shape[2]
        tifffile.imwrite(
            path,
            array_HWC if channels > 1 else array_HWC[..., 0],
            photometric="rgb" if channels >= 3 else "minisblack",
            extrasamples=["unassalpha"] if channels in (2, 4) else None,
            compression="zlib",
            iccprofile=icc,
        )
        return
    if array_HWC.shape[2] == 2:  # OpenCV writes no grey with transparency
        array_HWC = array_HWC[..., [0, 0, 0, 1]]
    order = {1: [0], 3: [2, 1, 0], 4: [2, 1, 0, 3]}[array_HWC.shape[2]]
    done, encoded = cv2.imencode(".png", np.ascontiguousarray(array_HWC[..., order]))
    assert done
    data = encoded.tobytes()
    if icc:  # OpenCV has no colour profiles: the chunk goes in behind the header (PNG section 11.3)
        body = b"iCCP" + b"profile\0\0" + zlib.compress(icc)
        chunk = struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
        data = data[:33] + chunk + data[33:]
    path.write_bytes(data)


def save_png(path: Path, image_CHW: Tensor) -> None:
    """Writes uint8 or float [0, 1] pixels as an 8-bit PNG, whole or not at all."""
    colour = image_CHW.float() / 255 if image_CHW.dtype == torch.uint8 else image_CHW
    save(path, Picture(colour))
