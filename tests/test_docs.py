"""The documents say what is true: commands, options, links, columns and examples."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest

from harness.cli import cli as group
from harness.planning.matrix import presets
from harness.planning.registry import load_registry
from harness.ranking.columns import SCHEMES
from harness.ranking.scoring import Rules
from harness.storage.schema import document
from tests.conftest import ROOT, Cli

PAGES = sorted(p for p in [*ROOT.glob("*.md"), *ROOT.glob("*/README.md"), *ROOT.glob("results/records/*/README.md")])


def blocks(page: Path, language: str = "") -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text("utf-8"), re.MULTILINE | re.DOTALL)


def commands(page: Path) -> list[str]:
    """The lines of a page's code blocks, and its inline code, that call the harness."""
    text = page.read_text("utf-8")
    lines = [line.strip() for block in blocks(page) for line in block.replace("\\\n", " ").splitlines()]
    inline = re.findall(r"`(harness [^`]+)`", text)
    return [line.split("#")[0].split("&&")[0].strip() for line in [*lines, *inline] if re.match(r"harness [a-z]", line)]


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_commands_and_options_in_the_documents_exist(page: Path) -> None:
    for line in commands(page):
        words = shlex.split(line)[1:]
        command: click.Command = group
        while words and isinstance(command, click.Group):
            word = words.pop(0)
            assert word in command.commands, f"{line!r}: no command {word!r}"
            command = command.commands[word]
        known = {option for parameter in command.params for option in parameter.opts}
        for word in words:
            if word.startswith("--"):
                assert word.split("=")[0] in known, f"{line!r}: no option {word}"


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_and_named_files_exist(page: Path) -> None:
    text = page.read_text("utf-8")
    for target in re.findall(r"\]\(([^)#]+)\)", text):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name}: {target}"
    for target in re.findall(r"`((?:harness|tests|plugins|benchmarks)/[\w/.]+\.\w+)`", text):
        assert (ROOT / target).exists(), f"{page.name}: {target}"


def test_the_readme_opens_with_the_two_commands_and_names_what_there_is() -> None:
    text = (ROOT / "README.md").read_text("utf-8")
    assert re.findall(r"^make \w+", text, re.MULTILINE)[:2] == ["make demo", "make test"]
    for _, name in load_registry().found:
        assert f"`{name}`" in text, f"README.md does not name the plugin {name}"
    for name in presets():
        assert f"`{name}`" in text, f"README.md does not name the matrix {name}"
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)
    for page in PAGES:
        for target in re.findall(r"\bmake ([\w-]+)(?=[`\n ]{1}[` \n#])", page.read_text("utf-8")):
            assert target in targets, f"{page.name}: no target {target}"


def test_the_readme_shows_a_real_leaderboard() -> None:
    text = (ROOT / "README.md").read_text("utf-8")
    shown = text[text.index("<!-- leaderboard: begin -->") : text.index("<!-- leaderboard: end -->")]
    for column in SCHEMES.shown(Rules()):
        assert f" {column.header} |" in shown, f"README.md's leaderboard has no column {column.header!r}"
    assert "±" in shown and "Measured on " in shown
    for name in load_registry().names("defense"):
        assert re.search(rf"^\| \d+ \| {name}(\[[^|]*)? \| \d+ \|", shown, re.MULTILINE), f"no row of {name}"


def test_the_page_on_results_is_generated() -> None:
    assert (ROOT / "results" / "README.md").read_text("utf-8") == document(), "type: make docs"


def test_the_layout_that_architecture_names_is_there() -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text("utf-8")
    for name in re.findall(r"`([\w/]+\.py)`", text):
        found = (ROOT / name).is_file() or list((ROOT / "harness").rglob(name))
        assert found, f"ARCHITECTURE.md: no {name}, nor harness/**/{name}"


def test_the_page_on_plugins_begins_with_the_smallest_defense_and_its_examples_run(tmp_path: Path, cli: Cli) -> None:
    """Schemes in a folder outside the repository, as plugins/README.md tells; no file of the project is touched."""
    smallest, judged, *_ = blocks(ROOT / "plugins" / "README.md", "python")
    assert smallest == (ROOT / "tests" / "plugins_smallest" / "wrong_label.py").read_text("utf-8")
    assert len(smallest.splitlines()) <= 20 and len(judged.splitlines()) <= 40
    plugins = tmp_path / "my-plugins"
    plugins.mkdir()
    (plugins / "wrong_label.py").write_text(smallest)
    (plugins / "stamp.py").write_text(judged)
    names, results = ("wrong-label", "stamp"), tmp_path / "results"
    for name in names:
        assert name in cli("plugins", "list", "--plugins", plugins, code=0).out
        assert f"ok      defense {name}" in cli("plugins", "check", name, "--plugins", plugins, code=0).out
    defenses = [word for name in (*names, "ewe") for word in ("--defense", name)]
    cli("run", "--matrix", "smoke", *defenses, "--nulls", "1", "--results", results, "--plugins", plugins, code=0)
    ranked = cli("leaderboard", "--results", results, "--format", "markdown", code=0).out
    for name in names:
        assert re.search(rf"^\| [123] \| {name} \|", ranked, re.MULTILINE)


def test_sources_name_no_machine_and_print_nothing() -> None:
    for path in [*ROOT.glob("harness/**/*.py"), *ROOT.glob("plugins/**/*.py"), *PAGES, *ROOT.glob("tests/*.py")]:
        text = path.read_text("utf-8")
        assert not re.search(r"(?<![\w.])/(?:work|root|home)/", text.replace("(?:work|root|home)", "")), path
