"""A target and, where there is one, its low picture, cut alike."""

import numpy as np

from restore.errors import UserError
from restore.images.augment import corner, cropped, shaped
from restore.types import Sample

# Whatever of a sample shows the target's scene.
_PICTURES = ("target", "low", "low_up")


def random_crop(
    sample: Sample, side: int, scale: int, rng: np.random.Generator
) -> tuple[Sample, tuple[float, float]]:
    """A square part at a random place, of the target and of the low picture if it has one.

    Args:
        sample: has a target of any size; a low picture is that size divided by the scale.
        side: in target pixels, a multiple of the scale; what a target does not have is left out.
        scale: enlargement of each side; the place is a multiple of it.
        rng: the source of all random numbers.

    Returns:
        Key and pictures, and the middle of the part, in target pixels from the top left.

    Raises:
        UserError: there is no target, it is too small, or the low picture is another's.
    """
    if "target" not in sample:
        raise UserError(f"{sample['key']}: training needs a target picture")
    target = sample["target"]
    _check(sample, scale)
    height, width = (min(side, length // scale * scale) for length in target.shape[-2:])
    top, left = (
        corner(length, part, scale, rng)
        for length, part in zip(target.shape[-2:], (height, width), strict=True)
    )
    out = Sample(key=sample["key"], target=cropped(target, top, left, height, width))
    if "low" in sample:
        out["low"] = cropped(sample["low"], *(v // scale for v in (top, left, height, width)))
    return out, (top + height / 2, left + width / 2)


def finished(sample: Sample, side: int, scale: int, how: tuple[bool, bool, int] | None) -> Sample:
    """The pictures padded with black to the crop's size, and turned alike (None: not turned)."""
    out = sample.copy()
    for name in _PICTURES:
        if name in sample:
            size = side // scale if name == "low" else side
            out[name] = shaped(sample[name], size, how)  # type: ignore[literal-required]
    return out


def whole(sample: Sample, scale: int) -> Sample:
    """Key and pictures, cropped at the bottom and right to where the target is whole low pixels.

    Raises UserError when the target is too small, or the low picture is another's.
    """
    out = Sample(key=sample["key"])
    if "grey" in sample:
        out["grey"] = sample["grey"]
    if "low" in sample:
        out["low"] = sample["low"]
    if "target" in sample:
        _check(sample, scale)
        height, width = (length // scale for length in sample["target"].shape[-2:])
        out["target"] = cropped(sample["target"], 0, 0, height * scale, width * scale).contiguous()
        if "low" in sample:
            out["low"] = cropped(sample["low"], 0, 0, height, width).contiguous()
    return out


def _check(sample: Sample, scale: int) -> None:
    height, width = sample["target"].shape[-2:]
    if min(height, width) < scale:
        raise UserError(f"{sample['key']}: the target is smaller than {scale} pixels")
    if "low" not in sample:
        return
    # A low picture of another size would be cropped at the wrong place, in silence.
    low_height, low_width = sample["low"].shape[-2:]
    for length, low_length in ((height, low_height), (width, low_width)):
        if low_length not in (length // scale, -(-length // scale)):
            raise UserError(
                f"{sample['key']}: the low picture ({low_width}×{low_height}) is not the "
                f"target ({width}×{height}) divided by the scale {scale}"
            )
