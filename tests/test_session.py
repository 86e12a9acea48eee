"""Running, resuming, failing and mending: through the real command line, on real digits, with real artifacts."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

import harness
from tests.conftest import TINY, Cli, without
from tests.warm import Started

pytestmark = pytest.mark.slow  # processes of their own

SCHEME = '''
from __future__ import annotations
from dataclasses import dataclass
from typing import ClassVar
import torch
from harness import Attack, Context, Defense, Key, Marked, Pool, Probe, Skip, Task, WhiteBoxAttack, hookimpl

@dataclass(frozen=True)
class Noise(WhiteBoxAttack):
    """Adds noise, or fails as it is told."""
    name: ClassVar[str] = "noise"
    family: ClassVar[str] = "removal"
    strength: float = 0.01
    fault: str = "none"

    def run(self, victim: torch.nn.Module, pool: Pool, ctx: Context) -> torch.nn.Module:
        if self.fault == "raises":
            raise RuntimeError("the attack broke")
        if self.fault == "skips":
            raise Skip("not on a Sunday")
        with torch.no_grad():
            for weight in victim.parameters():
                weight += self.strength * torch.randn(weight.shape, generator=ctx.generator)
                if self.fault == "nan":
                    weight *= float("nan")
        return None if self.fault == "nothing" else torch.nn.Linear(1, 1) if self.fault == "foreign" else victim

@hookimpl
def harness_attacks() -> list[type[Attack]]:
    return [Noise]
'''


@pytest.fixture
def plugins(tmp_path: Path) -> Path:
    folder = tmp_path / "plugins"
    folder.mkdir()
    (folder / "noise.py").write_text(SCHEME)
    return folder


def arguments(results: Path, *attacks: str, defense: str = "baseline", seeds: str = "0") -> list[object]:
    chosen = [part for attack in attacks for part in ("--attack", attack)]
    return [
        "--dataset",
        TINY,
        "--defense",
        defense,
        *chosen,
        "--seeds",
        seeds,
        "--nulls",
        "1",
        "--no-innocents",
        "--results",
        results,
    ]


def ran(message: str) -> int:
    """The number of stages that a run said it ran."""
    return 0 if message.startswith("nothing to do") else int(message.split()[1])


def measured(results: Path, table: str) -> pd.DataFrame:
    """A table without what differs from run to run: times, memory, and the name of the run."""
    frame = harness.read_table(results, table)
    volatile = {"run", "started", "seconds", "embed_seconds", "attack_seconds", "peak_memory_mib", "threads"}
    frame = frame.drop(columns=[c for c in frame.columns if c in volatile])
    return frame.sort_values(list(frame.columns)).reset_index(drop=True)


# --- running and resuming ---


def test_smoke_ranks_and_then_has_nothing_to_do(smoke: Path, process: Cli, tmp_path: Path) -> None:
    results = tmp_path / "results"
    shutil.copytree(smoke, results)
    again = process("run", "--matrix", "smoke", "--results", results, code=0)
    assert again.out.startswith("nothing to do: 20 cells (20 ok)")
    assert f"next: harness leaderboard --results {results}" in again.out
    cells = harness.read_table(results, "cells")
    assert len(cells) == 20 and set(cells["status"]) == {"ok"}
    assert (cells["victim_trigger_trials"] > 0).all() and (cells["null_trigger_trials"] > 0).all()
    board = json.loads(process("leaderboard", "--results", results, "--format", "json", code=0).out)
    assert {scheme["defense"] for scheme in board["schemes"]} == set(cells["defense"])


@pytest.mark.slow
def test_a_run_imports_neither_the_compiler_nor_scikit_learn(tmp_path: Path) -> None:
    """A second each of every process."""
    command = ["run", *arguments(tmp_path, "none", "retraining"), "--jobs", "1"]
    without({"torch._dynamo.exc", "torch._inductor", "sympy", "sklearn"}, command)


COMPILED = """
import torch
from harness.running.environment import postpone_compiler

postpone_compiler()
net, few = torch.nn.Linear(3, 2), torch.ones(4, 3)
optimizer = torch.optim.Adam(net.parameters(), fused=True)
for model in (net, torch.compile(net, backend="eager")):
    optimizer.zero_grad()
    model(few).sum().backward()
    before = net.weight.detach().clone()
    optimizer.step()
    assert not torch.equal(before, net.weight)
from torch._dynamo import config
assert torch._dynamo.graph_break.__module__ == "torch._dynamo.decorators", torch._dynamo.graph_break
"""


@pytest.mark.slow
def test_a_compiler_that_is_put_off_compiles() -> None:
    done = subprocess.run([sys.executable, "-c", COMPILED], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_planning_and_ranking_and_a_finished_run_never_import_torch(tmp_path: Path, cli: Cli) -> None:
    results = tmp_path / "results"
    cli("run", *arguments(results, "none"), code=0)
    without(
        {"torch._C"},
        ["--help"],
        ["plan", "--matrix", "paper"],
        ["leaderboard", "--results", results],
        ["plugins", "list", "--options"],
        ["run", *arguments(results, "none")],
    )


def test_the_same_matrix_gives_the_same_bits_in_any_order(cli: Cli, tmp_path: Path) -> None:
    cli("run", *arguments(tmp_path / "a", "retraining", "fine-tuning"), code=0)
    cli("run", *arguments(tmp_path / "b", "fine-tuning"), code=0)
    cli("run", *arguments(tmp_path / "b", "retraining"), code=0)
    ids = {path.name for path in (tmp_path / "a" / "artifacts").glob("*/*")}
    assert ids == {path.name for path in (tmp_path / "b" / "artifacts").glob("*/*")}
    for tensors in (tmp_path / "a" / "artifacts").glob("*/*/tensors.safetensors"):
        twin = tmp_path / "b" / tensors.relative_to(tmp_path / "a")
        assert tensors.read_bytes() == twin.read_bytes(), tensors
    pd.testing.assert_frame_equal(measured(tmp_path / "a", "evidence"), measured(tmp_path / "b", "evidence"))


def test_a_dry_run_writes_nothing(cli: Cli, tmp_path: Path) -> None:
    results = tmp_path / "results"
    said = cli("run", *arguments(results, "none"), "--dry-run", code=0)
    assert said.out == "1 cells, 6 stages: 6 to run\n"
    assert not results.exists()


def test_a_new_attack_runs_only_itself(cli: Cli, tmp_path: Path) -> None:
    cli("run", *arguments(tmp_path, "none"), code=0)
    more = cli("run", *arguments(tmp_path, "none", "pruning"), code=0)
    assert ran(more.out) == 4  # the attack and its verification, the null model's and its asking


def test_editing_a_plugin_reruns_its_stages_and_what_follows_alone(cli: Cli, tmp_path: Path, plugins: Path) -> None:
    args = [*arguments(tmp_path, "none", "noise", "noise | pruning", "pruning"), "--plugins", plugins]
    first = cli("run", *args, code=0)
    assert ran(first.out) == 6 + 4 + 4 + 4
    source = plugins / "noise.py"
    source.write_text(source.read_text().replace("self.strength *", "2 * self.strength *"))
    # A process reads a plugin's source once.
    from harness.planning.graph import source_digest

    source_digest.cache_clear()
    second = cli("run", *args, code=0)
    assert ran(second.out) == 4 + 4  # noise and the pruning after it, on victim and null model, and what is asked
    cells = harness.read_table(tmp_path, "cells")
    assert len(cells) == 4, "the rows of the former source are superseded, not shown beside the new ones"


def test_rows_that_a_killed_run_did_not_write_are_written_by_the_next(cli: Cli, tmp_path: Path) -> None:
    cli("run", *arguments(tmp_path / "a", "none", "retraining"), code=0)
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    shutil.rmtree(tmp_path / "b" / "tables")
    again = cli("run", *arguments(tmp_path / "b", "none", "retraining"), code=0)
    assert ran(again.out) == 0
    for table in ("cells", "evidence", "curves", "stages"):
        pd.testing.assert_frame_equal(measured(tmp_path / "a", table), measured(tmp_path / "b", table))


@pytest.mark.parametrize(("rerun", "count"), [("never", 0), ("failed", 4), ("all", 10)])
def test_rerun_says_which_finished_stages_run_again(
    cli: Cli, tmp_path: Path, plugins: Path, rerun: str, count: int
) -> None:
    args = [*arguments(tmp_path, "none", "noise[fault=raises]"), "--plugins", plugins]
    cli("run", *args, code=1)
    # What is blocked by a failure counts as run: the failed stage and the verification that it blocks; the same
    # attack on the null model, and the asking that lacks it.
    assert ran(cli("run", *args, "--rerun", rerun, code=1).out) == count


@pytest.mark.slow
def test_interrupting_loses_nothing_and_tells_how_to_go_on(tmp_path: Path, cli: Cli) -> None:
    args = arguments(tmp_path / "cut", "none", "retraining", "fine-tuning", seeds="0-2")
    with Started("run", *args, "--log-json") as running:
        for line in running.stdout:
            if json.loads(line)["event"] == "ended":
                break
        running.interrupt()
        events = [json.loads(line) for line in running.stdout]
        said = running.stderr.read()
    assert running.returncode == 130
    assert "the same command goes on" in said
    done = 1 + sum(event["event"] == "ended" for event in events)
    assert done < 1 + 1 + 3 * (1 + 1 + 2 + 2 * 2)
    resumed = cli("run", *args, code=0)
    whole = cli("run", *arguments(tmp_path / "whole", "none", "retraining", "fine-tuning", seeds="0-2"), code=0)
    assert ran(resumed.out) == ran(whole.out) - done
    pd.testing.assert_frame_equal(measured(tmp_path / "cut", "evidence"), measured(tmp_path / "whole", "evidence"))


@pytest.mark.slow
def test_a_killed_process_leaves_nothing_that_is_trusted(tmp_path: Path, cli: Cli) -> None:
    args = arguments(tmp_path / "cut", "retraining", seeds="0-3")
    with Started("run", *args, "--log-json") as running:
        for line in running.stdout:
            if json.loads(line)["event"] == "ended" and json.loads(line)["action"] == "embed":
                break
        time.sleep(0.05)
        running.kill()
    cli("run", *args, code=0)
    cli("run", *arguments(tmp_path / "whole", "retraining", seeds="0-3"), code=0)
    for table in ("cells", "evidence"):
        pd.testing.assert_frame_equal(measured(tmp_path / "cut", table), measured(tmp_path / "whole", table))


# --- failing ---


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("raises", "noise[fault=raises]: RuntimeError: the attack broke"),
        ("nan", "is not finite: training diverged"),
        ("nothing", "noise.run must return a Module, not NoneType"),
        ("foreign", "the model is a Linear that cannot be stored"),
    ],
)
def test_a_stage_that_fails_is_a_row_and_the_others_go_on(
    cli: Cli, tmp_path: Path, plugins: Path, fault: str, reason: str
) -> None:
    attack = f"noise[fault={fault}]"
    ended = cli("run", *arguments(tmp_path, attack, f"{attack} | pruning", "none"), "--plugins", plugins, code=1)
    assert reason in ended.err and "Traceback" not in ended.err
    cells = harness.read_table(tmp_path, "cells").set_index("attack")
    assert cells["status"].to_dict() == {attack: "failed", f"{attack} | pruning": "failed", "none": "ok"}
    assert reason in cells.loc[attack, "reason"]
    stages = harness.read_table(tmp_path, "stages")
    failed = stages[stages["status"] == "failed"].set_index("role")
    assert list(failed.index) == ["surrogate", "attacked"] and failed["traceback"].str.contains("Traceback").all()
    blocked = stages[(stages["status"] == "skipped")]
    assert sorted(blocked["role"]) == ["attacked", "surrogate", "surrogate", "surrogate"]
    assert blocked["reason"].str.contains(reason, regex=False).all()


def test_a_stage_that_skips_is_a_row_with_its_reason(cli: Cli, tmp_path: Path, plugins: Path) -> None:
    cli("run", *arguments(tmp_path, "noise[fault=skips]", "none"), "--plugins", plugins, code=0)
    cells = harness.read_table(tmp_path, "cells").set_index("attack")
    assert cells.loc["noise[fault=skips]", "status"] == "skipped"
    assert "not on a Sunday" in cells.loc["noise[fault=skips]", "reason"]
    assert cells.loc["none", "status"] == "ok"


def test_what_cannot_be_is_skipped_with_the_reason(cli: Cli, tmp_path: Path) -> None:
    cli("run", *arguments(tmp_path, "retraining[pool=disjoint]", "none"), "--dataset", "digits[epochs=2,pretrain=1]")
    cells = harness.read_table(tmp_path, "cells")
    reason = cells[cells["attack"] == "retraining[pool=disjoint]"]["reason"].unique()
    assert any("1347 more training samples" in text for text in reason)


def test_fail_fast_stops_at_the_first_failure(cli: Cli, tmp_path: Path, plugins: Path) -> None:
    args = arguments(tmp_path, "noise[fault=raises]", "pruning", "fine-tuning")
    ended = cli("run", *args, "--plugins", plugins, "--fail-fast", code=1)
    assert "not run" in ended.out
    assert "the attack broke" in ended.err


# --- damage ---


def damage(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)


@pytest.mark.parametrize("file", ["tensors.safetensors", "record.json"])
def test_a_damaged_artifact_is_reported_and_computed_again(cli: Cli, tmp_path: Path, file: str) -> None:
    cli("run", *arguments(tmp_path, "none"), code=0)
    stages = harness.read_table(tmp_path, "stages")
    embed = stages[stages["action"] == "embed"]["stage"].iloc[0]
    path = tmp_path / "artifacts" / embed[:2] / embed / file
    before = path.with_name("tensors.safetensors").read_bytes()
    damage(path)
    ended = cli("run", *arguments(tmp_path, "none", "pruning"), code=0)
    assert "checksum does not hold: computed again" in ended.err
    assert path.with_name("tensors.safetensors").read_bytes() == before


def test_a_deleted_artifact_is_made_again_when_it_is_needed(cli: Cli, tmp_path: Path) -> None:
    cli("run", *arguments(tmp_path, "none"), code=0)
    shutil.rmtree(tmp_path / "artifacts")
    assert ran(cli("run", *arguments(tmp_path, "none"), code=0).out) == 0, "its rows are there"
    cli("run", *arguments(tmp_path, "none", "pruning"), code=0)
    assert set(harness.read_table(tmp_path, "cells")["status"]) == {"ok"}


# --- what is said ---


def test_progress_is_quiet_plain_or_json(cli: Cli, tmp_path: Path) -> None:
    quiet = cli("run", *arguments(tmp_path / "a", "none"), "--quiet", code=0)
    assert quiet.err == ""
    plain = cli("run", *arguments(tmp_path / "b", "none"), code=0)
    assert plain.err.splitlines()[-1].startswith("[6/6] ok")
    events = [
        json.loads(line) for line in cli("run", *arguments(tmp_path / "c", "none"), "--log-json").out.splitlines()
    ]
    assert [e["done"] for e in events if e["event"] == "ended"] == list(range(1, 7))


def test_the_time_left_is_told_from_past_durations(cli: Cli, tmp_path: Path) -> None:
    cli("run", *arguments(tmp_path, "none"), code=0)
    events = [
        json.loads(line)
        for line in cli("run", *arguments(tmp_path, "none", seeds="1"), "--log-json", code=0).out.splitlines()
    ]
    left = [event["seconds_left"] for event in events if event["event"] == "ended"]
    assert None not in left and left == sorted(left, reverse=True) and left[-1] == 0


def test_a_curve_has_a_value_for_every_epoch(cli: Cli, tmp_path: Path) -> None:
    cli("run", *arguments(tmp_path, "retraining", defense="ewe"), code=0)
    curves = harness.read_table(tmp_path, "curves")
    assert set(curves["quantity"]) == {"loss", "loss:1", "snnl_below_bound"}
    stages = harness.read_table(tmp_path, "stages").set_index("stage")
    epochs = curves[curves["quantity"] == "loss"].groupby("stage")["epoch"].max()
    by_action = {
        stages.loc[stage, "action"]: count
        for stage, count in epochs.items()
        if "null" not in stages.loc[stage, "label"]
    }
    assert by_action == {"train": 1, "embed": 1, "attack": 2}


def test_folders_of_the_results_hold_only_documented_things(cli: Cli, tmp_path: Path) -> None:
    cli("run", *arguments(tmp_path, "none"), code=0)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["artifacts", "claims", "format.json", "tables"]
    assert [path.name for path in (tmp_path / "claims").iterdir()] == ["locks"]
    assert not list(tmp_path.rglob("*.partial"))


def test_a_plugin_that_breaks_while_it_is_asked_fails_its_own_cells(cli: Cli, tmp_path: Path, plugins: Path) -> None:
    source = (plugins / "noise.py").read_text()
    moody = "    def skip(self, dataset):\n        return 1 / 0\n\n    def run("
    (plugins / "noise.py").write_text(source.replace("    def run(", moody))
    ended = cli("run", *arguments(tmp_path, "noise", "none"), "--plugins", plugins, code=1)
    assert "noise: ZeroDivisionError: division by zero" in ended.err and "Traceback" not in ended.err
    cells = harness.read_table(tmp_path, "cells").set_index("attack")
    assert cells["status"].to_dict() == {"noise": "failed", "none": "ok"}


def test_debug_stops_where_the_plugin_failed(tmp_path: Path, plugins: Path) -> None:
    args = [*arguments(tmp_path / "results", "noise[fault=raises]"), "--plugins", plugins, "--debug", "--quiet"]
    with Started("run", *args, stdin="p self.fault\nq\n") as running:
        out, err = running.communicate()
    assert "(Pdb) 'raises'" in out
    assert running.returncode == 1 and "RuntimeError: the attack broke" in err


def test_deterministic_is_accepted_and_gives_the_same_numbers_on_a_cpu(tmp_path: Path, cli: Cli) -> None:
    cli("run", *arguments(tmp_path / "a", "none"), code=0)
    with Started("run", *arguments(tmp_path / "b", "none"), "--deterministic") as running:  # it changes the process
        out, err = running.communicate()
    assert running.returncode == 0 and "1 ok" in out, err
    pd.testing.assert_frame_equal(measured(tmp_path / "a", "evidence"), measured(tmp_path / "b", "evidence"))


def test_a_recipe_that_breaks_fails_its_own_stages(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: object) -> None:
        raise RuntimeError("no recipe today")

    monkeypatch.setattr("harness.contracts.Dataset.public", broken)
    chosen = (
        "--dataset",
        TINY,
        "--defense",
        "adi",
        "--attack",
        "none",
        "--seeds",
        "0",
        "--nulls",
        "0",
        "--no-innocents",
    )
    ended = cli("run", *chosen, "--results", tmp_path, code=1)
    assert "RuntimeError: no recipe today" in ended.err and "Traceback" not in ended.err
