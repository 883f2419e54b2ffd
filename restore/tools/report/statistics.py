"""How sure a difference between two variants is, over images and over seeds."""

import math
from dataclasses import astuple, dataclass, replace
from functools import cache

import numpy as np
from scipy import stats


@dataclass(frozen=True)
class Comparison:
    """How much larger one variant's values are than another's.

    Mean difference with its bootstrap interval over images and seeds; p of the paired t test and
    of Wilcoxon's signed-rank test over images (each the mean over seeds) and of the paired t test
    over seeds (each the mean over images); how many of both. NaN where there is too little to test.
    """

    mean: float
    low: float
    high: float
    t_images: float
    wilcoxon_images: float
    t_seeds: float
    images: int
    seeds: int

    def row(self) -> tuple[float, ...]:
        """The numbers in this order."""
        return astuple(self)

    def reversed(self) -> "Comparison":
        """How much larger the other's values are."""
        return replace(self, mean=-self.mean, low=-self.high, high=-self.low)


def compare(
    own_SI: np.ndarray, other_SI: np.ndarray, level: float, resamples: int, seed: int
) -> Comparison:
    """Compares two variants over the same seeds and images.

    Images without a finite value in any of the cells are left out. The interval is the percentile
    bootstrap with both images and seeds drawn anew (crossed, each with replacement), so that it
    holds what another set of photos and another training would change. With three seeds it is
    somewhat too narrow in their direction, as every bootstrap of few values is.

    Args:
        own_SI, other_SI: values, a row a seed and a column an image; one row stands for all seeds
            of the other, as with a method that has no seed.
        level: of confidence, in (0, 1).
        resamples: drawn.
        seed: of the draws.
    """
    finite = np.isfinite(own_SI).all(0) & np.isfinite(other_SI).all(0)
    own_SI, other_SI = own_SI[:, finite], other_SI[:, finite]
    gaps_SI = own_SI - other_SI
    seeds, images = gaps_SI.shape
    if not images:
        nan = math.nan
        return Comparison(nan, nan, nan, nan, nan, nan, 0, seeds)
    # Means first, as SciPy's paired tests get them: what ties there stays tied.
    by_image = own_SI.mean(0) - other_SI.mean(0)
    by_seed = own_SI.mean(1) - other_SI.mean(1)
    low = high = math.nan
    if seeds > 1 or images > 1:
        of_images = _draws(images, resamples, seed)
        of_seeds = _draws(seeds, resamples, seed + 1)
        means = ((of_seeds @ gaps_SI) * of_images).sum(1)
        low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Comparison(
        float(gaps_SI.mean()),
        float(low),
        float(high),
        _t(by_image),
        _wilcoxon(by_image),
        _t(by_seed),
        images,
        seeds,
    )


@cache
def _draws(count: int, resamples: int, seed: int) -> np.ndarray:
    """Weights (resamples × count) of each thing in each draw of as many things."""
    drawn = np.random.default_rng(seed).multinomial(count, [1 / count] * count, resamples)
    return drawn / count


def _t(gaps: np.ndarray) -> float:
    # Of equal gaps SciPy warns and tells nothing; rounding alone must not set them apart.
    if len(gaps) < 2 or np.ptp(gaps) <= 1e-12 + 1e-10 * np.abs(gaps).max():
        return math.nan
    return float(stats.ttest_1samp(gaps, 0).pvalue)


def _wilcoxon(gaps: np.ndarray) -> float:
    if len(gaps) < 2 or not gaps.any():
        return math.nan
    return float(stats.wilcoxon(gaps).pvalue)


def spread(values: np.ndarray) -> tuple[float, float]:
    """Mean and standard deviation (of a sample, n − 1) of the finite values; NaN of too few."""
    kept = values[np.isfinite(values)]
    mean = float(kept.mean()) if len(kept) else math.nan
    return mean, float(kept.std(ddof=1)) if len(kept) > 1 else math.nan
