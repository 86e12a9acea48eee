"""Processes that need not import torch: forked from one that has imported it, once a session, and has run nothing.

To start cold costs a process three seconds: most of the suite's time, if they all did. Those that a test starts for how
they start (what they import, from where, in which environment) do.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from importlib import import_module
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext, ForkServerProcess
from multiprocessing.forkserver import ensure_running
from pathlib import Path
from threading import Timer
from typing import Any

IMPORTED = [
    "torch._dynamo",
    "harness.running.session",
    "harness.running.machine",
    "harness.running.worker",
    "pandas",
    "pyarrow.parquet",
    "sklearn.datasets",
]
LONGEST = 300.0
"""Seconds after which a command is killed: the machine may be busy, but not that busy."""


class _Process(ForkServerProcess):
    """Has the environment of the process that starts it, not of the one that it is forked from."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.environment = dict(os.environ)

    def run(self) -> None:
        os.environ.clear()
        os.environ.update(self.environment)
        super().run()


class _Context(ForkServerContext):
    Process = _Process


@cache
def context() -> ForkServerContext:
    """What forks them, in place of the context ``spawn``: all that goes to a process is pickled here as there."""
    made = _Context()
    made.set_forkserver_preload(IMPORTED)
    ensure_running()  # now: where Ctrl-C is blocked, as when a worker starts, it would be blocked in all of them
    return made


class Started:
    """The command line at work, in a process group of its own, used as a :class:`subprocess.Popen`.

    ``module`` is the one whose ``main`` is the command line.
    """

    def __init__(self, *args: object, cwd: Path | None = None, stdin: str = "", module: str = "harness.cli") -> None:
        (theirs_in, typed), (out, theirs_out), (err, theirs_err) = (context().Pipe(duplex=False) for _ in range(3))
        theirs = (theirs_in, theirs_out, theirs_err)
        given = (module, [*map(str, args)], cwd or Path.cwd(), theirs)
        self.process = context().Process(target=_run, args=given)
        self.process.start()
        os.write(typed.fileno(), stdin.encode())
        self.stdout, self.stderr = (os.fdopen(os.dup(ours.fileno())) for ours in (out, err))
        for end in (*theirs, typed, out, err):
            end.close()
        self.pid = self.process.pid or 0
        self.timer = Timer(LONGEST, self.kill)
        self.timer.daemon = True
        self.timer.start()

    def __enter__(self) -> Started:
        return self

    def __exit__(self, kind: object, *rest: object) -> None:
        if kind:
            self.kill()
        self.wait()
        self.stdout.close()
        self.stderr.close()

    @property
    def returncode(self) -> int | None:
        return self.process.exitcode

    def wait(self) -> int | None:
        self.process.join()
        self.timer.cancel()
        return self.returncode

    def communicate(self) -> tuple[str, str]:
        with ThreadPoolExecutor() as pool:
            out, err = pool.map(lambda stream: stream.read(), (self.stdout, self.stderr))
        self.wait()
        return out, err

    def interrupt(self) -> None:
        os.kill(self.pid, signal.SIGINT)

    def kill(self) -> None:
        self.process.kill()


def _run(module: str, args: Sequence[str], cwd: Path, streams: Sequence[Connection]) -> None:
    """In the process: what a shell does before a command, and the command."""
    os.setsid()
    os.chdir(cwd)
    for number, stream in enumerate(streams):
        os.dup2(stream.fileno(), number)
    sys.stdin, sys.stdout, sys.stderr = (os.fdopen(number, mode, closefd=False) for number, mode in enumerate("rww"))
    sys.argv = [module, *args]
    main: Any = import_module(module).main
    sys.exit(main())
