"""The run of the released EWE code that was timed, through the harness."""

from __future__ import annotations

import os
from pathlib import Path

from benchmarks.framework import folder, harness
from benchmarks.measure import PLAIN, Row, seconds, with_data
from harness.storage.tables import Tables

WALL, PROCESSOR = 1389.0, 2253.0
"""Seconds of the released code on two cores of this kind: MNIST, in distribution, 2 + 2 epochs, batch 512."""
TRAIN, IMAGES = 59_000, 60_000
"""Ours leaves 1,000 of the images for held-out triggers: the published times are scaled by what is left."""
DATASET = f"mnist[train={TRAIN},holdout=1000,epochs=4,pretrain=2,batch_size=512,{PLAIN}]"
DEFENSE = "ewe[variant=official,origin=in-distribution]"


@with_data
def official(root: Path, n: int) -> list[Row]:
    """Seconds of victim, extracted and clean model with two threads, and where they go."""
    wall, processor, note = [], [], ""
    for _ in range(n):
        with folder() as results:
            before = _processor()
            wall.append(seconds(lambda: _run(root, results)))
            processor.append(_processor() - before)
            note = _spent(results)
    share, peer_is = TRAIN / IMAGES, "published: the released code, x 59/60"
    return [
        Row("official", wall, [WALL * share], "s", peer_is, f"target 0.25; {note}"),
        Row("official: processor", processor, [PROCESSOR * share], "CPU-s", peer_is),
    ]


def _processor() -> float:
    """Seconds of processor time of this process's children up to now."""
    times = os.times()
    return times.children_user + times.children_system


def _run(root: Path, results: Path) -> None:
    matrix = ("--dataset", DATASET, "--defense", DEFENSE, "--attack", "retraining", "--seeds", "0")
    where = ("--data", root, "--results", results)
    harness("run", *matrix, *where, "--nulls", "1", "--device", "cpu", "--threads", "2", "--quiet")


def _spent(results: Path) -> str:
    """Seconds by action, and the numbers that say that the work was done."""
    tables = Tables(results)
    stages, cells = tables.read("stages"), tables.read("cells")
    if (cells["status"] != "ok").any():
        raise RuntimeError(f"the run failed: {cells['reason'].tolist()}")
    spent = stages.groupby("action")["seconds"].sum().sort_values(ascending=False)
    [cell] = cells.to_dict("records")
    accuracies = [f"{name} {cell[f'{name}_accuracy']:.1%}" for name in ("null", "victim", "surrogate")]
    actions = [f"{action} {value:.0f}" for action, value in spent.items()]
    return f"{', '.join(actions)} s; {cell['victim_trigger_trials']} triggers; {', '.join(accuracies)}"
