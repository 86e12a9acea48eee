"""Paired comparisons of schemes over the seeds that they share.

The tests are two-sided, and the unit of inference is the seed: one seed gives both schemes the same data, first weights
and order, so what the seed itself adds cancels.
"""

from __future__ import annotations

import bisect
import itertools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy import special

from harness.statistics import validate
from harness.statistics.intervals import summary
from harness.statistics.power import MAX_QUERIES
from harness.statistics.tests import holm

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import ArrayLike

    from harness.statistics.validate import FloatArray


@dataclass(frozen=True)
class Difference:
    """The paired difference of two schemes over their common seeds, in the quantity's unit but for counts and p-values.

    Attributes:
        n: Number of common seeds.
        mean: Mean of the differences, positive where the first scheme has the larger values.
        sd: Their standard deviation with n - 1 in the denominator; NaN for a single seed.
        low: Lower end of the bootstrap interval of the mean; NaN for a single seed.
        high: Upper end of that interval; NaN for a single seed.
        t_low: Lower end of Student's interval of the mean; NaN for a single seed.
        t_high: Upper end of that interval; NaN for a single seed.
        t_p_value: Two-sided p-value of the paired t-test; NaN for a single seed. If all differences are equal it is
            0.0, or 1.0 where they are zero.
        p_value: Two-sided p-value of `sign_flip_test`.
    """

    n: int
    mean: float
    sd: float
    low: float
    high: float
    t_low: float
    t_high: float
    t_p_value: float
    p_value: float


def paired_difference(
    values: Mapping[int, float],
    others: Mapping[int, float],
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Difference:
    """Compare two schemes over the seeds that both have.

    One seed gives both the same data, first weights and order, so what the seed itself adds cancels.

    Args:
        values: The first scheme's finite value of each seed.
        others: The second scheme's.
        confidence: Nominal coverage of both intervals, strictly between 0 and 1.
        resamples: As of `bootstrap_interval`.
        seed: As of `bootstrap_interval`.

    Returns:
        The difference, first minus second.

    Raises:
        ValueError: If there is no common seed, or as `bootstrap_interval`.
    """
    common = sorted(values.keys() & others.keys())
    differences = validate.finite("differences", [values[key] - others[key] for key in common])
    made = summary(differences, confidence, resamples, seed)
    half = made.sd / math.sqrt(made.n) * float(special.stdtrit(max(made.n - 1, 1), (1 + confidence) / 2))
    ends = (made.low, made.high, made.mean - half, made.mean + half)
    p_values = _paired_t_p_value(differences), sign_flip_test(differences, seed=seed)
    return Difference(made.n, made.mean, made.sd, *ends, *p_values)


def _paired_t_p_value(differences: FloatArray) -> float:
    """Two-sided p-value of Student's t-test that the mean is zero; the limits where the differences are constant."""
    n, mean = differences.size, abs(float(differences.mean()))
    if n < 2:
        return math.nan
    error = float(differences.std(ddof=1)) / math.sqrt(n)
    statistic = mean / error if error else math.inf if mean else 0.0
    return 2 * float(special.stdtr(n - 1, -statistic))


def sign_flip_test(differences: ArrayLike, flips: int = 9999, seed: int = 0) -> float:
    """Two-sided p-value of the sign-flip permutation test that differences scatter symmetrically about zero.

    If two schemes are alike each difference could as well have had the other sign; the p-value is the share of all
    2^n choices of signs whose sum is as far from zero as the one seen. It is exact for up to 20 differences,
    whatever their distribution, and cannot fall below 2 / 2^n: to reach 0.05 takes 6 seeds. Of more than 20,
    `flips` random choices and the one seen stand for all of them, unless all differences have one sign.

    Args:
        differences: One finite number per seed, one-dimensional, in any order and unit.
        flips: Number of random choices, at least 1.
        seed: Seed of these.

    Returns:
        A p-value in (0, 1].

    Raises:
        ValueError: If `differences` is empty, not one-dimensional or not finite, or `flips` is below 1.
    """
    signed = validate.finite("differences", differences)
    if flips < 1:
        raise ValueError(f"flips must be at least 1, got {flips}")
    if (signed > 0).all() or (signed < 0).all():
        return 2.0 ** (1 - signed.size)  # no other choice of signs but the opposite is as far from zero
    sizes = np.sort(np.abs(signed))  # sorted, so that the order cannot matter
    seen = abs(signed.sum()) - 1e-9 * sizes.sum()  # equal sums count, however they were rounded
    if sizes.size > 20:
        rng = np.random.default_rng(seed)
        sums = (2.0 * rng.integers(2, size=(flips, sizes.size)) - 1) @ sizes
        return (int(np.sum(np.abs(sums) >= seen)) + 1) / (flips + 1)
    sums = np.zeros(1)
    for size in sizes:
        sums = np.concatenate([sums + size, sums - size])
    return float(np.mean(np.abs(sums) >= seen))


def fewest_seeds(confidence: float = 0.95) -> int:
    """Seeds with which `sign_flip_test` reaches 1 - confidence, if all of their differences have one sign."""
    return math.ceil(1 - math.log2(1 - validate.inside("confidence", confidence)) - 1e-9)


def seeds_to_settle(mean: float, sd: float, n: int = 0, confidence: float = 0.95, power: float = 0.80) -> float:
    """Number of further seeds that settle a difference, if its mean and standard deviation are the true ones.

    Settled means that Student's two-sided interval of the mean lies on the mean's side of zero. The answer is 0 if
    the interval of these n seeds does so; else it is what is missing to the first number of seeds of which a new
    study would settle it with probability `power`, and at least 1. Few seeds know a standard deviation badly: take
    it for a plan, not a promise.

    Args:
        mean: Mean of the paired differences, finite, of either sign.
        sd: Their standard deviation, at least 0.
        n: Seeds behind them, at least 0; with fewer than 2 nothing is settled yet.
        confidence: Coverage of the interval, strictly between 0 and 1.
        power: Wanted probability, strictly between 0 and 1.

    Returns:
        A whole number of at least 0; `inf` if the mean is 0 or more than `MAX_QUERIES` seeds would be needed.

    Raises:
        ValueError: If a number lies outside its range.
    """
    upper, target = (1 + validate.inside("confidence", confidence)) / 2, validate.inside("power", power)
    if not (math.isfinite(mean) and 0 <= sd < math.inf and n >= 0):
        raise ValueError(f"mean must be finite, sd and n at least 0, got mean {mean}, sd {sd}, n {n}")
    effect = abs(mean) / sd if sd else math.inf if mean else 0.0
    if n > 1 and effect * math.sqrt(n) > special.stdtrit(n - 1, upper):
        return 0.0
    if effect in (0, math.inf):
        return float(max(2 - n, 1)) if effect else math.inf

    def settles(seeds: int) -> bool:
        critical = float(special.stdtrit(seeds - 1, upper))
        return not special.nctdtr(seeds - 1, effect * math.sqrt(seeds), critical) > 1 - target  # NaN: far beyond doubt

    most = 2
    while not settles(most):  # from below, since the distribution function is reliable only near the answer
        most *= 2
        if most > 2 * MAX_QUERIES:
            return math.inf
    seeds = bisect.bisect_left(range(most), True, lo=2, key=settles)
    return float(max(seeds - n, 1)) if seeds <= MAX_QUERIES else math.inf


def mean_over_attacks(margins: ArrayLike) -> FloatArray:
    """One number a seed: the mean over the attacks that have one. A seed without any is left out.

    Args:
        margins: Of shape [attacks, seeds], NaN where there is none.

    Returns:
        One-dimensional, in the order of the seeds.
    """
    numbers = validate.numbers("margins", margins)
    counts = np.isfinite(numbers).sum(axis=0)
    return np.asarray(np.nansum(numbers, axis=0)[counts > 0] / counts[counts > 0], dtype=np.float64)


def shared_ranks(margins: ArrayLike, confidence: float = 0.95) -> list[int]:
    """Rank schemes, giving a rank to several where the seeds cannot tell them apart.

    Each pair is compared over the attacks and seeds that both have by `sign_flip_test`, and all p-values are corrected
    together (`harness.statistics.holm`): with probability `confidence` no pair of equal schemes is told apart. That
    takes seeds, 6 for two schemes and 11 for ten; pairs with fewer than two seeds in common are never told apart.

    Not being told apart does not carry over: A and B may be alike, B and C too, yet A better than C. A rank counts who
    is known to be better, which does not hide that: here 1, 1, 2.

    Args:
        margins: Higher being better, of shape [schemes, attacks, seeds], NaN where there is none.
        confidence: 1 - the chance of telling any equal schemes apart, strictly between 0 and 1.

    Returns:
        Of each scheme, 1 + the number of schemes that are told apart from it and better.

    Raises:
        ValueError: If `margins` has another shape, or `confidence` lies outside (0, 1).
    """
    numbers = validate.numbers("margins", margins)
    if numbers.ndim != 3:
        raise ValueError(f"margins must be of schemes, attacks and seeds, got shape {numbers.shape}")
    alpha = 1 - validate.inside("confidence", confidence)
    pairs = list(itertools.combinations(range(len(numbers)), 2))
    made = [mean_over_attacks(numbers[one] - numbers[other]) for one, other in pairs]
    p_values = [sign_flip_test(each) if each.size > 1 else 1.0 for each in made]
    ranks = [1] * len(numbers)
    for (one, other), each, p_value in zip(pairs, made, holm(p_values), strict=True):
        if p_value <= alpha:
            ranks[other if each.mean() > 0 else one] += 1
    return ranks
