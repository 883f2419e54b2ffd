"""From a picture's file to its pixels: the one door for every kind that is meant.

What a header claims is looked at before anything is unpacked. Pillow decodes most kinds; where it
would drop transparency or cut 16 bits to 8, OpenCV, tifffile or the few lines below do.
"""

import io
import math
import os
import struct
import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import cv2
import numpy as np
import tifffile
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

# Pillow opens files by their content, and knows kinds that no one means here: an EPS would be
# handed to Ghostscript.
KINDS = ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "PPM", "GIF")
# Megapixels that a file may hold, see `check_size`.
LIMIT = "RESTORE_MAX_MEGAPIXELS"
_MEGAPIXELS = 128
# A file of many bytes is no bomb, whatever it holds: results of large pictures can be read again.
_PIXELS_A_BYTE = 16
# Bytes of a colour profile, unpacked, and of a text that may say how a picture is turned.
_LARGEST_PROFILE, _LARGEST_TEXT = 1 << 26, 1 << 20


@dataclass(frozen=True)
class Picture:
    """A decoded picture and what its file said about it.

    `colour` is 3HW (grey ones hold their grey three times) and `alpha`, straight, 1HW or None: both
    uint8, or float32 in [0, 1] where the file has more than 8 bits. `bits` is 8 or 16 a channel,
    `grey` whether the file had one channel, `icc` its colour profile, `lossless_webp` whether it is
    a WebP that lost nothing.
    """

    colour: Tensor
    alpha: Tensor | None = None
    bits: int = 8
    grey: bool = False
    icc: bytes | None = None
    lossless_webp: bool = False


def decode(path: Path) -> Picture:
    """The picture of a file, upright (EXIF rotation applied); of several frames, the first.

    Raises whatever the decoders do over a damaged file, and ValueError for what is not meant.
    """
    with open(path, "rb") as file:
        head = file.read(34)
    if head[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        deep = _deep_tiff(path)
        if deep is not None:
            return deep
    if head[:8] == _PNG:
        return _png(path)
    if head[:2] == b"BM":
        deep = _deep_bmp(path)
        if deep is not None:
            return deep
    if head[:2] in (b"P5", b"P6"):
        deep = _deep_netpbm(path)
        if deep is not None:
            return deep
    with opened(path) as image:
        pixels = _from_pillow(image)
    del image  # it holds the pixels too
    picture = pixels.picture()
    return replace(picture, lossless_webp=head[:4] == b"RIFF" and _lossless_webp(path))


@contextmanager
def opened(path: Path, content: BinaryIO | None = None) -> Iterator[Image.Image]:
    """A picture's file opened by Pillow, as one of the kinds that are meant, its size looked at.

    Args:
        path: the file.
        content: what is read in its place.

    Raises:
        ValueError: it is of another kind or claims too many pixels.
        OSError and others: Pillow's over a damaged or missing file.
    """
    if content is None:
        with open(path, "rb") as file:
            head = file.read(30)
        if head[:4] == b"RIFF":  # Pillow makes room for all pixels of a WebP as it opens it
            check_size(path, *_webp_size(head))
    with _LOCK:
        # Pillow's own limit would refuse results of this project; ours stands in for it.
        before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            image = Image.open(path if content is None else content, formats=KINDS)
        except UnidentifiedImageError as error:
            raise ValueError(f"it is no {', '.join(KINDS[:-1])} or {KINDS[-1]}") from error
        finally:
            Image.MAX_IMAGE_PIXELS = before
    with image:
        check_size(path, image.width, image.height)
        yield image


_LOCK = threading.Lock()


def check_size(path: Path, width: int, height: int) -> None:
    """Raises ValueError when so many pixels are more than a file of its size may claim."""
    limit = os.environ.get(LIMIT, str(_MEGAPIXELS))
    try:
        most = float(limit) * 1e6
    except ValueError:
        raise ValueError(f"{LIMIT}={limit} is not a number") from None
    if width * height > max(most, _PIXELS_A_BYTE * path.stat().st_size):
        raise ValueError(
            f"it claims {width}×{height} pixels, more than {most / 1e6:g} megapixels in a small "
            f"file; if it is sound, set {LIMIT} higher"
        )


class _Pixels(NamedTuple):
    """Pixels of a picture, HWC, as Pillow gives them, and what its file said about it."""

    array_HWC: np.ndarray
    grey: bool
    icc: bytes | None

    def picture(self) -> Picture:
        return replace(from_array(self.array_HWC), grey=self.grey, icc=self.icc)


def _from_pillow(image: Image.Image) -> _Pixels:
    """Copies no more than it must: a picture may be as large as the memory has room for."""
    kind, icc = image.format, image.info.get("icc_profile")
    image.load()
    ImageOps.exif_transpose(image, in_place=True)
    if image.mode.startswith("I;16") or (image.mode == "I" and kind == "PPM"):
        return _Pixels(np.array(image).astype(np.uint16)[..., None], True, icc)
    if image.mode in ("I", "F"):
        raise ValueError("its pixels have 32 bits; pictures of 8 or 16 bits a channel are known")
    if image.mode == "La":
        image = image.convert("LA")
    transparent = image.mode in ("LA", "PA", "RGBA", "RGBa") or "transparency" in image.info
    grey = image.mode in ("1", "L", "LA")
    if image.mode == "CMYK":
        icc = None  # a CMYK profile says nothing about the RGB that is made of it
    wanted = "RGBA" if transparent else "RGB"
    if image.mode == "L" and not transparent:
        return _Pixels(np.array(image)[..., None], grey, icc)
    return _Pixels(np.array(image if image.mode == wanted else image.convert(wanted)), grey, icc)


def from_image(image: Image.Image) -> Picture:
    """A PIL picture that someone else opened, upright (EXIF rotation applied).

    Raises ValueError for pixels of 32 bits.
    """
    own = image.copy()  # whose frame and format `copy` forgets
    own.format = image.format
    return _from_pillow(own).picture()


# PNG (W3C, third edition) --------------------------------------------------------------------

_PNG = b"\x89PNG\r\n\x1a\n"
_GREY, _RGB, _PALETTE = 0, 2, 3  # kinds of colour, without transparency
# What the decoders are given; Pillow refuses sound files for long texts, which nobody needs here.
_NEEDED = (b"IHDR", b"PLTE", b"IDAT", b"IEND", b"eXIf")
_TURNING_TEXTS = (b"XML:com.adobe.xmp", b"Raw profile type exif", b"Raw profile type APP1")


def _png(path: Path) -> Picture:
    content = path.read_bytes()
    if content[12:16] != b"IHDR" or len(content) < 33:
        raise ValueError("its header is damaged")
    width, height, depth, kind = struct.unpack(">IIBB", content[16:26])
    check_size(path, width, height)
    icc = transparent = None
    kept = [_PNG]
    for name, start, stop in _chunks(content):
        body = memoryview(content)[start + 8 : stop - 4]
        if name == b"iCCP":
            icc = _profile(bytes(body))
        elif name == b"tRNS" and kind in (_GREY, _RGB):
            # Pillow knows one colour at 8 bits only, and OpenCV's answer depends on its version.
            values = struct.unpack(f">{len(body) // 2}H", body)
            transparent = np.array(values, np.uint16) & (2**depth - 1)
            if len(transparent) != (1 if kind == _GREY else 3):
                raise ValueError("its transparent colour is damaged")
        elif name in _NEEDED or name == b"tRNS" or _turns(name, body):
            kept.append(memoryview(content)[start:stop])  # type: ignore[arg-type]
    lean = b"".join(kept)
    del content, kept
    with opened(path, io.BytesIO(lean)) as image:
        if depth < 16:
            pixels = _from_pillow(image)
        turn = image.getexif().get(_TURNED, 1)
    del image  # it holds the pixels too
    if depth < 16:
        del lean, body
        picture = replace(pixels.picture(), icc=icc)
        if transparent is None:
            return picture
        # By the value, which Pillow has spread over 8 bits: the picture may have been turned.
        colour = torch.from_numpy(transparent.astype(np.int64) * 255 // (2**depth - 1))
        same = (picture.colour == colour.to(torch.uint8)[:, None, None]).all(0)
        return replace(picture, alpha=torch.where(same, 0, 255).to(torch.uint8)[None])
    array = cv2.imdecode(np.frombuffer(lean, np.uint8), cv2.IMREAD_UNCHANGED)
    if array is None or array.dtype != np.uint16:
        raise ValueError("its 16-bit pixels cannot be decoded")
    array = array[..., None] if array.ndim == 2 else array
    order = {1: [0], 3: [2, 1, 0], 4: [0, 3] if kind == 4 else [2, 1, 0, 3]}[array.shape[2]]
    array = _upright(array[..., order], turn)
    picture = from_array(array)
    if transparent is not None:
        same = torch.from_numpy((array == transparent).all(-1))
        picture = replace(picture, alpha=torch.where(same, 0.0, 1.0)[None])
    return replace(picture, icc=icc)


def _chunks(content: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Name, begin and end of each chunk; of the last, as far as the file goes."""
    at = len(_PNG)
    while at + 8 <= len(content):
        length = int.from_bytes(content[at : at + 4], "big")
        stop = min(at + 12 + length, len(content))
        name = content[at + 4 : at + 8]
        # Half a chunk is read only where there may be pixels in it, to be missed by the decoder.
        if stop - at == 12 + length or name == b"IDAT":
            yield name, at, stop
        at = stop


def _profile(body: bytes) -> bytes | None:
    _, _, packed = body.partition(b"\0")
    try:
        return _unpacked(packed[1:], _LARGEST_PROFILE)
    except zlib.error:
        return None


def _unpacked(packed: bytes, most: int) -> bytes:
    """ValueError when it is more than that, zlib's when it is damaged."""
    unpacker = zlib.decompressobj()
    result = unpacker.decompress(packed, most)
    if unpacker.unconsumed_tail:
        raise ValueError(f"a part of it unpacks to more than {most >> 20} MB")
    return result


def _turns(name: bytes, body: memoryview) -> bool:
    """Whether a chunk is a text, none too long, that may say how the picture is turned."""
    if name not in (b"tEXt", b"zTXt", b"iTXt") or len(body) > _LARGEST_TEXT:
        return False
    keyword, _, rest = bytes(body).partition(b"\0")
    if keyword not in _TURNING_TEXTS:
        return False
    packed = b""
    if name == b"zTXt":
        packed = rest[1:]
    elif name == b"iTXt" and rest[:1] == b"\1":
        packed = rest[2:].split(b"\0", 2)[-1]
    try:
        return not packed or bool(_unpacked(packed, _LARGEST_TEXT - 1))
    except (ValueError, zlib.error):
        return False


# TIFF (Adobe, revision 6.0) ------------------------------------------------------------------

_PREMULTIPLIED, _STRAIGHT = 1, 2  # kinds of extra samples; 0 is anything but transparency
# More than colours, transparency and a few masks is no picture for anyone here.
_MOST_CHANNELS = 8
# Depths of which OpenCV makes 16 bits by adding zeros at the end.
_SHIFTED = (10, 12, 14, 16)


def _deep_tiff(path: Path) -> Picture | None:
    """A TIFF of grey or RGB with more than 8 bits; None for any other."""
    kinds = tifffile.PHOTOMETRIC
    with tifffile.TiffFile(path) as file:
        page = file.pages.first
        check_size(path, page.imagewidth, page.imagelength)
        check_size(path, page.tilewidth, page.tilelength)  # each is unpacked whole
        plain = page.photometric in (kinds.MINISBLACK, kinds.MINISWHITE, kinds.RGB)
        if not plain or page.dtype != np.uint16:
            return None
        depth = page.bitspersample
        if page.samplesperpixel > _MOST_CHANNELS or page.imagedepth != 1:
            raise ValueError(f"it has {page.samplesperpixel}×{page.imagedepth} channels")
        if depth not in _SHIFTED:
            raise ValueError(f"its pixels have {depth} bits; 8, 10, 12, 14 and 16 are known")
        tags = {code: page.tags[code].value for code in (_TURNED, _PROFILE) if code in page.tags}
        easy = tifffile.COMPRESSION.NONE, tifffile.COMPRESSION.ADOBE_DEFLATE
        if depth == 16 and page.compression in easy and page.predictor in (1, 2):
            _check_segments(path, page)
            array = page.asarray()
            array = np.moveaxis(array, 0, -1) if page.axes == "SYX" else array
            array = _upright(array if array.ndim == 3 else array[..., None], tags.get(_TURNED, 1))
        else:  # OpenCV knows more compressions, and turns the picture itself
            pixels = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_UNCHANGED)
            if pixels is None or pixels.dtype != np.uint16 or page.planarconfig == 2:
                raise ValueError(f"its {depth}-bit pixels cannot be decoded")
            pixels = pixels[..., None] if pixels.ndim == 2 else pixels
            array = pixels[..., {1: [0], 3: [2, 1, 0], 4: [2, 1, 0, 3]}[pixels.shape[2]]]
        top = 2**depth - 1
        array = np.right_shift(array.astype(np.uint16, copy=False), 16 - depth)
        colours = 3 if page.photometric == kinds.RGB else 1
        if array.shape[2] < colours:
            raise ValueError(f"it has {array.shape[2]} channels")
        extra = [int(kind) for kind in page.extrasamples]
        if not extra and array.shape[2] == colours + 1:
            extra = [_STRAIGHT]  # of what is not said, what it is likely to be
        if page.photometric == kinds.MINISWHITE:
            array = np.concatenate([top - array[..., :1], array[..., 1:]], -1)
        icc = tags.get(_PROFILE)
    see_through = [place for place, kind in enumerate(extra) if kind in (1, 2)]
    if not see_through or colours + see_through[0] >= array.shape[2]:
        return replace(from_array(array[..., :colours], top), icc=icc)
    place = see_through[0]
    picture = from_array(array[..., [*range(colours), colours + place]], top)
    if extra[place] == _PREMULTIPLIED:
        assert picture.alpha is not None
        straight = picture.colour / picture.alpha.clamp_min(1 / top)
        picture = replace(picture, colour=straight.clamp(max=1))
    return replace(picture, icc=icc)


def _check_segments(path: Path, page: tifffile.TiffPage) -> None:
    """Raises ValueError when a packed strip or tile unpacks to more than it should hold."""
    if page.compression == tifffile.COMPRESSION.NONE:
        return
    most = 2 * (math.prod(page.chunks) if page.is_tiled else min(math.prod(page.chunks), page.size))
    with open(path, "rb") as file:
        for start, length in zip(page.dataoffsets, page.databytecounts, strict=True):
            file.seek(start)
            packed, unpacker, size = file.read(length), zlib.decompressobj(), 0
            while packed and not unpacker.eof:
                size += len(unpacker.decompress(packed, 1 << 20))
                packed = unpacker.unconsumed_tail
                if size > most:
                    raise ValueError("a part of it unpacks to more than it should hold")


# BMP, PPM, WebP ------------------------------------------------------------------------------


def _deep_bmp(path: Path) -> Picture | None:
    """A BMP of 16 or 32 bits a pixel, of which Pillow knows some kinds; None for any other.

    A 32-bit one that does not say what its fourth byte is has transparency there, as some programs
    write it, unless all of it is 0.
    """
    with open(path, "rb") as file:
        head = file.read(14 + 124)
        if len(head) < 54:
            return None
        begin, size = struct.unpack("<II", head[10:18])
        if size < 40:
            return None
        width, height, _, bits, packing = struct.unpack("<iiHHI", head[18:34])
        if bits not in (16, 32) or packing not in (0, 3, 6):
            return None
        check_size(path, abs(width), abs(height))
        if packing == 0:
            fields = (0x7C00, 0x3E0, 0x1F, 0) if bits == 16 else (0xFF0000, 0xFF00, 0xFF, 255 << 24)
        else:
            fields = struct.unpack("<IIII", head[54:70].ljust(16, b"\0"))
            if size < 56 and packing == 3:  # shorter headers have no field for transparency
                fields = (*fields[:3], 0)
        stride = (width * bits + 31) // 32 * 4
        file.seek(begin)
        lines = np.frombuffer(file.read(stride * abs(height)), np.uint8)
    if width <= 0 or not height or len(lines) < stride * abs(height) or not all(fields[:3]):
        raise ValueError("it is damaged")
    kind = "<u2" if bits == 16 else "<u4"
    values = lines.reshape(abs(height), stride)[:, : width * bits // 8].view(kind)
    values = values if height < 0 else values[::-1]
    widest = max((field >> _lowest(field)).bit_length() for field in fields if field)
    top = 255 if widest <= 8 else 65535
    channels = []
    for field in fields:
        if not field:
            continue
        shift = _lowest(field)
        most = field >> shift
        level = ((values & field) >> shift).astype(np.float64) * (top / most)
        channels.append((level + 0.5).astype(np.uint8 if top == 255 else np.uint16))
    if packing == 0 and bits == 32 and not channels[3].any():
        channels = channels[:3]
    return from_array(np.stack(channels, -1))


def _lowest(field: int) -> int:
    """The place of the lowest bit that is set."""
    return (field & -field).bit_length() - 1


def _deep_netpbm(path: Path) -> Picture | None:
    """A binary PGM or PPM of 16 bits; None for one of 8."""
    with open(path, "rb") as file:
        kind = file.read(2)
        numbers: list[int] = []
        while len(numbers) < 3:
            word = b""
            while len(word) < 12:
                letter = file.read(1)
                if letter == b"#":
                    while file.read(1) not in (b"\n", b"\r", b""):
                        pass
                elif letter.isspace() or not letter:
                    if word or not letter:
                        break
                else:
                    word += letter
            numbers.append(int(word))
        width, height, top = numbers
        if not 255 < top < 65536:
            return None
        if min(width, height) < 1:
            raise ValueError("it has no pixels")
        check_size(path, width, height)
        channels = 1 if kind == b"P5" else 3
        content = file.read(2 * width * height * channels)
    array = np.frombuffer(content, ">u2").reshape(height, width, channels)
    return from_array(np.minimum(array, top).astype(np.uint16), top)


def _webp_size(head: bytes) -> tuple[int, int]:
    """Width and height in the first 30 bytes of a WebP; nothing where they do not say it."""
    if len(head) < 30:
        return 0, 0
    if head[12:16] == b"VP8X":
        width, height = (int.from_bytes(head[at : at + 3], "little") for at in (24, 27))
        return 1 + width, 1 + height
    if head[12:16] == b"VP8L":
        bits = int.from_bytes(head[21:25], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    width, height = struct.unpack("<HH", head[26:30])
    return width & 0x3FFF, height & 0x3FFF


def _lossless_webp(path: Path) -> bool:
    """Whether the first picture in a WebP is of the kind that loses nothing."""
    with open(path, "rb") as file:
        file.seek(12)
        for _ in range(64):  # profile, texts and the like come before
            head = file.read(8)
            if len(head) < 8 or head[:4] in (b"VP8 ", b"VP8L"):
                return head[:4] == b"VP8L"
            length = int.from_bytes(head[4:], "little")
            # A frame of an animation holds chunks of its own, after 16 bytes.
            file.seek(16 if head[:4] == b"ANMF" else length + length % 2, os.SEEK_CUR)
    return False


# Tags of EXIF and TIFF.
_TURNED, _PROFILE = 274, 34675


def _upright(array_HWC: np.ndarray, orientation: Any) -> np.ndarray:
    """Undoes EXIF's orientation, 1 to 8; anything else means nothing."""
    if orientation not in range(2, 9):
        return array_HWC
    if orientation >= 5:
        array_HWC = array_HWC.transpose(1, 0, 2)
    rows = -1 if orientation in (3, 4, 7, 8) else 1
    columns = -1 if orientation in (2, 3, 6, 7) else 1
    return array_HWC[::rows, ::columns]


def from_array(array_HWC: np.ndarray, top: int = 65535) -> Picture:
    """Pixels of 8 bits or up to `top`; of 2 or 4 channels the last is transparency."""
    deep = array_HWC.dtype != np.uint8
    kind = np.float32 if deep else np.uint8
    picture = torch.from_numpy(np.array(array_HWC.transpose(2, 0, 1), dtype=kind, order="C"))
    if deep:
        picture = picture.div_(top)
    channels = picture.shape[0]
    alpha = picture[-1:] if channels in (2, 4) else None
    colour = picture[:3] if channels >= 3 else picture[:1].expand(3, -1, -1)
    return Picture(colour.contiguous(), alpha, 16 if deep else 8, grey=channels < 3)
