"""Which pictures a results folder allows: the numbers of each from the tables, or what the tables lack for it.

:mod:`harness.figures` draws them, as wide as a column of a paper.
"""

from __future__ import annotations

import re
import shutil
import uuid
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from harness import figures
from harness.errors import ResultsError, UnknownName, UsageError
from harness.leaderboard import Rules, score
from harness.matrix import format_chain, parse_chain
from harness.statistics import clopper_pearson_upper, queries_for_confidence
from harness.tables import refuse_links

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from harness.plan import Lookup
    from harness.tables import Tables

BUDGETS = np.unique(np.geomspace(1, 1000, 40).astype(int))
"""Numbers of queries that a verifier may have."""


class Shown:
    """The tables of a results folder, each read when a picture asks for it."""

    def __init__(self, tables: Tables, lookup: Lookup) -> None:
        self.tables, self.lookup = tables, lookup

    @cached_property
    def cells(self) -> pd.DataFrame:
        """Every cell, with what :func:`harness.leaderboard.score` makes of it."""
        return score(self.tables.read("cells"), Rules())

    @cached_property
    def searched(self) -> pd.Series[bool]:
        """Whether a cell's chain ends in a detector, which leaves the model as it is."""
        return self.cells["family"].fillna("").str.endswith("detection")

    @cached_property
    def ended(self) -> pd.DataFrame:
        """The cells that are ok and say what an attack leaves, with rates in %: void ones too."""
        cells = self.cells[(self.cells["status"] == "ok") & ~self.searched]
        names = ["surrogate_trigger", "null_trigger", "victim_accuracy", "surrogate_accuracy", "null_accuracy"]
        return cells.assign(**{name: 100 * cells[name].astype(float) for name in names}).rename(
            columns={"dataset": "panel", "defense": "series"}
        )

    @cached_property
    def counting(self) -> pd.DataFrame:
        """Of these, the ones that count."""
        return self.ended[self.ended["counts"]]

    @cached_property
    def victims(self) -> pd.DataFrame:
        """One row a victim: it stands in a row for every attack on it."""
        return self.counting.drop_duplicates(["panel", "series", "seed"])


@dataclass(frozen=True)
class Picture:
    """One picture: what it shows, its numbers, how it is drawn, and what the tables lack where there are no numbers."""

    name: str
    title: str
    data: Callable[[Shown], pd.DataFrame]
    draw: Callable[[pd.DataFrame], Figure]
    needs: str


def _success(shown: Shown) -> pd.DataFrame:
    rows = shown.counting.assign(label=shown.counting["attack"], value=shown.counting["surrogate_trigger"])
    return _dots(rows, "trigger success of the surrogate (%)")


def _dots(rows: pd.DataFrame, unit: str) -> pd.DataFrame:
    columns = ["panel", "label", "series", "seed", "value", "unit"]
    return rows.assign(unit=unit)[columns].dropna(subset="value").reset_index(drop=True)


def _frontier(shown: Shown) -> pd.DataFrame:
    rows = shown.counting.rename(columns={"surrogate_trigger": "x", "surrogate_accuracy": "value", "attack": "group"})
    return rows[["panel", "series", "group", "seed", "x", "value"]].dropna(subset=["x", "value"])


def _pruning(shown: Shown) -> pd.DataFrame:
    rows = shown.ended
    pruned = {attack: _fraction(attack, shown.lookup) for attack in rows["attack"].unique()}
    rows = rows.assign(chain=rows["attack"].map(lambda a: pruned[a][0]), x=rows["attack"].map(lambda a: pruned[a][1]))
    rows = rows.dropna(subset="x")
    rows = rows.assign(series=rows["series"] + rows["chain"])
    parts = [
        part.assign(panel=part["panel"] + f": {what}", value=part[column], unit=f"{what} (%)")
        for what, column, part in (
            ("trigger success, where it counts", "surrogate_trigger", rows[rows["counts"]]),
            ("test accuracy", "surrogate_accuracy", rows),
        )
    ]
    made = pd.concat(parts)[["panel", "series", "seed", "x", "value", "unit"]].sort_values("x", kind="stable")
    made = made.sort_values("panel", kind="stable").reset_index(drop=True)
    made.attrs["x"] = "fraction of the units that is pruned"
    return made if made["x"].nunique() > 1 else made[:0]


def _fraction(attack: str, lookup: Lookup) -> tuple[str, float]:
    """What comes before a chain's pruning, and the fraction that it prunes; NaN where it ends in something else."""
    try:
        *before, last = parse_chain(attack)
        fraction = getattr(lookup("attack", str(last)).plugin, "fraction", None) if last.name == "pruning" else None
    except UsageError:  # a plugin that is not here
        fraction = None
    if fraction is None:
        return "", float("nan")
    return f", {format_chain(before)}" if before else "", float(fraction)


def _needed(shown: Shown) -> pd.DataFrame:
    rows = shown.counting[np.isfinite(shown.counting["queries_needed"])]
    rows = rows.assign(x=rows["surrogate_trigger"], value=rows["queries_needed"])
    parts = [rows[["panel", "series", "seed", "x", "value"]]]
    for panel, own in rows.groupby("panel", sort=False):
        false = own["null_trigger"].median() / 100
        x = np.linspace(false, 1, 60)[1:-1]
        curve = [queries_for_confidence(rate, false) for rate in x] if false == false else []
        line = pd.DataFrame({"x": 100 * x[: len(curve)], "value": curve})
        parts.append(line[np.isfinite(line["value"])].assign(panel=panel, series=""))
    return pd.concat(parts, ignore_index=True)


def _budget(shown: Shown) -> pd.DataFrame:
    """The share of attacked cells that the exact test would accuse with so many queries, at the rates measured."""
    from scipy.stats import binom

    rows = shown.counting[(shown.counting["attack"] != "none") & (shown.counting["null_trigger_trials"].fillna(0) > 0)]
    limit = clopper_pearson_upper(rows["null_trigger_matches"].astype(float), rows["null_trigger_trials"].astype(float))
    success = rows["surrogate_trigger"].to_numpy() / 100
    parts = [
        rows.assign(x=n, value=100 * binom.sf(binom.isf(0.05, n, limit), n, success))
        .groupby(["panel", "series", "x"], sort=False)["value"].mean().reset_index()
        for n in BUDGETS
    ]  # fmt: skip
    return pd.concat(parts, ignore_index=True)


def _matrix(shown: Shown) -> pd.DataFrame:
    rows = shown.counting.groupby(["panel", "attack", "series"], sort=False)["surrogate_trigger"].mean()
    return rows.rename("value").rename_axis(index={"attack": "label"}).reset_index()


def _curves(shown: Shown) -> pd.DataFrame:
    stages = shown.tables.read("stages", ["stage", "action", "label", "dataset", "plugin"])
    stages = stages[stages["action"] == "embed"]
    rows = shown.tables.read("curves").merge(stages, on="stage").sort_values(["stage", "training", "epoch"])
    # A stage may train more than once: its epochs are counted through.
    rows = rows.assign(
        x=rows.groupby(["stage", "quantity"]).cumcount() + 1,
        panel=rows["dataset"] + ": " + rows["quantity"],
        series=rows["plugin"],
        seed=rows["label"].map(_seed_of),
        unit=rows["quantity"].map(lambda q: f"{q} (nats)" if q.startswith(("snnl", "loss")) else q),
    )
    rows = rows[np.isfinite(rows["value"].astype(float))].sort_values(["panel", "series", "seed", "x"], kind="stable")
    rows.attrs["x"] = "epoch of embedding"
    return rows[["panel", "series", "seed", "x", "value", "unit"]].reset_index(drop=True)


def _seed_of(label: str) -> int:
    found = re.search(r"#(\d+)$", label)
    return int(found[1]) if found else 0


def _detections(shown: Shown) -> pd.DataFrame:
    rows = shown.tables.read("detections")
    null, void = rows["suspect"] == "null", rows["cell"].isin(shown.cells.loc[shown.cells["void"], "cell"])
    rows = rows.assign(
        panel=rows["dataset"] + ": " + rows["attack"], series=rows["defense"], value=rows["score"].astype(float)
    )
    # The same null models stand beside every scheme and seed.
    nulls = rows[null].drop_duplicates(["panel", "index"])
    nulls = nulls.assign(series="null models", seed=nulls["index"])
    both = pd.concat([rows[~null & ~void], nulls]).sort_values("panel", kind="stable")
    both = both[np.isfinite(both["value"])]
    return _dots(both.assign(label=both["series"]), "score of the detector")


def _false_rates(shown: Shown) -> pd.DataFrame:
    rows = shown.victims
    return _dots(rows.assign(label=rows["series"], value=rows["null_trigger"]), "null models' trigger success (%)")


def _cost(shown: Shown) -> pd.DataFrame:
    rows = shown.victims.assign(label=shown.victims["series"])
    lost = _dots(
        rows.assign(value=rows["null_accuracy"] - rows["victim_accuracy"], panel=rows["panel"] + ": accuracy"),
        "null models' accuracy less the victim's (points)",
    )
    spent = _dots(rows.assign(value=rows["embed_seconds"], panel=rows["panel"] + ": time"), "seconds to embed")
    return pd.concat([lost, spent], ignore_index=True)


_CELLS = "cells that count: harness run --matrix smoke"

PICTURES: dict[str, Picture] = {
    picture.name: picture
    for picture in (
        Picture("success", "What each attack leaves of each mark: a dot a seed, the mean a line", _success,
                figures.dots, _CELLS),
        Picture("frontier", "Accuracy against success of the surrogates: a dot a cell", _frontier,
                figures.frontier, _CELLS),
        Picture("pruning", "Success and accuracy against the pruned fraction", _pruning, figures.tracks,
                "cells of two fractions of pruning: harness run --attack 'pruning[fraction=0.2]' --attack ..."),
        Picture("queries", "Queries to 95% confidence (the paper's t-test) against success", _needed, figures.needed,
                "cells that count and whose mark shows above the false rate"),
        Picture("budget", "Share of attacked models that the exact test verifies, by queries asked", _budget,
                figures.against_budget, "attacked cells with null models: harness run --nulls 5"),
        Picture("matrix", "Mean success of the surrogate, by attack and scheme", _matrix, figures.matrix, _CELLS),
        Picture("curves", "Training curves of the victims: thin a seed, thick the mean", _curves, figures.tracks,
                "curves of an embedding"),
        Picture("detections", "What a detector says of marked models and of null models", _detections, figures.dots,
                "detections: harness run --attack neural-cleanse"),
        Picture("false-rates", "How often null models answer the triggers: a dot a seed", _false_rates, figures.dots,
                "cells with null models: harness run --nulls 5"),
        Picture("cost", "What a mark costs: a dot a seed, the mean a line", _cost, figures.dots, _CELLS),
    )
}  # fmt: skip


def collect(shown: Shown, only: Iterable[str] = ()) -> dict[str, pd.DataFrame]:
    """The numbers of all pictures, or of ``only`` some; empty where the tables lack them. Raises
    :class:`UnknownName`."""
    names = list(dict.fromkeys(only)) or list(PICTURES)
    for name in names:
        if name not in PICTURES:
            raise UnknownName("figure", name, PICTURES)
    return {name: PICTURES[name].data(shown) for name in names}


def draw_all(collected: dict[str, pd.DataFrame], folder: Path, style: str) -> list[Path]:
    """Draw what has numbers into ``folder``: all of it or, where one cannot be drawn or written, none."""
    refuse_links(folder)
    partial = folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:8]}")
    try:
        partial.mkdir(parents=True)
        for name, data in collected.items():
            if len(data):
                picture = PICTURES[name]
                figures.print_to(partial / f"{name}.{style}", data, picture.draw, picture.title)
        folder.mkdir(exist_ok=True)
        return [path.replace(folder / path.name) for path in sorted(partial.iterdir())]
    except OSError as error:
        raise ResultsError(f"cannot write to {str(folder)!r}: {error.strerror}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
