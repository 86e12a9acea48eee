"""The time that a run still takes, estimated from stages of the same kind."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from typing import TypeAlias

from harness.planning.graph import Stage
from harness.storage.records import StageRecord
from harness.storage.tables import Tables

Kind: TypeAlias = tuple[str, str, str]
"""Action, dataset, and the plugin's name."""


class EtaEstimator:
    """Estimates the time left from the mean duration of stages of the same kind, in this run and in earlier ones.

    A kind is an action, a dataset with its options and a plugin without: a sweep's stages are of one kind.
    """

    def __init__(self, tables: Tables, todo: Iterable[Stage], jobs: int) -> None:
        self.jobs = jobs
        self.open = Counter(map(_kind, todo))
        self.count = Counter[Kind]()
        self.seconds: dict[Kind, float] = defaultdict(float)
        if self.open:
            past = tables.read("stages", ["action", "dataset", "plugin", "status", "seconds"])
            # A stranger's rows may lack what is always there, or say that a stage took no time or forever.
            past = past[(past["status"] == "ok") & past["seconds"].between(0, 1e9)].dropna()
            columns = (past[name] for name in ("action", "dataset", "plugin", "seconds"))
            for action, dataset, plugin, seconds in zip(*columns, strict=True):
                self._add((action, dataset, _name(plugin)), seconds)

    def _add(self, kind: Kind, seconds: float) -> None:
        self.count[kind] += 1
        self.seconds[kind] += seconds

    def ended(self, stage: Stage, record: StageRecord) -> None:
        """Count one stage of its kind as done, with its duration."""
        kind = _kind(stage)
        self.open[kind] -= 1
        if record["status"] == "ok":
            self._add(kind, record["seconds"] or 0.0)

    def expected(self, stage: Stage) -> float | None:
        """The mean seconds of stages of its kind; None where none has been seen."""
        kind = _kind(stage)
        return self.seconds[kind] / self.count[kind] if kind in self.count else None

    def left(self) -> float | None:
        """Seconds left; None while a kind of stage that is still to come has never been seen."""
        kinds = [kind for kind, count in self.open.items() if count]
        if any(kind not in self.count for kind in kinds):
            return None
        return sum(self.open[kind] * self.seconds[kind] / self.count[kind] for kind in kinds) / self.jobs


def _kind(stage: Stage) -> Kind:
    return (stage.action, stage.dataset.text, _name(stage.plugin.text if stage.plugin else ""))


def _name(text: str) -> str:
    """The name in ``name[option=value]``."""
    return text.partition("[")[0]
