"""The executor that runs stages in worker processes on this machine.

A worker lives as long as the run and keeps what it has loaded. A pipe leads to each: stages go there, records and
warnings come back.
"""

from __future__ import annotations

import os
import pickle
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from multiprocessing import get_context, parent_process, resource_tracker
from multiprocessing.connection import Connection, wait
from threading import Thread
from types import ModuleType
from typing import Any, TypeAlias

from harness.errors import UsageError
from harness.isolation import Guard, describe_error, end_freely, end_kept, real_exit
from harness.isolation.output import for_life
from harness.planning.by_value import dumps
from harness.planning.graph import Stage
from harness.running.executor import Control, Work
from harness.running.pool import Clock, Message, Warn, WorkerHandle, WorkerPool, answer
from harness.running.queue import Queue as Queue

Make: TypeAlias = Callable[[int, Mapping[str, Stage], Warn], Work]
"""A function called once in each worker process, so it must pickle: it makes the function that runs stages there. Its
arguments are the worker's number, the stages sent so far (a stage's ancestors come with it) and the receiver of
warnings.
"""

PATIENCE = 5.0
"""Seconds that a worker has to leave when no stage is left."""
_WITHOUT = "--jobs 1 runs without"


class Local:
    """Runs stages in ``jobs`` worker processes on this machine; ``stages`` are all of the plan, by id.

    A stage that takes more than ``limit`` seconds fails, and its process is killed. ``by_value`` sends plugins whose
    classes a worker cannot import.
    """

    def __init__(
        self,
        jobs: int,
        make: Make,
        stages: Mapping[str, Stage],
        warn: Warn,
        limit: float | None = None,
        *,
        by_value: bool = False,
    ) -> None:
        self.jobs, self.make, self.stages, self.warn, self.limit = jobs, make, stages, warn, limit
        self.by_value = by_value

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


class _Crew(WorkerPool["_WorkerHandle"]):
    """The worker processes of one run."""

    without = _WITHOUT

    def __init__(self, local: Local, queue: Queue, control: Control) -> None:
        super().__init__(queue, control, local.warn, local.limit)
        self.local = local

    def places(self) -> int:
        return self.local.jobs

    def hire(self, number: int) -> _WorkerHandle:
        return _WorkerHandle(number, self.local)

    def listen(self, seconds: float | None) -> Iterator[tuple[_WorkerHandle, Message | None]]:
        by_connection: dict[Any, _WorkerHandle] = {worker.connection: worker for worker in self.workers}
        for connection in wait(list(by_connection), seconds):
            try:
                message = by_connection[connection].connection.recv()
            except (EOFError, OSError):
                message = None
            yield by_connection[connection], message

    def close(self) -> None:
        """Tell all workers that no stage is left, and wait for their end."""
        for worker in self.workers:
            worker.connection.close()
            if not worker.ready:  # it is still importing, and would not notice
                worker.process.kill()
        for worker in self.workers:
            worker.close()


class _WorkerHandle(WorkerHandle):
    """A worker process, as the process of the run sees it."""

    def __init__(self, number: int, local: Local) -> None:
        super().__init__(number, local.stages)
        self.dumps = dumps if local.by_value else pickle.dumps
        context = get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, local.make, number), name=f"worker {number}")
        try:
            with starting():
                self.process.start()
        except OSError as error:
            raise UsageError(f"cannot start a worker process ({error}); {_WITHOUT}") from error
        theirs.close()  # else the pipe would not end when the worker does

    def send(self, id: str, stages: Sequence[Stage]) -> None:
        message = self.dumps((id, stages))
        with suppress(OSError):  # it has died just now: its end of the pipe will tell
            self.connection.send_bytes(message)

    def kill(self) -> None:
        self.process.kill()

    def close(self) -> str:
        self.connection.close()
        self.process.join(PATIENCE)
        self.process.kill()
        self.process.join()
        return describe_end(self.process.exitcode or 0)


def describe_end(code: int) -> str:
    """The end of a process in words, such as ``ended with exit code 1``."""
    if code >= 0:
        return f"ended with exit code {code}"
    name = {each.value: each.name for each in signal.Signals}.get(-code, f"signal {-code}")
    return f"was killed by {name}" + (", as the system does when memory runs out" if name == "SIGKILL" else "")


@contextmanager
def starting() -> Iterator[None]:
    """Have a new interpreter import nothing from here, hear no Ctrl-C, and not run this process's script."""
    # In this order: the second starts a process too.
    with _not_from_here(), _no_interrupts(), _without_main():
        yield


@contextmanager
def _not_from_here() -> Iterator[None]:
    """Start interpreters without the current folder on their path: it may be untrusted.

    Without this variable a new interpreter looks for its first modules in the folder that it is started in. It then
    takes over the path of this process, which is the user's.
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
def _without_main() -> Iterator[None]:
    """Have a new interpreter not run this process's script again: one that calls :func:`harness.run` would do so there.

    Nothing of a script is needed there: what it defines is sent by value.
    """
    before = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = before


@contextmanager
def _no_interrupts() -> Iterator[None]:
    """Hold Ctrl-C back. A process that is started meanwhile inherits this, until it says that it ignores Ctrl-C."""
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
    Thread(target=leave_with_the_run, daemon=True).start()
    end_freely()
    for_life()
    try:
        _work(connection, make, number)
    finally:
        end_kept()


def _work(connection: Connection, make: Make, number: int) -> None:
    stages: dict[str, Stage] = {}
    with suppress(EOFError, BrokenPipeError, ConnectionResetError):  # there is no more to do, or nobody to tell
        try:
            work = make(number, stages, Teller(connection))
        except Exception as error:
            reason = f"{type(error).__name__}: {error}"
            connection.send(("usage", f"a worker process cannot start: {reason}; {_WITHOUT}"))
            return
        connection.send(("ready", None))
        while True:
            connection.send(_answer(connection.recv_bytes(), stages, work))


class Teller:
    """A worker's word to the process of the run: its warnings, and where the clock of its stage stands."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection

    def __call__(self, warning: str) -> None:
        self.connection.send(("warning", warning))

    def clock(self, state: Clock) -> None:
        self.connection.send((state, None))


def _answer(message: bytes, stages: dict[str, Stage], work: Work) -> tuple[str, Any]:
    try:
        with Guard():
            id, sent = pickle.loads(message)
    except BaseException as error:  # whatever a plugin's object raises
        return "unread", describe_error(error)
    stages.update((stage.id, stage) for stage in sent)
    return answer(work, stages[id])


def leave_with_the_run() -> None:
    """End with the process of the run, also where that was killed in the middle of a stage."""
    run = parent_process()
    if run is not None:
        wait([run.sentinel])
        end_kept()
        real_exit(1)
