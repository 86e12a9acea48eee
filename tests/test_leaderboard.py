"""The command that ranks, by hand-made tables whose answers are known."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest

from tests.boards import write
from tests.conftest import Cli, without


def cell(defense: str = "a", attack: str = "retraining", seed: int = 0, **changes: Any) -> dict[str, Any]:
    """A cell that is ok: 80 of 100 triggers survive, 6 of 300 null answers match, accuracies of 95% and more."""
    row: dict[str, Any] = {
        **{"cell": f"{defense}{attack}{seed}", "dataset": "d", "defense": defense, "attack": attack, "seed": seed},
        **{"family": "none" if attack == "none" else "extraction", "access": "black-box", "status": "ok", "reason": ""},
        **{"null_accuracy": 0.97, "victim_accuracy": 0.96, "surrogate_accuracy": 0.95, "agreement": 0.96, "queries": 9},
        **{"victim_trigger_matches": 100, "victim_trigger_trials": 100},
        **{"surrogate_trigger_matches": 80, "surrogate_trigger_trials": 100},
        **{"surrogate_held_out_matches": 7, "surrogate_held_out_trials": 10},
        **{"surrogate_control_matches": 0, "surrogate_control_trials": 10},
        **{
            "null_trigger_matches": 6,
            "null_trigger_trials": 300,
            "nulls": 3,
            "embed_seconds": 1.0,
            "attack_seconds": 1.0,
        },
    }
    return row | changes


# --- printing ---

FILTER: dict[str, Any] = {"attack": "filter", "family": "evasion"}
FAILED: dict[str, Any] = {"status": "failed", "surrogate_trigger_matches": None, "surrogate_trigger_trials": None}


def rows(
    name: str = "ewe", matches: int = 80, attack: str = "retraining", seeds: int = 6, **changes: Any
) -> list[dict[str, Any]]:
    """Cells of some seeds."""
    return [cell(name, attack, s, surrogate_trigger_matches=matches + s, **changes) for s in range(seeds)]


def test_every_format_tells_the_same(cli: Cli, tmp_path: Path) -> None:
    write(tmp_path, *rows("ewe", 80), *rows("adi[count=5]", 20))
    formats = {
        f: cli("leaderboard", "--results", tmp_path, "--format", f, code=0).out
        for f in ("json", "csv", "markdown", "latex")
    }
    by_json = {s["defense"]: s["standings"]["black box"] for s in json.loads(formats["json"])["schemes"]}
    by_csv = {row["defense"]: row for row in csv.DictReader(io.StringIO(formats["csv"]))}
    assert by_json["ewe"]["rank"] == 1 and by_json["ewe"]["worst"]["mean"] == pytest.approx((0.825 - 0.02) / 0.98)
    assert float(by_csv["ewe"]["black_box_worst_mean"]) == pytest.approx(by_json["ewe"]["worst"]["mean"])
    assert by_csv["adi[count=5]"]["black_box_rank"] == "2"
    assert "| ewe | 1 | 82 [48, 100] |" in formats["markdown"] and "$82$ {[}$48$, $100${]}" in formats["latex"]
    said = cli("leaderboard", "--results", tmp_path, "--format", "parquet", "--output", tmp_path / "x.parquet", code=0)
    assert said.out == f"2 rows in {tmp_path / 'x.parquet'}\n"
    read = pd.read_parquet(tmp_path / "x.parquet").set_index("defense")
    assert read.loc["ewe", "both_worst_mean"] == pytest.approx(by_json["ewe"]["worst"]["mean"])
    terminal = cli("leaderboard", "--results", tmp_path, code=0).out
    assert "82 [48, 100]" in terminal and "adi[count=5]" in terminal, "brackets are options, not markup"
    for shown in (terminal, formats["markdown"]):
        assert shown.startswith("d: Against"), "what may be concluded comes first"
        assert "about 5 are called marked (p" in shown and "verified" not in shown


def test_the_default_prints_no_meanings_and_explain_does(cli: Cli, tmp_path: Path) -> None:
    write(tmp_path, *rows())
    plain, explained, details = (
        cli("leaderboard", "--results", tmp_path, *options, code=0).out
        for options in ((), ("--explain",), ("--details", "--explain"))
    )
    assert "significantly better" not in plain and "Untouched victims that are called marked" in explained
    assert len(plain.splitlines()) <= 12 and max(map(len, explained.splitlines())) <= 100
    assert "margin after each attack" in details and "Clopper-Pearson" in details and "cost of the mark" in details


def test_rules_are_options(cli: Cli, tmp_path: Path) -> None:
    write(tmp_path, *rows("ewe", 9), *rows("adi", 60))
    say = ("leaderboard", "--results", tmp_path, "--details")
    options = {"--min-margin": 0.2, "--max-drop": 0.03, "--max-cost": 0.001, "--gamma": 0.02, "--confidence": 0.95}
    shown = cli(*say, *(word for pair in options.items() for word in pair), "--budget", 9, "--explain", code=0).out
    flat = " ".join(shown.split())
    for words in (
        "margin of at least 20",
        "at most 3 points",
        "Above 0.1 points",
        "at 0.02",
        "within 9",
        "costs 1.0 points",
    ):
        assert words in flat, words
    for test, words in (("beta-binomial", "if rates follow a beta law"), ("welch", "all unmarked models answer alike")):
        assert words in " ".join(cli(*say[:-1], "--test", test, code=0).out.split())
    assert "--test binomial" in cli(*say, "--fpr", 0.1, code=2).err
    assert "an assumed false rate of 10.00%" in cli(*say, "--fpr", 0.1, "--test", "binomial", code=0).out
    assert "min-margin must be in 0..1" in cli(*say, "--min-margin", 2, code=2).err


def test_a_pipe_in_a_chain_does_not_break_a_markdown_table(cli: Cli, tmp_path: Path) -> None:
    write(tmp_path, *rows(attack="retraining | pruning"))
    out = cli("leaderboard", "--results", tmp_path, "--by", "attack", "--format", "markdown", code=0).out
    (head, row) = (
        next(line for line in out.splitlines() if line.startswith(start)) for start in ("| attack", "| retraining")
    )
    assert row.replace(r"\|", "").count("|") == head.count("|") > 10


def test_filters_choose_rows_and_name_what_is_unknown(cli: Cli, tmp_path: Path) -> None:
    write(tmp_path, cell("ewe"), cell("ewe[weight=64]"), cell("adi"))
    out = cli("leaderboard", "--results", tmp_path, "--defense", "ewe[weight=64]", "--format", "json", code=0).out
    assert [s["defense"] for s in json.loads(out)["schemes"]] == ["ewe[weight=64]"]
    out = cli("leaderboard", "--results", tmp_path, "--defense", "ewe*", "--format", "json", code=0).out
    assert len(json.loads(out)["schemes"]) == 2
    said = cli("leaderboard", "--results", tmp_path, "--defense", "eve", code=2).err
    assert "Did you mean 'ewe'?" in said and len(said.splitlines()) == 1


def test_no_results_is_one_line_that_says_what_to_type(cli: Cli, tmp_path: Path) -> None:
    none = tmp_path / "none"
    assert cli("leaderboard", "--results", none, code=2).err == (
        f"harness: no results yet in {none}: type harness run --matrix smoke --results {none}\n"
    )


@pytest.mark.parametrize("by", ["dataset", "attack", "family"])
def test_by_shows_one_view_and_writes_its_rows(by: str, cli: Cli, tmp_path: Path) -> None:
    write(tmp_path, cell("ewe"), cell("ewe", "pruning", family="removal"), cell("ewe", **FILTER))
    shown = cli("leaderboard", "--results", tmp_path, "--by", by, "--budget", 30, "--format", "markdown", code=0).out
    titles = {
        "dataset": "worst case in each threat model",
        "attack": "margin after each attack",
        "family": "in each family of attacks",
    }
    assert [name for name, title in titles.items() if title in shown] == [by]
    out = cli("leaderboard", "--results", tmp_path, "--by", by, "--format", "csv", code=0).out
    found = list(csv.DictReader(io.StringIO(out)))
    assert len(found) == {"dataset": 1, "attack": 2, "family": 2}[by]
    name = {"dataset": "black_box_worst_mean", "attack": "margin_mean", "family": "worst_mean"}[by]
    assert float(found[0][name]) == pytest.approx((0.8 - 0.02) / 0.98)


def test_what_cannot_be_ranked_is_a_page_too(cli: Cli, tmp_path: Path) -> None:
    lost = dict.fromkeys([name for name in cell() if name.endswith(("matches", "trials", "accuracy", "seconds"))], None)
    nothing = {"null_trigger_matches": None, **NO_NULLS}
    write(tmp_path, cell("gone", status="failed", **lost), cell("unknown", **nothing), nulls=0)
    for style in ("terminal", "markdown", "latex", "csv", "json"):
        for options in ((), ("--details",)):
            out = cli("leaderboard", "--results", tmp_path, "--format", style, *options, "--budget", 9, code=0).out
            assert "gone" in out and not re.search(r"\bnan\b", out.lower())
    flat = " ".join(cli("leaderboard", "--results", tmp_path, code=0).out.split())
    assert "gone no rank: no cell finished" in flat and "harness run --nulls 19" in flat


NO_NULLS = {"null_trigger_trials": None, "nulls": 0}


@pytest.mark.slow
@pytest.mark.parametrize("width", [60, 80, 120, 200])
def test_a_narrow_terminal_gets_more_tables_not_broken_numbers(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    pruned: dict[str, Any] = {"attack": "pruning", "family": "removal", "surrogate_accuracy": 0.1}
    write(tmp_path, *(row for name, m in (("ewe", 80), (LONG, 20)) for row in rows(name, m) + rows(name, m, **pruned)))
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setattr("harness.cli.tables.sys", SimpleNamespace(stdout=SimpleNamespace(isatty=lambda: True)))
    out = cli("leaderboard", "--results", tmp_path, code=0).out
    assert max(map(len, out.splitlines())) <= min(width, 100), "wider ones leave room"
    assert "82 [48, 100]" in out and re.search(r"^ewe\[.*\] +2 ", out, re.MULTILINE)
    out = cli("leaderboard", "--results", tmp_path, "--details", "--budget", 30, code=0).out
    assert max(map(len, out.splitlines())) <= width
    for text in ("82.1 ± 1.9", "48.5 to 100.0", "hypervolume", "distribution", "survived"):
        assert text in out, text
    folds = re.search(r"ewe\[variant=official, .*\n +factor=32,", out)
    assert width > 120 or folds, "a name folds before an option"


def test_a_terminal_shows_no_column_that_says_nothing(cli: Cli, tmp_path: Path) -> None:
    write(tmp_path, *rows())
    shown = ("leaderboard", "--results", tmp_path, "--details", "--explain")
    out = cli(*shown, code=0).out
    assert "hypervolume" in out and "filters before" not in out and "not counted" not in out
    write(tmp_path, *rows(**FILTER), cell("ewe", seed=6, **FAILED))
    out = cli(*shown, code=0).out
    assert (
        "filters before a stolen model" in out
        and "1 failed" in out
        and re.search(r"^not counted +Cells", out, re.MULTILINE)
    )


LONG = "ewe[variant=official,factor=32,temperature=64,trigger_set=256]"


def test_names_are_no_markup(cli: Cli, tmp_path: Path) -> None:
    write(tmp_path, cell("[red]a[/red]", "<script>x</script>"), cell("[b](http://c)", "retraining | pruning"))
    shown = cli("leaderboard", "--results", tmp_path, "--details", code=0).out
    assert "[red]a[/red]" in shown and "<script>" in shown
    page = cli("leaderboard", "--results", tmp_path, "--details", "--format", "markdown", code=0).out
    assert "<script" not in page and "&lt;script>" in page and "](" not in page


def test_a_file_is_for_parquet_alone(cli: Cli, tmp_path: Path) -> None:
    write(tmp_path, cell())
    for given in (("--format", "parquet"), ("--format", "csv", "--output", tmp_path / "x")):
        assert "--format parquet --output FILE" in cli("leaderboard", "--results", tmp_path, *given, code=2).err
    (tmp_path / "taken").touch()
    where = tmp_path / "taken" / "x"
    said = cli("leaderboard", "--results", tmp_path, "--format", "parquet", "--output", where, code=2).err
    assert said == f"harness: cannot write {str(where)!r}: File exists; choose another --output\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["tables", "taken"]


@pytest.mark.slow
def test_a_leaderboard_and_a_report_import_nothing_slow_that_they_do_not_need(tmp_path: Path) -> None:
    write(tmp_path, *({"run": "r", **cell(name, seed=s)} for name in ("ewe", "adi") for s in range(2)))
    where = ("--results", tmp_path)
    asked = [("leaderboard", *where), ("leaderboard", *where, "--format", "latex"), ("compare", "ewe", "adi", *where)]
    without({"torch._C", "scipy.stats", "matplotlib", "seaborn"}, *asked, ("report", *where))
