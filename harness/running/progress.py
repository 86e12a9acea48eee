"""Progress of a run: a bar in a terminal, plain lines elsewhere, JSON lines for programs, or none."""

from __future__ import annotations

import json
import sys
import time
from types import TracebackType
from typing import Any, TextIO

from harness.planning.graph import Stage
from harness.running.session import Watcher
from harness.storage.records import StageRecord
from harness.text import duration, printable

NOTEBOOK_SECONDS = 0.2
"""Seconds between updates of a notebook's line, of which a saved notebook keeps the last."""


class Quiet:
    """No progress. A watcher, and the context in which it watches."""

    def __enter__(self) -> Watcher:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def started(self, stage: Stage) -> None:
        pass

    def ended(self, record: StageRecord, done: int, total: int, seconds_left: float | None) -> None:
        pass


class Plain(Quiet):
    """A line a stage, on stderr."""

    def ended(self, record: StageRecord, done: int, total: int, seconds_left: float | None) -> None:
        left = f", about {duration(seconds_left)} left" if seconds_left is not None and done < total else ""
        _say(
            f"[{done}/{total}{left}] {record['status']:<7} {record['seconds']:6.1f} s  "
            f"{record['action']}: {printable(record['label'])}"
            + (f"  ({first_line(record['reason'])})" if record["reason"] else ""),
            sys.stderr,
        )


class Json(Quiet):
    """JSON lines on stdout, one an event."""

    def started(self, stage: Stage) -> None:
        event = {"event": "started", "stage": stage.id, "action": stage.action, "label": stage.label}
        _say(json.dumps(event), sys.stdout)

    def ended(self, record: StageRecord, done: int, total: int, seconds_left: float | None) -> None:
        keys = ("stage", "action", "label", "status", "reason", "seconds", "accuracy")
        event = {"event": "ended", **{key: record.get(key) for key in keys}}
        _say(json.dumps(event | {"done": done, "total": total, "seconds_left": seconds_left}), sys.stdout)


class Notebook(Quiet):
    """A line in the output of a notebook's cell, which is updated."""

    def __init__(self, total: int) -> None:
        from IPython.display import display

        self.shown = 0.0
        show: Any = display
        self.handle = show({"text/plain": f"0/{total} stages"}, raw=True, display_id=True)

    def ended(self, record: StageRecord, done: int, total: int, seconds_left: float | None) -> None:
        now = time.monotonic()
        if done < total and now - self.shown < NOTEBOOK_SECONDS:
            return
        self.shown = now
        left = "" if seconds_left is None or done == total else f", about {duration(seconds_left)} left"
        latest = "" if done == total else f"  {record['action']}: {printable(record['label'])}"
        self.handle.update({"text/plain": f"{done}/{total} stages{left}{latest}"}, raw=True)


class Bar(Quiet):
    """A bar on stderr, with the time left and the latest of the stages that run; what failed stays above it."""

    def __init__(self, total: int) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
        from rich.table import Column

        self.progress = Progress(
            TextColumn("{task.fields[left]}"),
            BarColumn(bar_width=12),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            # The one column that gives way where a terminal is narrow.
            TextColumn("{task.description}", markup=False, table_column=Column(ratio=1, no_wrap=True)),
            console=Console(stderr=True),
            expand=True,
        )
        self.task = self.progress.add_task("", total=total, left="")
        self.running: dict[str, str] = {}
        """The stages that run now, by id, the latest last."""

    def __enter__(self) -> Watcher:
        self.progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.progress.update(self.task, description="")
        self.progress.stop()

    def started(self, stage: Stage) -> None:
        self.running[stage.id] = f"{stage.action}: {printable(stage.label)}"
        self._describe()

    def ended(self, record: StageRecord, done: int, total: int, seconds_left: float | None) -> None:
        left = "" if seconds_left is None or done == total else f"{duration(seconds_left)} left"
        self.progress.update(self.task, completed=done, left=left)
        self.running.pop(record["stage"], None)  # a stage that is blocked never began
        self._describe()
        if record["status"] == "failed":
            text = f"failed: {printable(record['label'])}: {first_line(record['reason'])}"
            self.progress.console.print(text, markup=False, emoji=False)

    def _describe(self) -> None:
        if self.running:  # else what ended stays until the next begins, or the bar would flicker
            count = f"({len(self.running)} run) " if len(self.running) > 1 else ""
            latest = next(reversed(self.running.values()))
            self.progress.update(self.task, description=count + latest)


def watcher(total: int, quiet: bool, log_json: bool) -> Quiet:
    """The progress of a run of ``total`` stages on the command line."""
    if log_json:
        return Json()
    if quiet:
        return Quiet()
    return Bar(total) if sys.stderr.isatty() else Plain()


def python_watcher(total: int, wanted: bool | None) -> Quiet:
    """The progress of a run of ``total`` stages that Python code started.

    ``None`` shows it in a notebook and in a terminal; ``True`` also elsewhere, as a line a stage.
    """
    if wanted is False or not total:
        return Quiet()
    if in_notebook():
        return Notebook(total)
    if sys.stderr.isatty():
        return Bar(total)
    return Plain() if wanted else Quiet()


def in_notebook() -> bool:
    """Say whether this process is a notebook's kernel."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython else None
    return hasattr(shell, "kernel")


def _say(line: str, stream: TextIO) -> None:
    stream.write(f"{line}\n")
    stream.flush()


def first_line(text: str) -> str:
    """The first line of a message, as a terminal may show it."""
    return printable(text.partition("\n")[0])
