"""Sections of the page, made from the tables, in their order."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pandas as pd

from harness.errors import UsageError
from harness.report import background, plots, plugins, ranking
from harness.report.page import ROWS, Page
from harness.report.sources import About, Known, Results
from harness.text import printable
from harness.verdicts.boards import make_board
from harness.verdicts.families import is_unmarked
from harness.verdicts.scoring import score

if TYPE_CHECKING:
    from harness.planning.registry import Registry
    from harness.verdicts.board import Board


def make_sections(results: Results, about: About, registry: Registry) -> Page:
    """The page's contents. Raises :class:`UsageError` when there are no cells."""
    if results.cells.empty:
        raise UsageError("no results yet: type harness run --matrix smoke")
    cells, rules = _named(results.cells), results.rules
    results = replace(results, cells=cells, detections=_named(results.detections))
    # Of thousands of attacks the intervals take longer than all else.
    few = len(cells) <= 5 * ROWS
    tables = (results.evidence, results.detections, results.stages)
    board, scored = make_board(cells, *tables, rules, intervals=few), score(cells, results.evidence, rules)
    return page_of(board, scored, results, about, registry)


def page_of(board: Board, scored: pd.DataFrame, results: Results, about: About, registry: Registry) -> Page:
    """The page's contents from a board, and from what :func:`harness.verdicts.scoring.score` makes of its cells."""
    cells, known = results.cells, Known(results.cells, registry)
    made = [
        ranking.leaderboard(board, known),
        ranking.left(board, known),
        ranking.standings(board, known),
        ranking.price(board, known),
        ranking.innocents(board, known),
        plots.distributions(scored, known),
        plots.sweeps(scored, known),
        plots.budgets(scored, board, known),
        plots.frontiers(scored, board, known),
        ranking.hidden(board, known),
        ranking.detections(board, known),
        ranking.forgeries(board, known),
        plugins.schemes(board, known),
        plugins.attacks(board, known),
        background.costs(results.stages),
        background.ends(cells),
        background.provenance(results, board, about),
    ]
    small = len(board.schemes) + len(board.attacks) <= 2 * ROWS
    return Page(
        " ".join([_lead(cells), *map(printable, board.notes)]),
        known.filters(),
        [each for each in made if each],
        board.as_dict() if small else {},
    )


def _named(frame: pd.DataFrame) -> pd.DataFrame:
    """The frame with names as they can be shown: no character in them that turns the text around, say."""
    shown = {column: frame[column].map(printable) for column in ("dataset", "defense", "attack")}
    return frame.assign(**shown).reset_index(drop=True)


def _lead(cells: pd.DataFrame) -> str:
    counts = [
        (cells["dataset"].nunique(), "dataset"),
        (cells.loc[~cells["defense"].map(is_unmarked).astype(bool), "defense"].nunique(), "scheme"),
        (cells["attack"].nunique(), "attack"),
        (cells["seed"].nunique(), "seed"),
        (len(cells), "cell"),
    ]
    told = ", ".join(f"{count:,} {what}{'s' * (count != 1)}" for count, what in counts)
    ends = cells["status"].value_counts()
    return f"{told}: {', '.join(f'{count:,} {status}' for status, count in ends.items())}."
