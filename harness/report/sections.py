"""Sections of the page, made from the tables, in their order."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pandas as pd

from harness.errors import UsageError
from harness.ranking.leaderboard import board_of
from harness.ranking.scoring import score
from harness.report import background, plots, plugins, ranking
from harness.report.page import ROWS, Page
from harness.report.sources import About, Known, Results
from harness.text import printable

if TYPE_CHECKING:
    from harness.planning.registry import Registry


def make_sections(results: Results, about: About, registry: Registry) -> Page:
    """The page's contents. Raises :class:`UsageError` when there are no cells."""
    if results.cells.empty:
        raise UsageError("no results yet: type harness run --matrix smoke")
    cells, rules = _named(results.cells), results.rules
    results = replace(results, cells=cells, detections=_named(results.detections))
    # Of thousands of attacks the intervals take longer than all else.
    scored, few = score(cells, rules), len(cells) <= 5 * ROWS
    board = board_of(scored, results.detections, results.stages, rules, intervals=few)
    known = Known(cells, registry)
    made = [
        ranking.leaderboard(results, scored, board, known),
        ranking.left(board, known),
        ranking.price(board, known),
        plots.distributions(scored, known),
        plots.sweeps(scored, known),
        plots.budgets(scored, board, known),
        plots.frontiers(scored, board, known),
        ranking.detections(board, known),
        plugins.schemes(board, known),
        plugins.attacks(board, known),
        background.costs(results.stages),
        background.ends(cells),
        background.provenance(results, board, about),
    ]
    small = len(board.schemes) + len(board.attacks) <= 2 * ROWS
    return Page(_lead(cells), known.filters(), [each for each in made if each], board.as_dict() if small else {})


def _named(frame: pd.DataFrame) -> pd.DataFrame:
    """The frame with names as they can be shown: no character in them that turns the text around, say."""
    shown = {column: frame[column].map(printable) for column in ("dataset", "defense", "attack")}
    return frame.assign(**shown).reset_index(drop=True)


def _lead(cells: pd.DataFrame) -> str:
    counts = [
        (cells["dataset"].nunique(), "dataset"),
        (cells["defense"].nunique(), "scheme"),
        (cells["attack"].nunique(), "attack"),
        (cells["seed"].nunique(), "seed"),
        (len(cells), "cell"),
    ]
    told = ", ".join(f"{count:,} {what}{'s' * (count != 1)}" for count, what in counts)
    ends = cells["status"].value_counts()
    return f"{told}: {', '.join(f'{count:,} {status}' for status, count in ends.items())}."
