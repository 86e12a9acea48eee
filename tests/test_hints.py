"""Commands that the harness prints are pasted into a shell, whatever the folders and plugins are called."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.papers.paper import papers
from harness.planning.registry import builtin_folder
from harness.text import command_line
from tests.conftest import ROOT, TINY, Cli

NARROW = ("--matrix", "smoke", "--dataset", TINY, "--defense", "baseline", "--attack", "none", "--nulls", "1")
FOLDERS = ["a folder/it's $here", "-dash", 'quo"tes [x]*', "back\\slash", "new\nline", "Müller 模型", "#hash;ls"]


def pasted(*lines: str) -> list[list[str]]:
    """The arguments of each command as bash gives them to the harness."""
    script = "harness() { printf '%s\\0' $# \"$@\"; }\n" + "\n".join(lines)
    done = subprocess.run(["bash", "-c", script], capture_output=True, check=True)
    assert not done.stderr
    words, found = iter(done.stdout.decode().split("\0")[:-1]), []
    for count in words:
        found.append([next(words) for _ in range(int(count))])
    return found


def hint(text: str) -> str:
    """The command at the end of a line that names one."""
    found = re.search(r"harness (?:run|leaderboard|plugins|submit|record|reproduce) .*", text)
    assert found, text
    return found[0]


@given(st.lists(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=8), max_size=20))
def test_every_word_comes_back_from_the_shell(words: list[str]) -> None:
    named = {"results": "".join(words), "plugins": words[:3]}
    (found,) = pasted(command_line("why", *words, **named))  # type: ignore[arg-type]
    assert found[: 1 + len(words)] == ["why", *words]
    again = iter(found[1 + len(words) :])
    options = [
        each.split("=", 1) if each.startswith(("--results=", "--plugins=")) else [each, next(again)] for each in again
    ]
    assert options == [
        *([["--results", named["results"]]] if words and named["results"] else []),
        *(["--plugins", w] for w in words[:3]),
    ]


def test_a_command_says_no_more_than_it_must() -> None:
    assert command_line("leaderboard", results="results") == "harness leaderboard"
    assert command_line("leaderboard", results=str(Path("results").absolute())) == "harness leaderboard"
    assert command_line("leaderboard", results="s3://bucket/x") == "harness leaderboard --results s3://bucket/x"
    # zsh takes brackets for a pattern, and refuses one that fits nothing
    assert command_line("run", "--defense", "ewe[variant=official]") == "harness run --defense 'ewe[variant=official]'"
    assert command_line("run", plugins=["~/p", "-p"]) == "harness run --plugins '~/p' --plugins=-p"


@pytest.mark.slow
@pytest.mark.parametrize("name", FOLDERS)
def test_the_hints_of_a_run_a_record_and_an_empty_folder_are_pasted(
    name: str, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    empty = cli("leaderboard", f"--results={name}", code=2).err
    (typed,) = pasted(hint(empty))
    assert typed[:3] == ["run", "--matrix", "smoke"]
    # What it says is typed, with a smaller matrix, and what that says is typed.
    ended = cli(*typed, *NARROW[2:], "--quiet", code=0)
    ranked = cli(*pasted(hint(ended.out.splitlines()[-1]))[0], code=0).out
    assert "baseline" in ranked
    assert "More: --details (all tables)" in ranked
    if name == FOLDERS[0]:
        recorded = cli("record", "mine", f"--results={name}", f"--output={name}-record", code=0).out
        checked = cli(*pasted(hint(recorded))[0], "--min-seeds", "1", "--min-nulls", "0", code=0)
        assert "accepted" in checked.out
        needs = cli("figures", f"--results={name}", "--list", code=0).out
        for line in needs.splitlines():
            if ": no: " in line or " no: it needs" in line:
                (words,) = pasted(hint(line))
                assert (
                    words[0] == "run" and Path(words[words.index("--results") + 1]).absolute() == Path(name).absolute()
                )


@pytest.mark.slow
def test_the_hints_of_a_new_plugin_are_pasted(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in FOLDERS:
        made = cli("new", "architecture", "my-net", "--", folder, code=0).out
        _, check, run = made.splitlines()
        (words,) = pasted(hint(check))
        assert words[:3] == ["plugins", "check", "my-net"] and "ok" in cli(*words, code=0).out
        (words,) = pasted(hint(run))
        assert "digits[architecture=my-net]" in words
        assert "to run" in cli(*words, "--dry-run", code=0).out


def test_the_hint_of_a_paper_names_its_file(cli: Cli, tmp_path: Path) -> None:
    mine = tmp_path / "my papers" / "it's.toml"
    mine.parent.mkdir()
    shutil.copy(papers()["ewe-2021"], mine)
    listed = cli("reproduce", mine, "--list", code=0).out
    (words,) = pasted(hint(listed.splitlines()[-1]))
    assert words[:2] == ["reproduce", str(mine)]
    (words,) = pasted(hint(cli("reproduce", mine, code=2).err.replace(" lists them", "")))
    assert words == ["reproduce", str(mine), "--list"]


@pytest.mark.slow
def test_a_picture_of_another_s_data_set_needs_no_plugin_and_says_when_it_does(cli: Cli, tmp_path: Path) -> None:
    """What a default option of a data set is, the results say."""
    source = (builtin_folder() / "datasets" / "digits.py").read_text("utf-8")
    folder, results = tmp_path / "plugins", tmp_path / "results"
    folder.mkdir()
    (folder / "mine.py").write_text(source.replace('name = "digits"', 'name = "mine"'), "utf-8")
    small = TINY.removeprefix("digits[").removesuffix("]")
    datasets = (f"mine[{small}]", f"mine[{small},source=2,target=4]")
    run = (
        "run",
        "--matrix",
        "smoke",
        "--defense",
        "baseline",
        "--attack",
        "pruning",
        "--nulls",
        "1",
        "--results",
        results,
    )
    cli(*run, *(word for each in datasets for word in ("--dataset", each)), "--plugins", folder, "--quiet", code=0)
    assert "wrote 1 figures" in cli("figures", "--results", results, "--only", "pairs", code=0).out
    forget_options(results)
    ended = cli("figures", "--results", results, "--only", "pairs", code=0)
    said = "the dataset mine is not here, and the tables do not have its options: name its folder with --plugins"
    assert f"warning: {said}\n" in ended.err
    ended = cli("figures", "--results", results, "--only", "pairs", "--plugins", folder, code=0)
    assert "wrote 1 figures" in ended.out and said not in ended.err


def forget_options(results: Path) -> None:
    """Have the tables as an older harness wrote them, without options."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    for path in (results / "tables" / "cells").glob("*.parquet"):
        table = pq.read_table(path)
        place = table.column_names.index("options")
        none = pa.nulls(table.num_rows, table.schema.field(place).type)
        pq.write_table(table.set_column(place, table.schema.field(place), none), path, write_page_checksum=True)


@pytest.mark.parametrize("command", ["leaderboard", "compare", "export", "figures", "record", "report", "reproduce"])
def test_plugins_are_named_alike_everywhere(command: str, cli: Cli, tmp_path: Path) -> None:
    words = {
        "compare": ["ewe", "adi"],
        "export": ["x", tmp_path / "out"],
        "record": ["x"],
        "reproduce": ["ewe-2021", "all"],
    }
    ended = cli(
        command, *words.get(command, []), "--results", ROOT / "results" / "records", "--plugins", "gone", code=2
    )
    assert "no plugin folder 'gone'" in ended.err
