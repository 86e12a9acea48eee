"""Confidence intervals: Clopper-Pearson for a proportion, the bootstrap over seeds, and summaries of values."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy import special

from harness.statistics import validate

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from harness.statistics.validate import FloatArray


def clopper_pearson_upper(matches: ArrayLike, trials: ArrayLike, confidence: float = 0.95) -> FloatArray:
    """One-sided exact upper confidence limit of a rate, after Clopper and Pearson (1934).

    It lies at or above the true rate with probability at least `confidence`. For a two-sided interval at
    95% take the lower and the upper limit at 97.5% each.

    Args:
        matches: Matching answers, whole numbers from 0 to `trials`.
        trials: Queries, whole numbers of at least 0.
        confidence: Confidence of the limit, strictly between 0 and 1.

    Returns:
        Limits in [0, 1], in the broadcast shape of the arguments; 1.0 where every query matched or there
        was none.

    Raises:
        ValueError: If a count is negative, not whole, or larger than its number of trials, or `confidence`
            lies outside (0, 1).
    """
    m, n = validate.group("", matches, trials)
    misses = n - m
    limit = special.betaincinv(m + 1, np.maximum(misses, 1), validate.inside("confidence", confidence))
    return np.where(misses > 0, limit, 1.0)


def clopper_pearson_lower(matches: ArrayLike, trials: ArrayLike, confidence: float = 0.95) -> FloatArray:
    """One-sided exact lower confidence limit of a rate, after Clopper and Pearson (1934).

    It lies at or below the true rate with probability at least `confidence`; see `clopper_pearson_upper`.

    Args:
        matches: Matching answers, whole numbers from 0 to `trials`.
        trials: Queries, whole numbers of at least 0.
        confidence: Confidence of the limit, strictly between 0 and 1.

    Returns:
        Limits in [0, 1], in the broadcast shape of the arguments; 0.0 where no query matched or there was
        none.

    Raises:
        ValueError: If a count is negative, not whole, or larger than its number of trials, or `confidence`
            lies outside (0, 1).
    """
    m, n = validate.group("", matches, trials)
    limit = special.betaincinv(np.maximum(m, 1), n - m + 1, 1 - validate.inside("confidence", confidence))
    return np.where(m > 0, limit, 0.0)


def bootstrap_interval(
    values: ArrayLike, confidence: float = 0.95, resamples: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """Two-sided percentile bootstrap interval of the mean over seeds, after Efron (1979).

    With fewer than about ten values it is too narrow: it cannot know of values that no seed showed.

    Args:
        values: One finite number per seed, one-dimensional, in any order and unit.
        confidence: Nominal coverage of the interval, strictly between 0 and 1.
        resamples: Number of resampled means, at least 1; memory grows with resamples x values.
        seed: Seed of the resampling: the same values in any order and the same seed give the same interval.

    Returns:
        The lower and the upper end, in the unit of `values`; (NaN, NaN) for a single value, which says
        nothing about spread.

    Raises:
        ValueError: If `values` is empty, not one-dimensional or not finite, `confidence` lies outside (0, 1)
            or `resamples` is below 1.
    """
    low, high = _bootstrap_intervals(validate.finite("values", values)[np.newaxis], confidence, resamples, seed)
    return float(low[0]), float(high[0])


def _bootstrap_intervals(
    samples: FloatArray, confidence: float, resamples: int, seed: int
) -> tuple[FloatArray, FloatArray]:
    """The intervals of samples of one size, a row each: all are resampled by the same picks."""
    tail = (1 - validate.inside("confidence", confidence)) / 2
    if resamples < 1:
        raise ValueError(f"resamples must be at least 1, got {resamples}")
    count, size = samples.shape
    if size == 1:
        return np.full(count, np.nan), np.full(count, np.nan)
    picks = np.random.default_rng(seed).integers(size, size=(resamples, size))
    # Sorted, so that the order of values cannot matter. One sample at a time: its resamples then fit into a cache.
    means = np.array([sample.take(picks).mean(axis=1) for sample in np.sort(samples, axis=1)])
    low, high = np.quantile(means, [tail, 1 - tail], axis=1)
    return low, high


@dataclass(frozen=True)
class Summary:
    """Summary of one quantity measured over seeds, all but `n` in the quantity's own unit.

    Attributes:
        n: Number of values, one per seed.
        mean: Their mean.
        sd: Their standard deviation with n - 1 in the denominator; NaN for a single value.
        low: Lower end of the bootstrap interval of the mean; NaN for a single value.
        high: Upper end of that interval; NaN for a single value.
    """

    n: int
    mean: float
    sd: float
    low: float
    high: float


def summary(values: ArrayLike, confidence: float = 0.95, resamples: int = 2000, seed: int = 0) -> Summary:
    """Count, mean, standard deviation and bootstrap interval of the mean over seeds.

    Args:
        values: One finite number per seed, one-dimensional.
        confidence: Nominal coverage of the interval, strictly between 0 and 1.
        resamples: Number of resampled means, at least 1.
        seed: Seed of the resampling.

    Returns:
        The summary; `sd`, `low` and `high` are NaN for a single value.

    Raises:
        ValueError: As `bootstrap_interval`.
    """
    return summaries(values, [validate.finite("values", values).size], confidence, resamples, seed)[0]


_AT_ONCE = 1000
"""Samples that are resampled together: of each there are as many means as resamples."""


def summaries(
    values: ArrayLike,
    sizes: ArrayLike,
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
    *,
    intervals: bool = True,
) -> list[Summary]:
    """`summary` of many samples, the same to the last bit: those of one size are computed together.

    Args:
        values: The samples' finite numbers, one sample after the other.
        sizes: How many numbers each sample has, at least 1.
        confidence: As of `summary`.
        resamples: As of `summary`.
        seed: As of `summary`.
        intervals: Whether to resample, which takes nearly all of the time; if not, `low` and `high` are NaN.

    Returns:
        A summary a sample.

    Raises:
        ValueError: As `bootstrap_interval`.
    """
    numbers, counts = validate.finite("values", values), np.asarray(sizes, dtype=np.intp)
    starts, made = np.cumsum(counts) - counts, np.empty((4, counts.size))
    for size in np.unique(counts):
        places = np.flatnonzero(counts == size)
        for here in np.array_split(places, math.ceil(places.size / _AT_ONCE)):
            samples = numbers[starts[here, np.newaxis] + np.arange(size)]
            sd = samples.std(axis=1, ddof=1) if size > 1 else np.nan
            low, high = _bootstrap_intervals(samples, confidence, resamples, seed) if intervals else (np.nan, np.nan)
            for row, column in zip(made, (samples.mean(axis=1), sd, low, high), strict=True):
                row[here] = column
    return [Summary(int(n), *row) for n, row in zip(counts, made.T.tolist(), strict=True)]
