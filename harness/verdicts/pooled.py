"""Tests that pool the answers of all unmarked models: for comparison with papers.

Each assumes that all unmarked models answer alike, and independently of query to query. They do not: rates differ
between models far more than binomially, so that these tests accuse unmarked models more often than they say.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from harness.statistics.power import queries_for_confidence
from harness.statistics.tests import (
    binomial_test,
    binomial_test_against_control,
    boschloo,
    fisher_exact,
    t_test,
    welch_t_test,
)
from harness.verdicts.groups import distinct

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from harness.statistics.validate import FloatArray
    from harness.verdicts.groups import Places
    from harness.verdicts.rules import Rules, TestName

COUNTS = ["matches", "trials", "null_matches", "null_trials"]
ASSUMES = "assumes that all unmarked models answer alike"

TESTS: dict[TestName, tuple[Callable[..., Any], str]] = {
    "binomial": (
        binomial_test_against_control,
        "an exact binomial test against the upper confidence limit of the unmarked models' rate",
    ),
    "fisher": (fisher_exact, "Fisher's exact test against the unmarked models"),
    "boschloo": (boschloo, "Boschloo's exact test against the unmarked models"),
    "welch": (welch_t_test, "Welch's one-sided t-test against the unmarked models"),
    "t": (t_test, "the EWE paper's one-sided t-test against the unmarked models"),
}
"""Each pooled test and its name in words."""


def test_of(rules: Rules) -> Callable[..., Any]:
    """Test of a suspect's matches and trials against those of all unmarked models."""
    if (fpr := rules.fpr) is not None:
        return lambda matches, trials, *_: binomial_test(matches, trials, fpr)
    test, _ = TESTS[rules.test]
    return partial(test, confidence=rules.confidence) if rules.test == "binomial" else test


def p_values(counts: pd.DataFrame, rules: Rules) -> FloatArray:
    """P-values of rows with the columns :data:`COUNTS`; equal rows are tested once. NaN where one is unknown."""
    made = np.full(len(counts), np.nan)
    known = counts[COUNTS].notna().all(axis=1).to_numpy()
    rows, places = distinct(counts[known], COUNTS)
    made[known] = np.asarray(test_of(rules)(*(rows[column].to_numpy(dtype=float) for column in COUNTS)))[places]
    return made


def fewest_matches(nulls: pd.DataFrame, asked: Places, rules: Rules) -> FloatArray:
    """The fewest matches of each number of queries that the test accuses beside each row of unmarked models' counts.

    One more than were asked where none are enough. More matches are never less evidence, so bisection finds them.
    """
    control = [nulls[column].to_numpy(dtype=float)[:, np.newaxis] for column in nulls]
    trials = np.broadcast_to(asked, (len(nulls), len(asked))).astype(np.float64)

    def accused(matches: FloatArray) -> NDArray[np.bool_]:
        return np.asarray(test_of(rules)(matches, trials, *control)) <= rules.alpha

    low, high = np.zeros(trials.shape), trials + 1
    if rules.test == "boschloo":  # it is slow, never above Fisher's p-value, and hardly below
        high = fewest_matches(nulls, asked, replace(rules, test="fisher"))
        near = np.clip(high - 3, 0, trials)
        low = np.where(accused(near), 0, near + 1)
    while (low < high).any():
        middle = np.minimum(np.floor((low + high) / 2), trials)
        is_enough, between = accused(middle), low < high
        high, low = np.where(between & is_enough, middle, high), np.where(between & ~is_enough, middle + 1, low)
    return high


def planned_queries(success: pd.Series[float], false: pd.Series[float], confidence: float) -> pd.Series[float]:
    """Queries at which the EWE paper's t-test reaches the confidence at two rates; each pair is computed once.

    NaN where a rate is unknown.
    """
    rates = pd.DataFrame({"success": success.astype(float), "false": false.astype(float)}).dropna()
    rows, places = distinct(rates, list(rates))
    needed = [queries_for_confidence(one, other, confidence) for one, other in rows.to_numpy(dtype=float)]
    made = pd.Series(math.nan, index=success.index)
    made[rates.index] = np.array(needed, dtype=float)[places]
    return made
