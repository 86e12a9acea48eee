"""Outliers among a few values, for detectors, which have scores and no counts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from harness.statistics import validate

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from harness.statistics.validate import FloatArray


def anomaly_index(values: ArrayLike) -> FloatArray:
    """Distance of each value below the median, in robust standard deviations (Wang et al., S&P 2019, Section IV-B).

    It is (median - value) / (1.4826 MAD), where MAD is the median absolute deviation from the median. Above 2 such a
    value is called an outlier. With as few values as a task has classes that is a convention, not a test: normally
    distributed values often exceed it.

    Where most values are equal, MAD is 0 and so no unit. The mean absolute deviation times 1.2533, which is the
    standard deviation of a normal distribution as well, takes its place (Iglewicz and Hoaglin, How to Detect and Handle
    Outliers, 1993): a single outlier among n values then gets n / 1.2533, and the index is finite always.

    Args:
        values: One-dimensional; NaN is a missing value, and takes no part.

    Returns:
        Indices of at least 0 at the places of the values: 0 at or above the median, where the value is missing, and
        everywhere if fewer than three values or none but equal ones are there.

    Raises:
        ValueError: If `values` is not one-dimensional or holds an infinite number.
    """
    sample = validate.one_dimensional("values", values)
    validate.refuse("values", sample, np.isinf(sample), "finite or NaN")
    there = sample[~np.isnan(sample)]
    index = np.zeros_like(sample)
    if there.size < 3:
        return index
    median = np.median(there)  # of an even number, the mean of the two in the middle
    deviations = np.abs(there - median)
    unit = 1.4826 * np.median(deviations) or 1.2533 * deviations.mean()
    below = sample < median
    index[below] = (median - sample[below]) / unit
    return index
