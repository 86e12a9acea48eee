"""Verdict on each cell, from its counts and those of the models that it is compared with. No torch.

Every number that is shown of a cell is made here, by the same rules for every scheme: the ranking, comparisons, the
report, the pictures and a reproduction all begin with :func:`score`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from harness.statistics.exchangeable import (
    beta_binomial_p_values,
    fewest_models,
    is_marked,
    key_thresholds,
    margins,
    mean_rates,
    rank_p_values,
)
from harness.statistics.sequential import expected_queries_each
from harness.storage.contents import CONTENTS
from harness.values import SCORED
from harness.verdicts import pooled
from harness.verdicts.families import changes_the_model, kind_of, of_each, threat_of
from harness.verdicts.groups import distinct
from harness.verdicts.references import Models, References, references_of, useful
from harness.verdicts.rules import POOLED

if TYPE_CHECKING:
    from harness.statistics.validate import FloatArray
    from harness.verdicts.references import Counts, Flags
    from harness.verdicts.rules import Rules

CELL_COLUMNS = (
    *("cell", "dataset", "defense", "attack", "seed", "family", "status", "reason", "threat", "knows"),
    *("labelled", "labelled_share", "forged_before"),
    *("null_accuracy", "victim_accuracy", "victim_raw_accuracy", "surrogate_accuracy", "surrogate_pool_accuracy"),
    *("victim_trigger_matches", "victim_trigger_trials", "surrogate_trigger_matches", "surrogate_trigger_trials"),
    *("surrogate_held_out_matches", "surrogate_held_out_trials", "null_trigger_matches", "null_trigger_trials"),
    *("queries", "attack_seconds", "test_samples", "attacked", "embed_seconds", "nulls"),
    *("accuracy_gate", "fingerprint", "options"),
    CONTENTS,
)
"""Columns of the table ``cells`` that verdicts are made of: large tables are read faster by these alone."""
RANKED_ONLY = "A score is compared by rank only: schemes that give scores are left out; type --test rank."
FEWEST_FOR_BETA = 3
"""Unmarked models that the test ``beta-binomial`` takes."""


def score(cells: pd.DataFrame, evidence: pd.DataFrame, rules: Rules) -> pd.DataFrame:
    """``cells`` with what the rules make of each, by the table ``evidence``; the order stays.

    ``kind``, of the family (see :func:`harness.verdicts.families.kind_of`). Rates: ``victim_trigger``,
    ``surrogate_trigger``, ``surrogate_held_out``, ``null_trigger``. ``useful``: the surrogate kept its accuracy.
    ``models``, ``attacked_models``: how many unmarked models it is compared with; ``null_rate``, ``attacked_rate``:
    their mean rates. ``p_0``, ``p_a``, ``p_value``;
    ``false_rate``, ``margin``, ``marked``, and ``verdict``, the reason why there is none; of the victim
    ``victim_margin``, ``victim_marked``, ``victim_verdict``. ``margin_counted`` and ``marked_counted``: those of the
    surrogate, or of the victim where the attack failed. ``counts``: ok, with trigger evidence, and useful; ``tested``:
    and with a verdict. ``to_exceed``, the rate above which a suspect is marked; ``queries_needed``; ``at_budget``; and
    the shares that an attacker reaches: ``kept`` of ``max_drop`` of accuracy, and ``removed`` of trigger answers.
    """
    cells = comparable(cells, rules)
    made = judged(cells, references_of(cells, evidence, rules), rules)
    made["queries_needed"] = queries_needed(made, rules)
    return made


def comparable(cells: pd.DataFrame, rules: Rules) -> pd.DataFrame:
    """The cells that the rules' test can compare: of evidence that is a score only the rank test can."""
    if rules.test == "rank" or "victim_trigger_trials" not in cells:
        return cells
    return cells[~is_score(cells)].reset_index(drop=True)


def is_score(cells: pd.DataFrame) -> pd.Series[bool]:
    """The cells whose evidence is a score, and no count of queries."""
    return cells["victim_trigger_trials"].eq(SCORED)


def judged(cells: pd.DataFrame, references: References, rules: Rules) -> pd.DataFrame:
    """Columns of :func:`score` without ``queries_needed``: of many cells these take longer than all else."""
    made = cells.reindex(columns=list(dict.fromkeys([*cells.columns, *CELL_COLUMNS])))
    # Python's strings, since each is taken often and only a few differ.
    texts = [name for name in made if pd.api.types.is_string_dtype(made[name].dtype)]
    made = made.astype(dict.fromkeys(texts, object))
    for name in (name for name in made if name.endswith("accuracy")):
        made[name] = made[name].astype(float).replace([math.inf, -math.inf], math.nan)  # an untrusted table's
    made = made.assign(kind=of_each(made, "family", kind_of), threat=of_each(made, "family", threat_of))
    _add_rates(made)
    made["useful"] = _useful(made, rules)
    bases = _has_evidence(made)
    made["counts"] = bases & made["useful"]
    pair = Pair(references, of_each(made, "family", changes_the_model).to_numpy(dtype=bool), made)
    _add_victims(made, pair, rules)
    _add_suspects(made, pair, rules)
    attacked, alone = _verdicts(made, pair, rules)
    made["verdict"], made["victim_verdict"] = attacked.where(bases, ""), alone.where(bases, "")
    made["tested"] = made["counts"] & made["verdict"].eq("")
    made["marked"] &= made["tested"]
    for column in ("margin", "marked"):
        made[f"{column}_counted"] = made[column].where(made["useful"], made[f"victim_{column}"])
    _add_reach(made, rules)
    budgets = [] if rules.budget is None else [rules.budget]
    made["at_budget"] = chances_within(made, budgets, rules)[:, 0] if budgets else math.nan
    return made


def _has_evidence(made: pd.DataFrame) -> pd.Series[bool]:
    return made["status"].eq("ok") & made["surrogate_trigger_trials"].notna()


@dataclass(frozen=True)
class Pair:
    """The unmarked models of each cell, as :func:`judged` compares with them."""

    references: References
    is_attacked: Flags
    """Cells whose chain makes another model: their suspects are compared with attacked unmarked models too."""
    cells: pd.DataFrame

    @property
    def unattacked(self) -> Models:
        """Unmarked models that nobody attacked."""
        return self.references.unattacked

    @property
    def attacked(self) -> Models:
        """Unmarked models that went through each cell's chain."""
        return self.references.attacked


def _add_rates(made: pd.DataFrame) -> None:
    """Rates as columns. What could not be read, with no trials, is a mark that is not there."""
    for who, probe in (
        ("victim", "trigger"),
        ("surrogate", "trigger"),
        ("surrogate", "held_out"),
        ("null", "trigger"),
    ):
        matches, trials = (made[f"{who}_{probe}_{what}"].astype(float) for what in ("matches", "trials"))
        made[f"{who}_{probe}"] = (matches / trials).where(trials != 0, 0.0)


def _useful(made: pd.DataFrame, rules: Rules) -> Flags:
    names = ("surrogate_accuracy", "surrogate_pool_accuracy", "victim_accuracy", "null_accuracy")
    own, pool, base, null = (made[name].to_numpy(dtype=float) for name in names)
    return useful(own, pool, base, null, rules.max_drop)


def counts_of(made: pd.DataFrame, who: str) -> tuple[Counts, Counts]:
    """Matches and trials on the triggers as whole numbers, at least one trial; none of one where they are unknown."""
    matches, trials = (made[f"{who}_trigger_{what}"].to_numpy(dtype=float) for what in ("matches", "trials"))
    known = np.nan_to_num(trials) > 0
    return np.where(known, matches, 0).astype(np.int64), np.where(known, trials, 1).astype(np.int64)


def _add_victims(made: pd.DataFrame, pair: Pair, rules: Rules) -> None:
    """Each cell's victim, compared with unattacked unmarked models."""
    matches, trials = counts_of(made, "victim")
    made["models"] = pair.unattacked.counted.sum(axis=1)
    alone = mean_rates(pair.unattacked.matches, pair.unattacked.trials, pair.unattacked.counted)
    alone = np.where(np.isnan(alone), made["null_trigger"].to_numpy(dtype=float), alone)
    made["null_rate"] = alone
    known = made["victim_trigger_trials"].notna().to_numpy()
    made["victim_margin"] = np.where(known, margins(matches, trials, _assumed(alone, rules)), np.nan)
    p_values = p_values_of(matches, trials, pair.unattacked, made, rules)
    few = made["models"].to_numpy() < fewest(rules)
    made["victim_marked"] = ~few & is_marked(p_values, made["victim_margin"], rules.alpha, rules.min_margin)


def _add_suspects(made: pd.DataFrame, pair: Pair, rules: Rules) -> None:
    """Each cell's surrogate, compared with unattacked and attacked unmarked models."""
    matches, trials = counts_of(made, "surrogate")
    made["attacked_models"] = np.where(pair.is_attacked, pair.attacked.counted.sum(axis=1), 0)
    attacked = mean_rates(pair.attacked.matches, pair.attacked.trials, pair.attacked.counted)
    made["attacked_rate"] = np.where(pair.is_attacked, attacked, np.nan)
    made["false_rate"] = _assumed(np.fmax(made["null_rate"], made["attacked_rate"]), rules)
    known = made["surrogate_trigger_trials"].notna().to_numpy()
    made["margin"] = np.where(known, margins(matches, trials, made["false_rate"]), np.nan)
    made["p_0"] = np.where(known, p_values_of(matches, trials, pair.unattacked, made, rules), np.nan)
    compared = known & pair.is_attacked & (rules.test not in POOLED)
    made["p_a"] = np.where(compared, p_values_of(matches, trials, pair.attacked, made, rules), np.nan)
    made["p_value"] = made["p_0"].where(~compared, np.maximum(made["p_0"], made["p_a"]))
    made["marked"] = is_marked(made["p_value"], made["margin"], rules.alpha, rules.min_margin)
    made["to_exceed"] = _thresholds(pair, rules)


def _assumed(measured: Any, rules: Rules) -> FloatArray:
    """The false rates, or the one that the rules assume instead."""
    return np.asarray(measured, dtype=float) if rules.fpr is None else np.full(np.shape(measured), rules.fpr)


def p_values_of(matches: Counts, trials: Counts, models: Models, made: pd.DataFrame, rules: Rules) -> FloatArray:
    """P-values of suspects against a row of unmarked models each. A pooled test takes their counts from ``made``."""
    if rules.test in POOLED:
        nulls = {f"null_{what}": made[f"null_trigger_{what}"].to_numpy(dtype=float) for what in ("matches", "trials")}
        if rules.fpr is not None:
            nulls = {name: np.zeros(len(made)) for name in nulls}
        return pooled.p_values(pd.DataFrame({"matches": matches, "trials": trials, **nulls}), rules)
    test = rank_p_values if rules.test == "rank" else beta_binomial_p_values
    return test(matches, trials, models.matches, models.trials, models.counted)


def fewest(rules: Rules) -> int:
    """Unmarked models without which there is no verdict."""
    if rules.test in POOLED:
        return 0
    return fewest_models(rules.alpha) if rules.test == "rank" else FEWEST_FOR_BETA


def _thresholds(pair: Pair, rules: Rules) -> FloatArray:
    """The rate of each cell's key above which a suspect is marked; NaN where there are too few unmarked models."""
    made = key_thresholds(pair.unattacked.rates, None, rules.alpha, rules.min_margin)
    both = key_thresholds(pair.unattacked.rates, pair.attacked.rates, rules.alpha, rules.min_margin)
    made = np.where(pair.is_attacked, both, made)
    return np.where(np.isfinite(made), made, np.nan)


# --- why there is no verdict ------------------------------------------------------------------------------------------


def _verdicts(made: pd.DataFrame, pair: Pair, rules: Rules) -> list[pd.Series[str]]:
    """The reasons why a cell's surrogate and its victim have no verdict; empty where they have one."""
    if rules.test in POOLED:
        known = made["null_trigger_trials"].fillna(0).gt(0) | (rules.fpr is not None)
        return 2 * [pd.Series(np.where(known, "", "there are no unmarked models"), made.index)]
    rows = made[["models", "attacked_models"]].assign(
        asked=pair.attacked.known.sum(axis=1),
        is_attacked=pair.is_attacked,
        knows=made["knows"].astype(object).fillna(""),
    )
    keys, places = distinct(rows, list(rows))
    records, needed = keys.to_dict("records"), fewest(rules)
    both = [[_verdict(needed, **(key | change)) for key in records] for change in ({}, {"is_attacked": False})]
    return [pd.Series(np.array([*said, ""], dtype=object)[places], made.index) for said in both]


def _verdict(needed: int, *, models: int, attacked_models: int, asked: int, is_attacked: bool, knows: str) -> str:
    """The reason why there is no verdict with so many unmarked models, useful attacked ones, and asked ones."""
    if models < needed:
        return f"needs {needed} unmarked models, has {models}"
    if not is_attacked:
        return ""
    if not asked:
        return "knows the key" if knows == "key" else "no unmarked model went through it"
    if 2 * attacked_models < asked:
        return f"leaves {attacked_models} of {asked} unmarked models useful"
    if attacked_models < needed:
        return f"needs {needed} attacked unmarked models that are useful, has {attacked_models}"
    return ""


# --- queries and budgets ----------------------------------------------------------------------------------------------


def queries_needed(scored: pd.DataFrame, rules: Rules) -> pd.Series[float]:
    """Expected queries of a sequential verification of each tested model at its measured rate; else NaN."""
    tested = scored[scored["tested"] & ~is_score(scored)]
    rates, limits = (tested[name].to_numpy(dtype=float) for name in ("surrogate_trigger", "to_exceed"))
    return pd.Series(sequential_queries(rates, limits, rules.gamma), index=tested.index).reindex(scored.index)


def sequential_queries(rates: FloatArray, limits: FloatArray, gamma: float) -> FloatArray:
    """Expected queries of the sequential test of "rate <= limit" to models of these rates, as of
    :func:`harness.statistics.exchangeable.expected_queries_above`; NaN where a number is."""
    made = np.full(rates.shape, np.nan)
    known = ~(np.isnan(rates) | np.isnan(limits))
    pairs, places = np.unique(np.stack([rates[known], limits[known]]), axis=1, return_inverse=True)
    made[known] = expected_queries_each(pairs[0], pairs[1], 1 - gamma)[places]
    return made


def chances_within(scored: pd.DataFrame, budgets: Sequence[int], rules: Rules) -> FloatArray:
    """The chance that each row's model is marked within so many trigger queries, were each answered at the rate that
    was measured: rows by budgets, NaN where nothing was tested. ``scored`` is what :func:`score` made by these rules.
    """
    from scipy.special import bdtrc

    asked = np.array(budgets, dtype=np.intp)
    made = np.full((len(scored), len(asked)), np.nan)
    tested = scored["tested"] & ~is_score(scored) & (rules.test != "beta-binomial")  # which has no rate to exceed
    tested = tested.to_numpy(dtype=bool)
    rows = scored[tested]
    if len(rows):
        rates = rows["surrogate_trigger"].to_numpy(dtype=float)
        made[tested] = bdtrc(_fewest_matches(rows, asked, rules) - 1, asked, rates[:, np.newaxis])
    return made


def _fewest_matches(rows: pd.DataFrame, asked: Any, rules: Rules) -> FloatArray:
    """The fewest matches of each number of queries that are marked: rows by budgets; one more than were asked where
    none are enough."""
    false = rows["false_rate"].to_numpy(dtype=float)[:, np.newaxis]
    for_margin = np.ceil(asked * (false + rules.min_margin * (1 - false)) - 1e-9)
    if rules.test in POOLED:
        nulls, places = distinct(rows, ["null_trigger_matches", "null_trigger_trials"])
        enough = pooled.fewest_matches(nulls.fillna(0), asked, rules)[places]
        return np.asarray(np.maximum(enough, for_margin), dtype=float)
    to_exceed = rows["to_exceed"].to_numpy(dtype=float)[:, np.newaxis]
    above = np.floor(asked * to_exceed + 1e-9) + 1
    return np.asarray(np.where(np.isnan(to_exceed), asked + 1, np.maximum(above, for_margin)), dtype=float)


def _add_reach(made: pd.DataFrame, rules: Rules) -> None:
    """Shares of what an attacker reaches: of the accuracy that may be lost, what is kept; and of the mark, what is
    gone."""
    accuracy = made["surrogate_accuracy"].astype(float)
    base = np.fmin(made["victim_accuracy"].astype(float), made["null_accuracy"].astype(float))
    lost = (base - np.fmin(accuracy, made["surrogate_pool_accuracy"].astype(float))).clip(0.0, rules.max_drop)
    made["kept"] = (1.0 - lost / (rules.max_drop or 1.0)).where(accuracy.notna())
    made["removed"] = 1.0 - made["surrogate_trigger"]
