"""What nobody needs goes, and nothing else."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.errors import ResultsError
from harness.inspect.gc import GarbageCollector, Goes, prepared_copies, size_of
from harness.planning.graph import Plan, Stage
from harness.planning.registry import Registry, load_registry
from harness.storage.locks import Claims
from harness.storage.store import Store
from harness.storage.tables import Tables
from tests.conftest import Cli
from tests.history import edit, planned, store_plan, store_stages, write_rows
from tests.test_session import SCHEME, arguments, ran
from tests.test_status import held

ATTACKS = ["none", "retraining", "retraining | pruning", "neural-cleanse"]


@pytest.fixture(scope="module")
def registry() -> Iterator[Registry]:
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("HARNESS_PLUGINS", raising=False)
        yield load_registry()


def keeper(results: Path, *plans: Plan, began: float | None = None) -> GarbageCollector:
    """As of an hour from now, so that what the test wrote is old."""
    store, tables = Store(results), Tables(results)
    return GarbageCollector(store, tables, Claims(results), plans, began or time.time() + 3601)


def ids(goes: list[Goes]) -> set[str]:
    return {each.id for each in goes}


def only(one: Plan, other: Plan) -> list[Stage]:
    """The stages of one plan that another one has not."""
    return [stage for id, stage in one.stages.items() if id not in other.stages]


def only_in(one: Plan, other: Plan) -> set[str]:
    """Their ids."""
    return one.stages.keys() - other.stages.keys()


# --- artifacts ---


def test_what_the_rows_were_computed_from_stays(registry: Registry, tmp_path: Path) -> None:
    store_plan(tmp_path, planned(registry, ["ewe", "baseline"], ATTACKS, seeds=(0, 1)))
    assert keeper(tmp_path).goes() == []
    assert keeper(tmp_path, planned(registry, ["adi"])).goes() == []


@pytest.mark.parametrize("edited", ["retraining", "ewe", "digits"])
def test_what_was_computed_anew_goes_with_all_that_followed(registry: Registry, tmp_path: Path, edited: str) -> None:
    before, after = planned(registry, attacks=ATTACKS), planned(registry, attacks=ATTACKS, edited=[edited])
    store_plan(tmp_path, before)
    store_stages(tmp_path, only(after, before), started="2026-11-21T10:00:00+00:00")
    assert keeper(tmp_path).goes() == []  # no row names the new ones yet
    write_rows(tmp_path, after, "run-2")
    assert ids(keeper(tmp_path).goes()) == only_in(before, after)
    assert ids(keeper(tmp_path, after).goes()) == only_in(before, after)
    assert keeper(tmp_path, before).goes() == []


def test_an_old_row_keeps_its_old_victim(registry: Registry, tmp_path: Path) -> None:
    before = planned(registry, attacks=["none", "pruning"])
    after = planned(registry, attacks=["none"], edited=["ewe"])
    store_plan(tmp_path, before)
    store_plan(tmp_path, after, "run-2")
    assert keeper(tmp_path).goes() == []  # the row of pruning was computed from the victim that was


def test_what_a_killed_run_stored_goes_only_where_matrices_are_named(registry: Registry, tmp_path: Path) -> None:
    mine, other = planned(registry), planned(registry, ["adi"])
    store_stages(tmp_path, [*mine.stages.values(), *other.stages.values()])
    assert keeper(tmp_path).goes() == []
    assert ids(keeper(tmp_path, mine).goes()) == only_in(other, mine)
    assert keeper(tmp_path, mine, other).goes() == []


def test_what_cannot_be_told_stays(registry: Registry, tmp_path: Path) -> None:
    plan = planned(registry)
    store_stages(tmp_path, plan.stages.values(), inputs=None)
    store_stages(tmp_path, planned(registry, ["adi"]).stages.values())
    damaged = next(iter(only_in(planned(registry, ["adi"]), plan)))
    (Store(tmp_path).path(damaged) / "record.json").write_text("{}")
    found = keeper(tmp_path, planned(registry, ["baseline"]))
    assert ids(found.goes()).isdisjoint({*plan.stages, damaged}) and found.goes()
    assert found.untold == len(only_in(plan, planned(registry, ["adi"]))) + 1


def test_what_is_newer_or_claimed_stays(registry: Registry, tmp_path: Path) -> None:
    mine, other = planned(registry), planned(registry, ["adi"])
    store_stages(tmp_path, [*mine.stages.values(), *other.stages.values()])
    claimed = next(stage for stage in other.stages.values() if stage.action == "embed")
    assert keeper(tmp_path, mine, began=time.time() - 60).goes() == []
    goes = keeper(tmp_path, mine).goes()
    with held(tmp_path, claimed.id):
        found = keeper(tmp_path, mine)
        assert ids(found.goes()) < ids(goes)
        assert ids(found.goes()).isdisjoint({claimed.id, *(id for _, id in claimed.parents)})
        assert [note["stage"] for note in found.unplanned] == [claimed.id]
        assert ids(goes) - ids(found.delete(goes)) == {claimed.id}  # it was claimed since it was looked at
    assert Store(tmp_path).ids() == {*mine.stages, claimed.id}


def test_what_was_written_since_it_was_looked_at_stays(registry: Registry, tmp_path: Path) -> None:
    mine, other = planned(registry), planned(registry, ["adi"])
    store_stages(tmp_path, [*mine.stages.values(), *other.stages.values()])
    found = keeper(tmp_path, mine)
    goes = found.goes()
    os.utime(goes[0].path / "record.json", (time.time() + 7200,) * 2)
    assert found.delete(goes) == goes[1:] and goes[0].path.is_dir()


# --- what killed processes leave ---


def test_unfinished_folders_and_notes_go_unless_somebody_is_at_it(registry: Registry, tmp_path: Path) -> None:
    Store(tmp_path).prepare()
    mine, dead = "a" * 32, "b" * 32
    for id in (mine, dead):
        partial = Store(tmp_path).path(id).with_name(f".{id}.12345678.partial")
        partial.mkdir(parents=True)
        (partial / "tensors.safetensors").write_bytes(bytes(1000))
    (tmp_path / "artifacts" / "aa" / ".hidden").mkdir()
    (tmp_path / "claims").mkdir()
    (tmp_path / "claims" / "dead.json").write_text(json.dumps({"stage": dead}))
    (tmp_path / "claims" / "odd.json").write_text("[1, ")
    (tmp_path / "tables" / "cells").mkdir(parents=True)
    (tmp_path / "tables" / "cells" / ".run-0000.parquet.12345678.partial").touch()
    with held(tmp_path, mine):
        found = keeper(tmp_path)
        goes = found.goes()
        assert [(each.kind, each.path.name) for each in goes] == [
            ("partial", f".{dead}.12345678.partial"),
            ("partial", ".run-0000.parquet.12345678.partial"),
            ("note", "dead.json"),
            ("note", "odd.json"),
        ]
        assert goes[0].size == 1000
        assert ".run-0000.parquet.12345678.partial" not in {
            each.path.name for each in keeper(tmp_path, began=time.time() + 60).goes()
        }
        assert found.delete(goes) == goes
        left = {path.name for path in tmp_path.rglob("*") if path.is_file()}
        assert {"dead.json", "odd.json", ".run-0000.parquet.12345678.partial"}.isdisjoint(left) and "locks" in left
    assert [each.path.name for each in keeper(tmp_path).goes() if each.kind == "partial"] == [
        f".{mine}.12345678.partial"
    ]


@pytest.mark.parametrize(
    "where", ["artifacts/{shelf}", "artifacts/{shelf}/{id}", "artifacts/{shelf}/.{id}.12345678.partial"]
)
def test_links_are_refused(registry: Registry, tmp_path: Path, where: str) -> None:
    results, outside = tmp_path / "results", tmp_path / "outside"
    plan = planned(registry, ["adi"])
    store_stages(results, plan.stages.values())
    id = next(iter(plan.stages))
    path = results / where.format(shelf=id[:2], id=id)
    if path.exists():
        path.rename(outside)
    else:
        outside.mkdir()
    (outside / "precious").touch()
    path.symlink_to(outside)
    try:
        found = keeper(results, planned(registry, ["baseline"]))
        found.delete(found.goes())
    except ResultsError as error:
        assert "is a link" in str(error)
    assert (outside / "precious").exists()
    assert path.is_symlink()


def test_prepared_copies_are_those_of_the_cache(tmp_path: Path) -> None:
    (tmp_path / "one.safetensors").write_bytes(bytes(10))
    (tmp_path / "deeper").mkdir()
    assert [(each.kind, each.size) for each in prepared_copies(tmp_path, time.time() + 7200)] == [("prepared", 10)]
    assert prepared_copies(tmp_path / "none", time.time()) == []
    (tmp_path / "link").symlink_to(tmp_path / "deeper")
    with pytest.raises(ResultsError, match="is a link"):
        prepared_copies(tmp_path / "link", time.time())


def test_a_size_is_that_of_all_files_and_of_no_link(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "b").write_bytes(bytes(7))
    (tmp_path / "c").write_bytes(bytes(5))
    (tmp_path / "d").symlink_to(tmp_path / "c")
    assert size_of(tmp_path) == 12 and size_of(tmp_path / "c") == 5 and size_of(tmp_path / "none") == 0


# --- the command ---


def test_the_command_tells_then_deletes_and_the_run_misses_nothing(cli: Cli, tmp_path: Path) -> None:
    plugins, results = tmp_path / "plugins", tmp_path / "results"
    plugins.mkdir()
    (plugins / "noise.py").write_text(SCHEME)
    args = [*arguments(results, "none", "noise", "noise | pruning"), "--plugins", plugins]
    cli("run", *args, code=0)
    edit(plugins / "noise.py", "self.strength *", "2 * self.strength *")
    assert ran(cli("run", *args, code=0).out) == 8
    stored = Store(results).ids()
    told = cli("gc", "--results", results, code=0).out
    assert "attack          4  " in told and "verify          2  " in told and "all             8  " in told
    assert "ask             2  " in told
    assert told.endswith("nothing was deleted: --delete does\n") and Store(results).ids() == stored
    assert "deleted 8, 0." in cli("gc", "--results", results, "--delete", code=0).out
    assert len(Store(results).ids()) == len(stored) - 8
    assert cli("gc", "--results", results, "--delete", code=0).out == "nothing to delete\n"
    assert cli("run", *args, code=0).out.startswith("nothing to do")
    assert ran(cli("run", *args, "--attack", "noise | fine-tuning", code=0).out) == 4  # its victims are there


def test_a_run_of_another_matrix_is_not_swept_away(cli: Cli, registry: Registry, tmp_path: Path) -> None:
    store_stages(tmp_path, planned(registry).stages.values())
    with held(tmp_path, "f" * 32, label="of another", action="embed"):
        cli("gc", "--results", tmp_path, code=0)
        error = cli("gc", "--results", tmp_path, "--matrix", "smoke", "--delete", code=2).err
    assert len(error.splitlines()) == 1 and "computes a stage of no matrix named here (of another)" in error
    assert Store(tmp_path).ids() == planned(registry).stages.keys()
