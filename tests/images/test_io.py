"""Picture files: what any usual kind says arrives, and what is written can be read by others."""

import io
import os
import signal
import struct
import subprocess
import sys
import time
import warnings
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms

from restore.errors import UnreadableImage, UserError
from restore.images.io import Picture, as_float, find, fits, load, read_rgb, save, save_png

PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def pixels(channels: int, bits: int, height: int = 9, width: int = 13, seed: int = 0) -> np.ndarray:
    kind = np.uint16 if bits == 16 else np.uint8
    rng = np.random.default_rng(seed)
    return rng.integers(0, 2**bits, (height, width, channels)).astype(kind)


def smooth(height: int = 64, width: int = 48) -> np.ndarray:
    """Something that a lossy kind keeps nearly."""
    y, x = np.mgrid[:height, :width]
    planes = np.stack([2 * y + x, 255 - 3 * x, 128 + 40 * np.sin(y / 9)], -1)
    return planes.clip(0, 255).astype(np.uint8)


def stored(picture: Picture) -> np.ndarray:
    """The pixels as whole numbers, HWC, as a file of the picture's own kind has them."""
    channels = [picture.colour[:1] if picture.grey else picture.colour]
    channels += [picture.alpha] if picture.alpha is not None else []
    assert {x.dtype for x in channels} == {torch.uint8 if picture.bits == 8 else torch.float32}
    if picture.bits == 8:
        return torch.cat(channels).permute(1, 2, 0).numpy().astype(np.int64)
    values = torch.cat(channels).double().permute(1, 2, 0).numpy() * 65535
    assert np.abs(values - values.round()).max() < 1e-2
    return values.round().astype(np.int64)


def picture_of(array: np.ndarray, icc: bytes | None = None) -> Picture:
    """The plain way from pixels to what the project handles."""
    bits = 8 * array.itemsize
    values = torch.from_numpy(array.astype(np.float64) / (2**bits - 1)).permute(2, 0, 1).float()
    channels = array.shape[2]
    colour = values[:3] if channels >= 3 else values[:1].expand(3, -1, -1)
    alpha = values[-1:] if channels in (2, 4) else None
    return Picture(colour, alpha, bits, channels < 3, icc)


def write_png(path: Path, array: np.ndarray, colour: int, *more: tuple[bytes, bytes]) -> None:
    """A PNG of the most plain sort: no filter, one chunk; written out by the standard."""
    height, width = array.shape[:2]
    deep = array.dtype == np.uint16
    lines = array.astype(">u2" if deep else np.uint8).reshape(height, -1)
    data = b"".join(b"\0" + line.tobytes() for line in lines)
    head = struct.pack(">IIBBBBB", width, height, 16 if deep else 8, colour, 0, 0, 0)
    chunks = [(b"IHDR", head), *more, (b"IDAT", zlib.compress(data)), (b"IEND", b"")]
    with open(path, "wb") as file:
        file.write(b"\x89PNG\r\n\x1a\n")
        for name, body in chunks:
            file.write(struct.pack(">I", len(body)) + name + body)
            file.write(struct.pack(">I", zlib.crc32(name + body)))


# ---- reading


@pytest.mark.parametrize(
    ("suffix", "mode"),
    [(suffix, mode) for suffix in (".png", ".tif", ".webp") for mode in ("RGB", "L", "RGBA", "LA")]
    + [(".bmp", "RGB"), (".bmp", "L")],
)
def test_eight_bit_kinds_are_read_to_the_level(tmp_path: Path, suffix: str, mode: str):
    array = pixels(len(mode), 8)
    path = tmp_path / f"a{suffix}"
    lossless = {"lossless": True, "exact": True} if suffix == ".webp" else {}
    Image.fromarray(array[..., 0] if mode == "L" else array, mode).save(path, **lossless)
    picture = load(path)
    expected = array
    if suffix == ".webp" and mode in ("L", "LA"):
        expected = array[..., [0, 0, 0, 1][: 2 + len(mode)]]  # WebP knows no grey
    np.testing.assert_array_equal(stored(picture), expected)
    assert picture.bits == 8
    assert picture.grey == (mode in ("L", "LA") and suffix != ".webp")


@pytest.mark.parametrize("suffix", [".jpg", ".webp"])
def test_lossy_kinds_are_read_nearly(tmp_path: Path, suffix: str):
    array = smooth()
    Image.fromarray(array).save(tmp_path / f"a{suffix}", quality=100)
    found = read_rgb(tmp_path / f"a{suffix}").permute(1, 2, 0).numpy().astype(int)
    assert np.abs(found - array).mean() < 2


def test_cmyk_jpeg_is_read_as_rgb_without_its_profile(tmp_path: Path):
    array = smooth()
    Image.fromarray(array).convert("CMYK").save(tmp_path / "a.jpg", icc_profile=PROFILE)
    picture = load(tmp_path / "a.jpg")
    assert np.abs(stored(picture) - array).mean() < 4
    assert picture.icc is None


@pytest.mark.parametrize("suffix", [".png", ".gif", ".tif"])
def test_palette(tmp_path: Path, suffix: str):
    places = np.random.default_rng(0).integers(0, 4, (6, 7)).astype(np.uint8)
    colours = np.array([[10, 20, 30], [200, 0, 0], [0, 255, 7], [255, 255, 255]], np.uint8)
    image = Image.fromarray(places, "P")
    image.putpalette(colours.tobytes())
    image.save(tmp_path / f"a{suffix}")
    picture = load(tmp_path / f"a{suffix}")
    np.testing.assert_array_equal(stored(picture), colours[places])
    assert picture.alpha is None


def test_palette_with_transparency(tmp_path: Path):
    places = np.random.default_rng(0).integers(0, 4, (6, 7)).astype(np.uint8)
    colours = np.array([[10, 20, 30], [200, 0, 0], [0, 255, 7], [255, 255, 255]], np.uint8)
    alphas = np.array([0, 128, 255, 255], np.uint8)
    image = Image.fromarray(places, "P")
    image.putpalette(colours.tobytes())
    image.save(tmp_path / "a.png", transparency=alphas.tobytes())
    expected = np.concatenate([colours[places], alphas[places][..., None]], -1)
    np.testing.assert_array_equal(stored(load(tmp_path / "a.png")), expected)


def test_one_colour_named_transparent(tmp_path: Path):
    array = pixels(1, 8)
    array[2, 3] = array[4, 4] = 77
    write_png(tmp_path / "a.png", array, 0, (b"tRNS", struct.pack(">H", 77)))
    picture = load(tmp_path / "a.png")
    np.testing.assert_array_equal(picture.alpha[0].numpy() == 0, array[..., 0] == 77)


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_one_bit(tmp_path: Path, suffix: str):
    array = np.random.default_rng(0).random((11, 10)) > 0.5
    Image.fromarray(array).save(tmp_path / f"a{suffix}")
    picture = load(tmp_path / f"a{suffix}")
    np.testing.assert_array_equal(stored(picture)[..., 0], array * 255)
    assert picture.grey


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_sixteen_bit_png_is_read_to_the_level(tmp_path: Path, channels: int):
    array = pixels(channels, 16)
    colour = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    packed = zlib.compress(PROFILE)
    write_png(tmp_path / "a.png", array, colour, (b"iCCP", b"x\0\0" + packed))
    picture = load(tmp_path / "a.png")
    np.testing.assert_array_equal(stored(picture), array)
    assert (picture.bits, picture.grey, picture.icc) == (16, channels < 3, PROFILE)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("compression", [None, "zlib"])
def test_sixteen_bit_tiff_is_read_to_the_level(tmp_path: Path, channels: int, compression):
    array = pixels(channels, 16)
    tifffile.imwrite(
        tmp_path / "a.tif",
        array if channels > 1 else array[..., 0],
        photometric="rgb" if channels > 2 else "minisblack",
        planarconfig="contig" if channels > 1 else None,
        extrasamples=["unassalpha"] if channels in (2, 4) else None,
        compression=compression,
        iccprofile=PROFILE,
        byteorder=">" if channels == 3 else "<",
    )
    picture = load(tmp_path / "a.tif")
    np.testing.assert_array_equal(stored(picture), array)
    assert (picture.bits, picture.grey, picture.icc) == (16, channels < 3, PROFILE)


def test_sixteen_bit_tiff_of_other_makes(tmp_path: Path):
    array = pixels(3, 16)
    tifffile.imwrite(
        tmp_path / "planes.tif",
        array.transpose(2, 0, 1),
        photometric="rgb",
        planarconfig="separate",
    )
    np.testing.assert_array_equal(stored(load(tmp_path / "planes.tif")), array)
    tifffile.imwrite(tmp_path / "white.tif", array[..., 0], photometric="miniswhite")
    white = stored(load(tmp_path / "white.tif"))
    np.testing.assert_array_equal(white[..., 0], 65535 - array[..., 0].astype(int))
    lzw = [cv2.IMWRITE_TIFF_COMPRESSION, 5]
    cv2.imwrite(str(tmp_path / "lzw.tif"), array[..., ::-1], lzw)
    np.testing.assert_array_equal(stored(load(tmp_path / "lzw.tif")), array)


def test_sixteen_bit_grey_of_other_kinds(tmp_path: Path):
    array = pixels(1, 16)
    Image.fromarray(array[..., 0]).save(tmp_path / "a.pgm")
    picture = load(tmp_path / "a.pgm")
    np.testing.assert_array_equal(stored(picture), array)
    assert picture.bits == 16


def test_pixels_of_32_bits_are_refused_rather_than_cut(tmp_path: Path):
    tifffile.imwrite(tmp_path / "a.tif", np.random.default_rng(0).random((5, 6), np.float32))
    with pytest.raises(UnreadableImage, match=r"a\.tif.*32 bits"):
        load(tmp_path / "a.tif")


def turned_by_words(upright: np.ndarray, orientation: int) -> np.ndarray:
    """The array that a file stores so that its 0th row and column lie as the standard says.

    Exif 2.32, tag 274: where in the visible picture the stored 0th row and 0th column are.
    """
    height, width = upright.shape[:2]
    row_is, column_is = {
        1: ("top", "left"),
        2: ("top", "right"),
        3: ("bottom", "right"),
        4: ("bottom", "left"),
        5: ("left", "top"),
        6: ("right", "top"),
        7: ("right", "bottom"),
        8: ("left", "bottom"),
    }[orientation]
    across = row_is in ("left", "right")
    stored_shape = (width, height) if across else (height, width)
    out = np.zeros((*stored_shape, upright.shape[2]), upright.dtype)
    for r in range(stored_shape[0]):
        for c in range(stored_shape[1]):
            place = {}
            for side, at in ((row_is, r), (column_is, c)):
                axis = "x" if side in ("left", "right") else "y"
                size = width if axis == "x" else height
                place[axis] = at if side in ("left", "top") else size - 1 - at
            out[r, c] = upright[place["y"], place["x"]]
    return out


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["png", "png16", "tif", "tif16", "lzw16", "webp", "jpg"])
def test_exif_orientation(tmp_path: Path, orientation: int, kind: str):
    upright = pixels(3, 16 if "16" in kind else 8, height=6, width=9)
    if kind == "jpg":
        upright = smooth(64, 48)
    array = turned_by_words(upright, orientation)
    path = tmp_path / f"a.{kind.removesuffix('16').replace('lzw', 'tif')}"
    exif = Image.Exif()
    exif[274] = orientation
    if kind == "png16":
        write_png(path, array, 2, (b"eXIf", exif.tobytes().removeprefix(b"Exif\0\0")))
    elif kind == "tif16":
        tags = [(274, "H", 1, orientation, True)]
        tifffile.imwrite(path, array, photometric="rgb", extratags=tags)
    elif kind == "lzw16":
        upright, array = upright[..., :1], array[..., 0]
        Image.fromarray(array).save(path, compression="tiff_lzw", tiffinfo={274: orientation})
    else:
        more = {"lossless": True} if kind == "webp" else {"quality": 100} if kind == "jpg" else {}
        Image.fromarray(array).save(path, exif=exif.tobytes(), **more)
    found = stored(load(path))
    assert found.shape == upright.shape
    if kind == "jpg":
        assert np.abs(found - upright).mean() < 2
    else:
        np.testing.assert_array_equal(found, upright)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".tif"])
@pytest.mark.parametrize("content", ["empty", "text", "half", "folder", "nothing"])
def test_what_cannot_be_read_is_named(tmp_path: Path, suffix: str, content: str):
    path = tmp_path / f"holiday{suffix}"
    if content == "half":
        array = np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8)
        Image.fromarray(array).save(path)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    elif content == "folder":
        path.mkdir()
    elif content != "nothing":
        path.write_bytes(b"" if content == "empty" else b"this is no picture" * 20)
    with pytest.raises(UnreadableImage) as caught:
        load(path)
    assert f"cannot read the image {path}: " in str(caught.value)
    assert caught.value.path == str(path)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_half_a_sixteen_bit_picture_is_refused(tmp_path: Path, suffix: str):
    path = tmp_path / f"a{suffix}"
    save(path, picture_of(pixels(3, 16, 64, 64)))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(UnreadableImage, match="cannot read the image"):
        load(path)


def damaged_files() -> dict[str, bytes]:
    files = {}
    for name, kind, options in (
        ("a.png", "PNG", {}),
        ("a.jpg", "JPEG", {}),
        ("a.webp", "WEBP", {}),
        ("a.tif", "TIFF", {}),
        ("a.bmp", "BMP", {}),
    ):
        held = io.BytesIO()
        Image.fromarray(smooth(12, 10)).save(held, kind, **options)
        files[name] = held.getvalue()
    held = io.BytesIO()
    tifffile.imwrite(held, pixels(3, 16), photometric="rgb", compression="zlib")
    files["deep.tif"] = held.getvalue()
    files["deep.png"] = cv2.imencode(".png", pixels(3, 16))[1].tobytes()
    return files


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_a_damaged_file_is_read_or_refused_and_nothing_else(tmp_path_factory, data):
    name, content = data.draw(st.sampled_from(sorted(damaged_files().items())))
    changed = bytearray(content)
    for _ in range(data.draw(st.integers(1, 4))):
        changed[data.draw(st.integers(0, len(changed) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.mktemp("damaged") / name
    path.write_bytes(changed[: data.draw(st.integers(0, len(changed)))])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PIL's about large sizes and odd tags
        try:
            picture = load(path)
        except UnreadableImage as error:
            told = str(error)
        else:
            assert picture.colour.shape[0] == 3
            assert 0 <= as_float(picture.colour).min() <= as_float(picture.colour).max() <= 1
            return
    assert str(path) in told


# ---- writing


@settings(max_examples=40, deadline=None)
@given(
    channels=st.integers(1, 4),
    bits=st.sampled_from([8, 16]),
    suffix=st.sampled_from([".png", ".tif", ".tiff", ".PNG"]),
    size=st.tuples(st.integers(1, 12), st.integers(1, 12)),
    icc=st.sampled_from([None, PROFILE]),
)
def test_lossless_kinds_keep_everything(tmp_path_factory, channels, bits, suffix, size, icc):
    array = pixels(channels, bits, *size)
    path = tmp_path_factory.mktemp("kept") / f"a{suffix}"
    save(path, picture_of(array, icc))
    again = load(path)
    np.testing.assert_array_equal(stored(again), array)
    assert (again.bits, again.grey, again.icc) == (bits, channels < 3, icc)
    assert (again.alpha is None) == (channels in (1, 3))
    # Another decoder reads the same.
    other = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_UNCHANGED)
    if suffix.lower() == ".png" and channels != 2:
        other = other.reshape(*size, channels)[
            ..., {1: [0], 3: [2, 1, 0], 4: [2, 1, 0, 3]}[channels]
        ]
        np.testing.assert_array_equal(other, array)
    elif suffix.lower() != ".png":
        np.testing.assert_array_equal(tifffile.imread(path).reshape(array.shape), array)
    with Image.open(path) if bits == 8 or suffix.lower() == ".png" else io.BytesIO() as opened:
        if isinstance(opened, Image.Image):
            opened.load()  # its checksums are right
            assert opened.size == size[::-1]
            assert opened.info.get("icc_profile") == icc


def test_webp_keeps_transparency_and_profile(tmp_path: Path):
    array = np.concatenate([smooth(), np.full((64, 48, 1), 130, np.uint8)], -1)
    save(tmp_path / "a.webp", picture_of(array, PROFILE), quality=100)
    again = load(tmp_path / "a.webp")
    assert np.abs(stored(again) - array).mean() < 3
    assert (stored(again)[..., 3] == 130).all()
    assert again.icc == PROFILE


@pytest.mark.parametrize("channels", [2, 4])
def test_jpeg_shows_transparency_on_white(tmp_path: Path, channels: int):
    array = smooth()[..., [0, 1, 2, 0]]
    array[..., 3] = np.linspace(0, 255, 48).astype(np.uint8)
    array = array if channels == 4 else array[..., [0, 3]]
    save(tmp_path / "a.jpg", picture_of(array, PROFILE), quality=100)
    share = array[..., -1:] / 255
    expected = array[..., :-1] * share + 255 * (1 - share)
    again = load(tmp_path / "a.jpg")
    assert np.abs(stored(again) - expected).mean() < 2
    assert (again.alpha, again.icc, again.grey) == (None, PROFILE, channels == 2)


def test_quality_changes_the_size(tmp_path: Path):
    for suffix in (".jpg", ".webp"):
        sizes = []
        for quality in (20, 95):
            save(tmp_path / f"a{suffix}", picture_of(pixels(3, 8, 64, 64)), quality)
            sizes.append((tmp_path / f"a{suffix}").stat().st_size)
        assert sizes[0] < 0.7 * sizes[1]


@given(value=st.floats(-0.5, 1.5))
@example(value=0.3)  # 76.5 levels
@settings(max_examples=30, deadline=None)
def test_values_are_clamped_and_rounded(tmp_path_factory, value: float):
    path = tmp_path_factory.mktemp("v") / "a.png"
    save_png(path, torch.full((3, 2, 2), value))
    levels = min(max(value, 0), 1) * 255
    assert abs(int(stored(load(path))[0, 0, 0]) - levels) <= 0.5 + 1e-4  # either way from a half
    save_png(path, torch.full((3, 2, 2), 7, dtype=torch.uint8))
    assert stored(load(path))[0, 0, 0] == 7


def test_kinds_that_cannot_be_written(tmp_path: Path):
    for name in ("a.gif", "a.xyz", "a"):
        with pytest.raises(UserError, match=r"suffix must be one of \.png"):
            save(tmp_path / name, picture_of(pixels(3, 8)))
    with pytest.raises(UserError, match=r"WEBP holds at most 16383 .* 16384×1"):
        save(tmp_path / "a.webp", Picture(torch.zeros(3, 1, 16384)))
    with pytest.raises(UserError, match="JPEG holds at most 65500"):
        fits(tmp_path / "a.jpg", 65501, 1)
    save(tmp_path / "a.webp", Picture(torch.zeros(3, 1, 16383)))
    assert [path.name for path in tmp_path.iterdir()] == ["a.webp"]


def test_a_disk_that_refuses(tmp_path: Path):
    with pytest.raises(UserError, match="cannot write"):
        save(tmp_path / "nowhere" / "a.png", picture_of(pixels(3, 8)))
    (tmp_path / "a.png").mkdir()
    with pytest.raises(UserError, match="cannot write"):
        save(tmp_path / "a.png", picture_of(pixels(3, 8)))
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"], "a part was left behind"


ENDLESS = """
import sys, torch
from pathlib import Path
from restore.images.io import Picture, save
torch.manual_seed(0)
colour = torch.rand(3, 900, 900)
print("ready", flush=True)
while True:
    save(Path(sys.argv[1]), Picture(colour))
    save(Path(sys.argv[2]), Picture(colour, bits=16))
"""


def test_an_interrupted_write_leaves_a_whole_picture(tmp_path: Path):
    paths = [tmp_path / "a.png", tmp_path / "a.tif"]
    for path in paths:
        save(path, Picture(torch.zeros(3, 900, 900), bits=16))
    command = [sys.executable, "-c", ENDLESS, *map(str, paths)]
    writer = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert writer.stdout.readline() == b"ready\n"
    time.sleep(0.4)
    os.kill(writer.pid, signal.SIGKILL)
    writer.communicate()
    for path in paths:
        assert load(path).colour.shape == (3, 900, 900)
    assert find(tmp_path) == paths, "a part that was left counts as a picture"


# ---- finding


def test_pictures_are_found_in_natural_order(tmp_path: Path):
    names = ["b/2.png", "b/10.PNG", "a1.jpeg", "a²3.png", "a10.tif", "a2.webp"]
    for name in [*names, "notes.txt", ".hidden.png", "b/.10.77.png"]:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "folder.png").mkdir()
    found = [path.relative_to(tmp_path).as_posix() for path in find(tmp_path)]
    assert found == ["a1.jpeg", "a2.webp", "a10.tif", "a²3.png", "b/2.png", "b/10.PNG"]


def test_a_folder_without_pictures(tmp_path: Path):
    with pytest.raises(UserError, match="no pictures below"):
        find(tmp_path)
    with pytest.raises(UserError, match="there is no folder"):
        find(tmp_path / "nowhere")
