"""``harness new``: every template works as it is, and a mistake is one line."""

from __future__ import annotations

import ast
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from harness import read_table
from harness.cli.new import ALIASES, TEMPLATES
from tests.conftest import ROOT, Cli

pytestmark = pytest.mark.slow  # a run of every template

KINDS = [*TEMPLATES, *ALIASES]
GENERAL = {"dataset", "defense", "architecture", "analysis"}


@pytest.mark.parametrize("kind", KINDS)
def test_a_template_keeps_the_contract_as_it_is(kind: str, tmp_path: Path, cli: Cli) -> None:
    written = cli("new", kind, "my-own", tmp_path / "my plugins", code=0).out.splitlines()
    path = tmp_path / "my plugins" / "my_own.py"
    assert written[0] == f"wrote {path}" and len(path.read_text().splitlines()) <= 45
    following = [shlex.split(line.partition(": ")[2]) for line in written[1:]]
    assert [line.partition(": ")[0] for line in written[1:]] == ["next", "then"]
    checked = cli(*following[0][1:], code=0)
    assert f"ok      {kind if kind in GENERAL else 'attack'} my-own" in checked.out
    planned = cli("plan", *(word for word in following[1][2:]), code=0)
    assert "my-own" in planned.out or kind == "analysis"


def test_the_templates_work_together(tmp_path: Path, cli: Cli) -> None:
    plugins, results = tmp_path / "plugins", tmp_path / "results"
    for kind in TEMPLATES:
        cli("new", kind, f"my-{kind}", plugins, code=0)
    attacks = [word for kind in TEMPLATES if kind not in GENERAL for word in ("--attack", f"my-{kind}")]
    axes = ("--dataset", "my-dataset[architecture=my-architecture]", "--defense", "my-defense", "--attack", "none")
    more = (
        "--analysis",
        "my-analysis",
        "--nulls",
        "1",
        "--no-innocents",
        "--seeds",
        "0",
        "--plugins",
        plugins,
        "--results",
        results,
    )
    cli("run", "--matrix", "smoke", *axes, *attacks, *more, code=0)
    cells = read_table(results, "cells")
    assert list(cells["status"]) == ["ok"] * 6


@pytest.mark.parametrize("kind", TEMPLATES)
def test_a_template_is_formatted_short_and_says_where_to_begin(kind: str, tmp_path: Path, cli: Cli) -> None:
    cli("new", kind, "my-plugin", tmp_path, code=0)
    path = tmp_path / "my_plugin.py"
    for command in (("format", "--check"), ("check",)):
        ruff = [sys.executable, "-m", "ruff", *command, "--config", ROOT / "pyproject.toml", path]
        ended = subprocess.run(ruff, cwd=ROOT, capture_output=True, text=True)  # it knows our names by the folder
        assert ended.returncode == 0, ended.stdout + ended.stderr
    assert path.read_text().count("# Change this") == 1


@pytest.mark.parametrize("name", ["key", "task", "none", "true", "defense", "marked"])
def test_a_name_that_means_something_else_makes_a_class_all_the_same(name: str, tmp_path: Path, cli: Cli) -> None:
    cli("new", "defense", name, tmp_path, code=0)
    (made,) = (node for node in ast.parse((tmp_path / f"{name}.py").read_text()).body if isinstance(node, ast.ClassDef))
    assert made.name == f"{name.capitalize()}Defense"
    assert name in cli("plugins", "list", "--plugins", tmp_path, code=0).out


@pytest.mark.parametrize(
    ("kind", "name", "folder", "said"),
    [
        ("defense", "MyMark", "new", "'MyMark' is not a plugin name"),
        ("defense", "../escape", "new", "'../escape' is not a plugin name"),
        ("defense", "my-", "new", "'my-' is not a plugin name"),
        ("defense", "ewe", "new", "there is 'ewe' already (built-in: defenses/ewe.py)"),
        ("detector", "pruning", "new", "there is 'pruning' already"),
        ("defense", "taken", "there", "taken.py' exists already"),
        ("defense", "mine", "file", "file' is a file: name a folder"),
        ("defense", "mine", "file/below", "Not a directory"),
        ("watermark", "mine", "new", "'watermark'"),
    ],
)
def test_a_mistake_is_one_line_and_writes_nothing(
    kind: str, name: str, folder: str, said: str, tmp_path: Path, cli: Cli
) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "taken.py").write_text("mine")
    (tmp_path / "file").write_text("mine")
    before = sorted(tmp_path.rglob("*"))
    ended = cli("new", kind, name, tmp_path / folder, code=2)
    assert said in ended.err and ended.err.count("\n") == 1 and not ended.out
    assert sorted(tmp_path.rglob("*")) == before
    assert (tmp_path / "there" / "taken.py").read_text() == (tmp_path / "file").read_text() == "mine"


def test_the_folder_may_be_below_the_home_folder(tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    cli("new", "evasion", "mine", "~/plugins", code=0)
    assert (tmp_path / "plugins" / "mine.py").is_file()
