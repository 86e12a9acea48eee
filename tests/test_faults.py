"""Faults: two runs at once, killed, hanging, torn, full, set back. The next run goes on, and no table is wrong."""

from __future__ import annotations

import errno
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime, tzinfo
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch

import harness
from harness.data import Data
from harness.engine.train import Engine
from harness.errors import OutOfMemory
from harness.planning.builder import make_plan
from harness.planning.graph import Stage
from harness.planning.registry import load_registry
from harness.running import session
from harness.running.executor import Serial
from harness.running.locking import Claimed
from harness.running.processes import Local
from harness.running.worker import StageRunner
from harness.storage.locks import Claims
from harness.storage.schema import TABLES
from harness.storage.store import Store
from harness.storage.tables import Tables
from tests.conftest import ROOT, TINY, Cli, command_line
from tests.test_claims import held
from tests.test_session import SCHEME, arguments, measured, ran
from tests.test_workers import Books, stage
from tests.warm import Started

pytestmark = pytest.mark.slow

HANGS = '''
from __future__ import annotations
import time
from dataclasses import dataclass
from typing import ClassVar
import torch
from harness import Attack, Context, Pool, WhiteBoxAttack, hookimpl

@dataclass(frozen=True)
class Hangs(WhiteBoxAttack):
    """Never ends."""
    name: ClassVar[str] = "hangs"
    family: ClassVar[str] = "removal"

    def run(self, victim: torch.nn.Module, pool: Pool, ctx: Context) -> torch.nn.Module:
        while True:
            time.sleep(1)

@hookimpl
def harness_attacks() -> list[type[Attack]]:
    return [Hangs]
'''
ATTACKS = ("none", "retraining", "pruning")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results of a run that nothing happened to. To be copied."""
    results = tmp_path_factory.mktemp("whole") / "results"
    assert command_line("run", *arguments(results, *ATTACKS), "--quiet") == 0
    return results


@pytest.fixture
def copied(whole: Path, tmp_path: Path) -> Path:
    shutil.copytree(whole, tmp_path / "copied")
    return tmp_path / "copied"


def assert_equal(results: Path, whole: Path) -> None:
    """Every table as if nothing had happened; what a process recalls, it need not evaluate."""
    for name in TABLES:
        left, right = measured(results, name), measured(whole, name)
        if name == "stages":
            for frame in (left, right):
                frame["asked"] = frame.pop("evaluated_samples") + frame.pop("recalled_samples")
        pd.testing.assert_frame_equal(left, right)


# --- two runs at once -------------------------------------------------------------------------------------------------


MEETS = (
    HANGS.replace("hangs", "meets")
    .replace("Hangs", "Meets")
    .replace("import time\n", "import time\nfrom pathlib import Path\n")
    .replace("    def run(", "    last: bool = False\n\n    def run(")
    .replace(
        """        while True:
            time.sleep(1)
""",
        """        here = Path(__file__).parent
        with open(here / "began", "a") as file:
            file.write("last " if self.last else "first ")
        if self.last:
            (here / "go").touch()
        while not (here / "go").exists():
            time.sleep(0.02)
        return victim
""",
    )
)


@pytest.mark.usefixtures("warm_workers")
def test_two_runs_at_once_compute_no_stage_twice(cli: Cli, tmp_path: Path) -> None:
    """The one that comes later, with worker processes, meets the other one in the middle of a stage of both."""
    both, one, plugins = tmp_path / "both", tmp_path / "one", tmp_path / "plugins"
    plugins.mkdir()
    (plugins / "meets.py").write_text(MEETS)
    common, more = ["none", "meets", "retraining"], ["pruning", "meets[last=true]"]
    with Started("run", *arguments(both, *common, more[0]), "--plugins", plugins) as other:
        while not (plugins / "began").exists():
            assert other.returncode is None, other.stderr.read()
            time.sleep(0.02)
        here = cli("run", *arguments(both, *common, more[1]), "--plugins", plugins, "--jobs", 2, code=0)
        out, err = other.communicate()
    assert other.returncode == 0, err
    began = sorted((plugins / "began").read_text().split())
    assert began == ["first", "first", "last", "last"], "on victim and null model; no other worker was at the first"
    assert "(4 ok)" in out and "(4 ok)" in here.out, "each knows all of its cells"
    stages = harness.read_table(both, "stages")
    assert stages["stage"].is_unique and set(stages["status"]) == {"ok"}
    assert ran(out) + ran(here.out) == len(stages), "computed once each"
    cli("run", *arguments(one, *common, *more), "--plugins", plugins, code=0)
    assert_equal(both, one)
    again = cli("run", *arguments(both, *common, *more), "--plugins", plugins, code=0)
    assert again.out.startswith("nothing to do")


def test_a_stage_of_a_process_that_dies_is_computed_here_after_all(cli: Cli, whole: Path, tmp_path: Path) -> None:
    stages = harness.read_table(whole, "stages").set_index("action")
    claimed = stages.loc["embed", "stage"]
    with held(tmp_path, claimed) as other, Started("run", *arguments(tmp_path, *ATTACKS)) as running:
        first = [running.stderr.readline() for _ in range(3)]  # clean, its triggers or null: all but embedding
        assert not any("embed" in line for line in first)
        time.sleep(1)
        assert running.returncode is None
        other.kill()
        out = running.stdout.read()
    assert running.returncode == 0 and ran(out) == len(stages)
    assert_equal(tmp_path, whole)


ID, OTHER, CHILD = "a" * 32, "b" * 32, "c" * 32


def stored(store: Store, stage: Stage, seconds: float) -> None:
    """Store what another run might have made of a stage."""
    own = {"stage": stage.id, "action": "triggers", "label": stage.label, "dataset": "dots", "plugin": ""}
    store.save(
        stage.id, {**own, "status": "ok", "reason": "", "started": "2026-01-01T00:00:00+00:00"} | {"seconds": seconds}
    )


def triggers(id: str = ID) -> Stage:
    made = stage(id)
    return Stage(made.id, "triggers", "", 0, 0, made.dataset)


def test_what_was_stored_since_the_run_began_is_taken_over_and_nothing_older(tmp_path: Path) -> None:
    store, claims = Store(tmp_path), Claims(tmp_path)
    stored(store, triggers(), 1.0)
    begin = {ID: ("2026-01-01T00:00:00+00:00", 1.0)}
    work = Claimed(lambda stage: {"computed": stage.id}, claims, store, begin)
    assert work(triggers()) == {"computed": ID}, "--rerun all: what there was does not count"
    stored(store, triggers(), 2.0)
    taken = work(triggers())
    assert taken is not None and taken["seconds"] == 2.0 and taken["elsewhere"]
    with held(tmp_path, ID):
        assert work(triggers()) is None
    (store.path(ID) / "record.json").write_bytes(b"")
    assert work(triggers()) == {"computed": ID}, "what is damaged is not taken over"
    assert claims.running() == [], "no claim is left"
    claims.close()


def test_what_another_run_is_at_waits_and_the_rest_goes_on() -> None:
    turns: list[str] = []

    def work(stage: Stage) -> dict[str, Any] | None:
        turns.append(stage.id)
        busy = stage.id == "a" and turns.count("a") < 3
        return None if busy else {"stage": stage.id, "status": "ok"}

    books, begin, spent = Books(), time.monotonic(), time.process_time()
    Serial(work).run([stage("a"), stage("b", parents="a"), stage("c"), stage("d", parents="c")], books)
    assert turns == ["a", "c", "d", "a", "a", "b"] and list(books.ended) == ["c", "d", "a", "b"]
    assert time.monotonic() - begin > 0.5, "with pauses"
    assert time.process_time() - spent < 0.3, "and idle in them"
    Serial(lambda stage: None).run([stage("a")], Books(stop=iter_after(3)))  # Ctrl-C ends the waiting


def iter_after(turns: int) -> Any:
    """True from some turn on."""
    count = iter(range(100))
    return lambda ended: next(count) >= turns


BUSY = """
import time
from pathlib import Path
def make(number, stages, warn):
    turns = []
    def work(stage):
        turns.append(stage.id)
        if stage.label == "hang":
            time.sleep(60)
        busy = stage.label == "busy" and turns.count(stage.id) < 3
        return None if busy else {"stage": stage.id, "status": "ok", "turns": "".join(turns)}
    return work
"""


def test_workers_put_off_what_is_claimed_and_die_of_what_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "busy_work.py").write_text(BUSY)
    monkeypatch.syspath_prepend(tmp_path)
    import busy_work  # type: ignore[import-not-found]

    stages = [stage("a", "busy"), stage("b", parents="a"), stage("c"), stage("h", "hang"), stage("i", parents="h")]
    books = Books()
    begin = time.monotonic()
    Local(1, busy_work.make, {each.id: each for each in stages}, print, limit=1.5).run(stages, books)
    assert time.monotonic() - begin < 50
    assert books.ended["h"]["reason"] == "dots: took longer than --stage-timeout 1.5 s"
    assert {id: record["status"] for id, record in books.ended.items()} == {
        **{"c": "ok", "h": "failed", "i": "skipped", "a": "ok", "b": "ok"}
    }
    assert list(books.ended).index("c") < list(books.ended).index("a") < list(books.ended).index("b")


# --- out of a device's memory -----------------------------------------------------------------------------------------

CROWDED = """
from pathlib import Path
import time
from harness.errors import OutOfMemory

here = Path(__file__).parent

def make(number, stages, warn):
    def work(stage):
        mine = here / f"{stage.id}.running"
        mine.touch()
        time.sleep(0.2)
        beside = len(list(here.glob("*.running"))) - 1
        mine.unlink()
        tried = here / f"{stage.id}.tried"
        if stage.label == "huge" or (stage.label == "big" and not tried.exists()):
            tried.touch()
            raise OutOfMemory("CUDA out of memory")
        return {"stage": stage.id, "status": "ok", "beside": beside}
    return work
"""


def test_a_stage_that_ran_out_of_memory_is_tried_again_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "crowded_work.py").write_text(CROWDED)
    monkeypatch.syspath_prepend(tmp_path)
    import crowded_work  # type: ignore[import-not-found]

    stages = [stage("a", "big"), stage("b", "huge"), stage("c", "big"), stage("d", parents="b")]
    stages += [stage("e", parents="ac"), *(stage(f"{n}") for n in range(6))]
    books = Books()
    Local(3, crowded_work.make, {each.id: each for each in stages}, print).run(stages, books)
    ended = books.ended
    assert ended["a"]["beside"] == ended["c"]["beside"] == 0, "alone"
    assert max(ended[f"{n}"]["beside"] for n in range(6)) > 0, "as others are not"
    assert ended["b"]["reason"] == "dots: it ran out of memory with no other stage beside it: CUDA out of memory"
    assert {id for id, record in ended.items() if record["status"] != "ok"} == {"b", "d"} and len(ended) == 11


def test_only_what_shares_a_device_asks_to_run_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use = load_registry().component
    plan = make_plan([use("dataset", TINY)], [use("defense", "baseline")], [(use("attack", "none"),)], [0], 0, use)
    first = next(iter(plan.stages.values()))

    def out(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(Engine, "build", out)
    store = Store(tmp_path)
    store.prepare()
    worker = StageRunner(store, Data(Path("no-folder")), plan.stages, use, torch.device("cpu"), shares_device=True)
    with pytest.raises(OutOfMemory, match="CUDA out of memory"):
        worker.run(first)
    assert store.ids() == set(), "nothing is stored of it"
    record = replace(worker, shares_device=False).run(first)
    assert record["status"] == "failed" and "OutOfMemoryError: CUDA out of memory" in record["reason"]


# --- hanging ----------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("warm_workers")
def test_a_plugin_that_hangs_fails_its_own_cell(cli: Cli, tmp_path: Path) -> None:
    plugins = tmp_path / "plugins"
    plugins.mkdir()
    (plugins / "hangs.py").write_text(HANGS)
    args = [*arguments(tmp_path / "r", "hangs", "none", "pruning"), "--plugins", plugins, "--stage-timeout", 5]
    said = cli("run", *args, code=1)
    assert "hangs: took longer than --stage-timeout 5 s" in said.err
    cells = harness.read_table(tmp_path / "r", "cells").set_index("attack")
    assert cells["status"].to_dict() == {"hangs": "failed", "none": "ok", "pruning": "ok"}
    refused = cli("run", *args, "--debug", code=2)
    assert "--stage-timeout" in refused.err


# --- files left open --------------------------------------------------------------------------------------------------

LEAKS = (
    HANGS.replace("hangs", "leaks")
    .replace("Hangs", "Leaks")
    .replace(
        """    def run(""",
        """    most: int = 9999

    def run(""",
    )
    .replace(
        """        while True:
            time.sleep(1)
""",
        """        (Path(__file__).parent / f"{os.getpid()}.pid").touch()
        KEPT.append([])
        try:
            KEPT[-1].extend(open(__file__) for _ in range(self.most))
        except OSError:
            pass
        return victim
""",
    )
    .replace("import time\n", "import multiprocessing, os, resource, time\nfrom pathlib import Path\n")
    + "\nKEPT = []\n"
    + "if multiprocessing.parent_process():  # in a worker\n"
    + "    resource.setrlimit(resource.RLIMIT_NOFILE, (300, 300))\n"
)


@pytest.mark.skipif(sys.platform != "linux", reason="open files are counted in /proc")
@pytest.mark.usefixtures("warm_workers")
def test_a_plugin_that_leaves_files_open_costs_its_worker_and_nothing_else(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "plugins").mkdir()
    (tmp_path / "plugins" / "leaks.py").write_text(LEAKS)
    attacks = ("none", "leaks[most=200]", "leaks", "pruning", "retraining")
    options = ("--plugins", tmp_path / "plugins", "--quiet", "--stage-timeout", 100)  # with it one worker at a time
    cli("run", *arguments(tmp_path / "r", *attacks), *options, code=1)
    cells = harness.read_table(tmp_path / "r", "cells").set_index("attack")
    assert set(cells.index[cells["status"] == "ok"]) == {*attacks} - {"leaks"}
    assert "Too many open files" in cells.loc["leaks", "reason"]
    assert len(list((tmp_path / "plugins").glob("*.pid"))) == 4, "on victim and null model; no worker ran two"


# --- killed -----------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_kills_at_random_points_leave_the_tables_of_a_run_that_nobody_killed() -> None:
    with Started("--kills", 16, "--seed", 1, cwd=ROOT, module="benchmarks.faults") as suffering:
        out, err = suffering.communicate()
    assert suffering.returncode == 0 and "16 kills" in out and "tables equal" in out, out + err


# --- torn by a power cut ----------------------------------------------------------------------------------------------


def tear(path: Path, dice: random.Random) -> None:
    """What a power cut may leave of a file that was not synced: less of it, or other bytes."""
    size = path.stat().st_size
    kept = dice.randrange(size)
    path.write_bytes(dice.choice([path.read_bytes()[:kept], b"", bytes(size), dice.randbytes(size)]))


@pytest.mark.parametrize("seed", range(6))
def test_torn_tables_are_set_aside_and_written_anew(cli: Cli, copied: Path, whole: Path, seed: int) -> None:
    dice = random.Random(seed)
    parts = sorted((copied / "tables").glob("*/*.parquet"))
    torn = dice.sample(parts, dice.randint(1, 2))
    for part in torn:
        tear(part, dice)
    ended = cli("run", *arguments(copied, *ATTACKS), "--quiet", code=0)
    assert all(f"{part} is cut short: it is set aside" in ended.err for part in torn)
    assert ran(ended.out) == 0, "nothing is computed again"
    assert_equal(copied, whole)
    assert cli("run", *arguments(copied, *ATTACKS), code=0).err == "", "and all is well"


def test_what_earlier_runs_wrote_is_not_set_aside(tmp_path: Path) -> None:
    tables = Tables(tmp_path)
    for run in ("20260101T000000-aaaaaa", "20260102T000000-bbbbbb", "20260103T000000-cccccc"):
        tables.append("stages", run, [{"stage": run[-1] * 32}])
        tables.append("curves", run, [{"stage": run[-1] * 32, "training": 0, "epoch": 1, "quantity": "loss"}])
    part = tmp_path / "tables" / "curves" / "20260102T000000-bbbbbb-0000.parquet"
    os.truncate(part, 100)
    assert tables.mend() == [part] and tables.mend() == []
    assert set(tables.read("stages")["stage"]) == {"a" * 32} == set(tables.read("curves")["stage"])
    assert len(list((tmp_path / "tables").glob("*/.*.aside"))) == 4, "kept, out of the way"


@pytest.mark.parametrize("seed", range(6))
def test_torn_artifacts_are_computed_again(cli: Cli, copied: Path, whole: Path, seed: int) -> None:
    dice = random.Random(seed)
    shutil.rmtree(copied / "tables")
    files = sorted(path for path in (copied / "artifacts").rglob("*") if path.is_file())
    torn = dice.sample(files, 4)
    for path in torn:
        tear(path, dice)
    (copied / "artifacts" / torn[0].parent.name[:2] / f".{'0' * 32}.12345678.partial").mkdir()
    cli("run", *arguments(copied, *ATTACKS), code=0)
    assert_equal(copied, whole)


# --- full, and set back -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["tables", "artifacts"])
@pytest.mark.parametrize("room", [0, 3, 8])
def test_a_full_disk_is_one_line_and_the_next_run_goes_on(
    cli: Cli, tmp_path: Path, whole: Path, monkeypatch: pytest.MonkeyPatch, place: str, room: int
) -> None:
    """There is room for some files, then for half of one and no more; and rows are written after every stage."""
    monkeypatch.setattr(session, "FLUSH_SECONDS", -1.0)
    left = room
    module, name = (pq, "write_table") if place == "tables" else (Path, "write_bytes")
    write = getattr(module, name)

    def full(*args: Any, **options: Any) -> Any:
        nonlocal left
        left -= 1
        if left >= 0:
            return write(*args, **options)
        path = Path(args[1].name if place == "tables" else args[0])
        path.touch()
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(module, name, full)
        ended = cli("run", *arguments(tmp_path, *ATTACKS), "--quiet", code=2)
    assert ended.err.startswith("harness: cannot write ") and ended.err.endswith(": No space left on device\n")
    assert ended.err.count("\n") == 1
    assert not list(tmp_path.rglob("*.partial"))
    cli("run", *arguments(tmp_path, *ATTACKS), code=0)
    assert_equal(tmp_path, whole)


@contextmanager
def disk(path: Path, kib: int) -> Iterator[None]:
    """A disk of its own, of so many KiB. Skips where no disk may be mounted."""
    path.mkdir()
    mount = ("mount", "-t", "tmpfs", "-o", f"size={kib}k", "tmpfs", path)
    if sys.platform != "linux" or os.geteuid() or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("only root may mount a small disk, and not everywhere")
    try:
        yield
    finally:
        subprocess.run(("umount", "--lazy", path), check=True)


@pytest.mark.usefixtures("warm_workers")
@pytest.mark.parametrize("jobs", [1, 2])
@pytest.mark.parametrize("kib", [64, 300])
def test_a_disk_that_is_really_full(cli: Cli, tmp_path: Path, whole: Path, jobs: int, kib: int) -> None:
    results = tmp_path / "disk"
    with disk(results, kib):
        ended = cli("run", *arguments(results, *ATTACKS), "--quiet", "--jobs", jobs, code=2)
        assert ended.err.startswith("harness: cannot write ") and ended.err.endswith(": No space left on device\n")
        assert ended.err.count("\n") == 1
        subprocess.run(("mount", "-o", "remount,size=64m", results), check=True)
        cli("run", *arguments(results, *ATTACKS), "--jobs", jobs, code=0)
        assert_equal(results, whole)


class SetBack(datetime):
    """A clock that was set back by decades."""

    @classmethod
    def now(cls, tz: tzinfo | None = None) -> SetBack:
        return cls(2001, 2, 3, tzinfo=tz)


def test_rows_of_a_later_run_win_also_where_the_clock_was_set_back(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plugins = tmp_path / "plugins"
    plugins.mkdir()
    (plugins / "noise.py").write_text(SCHEME.replace('== "raises"', '== "none"'))
    args = [*arguments(tmp_path / "r", "noise"), "--plugins", plugins]
    cli("run", *args, code=1)
    (plugins / "noise.py").write_text(SCHEME)
    from harness.planning.graph import source_digest

    source_digest.cache_clear()
    monkeypatch.setattr(session, "datetime", SetBack)
    cli("run", *args, code=0)
    assert harness.read_table(tmp_path / "r", "cells")["status"].tolist() == ["ok"]
    assert cli("run", *args, code=0).out.startswith("nothing to do")


@pytest.mark.parametrize(
    ("runs", "expected"),
    [
        ([], "20260101T000000"),
        (["20250101T000000-aaaaaa"], "20260101T000000"),
        (["20260101T000000-ffffff", "20250101T000000-aaaaaa"], "20260101T000001"),
        (["20991231T235959-aaaaaa"], "21000101T000000"),
        (["99991231T235959-aaaaaa"], "20260101T000000"),
        (["20261399T000000-aaaaaa", "stranger"], "20260101T000000"),
    ],
)
def test_the_name_of_a_run_sorts_after_all_earlier_ones(tmp_path: Path, runs: list[str], expected: str) -> None:
    from datetime import UTC

    tables = Tables(tmp_path)
    for run in runs:
        tables.append("stages", run, [{"stage": ID}])
    assert tables.time_of_next_run(datetime(2026, 1, 1, tzinfo=UTC)) == expected
