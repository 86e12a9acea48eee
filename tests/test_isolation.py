"""A plugin cannot hurt its neighbours: what it changes in the process is put back and named, however it ends."""

from __future__ import annotations

import decimal
import gc
import locale
import logging
import os
import random
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import harness.nets
from harness.isolation import Guard, Interrupted, describe_error, leftovers
from tests.conftest import TINY, Cli

CHANGES: dict[str, tuple[str, Callable[[], object]]] = {
    "no grad": ("grad mode", lambda: torch.set_grad_enabled(False)),
    "float64": ("default dtype", lambda: torch.set_default_dtype(torch.float64)),
    "meta device": ("default device", lambda: torch.set_default_device("meta")),
    "entered device": ("function modes", lambda: torch.device("meta").__enter__()),
    "threads": ("torch threads", lambda: torch.set_num_threads(3)),
    "deterministic": (
        "deterministic algorithms",
        lambda: torch.use_deterministic_algorithms(True, warn_only=True),
    ),
    "cudnn": ("cudnn flags", lambda: setattr(torch.backends.cudnn, "benchmark", True)),
    "precision": ("float32 matmul precision", lambda: torch.set_float32_matmul_precision("medium")),
    "anomaly": ("anomaly mode", lambda: torch.autograd.set_detect_anomaly(True)),
    "autocast": ("autocast", lambda: torch.autocast("cpu").__enter__()),
    "print options": ("torch print options", lambda: torch.set_printoptions(precision=9)),
    "module hook": (
        "global module hooks",
        lambda: torch.nn.modules.module.register_module_forward_hook(lambda *given: None),
    ),
    "relu": ("torch.nn.functional.relu", lambda: setattr(torch.nn.functional, "relu", lambda x, inplace=False: x)),
    "another's relu": (
        "torch.nn.functional.relu",
        lambda: setattr(torch.nn.functional, "relu", torch.nn.functional.gelu),
    ),
    "forward": ("torch.nn.Linear.forward", lambda: setattr(torch.nn.Linear, "forward", lambda self, x: x)),
    "no softmax": ("torch.Tensor.softmax", lambda: setattr(torch.Tensor, "softmax", None)),
    "step": ("torch.optim.SGD.step", lambda: setattr(torch.optim.SGD, "step", lambda self: None)),
    "deleted": ("random.random", lambda: delattr(random, "random")),
    "open": ("os.listdir", lambda: setattr(os, "listdir", lambda *given: [])),
    "ours": ("harness.nets.build", lambda: setattr(harness.nets, "build", None)),
    "errors": ("numpy errors", lambda: np.seterr(all="raise")),
    "numpy print": ("numpy print options", lambda: np.set_printoptions(precision=1)),
    "chdir": ("working directory", lambda: os.chdir("/")),
    "environment": ("environment variables", lambda: os.environ.update(CUDA_VISIBLE_DEVICES="7")),
    "lost variable": ("environment variables", lambda: os.environ.pop("PATH")),
    "umask": ("umask", lambda: os.umask(0o000)),
    "locale": ("locale", lambda: locale.setlocale(locale.LC_ALL, "C.UTF-8")),
    "handler": ("signal handlers", lambda: signal.signal(signal.SIGTERM, lambda *given: None)),
    "alarm": ("timers", lambda: signal.alarm(600)),
    "warnings": ("warning filters", lambda: warnings.simplefilter("ignore")),
    "reset": ("warning filters", lambda: warnings.resetwarnings()),
    "showwarning": ("warning filters", lambda: setattr(warnings, "showwarning", lambda *given: None)),
    "logging": ("logging", lambda: logging.basicConfig(level=logging.DEBUG, force=True)),
    "no logging": ("logging", lambda: logging.disable()),
    "stdout": ("sys.stdout", lambda: setattr(sys, "stdout", None)),
    "path": ("sys.path", lambda: sys.path.insert(0, "/somewhere")),
    "argv": ("sys.argv", lambda: sys.argv.append("--lr")),
    "excepthook": ("sys.excepthook", lambda: setattr(sys, "excepthook", print)),
    "recursion": ("recursion limit", lambda: sys.setrecursionlimit(12345)),
    "collector": ("garbage collector", lambda: gc.set_threshold(1)),
    "decimal": ("decimal context", lambda: setattr(decimal.getcontext(), "prec", 3)),
    "process": ("process sleep", lambda: os.spawnlp(os.P_NOWAIT, "sleep", "sleep", "60")),
}


def test_a_child_that_has_no_arguments_is_named_by_its_program(monkeypatch: pytest.MonkeyPatch) -> None:
    child = subprocess.Popen(["sleep", "60"])
    try:
        monkeypatch.setattr(leftovers, "_command", lambda pid: "python" if pid == os.getpid() else "")
        until = time.monotonic() + 10
        while leftovers._title(child.pid) != "sleep" and time.monotonic() < until:  # a program is named as it begins
            time.sleep(0.01)
        assert leftovers._title(child.pid) == "sleep"
    finally:
        child.kill()
        child.wait()


@pytest.mark.parametrize("what", CHANGES)
def test_what_a_plugin_changes_is_put_back_and_named(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.isolation.leftovers.GRACE", 0.1)
    torch.optim.SGD([torch.zeros(1, requires_grad=True)])  # torch wraps `step` when it is first used
    name, change = CHANGES[what]
    with Guard(seed=1) as guard:
        change()
    assert name in guard.changed and not guard.stays
    assert set(guard.changed) <= {name, "default device", "function modes"}
    with Guard(seed=1) as guard:
        pass
    assert guard.changed == ()


def test_what_libraries_do_is_no_change() -> None:
    with Guard(seed=1) as guard:
        torch.optim.Adam([torch.zeros(1, requires_grad=True)]).step()
        threading.Thread(target=threading.Event().wait, name="monitor", daemon=True).start()
        signal.signal(signal.SIGUSR1, threading.Event().wait)
        threading.Thread(target=int).start()  # it ends soon
        subprocess.run(["true"], check=True)
        with torch.no_grad(), torch.autocast("cpu"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.rand(1), np.random.rand(1), random.random()
    assert guard.changed == ()


def test_a_thread_that_stays_is_named_and_costs_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.isolation.leftovers.GRACE", 0.1)
    stay: list[str] = []
    monkeypatch.setattr("harness.isolation.guard._stay", stay)
    done = threading.Event()
    with Guard(seed=1) as guard:
        threading.Thread(target=done.wait).start()
    done.set()
    assert guard.changed == guard.stays == ("thread Thread (wait)",) == tuple(stay)
    assert guard.warnings("attack x") == ["attack x left what cannot be put back: thread Thread (wait)"]


def test_random_states_follow_the_seed_and_come_back() -> None:
    def drawn(seed: int) -> tuple[float, float, float]:
        with Guard(seed=seed):
            return random.random(), float(np.random.rand()), float(torch.rand(1))

    assert drawn(3) == drawn(3) != drawn(4)
    before = torch.random.get_rng_state(), random.getstate()
    with Guard() as guard:
        torch.manual_seed(3), random.seed(4), np.random.seed(5)
    assert torch.equal(torch.random.get_rng_state(), before[0]) and random.getstate() == before[1]
    assert guard.changed == ()
    for draw, names in ((random.random, ("global random state",)), (int, ())):
        with Guard(seed=3, strict=True) as guard:
            draw()
        assert guard.changed == names


def _argparse() -> None:
    import argparse

    argparse.ArgumentParser(prog="train.py").parse_args(["--epochs", "3"])


def _recursion() -> None:
    _recursion()


@pytest.mark.parametrize(
    ("leave", "reason"),
    [
        (lambda: sys.exit(0), "it called sys.exit(0)"),
        (lambda: sys.exit(), "it called sys.exit()"),
        (lambda: sys.exit("usage: x"), "it called sys.exit('usage: x')"),
        (_argparse, "it called sys.exit(2) from argparse, which read the arguments of the harness"),
        (lambda: os._exit(0), "it called os._exit(0)"),
        (lambda: os.abort(), "it called os.abort()"),
        (lambda: os.execv("/bin/true", ["true"]), "it called os.execv('/bin/true')"),
        (lambda: next(iter([])), "StopIteration"),
        (lambda: input("? "), "EOFError: EOF when reading a line (a plugin has no input"),
        (_recursion, "RecursionError: maximum recursion depth exceeded"),
    ],
)
def test_a_reason_says_how_a_plugin_left(leave: Callable[[], object], reason: str) -> None:
    with pytest.raises(BaseException) as caught, Guard(seed=1):
        leave()
    assert describe_error(caught.value).startswith(reason)
    for error in (KeyboardInterrupt(), GeneratorExit(), BaseException("odd")):
        assert describe_error(error).startswith(f"it raised {type(error).__name__}")


def test_ctrl_c_is_told_from_an_error_of_that_name(monkeypatch: pytest.MonkeyPatch) -> None:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background ignores it
    try:
        with pytest.raises(Interrupted), Guard(seed=1):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(5)
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_forked_child_never_comes_back_from_the_call() -> None:
    with Guard(seed=1) as guard:
        child = os.fork()
    if not child:  # pragma: no cover
        os._exit(7)
    assert guard.changed == ()


# --- in a run ---------------------------------------------------------------------------------------------------------

ODD = '''
from __future__ import annotations
import os, subprocess, sys, threading, time
import torch
from harness import Attack, Context, Pool, WhiteBoxAttack

class Odd(WhiteBoxAttack):
    """Does what research code does."""
    name = "an-odd-one"
    family = "removal"
    how: str = "nothing"

    def skip(self, dataset):
        if self.how == "skip":
            sys.exit(0)
        if self.how == "argv":
            sys.argv.append("odd")
        return None

    def __post_init__(self) -> None:
        if self.how == "init":
            sys.exit(0)

    def run(self, victim: torch.nn.Module, pool: Pool, ctx: Context) -> torch.nn.Module:
        if self.how == "exit":
            sys.exit(0)
        if self.how == "interrupt":
            raise KeyboardInterrupt
        if self.how == "quit":
            os._exit(0)
        if self.how == "relu":
            torch.relu = torch.nn.functional.relu = torch.tanh
        if self.how == "chdir":
            os.chdir(os.sep)
        if self.how == "grad":
            torch.set_grad_enabled(False)
        if self.how == "thread":
            threading.Thread(target=time.sleep, args=(4,)).start()
        if self.how == "print":
            print("accuracy: 97%")
            sys.stdout.buffer.write(b"bytes\\n")
            os.write(1, b"written\\n")
            subprocess.run(["echo", "of a process"], check=True)
            os.system("echo of a shell")
        if self.how == "fork":
            import multiprocessing
            with multiprocessing.get_context("fork").Pool(2) as workers:
                workers.map(abs, range(4))
        if self.how == "loader":
            from torch.utils.data import DataLoader, TensorDataset
            for (x,) in DataLoader(TensorDataset(pool.x), batch_size=64, num_workers=2):
                victim(x)
        return victim
'''


@pytest.fixture
def odd(tmp_path: Path) -> Path:
    folder = tmp_path / "odd"
    folder.mkdir()
    (folder / "odd.py").write_text(ODD)
    return folder


def _command(tmp_path: Path, odd: Path, *how: str) -> list[object]:
    attacks = [word for each in how for word in ("--attack", f"an-odd-one[how={each}]")]
    return [
        *("run", "--matrix", "smoke", "--dataset", TINY, "--defense", "baseline", "--nulls", 0, "--no-innocents"),
        *(*attacks, "--attack", "pruning", "--plugins", odd, "--results", tmp_path / "results"),
    ]


def test_in_this_process_a_plugin_that_leaves_fails_its_own_cells(cli: Cli, tmp_path: Path, odd: Path) -> None:
    said = cli(*_command(tmp_path, odd, "exit", "interrupt", "quit", "skip"), "--jobs", 1, "--quiet", code=1)
    reasons = ("sys.exit(0)", "KeyboardInterrupt", "os._exit(0)", "sys.exit(0)")
    for how, reason in zip(("exit", "interrupt", "quit", "skip"), reasons, strict=True):
        assert f"an-odd-one[how={how}]: it {'raised' if how == 'interrupt' else 'called'} {reason}" in said.err
    assert "5 cells (4 failed, 1 ok)" in said.out


def test_what_planning_is_asked_with_other_options_changes_is_put_back_and_told(
    cli: Cli, tmp_path: Path, odd: Path
) -> None:
    said = cli(*_command(tmp_path, odd, "nothing", "argv"), "--jobs", 1, "--quiet", code=0)
    assert said.err == "warning: attack an-odd-one, asked for its stages, changed the process's sys.argv: put back\n"
    assert "odd" not in sys.argv


def test_options_that_leave_are_a_mistake_in_one_line(cli: Cli, tmp_path: Path, odd: Path) -> None:
    said = cli(*_command(tmp_path, odd, "init"), code=2)
    assert said.err.splitlines()[-1].endswith("an-odd-one[how=init]: it called sys.exit(0)")


def test_in_this_process_settings_are_put_back_and_the_stage_is_named(
    cli: Cli, tmp_path: Path, odd: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    args = _command(tmp_path, odd, "grad", "relu", "chdir", "fork", "loader")
    args[-1] = "results"  # of the folder that it was started in
    said = cli(*args, "--jobs", 1, "--quiet", "--plugins", "odd", code=0)
    assert said.err.splitlines() == [
        "warning: attack an-odd-one changed the process's grad mode: put back",
        "warning: attack an-odd-one changed the process's torch.relu, torch.nn.functional.relu: put back",
        "warning: attack an-odd-one changed the process's working directory: put back",
    ]
    stages = pd.read_parquet(tmp_path / "results/tables/stages")
    changed = stages.set_index("plugin")["changed"].dropna().to_dict()
    assert changed == {
        "an-odd-one[how=grad]": "grad mode",
        "an-odd-one[how=relu]": "torch.relu, torch.nn.functional.relu",
        "an-odd-one[how=chdir]": "working directory",
    }
    assert not (Path(os.sep) / "results").exists()


@pytest.mark.slow
def test_workers_print_nothing_to_stdout_and_one_with_a_thread_left_is_replaced(tmp_path: Path, odd: Path) -> None:
    """In a process of its own: what is written to file descriptors shows there alone."""
    args = _command(tmp_path, odd, "print", "thread", "grad", "exit", "quit")
    for jobs in (2, 1):
        args[-1] = tmp_path / f"results-{jobs}"
        command = [sys.executable, "-m", "harness", *map(str, args), "--jobs", str(jobs), "--log-json"]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=120)
        lines = ended.stdout.splitlines()
        assert [line for line in lines if not line.startswith('{"')] == [] and "tables in" in ended.stderr
        assert "6 cells (2 failed, 4 ok)" in ended.stderr and ended.returncode == 1
        for said in ("accuracy: 97%", "bytes", "written", "of a process", "of a shell"):
            assert said in ended.stderr.splitlines()
        assert ended.stderr.count("an-odd-one changed the process's grad mode: put back") == 1
        assert "attack an-odd-one left what cannot be put back: thread Thread (sleep)" in ended.stderr


def test_what_a_plugin_raises_in_python_leaves_the_random_state_of_a_notebook(tmp_path: Path, odd: Path) -> None:
    torch.manual_seed(11)
    before = torch.random.get_rng_state()
    run = harness.run(
        "smoke", datasets=TINY, defenses="baseline", attacks="none", nulls=0, results=tmp_path, plugins=odd, jobs=1
    )
    assert not run.failures and torch.equal(torch.random.get_rng_state(), before)
