"""PIL's bicubic and bilinear on tensors, and how any bicubic's overshoot is cut off."""

import numpy as np
import torch
from PIL import Image
from torch import Tensor


def pil_resize(picture_CHW: Tensor, height: int, width: int) -> Tensor:
    """PIL's bicubic: of 8-bit pictures in 8 bits, of float ones in float, not rounded."""
    if picture_CHW.dtype != torch.uint8:
        # 16-bit and noisy pictures: PIL's bicubic in float, a channel at a time, not rounded.
        planes = [
            np.asarray(
                Image.fromarray(plane.numpy(), mode="F").resize(
                    (width, height), Image.Resampling.BICUBIC
                )
            )
            for plane in picture_CHW.float().contiguous()
        ]
        return within(torch.from_numpy(np.stack(planes)), picture_CHW)
    array = picture_CHW.permute(1, 2, 0).contiguous().numpy()
    resized = Image.fromarray(array).resize((width, height), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(resized)).permute(2, 0, 1).contiguous()


def bilinear_square(picture_3HW: Tensor, side: int) -> Tensor:
    """An 8-bit picture as a square, whatever shape it had, by PIL's bilinear."""
    array = picture_3HW.permute(1, 2, 0).contiguous().numpy()
    resized = Image.fromarray(array).resize((side, side), Image.Resampling.BILINEAR)
    return torch.from_numpy(np.array(resized)).permute(2, 0, 1).contiguous()


def within(resized: Tensor, picture: Tensor) -> Tensor:
    """Cuts bicubic's overshoot off at black and white, or where unclipped noise went beyond."""
    return resized.clamp(picture.min().clamp_max(0), picture.max().clamp_min(1))
