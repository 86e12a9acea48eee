"""The page of ``harness report``: what it holds, that it needs nothing else, and that a stranger's names do nothing."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest

from harness.errors import UsageError
from harness.leaderboard import Rules
from harness.registry import Registry
from harness.report import About, Results, render
from harness.tables import CELLS, DETECTIONS, STAGES, Table, Tables
from tests.conftest import Cli
from tests.test_leaderboard import cell, detection

NASTY = "</script><script>alert(1)</script><img src=x onerror=alert(2)>\"'&amp;"


class Elements(HTMLParser):
    """The elements of a page with their attributes, and the texts of its scripts."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str]]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, {name: value or "" for name, value in attrs}))

    def of(self, tag: str) -> list[dict[str, str]]:
        return [attributes for found, attributes in self.found if found == tag]


def frame(table: Table, rows: list[dict[str, Any]]) -> pd.DataFrame:
    """As it would be read from a file."""
    return pa.Table.from_pylist(rows, schema=table.schema()).to_pandas(ignore_metadata=True)


def page(*rows: dict[str, Any], found: list[dict[str, Any]] | None = None) -> str:
    cells = frame(CELLS, [{"run": "r", **row} for row in rows])
    detections, stages = frame(DETECTIONS, found or []), frame(STAGES, [])
    return render(Results(cells, detections, stages, Rules()), About("r", "harness report", "now", "0"), Registry())


def assert_needs_nothing(text: str) -> None:
    for tag, attributes in Elements(text).found:
        assert tag not in ("link", "img", "iframe", "object", "embed", "base"), tag
        for name, value in attributes.items():
            assert name not in ("src", "srcset", "style", "action", "ping") and not name.startswith("on"), (tag, name)
            assert name != "href" or value.startswith("#"), value
    assert not re.search(r"url\(|@import|fetch\(|XMLHttp|import\(", text)


def test_the_page_shows_what_the_tables_say() -> None:
    text = page(cell(seed=0), cell(seed=1, surrogate_trigger_matches=20), cell("b"), cell("b", seed=1))
    assert_needs_nothing(text)
    for title in ("Leaderboard", "What each attack leaves", "Distributions over seeds", "Provenance"):
        assert f">{title}</h2>" in text
    assert "seed 1: success 20.0%, accuracy 95.0%" in text
    for picture in Elements(text).of("svg"):
        assert picture["role"] == "img" and len(picture["aria-label"]) > 20
    assert text.count("<figure") == text.count("The numbers: ")


def test_markup_in_names_is_text_and_cannot_end_the_data() -> None:
    names = {name: f"{name}{NASTY}" for name in ("dataset", "defense", "attack", "family", "access")}
    failed = cell(**names, seed=1, status="failed", reason=NASTY)
    text = page(cell(**names), failed)
    assert_needs_nothing(text)
    assert len(Elements(text).of("script")) == 2
    assert "alert(1)" in text and "<script>alert" not in text
    data = re.search(r'id="board">(.*?)</script>', text, re.DOTALL)
    assert data and json.loads(data[1])["schemes"][0]["defense"] == f"defense{NASTY}"


def test_characters_that_turn_a_text_around_stand_as_their_codes() -> None:
    text = page(cell("a\u202eb"))
    assert "\u202e" not in text and "a\\u202eb" in text


@pytest.mark.parametrize(
    "rows",
    [
        [cell()],
        [cell(null_trigger_matches=None, null_trigger_trials=None, null_accuracy=None, nulls=0)],
        [cell(status="failed", reason="out\nof luck", surrogate_trigger_matches=None, surrogate_trigger_trials=None)],
        [cell(status="skipped", family=None, access=None, reason=None)],
        [cell(surrogate_accuracy=0.1)],
        [cell(attack="none", family="none", access="none")],
        [cell("a[", attack="p | | [x", dataset="")],
    ],
    ids=["one-seed", "no-nulls", "all-failed", "all-skipped", "all-void", "no-attack", "not-our-names"],
)
def test_poor_results_still_make_a_page(rows: list[dict[str, Any]]) -> None:
    text = page(*rows)
    assert_needs_nothing(text)
    assert ">nan<" not in text and ">nan ±" not in text


def test_no_cells_are_one_line() -> None:
    with pytest.raises(UsageError, match="no results yet"):
        page()


def test_a_choice_of_family_ranks_by_its_attacks_alone() -> None:
    rows = [cell(), cell(attack="pruning", family="removal", access="white-box", surrogate_trigger_matches=30)]
    hidden = [row for row in Elements(page(*rows)).of("tr") if "hidden" in row]
    chosen = {(row["data-access"], row["data-family"]) for row in hidden}
    assert {("", "removal"), ("black-box", ""), ("white-box", "removal")} <= chosen and ("", "") not in chosen


def test_pruned_shares_make_a_curve() -> None:
    rows = [
        cell(
            attack=f"x | pruning[fraction={share},layers=all]",
            seed=seed,
            surrogate_trigger_matches=round(80 - 70 * share),
        )
        for share in (0.2, 0.5, 0.9)
        for seed in (0, 1)
    ]
    text = page(*rows)
    assert ">Pruning curves</h2>" in text
    assert re.search(r"a 66 at 20 to 17 at 90", text)


def test_more_queries_verify_more_and_none_verify_a_mark_that_is_gone() -> None:
    gone = [cell("gone", seed=seed, surrogate_trigger_matches=2) for seed in (0, 1)]
    text = page(cell(seed=0), cell(seed=1), *gone)
    found = re.search(r"against queries on d: a (\d+) at 1 to (\d+) at 1000; gone (\d+) at 1 to (\d+) at 1000", text)
    assert found
    few, many, _, never = map(int, found.groups())
    assert few < 90 and many == 100 and never <= 5


def test_detections_are_a_table() -> None:
    searched = cell(cell="a", attack="neural-cleanse", family="detection")
    text = page(searched, found=[detection("a", "surrogate", 0, 3.25)])
    assert ">Detections</h2>" in text and ">3.25<" in text


def test_thousands_of_schemes_stay_a_page_and_it_says_what_is_left_out() -> None:
    text = page(*(cell(f"s{i:04}") for i in range(3000)))
    assert len(text) < 4_000_000
    assert "The first 1,000 of 3,000 schemes are shown" in text


def test_the_command_writes_a_file_and_says_where(tmp_path: Path, cli: Cli) -> None:
    Tables(tmp_path).append("cells", "20260101T000000-a", [cell(), cell(seed=1)])
    made = tmp_path / "report.html"
    assert cli("report", "--results", tmp_path, code=0).out.strip() == str(made)
    text = made.read_text("utf-8")
    assert_needs_nothing(text)
    assert "Reference: " in text and "harness report --results" in text
    other = tmp_path / "a" / "b.html"
    cli("report", "--results", tmp_path, "--output", other, "--test", "fisher", "--confidence", 0.9, code=0)
    assert "exact test" in other.read_text("utf-8") and not list(tmp_path.rglob("*.partial"))


def test_mistakes_are_one_line(tmp_path: Path, cli: Cli) -> None:
    assert "no results yet" in cli("report", "--results", tmp_path / "none", code=2).err
    assert not (tmp_path / "none").exists()
    Tables(tmp_path).append("cells", "20260101T000000-a", [cell()])
    assert "is a folder" in cli("report", "--results", tmp_path, "--output", tmp_path, code=2).err
    (tmp_path / "file").touch()
    assert "cannot write" in cli("report", "--results", tmp_path, "--output", tmp_path / "file" / "r.html", code=2).err
    assert "confidence" in cli("report", "--results", tmp_path, "--confidence", 2, code=2).err
    (tmp_path / "report.html").symlink_to(tmp_path / "file")
    assert "is a link" in cli("report", "--results", tmp_path, code=2).err
