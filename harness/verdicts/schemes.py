"""Each scheme on each data set: its standings, its fidelity, its victims and its costs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from harness.statistics.exchangeable import MAX_FALSE
from harness.statistics.margins import cost_interval, gate
from harness.statistics.pareto import hypervolumes
from harness.statistics.worst_case import fewest_seeds_for
from harness.verdicts.attacked import Scored, estimate, margins_over_seeds, share
from harness.verdicts.board import Attacked, Scheme, Share, Standing, Threat
from harness.verdicts.groups import Groups, distinct, grouped, placed, rows_of
from harness.verdicts.standings import Arms, standings_of

if TYPE_CHECKING:
    from harness.statistics.intervals import Summary
    from harness.statistics.validate import FloatArray
    from harness.verdicts.rules import Rules

    Over = list[Summary | None]

SCHEME = ["dataset", "defense"]
COST_COLUMNS = ("action", "label", "role", "dataset", "plugin", "status", "seconds", "trained_samples")
"""Columns of ``stages`` for costs."""


@dataclass(frozen=True)
class Victims:
    """The victims of all schemes, one a seed."""

    scored: Scored
    groups: Groups
    """Groups of victims, one a scheme."""


def victims_of(scored: Scored, schemes: Groups) -> Victims:
    """The victims behind the rows: one is in a row for every attack on it.

    Of those that are ok, the one with the most unmarked models tells it, or the first of them: parts of a matrix may
    have been run without any.
    """
    keep = scored.rows["status"].eq("ok")
    owned = pd.DataFrame({"group": schemes.places, "seed": scored.rows["seed"]})[keep]
    told = owned.loc[scored.rows["nulls"][keep].sort_values(ascending=False, kind="stable").index]
    keep[told.index[told.duplicated()]] = False
    some = scored.of(keep)
    # As suspects that nobody attacked: their margin is the one that counts.
    alone = some.rows.assign(useful=False, margin_counted=some.rows["victim_margin"])
    return Victims(Scored(alone, some.references, some.rules), schemes.of(keep))


def schemes_of(scored: Scored, attacked: list[Attacked], of_attacks: Groups, stages: pd.DataFrame) -> list[Scheme]:
    """Every scheme of the rows, without an order."""
    rows = scored.rows
    keys, groups = grouped(SCHEME, rows)
    found = victims_of(scored, groups)
    victims, owners = found.scored.rows, found.groups
    survival = rows["counts"] & rows["kind"].eq("survival")
    ranked = survival & ~np.array([bool(each.no_attack) for each in attacked], dtype=bool)[of_attacks.places]
    accuracies = victims[["victim_accuracy", "victim_raw_accuracy", "null_accuracy"]].to_numpy(dtype=float)
    fidelity = [_fidelity(each, scored.rules) for each in owners.parts(accuracies)]
    useless = (rate > MAX_FALSE for rate in owners.means(victims["null_rate"].fillna(0.0)))
    shown = {
        **keys,
        "fingerprint": [total > 0 for total in groups.totals(rows["fingerprint"].eq(True))],
        "seeds": groups.unique(rows["seed"]),
        "victims": _victims(victims, owners, scored.rules),
        "victim_margin": margins_over_seeds(found.scored, owners),
        **{name: [each[name] for each in fidelity] for name in ("cost", "raw_cost", "gate")},
        "anonymous": [False] * groups.count,
        "useless_key": list(useless),
        "false_rate": owners.summaries(victims["null_rate"]),
        "embed_seconds": owners.summaries(victims["embed_seconds"].astype(float)),
        **_costs(stages, keys),
        "hypervolume": _hypervolume(rows, groups, ranked),
        "at_budget": groups.over_seeds(rows, "at_budget", ranked & rows["tested"] & rows["at_budget"].notna()),
    }
    unsaid = owners.first(victims["victim_verdict"])
    standings = _standings(scored, attacked, shown, unsaid)
    rivals = Counter(zip(keys["dataset"], shown["fingerprint"], strict=True))
    attacks: dict[tuple[str, str], list[Attacked]] = {}
    for each in attacked:
        attacks.setdefault((each.dataset, each.defense), []).append(each)
    made = []
    for row, verdict in zip(rows_of(shown), unsaid, strict=True):
        dataset, defense = row["dataset"], row["defense"]
        mine = standings[dataset][defense]
        verdict = verdict or _unranked(attacks.get((dataset, defense), []))
        no_rank = _no_rank(row, mine, verdict, rivals[dataset, row["fingerprint"]], scored.rules)
        made.append(Scheme(**row, standings=mine, no_rank=no_rank))
    return made


def _victims(victims: pd.DataFrame, owners: Groups, rules: Rules) -> list[Share]:
    """Victims that are marked, of those with a verdict."""
    told = victims["victim_verdict"].eq("")
    marked, seeds = owners.totals(told & victims["victim_marked"]), owners.totals(told)
    return [share(*each, rules.confidence) for each in zip(marked, seeds, strict=True)]


def no_share() -> Share:
    """Share of no models."""
    return Share(0.0, 0, 0.0, 1.0)


def _fidelity(accuracies: FloatArray, rules: Rules) -> dict[str, Any]:
    """Cost in served accuracy and its gate, and the cost of the net itself where that is another.

    ``accuracies``, of shape [victims, 3], are those of the victims as served, of their nets, and of unmarked models.
    """
    served, raw, null = accuracies.T
    other = not np.isnan(raw).all() and not np.allclose(raw, served, atol=1e-12, equal_nan=True)
    return {
        "cost": estimate(cost_interval(null - served, rules.confidence)),
        "raw_cost": estimate(cost_interval(null - raw, rules.confidence)) if other else None,
        "gate": gate(null - served, rules.max_cost, rules.confidence),
    }


def _standings(
    scored: Scored, attacked: list[Attacked], shown: Mapping[str, list[Any]], unsaid: list[str]
) -> dict[str, dict[str, dict[Threat, Standing]]]:
    """Standings by data set and scheme. A scheme that costs too much, or without a verdict, is compared with none."""
    made, without = {}, scored.margins_without_each()
    for dataset in dict.fromkeys(shown["dataset"]):
        fails = [passes == "fails" or verdict != "" for passes, verdict in zip(shown["gate"], unsaid, strict=True)]
        barred = _named(shown, dataset, fails)
        arms = arms_of(scored.rows[scored.rows["dataset"] == dataset], attacked, dataset, without)
        apart = _named(shown, dataset, shown["fingerprint"])
        made[dataset] = standings_of(arms, barred, scored.rules, apart)
    return made


def _named(shown: Mapping[str, list[Any]], dataset: str, which: list[bool]) -> set[str]:
    """The schemes of one data set for which ``which`` says so."""
    rows = zip(shown["dataset"], shown["defense"], which, strict=True)
    return {defense for name, defense, said in rows if name == dataset and said}


def arms_of(rows: pd.DataFrame, attacked: list[Attacked], dataset: str, without: Any) -> Arms:
    """The rows of one data set, by scheme, attack and seed."""
    cells: dict[str, dict[str, dict[int, tuple[int, float, float]]]] = {}
    ends: dict[str, dict[str, dict[int, str]]] = {}
    own: dict[str, set[int]] = {}
    at_zero = rows["margin_counted"].where(rows["useful"], 0.0)
    columns = (rows.index, rows["defense"], rows["attack"], rows["seed"], rows["status"], rows["reason"])
    for row, defense, attack, seed, status, reason, margin, zero in zip(
        *columns, rows["margin_counted"].astype(float), at_zero.astype(float), strict=True
    ):
        own.setdefault(defense, set()).add(int(seed))
        mine = cells.setdefault(defense, {})
        if status == "ok" and margin == margin:
            mine.setdefault(attack, {})[int(seed)] = (row, margin, zero)
        elif status != "ok":
            end = str(reason or "") if status == "skipped" else "failed"
            ends.setdefault(defense, {}).setdefault(attack, {})[int(seed)] = end
    here = [each for each in attacked if each.dataset == dataset]
    for defense in own:
        ends.setdefault(defense, {})
    return Arms(here, tuple(sorted(set().union(*own.values()))), cells, without, ends, own)


def _no_rank(
    row: Mapping[str, Any], standings: Mapping[Threat, Standing], verdict: str, rivals: int, rules: Rules
) -> str:
    """The reason why a scheme has no rank in any threat model; empty where it has one."""
    if any(each.rank is not None for each in standings.values()):
        return ""
    if row["gate"] == "fails":
        return f"costs {100 * row['cost'].mean:.1f} points of accuracy"
    if row["victim_margin"] is None:
        return "no cell finished"
    if verdict:
        return verdict
    whole = [each for each in standings.values() if each.worst is not None and not each.incomplete]
    if not whole:
        reasons = (each.incomplete for each in standings.values() if each.incomplete)
        return next(reasons, "no seed has a number of every attack")
    needed, has = fewest_seeds_for(max(rivals, 2), rules.confidence), max(each.worst.n for each in whole if each.worst)
    return f"needs {needed} seeds, has {has}" if has < needed else "shares too few seeds with other schemes"


def _unranked(attacked: list[Attacked]) -> str:
    """The reason why none of one scheme's attacks enters a rank; empty where one does."""
    mine = [each for each in attacked if each.threat is not None and each.n]
    if any(not each.no_attack for each in mine):
        return ""
    return f"{mine[0].attack} {mine[0].no_attack}" if mine else "no attack on it has finished"


def _hypervolume(rows: pd.DataFrame, groups: Groups, keep: pd.Series[bool]) -> Over:
    """Area that attackers reach on each seed, over the seeds of each group."""
    keep = keep & rows["kept"].notna()
    reached = rows[keep].assign(group=groups.of(keep).places)
    seeds, places = distinct(reached, ["group", "seed"])
    areas = pd.Series(hypervolumes(reached[["kept", "removed"]].astype(float), places, len(seeds)))
    return Groups(seeds["group"].to_numpy(dtype=np.intp), groups.count).summaries(areas)


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
