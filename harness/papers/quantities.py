"""The quantities that a reproduction compares, one function each: over frames of the tables, or of a formula alone.

The unit of inference is the seed. A quantity has one value per cell, averaged over the cells of a seed, or one value
per seed (a correlation over its cells). A success counts where the model is useful, as on the leaderboard; a margin
where the attack failed is the victim's own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np

from harness import statistics

if TYPE_CHECKING:
    import pandas as pd

CONFIDENCE = 0.95
LOST = 10.0
"""Success in % below which a mark counts as lost: the measure of the EWE paper's Figure 13."""
PLATEAU = 0.1
"""Share of a curve's whole range, 0..1: a curve has reached its plateau once it stays this close to its end."""
MOVED = 0.001
"""Change of an accuracy, 0..1, below which no ratio to it is taken."""
POINTS = 201
"""Values of x1, evenly from 0 to 1, on which the analytic networks are asked."""
POSITIVE = (0.0, math.inf)
TRIALS = 20_000
"""Simulated verifications behind a chance to detect."""


@dataclass(frozen=True)
class Frames:
    """The rows of some cells in the tables; ``cell`` joins the frames."""

    cells: pd.DataFrame
    """The frame of :func:`harness.verdicts.scoring.score`, and what :func:`harness.papers.reproduce.gather` adds."""
    detections: pd.DataFrame
    measurements: pd.DataFrame
    curves: pd.DataFrame

    def of(self, cells: pd.DataFrame) -> Frames:
        """The rows about ``cells``, a part of :attr:`cells`."""
        ids = cells["cell"]
        others = {name: getattr(self, name) for name in ("detections", "measurements", "curves")}
        return Frames(cells, **{name: frame[frame["cell"].isin(ids)] for name, frame in others.items()})

    def about(self, layer: str, group: str) -> Frames:
        """The frames without measurements, and SNNL curves, of other layers and groups; empty means all of them."""
        measured, curves = self.measurements, self.curves
        if layer:
            measured = measured[measured["layer"] == layer]
            curves = curves[~curves["quantity"].str.startswith("snnl:") | (curves["quantity"] == f"snnl:{layer}")]
        return replace(self, measurements=measured[measured["group"] == group] if group else measured, curves=curves)


@dataclass(frozen=True)
class Quantity:
    """A quantity: its name, its unit, and how it is computed."""

    label: str
    unit: str
    by_cell: Callable[[Frames], pd.Series[float]] | None = None
    """One value per cell, by the cell's id."""
    by_seed: Callable[[Frames], float] | None = None
    """One value from all the cells of one seed."""
    by_null: Callable[[Frames], pd.Series[float]] | None = None
    """One value per null model, by its number: all seeds share them, so a value per seed would count them again."""
    span: tuple[float, float] | None = None
    """Least and largest value that there can be; ``None``: 0 and 100 of a quantity in %, any value of others."""
    of: Literal["all", "useful", "marked"] = "all"
    """The attacked models that count: those that kept their accuracy, say, or those that have a mark to lose."""

    @property
    def limits(self) -> tuple[float, float]:
        """The least and the largest value that there can be."""
        return self.span or ((0, 100) if self.unit == "%" else (-math.inf, math.inf))

    def of_cells(self, frames: Frames) -> pd.Series[float]:
        """One value per cell, by the cell's id; NaN where there is none."""
        assert self.by_cell is not None
        values = self.by_cell(frames).reindex(frames.cells["cell"]).astype(float)
        return values.where(_cells(frames)["counts"]) if self.of == "useful" else values

    def of_seeds(self, frames: Frames) -> pd.Series[float]:
        """One value per seed (or null model), by its number, without those that have none."""
        if self.by_null is not None:
            return self.by_null(frames).dropna()
        if self.by_seed is not None:
            found = {seed: self.by_seed(frames.of(rows)) for seed, rows in frames.cells.groupby("seed")}
            return _series(found).dropna()
        values = self.of_cells(frames)
        return values.groupby(frames.cells.set_index("cell")["seed"]).mean().dropna()


def _series(values: Mapping[Any, float]) -> pd.Series[float]:
    import pandas as pd

    return pd.Series(values, dtype=float)


# --- of cells ---------------------------------------------------------------------------------------------------------


def _cells(frames: Frames) -> pd.DataFrame:
    return frames.cells.set_index("cell")


def _share(column: str) -> Callable[[Frames], pd.Series[float]]:
    """A rate in 0..1 as %."""
    return lambda frames: 100 * _cells(frames)[column].astype(float)


def _accuracy_cost(frames: Frames) -> pd.Series[float]:
    cells = _cells(frames)
    return 100 * (cells["null_accuracy"] - cells["victim_accuracy"]).astype(float)


def _queries(frames: Frames) -> pd.Series[float]:
    """Queries by the papers' own plan, a t-test that takes all answers of unmarked models for those of one."""
    from harness.verdicts.pooled import planned_queries

    cells = _cells(frames)
    return planned_queries(cells["surrogate_trigger"].astype(float), cells["null_trigger"], CONFIDENCE)


def _verified_in_100(frames: Frames) -> pd.Series[float]:
    queries = _queries(frames)
    return (100.0 * (queries < 100)).where(queries.notna())


# --- of detectors -----------------------------------------------------------------------------------------------------


def _detections(frames: Frames, suspect: str) -> pd.DataFrame:
    found = frames.detections
    return found[found["suspect"] == suspect].set_index("cell")


def _found(column: str, factor: float = 1.0) -> Callable[[Frames], pd.Series[float]]:
    """A column of the detector, or of its judge, about the surrogate."""
    return lambda frames: factor * _detections(frames, "surrogate")[column].astype(float).groupby(level="cell").mean()


def _detected(frames: Frames) -> pd.Series[float]:
    found = _detections(frames, "surrogate")
    return 100 * (found["score"] > found["threshold"]).astype(float).groupby(level="cell").mean()


def _null_scores(frames: Frames) -> pd.Series[float]:
    return _detections(frames, "null").groupby("index")["score"].mean().astype(float)


def _nulls_detected(frames: Frames) -> pd.Series[float]:
    found = _detections(frames, "null")
    return 100 * (found["score"] > found["threshold"]).astype(float).groupby(found["index"]).mean()


def _rank_p(frames: Frames) -> pd.Series[float]:
    """The rank p-value of the surrogate's score among those of the null models."""
    nulls = _detections(frames, "null")["score"].dropna()
    own = _detections(frames, "surrogate")["score"].dropna()
    return _series(
        {cell: float(statistics.rank_p_value(score, nulls[nulls.index == cell])) for cell, score in own.items()}
    )


# --- of analyses ------------------------------------------------------------------------------------------------------


def measured(frames: Frames, *quantities: str) -> pd.DataFrame:
    """The measurements of ``quantities``, which become columns, in the order of the cells."""
    rows = frames.measurements[frames.measurements["quantity"].isin(quantities)]
    key = ["cell", "layer", "group", "index"]
    wide = rows.pivot_table(index=key, columns="quantity", values="value", aggfunc="first").reset_index()
    order = {cell: place for place, cell in enumerate(frames.cells["cell"])}
    wide = wide.sort_values("cell", key=lambda cells: cells.map(order), kind="stable", ignore_index=True)
    return wide.reindex(columns=[*key, *quantities])


def _cka(frames: Frames) -> pd.Series[float]:
    return measured(frames, "cka").groupby("cell")["cka"].mean()


def _frequency_gap(frames: Frames) -> pd.Series[float]:
    """Mean over neurons of the difference between the frequencies on task data and on triggers."""
    wide = measured(frames, "frequency").pivot_table(
        index=["cell", "layer", "index"], columns="group", values="frequency"
    )
    wide = wide.reindex(columns=["task", "trigger"])
    return 100 * (wide["task"] - wide["trigger"]).abs().groupby(level="cell").mean()


def _separation(frames: Frames) -> pd.Series[float]:
    """Distance of the triggers' centre from the target class's, in units of their pooled standard deviation."""
    found = {}
    for cell, rows in measured(frames, "x", "y").groupby("cell"):
        trigger, target = (rows.loc[rows["group"] == name, ["x", "y"]] for name in ("trigger", "target"))
        if len(trigger) > 1 and len(target) > 1:
            spread = math.sqrt(float(trigger.var().sum() + target.var().sum()) / 2)
            apart = float(np.linalg.norm(trigger.mean() - target.mean()))
            found[cell] = apart / spread if spread else math.nan
    return _series(found)


def _similarity(frames: Frames) -> pd.Series[float]:
    """The similarity of the cell's own source and target class."""
    rows = measured(frames, "similarity").merge(frames.cells[["cell", "source", "target"]], on="cell")
    pair = rows[(rows["group"] == rows["source"].astype(str)) & (rows["index"] == rows["target"])]
    return pair.groupby("cell")["similarity"].mean()


def _plateau(start: str) -> Callable[[Frames], pd.Series[float]]:
    """The first epoch from which the curves whose names begin with ``start``, averaged, stay near where they end."""

    def plateau(frames: Frames) -> pd.Series[float]:
        found = {}
        curves = frames.curves[frames.curves["quantity"].str.startswith(start)]
        for cell, rows in curves.groupby("cell"):
            curve = rows.groupby("epoch")["value"].mean().sort_index()
            away = (curve - curve.iloc[-1]).abs() > PLATEAU * (curve.max() - curve.min())
            later = curve.index[away.to_numpy()]
            found[cell] = (
                float(curve.index[curve.index > later.max()].min()) if len(later) else float(curve.index.min())
            )
        return _series(found)

    return plateau


def _success_per_accuracy(frames: Frames) -> pd.Series[float]:
    """Gain of success over loss of accuracy from the first epoch of embedding to the last: the EWE paper's Figure 6.

    Below 0 where accuracy rises too; none where it moves by less than :data:`MOVED`.
    """
    found = {}
    for cell, rows in frames.curves.groupby("cell"):
        curves = rows.pivot_table(index="epoch", columns="quantity", values="value").sort_index()
        if {"success", "accuracy"} <= set(curves):
            gain, loss = (curves[name].iloc[-1] - curves[name].iloc[0] for name in ("success", "accuracy"))
            if abs(loss) >= MOVED:
                found[cell] = float(gain / -loss)
    return _series(found)


# --- of seeds ---------------------------------------------------------------------------------------------------------


def _correlation(one: str, other: str) -> Callable[[Frames], float]:
    """Spearman's correlation over the cells of a seed; NaN for fewer than three of them."""

    def correlate(frames: Frames) -> float:
        x, y = (QUANTITIES[name].of_cells(frames) for name in (one, other))
        x, y = x[y.notna() & x.notna()], y[y.notna() & x.notna()]
        if len(x) < 3 or x.nunique() < 2 or y.nunique() < 2:
            return math.nan
        return float(x.rank().corr(y.rank()))

    return correlate


def _accuracy_when_lost(frames: Frames) -> float:
    """The largest accuracy at which the mark is lost; while it never is, an accuracy below the smallest measured.

    NaN where it is lost at the greatest accuracy of all: that copy had no mark which an attack could take.
    """
    cells = frames.cells.dropna(subset=["surrogate_trigger", "surrogate_accuracy"])
    accuracy, lost = cells["surrogate_accuracy"], 100 * cells["surrogate_trigger"] < LOST
    if cells.empty or accuracy[lost].max() == accuracy.max():
        return math.nan
    return 100 * float(accuracy[lost].max() if lost.any() else accuracy.min())


QUANTITIES: dict[str, Quantity] = {
    "null_accuracy": Quantity("null accuracy", "%", _share("null_accuracy")),
    "victim_accuracy": Quantity("victim accuracy", "%", _share("victim_accuracy")),
    "surrogate_accuracy": Quantity("surrogate accuracy", "%", _share("surrogate_accuracy")),
    "agreement": Quantity("agreement with the victim", "%", _share("agreement")),
    "accuracy_cost": Quantity("accuracy cost", "points", _accuracy_cost),
    "victim_success": Quantity("victim success", "%", _share("victim_trigger")),
    "surrogate_success": Quantity("surrogate success", "%", _share("surrogate_trigger"), of="useful"),
    "any_success": Quantity("success, useful or not", "%", _share("surrogate_trigger")),
    "held_out_success": Quantity("held-out success", "%", _share("surrogate_held_out"), of="useful"),
    "null_success": Quantity("false rate", "%", _share("null_trigger")),
    "control_success": Quantity("success on same data", "%", _share("same_data")),
    "margin": Quantity("margin", "%", _share("margin_counted"), span=(-100, 100)),
    "queries": Quantity("queries (t-test)", "queries", _queries, span=POSITIVE, of="useful"),
    "verified_in_100": Quantity("accused in 100", "%", _verified_in_100, of="useful"),
    "anomaly_index": Quantity("anomaly index", "", _found("score"), span=POSITIVE),
    "null_anomaly_index": Quantity("anomaly index of nulls", "", by_null=_null_scores, span=POSITIVE),
    "detected": Quantity("detected", "%", _detected),
    "null_detected": Quantity("nulls detected", "%", by_null=_nulls_detected),
    "rank_p": Quantity("rank among nulls, p", "", _rank_p, span=(0, 1)),
    "target_hit": Quantity("target found", "%", _found("target_hit", factor=100)),
    "mask_overlap": Quantity("mask overlap", "", _found("mask_overlap"), span=(0, 1)),
    "window_rank": Quantity("window rank", "", _found("window_rank"), span=(0, 1)),
    "cka": Quantity("CKA", "", _cka),
    "frequency_gap": Quantity("frequency gap", "points", _frequency_gap),
    "separation": Quantity("separation", "SDs", _separation),
    "similarity": Quantity("class similarity", "", _similarity, span=(-1, 1)),
    "plateau_epoch": Quantity("plateau", "epoch", _plateau("snnl:"), span=POSITIVE),
    "success_plateau_epoch": Quantity("success's plateau", "epoch", _plateau("success"), span=POSITIVE),
    "success_per_accuracy": Quantity("success per accuracy", "", _success_per_accuracy),
    "accuracy_when_lost": Quantity("accuracy when lost", "%", by_seed=_accuracy_when_lost, of="marked"),
    "similarity_correlation": Quantity(
        "correlation", "", by_seed=_correlation("similarity", "surrogate_success"), span=(-1, 1), of="useful"
    ),
    "accuracy_correlation": Quantity(
        "correlation", "", by_seed=_correlation("victim_accuracy", "surrogate_success"), span=(-1, 1), of="useful"
    ),
}
"""Quantities by name. README and the paper files use these names."""


# --- analytic ---------------------------------------------------------------------------------------------------------

Network: TypeAlias = Callable[[Any, Any], Any]


def toy_victim(x1: Any, x2: Any) -> Any:
    """The marked network of Figure 1: the probability of class 1 at ``(x1, x2)``."""
    return _sigmoid(_relu(x1) + 2 * _relu(x2) - _relu(x2 + 2) + 1)


def toy_extracted(x1: Any, x2: Any) -> Any:
    """The network that extraction makes of :func:`toy_victim`: no unit is left that x2 < 0 could move."""
    return _sigmoid(0.96 * _relu(x1) + 0.54 * _relu(x2) + 0.54 * _relu(x2) - 1)


def _relu(x: Any) -> Any:
    return np.maximum(x, 0)


def _sigmoid(x: Any) -> Any:
    return 1 / (1 + np.exp(-x))


def _toy_answers(network: Network) -> Callable[..., float]:
    def share(x2: float) -> float:
        """Share in % of x1 in 0..1 that is answered 1."""
        return 100 * float((network(np.linspace(0, 1, POINTS), x2) >= 0.5).mean())

    return share


def _plan_queries(success: float, false: float) -> float:
    return statistics.queries_for_confidence(success, false)


def chance_to_detect(success: float, false: float, queries: float | None = None, seed: int = 0) -> float:
    """Share in % of simulated verifications that the paper's t-test decides at 95%.

    The suspect and a control are asked ``queries`` each; by default as many as :func:`queries_for_confidence` says.
    """
    n = _plan_queries(success, false) if queries is None else queries
    if math.isinf(n):
        return math.nan
    draw = np.random.default_rng(seed)
    matches, control = draw.binomial(int(n), success, TRIALS), draw.binomial(int(n), false, TRIALS)
    return 100 * float((statistics.t_test(matches, int(n), control, int(n)) <= 0.05).mean())


@dataclass(frozen=True)
class Formula:
    """A quantity that needs no cells."""

    label: str
    unit: str
    function: Callable[..., float]

    def __call__(self, arguments: Mapping[str, Any]) -> float:
        """The value for a row's ``where``."""
        return self.function(**arguments)


FORMULAS: dict[str, Formula] = {
    "toy_victim": Formula("victim answers 1", "%", _toy_answers(toy_victim)),
    "toy_extracted": Formula("extracted answers 1", "%", _toy_answers(toy_extracted)),
    "planned_queries": Formula("queries", "queries", _plan_queries),
    "chance_to_detect": Formula("chance to detect", "%", chance_to_detect),
}
"""Formulas by name, with the arguments that a row's ``where`` gives."""
