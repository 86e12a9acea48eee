"""Threads and child processes that a plugin leaves running."""

from __future__ import annotations

import os
import re
import signal
import sys
import sysconfig
import threading
import time
from contextlib import suppress
from pathlib import Path

GRACE = 1.0
"""Seconds that threads and processes which are about to end have for it."""
_HELPERS = ("resource_tracker", "semaphore_tracker", "forkserver", "loky", "compile_worker")
"""Words in the command lines of processes that libraries keep for the next call."""


def threads() -> list[int | None]:
    """The system's ids of the threads that run: a thread itself would lead plugins to what it works on."""
    return [thread.native_id for thread in threading.enumerate()]


def left_threads(before: list[int | None]) -> list[str]:
    """The names of threads that began since ``before`` and do not end.

    A daemon thread of a library, such as a progress bar's monitor, stays by design and is not one of them.
    """
    began = [thread for thread in threading.enumerate() if thread.native_id not in before and not _by_design(thread)]
    until = time.monotonic() + GRACE
    for thread in began:
        thread.join(max(0.0, until - time.monotonic()))
    return list(dict.fromkeys(f"thread {_bare(thread.name)}" for thread in began if thread.is_alive()))


def _by_design(thread: threading.Thread) -> bool:
    if thread is threading.current_thread() or isinstance(thread, threading._DummyThread):
        return True
    module = getattr(getattr(thread, "_target", None) or type(thread), "__module__", None) or ""
    return module.startswith(("joblib.", "loky.")) or (thread.daemon and not is_of_plugin(module))


def is_of_plugin(module: str) -> bool:
    """True for code of no installed package: a plugin file, a notebook, a built-in function such as ``time.sleep``."""
    if module.startswith("harness."):
        return False
    file = getattr(sys.modules.get(module), "__file__", None)
    return file is None or not file.startswith(_INSTALLED)


_INSTALLED = tuple({sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")})
"""Folders of the standard library and of installed packages."""


def _bare(name: str) -> str:
    """A name without its number, which differs from run to run."""
    return re.sub(r"[-_]\d+", "", name)


# --- processes --------------------------------------------------------------------------------------------------------


def has_children() -> bool:
    """True if this process has child processes, ended ones that nobody waited for included."""
    if not hasattr(os, "waitid"):  # Windows
        return False
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return True


def children() -> frozenset[int]:
    """The ids of the child processes that run, where the system tells; those that libraries keep are left out."""
    return frozenset(pid for pid in _running() if not _is_kept(pid))


def end_kept() -> None:
    """End the child processes that libraries keep for the next call: this process leaves without their own clean-up.

    joblib's would wait for five minutes, and keep the streams of the run open.
    """
    for pid in filter(_is_kept, _running()):
        with suppress(OSError):
            os.kill(pid, signal.SIGTERM)  # trackers of resources ignore it, and end when nobody is left to track for


def _running() -> set[int]:
    found: set[int] = set()
    if has_children():
        with suppress(OSError):
            for task in Path("/proc/self/task").iterdir():
                with suppress(OSError):
                    found.update(map(int, (task / "children").read_text("ascii").split()))
    return set(filter(_runs, found))


def _is_kept(pid: int) -> bool:
    return any(word in _command(pid) for word in _HELPERS)


def _runs(pid: int) -> bool:
    with suppress(OSError, IndexError):
        return Path(f"/proc/{pid}/stat").read_text("ascii", "replace").rpartition(")")[2].split()[0] not in ("Z", "X")
    return False


def _command(pid: int) -> str:
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace").strip()
    return ""


def end_children(before: frozenset[int]) -> list[str]:
    """End the child processes that began since ``before`` and do not end by themselves; their names."""
    until = time.monotonic() + GRACE
    while (began := children() - before) and time.monotonic() < until:
        time.sleep(0.02)
    names = []
    for pid in sorted(began):
        names.append(f"process {_title(pid)}")
        _end(pid)
    return list(dict.fromkeys(names))


def _title(pid: int) -> str:
    """The name of a child's program; of a fork of this process the word ``fork``."""
    command = _command(pid)
    if command == _command(os.getpid()):
        return "fork"
    if not command:  # it has just begun its program, or has changed its own arguments
        with suppress(OSError):
            command = Path(f"/proc/{pid}/comm").read_text("utf-8", "replace").strip()
    return command.partition(" ")[0].rpartition("/")[2] or str(pid)


def _end(pid: int) -> None:
    """End a child of this process, and wait for it."""
    multiprocessing = sys.modules.get("multiprocessing")
    known = {child.pid: child for child in multiprocessing.active_children()} if multiprocessing else {}
    with suppress(OSError):
        os.kill(pid, signal.SIGTERM)
    until = time.monotonic() + GRACE
    while _runs(pid) and time.monotonic() < until:
        time.sleep(0.02)
    with suppress(OSError):
        if _runs(pid):
            os.kill(pid, signal.SIGKILL)
    if pid in known:
        known[pid].join(GRACE)
    else:
        with suppress(OSError):
            os.waitpid(pid, 0)
