"""The leaderboard: from the tables ``cells``, ``evidence``, ``detections`` and ``stages`` to its plain values.

The unit of inference is the seed: a scheme's number is a mean over seeds of what each seed's cells say. Attacks of
different kinds are not averaged: those that make another model decide over the ranks; an evasion leaves the mark in
the model and hides it, a detector leaves the model as it is, and both stand apart.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pandas as pd

from harness.errors import UsageError
from harness.storage.contents import mixed
from harness.verdicts.attacked import Scored, attacked_of
from harness.verdicts.board import Board, Scheme
from harness.verdicts.families import is_unmarked, of_each
from harness.verdicts.foot import feet_of
from harness.verdicts.forged import forged_of
from harness.verdicts.groups import distinct
from harness.verdicts.hidden import detected_of, evaded_of
from harness.verdicts.innocents import accused_of, anonymous_schemes, innocents_of
from harness.verdicts.references import references_of
from harness.verdicts.rules import POOLED, Rules
from harness.verdicts.schemes import schemes_of
from harness.verdicts.scoring import RANKED_ONLY, comparable, judged
from harness.verdicts.settings import settings_of

STAGE_COLUMNS = ("machine", "device", "threads", "torch", "harness")
"""Columns of ``stages`` for a board, beside :data:`harness.verdicts.schemes.COST_COLUMNS`."""
KEY = ["dataset", "defense", "attack", "seed"]


def make_board(
    cells: pd.DataFrame,
    evidence: pd.DataFrame,
    detections: pd.DataFrame,
    stages: pd.DataFrame,
    rules: Rules,
    *,
    intervals: bool = True,
) -> Board:
    """Rank the schemes of the tables of these names. Raises :class:`UsageError` when there are no cells.

    Without ``intervals`` those of single attacks' rates are NaN: of thousands they take longer than all else.
    """
    if cells.empty:
        raise UsageError("no results yet: type harness run --matrix smoke")
    # By seed: sums of the same numbers in another order differ in their last digits.
    cells = cells.drop_duplicates(KEY, keep="last").sort_values("seed", kind="stable", ignore_index=True)
    all_cells, cells = cells, comparable(cells, rules)
    nobody = of_each(cells, "defense", is_unmarked).astype(bool)
    marked, unmarked = cells[~nobody].reset_index(drop=True), cells[nobody]
    references = references_of(marked, evidence, rules)
    scored = Scored(judged(marked, references, rules), references, rules)
    kinds = scored.rows["kind"]
    hidden, detected, forged = ((kinds == kind) for kind in ("evasion", "detection", "forgery"))
    attacked, groups = attacked_of(rest := scored.of(~hidden & ~detected & ~forged), intervals=intervals)
    schemes = schemes_of(rest, attacked, groups, stages)
    accused = accused_of(scored)
    schemes = _with_owners(schemes, accused, rules)
    found = scored.rows[detected]
    return Board(
        rules=rules,
        settings=settings_of(scored.rows, evidence, schemes, rules),
        schemes=_in_order([*schemes, *feet_of(accused, attacked, scored.rows, unmarked, rules)]),
        attacks=attacked,
        innocents=innocents_of(accused, rules.confidence),
        evasions=evaded_of(scored.of(hidden), intervals=intervals) if hidden.any() else [],
        detections=detected_of(found, detections) if len(found) else [],
        forgeries=forged_of(scored, forged) if forged.any() else [],
        machines=machines(stages),
        notes=[
            *mixed(cells),
            *([RANKED_ONLY] if len(cells) < len(all_cells) else []),
            *_notes(scored.rows, bool(references.attacked.known.any()), rules),
        ],
    )


def _with_owners(schemes: list[Scheme], accused: pd.DataFrame, rules: Rules) -> list[Scheme]:
    """The schemes, with those flagged whose keys do not tell owners apart."""
    victims = {(each.dataset, each.defense): each.victims for each in schemes}
    found = anonymous_schemes(accused, victims, rules)
    return [replace(each, anonymous=(each.dataset, each.defense) in found) for each in schemes]


def _in_order(schemes: list[Scheme]) -> list[Scheme]:
    """The schemes by data set: ranked ones first, by rank and worst case, then the others, then fingerprints in the
    same order, then ``unmarked``."""
    datasets = {name: place for place, name in enumerate(dict.fromkeys(each.dataset for each in schemes))}
    return sorted(schemes, key=lambda each: (datasets[each.dataset], is_unmarked(each.defense), *_place(each)))


def _place(scheme: Scheme) -> tuple[float, ...]:
    """Ranks in both threat models, then in each, and the worst case; missing ones last."""
    standings = [scheme.standings[threat] for threat in ("both", "black box", "white box")]
    ranks = [math.inf if each.rank is None else each.rank for each in standings]
    worst = [-each.worst.mean if each.worst else math.inf for each in standings]
    return (scheme.fingerprint, scheme.gate == "fails", all(rank == math.inf for rank in ranks), *ranks, *worst)


def _notes(rows: pd.DataFrame, any_attacked: bool, rules: Rules) -> list[str]:
    """Notes that a reader needs of the tables as a whole."""
    notes = []
    if rows.empty:
        notes.append("No scheme has results here, only the arm unmarked: run one with harness run --defense NAME.")
    attacks = rows["kind"].isin(["survival", "evasion"]) & rows["status"].eq("ok")
    if rules.test not in POOLED and attacks.any() and not any_attacked:
        notes.append(
            "No unmarked model went through the attacks, as in tables of an older version: nothing is called marked "
            "after an attack. Run the matrix again with harness run."
        )
    return notes


def machines(stages: pd.DataFrame) -> list[str]:
    """The machines and versions behind the numbers, the most used first."""
    ran, places = distinct(stages[stages["machine"].notna()], list(STAGE_COLUMNS))
    threads = ran["threads"].astype("Int64").astype(str)
    torch, harness = ran["torch"], ran["harness"]
    texts = ran["machine"] + ", " + ran["device"] + ", " + threads + " thread(s), torch " + torch
    texts = texts + ", watermark-harness " + harness
    most_used = np.argsort(-np.bincount(places), kind="stable")
    return [str(text) for text in texts.iloc[most_used].dropna()]
