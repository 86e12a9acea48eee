"""The state of a plan: read from the store, the tables and the claims, while other processes may run it.

Nothing is written, and no tensor is read.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from typing import Any, Literal, TypeAlias, get_args

from harness.errors import DamagedArtifact
from harness.planning.graph import Cell, Plan, Stage
from harness.planning.select import words
from harness.running.eta import EtaEstimator
from harness.running.rows import outcome
from harness.storage.locks import Claims
from harness.storage.records import StageRecord, check_record
from harness.storage.records import Status as Ended
from harness.storage.store import Store
from harness.storage.tables import Tables

State: TypeAlias = Literal["done", "running", "failed", "skipped", "waiting"]
STATES: tuple[State, ...] = get_args(State)
_STATES: dict[str, State] = {"ok": "done", "skipped": "skipped", "failed": "failed"}


@dataclass(frozen=True)
class Status:
    """The state of a stage or a cell."""

    state: State
    reason: str = ""
    """The reason for a failure or a skip; for one that waits although it was done, why it runs again; for one that is
    done, the models to compare with that it lacks."""


class Survey:
    """The state of each stage and each cell of a plan."""

    def __init__(self, plan: Plan, store: Store, tables: Tables, claims: Claims) -> None:
        self.plan, self.store, self.tables = plan, store, tables
        self.notes = claims.running()
        """The notes of processes that compute a stage now, of this plan or of another."""
        self.stored = store.ids()
        self.rows = _outcomes(tables, "cells", "cell")
        """Status and reason of the cells that have a row, by id."""
        self._settled = {
            id for id, (status, reason) in self.rows.items() if status == "skipped" or (status == "ok" and not reason)
        }
        self._written = _outcomes(tables, "stages", "stage")
        self._running = {note["stage"] for note in self.notes}
        self._needed = self._needed_stages()
        self.stages: dict[str, Status] = {}
        for stage in plan.stages.values():  # parents first
            self.stages[stage.id] = self._stage(stage)
        self.cells = {cell.id: self._cell(cell) for cell in plan.cells}

    def _needed_stages(self) -> set[str]:
        """The stages of the cells whose rows do not stand, with their ancestors: those that a run would look for."""
        needed = {id for cell in self.plan.cells if cell.id not in self._settled for _, id in cell.stages}
        for stage in reversed(self.plan.stages.values()):
            if stage.id in needed:
                needed.update(id for _, id in stage.parents)
        return needed

    def _stage(self, stage: Stage) -> Status:
        if stage.id in self._running:
            return Status("running")
        written = self._written.get(stage.id)
        if stage.id in self.stored:
            return Status("done") if written and written[0] == "ok" else self._recorded(stage)
        if stage.id not in self._needed:  # its cells are settled: they need no artifact
            return _status(*(written or ("ok", "")))
        if written and written[0] == "failed":  # a worker process died in it: there is no artifact
            return Status("failed", written[1])
        blocked = [found for _, id in stage.required if (found := self.stages[id]).state in ("failed", "skipped")]
        if blocked:
            return Status("skipped", blocked[0].reason)
        lacks = written is not None and written[0] == "ok" and written[1]
        return Status("done", lacks) if lacks else Status("waiting")

    def _recorded(self, stage: Stage) -> Status:
        """The state that a record gives a stage which the tables do not know yet: they lag behind."""
        try:
            record = self.store.record(stage.id)
            if record is None:  # deleted just now
                return Status("waiting")
            check_record(record, stage)
        except DamagedArtifact as damage:
            return Status("waiting", f"{damage}: computed again")
        return _status(record["status"], record["reason"])

    def _cell(self, cell: Cell) -> Status:
        if cell.id in self._settled:
            return _status(*self.rows[cell.id])
        found = {id: self.stages[id] for _, id in cell.stages}
        known: dict[str, StageRecord] = {
            id: {"status": _ENDS[s.state], "reason": s.reason} for id, s in found.items() if s.state in _ENDS
        }
        status, reason = outcome(cell, known)
        if status != "ok" or len(known) == len(found):
            return _status(status, reason)
        return Status("running" if any(s.state == "running" for s in found.values()) else "waiting")

    # --- in short ---

    def count_cells(self) -> Counter[State]:
        """Cells by state."""
        return Counter(status.state for status in self.cells.values())

    def count_stages(self) -> dict[str, Counter[State]]:
        """Stages by action and state, in the plan's order."""
        counts: dict[str, Counter[State]] = {}
        for id, stage in self.plan.stages.items():
            counts.setdefault(stage.action, Counter())[self.stages[id].state] += 1
        return counts

    def failures(self) -> Iterator[tuple[str, str]]:
        """Failures by label, with the reason: stages, and cells whose plugin broke while it was planned."""
        for id, stage in self.plan.stages.items():
            if self.stages[id].state == "failed":
                yield f"{stage.action}: {stage.label}", self.stages[id].reason
        for cell in self.plan.cells:
            if cell.broken:
                yield words(cell.dataset, cell.defense, cell.attack, cell.seed), cell.skip

    @cached_property
    def processes(self) -> int:
        """The number of processes that run the plan's stages now."""
        return sum(note["stage"] in self.plan.stages for note in self.notes)

    def seconds_left(self, now: datetime) -> float | None:
        """An estimate for all processes together (for one, if none runs); ``None`` while a kind of stage that is still
        to come has never been timed.
        """
        todo = [self.plan.stages[id] for id, found in self.stages.items() if found.state in ("waiting", "running")]
        jobs = max(1, self.processes)
        clock = EtaEstimator(self.tables, todo, jobs)
        left = clock.left()
        if left is None:
            return None
        for note in self.notes:
            if stage := self.plan.stages.get(note["stage"]):
                left -= min(seconds_since(note, now) or 0.0, clock.expected(stage) or 0.0) / jobs
        return max(0.0, left)


def seconds_since(note: Mapping[str, Any], now: datetime) -> float | None:
    """Seconds since a process began its stage; ``None`` where its note does not say."""
    try:
        return max(0.0, (now - datetime.fromisoformat(note["started"]).astimezone(UTC)).total_seconds())
    except (KeyError, TypeError, ValueError, OverflowError):
        return None


def _outcomes(tables: Tables, table: str, key: str) -> dict[str, tuple[str, str]]:
    """Status and reason by id."""
    frame = tables.read(table, [key, "status", "reason"])
    rows = zip(frame[key], frame["status"], frame["reason"], strict=True)
    return {str(id): (str(status), str(reason or "")) for id, status, reason in rows}


_ENDS: dict[str, Ended] = {"done": "ok", "failed": "failed", "skipped": "skipped"}


def _status(status: str, reason: str) -> Status:
    return Status(_STATES.get(status, "waiting"), reason)
