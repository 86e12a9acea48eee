"""Kills a run at random points, resumes it, and compares its tables with those of a run that nobody killed.

    python -m benchmarks.faults --kills 200
    python -m benchmarks.faults --kills 200 --matrix smoke

A warm process forks a child an attempt, which runs the command line. Half of the children die at a random file
operation: before it, after it, or in its middle; or a power cut takes a random part of what was just renamed into
place. The others are killed after a random time. Once a run has come to its end, the next begins in an empty folder.
"""

from __future__ import annotations

import argparse
import importlib
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click
import pandas as pd

TINY = "digits[train=200,holdout=100,epochs=2,pretrain=1,batch_size=32]"
_ENTRIES = {"dataset": [TINY], "defense": ["baseline", "adi"], "attack": ["none", "retraining", "pruning"]}
TINIEST = [text for axis, names in _ENTRIES.items() for name in names for text in (f"--{axis}", name)]
MATRICES = {"tiny": [*TINIEST, "--seeds", "0", "--nulls", "1"], "smoke": ["--matrix", "smoke"]}
OPERATIONS = 25
"""A child dies at one of so many first file operations: a stage has about twelve."""
NOWHERE = Path("/nowhere")
VOLATILE = ("run", "started", "seconds", "embed_seconds", "attack_seconds", "peak_memory_mib")
LONGEST = 8.0
"""Seconds after which a child is killed at the latest, where it does not die at a file operation."""


# --- in the child -----------------------------------------------------------------------------------------------------


class Death:
    """Counts the operations on files, and ends the process at one of them."""

    def __init__(self, dice: random.Random) -> None:
        self.dice, self.left = dice, dice.randint(1, OPERATIONS)
        self.when = dice.choice(["before", "middle", "after", "power cut"])

    def at(self, operation: Callable[..., Any], written: Callable[..., Path]) -> Callable[..., Any]:
        """``operation``, at which the process may die; ``written`` says by its arguments which file it changes."""

        def dying(*args: Any, **options: Any) -> Any:
            self.left -= 1
            if self.left:
                return operation(*args, **options)
            if self.when != "before":
                operation(*args, **options)
            if self.when in ("middle", "power cut"):
                self.tear(written(*args))
            os._exit(99)

        return dying

    def tear(self, path: Path) -> None:
        """Cut a file short, or one of a folder's; of what was just renamed only a power cut does."""
        files = [path] if path.is_file() else sorted(each for each in path.rglob("*") if each.is_file())
        torn = [each for each in files if each.name != "format.json"]  # the one that is synced
        if torn:
            chosen = self.dice.choice(torn)
            os.truncate(chosen, self.dice.randint(0, chosen.stat().st_size))

    def lurk(self) -> None:
        """Wait at the operations that change files."""
        import pyarrow.parquet as pq

        def target(source: object, target: Any, *rest: object) -> Path:
            return Path(target) if self.when == "power cut" else NOWHERE

        def first(path: Any, *rest: object) -> Path:
            return Path(path)

        def second(data: object, path: Path, *rest: object) -> Path:
            return path

        def nothing(*rest: object) -> Path:
            return NOWHERE

        operations: list[tuple[Any, str, Callable[..., Path]]] = [
            *((os, name, target) for name in ("replace", "rename")),
            *((os, name, first) for name in ("unlink", "mkdir")),
            (os, "fsync", nothing),
            *((Path, name, first) for name in ("write_bytes", "write_text")),
            (shutil, "rmtree", first),
            (pq, "write_table", second),
        ]
        for module, name, written in operations:
            setattr(module, name, self.at(getattr(module, name), written))


def command(matrix: str, results: Path, death: Death | None) -> None:
    """Run the matrix in this process, and end it with the exit code."""
    from harness.cli import main

    code = 98
    try:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        said = os.open(results.with_suffix(".said"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(nowhere, 1)
        os.dup2(said, 2)
        sys.argv = ["harness", "run", *MATRICES[matrix], "--results", str(results), "--quiet", "--jobs", "1"]
        if death:
            death.lurk()
        main()
    except SystemExit as end:
        code = int(end.code or 0)
    finally:
        os._exit(code)


# --- in the parent ----------------------------------------------------------------------------------------------------


def attempt(matrix: str, results: Path, dice: random.Random | None, longest: float) -> int:
    """Run the command in a child that may die. Its exit code; negative, the signal that killed it."""
    death = None if dice is None or dice.random() < 0.5 else Death(dice)
    child = os.fork()
    if not child:
        command(matrix, results, death)
    if dice is not None and death is None:
        time.sleep(dice.uniform(0, longest))
        os.kill(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def tables(results: Path) -> dict[str, pd.DataFrame]:
    """All tables without what differs from run to run."""
    from harness import read_table
    from harness.storage.schema import TABLES

    frames = {}
    for name in TABLES:
        frame = read_table(results, name)
        if name == "stages":  # what a process recalls, it need not evaluate: a new process recalls nothing
            frame["asked"] = frame.pop("evaluated_samples") + frame.pop("recalled_samples")
        frame = frame.drop(columns=[column for column in VOLATILE if column in frame])
        frames[name] = frame.sort_values(list(frame.columns)).reset_index(drop=True)
    return frames


def differing(results: Path, whole: dict[str, pd.DataFrame]) -> list[str]:
    """The tables that are not those of a run that nobody killed."""
    return [name for name, frame in tables(results).items() if not frame.equals(whole[name])]


def suffer(matrix: str, folder: Path, kills: int, seed: int) -> tuple[Counter[str], list[str]]:
    """Kill so many times, and count; and what went wrong."""
    begin = time.monotonic()
    if code := attempt(matrix, folder / "whole", None, 0):
        raise SystemExit(f"the run that nobody kills ended with {code}")
    longest = min(LONGEST, (time.monotonic() - begin) / 4)
    whole = tables(folder / "whole")
    dice, count, wrong = random.Random(seed), Counter[str](), list[str]()
    killed_of_this = 0
    while count["killed"] < kills or killed_of_this:
        results = folder / f"run-{count['finished']}"
        code = attempt(matrix, results, dice if count["killed"] < kills else None, longest)
        if code in (99, -signal.SIGKILL):
            count["killed"] += 1
            killed_of_this += 1
            count["at a file operation" if code == 99 else "at a time"] += 1
            continue
        if code:
            said = results.with_suffix(".said").read_text()[-300:]
            wrong.append(f"{results.name}: exit code {code} after {killed_of_this} kills: {said}")
        else:
            wrong += [f"{results.name}: another table {name}" for name in differing(results, whole)]
        count["finished"] += 1
        count["resumed"] += killed_of_this
        killed_of_this = 0
    return count, wrong


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.faults", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--matrix", choices=MATRICES, default="tiny")
    chosen = parser.parse_args(arguments)
    for name in ("harness.running.worker", "pyarrow.parquet", "sklearn.datasets"):
        importlib.import_module(name)  # what every child needs
    begin = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        count, wrong = suffer(chosen.matrix, Path(folder), chosen.kills, chosen.seed)
    for line in wrong:
        click.echo(line)
    click.echo(
        f"{count['killed']} kills ({count['at a file operation']} at file operations, {count['at a time']} at random "
        f"times), {count['resumed']} resumed, {count['finished']} runs finished in {time.monotonic() - begin:.0f} s: "
        f"tables {'DIFFER' if wrong else 'equal'}"
    )
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
