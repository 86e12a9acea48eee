"""Rankings and comparisons of the cells of a results folder that somebody asks for."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from harness.errors import UnknownName, UsageError

if TYPE_CHECKING:
    import pandas as pd

    from harness.ranking.compare import Comparison
    from harness.ranking.leaderboard import Board
    from harness.ranking.scoring import Rules
    from harness.storage.tables import Tables


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
    from harness.ranking.leaderboard import COST_COLUMNS, STAGE_COLUMNS, make_board
    from harness.ranking.scoring import CELL_COLUMNS

    rows = tables.read("cells", CELL_COLUMNS)
    if cells is not None:
        rows = rows[rows["cell"].isin(list(cells))]
    for column, wanted in (("dataset", datasets), ("defense", defenses), ("attack", attacks)):
        rows = chosen(rows, column, wanted)
    found, stages = tables.read("detections"), tables.read("stages", [*STAGE_COLUMNS, *COST_COLUMNS])
    return make_board(rows.reset_index(drop=True), found, stages, rules, intervals=intervals)


def read_comparison(
    tables: Tables, first: str, second: str, rules: Rules, *, datasets: Sequence[str] = (), attacks: Sequence[str] = ()
) -> Comparison:
    """Compare two schemes of the tables, each named in full or by a glob that fits no other.

    Raises :class:`UsageError` where there are no cells, and for a name that fits nothing or several schemes.
    """
    from harness.ranking.compare import make_comparison
    from harness.ranking.scoring import CELL_COLUMNS

    rows = tables.read("cells", CELL_COLUMNS)
    if rows.empty:
        raise UsageError("no results yet: type harness run --matrix smoke")
    ours, theirs = _only(rows, first), _only(rows, second)
    rows = chosen(chosen(rows, "dataset", datasets), "attack", attacks)
    return make_comparison(rows.reset_index(drop=True), ours, theirs, rules)


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


def _only(cells: pd.DataFrame, name: str) -> str:
    """The one scheme whose name equals or fits ``name``. Raises :class:`UsageError` where there are several."""
    known = list(dict.fromkeys(cells["defense"]))
    if name in known:
        return name
    found = list(dict.fromkeys(chosen(cells, "defense", (name,))["defense"]))
    if len(found) > 1:
        raise UsageError(f"{name!r} fits {len(found)} schemes: {', '.join(found)}. Name one of them")
    return str(found[0])
