"""Background of the numbers: costs of the run, failures, and provenance."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import pandas as pd

from harness.planning.select import words
from harness.ranking.values import count, decimal, text
from harness.report.page import PLOTS, ROWS, Grid, Row, Section, shortened
from harness.report.sources import About, Results
from harness.text import printable
from harness.verdicts.board import Board


def costs(stages: pd.DataFrame) -> Section | None:
    """Time and samples of the stages."""
    if stages.empty:
        return None
    columns = ("stages", "total (s)", "median (s)", "samples trained", "samples evaluated")
    grids = []
    for title, keys in (("By action", ["action"]), ("By action and plugin", ["action", "plugin"])):
        groups = stages.assign(plugin=stages["plugin"].replace("", "-").fillna("-")).groupby(keys, sort=False)
        rows = [Row([*map(text, key), *_took(each)]) for key, each in groups]
        grids.append(Grid(title, (*keys, *columns), rows[:ROWS], shortened(len(rows), ROWS, "rows")))
    total = stages["seconds"].astype(float).sum()
    told = f"{len(stages):,} stages took {_time(total)}, one after another. What several cells share was computed once."
    return Section("costs", "Cost of the run", told, grids=grids)


def _took(stages: pd.DataFrame) -> list[tuple[str, float | str]]:
    seconds = stages["seconds"].astype(float)
    samples = (stages[what].astype(float).sum(min_count=1) for what in ("trained_samples", "evaluated_samples"))
    return [
        count(len(stages)),
        decimal(float(seconds.sum()), 1),
        decimal(float(seconds.median()), 2),
        *map(count, samples),
    ]


def _time(seconds: float) -> str:
    minutes, hours = seconds / 60, seconds / 3600
    return (
        f"{hours:.1f} hours" if hours >= 2 else f"{minutes:.1f} minutes" if minutes >= 2 else f"{seconds:.1f} seconds"
    )


def ends(cells: pd.DataFrame) -> Section:
    """Cells that failed or were skipped, by reason."""
    ended = cells[cells["status"] != "ok"]
    if ended.empty:
        return Section("ends", "Failures and skips", "No cell failed or was skipped.")
    rows = []
    for (status, reason), each in ended.fillna({"reason": ""}).groupby(["status", "reason"], sort=False):
        examples = [words(c.dataset, c.defense, c.attack, c.seed) for c in each.head(3).itertuples()]
        more = f"; and {len(each) - 3} more" if len(each) > 3 else ""
        told = (status, " ".join(reason.split()), "; ".join(examples) + more)
        rows.append(Row([*map(text, told), count(len(each))]))
    columns = ("status", "reason", "cells", "number")
    grid = Grid("Cells that failed or were skipped, by reason", columns, rows[:ROWS])
    return Section("ends", "Failures and skips", grids=[grid], left_out=shortened(len(rows), ROWS, "reasons"))


def provenance(results: Results, board: Board, about: About) -> Section:
    """Data, machines, versions and command that the page comes from."""
    cells, stages = results.cells, results.stages
    started = stages["started"].dropna()
    nulls, seeds = sorted({int(n) for n in cells["nulls"].dropna()}), sorted(set(cells["seed"]))
    facts: list[tuple[str, Sequence[str]]] = [
        ("Made by", [about.command]),
        ("Made at", [about.date]),
        ("From", [printable(about.source)]),
        ("Harness that made this page", [about.harness + (f", git commit {about.commit}" if about.commit else "")]),
        ("Measured on", list(map(printable, board.machines)) or ["not recorded"]),
        ("Measured by commit", _commits(stages)),
        (
            "Measured between",
            [f"{started.min():%Y-%m-%d %H:%M} and {started.max():%Y-%m-%d %H:%M} UTC"] if len(started) else [],
        ),
        ("Runs", [f"{cells['run'].nunique():,} wrote these cells"]),
        ("Data and their checksums", _data(cells["dataset"].unique(), stages)),
        ("Cells", [f"{len(cells):,}"]),
        ("Seeds", [f"{len(seeds)}, from {seeds[0]} to {seeds[-1]}"]),
        (
            "Unmarked models a data set",
            [_between(nulls) if nulls and nulls[-1] else "none: there is nothing to compare with"],
        ),
    ]
    told = (
        "The same numbers as JSON are in this file, in the element with the id board, unless they are too many. "
        "The tables do not record the command of a run."
    )
    return Section("provenance", "Provenance", told, facts=[fact for fact in facts if fact[1]])


def _data(datasets: Iterable[str], stages: pd.DataFrame) -> list[str]:
    """Each dataset with the checksums of what its stages read: more than one where the files changed between."""
    recorded = stages.reindex(columns=["dataset", "data_checksum"]).dropna().drop_duplicates()
    of = {printable(name): sorted(map(printable, each)) for name, each in recorded.groupby("dataset")["data_checksum"]}
    told = [f"{name}: {', '.join(of.get(name, ())) or 'not recorded'}" for name in datasets]
    return [*told[:PLOTS], *([f"and {len(told) - PLOTS} more"] if len(told) > PLOTS else [])]


def _commits(stages: pd.DataFrame) -> list[str]:
    """Commits of the harness, the newest last."""
    known = stages.reindex(columns=["commit"])["commit"].dropna().map(printable)
    return list(dict.fromkeys(known))[-PLOTS:] or ["not recorded"]


def _between(numbers: Sequence[int]) -> str:
    return str(numbers[0]) if numbers[0] == numbers[-1] else f"{numbers[0]} to {numbers[-1]}"
