"""Cells of a record, run again here and compared: equal to the last bit, or so many percentage points apart.

The unmarked models that a cell is compared with are trained and attacked again too. Innocent models are of other cells,
and are not.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeAlias

import pandas as pd

from harness.errors import UsageError
from harness.planning.builder import make_plan
from harness.planning.matrix import parse_chain, parse_entry
from harness.planning.registry import Registry
from harness.records.freeze import checksums
from harness.records.lineage import same
from harness.running.machine import Machine
from harness.running.session import Options
from harness.running.start import run_plan
from harness.storage.options import names_in
from harness.storage.schema import TABLES
from harness.storage.store import Store
from harness.storage.tables import Tables

Told: TypeAlias = dict[str, Any]
"""Values of a cell in the tables, by name; a count of answers is ``(matches, trials)``."""

KEYS = list(TABLES["cells"].key)
EQUAL = ("model", "family", "access", "nulls", "attacked", "queries")
"""Columns of ``cells`` that must be equal whatever the tolerance."""
SHARES = (
    *("null_accuracy", "victim_accuracy", "surrogate_accuracy", "agreement"),
    *("victim_raw_accuracy", "surrogate_raw_accuracy", "surrogate_pool_accuracy"),
)
SUSPECTS = ("victim", "surrogate", "null", "attacked")
"""Suspects of the evidence that running a cell alone makes again."""
FOUND = ("score", "threshold", "suspected_class", "suspected_source", "target_hit", "mask_overlap", "window_rank")


@dataclass
class Replayed:
    """Result of running cells again."""

    tolerance: float
    """Percentage points by which a share may differ."""
    findings: list[str] = field(default_factory=list)
    equal: int = 0
    """Number of cells that are the same to the last bit."""
    within: int = 0
    """Number of cells that differ by no more than the tolerance."""
    most: float = 0.0
    """Largest difference among these, in percentage points."""

    def __str__(self) -> str:
        text = f"{self.equal + self.within} cells run again: {self.equal} equal to the last bit"
        near = f"{self.within} within {self.tolerance:g} points (at most {self.most:.2f} apart)"
        return f"{text}, {near}" if self.within else text


def replay(
    folder: Path,
    count: int,
    seed: int,
    tolerance: float,
    registry: Registry,
    machine: Machine,
    warn: Callable[[str], None],
    stopping: Callable[[], bool],
) -> Replayed:
    """Run ``count`` cells of a record again, in a folder that is deleted afterwards, and compare.

    ``seed`` chooses among the cells that ended ok. Raises ``KeyboardInterrupt`` once ``stopping`` says so.
    """
    record = Tables(folder)
    cells = record.read("cells")
    cells = cells[cells["status"] == "ok"]
    chosen = cells.sample(min(count, len(cells)), random_state=seed % 2**32)
    problems, names = [], names_in(chosen)
    with TemporaryDirectory() as scratch:
        for row in chosen.to_dict("records"):
            try:
                _run_again(row, names, Path(scratch), registry, machine, warn, stopping)
            except UsageError as error:
                problems.append(f"replay: {error}")
            if stopping():
                raise KeyboardInterrupt
        replayed = compare(record, chosen, Tables(Path(scratch)), tolerance)
    replayed.findings[:0] = problems
    return replayed


def _run_again(
    row: Mapping[Any, Any],
    names: Mapping[str, set[str]],
    scratch: Path,
    registry: Registry,
    machine: Machine,
    warn: Callable[[str], None],
    stopping: Callable[[], bool],
) -> None:
    """Run the cell that a row names, and no other."""
    text = str(row["dataset"])
    dataset = registry.component("dataset", parse_entry(min(names.get(text, {text}))))
    if text in names:
        dataset = replace(dataset, text=text, stands_for=dataset.text)
    defense = registry.component("defense", row["defense"])
    chains = registry.chains([parse_chain(row["attack"])])
    plan = make_plan([dataset], [defense], chains, [int(row["seed"])], int(row["nulls"]), registry.component)
    for stage in plan.stages.values():
        for use in (stage.dataset, stage.plugin, stage.architecture):
            if use is not None and (named := use.plugin.named_files()):
                raise UsageError(f"{use} names files of its author's ({named[0]}): such a cell is not run again")
    run_plan(plan, registry, Store(scratch), Tables(scratch), machine, Options(), warn=warn, stopping=stopping)


def compare(record: Tables, chosen: pd.DataFrame, here: Tables, tolerance: float) -> Replayed:
    """Compare the ``chosen`` cells of a record with those that were run ``here``. Detectors' scores, which are not
    shares, are compared only where there is no tolerance."""
    made, changed = Replayed(tolerance), _changed(record, here)
    cells = here.read("cells")
    theirs, ours = (
        _told(tables, rows, bool(tolerance))
        for tables, rows in ((record, chosen), (here, cells[cells["status"] == "ok"]))
    )
    for key, told in theirs.items():
        words = "replay {} / {} / {} #{}".format(*key)
        if key in ours and ours[key]["model"] != told["model"] and {key[0], key[0].partition("[")[0]} & changed.keys():
            made.findings.append(f"{words}: made of other data (its model has another id here)")
        elif key in ours:
            _compare(words, told, ours[key], made)
        else:
            made.findings.append(f"{words}: did not end ok here")
    for name, (before, found) in changed.items():
        made.findings.append(f"replay: {name} has the checksum {', '.join(found)} here, not {', '.join(before)}")
    return made


def _changed(record: Tables, here: Tables) -> dict[str, tuple[list[str], list[str]]]:
    """The data sets whose content is another one here, with the checksums there and here."""
    theirs, ours = (checksums(tables.read("stages"), tables.read("cells")) for tables in (record, here))
    return {name: (theirs[name], found) for name, found in ours.items() if theirs.get(name, found) not in ([], found)}


def _told(tables: Tables, cells: pd.DataFrame, is_rough: bool) -> dict[tuple[Any, ...], Told]:
    """Values of these cells in the tables, by their keys."""
    rows = cells.to_dict("records")
    told: dict[str, Told] = {row["cell"]: {name: row[name] for name in (*EQUAL, *SHARES)} for row in rows}
    evidence = tables.read("evidence")
    for row in _rows_of(told, evidence[evidence["suspect"].isin(SUSPECTS)]):
        told[row["cell"]][f"{_who(row)} {row['probe']}"] = (row["matches"], row["trials"])
    if not is_rough:
        for row in _rows_of(told, tables.read("detections")):
            told[row["cell"]] |= {f"{_who(row)} {name}": row[name] for name in FOUND}
    return {tuple(row[key] for key in KEYS): told[row["cell"]] for row in rows}


def _rows_of(cells: Iterable[str], frame: pd.DataFrame) -> list[dict[Any, Any]]:
    rows: list[dict[Any, Any]] = frame[frame["cell"].isin(list(cells))].to_dict("records")
    return rows


def _who(row: Mapping[Any, Any]) -> str:
    return str(row["suspect"]) if row["suspect"] in ("victim", "surrogate") else f"{row['suspect']} {row['index']}"


def _compare(words: str, theirs: Told, ours: Told, made: Replayed) -> None:
    """Compare one cell, and add the result to ``made``."""
    if theirs["model"] != ours["model"]:
        made.findings.append(f"{words}: made by other plugins or another harness (its model has another id here)")
        return
    pairs = {name: (theirs.get(name), ours.get(name)) for name in {**theirs, **ours}}
    apart = {name: _points(name, *pair) for name, pair in pairs.items() if not _equal(*pair)}
    far = {name: points for name, points in apart.items() if points > made.tolerance + 1e-9}
    for name, points in far.items():
        said, found = map(_shown, pairs[name])
        by = f": {points:.2f} points apart, allowed {made.tolerance:g}" if math.isfinite(points) else ""
        made.findings.append(f"{words}: {name} {said}, here {found}{by}")
    if not apart:
        made.equal += 1
    elif not far:
        made.within += 1
        made.most = max(made.most, *apart.values())


def _equal(one: Any, other: Any) -> bool:
    return one == other if isinstance(one, tuple) or isinstance(other, tuple) else same(one, other)


def _points(name: str, one: Any, other: Any) -> float:
    """Difference of two shares in percentage points; infinite for other values, or for other numbers of answers."""
    if name in SHARES and pd.notna(one) and pd.notna(other):
        return 100 * abs(float(one) - float(other))
    if isinstance(one, tuple) and isinstance(other, tuple) and one[1] == other[1] > 0:
        return float(100 * abs(one[0] - other[0]) / one[1])
    return math.inf


def _shown(value: Any) -> str:
    if isinstance(value, tuple):
        return f"{value[0]} of {value[1]}"
    return "missing" if pd.isna(value) else str(value)
