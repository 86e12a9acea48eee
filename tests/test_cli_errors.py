"""A user's mistake: one line on stderr, exit code 2, nothing written. And the help, which says how to do without."""

from __future__ import annotations

import gzip
import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import pyarrow.parquet as pq
import pytest

import harness
from harness import __version__
from harness.cli import cli as command_line
from harness.errors import UsageError
from harness.storage.schema import SCHEMA_VERSION, VERSION_KEY
from harness.storage.store import Store
from harness.storage.tables import Tables
from tests.conftest import Cli

Refused = Callable[..., str]

ONE_CELL = ("--matrix", "smoke", "--defense", "adi", "--attack", "none")
IDX_PARTS = ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1")
IDX_FILES = [f"{part}-ubyte.gz" for part in IDX_PARTS]


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """In an empty folder, with no data named by the environment."""
    if "real_data" in request.fixturenames:
        request.getfixturevalue("real_data")  # before the environment forgets it
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HARNESS_DATA", raising=False)


@pytest.fixture
def refused(cli: Cli, tmp_path: Path) -> Refused:
    """Runs a command that must be refused; the line that it says. Whatever is on the disk stays as it is."""

    def run(*args: object) -> str:
        before = contents(tmp_path)
        ended = cli(*args, code=2)
        (line,) = [line for line in ended.err.splitlines() if not line.startswith("warning: ")]
        assert line.startswith("harness: ")
        assert contents(tmp_path) == before
        return line

    return run


def contents(folder: Path) -> dict[str, bytes | None]:
    """Every file and folder below ``folder``, with what the files hold."""
    return {str(path): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


def matrix_file(folder: Path, *lines: str) -> Path:
    path = folder / "mine.toml"
    path.write_text("\n".join(lines), "utf-8")
    return path


BROKEN = "import no_such_module\nfrom harness import Defense\n\n\nclass Mark(Defense):\n    name = 'mark'\n"


def broken_plugin(folder: Path) -> Path:
    """A folder with a plugin that cannot be imported."""
    (folder / "plugins").mkdir()
    (folder / "plugins" / "mark.py").write_text(BROKEN, "utf-8")
    return folder / "plugins"


def typed(value: object) -> str:
    """The id of a test case: what is typed."""
    return " ".join(value) if isinstance(value, (list, tuple)) else ""


# --- what to run ---


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (
            ["--matrix", "smok"],
            "unknown matrix 'smok'. Did you mean 'smoke'? Known: PATH.toml, audit, full, paper, quick, ",
        ),
        (["--matrix", "gone.toml"], "cannot read the matrix gone.toml: No such file or directory"),
        (["--dataset", "digit"], "unknown dataset 'digit'. Did you mean 'digits'? Known: "),
        (["--defense", "baselin"], "unknown defense 'baselin'. Did you mean 'baseline'? Known: adi, "),
        (["--attack", "prune"], "unknown attack 'prune'. Did you mean 'pruning'? Known: "),
        (["--attack", "retraining | prune"], "unknown attack 'prune'. Did you mean 'pruning'?"),
        (["--attack", "x*"], "unknown attack 'x*'. Known: "),
        (["--attack", "retraining | x*"], "unknown attack 'x*'. Known: "),
        (["--defense", "ewe[wieght=1]"], "unknown option of ewe 'wieght'. Did you mean 'weight'? Known: "),
        (["--defense", "ewe[weight=much]"], "ewe[weight=much]: expected a finite number, not 'much'"),
        (["--defense", "ewe[weight=]"], "ewe[weight=]: expected a finite number, not ''"),
        (["--defense", "ewe[weight=nan]"], "ewe[weight=nan]: expected a finite number, not 'nan'"),
        (["--defense", "ewe[weight=-1]"], "ewe[weight=-1]: weight must be at least 0, not -1.0"),
        (["--defense", "ewe[weight=1,weight=2]"], "ewe: option weight is given twice"),
        (["--defense", "ewe[variant=papre]"], "unknown value 'papre'. Did you mean 'paper'?"),
        (["--defense", "ewe[weight=1"], "cannot read 'ewe[weight=1': the bracket is not closed"),
        (["--defense", "adi | ewe"], "only attacks chain: 'adi | ewe'"),
        (["--defense", ""], "cannot read '': expected NAME or NAME[option=value,...]"),
        (["--dataset", "digits[train=1.5]"], "digits[train=1.5]: expected a whole number, not '1.5'"),
        (["--dataset", "digits[train=5000]"], "train + holdout = 5150, but digits has 1497 training samples"),
        (["--dataset", "digits[test=-1]"], "test must be at least 0, not -1"),
        (["--dataset", "digits[target=10]"], "target=10 is not a class: 10 classes, 0 to 9"),
        (["--dataset", "digits[refine=maybe]"], "expected true or false, not 'maybe'"),
        (["--dataset", "digits[architecture=cn]"], "unknown architecture 'cn'. Did you mean 'cnn'?"),
        (["--attack", "retraining[pool=minst]"], "unknown dataset 'minst'. Did you mean 'mnist'?"),
        (["--attack", "pruning[fraction=2]"], "pruning[fraction=2]: fraction must be at most 1, not 2.0"),
        (["--seeds", "0..4"], "cannot read seeds '0..4': expected a list such as 0-4 or 0,2,5-7"),
        (["--seeds", ""], "cannot read seeds ''"),
        (["--seeds", "0-999999999"], "of at most 100,000"),
        (["--nulls", "-1"], "Invalid value for '--nulls': -1 is not in the range 0<=x<=1000."),
        (["--nulls", "some"], "Invalid value for '--nulls': 'some' is not a valid integer range."),
        (["--plugins", "gone"], "no plugin folder 'gone': --plugins and HARNESS_PLUGINS name folders of .py files"),
        (["--matrx", "smoke"], "No such option '--matrx'."),
        (["--seeds"], "Option '--seeds' requires an argument."),
        (["smoke"], "Got unexpected extra argument (smoke)"),
    ],
    ids=typed,
)
def test_a_mistake_in_what_to_run_is_one_line(refused: Refused, args: list[str], said: str) -> None:
    assert said in refused("run", *args)


@pytest.mark.parametrize("command", [["plan"], ["run", "--dry-run"], ["run", "--log-json", "--quiet"]], ids=typed)
@pytest.mark.parametrize("args", [["--matrix", "smok"], ["--defense", "ewe[weight=x]"], ["--seeds", "x"]], ids=typed)
def test_all_commands_that_take_a_matrix_say_it_alike(refused: Refused, command: list[str], args: list[str]) -> None:
    assert refused(*command, *args) == refused("run", *args)


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (['datasets = ["digits"]', "defenses = [", "= 3"], "(at line 3, column 1)"),
        (['datasets = "digits"'], "datasets must be a list with at least one entry"),
        (['datasets = ["digits"]', 'defences = ["ewe"]'], "unknown key 'defences'. Did you mean 'defenses'?"),
        (['datasets = ["digits"]', 'defenses = ["ewe"]', "attacks = [[]]"], "a chain must have at least one attack"),
    ],
    ids=["malformed", "wrong type", "unknown key", "empty chain"],
)
def test_a_mistake_in_a_matrix_file_names_the_file(
    refused: Refused, tmp_path: Path, lines: list[str], said: str
) -> None:
    path = matrix_file(tmp_path, *lines)
    line = refused("run", "--matrix", path)
    assert f"{path}: " in line and said in line


@pytest.mark.parametrize("value", [f"1{'0' * 400}", "true", "nan", '"much"', "2"])
def test_an_option_in_a_matrix_file_is_checked(refused: Refused, tmp_path: Path, value: str) -> None:
    attack = f'attacks = [{{ name = "pruning", fraction = {value} }}]'
    path = matrix_file(tmp_path, 'datasets = ["digits"]', 'defenses = ["adi"]', attack)
    assert "harness: pruning[fraction=" in refused("run", "--matrix", path)


# --- commands, flags and plugins ---


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["runn"], "No such command 'runn'. Did you mean 'run'? (see harness --help)"),
        (["--verbose"], "No such option '--verbose'."),
        (["plugins", "lst"], "No such command 'lst'."),
        (["plugins", "list", "--option"], "No such option '--option'"),
        (["plugins", "check", "ew"], "unknown plugin 'ew'. Did you mean 'ewe'?"),
        (["plugins", "list", "--plugins", "gone"], "no plugin folder 'gone'"),
        (
            ["data", "list", "--data", "gone"],
            "no data folder 'gone': --data and HARNESS_DATA name a folder that exists",
        ),
        (["data", "fetch"], "Missing argument 'NAMES...'. (see harness data fetch --help)"),
        (["data", "fetch", "minst"], "unknown dataset 'minst'. Did you mean 'mnist'?"),
        (["run", "--rerun", "some"], "'some' is not one of 'never', 'failed', 'all'"),
        (["run", "--threads", "0"], "0 is not in the range"),
    ],
    ids=typed,
)
def test_a_mistake_in_a_command_is_one_line(refused: Refused, args: list[str], said: str) -> None:
    assert said in refused(*args)


@pytest.mark.parametrize("args", [[], ["plugins"], ["data"]], ids=["harness", "plugins", "data"])
def test_a_command_that_is_left_out_is_answered_with_the_help(cli: Cli, args: list[str]) -> None:
    ended = cli(*args, code=2)
    assert not ended.out
    assert ended.err.startswith("Usage: harness") and "Commands:" in ended.err


def test_a_broken_plugin_is_a_warning_and_the_command_goes_on(cli: Cli, tmp_path: Path) -> None:
    folder = broken_plugin(tmp_path)
    ended = cli("plan", *ONE_CELL, "--plugins", folder, code=0)
    assert "1 cells" in ended.out
    cause = "ModuleNotFoundError: No module named 'no_such_module'"
    hint = f"mark.py imports it, and it is neither installed nor in {folder}"
    assert ended.err == f"warning: plugin not loaded: {folder}: mark.py: {cause}: {hint}\n"


@pytest.mark.parametrize("args", [["plan", "--defense", "mark"], ["plugins", "check", "mark"]], ids=typed)
def test_asking_for_a_broken_plugin_says_why_it_is_not_there(refused: Refused, tmp_path: Path, args: list[str]) -> None:
    line = refused(*args, "--plugins", broken_plugin(tmp_path))
    assert "'mark'" in line and "not loaded: " in line and "No module named 'no_such_module'" in line


# --- data ---


@pytest.mark.parametrize("args", [["run", *ONE_CELL], ["data", "list"], ["data", "fetch", "digits"]], ids=typed)
@pytest.mark.parametrize("by", ["option", "environment"])
def test_a_data_folder_that_is_not_there_is_named(
    refused: Refused, monkeypatch: pytest.MonkeyPatch, args: list[str], by: str
) -> None:
    if by == "environment":
        monkeypatch.setenv("HARNESS_DATA", "gone")
    else:
        args = [*args, "--data", "gone"]
    assert "no data folder 'gone': --data and HARNESS_DATA name a folder that exists" in refused(*args)


def test_a_data_set_that_is_missing_says_how_to_get_it(refused: Refused, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    line = refused("run", *ONE_CELL, "--dataset", "mnist", "--data", tmp_path / "data")
    assert "mnist: no train-images-idx3-ubyte.gz in " in line
    assert str(tmp_path / "data" / "mnist") in line and str(tmp_path / "data" / "MNIST" / "raw") in line
    assert "--data DIR or HARNESS_DATA" in line and "harness data fetch mnist" in line


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (gzip.compress(bytes(1000))[:-12], "cannot be read"),
        (gzip.compress(bytes(1000))[:15] + b"\xff\xff\xff", "cannot be read"),
        (b"<html>not found</html>", "cannot be read"),
        (b"", "its content is not mnist's"),
        (gzip.compress(bytes(1000)), "its content is not mnist's"),
    ],
    ids=["truncated", "damaged", "not gzip", "empty", "other content"],
)
def test_a_damaged_data_file_is_named(refused: Refused, tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "data" / "mnist" / IDX_FILES[0]
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    line = refused("run", *ONE_CELL, "--dataset", "mnist", "--data", tmp_path / "data")
    assert f"mnist: {path}" in line and said in line


def test_a_truncated_download_is_named(refused: Refused, tmp_path: Path, real_data: Path) -> None:
    folder = tmp_path / "data" / "mnist"
    folder.mkdir(parents=True)
    for file in IDX_FILES:
        folder.joinpath(file).write_bytes((real_data / "mnist" / file).read_bytes()[:3000])
    line = refused("run", *ONE_CELL, "--dataset", "mnist", "--data", tmp_path / "data")
    assert str(folder / IDX_FILES[0]) in line and "cannot be read" in line and "fetch it again" in line


@pytest.mark.parametrize(("asked", "there"), [("mnist", "fashion-mnist"), ("fashion-mnist", "mnist")])
def test_mnist_and_fashion_mnist_are_told_apart(
    refused: Refused, tmp_path: Path, real_data: Path, asked: str, there: str
) -> None:
    folder = tmp_path / "data" / asked
    folder.mkdir(parents=True)
    for file in IDX_FILES:
        folder.joinpath(file).symlink_to(real_data / there / file)
    line = refused("run", *ONE_CELL, "--dataset", asked, "--data", tmp_path / "data")
    assert f"{folder / IDX_FILES[0]} is damaged, or the file of another set: its content is not {asked}'s" in line


# --- devices and results ---


@pytest.mark.parametrize("device", ["tpu", "cuda:99", "meta", "", "cpu:x"])
def test_an_unknown_device_is_refused(refused: Refused, device: str) -> None:
    line = refused("run", *ONE_CELL, "--device", device)
    assert f"no device {device!r} here (" in line and line.endswith(": auto, cpu, cuda or cuda:N")


ALL_WITH_RESULTS = [
    *(["run", *ONE_CELL], ["plan", *ONE_CELL], ["status", *ONE_CELL], ["why", "x", *ONE_CELL], ["leaderboard"]),
    *(["compare", "ewe", "adi"], ["report"], ["figures"], ["record", "mine"], ["export", "x", "out"], ["gc"]),
    ["reproduce", "ewe-2021", "table-1-v1", "--no-run"],
]


def test_a_results_folder_that_is_a_file_is_refused(refused: Refused, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    folder = tmp_path / "file" / "below"
    line = refused("run", *ONE_CELL, "--results", folder)
    assert f"cannot write to the results folder '{folder}': " in line and "choose another with --results" in line
    said = f"'{tmp_path / 'file'}' is a file, not a folder of results: name another with --results"
    for words in ALL_WITH_RESULTS:
        assert said in refused(*words, "--results", tmp_path / "file")
    with pytest.raises(UsageError, match="is a file, not a folder of results"):
        harness.read_table(tmp_path / "file", "cells")


@pytest.fixture
def read_only(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "read-only"
    folder.mkdir(mode=0o500)
    if os.access(folder, os.W_OK):
        pytest.skip("this user, root perhaps, writes everywhere")
    yield folder
    folder.chmod(0o700)


def test_a_results_folder_that_is_read_only_is_refused(refused: Refused, read_only: Path) -> None:
    for folder in (read_only, read_only / "below"):
        assert "cannot write to the results folder" in refused("run", *ONE_CELL, "--results", folder)


COMMANDS_WITH_RESULTS = [["run", *ONE_CELL], ["run", *ONE_CELL, "--dry-run"], ["plan", *ONE_CELL], ["leaderboard"]]


@pytest.mark.parametrize("command", COMMANDS_WITH_RESULTS, ids=typed)
def test_results_of_another_format_are_left_alone(refused: Refused, tmp_path: Path, command: list[str]) -> None:
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "format.json").write_text('{"format": 99}', "utf-8")
    line = refused(*command, "--results", tmp_path / "old")
    assert "has results of format 99, this harness writes 1: " in line


@pytest.mark.parametrize("content", ["{", "null", "{}"])
def test_a_damaged_format_marker_is_named(refused: Refused, tmp_path: Path, content: str) -> None:
    Store(tmp_path / "old").prepare()
    (tmp_path / "old" / "format.json").write_text(content, "utf-8")
    for command in COMMANDS_WITH_RESULTS:
        line = refused(*command, "--results", tmp_path / "old")
        assert f"{tmp_path / 'old' / 'format.json'} is damaged: delete it, or choose another folder" in line


READ_TABLES = [(["run", *ONE_CELL], "cells"), (["run", *ONE_CELL], "stages"), (["leaderboard"], "cells")]


@pytest.mark.parametrize(("command", "table"), READ_TABLES, ids=str)
def test_a_table_of_another_schema_version_is_left_alone(
    refused: Refused, tmp_path: Path, command: list[str], table: str
) -> None:
    Store(tmp_path / "old").prepare()
    Tables(tmp_path / "old").append(table, "run", [{}])
    (path,) = (tmp_path / "old" / "tables" / table).glob("*.parquet")
    pq.write_table(pq.read_table(path).replace_schema_metadata({VERSION_KEY: b"99"}), path)
    line = refused(*command, "--results", tmp_path / "old")
    assert (
        f"run-0000.parquet has schema version 99, this harness writes {SCHEMA_VERSION}: " in line
        and "--results" in line
    )


@pytest.mark.parametrize("damage", ["not Parquet", "cut short", "empty"])
@pytest.mark.parametrize(("command", "table"), READ_TABLES[2:], ids=str)  # a run mends them: test_faults.py
def test_a_damaged_table_is_named(
    refused: Refused, tmp_path: Path, command: list[str], table: str, damage: str
) -> None:
    Store(tmp_path / "old").prepare()
    Tables(tmp_path / "old").append(table, "run", [{}])
    (path,) = (tmp_path / "old" / "tables" / table).glob("*.parquet")
    whole = path.read_bytes()
    path.write_bytes({"not Parquet": b"PAR1, or so it says", "cut short": whole[:-9], "empty": b""}[damage])
    line = refused(*command, "--results", tmp_path / "old")
    assert f"{path} is damaged (" in line and line.endswith(", and `harness run` writes it again from the artifacts")


TOO_LONG = "x" * 300


@pytest.mark.parametrize(
    "args",
    [
        *(["leaderboard", "--results", TOO_LONG], ["plan", "--matrix", f"{TOO_LONG}.toml"], ["submit", TOO_LONG]),
        *(
            ["plan", "--plugins", TOO_LONG],
            ["data", "list", "--data", TOO_LONG],
            ["new", "defense", "my-mark", TOO_LONG],
        ),
        ["run", *ONE_CELL, "--results", TOO_LONG],
    ],
    ids=lambda args: args[0],
)
def test_a_name_that_is_too_long_is_one_line(refused: Refused, args: list[str]) -> None:
    assert "File name too long" in refused(*args)


def test_a_plugin_file_in_place_of_its_folder_says_what_to_type(refused: Refused, tmp_path: Path) -> None:
    folder = tmp_path / "my plugins"
    folder.mkdir()
    (folder / "mark.py").touch()
    line = refused("plan", "--plugins", folder / "mark.py")
    assert line.endswith(f"mark.py' is a file: name its folder, --plugins '{folder}'")


def test_a_folder_in_place_of_a_file_is_named(refused: Refused, tmp_path: Path) -> None:
    (tmp_path / "mine.toml").mkdir()
    assert "cannot read the matrix mine.toml: Is a directory" in refused("plan", "--matrix", "mine.toml")
    assert "cannot read the paper mine.toml: Is a directory" in refused("reproduce", "mine.toml", "all")


@pytest.mark.parametrize(
    "args",
    [
        *(["record", "a\nb"], ["new", "defense", "a\nb", "."], ["plan", "--defense", "a\nb"]),
        *(["plan", "--matrix", "a\nb.toml"], ["leaderboard", "--results", "a\nb"], ["plan", "--plugins", "a\nb"]),
        *(["why", "a\nb"], ["export", "a\nb", "out"], ["runn\n"], ["compare", "a\nb", "c"]),
    ],
    ids=lambda args: args[0],
)
def test_a_name_of_two_lines_is_one_line(cli: Cli, args: list[str]) -> None:
    ended = cli(*args)
    assert ended.code == 2 and len(ended.err.splitlines()) == 1


# --- the process ---


@pytest.mark.parametrize(
    ("args", "code"),
    [(["--version"], 0), (["runn"], 2), (["run", "--matrix", "smok"], 2)],
    ids=typed,
)
def test_a_process_says_it_in_one_line_too(process: Cli, tmp_path: Path, args: list[str], code: int) -> None:
    ended = process(*args, code=code)
    assert len((ended.out + ended.err).splitlines()) == 1
    assert bool(ended.err) == bool(code)
    assert not contents(tmp_path)


def test_a_reader_that_has_seen_enough_is_no_error() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "harness", "plan", "--stages"]
    ended = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, text=True)
    os.close(writing)
    assert not ended.stderr


# --- help ---


def commands(group: click.Group, path: tuple[str, ...] = ()) -> dict[tuple[str, ...], click.Command]:
    """All commands below ``group``, itself included, by what is typed."""
    found: dict[tuple[str, ...], click.Command] = {path: group}
    for name, command in group.commands.items():
        deeper = commands(command, (*path, name)) if isinstance(command, click.Group) else {(*path, name): command}
        found |= deeper
    return found


COMMANDS = commands(command_line)


def parse(args: list[str]) -> click.Context:
    """Read ``args`` as the command line does, without running the command."""
    command: click.Command = command_line
    while isinstance(command, click.Group):
        command = command.commands[args.pop(0)]
    return command.make_context("harness", args)


@pytest.mark.parametrize("path", COMMANDS, ids=typed)
def test_help_lists_every_option_and_ends_with_an_example_that_parses(cli: Cli, path: tuple[str, ...]) -> None:
    shown = cli(*path, "--help", code=0).out
    assert shown.startswith(" ".join(("Usage: harness", *path)))
    for parameter in COMMANDS[path].params:
        if isinstance(parameter, click.Option):
            assert parameter.help and all(name in shown for name in parameter.opts)
    *_, last = shown.strip().split("\n\n")
    label, _, example = " ".join(last.split()).partition(": ")
    assert label == "Example"
    for command in example.split(" && "):
        words = shlex.split(command)
        assert words[: 1 + len(path)] == ["harness", *path][: len(words)]
        assert parse(words[1:])


@pytest.mark.parametrize("path", [p for p, command in COMMANDS.items() if isinstance(command, click.Group)], ids=typed)
def test_the_help_of_a_group_lists_its_commands(cli: Cli, path: tuple[str, ...]) -> None:
    shown = cli(*path, "--help", code=0).out
    group = COMMANDS[path]
    assert isinstance(group, click.Group)
    assert all(f"\n  {name} " in shown for name in group.commands)


def test_the_version_is_the_package_s(cli: Cli) -> None:
    assert cli("--version", code=0).out == f"watermark-harness, version {__version__}\n"
