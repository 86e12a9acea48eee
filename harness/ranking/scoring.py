"""Verdicts from a cell's counts: rates, tests, what voids a cell, and how many queries it takes. No torch.

Every number that is shown of a cell is made here, by the same rules for every scheme: the ranking, comparisons, the
report, the pictures and a reproduction all begin with :func:`score`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
import pandas as pd

from harness.errors import UsageError
from harness.statistics.power import MAX_QUERIES, queries_for_confidence
from harness.statistics.tests import (
    binomial_test,
    binomial_test_against_control,
    boschloo,
    fisher_exact,
    t_test,
    welch_t_test,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from harness.statistics.validate import FloatArray

    Places: TypeAlias = NDArray[np.intp]

TestName: TypeAlias = Literal["binomial", "fisher", "boschloo", "welch", "t"]
Kind: TypeAlias = Literal["none", "survival", "evasion", "detection", "other"]


@dataclass(frozen=True)
class Rules:
    """Rules by which evidence becomes a verdict."""

    test: TestName = "binomial"
    """Test of the suspect's answers against the null models': exact binomial against the upper confidence limit of the
    false rate, Fisher's or Boschloo's exact test, Welch's t-test, or the paper's t-test."""
    confidence: float = 0.95
    max_drop: float = 0.10
    """A model whose accuracy is more than this below the null models' is void."""
    fpr: float | None = None
    """The false rate that margins, tests and queries assume of unmarked models, instead of the null models' own."""
    budget: int | None = None
    """Trigger queries within which a model is to be accused, each answered at the rate that was measured."""

    @property
    def accuser(self) -> str:
        """The test in words."""
        return _TESTS[self.test][1] if self.fpr is None else f"an exact binomial test against {self.fpr:.2%}"

    def __post_init__(self) -> None:
        if self.fpr is not None and not 0 <= self.fpr < 1:
            raise UsageError(f"fpr must be at least 0 and below 1, not {self.fpr}")
        if self.fpr is not None and self.test != "binomial":
            raise UsageError(f"--test {self.test} compares with null models, and --fpr is a rate: type --test binomial")
        if self.budget is not None and not 1 <= self.budget <= MAX_QUERIES:
            raise UsageError(f"budget must be in 1..{MAX_QUERIES:,} queries, not {self.budget:,}")
        if not 0 < self.confidence < 1:
            raise UsageError(f"confidence must be between 0 and 1, not {self.confidence}")
        if not 0 <= self.max_drop <= 1:
            raise UsageError(f"max-drop must be in 0..1, not {self.max_drop}")


CELL_COLUMNS = (
    *("cell", "dataset", "defense", "attack", "seed", "family", "status"),
    *("null_accuracy", "victim_accuracy", "surrogate_accuracy"),
    *("victim_trigger_matches", "victim_trigger_trials", "surrogate_trigger_matches", "surrogate_trigger_trials"),
    *("surrogate_held_out_matches", "surrogate_held_out_trials", "null_trigger_matches", "null_trigger_trials"),
    "embed_seconds",
)
"""Columns of the table ``cells`` that scores and rankings are made of: large tables are read faster by these alone."""


def kinds_of(cells: pd.DataFrame) -> pd.Series[str]:
    """The :func:`kind_of` each row's family."""
    keys, places = distinct(cells, ["family"])
    return pd.Series(np.array([kind_of(str(family)) for family in keys["family"]], dtype=object)[places], cells.index)


def kind_of(family: str) -> Kind:
    """The meaning of an attack's family, or of a chain's families joined by ``+``, for scores.

    ``none``: nobody attacked. ``survival``: the attack left a model in which the mark may survive. ``evasion``: it
    hides the mark behind a filter. ``detection``: it only looks for the mark. ``other``: a forgery, or a family that
    is unknown here; it enters no score.
    """
    kinds = {_KINDS.get(each, "other") for each in family.split("+")} - {"none"}
    return next((kind for kind in _OUTRANKING if kind in kinds), "none")


_KINDS: dict[str, Kind] = {
    **{"none": "none", "extraction": "survival", "removal": "survival"},
    **{"evasion": "evasion", "detection": "detection"},
}
_OUTRANKING: tuple[Kind, ...] = ("other", "detection", "evasion", "survival")
"""The kinds by precedence: what a chain leaves is judged by the link that changes most what its counts mean."""


def score(cells: pd.DataFrame, rules: Rules) -> pd.DataFrame:
    """``cells`` with what the rules make of each: its ``kind`` (see :func:`kind_of`), rates, ``p_value``, ``void``,
    ``counts``, ``tested``, ``verified``; and what an attacker reaches: the shares ``kept`` of ``max_drop`` of accuracy
    and ``removed`` of trigger answers.

    A cell counts when it is ok, has trigger evidence, and neither its victim nor its surrogate is void.
    """
    made = cells.assign(kind=kinds_of(cells))
    for who, probe in (
        ("victim", "trigger"),
        ("surrogate", "trigger"),
        ("surrogate", "held_out"),
        ("null", "trigger"),
    ):
        trials = made[f"{who}_{probe}_trials"].astype(float)
        made[f"{who}_{probe}"] = made[f"{who}_{probe}_matches"].astype(float) / trials.where(trials > 0)
    floor = made["null_accuracy"] - rules.max_drop
    made["void"] = (made["status"] == "ok") & ((made["surrogate_accuracy"] < floor) | (made["victim_accuracy"] < floor))
    made["counts"] = (made["status"] == "ok") & ~made["void"] & made["surrogate_trigger"].notna()
    false = made["null_trigger"] if rules.fpr is None else pd.Series(rules.fpr, index=made.index)
    made["tested"] = made["counts"] & false.notna()
    made["p_value"] = _p_values(made, rules)
    made["verified"] = made["p_value"] <= 1 - rules.confidence
    made["at_budget"] = math.nan if rules.budget is None else chances_within(made, [rules.budget], rules)[:, 0]
    made["margin"] = made["surrogate_trigger"] - false.fillna(0.0)
    lost = (made["null_accuracy"] - made["surrogate_accuracy"]).clip(0.0, rules.max_drop)
    made["kept"] = 1.0 - lost / (rules.max_drop or 1.0)
    made["removed"] = 1.0 - made["surrogate_trigger"]
    made["queries_needed"] = _queries(made.assign(false=false), rules.confidence)
    return made


def chances_within(scored: pd.DataFrame, budgets: Sequence[int], rules: Rules) -> FloatArray:
    """The chance that each row's model is accused within so many trigger queries, were each answered at the rate that
    was measured: rows by budgets, NaN where nothing was tested. ``scored`` is what :func:`score` made by these rules.
    """
    from scipy.special import bdtrc

    asked = np.array(budgets, dtype=np.intp)
    made = np.full((len(scored), len(asked)), np.nan)
    tested = scored["tested"].to_numpy(dtype=bool)
    rows = scored.loc[tested, ["surrogate_trigger", "null_trigger_matches", "null_trigger_trials"]]
    nulls, places = distinct(rows, list(rows)[1:])
    rates = rows["surrogate_trigger"].to_numpy(dtype=float)
    made[tested] = bdtrc(_fewest_matches(nulls, asked, rules)[places] - 1, asked, rates[:, np.newaxis])
    return made


def _fewest_matches(nulls: pd.DataFrame, asked: Places, rules: Rules) -> FloatArray:
    """The fewest matches of each number of queries that the test accuses beside each row of null models' counts; one
    more than were asked where none are enough. More matches are never less evidence, so bisection finds them."""
    control = [nulls[column].to_numpy(dtype=float)[:, np.newaxis] for column in nulls]
    trials = np.broadcast_to(asked, (len(nulls), len(asked))).astype(np.float64)

    def accused(matches: FloatArray) -> NDArray[np.bool_]:
        return np.asarray(_test(rules)(matches, trials, *control)) <= 1 - rules.confidence

    low, high = np.zeros(trials.shape), trials + 1
    if rules.test == "boschloo":  # it is slow, never above Fisher's p-value, and hardly below
        high = _fewest_matches(nulls, asked, replace(rules, test="fisher"))
        near = np.clip(high - 3, 0, trials)
        low = np.where(accused(near), 0, near + 1)
    while (low < high).any():
        middle = np.minimum(np.floor((low + high) / 2), trials)
        is_enough, between = accused(middle), low < high
        high, low = np.where(between & is_enough, middle, high), np.where(between & ~is_enough, middle + 1, low)
    return high


def _p_values(scored: pd.DataFrame, rules: Rules) -> pd.Series[float]:
    """P-values of the test, where there is one; equal counts are tested once."""
    columns = [f"{who}_trigger_{what}" for who in ("surrogate", "null") for what in ("matches", "trials")]
    tested = scored.loc[scored["tested"], columns]
    rows, places = distinct(tested, columns)
    counts = [rows[column].to_numpy(dtype=float) for column in rows]
    return pd.Series(np.asarray(_test(rules)(*counts))[places], index=tested.index).reindex(scored.index)


def _test(rules: Rules) -> Callable[..., Any]:
    """Test of the suspect's matches and trials against the null models'."""
    if (fpr := rules.fpr) is not None:
        return lambda matches, trials, *_: binomial_test(matches, trials, fpr)
    test, _ = _TESTS[rules.test]
    return partial(test, confidence=rules.confidence) if rules.test == "binomial" else test


_TESTS: dict[TestName, tuple[Callable[..., Any], str]] = {
    "binomial": (
        binomial_test_against_control,
        "an exact binomial test against the upper confidence limit of the null models' rate",
    ),
    "fisher": (fisher_exact, "Fisher's exact test against the null models"),
    "boschloo": (boschloo, "Boschloo's exact test against the null models"),
    "welch": (welch_t_test, "Welch's one-sided t-test against the null models"),
    "t": (t_test, "the paper's one-sided t-test against the null models"),
}


def _queries(scored: pd.DataFrame, confidence: float) -> pd.Series[float]:
    """Queries for the confidence at each tested cell's rates; each pair of rates is computed once."""
    tested = scored.loc[scored["tested"], ["surrogate_trigger", "false"]]
    rows, places = distinct(tested, list(tested))
    needed = [queries_for_confidence(success, false, confidence) for success, false in rows.to_numpy(dtype=float)]
    return pd.Series(np.array(needed, dtype=float)[places], index=tested.index).reindex(scored.index)


def distinct(frame: pd.DataFrame, columns: list[str]) -> tuple[pd.DataFrame, Places]:
    """The distinct rows of some columns as they appear, and at which of these each row is."""
    places = np.zeros(len(frame), dtype=np.intp)
    for column in columns:
        codes, known = pd.factorize(frame[column], use_na_sentinel=False)
        places = pd.factorize(places * len(known) + codes)[0]
    return frame[columns].iloc[np.unique(places, return_index=True)[1]], places
