"""Our numbers beside a paper's: each row's values from the tables, their spread, and a verdict.

Everything after :func:`gather` is a pure function over frames. No torch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from harness.papers.paper import Band, Experiment, Row
from harness.planning.graph import SURROGATE, Component, Kind, Plan
from harness.planning.matrix import format_chain, option_of, parse_chain
from harness.storage.options import options_of

if TYPE_CHECKING:
    import pandas as pd

    from harness.papers.quantities import Frames
    from harness.storage.tables import Tables

Verdict: TypeAlias = Literal["reproduced", "differs", "undecided", "unverified", "no claim", "void", "not run"]
VERDICTS: dict[Verdict, str] = {
    "reproduced": "our mean lies in the paper's band (its mean ± SD, or what it claims)",
    "differs": "the 95% interval of our mean and that band do not meet",
    "undecided": "neither: too few seeds, or too much spread, to say",
    "unverified": "the number is second-hand, and not taken for the paper's",
    "no claim": "the paper prints no number to compare with",
    "void": "every model lost its accuracy: its answers say nothing",
    "not run": "no data here",
}
CONFIDENCE = 0.95


# --- from the tables --------------------------------------------------------------------------------------------------

Resolver: TypeAlias = Callable[[Kind, str], Component]


def gather(plan: Plan, tables: Tables, lookup: Resolver, x: str = "") -> Frames:
    """Gather the rows of a plan's cells from the tables: only those that the plan's own stages made.

    Cells get what the plan knows: ``source`` and ``target`` of the dataset; and where ``x`` is ``attack.fraction`` or
    the like, that option's value as ``x`` and the cell's name without it as ``series``.
    """
    import pandas as pd

    from harness.papers.quantities import Frames
    from harness.ranking.scoring import Rules, score

    names = ["dataset", "defense", "attack", "seed"]
    known = pd.DataFrame([_known(cell, lookup, x) for cell in plan.cells])
    # By the model, not by the cell's id: another experiment may have run these models with other analyses.
    rows = tables.read("cells").merge(known, on=[*names, "model"])
    looked = {s.plugin.text for s in plan.stages.values() if s.plugin and s.action in ("analyse", "detect")}
    measurements = tables.read("measurements")
    measurements = measurements[measurements["analysis"].isin(looked)].drop(columns=["cell", "run"])
    ids = rows[[*names, "model", "cell"]]
    curves = tables.read("curves").merge(rows[["model", "cell"]], left_on="stage", right_on="model")
    last = curves.groupby("cell")["training"].transform("max") if len(curves) else curves["training"]
    return Frames(
        score(rows, Rules()),
        tables.read("detections").merge(rows[["cell"]], on="cell"),
        measurements.merge(ids, on=[*names, "model"]),
        curves[curves["training"] == last],
    )


def _known(cell: Any, lookup: Resolver, x: str) -> dict[str, Any]:
    dataset = lookup("dataset", cell.dataset).plugin
    row = {"dataset": cell.dataset, "defense": cell.defense, "attack": cell.attack, "seed": cell.seed}
    known = {**row, "model": dict(cell.stages).get(SURROGATE), "source": dataset.source, "target": dataset.target}
    kind, dot, option = x.partition(".")
    if dot:
        axis: Any = kind
        value, rest = option_of(
            parse_chain(row[kind]), option, lambda entry: options_of(lookup(axis, str(entry)).plugin)
        )
        short = {**row, "dataset": name_of(cell.dataset), kind: format_chain(rest)}
        known |= {"x": value, "series": f"{short['dataset']}: {short['defense']}, {short['attack']}"}
    return known


def name_of(text: str) -> str:
    """The name in ``name[option=value]``."""
    return text.partition("[")[0]


def canonical(where: Mapping[str, Any], lookup: Resolver) -> dict[str, Any]:
    """``where`` with texts as in the tables; globs, and the bare names of datasets, stay as they are."""
    return {
        key: [_canonical(key, text, lookup) for text in ([value] if isinstance(value, str) else value)]
        if key in ("dataset", "defense", "attack")
        else value
        for key, value in where.items()
    }


def _canonical(kind: Any, text: str, lookup: Resolver) -> str:
    if "*" in text or (kind == "dataset" and "[" not in text):
        return text
    return format_chain(lookup(kind, str(entry)) for entry in parse_chain(text))


def chosen(cells: pd.DataFrame, where: Mapping[str, Any]) -> pd.DataFrame:
    """The ``cells`` that ``where``, in canonical texts, selects; a dataset's bare name fits it with any options."""
    for column in ("dataset", "defense", "attack"):
        if column in where:
            fits = partial(_fits, patterns=where[column], column=column)
            cells = cells[cells[column].map(fits).astype(bool)]
    return cells


def _fits(text: str, patterns: Sequence[str], column: str) -> bool:
    # Brackets are options here, not character classes.
    globs = [pattern.replace("[", "[[]") for pattern in patterns]
    bare = column == "dataset" and name_of(text) in patterns
    return bare or any(fnmatchcase(text, glob) for glob in globs)


# --- comparing --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Spread:
    """A quantity over seeds: its mean, standard deviation (n - 1) and Student's interval of the mean; ``None``:
    unknown.
    """

    n: int
    mean: float
    sd: float | None
    low: float | None
    high: float | None


def spread(values: Sequence[float]) -> Spread | None:
    """The spread of one value per seed; ``None`` for no values. An infinite value leaves all but the mean unknown."""
    from scipy.special import stdtrit

    n = len(values)
    if not n:
        return None
    mean = math.fsum(values) / n if all(map(math.isfinite, values)) else math.inf
    if n < 2 or math.isinf(mean):
        return Spread(n, mean, None, None, None)
    sd = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (n - 1))
    half = float(stdtrit(n - 1, (1 + CONFIDENCE) / 2)) * sd / math.sqrt(n)
    return Spread(n, mean, sd, mean - half, mean + half)


def judge(band: Band | None, ours: Spread | None, mark: str = "", exact: bool = False) -> Verdict:
    """The verdict of one row. ``exact`` is a number without seeds: it agrees or it differs."""
    if ours is None:
        return "not run"
    if mark == UNVERIFIED:
        return "unverified"
    if band is None:
        return "no claim"
    if exact:
        return "reproduced" if band.holds(ours.mean) else "differs"
    if ours.n < 2:
        return "undecided"
    if band.holds(ours.mean):
        return "reproduced"
    if ours.low is None or ours.high is None:
        return "undecided"
    return "undecided" if band.meets(ours.low, ours.high) else "differs"


UNVERIFIED = "U"
"""The mark of a number that is not the paper's own word."""


@dataclass(frozen=True)
class Compared:
    """A row with our numbers."""

    row: Row
    label: str
    """The name of the quantity."""
    unit: str
    values: Mapping[int, float]
    """One value per seed."""
    spread: Spread | None
    verdict: Verdict
    void: int
    """Cells whose victim or surrogate lost its accuracy: their successes do not count."""

    def as_dict(self) -> dict[str, Any]:
        """Plain values."""
        row, ours = self.row, self.spread or Spread(0, math.nan, None, None, None)
        return {
            **{"label": row.label, "quantity": row.quantity, "unit": self.unit},
            **{"paper": row.band.text if row.band else "", "mark": row.mark, "source": row.source},
            **{"paper_low": row.band and row.band.low, "paper_high": row.band and row.band.high},
            **{"n": ours.n, "mean": ours.mean, "sd": ours.sd, "low": ours.low, "high": ours.high},
            **{"verdict": self.verdict, "void": self.void, "values": {str(s): v for s, v in self.values.items()}},
        }


def compare(experiment: Experiment, frames: Frames, lookup: Resolver) -> list[Compared]:
    """The rows of an experiment, with our numbers from ``frames``."""
    return [_compared(row, frames, lookup) for row in experiment.rows]


def _compared(row: Row, frames: Frames, lookup: Resolver) -> Compared:
    from harness.papers.quantities import QUANTITIES

    quantity = QUANTITIES[row.quantity]
    where = canonical(row.where, lookup)
    part = part_of(frames, where)
    values = quantity.of_seeds(part)
    unit = quantity.unit
    if row.less is not None:
        # Paired: a seed that lacks one of the two tells nothing of their difference.
        values = (values - quantity.of_seeds(part_of(frames, where | canonical(row.less, lookup)))).dropna()
        unit = "points" if unit == "%" else unit
    ours = spread(values.tolist())
    by_seed = {int(seed): float(value) for seed, value in values.items()}
    void = int(part.cells["void"].sum()) if len(part.cells) else 0
    verdict = "void" if ours is None and void else judge(row.band, ours, row.mark)
    return Compared(row, quantity.label, unit, by_seed, ours, verdict, void)


def part_of(frames: Frames, where: Mapping[str, Any]) -> Frames:
    """The rows about the cells, layers and groups of ``where``, in canonical texts."""
    return frames.of(chosen(frames.cells, where)).about(where.get("layer", ""), where.get("group", ""))


def calculate(experiment: Experiment) -> list[Compared]:
    """The rows of an analytic experiment."""
    from harness.papers.quantities import FORMULAS

    made = []
    for row in experiment.rows:
        formula = FORMULAS[row.quantity]
        ours = Spread(1, formula(row.where), None, None, None)
        verdict = judge(row.band, ours, row.mark, exact=True)
        made.append(Compared(row, formula.label, formula.unit, {}, ours, verdict, 0))
    return made
