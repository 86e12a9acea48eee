"""Machines that are short of something: a home folder, a name of the user, a place to write, a picture's backend."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from harness.cli import cli as group
from tests.conftest import ROOT, TINY, Cli, command_line

pytestmark = pytest.mark.slow

RECORD = ROOT / "results" / "records" / "2026-11-27-digits-twenty-seeds"
NARROW = ("--matrix", "smoke", "--dataset", TINY, "--defense", "baseline", "--attack", "none", "--nulls", "1")

ALONE = """
import json, pwd, sys

def unknown(*asked):
    raise KeyError("getpwuid(): uid not found: 54321")

pwd.getpwuid = pwd.getpwnam = unknown
from harness.cli import main


for words in json.loads(sys.argv[1]):
    sys.argv = ["harness", *words]
    try:
        main()
    except SystemExit as ended:
        print("code", ended.code or 0)
"""
"""Commands in the process of a user whom the system does not know."""


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("homes") / "results"
    assert command_line("run", *NARROW, "--results", folder, "--quiet") == 0
    return folder


@pytest.mark.parametrize(
    "variables",
    [
        {"HOME": None, "MPLBACKEND": "nonsense", "PYTHONWARNINGS": "error::UserWarning:harness"},
        {
            "HOME": "/dev/null",
            "MPLBACKEND": "module://matplotlib_inline.backend_inline",
            "TERM": "dumb",
            "CLICOLOR": "1",
            "FORCE_COLOR": "1",
            "PAGER": "cat",
            "COLUMNS": "x",
        },
    ],
    ids=["none", "a file"],
)
def test_without_a_home_a_user_and_a_backend_all_commands_work(
    variables: dict[str, str | None], results: Path, tmp_path: Path
) -> None:
    commands = [
        ["figures", "--results", str(results), "--only", "cost"],
        ["leaderboard", "--results", str(RECORD)],
        ["run", *NARROW, "--results", str(tmp_path / "results"), "--quiet"],
        ["gc", "--results", str(results), "--prepared"],
    ]
    gone = ("USER", "LOGNAME", "LNAME", "USERNAME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "MPLCONFIGDIR", "HARNESS_JOBS")
    environment = {name: value for name, value in os.environ.items() if name not in gone} | {"HARNESS_JOBS": "1"}
    environment = {name: value for name, value in {**environment, **variables}.items() if value is not None}
    if variables["HOME"] is None:
        environment.pop("HOME", None)
    done = subprocess.run(
        [sys.executable, "-c", ALONE, json.dumps(commands)],
        **{"capture_output": True, "encoding": "utf-8", "check": False, "env": environment, "cwd": tmp_path},
    )
    codes = [line for line in done.stdout.splitlines() if line.startswith("code ")]
    assert done.returncode == 0 and codes[:-1] == ["code 0"] * (len(commands) - 1), done.stdout + done.stderr
    said = done.stderr.splitlines()
    without_home = [
        "harness: no home folder is known here, and so no cache of data: set HOME, or name a folder with --data"
    ]
    assert [line[: len(without_home[0])] for line in said] == without_home * (codes[-1] == "code 2"), done.stderr


def test_pictures_leave_the_backend_and_the_variable_as_they_are(
    results: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import matplotlib

    monkeypatch.setenv("MPLBACKEND", "nonsense")
    matplotlib.rcParams["backend"] = "module://matplotlib_inline.backend_inline"
    try:
        assert command_line("figures", "--results", results, "--only", "cost") == 0
        assert matplotlib.rcParams["backend"] in ("inline", "module://matplotlib_inline.backend_inline")
        assert os.environ["MPLBACKEND"] == "nonsense"
    finally:
        matplotlib.rcParams["backend"] = "agg"


def cannot_write(monkeypatch: pytest.MonkeyPatch, folder: Path, error: OSError) -> None:
    """Have the system refuse to make anything below ``folder``."""
    real_mkdir = os.mkdir

    def mkdir(path: str | Path, *more: int) -> None:
        if Path(path).absolute().is_relative_to(folder):
            raise OSError(error.errno, error.strerror, str(path))
        real_mkdir(path, *more)

    monkeypatch.setattr(os, "mkdir", mkdir)


WRITING = [
    ["run", *NARROW, "--results", "FOLDER/results"],
    ["new", "defense", "my-mark", "FOLDER/new"],
    ["export", f"{TINY} / baseline / none #0", "FOLDER/out", "--results", "RESULTS"],
    ["record", "mine", "--results", "RESULTS", "--output", "FOLDER/record"],
    ["report", "--results", "RESULTS", "--output", "FOLDER/pages/report.html"],
    ["leaderboard", "--results", "RESULTS", "--format", "parquet", "--output", "FOLDER/tables/board.parquet"],
]


@pytest.mark.parametrize("args", WRITING, ids=lambda args: args[0])
@pytest.mark.parametrize(
    "error", [OSError(28, "No space left on device"), OSError(30, "Read-only file system")], ids=str
)
def test_a_place_that_cannot_be_written_is_one_line(
    args: list[str], error: OSError, results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cli: Cli
) -> None:
    words = [word.replace("FOLDER", str(tmp_path)).replace("RESULTS", str(results)) for word in args]
    cannot_write(monkeypatch, tmp_path, error)
    ended = cli(*words, code=2)
    (line,) = [line for line in ended.err.splitlines() if not line.startswith("warning: ")]
    assert line.startswith("harness: ") and str(error.strerror) in line and str(tmp_path) in line
    assert not list(tmp_path.iterdir())


def test_a_refusal_of_the_system_that_nobody_expected_is_one_line_and_a_bug_a_traceback(
    monkeypatch: pytest.MonkeyPatch, cli: Cli
) -> None:
    def refuse(error: OSError) -> None:
        def callback(**_: object) -> None:
            raise error

        monkeypatch.setattr(group.commands["doctor"], "callback", callback)

    refuse(PermissionError(13, "Permission denied", "secret.txt"))
    assert cli("doctor", code=2).err == (
        "harness: Permission denied: secret.txt: name a place that you may read and write\n"
    )
    refuse(FileNotFoundError(2, "No such file or directory", "forgotten.txt"))
    with pytest.raises(FileNotFoundError):
        cli("doctor")
