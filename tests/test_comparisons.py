"""Comparisons of schemes against published numbers, against scipy, against their own laws, and by simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats

from harness.statistics.intervals import bootstrap_interval
from harness.statistics.paired import (
    fewest_seeds,
    mean_over_attacks,
    paired_difference,
    seeds_to_settle,
    shared_ranks,
    sign_flip_test,
)
from harness.statistics.pareto import hypervolume, hypervolumes, pareto_front
from tests.test_statistics import law, monte_carlo_slack

# --- Comparisons over seeds -----------------------------------------------------------------------------

# Extra hours of sleep by two drugs, ten patients: Student, Biometrika 6 (1908).
DRUG_1 = dict(enumerate([0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0]))
DRUG_2 = dict(enumerate([1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4]))

numbers = st.floats(-100, 100).map(lambda value: round(value, 3))


def test_paired_difference_of_students_sleep_data():
    found = paired_difference(DRUG_2, DRUG_1)
    assert (found.n, round(found.mean, 2), round(found.sd, 2)) == (10, 1.58, 1.23)
    assert found.t_p_value == pytest.approx(0.002833, abs=1e-6)  # as printed by R's t.test
    assert (found.t_low, found.t_high) == pytest.approx((0.7001142, 2.4598858), abs=1e-6)
    assert (found.low, found.high) == bootstrap_interval([DRUG_2[key] - DRUG_1[key] for key in DRUG_1])
    assert found.p_value == 4 / 2**10  # nine differences of one sign, one of zero


def test_paired_difference_takes_common_seeds_alone():
    found = paired_difference({0: 5.0, 1: 7.0, 2: 100.0}, {3: -100.0, 1: 4.0, 0: 4.0})
    assert (found.n, found.mean) == (2, 2.0)
    with pytest.raises(ValueError, match="differences must hold at least one number, got none"):
        paired_difference({0: 1.0}, {1: 1.0})


def test_paired_difference_of_one_seed_or_of_equal_differences():
    one = paired_difference({0: 1.0}, {0: 0.0})
    assert (one.n, one.mean, one.p_value) == (1, 1.0, 1.0)
    assert all(map(math.isnan, (one.sd, one.low, one.high, one.t_low, one.t_high, one.t_p_value)))
    flat = paired_difference({0: 1.0, 1: 2.0}, {0: 0.0, 1: 1.0})
    assert (flat.t_low, flat.t_high, flat.t_p_value, flat.p_value) == (1.0, 1.0, 0.0, 0.5)
    assert paired_difference({0: 1.0, 1: 2.0}, {0: 1.0, 1: 2.0}).t_p_value == 1.0


@law
@given(differences=st.lists(numbers, min_size=2, max_size=9))
def test_sign_flip_test_agrees_with_scipy(differences):
    sample = (np.array(differences),)
    expected = stats.permutation_test(sample, np.sum, permutation_type="samples", n_resamples=np.inf).pvalue
    assert sign_flip_test(differences) == pytest.approx(expected)


@law
@given(differences=st.lists(numbers, min_size=1, max_size=24), unit=st.sampled_from([-1.0, 0.5, -64.0]))
def test_sign_flip_test_knows_no_order_unit_or_direction(differences, unit):
    p_value = sign_flip_test(differences, flips=99)
    assert 0 < p_value <= 1
    assert sign_flip_test(unit * np.array(differences[::-1]), flips=99) == p_value


def test_sign_flip_test_of_many_seeds_is_near_the_t_test():
    differences = np.random.default_rng(22).normal(0.4, 1, 25)
    assert sign_flip_test(differences) == pytest.approx(stats.ttest_1samp(differences, 0).pvalue, rel=0.25)


def test_sign_flip_test_accuses_as_often_as_it_says_whatever_the_distribution():
    rng, runs = np.random.default_rng(23), 2000
    for draws in (rng.normal(size=(runs, 8)), rng.choice([-60.0, -1.0, 1.0, 60.0], size=(runs, 8))):
        p_values = np.array([sign_flip_test(row) for row in draws])
        assert np.mean(p_values <= 0.05) <= 0.05 + monte_carlo_slack(0.05, runs)


@pytest.mark.parametrize(("confidence", "seeds"), [(0.5, 2), (0.75, 3), (0.9, 5), (0.95, 6), (0.99, 8)])
def test_the_fewest_seeds_that_can_tell(confidence, seeds):
    assert fewest_seeds(confidence) == seeds
    assert sign_flip_test([1.0] * seeds) <= 1 - confidence + 1e-12 < sign_flip_test([1.0] * (seeds - 1))


@pytest.mark.parametrize(("effect", "seeds"), [(0.2, 199), (0.5, 34), (0.8, 15)])
def test_seeds_to_settle_gives_the_known_sizes_of_paired_studies(effect, seeds):
    # The sizes of G*Power and of Cohen's tables for a paired two-sided t-test at 0.05 with power 0.80.
    assert seeds_to_settle(effect, 1) == seeds
    assert seeds_to_settle(-30 * effect, 30, n=5) == seeds - 5


def test_seeds_to_settle_at_its_limits():
    assert seeds_to_settle(1, 0) == 2
    assert seeds_to_settle(1, 0, n=5) == 0
    assert seeds_to_settle(1, 1, n=30) == 0  # the interval excludes zero already
    assert seeds_to_settle(0, 1, n=5) == seeds_to_settle(0, 0) == seeds_to_settle(1e-9, 1) == math.inf
    assert seeds_to_settle(1e9, 1) == 2
    assert seeds_to_settle(0.5, 1, n=34) == 0  # 34 x 0.5 is settled: where power begins, so does the interval
    assert seeds_to_settle(0.5, 1, n=15) == 34 - 15
    assert seeds_to_settle(0.4, 1, n=25) > 0 == seeds_to_settle(0.4, 1, n=27)


@law
@given(effect=st.floats(0.05, 20), sd=st.floats(0.1, 100), n=st.integers(0, 30))
def test_seeds_to_settle_falls_with_the_effect_and_knows_no_unit(effect, sd, n):
    more = seeds_to_settle(effect, 1, n)
    assert seeds_to_settle(effect * 1.1, 1, n) <= more
    assert seeds_to_settle(-effect * sd * 1.0001, sd, n) <= more


def test_the_planned_number_of_seeds_has_the_planned_power():
    runs, n = 5000, int(seeds_to_settle(0.9, 1))
    samples = np.random.default_rng(24).normal(0.9, 1, size=(runs, n))
    settled = samples.mean(axis=1) / samples.std(axis=1, ddof=1) * math.sqrt(n) > stats.t.ppf(0.975, n - 1)
    assert 0.8 - monte_carlo_slack(0.8, runs) <= np.mean(settled) <= 0.87


# --- Ranks ----------------------------------------------------------------------------------------------


def of_one_attack(*schemes):
    """Of shape [schemes, 1, seeds], shorter ones filled up with NaN."""
    most = max(map(len, schemes))
    return np.array([[[*values, *[np.nan] * (most - len(values))]] for values in schemes])


def test_ranks_are_shared_where_seeds_cannot_tell():
    # Differences over eight seeds: a - b and b - c change sign, a - c never does.
    noise = np.array([3, -3, 3, -3, 3, -3, 3, -3])
    assert shared_ranks(of_one_attack(90 - noise, range(92, 100), 93 + 2 * noise)) == [2, 1, 1]


def test_ranks_of_little():
    assert shared_ranks(np.empty((0, 1, 1))) == []
    assert shared_ranks(of_one_attack([1.0])) == [1]
    # No seed in common, or one alone: nothing is known, however large the difference.
    assert shared_ranks(of_one_attack([100.0, 100.0], [np.nan, np.nan, 0.0], [-100.0])) == [1, 1, 1]


def test_a_seed_s_number_is_the_mean_over_its_attacks():
    margins = np.array([[0.5, np.nan, np.nan], [0.1, 0.2, np.nan]])
    assert mean_over_attacks(margins).tolist() == pytest.approx([0.3, 0.2])
    assert mean_over_attacks(np.empty((0, 3))).tolist() == []


@law
@given(margins=arrays(np.float64, (4, 2, 6), elements=st.integers(0, 30).map(float)), order=st.permutations(range(4)))
def test_ranks_know_no_order_of_schemes_and_someone_is_first(margins, order):
    ranks = shared_ranks(margins, 0.5)
    assert shared_ranks(margins[order], 0.5) == [ranks[k] for k in order]
    assert min(ranks) == 1


def test_equal_schemes_are_told_apart_no_more_often_than_they_say():
    rng, runs = np.random.default_rng(25), 300
    wrong = sum(max(shared_ranks(rng.normal(size=(4, 1, 7)), 0.8)) > 1 for _ in range(runs))
    assert wrong / runs <= 0.2 + monte_carlo_slack(0.2, runs)


# --- Fronts ---------------------------------------------------------------------------------------------

points = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=12)


def test_front_and_hypervolume_of_a_worked_example():
    accuracy_and_success = [(98, 10), (97, 60), (97, 50), (94, 80), (94, 80), (93, 70), (90, 95)]
    assert pareto_front(accuracy_and_success).tolist() == [True, True, False, True, True, False, True]
    # Above (92, 20) lie (97, 60) and (94, 80): 2 wide and 60 high, and 3 wide and 40 high.
    assert hypervolume(accuracy_and_success, (92, 20)) == 2 * 60 + 3 * 40


def test_front_and_hypervolume_of_nothing():
    assert pareto_front([]).shape == (0,)
    assert hypervolume([], (0, 0)) == 0
    assert hypervolume([(1, 5), (5, 1)], (1, 1)) == 0


@law
@given(points=points)
def test_the_front_is_what_nothing_dominates(points):
    expected = [not any(b != a and b[0] >= a[0] and b[1] >= a[1] for b in points) for a in points]
    assert pareto_front(points).tolist() == expected


@law
@given(points=points, more=points, shift=st.integers(-5, 5), seed=st.integers(0, 9))
def test_hypervolume_counts_the_cells_below_the_front(points, more, shift, seed):
    cells = {(x, y) for a, b in points for x in range(2, a) for y in range(3, b)}
    area = hypervolume(points, (2, 3))
    assert area == len(cells)
    assert hypervolume(points + more, (2, 3)) >= area
    moved = np.random.default_rng(seed).permutation(np.reshape(points, (-1, 2)) + shift)
    assert hypervolume(moved, (2 + shift, 3 + shift)) == area
    assert hypervolume([point[::-1] for point in points], (3, 2)) == area


@law
@given(parts=st.lists(points, min_size=1, max_size=4), seed=st.integers(0, 9))
def test_hypervolumes_of_groups_are_those_of_each_alone(parts, seed):
    together = np.array([point for part in parts for point in part], dtype=float).reshape(-1, 2)
    groups = np.repeat(np.arange(len(parts)), [len(part) for part in parts])
    mixed = np.random.default_rng(seed).permutation(len(groups))
    found = hypervolumes(together[mixed], groups[mixed], len(parts))
    assert found.tolist() == [hypervolume(part, (0, 0)) for part in parts]


# --- Bad arguments --------------------------------------------------------------------------------------


@pytest.mark.parametrize("confidence", [0, 1, 95, -0.1, math.nan])
@pytest.mark.parametrize(
    "call",
    [
        lambda confidence: paired_difference({0: 1.0}, {0: 2.0}, confidence),
        lambda confidence: seeds_to_settle(1, 1, confidence=confidence),
        lambda confidence: shared_ranks(np.zeros((2, 1, 1)), confidence),
    ],
)
def test_confidence_must_lie_inside_the_unit_interval(call, confidence):
    with pytest.raises(ValueError, match=f"^confidence must be strictly between 0 and 1, got {confidence}$"):
        call(confidence)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: sign_flip_test([]), "differences must hold at least one number, got none"),
        (lambda: sign_flip_test([1], flips=0), "flips must be at least 1, got 0"),
        (lambda: seeds_to_settle(1, -1), "mean must be finite, sd and n at least 0, got mean 1, sd -1, n 0"),
        (lambda: seeds_to_settle(math.nan, 1), "mean must be finite, sd and n at least 0, got mean nan, sd 1, n 0"),
        (lambda: shared_ranks([1, 2]), "margins must be of schemes, attacks and seeds, got shape (2,)"),
        (lambda: pareto_front([1, 2]), "points must be pairs of numbers, got shape (2,)"),
        (lambda: hypervolume([(1, math.nan)], (0, 0)), "points must be finite, got nan"),
        (lambda: hypervolume([(1, 2)], (0, math.inf)), "reference must be finite, got inf"),
    ],
)
def test_other_bad_arguments_are_named(call, message):
    with pytest.raises(ValueError) as caught:
        call()
    assert str(caught.value) == message
