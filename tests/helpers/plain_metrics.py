"""PSNR and SSIM written out plainly, and by scikit-image, from 8-bit pictures."""

import numpy as np
from skimage.metrics import structural_similarity

# What the papers behind each protocol compare: weights of R, G, B of 255 levels,
# offset, whether luma is rounded, pixels shaved (at scale 4).
TTSR = np.array([65.738, 129.057, 25.064]) / 256
MATLAB = np.array([65.481, 128.553, 24.966]) / 255
PUBLISHED = {
    "ttsr": (TTSR, False, 0),
    "y": (MATLAB, False, 4),
    "y8": (MATLAB, True, 4),
    "y_shave4": (MATLAB, False, 4),
    "rgb": (None, False, 0),
    "rgb_shave4": (None, False, 4),
    "div2k": (None, False, 10),
    "masa": (MATLAB, False, 0),
    "masa_stitched": (MATLAB, False, 0),
    "c2_matching": (MATLAB, False, 4),
    "datsr": (MATLAB, False, 4),
    "common": (MATLAB, False, 4),
}


def plain_planes(image_CHW: np.ndarray, protocol: str) -> np.ndarray:
    """Channels of an 8-bit picture as the protocol compares them, on a scale to 255."""
    weights, whole, border = PUBLISHED[protocol]
    x = image_CHW.astype(np.float64)
    if whole:  # exactly, with halves upwards
        parts = np.einsum(
            "chw,c->hw", image_CHW.astype(np.int64), np.rint(weights * 255_000).astype(int)
        )
        x = (parts + 16 * 255_000 + 127_500)[None] // 255_000 * 1.0
    elif weights is not None:
        x = (np.einsum("chw,c->hw", x, weights) + 16)[None]
    return x[:, border : x.shape[1] - border, border : x.shape[2] - border]


def plain_ssim(x_HW: np.ndarray, y_HW: np.ndarray) -> np.ndarray:
    """The map of Wang et al. 2004, equations 14 to 16 and 13, window by window."""
    at = np.arange(11) - 5
    window = np.exp(-(at[:, None] ** 2 + at[None] ** 2) / (2 * 1.5**2))
    window /= window.sum()
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    x, y = (np.lib.stride_tricks.sliding_window_view(z, (11, 11)) for z in (x_HW, y_HW))

    def mean(z: np.ndarray) -> np.ndarray:
        return (window * z).sum((-2, -1))

    mx, my = mean(x), mean(y)
    off_x, off_y = x - mx[..., None, None], y - my[..., None, None]
    vx, vy, cov = mean(off_x**2), mean(off_y**2), mean(off_x * off_y)
    return (2 * mx * my + c1) * (2 * cov + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2))


def library_ssim(x_HW: np.ndarray, y_HW: np.ndarray) -> np.ndarray:
    _, found = structural_similarity(
        x_HW,
        y_HW,
        data_range=255,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        full=True,
    )
    return found[5:-5, 5:-5]


def plain_psnr(x: np.ndarray, y: np.ndarray) -> float:
    return 20 * np.log10(255 / np.sqrt(np.mean((x - y) ** 2)))
