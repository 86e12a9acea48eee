"""Intervals of margins over seeds, and the gate on what a mark costs."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from scipy import special

from harness.statistics import validate
from harness.statistics.counts import over

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from harness.statistics.validate import FloatArray

    Gate = Literal["passes", "fails", "unsure"]

FEWEST_SEEDS = 5
"""Seeds below which no interval is given, and no gate is passed."""


@dataclass(frozen=True)
class SeedsInterval:
    """Mean of one quantity over seeds and its two-sided interval, in the quantity's unit but for `n`.

    Attributes:
        n: Number of values, one per seed.
        mean: Their mean; NaN if there are none.
        sd: Their standard deviation with n - 1 in the denominator; NaN below two values.
        low: Lower end of the interval; NaN below `FEWEST_SEEDS` values.
        high: Upper end, likewise.
    """

    n: int
    mean: float
    sd: float
    low: float
    high: float


def seeds_interval(
    values: ArrayLike, without_model_means: ArrayLike | None = None, confidence: float = 0.95
) -> SeedsInterval:
    """Mean margin over seeds with an interval for new seeds and new unmarked models.

    The variance is V = s^2 / (n + 2) + (k - 1) / k sum_j (m_(-j) - mean)^2. Its first term is Student's, of the n
    values and two imaginary seeds at 0 and 1 (s is the standard deviation of all n + 2, with n + 1 degrees of freedom):
    few seeds cannot know of values that none of them showed, and Student's interval of the n alone covers 41% where one
    seed in ten loses its mark. Its second term is the jackknife (Efron and Stein 1981) over the unmarked models, which
    all seeds share, so that more seeds do not average their error away.

    There are two centres, the mean of the n values and that of the n + 2: the interval reaches from t sqrt(V) below the
    lower to t sqrt(V) above the higher one, and no further than -1 and 1. The one of n + 2 alone covers too, on two
    sides; but where no mark is left and the unmarked models' error dominates, it leaves its lower end above the true
    margin twice as often as it should.

    Args:
        values: Margins in [-1, 1], one per seed, one-dimensional; NaN is a missing value.
        without_model_means: The mean margin of these seeds when each of the k unmarked models in turn is left out, one-
            dimensional; NaN for a model that does not count. None leaves their error out.
        confidence: Coverage of the interval, strictly between 0 and 1.

    Returns:
        The interval.

    Raises:
        ValueError: If a margin lies outside [-1, 1], an array is not one-dimensional, or `confidence` lies outside
            (0, 1).
    """
    row = validate.one_dimensional("values", values)
    without = None
    if without_model_means is not None:
        without = validate.one_dimensional("without_model_means", without_model_means)[np.newaxis]
    return seeds_intervals(row[np.newaxis], without, confidence)[0]


def seeds_intervals(
    values: ArrayLike, without_model_means: ArrayLike | None = None, confidence: float = 0.95
) -> list[SeedsInterval]:
    """`seeds_interval` of many groups of seeds at once.

    Args:
        values: Margins of shape [groups, seeds]; NaN is a missing value.
        without_model_means: Means of shape [groups, models]; NaN for a model that does not count.
        confidence: As of `seeds_interval`.

    Returns:
        An interval a group.

    Raises:
        ValueError: As `seeds_interval`.
    """
    upper = (1 + validate.inside("confidence", confidence)) / 2
    n, mean, sd, centre, error = _moments(values, without_model_means)
    half = special.stdtrit(n + 1, upper) * error
    low = np.clip(np.minimum(mean, centre) - half, -1, 1)
    high = np.clip(np.maximum(mean, centre) + half, -1, 1)
    columns = (n.tolist(), mean.tolist(), sd.tolist(), low.tolist(), high.tolist())
    return [SeedsInterval(int(count), *rest) for count, *rest in zip(*columns, strict=True)]


def lower_limit(values: ArrayLike, without_model_means: ArrayLike | None = None, confidence: float = 0.95) -> float:
    """One-sided lower limit of the mean margin, for new seeds and new unmarked models, as of `seeds_interval`.

    Args:
        values: As of `seeds_interval`.
        without_model_means: As of `seeds_interval`.
        confidence: Confidence of the limit, strictly between 0 and 1.

    Returns:
        A margin in [-1, 1]; NaN below `FEWEST_SEEDS` values.

    Raises:
        ValueError: As `seeds_interval`.
    """
    return seeds_interval(values, without_model_means, 2 * validate.inside("confidence", confidence) - 1).low


def _moments(
    values: ArrayLike, without: ArrayLike | None
) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray, FloatArray]:
    """Moments of each row: count, mean, SD, mean with the two imaginary seeds, standard error (NaN of few)."""
    margins = validate.numbers("values", values)
    validate.refuse("values", margins, np.abs(margins) > 1 + 1e-9, "between -1 and 1")
    there = ~np.isnan(margins)
    n = there.sum(axis=1)
    sums = np.where(there, margins, 0).sum(axis=1)
    mean, centre = over(sums, n), (sums + 1) / (n + 2)
    squares = np.where(there, np.square(margins - centre[:, np.newaxis]), 0).sum(axis=1)
    variance = (squares + centre**2 + (1 - centre) ** 2) / (n + 1) / (n + 2)
    own = np.where(there, np.square(margins - mean[:, np.newaxis]), 0).sum(axis=1)
    error = np.sqrt(variance + _jackknife(mean, without))
    return n, mean, np.sqrt(over(own, n - 1)), centre, np.where(n >= FEWEST_SEEDS, error, np.nan)


def _jackknife(mean: FloatArray, without: ArrayLike | None) -> FloatArray:
    """(k - 1) / k times the sum of the squared distances of the means without one model from the mean."""
    if without is None:
        return np.zeros(mean.shape)
    left_out = validate.numbers("without_model_means", without)
    models = (~np.isnan(left_out)).sum(axis=1)
    squares = np.nansum(np.square(left_out - mean[:, np.newaxis]), axis=1)
    return np.asarray((models - 1) / np.maximum(models, 1) * squares, dtype=np.float64)


def cost_interval(costs: ArrayLike, confidence: float = 0.95) -> SeedsInterval:
    """Mean cost of a mark over seeds, with Student's interval: costs have no natural ends for imaginary seeds.

    Args:
        costs: Accuracy without the mark less served accuracy with it, one per seed, one-dimensional, in any unit; NaN
            is a missing value.
        confidence: Coverage of the interval, strictly between 0 and 1.

    Returns:
        The interval, in the unit of `costs`.

    Raises:
        ValueError: If `costs` is not one-dimensional or holds an infinite number, or `confidence` lies outside (0, 1).
    """
    upper = (1 + validate.inside("confidence", confidence)) / 2
    given = validate.one_dimensional("costs", costs)
    validate.refuse("costs", given, np.isinf(given), "finite or NaN")
    there = given[~np.isnan(given)]
    n = there.size
    mean = float(there.mean()) if n else math.nan
    sd = float(there.std(ddof=1)) if n > 1 else math.nan
    half = float(special.stdtrit(n - 1, upper)) * sd / math.sqrt(n) if n >= FEWEST_SEEDS else math.nan
    return SeedsInterval(n, mean, sd, mean - half, mean + half)


def gate(costs: ArrayLike, max_cost: float, confidence: float = 0.95) -> Gate:
    """Verdict on what a mark costs: a scheme "fails" whose mean cost is above `max_cost`; it stands under the line.

    The mean decides, whatever its interval: a scheme cannot pass by costs that scatter. Of fewer than `FEWEST_SEEDS`
    values each must be above `max_cost` for a scheme to fail: a mean of three says little. One that does not fail
    "passes" where `cost_interval` lies below `max_cost` altogether. Else it is "unsure", which stands above the line
    with a question mark: its interval holds `max_cost`, or it has fewer than `FEWEST_SEEDS` values.

    Args:
        costs: As of `cost_interval`.
        max_cost: Highest mean cost that passes, in the unit of `costs`.
        confidence: As of `cost_interval`.

    Returns:
        "passes", "fails" or "unsure".

    Raises:
        ValueError: As `cost_interval`.
    """
    made = cost_interval(costs, confidence)
    above = made.mean if made.n >= FEWEST_SEEDS else np.nanmin(np.asarray(costs, dtype=float), initial=math.inf)
    if made.n and above > max_cost + 1e-9:
        return "fails"
    return "passes" if made.high < max_cost else "unsure"
