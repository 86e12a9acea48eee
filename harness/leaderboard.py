"""From the tables to a ranking: the same tests, floors and intervals for every scheme. No torch, no GPU.

The unit of inference is the seed: a scheme's number is a mean over seeds of what each seed's cells say. A suspect that
lost its accuracy answers anything, so its success is void: neither a mark that survived nor one that was removed. What
failed or was skipped is counted and shown.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
import pandas as pd

from harness.errors import UsageError
from harness.statistics import (
    Summary,
    binomial_test_against_control,
    fisher_exact,
    queries_for_confidence,
    rank_p_value,
    summaries,
    summary,
    t_test,
)
from harness.store import plain

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Places: TypeAlias = NDArray[np.intp]

TestName: TypeAlias = Literal["binomial", "fisher", "t"]


@dataclass(frozen=True)
class Rules:
    """How evidence becomes a verdict."""

    test: TestName = "binomial"
    """Of the suspect's answers against the null models': exact binomial against the upper confidence limit of the false
    rate, Fisher's exact test, or the paper's t-test."""
    confidence: float = 0.95
    max_drop: float = 0.10
    """A model whose accuracy is more than this below the null models' is void."""

    def __post_init__(self) -> None:
        if not 0 < self.confidence < 1:
            raise UsageError(f"confidence must be between 0 and 1, not {self.confidence}")
        if not 0 <= self.max_drop <= 1:
            raise UsageError(f"max-drop must be in 0..1, not {self.max_drop}")


@dataclass(frozen=True)
class Attacked:
    """One scheme under one attack: over its seeds."""

    dataset: str
    defense: str
    attack: str
    success: Summary | None
    """Share of trigger queries that the surrogate answers as the key says; ``None`` when no seed counts."""
    held_out: Summary | None
    accuracy: Summary | None
    verified: float
    """Share of the seeds that count on which the test accuses the surrogate."""
    void: int
    failed: int
    skipped: int


@dataclass(frozen=True)
class Ranked:
    """One scheme on one dataset: over its seeds and attacks."""

    rank: int | None
    dataset: str
    defense: str
    seeds: int
    margin: Summary | None
    """Per seed: the mean over the attacks that count of success less the false rate. The ranking is by its mean."""
    worst_attack: str
    worst_success: float
    verified: float
    queries: float
    """Median over attacked cells of the queries at which the paper's t-test reaches the confidence; may be infinite."""
    victim_success: Summary | None
    false_rate: Summary | None
    accuracy_cost: Summary | None
    """The null models' accuracy less the victim's: what the mark costs."""
    void: int
    failed: int
    skipped: int


@dataclass(frozen=True)
class Detected:
    """What one detector says of one scheme's models, beside what it says of null models: over the seeds."""

    dataset: str
    defense: str
    attack: str
    score: Summary | None
    null_score: Summary | None
    """Of the null models, each once."""
    flagged: float
    """Share of the models whose score is above the detector's own threshold."""
    null_flagged: float
    rank_p: float
    """Median over the seeds of (r + 1) / (k + 1), r of the k null models scoring at least as high."""
    target_hit: float
    """Share of the models of which the suspected class is the key's target; naming none is no hit."""
    window_rank: float
    """Median over the seeds of the share of windows that lie as high as the trigger's; 50% by chance."""
    void: int
    failed: int
    skipped: int


@dataclass(frozen=True)
class Board:
    """A ranking, what it was made of, and by which rules."""

    rules: Rules
    schemes: list[Ranked]
    attacks: list[Attacked]
    detections: list[Detected]
    machines: list[str]

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON; what is not a finite number is null."""
        values: dict[str, Any] = plain(asdict(self))
        return values


CELL_COLUMNS = (
    *("cell", "dataset", "defense", "attack", "seed", "family", "status"),
    *("null_accuracy", "victim_accuracy", "surrogate_accuracy"),
    *("victim_trigger_matches", "victim_trigger_trials", "surrogate_trigger_matches", "surrogate_trigger_trials"),
    *("surrogate_held_out_matches", "surrogate_held_out_trials", "null_trigger_matches", "null_trigger_trials"),
)
STAGE_COLUMNS = ("machine", "device", "threads", "torch", "harness")
"""What a board is made of: large tables are read faster by these columns alone."""

_ATTACK = ["dataset", "defense", "attack"]
_OF_SCHEME = [
    *(*_ATTACK, "seed", "status", "void", "counts", "verified", "margin", "queries_needed"),
    *("null_accuracy", "victim_accuracy", "surrogate_trigger", "victim_trigger", "null_trigger"),
]


def make_board(
    cells: pd.DataFrame, detections: pd.DataFrame, stages: pd.DataFrame, rules: Rules, *, intervals: bool = True
) -> Board:
    """Rank the schemes of the tables of these names. Raises :class:`UsageError` when there are no cells.

    Without ``intervals`` those of single attacks are NaN: of thousands they take longer than all else.
    """
    if cells.empty:
        raise UsageError("no results yet: type harness run --matrix smoke")
    scored = score(cells, rules)
    # A detector leaves the model as it is: its cells say nothing about what survives.
    searched = scored["family"].fillna("").str.endswith("detection")
    scored, found = scored[~searched], scored[searched]
    schemes = [_scheme(key, rows) for key, rows in scored[_OF_SCHEME].groupby(["dataset", "defense"], sort=False)]
    return Board(rules, _rank(schemes), _attacked(scored, intervals), _detected(found, detections), machines(stages))


def score(cells: pd.DataFrame, rules: Rules) -> pd.DataFrame:
    """``cells`` with what the rules make of each: rates, ``p_value``, ``void``, ``verified``, ``counts``.

    A cell counts when it is ok, has trigger evidence, and neither its victim nor its surrogate is void.
    """
    made = cells.copy()
    for who, probe in (
        ("victim", "trigger"),
        ("surrogate", "trigger"),
        ("surrogate", "held_out"),
        ("null", "trigger"),
    ):
        trials = made[f"{who}_{probe}_trials"].astype(float)
        made[f"{who}_{probe}"] = made[f"{who}_{probe}_matches"].astype(float) / trials.where(trials > 0)
    floor = made["null_accuracy"] - rules.max_drop
    made["void"] = (made["status"] == "ok") & ((made["surrogate_accuracy"] < floor) | (made["victim_accuracy"] < floor))
    made["counts"] = (made["status"] == "ok") & ~made["void"] & made["surrogate_trigger"].notna()
    made["p_value"] = np.nan
    tested = made["counts"] & (made["null_trigger_trials"].fillna(0) > 0)
    made.loc[tested, "p_value"] = _p_values(made[tested], rules)
    made["verified"] = made["p_value"] <= 1 - rules.confidence
    made["margin"] = made["surrogate_trigger"] - made["null_trigger"].fillna(0.0)
    made["queries_needed"] = _queries(made, rules.confidence)
    return made


def _p_values(tested: pd.DataFrame, rules: Rules) -> pd.Series[float]:
    """Of the test; equal counts are tested once."""
    rows, places = _distinct(tested, [f"{who}_trigger_{what}" for who in ("surrogate", "null") for what in _COUNTS])
    counts = (rows[column].to_numpy(dtype=float) for column in rows)
    return pd.Series(np.asarray(_test(rules)(*counts))[places], index=tested.index)


_COUNTS = ("matches", "trials")


def _test(rules: Rules) -> Callable[..., Any]:
    if rules.test == "binomial":
        return partial(binomial_test_against_control, confidence=rules.confidence)
    return fisher_exact if rules.test == "fisher" else t_test


def _queries(scored: pd.DataFrame, confidence: float) -> pd.Series[float]:
    """Queries for the confidence at each counting cell's rates; each pair of rates is computed once."""
    counting = scored.loc[scored["counts"], ["surrogate_trigger", "null_trigger"]].fillna(0.0)
    rows, places = _distinct(counting, list(counting))
    needed = [queries_for_confidence(success, false, confidence) for success, false in rows.to_numpy(dtype=float)]
    return pd.Series(np.array(needed, dtype=float)[places], index=counting.index).reindex(scored.index)


def _distinct(frame: pd.DataFrame, columns: list[str]) -> tuple[pd.DataFrame, Places]:
    """The distinct rows of some columns as they appear, and at which of these each row is."""
    places = np.zeros(len(frame), dtype=np.intp)
    for column in columns:
        codes, known = pd.factorize(frame[column], use_na_sentinel=False)
        places = pd.factorize(places * len(known) + codes)[0]
    return frame[columns].iloc[np.unique(places, return_index=True)[1]], places


# --- by attack: all groups at once, since a large matrix has tens of thousands of them -------------------------------


@dataclass(frozen=True)
class _Groups:
    """To which of ``count`` groups each row belongs."""

    places: Places
    count: int

    def of(self, keep: pd.Series[bool]) -> _Groups:
        """Of some of the rows."""
        return replace(self, places=self.places[keep.to_numpy(dtype=bool)])

    def summaries(self, values: pd.Series[float], intervals: bool = True) -> list[Summary | None]:
        """Of each group's finite values; ``None`` where there are none."""
        numbers = values.to_numpy(dtype=float)
        known = np.isfinite(numbers)
        order = np.argsort(self.places[known], kind="stable")
        sizes = np.bincount(self.places[known], minlength=self.count)
        made = iter(summaries(numbers[known][order], sizes[sizes > 0], intervals=intervals) if known.any() else ())
        return [next(made) if size else None for size in sizes]

    def shares(self, flags: pd.Series[bool]) -> list[float]:
        """Of each group's rows, how many are flagged; NaN where it has no rows."""
        sizes = np.bincount(self.places, minlength=self.count)
        return [float(n / size) if size else math.nan for n, size in zip(self.totals(flags), sizes, strict=True)]

    def totals(self, flags: pd.Series[bool]) -> list[int]:
        """How many of each group's rows are flagged."""
        return [int(n) for n in np.bincount(self.places[flags.to_numpy(dtype=bool)], minlength=self.count)]

    def medians(self, values: pd.Series[float]) -> list[float]:
        """Of each group's values; NaN where there are none."""
        return [float(value) for value in values.groupby(self.places).median().reindex(range(self.count))]

    def ends(self, rows: pd.DataFrame) -> dict[str, list[int]]:
        """How many rows of each group do not count, and why."""
        statuses = {status: self.totals(rows["status"] == status) for status in ("failed", "skipped")}
        return {"void": self.totals(rows["void"]), **statuses}


def _by_attack(rows: pd.DataFrame) -> tuple[dict[str, list[Any]], _Groups]:
    """The rows' groups, and what names each."""
    keys, places = _distinct(rows, _ATTACK)
    return {column: keys[column].tolist() for column in _ATTACK}, _Groups(places, len(keys))


def _each(columns: Mapping[str, Iterable[Any]]) -> Iterator[dict[str, Any]]:
    """Columns of values, one a group, as a row a group."""
    return (dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True))


def _attacked(rows: pd.DataFrame, intervals: bool) -> list[Attacked]:
    keys, groups = _by_attack(rows)
    counting, those = rows[rows["counts"]], groups.of(rows["counts"])
    columns: dict[str, Iterable[Any]] = {
        **keys,
        "success": those.summaries(counting["surrogate_trigger"], intervals),
        "held_out": those.summaries(counting["surrogate_held_out"], intervals),
        "accuracy": groups.summaries(rows["surrogate_accuracy"], intervals),
        "verified": those.shares(counting["verified"]),
        **groups.ends(rows),
    }
    return [Attacked(**row) for row in _each(columns)]


def _detected(rows: pd.DataFrame, detections: pd.DataFrame) -> list[Detected]:
    keys, groups = _by_attack(rows)
    found = detections.merge(rows[["cell", "void"]].assign(group=groups.places), on="cell")
    models = found[(found["suspect"] == "surrogate") & ~found["void"]]
    # The same null models stand beside every seed: each is one observation.
    nulls = found[found["suspect"] == "null"].drop_duplicates(["group", "index"])
    those, others = (_Groups(each["group"].to_numpy(dtype=np.intp), groups.count) for each in (models, nulls))
    columns: dict[str, Iterable[Any]] = {
        **keys,
        "score": those.summaries(models["score"]),
        "null_score": others.summaries(nulls["score"]),
        "flagged": those.shares(models["score"] > models["threshold"]),
        "null_flagged": others.shares(nulls["score"] > nulls["threshold"]),
        "rank_p": _rank_p(models, nulls, groups.count),
        "target_hit": those.shares(models["target_hit"].eq(True)),
        "window_rank": those.medians(models["window_rank"].astype(float)),
        **groups.ends(rows),
    }
    return [Detected(**row) for row in _each(columns)]


def _rank_p(models: pd.DataFrame, nulls: pd.DataFrame, count: int) -> list[float]:
    """The median over each group's models of their rank among its null models; NaN where either are missing."""
    by_group = dict(list(nulls.dropna(subset="score").groupby("group")["score"]))
    ranks = dict.fromkeys(range(count), math.nan)
    for group, scores in models.dropna(subset="score").groupby("group")["score"]:
        if group in by_group:
            ranks[group] = float(np.median(rank_p_value(scores, by_group[group])))
    return list(ranks.values())


# --- by scheme --------------------------------------------------------------------------------------------------------


def _scheme(key: Any, rows: pd.DataFrame) -> Ranked:
    attacked = rows[rows["counts"] & (rows["attack"] != "none")]
    by_attack = attacked.groupby("attack", sort=False)["surrogate_trigger"].mean()
    # One victim is in a row for every attack on it: it is one observation a seed, not one an attack.
    by_seed = rows[rows["status"] == "ok"].drop_duplicates("seed")
    return Ranked(
        rank=None,
        dataset=key[0],
        defense=key[1],
        seeds=rows["seed"].nunique(),
        margin=_summary(attacked.groupby("seed")["margin"].mean()),
        worst_attack=str(by_attack.idxmin()) if len(by_attack) else "",
        worst_success=float(by_attack.min()) if len(by_attack) else math.nan,
        verified=_share(attacked["verified"]),
        queries=float(attacked["queries_needed"].median()) if len(attacked) else math.nan,
        victim_success=_summary(by_seed["victim_trigger"]),
        false_rate=_summary(by_seed["null_trigger"]),
        accuracy_cost=_summary(by_seed["null_accuracy"] - by_seed["victim_accuracy"]),
        **_ends(rows),
    )


def _ends(rows: pd.DataFrame) -> dict[str, int]:
    return {
        "void": int(rows["void"].sum()),
        "failed": int((rows["status"] == "failed").sum()),
        "skipped": int((rows["status"] == "skipped").sum()),
    }


def _summary(values: pd.Series[float]) -> Summary | None:
    known = values.to_numpy(dtype=float)
    known = known[np.isfinite(known)]
    return summary(known) if len(known) else None


def _share(flags: pd.Series[bool]) -> float:
    return float(flags.mean()) if len(flags) else math.nan


def _rank(schemes: Iterable[Ranked]) -> list[Ranked]:
    """Ranked within each dataset by the mean margin; a scheme without one comes last and has no rank."""
    ranked: list[Ranked] = []
    schemes = list(schemes)
    for dataset in dict.fromkeys(scheme.dataset for scheme in schemes):
        here = [scheme for scheme in schemes if scheme.dataset == dataset]
        with_margin = [(scheme.margin.mean, scheme) for scheme in here if scheme.margin]
        with_margin.sort(key=lambda pair: -pair[0])
        ranked += [replace(scheme, rank=place) for place, (_, scheme) in enumerate(with_margin, start=1)]
        ranked += [scheme for scheme in here if not scheme.margin]
    return ranked


def machines(stages: pd.DataFrame) -> list[str]:
    """The machines and versions behind the numbers, the most used first."""
    ran, places = _distinct(stages[stages["machine"].notna()], list(STAGE_COLUMNS))
    texts = (
        ran["machine"]
        + ", "
        + ran["device"]
        + ", "
        + ran["threads"].astype("Int64").astype(str)
        + " thread(s), torch "
        + ran["torch"]
        + ", watermark-harness "
        + ran["harness"]
    )
    most_used = np.argsort(-np.bincount(places), kind="stable")
    return [str(text) for text in texts.iloc[most_used].dropna()]
