"""From values of single images to numbers for a table: bins, intervals of differences."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from scipy.stats import bootstrap


@dataclass(frozen=True)
class Difference:
    """Mean difference of two methods over the same images, with its confidence interval.

    `count` images have a finite difference; of fewer than two there is no interval (NaN).
    """

    mean: float
    low: float
    high: float
    count: int


def paired(
    own: Sequence[float], other: Sequence[float], level: float, resamples: int, seed: int
) -> Difference:
    """How much larger the first method's values are, image by image.

    The interval is SciPy's BCa bootstrap (Efron 1987) of the mean of the differences: images are
    drawn with both methods' values together. Images where either value is missing or infinite are
    left out.

    Args:
        own, other: values of the same images in the same order.
        level: of confidence, in (0, 1).
        resamples: drawn.
        seed: of the draws.
    """
    pairs = np.stack([np.asarray(own, np.float64), np.asarray(other, np.float64)])
    pairs = pairs[:, np.isfinite(pairs).all(0)]
    gaps = pairs[0] - pairs[1]
    if not len(gaps):
        return Difference(math.nan, math.nan, math.nan, 0)
    middle = math.fsum(gaps) / len(gaps)
    if len(gaps) == 1:
        return Difference(middle, math.nan, math.nan, 1)
    if np.ptp(gaps) == 0:  # nothing to draw from; SciPy would warn and return NaN
        return Difference(middle, middle, middle, len(gaps))
    interval = bootstrap(
        (gaps,),
        np.mean,
        confidence_level=level,
        n_resamples=resamples,
        rng=np.random.default_rng(seed),
        # In blocks, or a thousand images would need the whole table of draws at once.
        batch=max(1, 10_000_000 // len(gaps)),
    ).confidence_interval
    return Difference(middle, float(interval.low), float(interval.high), len(gaps))


def bins(shares: Sequence[float], edges: Sequence[float]) -> dict[str, list[int]]:
    """Which images fall into which range of hole share; a range has its upper end, not its lower.

    Args:
        shares: of each image's pixels that are holes; images without holes are in no bin.
        edges: rising, in [0, 1]; what lies above the last comes into a bin of its own.

    Returns:
        By the range in words, the places of its images; only ranges with images.
    """
    ends = [*edges] if edges[-1] >= 1 else [*edges, 1.0]
    places: dict[str, list[int]] = {}
    for low, high in pairwise(ends):
        inside = [i for i, share in enumerate(shares) if low < share <= high]
        if inside:
            places[f"{100 * low:g}–{100 * high:g} %"] = inside
    return places
