"""The Python API: a script, a notebook and a thread do what the command line does."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from threading import Thread
from typing import Any

import pandas as pd
import pytest
import torch

import harness
from harness import Context, Defense, Key, Marked, Split, Stream, Task, WhiteBoxAttack
from harness.errors import DataError, UnknownName, UsageError
from harness.running.progress import Quiet
from harness.storage.store import Store
from harness.verdicts.rules import Rules
from tests.conftest import ROOT, TINY, Cli
from tests.test_session import measured
from tests.warm import Started

pytestmark = pytest.mark.slow  # scripts, worker processes and the checker of types

AXES: dict[str, Any] = {"datasets": TINY, "defenses": "baseline", "attacks": "none", "nulls": 1}
"""One cell of six stages."""

SCHEME = '''
import torch
import harness
from harness import Context, Defense, Key, Marked, Split, Stream, Task

SHIFT = 1

def wrong(y, classes):
    """Labels that are wrong."""
    return (y + SHIFT) % classes

class Wrong(Defense):
    """Wrong labels on a few images."""

    name = "wrong-labels"
    count: int = 20  # images

    def embed(self, task: Task, ctx: Context) -> Marked:
        few = task.train.first(self.count)
        trigger = Split(few.x, wrong(few.y, len(task.dataset.classes)))
        net = ctx.train(ctx.build(), [ctx.stream(task.train), Stream((trigger,), 8)], task.dataset.epochs)
        return Marked(net, Key({"trigger": trigger}))
'''


class Wrong(Defense):
    """Wrong labels on a few images."""

    name = "wrong-labels"
    count: int = 20

    def embed(self, task: Task, ctx: Context) -> Marked:
        few = task.train.first(self.count)
        trigger = Split(few.x, (few.y + 1) % len(task.dataset.classes))
        net = ctx.train(ctx.build(), [ctx.stream(task.train), Stream((trigger,), 8)], task.dataset.epochs)
        return Marked(net, Key({"trigger": trigger}))


class Halved(WhiteBoxAttack):
    """All weights times one half."""

    name = "halved"
    family = "removal"
    factor: float = 0.5

    def run(self, victim: torch.nn.Module, pool: harness.Pool, ctx: Context) -> torch.nn.Module:
        with torch.no_grad():
            for parameter in victim.parameters():
                parameter.mul_(self.factor)
        return victim


def script(text: str, tmp_path: Path, *words: object) -> subprocess.CompletedProcess[str]:
    """Run a Python script in a process of its own, in a folder of its own."""
    (tmp_path / "script.py").write_text(text)
    command = [sys.executable, "script.py", *map(str, words)]
    return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)


def warm_script(text: str, tmp_path: Path) -> subprocess.CompletedProcess[str]:
    """The same in a process that has imported torch already: for what does not depend on how it started."""
    (tmp_path / "script.py").write_text(text)
    with Started("script.py", cwd=tmp_path, module="tests.scripts") as running:
        out, err = running.communicate()
    return subprocess.CompletedProcess(["script.py"], running.returncode or 0, out, err)


def stored(results: Path) -> set[str]:
    return Store(results).ids()


# --- a run ------------------------------------------------------------------------------------------------------------


def test_a_run_is_that_of_the_command_line(cli: Cli, tmp_path: Path) -> None:
    axes = AXES | {"attacks": ["none", ("retraining", "pruning[fraction=0.5]")]}
    run = harness.run("smoke", **axes, seeds=range(2), results=tmp_path / "python")
    words = ("--dataset", TINY, "--defense", "baseline", "--attack", "none", "--attack")
    results = ("--results", tmp_path / "typed")
    cli(
        "run",
        *words,
        "retraining | pruning[fraction=0.5]",
        "--seeds",
        "0-1",
        "--nulls",
        1,
        "--no-innocents",
        *results,
        code=0,
    )
    assert stored(tmp_path / "python") == stored(tmp_path / "typed") == set(run.plan.stages)
    for table in ("cells", "evidence", "stages"):
        pd.testing.assert_frame_equal(*(measured(tmp_path / name, table) for name in ("python", "typed")))
    assert run.counts == {"ok": 4} and not run.failures and not run.interrupted
    assert repr(run).startswith(f"ran {len(run.plan.stages)} stages: 4 cells (4 ok), tables in {tmp_path / 'python'}/")
    assert repr(run).endswith("next: .leaderboard()") and "4 ok" in run._repr_html_()
    again = harness.run("smoke", **axes, seeds="0-1", results=tmp_path / "typed")
    assert again.outcome.ran == 0 and repr(again).startswith("nothing to do: 4 cells (4 ok)")


def test_a_run_ranks_its_own_cells_and_a_folder_all_of_them(tmp_path: Path) -> None:
    small = harness.run("smoke", **AXES, results=tmp_path)
    run = harness.run("smoke", **AXES | {"defenses": ["ewe", "adi"]}, seeds=1, results=tmp_path)
    assert sorted(run.leaderboard().frame["defense"]) == ["adi", "ewe"]
    assert list(run.cells()["seed"]) == [1, 1] and len(small.cells()) == 1
    board = harness.leaderboard(tmp_path)
    assert sorted(board.frame["defense"]) == ["adi", "baseline", "ewe"]
    assert "baseline" in repr(board) and "<table" in board._repr_html_()
    assert list(board.to_frame("attack")["attack"]) == ["none"] * 3
    details = board.details("attack", explain=True)
    assert "margin after each attack" in repr(details) and "<table" in details._repr_html_()
    strict = harness.leaderboard(tmp_path, test="beta-binomial", min_margin=0.2, max_cost=0.0, gamma=0.05, budget=9)
    assert strict.board.rules == Rules("beta-binomial", min_margin=0.2, max_cost=0.0, gamma=0.05, budget=9)
    with pytest.raises(UsageError, match="max-cost must be in"):
        run.leaderboard(max_cost=-1)
    assert set(harness.leaderboard(tmp_path, defenses="ba*").frame["defense"]) == {"baseline"}
    assert len(harness.read_table(tmp_path, "cells")) == 3
    compared = harness.compare("ewe", "adi", results=tmp_path)
    assert set(compared.frame["ours"]) and "ewe" in repr(compared) and "<table" in compared._repr_html_()


def test_the_command_of_the_documents_prints_a_board(smoke: Path, tmp_path: Path) -> None:
    shutil.copytree(smoke, tmp_path / "r")
    done = script("import harness; print(harness.run('smoke', results='r').leaderboard())", tmp_path)
    assert done.returncode == 0 and done.stderr == "", done.stderr
    assert "No verdict: needs 19 unmarked models" in done.stdout and re.search(r"^ewe +", done.stdout, re.MULTILINE)


def test_a_plan_says_what_would_be_run(tmp_path: Path) -> None:
    plan = harness.plan("smoke", **AXES, results=tmp_path / "new")
    assert "1 cells, 6 stages, 0 stored" in repr(plan) and len(plan.todo) == 6 and len(plan.cells()) == 1
    assert not (tmp_path / "new").exists(), "planning writes nothing"
    harness.run("smoke", **AXES, results=tmp_path / "new")
    after = harness.plan("smoke", **AXES, results=tmp_path / "new")
    assert "6 stored" in repr(after) and not after.todo and "6 stored" in after._repr_html_()


@pytest.mark.slow
def test_failed_cells_are_told_and_do_not_raise(tmp_path: Path) -> None:
    run = harness.run("smoke", **AXES | {"defenses": Broken}, results=tmp_path)
    ((cell, reason),) = run.failures
    assert "broken" in cell and "it broke" in reason and "1 failed" in repr(run) and "it broke" in repr(run)
    assert "next: mend what failed" in repr(run)


class Broken(Defense):
    """Fails."""

    name = "broken"

    def embed(self, task: Task, ctx: Context) -> Marked:
        raise RuntimeError("it broke")


def test_progress_is_a_choice(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    harness.run("smoke", **AXES, results=tmp_path / "a")
    harness.run("smoke", **AXES, results=tmp_path / "b", progress=False)
    assert capsys.readouterr() == ("", ""), "no progress where the output is neither a terminal nor a notebook"
    harness.run("smoke", **AXES, results=tmp_path / "c", progress=True)
    out, err = capsys.readouterr()
    assert not out and len(err.splitlines()) == 6 and err.startswith("[1/6")


def test_torch_has_the_settings_of_before(tmp_path: Path) -> None:
    before = (torch.get_num_threads(), torch.backends.cudnn.allow_tf32, torch.random.get_rng_state().tolist())
    harness.run("smoke", **AXES, results=tmp_path, threads=2, precision="fp32", deterministic=True)
    after = (torch.get_num_threads(), torch.backends.cudnn.allow_tf32, torch.random.get_rng_state().tolist())
    assert before == after and not torch.are_deterministic_algorithms_enabled()


def test_a_run_from_a_thread(tmp_path: Path) -> None:
    runs: list[Any] = []
    handler = signal.getsignal(signal.SIGINT)
    thread = Thread(target=lambda: runs.append(harness.run("smoke", **AXES, results=tmp_path)))
    thread.start()
    thread.join()
    assert runs[0].counts == {"ok": 1} and signal.getsignal(signal.SIGINT) is handler


class Interrupting(Quiet):
    """Presses Ctrl-C so many times when the first stage ends."""

    def __init__(self, times: int) -> None:
        self.times = times

    def ended(self, record: dict[str, Any], done: int, total: int, seconds_left: float | None) -> None:
        for _ in range(self.times if done == 1 else 0):
            signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize("times", [1, 2])
def test_an_interrupt_keeps_what_is_finished(times: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("harness.running.progress.python_watcher", lambda total, wanted: Interrupting(times))
        if times == 1:
            run = harness.run("smoke", **AXES, results=tmp_path)
            assert run.interrupted and run.counts == {"not run": 1} and "interrupted: the same call" in repr(run)
        else:
            with pytest.raises(KeyboardInterrupt):
                harness.run("smoke", **AXES, results=tmp_path)
    assert len(stored(tmp_path)) == len(harness.read_table(tmp_path, "stages")) == 1
    run = harness.run("smoke", **AXES, results=tmp_path)
    assert run.outcome.ran == 5 and run.counts == {"ok": 1} and not run.interrupted


def test_importing_the_package_imports_little() -> None:
    code = (
        "import sys, harness; harness.run, harness.leaderboard\n"
        "print(*sorted({'torch', 'pandas', 'numpy', 'pyarrow', 'rich', 'click', 'cloudpickle', 'scipy', 'IPython'}"
        " & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


# --- mistakes ---------------------------------------------------------------------------------------------------------


class Nameless(Defense):
    """Without a name."""

    def embed(self, task: Task, ctx: Context) -> Marked:
        raise NotImplementedError


class Namesake(Wrong):
    """Another class of the same name."""


class Usurper(Wrong):
    """A class of a built-in's name."""

    name = "ewe"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"matrix": "smok"}, "unknown matrix 'smok'. Did you mean 'smoke'?"),
        ({"matrix": None, "defenses": ()}, "no matrix, and no defenses: name them, or a matrix"),
        ({"defenses": "ew"}, "unknown defense 'ew'. Did you mean 'ewe'?"),
        ({"defenses": ["ewe[wieght=1]"]}, "unknown option of ewe 'wieght'. Did you mean"),
        ({"defenses": Wrong(count="many")}, "expected a whole number, not 'many'"),  # type: ignore[arg-type]
        ({"defenses": Nameless}, "Nameless does not set name"),
        ({"defenses": [Wrong, Namesake]}, "two different classes are named 'wrong-labels' (Namesake)"),
        ({"defenses": Usurper}, "defense 'ewe' exists already (built-in"),
        ({"defenses": Halved}, "Halved is a plugin of kind attack, where defense is expected"),
        ({"defenses": dict}, "'dict' is not a plugin: derive it from one of harness's"),
        ({"defenses": 3}, "expected a name, a plugin class or object, or a list of these, not 3"),
        ({"defenses": [("ewe", "adi")]}, "defense: ('ewe', 'adi') is a chain: only attacks chain"),
        ({"attacks": [()]}, "attack: () is a chain"),
        ({"seeds": "many"}, "cannot read seeds 'many'"),
        ({"seeds": [0.5]}, "cannot read seeds '0.5'"),
        ({"seeds": ()}, "cannot read seeds ''"),
        ({"nulls": -1}, "nulls: expected a whole number from 0 to 1000, not -1"),
        ({"scale": "ful"}, "unknown scale 'ful'. Did you mean 'full'?"),
        ({"jobs": 0}, "jobs: expected a whole number from 1 to 1024, or auto, not 0"),
        ({"threads": "two"}, "threads: expected a whole number from 1 to 1024, not 'two'"),
        ({"precision": "fp16"}, "unknown precision 'fp16'"),
        ({"rerun": "fail"}, "unknown rerun 'fail'. Did you mean 'failed'?"),
        ({"executor": "rey"}, "unknown executor 'rey'. Did you mean 'ray'?"),
        ({"address": "auto"}, "address 'auto' names a Ray cluster"),
        ({"stage_timeout": 0}, "stage-timeout must be a number of seconds above 0, not 0"),
        ({"device": "gpu"}, "no device 'gpu' here"),
        ({"plugins": "nowhere"}, "no plugin folder 'nowhere'"),
    ],
)
def test_a_mistake_is_one_line_and_nothing_is_written(arguments: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        harness.run(**{"matrix": "smoke", **AXES, "results": tmp_path / "results", **arguments})
    assert message in str(caught.value) and "\n" not in str(caught.value)
    assert not (tmp_path / "results").exists()


def test_mistakes_about_folders(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="file"):
        harness.run("smoke", **AXES, results=tmp_path / "file")
    with pytest.raises(DataError, match="mnist"):
        harness.run("smoke", **AXES | {"datasets": "mnist"}, data=tmp_path, results=tmp_path / "results")
    with pytest.raises(UsageError, match="no results yet"):
        harness.leaderboard(tmp_path / "results")
    with pytest.raises(UnknownName, match="unknown test 'binomail'. Did you mean 'binomial'"):
        harness.leaderboard(tmp_path, test="binomail")  # type: ignore[arg-type]
    with pytest.raises(UnknownName, match="unknown table 'cell'. Did you mean 'cells'"):
        harness.read_table(tmp_path, "cell")


# --- classes and objects ----------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("warm_workers")
def test_classes_and_objects_are_entries_also_of_worker_processes(tmp_path: Path) -> None:
    axes: dict[str, Any] = {"datasets": TINY, "defenses": [Wrong, Wrong(count=9)], "nulls": 1}
    axes["attacks"] = ["halved", (Halved(factor=0.25), "pruning")]
    texts = {
        "defense": ["wrong-labels", "wrong-labels[count=9]"],
        "attack": ["halved", "halved[factor=0.25] | pruning"],
    }
    serial = harness.run("smoke", **axes, plugins=Halved, results=tmp_path / "serial", jobs=1)
    assert serial.counts == {"ok": 4}, repr(serial)
    parallel = harness.run("smoke", **axes, plugins=[Halved], results=tmp_path / "parallel", jobs=2)
    assert parallel.plan == serial.plan
    for axis, names in texts.items():
        assert sorted(set(serial.cells()[axis])) == names
    for table in ("cells", "evidence", "stages"):
        pd.testing.assert_frame_equal(*(measured(tmp_path / name, table) for name in ("serial", "parallel")))


@pytest.mark.slow
def test_a_script_runs_its_own_classes_in_worker_processes(tmp_path: Path) -> None:
    """Without ``if __name__ == "__main__"``: no worker runs the script again."""
    call = """
run = harness.run(None, datasets=DATA, defenses=[Wrong(count=12), Guarded], attacks=["none", (Same, Shy)], nulls=1,
                  results="results", jobs=2)
print(run)
"""
    text = "from __future__ import annotations\nfrom typing import Literal\n" + SCHEME + MORE + call
    done = script(text.replace("DATA", repr(TINY)), tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("4 cells (4 ok)") == 1 and done.stderr == ""
    assert "nothing to do" in warm_script(text.replace("DATA", repr(TINY)), tmp_path).stdout


@pytest.mark.slow
def test_a_class_of_a_module_beside_the_script_is_imported_by_workers(tmp_path: Path) -> None:
    axes = f"None, datasets={TINY!r}, defenses=Wrong(count=9), attacks='none', nulls=1"
    text = f"import harness\nfrom schemes import Wrong\nprint(harness.CALL({axes}MORE)EACH)"
    plan = text.replace("CALL", "plan").replace("MORE", "").replace("EACH", ".plan.stages.keys()")
    (tmp_path / "schemes.py").write_text(SCHEME)
    worker = ", jobs=1, stage_timeout=300"  # one stage at a time, in a worker process
    run = script(text.replace("CALL", "run").replace("MORE", worker).replace("EACH", ""), tmp_path)
    assert "1 cells (1 ok)" in run.stdout, run.stderr
    stages = warm_script(plan, tmp_path).stdout
    (tmp_path / "schemes.py").write_text(SCHEME.replace("# images", "# number of images"))
    assert stages and warm_script(plan, tmp_path).stdout == stages
    (tmp_path / "schemes.py").write_text(SCHEME.replace("SHIFT = 1", "SHIFT = 2"))
    assert warm_script(plan, tmp_path).stdout not in ("", stages)


MORE = '''
class Guarded(Wrong):
    """The same with other defaults: a class without a method of its own, and a postponed annotation."""
    name = "guarded"
    mode: Literal["a", "b"] = "b"

class Same(harness.WhiteBoxAttack):
    """Changes nothing."""
    name = "same"
    family = "removal"
    def run(self, victim, pool, ctx):
        return victim

class Shy(harness.Evasion):
    """A guard that a worker makes from the attack's name alone."""
    name = "shy"
    share: float = 0.5
    mode: Literal["a", "b"] = "a"
    def prepare(self, suspect, pool, ctx):
        return {"threshold": torch.tensor(self.share)}
    def serve(self, suspect, inputs, logits, guard):
        return logits
'''


CONSTANTS = """
SHIFT = 1
NAMES = {"a", "b", "c", "d"}

class Setting:
    def __init__(self, by):
        self.by = by

    def shift(self):
        return self.by

SETTING = Setting(3)
"""

EDITS: dict[str, tuple[Callable[[str], str], bool]] = {
    "another line of the script": (lambda text: text.replace("OTHER = 1", "OTHER = 2"), False),
    "a comment": (lambda text: text.replace("# images", "# number of images"), False),
    "a docstring": (lambda text: text.replace("Labels that are wrong.", "Wrong labels."), False),
    "a line above": (lambda text: "\n\n" + text, False),
    "the class": (lambda text: text.replace("first(self.count)", "first(self.count + 1)"), True),
    "its helper": (lambda text: text.replace("(y + SHIFT", "(y - SHIFT"), True),
    "a constant of its helper": (lambda text: text.replace("SHIFT = 1", "SHIFT = 2"), True),
    "an object's value": (lambda text: text.replace("Setting(3)", "Setting(4)"), True),
    "an object's class": (lambda text: text.replace("return self.by", "return -self.by"), True),
}


@pytest.mark.slow
def test_what_a_class_in_a_script_names_decides_whether_it_runs_again(tmp_path: Path) -> None:
    call = f"""
OTHER = 1
print(*harness.plan(None, datasets={TINY!r}, defenses=Wrong, attacks="none", nulls=0).plan.cells[0].stages)
"""
    text = SCHEME.replace("import torch\n", "").replace("SHIFT = 1\n", CONSTANTS) + call
    text = text.replace("(y + SHIFT)", "(y + SHIFT + SETTING.shift() + len(NAMES))")
    before = warm_script(text, tmp_path)
    assert before.returncode == 0, before.stderr
    for name, (edit, reruns) in EDITS.items():
        assert edit(text) != text
        after = warm_script(edit(text), tmp_path)
        assert after.returncode == 0, after.stderr
        assert (after.stdout != before.stdout) == reruns, name


def test_a_class_without_source_says_what_to_do(tmp_path: Path) -> None:
    code = SCHEME + f"\nharness.run(None, datasets={TINY!r}, defenses=Wrong, attacks='none')"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert "UsageError: the source of Wrong cannot be found" in done.stderr
    assert "put the class into a file and name its folder, plugins=['FOLDER']" in done.stderr
    assert not (tmp_path / "results").exists()


def test_a_class_that_cannot_be_sent_says_what_to_do(tmp_path: Path) -> None:
    text = SCHEME.replace("SHIFT = 1", "import threading\nSHIFT = 1\nLOCK = threading.Lock()")
    text = text.replace("    return (y", "    LOCK.locked()\n    return (y")
    call = f"\nprint(harness.run(None, datasets={TINY!r}, defenses=Wrong, attacks='none', results='r', jobs=JOBS))"
    done = warm_script(text + call.replace("JOBS", "2"), tmp_path)
    assert "UsageError: Wrong cannot be sent to worker processes" in done.stderr and "run with jobs=1" in done.stderr
    assert "(1 ok)" in warm_script(text + call.replace("JOBS", "1"), tmp_path).stdout


def test_a_later_process_without_the_class_says_so(tmp_path: Path) -> None:
    harness.run("smoke", **AXES | {"defenses": Wrong}, results=tmp_path)
    with pytest.raises(UnknownName, match="unknown defense 'wrong-labels'"):
        harness.run("smoke", **AXES | {"defenses": "wrong-labels"}, results=tmp_path)
    assert "wrong-labels" in repr(harness.leaderboard(tmp_path)), "its results need no class"


def test_an_edited_plugin_file_is_seen_by_the_next_call(tmp_path: Path) -> None:
    (tmp_path / "plugins").mkdir()
    file = tmp_path / "plugins" / "wrong.py"
    text = SCHEME.replace("import harness\n", "from harness import hookimpl\n")
    hook = "\n@hookimpl\ndef harness_defenses():\n    return [Wrong]\n"
    file.write_text(text + hook)
    axes = AXES | {"defenses": "wrong-labels"}
    first = harness.plan("smoke", **axes, plugins=tmp_path / "plugins")
    file.write_text(text.replace("SHIFT = 1", "SHIFT = 3") + hook)
    second = harness.plan("smoke", **axes, plugins=[str(tmp_path / "plugins")])
    assert first.plan.cells[0].id != second.plan.cells[0].id


# --- documents and types ----------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_page_on_python_runs(tmp_path: Path, tiny_smoke: Path) -> None:
    blocks = re.findall(r"^```python\n(.*?)^```", (ROOT / "docs" / "python.md").read_text("utf-8"), re.M | re.S)
    assert len(blocks) == 3 and blocks[0].count('"smoke"') == blocks[2].count('"smoke"') == 1
    text = "\n".join(blocks).replace('"smoke"', repr(str(tiny_smoke))) + "\nprint(repr(run), board, sep='\\n')\n"
    done = warm_script(text, tmp_path)
    assert done.returncode == 0 and done.stderr == "", done.stderr
    said = re.search(r"ran \d+ stages: 8 cells \(8 ok\), tables in results/tables", blocks[0])
    assert said and said[0] in done.stdout, done.stdout


TYPED = """
import pandas as pd
import harness

class Mine(harness.Defense):
    name = "mine"
    weight: float = 1.0

    def embed(self, task: harness.Task, ctx: harness.Context) -> harness.Marked:
        return harness.Marked(ctx.build(), harness.Key({}))

chain = ("pruning", "retraining")
run = harness.run("smoke", defenses=["ewe", Mine, Mine(weight=3)], attacks=["none", chain], seeds=range(5))
frame: pd.DataFrame = run.cells()
failed: list[tuple[str, str]] = run.failures
board = harness.leaderboard("results", attacks="pruning")
print(board, board.to_frame("attack"), harness.compare("ewe", "mine").frame, harness.plan(None, datasets="digits"))
"""


@pytest.mark.slow
def test_a_script_of_a_user_is_checked_by_mypy(tmp_path: Path) -> None:
    wrong = TYPED.replace("seeds=range(5)", "seed=0").replace("weight=3", "weigth=3").replace('"attack"', '"atack"')
    for name, text in (("right.py", TYPED), ("wrong.py", wrong)):
        (tmp_path / name).write_text(text)
    skipped = "".join(f"[mypy-{name}.*]\nfollow_imports = skip\n" for name in ("torch", "pandas", "numpy", "rich"))
    (tmp_path / "mypy.ini").write_text(f"[mypy]\n{skipped}")
    options = ["--strict", "--follow-imports=silent", "--ignore-missing-imports", "--no-error-summary"]
    command = [sys.executable, "-m", "mypy", *options, f"--cache-dir={tmp_path / 'cache'}", "right.py", "wrong.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    told = done.stdout + done.stderr
    assert "right.py" not in told, told
    assert 'Unexpected keyword argument "seed"' in told and '"weigth"' in told and "atack" in told, told
