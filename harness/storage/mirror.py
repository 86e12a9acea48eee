"""A folder at a URL, such as ``s3://bucket/folder``: whatever fsspec can open, and its mirror on this machine.

The remote is the truth. What was written here and not there yet is marked: a lost connection costs nothing, for the
mark stays, and a later upload takes it off. A remote may be untrusted: only plain files of the very names that a
harness gives are taken, into those places.
"""

from __future__ import annotations

import hashlib
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote, unquote

from harness.errors import ResultsError, UsageError
from harness.files import PARTIAL, partial_path
from harness.storage.schema import TABLES

T = TypeVar("T")
Warn = Callable[[str], None]

PAUSES = (0.5, 2.0)
"""Seconds between the attempts to reach a remote."""
QUIET = 60.0
"""Seconds for which a remote that was lost is not asked again: each attempt may wait long."""
FILES = ("tensors.safetensors", "record.json")
"""The files of an artifact, in the order of upload: where a record is, its tensors are."""
_NAMES = re.compile(
    rf"artifacts/([0-9a-f]{{2}})/\1[0-9a-f]{{30}}/(?:{'|'.join(map(re.escape, FILES))})"
    rf"|tables/(?:{'|'.join(TABLES)})/[A-Za-z0-9][\w.-]{{0,150}}\.parquet",
    re.ASCII,
)
"""The names that are taken from a remote's listing."""
_UPLOAD = re.compile(f"partial/{PARTIAL.pattern}", re.DOTALL)
"""The names of what is being uploaded."""
_OBJECT_STORES = frozenset(("s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "oss", "oci"))
"""Protocols where an object is seen whole or not at all. fsspec promises it of none: elsewhere files are renamed."""


def _file_system(url: str) -> tuple[Any, str]:
    """The file system of a URL, and the folder in its words. Raises :class:`UsageError` where there is none."""
    try:
        import fsspec
        from fsspec.registry import known_implementations
    except ImportError as error:
        raise UsageError(f"results at {url!r} need fsspec: pip install 'watermark-harness[remote]'") from error
    protocol = re.split("::|://", url)[0]
    try:
        fs, folder = fsspec.core.url_to_fs(url)
        root = str(fs._strip_protocol(folder)).rstrip("/")
    except ImportError as error:
        package = str(known_implementations.get(protocol, {}).get("class", "")).partition(".")[0]
        install = f"pip install {package}" if package not in ("", "fsspec") else _reason(error)
        raise UsageError(f"results at {url!r} need a package that is not here: {install}") from error
    except Exception as error:  # whatever a file system makes of a URL, and of the credentials that it looks for
        if protocol not in fsspec.available_protocols():
            known = "s3://bucket/folder, gs://bucket/folder, file:///folder or another that fsspec knows"
            raise UsageError(f"unknown protocol in --results {url!r}: expected {known}") from error
        raise UsageError(f"cannot open --results {url!r}: {_reason(error)}") from error
    if not root:
        raise UsageError(f"--results {url!r} names no folder: type {protocol}://bucket/folder, say")
    return fs, root


def _reason(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return text[:300] or type(error).__name__


# --- the remote folder ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Entry:
    """A plain file there."""

    size: int
    when: float | None
    """The time of writing, in seconds of the epoch, where the file system tells it."""


class Remote:
    """A folder at a URL, its mirror, and the marks of what is here and not there yet. Names are relative to both."""

    def __init__(self, url: str, warn: Warn = lambda message: None) -> None:
        from platformdirs import user_cache_path

        self.url, self.warn = url.rstrip("/"), warn
        self.fs, self.root = _file_system(url)
        # By what the file system calls the folder: file://here is another one from another current folder.
        digest = hashlib.sha256(str(self.fs.unstrip_protocol(self.root)).encode()).hexdigest()[:20]
        self.folder = user_cache_path("watermark-harness") / "remote" / digest
        self.is_running = False
        """True in a run: a remote that cannot be reached is a warning then, and does not end it."""
        self._opened = time.time()
        self._lost: Exception | None = None
        self._lost_at = 0.0
        self._told = False

    def _there(self, name: str) -> str:
        return f"{self.root}/{name}"

    @property
    def _is_object_store(self) -> bool:
        protocols = {self.fs.protocol} if isinstance(self.fs.protocol, str) else set(self.fs.protocol)
        return bool(protocols & _OBJECT_STORES)

    # --- reading ---

    def listing(self, under: str) -> dict[str, Entry]:
        """The plain files there below a folder, by name: those that a harness writes. Raises :class:`ResultsError`."""
        start = len(self.root) + 1
        with self._reading():
            found = self._tried(lambda: self._find(self._there(under)))
            entries = {path[start:]: _entry(info) for path, info in found.items()}
        return {name: entry for name, entry in entries.items() if entry and _NAMES.fullmatch(name)}

    def unfinished(self, before: float) -> list[str]:
        """The names of uploads there that nobody finished since ``before``. Raises :class:`ResultsError`."""
        with self._reading():
            found = self._tried(lambda: self._find(self._there("partial")))
        names = {path[len(self.root) + 1 :]: _entry(info) for path, info in found.items()}
        return sorted(
            name
            for name, entry in names.items()
            if entry and entry.when is not None and entry.when < before and _UPLOAD.fullmatch(name)
        )

    def _find(self, path: str) -> Mapping[str, Any]:
        self.fs.invalidate_cache()
        try:
            try:
                # Else fsspec's own walk leaves out what it could not read: the mirror would be emptied.
                found: Mapping[str, Any] = self.fs.find(path, detail=True, on_error="raise")
            except TypeError:  # an object store's own listing, which leaves nothing out
                found = self.fs.find(path, detail=True)
        except FileNotFoundError as error:
            with suppress(FileNotFoundError):
                self.fs.info(path)
                raise OSError(f"{path} changes while it is read") from error
            return {}
        return found

    def entry(self, name: str) -> Entry | None:
        """A plain file there, if it is. Raises :class:`ResultsError`."""

        def ask() -> Any:
            self.fs.invalidate_cache()
            return self.fs.info(self._there(name))

        with self._reading():
            try:
                return _entry(self._tried(ask))
            except FileNotFoundError:
                return None

    def fetch(self, entries: Mapping[str, Entry]) -> None:
        """Copy files to the mirror, each whole or not at all; not what is gone there. Raises :class:`ResultsError`."""
        passing = self.folder / "partial"
        copies = {name: partial_path(passing / name.rpartition("/")[2]) for name in entries}
        try:
            with self._reading():
                passing.mkdir(parents=True, exist_ok=True)
                there, here = list(map(self._there, entries)), list(map(str, copies.values()))
                self._tried(lambda: self.fs.get(there, here))
                for name, copy in copies.items():
                    _move(copy, self.folder / name, entries[name].when)
        except FileNotFoundError:
            if len(entries) > 1:
                for name, entry in entries.items():
                    self.fetch({name: entry})
        finally:
            for copy in copies.values():
                copy.unlink(missing_ok=True)

    @contextmanager
    def _reading(self) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError:
            raise
        except Exception as error:  # each file system has errors of its own
            raise ResultsError(f"cannot read {self.url}: {_reason(error)}") from error

    def _tried(self, act: Callable[[], T]) -> T:
        """Return what ``act`` does, after a few attempts; raise the last error at once where that was just now."""
        if self._lost and time.monotonic() < self._lost_at + QUIET:
            raise self._lost
        for pause in (*PAUSES, None):
            try:
                made = act()
            except FileNotFoundError:
                raise
            except Exception as error:  # each file system has errors of its own
                if pause is None or isinstance(error, PermissionError | NotImplementedError):
                    self._lost, self._lost_at = error, time.monotonic()
                    raise
                time.sleep(pause)
            else:
                break
        self._lost, self._told = None, False
        return made

    # --- writing ---

    def write(self, name: str) -> None:
        """Upload a file of the mirror, or the files of an artifact. Raises :class:`ResultsError`."""
        try:
            self._tried(lambda: self._write(name))
        except Exception as error:  # each file system has errors of its own
            raise ResultsError(
                f"cannot write to {self.url}: {_reason(error)}; choose another place with --results"
            ) from error

    def _write(self, name: str) -> None:
        if not (self.folder / name).is_dir():
            return self._put(name)
        self.fs.invalidate_cache()
        if self.fs.exists(self._there(f"{name}/record.json")):  # never beside the tensors of another
            self.fs.rm_file(self._there(f"{name}/record.json"))
        for file in FILES:
            if (self.folder / name / file).exists():
                self._put(f"{name}/{file}")

    def _put(self, name: str) -> None:
        """One file, seen there whole or not at all."""
        here, there = str(self.folder / name), self._there(name)
        if self._is_object_store:
            self.fs.put_file(here, there)
            return
        partial = self._there(f"partial/{partial_path(Path(name)).name}")
        try:
            self.fs.makedirs(self._there("partial"), exist_ok=True)
            self.fs.put_file(here, partial)
            self.fs.makedirs(there.rpartition("/")[0], exist_ok=True)
            self.fs.mv(partial, there)
        except Exception:
            with suppress(Exception):
                self.fs.rm_file(partial)
            raise

    def rename(self, name: str, other: str) -> None:
        """Give a file there another name, if it is there. Raises :class:`ResultsError`."""
        with self._reading(), suppress(FileNotFoundError):
            self._tried(lambda: self.fs.mv(self._there(name), self._there(other)))

    def remove(self, name: str) -> None:
        """Delete a folder there, if it is there. Raises :class:`ResultsError`."""
        with self._reading(), suppress(FileNotFoundError):
            self._tried(lambda: self.fs.rm(self._there(name), recursive=True))

    # --- what is here and not there yet ---

    def _mark_of(self, name: str) -> Path:
        return self.folder / "unsent" / quote(name, safe="")

    def mark(self, name: str) -> None:
        """Note, before it is written here, that a file or an artifact is to be uploaded."""
        try:
            self._mark_of(name).parent.mkdir(parents=True, exist_ok=True)
            self._mark_of(name).touch()
        except OSError as error:
            raise ResultsError(f"cannot write {str(self.folder)!r}: {error.strerror}") from error

    def unmark(self, name: str) -> None:
        self._mark_of(name).unlink(missing_ok=True)

    def is_marked(self, name: str) -> bool:
        return self._mark_of(name).exists()

    def marked(self, under: str = "") -> set[str]:
        """The names that are marked. Some may not be here: not written yet, or their writer was killed."""
        names = {unquote(path.name) for path in (self.folder / "unsent").glob("*")}
        return {name for name in names if name.startswith(under)}

    def send(self, under: str = "") -> int:
        """Upload what is marked, cells last: such a row says that the others are there. How much is still marked.

        Where that cannot be, it stays marked, and a warning says so once.
        """
        names = [name for name in sorted(self.marked(under), key=_turn) if (self.folder / name).exists()]
        for i, name in enumerate(names):
            if not self.send_one(name):
                return len(names) - i
        return 0

    def send_one(self, name: str) -> bool:
        """Upload what is marked by that name; whether it could be."""
        try:
            self.write(name)
        except ResultsError as error:
            self.tell(error)
            return False
        self.unmark(name)
        return True

    def tell(self, error: ResultsError) -> None:
        """Warn, once until the remote is reached again."""
        if not self._told:
            self._told = True
            self.warn(
                f"cannot reach {self.url} ({_reason(error.__cause__ or error)}): the run goes on, what it makes stays "
                f"in {self.folder} and is uploaded later"
            )

    def flush(self) -> None:
        """Upload what is left: what could not be before, timelines and pictures; say what still cannot."""
        self._lost = None
        for path in (path for folder in ("profiles", "figures") for path in (self.folder / folder).glob("[!.]*")):
            if path.stat().st_mtime >= self._opened - 1:  # a file system's clock is coarse
                self.mark(path.relative_to(self.folder).as_posix())
        if left := self.send():
            self.warn(f"{left} files are in {self.folder} and not in {self.url} yet: the next run there uploads them")

    @contextmanager
    def named(self) -> Iterator[None]:
        """An error about the mirror names the URL: that is where something can be done about it."""
        try:
            yield
        except ResultsError as error:
            raise ResultsError(str(error).replace(str(self.folder), self.url)) from error


def _move(copy: Path, path: Path, when: float | None) -> None:
    """Put a copy in its place, as old as what it was copied from: ``harness gc`` leaves alone what is new."""
    path.parent.mkdir(parents=True, exist_ok=True)
    copy.replace(path)
    if when is not None:
        for each in (path, path.parent):
            os.utime(each, (when, when))


def _turn(name: str) -> tuple[bool, bool, str]:
    return name.startswith("tables/"), name.startswith("tables/cells/"), name


def _entry(info: Mapping[str, Any]) -> Entry | None:
    """The entry of a plain file in a listing; ``None`` for a folder, a link, a pipe and so on."""
    size = info.get("size")
    if info.get("type") != "file" or info.get("islink") or not isinstance(size, int):
        return None
    return Entry(size, _when(info))


def _when(info: Mapping[str, Any]) -> float | None:
    """The time when a file was written: each file system has its own word for it."""
    for name in ("mtime", "LastModified", "last_modified", "updated", "created"):
        value = info.get(name)
        if isinstance(value, datetime):
            return value.timestamp()
        if isinstance(value, int | float):
            return float(value)
    return None
