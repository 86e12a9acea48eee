"""Garbage collection: the files of a results folder that are not needed any more, and deleting them.

An artifact is needed where a row of ``cells`` names its model, or a matrix that was named has it in its plan; so is
what such an artifact was made from, and what was found out about such a model. Of the others those go that were
computed again, and what was made from these; all of them, where matrices were named. What cannot be told stays.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import stat
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.errors import DamagedArtifact, ResultsError
from harness.files import PARTIAL, PATIENCE
from harness.planning.graph import Plan
from harness.planning.inputs import inputs_in
from harness.storage.files import refuse_links
from harness.storage.locks import Claims
from harness.storage.store import Store
from harness.storage.tables import Tables

_ABOUT_MODELS = ("verify", "ask", "detect", "judge", "analyse")
_MADE_BY = ("version", "dataset", "plugin", "architecture", "data")
"""The inputs of an attack but for its seeds and models: those that attacks on a victim and on a null model share."""


@dataclass(frozen=True)
class Goes:
    """A file or folder that is not needed."""

    path: Path
    kind: str
    """The action of an artifact; ``partial``, ``note`` or ``prepared``."""
    label: str
    size: int
    """The size in bytes."""
    id: str = ""
    """The stage whose claim is taken while it is deleted."""


@dataclass(frozen=True)
class _Known:
    """The facts that the record of a stored artifact tells."""

    action: str
    label: str
    started: str
    parents: tuple[tuple[str, str], ...]
    made_by: tuple[str, ...]
    """Its inputs in the order of :data:`_MADE_BY`."""


class GarbageCollector:
    """Decides what of a results folder stays. What is newer than ``began`` does, and what a live process claims."""

    def __init__(self, store: Store, tables: Tables, claims: Claims, plans: Iterable[Plan], began: float) -> None:
        self.store, self.claims, self.began = store, claims, began
        self.plans = list(plans)
        self.running = {note["stage"]: note for note in claims.running()}
        self.stored = store.ids()
        self.known = {id: known for id in sorted(self.stored) if (known := self._read(id))}
        """The artifacts whose record says what they were made of."""
        self._models = set(tables.read("cells", ["model"])["model"].dropna())

    def _read(self, id: str) -> _Known | None:
        try:
            record = self.store.record(id)
        except DamagedArtifact:
            return None
        inputs = inputs_in(id, record) if record else None
        if record is None or inputs is None:
            return None
        made_by = tuple(str(inputs[name]) for name in _MADE_BY)
        told = (str(inputs["action"]), str(record.get("label")), str(record.get("started")))
        return _Known(*told, inputs["parents"], made_by)

    @property
    def unplanned(self) -> list[Mapping[str, Any]]:
        """The notes of live processes at stages of no plan given here: no plan may name what they made so far."""
        return [note for id, note in self.running.items() if not any(id in plan.stages for plan in self.plans)]

    @property
    def untold(self) -> int:
        """The number of artifacts that stay since their record does not say what they were made of."""
        return len(self.stored) - len(self.known)

    # --- artifacts ---

    def needed(self) -> set[str]:
        """The ids that stay."""
        needed = self._models | self.running.keys()
        for plan in self.plans:
            needed |= plan.stages.keys()
        self._add_ancestors(needed)
        while more := self._about(needed):
            needed |= more
            self._add_ancestors(needed)  # the null models that a victim was compared with
        return needed

    def _about(self, needed: set[str]) -> set[str]:
        """The further artifacts that say something of those that stay."""
        chains = {self._chain(id) for id in needed if self._attacked_by(id) == "embed"}
        others = [id for id in self.known if id not in needed]
        return {id for id in others if self._is_about(id, needed) or self._is_compared(id, needed, chains)}

    def _add_ancestors(self, needed: set[str]) -> None:
        ids = [id for id in needed if id in self.known]
        while ids:
            new = {parent for _, parent in self.known[ids.pop()].parents} - needed
            needed |= new
            ids += [id for id in new if id in self.known]

    def _is_about(self, id: str, needed: set[str]) -> bool:
        """True if an artifact says something of models that stay: of null models, where the victim stays."""
        artifact = self.known[id]
        if artifact.action not in _ABOUT_MODELS:
            return False
        asked = {parent for role, parent in artifact.parents if role != "embed"}
        if artifact.action in ("verify", "ask") and all(self._action(parent) == "train" for parent in asked):
            return dict(artifact.parents).get("embed") in needed
        return all(parent in needed for _, parent in artifact.parents)

    def _action(self, id: str) -> str:
        return self.known[id].action if id in self.known else ""

    def _is_compared(self, id: str, needed: set[str], chains: set[tuple[Any, ...]]) -> bool:
        """True for an attacked null model, where what the same attacks made of a victim stays."""
        if self._attacked_by(id) != "train" or self._chain(id) not in chains:
            return False
        return all(parent in needed for role, parent in self.known[id].parents if role != "model")

    def _attacked_by(self, id: str) -> str:
        """The action that made the model which an attack began with, ``train`` for a null model; empty for others."""
        attacked = dict(self.known[id].parents) if self._action(id) == "attack" else {}
        return self._action(attacked.get("embed", ""))

    def _chain(self, id: str) -> tuple[Any, ...]:
        """The attacks that made a model, without seeds."""
        links: list[tuple[str, ...]] = []
        while (artifact := self.known.get(id)) and artifact.action == "attack":
            links.append(artifact.made_by)
            id = dict(artifact.parents)["model"]
        return tuple(links)

    def _unneeded(self) -> list[str]:
        """The ids that go."""
        needed = self.needed()
        others = [id for id in self.known if id not in needed]
        if self.plans:
            return others
        newest: dict[tuple[str, str], str] = defaultdict(str)
        """The last start of what is needed, by action and label."""
        for artifact in (self.known[id] for id in needed if id in self.known):
            name = (artifact.action, artifact.label)
            newest[name] = max(newest[name], artifact.started)
        gone: set[str] = set()
        while new := {id for id in others if id not in gone and self._is_old(id, newest, gone)}:
            gone |= new
        return [id for id in others if id in gone]

    def _is_old(self, id: str, newest: Mapping[tuple[str, str], str], gone: Collection[str]) -> bool:
        """True if an artifact was computed again since, or was made from one that was."""
        artifact = self.known[id]
        later = newest.get((artifact.action, artifact.label), "") > artifact.started
        return later or any(parent in gone for _, parent in artifact.parents)

    # --- all that goes ---

    def goes(self) -> list[Goes]:
        """List what is not needed and older than the command. Raises :class:`harness.errors.ResultsError` for links."""
        found = [*self._artifacts(), *self._partials(), *self._notes()]
        return [each for each in found if not self.is_new(each.path)]

    def is_new(self, path: Path) -> bool:
        """True if something of ``path`` was written since the command began."""
        return any(status.st_mtime >= self.began for status in _statuses(path))

    def _artifacts(self) -> Iterator[Goes]:
        for id in self._unneeded():
            path, artifact = self.store.path(id), self.known[id]
            refuse_links(path.parent, path)
            yield Goes(path, artifact.action, artifact.label, size_of(path), id)

    def _partials(self) -> Iterator[Goes]:
        """Files and folders that a process was writing when it was killed, and tables that were set aside.

        Of an artifact its claim tells if a process still writes it; other writers claim nothing, so their age does.
        """
        for path in sorted([*_unfinished(self.store.results), *self.store.results.glob("tables/*/.*.aside")]):
            refuse_links(path.parent, path)
            found = PARTIAL.fullmatch(path.name)
            id = found["name"] if found and path.parent.parent == self.store.folder else ""
            if not (self.claims.is_taken(id) if id else is_young(path, self.began)):
                yield Goes(path, "partial", f"{found['name'] if found else path.name}, unfinished", size_of(path), id)

    def _notes(self) -> Iterator[Goes]:
        """The notes of processes that ended before they could delete them."""
        for path in sorted(self.claims.folder.glob("*.json")):
            refuse_links(path)
            try:
                live = json.loads(path.read_text("utf-8")) in self.running.values()
            except (OSError, ValueError, RecursionError):
                live = False
            if not live:
                yield Goes(path, "note", path.name, size_of(path))

    def delete(self, goes: Iterable[Goes]) -> list[Goes]:
        """Delete, and say what: all but what a process has claimed or written meanwhile."""
        return [each for each in goes if not self.is_new(each.path) and self._delete(each)]

    def _delete(self, each: Goes) -> bool:
        if each.id and not self.claims.try_acquire(each.id, action="gc", label=each.label):
            return False
        try:
            refuse_links(each.path.parent, each.path)
            if each.path.is_dir():
                shutil.rmtree(each.path)
            else:
                each.path.unlink(missing_ok=True)
        except OSError as error:
            raise ResultsError(f"cannot delete {str(each.path)!r}: {error.strerror}") from error
        finally:
            if each.id:
                self.claims.release(each.id)
        return True


def is_young(path: Path, began: float) -> bool:
    """True if something of ``path`` was written so shortly before ``began`` that a process may still write it."""
    return any(status.st_mtime >= began - PATIENCE for status in _statuses(path))


def _unfinished(folder: Path) -> Iterator[Path]:
    """Whatever below a folder has the name of something that was being written. No link is followed."""
    for parent, folders, files in os.walk(folder):
        yield from (Path(parent, name) for name in (*folders, *files) if PARTIAL.fullmatch(name))
        # Not into what was found, nor into artifacts, of which there are many: nothing is written inside one.
        folders[:] = [name for name in folders if not PARTIAL.fullmatch(name) and not _ID.fullmatch(name)]


_ID = re.compile("[0-9a-f]{32}")


def prepared_copies(folder: Path, began: float) -> list[Goes]:
    """The decoded copies of data sets in the per-user cache. They are made again when they are needed.

    Copies that a process may still write, as of the time ``began``, are left out.
    """
    refuse_links(folder)
    paths = [path for path in sorted(folder.glob("*")) if path.is_file()]
    done = [path for path in paths if not (PARTIAL.fullmatch(path.name) and is_young(path, began))]
    return [Goes(path, "prepared", path.name, size_of(path)) for path in done]


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files in a folder."""
    return sum(status.st_size for status in _statuses(path) if stat.S_ISREG(status.st_mode))


def _statuses(path: Path) -> Iterator[os.stat_result]:
    """The status of a file, or of a folder and all in it. Links are not followed; what goes meanwhile is left out."""
    for each in (path, *path.rglob("*")):
        with suppress(FileNotFoundError):
            yield each.lstat()
