"""Stages on a Ray cluster: the bits of a serial run, and nodes, workers and the run itself may die in the middle.

The cluster is real, of two nodes on this machine with a place for one worker each.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest

import harness
from harness.errors import UsageError
from harness.planning.graph import Component
from harness.running import ray as on_ray
from tests.conftest import TINY, Cli, command_line
from tests.test_api import SCHEME, warm_script
from tests.test_session import arguments, measured, ran
from tests.test_workers import gone, stage
from tests.warm import Started

# Found, not imported: the tests that are not slow collect this module too.
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("ray") is None, reason="needs Ray: pip install 'watermark-harness[ray]'"),
]

WAITS = '''
from __future__ import annotations
import os, time
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar
import torch
from harness import Attack, Context, Pool, WhiteBoxAttack, hookimpl

HERE = Path(__file__).parent

@dataclass(frozen=True)
class Waits(WhiteBoxAttack):
    """Says that it began, and where, and waits until there is a file `go`."""
    name: ClassVar[str] = "waits"
    family: ClassVar[str] = "removal"
    turn: int = 0

    def run(self, victim: torch.nn.Module, pool: Pool, ctx: Context) -> torch.nn.Module:
        with open(HERE / "began", "a") as file:
            file.write(f"{self.turn} {os.getpid()} {os.environ.get('RAY_RAYLET_PID')}\\n")
        while not (HERE / "go").exists():
            time.sleep(0.05)
        return victim

@hookimpl
def harness_attacks() -> list[type[Attack]]:
    return [Waits]
'''
ATTACKS = ("none", "waits[turn=1]", "waits[turn=2]", "waits[turn=2] | pruning")

STAND_IN = '''
"""A run of stages that do what their labels say. Nothing of this file is on the nodes: Ray sends it there."""
import json, os, sys, time
from types import SimpleNamespace
from harness.running.ray import Cluster, Ray
from harness.planning.graph import Stage, Component


ADDRESS, BEGAN = sys.argv[1:]

def make(number, stages, warn):
    def work(stage):
        word, _, rest = stage.label.partition(" ")
        with open(BEGAN, "a") as file:
            file.write(f"{stage.id}\\n")
        if word == "exit":
            os._exit(3)
        if word == "sleep":
            time.sleep(60)
        if word == "warn":
            warn(rest)
        return {"status": "ok", "known": sorted(stages)}
    return work, lambda kind, text: Component(kind, text, "", None)

if __name__ == "__main__":
    labels = {"a": "exit", "b": "sleep", "c": "warn look out", "d": "", "e": ""}
    parents = {"d": (("embed", "c"),)}
    dots = Component("dataset", "dots", "", None)
    stages = {id: Stage(id, "train", label, 0, 0, dots, parents=parents.get(id, ())) for id, label in labels.items()}
    ended, warnings = {}, []
    control = SimpleNamespace(
        going=lambda: True, begin=lambda stage: None, end=lambda stage, record: ended.update({stage.id: record})
    )
    executor = Ray(
        Cluster(ADDRESS), make, stages, warnings.append, jobs=None, cpus=1, gpus=0, folder=None, limit=3
    )
    executor.run(list(stages.values()), control)
    print(json.dumps({"jobs": executor.jobs, "ended": ended, "warnings": warnings}))
'''


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Two nodes with a place each."""
    from ray.cluster_utils import Cluster

    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    made.add_node(num_cpus=1)
    yield made
    made.shutdown()


@pytest.fixture(scope="module")
def serial(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results of a serial run."""
    folder = tmp_path_factory.mktemp("serial")
    plugins = folder / "plugins"
    plugins.mkdir()
    (plugins / "waits.py").write_text(WAITS)
    (plugins / "go").touch()
    assert command_line("run", *arguments(folder / "results", *ATTACKS), "--plugins", plugins) == 0
    return folder / "results"


@pytest.fixture
def plugins(tmp_path: Path) -> Path:
    folder = tmp_path / "plugins"
    folder.mkdir()
    (folder / "waits.py").write_text(WAITS)
    return folder


def started(results: Path, plugins: Path, *options: object, cwd: Path | None = None) -> Started:
    """The command line at work, with all the workers that the cluster has room for."""
    options = ("--plugins", plugins, "--executor", "ray", "--jobs", "auto", *options)
    return Started("run", *arguments(results, *ATTACKS), *options, cwd=cwd)


def began(plugins: Path, count: int) -> list[list[str]]:
    """Turn, process and node of what began to wait, once these are ``count``."""
    for _ in range(3600):  # three minutes: the machine may be busy
        lines = (plugins / "began").read_text().splitlines() if (plugins / "began").exists() else []
        if len(lines) >= count:
            return [line.split() for line in lines]
        time.sleep(0.05)
    raise AssertionError(f"{len(lines)} of {count} stages began")


def alike(one: Path, two: Path) -> None:
    """Whether two results folders say the same, but for times, and hold the same bits."""
    for table in ("cells", "evidence", "curves", "stages"):
        pd.testing.assert_frame_equal(measured(one, table), measured(two, table))
    files = {path.relative_to(one) for path in (one / "artifacts").glob("*/*/tensors.safetensors")}
    assert files and files == {path.relative_to(two) for path in (two / "artifacts").glob("*/*/tensors.safetensors")}
    assert all((one / file).read_bytes() == (two / file).read_bytes() for file in files)


def test_a_script_runs_its_classes_on_a_cluster(cluster: Any, tmp_path: Path) -> None:
    where = f'jobs=1, executor="ray", address="{cluster.address}"'
    call = f"""
run = harness.run(None, datasets={TINY!r}, defenses=Wrong(count=9), attacks="none", nulls=1, {where})
print(run)
"""
    done = warm_script(SCHEME + call, tmp_path)
    assert "1 cells (1 ok)" in done.stdout, done.stderr


# --- what dies --------------------------------------------------------------------------------------------------------


def test_a_worker_that_dies_is_tried_again_and_one_that_takes_too_long_is_not(cluster: Any, tmp_path: Path) -> None:
    (tmp_path / "stand_in.py").write_text(STAND_IN)
    command = [sys.executable, tmp_path / "stand_in.py", cluster.address, tmp_path / "began"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)  # and nothing else: Ray would tell here of workers that died
    assert said["jobs"] == 2 and said["warnings"] == ["look out"]
    ended = said["ended"]
    assert {id: record["status"] for id, record in ended.items()} == {
        **{"a": "failed", "b": "failed", "c": "ok", "d": "ok", "e": "ok"}
    }
    assert ended["a"]["reason"].startswith("dots: the worker process on ")
    assert ended["a"]["reason"].endswith("its worker process has died (3 times in a row)")
    assert ended["b"]["reason"] == "dots: took longer than --stage-timeout 3 s"
    assert ended["d"]["known"][0] in "acd" and {"c", "d"} <= set(ended["d"]["known"]), "it came with its ancestors"
    assert sorted((tmp_path / "began").read_text().split()) == [*("a" * on_ray.TRIES), "b", "c", "d", "e"]


def test_the_run_is_killed_and_the_next_one_loses_a_node_which_costs_nothing_but_time(
    cluster: Any, tmp_path: Path, plugins: Path, serial: Path
) -> None:
    """The last one with this cluster."""
    results, options = tmp_path / "results", ("--address", cluster.address)
    with started(results, plugins, *options) as process:
        turns = began(plugins, 2)
        process.kill()
    assert all(gone(int(pid)) for _, pid, _ in turns), "workers do not outlive the run"
    finished = {path: path.stat().st_mtime_ns for path in results.glob("artifacts/*/*/record.json")}
    assert finished

    (plugins / "began").unlink()
    (node,) = cluster.worker_nodes  # not the head, which the cluster needs
    with started(results, plugins, *options) as process:
        turns = began(plugins, 2)
        ((lost, pid),) = ((turn, pid) for turn, pid, raylet in turns if raylet == raylet_of(node))
        cluster.remove_node(node, allow_graceful=False)
        assert gone(int(pid)), "a worker does not outlive its node"
        (plugins / "go").touch()
        out, err = process.communicate()
    assert process.returncode == 0, err
    # Each attack waits in the victim and in the null model; the one whose node was lost begins again.
    both = [turn for turn, _, _ in turns]
    assert sorted(turn for turn, _, _ in began(plugins, 5)) == sorted([*both, *both, lost])
    assert f"{len(ATTACKS)} ok" in out
    assert ran(out) == len(list(results.glob("artifacts/*/*/record.json"))) - len(finished)
    assert all(path.stat().st_mtime_ns == when for path, when in finished.items())
    alike(results, serial)


def raylet_of(node: Any) -> str:
    """The process of a node that its workers name."""
    return str(node.all_processes["raylet"][0].process.pid)


# --- without a cluster ------------------------------------------------------------------------------------------------


def test_ctrl_c_on_a_cluster_of_this_machine_lets_running_stages_end(
    tmp_path: Path, plugins: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a folder of a stranger's modules, none of which the workers import."""
    monkeypatch.setenv("HOME", str(tmp_path))  # where Ray leaves a token
    trap = tmp_path / "trap"
    trap.mkdir()
    for module in ("torch", "harness", "pandas", "setproctitle"):
        (trap / f"{module}.py").write_text('raise SystemExit("a file of a stranger")')
    with started(tmp_path / "results", plugins, "--jobs", 1, "--log-json", cwd=trap) as process:
        began(plugins, 1)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to all that it started
        time.sleep(0.5)
        (plugins / "go").touch()
        out, err = process.communicate()
    assert process.returncode == 130, err
    assert "stopping after the stages that run now" in err and "Traceback" not in err
    events = [json.loads(line) for line in out.splitlines()]
    first, last = ({e["stage"] for e in events if e["event"] == kind} for kind in ("started", "ended"))
    assert first == last and {e["status"] for e in events if e["event"] == "ended"} == {"ok"}


# --- what is typed ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (
            ["--address", "auto"],
            "Invalid value for '--address': 'auto' names a Ray cluster, which needs --executor ray",
        ),
        (
            ["--executor", "ray", "--address", "127.0.0.1:1"],
            "no Ray cluster at '127.0.0.1:1' (Connection refused); ray",
        ),
        (
            ["--executor", "ray", "--address", "head"],
            "--address 'head' is none: expected HOST:PORT, or auto; ray start",
        ),
        (["--executor", "ray", "--address", "ray://a:1"], "--address 'ray://a:1' is none: expected HOST:PORT, or auto"),
        (
            ["--executor", "ray", "--device", "cuda:1"],
            "--device 'cuda:1': a cluster gives each worker its GPU; expected",
        ),
        (["--executor", "ray", "--debug"], "--debug opens the debugger in this process: it needs --executor local"),
    ],
)
def test_a_mistake_is_one_line_at_once(cli: Cli, tmp_path: Path, options: list[str], reason: str) -> None:
    begin = time.monotonic()
    said = cli("run", *arguments(tmp_path / "results", "none"), *options, code=2)
    assert said.err.startswith(f"harness: {reason}") and len(said.err.splitlines()) == 1
    assert time.monotonic() - begin < 20 and not (tmp_path / "results").exists()


def test_without_ray_it_says_what_to_install(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    said = cli("run", *arguments(tmp_path / "results", "none"), "--executor", "ray", code=2)
    assert said.err == "harness: --executor ray needs Ray: pip install 'watermark-harness[ray]'\n"


# --- a node that differs ----------------------------------------------------------------------------------------------


def test_a_node_of_another_version_or_without_the_results_folder_is_told(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=rf"has watermark-harness {harness.__version__}, not 9\.9$"):
        on_ray._Site("9.9", None, None)
    (tmp_path / "format.json").touch()
    os.utime(tmp_path / "format.json", (5, 5))
    on_ray._Site(harness.__version__, tmp_path, 5)
    for folder in (tmp_path / "missing", tmp_path):
        with pytest.raises(UsageError, match="does not see the results folder .*: all nodes must share it$"):
            on_ray._Site(harness.__version__, folder, 4)


def test_a_plugin_that_a_node_lacks_or_has_otherwise_ends_the_run_with_a_line() -> None:
    def lookup(kind: str, text: str) -> Component:
        if text != "dots":
            raise UsageError(f"unknown {kind} {text!r}")
        return Component("dataset", text, "one", object())

    site = on_ray._Site(harness.__version__, None, None)
    assert site.start(lambda *_: (lambda stage: {"plugin": stage.dataset.plugin}, lookup), 0)[-1][0] == "ready"
    for use, reason in (
        (
            Component("dataset", "other", "one", None),
            "unknown dataset 'other'; --plugins must name folders that all nodes",
        ),
        (
            Component("dataset", "dots", "two", None),
            "the dataset dots has another source than where the run was started; -",
        ),
    ):
        ((kind, text),) = site.run("a", [on_ray._with_uses(stage("a"), lambda _, use=use: use)])
        assert kind == "usage" and text.startswith(f"on {site.host}: {reason}")
    ((kind, record),) = site.run(
        "a", [on_ray._with_uses(stage("a"), lambda _: Component("dataset", "dots", "one", None))]
    )
    assert kind == "record" and record["plugin"] is not None, "the node's own"


def test_room_is_what_fits_on_each_node() -> None:
    resources = [{"CPU": 8.0, "GPU": 1.0}, {"CPU": 3.0, "GPU": 4.0}, {"CPU": 7.0}, {}]
    nodes = [{"Alive": True, "Resources": each} for each in resources] + [{"Alive": False, "Resources": {"CPU": 9.0}}]
    cluster = on_ray.Cluster.__new__(on_ray.Cluster)
    cluster.ray = SimpleNamespace(nodes=lambda: nodes)
    assert cluster.has_gpus()
    assert [cluster.room(cpus, 0) for cpus in (1, 2, 4)] == [18, 4 + 1 + 3, 2 + 0 + 1]
    assert cluster.room(1, 0.5) == 2 + 3
