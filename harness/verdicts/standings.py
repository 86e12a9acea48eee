"""Worst case of each scheme within each threat model, and ranks by it."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from harness.statistics.margins import seeds_interval, seeds_intervals
from harness.statistics.worst_case import fewest_seeds_for, ranks, worst_case
from harness.verdicts.attacked import estimate
from harness.verdicts.board import THREATS, Attacked, Estimate, Standing, Survival, Threat

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from harness.statistics.validate import FloatArray
    from harness.verdicts.groups import Places
    from harness.verdicts.rules import Rules

MAX_COMPARED = 30
"""Schemes on one data set that are compared pair by pair; more have no ranks."""

OUTSIDE = "protects only its API"
"""Part of the reason why a scheme's cells are skipped whose thief has weights that it does not protect."""


@dataclass(frozen=True)
class Settings:
    """One scheme's cells under attacks that count, as arrays of shape [settings, seeds]."""

    attacks: tuple[str, ...]
    """In the order of their names."""
    margins: FloatArray
    """The margin that counts; NaN where there is no cell."""
    at_zero: FloatArray
    """The same, with 0 where the attack failed."""
    rows: Places
    """The row of each cell in :attr:`Arms.without`, -1 where there is none."""


@dataclass(frozen=True)
class Arms:
    """Every scheme of one data set under every attack: what standings are made of."""

    attacked: list[Attacked]
    seeds: tuple[int, ...]
    """All seeds of the data set, ascending."""
    cells: Mapping[str, Mapping[str, Mapping[int, tuple[int, float, float]]]]
    """The row of each scheme, attack and seed, its margin that counts, and that with failures at 0."""
    without: FloatArray
    """Margins without each unmarked model, shape [rows, models]."""
    ends: Mapping[str, Mapping[str, Mapping[int, str]]]
    """The end of each scheme, attack and seed without numbers: `failed`, or the reason why it was skipped."""
    own_seeds: Mapping[str, set[int]]
    """Seeds of each scheme's cells, whatever became of them."""


def counting(attacked: Iterable[Attacked], threat: Threat) -> list[Attacked]:
    """The attacks that enter ranks of a threat model, each with a cell at least."""
    return [
        each
        for each in attacked
        if each.threat is not None and threat in (each.threat, "both") and not each.no_attack and each.n
    ]


def standings_of(
    arms: Arms, barred: set[str], rules: Rules, apart: Collection[str] = ()
) -> dict[str, dict[Threat, Standing]]:
    """Standing of each scheme within each threat model.

    Those of ``barred`` schemes have no rank. Those that stand ``apart`` are ranked among themselves.
    """
    made: dict[str, dict[Threat, Standing]] = {defense: {} for defense in arms.own_seeds}
    own: dict[str, list[Attacked]] = {defense: [] for defense in made}
    for each in arms.attacked:
        own[each.defense].append(each)
    seeds = _seeds_by_attack(arms)
    for threat in THREATS:
        worst: dict[str, FloatArray] = {}
        tried = {attack: seeds[attack] for attack in sorted({each.attack for each in counting(arms.attacked, threat)})}
        for defense in made:
            lacks = _incomplete(arms, defense, own[defense], tried)
            made[defense][threat], worst[defense] = _standing(arms, defense, own[defense], threat, lacks, rules)
        ranked = [name for name, each in made.items() if _may_rank(each[threat]) and name not in barred]
        for is_apart in (False, True):
            section = [name for name in ranked if (name in apart) is is_apart]
            for name, rank in _ranks(section, worst, rules).items():
                made[name][threat] = replace(made[name][threat], rank=rank)
    return made


def _may_rank(standing: Standing) -> bool:
    return standing.worst is not None and not standing.incomplete


def _ranks(names: list[str], worst: Mapping[str, FloatArray], rules: Rules) -> dict[str, int]:
    """Ranks of the schemes that can be compared; none where there are too few seeds, or too many schemes."""
    if not 0 < len(names) <= MAX_COMPARED:
        return {}
    values = np.array([worst[name] for name in names])
    if len(names) == 1 and (~np.isnan(values)).sum() < fewest_seeds_for(2, rules.confidence):
        return {}
    return dict(zip(names, ranks(values, rules.confidence) or [], strict=False))


def _standing(
    arms: Arms, defense: str, own: list[Attacked], threat: Threat, incomplete: str, rules: Rules
) -> tuple[Standing, FloatArray]:
    """Standing without a rank, and the worst case of each seed."""
    mine = counting(own, threat)
    settings = _settings(arms, defense, sorted({each.attack for each in mine}))
    found, at_zero = worst_case(settings.margins), worst_case(settings.at_zero)
    chosen = [place for place in (found.on_even, found.on_odd) if place is not None]
    common = np.flatnonzero(~np.isnan(found.values))
    by_plugins = _by_plugins(mine)
    survivals = [_together({each.survival for each in settings} - {""}) for settings in by_plugins]
    standing = Standing(
        threat=threat,
        rank=None,
        worst=_worst(arms, settings, chosen, common, found.values, rules),
        worst_attacks=tuple(dict.fromkeys(settings.attacks[place] for place in chosen)),
        worst_at_zero=at_zero.mean,
        claim=_claim(arms, settings, rules),
        survives=survivals.count("survived"),
        marked=sum(map(_are_all_marked, by_plugins)),
        removed=survivals.count("removed"),
        attacks=sum(bool(each) for each in survivals),
        incomplete=incomplete,
    )
    return standing, found.values


def _settings(arms: Arms, defense: str, attacks: list[str]) -> Settings:
    shape = (len(attacks), len(arms.seeds))
    margins, at_zero, rows = np.full(shape, np.nan), np.full(shape, np.nan), np.full(shape, -1, dtype=np.intp)
    places = {seed: place for place, seed in enumerate(arms.seeds)}
    for number, attack in enumerate(attacks):
        for seed, (row, margin, zero) in arms.cells[defense].get(attack, {}).items():
            where = number, places[seed]
            rows[where], margins[where], at_zero[where] = row, margin, zero
    return Settings(tuple(attacks), margins, at_zero, rows)


def _worst(
    arms: Arms, settings: Settings, chosen: list[int], common: Places, values: FloatArray, rules: Rules
) -> Estimate | None:
    """Estimate of the worst case: the unmarked models' error is that of the cells that were chosen."""
    if not len(common):
        return None
    rows = [settings.rows[chosen[place % 2], seed] for place, seed in enumerate(common)]
    without = arms.without[rows].mean(axis=0)
    return estimate(seeds_interval(values[common], without, rules.confidence))


def _claim(arms: Arms, settings: Settings, rules: Rules) -> float:
    """The least lower limit over the settings; NaN of fewer than five seeds.

    A setting that leaves at least as much as another on every seed is left out: a limit of the other's mean is one of
    its mean too, and more spread must not make a weaker attack count.
    """
    kept = np.flatnonzero(~_is_dominated(settings.margins))
    if not len(kept):
        return math.nan
    without = np.array([arms.without[settings.rows[k][settings.rows[k] >= 0]].mean(axis=0) for k in kept])
    made = seeds_intervals(settings.margins[kept], without, 2 * rules.confidence - 1)
    lows = [each.low for each in made]
    return math.nan if any(map(math.isnan, lows)) else min(lows)


def _is_dominated(margins: FloatArray) -> NDArray[np.bool_]:
    """Rows that are nowhere below another row on any seed: equal ones but for the first, and those without numbers."""
    empty = np.isnan(margins).all(axis=1)
    made = np.array(empty, dtype=np.bool_)
    numbers, missing = np.arange(len(margins)), np.isnan(margins)
    for number, mine in enumerate(margins):
        both = np.isnan(mine) & missing
        above, below = ((each | both).all(axis=1) for each in (mine >= margins, mine <= margins))
        made[number] |= bool((above & (~below | (numbers < number)) & ~empty).any())
    return made


def _by_plugins(mine: list[Attacked]) -> list[list[Attacked]]:
    """The settings of each plugin, or chain of plugins."""
    found: dict[str, list[Attacked]] = {}
    for each in mine:
        found.setdefault(each.plugins, []).append(each)
    return list(found.values())


def _are_all_marked(settings: list[Attacked]) -> bool:
    """True where all models are marked after every setting that has a verdict, and one has."""
    judged = [each.marked for each in settings if each.marked]
    return bool(judged) and all(share.count == share.of for share in judged)


def _together(found: set[Survival]) -> Survival:
    """Verdict over the settings that have one; empty where none has."""
    if "removed" in found or not found:
        return "removed" if found else ""
    return "survived" if found == {"survived"} else "undecided"


# --- what is missing --------------------------------------------------------------------------------------------------


def _seeds_by_attack(arms: Arms) -> dict[str, set[int]]:
    """The seeds on which some scheme has a number, by attack."""
    seeds: dict[str, set[int]] = {each.attack: set() for each in arms.attacked}
    for cells in arms.cells.values():
        for attack, numbers in cells.items():
            seeds.setdefault(attack, set()).update(numbers)
    return seeds


def _incomplete(arms: Arms, defense: str, own: list[Attacked], tried: Mapping[str, set[int]]) -> str:
    """The first attack of those ``tried`` that a scheme lacks on a seed of its own where another has it; or empty."""
    mine = {each.attack: each for each in own}
    for attack, seeds in tried.items():
        if (found := mine.get(attack)) is None:
            return f"{attack} was not run"
        if found.no_attack:
            return f"{attack} {found.no_attack}"
        if missing := sorted((seeds & arms.own_seeds[defense]) - set(arms.cells[defense].get(attack, ()))):
            return _reason(found, attack, missing, arms.ends[defense].get(attack, {}))
    return ""


def _reason(own: Attacked, attack: str, missing: list[int], ends: Mapping[int, str]) -> str:
    """One line on why a scheme has no number of an attack on some of its seeds."""
    found = [ends[seed] for seed in missing if seed in ends]
    skipped = [end for end in found if end != "failed"]
    if any(OUTSIDE in end for end in skipped):
        return OUTSIDE
    if skipped:
        return f"{attack} was skipped: {skipped[0]}"
    seeds = own.n + len(missing)
    return (
        f"{attack} crashed on {len(found)} of {seeds} seeds"
        if found
        else f"{attack} was run on {own.n} of {seeds} seeds"
    )
