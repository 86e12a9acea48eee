"""The executor that runs stages on the nodes of a Ray cluster.

A worker is a Ray actor, not a task: it lives as long as the run and keeps what it has loaded, as a worker process of
:mod:`harness.running.processes` does, where Ray may run each of two tasks in another process. Ray finds each a place
with the CPUs and the part of a GPU that it needs, and ends them all when the process of the run ends, however it does.

That process alone decides who runs what, so nothing depends on locks between nodes. Workers claim their stages all the
same: where the shared file system has locks, two runs compute nothing twice, nor does a node that was taken for dead
and its successor; where it has none, every claim is granted.
"""

from __future__ import annotations

import logging
import math
import os
import platform
import signal
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import chdir, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

from harness import __version__
from harness.errors import UsageError
from harness.isolation import end_freely
from harness.planning.graph import Component, Lookup, Stage
from harness.running.executor import Control, Work
from harness.running.pool import Message, Warn, WorkerHandle, WorkerPool, answer
from harness.running.queue import Queue

Make: TypeAlias = Callable[[int, Mapping[str, Stage], Warn], tuple[Work, Lookup]]
"""A function as in :mod:`harness.running.processes`, called on the node; it also makes the lookup of plugins there."""

TRIES = 3
"""Number of times that a stage is begun: one whose worker or node was lost is run elsewhere, and in the end is a failed
row.
"""
LOOK = 5.0
"""Seconds between looks at the room that the cluster has: nodes come and go."""
SLOW = 60.0
"""Seconds after which a warning says that no worker has started yet."""
CONNECT = 10.0
"""Seconds within which the head of a cluster must answer."""
_SAME = f"every node needs watermark-harness {__version__}, the same Python and the same Ray"


class Cluster:
    """The Ray cluster at ``address`` (``auto``: the one of this machine), or one that is started for this run.

    Raises :class:`UsageError` where there is none.
    """

    def __init__(self, address: str | None) -> None:
        self.ray = _ray()
        if address not in (None, "auto"):
            _check_head(str(address))
        try:
            # Ray puts the current folder on the path of its workers, before everything else. It may be a stranger's.
            with chdir("/"):
                self.ray.init(
                    address=address or "local",
                    include_dashboard=None if address else False,
                    log_to_driver=False,
                    logging_level=logging.CRITICAL,
                )
        except (OSError, RuntimeError, ValueError, self.ray.exceptions.RayError) as error:
            raise _no_cluster(address or "this machine", str(error).partition("\n")[0]) from error

    def nodes(self) -> list[Mapping[str, float]]:
        """The resources of each node that is there now."""
        return [node["Resources"] for node in self.ray.nodes() if node["Alive"]]

    def has_gpus(self) -> bool:
        return any(node.get("GPU") for node in self.nodes())

    def room(self, cpus: float, gpus: float) -> int:
        """The number of workers that the nodes have room for, whoever else uses them."""
        return sum(
            int(min(node.get("CPU", 0) / cpus, node.get("GPU", 0) / gpus if gpus else math.inf))
            for node in self.nodes()
        )


def _ray() -> Any:
    """Ray, which reads these variables when it is imported."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ.setdefault("RAY_NUM_REDIS_GET_RETRIES", "1")  # else whatever listens there is asked for minutes
    try:
        import ray
        import ray._private.worker
    except ImportError as error:
        raise UsageError("--executor ray needs Ray: pip install 'watermark-harness[ray]'") from error
    # What Ray has to say about a worker that died goes to stdout, whatever it is told of logging.
    ray._private.worker._worker_logs_enabled = False
    return ray


def _check_head(address: str) -> None:
    """Raise :class:`UsageError` where no process listens: Ray itself would wait for minutes."""
    host, _, port = address.rpartition(":")
    if not (host and port.isascii() and port.isdigit()) or "/" in host:
        raise UsageError(f"--address {address!r} is none: expected HOST:PORT, or auto; {_START}")
    try:
        socket.create_connection((host.strip("[]"), int(port)), CONNECT).close()
    except (OSError, OverflowError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise _no_cluster(address, reason) from error


def _no_cluster(address: str, reason: str) -> UsageError:
    return UsageError(f"no Ray cluster at {address!r} ({reason}); {_START}; with tokens: export RAY_AUTH_MODE=token")


_START = "ray start --head starts one, and says its address"


class Ray:
    """Runs stages in workers on a cluster, each with some CPUs and GPUs: as many as it has room for, or ``jobs``.

    ``stages`` are all of the plan, by id. ``folder`` is the results folder, if the nodes are to share one. A stage that
    takes more than ``limit`` seconds fails, and its worker is killed. One whose worker or node is lost is begun
    :data:`TRIES` times.
    """

    def __init__(
        self,
        cluster: Cluster,
        make: Make,
        stages: Mapping[str, Stage],
        warn: Warn,
        *,
        jobs: int | None,
        cpus: int,
        gpus: float,
        folder: Path | None,
        limit: float | None = None,
    ) -> None:
        self.cluster, self.make, self.stages, self.warn, self.limit = cluster, make, stages, warn, limit
        self.wanted, self.cpus, self.gpus, self.folder = jobs, cpus, gpus, folder
        self.jobs = jobs or cluster.room(cpus, gpus)
        if not self.jobs:
            need = f"{cpus} CPUs" + (f" and {gpus:g} of a GPU" if gpus else "")
            raise UsageError(f"no node of the cluster has {need}; --jobs N waits for nodes that are to come")

    def run(self, stages: Sequence[Stage], control: Control) -> None:
        crew = _Crew(self, Queue(stages), control)
        try:
            crew.run()
        finally:
            crew.kill()
            self.cluster.ray.shutdown()

    def stamp(self) -> int | None:
        """A value that tells the results folder from one of the same name elsewhere."""
        return _stamp(self.folder) if self.folder else None


def _stamp(folder: Path) -> int | None:
    """The time when the folder was made, as its file system says."""
    try:
        return int((folder / "format.json").stat().st_mtime)
    except OSError:
        return None


# --- in the process of the run ----------------------------------------------------------------------------------------


class _Crew(WorkerPool["_WorkerHandle"]):
    """The workers of one run."""

    tries = TRIES
    without = "--executor local runs without a cluster"

    def __init__(self, executor: Ray, queue: Queue, control: Control) -> None:
        super().__init__(queue, control, executor.warn, executor.limit)
        self.executor, self.ray, self.stamp = executor, executor.cluster.ray, executor.stamp()
        self._places, self._looked = executor.jobs, time.monotonic()
        self._waiting_since: float | None = time.monotonic()

    def places(self) -> int:
        if self.executor.wanted is None and time.monotonic() - self._looked > LOOK:
            self._places = self.executor.cluster.room(self.executor.cpus, self.executor.gpus)
            self._looked = time.monotonic()
        return self._places

    def hire(self, number: int) -> _WorkerHandle:
        return _WorkerHandle(number, self.executor, self.stamp)

    def listen(self, seconds: float | None) -> Iterator[tuple[_WorkerHandle, Message | None]]:
        seconds = LOOK if seconds is None else min(seconds, LOOK)
        self._say_if_slow()
        calls = {worker.call: worker for worker in self.workers if worker.call is not None}
        if not calls:  # no node has room, or each stage that is left is another run's
            time.sleep(seconds)
            return
        done, _ = self.ray.wait(list(calls), timeout=seconds)
        if done:  # ... and whoever else has
            done, _ = self.ray.wait(list(calls), num_returns=len(calls), timeout=0)
        for call in done:
            for message in calls[call].answer():
                yield calls[call], message

    def _say_if_slow(self) -> None:
        """Warn once where a cluster has no place for any worker: it may be about to have one."""
        if self._waiting_since is None or any(worker.ready for worker in self.workers):
            self._waiting_since = None
        elif time.monotonic() - self._waiting_since > SLOW:
            self._waiting_since = None
            self.warn(f"no worker has started within {SLOW:g} s, still waiting: ray status says what the cluster lacks")


class _WorkerHandle(WorkerHandle):
    """A worker on a node, as the process of the run sees it."""

    def __init__(self, number: int, executor: Ray, stamp: int | None) -> None:
        super().__init__(number, executor.stages)
        self.ray = executor.cluster.ray
        self.host = "a node"
        self.end = "was killed"
        # Nothing is tried again by Ray itself: it is for the run to say what runs again, and how often.
        options = {"num_cpus": executor.cpus, "num_gpus": executor.gpus, "max_restarts": 0, "max_task_retries": 0}
        self.site = self.ray.remote(_Site).options(**options).remote(__version__, executor.folder, stamp)
        self.call: Any = self.site.start.remote(executor.make, number)

    def send(self, id: str, stages: Sequence[Stage]) -> None:
        self.call = self.site.run.remote(id, [_bare(stage) for stage in stages])

    def answer(self) -> list[Message | None]:
        """Its answer to the last request."""
        call, self.call = self.call, None
        try:
            messages: list[Message | None] = self.ray.get(call)
        except self.ray.exceptions.RayError as error:
            if getattr(error, "actor_init_failed", False) or isinstance(error, self.ray.exceptions.RayTaskError):
                return [("usage", f"a worker cannot start on the cluster: {_last(error)}; {_SAME}")]
            self.end = f"on {self.host} was lost: {_cause(error)}"
            self.kill()  # a worker that is merely out of reach
            return [None]
        for message in messages:
            if message and message[0] == "ready":
                self.host = message[1]
        return messages

    def kill(self) -> None:
        with suppress(self.ray.exceptions.RayError):
            self.ray.kill(self.site)

    def close(self) -> str:
        return self.end


def _bare(stage: Stage) -> Stage:
    """A stage whose plugins go by name: the node finds its own, wherever their files lie there."""
    return _with_uses(stage, lambda use: replace(use, plugin=None))


def _with_uses(stage: Stage, change: Callable[[Component], Component]) -> Stage:
    def changed(use: Component | None) -> Component | None:
        return use and change(use)

    return replace(
        stage,
        dataset=change(stage.dataset),
        plugin=changed(stage.plugin),
        architecture=changed(stage.architecture),
        data=changed(stage.data),
    )


def _last(error: Exception) -> str:
    """The last line of an error on a node, which came with its traceback."""
    return str(error).strip().rpartition("\n")[2].rpartition("UsageError: ")[2]


def _cause(error: Exception) -> str:
    """The sentence that says why, within Ray's text about a worker that died."""
    lines = [line.strip() for line in str(error).splitlines() if not line.startswith("\t")]
    return (lines[1] if len(lines) > 1 else lines[0]).partition(". ")[0].rstrip(".")


# --- on a node --------------------------------------------------------------------------------------------------------


class _Site:
    """The worker's end on a node. It describes an error, rather than raise it: Ray would make a traceback of it."""

    def __init__(self, version: str, folder: Path | None, stamp: int | None) -> None:
        end_freely()
        with suppress(ValueError):  # not in the main thread, where there is no handler of Ray's
            # Ray's raises SystemExit in the middle of a stage: that would be taken for the plugin's.
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
        self.host = platform.node()
        self.stages: dict[str, Stage] = {}
        self.warnings: list[Message] = []
        if version != __version__:
            raise UsageError(f"{self.host} has watermark-harness {__version__}, not {version}")
        if folder and _stamp(folder) != stamp:
            raise UsageError(f"{self.host} does not see the results folder {str(folder)!r}: all nodes must share it")

    def start(self, make: Make, number: int) -> list[Message]:
        try:
            self.work, self.lookup = make(number, self.stages, lambda text: self.warnings.append(("warning", text)))
        except Exception as error:
            return [("usage", f"a worker cannot start on {self.host}: {type(error).__name__}: {error}")]
        return self._said(("ready", self.host))

    def run(self, id: str, sent: Sequence[Stage]) -> list[Message]:
        try:
            self.stages.update((stage.id, _with_uses(stage, self._use)) for stage in sent)
        except UsageError as error:
            return self._said(("usage", f"on {self.host}: {error}"))
        kind, value = answer(self.work, self.stages[id])
        return self._said((kind, f"on {self.host}: {value}" if kind == "usage" else value))

    def _use(self, use: Component) -> Component:
        """The plugin here. Raises :class:`UsageError` where it is not the one that is meant."""
        try:
            here = self.lookup(use.kind, use.stands_for or use.text)
        except UsageError as error:
            raise UsageError(f"{error}; {_SHARE}") from error
        if here.source != use.source:
            raise UsageError(f"the {use.kind} {use.text} has another source than where the run was started; {_SHARE}")
        return replace(use, plugin=here.plugin)

    def _said(self, message: Message) -> list[Message]:
        said, self.warnings[:] = [*self.warnings, message], []
        return said


_SHARE = "--plugins must name folders that all nodes share"
