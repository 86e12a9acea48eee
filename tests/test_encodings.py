"""Every command writes to every stream: of any encoding, closed, full, or without a reader."""

from __future__ import annotations

import ast
import csv
import io
import json
import os
import re
import sys
from collections.abc import Callable, Sized
from pathlib import Path

import click
import pytest

import harness
from harness.cli import cli as group
from harness.text import ASCII, legible
from tests.conftest import ROOT, TINY, command_line

pytestmark = pytest.mark.slow  # every command in every encoding

RECORD = ROOT / "results" / "records" / "2026-11-27-digits-twenty-seeds"
CELL = f"{TINY} / baseline / none #0"
NARROW = ("--matrix", "smoke", "--dataset", TINY, "--defense", "baseline", "--attack", "none", "--nulls", "1")
ENCODINGS = ["cp1252", "latin-1", "cp437", "utf-16"]
NAME = "Müller's 模型 ≥ naïve"

OWNER = ("--dataset", TINY, "--defense", "uchida", "--nulls", 19, "--others", 0, "--seed", 1)
COMMANDS: dict[str, Callable[[Path, Path], list[object]]] = {
    "run": lambda results, new: [*NARROW, "--results", results],
    "plan": lambda results, new: [*NARROW, "--results", results, "--stages"],
    "status": lambda results, new: [*NARROW, "--results", results],
    "why": lambda results, new: [CELL, *NARROW, "--results", results],
    "leaderboard": lambda results, new: ["--details", "--explain", "--results", RECORD],
    "compare": lambda results, new: ["ewe", "baseline", "--results", RECORD],
    "report": lambda results, new: ["--results", results, "--output", new / f"{NAME}.html"],
    "figures": lambda results, new: ["--list", "--results", results],
    "reproduce": lambda results, new: ["ewe-2021", "table-1-v1", "--no-run", "--results", new],
    "record": lambda results, new: [NAME, "--results", results, "--output", new / NAME],
    "submit": lambda results, new: [results.parent / "record", "--min-seeds", 1, "--min-nulls", 0],
    "site": lambda results, new: [
        results.parent / "record",
        "--min-seeds",
        1,
        "--min-nulls",
        0,
        "--output",
        new / NAME,
    ],
    "embed": lambda results, new: [*OWNER, "--results", results.parent / "owners", "--output", new / NAME],
    "verify": lambda results, new: [results.parent / NAME, results.parent / NAME / "victim.safetensors"],
    "export": lambda results, new: [CELL, new / NAME, "--results", results],
    "gc": lambda results, new: ["--results", results],
    "plugins list": lambda results, new: ["--options"],
    "plugins check": lambda results, new: ["digits"],
    "new": lambda results, new: ["defense", "my-mark", new / NAME],
    "data list": lambda results, new: [],
    "data fetch": lambda results, new: ["digits"],
    "doctor": lambda results, new: ["--results", results],
}
"""Arguments of each command, for a results folder and an empty folder."""


class Streams:
    """Stdout and stderr of one encoding, as strict as Python's own stdout."""

    def __init__(self, patch: pytest.MonkeyPatch, encoding: str) -> None:
        self.encoding, self.written = encoding, {"stdout": io.BytesIO(), "stderr": io.BytesIO()}
        for name, written in self.written.items():
            patch.setattr(sys, name, io.TextIOWrapper(written, encoding=encoding, errors="strict"))

    def text(self, name: str = "stdout") -> str:
        getattr(sys, name).flush()
        return self.written[name].getvalue().decode(self.encoding)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("encodings") / (NAME + os.fsdecode(b"\xfc"))  # not UTF-8 at all
    assert command_line("run", *NARROW, "--results", folder, "--quiet") == 0
    assert command_line("record", NAME, "--results", folder, "--output", folder.parent / "record") == 0
    kept = ("--results", folder.parent / "owners", "--output", folder.parent / NAME)
    assert command_line("embed", *OWNER, *kept) == 0
    return folder


def test_no_command_is_left_out() -> None:
    names = [
        f"{name} {each}" if isinstance(command, click.Group) else name
        for name, command in group.commands.items()
        for each in (command.commands if isinstance(command, click.Group) else ("",))
    ]
    assert sorted(names) == sorted(COMMANDS)


PAIRS = [(name, "ascii") for name in COMMANDS]
PAIRS += [(name, encoding) for name in ("leaderboard", "plan", "gc") for encoding in ENCODINGS]


@pytest.mark.parametrize(("name", "encoding"), PAIRS)
def test_every_command_writes_in_every_encoding(
    name: str, encoding: str, results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    streams = Streams(monkeypatch, encoding)
    code = command_line(*name.split(), *COMMANDS[name](results, tmp_path))
    said = streams.text() + streams.text("stderr")
    assert code in (0, 1) and "Traceback" not in said, said
    assert said.isascii() or encoding != "ascii"


@pytest.mark.parametrize("name", COMMANDS)
def test_every_help_is_ascii(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    streams = Streams(monkeypatch, "ascii")
    assert command_line(*name.split(), "--help") == 0
    assert streams.text().startswith("Usage: harness")


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_an_error_names_what_the_stream_cannot_write(encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    streams = Streams(monkeypatch, encoding)
    assert command_line("leaderboard", "--results", RECORD, "--defense", "Müller≥模") == 2
    said = streams.text("stderr")
    assert ("'Muller>=?'" if encoding == "ascii" else "'Müller>=?'") in said and len(said.splitlines()) == 1


@pytest.mark.parametrize("style", ["terminal", "markdown", "latex", "csv", "json"])
def test_a_table_in_ascii_is_the_table(style: str, monkeypatch: pytest.MonkeyPatch) -> None:
    told = {}
    for encoding in ("utf-8", "ascii"):
        streams = Streams(monkeypatch, encoding)
        assert command_line("leaderboard", "--details", "--results", RECORD, "--format", style) == 0
        told[encoding] = streams.text()
    if style == "terminal":  # the columns stand below each other: a longer fallback is made before the layout
        first = told["ascii"].split("worst attacks, and their price")[0]
        rows = [line for line in first.splitlines() if line.startswith("black box  ") and "+-" in line]
        assert rows
        assert len({re.search(r"\+- +[\d.]+", line).end() for line in rows}) == 1  # type: ignore[union-attr]
    else:
        assert legible(told["utf-8"], "ascii") == told["ascii"]
    if style == "csv":
        assert len({len(row) for row in csv.reader(io.StringIO(told["ascii"]))}) == 1
    if style == "json":
        assert json.loads(told["ascii"]) == json.loads(told["utf-8"])


def test_legible_keeps_what_the_encoding_has_and_resembles_the_rest() -> None:
    assert (
        legible("1 ± 2 … 3 \N{EN DASH} 4 ≥ 5 → é 模 \N{MULTIPLICATION SIGN}", "ascii")
        == "1 +- 2 ... 3 - 4 >= 5 -> e ? x"
    )
    assert legible("1 ± 2 ≥ é", "latin-1") == "1 ± 2 >= é"
    assert legible("模 ±", "utf-8") == "模 ±"
    assert legible("½", "ascii") == legible("\ud800", "utf-8") == "?"
    assert all(each.isascii() for each in ASCII.values())


@pytest.mark.parametrize("columns", ["0", "1", "x"])
def test_a_terminal_of_no_width_and_a_notebook_s_colours_spoil_no_table(
    columns: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"FORCE_COLOR": "1", "CLICOLOR_FORCE": "1", "TERM": "xterm-color", "COLUMNS": columns}.items():
        monkeypatch.setenv(name, value)
    streams = Streams(monkeypatch, "utf-8")
    command_line("leaderboard", "--results", RECORD)
    assert "\x1b" not in streams.text(), "a file shows the codes of colours"
    streams = Streams(monkeypatch, "utf-8")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    command_line("leaderboard", "--results", RECORD)
    assert max(map(len, streams.text().splitlines())) > 60


def test_a_board_prints_in_a_script_too(monkeypatch: pytest.MonkeyPatch) -> None:
    streams = Streams(monkeypatch, "ascii")
    board = harness.leaderboard(RECORD)
    sys.stdout.write(f"{board!r}\n{board.details(explain=True)!r}\n{harness.compare('ewe', 'adi', results=RECORD)!r}")
    assert "+-" in streams.text()


class Broken(io.RawIOBase):
    """A stream that refuses what is written to it."""

    def __init__(self, error: OSError) -> None:
        self.error: OSError | None = error

    def writable(self) -> bool:
        return True

    def write(self, data: Sized) -> int:
        if self.error:
            raise self.error
        return len(data)


@pytest.mark.parametrize(
    "args", [["leaderboard", "--details"], ["leaderboard", "--format", "csv"], ["figures", "--list"]]
)
@pytest.mark.parametrize("error", [BrokenPipeError(32, "Broken pipe"), OSError(28, "No space left on device")], ids=str)
def test_a_reader_that_went_and_a_full_disk_are_no_traceback(
    args: list[str], error: OSError, monkeypatch: pytest.MonkeyPatch
) -> None:
    streams = Streams(monkeypatch, "utf-8")
    broken = Broken(error)
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BufferedWriter(broken), encoding="utf-8"))
    code = command_line(*args, "--results", RECORD)
    said = streams.text("stderr")
    broken.error = None  # what is left goes nowhere: here it is the interpreter's end
    if isinstance(error, BrokenPipeError):
        assert code == 141 and not said
    else:
        assert code == 2 and said == "harness: the output cannot be written: No space left on device\n"


def test_closed_streams_swallow_the_output(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("stdout", "stderr"):
        monkeypatch.setattr(sys, name, None)
    assert command_line("leaderboard", "--results", RECORD) == 0
    assert command_line("leaderboard", "--results", "gone") == 2
    sys.stdout.close()
    sys.stderr.close()


# --- files ------------------------------------------------------------------------------------------------------------


SOURCES = [*ROOT.glob("harness/**/*.py"), *ROOT.glob("plugins/**/*.py"), *ROOT.glob("harness/templates/*.txt")]


def unnamed(source: str) -> list[str]:
    """The calls in a source that read or write text without saying in which encoding."""
    return [ast.unparse(node) for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call) and _is_vague(node)]


def _is_vague(call: ast.Call) -> bool:
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    named = {keyword.arg for keyword in call.keywords}
    if "encoding" in named or None in named:
        return False
    if name in ("read_text", "write_text"):
        return len(call.args) < (1 if name == "read_text" else 2)
    if name in ("open", "fdopen"):
        modes = [
            each.value for each in (*call.args, *(k.value for k in call.keywords)) if isinstance(each, ast.Constant)
        ]
        is_system = isinstance(call.func, ast.Attribute) and getattr(call.func.value, "id", "") in (
            "os",
            "Image",
            "archive",
        )
        return not (is_system and name == "open") and not any(isinstance(m, str) and "b" in m for m in modes)
    if name in ("run", "Popen", "check_output"):
        return bool({"text", "universal_newlines"} & named)
    if name in ("TextIOWrapper", "NamedTemporaryFile", "TemporaryFile"):
        return len(call.args) < 2 and name == "TextIOWrapper"
    return False


def test_every_file_that_is_read_or_written_names_its_encoding() -> None:
    for path in SOURCES:
        assert unnamed(path.read_text("utf-8")) == [], path


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("path.read_text()", 1),
        ("path.read_text('utf-8') + path.read_text(encoding='ascii')", 0),
        ("path.write_text(text)", 1),
        ("path.write_text(text, 'utf-8')", 0),
        ("open(path)", 1),
        ("path.open('w')", 1),
        ("path.open('rb')", 0),
        ("path.open(mode='wb', buffering=0)", 0),
        ("os.fdopen(3, 'w')", 1),
        ("os.open(path, os.O_RDONLY)", 0),
        ("subprocess.run(words, text=True)", 1),
        ("subprocess.run(words, capture_output=True)", 0),
        ("subprocess.run(words, encoding='utf-8')", 0),
    ],
)
def test_the_scan_finds_what_names_none(source: str, found: int) -> None:
    assert len(unnamed(source)) == found
