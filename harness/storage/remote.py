"""Results at a URL, worked on in a local mirror (:mod:`harness.storage.mirror`).

An artifact is named by what decides it and never changes, so a copy of one is as good as the one it was made of. A
:class:`RemoteStore` and :class:`RemoteTables` are the local classes on the mirror, which fetch what is missing here
and upload what was made here. What the remote no longer has goes from the mirror too, but for what is marked as not
uploaded yet.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.errors import DamagedArtifact, ResultsError
from harness.files import user_path
from harness.storage.mirror import FILES, Entry, Remote, Warn
from harness.storage.schema import TABLES
from harness.storage.store import MAX_RECORD, Artifact, Store
from harness.storage.tables import Tables

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor

BATCH = 64
"""Records that are fetched together: they are small, and each alone costs a journey there and back."""


# --- opening ----------------------------------------------------------------------------------------------------------


def is_url(named: str) -> bool:
    return "://" in named


def open_results(named: str, warn: Warn = lambda message: None) -> tuple[Store, Tables]:
    """The artifacts and the tables of a results folder, or of a URL. Raises :class:`UsageError`."""
    if not is_url(named):
        folder = user_path(named)
        if folder.exists() and not folder.is_dir():
            raise ResultsError(f"{str(folder)!r} is a file, not a folder of results: name another with --results")
        return Store(folder), Tables(folder)
    remote = Remote(named, warn)
    return RemoteStore(remote), RemoteTables(remote)


def open_store(location: str, warn: Warn = lambda message: None) -> Store:
    """Open the store of an :attr:`harness.storage.store.Store.location`, in a worker process of a run."""
    if not is_url(location):
        return Store(Path(location))
    remote = Remote(location, warn)
    remote.is_running = True
    return RemoteStore(remote)


def read_table(results: str | Path, table: str) -> pd.DataFrame:
    """One table of a results folder or URL, such as ``"cells"``, merged over its runs: the newest row of each key.

    Raises :class:`harness.UsageError` when the folder has no such table, or one of another schema version.
    """
    return open_results(str(results))[1].read(table)


def results_folder(named: str) -> Path:
    """The folder on this machine where results are worked on: of a URL the mirror."""
    return Remote(named).folder if is_url(named) else user_path(named)


# --- artifacts and tables ---------------------------------------------------------------------------------------------


class RemoteStore(Store):
    """The artifacts of a remote folder, those that were needed here mirrored."""

    def __init__(self, remote: Remote) -> None:
        super().__init__(remote.folder)
        self.remote, self.address = remote, remote.url
        self._listed: dict[str, Entry] = {}
        """The records that were there when it was last asked."""
        self._coming: dict[str, Entry] = {}
        """The records of these that are not here."""

    @property
    def location(self) -> str:
        return self.address

    def prepare(self) -> None:
        super().prepare()
        self.remote.write("format.json")  # whether it can be written there is known by writing
        self.remote.is_running = True
        self.remote.send("")

    def check_format(self) -> None:
        marker = "format.json"
        entry = self.remote.entry(marker)
        if entry and entry.size > MAX_RECORD:
            raise ResultsError(f"{self.address}/{marker} is damaged: delete it, or choose another place with --results")
        if entry:
            self.remote.fetch({marker: entry})
        try:
            with self.remote.named():
                super().check_format()
        except ResultsError:
            (self.results / marker).unlink(missing_ok=True)  # it is mended there
            raise

    def ids(self) -> set[str]:
        # In this order: what is here, not marked, and not there later was deleted there.
        here, marked = super().ids(), {name.rpartition("/")[2] for name in self.remote.marked("artifacts/")}
        there = self.remote.listing("artifacts")
        for id in here - marked:
            if self._is_stale(id, there):
                shutil.rmtree(self.path(id), ignore_errors=True)
        self._listed = {name: entry for name, entry in there.items() if name.endswith("/record.json")}
        self._coming = {
            name: entry
            for name, entry in self._listed.items()
            if entry.size <= MAX_RECORD and not (self.results / name).exists()
        }
        return {name.split("/")[2] for name in self._listed} | here & marked

    def _is_stale(self, id: str, there: Mapping[str, Entry]) -> bool:
        """True if an artifact is gone there, or another one is in its place: one that succeeded at last, say."""
        for file in FILES:
            path, entry = self.path(id) / file, there.get(f"{_name(id)}/{file}")
            if path.exists() and (entry is None or entry.size != path.stat().st_size):
                return True
        return False

    def save(self, id: str, record: Mapping[str, Any], tensors: Mapping[str, Tensor] | None = None) -> None:
        self.path(id)
        self.remote.mark(_name(id))
        super().save(id, record, tensors)
        self.remote.send_one(_name(id))

    def record(self, id: str) -> dict[str, Any] | None:
        known = self._here(id)
        if known is None:
            self._bring(id)
        return known or super().record(id)

    def _here(self, id: str) -> dict[str, Any] | None:
        """The record in the mirror; ``None`` where it is damaged, or says of a failure: that may be mended there."""
        try:
            record = super().record(id)
        except DamagedArtifact:
            return None
        is_final = record and (record.get("status") == "ok" or self.remote.is_marked(_name(id)))
        return record if is_final else None

    def _bring(self, id: str) -> None:
        """Have the remote's record in the mirror. Amid a run, one that cannot be reached counts as not there."""
        if self.remote.is_marked(_name(id)):
            return
        name = f"{_name(id)}/record.json"
        try:
            entry = self._listed.get(name) or self.remote.entry(name)
            if entry is None:
                shutil.rmtree(self.path(id), ignore_errors=True)
            elif entry.size > MAX_RECORD:
                raise DamagedArtifact(f"{self.address}/{name} is larger than {MAX_RECORD:,} bytes")
            else:
                self.remote.fetch({name: entry} | self._others(name))
        except ResultsError as error:
            if not self.remote.is_running:
                raise
            self.remote.tell(error)

    def _others(self, name: str) -> dict[str, Entry]:
        """Records that are fetched along with one that was listed: whoever lists reads many."""
        if name not in self._coming:
            return {}
        others = dict(islice(self._coming.items(), BATCH))
        self._coming = {each: entry for each, entry in self._coming.items() if each not in others and each != name}
        return others

    def load(self, id: str) -> Artifact:
        try:
            return super().load(id)
        except DamagedArtifact:
            if self.remote.is_marked(_name(id)):
                raise
            for name in (f"{_name(id)}/{file}" for file in FILES):
                if entry := self.remote.entry(name):
                    self.remote.fetch({name: entry})
            return super().load(id)

    def flush(self) -> None:
        self.remote.flush()

    def unfinished(self, before: float) -> list[str]:
        return self.remote.unfinished(before)

    def discard_unfinished(self, names: Iterable[str]) -> None:
        for name in names:
            self.remote.remove(name)

    def discard(self, ids: Iterable[str]) -> None:
        for id in ids:
            self.path(id)
            self.remote.unmark(_name(id))
            self.remote.remove(_name(id))


def _name(id: str) -> str:
    return f"artifacts/{id[:2]}/{id}"


class RemoteTables(Tables):
    """The tables of a remote folder, mirrored as they were when they were first read, and when they are mended."""

    def __init__(self, remote: Remote) -> None:
        super().__init__(remote.folder)
        self.remote, self.address = remote, remote.url
        self._is_mirrored = False

    def append(self, table: str, run: str, rows: Iterable[Mapping[str, Any]]) -> None:
        path = self._part(table, run)
        name = path.relative_to(self.remote.folder).as_posix()
        self.remote.mark(name)
        super().append(table, run, rows)
        if not path.exists():  # there were no rows
            self.remote.unmark(name)
        self.remote.send("tables/")

    def time_of_next_run(self, now: datetime) -> str:
        self._mirror_once()
        return super().time_of_next_run(now)

    def mend(self) -> list[Path]:
        self._mirror()
        return super().mend()

    def _set_aside(self, path: Path) -> None:
        super()._set_aside(path)
        name = path.relative_to(self.remote.folder).as_posix()
        self.remote.unmark(name)
        self.remote.rename(name, f"{name.rpartition('/')[0]}/.{path.name}.aside")

    def read(self, table: str, columns: Iterable[str] | None = None) -> pd.DataFrame:
        self._mirror_once()
        with self.remote.named():
            return super().read(table, columns)

    def _mirror_once(self) -> None:
        if not self._is_mirrored:
            self._mirror()

    def _mirror(self) -> None:
        """Have here what is there; not what is gone there, and is not marked."""
        here, marked = self._here(), self.remote.marked("tables/")
        there = self.remote.listing("tables")
        for name in here.keys() - marked:
            if name not in there or there[name].size != here[name]:
                (self.remote.folder / name).unlink(missing_ok=True)
                here.pop(name)
        if missing := {name: entry for name, entry in there.items() if name not in here}:
            self.remote.fetch(missing)
        self._is_mirrored = True

    def _here(self) -> dict[str, int]:
        """The sizes of the parts in the mirror, by name."""
        paths = (path for table in TABLES for path in (self.folder / table).glob("*.parquet"))
        return {path.relative_to(self.remote.folder).as_posix(): path.stat().st_size for path in paths}
