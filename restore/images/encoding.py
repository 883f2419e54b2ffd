"""PNG and TIFF written a band of rows at a time, so that no picture need be in memory whole."""

import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
import tifffile

# Rows that are filtered and packed at once.
_ROWS = 64


def write_png(path: Path, bands_HWC: Iterator[np.ndarray], height: int, icc: bytes | None) -> None:
    """A PNG (W3C, third edition) of 8 or 16 bits, grey or in colours, its last channel of 2 or 4
    being transparency; the filter of each row is the one whose result has the least sum.
    """
    first = next(bands_HWC)
    _, width, channels = first.shape
    kind = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    packer = zlib.compressobj(6, zlib.DEFLATED, 15, 9, zlib.Z_FILTERED)
    with open(path, "wb") as file:
        file.write(b"\x89PNG\r\n\x1a\n")
        head = struct.pack(">IIBBBBB", width, height, 8 * first.itemsize, kind, 0, 0, 0)
        _chunk(file, b"IHDR", head)
        if icc:
            _chunk(file, b"iCCP", b"profile\0\0" + zlib.compress(icc))
        step = channels * first.itemsize
        above = np.zeros(width * step, np.uint8)
        written = 0
        for rows in _pieces(first, bands_HWC):
            lines = rows.astype(f">u{rows.itemsize}", copy=False).view(np.uint8)
            lines = lines.reshape(len(rows), -1)
            _chunk(file, b"IDAT", packer.compress(_filtered(lines, above, step)))
            above = lines[-1]
            written += len(rows)
        assert written == height, (written, height)
        _chunk(file, b"IDAT", packer.flush())
        _chunk(file, b"IEND", b"")


def _pieces(first: np.ndarray, others: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
    for start in range(0, len(first), _ROWS):
        yield first[start : start + _ROWS]
    for band in others:
        for start in range(0, len(band), _ROWS):
            yield band[start : start + _ROWS]


def _chunk(file: BinaryIO, name: bytes, body: bytes) -> None:
    if body or name == b"IEND":
        file.write(struct.pack(">I", len(body)) + name)
        file.write(body)
        file.write(struct.pack(">I", zlib.crc32(body, zlib.crc32(name))))


def _filtered(lines: np.ndarray, above: np.ndarray, step: int) -> bytes:
    """Rows of bytes as PNG's filters leave them, each with its filter's number before it.

    Args:
        lines: of rows, uint8.
        above: the row before them.
        step: bytes a pixel.
    """
    up = np.concatenate([above[None], lines[:-1]])
    left, corner = (np.pad(x, ((0, 0), (step, 0)))[:, :-step] for x in (lines, up))
    a, b, c = (x.astype(np.int16) for x in (left, up, corner))
    near_a, near_b, near_c = np.abs(b - c), np.abs(a - c), np.abs(a + b - 2 * c)
    paeth = np.where(
        (near_a <= near_b) & (near_a <= near_c), left, np.where(near_b <= near_c, up, corner)
    )
    guesses = (np.zeros_like(lines), left, up, ((a + b) >> 1).astype(np.uint8), paeth)
    least: np.ndarray | None = None
    chosen = np.zeros((len(lines), lines.shape[1] + 1), np.uint8)
    for number, guess in enumerate(guesses):
        rest = lines - guess
        # As signed bytes: a small step down is as good as one up.
        total = np.minimum(rest, -rest).sum(1, dtype=np.int64)
        better = np.ones(len(lines), bool) if least is None else total < least
        chosen[better, 0], chosen[better, 1:] = number, rest[better]
        least = total if least is None else np.minimum(least, total)
    return chosen.tobytes()


def write_tiff(path: Path, bands_HWC: Iterator[np.ndarray], height: int, icc: bytes | None) -> None:
    """A TIFF of 8 or 16 bits, deflated; of 2 or 4 channels the last is straight transparency."""
    first = next(bands_HWC)
    _, width, channels = first.shape

    def strips() -> Iterator[bytes]:
        waiting: list[np.ndarray] = []
        for piece in _pieces(first, bands_HWC):
            waiting.append(piece)
            while sum(map(len, waiting)) >= _ROWS:
                rows = np.concatenate(waiting)
                yield _packed(rows[:_ROWS])
                waiting = [rows[_ROWS:]]
        rest = np.concatenate(waiting)
        if len(rest):
            yield _packed(rest)

    tifffile.imwrite(
        path,
        strips(),
        shape=(height, width, channels) if channels > 1 else (height, width),
        dtype=first.dtype,
        byteorder="<",
        rowsperstrip=min(_ROWS, height),
        photometric="rgb" if channels >= 3 else "minisblack",
        planarconfig="contig" if channels > 1 else None,
        extrasamples=["unassalpha"] if channels in (2, 4) else None,
        compression="zlib",
        iccprofile=icc,
        metadata=None,
    )


def _packed(rows: np.ndarray) -> bytes:
    return zlib.compress(rows.astype(rows.dtype.newbyteorder("<"), copy=False).tobytes())
