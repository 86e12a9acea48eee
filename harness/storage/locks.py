"""Claims of stages: locks on one file of the results folder, which end with the process that holds them.

Two runs may share a results folder. A stage has one byte of ``claims/locks``, by its id; who has locked it computes the
stage, and the others do something else meanwhile. The system gives a lock back when its process ends, however it does,
so there is nothing to clean up and no clock to trust. A note beside it says what a process is at.
"""

from __future__ import annotations

import errno
import json
import os
import platform
import stat
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from harness.errors import ResultsError
from harness.files import whole_file

try:
    import fcntl
except ImportError:  # Windows: without locks, two runs on one folder may compute a stage twice, and store the same
    fcntl = None  # type: ignore[assignment]

_HELD = (errno.EACCES, errno.EAGAIN)
"""The system's errors for a lock that another process holds."""
PAUSE = 0.3
"""Seconds after which a claim that another process has is asked for again."""


class Claims:
    """The claims of one results folder, as this process takes and sees them. One object a process and folder.

    (A process that closes the file gives back all of its locks on it, whichever object took them.)
    """

    def __init__(self, results: Path) -> None:
        self.folder = results / "claims"
        self._file: int | None = None
        self._held: dict[str, Mapping[str, Any]] = {}
        """The notes of the stages claimed here: one, or the stage that runs and a parent that is computed again."""
        self._note = self.folder / f"{platform.node()}-{os.getpid()}-{uuid.uuid4().hex[:6]}.json"

    def try_acquire(self, id: str, **note: str) -> bool:
        """Claim a stage; False where another process has it. ``note`` says more of it to whoever looks."""
        if not self._lock(id):
            return False
        self._held[id] = {"stage": id, "host": platform.node(), "pid": os.getpid(), **note}
        self._write_note()
        return True

    @contextmanager
    def acquire(self, id: str, **note: str) -> Iterator[None]:
        """Claim a stage as soon as no other process has it."""
        while not self.try_acquire(id, **note):
            time.sleep(PAUSE)
        try:
            yield
        finally:
            self.release(id)

    def release(self, id: str) -> None:
        """Give a claim back."""
        self._held.pop(id, None)
        self._write_note()
        if not self._held:
            self.close()
        elif self._file is not None and fcntl is not None:
            with suppress(OSError):
                fcntl.lockf(self._file, fcntl.LOCK_UN, 1, _place(id))

    def _write_note(self) -> None:
        """Write the note of the newest claim. A full disk stops no process from computing: only the lock counts."""
        with suppress(OSError):
            if not self._held:
                self._note.unlink(missing_ok=True)
                return
            with whole_file(self._note) as partial:
                partial.write_text(json.dumps(list(self._held.values())[-1]), "utf-8")

    def is_taken(self, id: str) -> bool:
        """True if another process holds the claim of a stage now; False where this process may not ask."""
        if id in self._held or fcntl is None:
            return False
        file = self._file
        try:
            # To read is enough to ask (not a pipe, though), in a folder that is another user's too.
            asked = os.open(self.folder / "locks", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC) if file is None else file
        except OSError:
            return False
        try:
            fcntl.lockf(asked, fcntl.LOCK_SH | fcntl.LOCK_NB, 1, _place(id))
            fcntl.lockf(asked, fcntl.LOCK_UN, 1, _place(id))
            return False
        except OSError as error:
            return error.errno in _HELD
        finally:
            if file is None:
                os.close(asked)

    def running(self) -> list[Mapping[str, Any]]:
        """The notes of the processes that compute a stage now; those that died left a note and no lock."""
        notes = [_read(path) for path in sorted(self.folder.glob("*.json"))]
        return [note for note in notes if note and self.is_taken(note["stage"])]

    def close(self) -> None:
        """Give everything back."""
        self._held.clear()
        self._write_note()
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _lock(self, id: str) -> bool:
        if fcntl is None:
            return True
        if self._file is None:
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
                self._file = os.open(self.folder / "locks", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            except OSError as error:
                raise ResultsError(f"cannot write {str(self.folder)!r}: {error.strerror}") from error
        try:
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, _place(id))
        except OSError as error:
            # A file system without locks grants every claim: what two runs compute twice is the same.
            return error.errno not in _HELD
        return True


def _place(id: str) -> int:
    """The byte of a stage: 60 bits of its id."""
    return int(id[:15], 16)


def _read(path: Path) -> Mapping[str, Any] | None:
    """Read a note; ``None`` for anything that is not one."""
    try:
        # A link or a pipe is untrusted: reading a pipe would wait.
        note = json.loads(path.read_text("utf-8")) if stat.S_ISREG(path.lstat().st_mode) else None
    except (OSError, ValueError, RecursionError):
        return None
    stage = note.get("stage") if isinstance(note, dict) else None
    is_id = isinstance(stage, str) and len(stage) == 32 and set(stage) <= set("0123456789abcdef")
    return note if is_id else None
