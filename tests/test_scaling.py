"""What is fast for a large matrix is also right: the benchmarks' generator with some hundreds of cells."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from benchmarks.scaling import (
    EPOCHS,
    NULLS,
    SUSPECTS,
    Shape,
    answer,
    finish,
    planned,
    ranked,
    storing,
    sweep,
    write_tables,
)
from harness.planning.graph import Plan, make_id
from harness.planning.inputs import inputs_of
from harness.running import session as session_module
from harness.statistics.intervals import summaries, summary
from harness.storage.schema import TABLES
from harness.storage.tables import Tables
from harness.verdicts.board import Board
from harness.verdicts.boards import STAGE_COLUMNS, make_board
from harness.verdicts.references import EVIDENCE_COLUMNS
from harness.verdicts.rules import Rules
from harness.verdicts.scoring import CELL_COLUMNS, score

pytestmark = pytest.mark.slow  # large tables

SMALL = Shape(seeds=6, datasets=2, schemes=3, attacks=10)


@pytest.fixture(scope="module")
def plan() -> Plan:
    return planned(sweep(10, 3))


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    results = tmp_path_factory.mktemp("small")
    write_tables(results, SMALL)
    return results


def rows_of(results: Path) -> dict[str, list[tuple[object, ...]]]:
    """Every table's rows, in one order and without the run."""
    frames = {name: Tables(results).read(name).drop(columns="run") for name in TABLES}
    return {name: sorted(map(tuple, frame.astype(str).to_numpy().tolist())) for name, frame in frames.items()}


def test_a_stage_s_id_is_the_digest_of_its_inputs_and_parents_come_first(plan: Plan) -> None:
    assert len(plan.cells) == 240
    seen: set[str] = set()
    for id, stage in plan.stages.items():
        assert id == stage.id == make_id(*inputs_of(stage).values())
        assert {parent for _, parent in stage.parents} <= seen
        seen.add(id)


def test_simulated_workers_leave_every_row_and_a_second_run_nothing_to_do(plan: Plan, tmp_path: Path) -> None:
    outcome = finish(plan, tmp_path)
    assert outcome.ran == len(plan.stages) and outcome.counts == {"ok": len(plan.cells)}
    tables = Tables(tmp_path)
    assert set(tables.read("cells")["cell"]) == {cell.id for cell in plan.cells}
    assert set(tables.read("stages")["stage"]) == set(plan.stages)
    verified = sum(role.what == "verify" for cell in plan.cells for role, _ in cell.stages)
    asked = sum(len(plan.stages[id].suspects) for cell in plan.cells for _, id in cell.stages)
    assert asked and len(tables.read("evidence")) == 3 * verified + asked
    trained = sum("curves" in answer(stage) for stage in plan.stages.values())
    assert len(tables.read("curves")) == EPOCHS * trained
    assert finish(plan, tmp_path).ran == 0


def test_stages_say_their_role_and_seed_and_cells_all_their_options(plan: Plan, tmp_path: Path) -> None:
    finish(plan, tmp_path)
    tables = Tables(tmp_path)
    stages = tables.read("stages").set_index("stage")
    roles = stages["role"].astype(object).where(stages["role"].notna(), None)
    known = {id: (roles[id], stages["seed"][id], stages["index"][id]) for id in plan.stages}
    for cell in plan.cells:
        for role, id in cell.stages:
            model, seed, number = known[id]
            if role.what == "ask":
                assert model is None and seed == cell.seed and np.isnan(number)
            else:
                own = {"clean": "clean", "triggers": None, "embed": "victim", "attack": "surrogate"}
                suspect = "victim" if "victim" in role or cell.family == "none" else "surrogate"
                assert model == own.get(role.what, suspect), role
                assert seed == cell.seed and np.isnan(number)
    compared = [s for s in plan.stages.values() if s.role in ("null", "attacked")]
    assert {s.role for s in compared} == {"null", "attacked"}
    for stage in compared:
        model, seed, number = known[stage.id]
        assert model == stage.role and np.isnan(seed) and number == stage.index
    for row in tables.read("cells").itertuples():
        told = json.loads(row.options)
        assert told["dataset"]["architecture"] and len(told["attack"]) == row.attack.count(" | ") + 1
        assert all(isinstance(options, dict) for options in (told["defense"], *told["attack"]))


def test_rows_are_the_same_in_parts_and_when_they_are_made_again(
    plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finish(plan, tmp_path / "whole", storing(tmp_path / "whole"))
    monkeypatch.setattr(session_module, "FLUSH_ROWS", 500)
    finish(plan, tmp_path / "parts")
    assert len(list((tmp_path / "parts" / "tables" / "cells").iterdir())) > 2
    whole = rows_of(tmp_path / "whole")
    assert rows_of(tmp_path / "parts") == whole
    (tmp_path / "whole" / "tables").rename(tmp_path / "gone")
    assert finish(plan, tmp_path / "whole").ran == 0
    assert rows_of(tmp_path / "whole") == whole


def test_rows_that_are_made_again_in_parts_end_with_the_cells(
    plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that is killed between two parts must not leave a cell's row without the rows of its stages."""
    finish(plan, tmp_path, storing(tmp_path))
    (tmp_path / "tables").rename(tmp_path / "gone")
    monkeypatch.setattr(session_module, "FLUSH_ROWS", 500)
    append = Tables.append

    def checked(tables: Tables, table: str, run: str, rows: list[dict[str, object]]) -> None:
        append(tables, table, run, rows)
        if table == "cells" and rows:
            stages = {id for row in rows for id in needed[row["cell"]]}
            assert stages <= set(tables.read("stages")["stage"])

    needed = {cell.id: [id for _, id in cell.stages] for cell in plan.cells}
    monkeypatch.setattr(Tables, "append", checked)
    assert finish(plan, tmp_path).ran == 0


def test_tables_written_by_column_are_what_a_run_writes(small: Path) -> None:
    tables = Tables(small)
    assert len(tables.read("cells")) == SMALL.cells and len(tables.read("evidence")) == len(SUSPECTS) * SMALL.cells
    detections = tables.read("detections", ["score"])
    assert (
        list(detections) == ["cell", "suspect", "index", "score"] and len(detections) == (1 + NULLS) * SMALL.cells / 10
    )


def test_rows_of_cells_that_a_later_run_computed_anew_are_left_out(tmp_path: Path) -> None:
    write_tables(tmp_path, SMALL)
    tables = Tables(tmp_path)
    first = tables.read("cells").iloc[0]
    tables.append("cells", "20270101T000000-000000", [first.dropna().to_dict() | {"cell": "new", "run": "x"}])
    left = tables.read("evidence")
    assert len(left) == len(SUSPECTS) * (SMALL.cells - 1) and first["cell"] not in set(left["cell"])


def whole_board(results: Path) -> Board:
    """The board of whole tables, intervals and all."""
    tables = Tables(results)
    cells, evidence, detections, stages = (tables.read(n) for n in ("cells", "evidence", "detections", "stages"))
    return make_board(cells, evidence, detections, stages, Rules())


def test_groups_together_are_what_each_group_is_alone(small: Path) -> None:
    tables = Tables(small)
    board, scored = whole_board(small), score(tables.read("cells"), tables.read("evidence"), Rules())
    assert len(board.attacks) == 2 * 3 * 9 and len(board.detections) == 2 * 3
    for found in board.attacks:
        rows = scored[
            scored[["dataset", "defense", "attack"]].eq([found.dataset, found.defense, found.attack]).all(axis=1)
        ]
        counting = rows[rows["counts"]]
        assert repr(found.success) == repr(summary(counting["surrogate_trigger"]))
        assert repr(found.held_out) == repr(summary(counting["surrogate_held_out"]))
        assert found.accuracy == summary(rows["surrogate_accuracy"].dropna())
        ok = rows[rows["status"] == "ok"]
        assert found.margin is not None and found.margin.mean == pytest.approx(ok["margin_counted"].mean())
        assert found.marked is None or found.marked.count == ok["marked_counted"].sum()
        assert (found.marked is None) == bool(ok["verdict"].ne("").any())
        ends = (len(ok), int(ok["useful"].sum()), *((rows["status"] == end).sum() for end in ("failed", "skipped")))
        assert (found.n, found.useful, found.failed, found.skipped) == ends


def test_cells_together_are_what_each_cell_is_alone(small: Path) -> None:
    cells, evidence = (Tables(small).read(name) for name in ("cells", "evidence"))
    scored = score(cells, evidence, Rules())
    for place, row in enumerate(cells.itertuples()):
        if place % 7 == 0 and row.status == "ok":
            own = evidence[evidence["cell"] == row.cell]
            null, attacked = (own[own["suspect"] == name] for name in ("null", "attacked"))
            floor = min(0.96, row.null_accuracy) - 0.05
            kept = attacked[attacked["accuracy"] >= floor]
            found, matches = scored.iloc[place], row.surrogate_trigger_matches
            assert found["p_0"] == (1 + (null["matches"] >= matches).sum()) / 20
            compared = found["kind"] != "none" and row.family != "detection"
            assert not compared or found["p_a"] == (1 + (kept["matches"] >= matches).sum()) / (1 + len(kept))
            false = max(null["matches"].mean(), kept["matches"].mean() if compared else 0) / 100
            assert found["false_rate"] == pytest.approx(false)
            assert found["margin"] == pytest.approx((matches / 100 - false) / (1 - false))


def test_a_board_of_few_columns_and_without_intervals_is_the_same_but_for_them(small: Path) -> None:
    whole, lean = whole_board(small), ranked(small)
    assert repr(lean.schemes) == repr(whole.schemes) and lean.innocents == whole.innocents
    assert lean.machines == whole.machines == ["machine, device, 1 thread(s), torch torch, watermark-harness harness"]
    for found, expected in zip(lean.attacks, whole.attacks, strict=True):
        assert found.success is not None and expected.success is not None
        assert repr((found.success.mean, found.success.sd)) == repr((expected.success.mean, expected.success.sd))
        assert math.isnan(found.success.low) and math.isfinite(expected.success.low) == (expected.success.n > 1)
        assert repr(found.margin) == repr(expected.margin)
    for table, columns in (("cells", CELL_COLUMNS), ("stages", STAGE_COLUMNS), ("evidence", EVIDENCE_COLUMNS)):
        assert set(columns) < {c.name for c in TABLES[table].columns}


def test_many_samples_have_the_summaries_of_each() -> None:
    dice = np.random.default_rng(0)
    sizes = dice.choice([1, 2, 5, 8, 9, 130], 60)
    values = dice.random(sizes.sum())
    for found, sample in zip(summaries(values, sizes), np.split(values, sizes.cumsum()[:-1]), strict=True):
        np.testing.assert_equal(dataclasses.astuple(found), dataclasses.astuple(summary(sample)))


def test_machines_come_the_most_used_first(small: Path) -> None:
    used = pd.DataFrame([[name, "cpu", 1, "2", "1"] for name in ("a", "b", "b", None)], columns=list(STAGE_COLUMNS))
    tables = Tables(small)
    tables_read = (tables.read(name) for name in ("cells", "evidence", "detections"))
    made = make_board(*tables_read, used, Rules(), intervals=False)
    assert [text[0] for text in made.machines] == ["b", "a"]
