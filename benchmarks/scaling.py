"""Costs of the harness when a matrix is large: planning, resuming, scheduling, tables and ranking, by simulation.

Plans are of real plugins. Nothing is trained: a stage's record is made up from its id.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from shutil import rmtree
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.framework import Nobody, folder, make
from benchmarks.measure import Row, alternate, seconds
from benchmarks.training import memory
from harness.planning.graph import Plan, Stage, make_id
from harness.planning.inputs import inputs_of
from harness.planning.matrix import Entry, Matrix
from harness.planning.registry import load_registry
from harness.running.executor import Control
from harness.running.queue import Queue
from harness.running.session import Options, Outcome, Session
from harness.storage.records import StageRecord, about
from harness.storage.schema import TABLES
from harness.storage.store import Store
from harness.storage.tables import Tables
from harness.verdicts.board import Board
from harness.verdicts.reading import read_board, read_evidence
from harness.verdicts.rules import Rules

WORKERS = 64
HELD = 8
"""Number of stages whose artifacts a worker holds, as in :mod:`harness.running.processes`."""
EPOCHS = 10
SCHEMES = (Entry("baseline"), Entry("baseline", (("placement", "gradient"),)), Entry("ewe"), Entry("adi"))


# --- plans ------------------------------------------------------------------------------------------------------------


def sweep(attacks: int, seeds: int) -> Matrix:
    """Two datasets x four schemes x ``attacks`` x ``seeds``: half of the attacks prune, half retrain."""
    half = attacks // 2
    prunings = [Entry("pruning", (("fraction", i / half),)) for i in range(half)]
    retrainings = [Entry("retraining", (("queries", i + 1),)) for i in range(attacks - half)]
    chains = tuple((attack,) for attack in (*prunings, *retrainings))
    return Matrix("sweep", (Entry("digits"), Entry("mnist")), SCHEMES, chains, seeds=tuple(range(seeds)))


LARGE = sweep(500, 25)
"""100,000 cells."""


def planned(matrix: Matrix) -> Plan:
    """Its plan, of the built-in plugins."""
    return make(matrix, load_registry())


# --- records, and workers that answer at once -------------------------------------------------------------------------


def answer(stage: Stage) -> StageRecord:
    """The record of a stage that nobody ran, as a worker would have left it. Its id is its chance."""
    chance = int(stage.id[:8], 16) / 16**8
    record: StageRecord = {
        **about(stage),
        "inputs": inputs_of(stage),
        "status": "ok",
        "reason": "",
        "traceback": "",
        "started": "2026-01-01T00:00:00+00:00",
        "seconds": chance,
        "trained_samples": 60000,
        "evaluated_samples": 10000,
        "recalled_samples": 0,
        "precision": "fp32",
        "peak_memory_mib": 512.0,
        "peak_device_memory_mib": None,
        "device": "cpu",
        "threads": 1,
        "torch": "0",
        "harness": "0",
        "machine": "simulated",
    }
    if stage.action == "verify":
        counts = {"trigger": [int(100 * chance), 100], "held_out": [int(50 * chance), 50], "control": [1, 50]}
        return {**record, "evidence": counts}
    if stage.action == "ask":
        return {**record, "asked": [{"trigger": [int(20 * chance), 100]} for _ in stage.suspects]}
    loss: list[float | None] = [chance / epoch for epoch in range(1, EPOCHS + 1)]
    made: StageRecord = {"model": {}, "accuracy": 0.9 + chance / 10, "curves": [{"loss": loss}]}
    attacked: StageRecord = {"agreement": chance, "queries": 1000} if stage.action == "attack" else {}
    return {**record, **made, **attacked}


class Simulated:
    """Workers that answer at once, each in turn, in this process."""

    def __init__(self, jobs: int = WORKERS, work: Callable[[Stage], StageRecord] = answer) -> None:
        self.jobs, self.work = jobs, work

    def run(self, stages: Sequence[Stage], control: Control) -> None:
        """Give every idle worker what suits what it has at hand, hear of the one that has waited longest, and again."""
        queue = Queue(stages)
        idle: deque[tuple[str, ...]] = deque([()] * self.jobs)
        busy: deque[tuple[tuple[str, ...], Stage]] = deque()
        while True:
            while idle and control.going() and (stage := queue.take(idle[0])):
                assert control.begin(stage) is None
                parents = (id for _, id in stage.parents)
                held = tuple(dict.fromkeys((stage.id, *parents, *idle.popleft())))[:HELD]
                busy.append((held, stage))
            if not busy:
                return
            held, stage = busy.popleft()
            control.end(stage, self.work(stage))
            queue.done(stage)
            idle.append(held)


def finish(plan: Plan, results: Path, work: Callable[[Stage], StageRecord] = answer) -> Outcome:
    """Run what is left of ``plan`` with simulated workers: the real session, its queue, its books and its tables."""
    session = Session(plan, Store(results), Tables(results), Options())
    outcome = session.run(Simulated(work=work), Nobody())
    if outcome.counts["ok"] != len(plan.cells):
        raise RuntimeError(f"{dict(outcome.counts)} of {len(plan.cells)} cells")
    return outcome


def storing(results: Path) -> Callable[[Stage], StageRecord]:
    """Workers that also store their records. There are no tensors."""
    store = Store(results)
    store.prepare()

    def work(stage: Stage) -> StageRecord:
        record = answer(stage)
        store.save(stage.id, record)
        return record

    return work


# --- tables without a run ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Shape:
    """Length of each axis of the tables. A cell has 50 rows of evidence: see :data:`SUSPECTS`."""

    seeds: int
    datasets: int = 4
    schemes: int = 10
    attacks: int = 50
    """One of fifty is a detector."""

    @property
    def cells(self) -> int:
        return self.seeds * self.datasets * self.schemes * self.attacks


NULLS, FRESH = 19, 10
SUSPECTS = np.repeat(["victim", "surrogate", "null", "attacked", "fresh"], [1, 1, NULLS, NULLS, FRESH])
"""Suspects of a cell, a row of evidence each."""
STATUSES = ("ok", "failed", "skipped")
MILLION, TEN_MILLION = Shape(10), Shape(50, schemes=20)
"""Sizes by their rows of evidence."""


def write_tables(results: Path, shape: Shape) -> None:
    """The tables that runs of this shape leave, a run for every five seeds; written column by column."""
    for first in range(0, shape.seeds, 5):
        seeds = range(first, min(first + 5, shape.seeds))
        dice = np.random.default_rng(first)
        run = f"{datetime(2026, 1, 1, 0, 0, first, tzinfo=UTC):%Y%m%dT%H%M%S}-000000"
        cells = _cells(shape, seeds, dice)
        _write(results, run, "cells", cells)
        _write(results, run, "evidence", _evidence(cells, dice))
        _write(results, run, "detections", _detections(cells, dice))
        _write(results, run, "stages", _stages(cells, dice))


Columns = dict[str, Any]


def _write(results: Path, run: str, table: str, columns: Columns) -> None:
    """One file of a run, as :meth:`Tables.append` writes it; columns that are not given are null."""
    schema = TABLES[table].schema()
    rows = len(next(iter(columns.values())))
    known = {"run": _texts(np.zeros(rows, int), [run]), **columns}
    arrays = [pa.array(known[f.name]).cast(f.type) if f.name in known else pa.nulls(rows, f.type) for f in schema]
    path = results / "tables" / table / f"{run}-0000.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_arrays(arrays, schema=schema), path, compression="zstd", write_page_checksum=True)


def _texts(codes: Any, texts: Sequence[str]) -> pa.Array:
    """A column of ``texts`` by their numbers."""
    return pa.DictionaryArray.from_arrays(pa.array(codes, pa.int32()), pa.array(texts)).dictionary_decode()


def _ids(name: str, first: int, count: int) -> pa.Array:
    return pa.array([make_id(name, number) for number in range(first, first + count)])


def _cells(shape: Shape, seeds: range, dice: np.random.Generator) -> Columns:
    axes = (len(seeds), shape.datasets, shape.schemes, shape.attacks)
    seed, dataset, scheme, attack = (each.ravel() for each in np.indices(axes))
    rows = len(seed)
    found = attack >= shape.attacks - max(1, shape.attacks // 50)
    status = dice.choice(3, rows, p=[0.97, 0.02, 0.01])
    ok = status == 0
    first = seeds.start * rows // len(seeds)
    columns: Columns = {
        "cell": _ids("cell", first, rows),
        "dataset": _texts(dataset, [f"dataset-{i}" for i in range(shape.datasets)]),
        "defense": _texts(scheme, [f"scheme[weight={i}]" for i in range(shape.schemes)]),
        "attack": _texts(attack, ["none", *(f"attack[fraction={i}]" for i in range(1, shape.attacks))]),
        "seed": seed + seeds.start,
        "model": _ids("model", first, rows),
        "family": _texts(found.astype(int), ["removal", "detection"]),
        "access": _texts(np.zeros(rows, int), ["white-box"]),
        "status": _texts(status, STATUSES),
        "reason": _texts(status, ["", "RuntimeError: made up", "made up"]),
        "nulls": np.full(rows, NULLS),
        "attacked": np.full(rows, NULLS),
        "test_samples": np.full(rows, 10_000),
        "queries": dice.integers(0, 10000, rows),
    }
    for who, low in (("null", 0.95), ("victim", 0.94), ("surrogate", 0.89)):
        columns[f"{who}_accuracy"] = _where(ok, dice.uniform(low, 0.97, rows))
    for who, probe in (("victim", "trigger"), ("surrogate", "trigger"), ("surrogate", "held_out")):
        columns |= _counts(f"{who}_{probe}_", ok, dice, 100, (scheme + 1) / (shape.schemes + 1))
    columns |= _counts("surrogate_control_", ok, dice, 100, 0.02)
    return columns | _counts("null_trigger_", ok, dice, 100 * NULLS, 0.02)


def _where(known: Any, values: Any) -> pa.Array:
    """A column with nulls where the values are not known."""
    return pa.array(values, mask=~known)


def _counts(prefix: str, known: Any, dice: np.random.Generator, trials: int, rate: Any) -> Columns:
    matches = dice.binomial(trials, rate, len(known))
    return {f"{prefix}matches": _where(known, matches), f"{prefix}trials": _where(known, np.full(len(known), trials))}


LABELS = ("cell", "dataset", "defense", "attack", "seed")


def _repeated(cells: Columns, keep: Any, times: int) -> Columns:
    """The labels of the cells of ``keep``, each so many times."""
    places = np.repeat(np.flatnonzero(keep), times)
    return {name: pa.array(cells[name]).take(pa.array(places)) for name in LABELS}


def _evidence(cells: Columns, dice: np.random.Generator) -> Columns:
    """Rows of failed cells too, so that their number is round."""
    each, count = len(SUSPECTS), len(cells["seed"])
    names, suspects = np.unique(SUSPECTS, return_inverse=True)
    index = np.concatenate([np.arange(np.sum(name == SUSPECTS)) for name in dict.fromkeys(SUSPECTS)])
    rates = np.where(np.isin(SUSPECTS, ["victim", "surrogate"]), 0.6, 0.02)
    rows = each * count
    return {
        **_repeated(cells, np.ones(count, bool), each),
        "suspect": _texts(np.tile(suspects, count), [str(name) for name in names]),
        "arm": _texts(np.tile(SUSPECTS == "fresh", count).astype(int), ["", "unmarked"]),
        "index": np.tile(index, count),
        "probe": _texts(np.zeros(rows, int), ["trigger"]),
        **_counts("", np.ones(rows, bool), dice, 100, np.tile(rates, count)),
        "accuracy": dice.uniform(0.93, 1.0, rows),
        "base_accuracy": np.full(rows, 0.96),
    }


def _detections(cells: Columns, dice: np.random.Generator) -> Columns:
    detected = np.asarray(cells["family"].to_pylist()) == "detection"
    labels = _repeated(cells, detected, 1 + NULLS)
    rows = len(labels["seed"])
    number = np.arange(rows) % (1 + NULLS)
    return {
        **labels,
        "suspect": _texts(np.minimum(number, 1), ["surrogate", "null"]),
        "index": np.maximum(number - 1, 0),
        "score": dice.normal(1.5, 1.0, rows),
        "threshold": np.full(rows, 2.0),
        "target_hit": dice.random(rows) < 0.3,
        "window_rank": dice.random(rows),
    }


def _stages(cells: Columns, dice: np.random.Generator) -> Columns:
    """An attack and a verification a cell."""
    labels = _repeated(cells, np.ones(len(cells["seed"]), bool), 2)
    rows, same = len(labels["seed"]), np.zeros(2 * len(cells["seed"]), int)
    return {
        "stage": pa.array([f"{id[:31]}{i % 2}" for i, id in enumerate(labels["cell"].to_pylist())]),
        "action": _texts(np.arange(rows) % 2, ["attack", "verify"]),
        "label": labels["cell"],
        "dataset": labels["dataset"],
        "plugin": labels["attack"],
        "status": _texts(same, ["ok"]),
        "started": pa.array(np.full(rows, np.datetime64("2026-01-01T00:00:00", "us")), pa.timestamp("us", tz="UTC")),
        "seconds": dice.random(rows),
        "threads": np.ones(rows, int),
        **{name: _texts(same, [name]) for name in ("device", "torch", "harness", "machine")},
    }


def ranked(results: Path) -> Board:
    """The work of ``harness leaderboard`` before it prints."""
    return read_board(Tables(results), Rules(), intervals=False)


def evidence(results: Path) -> pd.DataFrame:
    """The evidence that verdicts are made of."""
    return read_evidence(Tables(results))


# --- benchmarks -------------------------------------------------------------------------------------------------------


def alone(work: Callable[..., object], *arguments: object) -> float:
    """Peak MiB of ``work`` in a fresh process, beyond its imports."""
    return memory(partial(_prepared, work, arguments))


def _prepared(work: Callable[..., object], arguments: Sequence[object]) -> Callable[[], None]:
    load_registry()

    def call() -> None:
        work(*arguments)

    return call


def plan(n: int) -> list[Row]:
    """Seconds from a matrix to the plan of 100,000 cells, in process, and the memory that it takes."""
    samples = [seconds(partial(planned, LARGE)) for _ in range(n)]
    return [
        Row("scale-plan", samples, [20.0], "s", "target", "100,000 cells"),
        Row("scale-plan: memory", [alone(planned, LARGE)], [1024.0], "MiB", "target", "a fresh process"),
    ]


def run(results: Path) -> Outcome:
    """``harness run`` of the large matrix, with simulated workers."""
    return finish(planned(LARGE), results)


def matrix(n: int) -> list[Row]:
    """A run of 100,000 cells by 64 workers that answer at once; the same command once more; and without its tables."""
    large = planned(LARGE)
    with folder() as results:
        fresh = seconds(partial(finish, large, results)) * 1000 / len(large.stages)
        again = [seconds(partial(run, results)) for _ in range(n)]
        resumed = alone(run, results)
    with folder() as results:
        ran = alone(run, results)
    stages = f"{len(large.stages):,} stages, {WORKERS} workers"
    return [
        Row("scale-run: a stage", [fresh], [5.0], "ms/stage", "target", f"{stages}; {ran:.0f} MiB with the plan"),
        Row("scale-run: resume", again, [30.0], "s", "target", f"planning included; {resumed:.0f} MiB"),
        rows_anew(n),
    ]


def rows_anew(n: int) -> Row:
    """A tenth of the matrix, stored, and without tables: every record is read, and every row made again."""
    tenth = planned(sweep(250, 5))
    with folder() as results:
        finish(tenth, results, storing(results))
        sizes = [path.stat().st_size for path in (results / "artifacts").rglob("record.json")]
        samples = []
        for _ in range(n):
            rmtree(results / "tables")
            samples.append(seconds(partial(finish, tenth, results)) * 1000 / len(tenth.stages))
    note = f"{len(sizes):,} records of {sum(sizes) / len(sizes):.0f} bytes"
    return Row("scale-run: rows made again", samples, [5.0], "ms/stage", "target", note)


def rank(n: int) -> list[Row]:
    """Seconds from tables to a ranking, in process, and what reading the evidence takes."""
    rows = []
    for name, shape, target in (("1M", MILLION, 3.0), ("10M", TEN_MILLION, 10.0)):
        with folder() as results:
            write_tables(results, shape)
            sides = [partial(seconds, partial(work, results)) for work in (ranked, evidence)]
            board, read = alternate(n, *sides)
            note = f"{shape.cells:,} cells; {alone(ranked, results):.0f} MiB"
            rows.append(Row(f"scale-rank {name}", board, [target], "s", "target", note))
            note = f"read alone; {alone(evidence, results):.0f} MiB"
            rows.append(Row(f"scale-rank {name}: evidence", read, [target], "s", "target", note))
    return rows
