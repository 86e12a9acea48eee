"""The documents say what is true: commands, options, links, columns and examples."""

from __future__ import annotations

import ast
import json
import re
import shlex
from collections import Counter
from pathlib import Path

import click
import pandas as pd
import pytest

from harness.cli import cli as group
from harness.inspect import attacks, schemes
from harness.papers.paper import load_paper
from harness.papers.reproduce import UNLIMITED, spread
from harness.planning.matrix import presets
from harness.planning.registry import load_registry
from harness.ranking import glossary
from harness.storage import schema
from tests.conftest import ROOT, Cli

PAGES = sorted(
    p
    for p in [
        *ROOT.glob("*.md"),
        *ROOT.glob("*/README.md"),
        *ROOT.glob("docs/*.md"),
        *ROOT.glob("results/records/*/README.md"),
    ]
)


def blocks(page: Path, language: str = "") -> list[str]:
    fenced = re.findall(r"^```(\w*)\n(.*?)^```", page.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    return [text for of, text in fenced if of == language]


def commands(page: Path) -> list[str]:
    """The lines of a page's code blocks, and its inline code, that call the harness."""
    text = page.read_text("utf-8")
    lines = [line.strip() for block in blocks(page) for line in block.replace("\\\n", " ").splitlines()]
    inline = re.findall(r"`(harness [^`]+)`", text)
    return [line.split("&&")[0].strip() for line in [*lines, *inline] if re.match(r"harness [a-z]", line)]


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_commands_and_options_in_the_documents_exist(page: Path) -> None:
    for line in commands(page):
        words = shlex.split(line, comments=True)[1:]
        command: click.Command = group
        while words and isinstance(command, click.Group):
            word = words.pop(0)
            assert word in command.commands, f"{line!r}: no command {word!r}"
            command = command.commands[word]
        known = {option for each in command.params for option in (*each.opts, *each.secondary_opts)}
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
    text, named = (ROOT / "README.md").read_text("utf-8"), schemes.document() + attacks.document()
    assert re.findall(r"^make \w+", text, re.MULTILINE)[:2] == ["make demo", "make test"]
    for _, name in load_registry().found:
        assert f"`{name}`" in text + named, f"neither README.md nor a page of docs names the plugin {name}"
    for name in presets():
        assert f"`{name}`" in text, f"README.md does not name the matrix {name}"
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)
    for page in PAGES:
        for target in re.findall(r"\bmake ([\w-]+)(?=[`\n ]{1}[` \n#])", page.read_text("utf-8")):
            assert target in targets, f"{page.name}: no target {target}"


def test_the_readmes_board_is_that_of_its_record(cli: Cli) -> None:
    """The README's board is the one that its record's tables make today."""
    text = (ROOT / "README.md").read_text("utf-8")
    (record,) = set(re.findall(r'src="(results/records/[\w-]+)/figures/', text))
    begin, end = "<!-- board: begin -->\n", "<!-- board: end -->"
    shown = text[text.index(begin) + len(begin) : text.index(end)].strip().splitlines()
    board = cli("leaderboard", "--results", ROOT / record, "--format", "markdown", code=0).out.splitlines()
    assert len([line for line in shown if line.startswith("|")]) >= 6
    assert [line for line in shown if line] == [line for line in board if line in shown and line]


def readme() -> str:
    return " ".join((ROOT / "README.md").read_text("utf-8").split())


def test_the_numbers_in_the_readmes_words_are_in_a_record() -> None:
    twenty = (ROOT / "results" / "records" / "2026-11-27-digits-twenty-seeds" / "README.md").read_text("utf-8")
    assert "24.8 points of the worst-case margin against the API (95% 12.4 to 37.2" in readme()
    assert "24.8 points of the worst-case margin against the API** (12.4 to 37.2" in twenty


def by_seed(record: str, probe: str, attack: str = "retraining") -> pd.DataFrame:
    """Success in % of the copies of a record: a row a scheme, a column a seed."""
    cells = pd.read_parquet(ROOT / "results" / "records" / record / "tables" / "cells")
    cells = cells.query("attack == @attack").drop_duplicates("cell")
    success = 100 * cells[f"surrogate_{probe}_matches"] / cells[f"surrogate_{probe}_trials"]
    return success.groupby([cells["defense"], cells["seed"]]).first().unstack("seed")


def kept(rates: pd.Series[float]) -> str:
    """Mean and 95% interval of rates in %, as the README prints them."""
    return "{:.0f} ({:.0f} to {:.0f})".format(*interval(rates, (0, 100)))


def added(points: pd.Series[float]) -> str:
    """Mean and 95% interval of differences in points, as the README prints them."""
    return "{:.1f} points ({:.1f} to {:.1f})".format(*interval(points))


def interval(values: pd.Series[float], limits: tuple[float, float] = UNLIMITED) -> tuple[float, float, float]:
    """Mean of one value per seed, and its 95% interval."""
    found = spread(list(values), limits)
    assert found and found.low is not None and found.high is not None
    return found.mean, found.low, found.high


def test_the_readme_says_of_the_paper_at_full_size_what_the_records_tables_say() -> None:
    v1, fashion = (by_seed(f"2026-11-28-{name}-v1-full-size", "held_out") for name in ("mnist", "fashion"))
    ewe, silent, corner = (f"ewe[variant=paper{more}]" for more in ("", ",weight=0.0", ",weight=0.0,placement=corner"))
    again = by_seed("2026-11-29-mnist-v1-verdicts", "held_out")
    repeated = f"; again, in float32: {kept(again.loc[ewe])} and {kept(again.loc[corner])}"
    for claim, table, more in (
        ("MNIST: a copy keeps 61, of a baseline's mark 3", v1, repeated),
        ("Fashion-MNIST: 45, and 6", fashion, ""),
    ):
        assert f"| {claim} | {kept(table.loc[ewe])} and {kept(table.loc[corner])}{more} |" in readme()
    loud = by_seed("2026-11-29-mnist-v1-without-the-constant", "held_out").loc[f"{ewe[:-1]},floor=0.0]"]
    most = kept(loud).replace(" ", "% ", 1)
    assert (
        f"copies keep {most} of the mark on MNIST, {added(loud - again.loc[silent])} more than without the loss"
        in readme()
    )
    turned = [[f"{table.loc[ewe, seed]:.0f}" for seed in (0, 2, 3)] for table in (v1, again)]
    assert "keep {}, {} and {}% in bfloat16 and {}, {} and {}% in float32".format(*turned[0], *turned[1]) in readme()
    speech = by_seed("2026-11-29-speech-all-clips", "held_out")
    entangled = speech.index.str.startswith("ewe")
    assert entangled.sum() == 2 and not speech[entangled].to_numpy().any()
    nothing, some = kept(speech[entangled].iloc[0]), kept(speech[~entangled].iloc[0])
    assert f"nothing in five copies of five {nothing.removeprefix('0 ')}, and {some} |" in readme()
    left = " and ".join(f"{table.loc[silent].mean():.0f}" for table in (v1, fashion))
    gains = [added(table.loc[ewe] - table.loc[silent]) for table in (v1, fashion)]
    in_float32 = f"; again on MNIST, in float32, {added(again.loc[ewe] - again.loc[silent])} |"
    adds = f"it adds {gains[0]} on MNIST, {gains[1]} on Fashion-MNIST{in_float32}"
    assert f"the same triggers keep {left}: {adds}" in readme()
    later, other = (by_seed(f"2026-11-28-{name}-full-size", "trigger") for name in ("mnist", "fashion"))
    for claim, table, ratio in (("MNIST", later, ""), ("Fashion-MNIST", other, ",ratio=2.0")):
        with_loss, without = (table.loc[f"ewe[variant=official{more}{ratio}]"] for more in ("", ",weight=0.0"))
        gain = added(with_loss - without)
        assert f"{claim}: {kept(with_loss)}, without the loss {kept(without)}: it adds {gain} |" in readme()
    arms = [
        (f"ewe[variant=official{more}]", f"ewe[variant=official{more},order=shuffled]") for more in ("", ",weight=0.0")
    ]
    seeds = later.loc[arms[0][0]]
    assert "keep {:.0f}, {:.0f}, {:.0f}, {:.0f} and {:.0f}% of the mark on MNIST".format(*seeds) in readme()
    mixed = [kept(later.loc[shuffled]).replace(" ", "% ", 1) for _, shuffled in arms]
    assert f"shuffled, {mixed[0]} is left, without the loss {mixed[1]}: less in each seed" in readme()
    assert all((later.loc[shuffled] < later.loc[fixed]).all() for fixed, shuffled in arms)


def test_the_readme_says_of_detectors_and_the_adaptive_thief_at_full_size_what_the_record_says() -> None:
    name, ewe = "2026-11-29-mnist-v1-detection", "ewe[variant=paper]"
    found = pd.read_parquet(ROOT / "results" / "records" / name / "tables" / "detections")
    found = found[found["attack"].str.startswith("neural-cleanse")]
    victims = found[found["suspect"] == "surrogate"].set_index("defense")["score"]
    groups = (victims[f"{ewe[:-1]},weight=0.0,placement=corner]"], victims[ewe])
    nulls = found[(found["suspect"] == "null") & (found["defense"] == ewe)].groupby("index")["score"].first()
    said = ["{:.1f} ({:.1f} to {:.1f}".format(*interval(scores)) for scores in (*groups, nulls)]
    assert [len(scores) for scores in (*groups, nulls)] == [5, 5, 3]
    assert f"an anomaly index of {said[0]}) and {said[1]}), where it prints 31.6 and 1.6" in readme()
    assert f"unmarked models have {said[2]}, n = 3" in readme()
    plain, adaptive = (by_seed(name, "held_out", attack).loc[ewe] for attack in ("retraining", "snnl-extraction"))
    less, low, high = interval(plain - adaptive)
    assert f"of the first program's, at full size, {less:.1f} fewer ({low:.1f} to {high:.1f})" in readme()


@pytest.mark.slow
def test_the_readme_says_of_the_papers_pictures_what_their_records_say(cli: Cli) -> None:
    rows = []
    for name in ("2026-11-28-ewe-2021-small", "2026-11-28-ewe-2021-pairs-small"):
        asked = [each.id for each in load_paper("ewe-2021").experiments.values() if name in each.records]
        options = ("--no-run", "--format", "json", "--results", ROOT / "results" / "records" / name)
        found = json.loads(cli("reproduce", "ewe-2021", *asked, *options, code=0).out)
        rows += [row for each in found for row in each["rows"]]
    ends = Counter(row["verdict"] for row in rows if row["paper"])
    counts = (ends.total(), ends["reproduced at another setting"], ends["compatible"], ends["differs"])
    assert "of {} claims {} are found at that size, {} are compatible, {} are not".format(*counts) in readme()
    (thief,) = [row for row in rows if row["label"].startswith("MNIST: released loss, less plain")]
    assert f"{thief['mean']:.0f} points more of the mark ({thief['low']:.0f} to {thief['high']:.0f}, n = 5)" in readme()


def test_the_readmes_python_runs(
    tmp_path: Path, tiny_smoke: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    (source,) = [block for block in blocks(ROOT / "README.md", "python") if "harness.run" in block]
    assert len(source.splitlines()) <= 5
    monkeypatch.chdir(tmp_path)
    assert source.count('"smoke"') == 1
    exec(compile(source.replace('"smoke"', repr(str(tiny_smoke))), "README.md", "exec"), {})
    first = [line.split()[0] for line in capsys.readouterr().out.splitlines() if line.strip()]
    assert first.count("ewe") == first.count("baseline") == 1, "a row each"


def test_the_generated_pages_are_up_to_date() -> None:
    assert (ROOT / "results" / "README.md").read_text("utf-8") == schema.document(), "type: make docs"
    assert (ROOT / "docs" / "glossary.md").read_text("utf-8") == glossary.document(), "type: make docs"
    assert (ROOT / "docs" / "schemes.md").read_text("utf-8") == schemes.document(), "type: make docs"
    assert (ROOT / "docs" / "attacks.md").read_text("utf-8") == attacks.document(), "type: make docs"


def test_the_layout_that_architecture_names_is_there() -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text("utf-8")
    for name in re.findall(r"`([\w/]+\.py)`", text):
        found = (ROOT / name).is_file() or list((ROOT / "harness").rglob(name))
        assert found, f"ARCHITECTURE.md: no {name}, nor harness/**/{name}"


@pytest.mark.slow
def test_the_page_on_plugins_begins_with_the_smallest_defense_and_its_examples_run(tmp_path: Path, cli: Cli) -> None:
    """Schemes in a folder outside the repository, as plugins/README.md tells; no file of the project is touched."""
    smallest, judged, *_ = blocks(ROOT / "plugins" / "README.md", "python")
    assert smallest == (ROOT / "tests" / "plugins_smallest" / "wrong_label.py").read_text("utf-8")
    assert smallest in blocks(ROOT / "README.md", "python")
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
        assert re.search(rf"^\| {name} \| ", ranked, re.MULTILINE)


SOURCES = [*ROOT.glob("harness/**/*.py"), *ROOT.glob("plugins/**/*.py")]
HEADLESS = re.compile(r"(What|Who|Whom|Whose|Whether|Which|Where|How|Of|As|By)\b")


def test_a_docstring_begins_with_a_noun_or_a_verb() -> None:
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if (
                isinstance(node, ast.Expr)
                and isinstance(node.value, ast.Constant)
                and isinstance(node.value.value, str)
            ):
                assert not HEADLESS.match(node.value.value), f"{path}:{node.lineno}"


def test_modules_and_functions_fit_the_eye() -> None:
    for path in [*SOURCES, *ROOT.glob("benchmarks/*.py")]:
        text = path.read_text("utf-8")
        assert len(text.splitlines()) <= 500, path
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                assert (node.end_lineno or 0) - node.lineno < 50, f"{path}:{node.lineno} {node.name}"


def test_sources_name_no_machine_and_print_nothing() -> None:
    for path in [*ROOT.glob("harness/**/*.py"), *ROOT.glob("plugins/**/*.py"), *PAGES, *ROOT.glob("tests/*.py")]:
        text = path.read_text("utf-8")
        assert not re.search(r"(?<![\w.])/(?:work|root|home)/", text.replace("(?:work|root|home)", "")), path


def test_the_table_of_options_is_that_of_the_commands() -> None:
    """Options that several commands share are where the page says, and where a user looks for them."""
    text = (ROOT / "docs" / "commands.md").read_text("utf-8")
    head, _, *rows = [
        [cell.strip().strip("`") for cell in line.strip("|").split("|")]
        for line in text.partition("## Options by command")[2].partition("\n## ")[0].splitlines()
        if line.startswith("|")
    ]
    known = {" ".join(path): {name for p in each.params for name in p.opts} for path, each in _commands(group).items()}
    assert [row[0] for row in rows] == list(known)
    shown = {row[0]: {name for name, mark in zip(head[1:], row[1:], strict=True) if mark} for row in rows}
    assert shown == {command: options & set(head) for command, options in known.items()}
    for command, options in shown.items():
        if "--results" in options or "--data" in options:
            assert "--plugins" in options, f"{command} lacks --plugins"
        if "--matrix" in options:
            assert {"--results", "--data", "--plugins"} <= options, command


def _commands(group: click.Group) -> dict[tuple[str, ...], click.Command]:
    found: dict[tuple[str, ...], click.Command] = {}
    for name, command in group.commands.items():
        inner = command.commands if isinstance(command, click.Group) else {}
        found |= {(name, each): one for each, one in inner.items()} or {(name,): command}
    return found


def test_shared_options_are_the_same_everywhere() -> None:
    """One help text, one type and one default for an option, whichever command takes it."""
    told: dict[str, set[tuple[str, str]]] = {}
    for command in _commands(group).values():
        for option in command.params:
            if isinstance(option, click.Option) and option.opts[-1] in ("--results", "--data", "--scale", "--plugins"):
                told.setdefault(option.opts[-1], set()).add((str(option.help), str(option.default)))
    assert len(told["--results"]) == len(told["--data"]) == 1
    assert len(told["--plugins"]) == 2, "those that read plugins, and those that do not need them"
