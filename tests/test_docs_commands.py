"""The commands of the documents run as they stand, on fewer digits; and which ones run elsewhere, and why."""

from __future__ import annotations

import re
import shlex
import shutil
from glob import glob
from pathlib import Path

import numpy as np
import pytest

from harness.planning.registry import load_registry
from tests.conftest import ROOT, Cli
from tests.test_docs import commands

PAGES = ("board", "commands", "reproduce", "own-data", "troubleshooting", "verify")
DIGITS = "digits[train=200,holdout=100,architecture=mlp,epochs=2,pretrain=1,batch_size=32]"
ELSEWHERE = {
    "run --matrix paper --executor ray": "test_ray.py",  # it needs a cluster
    "verify owner https:": "test_verify_endpoint.py",  # it needs a server
    "data fetch": "test_downloads.py",  # it needs a server
    "reproduce ewe-2021 table-1-v1": "test_reproduce.py",  # real data and minutes
    "reproduce ewe-2021 all": "test_reproduce.py",
}
"""Beginnings of commands that other tests run."""
CELL = f"{DIGITS} / baseline / none #0"
PLACEHOLDERS = {
    **{"DIR": "results/records/2026-01-01-my-scheme", "RESULTS-OF-A": "results-of-a"},
    **{"FOLDER": "my-plugins", "NAME": "my-mark", "CELL": CELL, "DATASET / DEFENSE / ATTACK #SEED": CELL},
}
FEW = {
    "run": ("--nulls", 2, "--no-innocents", "--quiet"),
    "embed": ("--nulls", 19, "--others", 0, "--seed", 0),  # of a drawn one there may be no place for a patch
    "submit": ("--min-seeds", 1, "--min-nulls", 1),
    "site": ("--min-seeds", 1, "--min-nulls", 1),
}
"""Options that make a command short, or let it accept what such a run found."""


AXES = 'defenses = ["ewe", "baseline"]\nattacks = ["none", "retraining"]\nnulls = 2\n'
NAMED = """
[datasets.mine]
use = "npz[path=~/digits.npz]"
epochs = 2
pretrain = 1
architecture = "mlp"
patch = 2
"""
"""Parts of matrix files that the pages speak of."""


def runnable(page: str) -> list[str]:
    """The commands of a page, without those that run elsewhere, and names of commands that need more words."""
    lines = commands(ROOT / "docs" / f"{page}.md")
    here = [line for line in lines if not any(line.startswith(f"harness {each}") for each in ELSEWHERE)]
    return [
        line for line in here if line.count(" ") > 1 or line.split()[1] in ("doctor", "leaderboard", "plan", "report")
    ]


def short(words: list[str], matrix: Path) -> list[str]:
    """A command's words, of fewer digits: a preset gives way to ``matrix``, a data set to some of its own."""
    presets = ("quick", "paper", "full", "smoke")
    named = [str(matrix) if word in presets else PLACEHOLDERS.get(word, word.replace("cnn", "mlp")) for word in words]
    few = [re.sub(r"^(mnist|image-folder)\[.*\]$|^digits\b(?!\[)", lambda _: DIGITS, word) for word in named]
    return [re.sub(r"^digits\[(?!train=200)", DIGITS.replace("]", ","), word) for word in few]


def test_what_runs_elsewhere_is_in_a_page_and_its_test_is_there() -> None:
    every = [line for page in PAGES for line in commands(ROOT / "docs" / f"{page}.md")]
    for beginning, test in ELSEWHERE.items():
        assert any(line.startswith(f"harness {beginning}") for line in every), beginning
        assert (ROOT / "tests" / test).is_file()


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES)
def test_the_commands_of_a_page_run(page: str, tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "data").mkdir()
    digits = load_registry().component("dataset", DIGITS).plugin.load(tmp_path)
    np.savez(tmp_path / "digits.npz", x=digits.x_train, y=digits.y_train)
    matrix = tmp_path / "small.toml"
    matrix.write_text(f'datasets = ["{DIGITS}"]\n{AXES}')
    Path("mine.toml").write_text(AXES + NAMED)
    if not any(line.startswith("harness run") for line in runnable(page)):
        cli("run", "--matrix", matrix, *FEW["run"], code=0)
    if not any(line.startswith("harness new defense") for line in runnable(page)):
        cli("new", "defense", "my-mark", "my-plugins", code=0)
    few = FEW | {"why": ("--matrix", matrix)}
    for line in runnable(page):
        if line.startswith("harness embed"):
            shutil.rmtree("owner", ignore_errors=True)  # as if each were the first
        words = short(shlex.split(line, comments=True)[1:], matrix)
        words = [each for word in words for each in (glob(word) or [word])]  # noqa: PTH207 (as a shell)
        ended = cli(*words, *few.get(words[0], ()))
        # So short a training may not mark a model, and a record of an edited checkout is not accepted.
        assert ended.code in ((0, 1) if words[0] in ("verify", "submit") else (0,)), f"{line}\n{ended.out}\n{ended.err}"
        if words[0] == "embed":
            shutil.copyfile("owner/victim.safetensors", "suspect.safetensors")
        if words[0] == "record":
            (made,) = Path("results/records").glob("*-*")
            made.rename(made.with_name("2026-01-01-my-scheme"))
