"""Paths as users type them (``~``, nothing at all), and files as their editors and shells write them."""

from __future__ import annotations

import codecs
import shutil
from pathlib import Path

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

import harness
from harness.cli import cli as group
from harness.cli.options import Results, UserPath
from harness.errors import UsageError
from harness.files import read_text, user_path
from harness.papers.paper import papers
from harness.planning.matrix import presets
from harness.planning.registry import builtin_folder, load_registry
from tests.conftest import ROOT, TINY, Cli

MATRIX = f'datasets = ["{TINY}"]\ndefenses = ["baseline", "wrong-label"]\nattacks = ["none"]\nseeds = "0"\nnulls = 1\n'


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home folder with a plugin and a matrix; the current folder is another one, empty."""
    home, here = tmp_path / "home", tmp_path / "here"
    shutil.copytree(ROOT / "tests" / "plugins_smallest", home / "plugins")
    here.mkdir()
    (home / "m.toml").write_text(MATRIX, "utf-8")
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(here)
    return home


# --- paths ------------------------------------------------------------------------------------------------------------


def test_every_option_that_names_a_path_expands_it() -> None:
    commands = [
        each for command in group.commands.values() for each in getattr(command, "commands", {"": command}).values()
    ]
    for command in commands:
        for parameter in command.params:
            if isinstance(parameter.type, click.Path) or parameter.name in (
                "results",
                "folder",
                "output",
                "plugin_folders",
            ):
                assert isinstance(parameter.type, UserPath), (command.name, parameter.name)
            if parameter.name == "results":
                assert isinstance(parameter.type, Results), command.name


@pytest.mark.slow
def test_a_home_folder_is_expanded_in_every_path(home: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = ("--matrix", "~/m.toml", "--results=~/res")
    cli("run", *asked, "--plugins=~/plugins", "--quiet", code=0)
    cli("leaderboard", "--results=~/res", "--format", "parquet", "--output=~/board.parquet", code=0)
    cli("report", "--results=~/res", "--output=~/report.html", code=0)
    cli("export", f"{TINY} / baseline / none #0", "~/exported", "--results=~/res", code=0)
    cli("record", "mine", "--results=~/res", "--output=~/record", code=0)
    submit = ("submit", "~/record", "--min-seeds", "1", "--min-nulls", "0")
    cli(*submit, code=0)
    page = home / "record" / "README.md"  # which its author completes, in any editor
    text = page.read_text("utf-8").replace("\n", "\r\n")
    for encoding in ("utf-8-sig", "utf-16"):
        page.write_bytes(text.encode(encoding))
        cli(*submit, code=0)
    page.write_bytes(text.encode("utf-16-le"))
    assert "it is not text, or in UTF-16 without a byte order mark" in cli(*submit, code=1).out
    cli("new", "defense", "my-mark", "~/new", code=0)
    monkeypatch.setenv("HARNESS_PLUGINS", "~/plugins")
    assert "0 to run" in cli("run", *asked, "--dry-run", code=0).out
    expected = {"plugins", "m.toml", "res", "board.parquet", "report.html", "exported", "record", "new"}
    assert expected <= {path.name for path in home.iterdir()}
    assert not list(Path().iterdir()), "nothing is written below a folder called ~"


def test_a_home_folder_is_expanded_in_python_too(home: Path) -> None:
    (home / "data").mkdir()
    run = harness.run("~/m.toml", results="~/res", plugins=["~/plugins"], data="~/data", defenses="wrong-label")
    assert run.counts == {"ok": 1} and (home / "res" / "tables").is_dir()
    assert len(harness.read_table("~/res", "cells")) == 1
    assert not list(Path().iterdir())


def test_data_of_the_environment_are_found_at_home(home: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    (home / "sets").mkdir()
    for args, variable in ((("--data", "~/sets"), ""), ((), "~/sets")):
        monkeypatch.setenv("HARNESS_DATA", variable)
        assert f"data folder: {home / 'sets'}\n" in cli("data", "list", *args, code=0).out


@pytest.mark.parametrize(
    "args",
    [
        ["plan", "--results=~nobody-here/x"],
        ["plan", "--plugins=~nobody-here/x"],
        ["plan", "--matrix", "~nobody-here/m.toml"],
        ["data", "list", "--data", "~nobody-here"],
        ["new", "defense", "my-mark", "~nobody-here"],
        ["reproduce", "~nobody-here/p.toml", "all"],
    ],
    ids=" ".join,
)
def test_a_home_folder_that_is_not_known_is_one_line(cli: Cli, args: list[str]) -> None:
    ended = cli(*args, code=2)
    assert "the home folder '~nobody-here' is not known here: type the whole path" in ended.err
    assert len(ended.err.splitlines()) == 1


@pytest.mark.parametrize("option", ["--results", "--plugins"])
@pytest.mark.parametrize("empty", ["", " "])
def test_an_empty_path_is_one_line(cli: Cli, option: str, empty: str) -> None:
    ended = cli("plan", option, empty, code=2)
    assert f"Invalid value for '{option}': an empty text names no file or folder" in ended.err


def test_what_is_no_home_folder_stays_as_it_is() -> None:
    for text in ("results", "a/~/b", "/abs", "a~b", "./~/b"):
        assert user_path(text) == Path(text)
    with pytest.raises(UsageError):
        harness.read_table("", "cells")


# --- texts ------------------------------------------------------------------------------------------------------------


ENCODINGS = {
    "utf-8": b"",
    "utf-8-sig": b"",
    "utf-16": b"",  # Python writes the mark
    "utf-16-le": codecs.BOM_UTF16_LE,
    "utf-16-be": codecs.BOM_UTF16_BE,
    "utf-32-be": codecs.BOM_UTF32_BE,
}


@given(
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\r\ufeff"), max_size=50),
    st.sampled_from(sorted(ENCODINGS)),
)
def test_a_text_reads_back_from_every_encoding(
    tmp_path_factory: pytest.TempPathFactory, text: str, encoding: str
) -> None:
    path = tmp_path_factory.getbasetemp() / "text.txt"
    for ends in ("\n", "\r\n"):
        path.write_bytes(ENCODINGS[encoding] + text.replace("\n", ends).encode(encoding))
        assert read_text(path) == text


@given(st.binary(max_size=40))
def test_any_bytes_are_text_or_one_line(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "bytes.txt"
    path.write_bytes(data)
    try:
        assert "\0" not in read_text(path)
    except UsageError as error:
        assert len(str(error).splitlines()) == 1 and str(path) in str(error)


@pytest.mark.slow
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_matrices_and_papers_may_begin_with_a_byte_order_mark(cli: Cli, tmp_path: Path, encoding: str) -> None:
    def written(path: Path) -> Path:
        other = tmp_path / path.name
        other.write_bytes(ENCODINGS[encoding] + path.read_text("utf-8").replace("\n", "\r\n").encode(encoding))
        return other

    asked = cli("plan", "--matrix", "quick", code=0).out
    assert cli("plan", "--matrix", written(presets()["quick"]), code=0).out == asked
    listed = cli("reproduce", "ewe-2021", "--list", code=0).out
    paper = written(papers()["ewe-2021"])
    assert cli("reproduce", paper, "--list", code=0).out.replace(str(paper), "ewe-2021") == listed


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"\x89PNG\r\n\x1a\n\0\0", "it is not text in UTF-8 (byte 0): save it as UTF-8"),
        ('description = "Müller"'.encode("cp1252"), "it is not text in UTF-8 (byte 16): save it as UTF-8"),
        (
            "datasets = []".encode("utf-16-le"),
            "it is not text, or in UTF-16 without a byte order mark: save it as UTF-8",
        ),
        (b"\xff\xfeabc", "it is not text in UTF-16 (byte 4)"),
    ],
    ids=["picture", "cp1252", "no mark", "cut short"],
)
def test_a_matrix_that_is_not_text_is_one_line(cli: Cli, tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "mine.toml"
    path.write_bytes(content)
    for args in (["plan", "--matrix", path], ["reproduce", path, "all"]):
        ended = cli(*args, code=2)
        assert f"{path}: {said}" in ended.err and len(ended.err.splitlines()) == 1


def test_a_plugin_file_may_begin_with_a_byte_order_mark(home: Path, cli: Cli) -> None:
    source = (home / "plugins" / "wrong_label.py").read_text("utf-8")
    (home / "plugins" / "wrong_label.py").write_text(source, "utf-8-sig")
    assert "wrong-label" in cli("plugins", "list", "--plugins", home / "plugins", code=0).out
    (home / "plugins" / "wrong_label.py").write_text(source, "utf-16")
    ended = cli("plugins", "list", "--plugins", home / "plugins", code=0)
    (line,) = ended.err.splitlines()
    assert "wrong_label.py" in line and "UTF-8" in line


def test_a_manifest_may_begin_with_a_byte_order_mark() -> None:
    assert load_registry().found
    for file in ("cifar.py", "speech_commands.py"):
        assert "utf-8-sig" in (builtin_folder() / "datasets" / file).read_text("utf-8")
