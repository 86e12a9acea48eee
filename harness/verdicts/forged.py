"""Forged keys: the models that a judge would give to a forger, by rank, and by the false rate of honest keys."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from harness.statistics.exchangeable import at_least, is_marked, margins, mean_rates_without_each
from harness.statistics.tests import binomial_test
from harness.values import SCORED
from harness.verdicts.attacked import ATTACK, Scored, share
from harness.verdicts.board import Forged, Share
from harness.verdicts.groups import Groups, grouped, rows_of
from harness.verdicts.innocents import accused_shares
from harness.verdicts.scoring import fewest

if TYPE_CHECKING:
    from harness.statistics.validate import FloatArray
    from harness.verdicts.references import Flags, Models
    from harness.verdicts.rules import Rules


def forged_of(scored: Scored, forged: pd.Series[bool]) -> list[Forged]:
    """Every scheme's forged keys, asked of the forger's model, of the owner's victim and of unmarked models.

    An unmarked model stands trial by its rank among the others, so that whoever chose the key convicts no more than
    alpha of them. ``innocent_alone`` is a judge who has no models to compare with, and takes the mean false rate of
    the owner's keys for that of any: a binomial test against it, with the same least margin.
    """
    rules, part = scored.rules, scored.of(forged)
    rows, models = part.rows, part.references.unattacked
    keys, groups = grouped(ATTACK, rows)
    asked = rows["status"].eq("ok") & rows["surrogate_trigger_trials"].notna()
    tried = asked & rows["models"].ge(fewest(rules))
    by_rank = _by_rank(models, rules)
    alone = _alone(models, _honest_rates(scored, forged, rows), rules)
    told = asked & rows["surrogate_trigger_trials"].ne(SCORED)  # of a score there is no binomial test
    before = rows["forged_before"].eq(True).to_numpy()[:, np.newaxis]
    columns: dict[str, Iterable[Any]] = {
        **keys,
        "claimed": _seeds(is_marked(rows["p_0"], rows["margin"], rules.alpha, rules.min_margin), tried, groups, rules),
        "owner": _seeds(rows["victim_marked"].to_numpy(dtype=bool), tried, groups, rules),
        "innocent": _models(by_rank, models.counted, tried, groups, rules),
        "innocent_alone": _models(alone, models.counted, told, groups, rules),
        "innocent_committed": _models(alone & before, models.counted, told, groups, rules),
        **groups.ends(rows),
    }
    return [Forged(**row) for row in rows_of(columns)]


def _by_rank(models: Models, rules: Rules) -> Flags:
    """The unmarked models ``[n, k]`` that are marked by their rank among all of them, by each key."""
    rates = mean_rates_without_each(models.matches, models.trials, models.counted)
    left = margins(models.matches, models.trials, rates)
    marked = np.zeros_like(models.counted)
    for row, counted in enumerate(models.counted):
        m, t = models.matches[row], models.trials[row]
        reached = at_least(m, t, np.tile(m, (len(m), 1)), np.tile(t, (len(t), 1)))  # itself among them
        p_values = (reached & counted).sum(axis=1) / max(1, counted.sum())
        marked[row] = is_marked(p_values, left[row], rules.alpha, rules.min_margin) & counted
    return marked


def _alone(models: Models, rates: FloatArray, rules: Rules) -> Flags:
    """The unmarked models ``[n, k]`` that match more often than the false rates ``[n]`` of honest keys tell."""
    known = np.isfinite(rates)[:, np.newaxis]
    assumed = np.nan_to_num(rates)[:, np.newaxis]
    p_values = binomial_test(models.matches, models.trials, np.broadcast_to(assumed, models.matches.shape))
    left = margins(models.matches, models.trials, assumed)
    return np.asarray(known & is_marked(p_values, left, rules.alpha, rules.min_margin))


def _honest_rates(scored: Scored, forged: pd.Series[bool], rows: pd.DataFrame) -> FloatArray:
    """The mean rate of unmarked models on the keys that owners of each row's scheme made; NaN where it is unknown."""
    scheme = ["dataset", "defense"]
    honest = scored.rows[~forged.to_numpy(dtype=bool)].groupby(scheme)["null_rate"].mean()
    found = honest.reindex(pd.MultiIndex.from_frame(rows[scheme])) if len(honest) else None
    return np.full(len(rows), np.nan) if found is None else found.to_numpy(dtype=float)


def _seeds(marked: Flags, tried: pd.Series[bool], groups: Groups, rules: Rules) -> list[Share | None]:
    """Seeds of each group in which a model is marked."""
    keep = tried.to_numpy(dtype=bool)
    counts, of = (np.bincount(groups.places[keep], each[keep], groups.count) for each in (marked, np.ones_like(marked)))
    return [share(count, int(n), rules.confidence) if n else None for count, n in zip(counts, of, strict=True)]


def _models(marked: Flags, counted: Flags, tried: pd.Series[bool], groups: Groups, rules: Rules) -> list[Share | None]:
    """Unmarked models of each group that are convicted: of each the mean over the keys that it was asked, summed."""
    rows, models = np.nonzero(counted & tried.to_numpy(dtype=bool)[:, np.newaxis])
    accused = pd.DataFrame({"accused": marked[rows, models], "model": models})
    return accused_shares(accused, Groups(groups.places[rows], groups.count), rules.confidence)
