"""The sequential tests against Wald's formulas, against exact sums, by their laws, and by simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate

from harness.statistics.intervals import clopper_pearson_upper
from harness.statistics.power import queries_for_power
from harness.statistics.sequential import (
    Sprt,
    e_process,
    e_values,
    expected_queries,
    expected_queries_each,
    first_rejection,
)

law = settings(deadline=None, max_examples=60, database=None, derandomize=True)
RUNS = 2000

sequences = st.lists(st.integers(0, 1), min_size=1, max_size=60)


def asked(rate: float, queries: int, seed: int, runs: int = RUNS) -> np.ndarray:
    """Answers of models that match at this rate, a row each."""
    return (np.random.default_rng(seed).random((runs, queries)) < rate).astype(int)


def slack(rate: float, runs: int = RUNS) -> float:
    """Four standard errors."""
    return 4 * math.sqrt(rate * (1 - rate) / runs)


# --- Wald's test ----------------------------------------------------------------------------------------


def test_boundaries_are_walds():
    lower, upper = Sprt(0.1, 0.3, confidence=0.98, power=0.97).boundaries
    assert (lower, upper) == pytest.approx((math.log(0.03 / 0.98), math.log(0.97 / 0.02)))


def test_decisions_of_a_worked_example():
    test = Sprt(0.1, 0.5)  # log 5 = 1.609 a match, log(5/9) = -0.588 a miss; the boundaries are -2.944 and 2.944
    assert test.decisions([1, 1, 0, 0, 0, 0, 0]).tolist() == [0, 1, 1, 1, 1, 1, 1]
    assert test.decisions([0, 0, 0, 0, 0, 0, 1]).tolist() == [0, 0, 0, 0, 0, -1, -1]
    assert test.decisions([1, 0, 0, 1, 1]).tolist() == [0, 0, 0, 0, 1]
    assert test.decisions([[0, 1, 0], [1, 1, 0]]).tolist() == [[0, 0, 0], [0, 1, 1]]
    assert test.decisions([]).tolist() == []


def test_a_spent_budget_means_unmarked():
    assert Sprt(0.1, 0.5, budget=3).decisions([1, 0, 0, 1, 1]).tolist() == [0, 0, -1, -1, -1]
    assert Sprt(0.1, 0.5, budget=2).decisions([1, 1, 0]).tolist() == [0, 1, 1]


@law
@given(answers=sequences, budget=st.integers(1, 60))
def test_a_decision_stands(answers, budget):
    said = Sprt(0.2, 0.4, budget=budget).decisions(answers)
    made = said[said != 0]
    assert np.all(made == made[:1])
    assert np.all(said[len(said) - len(made) :] != 0)
    assert len(answers) < budget or made.size > 0


@law
@given(answers=sequences, place=st.integers(0, 59))
def test_one_match_more_never_speaks_against_the_mark(answers, place):
    more = list(answers)
    more[place % len(more)] = 1
    test = Sprt(0.2, 0.4)
    assert test.decisions(more)[-1] >= test.decisions(answers)[-1]


@pytest.mark.parametrize(("false_rate", "success_rate"), [(0.1, 0.187), (0.1, 0.3), (0.1, 0.5), (0.5, 0.6)])
def test_characteristic_against_simulation(false_rate, success_rate):
    test = Sprt(false_rate, success_rate, budget=600)
    for rate in (false_rate, (false_rate + success_rate) / 2, success_rate):
        marked, queries = test.characteristic(rate)
        said = test.decisions(asked(rate, 600, seed=31))
        needed = (said == 0).sum(axis=-1) + 1
        assert np.mean(said[:, -1] == 1) == pytest.approx(marked, abs=slack(marked))
        assert needed.mean() == pytest.approx(queries, abs=4 * needed.std() / math.sqrt(RUNS))


@pytest.mark.parametrize("success_rate", [0.15, 0.187, 0.3, 0.5, 0.9])
def test_the_error_rates_are_those_that_wald_allows(success_rate):
    test = Sprt(0.1, success_rate, confidence=0.95, power=0.9)
    accused, missed = test.characteristic(0.1)[0], 1 - test.characteristic(success_rate)[0]
    assert accused <= 0.05 / 0.9
    assert missed <= 0.1 / 0.95
    assert accused + missed <= 0.15


def test_near_rates_need_as_many_queries_as_walds_formula_says():
    test = Sprt(0.1, 0.125)  # small steps: nearly nothing is overshot
    lower, upper = test.boundaries
    for rate, marked in ((0.1, 0.05), (0.125, 0.95)):
        per_query = rate * math.log(0.125 / 0.1) + (1 - rate) * math.log(0.875 / 0.9)
        wald = (marked * upper + (1 - marked) * lower) / per_query
        found_marked, found_queries = test.characteristic(rate)
        assert found_queries == pytest.approx(wald, rel=0.03)
        assert found_marked == pytest.approx(marked, abs=0.005)


@pytest.mark.parametrize("success_rate", [0.187, 0.3, 0.5])
def test_stopping_early_saves_queries(success_rate):
    test = Sprt(0.1, success_rate, power=0.95)
    fixed = queries_for_power(success_rate, 0.1, power=0.95)
    assert test.characteristic(0.1)[1] < 0.75 * fixed
    assert test.characteristic(success_rate)[1] < 0.75 * fixed


@pytest.mark.slow
@pytest.mark.parametrize(
    ("success_rate", "false_rate"), [(0.5, 0.1), (0.9, 0.02), (0.2, 0.1), (0.151, 0.1), (0.14, 0.1)]
)
def test_expected_queries_are_those_of_simulated_models(success_rate, false_rate):
    """Of 4,000 models, within Monte-Carlo error; from 200 queries on up to 5% more than is said."""
    runs, budget = 4000, 4000
    answers = np.random.default_rng(31).random((runs, budget)) < success_rate
    decisions = Sprt(false_rate, success_rate, budget=budget).decisions(answers)
    stopped = np.argmax(decisions != 0, axis=1) + 1
    said, slack = expected_queries(success_rate, false_rate), 4 * stopped.std() / math.sqrt(runs)
    assert said - slack <= stopped.mean() <= (1.05 if said > 200 else 1.0) * said + slack


def test_expected_queries_at_the_limits_of_rates():
    assert expected_queries(1, 0) == 1
    assert expected_queries(0.5, 0) == pytest.approx(sum(0.5**k for k in range(5)))  # five misses decide for unmarked
    assert expected_queries(0.1, 0.1) == expected_queries(0, 0) == expected_queries(0.10001, 0.1) == math.inf
    assert expected_queries(1, 1 - 1e-12) >= 1
    with pytest.raises(ValueError, match="^false_rate must be between 0 and 1, got -0.1$"):
        expected_queries(0.5, -0.1)


@law
@given(rates=st.lists(st.floats(0, 1), min_size=3, max_size=3))
def test_expected_queries_fall_with_the_distance_of_the_rates(rates):
    low, middle, high = sorted(rates)
    assert expected_queries(high, low) <= 1.1 * expected_queries(middle, low)


@law
@given(rates=st.lists(st.floats(0, 1), min_size=2, max_size=2))
def test_higher_rates_are_called_marked_more_often(rates):
    low, high = (Sprt(0.2, 0.5, budget=100).characteristic(rate) for rate in sorted(rates))
    assert 0 <= low[0] <= high[0] + 1e-12 <= 1 + 2e-12
    assert min(low[1], high[1]) >= 1
    assert max(low[1], high[1]) <= 100


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0.0, 0.5), "false_rate must be strictly between 0 and 1, got 0.0"),
        ((0.1, 1), "success_rate must be strictly between 0 and 1, got 1"),
        ((0.5, 0.5), "success_rate must be above false_rate, 0.5, got 0.5"),
        ((0.1, 0.5, 95), "confidence must be strictly between 0 and 1, got 95"),
        ((0.1, 0.5, 0.95, 1), "power must be strictly between 0 and 1, got 1"),
        ((0.1, 0.5, 0.75, 0.25), "power must be above 1 - confidence, 0.25, got 0.25"),
        ((0.1, 0.5, 0.95, 0.95, 0), "budget must be at least 1, got 0"),
    ],
)
def test_bad_plans_are_named(arguments, message):
    with pytest.raises(ValueError) as caught:
        Sprt(*arguments)
    assert str(caught.value) == message


# --- E-processes ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("matches", "trials"), [(0, 0), (0, 30), (3, 30), (9, 30), (30, 30), (60, 200)])
def test_e_values_are_the_average_likelihood_ratio(matches, trials):
    def ratio(rate):
        return (rate / 0.1) ** matches * ((1 - rate) / 0.9) ** (trials - matches) / 0.9

    expected = integrate.quad(ratio, 0.1, 1, epsabs=0, points=[max(0.1, matches / max(trials, 1))])[0]
    assert float(e_values(matches, trials, 0.1)) == pytest.approx(expected, rel=1e-6)


def test_e_values_at_their_limits():
    assert e_values(0, 0, 0.1) == pytest.approx(1)
    assert e_values(1, 5, 0.0) == math.inf
    assert float(e_values(0, 3, 0.0)) == pytest.approx(1 / 4)  # the average of (1 - p)^3
    assert float(e_values(3, 3, 1.0)) == pytest.approx(1)  # a false rate of 1 explains every match
    assert e_values(10**5, 10**5, 0.01) == math.inf
    assert 0 < e_values(0, 10**5, 0.1) < 1e-3
    assert e_values(np.arange(3)[:, None], 9, [0.1, 0.2]).shape == (3, 2)


@law
@given(trials=st.integers(0, 80), false_rate=st.floats(0.01, 1))
def test_e_values_rise_with_the_matches(trials, false_rate):
    values = e_values(np.arange(trials + 1), trials, false_rate)
    assert np.all(values >= 0)
    assert np.all(np.diff(values) >= -1e-9 * values[1:])


@law
@given(matches=st.integers(0, 40), more=st.integers(0, 40), rates=st.tuples(st.floats(0.01, 1), st.floats(0, 1)))
def test_the_stake_does_not_grow_in_expectation(matches, more, rates):
    false_rate, rate = rates[0], rates[0] * rates[1]  # the suspect matches at the false rate or below
    trials = matches + more
    now, miss, match = e_values([matches, matches, matches + 1], [trials, trials + 1, trials + 1], false_rate)
    assert rate * match + (1 - rate) * miss <= now * (1 + 1e-9)


def test_first_rejection_is_where_the_process_gets_there():
    process = e_process([1, 0, 1, 1, 0], 0.1)
    np.testing.assert_array_equal(process, [e_values(*row, 0.1) for row in ((1, 1), (1, 2), (2, 3), (3, 4), (3, 5))])
    assert first_rejection([[1, 20, 3], [1, 19, 3]]).tolist() == [2, math.inf]
    assert first_rejection([1, 20, 100], 0.99) == 3
    assert first_rejection([]) == math.inf
    assert first_rejection(np.empty((2, 0))).tolist() == [math.inf, math.inf]


@pytest.mark.parametrize("rate", [0.05, 0.1])
def test_looking_after_every_query_accuses_no_more_often_than_it_says(rate):
    rejected = first_rejection(e_process(asked(rate, 200, seed=32), 0.1)) < math.inf
    assert 0 < np.mean(rejected) <= 0.05 + slack(0.05)


def test_a_mark_of_unknown_strength_is_found():
    for success_rate, within in ((0.187, 300), (0.3, 60), (0.5, 15)):
        queries = first_rejection(e_process(asked(success_rate, 300, seed=33, runs=500), 0.1))
        assert np.sort(queries)[399] <= within  # four fifths of the models


def test_a_false_rate_may_be_the_limit_of_the_null_models():
    runs, rng = 2000, np.random.default_rng(34)
    limits = clopper_pearson_upper(rng.binomial(60, 0.1, runs), 60, 0.975)
    answers = asked(0.1, 200, seed=35, runs=runs)
    rejected = first_rejection(e_process(answers, limits[:, None]), 0.975) < math.inf
    assert np.mean(rejected) <= 0.05 + slack(0.05, runs)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: e_process([0, 2], 0.1), "answers must be 0 or 1, got 2"),
        (lambda: e_process(1, 0.1), "answers must have an axis of queries, got a single number"),
        (lambda: Sprt(0.1, 0.5).decisions([0, math.nan]), "answers must be 0 or 1, got nan"),
        (lambda: Sprt(0.1, 0.5).characteristic(2), "rate must be between 0 and 1, got 2"),
        (lambda: e_values(2, 1, 0.1), "matches must be at most trials, got 2 of 1"),
        (lambda: e_values(1, 2, 1.5), "false_rate must be between 0 and 1, got 1.5"),
        (lambda: first_rejection([1, math.nan]), "e_process must be at least 0, got nan"),
        (lambda: first_rejection([1], 1), "confidence must be strictly between 0 and 1, got 1"),
    ],
)
def test_bad_arguments_are_named(call, message):
    with pytest.raises(ValueError) as caught:
        call()
    assert str(caught.value) == message


def test_many_pairs_of_rates_at_once_are_each_as_alone() -> None:
    rng = np.random.default_rng(7)
    success = np.concatenate([rng.random(100), [1, 1, 0, 0.5, 1, 0.3, 0.301]])
    false = np.concatenate([0.5 * rng.random(100), [0, 0.9, 0, 0, 1, 0.3, 0.3]])
    for confidence in (0.95, 0.99):
        alone = [expected_queries(*pair, confidence) for pair in zip(success, false, strict=True)]
        assert expected_queries_each(success, false, confidence) == pytest.approx(alone, rel=1e-9)
    assert expected_queries_each([], []).shape == (0,)
