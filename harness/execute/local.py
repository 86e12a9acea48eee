"""The executor that runs stages in worker processes on this machine.

A worker lives as long as the run and keeps what it has loaded. A pipe leads to each: stages go there, records and
warnings come back. The process of the run keeps the books and waits, so a worker may die without taking anything along
but its own stage.
"""

from __future__ import annotations

import os
import pickle
import signal
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from multiprocessing import get_context, parent_process, resource_tracker
from multiprocessing.connection import Connection, wait
from threading import Thread
from typing import Any, TypeAlias

from harness.errors import HarnessError, UsageError
from harness.execute.queue import Queue as Queue
from harness.execute.serial import Control, Record, Work, unstored
from harness.plan import Stage

Warn: TypeAlias = Callable[[str], None]
Make: TypeAlias = Callable[[int, Mapping[str, Stage], Warn], Work]
"""Called once in each worker process, so it must pickle: makes what runs stages there. It is given the worker's number,
the stages sent so far (a stage's ancestors come with it) and where warnings go."""

HELD = 8
"""Of how many stages a worker's latest artifacts are taken to be at hand there: fewer than it caches."""
PATIENCE = 5.0
"""Seconds that a worker has for leaving when there is no more to do."""


class Local:
    """In ``jobs`` worker processes on this machine; ``stages`` are all of the plan, by id.

    A stage that takes more than ``limit`` seconds fails, and its process is killed.
    """

    def __init__(
        self, jobs: int, make: Make, stages: Mapping[str, Stage], warn: Warn, limit: float | None = None
    ) -> None:
        self.jobs, self.make, self.stages, self.warn, self.limit = jobs, make, stages, warn, limit

    def run(self, stages: Sequence[Stage], control: Control) -> None:
        crew = _Crew(self, Queue(stages), control)
        try:
            crew.run()
        except BaseException:
            crew.kill()
            raise
        finally:
            crew.close()


# --- in the process of the run ----------------------------------------------------------------------------------------


class _Crew:
    """The workers of one run."""

    def __init__(self, local: Local, queue: Queue, control: Control) -> None:
        self.local, self.queue, self.control = local, queue, control
        self.workers: dict[Any, _Worker] = {}
        """By their connections."""

    def run(self) -> None:
        """Hand out stages and hear what became of them, until there is nothing to wait for."""
        for number in range(min(self.local.jobs, self.queue.left)):
            self._hire(number)
        while self._hand_out():
            for connection in wait(list(self.workers), self._patience()):
                self._hear(self.workers[connection])
            for worker in list(self.workers.values()):
                if self._time_left(worker) == 0:
                    self._overdue(worker)

    def _patience(self) -> float | None:
        """Seconds to wait for a message: until a stage is overdue, or one that was set aside can be handed out."""
        times = [self._time_left(worker) for worker in self.workers.values()]
        if any(worker.ready and worker.stage is None for worker in self.workers.values()):
            times.append(self.queue.pause())
        return min((seconds for seconds in times if seconds is not None), default=None)

    def _time_left(self, worker: _Worker) -> float | None:
        """The seconds that the stage of a worker still has; ``None`` for any number."""
        if self.local.limit is None or worker.stage is None:
            return None
        return max(0.0, worker.since + self.local.limit - time.monotonic())

    def _hire(self, number: int) -> None:
        worker = _Worker(number, self.local)
        self.workers[worker.connection] = worker

    def _hand_out(self) -> bool:
        """Give every idle worker a stage, as far as there are; whether there is something to wait for."""
        for worker in self.workers.values():
            if worker.ready and worker.stage is None:
                self._give(worker)
        if any(worker.stage for worker in self.workers.values()):
            return True
        return self.queue.left > 0 and self.control.going()  # the workers are starting up

    def _give(self, worker: _Worker) -> None:
        while self.control.going() and (stage := self.queue.take(worker.held)):
            record = self.control.begin(stage) or worker.send(stage)
            if record is None:
                return
            self._done(stage, record)

    def _done(self, stage: Stage, record: Record) -> None:
        self.control.end(stage, record)
        self.queue.done(stage)

    def _hear(self, worker: _Worker) -> None:
        """One message of a worker, or its end."""
        try:
            kind, value = worker.connection.recv()
        except (EOFError, OSError):
            return self._lost(worker)
        if kind == "ready":
            worker.ready = True
        elif kind == "warning":
            self.local.warn(value)
        elif kind == "record":
            self._done(worker.free(), value)
        elif kind == "claimed":
            self.queue.set_aside(worker.free())
        elif kind == "unread":
            worker.sent.clear()
            self._fail(worker, f"a worker process cannot read the stage: {value}")
        elif kind == "usage":
            raise UsageError(value)
        else:
            raise HarnessError(f"a worker process broke:\n{value}")

    def _lost(self, worker: _Worker) -> None:
        """A worker is gone, and its stage with it; another one takes its place."""
        del self.workers[worker.connection]
        end = worker.close()
        if not worker.ready:
            raise UsageError(f"a worker process {end} while it started; {_WITHOUT}")
        if worker.stage is not None:
            self._fail(worker, f"the worker process {end}")
        if self.queue.left and self.control.going():
            self._hire(worker.number)

    def _overdue(self, worker: _Worker) -> None:
        """The stage of a worker took too long. Only killing its process ends it."""
        worker.process.kill()
        self._fail(worker, f"took longer than --stage-timeout {self.local.limit:g} s")
        self._lost(worker)

    def _fail(self, worker: _Worker, reason: str) -> None:
        seconds = time.monotonic() - worker.since
        stage = worker.free()
        self._done(stage, _failed(stage, reason, seconds))

    def kill(self) -> None:
        """End all workers at once, whatever they do."""
        for worker in self.workers.values():
            worker.process.kill()

    def close(self) -> None:
        """Tell all workers that there is no more to do, and see them off."""
        for worker in self.workers.values():
            worker.connection.close()
            if not worker.ready:  # it is still importing, and would not notice
                worker.process.kill()
        for worker in self.workers.values():
            worker.close()


class _Worker:
    """A worker process, as the process of the run sees it."""

    def __init__(self, number: int, local: Local) -> None:
        self.number, self.stages = number, local.stages
        self.ready = False
        """Whether it has started up."""
        self.stage: Stage | None = None
        self.since = 0.0
        self.held: tuple[str, ...] = ()
        """The stages whose artifacts it made or loaded, the latest first."""
        self.sent: set[str] = set()
        context = get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, local.make, number), name=f"worker {number}")
        try:
            with _not_from_here(), _no_interrupts():  # in this order: the second starts a process too
                self.process.start()
        except OSError as error:
            raise UsageError(f"cannot start a worker process ({error}); {_WITHOUT}") from error
        theirs.close()  # else the pipe would not end when the worker does

    def send(self, stage: Stage) -> Record | None:
        """Have it run ``stage``. A record says that this cannot be."""
        unsent = self._unsent(stage)
        try:
            message = pickle.dumps((stage.id, unsent))
        except Exception as error:  # whatever a plugin's object raises
            return _failed(stage, f"it cannot be sent to a worker process: {type(error).__name__}: {error}")
        self.stage, self.since = stage, time.monotonic()
        self.sent.update(each.id for each in unsent)
        parents = (id for _, id in stage.parents)
        self.held = tuple(dict.fromkeys((stage.id, *parents, *self.held)))[:HELD]
        with suppress(OSError):  # it has died just now: its end of the pipe will tell
            self.connection.send_bytes(message)
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
        """The stage that it ran; it runs none from now on."""
        assert self.stage is not None
        stage, self.stage = self.stage, None
        return stage

    def close(self) -> str:
        """Wait for its end, and say how it ended."""
        self.connection.close()
        self.process.join(PATIENCE)
        self.process.kill()
        self.process.join()
        return _end(self.process.exitcode or 0)


_WITHOUT = "--jobs 1 runs without"


def _failed(stage: Stage, reason: str, seconds: float = 0.0) -> Record:
    return unstored(stage, "failed", f"{stage.plugin or stage.dataset}: {reason}", seconds)


def _end(code: int) -> str:
    if code >= 0:
        return f"ended with exit code {code}"
    name = {each.value: each.name for each in signal.Signals}.get(-code, f"signal {-code}")
    return f"was killed by {name}" + (", as the system does when memory runs out" if name == "SIGKILL" else "")


@contextmanager
def _not_from_here() -> Iterator[None]:
    """A new interpreter looks for its first modules in the folder that it is started in, which may be a stranger's.

    Not with this variable. The path of this process, which it then takes over, is what the user wanted.
    """
    before = os.environ.get(_SAFE_PATH)
    os.environ[_SAFE_PATH] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[_SAFE_PATH]
        else:
            os.environ[_SAFE_PATH] = before


_SAFE_PATH = "PYTHONSAFEPATH"


@contextmanager
def _no_interrupts() -> Iterator[None]:
    """Ctrl-C waits. A process that is started meanwhile inherits that, until it says that it ignores Ctrl-C."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    resource_tracker.ensure_running()  # it would be started by the first worker, and let Ctrl-C through
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


# --- in a worker process ----------------------------------------------------------------------------------------------


def _serve(connection: Connection, make: Make, number: int) -> None:
    """Run one stage after the other, until the pipe ends."""
    # Ctrl-C reaches the whole process group. It is for the run to say what ends.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    Thread(target=_leave_with_the_run, daemon=True).start()
    stages: dict[str, Stage] = {}
    with suppress(EOFError, BrokenPipeError, ConnectionResetError):  # there is no more to do, or nobody to tell
        try:
            work = make(number, stages, lambda text: connection.send(("warning", text)))
        except Exception as error:
            reason = f"{type(error).__name__}: {error}"
            connection.send(("usage", f"a worker process cannot start: {reason}; {_WITHOUT}"))
            return
        connection.send(("ready", None))
        while True:
            connection.send(_answer(connection.recv_bytes(), stages, work))


def _answer(message: bytes, stages: dict[str, Stage], work: Work) -> tuple[str, Any]:
    try:
        id, sent = pickle.loads(message)
    except Exception as error:  # whatever a plugin's object raises
        return "unread", f"{type(error).__name__}: {error}"
    stages.update((stage.id, stage) for stage in sent)
    try:
        record = work(stages[id])
        return ("claimed", None) if record is None else ("record", record)
    except UsageError as error:  # a full disk, say
        return "usage", str(error)
    except Exception:
        return "broken", traceback.format_exc()


def _leave_with_the_run() -> None:
    """End with the process of the run, also where that was killed in the middle of a stage."""
    run = parent_process()
    if run is not None:
        wait([run.sentinel])
        os._exit(1)
