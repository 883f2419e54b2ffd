"""Pictures as Python programs hold them: PIL, numpy, tensors and paths, in and out again."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from restore.errors import UserError
from restore.images import masks
from restore.images.decoding import Picture, from_array, from_image
from restore.images.io import load, to_array, to_image, to_uint8
from restore.utils.foreign import at_home

# One picture, as a caller may hand it over.
AnyPicture = str | Path | Image.Image | np.ndarray | Tensor

# How far floats may lie outside [0, 1], as rounding leaves them.
_SLACK = 1e-3


@dataclass(frozen=True)
class Converted:
    """A picture, and the function that brings another one into the form that this one had."""

    picture: Picture
    back: Callable[[Picture], Any]


def convert(given: object, name: str = "picture") -> Converted:
    """Reads a picture of any usual form.

    Args:
        given: a path; a PIL picture; an array HW or HWC, or a tensor HW or CHW, on any device:
            uint8, uint16 (arrays) or float in [0, 1]. One channel is grey, two are grey and alpha,
            three RGB, four RGB and alpha.
        name: what an error calls it.

    Returns:
        The picture, on the CPU. Its `back` gives: of paths a PIL picture; of PIL one of the same
        kind (modes P, 1 and CMYK become RGB or L); of arrays and tensors the same number of
        dimensions, channels and kind of values, and the same device.

    Raises:
        UserError: what cannot be read as a picture, and why.
    """
    if isinstance(given, str | Path):
        return Converted(load(Path(at_home(given))), to_image)
    if isinstance(given, Image.Image):
        try:
            return Converted(from_image(given), to_image)
        except (ValueError, OSError) as error:
            raise UserError(f"{name}: the PIL picture cannot be read: {error}") from error
    if isinstance(given, np.ndarray):
        return _of_array(given, name)
    if isinstance(given, Tensor):
        return _of_tensor(given, name)
    raise UserError(
        f"{name}: a path, a PIL picture, a numpy array or a tensor is needed, not "
        f"{type(given).__name__}"
    )


def _of_array(array: np.ndarray, name: str) -> Converted:
    flat = array.ndim == 2
    if array.ndim not in (2, 3) or (not flat and array.shape[2] not in (1, 2, 3, 4)):
        raise UserError(
            f"{name}: an array of shape {array.shape}; arrays are HW or HWC with 1 to 4 channels "
            "(tensors are CHW)"
        )
    pixels = array[..., None] if flat else array
    if array.dtype in (np.uint8, np.uint16):
        picture = from_array(_some(pixels, name))
    else:
        if not np.issubdtype(array.dtype, np.floating):
            raise UserError(f"{name}: {array.dtype}; uint8, uint16 or float in [0, 1] is needed")
        planes = np.ascontiguousarray(pixels.transpose(2, 0, 1), dtype=np.float32)
        picture = _of_floats(torch.from_numpy(planes), name)

    def back(result: Picture) -> np.ndarray:
        if array.dtype in (np.uint8, np.uint16):
            converted = to_array(result, opaque=False, deep=array.dtype == np.uint16)
        else:
            converted = _planes(result).permute(1, 2, 0).contiguous().numpy().astype(array.dtype)
        return converted[..., 0] if flat else converted

    return Converted(picture, back)


def _of_tensor(tensor: Tensor, name: str) -> Converted:
    flat = tensor.ndim == 2
    if tensor.ndim not in (2, 3) or (not flat and tensor.shape[0] not in (1, 2, 3, 4)):
        raise UserError(
            f"{name}: a tensor of shape {tuple(tensor.shape)}; tensors are HW, CHW or NCHW with 1 "
            "to 4 channels (arrays are HWC)"
        )
    pixels = (tensor[None] if flat else tensor).detach().cpu()
    if tensor.dtype == torch.uint8:
        picture = from_array(_some(pixels.permute(1, 2, 0).numpy(), name))
    elif tensor.is_floating_point():
        picture = _of_floats(pixels.float(), name)
    else:
        raise UserError(f"{name}: {tensor.dtype}; uint8 or float in [0, 1] is needed")

    def back(result: Picture) -> Tensor:
        planes = _planes(result)
        converted = to_uint8(planes) if tensor.dtype == torch.uint8 else planes.to(tensor.dtype)
        converted = converted.to(tensor.device)
        return converted[0] if flat else converted

    return Converted(picture, back)


def _some(pixels_HWC: np.ndarray, name: str) -> np.ndarray:
    if 0 in pixels_HWC.shape:
        raise UserError(f"{name}: there are no pixels in it (shape {pixels_HWC.shape})")
    return pixels_HWC


def _of_floats(planes_CHW: Tensor, name: str) -> Picture:
    """Floats are kept as they are: the 16 bits say that they are not rounded to 8."""
    _some(planes_CHW.numpy(), name)
    least, most = planes_CHW.min().item(), planes_CHW.max().item()
    if not (least >= -_SLACK and most <= 1 + _SLACK):  # NaN is in no range
        raise UserError(
            f"{name}: values from {least:g} to {most:g}; float pictures are in [0, 1] "
            "(divide by 255, or hand over uint8)"
        )
    planes = planes_CHW.clamp(0, 1)
    channels = len(planes)
    colour = planes[:3] if channels >= 3 else planes[:1].expand(3, -1, -1)
    alpha = planes[-1:].clone() if channels in (2, 4) else None
    return Picture(colour.clone(), alpha, bits=16, grey=channels < 3)


def _planes(picture: Picture) -> Tensor:
    """CHW in [0, 1]: a plain tensor, which a gradient may run through what is made of it."""
    colour = picture.colour[:1] if picture.grey else picture.colour
    planes = colour if picture.alpha is None else torch.cat([colour, picture.alpha])
    return planes.clamp(0, 1).clone()


def convert_mask(given: object, holes_are: masks.Polarity, size: tuple[int, int]) -> Tensor:
    """The holes of a mask as a bool 1HW.

    Args:
        given: as for `convert`, black and white; or a bool array or tensor, HW or 1HW (HW1 for
            arrays), in which true is a hole whatever `holes_are` says.
        holes_are: which of white and black is a hole.
        size: height and width of the picture that it is for.

    Raises:
        UserError: not a mask, or of another size.
    """
    if isinstance(given, np.ndarray | Tensor) and given.dtype in (np.bool_, torch.bool):
        given = (
            given.astype(np.uint8) * 255 if isinstance(given, np.ndarray) else given.byte() * 255
        )
        holes_are = "white"
    name = str(given) if isinstance(given, str | Path) else "mask"
    mask = masks.holes(convert(given, "mask").picture, holes_are, name)[None]
    if mask.shape[-2:] != size:
        raise UserError(
            f"{name} ({mask.shape[-1]}×{mask.shape[-2]}) is not of the size of the picture "
            f"({size[1]}×{size[0]}), whose holes it should show"
        )
    return mask
