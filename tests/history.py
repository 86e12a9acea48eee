"""Results folders without training: the records and rows that running a plan would have left."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from harness.planning.builder import make_plan
from harness.planning.graph import SURROGATE, Component, Plan, Stage, source_digest
from harness.planning.inputs import inputs_of
from harness.planning.matrix import Matrix, parse_chain, parse_entry
from harness.planning.registry import Registry, resolve
from harness.storage.store import Store
from harness.storage.tables import Tables

MADE: dict[str, dict[str, Any]] = {
    **{action: {"model": {"architecture": "cnn"}} for action in ("train", "embed", "attack")},
    **{
        "triggers": {},
        "verify": {"evidence": {}},
        "ask": {"asked": []},
        "analyse": {"measures": []},
        "judge": {"judgements": [{}]},
    },
    "detect": {"detection": {}, "measures": []},
}


def planned(
    registry: Registry,
    defenses: Sequence[str] = ("ewe",),
    attacks: Sequence[str] = ("none", "retraining | pruning"),
    *,
    seeds: Sequence[int] = (0,),
    edited: Sequence[str] = (),
) -> Plan:
    """A plan on digits, the sources of the plugins that are named ``edited``."""

    def edit(use: Component) -> Component:
        return replace(use, digest="edited!!") if use.plugin.name in edited else use

    matrix = Matrix(
        "test", (parse_entry("digits"),), tuple(map(parse_entry, defenses)), tuple(map(parse_chain, attacks))
    )
    axes = resolve(registry, matrix)
    chains = [tuple(map(edit, chain)) for chain in axes.chains]
    return make_plan(
        [*map(edit, axes.datasets)],
        [*map(edit, axes.defenses)],
        chains,
        seeds,
        1,
        lambda kind, text: edit(registry.component(kind, text)),
    )


def record_of(stage: Stage, status: str = "ok", reason: str = "", **more: Any) -> dict[str, Any]:
    """The record that a stage would leave."""
    return {
        "stage": stage.id,
        "inputs": json.loads(json.dumps(inputs_of(stage), sort_keys=True)),
        "action": stage.action,
        "label": stage.label,
        "dataset": stage.dataset.text,
        "plugin": stage.plugin.text if stage.plugin else "",
        "status": status,
        "reason": reason,
        "seconds": 2.0,
        "started": "2026-11-20T10:00:00+00:00",
        **MADE[stage.action],
        **more,
    }


def store_stages(results: Path, stages: Iterable[Stage], **more: Any) -> None:
    """Artifacts of ``stages``, and no rows, as a run that was killed leaves them."""
    store = Store(results)
    store.prepare()
    for stage in stages:
        store.save(stage.id, record_of(stage, **more))


def write_rows(results: Path, plan: Plan, run: str = "run-1", status: str = "ok") -> None:
    """The rows of a plan's cells and stages."""
    cells = [
        {
            **{"cell": cell.id, "dataset": cell.dataset, "defense": cell.defense, "attack": cell.attack},
            **{"seed": cell.seed, "status": status, "reason": "", "model": dict(cell.stages)[SURROGATE]},
        }
        for cell in plan.cells
    ]
    names = ("stage", "action", "label", "dataset", "plugin", "status", "reason", "seconds")
    records = map(record_of, plan.stages.values())
    Tables(results).append("stages", run, [{name: record[name] for name in names} for record in records])
    Tables(results).append("cells", run, cells)


def store_plan(results: Path, plan: Plan, run: str = "run-1", **more: Any) -> None:
    """What running the plan leaves."""
    store_stages(results, plan.stages.values(), **more)
    write_rows(results, plan, run)


def edit(path: Path, old: str, new: str) -> None:
    """Edit a plugin. A process reads a plugin's source once, unless it is told."""
    text = path.read_text("utf-8")
    assert old in text
    path.write_text(text.replace(old, new), "utf-8")
    source_digest.cache_clear()
