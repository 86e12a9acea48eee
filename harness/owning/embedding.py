"""The owner's first act: a model is marked, unmarked ones are asked its key, and all of it becomes a folder.

All of it goes through an ordinary plan and store: what is stored is not computed again.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import harness
from harness.contracts import ActiveDefense, WhiteBoxDefense
from harness.errors import UsageError
from harness.inspect.export import Exported, check_target, find_cell, key_file, model_file
from harness.owning.folder import RULES, About, Counts, write_owner
from harness.owning.verdict import NONE, PROBE
from harness.planning.graph import Cell, Plan
from harness.planning.narrowing import Narrowing, planned
from harness.statistics.exchangeable import fewest_models

if TYPE_CHECKING:
    import pandas as pd

    from harness.planning.registry import Registry
    from harness.storage.store import Store
    from harness.storage.tables import Tables
    from harness.verdicts.rules import Rules

NULLS, OTHERS = 39, 3
"""Unmarked models, and models of other owners, by default: two of three that are accused say "not by whom"."""
SEEDS = 2**48
DRAWS = 5
"""Seeds that are drawn at most, one after the other, for a scheme that cannot mark with each of them."""


@dataclass(frozen=True)
class Wanted:
    """A key as asked for. Raises :class:`UsageError` for values that cannot be."""

    dataset: str
    defense: str
    attacks: tuple[str, ...] = ()
    """Chains that unmarked models go through as well, since a suspect may have."""
    nulls: int = NULLS
    others: int = OTHERS
    seed: int | None = None
    """The secret seed; drawn where none is given."""


@dataclass(frozen=True)
class Planning:
    """The plan of an owner's key, and the cells that it is about."""

    plan: Plan
    seed: int
    own: Cell
    """The cell of the victim as it is."""
    attacked: tuple[Cell, ...]
    """Its cells after each chain."""


def plan_owner(wanted: Wanted, registry: Registry, rules: Rules) -> Planning:
    """Plan a victim, unmarked models, models of other owners, and what chains make of the unmarked ones.

    Raises :class:`UsageError` for what cannot be planned, or leaves no verdict.
    """
    _check(wanted, rules)
    seed = secrets.randbelow(SEEDS) if wanted.seed is None else wanted.seed
    axes: dict[str, Any] = {"datasets": (wanted.dataset,), "defenses": (wanted.defense,), "nulls": wanted.nulls}
    seeds = tuple(seed + place for place in range(wanted.others + 1))
    plan = planned(registry, replace(Narrowing(**axes, attacks=(NONE,)).of(None), seeds=seeds))
    own = [cell for cell in plan.cells if cell.seed == seed]
    if len(own) != 1:
        raise UsageError(f"one data set and one scheme make one key, and {wanted.dataset} / {wanted.defense} are more")
    _check_scheme(own[0])
    chains = [chain for chain in wanted.attacks if chain.strip() != NONE]
    if not chains:
        return Planning(plan, seed, own[0], ())
    more = planned(registry, replace(Narrowing(**axes, attacks=tuple(chains)).of(None), seeds=(seed,)))
    for cell in more.cells:
        _check_chain(cell)
    both = Plan(plan.stages | more.stages, (*plan.cells, *more.cells), (*plan.warnings, *more.warnings))
    return Planning(both, seed, own[0], more.cells)


def _check(wanted: Wanted, rules: Rules) -> None:
    needed = fewest_models(rules.alpha)
    if wanted.nulls < needed:
        raise UsageError(
            f"--nulls {wanted.nulls}: a verdict at {rules.confidence:.0%} confidence needs {needed} unmarked models"
        )
    if wanted.others < 0:
        raise UsageError(f"--others {wanted.others}: expected 0 or more")
    if wanted.seed is not None and not 0 <= wanted.seed < SEEDS:
        raise UsageError(f"--seed {wanted.seed}: expected a whole number from 0 to {SEEDS - 1}")


def _check_scheme(cell: Cell) -> None:
    """Raise :class:`UsageError` for a scheme that makes no key which any suspect could be asked."""
    if cell.skip:
        raise UsageError(f"{cell.defense} cannot mark a model of {cell.dataset}: {cell.skip}")
    scheme = cell.uses[1].plugin
    if scheme.innocent:
        raise UsageError(f"{cell.defense} marks nothing: name a scheme (harness plugins list)")
    if isinstance(scheme, ActiveDefense):
        raise UsageError(
            f"{cell.defense} marks what its API answers a client, and is verified with that client's log, which "
            "harness embed does not keep: name another scheme"
        )


def _check_chain(cell: Cell) -> None:
    if cell.skip:
        raise UsageError(f"--attack {cell.attack!r}: {cell.skip}")
    if "attacked" not in {role.about for role, _ in cell.stages}:
        raise UsageError(
            f"--attack {cell.attack!r} leaves unmarked models as they are, so there is nothing to compare with"
        )


def plan_owners(
    wanted: Wanted,
    registry: Registry,
    tables: Tables,
    rules: Rules,
    tell: Callable[[str], object] = lambda line: None,
) -> Iterator[Planning]:
    """Plans of a key, each to be run before the next is asked for: the last is the one whose scheme marked a model.

    A scheme may have no place for its triggers in a seed's data, and skips that seed. It says so before any model is
    asked, so that drawing another chooses among no verdicts. Raises :class:`UsageError`, also where the scheme skips
    the seed that was given, or all of :data:`DRAWS`.
    """
    for _ in range(DRAWS):
        planning = plan_owner(wanted, registry, rules)
        seed = planning.seed
        if wanted.seed is None:
            tell(f"seed {seed} (secret): --seed {seed} goes on, should this be interrupted")
        yield planning
        reason = _skipped(planning.own, tables)
        if not reason:
            return
        if wanted.seed is not None:
            raise UsageError(f"no key was made with seed {seed} ({reason}): give another")
        tell(f"no mark with seed {seed} ({reason})")
    raise UsageError(f"no key was made with any of {DRAWS} seeds ({reason})")


def _skipped(cell: Cell, tables: Tables) -> str:
    """The reason for which a cell's victim was not marked, if the scheme skipped it."""
    cells = tables.read("cells")
    rows = cells[cells["cell"].eq(cell.id) & cells["status"].eq("skipped")]
    return "".join(rows["reason"].astype(str).iloc[:1])


# --- after the run ----------------------------------------------------------------------------------------------------


def check_folder(folder: Path) -> None:
    """Raise :class:`UsageError` where the owner's folder cannot be written: before hours are spent."""
    check_target(folder)


def write(planning: Planning, store: Store, tables: Tables, folder: Path, rules: Rules) -> tuple[About, str]:
    """Write the folder of a key whose plan has run; the facts that may be shown, and the commitment.

    Raises :class:`UsageError`, also where the run left no victim, or too few unmarked models.
    """
    check_target(folder)
    cell = find_cell(store, tables, planning.own.id)
    about = _about(planning, cell, tables, rules)
    origin = {"seed": planning.seed, "cell": planning.own.id, "victim": cell.victim.record["stage"]}
    return about, write_owner(folder, about, model_file(cell.victim), key_file(cell.victim), origin)


def _about(planning: Planning, cell: Exported, tables: Tables, rules: Rules) -> About:
    dataset, scheme = (use.plugin for use in planning.own.uses[:2])
    unmarked, left_out = _unmarked(planning, tables, rules)
    rows = [row for row in cell.evidence if row["suspect"] == "victim"]
    record = cell.victim.record
    return About(
        scheme=planning.own.defense,
        dataset=planning.own.dataset,
        asks="weights" if isinstance(scheme, WhiteBoxDefense) else "inputs",
        input_shape=tuple(dataset.input_shape),
        classes=len(dataset.classes),
        value_range=(float(dataset.value_range[0]), float(dataset.value_range[1])),
        rules={name: getattr(rules, name) for name in RULES},
        victim={row["probe"]: (int(row["matches"]), int(row["trials"])) for row in rows},
        unmarked=unmarked,
        left_out=left_out,
        others=_by_probe([row for row in cell.evidence if row["suspect"] == "other-owner"]),
        versions={
            "harness": harness.__version__,
            "torch": str(record.get("torch", "")),
            "scheme": planning.own.uses[1].source,
        },
        made=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _unmarked(planning: Planning, tables: Tables, rules: Rules) -> tuple[dict[str, Counts], dict[str, str]]:
    """Answers of the unmarked models that count, by chain, and the chains that leave no verdict. Raises
    :class:`UsageError` where there is none without a chain."""
    from harness.verdicts.references import references_of
    from harness.verdicts.scoring import judged

    ids = [cell.id for cell in (planning.own, *planning.attacked)]
    cells = tables.read("cells")
    cells = cells[cells["cell"].isin(ids)].reset_index(drop=True)
    evidence = tables.read("evidence")
    evidence = evidence[evidence["cell"].isin(ids)]
    references = references_of(cells, evidence, rules)
    scored = judged(cells, references, rules)
    found: dict[str, Counts] = {}
    left_out = {cell.attack: "its cell did not succeed" for cell in planning.attacked}
    for place, row in enumerate(scored.to_dict("records")):
        chain = str(row["attack"])
        left_out.pop(chain, None)
        if row["status"] != "ok" or row["verdict"]:
            left_out[chain] = str(row["reason"] if row["status"] != "ok" else row["verdict"])
            continue
        counted = references.unattacked.counted if chain == NONE else references.attacked.counted
        numbers = {int(number) for number in _numbers(evidence, counted[place])}
        mine = evidence[evidence["cell"].eq(row["cell"]) & evidence["index"].isin(numbers)]
        mine = mine[mine["suspect"].eq("null" if chain == NONE else "attacked")]
        found[chain] = _by_probe(mine.to_dict("records"))
    if NONE not in found:
        raise UsageError(f"no key was made: {left_out.get(NONE, 'the run did not end')}")
    return {NONE: found.pop(NONE), **found}, left_out


def _numbers(evidence: pd.DataFrame, counted: Any) -> list[int]:
    """The numbers of the unmarked models that count: columns of references are in the order of numbers."""
    asked = evidence["suspect"].isin(("null", "attacked")) & evidence["probe"].eq(PROBE)
    numbers = sorted(set(evidence.loc[asked, "index"].astype(int)))
    return [number for number, counts in zip(numbers, counted, strict=True) if counts]


def _by_probe(rows: Sequence[Mapping[Any, Any]]) -> Counts:
    counts: Counts = {}
    for row in sorted(rows, key=lambda each: int(each["index"])):
        counts.setdefault(str(row["probe"]), []).append((int(row["matches"]), int(row["trials"])))
    return counts
