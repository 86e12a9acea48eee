"""The foot of the board: the arm ``unmarked``, a scheme that embeds nothing, judged like all others.

Its models are the fresh innocents. One stands where a seed of a scheme does, with the mean of its margins over the
keys of all schemes, so that its worst case, and the attacks that it "survives", are what chance gives.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from harness.statistics.margins import cost_interval, gate, seeds_interval
from harness.verdicts.attacked import estimate, survival_of
from harness.verdicts.board import Attacked, Scheme
from harness.verdicts.families import UNMARKED
from harness.verdicts.groups import Groups, grouped
from harness.verdicts.innocents import accused_shares
from harness.verdicts.schemes import no_share
from harness.verdicts.standings import Arms, standings_of

if TYPE_CHECKING:
    from harness.statistics.validate import FloatArray
    from harness.verdicts.board import Share
    from harness.verdicts.rules import Rules

EMBEDS_NOTHING = "embeds nothing: what chance gives"


def feet_of(
    accused: pd.DataFrame, attacked: list[Attacked], marked: pd.DataFrame, unmarked: pd.DataFrame, rules: Rules
) -> list[Scheme]:
    """The row of each data set with fresh innocents.

    Its cost is the accuracy of the models that schemes are compared with, by the ``marked`` cells, less that of the
    arm's own cells, ``unmarked``.
    """
    fresh = accused[accused["suspects"] == "fresh"]
    cells = unmarked[(unmarked["status"] == "ok") & (unmarked["defense"] == UNMARKED)]
    made = []
    for dataset, rows in fresh.groupby("dataset", sort=False):
        null = marked.loc[marked["dataset"] == dataset, "null_accuracy"].astype(float).mean()
        own = cells[cells["dataset"] == dataset].drop_duplicates("seed")["victim_accuracy"].astype(float)
        costs = (null - own).to_numpy(dtype=float)
        made.append(_foot(str(dataset), rows, attacked, costs[np.isfinite(costs)], rules))
    return made


def _foot(dataset: str, fresh: pd.DataFrame, attacked: list[Attacked], costs: FloatArray, rules: Rules) -> Scheme:
    keys, groups = grouped(["attack"], fresh)
    shares = dict(zip(keys["attack"], accused_shares(fresh, groups, rules.confidence), strict=True))
    untouched = fresh[fresh["kind"] == "none"]
    (victims,) = accused_shares(untouched, Groups(np.zeros(len(untouched), np.intp), 1), rules.confidence)
    margins = untouched.groupby("model", sort=False)["margin"].mean()
    mine = list(_as_attacked(dataset, attacked, shares))
    arms = _arms(fresh, mine)
    return Scheme(
        dataset=dataset,
        defense=UNMARKED,
        fingerprint=False,
        seeds=fresh["model"].nunique(),
        standings=standings_of(arms, {UNMARKED}, rules)[UNMARKED],
        victims=victims or no_share(),
        victim_margin=estimate(seeds_interval(margins.to_numpy(dtype=float), None, rules.confidence)),
        cost=estimate(cost_interval(costs, rules.confidence)),
        raw_cost=None,
        gate=gate(costs, rules.max_cost, rules.confidence),
        no_rank=EMBEDS_NOTHING,
        anonymous=False,
        useless_key=False,
        **dict.fromkeys(
            ("false_rate", "embed_seconds", "embed_samples", "null_seconds", "null_samples", "hypervolume", "at_budget")
        ),
    )


def _as_attacked(dataset: str, attacked: list[Attacked], shares: dict[str, Share | None]) -> Iterator[Attacked]:
    """The attacks on fresh models, each like that on some scheme in which it counts."""
    known = {each.attack: each for each in attacked if each.dataset == dataset and not each.no_attack and each.n}
    for attack, share in shares.items():
        if attack in known and share:
            yield replace(known[attack], defense=UNMARKED, n=share.of, marked=share, survival=survival_of(share))


def _arms(fresh: pd.DataFrame, mine: list[Attacked]) -> Arms:
    """Fresh models in the place of seeds. Where an attack broke one, its margin without attacks counts."""
    numbers = {model: number for number, model in enumerate(sorted(fresh["model"].unique()))}
    means = fresh.groupby(["attack", "model"], sort=False)["margin"].mean()
    untouched = fresh[fresh["kind"] == "none"].groupby("model")["margin"].mean()
    cells: dict[str, dict[int, tuple[int, float, float]]] = {}
    for each in mine:
        found = means[each.attack]
        for model, number in numbers.items():
            kept = model in found.index
            margin = float(found[model] if kept else untouched.get(model, math.nan))
            cells.setdefault(each.attack, {})[number] = (0, margin, margin if kept else 0.0)
    own = {UNMARKED: set(numbers.values())}
    return Arms(mine, tuple(numbers.values()), {UNMARKED: cells}, np.empty((1, 0)), {UNMARKED: {}}, own)
