"""Strength of the evidence for a watermark, from counts of matching answers.

The evidence is a pair of counts: a suspect model answered `matches` of `trials` verification queries as
the owner's key says. A control gives the same pair for something that cannot carry the mark:
`control_matches` of `control_trials`, from null models (trained independently, never marked) asked the
same queries, or from the suspect asked the same inputs without their triggers.

Here are the p-values: `t_test`, `welch_t_test`, `fisher_exact`, `boschloo`, `binomial_test`,
`binomial_test_against_control`, `rank_p_value`, and `holm` to correct many of them. Tests that look after every query
are in `sequential.py`, those that compare schemes in `paired.py`.

Every test is one-sided: the alternative is that the suspect matches more often than the control.
`confidence` is 1 - alpha, where alpha is the chance of a false accusation that the user accepts.

The functions on counts broadcast scalars and arrays together and always return a float64 array; for
scalars that array is zero-dimensional, so `float(result)`, comparisons and `:.3f` work on it.

The count tests treat the queries as independent. Queries to one model share that model's training, so
their p-values speak about that one model; a claim about a scheme needs many seeds (`summary`) or many null
models (`rank_p_value`).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from scipy import special

from harness.statistics import validate
from harness.statistics.intervals import clopper_pearson_upper

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import ArrayLike

    from harness.statistics.validate import FloatArray


# More queries than this, suspect and control together, get a bound instead of Fisher's exact test: its time grows
# with them, without end (a hundredth of a second here).
MAX_FISHER = 10_000_000

# Larger groups than this get Fisher's p-value from `boschloo`: from about 1030 queries on its binomials overflow.
MAX_BOSCHLOO = 500

# Relative slack for ties: 1 - 0.9 is a hair below 0.1 in floating point, yet a p-value of 0.1 reaches it.
SLACK = 1e-12


def t_test(matches: ArrayLike, trials: ArrayLike, control_matches: ArrayLike, control_trials: ArrayLike) -> FloatArray:
    """P-value of Student's one-sided two-sample t-test on the single answers, variance pooled.

    This is the test of Jia et al., "Entangled Watermarks as a Defense against Model Extraction" (USENIX
    Security 2021). It treats each answer as a number, 0 or 1, which is an approximation: with few queries
    or rates near 0 or 1 it may accuse more often than it says. `fisher_exact` asks the same question
    without that approximation.

    Args:
        matches: Matching answers of the suspect, whole numbers from 0 to `trials`.
        trials: Queries to the suspect, whole numbers of at least 0.
        control_matches: Matching answers of the control, from 0 to `control_trials`.
        control_trials: Queries to the control.

    Returns:
        P-values in [0, 1], in the broadcast shape of the arguments. Where both groups are constant the
        estimated variance is zero and the statistic is infinite or 0/0: the p-value is then the limit, 0.0
        if the suspect's rate is higher, 0.5 if the rates are equal and 1.0 if it is lower. (A p-value of 0
        from 2 of 2 against 0 of 2 shows the approximation's limits.) NaN where either group is empty or
        both together hold fewer than 3 queries: the test is undefined there.

    Raises:
        ValueError: If a count is negative, not whole, or larger than its number of trials.
    """
    m, n, cm, cn = validate.evidence(matches, trials, control_matches, control_trials)
    freedom = n + cn - 2
    with np.errstate(divide="ignore", invalid="ignore"):
        excess = m / n - cm / cn
        # The squared deviations of m ones among n answers sum to m (n - m) / n.
        variance = (m * (n - m) / n + cm * (cn - cm) / cn) / freedom
        statistic = np.where(excess == 0, 0.0, excess / np.sqrt(variance * (1 / n + 1 / cn)))
    defined = (n > 0) & (cn > 0) & (freedom > 0)
    return np.where(defined, _student_tail(statistic, np.where(defined, freedom, 1.0)), np.nan)


def welch_t_test(
    matches: ArrayLike, trials: ArrayLike, control_matches: ArrayLike, control_trials: ArrayLike
) -> FloatArray:
    """P-value of Welch's one-sided t-test on the single answers, each group with a variance of its own (1947).

    Two rates that differ have two variances, so this fits counts better than `t_test` where the groups differ
    in size; the approximation at few queries or rates near 0 or 1 is the same. There one match more can even raise
    the p-value a little: a group that becomes constant takes its degrees of freedom along.

    Args:
        matches: Matching answers of the suspect, whole numbers from 0 to `trials`.
        trials: Queries to the suspect, whole numbers of at least 0.
        control_matches: Matching answers of the control, from 0 to `control_trials`.
        control_trials: Queries to the control.

    Returns:
        P-values in [0, 1], in the broadcast shape of the arguments; the limit 0.0, 0.5 or 1.0 where both
        groups are constant, as of `t_test`. NaN where a group holds fewer than 2 queries: it has no variance.

    Raises:
        ValueError: If a count is negative, not whole, or larger than its number of trials.
    """
    m, n, cm, cn = validate.evidence(matches, trials, control_matches, control_trials)
    with np.errstate(divide="ignore", invalid="ignore"):
        excess = m / n - cm / cn
        # The squared standard errors of the two rates.
        own, control = m * (n - m) / (n * n * (n - 1)), cm * (cn - cm) / (cn * cn * (cn - 1))
        statistic = np.where(excess == 0, 0.0, excess / np.sqrt(own + control))
        freedom = (own + control) ** 2 / (own**2 / (n - 1) + control**2 / (cn - 1))
    defined = (n > 1) & (cn > 1)
    freedom = np.where(defined & (own + control > 0), freedom, 1.0)  # of constant groups the statistic is 0 or infinite
    return np.where(defined, _student_tail(statistic, freedom), np.nan)


def fisher_exact(
    matches: ArrayLike, trials: ArrayLike, control_matches: ArrayLike, control_trials: ArrayLike
) -> FloatArray:
    """P-value of Fisher's exact test, one-sided: the suspect matches more often than the control.

    Given how many of all the queries matched, the suspect's share is hypergeometric if both groups have
    one rate; the p-value is its upper tail. It never accuses more often than it says, at any sample size.

    With more than `MAX_FISHER` queries in all, the tail would take its time; Hoeffding's bound of it (1963,
    Section 6) takes its place, which is never smaller: the answer then errs towards no accusation.

    Args:
        matches: Matching answers of the suspect, whole numbers from 0 to `trials`.
        trials: Queries to the suspect, whole numbers of at least 0.
        control_matches: Matching answers of the control, from 0 to `control_trials`.
        control_trials: Queries to the control.

    Returns:
        P-values in [0, 1], in the broadcast shape of the arguments; 1.0 where a group is empty.

    Raises:
        ValueError: If a count is negative, not whole, or larger than its number of trials.
    """
    m, n, cm, cn = validate.evidence(matches, trials, control_matches, control_trials)
    m, n, cm, cn = np.broadcast_arrays(m, n, cm, cn)
    tail = np.asarray(_hypergeometric_bound(m, n, m + cm, n + cn))
    few = n + cn <= MAX_FISHER
    tail[few] = hypergeometric_tail(m[few], n[few], (m + cm)[few], (n + cn)[few])
    return np.clip(tail, 0.0, 1.0, out=tail)


def boschloo(
    matches: ArrayLike, trials: ArrayLike, control_matches: ArrayLike, control_trials: ArrayLike
) -> FloatArray:
    """P-value of Boschloo's exact unconditional test, one-sided (Statistica Neerlandica 24, 1970).

    It is how often groups of one rate give a `fisher_exact` as small as the one seen, at the rate that is worst
    for this claim. It never accuses more often than it says, and its p-value is never above Fisher's: with few
    queries it detects marks that Fisher's test, which is cautious there, leaves open.

    The worst rate is sought on a grid that is finer than the function's waves, then around the best place.
    Each distinct row of counts is computed once, in up to about a twentieth of a second. Where a group holds more than
    `MAX_BOSCHLOO` queries Fisher's p-value is returned: it is valid too, and hardly larger there.

    Args:
        matches: Matching answers of the suspect, whole numbers from 0 to `trials`.
        trials: Queries to the suspect, whole numbers of at least 0.
        control_matches: Matching answers of the control, from 0 to `control_trials`.
        control_trials: Queries to the control.

    Returns:
        P-values in [0, 1], in the broadcast shape of the arguments; 1.0 where a group is empty.

    Raises:
        ValueError: If a count is negative, not whole, or larger than its number of trials.
    """
    evidence = np.broadcast_arrays(*validate.evidence(matches, trials, control_matches, control_trials))
    p_values = fisher_exact(*evidence)
    _, n, _, cn = evidence
    few = (np.minimum(n, cn) > 0) & (np.maximum(n, cn) <= MAX_BOSCHLOO)
    rows, places = np.unique([counts[few] for counts in evidence], axis=1, return_inverse=True)
    distinct = np.array([_boschloo(*row) for row in rows.T], dtype=np.float64)
    p_values[few] = distinct[places.ravel()]
    return p_values


def binomial_test(matches: ArrayLike, trials: ArrayLike, false_rate: ArrayLike) -> FloatArray:
    """P-value of the exact one-sided binomial test against a known false rate.

    It is P[X >= matches] for X ~ Binomial(trials, false_rate). Use it where the false rate is known by
    design (1 / classes for random labels); where it was measured, its error counts too: see
    `binomial_test_against_control`.

    Args:
        matches: Matching answers of the suspect, whole numbers from 0 to `trials`.
        trials: Queries to the suspect, whole numbers of at least 0.
        false_rate: Rate at which an unmarked model matches, in [0, 1]. With 0 one match is proof: the
            p-value is 0.0 for any match and 1.0 for none.

    Returns:
        P-values in [0, 1], in the broadcast shape of the arguments; 1.0 where `trials` is 0.

    Raises:
        ValueError: If a count is negative, not whole, or larger than its number of trials, or a rate lies
            outside [0, 1].
    """
    m, n = validate.group("", matches, trials)
    return binomial_tail(m, n, validate.rates("false_rate", false_rate))


def binomial_test_against_control(
    matches: ArrayLike,
    trials: ArrayLike,
    control_matches: ArrayLike,
    control_trials: ArrayLike,
    confidence: float = 0.95,
) -> FloatArray:
    """P-value of `binomial_test` against the upper confidence limit of the control's rate.

    The measured false rate is replaced by the largest one that the control leaves plausible, its
    Clopper-Pearson upper limit, so that a small control cannot make an accusation easy.

    The test errs if the limit lies below the true rate, or if the limit holds and the suspect matches by
    luck. Accusing at p <= alpha is therefore wrong with probability at most alpha + (1 - confidence).
    For an overall level, split it: 0.05 in all is alpha = 0.025 with `confidence` = 0.975.

    Args:
        matches: Matching answers of the suspect, whole numbers from 0 to `trials`.
        trials: Queries to the suspect, whole numbers of at least 0.
        control_matches: Matching answers of the control, from 0 to `control_trials`.
        control_trials: Queries to the control, independent of the suspect's.
        confidence: Confidence of the upper limit, strictly between 0 and 1.

    Returns:
        P-values in [0, 1], in the broadcast shape of the arguments; 1.0 where a group is empty.

    Raises:
        ValueError: If a count is negative, not whole, or larger than its number of trials, or `confidence`
            lies outside (0, 1).
    """
    m, n, cm, cn = validate.evidence(matches, trials, control_matches, control_trials)
    return binomial_tail(m, n, clopper_pearson_upper(cm, cn, confidence))


def rank_p_value(score: ArrayLike, null_scores: ArrayLike) -> FloatArray:
    """P-value of a score from its rank among the scores of null models.

    It is (r + 1) / (k + 1), where r of the k null models score at least as high. It is exact if the
    suspect, were it unmarked, could be exchanged with any null model, whatever the score measures; it
    cannot fall below 1 / (k + 1), so 95% confidence takes at least 19 null models.

    Args:
        score: Score of the suspect, higher meaning more like a marked model; a scalar or an array.
        null_scores: Scores of the k null models, one-dimensional. Ties with `score` count against it.

    Returns:
        P-values in (0, 1], in the shape of `score`; 1.0 if there are no null models.

    Raises:
        ValueError: If a score is NaN or `null_scores` is not one-dimensional.
    """
    scores = validate.numbers("score", score)
    nulls = np.sort(validate.one_dimensional("null_scores", null_scores))
    validate.refuse("score", scores, np.isnan(scores), "a number")
    validate.refuse("null_scores", nulls, np.isnan(nulls), "numbers")
    at_least = nulls.size - np.searchsorted(nulls, scores, side="left")
    return np.asarray((at_least + 1) / (nulls.size + 1), dtype=np.float64)


def holm(p_values: ArrayLike) -> FloatArray:
    """P-values adjusted for being many, after Holm (1979).

    Rejecting where the adjusted value is at most alpha keeps the chance of even one false rejection at
    alpha or less, whatever the dependence between the tests.

    Args:
        p_values: One-dimensional p-values in [0, 1], in any order; may be empty.

    Returns:
        Adjusted p-values in [0, 1], at the places of the raw ones and never below them.

    Raises:
        ValueError: If a p-value lies outside [0, 1] or is NaN, or `p_values` is not one-dimensional.
    """
    raw = validate.rates("p_values", validate.one_dimensional("p_values", p_values))
    order = np.argsort(raw, kind="stable")
    steps = raw[order] * np.arange(raw.size, 0, -1)
    adjusted = np.empty_like(raw)
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return adjusted


# Tails of distributions


def _student_tail(statistic: FloatArray, freedom: FloatArray) -> FloatArray:
    """P[T >= statistic]; by symmetry the lower tail at -statistic, which keeps tiny p-values exact."""
    return np.asarray(special.stdtr(freedom, -statistic), dtype=np.float64)


_BLOCK = 64
"""Terms of each hypergeometric tail that are computed at once."""


def hypergeometric_tail(matches: FloatArray, drawn: FloatArray, marked: FloatArray, total: FloatArray) -> FloatArray:
    """P[X >= matches], where `drawn` of `total` are drawn and `marked` of these match.

    The probabilities above and below are summed as multiples of that of `matches`, by the ratios of neighbours: no
    term is a difference, so that the relative error stays near rounding however small the tail is.

    Args:
        matches: One-dimensional, possible numbers of matches.
        drawn: Of the same shape, as all that follow.
        marked: From 0 to `total`.
        total: At least `drawn`.

    Returns:
        Probabilities; 0.0 below the smallest float.
    """
    marked, drawn, total = (each[:, np.newaxis] for each in (marked, drawn, total))
    rest = total - marked - drawn  # unmarked ones that are not drawn, if none is marked

    def above(k: FloatArray) -> FloatArray:
        return np.asarray((marked - k) * (drawn - k) / ((k + 1) * (rest + k + 1)))

    def below(k: FloatArray) -> FloatArray:
        return np.asarray(k * (rest + k) / ((marked - k + 1) * (drawn - k + 1)))

    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        up, down = 1 + _products(above, matches, 1), _products(below, matches, -1)
        return np.where(np.isinf(up), 1.0, 1 / (1 + down / up))


def _products(ratio: Callable[[FloatArray], FloatArray], first: FloatArray, step: int) -> FloatArray:
    """Sum of the running products of the ratios at `first`, `first` + step, ..., until they add nothing."""
    sums, last = np.zeros(first.shape), np.ones(first.shape)
    at = first[:, np.newaxis] + step * np.arange(_BLOCK)
    while True:
        products = np.maximum(ratio(at), 0.0)
        is_rising = products[:, -1] > 1
        products[:, 0] *= last
        np.cumprod(products, axis=1, out=products)
        if not np.isfinite(products[:, -1]).all():  # beyond the largest float: infinite, and after that no number
            np.nan_to_num(products, copy=False, nan=0.0, posinf=np.inf)
        sums += products.sum(axis=1)
        last, at = products[:, -1], at + step * _BLOCK
        if not (((last > 1e-20 * sums) | is_rising) & np.isfinite(sums)).any():
            return sums


def _hypergeometric_bound(matches: FloatArray, drawn: FloatArray, marked: FloatArray, total: FloatArray) -> FloatArray:
    """Hoeffding's upper bound of P[X >= matches], exp(-drawn KL), less what rounding may have added to the KL."""
    with np.errstate(invalid="ignore"):
        own, common = matches / drawn, marked / total
    terms = special.rel_entr(own, common), special.rel_entr(1 - own, 1 - common)
    slack = 4 * np.finfo(np.float64).eps * (1 + abs(terms[0]) + abs(terms[1]))
    return np.where(own > common, np.exp(-drawn * np.maximum(terms[0] + terms[1] - slack, 0)), 1.0)


def _boschloo(matches: float, trials: float, control_matches: float, control_trials: float) -> float:
    """The largest probability, over all common rates, of counts as extreme by Fisher's p-value as these."""
    seen = float(fisher_exact(matches, trials, control_matches, control_trials))
    limit = seen * (1 + 1e-9)  # equal p-values count, however they were rounded
    m = np.arange(trials + 1)
    cm = _most_control_matches(m, trials, control_trials, limit)
    m, cm = m[cm >= 0].astype(np.intp), cm[cm >= 0].astype(np.intp)

    def probability(angles: FloatArray) -> FloatArray:
        rates = np.sin(angles[:, np.newaxis]) ** 2
        at_most = _binomial_probabilities(control_trials, rates).cumsum(axis=1)
        extreme = _binomial_probabilities(trials, rates)[:, m] * at_most[:, cm]
        return np.asarray(extreme.sum(axis=1), dtype=np.float64)

    # On the scale of these angles, binomial rates have the same spread everywhere.
    angles = np.linspace(0, math.pi / 2, 64 + 8 * math.ceil(math.sqrt(trials + control_trials)))
    largest = 0.0
    for _ in range(4):
        found = probability(angles)
        best, step = angles[found.argmax()], angles[1] - angles[0]
        largest = max(largest, float(found.max()))
        angles = np.linspace(max(best - step, 0), min(best + step, math.pi / 2), 17)
    return min(largest, seen)


def _binomial_probabilities(trials: float, rates: FloatArray) -> FloatArray:
    """P[X = k] for k of 0 to `trials`, a column each, of a column of rates."""
    k = np.arange(trials + 1)
    return np.asarray(special.binom(trials, k) * rates**k * (1 - rates) ** (trials - k), dtype=np.float64)


def _most_control_matches(matches: FloatArray, trials: float, control_trials: float, limit: float) -> FloatArray:
    """Most control matches at which Fisher's p-value is within `limit`, for each number of matches; or -1.

    The p-value rises with the control's matches, so bisection finds them.
    """
    low, high = np.full_like(matches, -1), np.full_like(matches, control_trials)
    while np.any(low < high):
        middle = np.ceil((low + high) / 2)
        within = fisher_exact(matches, trials, np.maximum(middle, 0), control_trials) <= limit
        low, high = np.where(within & (middle >= 0), middle, low), np.where(within, high, np.maximum(middle - 1, low))
    return low


def binomial_tail(matches: FloatArray, trials: FloatArray, rate: FloatArray | float) -> FloatArray:
    """P[X >= matches] for X ~ Binomial(trials, rate), as an incomplete beta function."""
    at_least_one = np.maximum(matches, 1)  # the beta function is undefined at 0, where the tail is all
    tail = special.betainc(at_least_one, trials - at_least_one + 1, rate)
    return np.where(matches > 0, tail, 1.0)
