"""Comparison of a suspect with unmarked models by rank, on counts of matching answers.

A suspect without a mark that could be exchanged with k unmarked models is at most as likely as each of them to be the
one that matches most. So its rank gives a p-value that needs no law of the answers: neither independent queries nor
models with one common rate. `tests.py` has the tests that need them.

Arrays have a row for each suspect (with its key), n of them, and a column for each unmarked model, k of them, which
were asked the same key. `counted` says which of the unmarked models are there and count. "Rate" is matches / trials.
"""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING, Literal

import numpy as np

from harness.statistics import validate
from harness.statistics.beta_binomial import beta_binomial_tail
from harness.statistics.counts import mask, over, rates_of, whole_group
from harness.statistics.intervals import clopper_pearson_lower, clopper_pearson_upper
from harness.statistics.sequential import expected_queries

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from harness.statistics.validate import FloatArray

    Survival = Literal["survives", "removes", "undecided"]

MAX_FALSE = 0.75
"""False rate above which a key proves nothing."""
MIN_MARGIN = 0.1
"""Least margin of a marked model: one match more than nineteen silent models is not a mark."""

_SLACK = 1e-9
"""Relative slack for ties: 1 - 0.9 is a hair below 0.1 in floating point, and 0.1 * 10 a hair above 1."""


# --- the test


def at_least(matches: ArrayLike, trials: ArrayLike, ref_matches: ArrayLike, ref_trials: ArrayLike) -> NDArray[np.bool_]:
    """Comparison of rates, unmarked model >= suspect, exact: whole numbers are multiplied crosswise, none is divided.

    Args:
        matches: Matching answers of the suspects, shape [n].
        trials: Queries to the suspects, shape [n].
        ref_matches: Matching answers of the unmarked models, shape [n, k].
        ref_trials: Queries to them, shape [n, k].

    Returns:
        Booleans of shape [n, k]. True where either side was asked nothing, as where a mark cannot be read from a model:
        this speaks against a mark.

    Raises:
        ValueError: If a count is negative, not whole, or larger than its number of trials.
    """
    m, t = whole_group("", matches, trials)
    ref_m, ref_t = whole_group("ref_", ref_matches, ref_trials)
    return np.asarray(ref_m * t[..., np.newaxis] >= m[..., np.newaxis] * ref_t)


def rank_p_values(
    matches: ArrayLike,
    trials: ArrayLike,
    ref_matches: ArrayLike,
    ref_trials: ArrayLike,
    counted: ArrayLike | None = None,
) -> FloatArray:
    """P-values of suspects by their rank among unmarked models: (1 + those with at least its rate) / (1 + all).

    Exact if the suspect, were it unmarked, could be exchanged with the unmarked models: then P(p <= alpha) <= alpha on
    average over the models and the key, ties included. The suspect counts as one of the models (Phipson and Smyth,
    Statistical Applications in Genetics and Molecular Biology 9, 2010), so that no p-value is below 1 / (k + 1).

    Args:
        matches: As of `at_least`.
        trials: As of `at_least`.
        ref_matches: As of `at_least`.
        ref_trials: As of `at_least`.
        counted: The unmarked models that count, shape [n, k]; all if None.

    Returns:
        P-values in (0, 1], shape [n]; NaN where no unmarked model counts.

    Raises:
        ValueError: As `at_least`.
    """
    reached = at_least(matches, trials, ref_matches, ref_trials)
    count = mask(counted, reached.shape)
    models = count.sum(axis=-1)
    p_values = (1 + (reached & count).sum(axis=-1)) / (models + 1)
    return np.where(models > 0, p_values, np.nan)


def rank_p_values_without_each(
    matches: ArrayLike,
    trials: ArrayLike,
    ref_matches: ArrayLike,
    ref_trials: ArrayLike,
    counted: ArrayLike | None = None,
) -> FloatArray:
    """`rank_p_values` had each unmarked model in turn been silent: how much hangs on one of them.

    The number of models stays: with one of nineteen fewer, nothing could be marked at 5%.

    Args:
        matches: As of `rank_p_values`.
        trials: As of `rank_p_values`.
        ref_matches: As of `rank_p_values`.
        ref_trials: As of `rank_p_values`.
        counted: As of `rank_p_values`.

    Returns:
        P-values in (0, 1], shape [n, k]: equal to or below that of `rank_p_values`, and equal to it where the model
        does not count; NaN where no model counts.

    Raises:
        ValueError: As `at_least`.
    """
    reached = at_least(matches, trials, ref_matches, ref_trials)
    count = mask(counted, reached.shape)
    reached &= count
    models = count.sum(axis=-1, keepdims=True)
    p_values = (1 + reached.sum(axis=-1, keepdims=True) - reached) / (models + 1)
    return np.where(models > 0, p_values, np.nan)


def is_marked(
    p_values: ArrayLike, margins: ArrayLike, alpha: float = 0.05, min_margin: float = MIN_MARGIN
) -> NDArray[np.bool_]:
    """Decision at a level: the p-value is at most `alpha`, and the margin at least `min_margin`.

    Args:
        p_values: The larger of those against unattacked and against attacked unmarked models, any shape.
        margins: As of `margins`, of the same shape.
        alpha: Level of the test, strictly between 0 and 1.
        min_margin: Least margin of a marked model.

    Returns:
        Booleans; False where the p-value or the margin is NaN.

    Raises:
        ValueError: If `alpha` lies outside (0, 1).
    """
    level = validate.inside("alpha", alpha) * (1 + _SLACK)
    return np.asarray((np.asarray(p_values) <= level) & (np.asarray(margins) >= min_margin - _SLACK))


def fewest_models(alpha: float = 0.05) -> int:
    """Unmarked models that a rank takes to reach the level `alpha`: 19 for 0.05, 99 for 0.01."""
    return math.ceil(1 / validate.inside("alpha", alpha) * (1 - _SLACK)) - 1


def allowed(alpha: float, k: int) -> int:
    """Ranks among k unmarked models and the suspect that are marked at the level `alpha`: floor(alpha (k + 1))."""
    return math.floor(validate.inside("alpha", alpha) * (k + 1) * (1 + _SLACK))


# --- margins


def mean_rates(ref_matches: ArrayLike, ref_trials: ArrayLike, counted: ArrayLike | None = None) -> FloatArray:
    """Mean rates of the unmarked models: each model weighs the same, however much it was asked.

    Args:
        ref_matches: Matching answers of the unmarked models, shape [n, k].
        ref_trials: Queries to them, shape [n, k]; a model that was asked nothing has the rate 0.
        counted: The models that count, shape [n, k]; all if None.

    Returns:
        Means in [0, 1], shape [n]; NaN where no model counts.

    Raises:
        ValueError: If a count is negative, not whole, or larger than its number of trials.
    """
    rates = rates_of(*whole_group("ref_", ref_matches, ref_trials))
    count = mask(counted, rates.shape)
    return over((rates * count).sum(axis=-1), count.sum(axis=-1))


def mean_rates_without_each(
    ref_matches: ArrayLike, ref_trials: ArrayLike, counted: ArrayLike | None = None
) -> FloatArray:
    """`mean_rates` without each unmarked model in turn, for the jackknife of `margins.seeds_interval`.

    Args:
        ref_matches: As of `mean_rates`.
        ref_trials: As of `mean_rates`.
        counted: As of `mean_rates`.

    Returns:
        Means in [0, 1], shape [n, k], that of all where the left-out model does not count; NaN where no other counts.

    Raises:
        ValueError: As `mean_rates`.
    """
    rates = rates_of(*whole_group("ref_", ref_matches, ref_trials))
    count = mask(counted, rates.shape)
    rates = rates * count
    left = count.sum(axis=-1, keepdims=True) - count
    return np.clip(over(rates.sum(axis=-1, keepdims=True) - rates, left), 0, 1)


def margins(matches: ArrayLike, trials: ArrayLike, false_rate: ArrayLike) -> FloatArray:
    """Shares of the marks that are left: (r - f) / (1 - f), for the rate r and the false rate f.

    1 is a whole mark and 0 is chance, for labels and bits alike. Between them it is no strength of evidence.

    Args:
        matches: Matching answers of the suspects, any shape.
        trials: Queries to the suspects.
        false_rate: Mean rate of unmarked models, in [0, 1]: the larger of those of unattacked and attacked ones; NaN
            where there are none.

    Returns:
        Margins in [-1, 1], in the broadcast shape of the arguments: 0 where nothing was asked, and where the false rate
        is above `MAX_FALSE`, so that the key proves nothing; NaN where the false rate is.

    Raises:
        ValueError: If a count is negative, not whole, or larger than its number of trials, or a false rate lies outside
            [0, 1].
    """
    return _scaled(*whole_group("", matches, trials), false_rate, np.ones(()))


def scaled_margins(
    matches: ArrayLike,
    trials: ArrayLike,
    false_rate: ArrayLike,
    victim_matches: ArrayLike,
    victim_trials: ArrayLike,
) -> FloatArray:
    """Margins of fingerprints, whose untouched victim does not match at rate 1: (r - f) / (r_victim - f).

    Args:
        matches: As of `margins`.
        trials: As of `margins`.
        false_rate: As of `margins`.
        victim_matches: Matching answers of the untouched victims.
        victim_trials: Queries to them.

    Returns:
        Margins in [-1, 1], as of `margins`; 0 also where the victim's rate is not above the false rate.

    Raises:
        ValueError: As `margins`.
    """
    victim = rates_of(*whole_group("victim_", victim_matches, victim_trials))
    return _scaled(*whole_group("", matches, trials), false_rate, victim)


def _scaled(
    matches: NDArray[np.int64], trials: NDArray[np.int64], false_rate: ArrayLike, whole: FloatArray
) -> FloatArray:
    """Shares of the distance from the false rate to the rate of a whole mark."""
    false = validate.numbers("false_rate", false_rate)
    validate.refuse("false_rate", false, (false < 0) | (false > 1 + _SLACK), "between 0 and 1")
    matches, trials, false, whole = np.broadcast_arrays(matches, trials, false, whole)
    proves = (false <= MAX_FALSE + _SLACK) & (whole > false) & (trials > 0)
    made = np.divide(rates_of(matches, trials) - false, whole - false, where=proves, out=np.zeros(proves.shape))
    return np.where(np.isnan(false), np.nan, np.clip(made, -1, 1))


# --- few models


def beta_binomial_p_values(
    matches: ArrayLike,
    trials: ArrayLike,
    ref_matches: ArrayLike,
    ref_trials: ArrayLike,
    counted: ArrayLike | None = None,
) -> FloatArray:
    """P-values of suspects against fewer unmarked models than a rank takes, if rates follow a beta law.

    The law Beta(a, b) has the mean and the variance (k in the denominator) of the k models' rates and of one imaginary
    model that answers half. The p-value is P(X >= matches), X ~ BetaBinomial(trials; a, b). Where any model reaches
    the suspect's rate it is 1. Without the imaginary model too many suspects would be marked: of three models that
    happen to agree, the law is too narrow (9 to 16% at 5%, simulated over five laws; with it at most 1%).

    It holds for laws of one hump. Where one unmarked model in k + 1 answers as a marked one does, no test of k models
    that finds marks can: it accuses up to (k / (k + 1))^k / (k + 1), 11% with three models and 7% with five.

    Args:
        matches: As of `rank_p_values`.
        trials: As of `rank_p_values`.
        ref_matches: As of `rank_p_values`.
        ref_trials: As of `rank_p_values`.
        counted: As of `rank_p_values`.

    Returns:
        P-values in [0, 1], shape [n]; NaN where fewer than 3 models count.

    Raises:
        ValueError: As `at_least`.
    """
    m, t = whole_group("", matches, trials)
    rates = rates_of(*whole_group("ref_", ref_matches, ref_trials))
    count = mask(counted, rates.shape)
    models = count.sum(axis=-1)
    above = ~(at_least(m, t, ref_matches, ref_trials) & count).any(axis=-1)
    a, b = _beta_of(rates, count, imaginary=1)
    p_values = np.ones(models.shape)
    fitted = above & (models >= 3)
    m, t = np.broadcast_to(m, models.shape), np.broadcast_to(t, models.shape)
    p_values[fitted] = beta_binomial_tail(m[fitted], t[fitted], a[fitted], b[fitted])
    return np.where(models >= 3, p_values, np.nan)


def _beta_of(rates: FloatArray, count: NDArray[np.bool_], imaginary: int) -> tuple[FloatArray, FloatArray]:
    """The parameters of the beta laws with the moments of the rates and of so many imaginary models that answer half.

    a + b = mean (1 - mean) / variance - 1. It is 0 of rates that are all 0 or 1, and infinite of equal ones: it is
    kept within limits that change no probability visibly.
    """
    models = count.sum(axis=-1) + imaginary
    mean = over((rates * count).sum(axis=-1) + imaginary / 2, models)
    squares = (np.square(rates - mean[..., np.newaxis]) * count).sum(axis=-1) + imaginary * np.square(0.5 - mean)
    variance = over(squares, models - 1)
    spread = mean * (1 - mean)
    total = np.divide(spread, variance, where=variance > 0, out=np.full(mean.shape, np.inf)) - 1
    total = np.clip(total, 1e-6, 1e7)
    return np.maximum(mean * total, 1e-9), np.maximum((1 - mean) * total, 1e-9)


# --- queries to verify


def key_thresholds(
    ref_rates: ArrayLike,
    attacked_rates: ArrayLike | None = None,
    alpha: float = 0.05,
    min_margin: float = MIN_MARGIN,
) -> FloatArray:
    """Rates that a suspect must exceed to be marked with a key: the test of `rank_p_values`, seen from the rate.

    The largest of three: the rate of rank `allowed` among the unattacked unmarked models, that among the attacked
    ones, and f + min_margin (1 - f) with f the larger mean of both.

    Args:
        ref_rates: Rates of unattacked unmarked models, in [0, 1], shape [n, k]; NaN where a model does not count.
        attacked_rates: Rates of attacked ones, shape [n, k_a], NaN likewise; None for a suspect that was not attacked.
        alpha: Level of the test, strictly between 0 and 1.
        min_margin: Least margin of a marked model.

    Returns:
        Rates, shape [n]: infinite where fewer models count than `fewest_models`, so that no rate suffices.

    Raises:
        ValueError: If a rate lies outside [0, 1], or `alpha` outside (0, 1).
    """
    groups = [_checked_rates("ref_rates", ref_rates)]
    if attacked_rates is not None:
        groups.append(_checked_rates("attacked_rates", attacked_rates))
    ranked = functools.reduce(np.maximum, [_allowed_rate(rates, alpha) for rates in groups])
    false = functools.reduce(np.maximum, [over(np.nansum(r, axis=-1), (~np.isnan(r)).sum(axis=-1)) for r in groups])
    return np.where(np.isinf(ranked), np.inf, np.maximum(ranked, false + min_margin * (1 - false)))


def _checked_rates(name: str, values: ArrayLike) -> FloatArray:
    rates = validate.numbers(name, values)
    validate.refuse(name, rates, (rates < 0) | (rates > 1), "between 0 and 1, or NaN")
    return rates


def _allowed_rate(rates: FloatArray, alpha: float) -> FloatArray:
    """The rate of rank `allowed` from above in each row; infinite where that is 0."""
    falling = -np.sort(-rates, axis=-1)  # NaN comes last
    models = (~np.isnan(rates)).sum(axis=-1)
    places = np.array([allowed(alpha, k) for k in range(rates.shape[-1] + 1)])[models]
    if rates.shape[-1] == 0:
        return np.full(models.shape, np.inf)
    taken = np.take_along_axis(falling, np.maximum(places - 1, 0)[..., np.newaxis], axis=-1)[..., 0]
    return np.where(places > 0, taken, np.inf)


def expected_queries_above(rate: float, threshold: float, gamma: float = 0.01) -> float:
    """Expected queries of the sequential test (`sequential.Sprt`) of "rate <= threshold" to a suspect of this rate.

    An unmarked model that could be exchanged with k others is accused with probability at most 1 / (k + 1), that its
    rate lies above the threshold of `key_thresholds` although it is not marked (alpha in general), plus gamma, that the
    test errs.

    Args:
        rate: Measured rate of the suspect, in [0, 1].
        threshold: Rate to exceed, at least 0.
        gamma: Chance that the sequential test errs at a rate up to the threshold, strictly between 0 and 1/2.

    Returns:
        At least 1; infinite where the rate is not above the threshold, where the threshold is infinite, or beyond
        `power.MAX_QUERIES`; NaN where a number is.

    Raises:
        ValueError: If `rate` lies outside [0, 1].
    """
    if math.isnan(rate) or math.isnan(threshold):
        return math.nan
    if not rate > threshold:
        return math.inf
    return expected_queries(rate, threshold, 1 - validate.inside("gamma", gamma))


# --- marked on s of n


def marked_by_chance(marked: ArrayLike, seeds: ArrayLike, alpha: float, k: int) -> FloatArray:
    """Chance that unmarked suspects of n seeds are marked on s or more, if all seeds share the k unmarked models.

    It is P(X >= s), X ~ BetaBinomial(n; j, k + 1 - j), j = `allowed(alpha, k)`: the share of unmarked suspects above
    the j-th highest of k models is Beta(j, k + 1 - j), and one draw of models serves all seeds. Independent seeds, as
    in a binomial law, would make s of n far rarer.

    Args:
        marked: Marked seeds s, whole numbers from 0 to `seeds`.
        seeds: Seeds n, whole numbers of at least 0.
        alpha: Level of the test, strictly between 0 and 1.
        k: Number of unmarked models.

    Returns:
        Probabilities in [0, 1] in the broadcast shape of `marked` and `seeds`; NaN where k models are too few for the
        level, so that nothing can be marked.

    Raises:
        ValueError: If a count is negative, not whole, or larger than its number of seeds, or `alpha` lies outside
            (0, 1).
    """
    s, n = validate.group("", marked, seeds)
    ranks = allowed(alpha, k)
    return beta_binomial_tail(s, n, ranks, k + 1 - ranks) if ranks else np.full(s.shape, np.nan)


def fewest_beyond_chance(seeds: int, alpha: float, k: int) -> int:
    """Smallest s whose `marked_by_chance` of n seeds is at most `alpha`; n + 1 if there is none.

    With 19 models and at 5% it is 2 of 5, 3 of 10 and 5 of 20.
    """
    chances = marked_by_chance(np.arange(seeds + 1), seeds, alpha, k)
    rare = np.flatnonzero(chances <= alpha * (1 + _SLACK))
    return int(rare[0]) if rare.size else seeds + 1


def share_bounds(marked: ArrayLike, seeds: ArrayLike, confidence: float = 0.95) -> tuple[FloatArray, FloatArray]:
    """One-sided exact limits (Clopper and Pearson 1934) of the share of new seeds that would be marked.

    Args:
        marked: Marked seeds, whole numbers from 0 to `seeds`.
        seeds: Seeds, whole numbers of at least 0.
        confidence: Confidence of each limit, strictly between 0 and 1.

    Returns:
        Lower and upper limits in [0, 1], in the broadcast shape of the arguments.

    Raises:
        ValueError: As `intervals.clopper_pearson_lower`.
    """
    return clopper_pearson_lower(marked, seeds, confidence), clopper_pearson_upper(marked, seeds, confidence)


def survival(marked: int, seeds: int, confidence: float = 0.95) -> Survival:
    """Verdict on an attack: most of new seeds would still be marked ("survives"), or most would not ("removes").

    "survives" where the lower limit of `share_bounds` is above 1/2 (5 of 5, 7 of 8, 9 of 10), "removes" where the upper
    one is below (0 of 5, 1 of 10), else "undecided".
    """
    lower, upper = share_bounds(marked, seeds, confidence)
    return "survives" if lower > 0.5 else "removes" if upper < 0.5 else "undecided"
