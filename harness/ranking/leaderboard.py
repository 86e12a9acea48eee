"""Ranking of the tables' schemes: the same tests, floors and intervals for every scheme. No torch, no GPU.

The unit of inference is the seed: a scheme's number is a mean over seeds of what each seed's cells say. A suspect that
lost its accuracy answers anything, so its success is void: neither a mark that survived nor one that was removed. What
failed or was skipped is counted and shown.

Attacks of different kinds are not averaged. The margin is over those that make another model (extraction, removal);
an evasion leaves the mark in the model and hides it, a detector leaves the model as it is: both stand apart.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import pandas as pd

from harness.errors import UsageError
from harness.ranking.groups import Groups, grouped, placed, rows_of
from harness.ranking.scoring import Rules, distinct, score
from harness.statistics.intervals import Summary, clopper_pearson_upper
from harness.statistics.paired import shared_ranks
from harness.statistics.pareto import hypervolumes
from harness.statistics.power import queries_for_power
from harness.statistics.sequential import expected_queries
from harness.statistics.tests import rank_p_value
from harness.storage.store import plain

if TYPE_CHECKING:
    from harness.statistics.validate import FloatArray

    Over: TypeAlias = list[Summary | None]


@dataclass(frozen=True)
class Attacked:
    """One scheme under one attack: over its seeds."""

    dataset: str
    defense: str
    attack: str
    family: str
    success: Summary | None
    """Share of trigger queries that the surrogate answers as the key says; ``None`` when no seed counts."""
    distribution: tuple[int, ...]
    """Numbers of seeds with a success in each tenth of 0..1: often two clusters, of which the mean is neither."""
    held_out: Summary | None
    accuracy: Summary | None
    margin: Summary | None
    verified: float
    """Share of the tested seeds on which the test accuses the surrogate."""
    at_budget: float
    """Mean over the tested seeds of the chance that it does within the budget; NaN without one."""
    void: int
    failed: int
    skipped: int


@dataclass(frozen=True)
class InFamily:
    """One scheme under the attacks of one family: over its seeds."""

    dataset: str
    defense: str
    family: str
    attacks: int
    """Number of these that count on some seed."""
    margin: Summary | None
    verified: float
    at_budget: Summary | None
    void: int
    failed: int
    skipped: int


@dataclass(frozen=True)
class Ranked:
    """One scheme on one dataset: over its seeds and attacks. Evasions and detectors are in no number but their own."""

    rank: int | None
    """One more than the schemes here that are better beyond doubt; those that cannot be told apart may share it."""
    dataset: str
    defense: str
    seeds: int
    margin: Summary | None
    """Per seed: the mean over the attacks that count of success less the false rate."""
    worst_attack: str
    """Attack that leaves the least mean success, of those that count."""
    worst: Summary | None
    """The success that it leaves."""
    evasion: Summary | None
    """Margin over evasions."""
    verified: float
    """Share of the tested models that are accused."""
    at_budget: Summary | None
    """Per seed: the mean chance that a tested model is accused within the budget; ``None`` without one."""
    hypervolume: Summary | None
    """Per seed: the area that the attacks reach together, 0..1: the share of ``max_drop`` of accuracy that one keeps
    by the share of trigger queries that it leaves unanswered. An attack that takes all of a mark for nothing has 1."""
    queries: float
    """Queries at which the paper's t-test reaches the confidence at the rates measured: for the median of the tested
    models (of two, the one that takes more). May be infinite, and NaN where none is tested."""
    queries_80: float
    """Queries for the same model of which the exact test, against the upper confidence limit of the false rate, detects
    it in 80% of cases."""
    queries_95: float
    """Queries of which it does in 95% of cases."""
    queries_sequential: float
    """Expected queries for the same model of a sequential test with the same limit, and a power of 95%."""
    victim_success: Summary | None
    false_rate: Summary | None
    """Success of the null models, whatever rate is assumed."""
    accuracy_cost: Summary | None
    """The null models' accuracy less the victim's: what the mark costs."""
    embed_seconds: Summary | None
    """Seconds of embedding, without the clean model that it may start from."""
    embed_samples: Summary | None
    """Training samples that embedding saw."""
    null_seconds: Summary | None
    """Seconds of training a null model: the same task without a mark."""
    null_samples: Summary | None
    void: int
    failed: int
    skipped: int


@dataclass(frozen=True)
class Detected:
    """One detector's scores of one scheme's models, beside those of null models: over the seeds."""

    dataset: str
    defense: str
    attack: str
    score: Summary | None
    null_score: Summary | None
    """Score of the null models, each once."""
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
    families: list[InFamily]
    attacks: list[Attacked]
    detections: list[Detected]
    machines: list[str]

    @property
    def is_compared(self) -> bool:
        """True where every pair of a dataset's schemes was compared for the ranks."""
        sizes = Counter(scheme.dataset for scheme in self.schemes if scheme.margin)
        return all(size <= MAX_COMPARED for size in sizes.values())

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON; what is not a finite number is null."""
        values: dict[str, Any] = plain(asdict(self))
        return values


STAGE_COLUMNS = ("machine", "device", "threads", "torch", "harness")
COST_COLUMNS = ("action", "label", "role", "dataset", "plugin", "status", "seconds", "trained_samples")
"""Columns of ``stages`` for a board, beside :data:`harness.ranking.scoring.CELL_COLUMNS`; the last are for costs."""

_SCHEME = ["dataset", "defense"]
_ATTACK = [*_SCHEME, "attack"]
_FAMILY = [*_SCHEME, "family"]


def make_board(
    cells: pd.DataFrame, detections: pd.DataFrame, stages: pd.DataFrame, rules: Rules, *, intervals: bool = True
) -> Board:
    """Rank the schemes of the tables of these names. Raises :class:`UsageError` when there are no cells.

    Without ``intervals`` those of single attacks are NaN: of thousands they take longer than all else.
    """
    if cells.empty:
        raise UsageError("no results yet: type harness run --matrix smoke")
    return board_of(score(cells, rules), detections, stages, rules, intervals=intervals)


def board_of(
    scored: pd.DataFrame, detections: pd.DataFrame, stages: pd.DataFrame, rules: Rules, *, intervals: bool = True
) -> Board:
    """Rank the schemes of cells that :func:`harness.ranking.scoring.score` scored by these rules."""
    scored = _by_seed(scored)
    searched = scored["kind"] == "detection"
    found, rest = scored[searched], scored[~searched]
    return Board(
        rules,
        _rank(_schemes(rest, stages, rules), rest, rules),
        _families(rest, intervals),
        _attacked(rest, intervals),
        _detected(found, detections) if len(found) else [],
        machines(stages),
    )


def ranked_schemes(scored: pd.DataFrame, stages: pd.DataFrame, rules: Rules) -> list[Ranked]:
    """The schemes of :func:`board_of` alone."""
    rest = _by_seed(scored[scored["kind"] != "detection"])
    return _rank(_schemes(rest, stages, rules), rest, rules)


def _by_seed(scored: pd.DataFrame) -> pd.DataFrame:
    """The rows by seed: sums of the same numbers in another order differ in their last digits."""
    return scored.sort_values("seed", kind="stable", ignore_index=True)


def _attacked(rows: pd.DataFrame, intervals: bool) -> list[Attacked]:
    keys, groups = grouped([*_ATTACK, "family"], rows)
    counting, those = rows[rows["counts"]], groups.of(rows["counts"])
    tested, these = rows[rows["tested"]], groups.of(rows["tested"])
    columns: dict[str, Iterable[Any]] = {
        **keys,
        "success": those.summaries(counting["surrogate_trigger"], intervals),
        "distribution": those.distributions(counting["surrogate_trigger"]),
        "held_out": those.summaries(counting["surrogate_held_out"], intervals),
        "accuracy": groups.summaries(rows["surrogate_accuracy"], intervals),
        "margin": those.summaries(counting["margin"], intervals),
        "verified": these.means(tested["verified"]),
        "at_budget": these.means(tested["at_budget"]),
        **groups.ends(rows),
    }
    return [Attacked(**row) for row in rows_of(columns)]


def _families(rows: pd.DataFrame, intervals: bool) -> list[InFamily]:
    rows = rows[rows["kind"] != "none"]
    keys, groups = grouped(_FAMILY, rows)
    counts, tested = rows["counts"], rows["tested"]
    columns: dict[str, Iterable[Any]] = {
        **keys,
        "attacks": groups.unique(rows["attack"], counts),
        "margin": groups.over_seeds(rows, "margin", counts, intervals),
        "verified": groups.of(tested).means(rows.loc[tested, "verified"]),
        "at_budget": groups.over_seeds(rows, "at_budget", tested & rows["at_budget"].notna(), intervals),
        **groups.ends(rows),
    }
    return [InFamily(**row) for row in rows_of(columns)]


def _detected(rows: pd.DataFrame, detections: pd.DataFrame) -> list[Detected]:
    keys, groups = grouped(_ATTACK, rows)
    found = detections.merge(rows[["cell", "void"]].assign(group=groups.places), on="cell")
    models = found[(found["suspect"] == "surrogate") & ~found["void"]]
    # The same null models stand beside every seed: each is one observation.
    nulls = found[found["suspect"] == "null"].drop_duplicates(["group", "index"])
    those, others = (Groups(each["group"].to_numpy(dtype=np.intp), groups.count) for each in (models, nulls))
    columns: dict[str, Iterable[Any]] = {
        **keys,
        "score": those.summaries(models["score"]),
        "null_score": others.summaries(nulls["score"]),
        "flagged": those.means(models["score"] > models["threshold"]),
        "null_flagged": others.means(nulls["score"] > nulls["threshold"]),
        "rank_p": _rank_p(models, nulls, groups.count),
        "target_hit": those.means(models["target_hit"].eq(True)),
        "window_rank": those.medians(models["window_rank"].astype(float)),
        **groups.ends(rows),
    }
    return [Detected(**row) for row in rows_of(columns)]


def _rank_p(models: pd.DataFrame, nulls: pd.DataFrame, count: int) -> list[float]:
    """The median over each group's models of their rank among its null models; NaN where either are missing."""
    by_group = dict(list(nulls.dropna(subset="score").groupby("group")["score"]))
    ranks = dict.fromkeys(range(count), math.nan)
    for group, scores in models.dropna(subset="score").groupby("group")["score"]:
        if group in by_group:
            ranks[group] = float(np.median(rank_p_value(scores, by_group[group])))
    return list(ranks.values())


# --- by scheme --------------------------------------------------------------------------------------------------------


def _schemes(rows: pd.DataFrame, stages: pd.DataFrame, rules: Rules) -> list[Ranked]:
    keys, groups = grouped(_SCHEME, rows)
    survival, evasion = (rows["counts"] & (rows["kind"] == kind) for kind in ("survival", "evasion"))
    tested = rows["tested"] & (rows["kind"] == "survival")
    worst, of_worst = _worst(rows, groups, survival)
    # One victim is in a row for every attack on it: it is one observation a seed, not one an attack.
    ok = rows[rows["status"] == "ok"].assign(group=groups.places[(rows["status"] == "ok").to_numpy()])
    victims = ok.drop_duplicates(["group", "seed"])
    owners = Groups(victims["group"].to_numpy(dtype=np.intp), groups.count)
    columns: dict[str, Iterable[Any]] = {
        **keys,
        "seeds": groups.unique(rows["seed"]),
        "margin": groups.over_seeds(rows, "margin", survival),
        "worst_attack": worst,
        "worst": groups.of(of_worst).summaries(rows.loc[of_worst, "surrogate_trigger"]),
        "evasion": groups.over_seeds(rows, "margin", evasion),
        "verified": groups.of(tested).means(rows.loc[tested, "verified"]),
        "at_budget": groups.over_seeds(rows, "at_budget", tested & rows["at_budget"].notna()),
        "hypervolume": _hypervolume(rows, groups, survival),
        **_queries_of_the_middle(rows[tested], groups.of(tested), rules),
        "victim_success": owners.summaries(victims["victim_trigger"]),
        "false_rate": owners.summaries(victims["null_trigger"]),
        "accuracy_cost": owners.summaries(victims["null_accuracy"] - victims["victim_accuracy"]),
        "embed_seconds": owners.summaries(victims["embed_seconds"]),
        **_costs(stages, keys),
        **groups.ends(rows),
    }
    return [Ranked(rank=None, **row) for row in rows_of(columns)]


def _worst(rows: pd.DataFrame, groups: Groups, survival: pd.Series[bool]) -> tuple[list[str], pd.Series[bool]]:
    """Each scheme's attack that leaves the least mean success, or "", and which rows are of it."""
    success = rows.loc[survival, ["attack", "surrogate_trigger"]].assign(group=groups.of(survival).places)
    means = success.groupby(["group", "attack"], sort=False)["surrogate_trigger"].mean()
    names = dict(means.groupby(level=0).idxmin())
    worst = [str(names[group][1]) if group in names else "" for group in range(groups.count)]
    return worst, survival & (rows["attack"] == np.array(worst, dtype=object)[groups.places])


def _hypervolume(rows: pd.DataFrame, groups: Groups, keep: pd.Series[bool]) -> Over:
    """Area that attackers reach on each seed, over the seeds of each group."""
    keep = keep & rows["kept"].notna()
    reached = rows[keep].assign(group=groups.of(keep).places)
    seeds, places = distinct(reached, ["group", "seed"])
    areas = pd.Series(hypervolumes(reached[["kept", "removed"]].astype(float), places, len(seeds)))
    return Groups(seeds["group"].to_numpy(dtype=np.intp), groups.count).summaries(areas)


def _queries_of_the_middle(tested: pd.DataFrame, groups: Groups, rules: Rules) -> dict[str, list[float]]:
    """Queries for each group's median model, by the paper's t-test, at two powers and sequentially."""
    order = np.lexsort((tested["queries_needed"].to_numpy(), groups.places))
    sizes = np.bincount(groups.places, minlength=groups.count)
    middles = order[(np.cumsum(sizes) - sizes + sizes // 2)[sizes > 0]]
    rows = tested.iloc[middles]
    matches, trials = (rows[f"null_trigger_{what}"].to_numpy(dtype=float) for what in ("matches", "trials"))
    known = rules.fpr is not None
    limits = [rules.fpr] * len(rows) if known else clopper_pearson_upper(matches, trials, rules.confidence)
    needed = np.full((groups.count, 4), np.nan)
    rates = zip(rows["queries_needed"], rows["surrogate_trigger"], limits, strict=True)

    @cache  # many schemes have few pairs of rates
    def exact(success: float, limit: float) -> list[float]:
        powers = [queries_for_power(success, limit, rules.confidence, power) for power in (0.80, 0.95)]
        return [*powers, expected_queries(success, limit, rules.confidence)]

    for group, (planned, success, limit) in zip(np.flatnonzero(sizes), rates, strict=True):
        needed[group] = planned, *exact(success, limit)
    names = ("queries", "queries_80", "queries_95", "queries_sequential")
    return dict(zip(names, needed.T.tolist(), strict=True))


def _costs(stages: pd.DataFrame, keys: Mapping[str, list[Any]]) -> dict[str, Over]:
    """Costs of embedding and of a null model; of stages that were computed again, the newest."""
    ran = stages.reindex(columns=list(COST_COLUMNS))
    ran = ran[ran["action"].isin(["train", "embed"]) & (ran["status"] == "ok")].drop_duplicates(["label"], keep="last")
    schemes = {scheme: place for place, scheme in enumerate(zip(keys["dataset"], keys["defense"], strict=True))}
    marked, nulls = ran[ran["action"] == "embed"], ran[(ran["action"] == "train") & (ran["role"] == "null")]
    datasets = {dataset: place for place, dataset in enumerate(dict.fromkeys(keys["dataset"]))}
    here = [datasets[dataset] for dataset in keys["dataset"]]
    plugins = zip(marked["dataset"], marked["plugin"], strict=True)
    marked, of_scheme = placed(marked, [schemes.get(plugin, -1) for plugin in plugins])
    nulls, of_dataset = placed(nulls, [datasets.get(dataset, -1) for dataset in nulls["dataset"]])
    owners, tasks = Groups(of_scheme, len(schemes)), Groups(of_dataset, len(datasets))
    seconds, samples = (tasks.summaries(nulls[column]) for column in ("seconds", "trained_samples"))
    return {
        "embed_samples": owners.summaries(marked["trained_samples"]),
        "null_seconds": [seconds[place] for place in here],
        "null_samples": [samples[place] for place in here],
    }


# --- ranks ------------------------------------------------------------------------------------------------------------

MAX_COMPARED = 30
"""More schemes than this on a dataset are ranked by their margins alone: comparing each pair would take long."""


def _rank(schemes: list[Ranked], rows: pd.DataFrame, rules: Rules) -> list[Ranked]:
    """Order by rank and margin within each dataset; a scheme without a margin comes last and has no rank."""
    ranked: list[Ranked] = []
    for dataset in dict.fromkeys(scheme.dataset for scheme in schemes):
        here = [scheme for scheme in schemes if scheme.dataset == dataset]
        some = [(scheme.margin.mean, scheme) for scheme in here if scheme.margin]
        order = [scheme for _, scheme in sorted(some, key=lambda pair: -pair[0])]
        ranks = list(range(1, len(order) + 1))
        if len(order) <= MAX_COMPARED:
            kept = rows[rows["counts"] & (rows["kind"] == "survival") & (rows["dataset"] == dataset)]
            ranks = shared_ranks(_margins(kept, [scheme.defense for scheme in order]), rules.confidence)
        placed = [replace(scheme, rank=rank) for scheme, rank in zip(order, ranks, strict=True)]
        ranked += sorted(placed, key=lambda scheme: scheme.rank or 0)
        ranked += [scheme for scheme in here if not scheme.margin]
    return ranked


def _margins(kept: pd.DataFrame, schemes: list[str]) -> FloatArray:
    """Margins by scheme, attack and seed; NaN where there is no such cell."""
    scheme = pd.Index(schemes).get_indexer(pd.Index(kept["defense"]))
    attack, attacks = pd.factorize(kept["attack"])
    seed, seeds = pd.factorize(kept["seed"])
    margins = np.full((len(schemes), len(attacks), len(seeds)), np.nan)
    margins[scheme, attack, seed] = kept["margin"]
    return margins


def machines(stages: pd.DataFrame) -> list[str]:
    """The machines and versions behind the numbers, the most used first."""
    ran, places = distinct(stages[stages["machine"].notna()], list(STAGE_COLUMNS))
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
