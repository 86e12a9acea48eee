"""Checks of what the statistics accept: each gives the numbers as float64, or raises :class:`ValueError` with what was
expected and what was given."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    FloatArray = NDArray[np.float64]


def evidence(
    matches: ArrayLike, trials: ArrayLike, control_matches: ArrayLike, control_trials: ArrayLike
) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
    """The four counts, checked."""
    return *group("", matches, trials), *group("control_", control_matches, control_trials)


def group(prefix: str, matches: ArrayLike, trials: ArrayLike) -> tuple[FloatArray, FloatArray]:
    """The two counts of one group, checked and broadcast to one shape."""
    m, n = np.broadcast_arrays(counts(f"{prefix}matches", matches), counts(f"{prefix}trials", trials))
    over = m > n
    if over.any():
        worst = f"{m[over].flat[0]:.15g} of {n[over].flat[0]:.15g}"
        raise ValueError(f"{prefix}matches must be at most {prefix}trials, got {worst}")
    return m, n


def counts(name: str, values: ArrayLike) -> FloatArray:
    """Whole numbers of at least 0."""
    made = numbers(name, values)
    bad = ~(np.isfinite(made) & (made >= 0) & (made == np.floor(made)))
    refuse(name, made, bad, "a whole number of at least 0")
    return made


def rates(name: str, values: ArrayLike) -> FloatArray:
    """Numbers in [0, 1]."""
    made = numbers(name, values)
    refuse(name, made, ~((made >= 0) & (made <= 1)), "between 0 and 1")
    return made


def rate(name: str, value: float) -> float:
    """One number in [0, 1]; plain Python, because plans are made row by row."""
    if not 0 <= value <= 1:
        raise ValueError(f"{name} must be between 0 and 1, got {value}")
    return float(value)


def inside(name: str, value: float) -> float:
    """One number strictly between 0 and 1."""
    if not 0 < value < 1:
        raise ValueError(f"{name} must be strictly between 0 and 1, got {value}")
    return float(value)


def finite(name: str, values: ArrayLike) -> FloatArray:
    """One-dimensional finite numbers, at least one."""
    made = one_dimensional(name, values)
    if made.size == 0:
        raise ValueError(f"{name} must hold at least one number, got none")
    refuse(name, made, ~np.isfinite(made), "finite")
    return made


def pairs(name: str, values: ArrayLike) -> FloatArray:
    """Finite numbers in pairs."""
    made = numbers(name, values)
    made = made.reshape(0, 2) if made.size == 0 else made
    if made.ndim != 2 or made.shape[1] != 2:
        raise ValueError(f"{name} must be pairs of numbers, got shape {made.shape}")
    refuse(name, made, ~np.isfinite(made), "finite")
    return made


def one_dimensional(name: str, values: ArrayLike) -> FloatArray:
    """Numbers in one dimension."""
    made = numbers(name, values)
    if made.ndim != 1:
        raise ValueError(f"{name} must be one-dimensional, got shape {made.shape}")
    return made


def numbers(name: str, values: ArrayLike) -> FloatArray:
    """Whatever numpy reads as numbers, as float64."""
    try:
        return np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} must be numbers, got {values!r}") from error


def refuse(name: str, values: FloatArray, bad: NDArray[np.bool_], expected: str) -> None:
    """Raise for the first bad value, if there is one."""
    if bad.any():
        raise ValueError(f"{name} must be {expected}, got {values[bad].flat[0]:.15g}")
