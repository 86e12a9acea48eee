"""Peak memory is a stage's own."""

from __future__ import annotations

import os
import subprocess
import sys
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import pytest
import torch

from harness.running import checkout
from harness.running.environment import Peaks, available_memory, give_back, keep_memory, machine
from tests import warm
from tests.conftest import TINY, Cli

CPU = torch.device("cpu")


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="only Linux can begin to count anew")
def test_a_peak_is_of_the_time_since() -> None:
    before = Peaks(CPU)
    large = np.ones(40 * 2**20)  # 320 MiB, all of them written to
    with_it = before.read()["peak_memory_mib"]
    del large
    give_back(CPU)  # a run in this process has it keep its memory
    after = Peaks(CPU).read()
    assert with_it is not None and after["peak_memory_mib"] is not None
    assert 250 < with_it - after["peak_memory_mib"] < 400
    assert after["peak_device_memory_mib"] is None


def test_the_machine_names_no_device_but_the_cpu() -> None:
    assert machine(CPU)["device"] == "cpu" and machine(CPU)["threads"] == torch.get_num_threads()


def test_outside_of_a_checkout_there_is_no_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    """A record holds texts, and no nothing."""
    monkeypatch.setattr("harness.running.environment.commit", lambda: None)
    assert None not in machine(CPU).values() and "commit" not in machine(CPU)


def test_the_machine_names_the_processor_whose_bits_these_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = tmp_path / "cpuinfo"
    said.write_text("processor\t: 0\nmodel name\t: Acme: One @ 2 GHz\nprocessor\t: 1\nmodel name\t: Other\n")
    monkeypatch.setattr("harness.running.environment._PROCESSORS", said)
    chosen = torch.backends.cpu.get_cpu_capability()
    assert f"CPUs (Acme: One @ 2 GHz, {chosen}), Python" in machine(CPU)["machine"]
    monkeypatch.setattr("harness.running.environment._PROCESSORS", tmp_path / "none")
    assert f", {chosen}), Python" in machine(CPU)["machine"]


@pytest.mark.skipif(not Path("/proc/meminfo").exists(), reason="only Linux tells")
def test_there_is_some_memory_and_not_more_than_there_is() -> None:
    there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    available = available_memory()
    assert available is not None and there / 1000 < available <= there


def used_and_freed() -> int:
    """MiB that a process still has of a tensor of 320 that is gone."""
    before = resident()
    large = torch.ones(80 * 2**20)
    del large
    return resident() - before


def resident() -> int:
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text("ascii").splitlines())
    return int(lines["VmRSS"].split()[0]) // 1024


def keep(tell: Connection) -> None:
    """In a process of its own, since it is the process that keeps memory from then on."""
    by_default = used_and_freed()
    keep_memory()
    kept = used_and_freed()
    before = resident()
    give_back(CPU)
    tell.send((by_default, kept, before - resident()))


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the process's memory is read from /proc")
def test_memory_is_kept_for_the_next_step_and_given_back_for_the_next_stage() -> None:
    told, tell = warm.context().Pipe(duplex=False)
    process = warm.context().Process(target=keep, args=(tell,))
    process.start()
    tell.close()
    by_default, kept, given_back = told.recv()
    process.join()
    assert by_default < 50 < 250 < kept and given_back > 250


def test_the_commit_says_whether_files_were_edited_since(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b"]
    package = tmp_path / "package"
    package.mkdir()
    (package / "checkout.py").write_text("a = 1\n")
    monkeypatch.setattr(checkout, "__file__", str(package / "checkout.py"))
    assert checkout.commit.__wrapped__() is None
    for words in (["init", "--quiet"], ["add", "."], ["commit", "--quiet", "--message", "a"]):
        subprocess.run([*git, *words], check=True)
    head = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()
    (tmp_path / "elsewhere.txt").touch()
    assert checkout.commit.__wrapped__() == head
    (package / "checkout.py").write_text("a = 2\n")
    assert checkout.commit.__wrapped__() == f"{head}+"


@pytest.mark.slow
@pytest.mark.parametrize(("gain", "worth"), [(0.44, "0.4 times as fast as float32"), (2.1, "2.1 times as fast")])
def test_bfloat16_is_told_to_be_slower_where_it_is(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gain: float, worth: str
) -> None:
    monkeypatch.setattr("harness.engine.bfloat16.bfloat16_gain", lambda: gain)
    arms = ["--dataset", TINY, "--defense", "unmarked", "--attack", "none", "--nulls", "1", "--results", tmp_path]
    run = cli("run", "--matrix", "smoke", *arms, "--precision", "bf16", code=0)
    assert ("trains 0.4 times as fast as in fp32" in run.err) == (gain < 1)
    assert f"bfloat16: {worth}" in cli("doctor", "--results", tmp_path).out


@pytest.mark.slow
def test_a_processor_that_emulates_bfloat16_is_found_out() -> None:
    code = "from harness.engine.bfloat16 import bfloat16_gain as gain; print(gain())"
    limited = os.environ | {"ONEDNN_MAX_CPU_ISA": "AVX2"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=limited)
    assert 0 < float(done.stdout) < 1
