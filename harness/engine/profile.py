"""A stage's timeline, for ``harness run --profile``: spans of the whole stage, and the operations of its first steps.

In the Trace Event Format of Chrome, which https://ui.perfetto.dev and chrome://tracing open.
"""

from __future__ import annotations

import gzip
import json
import os
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Protocol

import torch

from harness.files import whole_file

STEPS = 20
"""Steps of each training whose operations are recorded: all of them would be gigabytes."""


class Trace(Protocol):
    """Listener that is told where a stage is."""

    def span(self, name: str, **arguments: object) -> AbstractContextManager[None]:
        """The time from entering to leaving, under a name."""

    def operations(self) -> AbstractContextManager[None]:
        """Within, the operations of the first steps are recorded."""

    def stepped(self) -> None:
        """A training step ended."""


class NoTrace:
    """Records nothing, at no cost."""

    def span(self, name: str, **arguments: object) -> AbstractContextManager[None]:
        return nullcontext()

    def operations(self) -> AbstractContextManager[None]:
        return nullcontext()

    def stepped(self) -> None:
        pass


class Timeline:
    """Records spans by the clock, and operations with torch's profiler."""

    def __init__(self, label: str) -> None:
        self._begin = time.time_ns()
        self._profiler: torch.profiler.profile | None = None
        self._steps = 0
        self._events: list[dict[str, Any]] = [
            {"ph": "M", "name": "process_name", "pid": os.getpid(), "args": {"name": label}},
            {"ph": "M", "name": "thread_name", "pid": os.getpid(), "tid": 0, "args": {"name": "stage"}},
        ]

    @contextmanager
    def span(self, name: str, **arguments: object) -> Iterator[None]:
        begin = time.time_ns()
        try:
            yield
        finally:
            place = {"pid": os.getpid(), "tid": 0, "ts": self._microseconds(begin)}
            length = (time.time_ns() - begin) / 1000
            self._events.append({"ph": "X", "name": name, **place, "dur": length, "args": arguments})

    @contextmanager
    def operations(self) -> Iterator[None]:
        self._steps, self._profiler = 0, torch.profiler.profile(record_shapes=True, acc_events=True)
        self._profiler.start()
        try:
            yield
        finally:
            self._stop()

    def stepped(self) -> None:
        self._steps += 1
        if self._steps == STEPS:
            self._stop()

    def _stop(self) -> None:
        """End the recording of operations, and take what it recorded over into this timeline."""
        if self._profiler is None:
            return
        profiler, self._profiler = self._profiler, None
        profiler.stop()
        with TemporaryDirectory(prefix="harness-") as folder:
            path = Path(folder) / "trace.json"
            profiler.export_chrome_trace(str(path))
            recorded = json.loads(path.read_text("utf-8"))
        base = recorded.get("baseTimeNanoseconds", 0)
        for event in recorded["traceEvents"]:
            # Metadata, which has no time, would rename the process and hide the spans.
            if event["ph"] != "M" and "ts" in event:
                self._events.append(event | {"ts": self._microseconds(base) + event["ts"]})

    def _microseconds(self, nanoseconds: float) -> float:
        """A time of the epoch, in microseconds since this timeline began."""
        return (nanoseconds - self._begin) / 1000

    def write(self, path: Path) -> None:
        """Write the timeline, gzipped JSON."""
        path.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps({"traceEvents": self._events, "displayTimeUnit": "ms"})
        with whole_file(path) as partial:
            partial.write_bytes(gzip.compress(text.encode()))
