"""Frames of the leaderboard's verdicts, as pictures ask for them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from harness.verdicts.board import INNOCENTS

if TYPE_CHECKING:
    from harness.figures.shown import Shown
    from harness.verdicts.board import Share


def dots(rows: pd.DataFrame, unit: str, more: Sequence[str] = ()) -> pd.DataFrame:
    """The rows in the columns that dots ask for, and ``more``."""
    return rows.assign(unit=unit)[["panel", "label", "series", "seed", "value", "unit", *more]]


def margins(shown: Shown) -> pd.DataFrame:
    """The margin of each seed, the victim's own where the attack failed, and the leaderboard's interval: of fewer than
    five seeds there is none."""
    rows = shown.ended.assign(label=shown.ended["attack"], value=shown.ended["margin_counted"])
    keys = ["panel", "series", "attack"]
    known = [*(shown.board.attacks if shown.board else ()), *(shown.board.evasions if shown.board else ())]
    ends = pd.DataFrame(
        [
            (each.dataset, each.defense, each.attack, 100 * each.margin.low, 100 * each.margin.high)
            for each in known
            if each.margin
        ],
        columns=[*keys, "low", "high"],
    )
    made = rows.dropna(subset="value").merge(ends, on=keys, how="left")
    return dots(made, "margin (%): 100 is a whole mark, 0 is chance", ["low", "high"])


def innocents(shown: Shown) -> pd.DataFrame:
    """The share of innocent models that each scheme's keys call marked, with its limits: as they are, and after the
    attack under which most are."""
    made: dict[tuple[str, str, str], Share] = {}
    for each in shown.board.innocents if shown.board else ():
        if each.accused is not None:
            label = each.suspects if each.attack == "none" else f"{each.suspects}, after the worst attack"
            key = each.dataset, each.defense, label
            made[key] = max(made.get(key, each.accused), each.accused, key=lambda share: share.count / share.of)
    labels = [label for name in INNOCENTS for label in (name, f"{name}, after the worst attack")]
    rows = [
        (*key, 100 * share.count / share.of, 100 * share.low, 100 * share.high)
        for key, share in sorted(made.items(), key=lambda item: (item[0][0], labels.index(item[0][2])))
    ]
    named = pd.DataFrame(rows, columns=["panel", "series", "label", "value", "low", "high"])
    return named.assign(unit="innocent models called marked (%)")


def ranked(shown: Shown, rows: pd.DataFrame) -> pd.DataFrame:
    """The rows under attacks that enter ranks."""
    board = shown.board.attacks if shown.board else ()
    named = {(each.dataset, each.defense, each.attack) for each in board if not each.no_attack}
    names = zip(rows["panel"], rows["series"], rows["attack"], strict=True)
    return rows[np.array([name in named for name in names], dtype=bool)]
