"""One run of a plan: what is left to do, doing it, and writing it down.

The store is the truth. A stage is done when its artifact is there; a cell is done when the tables have its row. What an
earlier run stored and did not write down (it was killed) is written by this one.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from typing import Any, Literal, Protocol, TypeAlias, get_args
from uuid import uuid4

from harness.errors import DamagedArtifact, UnknownName
from harness.planning.graph import Cell, Plan, Stage
from harness.running.eta import EtaEstimator
from harness.running.executor import Executor, Record, unstored
from harness.running.locking import Mark, mark_of
from harness.running.rows import (
    cell_row,
    curve_rows,
    detection_rows,
    evidence_rows,
    measurement_rows,
    outcome,
    stage_row,
)
from harness.storage.records import check_record
from harness.storage.store import Store
from harness.storage.tables import Tables

Rerun: TypeAlias = Literal["never", "failed", "all"]
FLUSH_SECONDS = 60.0
FLUSH_ROWS = 200_000
"""Rows after which the collected ones are written: as dictionaries they take a KiB each."""


@dataclass(frozen=True)
class Options:
    """Options of a run: the finished stages to run again, and whether to stop at the first failure."""

    rerun: Rerun = "failed"
    fail_fast: bool = False

    def __post_init__(self) -> None:
        if self.rerun not in get_args(Rerun):
            raise UnknownName("rerun", str(self.rerun), get_args(Rerun))


@dataclass
class Outcome:
    """The end of a run: counts, failures, interruption."""

    ran: int = 0
    elsewhere: int = 0
    """Number of these stages that another run on the same folder computed meanwhile."""
    interrupted: bool = False
    counts: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    """Cells by status, those of earlier runs included."""
    failures: list[tuple[str, str]] = field(default_factory=list)
    """(cell, reason) of the cells that failed."""

    def summary(self, cells: int) -> str:
        """One line on a run of so many cells: the stages that were run, and the cells by status."""
        did = f"ran {self.ran - self.elsewhere} stages" if self.ran or self.interrupted else "nothing to do"
        if self.elsewhere:
            did += f", and another run {self.elsewhere} more"
        counts = ", ".join(f"{count} {status}" for status, count in sorted(self.counts.items()))
        return f"{did}: {cells} cells ({counts})"


class Watcher(Protocol):
    """Progress: told of each stage as it begins and ends."""

    def started(self, stage: Stage) -> None:
        """A stage began."""

    def ended(self, record: Record, done: int, total: int, seconds_left: float | None) -> None:
        """A stage ended, as ``done`` of ``total``; the time left, once every kind of stage to come has been seen."""


class Session:
    """Runs a plan against a store and its tables."""

    def __init__(self, plan: Plan, store: Store, tables: Tables, options: Options) -> None:
        self.plan, self.store, self.tables, self.options = plan, store, tables, options
        self.run_id = f"{tables.time_of_next_run(datetime.now(UTC))}-{uuid4().hex[:6]}"
        self.records: dict[str, Record] = {}
        self.seen: dict[str, Mark] = {}
        """Marks of the stored records of stages that are to run again."""
        self.warnings: list[str] = []
        self._settled = self._settled_cells()
        self.cells = [cell for cell in plan.cells if cell.id not in self._settled]
        self._needed = self._needed_stages()
        self.todo = [stage for stage in self._needed if not self._stored(stage)]

    # --- what is left to do ---

    def _settled_cells(self) -> dict[str, tuple[str, str]]:
        """Status and reason, by id, of the cells whose rows stand and need not be made again."""
        if self.options.rerun == "all":
            return {}
        frame = self.tables.read("cells", ["cell", "status", "reason"])
        rows = zip(frame["cell"], frame["status"], frame["reason"], strict=True)
        again = self.options.rerun == "failed"
        return {
            cell: (status, str(reason))
            for cell, status, reason in rows
            # A cell that is ok and has a reason lacks a model to compare with.
            if not again or status == "skipped" or (status == "ok" and not reason)
        }

    def _needed_stages(self) -> list[Stage]:
        """The stages of unsettled cells with all their ancestors' ids known, parents first."""
        wanted = {id for cell in self.cells for _, id in cell.stages}
        # Parents stand before children in the plan, so one pass backwards finds the ancestors.
        for stage in reversed(self.plan.stages.values()):
            if stage.id in wanted:
                wanted.update(id for _, id in stage.parents)
        return [stage for stage in self.plan.stages.values() if stage.id in wanted]

    def _stored(self, stage: Stage) -> bool:
        """True where the stage's outcome is stored and stands; its record is then read."""
        if stage.id not in self._ids:
            return False
        try:
            record = self.store.record(stage.id)
            if record is None:
                return False
            known = check_record(record, stage)
        except DamagedArtifact as damage:
            self.warnings.append(f"{damage}: computed again")
            return False
        if self.options.rerun == "all" or (known["status"] == "failed" and self.options.rerun == "failed"):
            self.seen[stage.id] = mark_of(known)
            return False
        self.records[stage.id] = known
        return True

    @cached_property
    def _ids(self) -> set[str]:
        """The ids of what was stored when the session began."""
        return self.store.ids()

    # --- doing it ---

    def run(self, executor: Executor, watcher: Watcher, stopping: Callable[[], bool] = lambda: False) -> Outcome:
        """Run what is left; every outcome is in the tables when this returns, also after an exception."""
        run = _Run(self, watcher, stopping, executor.jobs)
        try:
            executor.run(self.todo, run)
        finally:
            run.book.flush()
        run.result.interrupted = stopping() and run.result.ran < len(self.todo)
        self._summarise(run.result)
        return run.result

    def _summarise(self, result: Outcome) -> None:
        for cell in self.plan.cells:
            if cell.id in self._settled:
                status, reason = self._settled[cell.id]
            else:
                known = {id: self.records[id] for _, id in cell.stages if id in self.records}
                status, reason = outcome(cell, known)
                if status != "failed" and len(known) < len(set(dict(cell.stages).values())):
                    status, reason = "not run", ""
            result.counts[status] += 1
            if status == "failed":
                result.failures.append((f"{cell.dataset} / {cell.defense} / {cell.attack} #{cell.seed}", reason))


class _Run:
    """The control of an executor: decides which stages begin, and keeps the books."""

    def __init__(self, session: Session, watcher: Watcher, stopping: Callable[[], bool], jobs: int) -> None:
        self.session, self.watcher, self.stopping = session, watcher, stopping
        self.clock, self.book = EtaEstimator(session.tables, session.todo, jobs), _Book(session)
        self.result = Outcome()
        self.failed = False
        self._told: set[str] = set()
        """The stages that the watcher knows of."""

    def going(self) -> bool:
        return not self.stopping() and not (self.failed and self.session.options.fail_fast)

    def begin(self, stage: Stage) -> Record | None:
        """The record of a stage that cannot be, since a parent did not succeed. It is not stored: the parent may yet.

        ``None`` for one that can.
        """
        records = self.session.records
        blocker = next((r for _, id in stage.required if (r := records[id])["status"] != "ok"), None)
        if blocker:
            return unstored(stage, "skipped", blocker["reason"])
        if stage.id not in self._told:
            self._told.add(stage.id)
            self.watcher.started(stage)
        return None

    def end(self, stage: Stage, record: Record) -> None:
        self.result.elsewhere += record.pop("elsewhere", False)
        self.session.records[stage.id] = record
        self.book.stage(record)
        self.result.ran += 1
        # A model to compare with fails no cell.
        self.failed |= record["status"] == "failed" and stage.role not in ("null", "attacked")
        self.clock.ended(stage, record)
        self.watcher.ended(record, self.result.ran, len(self.session.todo), self.clock.left())


class _Book:
    """Collects rows, and writes them now and then."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.rows: dict[str, list[dict[str, Any]]] = defaultdict(list)
        self.flushed = time.monotonic()
        self.waiting: dict[str, list[Cell]] = defaultdict(list)
        self.missing: dict[str, int] = {}
        for cell in session.cells:
            open_stages = {id for id in self._behind(cell) if id not in session.records}
            self.missing[cell.id] = len(open_stages)
            for id in open_stages:
                self.waiting[id].append(cell)
        self._known(list(session.records.values()))  # first: a cell's row says that its stages' rows are there
        for cell in session.cells:
            if not self.missing[cell.id]:
                self._cell(cell)

    def _behind(self, cell: Cell) -> Iterator[str]:
        """The stages whose records a cell's rows are made of: its own, and those of the models that were asked.

        An ``ask`` stage that is to run comes after these by itself.
        """
        for _, id in cell.stages:
            yield id
            for suspect in self.session.plan.stages[id].suspects if id in self.session.records else ():
                yield from (suspect.model, suspect.base)

    def _known(self, records: list[Record]) -> None:
        """Rows of stages that an earlier run stored but did not write down."""
        if not records:
            return
        frame = self.session.tables.read("stages", ["stage", "seconds"])
        # With the seconds: a row may be of an earlier attempt, which failed.
        written = set(zip(frame["stage"], frame["seconds"], strict=True))
        for record in records:
            if (record["stage"], record.get("seconds")) not in written:
                self._stage_rows(record)

    def stage(self, record: Record) -> None:
        """A stage ended: its rows, and those of the cells that waited for it alone."""
        self._stage_rows(record)
        for cell in self.waiting.pop(record["stage"], ()):
            self.missing[cell.id] -= 1
            if not self.missing[cell.id]:
                self._cell(cell)
        if time.monotonic() - self.flushed > FLUSH_SECONDS:
            self.flush()

    def _stage_rows(self, record: Record) -> None:
        self.rows["stages"].append(stage_row(self.session.plan.stages[record["stage"]], record))
        self.rows["curves"].extend(curve_rows(record))
        self._flush_many()

    def _cell(self, cell: Cell) -> None:
        records, stages = self.session.records, self.session.plan.stages
        self.rows["cells"].append(cell_row(cell, records, stages))
        self.rows["evidence"].extend(evidence_rows(cell, records, stages))
        self.rows["detections"].extend(detection_rows(cell, records, stages))
        self.rows["measurements"].extend(measurement_rows(cell, records))
        self._flush_many()

    def _flush_many(self) -> None:
        if sum(map(len, self.rows.values())) > FLUSH_ROWS:
            self.flush()

    def flush(self) -> None:
        """Write what was collected. Curves before stages and cells last: such a row says that the others are there."""
        for table in ("curves", "stages", "evidence", "detections", "measurements", "cells"):
            self.session.tables.append(table, self.session.run_id, self.rows[table])
            self.rows[table] = []
        self.flushed = time.monotonic()
