"""Workers as executors see them: their stages, the free ones, and the handling of lost ones.

The process of the run keeps the books and waits, so a worker that dies takes only its own stage along. Subclasses of
the two classes here say where workers are and how they are reached.
"""

from __future__ import annotations

import errno
import time
import traceback
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Any, Generic, Literal, TypeAlias, TypeVar, get_args

from harness.errors import HarnessError, OutOfMemory, UsageError
from harness.isolation import stays_here
from harness.planning.graph import Stage
from harness.running.executor import Control, Record, Work, unstored
from harness.running.queue import Queue

Warn: TypeAlias = Callable[[str], None]
Message: TypeAlias = tuple[str, Any]
"""A kind and its subject: ``ready``, ``warning``, ``loading`` and ``began`` (of a stage), ``record``, ``last``
(a record, of a worker that can do no more), ``claimed`` (another process has the stage), ``crowded`` (out of a device's
memory), ``unread`` (the stage could not be read), ``usage`` (a user's mistake) or ``broken``.
"""

Clock: TypeAlias = Literal["loading", "began"]
"""Messages of a worker on its stage: what it loads does not count, and its time limit starts where it begins."""

HELD = 8
"""Number of a worker's latest artifacts that count as loaded there: fewer than it caches."""


class WorkerHandle(ABC):
    """A worker, as the process of the run sees it; ``stages`` are all of the plan, by id."""

    def __init__(self, number: int, stages: Mapping[str, Stage]) -> None:
        self.number, self.stages = number, stages
        self.ready = False
        """True once it has started up."""
        self.stage: Stage | None = None
        self.since = 0.0
        self.timed = True
        """False while it loads what its stage needs, which does not count."""
        self.held: tuple[str, ...] = ()
        """The stages whose artifacts it made or loaded, the latest first."""
        self.sent: set[str] = set()

    @abstractmethod
    def send(self, id: str, stages: Sequence[Stage]) -> None:
        """Have it run the stage ``id``, one of ``stages``. Raises any error that keeps them from being sent."""

    @abstractmethod
    def kill(self) -> None:
        """End it at once, whatever it does."""

    @abstractmethod
    def close(self) -> str:
        """Say how it ended, once it has been told to leave or is gone."""

    def give(self, stage: Stage) -> Record | None:
        """Have it run ``stage``; a record in return says that this cannot be."""
        unsent = self._unsent(stage)
        try:
            self.send(stage.id, unsent)
        except Exception as error:  # whatever a plugin's object raises
            return _failed(stage, f"it cannot be sent to a worker process: {type(error).__name__}: {error}")
        self.stage, self.since, self.timed = stage, time.monotonic(), True
        self.sent.update(each.id for each in unsent)
        parents = (id for _, id in stage.parents)
        self.held = tuple(dict.fromkeys((stage.id, *parents, *self.held)))[:HELD]
        return None

    def _unsent(self, stage: Stage) -> list[Stage]:
        """``stage`` and those of its ancestors that the worker does not know."""
        found: dict[str, Stage] = {}
        ids = [stage.id]
        while ids:
            id = ids.pop()
            if id not in self.sent and id not in found:
                found[id] = self.stages[id]
                ids.extend(parent for _, parent in found[id].parents)
        return list(found.values())

    def free(self) -> Stage:
        """The stage that it ran; from now on it runs none."""
        assert self.stage is not None
        stage, self.stage = self.stage, None
        return stage


W = TypeVar("W", bound=WorkerHandle)


class WorkerPool(ABC, Generic[W]):
    """The workers of one run."""

    tries = 1
    """Number of times that a stage whose worker was lost is begun, and that a worker lost before it was ready is
    started.
    """
    without = ""
    """The command to type for a run without workers."""

    def __init__(self, queue: Queue, control: Control, warn: Warn, limit: float | None) -> None:
        self.queue, self.control, self.warn, self.limit = queue, control, warn, limit
        self.workers: list[W] = []
        self.lost: Counter[str | int] = Counter()
        """The workers lost, by their stage or, before they were ready, by their number."""
        self.crowded: list[Stage] = []
        """Stages that ran out of a device's memory: when all others are done, each is tried again alone."""
        self.alone: Stage | None = None
        """The one of them that runs now."""

    @abstractmethod
    def places(self) -> int:
        """The number of workers there may be now."""

    @abstractmethod
    def hire(self, number: int) -> W:
        """Start a worker."""

    @abstractmethod
    def listen(self, seconds: float | None) -> Iterator[tuple[W, Message | None]]:
        """The messages of workers, after waiting up to ``seconds`` for the first; ``None`` from one that is gone."""

    def run(self) -> None:
        """Hand out stages and receive their outcomes, until there is nothing to wait for."""
        while self._hand_out():
            for worker, message in self.listen(self._patience()):
                self._hear(worker, message)
            for worker in list(self.workers):
                if self._time_left(worker) == 0:
                    self._overdue(worker)

    def _patience(self) -> float | None:
        """Seconds to wait for a message: until a stage is overdue, or one that was set aside can be handed out."""
        times = [self._time_left(worker) for worker in self.workers]
        if any(worker.ready and worker.stage is None for worker in self.workers):
            times.append(self.queue.pause())
        return min((seconds for seconds in times if seconds is not None), default=None)

    def _time_left(self, worker: W) -> float | None:
        """The seconds that the stage of a worker still has; ``None`` for no limit."""
        if self.limit is None or worker.stage is None or not worker.timed:
            return None
        return max(0.0, worker.since + self.limit - time.monotonic())

    def _hand_out(self) -> bool:
        """Give every idle worker a stage, as far as there are any; True if there is something to wait for."""
        self._staff()
        idle = [worker for worker in self.workers if worker.ready and worker.stage is None]
        if self.alone is None:
            for worker in idle:
                self._give(worker)
        if any(worker.stage for worker in self.workers):
            return True
        self.alone = self.crowded.pop() if self.crowded and idle and self.control.going() else None
        if self.alone and (record := idle[0].give(self.alone)):
            self._done(self.alone, record)
        return self._left() > 0 and self.control.going()  # the workers are starting up

    def _left(self) -> int:
        """The number of stages still to be begun, or to be run alone."""
        return self.queue.left + len(self.crowded) + (self.alone is not None)

    def _staff(self) -> None:
        """Start workers for the stages left, as far as there are places."""
        if not self._left() or not self.control.going():
            return
        busy = sum(worker.stage is not None for worker in self.workers)
        wanted = min(self.places(), busy + self._left())
        taken = {worker.number for worker in self.workers}
        free = (number for number in count() if number not in taken)
        while len(self.workers) < wanted:
            self.workers.append(self.hire(next(free)))

    def _give(self, worker: W) -> None:
        while self.control.going() and (stage := self.queue.take(worker.held)):
            record = self.control.begin(stage) or worker.give(stage)
            if record is None:
                return
            self._done(stage, record)

    def _done(self, stage: Stage, record: Record) -> None:
        if stage is self.alone:
            self.alone = None
        self.control.end(stage, record)
        self.queue.done(stage)

    def _hear(self, worker: W, message: Message | None) -> None:
        """Handle one message of a worker, or its end."""
        if message is None:
            return self._lost(worker)
        kind, value = message
        if kind == "ready":
            worker.ready = True
            del self.lost[worker.number]
        elif kind == "warning":
            self.warn(value)
        elif kind in get_args(Clock):
            worker.timed, worker.since = kind == "began", time.monotonic()
        elif kind == "record":
            self._done(worker.free(), value)
        elif kind == "last":
            self._done(worker.free(), value)
            self.workers.remove(worker)
            worker.kill()
            worker.close()
        elif kind == "claimed":
            self.queue.set_aside(worker.free())
        elif kind == "crowded" and worker.stage is self.alone:
            self._fail(worker, f"it ran out of memory with no other stage beside it: {value}")
        elif kind == "crowded":
            self.crowded.append(worker.free())
        elif kind == "unread":
            worker.sent.clear()
            self._fail(worker, f"a worker process cannot read the stage: {value}")
        elif kind == "usage":
            raise UsageError(value)
        else:
            raise HarnessError(f"a worker process broke:\n{value}")

    def _lost(self, worker: W) -> None:
        """Handle the loss of a worker and of the stage it ran. Another one takes its place."""
        self.workers.remove(worker)
        end = worker.close()
        if worker.ready and worker.stage is None:
            return
        what = worker.stage.id if worker.stage else worker.number
        self.lost[what] += 1
        if self.lost[what] < self.tries:
            if worker.stage:
                self.queue.set_aside(worker.free())
            return
        end += f" ({self.tries} times in a row)" if self.tries > 1 else ""
        if not worker.ready:
            raise UsageError(f"a worker process {end} while it started; {self.without}")
        self._fail(worker, f"the worker process {end}")

    def _overdue(self, worker: W) -> None:
        """End a worker whose stage took too long: only killing its process ends it."""
        worker.kill()
        self._fail(worker, f"took longer than --stage-timeout {self.limit:g} s")
        self._lost(worker)

    def _fail(self, worker: W, reason: str) -> None:
        seconds = time.monotonic() - worker.since
        stage = worker.free()
        self._done(stage, _failed(stage, reason, seconds))

    def kill(self) -> None:
        """End all workers at once, whatever they do."""
        for worker in self.workers:
            worker.kill()


def _failed(stage: Stage, reason: str, seconds: float = 0.0) -> Record:
    return unstored(stage, "failed", f"{stage.plugin or stage.dataset}: {reason}", seconds)


# --- in a worker ------------------------------------------------------------------------------------------------------


def answer(work: Work, stage: Stage) -> Message:
    """Run ``stage``, and return the message with its outcome."""
    try:
        record = work(stage)
    except OutOfMemory as error:
        return "crowded", str(error)
    except UsageError as error:  # a plugin or a data set that is not there, a full disk, say
        if isinstance(error.__cause__, OSError) and error.__cause__.errno == errno.EMFILE:
            return "last", _failed(stage, f"too many files were left open: {error}")
        return "usage", str(error)
    except Exception:
        return "broken", traceback.format_exc()
    if record is None:
        return "claimed", None
    return "last" if stays_here() or _is_short_of_files() else "record", record


def _is_short_of_files() -> bool:
    """True if half of the files that this process may open are open: plugins left them so, and more stages may."""
    try:
        import resource

        return len(list(Path("/proc/self/fd").iterdir())) > resource.getrlimit(resource.RLIMIT_NOFILE)[0] / 2
    except (ImportError, OSError):  # not Linux
        return False
