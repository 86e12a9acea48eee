"""Sources of a page: the tables of a results folder, and what cells and plugins say of names."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import pandas as pd

from harness.errors import UsageError
from harness.planning.matrix import Entry, parse_chain
from harness.report.page import Tags
from harness.storage.options import RecordedOptions
from harness.text import printable
from harness.verdicts.reading import read_cells, read_evidence
from harness.verdicts.rules import Rules

if TYPE_CHECKING:
    from harness.planning.registry import Registry
    from harness.storage.tables import Tables


@dataclass(frozen=True)
class Results:
    """The tables that the page is made from, and by which rules."""

    cells: pd.DataFrame
    evidence: pd.DataFrame
    detections: pd.DataFrame
    stages: pd.DataFrame
    rules: Rules

    @classmethod
    def of(cls, tables: Tables, rules: Rules) -> Results:
        """The tables of a results folder, by these rules."""
        detections, stages = map(tables.read, ("detections", "stages"))
        return cls(read_cells(tables), read_evidence(tables), detections, stages, rules)


@dataclass(frozen=True)
class About:
    """Origin of the page."""

    source: str
    command: str
    date: str
    harness: str
    commit: str = ""


class Known:
    """Facts of the cells and of the registry on datasets, schemes and attacks."""

    def __init__(self, cells: pd.DataFrame, registry: Registry) -> None:
        self.registry = registry
        self.options = RecordedOptions(cells, registry.component)
        self.datasets = list(dict.fromkeys(cells["dataset"]))
        about = cells.drop_duplicates("attack")[["attack", "access", "family"]].fillna("")
        self.of = {attack: (printable(access), printable(family)) for attack, access, family in about.to_numpy()}
        self.plugins = {kind: _plugin_names(cells[kind]) for kind in ("defense", "attack")}
        """The names of each kind of plugin, each with the entries or chains that it is part of."""

    def filters(self) -> list[tuple[str, str, list[str]]]:
        """Filters that a reader can choose by: key, label and values."""
        accesses, families = (sorted({pair[i] for pair in self.of.values()} - {""}) for i in (0, 1))
        named = (("dataset", "dataset", self.datasets), ("access", "access", accesses), ("family", "family", families))
        return [(key, label, values) for key, label, values in named]

    def tags(self, dataset: str | None, attack: str | None = None) -> Tags:
        """Tags of something of a dataset, and of an attack: the dataset comes first."""
        own: Tags = () if dataset is None else (("dataset", dataset),)
        return own if attack is None else (*own, *zip(("access", "family"), self.of[attack], strict=True))


def _plugin_names(entries: pd.Series[str]) -> dict[str, dict[str, None]]:
    names: dict[str, dict[str, None]] = {}
    for text in dict.fromkeys(entries):
        for name in dict.fromkeys(entry.name for entry in chain_of(text)):
            names.setdefault(name, {})[text] = None
    return names


def chain_of(text: str) -> tuple[Entry, ...]:
    """The entries of a chain; a text that no harness would have written is a name as a whole."""
    try:
        return parse_chain(text)
    except UsageError:
        return (Entry(text),)
