"""The column ``options`` of the table ``cells``: every option of what a cell was made of, written and read here."""

from __future__ import annotations

import json
import reprlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from functools import lru_cache
from typing import TYPE_CHECKING, Any, TypeAlias

from harness.contracts import Plugin
from harness.errors import ResultsError, UsageError
from harness.planning.graph import Component, Kind, Lookup
from harness.planning.matrix import Entry, parse_chain
from harness.storage.fields import check_of
from harness.storage.store import plain

if TYPE_CHECKING:
    import pandas as pd

Options: TypeAlias = Mapping[str, Any]
"""Values by name: text, a number, true, false or null."""


def options_of(plugin: Plugin) -> Options:
    """All options of a plugin, defaults included."""
    return {field.name: getattr(plugin, field.name) for field in fields(plugin)}


def options_text(uses: Sequence[Component]) -> str:
    """The JSON for the dataset, the defense and the links of the attack chain of a cell."""
    dataset, defense, *chain = map(_json, uses)
    names = {use.text: use.stands_for for use in uses if use.stands_for}
    named = f', "names": {json.dumps(names)}' if names else ""
    return f'{{"dataset": {dataset}, "defense": {defense}, "attack": [{", ".join(chain)}]{named}}}'


@lru_cache(maxsize=4096)
def _json(use: Component) -> str:
    return json.dumps(plain(options_of(use.plugin)), allow_nan=False, default=str)


def names_in(cells: pd.DataFrame) -> dict[str, set[str]]:
    """The data sets that names of matrix files stood for in these cells, rows of the table, by name."""
    found: dict[str, set[str]] = {}
    for names in _told(cells, "names"):
        for name, meant in names.items():
            found.setdefault(name, set()).add(str(meant))
    return found


def dataset_options(cells: pd.DataFrame) -> list[Options]:
    """The options of the data sets of these cells, rows of the table, as they were recorded."""
    return list(_told(cells, "dataset"))


def _told(cells: pd.DataFrame, part: str) -> Iterator[Mapping[str, Any]]:
    """The tables that recorded options hold under the key ``part``; empty ones where no run would have written them."""
    for text in cells["options"].dropna().unique() if "options" in cells else ():
        try:
            told = json.loads(text) if f'"{part}"' in text else {}
        except (ValueError, RecursionError):
            told = {}
        yield _part(told, part)


def _part(told: object, part: str) -> Mapping[str, Any]:
    found = told.get(part, {}) if isinstance(told, dict) else {}
    return found if isinstance(found, dict) else {}


class RecordedOptions:
    """Options by a plugin's text, as cells recorded them; of cells that did not, as the plugin here has them."""

    def __init__(self, cells: pd.DataFrame, lookup: Lookup) -> None:
        """``cells`` are rows of the table. Raises :class:`ResultsError` for options that no run would have written."""
        self.lookup = lookup
        self.unknown: dict[str, Kind] = {}
        """Names of plugins whose options are neither recorded nor, since they are not here, known."""
        self._known: dict[tuple[Kind, str], Options] = {}
        told = cells.reindex(columns=["dataset", "defense", "attack", "options"]).drop_duplicates()
        for dataset, defense, attack, text in told.itertuples(index=False):
            if isinstance(text, str):
                self._add({"dataset": dataset, "defense": defense, "attack": attack}, text)

    def _add(self, texts: Mapping[Kind, str], told: str) -> None:
        try:
            found = json.loads(told)
        except (ValueError, RecursionError):
            found = None
        if not _is_told(found):
            raise ResultsError(f"the table cells is damaged: options cannot be {reprlib.repr(told)}")
        for kind, text in texts.items():
            chain = found[kind] if kind == "attack" else [found[kind]]
            links = _links(text)
            if len(links) == len(chain):
                self._known |= {(kind, str(link)): options for link, options in zip(links, chain, strict=True)}

    def of(self, kind: Kind, entry: Entry) -> Options:
        """The options of a dataset, a defense or a link. Of a plugin that is not here, those that its text says."""
        known = self._known.get((kind, str(entry)))
        if known is not None:
            return known
        try:
            return options_of(self.lookup(kind, str(entry)).plugin)
        except UsageError:
            self.unknown[entry.name] = kind
            return dict(entry.options)


def _links(text: str) -> Sequence[Entry]:
    try:
        return parse_chain(text)
    except UsageError:  # what no run of ours would have written
        return ()


_is_options = check_of(dict[str, str | int | float | bool | None])


def _is_told(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and value.keys() - {"names"} == {"dataset", "defense", "attack"}
        and all(isinstance(each, str) for each in _part(value, "names").values())
        and isinstance(value["attack"], list)
        and all(map(_is_options, [value["dataset"], value["defense"], *value["attack"]]))
    )
