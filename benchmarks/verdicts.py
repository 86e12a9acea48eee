"""Cost of a leaderboard when its tables are large: of 1 and 10 million rows of evidence, reading included."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from benchmarks.framework import folder
from benchmarks.measure import Row, seconds
from benchmarks.scaling import LABELS, Columns, Shape, _cells, _counts, _detections, _stages, _texts, _write, alone
from harness.storage.tables import Tables
from harness.verdicts.board import Board
from harness.verdicts.reading import read_board
from harness.verdicts.rules import Rules

NULLS, FRESH = 19, 10
SUSPECTS = np.repeat(["victim", "surrogate", "null", "attacked", "fresh"], [1, 1, NULLS, NULLS, FRESH])
"""Suspects of a cell, a row each."""
MILLION, TEN_MILLION = Shape(10, datasets=4, schemes=10, attacks=50), Shape(50, datasets=4, schemes=20, attacks=50)
"""Sizes by their rows of evidence: 50 a cell."""


def write_tables(results: Path, shape: Shape) -> None:
    """The tables that runs of this shape leave, a run for every five seeds; written column by column."""
    for first in range(0, shape.seeds, 5):
        seeds = range(first, min(first + 5, shape.seeds))
        dice = np.random.default_rng(first)
        run = f"{datetime(2026, 1, 1, 0, 0, first, tzinfo=UTC):%Y%m%dT%H%M%S}-000000"
        cells = _cells(shape, seeds, dice)
        cells |= {"attacked": np.full(len(cells["seed"]), NULLS), "test_samples": np.full(len(cells["seed"]), 10_000)}
        _write(results, run, "cells", cells)
        _write(results, run, "evidence", _evidence(cells, dice))
        _write(results, run, "detections", _detections(cells, dice))
        _write(results, run, "stages", _stages(cells, dice))


def _evidence(cells: Columns, dice: np.random.Generator) -> Columns:
    """Rows of failed cells too, so that their number is round."""
    each, count = len(SUSPECTS), len(cells["seed"])
    places = np.repeat(np.arange(count), each)
    names, suspects = np.unique(SUSPECTS, return_inverse=True)
    index = np.concatenate([np.arange(np.sum(name == SUSPECTS)) for name in dict.fromkeys(SUSPECTS)])
    high = np.isin(SUSPECTS, ["victim", "surrogate"])
    labels: Columns = {name: pa.array(cells[name]).take(pa.array(places)) for name in LABELS}
    rows = len(places)
    accuracy = dice.uniform(0.93, 1.0, rows)
    answers: Any = _counts("", np.ones(rows, bool), dice, 100, np.tile(np.where(high, 0.6, 0.02), count))
    return {
        **labels,
        "suspect": _texts(np.tile(suspects, count), [str(name) for name in names]),
        "arm": _texts(np.tile(SUSPECTS == "fresh", count).astype(int), ["", "unmarked"]),
        "index": np.tile(index, count),
        "probe": _texts(np.zeros(rows, int), ["trigger"]),
        **answers,
        "accuracy": accuracy,
        "base_accuracy": np.full(rows, 0.96),
    }


def ranked(results: Path) -> Board:
    """The work of ``harness leaderboard`` before it prints."""
    return read_board(Tables(results), Rules(), intervals=False)


def rank(n: int) -> list[Row]:
    """Seconds from tables to a leaderboard, in process."""
    rows = []
    for name, shape, target in (("1M", MILLION, 3.0), ("10M", TEN_MILLION, 10.0)):
        with folder() as results:
            write_tables(results, shape)
            samples = [seconds(partial(ranked, results)) for _ in range(n)]
            note = f"{shape.cells:,} cells; {alone(ranked, results):.0f} MiB"
            rows.append(Row(f"verdicts {name}", samples, [target], "s", "target", note))
    return rows
