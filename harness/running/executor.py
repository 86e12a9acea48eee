"""The executor protocol, and the one that runs stages in this process, one after the other."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Protocol, TypeAlias

from harness.planning.graph import Stage
from harness.running.queue import Queue
from harness.storage.records import StageRecord, Status, about

Record: TypeAlias = StageRecord
Work: TypeAlias = Callable[[Stage], Record | None]
"""Runs a stage, stores what it made, and returns its record; ``None`` while another process is at that stage."""


class Control(Protocol):
    """The side of a run that an executor asks and tells, in the process of the run itself."""

    def going(self) -> bool:
        """True while another stage may begin. Those that run may end, and their records count."""

    def begin(self, stage: Stage) -> Record | None:
        """A stage is about to run. A record says that it cannot, and is its outcome: give it to :meth:`end`.

        Asked again for a stage that another process was at.
        """

    def end(self, stage: Stage, record: Record) -> None:
        """A stage ended."""


class Executor(Protocol):
    """Runs stages: each only after its parents, which come first. How and where is its own affair."""

    jobs: int
    """The number of stages that run at a time."""

    def run(self, stages: Sequence[Stage], control: Control) -> None:
        """Run ``stages`` while ``control`` is going."""


class Serial:
    """The executor that runs stages in this process, in the plan's order."""

    jobs = 1

    def __init__(self, work: Work) -> None:
        self.work = work

    def run(self, stages: Sequence[Stage], control: Control) -> None:
        queue = Queue(stages)
        while queue.left and control.going():
            stage = queue.take()
            if stage is None:  # another process is at each that is left, or at a parent of it
                time.sleep(queue.pause() or 0.0)
                continue
            record = control.begin(stage) or self.work(stage)
            if record is None:
                queue.set_aside(stage)
            else:
                control.end(stage, record)
                queue.done(stage)


def unstored(stage: Stage, status: Status, reason: str, seconds: float = 0.0) -> Record:
    """The record of a stage that left none. It is not stored: the next run tries the stage again."""
    return {**about(stage), "status": status, "reason": reason, "seconds": seconds}
