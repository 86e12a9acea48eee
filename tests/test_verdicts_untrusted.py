"""Tables that no run would have written: whatever their values, a board is made of them, without a warning."""

from __future__ import annotations

import json
import random
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest

from harness.errors import ResultsError
from harness.storage.schema import CELLS, DETECTIONS, EVIDENCE, STAGES, Table
from harness.verdicts.boards import make_board
from harness.verdicts.rules import Rules
from harness.verdicts.scoring import score
from tests.verdict_tables import World

CHAINS = [
    *(("none", "none"), ("retraining", "extraction"), ("pruning[f=1]", "removal"), ("pruning[f=2]", "removal")),
    *(("filter", "evasion"), ("search", "detection"), ("x", "theft"), ("claim", "forgery"), ("[[", "removal")),
    *(("retraining | pruning", "extraction+removal"), ("", "")),
]
SCHEMES = ["a", "b[x=1]", "unmarked", "unmarked[recipe=net]", "c"]
SUSPECTS = [("attacked", 0), ("null", 0), ("fresh", 2), ("same-data", 1), ("other-owner", 2), ("other-recipe", 1)]
ODD = [None, 0.0, 1.0, 0.9, 0.95, float("nan"), float("inf"), float("-inf"), -1.0]


def frame(table: Table, rows: list[dict[str, Any]]) -> pd.DataFrame:
    return pa.Table.from_pylist(rows, schema=table.schema()).to_pandas(ignore_metadata=True)


def answers(dice: random.Random, name: str) -> dict[str, Any]:
    trials = dice.choice([None, 0, 1, 100, 100, 100])
    return {f"{name}matches": None if trials is None else dice.randint(0, trials), f"{name}trials": trials}


def tables(dice: random.Random) -> dict[str, list[dict[str, Any]]]:
    made: dict[str, list[dict[str, Any]]] = {"cells": [], "evidence": [], "detections": []}
    models = dice.choice([0, 1, 3, 18, 19, 20, 39])
    for defense in dice.sample(SCHEMES, dice.randint(1, 4)):
        for attack, family in dice.sample(CHAINS, dice.randint(1, 6)):
            for seed in range(dice.choice([1, 2, 6, 7])):
                row = {"cell": f"{defense}{attack}{seed}", "dataset": "d", "defense": defense, "attack": attack}
                row |= {"seed": seed, "family": family, "status": dice.choice([*["ok"] * 8, "failed", "skipped", "?"])}
                row |= {c.name: dice.choice(ODD) for c in CELLS.columns if c.name.endswith("accuracy")}
                for who in ("victim_trigger_", "surrogate_trigger_", "surrogate_held_out_", "null_trigger_"):
                    row |= answers(dice, who)
                row |= {"knows": dice.choice([None, "nothing", "key"]), "labelled": dice.choice([None, True, False])}
                row["test_samples"] = dice.choice([None, 0, 300])
                made["cells"].append(row)
                made["evidence"] += evidence(dice, row["cell"], models)
                for suspect in ("surrogate", "null"):
                    named = {"cell": row["cell"], "suspect": suspect, "index": 0}
                    made["detections"].append(named | {name: dice.choice(ODD) for name in ("score", "window_rank")})
    return made


def evidence(dice: random.Random, cell: str, models: int) -> list[dict[str, Any]]:
    rows = []
    for suspect, count in SUSPECTS:
        for index in range(count or models):
            row = {"cell": cell, "suspect": suspect, "arm": "", "index": index, "probe": "trigger", "accuracy": 0.95}
            row |= {"matches": dice.randint(0, 5), "trials": 100}
            if dice.random() < 0.05:
                row |= {**answers(dice, ""), "index": dice.choice([-1, 2**40]), "base_accuracy": dice.choice(ODD)}
            if dice.random() < 0.97:
                rows.append(row)
    return rows


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(24))
def test_a_board_is_made_of_whatever_tables_hold(seed: int) -> None:
    dice = random.Random(seed)
    rules = Rules(dice.choice(["rank", "rank", "beta-binomial", "binomial", "fisher", "welch"]), max_drop=0.0)
    made = tables(dice)
    cells, found = frame(CELLS, made["cells"]), frame(EVIDENCE, made["evidence"])
    board = make_board(cells, found, frame(DETECTIONS, made["detections"]), frame(STAGES, []), rules)
    json.dumps(board.as_dict(), allow_nan=False)
    assert len(score(cells, found, rules)) == len(cells)


def test_more_unmarked_models_than_a_matrix_may_have_are_refused() -> None:
    world = World().cell()
    for index in range(1001):
        world.suspect("a retraining 0", "null", index, 0)
    with pytest.raises(ResultsError, match="1,001 unmarked models, and 1000 is the most"):
        world.board()
