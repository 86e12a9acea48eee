"""What a plan's stages and cells are at, read while others run; and the time left."""

from __future__ import annotations

import csv
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from harness.inspect.status import Survey, seconds_since
from harness.planning.graph import Kind, Plan
from harness.planning.registry import Registry, load_registry
from harness.running.eta import DURATIONS, plugin_name
from harness.storage.locks import Claims
from harness.storage.store import Store
from harness.storage.tables import Tables
from tests.conftest import TINY, Cli, without
from tests.history import planned, store_plan, store_stages, write_rows
from tests.test_session import SCHEME, arguments

HOLD = """
import json, sys, time
from pathlib import Path
from harness.storage.locks import Claims
claims = Claims(Path(sys.argv[1]))
print(claims.try_acquire(**json.loads(sys.argv[2])), flush=True)
time.sleep(60)
"""


@contextmanager
def held(results: Path, id: str, **note: str) -> Iterator[int]:
    """Another process that computes a stage; its id."""
    command = [sys.executable, "-c", HOLD, str(results), json.dumps({"id": id, **note})]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "True\n"
        try:
            yield process.pid
        finally:
            process.kill()


@pytest.fixture(scope="module")
def registry() -> Iterator[Registry]:
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("HARNESS_PLUGINS", raising=False)
        yield load_registry()


def survey(plan: Plan, results: Path) -> Survey:
    return Survey(plan, Store(results), Tables(results), Claims(results))


def states(found: Survey, action: str) -> dict[str, str]:
    """State by label of the stages of one action."""
    return {s.label: found.stages[s.id].state for s in found.plan.stages.values() if s.action == action}


def files(folder: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in folder.rglob("*")}


# --- stages and cells ---


def test_nothing_is_done_before_anything_ran_and_nothing_is_written(registry: Registry, tmp_path: Path) -> None:
    plan = planned(registry)
    found = survey(plan, tmp_path / "none")
    assert found.count_cells() == {"waiting": 2} and {s.state for s in found.stages.values()} == {"waiting"}
    assert not list(tmp_path.iterdir())


def test_what_is_stored_is_done_before_its_rows_are_written(registry: Registry, tmp_path: Path) -> None:
    plan = planned(registry)
    stages = list(plan.stages.values())
    store_stages(tmp_path, stages[:3])
    found = survey(plan, tmp_path)
    assert [found.stages[s.id].state for s in stages] == ["done"] * 3 + ["waiting"] * (len(stages) - 3)
    store_stages(tmp_path, stages)
    assert survey(plan, tmp_path).count_cells() == {"done": 2}
    assert not (tmp_path / "tables").exists()


def test_a_settled_cell_needs_no_artifacts_but_a_new_one_does(registry: Registry, tmp_path: Path) -> None:
    write_rows(tmp_path, planned(registry, attacks=["none"]))
    assert survey(planned(registry, attacks=["none"]), tmp_path).count_cells() == {"done": 1}
    found = survey(planned(registry, attacks=["none", "pruning"]), tmp_path)
    assert found.count_cells() == {"done": 1, "waiting": 1}
    assert set(states(found, "embed").values()) == {"waiting"}


def test_a_failure_takes_along_what_follows_and_nothing_else(registry: Registry, tmp_path: Path) -> None:
    plan = planned(registry, attacks=["none", "retraining", "retraining | pruning", "pruning"])
    store_plan(tmp_path, planned(registry, attacks=["none"]))
    broken = next(s for s in plan.stages.values() if s.label == "digits ewe retraining #0")
    store_stages(tmp_path, [broken], status="failed", reason="retraining: ValueError: no\nmore")
    found = survey(plan, tmp_path)
    assert states(found, "attack") == {
        "digits ewe retraining #0": "failed",
        "digits ewe retraining | pruning #0": "skipped",
        "digits ewe pruning #0": "waiting",
        "digits retraining null #0": "waiting",
        "digits retraining | pruning null #0": "waiting",
        "digits pruning null #0": "waiting",
    }
    assert found.count_cells() == {"done": 1, "failed": 2, "waiting": 1}
    assert list(found.failures()) == [("attack: digits ewe retraining #0", "retraining: ValueError: no\nmore")]


def test_a_stage_whose_worker_died_is_failed_by_its_row_alone(registry: Registry, tmp_path: Path) -> None:
    plan = planned(registry)
    stage = next(iter(plan.stages.values()))
    row = {"stage": stage.id, "action": stage.action, "status": "failed", "reason": "killed by SIGKILL"}
    Tables(tmp_path).append("stages", "run", [row])
    assert survey(plan, tmp_path).stages[stage.id].reason == "killed by SIGKILL"


def test_a_record_that_is_damaged_or_another_s_is_computed_again(registry: Registry, tmp_path: Path) -> None:
    plan = planned(registry)
    first, second, *_ = plan.stages.values()
    store_stages(tmp_path, [first], dataset="mnist")
    store_stages(tmp_path, [second])
    (Store(tmp_path).path(second.id) / "record.json").write_text("{}")
    found = survey(plan, tmp_path)
    for stage in (first, second):
        assert found.stages[stage.id].state == "waiting" and "computed again" in found.stages[stage.id].reason


# --- who is at it, and the time left ---


def test_who_runs_what_is_told_and_what_died_runs_no_more(registry: Registry, tmp_path: Path) -> None:
    plan = planned(registry)
    first, *rest = plan.stages.values()
    with held(tmp_path, first.id, label=first.label) as pid, held(tmp_path, "f" * 32):
        found = survey(plan, tmp_path)
        assert {note["stage"]: note["pid"] for note in found.notes}[first.id] == pid
        assert found.stages[first.id].state == "running" and found.processes == 1
        assert found.count_cells() == {"running": 2}
        assert all(found.stages[stage.id].state == "waiting" for stage in rest)
    assert survey(plan, tmp_path).notes == [] and survey(plan, tmp_path).processes == 0


def test_built_in_plugins_have_durations_before_any_ran(registry: Registry, tmp_path: Path) -> None:
    left = survey(planned(registry, ["ewe", "baseline"]), tmp_path / "none").seconds_left(datetime.now(UTC))
    assert left is not None and 1 < left < 600
    with DURATIONS.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len({(row["action"], row["dataset"], row["plugin"]) for row in rows}) == len(rows) > 50
    for row in rows:
        assert 0 < float(row["seconds"]) < 3600, row
        assert plugin_name(row["dataset"]) in registry.names("dataset")
        kinds: tuple[Kind, ...] = ("defense", "attack", "analysis")
        assert not row["plugin"] or any(row["plugin"] in registry.names(kind) for kind in kinds), row


def test_a_plan_tells_the_time_as_far_as_kinds_of_stages_were_timed(
    cli: Cli, registry: Registry, tmp_path: Path
) -> None:
    asked = ("plan", "--dataset", "digits", "--defense", "ewe", "--attack", "none", "--results", tmp_path, "--nulls", 0)
    other = [TINY if word == "digits" else word for word in asked]
    assert re.search(r"^time: about .+ s on one CPU$", cli(*asked, code=0).out, re.MULTILINE)
    assert "\ntime: not known, since no stage of these kinds was timed yet\n" in cli(*other, code=0).out
    said = cli(*asked, "--dataset", TINY, code=0).out
    assert re.search(
        r"^time: about .+ s on one CPU, and \d+ stages of kinds that were never timed$", said, re.MULTILINE
    )


def test_the_time_left_is_what_the_like_took_by_the_processes_that_run(registry: Registry, tmp_path: Path) -> None:
    done, plan = planned(registry), planned(registry, seeds=(0, 1))
    store_plan(tmp_path, done)  # two seconds a stage
    now = datetime.now(UTC)
    new = [stage for stage in plan.stages.values() if stage.id not in done.stages]
    assert survey(plan, tmp_path).seconds_left(now) == pytest.approx(2 * len(new))
    began = (now - timedelta(seconds=1)).isoformat()
    with held(tmp_path, new[0].id, started=began), held(tmp_path, new[1].id, started="yesterday"):
        assert survey(plan, tmp_path).seconds_left(now) == pytest.approx((2 * len(new) - 1) / 2)
    assert survey(done, tmp_path).seconds_left(now) == 0


@pytest.mark.parametrize(
    ("started", "seconds"),
    [
        ("2026-11-24T10:00:00+00:00", 60.0),
        ("2026-11-24T12:00:00+02:00", 60.0),
        ("2026-11-24T11:00:00+00:00", 0.0),
        ("soon", None),
        (3, None),
        (None, None),
    ],
)
def test_how_long_a_stage_runs_is_told_where_its_note_says(started: Any, seconds: float | None) -> None:
    assert seconds_since({"started": started}, datetime(2026, 11, 24, 10, 1, tzinfo=UTC)) == seconds


# --- the command ---


def test_the_command_counts_what_ran_and_names_what_failed(cli: Cli, tmp_path: Path) -> None:
    plugins, results = tmp_path / "plugins", tmp_path / "results"
    plugins.mkdir()
    (plugins / "noise.py").write_text(SCHEME)
    args = [*arguments(results, "none", "noise[fault=raises]", "pruning"), "--plugins", plugins]
    before = cli("status", *args, code=0).out
    assert "3 cells: 3 waiting" in before and "no process is running; the time left is not known" in before
    assert not results.exists()
    cli("run", *args, "--quiet", code=1)
    kept = files(results)
    said = cli("status", *args, code=0).out
    assert "3 cells: 2 done, 1 failed\n" in said and "nothing else is left to do" in said
    broke = "    noise[fault=raises]: RuntimeError: the attack broke\n"
    assert said.endswith(
        f"failed:\n  attack: {TINY} baseline noise[fault=raises] #0\n{broke}"
        f"  attack: {TINY} noise[fault=raises] null #0\n{broke}"
    )
    told = json.loads(cli("status", *args, "--format", "json", code=0).out)
    assert told["cells"] == {"total": 3, "done": 2, "running": 0, "failed": 1, "skipped": 0, "waiting": 0}
    assert told["actions"]["attack"]["failed"] == 2 and told["stages"]["total"] == 14
    assert told["seconds_left"] == 0 and told["running"] == [] and len(told["failures"]) == 2
    assert files(results) == kept


def test_the_command_tells_what_runs(cli: Cli, registry: Registry, tmp_path: Path) -> None:
    plan = planned(registry, attacks=["none"])
    store_plan(tmp_path, planned(registry, attacks=["none"], seeds=(1,)))
    args = [
        "--dataset",
        "digits",
        "--defense",
        "ewe",
        "--attack",
        "none",
        "--seeds",
        "0",
        "--nulls",
        "1",
        "--no-innocents",
    ]
    embed = next(stage for stage in plan.stages.values() if stage.action == "embed")
    started = (datetime.now(UTC) - timedelta(seconds=200)).isoformat()
    note = {"label": "a \x1b[31mlabel", "action": "embed", "started": started}
    with held(tmp_path, embed.id, **note) as pid, held(tmp_path, "f" * 32):
        said = cli("status", *args, "--results", tmp_path, code=0).out
        (one, other) = json.loads(cli("status", *args, "--results", tmp_path, "--format", "json", code=0).out)[
            "running"
        ]
    assert "1 process is running; about 8 s left" in said  # clean, triggers and two verifications, of two seconds each
    assert "running now:\n  embed: a \\x1b[31mlabel\n    for 3 min 2" in said and f"s, in process {pid} on " in said
    assert f"  stage: {'f' * 32}\n    in process " in said and ", of another matrix\n" in said
    assert (one["pid"], one["of_this_matrix"], other["of_this_matrix"]) == (pid, True, False)


@pytest.mark.parametrize("command", [["status"], ["why", "x"], ["gc"], ["gc", "--delete"], ["export", "x", "out"]])
def test_a_folder_of_another_format_or_with_links_is_left_alone(cli: Cli, tmp_path: Path, command: list[str]) -> None:
    old, linked = tmp_path / "old", tmp_path / "linked"
    old.mkdir()
    (old / "format.json").write_text('{"format": 99}')
    linked.mkdir()
    (linked / "artifacts").symlink_to(old)
    for results, said in ((old, "has results of format 99"), (linked, "artifacts is a link")):
        error = cli(*command, "--results", results, code=2).err
        assert said in error and len(error.splitlines()) == 1
    assert {path.name for path in tmp_path.iterdir()} == {"old", "linked"}


@pytest.mark.parametrize("command", [["status"], ["why", "x"], ["gc"]])
def test_a_mistake_in_the_matrix_is_said_as_a_run_says_it(cli: Cli, tmp_path: Path, command: list[str]) -> None:
    for args in (["--matrix", "smok"], ["--defense", "ewe[weight=x]"], ["--seeds", "x"]):
        assert cli(*command, *args, "--results", tmp_path, code=2).err == cli("run", *args, code=2).err
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_asking_imports_no_torch(cli: Cli, tmp_path: Path) -> None:
    args = arguments(tmp_path / "results", "none")
    cli("run", *args, code=0)
    asked = (["status", *args], ["why", f"{TINY} / baseline / none #0", *args], ["gc", "--results", args[-1]])
    without({"torch._C"}, *asked)
