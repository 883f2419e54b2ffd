"""Kinds of files that decoders get wrong or pass over, beside files written by their standards."""

import struct
import subprocess
import sys
import warnings
import zlib
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

from restore.errors import UnreadableImage
from restore.images import decoding
from restore.images.io import Picture, load, save, save_bands
from tests import ROOT


def chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def write_png(path: Path, array_HWC: np.ndarray, depth: int, kind: int, *more: bytes) -> Path:
    """A PNG of any depth, unfiltered."""
    height, width, _ = array_HWC.shape
    bits = (array_HWC[..., None] >> np.arange(depth - 1, -1, -1)) & 1
    lines = np.packbits(bits.astype(np.uint8).reshape(height, -1), axis=1)
    data = b"".join(b"\0" + line.tobytes() for line in lines)
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0))
    body = b"".join(more) + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + head + body)
    return path


def write_tiff(
    path: Path,
    array_HWC: np.ndarray,
    bits: int,
    order: str = "<",
    extra: list[int] | None = None,
    photometric: int | None = None,
) -> Path:
    """A TIFF of one strip, its samples packed one after the other, rows filled up to bytes."""
    height, width, channels = array_HWC.shape
    digits = (array_HWC[..., None] >> np.arange(bits - 1, -1, -1)) & 1
    data = np.packbits(digits.astype(np.uint8).reshape(height, -1), axis=1).tobytes()
    if bits == 16:
        data = array_HWC.astype(f"{order}u2").tobytes()
    kind = (1 if channels < 3 else 2) if photometric is None else photometric
    tags = {256: [width], 257: [height], 258: [bits] * channels, 259: [1], 262: [kind]}
    tags |= {273: [0], 277: [channels], 278: [height], 279: [len(data)]}
    if extra is not None:
        tags[338] = extra
    longer = b""
    entries = []
    after = 8 + 2 + 12 * len(tags) + 4
    for code, values in sorted(tags.items()):
        raw = struct.pack(f"{order}{len(values)}H", *values)
        if code in (273, 279):
            raw = struct.pack(f"{order}I", values[0])
        if len(raw) > 4:
            entries.append([code, 3, len(values), struct.pack(f"{order}I", after + len(longer))])
            longer += raw
        else:
            entries.append([code, 4 if code in (273, 279) else 3, len(values), raw.ljust(4, b"\0")])
    folder = struct.pack(f"{order}H", len(entries))
    for code, type_, count, raw in entries:
        where = struct.pack(f"{order}I", after + len(longer)) if code == 273 else raw
        folder += struct.pack(f"{order}HHI", code, type_, count) + where
    begin = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}I", 8)
    path.write_bytes(begin + folder + struct.pack(f"{order}I", 0) + longer + data)
    return path


def values(bits: int, channels: int, height: int = 6, width: int = 7) -> np.ndarray:
    array = np.random.default_rng(bits).integers(0, 2**bits, (height, width, channels))
    array[0, 0], array[0, 1] = 0, 2**bits - 1
    return array


def shares(picture: Picture) -> np.ndarray:
    """Channels as the file has them, in [0, 1], HWC."""
    parts = [picture.colour[:1] if picture.grey else picture.colour]
    parts += [] if picture.alpha is None else [picture.alpha]
    top = 255 if picture.bits == 8 else 1
    return torch.cat(parts).permute(1, 2, 0).double().numpy() / top


# ---- TIFF


@pytest.mark.parametrize("bits", [10, 12, 14, 16])
@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("order", ["<", ">"])
def test_tiff_of_ten_to_sixteen_bits_is_as_bright_as_it_says(tmp_path, bits, channels, order):
    array = values(bits, channels)
    path = write_tiff(tmp_path / "a.tif", array, bits, order, [2] if channels == 4 else None)
    picture = load(path)
    assert picture.bits == 16
    np.testing.assert_allclose(shares(picture), array / (2**bits - 1), atol=1e-6)


def test_tiff_of_twelve_bits_whose_white_is_zero(tmp_path: Path):
    array = values(12, 1)
    picture = load(write_tiff(tmp_path / "a.tif", array, 12, photometric=0))
    np.testing.assert_allclose(shares(picture), 1 - array / 4095, atol=1e-6)


@pytest.mark.parametrize("bits", [11, 13])
def test_tiff_of_odd_depths_is_refused(tmp_path: Path, bits: int):
    with pytest.raises(UnreadableImage, match=f"{bits} bits"):
        load(write_tiff(tmp_path / "a.tif", values(bits, 1), bits))


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("channels", [2, 4])
@pytest.mark.parametrize("kind", [0, 1, 2])
def test_extra_samples_are_what_they_say(tmp_path: Path, bits: int, channels: int, kind: int):
    """0 is no transparency; 1 is, with colours multiplied by it already; 2 is, without."""
    top = 2**bits - 1
    straight = values(bits, channels)
    straight[..., -1] = np.maximum(straight[..., -1], top // 2)
    array = straight.copy()
    if kind == 1:
        array[..., :-1] = np.rint(straight[..., :-1] * (straight[..., -1:] / top))
    picture = load(write_tiff(tmp_path / "a.tif", array, bits, extra=[kind]))
    if kind == 0:
        assert picture.alpha is None
        straight = straight[..., :-1]
    # What was multiplied and rounded is known to one level over at least half of transparency.
    slack = 1e-6 if kind != 1 else 3 / top
    np.testing.assert_allclose(shares(picture), straight / top, atol=slack)
    # A kind whose reader composes again over white is where it was darkened twice.
    if kind == 1 and bits == 16 and channels == 4:
        save(tmp_path / "a.jpg", picture, 100)
        share = straight[..., 3:] / top
        on_white = straight[..., :3] / top * share + 1 - share
        assert abs(np.asarray(Image.open(tmp_path / "a.jpg")).mean() / 255 - on_white.mean()) < 0.02


def test_more_samples_than_colours_and_transparency(tmp_path: Path):
    array = values(16, 5)
    picture = load(write_tiff(tmp_path / "a.tif", array, 16, extra=[0, 2]))
    np.testing.assert_allclose(shares(picture), array[..., [0, 1, 2, 4]] / 65535, atol=1e-6)


# ---- PNG


@pytest.mark.parametrize("depth", [1, 2, 4, 8, 16])
def test_one_grey_named_transparent_at_every_depth(tmp_path: Path, depth: int):
    array = values(depth, 1)
    hidden = int(array[2, 3, 0])
    path = tmp_path / "a.png"
    picture = load(write_png(path, array, depth, 0, chunk(b"tRNS", struct.pack(">H", hidden))))
    expected = np.concatenate([array / (2**depth - 1), array != hidden], -1)
    np.testing.assert_allclose(shares(picture), expected, atol=1e-6)


@pytest.mark.parametrize("depth", [8, 16])
def test_one_colour_named_transparent_at_every_depth(tmp_path: Path, depth: int):
    array = values(depth, 3)
    array[4, 4] = hidden = array[2, 3]
    array[4, 5] = [*hidden[:2], hidden[2] ^ 1]  # nearly the same
    path = tmp_path / "a.png"
    picture = load(write_png(path, array, depth, 2, chunk(b"tRNS", struct.pack(">3H", *hidden))))
    seen = (array != hidden).any(-1, keepdims=True)
    assert not seen[4, 4, 0]
    assert seen[4, 5, 0]
    expected = np.concatenate([array / (2**depth - 1), seen], -1)
    np.testing.assert_allclose(shares(picture), expected, atol=1e-6)


@pytest.mark.parametrize("depth", [1, 2, 4, 8])
def test_palettes_with_transparency_at_every_depth(tmp_path: Path, depth: int):
    places = values(depth, 1)
    rng = np.random.default_rng(0)
    colours, alphas = (rng.integers(0, 256, (2**depth, n)).astype(np.uint8) for n in (3, 1))
    path = tmp_path / "a.png"
    more = chunk(b"PLTE", colours.tobytes()) + chunk(b"tRNS", alphas.tobytes())
    picture = load(write_png(path, places, depth, 3, more))
    expected = np.concatenate([colours, alphas], -1)[places[..., 0]] / 255
    np.testing.assert_allclose(shares(picture), expected, atol=1e-6)


def test_much_text_is_no_fault(tmp_path: Path):
    array = values(8, 3)
    plain = chunk(b"tEXt", b"Comment\0" + b"x" * 3_000_000)
    packed = chunk(b"zTXt", b"Comment\0\0" + zlib.compress(b"x" * 80_000_000))
    unpacked = chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(b"x" * 5_000_000))
    for depth in (8, 16):
        texts = (plain, packed, unpacked)
        picture = load(write_png(tmp_path / "a.png", array, depth, 2, *texts))
        np.testing.assert_allclose(shares(picture), array / (2**depth - 1), atol=1e-6)


def test_a_turn_that_stands_in_a_text_is_kept(tmp_path: Path):
    text = b'<x:xmpmeta><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    for packed in (False, True):
        body = zlib.compress(text) if packed else text
        how = b"\1\0" if packed else b"\0\0"
        xmp = chunk(b"iTXt", b"XML:com.adobe.xmp\0" + how + b"\0\0" + body)
        array = values(8, 3)
        picture = load(write_png(tmp_path / "a.png", array, 8, 2, xmp))
        np.testing.assert_allclose(shares(picture), np.rot90(array, -1) / 255, atol=1e-6)


# ---- BMP, PPM, WebP


def write_bmp(path: Path, words: np.ndarray, fields: tuple[int, ...], packing: int = 3) -> Path:
    """A BMP whose header has 108 bytes where it names fields, else 40; bottom row first."""
    height, width = words.shape
    size = 40 if packing == 0 else 108
    stride = (width * words.itemsize + 3) // 4 * 4
    rows = np.zeros((height, stride), np.uint8)
    rows[:, : width * words.itemsize] = words.view(np.uint8).reshape(height, -1)
    head = struct.pack(
        "<IiiHHIIiiII", size, width, height, 1, 8 * words.itemsize, packing, 0, *[0] * 4
    )
    head += struct.pack("<4I", *fields).ljust(size - 40, b"\0") if packing else b""
    file = struct.pack("<2sIHHI", b"BM", 14 + size + rows.size, 0, 0, 14 + size)
    path.write_bytes(file + head + rows[::-1].tobytes())
    return path


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        ("<u2", (0x7C00, 0x3E0, 0x1F, 0x8000)),
        ("<u2", (0xF00, 0xF0, 0xF, 0xF000)),
        ("<u2", (0xF800, 0x7E0, 0x1F, 0)),
        ("<u4", (0xFF0000, 0xFF00, 0xFF, 0xFF000000)),
        ("<u4", (0xFF, 0xFF00, 0xFF0000, 0xFF000000)),
        ("<u4", (0xFF000000, 0xFF0000, 0xFF00, 0xFF)),
        ("<u4", (0xFF0000, 0xFF00, 0xFF, 0)),
    ],
)
def test_bmp_with_fields(tmp_path: Path, kind: str, fields: tuple[int, ...]):
    rng = np.random.default_rng(0)
    words = rng.integers(0, 2 ** (8 * np.dtype(kind).itemsize), (5, 7)).astype(kind)
    picture = load(write_bmp(tmp_path / "a.bmp", words, fields))
    expected = []
    for field in fields:
        low = next((bit for bit in range(32) if field >> bit & 1), None)
        if low is not None:
            expected.append((words & field) / field)
    found = shares(picture)
    assert found.shape[-1] == (4 if fields[3] else 3)
    np.testing.assert_allclose(found, np.stack(expected, -1), atol=0.5 / 255 + 1e-9)


def test_bmp_of_32_bits_as_pillow_writes_it(tmp_path: Path):
    array = values(8, 4).astype(np.uint8)
    Image.fromarray(array).save(tmp_path / "a.bmp")
    np.testing.assert_allclose(shares(load(tmp_path / "a.bmp")), array / 255, atol=1e-9)
    opaque = array.copy()
    opaque[..., 3] = 0  # a byte that nobody filled
    Image.fromarray(opaque).save(tmp_path / "a.bmp")
    np.testing.assert_allclose(shares(load(tmp_path / "a.bmp")), array[..., :3] / 255, atol=1e-9)


def test_bmp_of_32_bits_as_opencv_writes_it(tmp_path: Path):
    array = values(8, 4).astype(np.uint8)
    assert cv2.imwrite(str(tmp_path / "a.bmp"), array[..., [2, 1, 0, 3]])
    np.testing.assert_allclose(shares(load(tmp_path / "a.bmp")), array / 255, atol=1e-9)


@pytest.mark.parametrize("top", [1023, 65535])
def test_deep_ppm_is_not_cut_to_eight_bits(tmp_path: Path, top: int):
    array = values(16, 3) % (top + 1)
    body = f"P6 # made by hand\n7\t6\n{top}\n".encode() + array.astype(">u2").tobytes()
    (tmp_path / "a.ppm").write_bytes(body)
    picture = load(tmp_path / "a.ppm")
    assert picture.bits == 16
    np.testing.assert_allclose(shares(picture), array / top, atol=1e-6)
    if top == 65535:
        raw = cv2.imread(str(tmp_path / "a.ppm"), cv2.IMREAD_UNCHANGED)
        np.testing.assert_array_equal(raw[..., ::-1], array)


def test_a_lossless_webp_stays_so(tmp_path: Path):
    array = values(8, 4, 40, 30).astype(np.uint8)
    Image.fromarray(array).save(tmp_path / "a.webp", lossless=True, exact=True)
    save(tmp_path / "b.webp", load(tmp_path / "a.webp"), quality=50)
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "b.webp")), array)
    Image.fromarray(array).save(tmp_path / "c.webp", quality=80, icc_profile=b"x" * 200)
    assert not load(tmp_path / "c.webp").lossless_webp
    frames = [Image.fromarray(array), Image.fromarray(255 - array)]
    frames[0].save(
        tmp_path / "d.webp", save_all=True, append_images=frames[1:], lossless=True, exact=True
    )
    assert load(tmp_path / "d.webp").lossless_webp


# ---- what is not meant


def test_other_kinds_under_a_name_of_ours(tmp_path: Path):
    eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n%%EOF\n"
    (tmp_path / "a.png").write_bytes(eps)
    Image.new("RGB", (8, 8)).save(tmp_path / "b.png", "ICO")
    Image.new("RGB", (8, 8)).save(tmp_path / "c.png", "TGA")
    for name in "abc":
        with pytest.raises(UnreadableImage, match="it is no PNG, JPEG"):
            load(tmp_path / f"{name}.png")


def test_the_door_is_the_only_one():
    """Whoever opens a picture's file says which kinds are meant."""
    for folder in ("restore", "datasets", "tasks"):
        for path in (ROOT / folder).rglob("*.py"):
            for line in path.read_text("utf-8").splitlines():
                assert "Image.open(" not in line or "formats=" in line, f"{path}: {line}"


BOMB = """
import resource, sys
from pathlib import Path
from restore.errors import UnreadableImage
from restore.images.decoding import opened
from restore.images.io import load, readable
from restore.images.masks import read
held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
limit = held + (1 << 30)
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
def header(path):
    with readable(path), opened(path):
        pass
for name in sys.argv[1:]:
    for how in (load, lambda path: read(path, "white"), *[header] * name.endswith(".webp")):
        try:
            how(Path(name))
        except UnreadableImage as error:
            telling = "RESTORE_MAX_MEGAPIXELS", "should hold", "channels"
            assert any(words in str(error) for words in telling), error
        else:
            raise SystemExit(f"{name} was read")
"""


def raw_tiff(path: Path, tags: dict[int, int], data: bytes) -> None:
    """64×64 grey pixels of 16 bits, deflated, with these tags besides."""
    tags = {256: 64, 257: 64, 258: 16, 259: 8, 262: 1, 277: 1} | tags
    place, length = (324, 325) if 322 in tags else (273, 279)
    tags |= {place: 14 + 12 * (len(tags) + 2), length: len(data)}
    entries = b"".join(struct.pack("<HHII", code, 4, 1, tags[code]) for code in sorted(tags))
    head = b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4)
    path.write_bytes(head + data)


def test_the_size_of_a_webp_is_in_its_head(tmp_path: Path):
    for n, more in enumerate(({}, {"lossless": True}, {"exif": b"Exif\0\0"})):
        size = (300 + 7 * n, 17 + n)
        Image.new("RGBA" if n == 1 else "RGB", size).save(tmp_path / "a.webp", **more)
        assert decoding._webp_size((tmp_path / "a.webp").read_bytes()[:34]) == size


def test_a_full_strip_or_tile_is_read(tmp_path: Path):
    grey = np.random.default_rng(0).integers(0, 65536, (64, 64), np.uint16)
    for tags in ({278: 64}, {278: 2**32 - 1}, {322: 64, 323: 64}):
        raw_tiff(tmp_path / "a.tif", tags, zlib.compress(grey.tobytes()))
        assert torch.equal(
            load(tmp_path / "a.tif").colour[0], torch.from_numpy(grey.astype(np.float32)) / 65535
        )


def test_bombs_are_refused_by_their_header(tmp_path: Path):
    """Small files that claim 900 megapixels, with less memory than those would take."""
    side = 30000
    for bits in (8, 16):
        name = tmp_path / f"{bits}.tif"
        strip = zlib.compress(bytes(side * 2 * bits // 8 * 100))
        tifffile.imwrite(
            name,
            (strip for _ in range(side // 200)),
            shape=(side, side),
            dtype=f"u{bits // 8}",
            rowsperstrip=200,
            compression="zlib",
            metadata=None,
        )
        head = struct.pack(">IIBBBBB", side, side, bits, 2, 0, 0, 0)
        data = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(1 << 20)))
        (tmp_path / f"{bits}.png").write_bytes(b"\x89PNG\r\n\x1a\n" + data + chunk(b"IEND", b""))
        top = 2**bits - 1
        (tmp_path / f"{bits}.ppm").write_bytes(f"P6 {side} {side} {top}\n".encode() + bytes(99))
        write_bmp(tmp_path / f"{bits}.bmp", np.zeros((2, 2), "<u4"), (1, 2, 4, 0))
        small = bytearray((tmp_path / f"{bits}.bmp").read_bytes())
        small[18:26] = struct.pack("<ii", side, side)
        (tmp_path / f"{bits}.bmp").write_bytes(small)
    lossless = struct.pack("<BI", 0x2F, 12000 - 1 | 12000 - 1 << 14) + bytes(20)
    lossy = b"\x10\0\0\x9d\x01\x2a" + struct.pack("<HH", 12000, 12000) + bytes(90)
    canvas = bytes(4) + (12000 - 1).to_bytes(3, "little") * 2
    for name, body in {"VP8L": lossless, "VP8 ": lossy, "VP8X": canvas}.items():
        content = b"WEBP" + name.encode() + struct.pack("<I", len(body)) + body + bytes(50)
        (tmp_path / f"{name}.webp").write_bytes(b"RIFF" + struct.pack("<I", 999) + content)
    raw_tiff(tmp_path / "tile.tif", {322: 1 << 15, 323: 1 << 15}, bytes(9))
    raw_tiff(tmp_path / "strip.tif", {278: 64}, zlib.compress(bytes(64 * 64 * 2 + 1)))
    raw_tiff(tmp_path / "channels.tif", {278: 64, 277: 60000}, bytes(9))
    names = sorted(map(str, tmp_path.iterdir()))
    done = subprocess.run(
        [sys.executable, "-c", BOMB, *names], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_the_limit_can_be_raised_and_large_files_pass(tmp_path: Path, monkeypatch):
    array = np.random.default_rng(0).integers(0, 256, (1000, 1100), np.uint8)
    Image.fromarray(array).save(tmp_path / "noisy.png")
    Image.new("L", (1100, 1000)).save(tmp_path / "empty.png")
    monkeypatch.setenv(decoding.LIMIT, "1")
    assert load(tmp_path / "noisy.png").grey  # as many bytes as pixels
    with pytest.raises(UnreadableImage, match=r"1100×1000 pixels, more than 1 megapixels"):
        load(tmp_path / "empty.png")
    monkeypatch.setenv(decoding.LIMIT, "1.2")
    assert load(tmp_path / "empty.png").grey
    monkeypatch.setenv(decoding.LIMIT, "many")
    with pytest.raises(UnreadableImage, match="RESTORE_MAX_MEGAPIXELS=many is not a number"):
        load(tmp_path / "empty.png")


def test_results_of_200_megapixels_are_read_without_a_warning(tmp_path: Path):
    """Pillow refuses them from 179 megapixels on and warns from 89; opened, not decoded here."""
    Image.new("1", (16000, 12000)).save(tmp_path / "a.png", compress_level=0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with decoding.opened(tmp_path / "a.png") as image:
            assert image.size == (16000, 12000)


# ---- writing by bands


@pytest.mark.parametrize("suffix", [".png", ".tif", ".jpg", ".webp"])
@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_bands_make_the_file_that_the_whole_makes(tmp_path: Path, suffix, bits, channels):
    array = values(bits, channels, 150, 9)
    shape = torch.from_numpy(array / (2**bits - 1)).permute(2, 0, 1).float()
    colour = shape[:3] if channels > 2 else shape[:1].expand(3, -1, -1)
    alpha = shape[-1:] if channels in (2, 4) else None

    def rows(first: int, last: int) -> Picture:
        part = None if alpha is None else alpha[:, first:last]
        return Picture(colour[:, first:last], part, bits, grey=channels < 3)

    save(tmp_path / f"whole{suffix}", rows(0, 150))
    edges = [0, 1, 70, 134, 150]
    save_bands(tmp_path / f"bands{suffix}", (rows(*ends) for ends in pairwise(edges)), 150)
    whole, bands = (load(tmp_path / f"{name}{suffix}") for name in ("whole", "bands"))
    np.testing.assert_array_equal(shares(whole), shares(bands))


def test_pngs_are_as_small_as_pillows(tmp_path: Path):
    y, x = np.mgrid[:200, :220]
    planes = np.stack([x + y, 90 + 60 * np.sin(x / 20), 128 + 70 * np.cos((x + y) / 31)], -1)
    noise = np.random.default_rng(0).normal(0, 2, planes.shape)
    array = (planes + noise).clip(0, 255).astype(np.uint8)
    Image.fromarray(array).save(tmp_path / "pillow.png")
    save(tmp_path / "own.png", Picture(torch.from_numpy(array).permute(2, 0, 1)))
    own, other = ((tmp_path / f"{name}.png").stat().st_size for name in ("own", "pillow"))
    assert own < 1.05 * other
