"""Leaderboards of the cells of a results folder that somebody asks for."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from harness.errors import UnknownName, UsageError
from harness.text import command_line

if TYPE_CHECKING:
    import pandas as pd

    from harness.storage.tables import Tables
    from harness.verdicts.board import Board
    from harness.verdicts.rules import Rules


def read_board(
    tables: Tables,
    rules: Rules,
    *,
    datasets: Sequence[str] = (),
    defenses: Sequence[str] = (),
    attacks: Sequence[str] = (),
    cells: Collection[str] | None = None,
    intervals: bool = True,
) -> Board:
    """Rank the schemes of the tables, by the cells that fit the names given, and by those of ``cells`` (ids) alone.

    Raises :class:`UsageError` where there are no cells, and for a name that fits nothing.
    """
    from harness.verdicts.boards import STAGE_COLUMNS, make_board
    from harness.verdicts.schemes import COST_COLUMNS
    from harness.verdicts.scoring import CELL_COLUMNS

    rows = read_cells(tables, CELL_COLUMNS)
    if cells is not None:
        rows = rows[rows["cell"].isin(list(cells))]
    for column, wanted in (("dataset", datasets), ("defense", defenses), ("attack", attacks)):
        rows = chosen(rows, column, wanted)
    found, stages = tables.read("detections"), tables.read("stages", [*STAGE_COLUMNS, *COST_COLUMNS])
    evidence = read_evidence(tables)
    return make_board(rows.reset_index(drop=True), evidence, found, stages, rules, intervals=intervals)


def read_cells(tables: Tables, columns: Iterable[str] | None = None) -> pd.DataFrame:
    """The cells of a results folder. Raises :class:`UsageError` where there are none."""
    rows = tables.read("cells", columns)
    if rows.empty:
        first = command_line("run", "--matrix", "smoke", results=tables.address)
        raise UsageError(f"no results yet in {tables.address}: type {first}")
    return rows


def read_evidence(tables: Tables) -> pd.DataFrame:
    """The evidence that verdicts are made of: its columns and rows alone, with texts as categories."""
    from harness.verdicts.references import EVIDENCE_COLUMNS, PROBE

    return tables.coded("evidence", EVIDENCE_COLUMNS, probe=PROBE)


def chosen(cells: pd.DataFrame, column: str, wanted: Sequence[str]) -> pd.DataFrame:
    """The rows whose ``column`` equals or fits one of ``wanted``. Raises :class:`UnknownName` for one without a row."""
    if not wanted:
        return cells
    known = list(dict.fromkeys(cells[column]))
    fitting: set[str] = set()
    for pattern in wanted:
        found = {name for name in known if fnmatchcase(name, pattern.replace("[", "[[]"))}
        if not found:
            raise UnknownName(column, pattern, known)
        fitting |= found
    return cells[cells[column].isin(fitting)]
