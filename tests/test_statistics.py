"""The statistics against published numbers, against scipy, against their own laws, and by simulation."""

from __future__ import annotations

import math
import subprocess
import sys
import time
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

import harness.statistics
from harness.statistics.intervals import (
    Summary,
    bootstrap_interval,
    clopper_pearson_lower,
    clopper_pearson_upper,
    summary,
)
from harness.statistics.power import (
    MAX_QUERIES,
    _matches_among,
    _trials_to_collect,
    queries_for_confidence,
    queries_for_power,
)
from harness.statistics.tests import (
    MAX_BOSCHLOO,
    MAX_FISHER,
    SLACK,
    binomial_test,
    binomial_test_against_control,
    boschloo,
    fisher_exact,
    holm,
    hypergeometric_tail,
    rank_p_value,
    t_test,
    welch_t_test,
)

CONTROL_TESTS = [t_test, welch_t_test, fisher_exact, boschloo, binomial_test_against_control]
LIMITS = [clopper_pearson_lower, clopper_pearson_upper]

# One profile for all laws: reproducible, nothing written to the disk, no clock.
law = settings(deadline=None, max_examples=60, database=None, derandomize=True)


@st.composite
def groups(draw: st.DrawFn, least: int = 0, most: int = 60) -> tuple[int, int]:
    """The matches and the trials of one group."""
    trials = draw(st.integers(least, most))
    return draw(st.integers(0, trials)), trials


def random_evidence(count: int, seed: int, most: int = 80) -> np.ndarray:
    """Rows of matches, trials, control_matches, control_trials, as four columns."""
    rng = np.random.default_rng(seed)
    trials, control_trials = rng.integers(2, most, size=(2, count))
    return np.array([rng.integers(trials + 1), trials, rng.integers(control_trials + 1), control_trials], dtype=int)


def answers(matches: int, trials: int) -> np.ndarray:
    """The single answers behind a pair of counts."""
    return np.repeat([1.0, 0.0], [matches, trials - matches])


# --- Published numbers ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("success_rate", "one_sided", "two_sided"),
    # The third rate is written 0.187 where it is quoted; the counts quoted with it are those of 0.1874.
    [(0.50, 8, 11), (0.30, 23, 32), (0.1874, 88, 125), (0.187, 89, 126)],
)
def test_queries_for_confidence_gives_the_papers_numbers(success_rate, one_sided, two_sided):
    assert queries_for_confidence(success_rate, 0.10) == one_sided
    assert queries_for_confidence(success_rate, 0.10, two_sided=True) == two_sided


@pytest.mark.parametrize(
    ("success_rate", "at_80", "at_95"), [(0.187, 101, 176), (0.1874, 101, 176), (0.30, 25, 41), (0.50, 8, 13)]
)
def test_queries_for_power_gives_the_known_numbers(success_rate, at_80, at_95):
    assert queries_for_power(success_rate, 0.10) == at_80
    assert queries_for_power(success_rate, 0.10, power=0.95) == at_95


def test_the_papers_number_of_queries_detects_only_about_half_of_the_marks():
    rng = np.random.default_rng(5)
    n = int(queries_for_confidence(0.1874, 0.10))
    suspect, control = rng.binomial(n, 0.1874, 20_000), rng.binomial(n, 0.10, 20_000)
    assert np.mean(t_test(suspect, n, control, n) <= 0.05) == pytest.approx(0.5, abs=0.05)


# --- Agreement with scipy -------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:Precision loss:RuntimeWarning")  # scipy's, at a constant group of ones
def test_t_test_agrees_with_scipy_on_the_single_answers():
    for row in random_evidence(200, seed=1).T:
        m, n, cm, cn = row
        if m in (0, n) and cm in (0, cn):
            continue  # no variance: scipy gives NaN, see the test of constant groups
        expected = stats.ttest_ind(answers(m, n), answers(cm, cn), alternative="greater").pvalue
        assert float(t_test(m, n, cm, cn)) == pytest.approx(expected, rel=1e-9)


def test_t_test_of_a_worked_example_where_one_group_has_one_answer():
    # Excess 2/3, pooled variance (2/3) / 2, statistic (2/3) / sqrt(1/3 * (1 + 1/3)) = 1, freedom 2.
    assert float(t_test(1, 1, 1, 3)) == pytest.approx(stats.t.sf(1, 2))


def test_fisher_exact_agrees_with_scipy():
    for m, n, cm, cn in random_evidence(200, seed=2).T:
        expected = stats.fisher_exact([[m, n - m], [cm, cn - cm]], alternative="greater").pvalue
        assert float(fisher_exact(m, n, cm, cn)) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("row", [(90, 100, 20, 400), (7, 7, 0, 5000), (300, 1000, 950, 5000)])
def test_fisher_exact_agrees_with_whole_number_arithmetic_far_in_the_tail(row):
    m, n, cm, cn = row
    ways = sum(math.comb(n, x) * math.comb(cn, m + cm - x) for x in range(m, min(n, m + cm) + 1))
    expected = float(Fraction(ways, math.comb(n + cn, m + cm)))
    assert float(fisher_exact(*row)) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("false_rate", [0.0, 1e-6, 0.1, 0.5, 0.99, 1.0])
def test_binomial_test_agrees_with_scipy(false_rate):
    for m, n, _, _ in random_evidence(50, seed=3).T:
        expected = stats.binomtest(m, n, false_rate, alternative="greater").pvalue
        assert float(binomial_test(m, n, false_rate)) == pytest.approx(expected, rel=1e-9, abs=1e-300)


@pytest.mark.parametrize("confidence", [0.5, 0.9, 0.95, 0.999])
def test_clopper_pearson_agrees_with_scipy(confidence):
    for m, n, _, _ in random_evidence(50, seed=4).T:
        # binomtest's interval for alternative "greater" is [lower limit, 1], for "less" [0, upper limit].
        lower = stats.binomtest(m, n, alternative="greater").proportion_ci(confidence, "exact").low
        upper = stats.binomtest(m, n, alternative="less").proportion_ci(confidence, "exact").high
        assert float(clopper_pearson_lower(m, n, confidence)) == pytest.approx(lower, rel=1e-9)
        assert float(clopper_pearson_upper(m, n, confidence)) == pytest.approx(upper, rel=1e-9)


@pytest.mark.filterwarnings("ignore:Precision loss:RuntimeWarning")  # scipy's, at a constant group of ones
def test_welch_t_test_agrees_with_scipy_on_the_single_answers():
    for m, n, cm, cn in random_evidence(200, seed=21).T:
        if m in (0, n) and cm in (0, cn):
            assert welch_t_test(m, n, cm, cn) == t_test(m, n, cm, cn)  # the same limits, where scipy gives NaN
            continue
        expected = stats.ttest_ind(answers(m, n), answers(cm, cn), equal_var=False, alternative="greater").pvalue
        assert float(welch_t_test(m, n, cm, cn)) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(
    ("row", "p_value"),
    [
        ((10, 10, 0, 10), 2.0**-20),  # the largest of p^10 (1 - p)^10
        ((2, 2, 0, 1), 4 / 27),  # the largest of p^2 (1 - p)
        ((1, 1, 0, 1), 1 / 4),
    ],
)
def test_boschloo_of_separated_groups_has_a_closed_form(row, p_value):
    assert float(boschloo(*row)) == pytest.approx(p_value, rel=1e-6)


@pytest.mark.parametrize("row", [(12, 15, 7, 15), (74, 105, 43, 75), (7, 12, 1, 10), (3, 20, 0, 20), (2, 5, 30, 80)])
def test_boschloo_agrees_with_scipy(row):
    m, n, cm, cn = row
    expected = stats.boschloo_exact([[m, cm], [n - m, cn - cm]], alternative="greater").pvalue
    assert float(boschloo(*row)) == pytest.approx(expected, rel=1e-4)


# --- Edges ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("row", "p_value"),
    [((10, 10, 0, 10), 0.0), ((10, 10, 10, 10), 0.5), ((0, 10, 0, 7), 0.5), ((0, 10, 10, 10), 1.0)],
)
def test_t_test_of_constant_groups_takes_the_limit(row, p_value):
    assert t_test(*row) == p_value


@pytest.mark.parametrize("row", [(0, 0, 0, 0), (0, 0, 3, 10), (3, 10, 0, 0), (1, 1, 0, 1)])
def test_t_test_is_undefined_without_enough_answers(row):
    assert np.isnan(t_test(*row))
    assert np.isnan(welch_t_test(*row))


def test_welch_t_test_takes_two_answers_of_each_group():
    assert np.isnan(welch_t_test(1, 1, 1, 3))
    assert np.isnan(welch_t_test(1, 3, 1, 1))
    assert float(welch_t_test(1, 2, 1, 2)) == 0.5


@pytest.mark.parametrize("matches", [0, 5 * 10**14, 5 * 10**14 + 10**8, 10**15])
def test_exact_tests_of_absurd_counts_answer_at_once_and_on_the_safe_side(matches):
    started = time.process_time()
    found = fisher_exact(matches, 10**15, 5 * 10**14, 10**15)
    assert boschloo(matches, 10**15, 5 * 10**14, 10**15) == found
    assert time.process_time() - started < 1
    normal = stats.norm.sf((matches - 5e14) / math.sqrt(1e15 / 2))
    assert normal <= found <= 1
    assert (found < 1e-300) == (matches == 10**15)


def test_a_column_may_mix_countable_and_absurd_counts():
    found = fisher_exact([5, 3 * MAX_FISHER, 0], [10, 4 * MAX_FISHER, 0], [1, MAX_FISHER, 0], [10, 4 * MAX_FISHER, 0])
    np.testing.assert_allclose(found, [float(fisher_exact(5, 10, 1, 10)), 0.0, 1.0])


@law
@given(group=groups(), control=groups())
def test_the_bound_that_stands_in_for_fisher_is_never_smaller(group, control):
    exact = fisher_exact(*group, *control)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(harness.statistics, "MAX_FISHER", -1)
        assert exact <= fisher_exact(*group, *control) * (1 + 1e-9)


@pytest.mark.parametrize("row", [(0, 0, 0, 0), (0, 0, 3, 10), (3, 10, 0, 0)])
@pytest.mark.parametrize("test", [fisher_exact, boschloo, binomial_test_against_control])
def test_an_empty_group_is_no_evidence(test, row):
    assert test(*row) == 1.0


def test_binomial_test_with_a_false_rate_of_zero_takes_one_match_as_proof():
    np.testing.assert_array_equal(binomial_test([0, 1, 5], [5, 5, 5], 0.0), [1.0, 0.0, 0.0])


def test_binomial_test_without_queries_is_no_evidence():
    assert binomial_test(0, 0, 0.1) == 1.0


def test_clopper_pearson_without_information_is_the_whole_range():
    assert (clopper_pearson_lower(0, 0), clopper_pearson_upper(0, 0)) == (0.0, 1.0)
    assert (clopper_pearson_lower(0, 9), clopper_pearson_upper(9, 9)) == (0.0, 1.0)


def test_clopper_pearson_of_no_match_is_the_rule_of_three():
    assert float(clopper_pearson_upper(0, 300)) == pytest.approx(3 / 300, rel=0.01)


def test_a_larger_control_gives_a_smaller_p_value():
    p_values = binomial_test_against_control(30, 100, [1, 10, 100, 1000], [10, 100, 1000, 10_000])
    assert np.all(np.diff(p_values) < 0)
    assert p_values[-1] > binomial_test(30, 100, 0.1)


def test_scalars_give_arrays_without_dimensions():
    p_value = fisher_exact(5, 10, 1, 10)
    assert isinstance(p_value, np.ndarray)
    assert p_value.shape == ()
    assert f"{p_value:.3f}" == f"{float(p_value):.3f}"


@pytest.mark.parametrize("test", CONTROL_TESTS)
def test_columns_and_scalars_broadcast(test):
    table = test(np.arange(11)[:, None], 10, np.arange(3), 20)
    assert table.shape == (11, 3)
    assert table[7, 2] == test(7, 10, 2, 20)


@pytest.mark.parametrize("test", CONTROL_TESTS)
def test_empty_columns_give_empty_columns(test):
    assert test([], [], [], []).shape == (0,)


# --- Laws -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("test", [t_test, fisher_exact, binomial_test_against_control])
@law
@given(group=groups(least=2), control=groups(least=1))
def test_p_values_are_probabilities_that_fall_with_the_matches(test, group, control):
    p_values = test(np.arange(group[1] + 1), group[1], *control)
    assert np.all((p_values >= 0) & (p_values <= 1))
    assert np.all(np.diff(p_values) <= 1e-12)


@law
@given(group=groups(), false_rate=st.floats(0, 1))
def test_binomial_p_values_are_probabilities_that_fall_with_the_matches(group, false_rate):
    p_values = binomial_test(np.arange(group[1] + 1), group[1], false_rate)
    assert np.all((p_values >= 0) & (p_values <= 1))
    assert np.all(np.diff(p_values) <= 1e-12)


@law
@given(group=groups(least=1), confidence=st.floats(0.5, 0.999))
def test_limits_bracket_the_rate_and_mirror_each_other(group, confidence):
    m, n = group
    lower, upper = clopper_pearson_lower(m, n, confidence), clopper_pearson_upper(m, n, confidence)
    assert 0 <= lower <= m / n + 1e-12
    assert m / n - 1e-12 <= upper <= 1
    assert float(upper) == pytest.approx(1 - float(clopper_pearson_lower(n - m, n, confidence)), abs=1e-9)


@law
@given(group=groups(least=1), confidence=st.floats(0.5, 0.99))
def test_the_lower_limit_is_where_the_binomial_test_turns(group, confidence):
    lower = clopper_pearson_lower(*group, confidence)
    if group[0] > 0:
        assert float(binomial_test(*group, lower)) == pytest.approx(1 - confidence, rel=1e-6)


@pytest.mark.parametrize("test", CONTROL_TESTS)
def test_a_column_equals_a_loop_over_its_rows(test):
    columns = random_evidence(60, seed=6)
    np.testing.assert_array_equal(test(*columns), [float(test(*row)) for row in columns.T])


@pytest.mark.parametrize("limit", LIMITS)
def test_limits_of_a_column_equal_a_loop_over_its_rows(limit):
    m, n, _, _ = random_evidence(60, seed=7)
    np.testing.assert_array_equal(limit(m, n), [float(limit(*row)) for row in zip(m, n, strict=True)])


@law
@given(p_values=st.lists(st.floats(0, 1), max_size=20))
def test_holm_never_lowers_and_never_reorders(p_values):
    raw, adjusted = np.array(p_values), holm(p_values)
    assert np.all((adjusted >= raw) & (adjusted <= 1))
    assert np.all(np.diff(adjusted[np.argsort(raw, kind="stable")]) >= 0)


@law
@given(p_values=st.lists(st.floats(0, 1), min_size=1, max_size=12), seed=st.integers(0, 99))
def test_holm_keeps_each_value_at_its_place(p_values, seed):
    shuffle = np.random.default_rng(seed).permutation(len(p_values))
    np.testing.assert_array_equal(holm(np.array(p_values)[shuffle]), holm(p_values)[shuffle])


def test_holm_of_a_worked_example():
    np.testing.assert_allclose(holm([0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02])


def test_holm_of_nothing_is_nothing():
    assert holm([]).shape == (0,)


@law
@given(group=groups(least=2), control=groups(least=2))
def test_welch_p_values_are_probabilities(group, control):
    p_values = welch_t_test(np.arange(group[1] + 1), group[1], *control)
    assert np.all((p_values >= 0) & (p_values <= 1))


@law
@given(group=groups(most=8), control=groups(most=8))
def test_boschloo_falls_with_the_matches_and_is_never_above_fisher(group, control):
    p_values = boschloo(np.arange(group[1] + 1), group[1], *control)
    assert np.all((p_values > 0) & (p_values <= fisher_exact(np.arange(group[1] + 1), group[1], *control)))
    assert np.all(np.diff(p_values) <= 1e-12)


def test_boschloo_detects_more_marks_than_fisher_and_holds_its_level_at_every_rate():
    m, cm = np.arange(16)[:, None], np.arange(13)
    by_boschloo, by_fisher = (test(m, 15, cm, 12) <= 0.05 for test in (boschloo, fisher_exact))

    def detected(accused, rate, control_rate):
        table = stats.binom.pmf(m, 15, rate) * stats.binom.pmf(cm, 12, control_rate)
        return float(table[accused].sum())

    assert 0.04 < max(detected(by_boschloo, rate, rate) for rate in np.linspace(0.01, 0.99, 99)) <= 0.05
    assert detected(by_boschloo, 0.5, 0.1) > detected(by_fisher, 0.5, 0.1) + 0.1


def test_boschloo_of_large_groups_is_fisher():
    row = (MAX_BOSCHLOO // 2, MAX_BOSCHLOO + 1, 3, 10)
    assert boschloo(*row) == fisher_exact(*row)
    assert boschloo(MAX_BOSCHLOO // 2, MAX_BOSCHLOO, 3, 10) < fisher_exact(MAX_BOSCHLOO // 2, MAX_BOSCHLOO, 3, 10)


# --- Plans ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("success_rate", "false_rate"), [(0.5, 0.25), (0.25, 0.125), (0.75, 0.5), (1, 0.5)])
def test_queries_for_confidence_is_where_the_t_test_turns(success_rate, false_rate):
    n = queries_for_confidence(success_rate, false_rate)
    whole = np.arange(8, 1000, 8)  # sizes whose expected counts are whole
    significant = t_test(success_rate * whole, whole, false_rate * whole, whole) <= 0.05
    np.testing.assert_array_equal(significant, whole >= n)


@law
@given(rates=st.tuples(st.floats(0, 1), st.floats(0, 1)), confidence=st.floats(0.01, 0.9999))
def test_queries_for_confidence_is_the_smallest(rates, confidence):
    false_rate, success_rate = sorted(rates)
    n = queries_for_confidence(success_rate, false_rate, confidence)
    if n < MAX_QUERIES and n > 2:
        variance = success_rate * (1 - success_rate) + false_rate * (1 - false_rate)
        sizes = np.array([n - 1, n])
        statistic = (success_rate - false_rate) * np.sqrt((sizes - 1) / variance)
        np.testing.assert_array_equal(
            stats.t.sf(statistic, 2 * sizes - 2) <= 1 - confidence, [False, True], err_msg=f"n = {n}"
        )


def first_n_by_enumeration(success_rate, false_rate, alpha, power, most=7000):
    """The definition of `queries_for_power`, one n after the other."""
    n = np.arange(1, most)
    critical = stats.binom.isf(alpha * (1 + 1e-9), n, false_rate) + 1
    reached = stats.binom.sf(critical - 1, n, success_rate) >= power * (1 - 1e-9)
    return float(n[np.argmax(reached)]) if reached.any() else math.inf


@pytest.mark.parametrize("false_rate", [0.0, 0.01, 0.1, 0.5, 0.9])
@pytest.mark.parametrize("confidence", [0.7, 0.9, 0.95, 0.999])
@pytest.mark.parametrize("power", [0.1, 0.5, 0.8, 0.99])
def test_queries_for_power_is_the_first_n_that_reaches_it(false_rate, confidence, power):
    for success_rate in false_rate + (1 - false_rate) * np.array([0.2, 0.5, 1.0]):
        expected = first_n_by_enumeration(success_rate, false_rate, 1 - confidence, power)
        assert queries_for_power(success_rate, false_rate, confidence, power) == expected


@pytest.mark.parametrize("plan", [queries_for_confidence, queries_for_power])
@pytest.mark.parametrize(
    ("success_rate", "false_rate"),
    [(0.1, 0.1), (0.05, 0.1), (0, 0), (0.1, 0.1 - 1e-9), (1e-300, 0), (5e-324, 0), (0.3, 0.1 + 0.2 - 1e-16)],
)
def test_plans_that_no_number_of_queries_fulfils_are_infinite(plan, success_rate, false_rate):
    assert plan(success_rate, false_rate) == math.inf


def test_plans_for_a_certain_mark_against_a_silent_control():
    assert queries_for_confidence(1, 0) == 2
    assert queries_for_power(1, 0) == 1


def test_ties_do_not_depend_on_rounding():
    assert 1 - 0.9 < 0.1  # in floating point; one match in one query has a p-value of exactly 0.1
    assert queries_for_power(0.8, 0.1, confidence=0.9, power=0.8) == 1
    assert queries_for_power(0.7, 0.0, power=0.91) == 2  # 1 - 0.3^2 is exactly 0.91


# --- Ranks and intervals over seeds ---------------------------------------------------------------------


def test_rank_p_value_counts_the_null_models_that_score_as_high():
    nulls = [0.1, 0.2, 0.2, 0.3]
    np.testing.assert_allclose(rank_p_value([0.05, 0.2, 0.25, 0.3, 9], nulls), [1, 0.8, 0.4, 0.4, 0.2])
    assert rank_p_value(0.5, []) == 1.0


def test_rank_p_value_is_uniform_for_an_unmarked_suspect():
    scores = np.random.default_rng(8).normal(size=(4000, 20))
    p_values = [float(rank_p_value(row[0], row[1:])) for row in scores]
    counts = np.bincount(np.rint(np.array(p_values) * 20).astype(int), minlength=21)[1:]
    assert stats.chisquare(counts).pvalue > 0.001


def test_bootstrap_interval_is_repeatable_and_ignores_the_order():
    values = np.random.default_rng(9).normal(size=12)
    interval = bootstrap_interval(values, seed=3)
    state = np.random.get_state()[1].copy()
    assert bootstrap_interval(values[::-1], seed=3) == interval
    assert bootstrap_interval(values, seed=4) != interval
    np.testing.assert_array_equal(np.random.get_state()[1], state)


def test_bootstrap_interval_of_many_values_is_the_normal_one():
    values = np.random.default_rng(10).normal(50, 10, size=400)
    half = stats.norm.ppf(0.95) * values.std() / 20
    found = bootstrap_interval(values, confidence=0.9, resamples=10_000)
    assert found == pytest.approx((values.mean() - half, values.mean() + half), abs=0.05)


@law
@given(values=st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=12), confidence=st.floats(0.1, 0.99))
def test_bootstrap_interval_lies_within_the_values(values, confidence):
    low, high = bootstrap_interval(values, confidence, resamples=50)
    assert min(values) - 1e-6 <= low <= high <= max(values) + 1e-6


def test_summary_holds_the_usual_numbers():
    values = [3.0, 63.0, 98.0]
    found = summary(values, confidence=0.9, resamples=500, seed=2)
    low, high = bootstrap_interval(values, 0.9, 500, 2)
    expected = Summary(n=3, mean=np.mean(values), sd=np.std(values, ddof=1), low=low, high=high)
    assert found == expected


def test_one_seed_has_no_spread():
    found = summary([0.5])
    assert (found.n, found.mean) == (1, 0.5)
    assert all(map(math.isnan, (found.sd, found.low, found.high)))


# --- Simulation -----------------------------------------------------------------------------------------


def monte_carlo_slack(rate: float, runs: int) -> float:
    """Four standard errors: a right implementation exceeds it once in 30,000 seeds."""
    return 4 * math.sqrt(rate * (1 - rate) / runs)


@pytest.mark.parametrize("alpha", [0.01, 0.05])
@pytest.mark.parametrize("false_rate", [0.03, 0.1, 0.5])
def test_exact_tests_accuse_no_more_often_than_they_say(false_rate, alpha):
    runs, n = 20_000, 60
    suspect, control = np.random.default_rng(11).binomial(n, false_rate, size=(2, runs))
    bound = alpha + monte_carlo_slack(alpha, runs)
    assert np.mean(binomial_test(suspect, n, false_rate) <= alpha) <= bound
    assert np.mean(fisher_exact(suspect, n, control, n) <= alpha) <= bound


@pytest.mark.parametrize("control_trials", [20, 500])
def test_the_test_against_a_control_errs_no_more_often_than_both_levels_together(control_trials):
    runs, alpha, confidence = 20_000, 0.025, 0.975
    rng = np.random.default_rng(12)
    suspect, control = rng.binomial(60, 0.1, runs), rng.binomial(control_trials, 0.1, runs)
    p_values = binomial_test_against_control(suspect, 60, control, control_trials, confidence)
    level = alpha + (1 - confidence)
    assert np.mean(p_values <= alpha) <= level + monte_carlo_slack(level, runs)


@pytest.mark.parametrize(("success_rate", "power"), [(0.187, 0.8), (0.187, 0.95), (0.3, 0.8), (0.5, 0.95)])
def test_the_planned_number_of_queries_has_the_planned_power(success_rate, power):
    runs = 20_000
    n = int(queries_for_power(success_rate, 0.1, power=power))
    detected = binomial_test(np.random.default_rng(13).binomial(n, success_rate, runs), n, 0.1) <= 0.05
    assert power - monte_carlo_slack(power, runs) <= np.mean(detected) <= power + 0.06


@pytest.mark.parametrize("rate", [0.02, 0.1, 0.5, 0.97])
def test_limits_cover_the_rate_at_least_as_often_as_they_say(rate):
    runs, confidence = 20_000, 0.95
    matches = np.random.default_rng(14).binomial(40, rate, runs)
    least = confidence - monte_carlo_slack(confidence, runs)
    assert np.mean(clopper_pearson_upper(matches, 40, confidence) >= rate) >= least
    assert np.mean(clopper_pearson_lower(matches, 40, confidence) <= rate) >= least


def test_bootstrap_interval_covers_the_mean_about_as_often_as_it_says():
    samples = np.random.default_rng(15).normal(size=(400, 30))
    covered = [low <= 0 <= high for low, high in (bootstrap_interval(row, resamples=400) for row in samples)]
    assert np.mean(covered) == pytest.approx(0.93, abs=0.05)  # known to fall a little short of 0.95


# --- Bad arguments --------------------------------------------------------------------------------------


@pytest.mark.parametrize("test", CONTROL_TESTS)
@pytest.mark.parametrize(
    ("row", "message"),
    [
        ((-1, 3, 0, 1), "matches must be a whole number of at least 0, got -1"),
        ((1.5, 3, 0, 1), "matches must be a whole number of at least 0, got 1.5"),
        ((None, 3, 0, 1), "matches must be a whole number of at least 0, got nan"),
        ((1, math.inf, 0, 1), "trials must be a whole number of at least 0, got inf"),
        (("many", 3, 0, 1), "matches must be numbers, got 'many'"),
        ((5, 3, 0, 1), "matches must be at most trials, got 5 of 3"),
        (([1, 2, 4], 3, 0, 1), "matches must be at most trials, got 4 of 3"),
        ((1, 3, 2, 1), "control_matches must be at most control_trials, got 2 of 1"),
        ((1, 3, 2, -4), "control_trials must be a whole number of at least 0, got -4"),
    ],
)
def test_bad_counts_are_named(test, row, message):
    with pytest.raises(ValueError) as caught:
        test(*row)
    assert str(caught.value) == message


@pytest.mark.parametrize("limit", LIMITS)
def test_limits_refuse_bad_counts(limit):
    with pytest.raises(ValueError, match="matches must be at most trials, got 2 of 1"):
        limit(2, 1)


@pytest.mark.parametrize("confidence", [0, 1, 95, -0.1, math.nan])
@pytest.mark.parametrize(
    "call",
    [
        lambda confidence: binomial_test_against_control(1, 2, 1, 2, confidence),
        lambda confidence: clopper_pearson_lower(1, 2, confidence),
        lambda confidence: clopper_pearson_upper(1, 2, confidence),
        lambda confidence: queries_for_confidence(0.5, 0.1, confidence),
        lambda confidence: queries_for_power(0.5, 0.1, confidence),
        lambda confidence: bootstrap_interval([1, 2], confidence),
        lambda confidence: summary([1, 2], confidence),
    ],
)
def test_confidence_must_lie_inside_the_unit_interval(call, confidence):
    with pytest.raises(ValueError, match=f"^confidence must be strictly between 0 and 1, got {confidence}$"):
        call(confidence)


@pytest.mark.parametrize("rate", [-0.1, 1.1, math.nan])
def test_rates_must_lie_in_the_unit_interval(rate):
    for plan in (queries_for_confidence, queries_for_power):
        with pytest.raises(ValueError, match=f"^success_rate must be between 0 and 1, got {rate}$"):
            plan(rate, 0.1)
        with pytest.raises(ValueError, match=f"^false_rate must be between 0 and 1, got {rate}$"):
            plan(0.5, rate)
    with pytest.raises(ValueError, match=f"^false_rate must be between 0 and 1, got {rate}$"):
        binomial_test(1, 2, rate)
    with pytest.raises(ValueError, match=f"^p_values must be between 0 and 1, got {rate}$"):
        holm([0.5, rate])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: queries_for_power(0.5, 0.1, power=1), "power must be strictly between 0 and 1, got 1"),
        (lambda: holm(0.5), "p_values must be one-dimensional, got shape ()"),
        (lambda: rank_p_value(math.nan, [1]), "score must be a number, got nan"),
        (lambda: rank_p_value(1, [1, math.nan]), "null_scores must be numbers, got nan"),
        (lambda: rank_p_value(1, 2), "null_scores must be one-dimensional, got shape ()"),
        (lambda: bootstrap_interval([1, math.nan]), "values must be finite, got nan"),
        (lambda: summary([1, math.inf]), "values must be finite, got inf"),
        (lambda: summary([]), "values must hold at least one number, got none"),
        (lambda: bootstrap_interval([[1, 2]]), "values must be one-dimensional, got shape (1, 2)"),
        (lambda: bootstrap_interval([1, 2], resamples=0), "resamples must be at least 1, got 0"),
    ],
)
def test_other_bad_arguments_are_named(call, message):
    with pytest.raises(ValueError) as caught:
        call()
    assert str(caught.value) == message


# --- the tails without scipy.stats, which takes longer to import than a leaderboard to make ---


@law
@given(st.data())
def test_the_hypergeometric_tail_is_scipys_and_the_exact_one(data: st.DataObject) -> None:
    total = data.draw(st.integers(0, 2000))
    drawn, marked = data.draw(st.integers(0, total)), data.draw(st.integers(0, total))
    matches = data.draw(st.integers(max(0, drawn + marked - total), min(drawn, marked)))
    (tail,) = hypergeometric_tail(*(np.array([float(n)]) for n in (matches, drawn, marked, total)))
    ways = sum(
        math.comb(marked, k) * math.comb(total - marked, drawn - k) for k in range(matches, min(drawn, marked) + 1)
    )
    exact = Fraction(ways, math.comb(total, drawn))
    assert tail == pytest.approx(float(exact), rel=1e-12, abs=1e-300)
    if total:
        assert tail == pytest.approx(stats.hypergeom.sf(matches - 1, total, marked, drawn), rel=1e-12, abs=1e-300)


def test_hypergeometric_tails_of_many_counts_are_those_of_each() -> None:
    rng = np.random.default_rng(0)
    total = rng.integers(1, 20_000, 400)
    drawn, marked = (rng.integers(0, total + 1) for _ in range(2))
    matches = rng.integers(np.maximum(0, drawn + marked - total), np.minimum(drawn, marked) + 1)
    made = hypergeometric_tail(*(each.astype(float) for each in (matches, drawn, marked, total)))
    expected = stats.hypergeom.sf(matches - 1, total, marked, drawn)
    np.testing.assert_allclose(made, expected, rtol=1e-11, atol=1e-300)


@law
@given(st.floats(0, 6), st.floats(0.001, 1), st.floats(0.01, 0.99), st.integers(1, 1000))
def test_quantiles_of_matches_and_trials_are_scipys(size: float, rate: float, probability: float, scale: int) -> None:
    trials = 10**size
    assert _matches_among(trials, rate, probability) == max(1, stats.binom.ppf(1 - probability, int(trials), rate))
    matches = scale * np.arange(1.0, 9.0)
    expected = matches + stats.nbinom.ppf(probability * (1 - SLACK), matches, rate)
    np.testing.assert_array_equal(_trials_to_collect(matches, rate, probability), expected)


def test_statistics_import_neither_scipy_stats_nor_torch() -> None:
    said = "import sys, harness.statistics as s; s.fisher_exact(3, 5, 1, 9); s.boschloo(3, 5, 1, 9)\n"
    said += "s.queries_for_power(0.5, 0.1); print(*({'scipy.stats', 'torch'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", said], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
