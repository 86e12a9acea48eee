"""Cells of a record beside the same cells run again here: equal to the last bit, or so many percentage points apart."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import pandas as pd

from harness.records.freeze import checksums
from harness.records.lineage import same
from harness.storage.schema import TABLES
from harness.storage.tables import Tables
from harness.storage.text import printable

Told: TypeAlias = dict[str, Any]
"""What tables tell of a cell, by name; a count of answers is ``(matches, trials)``."""

KEYS = list(TABLES["cells"].key)
EQUAL = ("model", "family", "access", "nulls", "queries")
"""Columns of ``cells`` that no tolerance is for."""
SHARES = ("null_accuracy", "victim_accuracy", "surrogate_accuracy", "agreement")
FOUND = ("score", "threshold", "suspected_class", "suspected_source", "target_hit", "mask_overlap", "window_rank")


@dataclass
class Replayed:
    """What came of running cells again."""

    tolerance: float
    """Percentage points that a share may be apart."""
    findings: list[str] = field(default_factory=list)
    equal: int = 0
    """Cells whose every number is the same, to the last bit."""
    within: int = 0
    """Cells whose numbers differ, by no more than the tolerance."""
    most: float = 0.0
    """Percentage points that a share of these is apart at most."""

    def __str__(self) -> str:
        text = f"{self.equal + self.within} cells run again: {self.equal} equal to the last bit"
        near = f"{self.within} within {self.tolerance:g} points (at most {self.most:.2f} apart)"
        return f"{text}, {near}" if self.within else text


def compare(record: Tables, chosen: pd.DataFrame, here: Tables, tolerance: float) -> Replayed:
    """The ``chosen`` cells of a record beside those that were run ``here``. What detectors found is no share, and is
    compared where there is no tolerance."""
    made = Replayed(tolerance)
    cells = here.read("cells")
    theirs, ours = (
        _told(tables, rows, bool(tolerance))
        for tables, rows in ((record, chosen), (here, cells[cells["status"] == "ok"]))
    )
    for key, told in theirs.items():
        words = printable("replay {} / {} / {} #{}".format(*key))
        if key in ours:
            _compare(words, told, ours[key], made)
        else:
            made.findings.append(f"{words}: did not end ok here")
    known = checksums(record.read("stages"))
    for name, found in checksums(here.read("stages")).items():
        if (before := known.get(name)) and before != found:
            made.findings.append(f"replay: {name} has the checksum {', '.join(found)} here, not {', '.join(before)}")
    return made


def _told(tables: Tables, cells: pd.DataFrame, is_rough: bool) -> dict[tuple[Any, ...], Told]:
    """What the tables tell of these cells, by their keys."""
    rows = cells.to_dict("records")
    told: dict[str, Told] = {row["cell"]: {name: row[name] for name in (*EQUAL, *SHARES)} for row in rows}
    for row in _rows_of(told, tables.read("evidence")):
        told[row["cell"]][f"{_who(row)} {row['probe']}"] = (row["matches"], row["trials"])
    if not is_rough:
        for row in _rows_of(told, tables.read("detections")):
            told[row["cell"]] |= {f"{_who(row)} {name}": row[name] for name in FOUND}
    return {tuple(row[key] for key in KEYS): told[row["cell"]] for row in rows}


def _rows_of(cells: Iterable[str], frame: pd.DataFrame) -> list[dict[Any, Any]]:
    rows: list[dict[Any, Any]] = frame[frame["cell"].isin(list(cells))].to_dict("records")
    return rows


def _who(row: Mapping[Any, Any]) -> str:
    return f"null {row['index']}" if row["suspect"] == "null" else str(row["suspect"])


def _compare(words: str, theirs: Told, ours: Told, made: Replayed) -> None:
    """Add one cell to what was ``made`` of those before."""
    if theirs["model"] != ours["model"]:
        made.findings.append(f"{words}: made by other plugins or another harness (its model has another id here)")
        return
    pairs = {name: (theirs.get(name), ours.get(name)) for name in {**theirs, **ours}}
    apart = {name: _points(name, *pair) for name, pair in pairs.items() if not _equal(*pair)}
    far = {name: points for name, points in apart.items() if points > made.tolerance + 1e-9}
    for name, points in far.items():
        said, found = map(_shown, pairs[name])
        by = f": {points:.2f} points apart, allowed {made.tolerance:g}" if math.isfinite(points) else ""
        made.findings.append(printable(f"{words}: {name} {said}, here {found}{by}"))
    if not apart:
        made.equal += 1
    elif not far:
        made.within += 1
        made.most = max(made.most, *apart.values())


def _equal(one: Any, other: Any) -> bool:
    return one == other if isinstance(one, tuple) or isinstance(other, tuple) else same(one, other)


def _points(name: str, one: Any, other: Any) -> float:
    """How many percentage points two shares are apart; infinite where they are none, or not of as many answers."""
    if name in SHARES and pd.notna(one) and pd.notna(other):
        return 100 * abs(float(one) - float(other))
    if isinstance(one, tuple) and isinstance(other, tuple) and one[1] == other[1]:
        return float(100 * abs(one[0] - other[0]) / one[1])
    return math.inf


def _shown(value: Any) -> str:
    if isinstance(value, tuple):
        return f"{value[0]} of {value[1]}"
    return "missing" if pd.isna(value) else str(value)
