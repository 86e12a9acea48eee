"""The way every benchmark measures: repetitions that take turns, medians, and rows that name what they are compared
with.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

PLAIN = "learning_rate=0.001,schedule=constant,augment=none"
"""Options of MNIST's recipe as the plain loops train: Adam at a constant rate, and images as they are."""
Side = Callable[[], float]
"""One repetition of one side of a comparison: it measures itself, and returns the number."""


@dataclass(frozen=True)
class Row:
    """One line of the table: our repetitions, and the peer's, or the one number that stands for it."""

    name: str
    samples: Sequence[float]
    peer_samples: Sequence[float]
    unit: str
    peer_is: str
    """The peer: ``measured: ...`` in this run, ``published: ...``, or ``target``."""
    note: str = ""

    @property
    def ours(self) -> float:
        """The median of our repetitions."""
        return median(self.samples)

    @property
    def peer(self) -> float:
        """The median of the peer's repetitions."""
        return median(self.peer_samples)

    @property
    def ratio(self) -> float:
        """Ours / peer; NaN where the peer is 0."""
        return self.ours / self.peer if self.peer else math.nan

    def as_json(self) -> dict[str, str | float | int | None]:
        """The row as ``build/bench.json`` holds it."""
        return {
            "name": self.name,
            "ours": self.ours,
            "peer": self.peer,
            "ratio": None if math.isnan(self.ratio) else self.ratio,
            "unit": self.unit,
            "n": len(self.samples),
            "note": self.note,
        }


@dataclass(frozen=True)
class Benchmark:
    """A benchmark: the function that measures it, and how many repetitions it gets."""

    name: str
    measure: Callable[[int], list[Row]]
    n: int
    quick: int
    long: bool = False
    """Takes longer than five minutes: run only when it is named, or with ``--long``."""


def with_data(measure: Callable[[Path, int], list[Row]]) -> Callable[[int], list[Row]]:
    """A benchmark on the real data sets; no rows where there are none."""

    def measured(n: int) -> list[Row]:
        root = Path(os.environ.get("HARNESS_DATA", ""))
        return measure(root, n) if os.environ.get("HARNESS_DATA") and root.is_dir() else []

    return measured


def alternate(n: int, *sides: Side) -> list[list[float]]:
    """``n`` repetitions of each side in turn (A B A B ...), so that a machine that slows down slows all of them."""
    rounds = [[side() for side in sides] for _ in range(n)]
    return [list(samples) for samples in zip(*rounds, strict=True)]


def seconds(work: Callable[[], object]) -> float:
    """Wall seconds that ``work`` takes."""
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def cpu_seconds(work: Callable[[], object]) -> float:
    """Seconds of processor time that ``work`` takes in this process, all threads together."""
    begin = time.process_time()
    work()
    return time.process_time() - begin


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Torch with ``count`` threads."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
