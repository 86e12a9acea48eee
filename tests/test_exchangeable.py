"""Comparison with unmarked models by rank: exact values, float64 references, laws, and speed."""

from __future__ import annotations

import math
import time
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from harness.statistics.beta_binomial import beta_binomial_tail
from harness.statistics.exchangeable import (
    MAX_FALSE,
    allowed,
    at_least,
    beta_binomial_p_values,
    expected_queries_above,
    fewest_beyond_chance,
    fewest_models,
    is_marked,
    key_thresholds,
    margins,
    marked_by_chance,
    mean_rates,
    mean_rates_without_each,
    rank_p_values,
    rank_p_values_without_each,
    scaled_margins,
    share_bounds,
    survival,
)
from harness.statistics.sequential import expected_queries
from harness.statistics.tests import rank_p_value

law = settings(deadline=None, max_examples=60, database=None, derandomize=True)


@st.composite
def evidence(draw: st.DrawFn, most: int = 30) -> tuple[np.ndarray, ...]:
    """Matches and trials of some suspects and of their unmarked models, some of which do not count."""
    n, k = draw(st.integers(1, 4)), draw(st.integers(0, 6))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    trials, ref_trials = rng.integers(0, most, n), rng.integers(0, most, (n, k))
    return rng.integers(trials + 1), trials, rng.integers(ref_trials + 1), ref_trials, rng.random((n, k)) < 0.8


def random_evidence(n: int, k: int, seed: int = 0, trials: int = 100) -> tuple[np.ndarray, ...]:
    rng = np.random.default_rng(seed)
    refs = rng.integers(0, trials // 2, (n, k))
    return rng.integers(trials + 1, size=n), np.full(n, trials), refs, np.full((n, k), trials), rng.random((n, k)) < 0.9


# --- the test


@law
@given(evidence())
def test_p_values_are_ranks_of_exact_fractions(given_evidence):
    matches, trials, ref_matches, ref_trials, counted = given_evidence
    p_values = rank_p_values(*given_evidence)
    for row in range(matches.size):
        reached = [
            not t or not trials[row] or Fraction(int(m), int(t)) >= Fraction(int(matches[row]), int(trials[row]))
            for m, t, c in zip(ref_matches[row], ref_trials[row], counted[row], strict=True)
            if c
        ]
        if reached:
            assert p_values[row] == (1 + sum(reached)) / (len(reached) + 1)
        else:
            assert math.isnan(p_values[row])


def test_rates_are_compared_exactly():
    assert at_least([10**9], [3 * 10**9], [[1, 10**9 - 1]], [[3, 3 * 10**9]]).tolist() == [[True, False]]
    assert (10**9 - 1) / (10**9 + 1) != (10**9 - 2) / 10**9  # though as floats of 32 bits they are equal
    assert at_least([10**9 - 1], [10**9 + 1], [[10**9 - 2]], [[10**9]]).tolist() == [[False]]
    assert rank_p_values([6], [20], [[3] * 19], [[10] * 19]).tolist() == [1.0]


def test_p_values_of_equal_trials_are_those_of_scores():
    matches, trials, ref_matches, ref_trials, _ = random_evidence(20, 9)
    expected = [float(rank_p_value(m, refs)) for m, refs in zip(matches, ref_matches, strict=True)]
    assert rank_p_values(matches, trials, ref_matches, ref_trials).tolist() == expected


def test_what_was_asked_nothing_speaks_against_a_mark():
    assert rank_p_values([0], [0], [[0, 1]], [[5, 5]]).tolist() == [1.0]
    assert rank_p_values([5], [5], [[0, 1]], [[0, 5]]).tolist() == [2 / 3]
    assert rank_p_values([5], [5], [[0, 1]], [[0, 5]], [[False, True]]).tolist() == [1 / 2]
    assert np.isnan(rank_p_values([5], [5], [[0, 1]], [[5, 5]], [[False, False]])).all()
    assert np.isnan(rank_p_values([5], [5], np.empty((1, 0), int), np.empty((1, 0), int))).all()
    assert rank_p_values([], [], np.empty((0, 3)), np.empty((0, 3))).shape == (0,)


@law
@given(evidence(), st.randoms(use_true_random=False))
def test_the_order_of_models_and_the_number_of_queries_do_not_matter(given_evidence, random):
    matches, trials, ref_matches, ref_trials, counted = given_evidence
    order = list(range(ref_matches.shape[1]))
    random.shuffle(order)
    expected = rank_p_values(*given_evidence)
    made = rank_p_values(matches, trials, ref_matches[:, order], ref_trials[:, order], counted[:, order])
    np.testing.assert_array_equal(made, expected)
    np.testing.assert_array_equal(rank_p_values(7 * matches, 7 * trials, *given_evidence[2:]), expected)


@law
@given(evidence())
def test_one_match_more_never_raises_a_p_value(given_evidence):
    matches, trials, *refs = given_evidence
    more = np.minimum(matches + 1, trials)
    one, other = rank_p_values(matches, trials, *refs), rank_p_values(more, trials, *refs)
    assert np.all((other <= one) | np.isnan(one))


@law
@given(evidence())
def test_without_each_model_is_as_if_it_had_been_silent(given_evidence):
    matches, trials, ref_matches, ref_trials, counted = given_evidence
    asked = np.maximum(ref_trials, 1)
    spoken, some = np.maximum(matches, 1), np.maximum(trials, 1)  # a silent suspect is reached by silent models too
    made = rank_p_values_without_each(spoken, some, ref_matches, asked, counted)
    for model in range(ref_matches.shape[1]):
        silent = ref_matches.copy()
        silent[:, model] = 0
        np.testing.assert_array_equal(made[:, model], rank_p_values(spoken, some, silent, asked, counted))


def test_the_numbers_of_models():
    assert [fewest_models(alpha) for alpha in (0.05, 1 - 0.95, 0.01, 1 - 0.99, 0.1, 1 - 0.9, 0.5)] == [
        *(19, 19, 99, 99, 9, 9, 1)
    ]
    assert [allowed(0.05, k) for k in (0, 18, 19, 38, 39, 59, 99)] == [0, 0, 1, 1, 2, 3, 5]
    assert allowed(1 - 0.9, 9) == 1
    with pytest.raises(ValueError, match="^alpha must be strictly between 0 and 1, got 5$"):
        fewest_models(5)


@law
@given(st.integers(2, 2000))
def test_so_many_models_just_reach_the_level(models):
    alpha = 1 / models
    assert fewest_models(alpha) == models - 1
    assert allowed(alpha, fewest_models(alpha)) == 1
    assert allowed(alpha, fewest_models(alpha) - 1) == 0
    assert is_marked(1 / models, 1.0, 1 - (1 - alpha))


def test_a_mark_takes_a_margin_too():
    assert is_marked([0.05, 0.05, 0.0501, np.nan], [1, 0.05, 1, 1], 1 - 0.95).tolist() == [True, False, False, False]
    margin = margins(19, 100, 0.1)
    assert margin < 0.1  # but for rounding it is 0.1
    assert is_marked(0.05, margin)
    assert not is_marked(0.05, np.nan)
    assert is_marked(0.05, 0.02, min_margin=0)


def test_bad_counts_are_named():
    with pytest.raises(ValueError, match="^ref_matches must be at most ref_trials, got 6 of 5$"):
        rank_p_values([1], [2], [[6]], [[5]])
    with pytest.raises(ValueError, match="^matches must be a whole number of at least 0, got -1$"):
        rank_p_values([-1], [2], [[1]], [[5]])
    with pytest.raises(ValueError, match="^trials must be a whole number of at least 0, got 2.5$"):
        rank_p_values([1], [2.5], [[1]], [[5]])
    with pytest.raises(ValueError, match="^false_rate must be between 0 and 1, got 1.5$"):
        margins(1, 2, 1.5)
    with pytest.raises(ValueError, match="^ref_rates must be between 0 and 1, or NaN, got 2$"):
        key_thresholds([[2.0]])
    with pytest.raises(ValueError, match="^a must be above 0, got 0$"):
        beta_binomial_tail(1, 2, 0, 1)


def test_many_cells_take_no_time():
    given_evidence = random_evidence(100_000, 39)
    started = time.process_time()
    rank_p_values(*given_evidence)
    assert time.process_time() - started < 1.5


# --- margins


@law
@given(evidence())
def test_mean_rates_weigh_models_the_same(given_evidence):
    _, _, ref_matches, ref_trials, counted = given_evidence
    means, without = mean_rates(ref_matches, ref_trials, counted), mean_rates_without_each(*given_evidence[2:])
    rates = ref_matches / np.maximum(ref_trials, 1)
    for row, here in enumerate(counted):
        assert means[row] == pytest.approx(rates[row][here].mean() if here.any() else math.nan, nan_ok=True)
        for model in range(here.size):
            others = here & (np.arange(here.size) != model)
            expected = rates[row][others].mean() if others.any() else math.nan
            assert without[row, model] == pytest.approx(expected, nan_ok=True, abs=1e-12)


def test_margins_of_a_whole_mark_and_of_none():
    assert margins([64, 32], 64, 0.5).tolist() == [1.0, 0.0]  # 64 bits: chance is a half
    assert margins([100, 2], 100, 0.02).tolist() == [1.0, 0.0]  # labels of 100 images
    assert scaled_margins([80, 20], 100, 0.2, 80, 100).tolist() == [1.0, 0.0]  # a fingerprint whose victim scores 0.8
    assert margins(55, 100, 0.1) == pytest.approx(0.5)
    assert margins(0, 0, 0.1) == 0
    assert np.isnan(margins(1, 2, np.nan))


def test_a_key_that_unmarked_models_match_proves_nothing():
    assert margins([0, 50, 100], 100, [[0.751], [0.95], [0.99], [1.0]]).tolist() == [[0.0] * 3] * 4
    assert margins([0, 100], 100, MAX_FALSE).tolist() == [-1.0, 1.0]
    assert scaled_margins([0, 50, 90], 100, 0.5, [[50], [40], [0]], 100).tolist() == [[0.0] * 3] * 3
    assert scaled_margins(90, 100, 0.8, 95, 100) == 0


@law
@given(evidence(), st.floats(0, 1), st.floats(0, 1))
def test_margins_lie_within_their_ends(given_evidence, rate, other):
    matches, trials, ref_matches, ref_trials, _ = given_evidence
    for made in (margins(ref_matches, ref_trials, rate), scaled_margins(matches, trials, rate, round(other * 50), 50)):
        assert np.all((made >= -1) & (made <= 1))
    low, high = sorted((rate, other))
    if high <= MAX_FALSE:
        assert np.all(margins(matches, trials, high) <= margins(matches, trials, low) + 1e-12)


# --- few models


@law
@given(st.integers(0, 60), st.floats(0.01, 50), st.floats(0.01, 50))
def test_the_beta_binomial_tail_is_scipys(trials, a, b):
    matches = np.arange(-1, trials + 2)
    expected = stats.betabinom.sf(matches - 1, trials, a, b)
    np.testing.assert_allclose(beta_binomial_tail(matches, trials, a, b), expected, rtol=1e-9, atol=1e-12)


def test_tails_of_many_counts_are_those_of_each():
    rng = np.random.default_rng(0)
    trials = rng.integers(0, 5, 300) * 10
    matches, a, b = rng.integers(trials + 1), rng.gamma(1, size=300) + 0.01, rng.gamma(1, size=300) + 0.01
    one = [float(beta_binomial_tail(*row)) for row in zip(matches, trials, a, b, strict=True)]
    np.testing.assert_allclose(beta_binomial_tail(matches, trials, a, b), one, rtol=1e-12)
    assert beta_binomial_tail(np.zeros((2, 3)), 4, 1, 1).shape == (2, 3)


def test_few_models_and_an_imaginary_one_fit_a_beta_law():
    rates = np.array([0.0, 0.02, 0.1, 0.5])  # the last one is imaginary
    total = rates.mean() * (1 - rates.mean()) / rates.var(ddof=1) - 1
    expected = stats.betabinom.sf(89, 100, rates.mean() * total, (1 - rates.mean()) * total)
    refs = [[0, 2, 10]], [[100, 100, 100]]
    assert beta_binomial_p_values([90], [100], *refs) == pytest.approx(expected)
    assert beta_binomial_p_values([10], [100], *refs).tolist() == [1.0]  # as high as one of them
    assert np.isnan(beta_binomial_p_values([90], [100], *refs, [[True, True, False]])).all()
    assert beta_binomial_p_values([90], [100], [[0, 0, 0]], [[50, 50, 50]]) < 0.05
    assert beta_binomial_p_values([30], [50], [[25, 25, 25]], [[50, 50, 50]]) == pytest.approx(
        stats.binom.sf(29, 50, 0.5), rel=1e-4
    )  # all agree with the imaginary one: the law is a point


@law
@given(evidence())
def test_p_values_of_few_models_are_probabilities(given_evidence):
    p_values = beta_binomial_p_values(*given_evidence)
    few = given_evidence[-1].sum(axis=1) < 3
    assert np.isnan(p_values[few]).all()
    assert np.all((p_values[~few] >= 0) & (p_values[~few] <= 1))


# --- queries to verify


@law
@given(st.integers(0, 2**32 - 1), st.sampled_from([19, 25, 39, 59]), st.floats(0, 0.3))
def test_a_suspect_is_marked_just_above_the_threshold_of_its_key(seed, k, level):
    rng = np.random.default_rng(seed)
    refs, attacked = (rng.binomial(200, rng.beta(2, 8, k) * level + 0.01) for _ in range(2))
    counted = rng.random(k) < 0.98
    if counted.sum() < 19:
        return
    rates, moved = refs / 200, np.where(counted, attacked / 200, np.nan)
    threshold = key_thresholds(rates[np.newaxis], moved[np.newaxis])[0]
    matches = np.arange(201)
    p_values = np.maximum(
        rank_p_values(matches, np.full(201, 200), refs + 0 * matches[:, None], np.full((201, k), 200)),
        rank_p_values(matches, np.full(201, 200), attacked + 0 * matches[:, None], np.full((201, k), 200), counted),
    )
    false = max(rates.mean(), attacked[counted].mean() / 200)
    marked = is_marked(p_values, margins(matches, 200, false))
    differ = marked != (matches / 200 > threshold)
    assert np.all(np.abs(matches[differ] / 200 - threshold) < 1e-9)  # at the threshold itself the margin may decide


def test_thresholds_of_too_few_models_are_infinite():
    assert key_thresholds(np.zeros((1, 18))).tolist() == [math.inf]
    assert key_thresholds(np.zeros((1, 19)), np.zeros((1, 18))).tolist() == [math.inf]
    assert key_thresholds(np.empty((2, 0))).tolist() == [math.inf, math.inf]
    assert key_thresholds(np.zeros((1, 19))).tolist() == [0.1]
    assert key_thresholds(np.zeros((1, 19)), np.full((1, 19), 0.2)) == pytest.approx(0.28)
    assert key_thresholds([[0.5, 0.4, *[0.0] * 37]]).tolist() == [0.4]
    assert key_thresholds([[0.5, np.nan, *[0.0] * 18]]).tolist() == [0.5]


def test_expected_queries_are_those_of_the_sequential_test():
    assert expected_queries_above(0.9, 0.2, 0.01) == expected_queries(0.9, 0.2, 0.99)
    assert expected_queries_above(0.2, 0.2) == expected_queries_above(0.9, math.inf) == math.inf
    assert math.isnan(expected_queries_above(math.nan, 0.2))
    assert math.isnan(expected_queries_above(0.2, math.nan))
    assert expected_queries_above(0.5, 0.2) > expected_queries_above(0.9, 0.2) >= 1


# --- marked on s of n


def test_the_chance_of_so_many_marked_seeds():
    assert marked_by_chance([1, 2, 3], [6, 10, 6], 0.05, 19) == pytest.approx([0.24, 0.1108, 0.0087], abs=5e-5)
    assert marked_by_chance(4, 10, 0.05, 19) == pytest.approx(stats.betabinom.sf(3, 10, 1, 19))
    assert marked_by_chance(4, 10, 0.05, 39) == pytest.approx(stats.betabinom.sf(3, 10, 2, 38))
    assert marked_by_chance(0, 0, 0.05, 19) == 1
    assert np.isnan(marked_by_chance(1, 5, 0.05, 18))


def test_fewest_seeds_beyond_chance():
    assert [fewest_beyond_chance(n, 0.05, 19) for n in (0, 1, 5, 10, 20)] == [1, 1, 2, 3, 5]
    assert fewest_beyond_chance(5, 0.05, 18) == 6


def test_most_of_new_seeds_survive_or_do_not():
    said = {n: [survival(s, n) for s in range(n + 1)] for n in (0, 4, 5, 8, 10)}
    assert said[0] == ["undecided"]
    assert set(said[4]) == {"undecided"}
    assert said[5] == ["removes", *["undecided"] * 4, "survives"]
    assert said[8].index("survives") == 7
    assert said[10].index("survives") == 9
    assert said[10][:3] == ["removes", "removes", "undecided"]


def test_bounds_of_shares():
    lower, upper = share_bounds([0, 5, 5], [5, 5, 10])
    assert lower == pytest.approx([0, 0.05 ** (1 / 5), stats.beta.ppf(0.05, 5, 6)])
    assert upper == pytest.approx([1 - 0.05 ** (1 / 5), 1, stats.beta.ppf(0.95, 6, 5)])
