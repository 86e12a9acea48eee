"""Records that a site shows: each is checked as ``harness submit`` does, once for its content, then read.

What an accepted record says of itself follows from its tables, so that its ranking is read from its own report.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from functools import cache
from pathlib import Path
from types import NoneType
from typing import TYPE_CHECKING, Any, get_args, get_origin, get_type_hints

import harness
from harness.records.check import check, listed, schema_of
from harness.records.freeze import board_of
from harness.report import embedded
from harness.storage.schema import SCHEMA_VERSION
from harness.storage.tables import Tables
from harness.text import command_line, printable
from harness.verdicts.board import Board

if TYPE_CHECKING:
    from harness.planning.registry import Registry

TITLE = 120
"""Largest number of letters of a title."""


@dataclass(frozen=True)
class Demands:
    """Demands on a record, and what it takes to check them."""

    seeds: int
    nulls: int
    registry: Registry
    ranking: Callable[[Path], str]
    """The text of ``leaderboard.md`` for a record."""

    def key(self, folder: Path) -> str:
        """A digest of a record's content and of these demands: equal ones need one check."""
        about = [harness.__version__, SCHEMA_VERSION, self.seeds, self.nulls]
        parts = [str(about).encode(), *((folder / name).read_bytes() for name in ("manifest.json", "README.md"))]
        return hashlib.sha256(b"".join(hashlib.sha256(part).digest() for part in parts)).hexdigest()


@dataclass(frozen=True)
class Accepted:
    """A record that was accepted, and its ranking."""

    folder: Path
    title: str
    about: Mapping[str, Any]
    """Content of ``environment.json``."""
    board: Board

    @property
    def name(self) -> str:
        """Name of its folder."""
        return self.folder.absolute().name

    @property
    def day(self) -> str:
        """Day on which it was recorded."""
        return str(self.about["recorded_at"])[:10]


def objections(folder: Path, demands: Demands, known: set[str]) -> list[str]:
    """Reasons to refuse a record; empty if there are none. ``known`` are keys of records that were accepted, and gets
    this one's.

    The files are compared with the manifest each time, all else once for a content.
    """
    if found := listed(folder):
        return found
    if (schema := schema_of(folder)) != SCHEMA_VERSION:
        again = command_line("record", "NAME", "--results", folder, "--output", "NEW")
        return [f"its pages cannot be checked: an older harness made them (schema {schema}); {again} records it again"]
    if not (folder / "report.html").is_file():
        return ["report.html: missing"]
    if (key := demands.key(folder)) in known:
        return []
    found = check(folder, demands.seeds, demands.nulls, demands.registry, demands.ranking)
    known |= set() if found else {key}
    return found


def read(folder: Path) -> Accepted:
    """A record that was accepted."""
    told = embedded((folder / "report.html").read_text("utf-8"))
    board = _read(Board, told) if told else board_of(Tables(folder))  # of many rows the report has no data
    heading = re.search(r"^# (.+)$", (folder / "README.md").read_text("utf-8"), re.MULTILINE)
    title = printable(heading[1] if heading else folder.absolute().name)[:TITLE]
    return Accepted(folder, title, json.loads((folder / "environment.json").read_bytes()), board)


def _read(kind: Any, value: Any) -> Any:
    """A value of a type from what :meth:`Board.as_dict` made of it: a number that was not finite is NaN."""
    if is_dataclass(kind) and isinstance(kind, type) and value is not None:
        hints = _hints(kind)
        return kind(**{each.name: _read(hints[each.name], value[each.name]) for each in fields(kind)})
    origin, inner = get_origin(kind), get_args(kind)
    if value is None:
        return math.nan if kind is float else None
    if NoneType in inner:
        return _read(next(each for each in inner if each is not NoneType), value)
    if origin in (list, tuple, Sequence):
        made = [_read(inner[0], each) for each in value]
        return tuple(made) if origin is tuple else made
    if origin is Mapping:
        return {name: _read(inner[1], each) for name, each in value.items()}
    return value


@cache
def _hints(kind: type) -> dict[str, Any]:
    return get_type_hints(kind)
