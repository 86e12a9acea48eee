"""The time that a run still takes, estimated from stages of the same kind."""

from __future__ import annotations

import csv
from collections import Counter, defaultdict
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import TypeAlias

from harness.planning.graph import Stage
from harness.storage.records import StageRecord
from harness.storage.tables import Tables

Kind: TypeAlias = tuple[str, str, str]
"""Action, dataset, and the plugin's name."""
DURATIONS = Path(__file__).with_name("durations.csv")
"""Median seconds of built-in plugins' stages on one CPU of the machine of the records, which ``python -m
benchmarks.durations`` writes: columns ``action``, ``dataset``, ``plugin``, ``seconds``."""


class EtaEstimator:
    """Estimates the time left from the mean duration of stages of the same kind, in this run and in earlier ones.

    A kind is an action, a dataset with its options and a plugin without: a sweep's stages are of one kind. Kinds that
    were never timed here take what they took on the machine of the records.
    """

    def __init__(self, tables: Tables, todo: Iterable[Stage], jobs: int) -> None:
        self.jobs = jobs
        self.open = Counter(map(_kind, todo))
        self.count = Counter[Kind]()
        self.seconds: dict[Kind, float] = defaultdict(float)
        if self.open and tables.has("stages"):
            past = tables.read("stages", ["action", "dataset", "plugin", "status", "seconds"])
            # A stranger's rows may lack what is always there, or say that a stage took no time or forever.
            past = past[(past["status"] == "ok") & past["seconds"].between(0, 1e9)].dropna()
            columns = (past[name] for name in ("action", "dataset", "plugin", "seconds"))
            for action, dataset, plugin, seconds in zip(*columns, strict=True):
                self._add((action, dataset, plugin_name(plugin)), seconds)

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
        return self._mean(_kind(stage))

    def _mean(self, kind: Kind) -> float | None:
        return self.seconds[kind] / self.count[kind] if kind in self.count else durations().get(kind)

    def split(self) -> tuple[float, int]:
        """Seconds that the stages still to come take, all jobs together; and the number of those that this leaves out,
        since no stage of their kind has been seen.
        """
        means = [(count, self._mean(kind)) for kind, count in self.open.items() if count]
        seconds = sum(count * mean for count, mean in means if mean is not None)
        return seconds / self.jobs, sum(count for count, mean in means if mean is None)

    def left(self) -> float | None:
        """Seconds left; None while a kind of stage that is still to come has never been seen."""
        seconds, untimed = self.split()
        return None if untimed else seconds


@cache
def durations() -> dict[Kind, float]:
    """Median seconds of built-in plugins' stages by kind, on the machine of the records."""
    with DURATIONS.open(encoding="utf-8", newline="") as file:
        return {(row["action"], row["dataset"], row["plugin"]): float(row["seconds"]) for row in csv.DictReader(file)}


def _kind(stage: Stage) -> Kind:
    return (stage.action, stage.dataset.text, plugin_name(stage.plugin.text if stage.plugin else ""))


def plugin_name(text: str) -> str:
    """The name in ``name[option=value]``."""
    return text.partition("[")[0]
