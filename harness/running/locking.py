"""Running a stage under its claim, so that of two runs on one results folder only one computes it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypeAlias, cast

from harness.errors import DamagedArtifact
from harness.planning.graph import Stage
from harness.running.executor import Record, Work
from harness.storage.locks import Claims
from harness.storage.records import check_record
from harness.storage.store import Store

Mark: TypeAlias = tuple[Any, Any]
"""Start and seconds: they tell an outcome from one that was stored later in its place."""


def mark_of(record: Record) -> Mark:
    """Seconds come from another clock than the start, and are a digit more exact than chance."""
    return record.get("started"), record.get("seconds")


@dataclass(frozen=True)
class Claimed:
    """Runs a stage unless another process has it (then ``None``), or has stored it since this run began."""

    work: Work
    claims: Claims
    store: Store
    seen: Mapping[str, Mark]
    """The marks that were stored, when the run began, of the stages that it is to run all the same."""

    def __call__(self, stage: Stage) -> Record | None:
        now = datetime.now(UTC).isoformat()
        if not self.claims.try_acquire(stage.id, label=stage.label, action=stage.action, started=now):
            return None
        try:
            return self._elsewhere(stage) or self.work(stage)
        finally:
            self.claims.release(stage.id)

    def _elsewhere(self, stage: Stage) -> Record | None:
        """The record that another run stored meanwhile."""
        try:
            record = self.store.record(stage.id)
            if record is None or mark_of(cast("Record", record)) == self.seen.get(stage.id):
                return None
            known = check_record(record, stage)
        except DamagedArtifact:
            return None
        return {**known, "elsewhere": True}
