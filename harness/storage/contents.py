"""The contents of data sets that the results of a folder were computed from, by the texts of the sets."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeAlias

from harness.storage.options import names_in
from harness.storage.records import StageRecord
from harness.text import command_line, option_words

if TYPE_CHECKING:
    import pandas as pd

    from harness.storage.tables import Tables

CONTENTS = "contents"
"""The column of ``cells`` with the contents that a cell was computed from."""
KEY = ("dataset", "defense", "attack", "seed")
Contents: TypeAlias = Mapping[str, str]
"""Digests of contents by the data set's text; of a cell with several of one set these, with spaces between them."""


def contents_text(records: Sequence[StageRecord]) -> str | None:
    """The JSON object of the contents that stages with these records read; ``None`` where none of them says so."""
    found: dict[str, set[str]] = defaultdict(set)
    for record in records:
        if known := record.get("data_checksum"):
            found[record["dataset"]].add(known)
        if known := record.get("other_checksum"):
            found[record["other_dataset"]].add(known)
    return json.dumps({name: " ".join(sorted(found[name])) for name in sorted(found)}) if found else None


def contents_in(text: object) -> Contents:
    """The contents in a value of the column; none in one that no run would have written, or that is null."""
    try:
        told = json.loads(text) if isinstance(text, str) else {}
    except (ValueError, RecursionError):
        told = {}
    if not isinstance(told, dict):
        return {}
    return {name: each for name, each in told.items() if isinstance(each, str)}


class StoredContents:
    """The contents that a results folder knows."""

    def __init__(self, tables: Tables) -> None:
        self.tables = tables

    @cached_property
    def _latest(self) -> Contents:
        frame = self.tables.read("stages", [f"{part}" for part in _COLUMNS]).sort_values("started", kind="stable")
        known: dict[str, str] = {}
        for row in frame[[*_COLUMNS]].itertuples(index=False):
            for name, content in ((row.dataset, row.data_checksum), (row.other_dataset, row.other_checksum)):
                if isinstance(name, str) and isinstance(content, str):
                    known[name] = content
        return known

    def latest(self, text: str) -> str:
        """The content of the latest results of a data set; empty where there are none."""
        return self._latest.get(text, "")

    @cached_property
    def cells(self) -> pd.DataFrame:
        """The rows of ``cells`` that say their contents."""
        frame = self.tables.read("cells", [*KEY, CONTENTS])
        return frame[frame[CONTENTS].notna()]

    def others(self, text: str, content: str) -> Counter[str]:
        """Cells by the contents of a data set that is not ``content``."""
        return Counter(other for _, other in self._others(text, content))

    def keys_of_others(self, text: str, content: str) -> set[tuple[Any, ...]]:
        """The keys of these cells."""
        return {key for key, _ in self._others(text, content)}

    def _others(self, text: str, content: str) -> Iterator[tuple[tuple[Any, ...], str]]:
        for *key, told in self.cells[[*KEY, CONTENTS]].itertuples(index=False):
            if (other := contents_in(told).get(text, content)) != content:
                yield tuple(key), other


_COLUMNS = ("dataset", "data_checksum", "other_dataset", "other_checksum", "started")


# --- in words ---------------------------------------------------------------------------------------------------------


def changes(stored: StoredContents, known: Contents, keys: set[tuple[Any, ...]], mends: str) -> Iterator[str]:
    """A line for each data set of which cells of another content than ``known`` are stored.

    ``keys`` are those of the cells that would be computed; ``mends`` says by what.
    """
    for text, content in known.items():
        if content and (others := stored.others(text, content)):
            again = len(stored.keys_of_others(text, content) & keys)
            before = ", ".join(map(short, others))
            yield (
                f"the data of {text} changed (content {before} before, {short(content)} now): "
                f"{others.total()} cells here are of the old content, and {mends} computes {again} of them again"
            )


def mixed(cells: pd.DataFrame) -> list[str]:
    """A line for each data set of which these cells, rows of the table, have several contents."""
    if CONTENTS not in cells:  # rows that somebody made
        return []
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    having: dict[str, list[str]] = defaultdict(list)
    for told, count in cells[CONTENTS].value_counts(sort=False).items():
        for name, contents in contents_in(told).items():
            counts[name][contents] += count
            having[name].append(str(told))
    return [
        f"The data of {name} changed between these cells: {_counted(counts[name])}. "
        f"To compute them from the same: {mends(cells[cells[CONTENTS].isin(having[name])])}"
        for name in counts
        if len(counts[name]) > 1
    ]


def _counted(contents: Counter[str]) -> str:
    return " and ".join(
        f"{count} cell{'s' * (count != 1)} of content {short(content)}" for content, count in contents.items()
    )


def short(contents: str) -> str:
    """The beginnings of digests, as people are shown them."""
    return " and ".join(each[:8] for each in contents.split())


def mends(cells: pd.DataFrame) -> str:
    """The command that computes cells, rows of the table, again where they are not of today's data."""
    words = ["run"]
    for option in ("dataset", "defense", "attack"):
        for value in dict.fromkeys(cells[option]):
            words += option_words(f"--{option}", str(value))
    words += ["--seeds", seeds_text(sorted(set(map(int, cells["seed"]))))]
    nulls = cells["nulls"].dropna() if "nulls" in cells else ()
    if len(nulls):
        words += ["--nulls", str(int(max(nulls)))]
    matrix = "--matrix, " if names_in(cells) else ""  # which says what a name stands for
    # The innocents that there are stand among the defenses.
    return f"{command_line(*words, '--no-innocents')} (with the {matrix}--results, --plugins and --data of before)"


def seeds_text(seeds: Sequence[int]) -> str:
    """Sorted seeds as ``--seeds`` takes them: ``0-4,7``."""
    runs: list[list[int]] = []
    for seed in seeds:
        if runs and seed == runs[-1][-1] + 1:
            runs[-1].append(seed)
        else:
            runs.append([seed])
    return ",".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)
