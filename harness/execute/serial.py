"""The executor protocol, and the one that runs stages in this process, one after the other."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Protocol

from harness.plan import Stage

Record = dict[str, Any]


class Executor(Protocol):
    """Runs stages: each only after its parents, which come first. How and where is its own affair."""

    def run(
        self, stages: Iterable[Stage], work: Callable[[Stage], Record], done: Callable[[Stage, Record], bool]
    ) -> None:
        """Call ``work`` for each of ``stages`` and ``done`` with its record; stop when ``done`` says False."""


class Serial:
    """In this process, in the plan's order."""

    def run(
        self, stages: Iterable[Stage], work: Callable[[Stage], Record], done: Callable[[Stage, Record], bool]
    ) -> None:
        for stage in stages:
            if not done(stage, work(stage)):
                return
