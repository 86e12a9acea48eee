"""Attacks that enter no rank, and the reason why."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy import special

from harness.verdicts.rules import POOLED

if TYPE_CHECKING:
    from harness.verdicts.groups import Groups
    from harness.verdicts.references import Models
    from harness.verdicts.rules import Rules

OWN_LABELS = "no better than a model trained on the thief's own labels"


def reasons(rows: pd.DataFrame, attacked: Models, groups: Groups, rules: Rules) -> list[str]:
    """The reason why each group, a scheme under an attack, is in no rank; empty where it counts or nobody attacked."""
    unproven = no_better_than_own_labels(rows, rules.confidence)
    useless = _useless(attacked, groups)
    asked = np.bincount(groups.places, attacked.known.any(axis=1), groups.count)
    ran = np.array(groups.totals(rows["status"] == "ok"))
    unasked = (asked == 0) & (ran > 0) & (rules.test not in POOLED)
    firsts = rows.iloc[np.unique(groups.places, return_index=True)[1]]
    names = ["dataset", "attack", "kind", "family", "knows"]
    return [
        _reason(kind, family, knows, (dataset, attack) in unproven, useless[group], bool(unasked[group]))
        for group, (dataset, attack, kind, family, knows) in enumerate(zip(*(firsts[n] for n in names), strict=True))
    ]


def _reason(kind: str, family: str, knows: str | None, unproven: bool, useless: str, unasked: bool) -> str:
    if kind == "none":
        return ""
    if kind == "other":
        return f"unknown family {family!r}"
    if knows == "key":
        return "knows the key"
    if unproven:
        return OWN_LABELS
    return useless or ("no unmarked model went through it" if unasked else "")


def _useless(attacked: Models, groups: Groups) -> list[str]:
    """Groups where fewer than half of the unmarked models stayed useful: how many on the seed with fewest."""
    asked, left = (each.sum(axis=1) for each in (attacked.known, attacked.counted))
    totals = (np.bincount(groups.places, each, groups.count) for each in (asked, left))
    said = [""] * groups.count
    for group in np.flatnonzero(np.greater(*(np.array([1, 2])[:, np.newaxis] * list(totals)))):
        here = np.flatnonzero((groups.places == group) & (asked > 0))
        worst = here[np.argmin(left[here] / asked[here])]
        said[group] = f"leaves {left[worst]} of {asked[worst]} unmarked models useful"
    return said


def no_better_than_own_labels(rows: pd.DataFrame, confidence: float) -> set[tuple[str, str]]:
    """Data sets and attacks with labels of their own whose surrogates are not proven better than unmarked models.

    Such thieves own as much labelled data as the owner, so that an unmarked model is what they can train themselves;
    one who has a smaller share of it cannot, and is not asked to beat what he could not train.
    One seed counts once, by the mean over all schemes, so that no scheme decides on its own which attacks it meets;
    proven is a difference whose interval (Student's, over the seeds) lies above 0.
    """
    labelled = (
        rows["labelled"].eq(True)
        & ~rows["labelled_share"].lt(1)
        & rows["status"].eq("ok")
        & rows["kind"].eq("survival")
    )
    some = rows[labelled]
    gain = some["surrogate_accuracy"].astype(float) - some["null_accuracy"].astype(float)
    by_seed = gain.groupby([some["dataset"], some["attack"], some["seed"]], sort=False).mean()
    found = set()
    for (dataset, attack), values in by_seed.groupby(level=[0, 1], sort=False):
        if not _is_above_zero(values.dropna().to_numpy(dtype=float), confidence):
            found.add((str(dataset), str(attack)))
    return found


def _is_above_zero(values: np.ndarray[tuple[int], np.dtype[np.float64]], confidence: float) -> bool:
    """True where Student's interval of the mean lies above 0; False of fewer than two values."""
    if values.size < 2:
        return False
    half = float(special.stdtrit(values.size - 1, (1 + confidence) / 2)) * values.std(ddof=1) / math.sqrt(values.size)
    return bool(values.mean() > half)
