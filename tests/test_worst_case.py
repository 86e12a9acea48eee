"""The worst case by cross-fitting, and ranks: worked examples, and the laws that no list of attacks may break."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.statistics.paired import fewest_seeds
from harness.statistics.worst_case import fewest_seeds_for, ranks, told_apart, worst_case

law = settings(deadline=None, max_examples=100, database=None, derandomize=True)


@st.composite
def tables(draw: st.DrawFn, missing: bool = False) -> np.ndarray:
    """Margins of settings and seeds, in tenths so that ties happen."""
    settings_, seeds = draw(st.integers(1, 6)), draw(st.integers(1, 9))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    made = rng.integers(-2, 11, (settings_, seeds)) / 10
    return np.where(rng.random(made.shape) < 0.1, np.nan, made) if missing else made


# --- the worst case


def test_the_other_half_of_the_seeds_chooses():
    made = worst_case([[0.1, 0.9, 0.2, 0.8], [0.5, 0.5, 0.5, 0.5]])
    assert (made.on_even, made.on_odd) == (1, 0)  # over the odd seeds the second is the least, over the even the first
    assert made.values.tolist() == [0.5, 0.9, 0.5, 0.8]
    assert made.mean == pytest.approx(0.675)


def test_even_and_odd_are_places_among_the_common_seeds():
    full = worst_case([[0.1, 0.9, 0.2], [0.5, 0.5, 0.5]])
    holed = worst_case([[0.1, np.nan, 0.9, 0.2, 0.3], [0.5, 0.1, 0.5, 0.5, np.nan], [np.nan] * 5])
    assert (holed.on_even, holed.on_odd) == (full.on_even, full.on_odd)
    np.testing.assert_array_equal(holed.values, [0.5, np.nan, 0.9, 0.5, np.nan])


def test_what_there_is_of_a_single_seed_and_of_none():
    one = worst_case([[0.4], [0.3], [0.5]])
    assert (one.values.tolist(), one.on_even, one.on_odd) == ([0.3], 1, 1)
    for none in (np.empty((0, 3)), np.full((2, 3), np.nan), [[0.1, np.nan, np.nan], [np.nan, 0.2, 0.3]]):
        made = worst_case(none)
        assert (made.on_even, made.on_odd) == (None, None)
        assert np.isnan(made.values).all()
        assert len(made.values) == 3
        assert math.isnan(made.mean)


@law
@given(tables(missing=True), st.randoms(use_true_random=False))
def test_neither_the_order_nor_the_repetition_of_settings_matters(table, random):
    rows = [row for row in table for _ in range(random.randint(1, 10))]
    random.shuffle(rows)
    one, other = worst_case(table), worst_case(np.array(rows))
    np.testing.assert_array_equal(other.values, one.values)
    if one.on_even is not None:
        np.testing.assert_array_equal(rows[other.on_even], table[one.on_even])
        np.testing.assert_array_equal(rows[other.on_odd], table[one.on_odd])


@law
@given(tables(), st.data())
def test_a_setting_that_leaves_more_on_every_seed_changes_nothing(table, data):
    more = table[data.draw(st.integers(0, len(table) - 1))] + data.draw(st.sampled_from([0.001, 0.1, 1.0]))
    np.testing.assert_array_equal(worst_case(np.vstack([more, table])).values, worst_case(table).values)
    np.testing.assert_array_equal(worst_case(np.vstack([table, more])).values, worst_case(table).values)


@law
@given(tables(), st.data())
def test_a_setting_that_leaves_less_on_every_seed_never_raises_the_worst_case(table, data):
    """Less than a setting that counts, or than all: one that hides behind others may be anything."""
    before = worst_case(table)
    for less in (table[before.on_even], table[before.on_odd], table.min(axis=0)):
        lower = less - data.draw(st.sampled_from([0.001, 0.1, 1.0]))
        after = worst_case(np.vstack([table, lower]))
        assert np.all(after.values <= before.values + 1e-12)


@law
@given(tables())
def test_values_are_those_of_the_settings_that_count(table):
    made = worst_case(table)
    np.testing.assert_array_equal(made.values[0::2], table[made.on_even, 0::2])
    np.testing.assert_array_equal(made.values[1::2], table[made.on_odd, 1::2])
    assert made.mean >= table.min(axis=0).mean() - 1e-12
    if table.shape[1] > 1:
        assert table[made.on_even, 1::2].mean() == pytest.approx(table[:, 1::2].mean(axis=1).min())
        assert table[made.on_odd, 0::2].mean() == pytest.approx(table[:, 0::2].mean(axis=1).min())


# --- ranks


def test_the_seeds_that_ranks_take():
    assert [fewest_seeds_for(schemes) for schemes in (1, 2, 3, 10)] == [6, 6, 7, 11]
    assert fewest_seeds_for(2, 0.9) == fewest_seeds(0.9)
    assert fewest_seeds_for(2, 1 - 1 / 16) == 5


def test_schemes_with_differences_of_one_sign_are_told_apart():
    rng = np.random.default_rng(0)
    worst = np.array([0.2, 0.8, 0.5])[:, np.newaxis] + rng.uniform(-0.1, 0.1, (3, 7))
    assert ranks(worst) == [3, 1, 2]
    assert told_apart(worst).tolist() == [[False, False, False], [True, False, True], [True, False, False]]
    assert ranks(worst[:, :6]) is None
    assert ranks(worst[:2, :6]) == [2, 1]
    assert ranks(worst[:1, :1]) == [1]
    assert ranks(np.empty((0, 4))) == []
    assert ranks(np.full((3, 8), 0.5)) == [1, 1, 1]


def test_seeds_are_those_that_both_schemes_have():
    worst = np.tile([[0.2], [0.8]], 7)
    worst[0, 0] = worst[1, 6] = np.nan
    assert ranks(worst) is None
    assert ranks(np.hstack([worst, [[0.3], [0.7]]])) == [2, 1]


def test_the_interval_must_exclude_0_too():
    """All signs alike, yet one seed has nearly all of the difference: Student's interval holds 0."""
    worst = np.array([[0.001, 0.001, 0.001, 0.001, 0.001, 1.0], [0.0] * 6])
    assert not told_apart(worst).any()
    assert ranks(worst) == [1, 1]


@law
@given(st.integers(2, 5), st.integers(0, 2**32 - 1), st.randoms(use_true_random=False))
def test_ranks_follow_their_schemes_and_not_the_seeds_order(schemes, seed, random):
    rng = np.random.default_rng(seed)
    worst = rng.uniform(0, 1, (schemes, 1)) + rng.normal(0, 0.2, (schemes, 12))
    order, seeds = list(range(schemes)), list(range(12))
    random.shuffle(order)
    random.shuffle(seeds)
    made = ranks(worst)
    assert ranks(worst[order][:, seeds]) == [made[each] for each in order]
    assert min(made) == 1


def test_bad_shapes_are_named():
    with pytest.raises(ValueError, match="^margins must be of settings and seeds, got shape \\(2,\\)$"):
        worst_case([1, 2])
    with pytest.raises(ValueError, match="^worst must be of schemes and seeds, got shape \\(2,\\)$"):
        ranks([1, 2])
