"""Attacks that leave the mark in the model: filters that hide it, and detectors that look for it."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from harness.statistics.tests import rank_p_value
from harness.verdicts.attacked import ATTACK, Scored, margins_over_seeds, marked_shares
from harness.verdicts.board import Detected, Evaded
from harness.verdicts.groups import Groups, grouped, rows_of

if TYPE_CHECKING:
    pass


def evaded_of(scored: Scored, *, intervals: bool = True) -> list[Evaded]:
    """Every scheme behind every filter: success, margin and verdict through it."""
    rows = scored.rows
    keys, groups = grouped(ATTACK, rows)
    ok = rows["surrogate_trigger_trials"].notna() & rows["status"].eq("ok")
    evident, counting = scored.of(ok), rows[rows["counts"]]
    columns: dict[str, Iterable[Any]] = {
        **keys,
        "success": groups.of(rows["counts"]).summaries(counting["surrogate_trigger"], intervals),
        "margin": margins_over_seeds(evident, groups.of(ok)),
        "marked": marked_shares(evident, groups.of(ok)),
        "accuracy": groups.summaries(rows["surrogate_accuracy"], intervals),
        **groups.ends(rows),
    }
    return [Evaded(**row) for row in rows_of(columns)]


def detected_of(rows: pd.DataFrame, detections: pd.DataFrame) -> list[Detected]:
    """Every detector's scores of every scheme's models, beside those of unmarked models."""
    keys, groups = grouped(ATTACK, rows)
    found = detections.merge(rows[["cell", "useful"]].assign(group=groups.places), on="cell")
    models = found[(found["suspect"] == "surrogate") & found["useful"]]
    of_nulls = found[found["suspect"] == "null"]
    # The same unmarked models stand beside every seed: each is one observation; but its window is that of a key.
    nulls = of_nulls.drop_duplicates(["group", "index"])
    those, others = (Groups(each["group"].to_numpy(dtype=np.intp), groups.count) for each in (models, nulls))
    columns: dict[str, Iterable[Any]] = {
        **keys,
        "score": those.summaries(models["score"]),
        "null_score": others.summaries(nulls["score"]),
        "flagged": those.means(models["score"] > models["threshold"]),
        "null_flagged": others.means(nulls["score"] > nulls["threshold"]),
        "rank_p": _rank_p(models, nulls, groups.count),
        "target_hit": those.means(models["target_hit"].eq(True)),
        "window_rank": those.medians(models["window_rank"].astype(float)),
        "null_window_rank": _medians_by_key(of_nulls, groups.count),
        **groups.ends(rows),
    }
    return [Detected(**row) for row in rows_of(columns)]


def _medians_by_key(nulls: pd.DataFrame, count: int) -> list[float]:
    """The median over each group's keys of the median window rank in unmarked models."""
    by_key = nulls["window_rank"].astype(float).groupby([nulls["group"], nulls["cell"]]).median()
    return [float(each) for each in by_key.groupby(level=0).median().reindex(range(count))]


def _rank_p(models: pd.DataFrame, nulls: pd.DataFrame, count: int) -> list[float]:
    """The median over each group's models of their rank among its unmarked models; NaN where either are missing."""
    by_group = dict(list(nulls.dropna(subset="score").groupby("group")["score"]))
    ranks = dict.fromkeys(range(count), math.nan)
    for group, scores in models.dropna(subset="score").groupby("group")["score"]:
        if group in by_group:
            ranks[group] = float(np.median(rank_p_value(scores, by_group[group])))
    return list(ranks.values())
