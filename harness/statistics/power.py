"""The number of verification queries that a test needs: for a confidence, and for a power."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from scipy import special

from harness.statistics import validate
from harness.statistics.tests import SLACK, binomial_tail

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from harness.statistics.validate import FloatArray


# More queries than this are reported as infinitely many: no owner can ask them.
MAX_QUERIES = 1_000_000


def queries_for_confidence(
    success_rate: float, false_rate: float, confidence: float = 0.95, *, two_sided: bool = False
) -> float:
    """Smallest number of queries at which the paper's t-test is significant *at the expected counts*.

    The suspect and the control get n queries each and match at exactly their rates; the answer is the
    smallest n at which `t_test` on those (possibly fractional) counts has p <= 1 - confidence. This is how
    Jia et al. (USENIX Security 2021) state "95% confidence with fewer than 100 queries". Real counts
    scatter around the expected ones, so n queries verify only about half of the marked models: plan with
    `queries_for_power`.

    Args:
        success_rate: Rate at which the marked suspect matches, in [0, 1].
        false_rate: Rate at which the control matches, in [0, 1].
        confidence: 1 - alpha, strictly between 0 and 1.
        two_sided: Count differences in both directions, which halves alpha for the one of interest.

    Returns:
        A whole number of at least 2, for each of the two groups; `inf` if the suspect does not match more
        often than the control, or if more than `MAX_QUERIES` would be needed.

    Raises:
        ValueError: If a rate lies outside [0, 1] or `confidence` outside (0, 1).
    """
    success, false = validate.rate("success_rate", success_rate), validate.rate("false_rate", false_rate)
    alpha = (1 - validate.inside("confidence", confidence)) / (2 if two_sided else 1)
    excess, variance = success - false, success * (1 - success) + false * (1 - false)
    if excess <= 0:
        return math.inf
    if variance == 0:
        return 2.0  # always against never: significant as soon as the test is defined
    # The normal quantile lies below Student's, so this start is never too large, and only a few too small.
    ratio = max(0.0, -float(special.ndtri(alpha))) / excess
    n = max(2.0, 1 + variance * ratio * ratio)
    while n <= MAX_QUERIES and _expected_p_value(math.floor(n), excess, variance) > alpha:
        n += 1
    return float(math.floor(n)) if n <= MAX_QUERIES else math.inf


def queries_for_power(success_rate: float, false_rate: float, confidence: float = 0.95, power: float = 0.80) -> float:
    """Smallest number of queries at which the exact binomial test detects the mark often enough.

    The answer is the first n at which a suspect that matches at `success_rate` gets a `binomial_test`
    p-value of at most 1 - confidence with probability at least `power`.

    The power of an exact test is a saw-tooth in n: it rises with every query until the test must ask for
    one more match, where it drops. So the power may fall a little below the target again just above n (for
    0.187 against 0.10: reached at 101 queries, held at every number from 113). Ask exactly n queries, not
    "at least n".

    Args:
        success_rate: Rate at which the marked suspect matches, in [0, 1].
        false_rate: Known rate at which an unmarked model matches, in [0, 1].
        confidence: 1 - alpha, strictly between 0 and 1.
        power: Wanted probability of detection, strictly between 0 and 1.

    Returns:
        A whole number of at least 1; `inf` if the suspect does not match more often than an unmarked model,
        or if more than `MAX_QUERIES` would be needed.

    Raises:
        ValueError: If a rate lies outside [0, 1], or `confidence` or `power` outside (0, 1).
    """
    alpha = 1 - validate.inside("confidence", confidence)
    target = validate.inside("power", power)
    success, false = validate.rate("success_rate", success_rate), validate.rate("false_rate", false_rate)
    fewest = _fewest_queries(success, false, alpha, target) if success > false else math.inf
    if fewest > MAX_QUERIES:
        return math.inf
    first, block = _matches_among(fewest, success, target), 64
    while True:
        needed = np.arange(first, first + block, dtype=np.float64)
        n = _trials_to_collect(needed, success, target)
        significant = binomial_tail(needed, n, false) <= alpha * (1 + SLACK)
        # More matches take more trials, so the first threshold that is significant gives the smallest n.
        smallest = n[np.argmax(significant)] if significant.any() else n[-1]
        if significant.any() or smallest > MAX_QUERIES:
            return float(smallest) if smallest <= MAX_QUERIES else math.inf
        first, block = first + block, 2 * block


def _expected_p_value(n: float, excess: float, variance: float) -> float:
    """P-value of the t-test on two groups of n at their expected rates.

    The unbiased variance of a group at rate p is n p (1 - p) / (n - 1), and `variance` is the sum of both
    p (1 - p), hence the n - 1.
    """
    return float(special.stdtr(2 * n - 2, -excess * math.sqrt((n - 1) / variance)))


def _fewest_queries(success_rate: float, false_rate: float, alpha: float, power: float) -> float:
    """A number of queries that no test with this level and power can undercut.

    Two bounds: deciding loses information, so n KL(success, false) >= KL(power, alpha); and one match at
    least is needed, so n success_rate >= power.
    """
    per_query = max(_divergence(success_rate, false_rate), 1e-15)  # below this it is only rounding
    information = _divergence(power, alpha) / per_query if power > alpha else 0.0
    return max(information, power / success_rate)


def _divergence(p: float, q: float) -> float:
    """Kullback-Leibler divergence, in nats, of rate p from rate q; `inf` if q rules p out."""
    return float(special.rel_entr(p, q) + special.rel_entr(1 - p, 1 - q))


def _matches_among(trials: float, rate: float, probability: float) -> int:
    """Most matches, at least 1, that `trials` trials hold with this probability."""
    whole = np.full(1, math.floor(trials), dtype=np.float64)

    def is_more_too_many(matches: FloatArray) -> NDArray[np.bool_]:
        more = np.minimum(matches + 1, whole)  # more than all has no tail
        return np.asarray((matches >= whole) | (binomial_tail(more, whole, rate) <= probability))

    return max(1, int(_smallest(is_more_too_many, whole * rate)[0]))


def _trials_to_collect(matches: FloatArray, rate: float, probability: float) -> FloatArray:
    """Smallest number of trials that holds at least `matches` matches with this probability.

    The misses before the last of those matches are negative binomial, so its quantile answers directly.
    """
    wanted = probability * (1 - SLACK)
    misses = _smallest(lambda k: special.betainc(matches, k + 1, rate) >= wanted, matches * (1 - rate) / rate)
    return np.asarray(matches + misses, dtype=np.float64)


def _smallest(reaches: Callable[[FloatArray], NDArray[np.bool_]], start: FloatArray) -> FloatArray:
    """Smallest whole number of at least 0 at which each element of `reaches` is true, which it then stays.

    Bisection, from twice the start on as far up as it takes.
    """
    low, high = np.zeros(start.shape), np.ceil(2 * start) + 1
    while not (reached := reaches(high)).all():
        low, high = np.where(reached, low, high + 1), np.where(reached, high, 2 * high)
    while (low < high).any():
        middle = np.floor((low + high) / 2)
        is_enough = reaches(middle)
        high, low = np.where(is_enough, middle, high), np.where(is_enough, low, np.minimum(middle + 1, high))
    return high
