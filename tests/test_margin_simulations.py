"""Margins, their intervals, worst cases and ranks by simulation, each with a control that must fail."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from harness.statistics.exchangeable import MAX_FALSE, margins, mean_rates, mean_rates_without_each, scaled_margins
from harness.statistics.margins import lower_limit, seeds_intervals
from harness.statistics.paired import mean_over_attacks
from harness.statistics.worst_case import fewest_seeds_for, ranks, worst_case

Array = NDArray[np.float64]


def slack(rate: float, runs: int) -> float:
    """Three standard errors."""
    return 3 * math.sqrt(rate * (1 - rate) / runs)


# --- f-near-one, erased-untouched


@pytest.mark.parametrize("false_rate", [0.77, 0.95, 0.99])
def test_margins_of_keys_that_prove_nothing(false_rate):
    matches = np.random.default_rng(1).binomial(100, 0.5, 1000)
    made = margins(matches, 100, np.full(1000, false_rate))
    assert false_rate > MAX_FALSE  # the flag
    assert np.all(made == 0)
    unclipped = (matches / 100 - false_rate) / (1 - false_rate)
    assert unclipped.min() < (-9 if false_rate >= 0.95 else -1)


@pytest.mark.parametrize(("trials", "chance"), [(64, 0.5), (100, 0.1)])
def test_untouched_and_erased_marks_are_1_and_0_whatever_their_kind(trials, chance):
    rng = np.random.default_rng(2)
    refs = rng.binomial(trials, chance, (2000, 39))
    false = mean_rates(refs, trials)
    erased = margins(rng.binomial(trials, chance, 2000), trials, false)
    untouched = margins(np.full(2000, trials), trials, false)
    assert untouched.tolist() == [1.0] * 2000
    assert erased.mean() == pytest.approx(0, abs=0.01)
    assert np.mean(1 - false) == pytest.approx(1 - chance, abs=0.01)  # r - f of the untouched: 0.5 of 64 bits


def test_an_untouched_fingerprint_is_1_though_its_victim_scores_less():
    rng = np.random.default_rng(3)
    false = mean_rates(rng.binomial(100, 0.2, (2000, 39)), 100)
    victim = rng.binomial(100, 0.7, 2000)
    assert scaled_margins(victim, 100, false, victim, 100).tolist() == [1.0] * 2000
    erased = scaled_margins(rng.binomial(100, 0.2, 2000), 100, false, victim, 100)
    assert erased.mean() == pytest.approx(0, abs=0.01)
    assert margins(victim, 100, false).mean() < 0.7  # unscaled


# --- coverage


def normal(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    return np.clip(rng.normal(0.5, 0.15, shape), -1, 1)


def clusters(share: float) -> Callable[[np.random.Generator, tuple[int, ...]], Array]:
    """Margins of 0.05 with this probability, else 0.9."""
    return lambda rng, shape: np.where(rng.random(shape) < share, 0.05, 0.9) + rng.normal(0, 0.02, shape)


SEEDS = {
    "normal": (normal, 0.5),
    "wide": (lambda rng, shape: 2 * rng.beta(2, 2, shape) - 1, 0.0),
    "10% lost": (clusters(0.1), 0.815),
    "30% lost": (clusters(0.3), 0.645),
    "50% lost": (clusters(0.5), 0.475),
    "10% kept": (clusters(0.9), 0.135),
}


def student(values: Array, mean: float) -> float:
    """Coverage of Student's interval of the values alone."""
    n = values.shape[1]
    half = stats.t.ppf(0.975, n - 1) * values.std(axis=1, ddof=1) / math.sqrt(n)
    return float(np.mean(np.abs(values.mean(axis=1) - mean) <= half))


@pytest.mark.parametrize("n", [5, 10, 30])
@pytest.mark.parametrize("name", SEEDS)
def test_intervals_cover_the_mean_of_new_seeds(name, n):
    runs, (law, mean) = 3000, SEEDS[name]
    values = law(np.random.default_rng(n), (runs, n))
    made = seeds_intervals(values)
    assert np.mean([each.low <= mean <= each.high for each in made]) >= 0.93 - slack(0.93, runs)
    one_sided = np.mean([each.low <= mean for each in seeds_intervals(values, confidence=0.9)])
    assert one_sided >= 0.93 - slack(0.93, runs)
    assert lower_limit(values[0]) == seeds_intervals(values, confidence=0.9)[0].low
    if name == "10% lost" and n == 5:
        assert student(values, mean) + slack(0.5, runs) < 0.50


def of_shared_models(n: int, left: float, runs: int = 1200, k: int = 19) -> tuple[Array, Array]:
    """Margins [runs, seeds] and mean margins without each of the k unmarked models that all seeds share [runs, k].

    Rates of unmarked models are Beta(1, 3) of the model, the same for all keys; of the mark, `left` is left.
    """
    rng, trials = np.random.default_rng(n), 1000
    models = np.repeat(rng.beta(1, 3, (runs, 1, k)), n, axis=1)
    refs = rng.binomial(trials, models).reshape(-1, k)
    rates = 0.25 + 0.75 * np.clip(rng.normal(left, 0.05, runs * n), -0.25, 1)
    matches = rng.binomial(trials, rates)
    values = margins(matches, trials, mean_rates(refs, trials)).reshape(runs, n)
    without = margins(matches[:, np.newaxis], trials, mean_rates_without_each(refs, trials))
    return values, without.reshape(runs, n, k).mean(axis=1)


@pytest.mark.parametrize("n", [5, 10, 30])
@pytest.mark.parametrize("left", [0.0, 0.5, 0.9])
def test_intervals_cover_where_all_seeds_share_the_unmarked_models(left, n):
    values, without = of_shared_models(n, left)
    made = seeds_intervals(values, without)
    assert np.mean([each.low <= left <= each.high for each in made]) >= 0.93 - slack(0.93, len(made))
    one_sided = np.mean([each.low <= left for each in seeds_intervals(values, without, confidence=0.9)])
    assert one_sided >= 0.93 - slack(0.93, len(made))
    if left == 0 and n == 30:  # the controls know nothing of the models
        assert student(values, left) < 0.5
        alone = np.mean([each.low <= left <= each.high for each in seeds_intervals(values)])
        assert alone + slack(alone, len(made)) < 0.93


# --- repeat


def test_lists_of_attacks_cannot_move_the_worst_case():
    rng = np.random.default_rng(4)
    for _ in range(300):
        table = np.clip(rng.normal(rng.uniform(0.2, 0.9, (6, 1)), 0.15, (6, 10)), -1, 1)
        made, chosen = worst_case(table), rng.integers(6)
        tenfold = np.vstack([table, *[table[chosen]] * 9])
        weaker = np.vstack([table[chosen] + 0.05, table])
        np.testing.assert_array_equal(worst_case(tenfold).values, made.values)
        np.testing.assert_array_equal(worst_case(weaker).values, made.values)
        stronger = np.vstack([table, table[made.on_even] - rng.uniform(0, 0.3, 10)])
        assert worst_case(stronger).mean <= made.mean
        assert mean_over_attacks(tenfold).mean() != pytest.approx(mean_over_attacks(table).mean(), abs=1e-6)


def test_a_minimum_over_the_same_seeds_is_biased_and_cross_fitting_is_not():
    rng, runs = np.random.default_rng(5), 1000
    tables = rng.normal(0.5, 0.2, (runs, 8, 6))
    crossed = np.array([worst_case(table).mean for table in tables])
    assert crossed.mean() == pytest.approx(0.5, abs=3 * crossed.std() / math.sqrt(runs))
    assert tables.mean(axis=2).min(axis=1).mean() < 0.4


# --- equal-worst-case, different


Scheme = Callable[[np.random.Generator, int], Array]


def scattered(means: Array | float, sd: float) -> Scheme:
    """Margins of eight settings, scattered from seed to seed."""
    return lambda rng, n: rng.normal(np.broadcast_to(means, 8)[:, np.newaxis], sd, (8, n))


def broken(share: float) -> Scheme:
    """Eight settings, each of which erases the mark on this share of the seeds."""
    return lambda rng, n: clusters(share)(rng, (8, n))


def with_one(worst: float) -> Array:
    return np.array([worst, *[0.9] * 7])


EQUAL = {
    "all tied": (scattered(0.5, 0.15), scattered(0.5, 0.15)),
    "one weak among eight": (scattered(with_one(0.3), 0.15), scattered(with_one(0.3), 0.15)),
    "noisy against quiet": (scattered(0.5, 0.35), scattered(0.5, 0.03)),
    "10% clusters": (broken(0.1), broken(0.1)),
    "50% clusters": (broken(0.5), broken(0.5)),
    "50% clusters against quiet": (broken(0.5), scattered(0.475, 0.03)),
}


def told(one: Scheme, other: Scheme, n: int, runs: int = 1000) -> float:
    rng = np.random.default_rng(n)
    made = (ranks([worst_case(each(rng, n)).values for each in (one, other)]) for _ in range(runs))
    return sum(each != [1, 1] for each in made) / runs


@pytest.mark.slow
@pytest.mark.parametrize("n", [6, 10])
@pytest.mark.parametrize("name", EQUAL)
def test_equal_worst_cases_share_a_rank(name, n):
    most = 0.20 if "clusters" in name and n == 6 else 0.10
    assert told(*EQUAL[name], n) <= most + slack(most, 1000)


def test_permuting_schemes_on_minima_of_means_tells_equal_worst_cases_apart():
    """The control: seeds swap schemes at random, and minima over the same seeds are compared."""
    rng, n, flips, runs = np.random.default_rng(6), 10, 200, 200
    noisy, quiet = EQUAL["noisy against quiet"]
    apart = 0
    for _ in range(runs):
        one, other = noisy(rng, n), quiet(rng, n)
        seen = abs(one.mean(axis=1).min() - other.mean(axis=1).min())
        swapped = rng.random((flips, 1, n)) < 0.5
        least = [np.where(swapped, *pair).mean(axis=2).min(axis=1) for pair in ((one, other), (other, one))]
        apart += (1 + np.sum(np.abs(least[0] - least[1]) >= seen)) / (flips + 1) <= 0.05
    assert apart / runs - slack(0.4, runs) > 0.40


def test_different_worst_cases_are_told_apart():
    assert told(scattered(with_one(0.6), 0.2), scattered(with_one(0.2), 0.2), 10) >= 0.90


def test_ten_equal_schemes_share_a_rank():
    rng, runs, n = np.random.default_rng(7), 300, fewest_seeds_for(10)
    scheme = scattered(0.5, 0.15)
    made = [ranks([worst_case(scheme(rng, n)).values for _ in range(10)]) for _ in range(runs)]
    assert np.mean([each != [1] * 10 for each in made]) <= 0.10 + slack(0.10, runs)
