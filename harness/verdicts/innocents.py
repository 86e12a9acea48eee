"""Innocent models, asked the keys of every scheme: how many are called marked. The unit is the model, not the pair.

Keys of one scheme agree on which innocent models look marked, so that more keys add nothing: the verdicts of many keys
on one model count as their mean.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from harness.statistics.exchangeable import beta_binomial_p_values, is_marked, margins, rank_p_values
from harness.verdicts import pooled
from harness.verdicts.attacked import share
from harness.verdicts.board import INNOCENTS, Innocent, Share, Suspects
from harness.verdicts.groups import Groups, grouped, rows_of
from harness.verdicts.rules import POOLED
from harness.verdicts.scoring import fewest

if TYPE_CHECKING:
    from harness.statistics.validate import FloatArray
    from harness.verdicts.attacked import Scored
    from harness.verdicts.groups import Places
    from harness.verdicts.references import Models
    from harness.verdicts.rules import Rules

WORDS: Mapping[str, Suspects] = {
    "fresh": "fresh",
    "other-recipe": "other recipe",
    "same-data": "same data",
    "other-owner": "other owners",
}
_AT_ONCE = 100_000
"""Innocents that are compared together: each with a row of unmarked models."""
_GROUP = ["dataset", "defense", "suspects", "attack"]


def accused_of(scored: Scored) -> pd.DataFrame:
    """The useful innocents, a row a cell and model: its labels, ``suspects``, ``model``, ``margin``, ``accused``.

    Those of cells without a verdict are left out: nobody can be accused with too few unmarked models.
    """
    rows, rules = scored.rows, scored.rules
    found = scored.references.innocents
    said = rows["verdict"].eq("") & rows["status"].eq("ok")
    found = found[found["useful"].to_numpy(dtype=bool) & said.to_numpy()[found["place"].to_numpy(dtype=np.intp)]]
    places = found["place"].to_numpy(dtype=np.intp)
    matches, trials = (found[name].to_numpy(dtype=np.int64) for name in ("matches", "trials"))
    made = rows.iloc[places][["dataset", "defense", "attack", "seed", "kind"]].reset_index(drop=True)
    made["suspects"] = found["suspect"].map(WORDS).to_numpy()
    made["model"] = (found["arm"].astype(str) + " #" + found["index"].astype(str)).to_numpy()
    made["margin"] = margins(matches, trials, rows["false_rate"].to_numpy(dtype=float)[places])
    p_values = np.empty(len(found))
    for first in range(0, len(found), _AT_ONCE):
        some = slice(first, first + _AT_ONCE)
        p_values[some] = _p_values(matches[some], trials[some], scored, places[some])
    made["accused"] = is_marked(p_values, made["margin"], rules.alpha, rules.min_margin)
    return made


def _p_values(matches: Places, trials: Places, scored: Scored, places: Places) -> FloatArray:
    """P-values of innocents against the unmarked models, attacked and not, of the cells at these places."""
    rules = scored.rules
    if rules.test in POOLED:
        rows = scored.rows[["null_trigger_matches", "null_trigger_trials"]].iloc[places]
        nulls = {name: rows[f"null_trigger_{name[5:]}"].to_numpy(dtype=float) for name in pooled.COUNTS[2:]}
        if rules.fpr is not None:
            nulls = {name: np.zeros(len(rows)) for name in nulls}
        return pooled.p_values(pd.DataFrame({"matches": matches, "trials": trials, **nulls}), rules)
    compared = scored.rows["attacked_models"].to_numpy()[places] >= fewest(rules)
    alone, attacked = (_against(each.of(places), matches, trials, rules) for each in _models(scored))
    return np.where(compared, np.fmax(alone, attacked), alone)


def _models(scored: Scored) -> tuple[Models, Models]:
    return scored.references.unattacked, scored.references.attacked


def _against(models: Models, matches: Places, trials: Places, rules: Rules) -> FloatArray:
    test = rank_p_values if rules.test == "rank" else beta_binomial_p_values
    return test(matches, trials, models.matches, models.trials, models.counted)


def innocents_of(accused: pd.DataFrame, confidence: float) -> list[Innocent]:
    """Innocent models that are accused: by data set, scheme, sort of suspects and attack."""
    keys, groups = grouped(_GROUP, accused)
    shares = accused_shares(accused, groups, confidence)
    rows = rows_of({**keys, "accused": shares, "keys": groups.unique(accused["seed"])})
    order = {name: place for place, name in enumerate(dict.fromkeys([*keys["defense"], *INNOCENTS]))}
    return sorted((Innocent(**row) for row in rows), key=lambda each: (order[each.defense], order[each.suspects]))


def accused_shares(accused: pd.DataFrame, groups: Groups, confidence: float) -> list[Share | None]:
    """Accused models of each group: of each model the mean over the keys that it was asked, summed."""
    means = accused["accused"].astype(float).groupby([groups.places, accused["model"].to_numpy()]).mean()
    by_group = means.groupby(level=0).agg(["sum", "size"]).reindex(range(groups.count), fill_value=0)
    return [share(count, int(of), confidence) if of else None for count, of in by_group.to_numpy().tolist()]


# --- marked, but not by whom ------------------------------------------------------------------------------------------


def anonymous_schemes(
    accused: pd.DataFrame, victims: Mapping[tuple[str, str], Share], rules: Rules
) -> set[tuple[str, str]]:
    """Schemes whose keys do not tell their owner's models from other owners'.

    Models of other owners, as they are, are accused at least half as often as the scheme's own victims are marked, and
    beyond chance: the lower limit of their share lies above alpha. Where only attacked models of other owners were
    asked, these stand for them.
    """
    others = accused[accused["suspects"] == "other owners"]
    found = set()
    for scheme, rows in others.groupby(["dataset", "defense"], sort=False):
        untouched = rows[rows["kind"] == "none"]
        asked = rows if untouched.empty else untouched
        (made,) = accused_shares(asked, Groups(np.zeros(len(asked), dtype=np.intp), 1), rules.confidence)
        own = victims.get(scheme)
        if made and own and own.of and made.low > rules.alpha and made.count / made.of >= own.count / own.of / 2:
            found.add(scheme)
    return found
