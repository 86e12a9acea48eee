"""Stages in worker processes: the same bits, and whatever dies takes nothing along but itself."""

from __future__ import annotations

import importlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
import torch

import harness
from harness.errors import HarnessError, UsageError
from harness.planning.graph import Component, Stage
from harness.running import cores, machine
from harness.running import environment as resources
from harness.running.executor import unstored
from harness.running.processes import Local, Queue
from tests.conftest import Cli
from tests.test_session import arguments, measured, ran
from tests.warm import Started

MORTAL = '''
from __future__ import annotations
import os, signal
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar
import torch
from harness import Attack, Context, Pool, WhiteBoxAttack, hookimpl

@dataclass(frozen=True)
class Mortal(WhiteBoxAttack):
    """Takes its process down, as long as the file `curse` lies beside this one."""
    name: ClassVar[str] = "mortal"
    family: ClassVar[str] = "removal"
    how: str = "exits"

    def run(self, victim: torch.nn.Module, pool: Pool, ctx: Context) -> torch.nn.Module:
        if (Path(__file__).parent / "curse").exists():
            if self.how == "exits":
                os._exit(3)
            if self.how == "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            raise RuntimeError("the attack broke")
        return victim

@hookimpl
def harness_attacks() -> list[type[Attack]]:
    return [Mortal]
'''

WORK = '''
"""What stands in for the harness's worker, and needs no torch: a stage does what its label says."""
import os, signal, time
from harness.errors import ResultsError

def make(number, stages, warn):
    def work(stage):
        word, _, rest = stage.label.partition(" ")
        if word == "exit":
            os._exit(int(rest))
        if word == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if word == "raise":
            raise OSError(rest)
        if word == "refuse":
            raise ResultsError(rest)
        if word == "warn":
            warn(rest)
        if word == "load":
            warn.clock("loading")
            time.sleep(float(rest))
            warn.clock("began")
        if word == "hang":
            warn.clock("loading"), warn.clock("began")
            time.sleep(60)
        if word == "sleep":
            with open(rest, "a") as file:
                file.write(f"{os.getpid()}\\n")
            time.sleep(60)
        return {"stage": stage.id, "status": "ok", "pid": os.getpid(), "known": sorted(stages), "number": number}
    return work

def make_nothing(number, stages, warn):
    raise ImportError("no module of that name")

def make_an_end(number, stages, warn):
    os._exit(7)

class Unreadable:
    def __reduce__(self):
        return int, ("not a number",)

def run(label, jobs):
    """A run of two stages that Ctrl-C ends as it does that of the command line."""
    from harness.running.start import stop_on_interrupt
    from harness.running.processes import Local
    from harness.planning.graph import Stage, Component
    from types import SimpleNamespace
    stages = [Stage(name, "train", label, 0, 0, Component("dataset", "dots", "", None)) for name in "ab"]
    with stop_on_interrupt(print) as stopping:
        control = SimpleNamespace(going=lambda: not stopping(), begin=lambda stage: None, end=print)
        Local(jobs, make, {stage.id: stage for stage in stages}, print).run(stages, control)
'''


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The module WORK, which worker processes find too."""
    (tmp_path / "stand_in.py").write_text(WORK)
    monkeypatch.syspath_prepend(tmp_path)
    yield importlib.import_module("stand_in")
    del sys.modules["stand_in"]


@pytest.fixture
def plugins(tmp_path: Path) -> Path:
    folder = tmp_path / "plugins"
    folder.mkdir()
    (folder / "mortal.py").write_text(MORTAL)
    (folder / "curse").touch()
    return folder


def stage(id: str, label: str = "", parents: str = "", plugin: object = None) -> Stage:
    """A stage whose parents are the letters of ``parents``."""
    roles = tuple((f"parent:{parent}", parent) for parent in parents)
    return Stage(id, "train", label, 0, 0, Component("dataset", "dots", "", plugin), parents=roles)


class Books:
    """Stands in for the session: writes down what it is told, and may end the run after some stages."""

    def __init__(self, stop: Callable[[list[str]], bool] = lambda ended: False) -> None:
        self.stop = stop
        self.began: list[str] = []
        self.ended: dict[str, dict[str, Any]] = {}

    def going(self) -> bool:
        return not self.stop(list(self.ended))

    def begin(self, stage: Stage) -> dict[str, Any] | None:
        bad = [id for _, id in stage.parents if self.ended[id]["status"] != "ok"]
        if bad:
            return unstored(stage, "skipped", self.ended[bad[0]]["reason"])
        self.began.append(stage.id)
        return None

    def end(self, stage: Stage, record: dict[str, Any]) -> None:
        assert stage.id not in self.ended
        self.ended[stage.id] = record


def executed(make: Any, stages: list[Stage], jobs: int = 1, books: Books | None = None) -> tuple[Books, list[str]]:
    """What the books say after a run of ``stages``, and the warnings."""
    books, warnings = books or Books(), list[str]()
    Local(jobs, make, {each.id: each for each in stages}, warnings.append).run(stages, books)
    return books, warnings


# --- the command line -------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_several_workers_leave_the_bits_of_a_serial_run_and_go_on_with_it(cli: Cli, tmp_path: Path) -> None:
    """These ones start cold, as a user's do."""
    one, two = tmp_path / "one", tmp_path / "two"
    chosen = ("retraining", "pruning", "none")
    cli("run", *arguments(one, *chosen, defense="ewe"), "--analysis", "cka", code=0)
    # One of the cells is there when the workers come: its models are then parents from an earlier run.
    cli("run", *arguments(two, "none", defense="ewe"), "--analysis", "cka", code=0)
    rest = [*arguments(two, *chosen, defense="ewe"), "--analysis", "cka", "--jobs", 2]
    assert ran(cli("run", *rest, code=0).out) == 2 * (
        1 + 1 + 1 + 2
    )  # attack, verify, analyse; attack and ask the null model
    files = {path.relative_to(one) for path in (one / "artifacts").glob("*/*/tensors.safetensors")}
    assert files == {path.relative_to(two) for path in (two / "artifacts").glob("*/*/tensors.safetensors")}
    assert all((one / file).read_bytes() == (two / file).read_bytes() for file in files)
    for table in ("cells", "evidence", "curves", "measurements", "stages"):
        pd.testing.assert_frame_equal(measured(one, table), measured(two, table))
    assert cli("run", *rest, code=0).out.startswith("nothing to do: 3 cells (3 ok)")


@pytest.mark.slow
@pytest.mark.usefixtures("warm_workers")
def test_a_plugin_that_takes_its_process_down_fails_its_own_cell(cli: Cli, tmp_path: Path, plugins: Path) -> None:
    exits, killed = "mortal", "mortal[how=killed]"
    args = [*arguments(tmp_path, exits, killed, f"{killed} | pruning", "none", "pruning"), "--plugins", plugins]
    said = cli("run", *args, "--jobs", 2, code=1)
    assert "mortal: the worker process ended with exit code 3" in said.err
    cells = harness.read_table(tmp_path, "cells").set_index("attack")
    broken = {exits: "failed", killed: "failed", f"{killed} | pruning": "failed"}
    assert cells["status"].to_dict() == {**broken, "none": "ok", "pruning": "ok"}
    assert "mortal[how=killed]: the worker process was killed by SIGKILL" in cells.loc[killed, "reason"]
    stages = harness.read_table(tmp_path, "stages")
    assert Counter(stages[stages["status"] == "failed"]["role"]) == {"surrogate": 2, "attacked": 2}
    (plugins / "curse").unlink()
    assert ran(cli("run", *args, code=0).out) == 2 * 4 + 4, "what failed, and what it blocked"
    assert set(harness.read_table(tmp_path, "cells")["status"]) == {"ok"}


@pytest.mark.slow
@pytest.mark.usefixtures("warm_workers")
def test_fail_fast_starts_nothing_after_a_failure(cli: Cli, tmp_path: Path, plugins: Path) -> None:
    many = [f"retraining[queries={n}]" for n in range(50, 60)]
    args = arguments(tmp_path, "mortal[how=raises]", *many)
    said = cli("run", *args, "--plugins", plugins, "--fail-fast", "--jobs", 2, code=1)
    assert "the attack broke" in said.err
    assert "1 failed" in said.out and "not run" in said.out


@pytest.mark.slow
def test_ctrl_c_in_a_terminal_lets_the_running_stages_end(tmp_path: Path, cli: Cli) -> None:
    chosen = ("none", "retraining", "fine-tuning")
    args = arguments(tmp_path / "cut", *chosen, seeds="0-2")
    with Started("run", *args, "--log-json", "--jobs", 2) as process:
        events = [json.loads(process.stdout.readline()) for _ in range(4)]
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the workers too
        events += [json.loads(line) for line in process.stdout]
        said = process.stderr.read()
    assert process.returncode == 130
    assert "the same command goes on" in said and "Traceback" not in said
    started, ended = ({e["stage"] for e in events if e["event"] == kind} for kind in ("started", "ended"))
    assert started == ended and {e["status"] for e in events if e["event"] == "ended"} == {"ok"}
    total = next(e["total"] for e in events if e["event"] == "ended")
    assert len(ended) < total
    assert ran(cli("run", *args, code=0).out) == total - len(ended)


@pytest.mark.parametrize("jobs", ["0", "x", "-1", "2.0", "1025", ""])
def test_a_number_of_jobs_that_is_none_is_one_line(cli: Cli, jobs: str) -> None:
    said = cli("run", "--jobs", jobs, code=2)
    assert said.err.startswith("harness: Invalid value for '--jobs': expected a whole number from 1 to 1024, or auto")
    assert len(said.err.splitlines()) == 1


def test_the_debugger_needs_the_stages_in_this_process(cli: Cli, tmp_path: Path) -> None:
    said = cli("run", *arguments(tmp_path / "results", "none"), "--jobs", 2, "--debug", code=2)
    assert said.err == "harness: --debug opens the debugger in this process: it needs --jobs 1\n"
    assert not (tmp_path / "results").exists()


def test_missing_data_are_told_before_a_worker_starts(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Local, "run", lambda *_: pytest.fail("workers were started"))
    chosen = ("--dataset", "mnist", "--data", tmp_path, "--results", tmp_path / "results")
    for command in (("run",), ("reproduce", "ewe-2021", "table-1-v1")):
        rest = chosen if command == ("run",) else chosen[2:]
        said = cli(*command, *rest, "--jobs", 2, code=2)
        *facts, last = said.err.splitlines()  # a short line for each of several sets, and once what to type
        assert last.startswith("harness: ") and "harness data fetch mnist" in last and len(facts) == len(set(facts)) > 1
        assert all(re.fullmatch(r"warning: [a-z-]+: no \S+ in [^;]+", fact) for fact in facts)


# --- how many, and where ----------------------------------------------------------------------------------------------


def test_auto_is_a_worker_a_cpu_and_some_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(6)), raising=False)
    monkeypatch.setattr(cores, "_GROUPS", Path("no such file"))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.setattr(resources, "available_memory", lambda: None)
    assert [machine._suitable(torch.device("cpu"), threads) for threads in (1, 2, 4, 12)] == [6, 3, 1, 1]
    for memory, jobs in ((2**30, 1), (9 * 2**30, 4), (2**40, 6)):
        monkeypatch.setattr(resources, "available_memory", lambda memory=memory: memory)
        assert machine._suitable(torch.device("cpu"), 1) == jobs
    assert machine._suitable(torch.device("cuda"), 1) == 3 * machine.WORKERS_A_GPU
    assert machine._suitable(torch.device("cuda:1"), 1) == machine.WORKERS_A_GPU


def test_workers_go_round_the_gpus_unless_one_was_named(monkeypatch: pytest.MonkeyPatch) -> None:
    current: list[int] = []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.setattr(torch.cuda, "set_device", current.append)
    spread = [machine._shared(torch.device("cuda"), number) for number in range(4)]
    assert spread == [torch.device("cuda", index) for index in (0, 1, 2, 0)] and current == [0, 1, 2, 0]
    assert machine._shared(torch.device("cuda:2"), 0) == torch.device("cuda:2")


# --- which stage is next ----------------------------------------------------------------------------------------------


def test_a_stage_waits_for_its_parents_and_goes_where_they_are_at_hand() -> None:
    queue = Queue([stage("a"), stage("b"), stage("c", parents="a"), stage("d", parents="ab"), stage("e", parents="b")])
    assert [queue.take().id, queue.take().id, queue.take()] == ["a", "b", None]  # type: ignore[union-attr]
    b, a = queue.stages[1], queue.stages[0]
    queue.done(b)
    assert queue.take(["a"]) == queue.stages[4], "the only one that is ready"
    queue.done(a)
    assert queue.take(["b"]) == queue.stages[3], "c stands first in the plan, but b is at hand"
    assert queue.take(["b"]) == queue.stages[2] and queue.left == 0 and queue.take() is None


def test_parents_that_are_stored_are_not_waited_for() -> None:
    queue = Queue([stage("b", parents="a"), stage("c", parents="b"), stage("d", parents="a")])
    assert queue.take(["a"]) == queue.stages[0]
    assert queue.take(["a"]) == queue.stages[2] and queue.take() is None


def test_planning_ahead_stays_cheap_with_a_hundred_thousand_stages() -> None:
    victims = [stage(f"victim {v}") for v in range(100)]
    children = [
        SimpleNamespace(id=f"{v} {k}", parents=parents, required=parents)
        for v in range(100)
        for parents in [(("embed", f"victim {v}"), ("model", f"victim {v}"))]
        for k in range(1000)
    ]
    begin = time.process_time()
    queue = Queue([*victims, *children])  # type: ignore[list-item]
    held: list[tuple[str, ...]] = [()] * 8
    for turn in range(100_100):
        taken = queue.take(held[turn % 8])
        assert taken is not None
        held[turn % 8] = (taken.id, *(id for _, id in taken.parents), *held[turn % 8])[:8]
        queue.done(taken)
    assert queue.left == 0
    assert time.process_time() - begin < 10, "measured: 0.8 s"


# --- worker processes -------------------------------------------------------------------------------------------------


def test_workers_live_on_and_are_sent_each_stage_once_with_its_ancestors(work: Any) -> None:
    stages = [stage("a"), stage("b", "warn look out", "a"), stage("c", parents="b"), stage("d")]
    books, warnings = executed(work.make, stages)
    assert warnings == ["look out"]
    assert len({record["pid"] for record in books.ended.values()}) == 1
    assert books.ended["c"]["known"] == ["a", "b", "c"]
    plan = {each.id: each for each in stages}
    stored, told = Books(), list[str]()
    stored.ended |= {"a": {"status": "ok"}, "b": {"status": "ok"}}
    Local(3, work.make, plan, told.append).run([plan["c"]], stored)
    assert stored.ended["c"]["known"] == ["a", "b", "c"], "also ancestors that are stored: they may be damaged"
    assert stored.ended["c"]["number"] == 0, "no more workers than stages"


def test_a_worker_that_dies_fails_its_stage_and_is_replaced(work: Any) -> None:
    stages = [stage("a", "exit 3"), stage("b", "kill"), stage("c", parents="a"), stage("d"), stage("e", parents="d")]
    books, _ = executed(work.make, stages)
    assert {id: record["status"] for id, record in books.ended.items()} == {
        **{"a": "failed", "b": "failed", "c": "skipped", "d": "ok", "e": "ok"}
    }
    assert books.ended["a"]["reason"] == "dots: the worker process ended with exit code 3"
    assert books.ended["b"]["reason"].startswith("dots: the worker process was killed by SIGKILL")
    assert books.ended["c"]["reason"] == books.ended["a"]["reason"] and "c" not in books.began


@pytest.mark.slow
def test_the_time_limit_of_a_stage_does_not_count_what_it_loads(work: Any) -> None:
    books = Books()
    stages = [stage("a", "load 1.5"), stage("b", "hang")]
    Local(1, work.make, {each.id: each for each in stages}, print, 1.0).run(stages, books)
    assert books.ended["a"]["status"] == "ok"
    assert books.ended["b"]["reason"] == "dots: took longer than --stage-timeout 1 s"


def test_a_stage_that_cannot_be_sent_or_read_fails_alone(work: Any) -> None:
    unsendable, unreadable = stage("a", plugin=lambda: None), stage("b", plugin=work.Unreadable())
    books, _ = executed(work.make, [unsendable, unreadable, stage("c")])
    assert "cannot be sent to a worker process" in books.ended["a"]["reason"]
    assert "cannot read the stage: ValueError" in books.ended["b"]["reason"]
    assert books.ended["c"]["status"] == "ok" and books.ended["c"]["known"] == ["c"]
    # What came with a stage that could not be read comes again with the next that needs it.
    plan = {each.id: each for each in (stage("a"), stage("b", "", "a", work.Unreadable()), stage("c", parents="a"))}
    books = Books()
    books.ended["a"] = {"status": "ok"}
    Local(1, work.make, plan, print).run([plan["b"], plan["c"]], books)
    assert books.ended["c"]["known"] == ["a", "c"]


def test_when_the_run_stops_running_stages_end_and_none_begins(work: Any) -> None:
    stages = [stage(id) for id in "abcdef"]
    books, _ = executed(work.make, stages, jobs=2, books=Books(stop=lambda ended: len(ended) >= 2))
    assert set(books.ended) == set(books.began) and 2 <= len(books.ended) <= 3
    books, _ = executed(work.make, stages, books=Books(stop=lambda ended: True))
    assert not books.began


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        ("make_nothing", "a worker process cannot start: ImportError: no module of that name; --jobs 1 runs without"),
        ("make_an_end", "a worker process ended with exit code 7 while it started; --jobs 1 runs without"),
    ],
)
def test_a_worker_that_cannot_start_is_one_clear_error(work: Any, make: str, reason: str) -> None:
    with pytest.raises(UsageError, match=f"^{reason}$"):
        executed(getattr(work, make), [stage("a")])


def test_an_error_outside_the_plugins_ends_the_run(work: Any) -> None:
    with pytest.raises(UsageError, match="^the disk is full$"):
        executed(work.make, [stage("a", "refuse the disk is full"), stage("b")])
    with pytest.raises(HarnessError, match=r"(?s)a worker process broke.*stand_in\.py.*OSError: no idea"):
        executed(work.make, [stage("a", "raise no idea"), stage("b")])


def gone(pid: int) -> bool:
    """Whether a process has ended, within some seconds."""
    for _ in range(100):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        # One that nobody has waited for yet has ended as well.
        if (stat := Path(f"/proc/{pid}/stat")).exists() and stat.read_text().rpartition(")")[2].split()[0] == "Z":
            return True
        time.sleep(0.05)
    return False


@pytest.mark.parametrize("end", ["the run is killed", "Ctrl-C twice"])
def test_no_worker_outlives_the_run(work: Any, tmp_path: Path, end: str) -> None:
    """The workers are in the middle of stages of a minute."""
    pids = tmp_path / "pids"
    code = f"import stand_in; stand_in.run('sleep {pids}', 2)"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, start_new_session=True) as process:
        for _ in range(600):
            if pids.exists() and len(pids.read_text().split()) == 2:
                break
            time.sleep(0.05)
        workers = [int(pid) for pid in pids.read_text().split()]
        assert len(workers) == 2
        if end == "Ctrl-C twice":
            os.killpg(process.pid, signal.SIGINT)
            time.sleep(0.5)
            assert process.poll() is None, "the first lets the running stages end"
            os.killpg(process.pid, signal.SIGINT)
            process.wait(10)
        else:
            process.kill()
        assert all(gone(pid) for pid in workers)


HELPED = """
from harness import WhiteBoxAttack

class Helped(WhiteBoxAttack):
    'Has joblib compute in processes, which wait for the next call.'
    name = "helped"
    family = "removal"

    def run(self, victim, pool, ctx):
        from joblib import Parallel, delayed
        assert Parallel(n_jobs=2)(delayed(abs)(i) for i in range(4)) == [0, 1, 2, 3]
        return victim
"""


def marked_processes(mark: str) -> list[str]:
    """The command lines of the processes whose environment has the text."""
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if mark.encode() in (place / "environ").read_bytes():
                found.append((place / "cmdline").read_bytes().replace(b"\0", b" ").decode())
    return [command for command in found if "loky" in command]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="processes are looked up in /proc")
def test_processes_that_a_library_keeps_end_with_their_worker(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They would wait for five minutes, and keep the output of the run open."""
    (tmp_path / "plugins").mkdir()
    (tmp_path / "plugins" / "helped.py").write_text(HELPED)
    monkeypatch.setenv("HARNESS_TEST_MARK", mark := f"of {tmp_path}")
    options = ("--plugins", tmp_path / "plugins", "--quiet", "--jobs", 2)
    cli("run", *arguments(tmp_path / "r", "helped"), *options, code=0)
    until = time.monotonic() + 20
    while (left := marked_processes(mark)) and time.monotonic() < until:
        time.sleep(0.1)
    assert left == []
