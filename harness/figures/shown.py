"""The tables of a results folder as pictures ask for them."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import TYPE_CHECKING, Any

import pandas as pd

from harness.papers.quantities import Frames
from harness.ranking.frames import attacked, chain_of, swept
from harness.storage.options import RecordedOptions
from harness.verdicts.boards import make_board
from harness.verdicts.reading import read_evidence
from harness.verdicts.rules import Rules
from harness.verdicts.scoring import score

if TYPE_CHECKING:
    from harness.planning.graph import Kind, Lookup
    from harness.storage.tables import Tables
    from harness.verdicts.board import Board


class Shown:
    """The tables of a results folder, each read when a picture asks for it, and the rules by which cells count."""

    def __init__(self, tables: Tables, lookup: Lookup, rules: Rules | None = None) -> None:
        self.tables, self.lookup, self.rules = tables, lookup, rules or Rules()

    @cached_property
    def cells(self) -> pd.DataFrame:
        """Every cell, with what :func:`harness.verdicts.scoring.score` makes of it, its ``kind`` and its class pair."""
        cells = self._scored
        classes = {text: self._classes(text) for text in cells["dataset"].unique()}
        known = {name: [classes[text][i] for text in cells["dataset"]] for i, name in enumerate(("source", "target"))}
        return cells.assign(**known)

    @cached_property
    def _scored(self) -> pd.DataFrame:
        return score(self.tables.read("cells"), self.evidence, self.rules)

    @cached_property
    def evidence(self) -> pd.DataFrame:
        """The evidence behind verdicts."""
        return read_evidence(self.tables)

    @cached_property
    def board(self) -> Board | None:
        """The leaderboard; ``None`` where there are no cells."""
        cells, stages = (self.tables.read(name) for name in ("cells", "stages"))
        found = self.tables.read("detections")
        return make_board(cells, self.evidence, found, stages, self.rules, intervals=False) if len(cells) else None

    @cached_property
    def options(self) -> RecordedOptions:
        """The options of what the cells were made of."""
        return RecordedOptions(self._scored, self.lookup)

    @property
    def missing(self) -> list[str]:
        """Reasons why pictures may lack what depends on options: plugins that are not here."""
        return [
            f"the {kind} {name} is not here, and the tables do not have its options: name its folder with --plugins"
            for name, kind in self.options.unknown.items()
        ]

    def _classes(self, dataset: str) -> tuple[Any, Any]:
        options = [self.options.of("dataset", entry) for entry in chain_of(dataset)]
        return (options[0].get("source"), options[0].get("target")) if options else (None, None)

    @cached_property
    def ended(self) -> pd.DataFrame:
        """The cells that are ok and say what an attack leaves, with rates and margins in %: also those of useless
        models, but no detector's."""
        cells = attacked(self.cells)
        names = ["surrogate_trigger", "null_rate", "attacked_rate", "margin_counted"]
        names += ["victim_accuracy", "surrogate_accuracy", "null_accuracy"]
        return cells.assign(**{name: 100 * cells[name].astype(float) for name in names}).rename(
            columns={"dataset": "panel", "defense": "series"}
        )

    @cached_property
    def counting(self) -> pd.DataFrame:
        """Cells of :attr:`ended` that count."""
        return self.ended[self.ended["counts"]]

    @cached_property
    def victims(self) -> pd.DataFrame:
        """One row a victim: it stands in a row for every attack on it."""
        return self.counting.drop_duplicates(["panel", "series", "seed"])

    @cached_property
    def frames(self) -> Frames:
        """Cells that are ok and their measurements, from which the quantities of a reproduction are computed."""
        cells = attacked(self.cells)
        none = self.cells.head(0)
        return Frames(cells, none, self.tables.read("measurements"), none)

    def swept(self, kind: Kind) -> Iterator[tuple[str, str, pd.DataFrame]]:
        """The options of :func:`harness.ranking.frames.swept`, of :attr:`frames`' cells."""
        return swept(self.frames.cells, kind, self.options)
