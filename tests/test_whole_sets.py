"""The sequential test of a whole set of queries: its errors, by simulation, and its end."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.statistics.whole_sets import decide


def asked(total: int, whole: int, most: int, rng: np.random.Generator, gamma: float = 0.05) -> tuple[str, int]:
    """The decision on a suspect that would match so many times, and after how many queries."""
    answers = rng.permutation(np.arange(whole) < total)
    for count, matches in enumerate(answers.cumsum(), start=1):
        if said := decide(int(matches), count, whole, most, gamma):
            return said, count
    raise AssertionError("all were asked, and nothing was decided")


def test_a_suspect_at_the_limit_is_seldom_decided_wrongly_and_a_clear_one_soon() -> None:
    rng = np.random.default_rng(0)
    at_limit = [asked(5, 40, 5, rng)[0] for _ in range(200)]
    assert at_limit.count("above") <= 0.05 * 200 + 3 * np.sqrt(0.05 * 0.95 * 200)
    above = [asked(6, 40, 5, rng)[0] for _ in range(200)]
    assert above.count("below") <= 0.05 * 200 + 3 * np.sqrt(0.05 * 0.95 * 200)
    clear = [asked(36, 40, 5, rng) for _ in range(100)]
    assert {said for said, _ in clear} == {"above"} and np.mean([count for _, count in clear]) < 8
    innocent = [asked(1, 40, 5, rng) for _ in range(100)]
    assert np.mean([said == "below" for said, _ in innocent]) > 0.95


@given(st.integers(1, 60).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n), st.integers(0, n))))
def test_what_all_queries_say_is_certain(drawn: tuple[int, int, int]) -> None:
    whole, matches, most = drawn
    assert decide(matches, whole, whole, most) == ("above" if matches > most else "below")


def test_what_can_no_longer_be_reached_is_decided() -> None:
    assert decide(0, 8, 10, 2) == "below"
    assert decide(3, 3, 10, 2) == "above"
    assert decide(0, 0, 10, 10) == "below", "no number of matches is marked"
    assert decide(0, 0, 10, 2) == ""


@pytest.mark.parametrize("counts", [(3, 2, 10, 1), (0, 11, 10, 1), (0, 1, 10, 11)])
def test_counts_that_cannot_be_are_refused(counts: tuple[int, int, int, int]) -> None:
    with pytest.raises(ValueError, match="cannot be"):
        decide(*counts)
