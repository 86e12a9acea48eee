"""Comparisons of two schemes of a results folder that somebody asks for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from harness.errors import UsageError
from harness.verdicts.reading import chosen, read_cells, read_evidence

if TYPE_CHECKING:
    import pandas as pd

    from harness.ranking.compare import Comparison
    from harness.storage.tables import Tables
    from harness.verdicts.rules import Rules


def read_comparison(
    tables: Tables, first: str, second: str, rules: Rules, *, datasets: Sequence[str] = (), attacks: Sequence[str] = ()
) -> Comparison:
    """Compare two schemes of the tables, each named in full or by a glob that fits no other.

    Raises :class:`UsageError` where there are no cells, and for a name that fits nothing or several schemes.
    """
    from harness.ranking.compare import make_comparison
    from harness.verdicts.scoring import CELL_COLUMNS

    rows = read_cells(tables, CELL_COLUMNS)
    ours, theirs = _only(rows, first), _only(rows, second)
    rows = chosen(chosen(rows, "dataset", datasets), "attack", attacks)
    return make_comparison(rows.reset_index(drop=True), read_evidence(tables), ours, theirs, rules)


def _only(cells: pd.DataFrame, name: str) -> str:
    """The one scheme whose name equals or fits ``name``. Raises :class:`UsageError` where there are several."""
    known = list(dict.fromkeys(cells["defense"]))
    if name in known:
        return name
    found = list(dict.fromkeys(chosen(cells, "defense", (name,))["defense"]))
    if len(found) > 1:
        raise UsageError(f"{name!r} fits {len(found)} schemes: {', '.join(found)}. Name one of them")
    return str(found[0])
