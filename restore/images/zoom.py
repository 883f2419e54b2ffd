"""What a lens of another focal length shows of the same place."""

from torch import Tensor

from restore.images.augment import cropped
from restore.images.resize import pil_resize


def zoomed_out(picture: Tensor, zoom: float) -> Tensor:
    """The picture as a focal length shorter by `zoom` shows it, enlarged to its own size."""
    height, width = picture.shape[-2:]
    return pil_resize(pil_resize(picture, *_smaller(picture, zoom)), height, width)


def centre(picture: Tensor, zoom: float) -> Tensor:
    """The picture's central part, as large as the whole divided by `zoom`, enlarged to it."""
    height, width = picture.shape[-2:]
    rows, columns = _smaller(picture, zoom)
    top, left = (height - rows) // 2, (width - columns) // 2
    return pil_resize(cropped(picture, top, left, rows, columns), height, width)


def _smaller(picture: Tensor, zoom: float) -> tuple[int, int]:
    height, width = picture.shape[-2:]
    return max(1, round(height / zoom)), max(1, round(width / zoom))
