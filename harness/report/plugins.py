"""Descriptions of the schemes and attacks, and the results with each."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

from harness.ranking import views
from harness.ranking.columns import DATASET, Columns
from harness.report.page import Described, Grid, Section, Tags, shortened
from harness.report.ranking import headers, row, shown_columns

if TYPE_CHECKING:
    from harness.planning.registry import Registry
    from harness.report.sources import Known
    from harness.verdicts.board import Board

DESCRIBED = 60
"""Plugins of a kind."""
FOUND = 24
"""Rows of a plugin's table."""


def schemes(board: Board, known: Known) -> Section:
    """Each scheme, with its rows of the leaderboard."""
    names, made = known.plugins["defense"], []
    for name, entries in list(names.items())[:DESCRIBED]:
        own = [each for each in views.STANDINGS.records(board) if each.defense in entries]
        columns = shown_columns(views.STANDINGS, board)
        grid = _found(f"{name} in the leaderboard", columns, own, lambda s: known.tags(s.dataset))
        made.append(described("defense", name, grid, known.registry))
    left_out = shortened(len(names), DESCRIBED, "names of schemes")
    return Section("schemes", "Schemes", plugins=made, left_out=left_out)


def attacks(board: Board, known: Known) -> Section:
    """Each attack, with what it leaves, alone and in chains."""
    names, made = known.plugins["attack"], []
    for name, chains in list(names.items())[:DESCRIBED]:
        own = [attacked for attacked in board.attacks if attacked.attack in chains]
        columns = shown_columns(views.ATTACKS, board)
        grid = _found(f"What {name} leaves", columns, own, lambda a: known.tags(a.dataset, a.attack))
        made.append(described("attack", name, grid, known.registry))
    left_out = shortened(len(names), DESCRIBED, "names of attacks")
    return Section("attacks", "Attacks", plugins=made, left_out=left_out)


def _found(title: str, columns: Columns[Any], records: list[Any], tags: Callable[[Any], Tags]) -> Grid:
    shown = (DATASET, *columns)
    rows = [row(shown, record, tags(record)) for record in records[:FOUND]]
    return Grid(title, rows=rows, note=shortened(len(records), FOUND, "rows"), **headers(shown))


def described(kind: Literal["defense", "attack"], name: str, grid: Grid, registry: Registry) -> Described:
    """A plugin's description, and a table of results with it."""
    found = registry.found.get((kind, name))
    if found is None:
        return Described(name, "", "", "No plugin of this name is installed here: its description is not known.", grid)
    more = (inspect.getdoc(found.cls) or "").removeprefix(found.summary).strip()
    return Described(name, found.summary, found.cls.reference, more, grid)
