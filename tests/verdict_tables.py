"""Hand-made tables whose verdicts are known: cells with the evidence behind them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from harness.storage.schema import CELLS, DETECTIONS, EVIDENCE, STAGES
from harness.verdicts.board import Attacked, Board, Innocent, Scheme, Standing
from harness.verdicts.boards import make_board
from harness.verdicts.rules import Rules
from harness.verdicts.scoring import score

QUIET = (2,) * 19
"""Nineteen unmarked models that answer 2 of 100."""


class World:
    """A data set's cells and their evidence; trials are 100 where nothing else is said."""

    def __init__(self) -> None:
        self.cells: list[dict[str, Any]] = []
        self.evidence: list[dict[str, Any]] = []
        self.found: list[dict[str, Any]] = []

    def cell(
        self,
        defense: str = "a",
        attack: str = "retraining",
        seed: int = 0,
        matches: int | None = 80,
        *,
        nulls: Sequence[int] = QUIET,
        attacked: Sequence[int] | None = QUIET,
        attacked_accuracy: Sequence[float] | float = 0.96,
        trials: int = 100,
        victim: int | None = None,
        **changes: Any,
    ) -> World:
        """Add a cell that is ok, and what unmarked models, attacked and not, answered to its key."""
        family = {"none": "none", "retraining": "extraction"}.get(attack, "removal")
        row = {
            **{"cell": f"{defense} {attack} {seed}", "dataset": "d", "defense": defense, "attack": attack},
            **{"seed": seed, "family": family, "status": "ok", "reason": "", "knows": "nothing"},
            **{"labelled": False, "labelled_share": None},
            **{"null_accuracy": 0.97, "victim_accuracy": 0.96, "victim_raw_accuracy": 0.96},
            **{"surrogate_accuracy": 0.95, "surrogate_pool_accuracy": None, "test_samples": 10000},
            **{
                "victim_trigger_matches": trials if victim is None else victim,
                "victim_trigger_trials": trials,
                "embed_seconds": 1.0,
            },
            **{"surrogate_trigger_matches": matches, "surrogate_trigger_trials": None if matches is None else trials},
            **{"surrogate_held_out_matches": 7, "surrogate_held_out_trials": 10, "nulls": len(nulls)},
            **{"null_trigger_matches": sum(nulls), "null_trigger_trials": trials * len(nulls)},
        } | changes
        self.cells.append(row)
        if row["status"] != "ok":
            lost = [name for name in row if name.endswith(("matches", "trials", "accuracy"))]
            row.update(dict.fromkeys(lost))
            return self
        for index, count in enumerate(nulls):
            self.suspect(row["cell"], "null", index, count, trials)
        accuracies = [attacked_accuracy] * 99 if isinstance(attacked_accuracy, float) else attacked_accuracy
        for index, count in enumerate((() if attack == "none" else attacked) or ()):
            self.suspect(row["cell"], "attacked", index, count, trials, accuracy=accuracies[index])
        return self

    def suspect(self, cell: str, suspect: str, index: int, matches: int, trials: int = 100, **changes: Any) -> World:
        """Add one suspect's answers to a cell's key."""
        row = {"cell": cell, "suspect": suspect, "arm": "", "index": index, "probe": "trigger"}
        row |= {"matches": matches, "trials": trials, "accuracy": 0.97, "pool_accuracy": None, "base_accuracy": 0.97}
        self.evidence.append(row | changes)
        return self

    def seeds(self, seeds: Sequence[int], defense: str = "a", attack: str = "retraining", **changes: Any) -> World:
        """Add the same cell for some seeds; a list of values gives each seed its own."""
        for place, seed in enumerate(seeds):
            one = {name: value[place] if isinstance(value, list) else value for name, value in changes.items()}
            self.cell(defense, attack, seed, **one)
        return self

    @property
    def tables(self) -> tuple[pd.DataFrame, pd.DataFrame]:
        """The tables ``cells`` and ``evidence``."""
        return (
            pd.DataFrame(self.cells, columns=[c.name for c in CELLS.columns]),
            pd.DataFrame(self.evidence, columns=[c.name for c in EVIDENCE.columns]),
        )

    def board(self, rules: Rules | None = None) -> Board:
        """The leaderboard of the tables."""
        detections = pd.DataFrame(self.found, columns=[c.name for c in DETECTIONS.columns])
        stages = pd.DataFrame(columns=[c.name for c in STAGES.columns])
        return make_board(*self.tables, detections, stages, rules or Rules())

    def scored(self, rules: Rules | None = None) -> pd.DataFrame:
        """The cells with what the rules make of each."""
        return score(*self.tables, rules or Rules())


def scheme(board: Board, defense: str = "a") -> Scheme:
    """The one row of a scheme."""
    (found,) = (each for each in board.schemes if each.defense == defense)
    return found


def attack(board: Board, name: str = "retraining", defense: str = "a") -> Attacked:
    """The one row of a scheme under an attack."""
    (found,) = (each for each in board.attacks if (each.attack, each.defense) == (name, defense))
    return found


def innocent(board: Board, suspects: str, name: str = "retraining", defense: str = "a") -> Innocent:
    """The one row of a sort of innocents."""
    wanted = (suspects, name, defense)
    (found,) = (each for each in board.innocents if (each.suspects, each.attack, each.defense) == wanted)
    return found


SIX, TEN = range(6), range(10)


def both(board: Board, defense: str = "a") -> Standing:
    """A scheme's standing against both kinds of thief."""
    return scheme(board, defense).standings["both"]


def worst(board: Board, defense: str = "a") -> float:
    """Mean margin of the worst case against both kinds of thief."""
    made = both(board, defense).worst
    assert made is not None
    return made.mean


def margin(matches: float, false: float = 2) -> float:
    """The margin of so many of 100 matches."""
    return (matches - false) / (100 - false)
