"""How strong the evidence for a watermark is, from counts of matching answers.

The evidence is a pair of counts: a suspect model answered `matches` of `trials` verification queries as
the owner's key says. A control gives the same pair for something that cannot carry the mark:
`control_matches` of `control_trials`, from null models (trained independently, never marked) asked the
same queries, or from the suspect asked the same inputs without their triggers.

These families of functions live here:

- p-values: `t_test`, `welch_t_test`, `fisher_exact`, `boschloo`, `binomial_test`,
  `binomial_test_against_control`, `rank_p_value`, and `holm` to correct many of them;
- plans: `queries_for_confidence` and `queries_for_power`;
- intervals: `clopper_pearson_lower`, `clopper_pearson_upper`, `bootstrap_interval`, `summary`, `summaries`;

and one for detectors, which have no counts: `anomaly_index`. Tests that look after every query are in
`sequential.py`, those that compare schemes in `comparisons.py`.

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
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy import special

from harness import checked

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from harness.checked import FloatArray

# More queries than this are reported as infinitely many: no owner can ask them.
MAX_QUERIES = 1_000_000

# More queries than this, suspect and control together, get a bound instead of Fisher's exact test: its time grows
# with them, without end (a hundredth of a second here).
MAX_FISHER = 10_000_000

# Larger groups than this get Fisher's p-value from `boschloo`: from about 1030 queries on its binomials overflow.
MAX_BOSCHLOO = 500

# Relative slack for ties: 1 - 0.9 is a hair below 0.1 in floating point, yet a p-value of 0.1 reaches it.
_SLACK = 1e-12


# Tests


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
    m, n, cm, cn = checked.evidence(matches, trials, control_matches, control_trials)
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
    m, n, cm, cn = checked.evidence(matches, trials, control_matches, control_trials)
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
    from scipy import stats  # here because it is slow to import and most callers never need it

    m, n, cm, cn = checked.evidence(matches, trials, control_matches, control_trials)
    m, n, cm, cn = np.broadcast_arrays(m, n, cm, cn)
    tail = np.asarray(_hypergeometric_bound(m, n, m + cm, n + cn))
    few = n + cn <= MAX_FISHER
    everything = np.maximum(n + cn, 1)[few]  # a population of 0 would give NaN
    tail[few] = stats.hypergeom.sf(m[few] - 1, everything, (m + cm)[few], n[few])
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
    evidence = np.broadcast_arrays(*checked.evidence(matches, trials, control_matches, control_trials))
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
    m, n = checked.group("", matches, trials)
    return _binomial_tail(m, n, checked.rates("false_rate", false_rate))


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
    m, n, cm, cn = checked.evidence(matches, trials, control_matches, control_trials)
    return _binomial_tail(m, n, clopper_pearson_upper(cm, cn, confidence))


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
    scores = checked.numbers("score", score)
    nulls = np.sort(checked.one_dimensional("null_scores", null_scores))
    checked.refuse("score", scores, np.isnan(scores), "a number")
    checked.refuse("null_scores", nulls, np.isnan(nulls), "numbers")
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
    raw = checked.rates("p_values", checked.one_dimensional("p_values", p_values))
    order = np.argsort(raw, kind="stable")
    steps = raw[order] * np.arange(raw.size, 0, -1)
    adjusted = np.empty_like(raw)
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return adjusted


# Plans


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
    success, false = checked.rate("success_rate", success_rate), checked.rate("false_rate", false_rate)
    alpha = (1 - checked.inside("confidence", confidence)) / (2 if two_sided else 1)
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
    alpha = 1 - checked.inside("confidence", confidence)
    target = checked.inside("power", power)
    success, false = checked.rate("success_rate", success_rate), checked.rate("false_rate", false_rate)
    fewest = _fewest_queries(success, false, alpha, target) if success > false else math.inf
    if fewest > MAX_QUERIES:
        return math.inf
    first, block = _matches_among(fewest, success, target), 64
    while True:
        needed = np.arange(first, first + block, dtype=np.float64)
        n = _trials_to_collect(needed, success, target)
        significant = _binomial_tail(needed, n, false) <= alpha * (1 + _SLACK)
        # More matches take more trials, so the first threshold that is significant gives the smallest n.
        smallest = n[np.argmax(significant)] if significant.any() else n[-1]
        if significant.any() or smallest > MAX_QUERIES:
            return float(smallest) if smallest <= MAX_QUERIES else math.inf
        first, block = first + block, 2 * block


# Intervals


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
    m, n = checked.group("", matches, trials)
    misses = n - m
    limit = special.betaincinv(m + 1, np.maximum(misses, 1), checked.inside("confidence", confidence))
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
    m, n = checked.group("", matches, trials)
    limit = special.betaincinv(np.maximum(m, 1), n - m + 1, 1 - checked.inside("confidence", confidence))
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
    low, high = _bootstrap_intervals(checked.finite("values", values)[np.newaxis], confidence, resamples, seed)
    return float(low[0]), float(high[0])


def _bootstrap_intervals(
    samples: FloatArray, confidence: float, resamples: int, seed: int
) -> tuple[FloatArray, FloatArray]:
    """The intervals of samples of one size, a row each: all are resampled by the same picks."""
    tail = (1 - checked.inside("confidence", confidence)) / 2
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
    """What is reported of one quantity measured over seeds, all but `n` in the quantity's own unit.

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
    return summaries(values, [checked.finite("values", values).size], confidence, resamples, seed)[0]


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
    numbers, counts = checked.finite("values", values), np.asarray(sizes, dtype=np.intp)
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


# Outliers


def anomaly_index(values: ArrayLike) -> FloatArray:
    """How far each value lies below the median, in robust standard deviations (Wang et al., S&P 2019, Section IV-B).

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
    sample = checked.one_dimensional("values", values)
    checked.refuse("values", sample, np.isinf(sample), "finite or NaN")
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


# Tails of distributions


def _student_tail(statistic: FloatArray, freedom: FloatArray) -> FloatArray:
    """P[T >= statistic]; by symmetry the lower tail at -statistic, which keeps tiny p-values exact."""
    return np.asarray(special.stdtr(freedom, -statistic), dtype=np.float64)


def _expected_p_value(n: float, excess: float, variance: float) -> float:
    """P-value of the t-test on two groups of n at their expected rates.

    The unbiased variance of a group at rate p is n p (1 - p) / (n - 1), and `variance` is the sum of both
    p (1 - p), hence the n - 1.
    """
    return float(special.stdtr(2 * n - 2, -excess * math.sqrt((n - 1) / variance)))


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
    """For each number of matches, the most control matches at which Fisher's p-value is within `limit`, or -1.

    The p-value rises with the control's matches, so bisection finds them.
    """
    low, high = np.full_like(matches, -1), np.full_like(matches, control_trials)
    while np.any(low < high):
        middle = np.ceil((low + high) / 2)
        within = fisher_exact(matches, trials, np.maximum(middle, 0), control_trials) <= limit
        low, high = np.where(within & (middle >= 0), middle, low), np.where(within, high, np.maximum(middle - 1, low))
    return low


def _binomial_tail(matches: FloatArray, trials: FloatArray, rate: FloatArray | float) -> FloatArray:
    """P[X >= matches] for X ~ Binomial(trials, rate), as an incomplete beta function."""
    at_least_one = np.maximum(matches, 1)  # the beta function is undefined at 0, where the tail is all
    tail = special.betainc(at_least_one, trials - at_least_one + 1, rate)
    return np.where(matches > 0, tail, 1.0)


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
    from scipy import stats  # here because it is slow to import and most callers never need it

    return max(1, int(stats.binom.ppf(1 - probability, math.floor(trials), rate)))


def _trials_to_collect(matches: FloatArray, rate: float, probability: float) -> FloatArray:
    """Smallest number of trials that holds at least `matches` matches with this probability.

    The misses before the last of those matches are negative binomial, so its quantile answers directly.
    """
    from scipy import stats  # here because it is slow to import and most callers never need it

    misses = stats.nbinom.ppf(probability * (1 - _SLACK), matches, rate)
    return np.asarray(matches + misses, dtype=np.float64)
