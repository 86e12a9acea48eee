"""Counts of many suspects and models in arrays, and their rates."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from harness.statistics import validate

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from harness.statistics.validate import FloatArray


def whole_group(prefix: str, matches: ArrayLike, trials: ArrayLike) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Both counts of one group as int64 in one shape; arrays of whole numbers, which may be large, are not converted.

    Raises:
        ValueError: If a count is negative, not whole, or larger than its number of trials.
    """
    m, t = (_whole(f"{prefix}{name}", each) for name, each in (("matches", matches), ("trials", trials)))
    if (m > t).any() or (m < 0).any():
        validate.group(prefix, m, t)  # says what is wrong
    m, t = np.broadcast_arrays(m, t)
    return m, t


def _whole(name: str, values: ArrayLike) -> NDArray[np.int64]:
    given = np.asarray(values)
    whole = given if given.dtype.kind in "iu" else validate.counts(name, given)
    return whole.astype(np.int64, copy=False)


def rates_of(matches: NDArray[np.int64], trials: NDArray[np.int64]) -> FloatArray:
    """Rates, matches / trials; 0 of no trials."""
    return np.asarray(matches / np.maximum(trials, 1), dtype=np.float64)


def mask(counted: ArrayLike | None, shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """The mask of what counts, in full shape; all of it if None."""
    return np.broadcast_to(np.True_ if counted is None else np.asarray(counted, dtype=np.bool_), shape)


def over(sums: FloatArray, count: ArrayLike) -> FloatArray:
    """Sums / counts; NaN where the count is not above 0."""
    counts = np.asarray(count, dtype=np.float64)
    out = np.full(np.broadcast_shapes(np.shape(sums), counts.shape), np.nan)
    return np.asarray(np.divide(sums, counts, where=counts > 0, out=out), dtype=np.float64)
