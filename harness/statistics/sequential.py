"""Evidence that is looked at after every query, so that the owner can stop as soon as it suffices.

A p-value of `tests.py` holds for a number of queries that was fixed beforehand: whoever looks at it after every
answer and stops at the first one below 0.05 accuses far more often than in one of twenty cases. Two tests allow it:

- `Sprt`, where the success rate of a marked model is known: no test with its error rates needs fewer queries;
- an e-process, where it is not: `e_values`, `e_process`, and `first_rejection`.

Both take a false rate for known. Where null models measured it, give its upper Clopper-Pearson limit
(`intervals.clopper_pearson_upper`): both stay valid for every lower false rate, so that the chance of a false
accusation rises by no more than 1 - the limit's confidence.

Answers are independent, 1 where the suspect answers as the key says and 0 where not, in the order of asking; the last
axis of an array is that of the queries.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy import special

from harness.statistics import validate
from harness.statistics.power import MAX_QUERIES

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import ArrayLike, NDArray

    from harness.statistics.validate import FloatArray


@dataclass(frozen=True)
class Sprt:
    """Wald's sequential probability ratio test (Annals of Mathematical Statistics 16, 1945), cut off at a budget.

    After each query the logarithm of the likelihood ratio of a marked and an unmarked model is compared with two
    boundaries: at the upper one the model is called marked, at the lower one unmarked, between them the next query is
    asked. If `budget` queries leave it open, the model is called unmarked.

    Wald's boundaries take no account of the step that crosses them. Hence the chance of a false accusation is at most
    (1 - confidence) / power, and in practice below 1 - confidence; `characteristic` computes it. That of missing a
    mark is so too, but for the budget.

    Attributes:
        false_rate: Rate at which an unmarked model matches, strictly between 0 and 1; lower ones are covered.
        success_rate: Rate at which a marked model matches, above `false_rate` and below 1; higher ones are covered.
        confidence: 1 - the wanted chance of a false accusation, strictly between 0 and 1.
        power: 1 - the wanted chance of missing a mark, strictly between 1 - confidence and 1.
        budget: Most queries that are asked, at least 1.
    """

    false_rate: float
    success_rate: float
    confidence: float = 0.95
    power: float = 0.95
    budget: int = 10_000

    def __post_init__(self) -> None:
        for name in ("false_rate", "success_rate", "confidence", "power"):
            validate.inside(name, getattr(self, name))
        if self.success_rate <= self.false_rate:
            raise ValueError(f"success_rate must be above false_rate, {self.false_rate}, got {self.success_rate}")
        if self.power <= 1 - self.confidence:
            raise ValueError(f"power must be above 1 - confidence, {1 - self.confidence:.15g}, got {self.power}")
        if self.budget < 1:
            raise ValueError(f"budget must be at least 1, got {self.budget}")

    @property
    def boundaries(self) -> tuple[float, float]:
        """The lower and the upper boundary of the logarithm of the likelihood ratio."""
        alpha, beta = 1 - self.confidence, 1 - self.power
        return math.log(beta / self.confidence), math.log(self.power / alpha)

    def decisions(self, answers: ArrayLike) -> NDArray[np.int8]:
        """Verdict of the test after each answer.

        Args:
            answers: 0 or 1 each, at least one-dimensional.

        Returns:
            In the shape of `answers`, 1 for marked, -1 for unmarked and 0 for "ask on". A decision stands: later
            answers do not change it.

        Raises:
            ValueError: If an answer is neither 0 nor 1, or there is no axis of queries.
        """
        said = self._says(*_counted(answers))
        last = said[..., self.budget - 1 : self.budget]
        last[last == 0] = -1
        first = np.argmax(said != 0, axis=-1, keepdims=True) if said.size else np.zeros_like(said, dtype=np.intp)
        made = np.take_along_axis(said, first, axis=-1)
        return np.where(np.arange(said.shape[-1]) >= first, made, np.int8(0))

    def characteristic(self, rate: float) -> tuple[float, float]:
        """Behaviour of the test on a model that matches at this rate: exactly, by adding up all paths of answers.

        Args:
            rate: In [0, 1]: `false_rate` gives the chance of a false accusation, `success_rate` the power.

        Returns:
            The probability that the model is called marked (1 - the operating characteristic), and the expected
            number of queries.

        Raises:
            ValueError: If `rate` lies outside [0, 1].
        """
        rate = validate.rate("rate", rate)
        unmarked_at, marked_at = (limits.astype(int) for limits in self._limits(np.arange(self.budget + 1.0)))
        step = np.array([1 - rate, rate])
        marked, queries, left = 0.0, 0.0, 1.0
        first, paths = 0, np.ones(1)  # the counts of matches that leave it open, from the first on: their probabilities
        for asked in range(1, self.budget + 1):
            queries += left
            paths = np.convolve(paths, step)
            end, start = max(marked_at[asked] - first, 0), max(unmarked_at[asked] + 1 - first, 0)
            marked += float(paths[end:].sum())
            paths, first = paths[start:end], first + start
            left = float(paths.sum())
            if left < 1e-12:
                break
        return marked, queries

    def _says(self, matches: FloatArray, trials: FloatArray) -> NDArray[np.int8]:
        """Verdict of each pair of counts if none before it said anything."""
        unmarked_at, marked_at = self._limits(trials)
        return np.subtract(matches >= marked_at, matches <= unmarked_at, dtype=np.int8)

    def _limits(self, trials: FloatArray) -> tuple[FloatArray, FloatArray]:
        """The most matches of so many queries that say unmarked, and the fewest that say marked."""
        lower, upper = self.boundaries
        match = math.log(self.success_rate / self.false_rate)
        miss = math.log1p(-self.success_rate) - math.log1p(-self.false_rate)
        low, high = ((boundary - trials * miss) / (match - miss) for boundary in (lower, upper))
        return np.floor(low + _SLACK), np.ceil(high - _SLACK)


_SLACK = 1e-9
"""Matches: a ratio that lies at a boundary but for rounding has reached it."""
_EXACT = 200
"""Queries up to which all paths are added up, which takes some hundredths of a second."""
_TINY = 1e-9


def expected_queries(success_rate: float, false_rate: float, confidence: float = 0.95, power: float = 0.95) -> float:
    """Expected queries of `Sprt` to a marked model: the cost of verifying for an owner who looks after every answer.

    `queries_for_power` with the same power says how many a test of a fixed number takes.

    Args:
        success_rate: Rate at which the model matches, in [0, 1], and which the test is made for.
        false_rate: Rate at which an unmarked model matches, in [0, 1].
        confidence: As of `Sprt`.
        power: As of `Sprt`.

    Returns:
        At least 1; `inf` if the model does not match more often than an unmarked one, or if more than `MAX_QUERIES`
        are expected. Exact up to about 200; beyond it is Wald's approximation, which leaves out the step that crosses
        a boundary and so is up to 5% too low.

    Raises:
        ValueError: If a number lies outside its range.
    """
    success, false = validate.rate("success_rate", success_rate), validate.rate("false_rate", false_rate)
    if success <= false:
        return math.inf
    # A rate of 0 or 1 has no likelihood ratio: one that no owner could tell from it has.
    planned, against = min(success, 1 - _TINY), max(false, _TINY)
    test = Sprt(against, max(planned, math.nextafter(against, 1)), confidence, power, 20 * _EXACT)
    lower, upper = test.boundaries
    information = planned * math.log(planned / against) + (1 - planned) * math.log((1 - planned) / (1 - against))
    wald = (power * upper + (1 - power) * lower) / max(information, _TINY**2)
    if wald <= _EXACT:
        return max(1.0, test.characteristic(success)[1])
    return wald if wald <= MAX_QUERIES else math.inf


def expected_queries_each(
    success_rates: ArrayLike, false_rates: ArrayLike, confidence: float = 0.95, power: float = 0.95
) -> FloatArray:
    """`expected_queries` of many pairs of rates, all at once: of thousands one by one takes long.

    Args:
        success_rates: One-dimensional, as of `expected_queries`.
        false_rates: Of the same shape.
        confidence: As of `Sprt`.
        power: As of `Sprt`.

    Returns:
        Queries, of the same shape.

    Raises:
        ValueError: As `expected_queries`.
    """
    success, false = (validate.rates(n, each) for n, each in zip(_RATES, (success_rates, false_rates), strict=True))
    made = np.full(success.shape, np.inf)
    some = np.flatnonzero(success > false)
    against = np.maximum(false[some], _TINY)
    planned = np.maximum(np.minimum(success[some], 1 - _TINY), np.nextafter(against, 1))
    lower, upper = Sprt(0.1, 0.9, confidence, power).boundaries
    information = special.rel_entr(planned, against) + special.rel_entr(1 - planned, 1 - against)
    wald = (power * upper + (1 - power) * lower) / np.maximum(information, _TINY**2)
    exact = wald <= _EXACT
    made[some] = np.where(wald <= MAX_QUERIES, wald, np.inf)
    queries = _queries_of_paths(success[some][exact], planned[exact], against[exact], (lower, upper))
    made[some[exact]] = np.maximum(queries, 1.0)
    return made


_RATES = ("success_rates", "false_rates")


def _queries_of_paths(
    rates: FloatArray, planned: FloatArray, against: FloatArray, boundaries: tuple[float, float]
) -> FloatArray:
    """Expected queries of as many tests, cut off at 20 `_EXACT`, each to a model of its own rate: by adding up paths.

    A row of `paths` has the probabilities of the counts of matches that leave a test open, from `first` on.
    """
    match, miss = np.log(planned / against), np.log1p(-planned) - np.log1p(-against)
    queries, places = np.zeros(rates.shape), np.arange(rates.size)
    first, paths = np.zeros(rates.size, dtype=np.intp), np.ones((rates.size, 1))
    for asked in range(1, 20 * _EXACT + 1):
        queries[places] += paths.sum(axis=1)
        rate = rates[places, np.newaxis]
        grown = np.zeros((places.size, paths.shape[1] + 1))
        grown[:, :-1] = paths * (1 - rate)
        grown[:, 1:] += paths * rate
        low, high = ((bound - asked * miss[places]) / (match - miss)[places] for bound in boundaries)
        start = np.maximum(np.floor(low + _SLACK).astype(np.intp) + 1 - first, 0)
        end = np.maximum(np.ceil(high - _SLACK).astype(np.intp) - first, 0)
        # Counts from start to before end are still open; they move to the front of their row.
        width = max(int((end - start).max(initial=0)), 0)
        columns = start[:, np.newaxis] + np.arange(width)
        inside = (columns < end[:, np.newaxis]) & (columns < grown.shape[1])
        paths = np.where(inside, np.take_along_axis(grown, np.minimum(columns, grown.shape[1] - 1), axis=1), 0.0)
        first = first + start
        left = paths.sum(axis=1) >= 1e-12
        places, first, paths = places[left], first[left], paths[left]
        if not places.size:
            break
    return queries


# E-processes


# Nodes and weights on [-1, 1] of the mixture over success rates: any choice is valid, more nodes gain nothing visible.
_NODES = 64


def e_values(matches: ArrayLike, trials: ArrayLike, false_rate: ArrayLike) -> FloatArray:
    """E-value against every false rate up to this one, for an unknown success rate.

    It is the likelihood ratio of a marked and an unmarked model, averaged over the success rates between the false
    rate and 1, in equal shares: as if the owner had split a stake among all of them and bet it against the false
    rate. An unmarked model multiplies the stake by no more than 1 in expectation, at every query. So by Ville's
    inequality its e-value ever reaches 1 / alpha with probability at most alpha, however long it is asked and
    whenever one looks (Robbins 1970; Ramdas et al., Statistical Science 38, 2023).

    Args:
        matches: Matching answers of the suspect, whole numbers from 0 to `trials`.
        trials: Queries to the suspect, whole numbers of at least 0.
        false_rate: Highest rate at which an unmarked model matches, in [0, 1].

    Returns:
        Numbers of at least 0 in the broadcast shape of the arguments, 1.0 of no queries; `inf` where they overflow,
        and of any match against a false rate of 0. 1 / e-value is a p-value (above 1 it means nothing).

    Raises:
        ValueError: If a count is negative, not whole, or larger than its number of trials, or a rate lies outside
            [0, 1].
    """
    m, n = validate.group("", matches, trials)
    null = validate.rates("false_rate", false_rate)
    points, weights = np.polynomial.legendre.leggauss(_NODES)
    some = np.where(null > 0, null, 1.0)  # against 0, a match says all

    def logarithms() -> Iterator[FloatArray]:
        for share, weight in zip((points + 1) / 2, weights / 2, strict=True):
            # At the success rate null + (1 - null) share a miss costs 1 - share, whatever the null is.
            match = np.log((null + (1 - null) * share) / some)
            yield m * match + (n - m) * math.log1p(-share) + math.log(weight)

    peak = functools.reduce(np.maximum, logarithms())
    with np.errstate(over="ignore"):
        average = np.exp(peak) * sum(np.exp(each - peak) for each in logarithms())
    return np.where((null == 0) & (m > 0), np.inf, average)


def e_process(answers: ArrayLike, false_rate: ArrayLike) -> FloatArray:
    """`e_values` after each answer.

    Args:
        answers: 0 or 1 each, at least one-dimensional.
        false_rate: As of `e_values`.

    Returns:
        E-values in the shape of `answers`.

    Raises:
        ValueError: If an answer is neither 0 nor 1, there is no axis of queries, or a rate lies outside [0, 1].
    """
    return e_values(*_counted(answers), false_rate)


def first_rejection(e_process: ArrayLike, confidence: float = 0.95) -> FloatArray:
    """Number of queries at which an e-process first reaches 1 / (1 - confidence): there the owner may stop and accuse.

    Args:
        e_process: E-values after each answer, along the last axis.
        confidence: 1 - the chance of a false accusation, strictly between 0 and 1.

    Returns:
        Whole numbers of at least 1, in the shape without the last axis; `inf` where it does not get there.

    Raises:
        ValueError: If an e-value is negative or NaN, there is no axis, or `confidence` lies outside (0, 1).
    """
    process = _sequences("e_process", e_process)
    validate.refuse("e_process", process, ~(process >= 0), "at least 0")
    # 1 / (1 - 0.95) is a hair above 20 in floating point.
    reached = process >= (1 - 1e-12) / (1 - validate.inside("confidence", confidence))
    queries = np.where(reached, np.arange(1.0, process.shape[-1] + 1), np.inf)
    return np.asarray(queries.min(axis=-1, initial=np.inf), dtype=np.float64)


def _counted(answers: ArrayLike) -> tuple[FloatArray, FloatArray]:
    """Matches and queries after each answer."""
    given = _sequences("answers", answers)
    validate.refuse("answers", given, (given != 0) & (given != 1), "0 or 1")
    return given.cumsum(axis=-1), np.broadcast_to(np.arange(1.0, given.shape[-1] + 1), given.shape)


def _sequences(name: str, values: ArrayLike) -> FloatArray:
    """Numbers with an axis of queries."""
    numbers = validate.numbers(name, values)
    if numbers.ndim == 0:
        raise ValueError(f"{name} must have an axis of queries, got a single number")
    return numbers
