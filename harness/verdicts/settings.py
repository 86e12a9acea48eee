"""One data set's comparison: what is behind its numbers, and one sentence on what may be concluded."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from harness.statistics.margins import cost_interval
from harness.statistics.worst_case import fewest_seeds_for
from harness.storage.options import dataset_options
from harness.verdicts.attacked import estimate
from harness.verdicts.board import Estimate, Scheme, Setting, Threat

if TYPE_CHECKING:
    from harness.verdicts.rules import Rules

FEWEST_IMAGES = 1000
"""Test images below which a comparison is a demonstration: accuracies are too coarse for the rule of useful models."""
MOST, LITTLE = 0.5, 0.2
"""Margins from which on a scheme keeps most of its mark, and up to which it keeps little."""
AGAINST: dict[Threat, str] = {
    "both": "Against both kinds of thief",
    "black box": "Against thieves who have only the API",
    "white box": "Against thieves who have the weights",
}


def settings_of(rows: pd.DataFrame, evidence: pd.DataFrame, schemes: list[Scheme], rules: Rules) -> list[Setting]:
    """The settings of scored cells, one a data set, in the order of the cells."""
    return [
        _setting(str(dataset), here, evidence, [each for each in schemes if each.dataset == dataset], rules)
        for dataset, here in rows.groupby("dataset", sort=False)
    ]


def _setting(dataset: str, rows: pd.DataFrame, evidence: pd.DataFrame, schemes: list[Scheme], rules: Rules) -> Setting:
    images = rows["test_samples"].dropna().astype(int)
    number = int(images.max()) if len(images) else None
    accuracy, gate = _clean(rows, evidence, rules)
    return Setting(
        dataset=dataset,
        models=int(rows["models"].max()),
        seeds=rows["seed"].nunique(),
        schemes=len(schemes),
        test_images=number,
        given=any(told.get("unmarked_from") for told in dataset_options(rows)),
        accuracy=accuracy,
        accuracy_gate=gate,
        is_weak=bool(accuracy and gate is not None and accuracy.mean < gate),
        conclusion=conclusion([each for each in schemes if not each.fingerprint] or schemes, rows, rules),
        demonstration=number is not None and number < FEWEST_IMAGES,
        tolerance_error=math.sqrt(rules.max_drop * (1 - rules.max_drop) / number) if number else math.nan,
    )


def _clean(rows: pd.DataFrame, evidence: pd.DataFrame, rules: Rules) -> tuple[Estimate | None, float | None]:
    """Accuracy of one data set's unmarked models, and its gate.

    They are those of one cell, since all cells of a net have the same: of one with the most models, and with a gate
    where there is one, since a scheme's own net has none.
    """
    gates, asked = rows["accuracy_gate"].astype(float), rows["nulls"].astype(float).fillna(0)
    if not len(asked) or not asked.max():
        return None, None
    best = rows.loc[(gates.notna() * (asked.max() + 1) + asked * rows["status"].eq("ok")).idxmax()]
    models = evidence[(evidence["cell"] == best["cell"]) & (evidence["suspect"] == "null")].drop_duplicates("index")
    accuracies = models["accuracy"].to_numpy(dtype=float)
    gate = float(best["accuracy_gate"]) if pd.notna(best["accuracy_gate"]) else None
    return estimate(cost_interval(accuracies[np.isfinite(accuracies)], rules.confidence)), gate


def conclusion(schemes: list[Scheme], rows: pd.DataFrame, rules: Rules) -> str:
    """One sentence on what may be concluded from a comparison."""
    for threat, words in AGAINST.items():
        ranked = [each for each in schemes if each.standings[threat].rank is not None]
        if ranked:
            return _of_ranks(ranked, threat, words)
    return _without_ranks(schemes, rows, rules)


def _of_ranks(ranked: list[Scheme], threat: Threat, words: str) -> str:
    """The schemes that are ranked first, how much of their marks they keep, and that others are worse."""
    first = [each for each in ranked if each.standings[threat].rank == 1]
    rest = len(ranked) - len(first)
    kept = [worst.mean for each in first if (worst := each.standings[threat].worst)]
    if len(ranked) > 1 and not rest:
        return f"{words}, no scheme is told apart from another; the best margin is {_percent(max(kept))}."
    amount = _amount(float(np.mean(kept)), "its mark" if len(first) == 1 else "their marks")
    said = f"{words}, {listed(each.defense for each in first)} {'keeps' if len(first) == 1 else 'keep'} {amount}"
    if not rest:
        return f"{said}; there is no other scheme to compare."
    return f"{said}; {'the other keeps' if rest == 1 else f'{rest} others keep'} less."


def _amount(margin: float, mark: str) -> str:
    amount = "most" if margin >= MOST else "little" if margin <= LITTLE else "some"
    return f"{amount} of {mark} (margin {_percent(margin)})"


def _percent(margin: float) -> str:
    """A margin as displays show it, in %."""
    return f"{100 * margin + 0.0:.0f}%"


def _without_ranks(schemes: list[Scheme], rows: pd.DataFrame, rules: Rules) -> str:
    """The reason why no scheme is ranked, and what to do about it."""
    seeds = rows["seed"].nunique()
    most_first = rows.sort_values("nulls", ascending=False, kind="stable")
    verdicts = [text for text in most_first["victim_verdict"] if text]
    few = fewest_seeds_for(2, rules.confidence)
    if verdicts:
        needed = re.match(r"needs (\d+) unmarked models", verdicts[0])
        return f"No verdict: {verdicts[0]}" + (f"; type harness run --nulls {needed[1]}." if needed else ".")
    if not (rows["status"] == "ok").any():
        return "No conclusion: no cell finished."
    if seeds < few:
        ten = fewest_seeds_for(10, rules.confidence)
        return f"With {counted(seeds, 'seed')} no scheme can be ranked: two schemes need {few} seeds, ten need {ten}."
    reasons = dict.fromkeys(each.no_rank for each in schemes if each.no_rank)
    return f"No scheme can be ranked: {next(iter(reasons), 'none was attacked')}."


def counted(number: int, noun: str) -> str:
    """A number of things: ``1 seed``, ``3 seeds``."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def listed(names: Iterable[str]) -> str:
    """Names in a sentence: ``a``, ``a and b``, ``a, b and c``."""
    *rest, last = names
    return f"{', '.join(rest)} and {last}" if rest else last
