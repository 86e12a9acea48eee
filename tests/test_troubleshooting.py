"""docs/troubleshooting.md: every message that it quotes is one that the code makes, and what it tells to do works."""

from __future__ import annotations

import ast
import errno
import os
import re
import shutil
from functools import cache
from pathlib import Path

import pytest

from tests.conftest import ROOT, TINY, Cli
from tests.test_docs import blocks

PAGE = ROOT / "docs" / "troubleshooting.md"
QUOTED = [line for block in blocks(PAGE, "text") for line in block.splitlines()]


@cache
def literals() -> list[re.Pattern[str]]:
    """Patterns of the texts in the sources of the harness: the parts between the values that are filled in."""
    found: list[list[str]] = []
    for path in ROOT.glob("harness/**/*.py"):
        inside: set[int] = set()
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.JoinedStr):
                inside.update(map(id, node.values))
                found.append([part.value if isinstance(part, ast.Constant) else "" for part in node.values])
            elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in inside:
                found.append([node.value])
    long = [[part for part in parts if part] for parts in found if sum(map(len, parts)) >= 8]
    return [re.compile("(.*?)".join(f"({re.escape(part)})" for part in parts)) for parts in long]


def covered(line: str) -> float:
    """The share of a message that stands in the sources: what is in capitals, and numbers, are values."""
    marks = [not (c.isalpha() or c == " ") for c in line]
    for name in re.finditer(r"\b[A-Z]{2,}\b", line):
        marks[name.start() : name.end()] = [True] * len(name[0])
    for pattern in literals():
        found = pattern.search(line)
        for group in range(1, 1 + len(found.groups()) if found else 0, 2):
            marks[found.start(group) : found.end(group)] = [True] * len(found[group])  # type: ignore[index, union-attr]
    return sum(marks) / len(marks)


@pytest.mark.parametrize("line", QUOTED)
def test_every_message_is_made_by_the_code(line: str) -> None:
    for error in (errno.ENOSPC, errno.EROFS):  # the system's own words
        line = line.replace(os.strerror(error), "")
    assert covered(line) > 0.8, line


@pytest.mark.parametrize(
    "line", ["harness: no such thing was ever said by this program", "nothing at all: N cells were eaten, tables in X"]
)
def test_a_message_that_nobody_makes_is_found(line: str) -> None:
    assert covered(line) < 0.8


@pytest.mark.slow
def test_two_results_folders_are_put_together_by_copying(cli: Cli, tmp_path: Path) -> None:
    narrow = ("--matrix", "smoke", "--dataset", TINY, "--defense", "baseline", "--attack", "none", "--nulls", "1")
    for name, seeds in (("a", "0"), ("b", "1-2")):
        cli("run", *narrow, "--seeds", seeds, "--results", tmp_path / name, "--quiet", code=0)
    merged = shutil.copytree(tmp_path / "a", tmp_path / "merged")
    shutil.copytree(tmp_path / "b", merged, dirs_exist_ok=True)
    whole = ("run", *narrow, "--seeds", "0-2", "--results", merged)
    ended = cli(*whole, "--quiet", code=0)
    assert "3 cells (3 ok)" in ended.out
    assert "nothing to do: 3 cells (3 ok)" in cli(*whole, "--quiet", code=0).out
    cli("run", *narrow, "--seeds", "0-2", "--results", tmp_path / "one", "--quiet", code=0)
    ranked = [
        cli("leaderboard", "--results", each, "--format", "markdown", code=0).out for each in (merged, tmp_path / "one")
    ]
    assert ranked[0] == ranked[1], "as of one run"
