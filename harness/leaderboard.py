"""From the tables to a ranking: the same tests, floors and intervals for every scheme. No torch, no GPU.

The unit of inference is the seed: a scheme's number is a mean over seeds of what each seed's cells say. A suspect that
lost its accuracy answers anything, so its success is void: neither a mark that survived nor one that was removed. What
failed or was skipped is counted and shown.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any, Literal, TypeAlias

import numpy as np
import pandas as pd

from harness.errors import UsageError
from harness.statistics import (
    Summary,
    binomial_test_against_control,
    fisher_exact,
    queries_for_confidence,
    rank_p_value,
    summary,
    t_test,
)
from harness.store import plain

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


def make_board(cells: pd.DataFrame, detections: pd.DataFrame, stages: pd.DataFrame, rules: Rules) -> Board:
    """Rank the schemes of the tables of these names. Raises :class:`UsageError` when there are no cells."""
    if cells.empty:
        raise UsageError("no results yet: type harness run --matrix smoke")
    scored = score(cells, rules)
    # A detector leaves the model as it is: its cells say nothing about what survives.
    searched = scored["family"].fillna("").str.endswith("detection")
    scored, found = scored[~searched], scored[searched]
    attacks = [_attacked(key, rows) for key, rows in scored.groupby(["dataset", "defense", "attack"], sort=False)]
    schemes = [_scheme(key, rows) for key, rows in scored.groupby(["dataset", "defense"], sort=False)]
    by_chain = found.groupby(["dataset", "defense", "attack"], sort=False)
    detected = [_detected(key, rows, detections[detections["cell"].isin(rows["cell"])]) for key, rows in by_chain]
    return Board(rules, _rank(schemes), attacks, detected, machines(stages))


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
    if tested.any():
        columns = (
            "surrogate_trigger_matches",
            "surrogate_trigger_trials",
            "null_trigger_matches",
            "null_trigger_trials",
        )
        counts = [made.loc[tested, column].to_numpy(dtype=float) for column in columns]
        made.loc[tested, "p_value"] = _test(rules)(*counts)
    made["verified"] = made["p_value"] <= 1 - rules.confidence
    made["margin"] = made["surrogate_trigger"] - made["null_trigger"].fillna(0.0)
    made["queries_needed"] = _queries(made, rules.confidence)
    return made


def _test(rules: Rules) -> Callable[..., Any]:
    if rules.test == "binomial":
        return partial(binomial_test_against_control, confidence=rules.confidence)
    return fisher_exact if rules.test == "fisher" else t_test


def _queries(scored: pd.DataFrame, confidence: float) -> pd.Series[float]:
    """Queries for the confidence at each counting cell's rates; each pair of rates is computed once."""
    pairs = list(zip(scored["surrogate_trigger"], scored["null_trigger"].fillna(0.0), strict=True))
    counting = {pair for pair, counts in zip(pairs, scored["counts"], strict=True) if counts}
    known = {pair: queries_for_confidence(*pair, confidence) for pair in counting}
    found = pd.Series([known.get(pair, math.nan) for pair in pairs], index=scored.index)
    return found.where(scored["counts"])


def _attacked(key: Any, rows: pd.DataFrame) -> Attacked:
    counting = rows[rows["counts"]]
    return Attacked(
        dataset=key[0],
        defense=key[1],
        attack=key[2],
        success=_summary(counting["surrogate_trigger"]),
        held_out=_summary(counting["surrogate_held_out"]),
        accuracy=_summary(rows["surrogate_accuracy"]),
        verified=_share(counting["verified"]),
        **_ends(rows),
    )


def _detected(key: Any, rows: pd.DataFrame, found: pd.DataFrame) -> Detected:
    models = found[(found["suspect"] == "surrogate") & found["cell"].isin(rows["cell"][~rows["void"]])]
    # The same null models stand beside every seed: each is one observation.
    nulls = found[found["suspect"] == "null"].drop_duplicates("index")
    scores = nulls["score"].dropna().to_numpy(dtype=float)
    ranks = [float(rank_p_value(score, scores)) for score in models["score"].dropna()]
    return Detected(
        dataset=key[0],
        defense=key[1],
        attack=key[2],
        score=_summary(models["score"]),
        null_score=_summary(nulls["score"]),
        flagged=_share(models["score"] > models["threshold"]),
        null_flagged=_share(nulls["score"] > nulls["threshold"]),
        rank_p=float(np.median(ranks)) if ranks and len(scores) else math.nan,
        target_hit=_share(models["target_hit"].eq(True)),
        window_rank=float(models["window_rank"].median()),
        **_ends(rows),
    )


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
    ran = stages[stages["machine"].notna()]
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
    return [str(text) for text in texts.value_counts().index]
