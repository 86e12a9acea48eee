"""One scheme under one attack, over its seeds.

The unit of inference is the seed. A surrogate that lost its accuracy is an attack that failed: it counts with its
victim's own margin and verdict on that seed, neither as a whole mark nor as a missing one.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy import special

from harness.statistics.exchangeable import (
    is_marked,
    margins,
    marked_by_chance,
    rank_p_values_without_each,
    share_bounds,
)
from harness.statistics.margins import SeedsInterval, seeds_intervals
from harness.verdicts.board import Attacked, Estimate, Share, Survival
from harness.verdicts.families import plugins_of
from harness.verdicts.groups import Groups, grouped, rows_of
from harness.verdicts.no_attacks import reasons
from harness.verdicts.references import References
from harness.verdicts.scoring import counts_of, is_score, sequential_queries

if TYPE_CHECKING:
    from harness.statistics.validate import FloatArray
    from harness.verdicts.references import Flags
    from harness.verdicts.rules import Rules

ATTACK = ["dataset", "defense", "attack"]


@dataclass(frozen=True)
class Scored:
    """Scored cells, one a scheme, attack and seed and in the order of the seeds, with what they are compared with."""

    rows: pd.DataFrame
    """Frame of :func:`harness.verdicts.scoring.judged`, numbered from 0."""
    references: References
    rules: Rules

    def of(self, keep: pd.Series[bool]) -> Scored:
        """Those of some of the rows; their innocents are left out."""
        places = np.flatnonzero(keep.to_numpy(dtype=bool))
        found = self.references
        some = References(found.unattacked.of(places), found.attacked.of(places), found.innocents.iloc[:0])
        return Scored(self.rows.iloc[places].reset_index(drop=True), some, self.rules)

    def margins_without_each(self) -> FloatArray:
        """The margin that counts of each cell without each unmarked model in turn, shape [n, k].

        NaN for a model that was not asked.
        """
        false, alone = self.references.false_rates_without_each()
        suspects, victims = (_columns(self.rows, who) for who in ("surrogate", "victim"))
        if self.rules.fpr is not None:
            false, alone = (np.where(np.isnan(each), np.nan, self.rules.fpr) for each in (false, alone))
        useful = self.rows["useful"].to_numpy(dtype=bool)[:, np.newaxis]
        return np.where(useful, margins(*suspects, false), margins(*victims, alone))


def _columns(rows: pd.DataFrame, who: str) -> tuple[Any, Any]:
    matches, trials = counts_of(rows, who)
    return matches[:, np.newaxis], trials[:, np.newaxis]


def estimate(made: SeedsInterval) -> Estimate | None:
    """The interval as a board shows it; ``None`` of no seeds."""
    return Estimate(made.n, made.mean, made.sd, made.low, made.high) if made.n else None


def share(count: float, of: int, confidence: float) -> Share:
    """Share with one-sided limits; a count that is not whole is rounded away from what the limit would show."""
    low, _ = share_bounds(math.floor(count + 1e-9), of, confidence)
    _, high = share_bounds(min(math.ceil(count - 1e-9), of), of, confidence)
    return Share(float(count), of, float(low), float(high))


def survival_of(made: Share | None) -> Survival:
    """``survived`` where most of new seeds would be marked, ``removed`` where most would not, else undecided."""
    if made is None or not made.of:
        return ""
    return "survived" if made.low > 0.5 else "removed" if made.high < 0.5 else "undecided"


def attacked_of(scored: Scored, *, intervals: bool = True) -> tuple[list[Attacked], Groups]:
    """Each scheme under each attack, and which of them each of the rows is of."""
    rows, rules = scored.rows, scored.rules
    keys, groups = grouped([*ATTACK, "family", "threat"], rows)
    ok = rows["surrogate_trigger_trials"].notna() & rows["status"].eq("ok")
    counting, those = rows[rows["counts"]], groups.of(rows["counts"])
    evident = scored.of(ok)
    marked = marked_shares(evident, groups.of(ok))
    models = _models(rows[ok], groups.of(ok))
    asked = counting["tested"] & ~is_score(counting)
    columns: dict[str, Iterable[Any]] = {
        **keys,
        "plugins": [plugins_of(attack) for attack in keys["attack"]],
        "n": groups.totals(rows["status"] == "ok"),
        "useful": groups.totals((rows["status"] == "ok") & rows["useful"]),
        "success": those.summaries(counting["surrogate_trigger"], intervals),
        "distribution": those.distributions(counting["surrogate_trigger"]),
        "held_out": those.summaries(counting["surrogate_held_out"], intervals),
        "accuracy": groups.summaries(rows["surrogate_accuracy"], intervals),
        "drop": groups.summaries(rows["victim_accuracy"] - rows["surrogate_accuracy"], intervals),
        "attack_queries": groups.summaries(rows["queries"].astype(float), intervals),
        "attack_seconds": groups.summaries(rows["attack_seconds"].astype(float), intervals),
        "margin": margins_over_seeds(evident, groups.of(ok)),
        "false_rate": groups.of(ok).means(rows.loc[ok, "false_rate"]),
        "marked": marked,
        "most": _most(evident, groups.of(ok), marked),
        "by_chance": _by_chance(marked, models["models"], rules),
        "survival": [survival_of(each) for each in marked],
        "verdict": groups.of(ok).first(rows.loc[ok, "verdict"]),
        **models,
        "queries": _middle_queries(counting[asked], those.of(asked), rules),
        "no_attack": reasons(rows, scored.references.attacked, groups, rules),
        "at_budget": those.of(counting["tested"]).means(counting.loc[counting["tested"], "at_budget"]),
        **groups.ends(rows),
    }
    return [Attacked(**row) for row in rows_of(columns)], groups


def margins_over_seeds(evident: Scored, groups: Groups) -> list[Estimate | None]:
    """The margin of each group over its seeds, with the error of the unmarked models that the seeds share."""
    values = groups.table(evident.rows["margin_counted"].to_numpy(dtype=float))
    without = groups.mean_rows(evident.margins_without_each())
    return [estimate(each) for each in seeds_intervals(values, without, evident.rules.confidence)]


def marked_shares(evident: Scored, groups: Groups) -> list[Share | None]:
    """Seeds of each group that count as marked; ``None`` where some seed has no verdict."""
    rows, confidence = evident.rows, evident.rules.confidence
    counts = np.bincount(groups.places, rows["marked_counted"].to_numpy(dtype=float), groups.count)
    unsaid = np.array(groups.totals(rows["verdict"].ne("")))
    seeds = np.bincount(groups.places, minlength=groups.count)
    lows, highs = share_bounds(counts, seeds, confidence)
    known = (seeds > 0) & (unsaid == 0)
    return [
        Share(*each) if said else None
        for said, *each in zip(known, counts.tolist(), seeds.tolist(), lows.tolist(), highs.tolist(), strict=True)
    ]


def _most(evident: Scored, groups: Groups, marked: list[Share | None]) -> list[int]:
    """The most seeds of each group that are marked when one unmarked model is left out."""
    without = groups.mean_rows(_marked_without_each(evident).astype(float)).max(axis=1, initial=0.0)
    seeds = np.bincount(groups.places, minlength=groups.count)
    most = np.rint(np.nan_to_num(without) * seeds).tolist()
    return [int(max(other, share.count if share else 0)) for other, share in zip(most, marked, strict=True)]


def _marked_without_each(evident: Scored) -> Flags:
    """Cells that count as marked were each unmarked model in turn silent, shape [n, k]; at the same margins."""
    rows, rules = evident.rows, evident.rules
    if rules.test != "rank":
        return np.zeros((len(rows), 1), dtype=np.bool_)
    models, made = (evident.references.unattacked, evident.references.attacked), {}
    for who, margin in (("surrogate", "margin"), ("victim", "victim_margin")):
        first, second = (
            rank_p_values_without_each(*counts_of(rows, who), each.matches, each.trials, each.counted)
            for each in models
        )
        p_values = first if who == "victim" else np.fmax(first, second)
        made[who] = is_marked(p_values, rows[[margin]].to_numpy(dtype=float), rules.alpha, rules.min_margin)
    return np.where(rows["useful"].to_numpy(dtype=bool)[:, np.newaxis], made["surrogate"], made["victim"])


def _models(rows: pd.DataFrame, groups: Groups) -> dict[str, list[int]]:
    """Fewest unmarked models, and useful attacked ones, over the seeds of each group."""
    fewest = (rows[name].groupby(groups.places).min() for name in ("models", "attacked_models"))
    return {str(each.name): each.reindex(range(groups.count), fill_value=0).astype(int).tolist() for each in fewest}


def _by_chance(marked: list[Share | None], models: list[int], rules: Rules) -> list[float]:
    """Chance of so many marked seeds or more without a mark: each number of unmarked models at once; else NaN."""
    made = np.full(len(marked), np.nan)
    if rules.test != "rank":
        return made.tolist()
    known = np.array([share is not None for share in marked], dtype=np.bool_)
    ks = np.array(models)
    for k in np.unique(ks[known]):
        some = np.flatnonzero(known & (ks == k))
        shares = [share for share in (marked[i] for i in some) if share]
        made[some] = marked_by_chance([s.count for s in shares], [s.of for s in shares], rules.alpha, int(k))
    return made.tolist()


# --- queries to verify the model in the middle ------------------------------------------------------------------------


def _middle_queries(tested: pd.DataFrame, groups: Groups, rules: Rules) -> list[float]:
    """Expected queries of a sequential verification of each group's model in the middle; of two, the one that takes
    more. NaN where there is none.

    Models are ordered by Wald's approximation, and the number is exact for the one in the middle.
    """
    rates, limits = (tested[name].to_numpy(dtype=float) for name in ("surrogate_trigger", "to_exceed"))
    order = np.lexsort((-_information(rates, limits), groups.places))
    sizes = np.bincount(groups.places, minlength=groups.count)
    middles = order[(np.cumsum(sizes) - sizes + sizes // 2)[sizes > 0]]
    made = np.full(groups.count, np.nan)
    made[sizes > 0] = sequential_queries(rates[middles], limits[middles], rules.gamma)
    return made.tolist()


def _information(rates: FloatArray, limits: FloatArray) -> FloatArray:
    """Information of a query about "rate <= limit", in nats; 0 where the rate is not above the limit."""
    with np.errstate(invalid="ignore"):
        nats = special.rel_entr(rates, limits) + special.rel_entr(1 - rates, 1 - limits)
    return np.where(rates > limits, nats, 0.0)
