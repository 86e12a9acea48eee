"""Intervals of margins and the gate on costs: exact values, a float64 reference, and laws."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from harness.statistics.margins import (
    FEWEST_SEEDS,
    SeedsInterval,
    cost_interval,
    gate,
    lower_limit,
    seeds_interval,
    seeds_intervals,
)

law = settings(deadline=None, max_examples=60, database=None, derandomize=True)
some_margins = st.lists(st.floats(-1, 1), min_size=FEWEST_SEEDS, max_size=30)


def reference(values: list[float], without: list[float], confidence: float) -> tuple[float, float]:
    """The interval, computed step by step with scipy.stats."""
    n, k, mean = len(values), len(without), np.mean(values)
    imagined = [*values, 0.0, 1.0]
    variance = np.var(imagined, ddof=1) / (n + 2)
    if k:
        variance += (k - 1) / k * np.sum((np.array(without) - mean) ** 2)
    half = stats.t.ppf((1 + confidence) / 2, n + 1) * math.sqrt(variance)
    centres = mean, np.mean(imagined)
    return max(min(centres) - half, -1), min(max(centres) + half, 1)


@law
@given(some_margins, st.lists(st.floats(-1, 1), max_size=19), st.sampled_from([0.8, 0.95, 0.99]))
def test_intervals_are_those_of_the_formula(values, without, confidence):
    made = seeds_interval(values, without or None, confidence)
    assert (made.low, made.high) == pytest.approx(reference(values, without, confidence), abs=1e-12)
    assert made.mean == pytest.approx(np.mean(values), abs=1e-12)
    assert made.sd == pytest.approx(np.std(values, ddof=1), abs=1e-12)


def test_a_worked_example():
    made = seeds_interval([1, 1, 1, 1, 1])
    half = 2.446912 * math.sqrt(1 / 49)  # seven values, one of them 0: a variance of 1/7, of their mean 1/49
    assert made == SeedsInterval(5, 1.0, 0.0, pytest.approx(6 / 7 - half, abs=1e-6), 1.0)
    with_models = seeds_interval([1, 1, 1, 1, 1], [0.9, 1.0])
    assert with_models.low == pytest.approx(6 / 7 - 2.446912 * math.sqrt(1 / 49 + 0.1**2 / 2), abs=1e-6)


def test_few_seeds_have_no_interval():
    said = [seeds_interval(np.full(n, 0.5)) for n in (1, 2, 4)]
    assert [(each.n, each.mean) for each in said] == [(1, 0.5), (2, 0.5), (4, 0.5)]
    assert all(math.isnan(each.low) and math.isnan(each.high) for each in said)
    assert math.isnan(said[0].sd)
    assert said[1].sd == 0
    none = seeds_interval([])
    assert none.n == 0
    assert math.isnan(none.mean)
    assert math.isnan(lower_limit([0.5] * 4))


@law
@given(some_margins, st.lists(st.floats(-1, 1), min_size=2, max_size=9), st.randoms(use_true_random=False))
def test_order_and_missing_values_do_not_matter(values, without, random):
    made = seeds_interval(values, without)
    others, left = [*values, math.nan, math.nan], [*without, math.nan]
    random.shuffle(others)
    random.shuffle(left)
    again = seeds_interval(others, left)
    assert again.n == made.n
    assert (again.mean, again.sd, again.low, again.high) == pytest.approx(
        (made.mean, made.sd, made.low, made.high), abs=1e-12
    )


@law
@given(some_margins, st.lists(st.floats(-1, 1), min_size=1, max_size=9))
def test_intervals_hold_the_mean_and_grow_with_confidence_and_models(values, without):
    narrow, wide = (seeds_interval(values, without, confidence) for confidence in (0.8, 0.95))
    assert -1 <= wide.low <= narrow.low <= narrow.mean <= narrow.high <= wide.high <= 1
    alone = seeds_interval(values, None, 0.95)
    assert wide.low <= alone.low <= alone.high <= wide.high
    assert lower_limit(values, without, 0.975) == pytest.approx(wide.low)


def test_many_groups_at_once_are_those_of_each():
    rng = np.random.default_rng(0)
    values = np.where(rng.random((50, 12)) < 0.3, np.nan, rng.uniform(-1, 1, (50, 12)))
    without = np.where(rng.random((50, 19)) < 0.2, np.nan, rng.uniform(0, 1, (50, 19)))
    for row, made in enumerate(seeds_intervals(values, without)):
        expected = seeds_interval(values[row], without[row])
        assert made.n == expected.n
        np.testing.assert_allclose(
            [made.mean, made.sd, made.low, made.high], [expected.mean, expected.sd, expected.low, expected.high]
        )
    assert seeds_intervals(np.empty((0, 5))) == []


def test_costs_have_students_interval():
    costs = [1.0, 2.0, 0.5, 1.5, 1.0]
    low, high = stats.t.interval(0.95, 4, np.mean(costs), stats.sem(costs))
    made = cost_interval([*costs, math.nan])
    assert (made.n, made.mean, made.low, made.high) == pytest.approx((5, 1.2, low, high))
    assert cost_interval([2.0] * 5) == SeedsInterval(5, 2.0, 0.0, 2.0, 2.0)
    assert math.isnan(cost_interval([1.0] * 4).low)
    assert cost_interval([]).n == 0


@pytest.mark.parametrize(
    ("costs", "verdict"),
    [
        ([0.0] * 5, "passes"),
        ([1.0, 1.2, 0.8, 1.1, 0.9], "passes"),
        ([-2.0] * 5, "passes"),
        ([2.0] * 5, "unsure"),  # at the gate
        ([1.0, 3.0, 0.0, 2.5, 1.0], "unsure"),
        ([1.0] * 4, "unsure"),
        ([], "unsure"),
        ([3.0, 2.9, 3.1, 3.0, 3.0], "fails"),
        ([9.0, 0.0, 0.0, 9.0, 0.0], "fails"),  # the mean decides
        ([3.0], "fails"),
        ([3.0, 2.5, 4.0], "fails"),  # of few each decides
        ([9.0, 1.0, 9.0], "unsure"),
    ],
)
def test_the_mean_cost_decides_and_an_interval_with_the_gate_is_unsure(costs, verdict):
    assert gate(costs, 2.0) == verdict
    assert gate([each / 100 for each in costs], 0.02) == verdict


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: seeds_interval([2.0]), "values must be between -1 and 1, got 2"),
        (lambda: seeds_interval([[0.5]]), "values must be one-dimensional, got shape (1, 1)"),
        (lambda: seeds_interval([0.5], 0.5), "without_model_means must be one-dimensional, got shape ()"),
        (lambda: seeds_interval([0.5], confidence=95), "confidence must be strictly between 0 and 1, got 95"),
        (lambda: cost_interval([math.inf]), "costs must be finite or NaN, got inf"),
    ],
)
def test_bad_arguments_are_named(call, message):
    with pytest.raises(ValueError) as caught:
        call()
    assert str(caught.value) == message
