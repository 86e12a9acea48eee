"""Our numbers beside a paper's: each row's values from the tables, their spread, and a verdict.

Everything after :func:`gather` is a pure function over frames. No torch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from functools import partial
from itertools import product
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from harness.papers.paper import Band, Experiment, Row
from harness.planning.graph import SURROGATE, Cell, Component, Kind, Plan
from harness.planning.matrix import FULL, format_chain, option_of, parse_chain
from harness.storage.options import options_of

if TYPE_CHECKING:
    import pandas as pd

    from harness.papers.quantities import Frames
    from harness.storage.tables import Tables

Verdict: TypeAlias = Literal[
    "reproduced",
    "reproduced at another setting",
    "compatible",
    "differs",
    "undecided",
    "unverified",
    "no claim",
    "no useful model",
    "no mark to lose",
    "not run",
]
VERDICTS: dict[Verdict, str] = {
    "reproduced": "the 95% interval of our mean lies in the paper's band (its mean ± SD, or what it claims)",
    "reproduced at another setting": "it does, with another data set, net, scheme or number of steps than the paper's",
    "compatible": "that interval meets the band of the paper's number, and is not within it",
    "differs": "that interval and the band do not meet",
    "undecided": "too few seeds, or too much spread, to say on which side of the paper's claim the mean lies",
    "unverified": "the number is second-hand, and not taken for the paper's",
    "no claim": "the paper prints no number to compare with",
    "no useful model": "every attacked model lost its accuracy: its answers say nothing",
    "no mark to lose": "no copy had a mark that the attack could take",
    "not run": "no data here",
}
CONFIDENCE = 0.95
UNLIMITED = (-math.inf, math.inf)


# --- from the tables --------------------------------------------------------------------------------------------------

Resolver: TypeAlias = Callable[[Kind, str], Component]


def gather(plan: Plan, tables: Tables, lookup: Resolver, x: str = "") -> Frames:
    """Gather the rows of a plan's cells from the tables: only those that the plan's own stages made, or a record's.

    Curves of victims are over the recipe's epochs, of which a pass of a scheme's own may be a part.

    Cells get what the plan knows: ``source`` and ``target`` of the dataset; the share ``same_data`` of triggers that a
    model of the owner's own inputs and true labels answers, where the matrix has ``unmarked``; and where ``x`` is
    ``attack.fraction`` or the like, that option's value as ``x`` and the cell's name without it as ``series``.
    """
    import pandas as pd

    from harness.papers.quantities import Frames
    from harness.storage.files import is_record
    from harness.verdicts.reading import read_evidence
    from harness.verdicts.rules import Rules
    from harness.verdicts.scoring import score

    names = ["dataset", "defense", "attack", "seed"]
    known = pd.DataFrame([_known(cell, lookup, x) for cell in plan.cells])
    # By the model, not by the cell's id: another experiment may have run these models with other analyses. A record is
    # of the code that made it, whose models have other ids once a plugin is edited: there the names say which they are.
    keys = [*names, "model"]
    if is_record(tables.folder.parent):
        keys, known = names, known.drop(columns="model")
    rows = known.merge(tables.read("cells"), on=keys)  # in the plan's order, which pictures keep
    looked = {s.plugin.text for s in plan.stages.values() if s.plugin and s.action in ("analyse", "detect")}
    measurements = tables.read("measurements")
    measurements = measurements[measurements["analysis"].isin(looked)].drop(columns=["cell", "run"])
    ids = rows[[*names, "model", "cell"]]
    curves = rows[["model", "cell", "epochs"]].merge(tables.read("curves"), left_on="model", right_on="stage")
    last = curves.groupby("cell")["training"].transform("max") if len(curves) else curves["training"]
    curves = curves[curves["training"] == last]
    passes = curves.groupby("cell")["epoch"].transform("max")
    curves = curves.assign(epoch=curves["epoch"] * (curves["epochs"] / passes).fillna(1))
    evidence = read_evidence(tables)
    cells = score(rows, evidence, Rules())
    control = evidence[evidence["suspect"] == "same-data"].set_index(["cell", "index"])
    shares = (control["matches"] / control["trials"]).groupby(level="cell", observed=True).mean()
    cells["same_data"] = cells["cell"].map(shares)
    return Frames(
        cells,
        rows[["cell"]].merge(tables.read("detections"), on="cell"),
        ids.merge(measurements, on=[*names, "model"]),
        curves,
    )


def _known(cell: Cell, lookup: Resolver, x: str) -> dict[str, Any]:
    dataset = lookup("dataset", cell.dataset).plugin
    row = _asked(cell)
    known = {**row, "model": dict(cell.stages).get(SURROGATE), "source": dataset.source, "target": dataset.target}
    begun = dataset.pretrain if lookup("defense", cell.defense).plugin.from_clean else 0
    known["epochs"] = dataset.epochs - begun if cell.attack == "none" else math.nan
    kind, dot, option = x.partition(".")
    if dot:
        axis: Any = kind
        value, rest = option_of(
            parse_chain(row[kind]), option, lambda entry: options_of(lookup(axis, str(entry)).plugin)
        )
        short = {**row, "dataset": name_of(cell.dataset), kind: format_chain(rest)}
        known |= {"x": value, "series": f"{short['dataset']}: {short['defense']}, {short['attack']}"}
    return known


def _asked(cell: Cell) -> dict[str, Any]:
    return {"dataset": cell.dataset, "defense": cell.defense, "attack": cell.attack, "seed": cell.seed}


def narrowed(experiment: Experiment, plan: Plan, lookup: Resolver) -> Experiment:
    """The experiment with only those of its rows that some cell of ``plan`` is about."""
    import pandas as pd

    cells = pd.DataFrame([_asked(cell) for cell in plan.cells])
    about = [row for row in experiment.rows if len(chosen(cells, canonical(row.where, lookup)))]
    return replace(experiment, rows=tuple(about))


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
    return _text(kind, parse_chain(text), lookup)


def _text(kind: Kind, chain: Iterable[object], lookup: Resolver) -> str:
    """The text of a chain in the tables."""
    return format_chain(lookup(kind, str(entry)) for entry in chain)


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
    """A quantity over seeds: its mean, standard deviation (n - 1) and an interval of the mean, within the values that
    the quantity can have; ``None``: unknown.
    """

    n: int
    mean: float
    sd: float | None
    low: float | None
    high: float | None


def spread(values: Sequence[float], limits: tuple[float, float] = UNLIMITED) -> Spread | None:
    """The spread of one value per seed, with Student's interval; ``None`` for no values. An infinite value leaves all
    but the mean unknown.

    ``limits`` are the least and the largest value there can be: the mean lies between them, so cutting its interval
    there loses no coverage. Of equal values Student's interval would be a point; theirs is :func:`_of_equals`.
    """
    from scipy.special import stdtrit

    n = len(values)
    if not n:
        return None
    mean = math.fsum(values) / n if all(map(math.isfinite, values)) else math.inf
    if n < 2 or math.isinf(mean):
        return Spread(n, mean, None, None, None)
    if min(values) == max(values):
        return Spread(n, mean, 0.0, *_of_equals(n, values[0], limits))
    sd = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (n - 1))
    half = float(stdtrit(n - 1, (1 + CONFIDENCE) / 2)) * sd / math.sqrt(n)
    return Spread(n, mean, sd, max(mean - half, limits[0]), min(mean + half, limits[1]))


def _of_equals(n: int, value: float, limits: tuple[float, float]) -> tuple[float, float] | tuple[None, None]:
    """The interval of the mean where n values are equal; ``None``: no finite one.

    Clopper and Pearson's of 0 in n bounds the share of other values, which can be as far away as the limits are.
    """
    from harness.statistics.intervals import clopper_pearson_upper

    if not all(map(math.isfinite, limits)):
        return None, None
    others = float(clopper_pearson_upper(0, n, (1 + CONFIDENCE) / 2))
    return value - others * (value - limits[0]), value + others * (limits[1] - value)


def judge(band: Band | None, ours: Spread | None, mark: str = "", exact: bool = False) -> Verdict:
    """The verdict of one row, by the interval of our mean. ``exact`` is a number without seeds: it agrees or it
    differs.

    A direction (a band with one end) is reproduced or differs when the interval lies on one side, else undecided. A
    value is reproduced when the interval lies in the band, compatible when it meets it.
    """
    if ours is None:
        return "not run"
    if mark == UNVERIFIED:
        return "unverified"
    if band is None:
        return "no claim"
    if exact:
        return "reproduced" if band.holds(ours.mean) else "differs"
    if ours.low is None or ours.high is None:
        return "undecided"
    if band.holds(ours.low) and band.holds(ours.high):
        return "reproduced"
    if not band.meets(ours.low, ours.high):
        return "differs"
    return "undecided" if band.is_direction else "compatible"


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
    useless: int
    """Cells whose attack left no useful model: their successes do not count."""
    unmarked: int = 0
    """Seeds whose copy had no mark to lose, which do not count where that is asked."""

    def as_dict(self) -> dict[str, Any]:
        """Plain values."""
        row, ours = self.row, self.spread or Spread(0, math.nan, None, None, None)
        return {
            **{"label": row.label, "quantity": row.quantity, "unit": self.unit},
            **{"paper": row.band.text if row.band else "", "mark": row.mark, "source": row.source},
            **{"paper_low": row.band and row.band.low, "paper_high": row.band and row.band.high},
            **{"n": ours.n, "mean": ours.mean, "sd": ours.sd, "low": ours.low, "high": ours.high},
            **{"verdict": self.verdict, "useless": self.useless, "unmarked": self.unmarked},
            "values": {str(s): v for s, v in self.values.items()},
        }


def compare(experiment: Experiment, frames: Frames, lookup: Resolver) -> list[Compared]:
    """The rows of an experiment, with our numbers from ``frames``."""
    known = settings_of(experiment, lookup)
    return [_compared(row, frames, lookup, known) for row in experiment.rows]


def settings_of(experiment: Experiment, lookup: Resolver) -> set[tuple[str, ...]]:
    """The data sets, schemes and attacks of an experiment at the paper's sizes, by their texts in the tables."""
    found: set[tuple[str, ...]] = set()
    for matrix in experiment.matrices(FULL):
        datasets, defenses = ([(entry,) for entry in each] for each in (matrix.datasets, matrix.defenses))
        axes: dict[Kind, Any] = {"dataset": datasets, "defense": defenses, "attack": matrix.attacks}
        found |= set(product(*([_text(kind, chain, lookup) for chain in axis] for kind, axis in axes.items())))
    return found


def _compared(row: Row, frames: Frames, lookup: Resolver, settings: set[tuple[str, ...]]) -> Compared:
    from harness.papers.quantities import QUANTITIES

    quantity = QUANTITIES[row.quantity]
    where = canonical(row.where, lookup)
    part = part_of(frames, where)
    values, parts = quantity.of_seeds(part), [part]
    ran = part.cells[part.cells["status"] == "ok"]
    useless = int((~ran["useful"]).sum()) if quantity.of == "useful" and len(ran) else 0
    unmarked = ran["seed"].nunique() - len(values) if quantity.of == "marked" else 0
    unit, limits = quantity.unit, quantity.limits
    if row.less is not None:
        # Paired: a seed that lacks one of the two tells nothing of their difference.
        parts.append(part_of(frames, where | canonical(row.less, lookup)))
        values = (values - quantity.of_seeds(parts[1])).dropna()
        unit, limits = "points" if unit == "%" else unit, (limits[0] - limits[1], limits[1] - limits[0])
    ours = spread(values.tolist(), limits)
    by_seed = {int(seed): float(value) for seed, value in values.items()}
    verdict = judge(row.band, ours, row.mark)
    if ours is None and (useless or unmarked):
        verdict = "no useful model" if useless else "no mark to lose"
    if verdict == "reproduced" and not all(_settings(each.cells) <= settings for each in parts):
        verdict = "reproduced at another setting"
    return Compared(row, quantity.label, unit, by_seed, ours, verdict, useless, unmarked)


def _settings(cells: pd.DataFrame) -> set[tuple[str, ...]]:
    return set(cells[["dataset", "defense", "attack"]].itertuples(index=False, name=None))


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
