"""The page of ``harness report``: what it holds, that it needs nothing else, and that a stranger's names do nothing."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest

from harness.errors import UsageError
from harness.figures.catalogue import collect
from harness.figures.shown import Shown
from harness.planning.registry import Registry, load_registry
from harness.report import About, Results, render
from harness.report.drawing import LETTERS, Axis, Series, chart, folded
from harness.storage.schema import CELLS, DETECTIONS, EVIDENCE, STAGES, Table
from harness.storage.tables import Tables
from harness.verdicts.rules import Rules
from tests.boards import asked, write
from tests.conftest import Cli
from tests.test_leaderboard import cell

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


def page(
    *rows: dict[str, Any],
    found: Sequence[dict[str, Any]] = (),
    stages: pd.DataFrame | None = None,
    rules: Rules | None = None,
    nulls: int = 19,
) -> str:
    cells = frame(CELLS, [{"run": "r", **row} for row in rows])
    evidence = frame(EVIDENCE, list(asked([{"run": "r", **row} for row in rows], nulls)))
    stages = frame(STAGES, []) if stages is None else stages
    results = Results(cells, evidence, frame(DETECTIONS, list(found)), stages, rules or Rules())
    return render(results, About("r", "harness report", "now", "0"), Registry())


def grid(text: str, caption: str) -> list[dict[str, str]]:
    """The rows of the first table whose caption ends so, by column."""
    text = text.replace("<wbr>", "")
    start = re.search(rf"<caption><span>[^/]*{re.escape(caption)}</span>", text)
    assert start, caption
    table = text[start.end() : text.index("</table>", start.end())]
    head, *body = re.findall(r"<tr[ >].*?</tr>", table, re.DOTALL)
    names, *rows = ([re.sub(r"<[^>]*>", "", c) for c in re.findall(r"<t[hd].*?</t[hd]>", r)] for r in (head, *body))
    return [dict(zip(names, row, strict=True)) for row in rows]


def facts(text: str, term: str) -> list[str]:
    found = re.search(rf"<dt>{term}</dt>((?:<dd>.*?</dd>)+)", text)
    assert found, term
    return re.findall(r"<dd>(.*?)</dd>", found[1])


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
    for title in ("Leaderboard", "Margin after each attack", "Distributions over seeds", "Provenance"):
        assert f">{title}</h2>" in text
    assert "seed 1: success 20.0%, accuracy 95.0%" in text
    for picture in Elements(text).of("svg"):
        assert picture["role"] == "img" and len(picture["aria-label"]) > 20
    assert text.count("<figure") == text.count("The numbers: ") + 1, "worst cases stand above their table"


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


def test_the_page_begins_with_the_conclusion_and_a_bar_for_each_scheme() -> None:
    rows = [cell(name, seed=s, surrogate_trigger_matches=m + s) for name, m in (("a", 80), ("b", 3)) for s in range(8)]
    rows += [cell("a", "pruning", s, family="removal", access="white-box") for s in range(8)]
    text = page(*rows)
    (lead,) = re.findall(r'<p class="lead">(.*?)</p>', text)
    assert lead.startswith("d: Against") and "a keeps" in lead
    assert text.index(lead) < text.index("<svg") < text.index('class="heat"') < text.index("d: worst case in each")
    picture = text.partition("<svg")[2].partition("</svg>")[0]
    assert picture.count('class="bar s0"') == 3, "two schemes and the legend"
    assert picture.count('class="bar s1"') == 2 and picture.count('class="whisker"') == 3
    assert re.search(r"Worst-case margins on d\. a: black box 83, \d+ to 100, white box 8", picture)
    few = page(*rows[:3]).partition("<svg")[2].partition("</svg>")[0]
    assert 'class="whisker"' not in few and 'class="dot void' in few, "dots below five seeds"


def test_the_overview_and_the_tables_behind_it() -> None:
    strong, weak = (
        [cell(name, seed=s, surrogate_trigger_matches=m) for s in range(6)] for name, m in (("a", 90), ("b", 30))
    )
    text = page(*strong, *weak)
    first, second = grid(text, "d")
    assert (first["scheme"], first["black box: rank"], first["attacks survived"]) == ("a", "1", "1 of 1")
    assert (second["scheme"], second["black box: rank"], second["victims marked"]) == ("b", "2", "6 of 6")
    rows = {row["scheme"]: row for row in grid(text, "d: margin after each attack")}
    assert (rows["a"]["n"], rows["a"]["useful"], rows["a"]["verdict"]) == ("6", "6", "survived")
    assert next(row["margin"] for row in grid(text, "d: worst case in each threat model")).startswith("89.8")
    assert re.findall(r'<td class="(h\d)"[^>]*>(.*?)</td>', text) == [("h8", "90 ✓"), ("h2", "29 ✓")]


def test_a_scheme_that_costs_too_much_stands_under_the_line_with_the_reason() -> None:
    rows = [
        cell(name, seed=s, victim_accuracy=a, surrogate_trigger_matches=m + s) for name, a, m in GATED for s in range(6)
    ]
    text = page(*rows)
    line = re.search(r'<tr class="line first"><td class="name">(\w+)</td><td colspan="\d+">(.*?)</td>', text)
    assert line and line[1] == "costly" and line[2].startswith("no rank: costs 7.0 points")
    assert "costly (no rank)" in text


GATED = (("a", 0.97, 80), ("b", 0.97, 20), ("costly", 0.90, 90))


@pytest.mark.parametrize(("test", "name"), [("welch", "Welch"), ("boschloo", "Boschloo"), ("fisher", "Fisher")])
def test_the_test_in_force_is_named(test: Any, name: str) -> None:
    text = page(cell(), rules=Rules(test=test))
    assert f"{name}&#39;s" in text and "assumes that all unmarked models answer alike" in text


def test_without_unmarked_models_the_page_says_that_nothing_is_called_marked() -> None:
    alone = cell(null_trigger_matches=None, null_trigger_trials=None, nulls=0)
    said = "no unmarked models to compare with, so none is called marked"
    assert said in page(alone, nulls=0) and said not in page(cell())
    assert "needs 19, so no model is called so" in page(cell(), nulls=5)


def test_a_budget_is_a_column_and_an_assumed_false_rate_is_named() -> None:
    # Marked with 20 queries where the rate of matches is at least that of the limit.
    text = page(cell(), cell("b", surrogate_trigger_matches=4), rules=Rules("binomial", fpr=0.015, budget=20))
    rows = {row["scheme"]: row for row in grid(text, "queries to verify")}
    assert rows["a"]["within 20"] == "100.0" and float(rows["b"]["within 20"]) < 60
    assert "an assumed false rate of 1.50%" in text
    assert "within" not in grid(page(cell()), "queries to verify")[0]


def test_queries_to_verify_may_be_none_at_all() -> None:
    gone = cell("gone", surrogate_trigger_matches=2)
    rows = {row["scheme"]: row for row in grid(page(cell(), gone), "queries to verify")}
    assert 1 < float(rows["a"]["queries"]) < 30 and rows["gone"]["queries"] == "never"
    assert rows["a"]["compared with"] == "19 + 19"


def test_the_front_is_of_means_that_count_and_of_attacks_that_make_another_model() -> None:
    text = page(
        cell(),
        cell(seed=1, surrogate_accuracy=0.5, surrogate_trigger_matches=0),  # void
        cell(attack="worse", surrogate_trigger_matches=90, surrogate_accuracy=0.94),
        cell(attack="void", surrogate_trigger_matches=0, surrogate_accuracy=0.1),
        cell(attack="hides", family="evasion", surrogate_trigger_matches=0),
    )
    rows = {row["attack"]: row for row in grid(text, "a on d")}
    assert {attack: row["on the line"] for attack, row in rows.items()} == {
        **{"retraining": "yes", "worse": "-", "hides": "-"}
    }
    assert (rows["retraining"]["accuracy (%)"], rows["retraining"]["success (%)"]) == ("95.0", "80.0")
    figure = text[text.index('id="frontier"') :].partition("</svg>")[0]
    assert (
        figure.count('class="dot void') == 2 and figure.count('class="dot ') == 5 and figure.count('class="mark"') == 3
    )


def test_an_axis_of_accuracies_is_as_long_as_what_counts_and_has_round_ticks() -> None:
    figure = page(cell(), cell(seed=1, surrogate_accuracy=0.1)).partition('id="frontier"')[2].partition("</svg>")[0]
    assert [re.search(rf">{tick}<", figure) is not None for tick in (90, 92, 100, 10)] == [True, True, True, False]


def test_numbers_that_would_stand_on_each_other_stand_side_by_side() -> None:
    marks = [(50.0, 50.0, "1"), (51.0, 50.0, "2"), (10.0, 10.0, "3"), (99.0, 90.0, "4"), (92.0, 90.0, "5")]
    drawn = chart([Series("a", marks=marks)], Axis("x"), Axis("y"), "what it shows", legend=False)
    assert re.findall(r'class="number"[^>]*>([^<]*)<', drawn) == ["1, 2", "3", "4, 5"]


def test_the_hypervolume_is_with_the_costs_and_with_the_front() -> None:
    # Of 5 points of accuracy below the victim's 96% 1 is lost, and a fifth of the mark: 0.8 by 0.2.
    text = page(cell(), cell(seed=1))
    assert grid(text, "cost of the mark")[0]["hypervolume"] == "16.0 ± 0.0"
    assert "a on d: hypervolume 16.0 ± 0.0" in text


def test_useless_models_leave_hollow_dots_and_no_line() -> None:
    figure = page(cell(surrogate_accuracy=0.1)).partition('id="frontier"')[2].partition("</svg>")[0]
    assert 'class="dot void' in figure and "polyline" not in figure and "none useful" in figure


def test_detectors_make_no_picture_of_a_mark_that_nobody_attacked() -> None:
    assert ">Distributions over seeds<" not in page(cell(attack="neural-cleanse", family="detection"))


def test_series_differ_in_shape_as_in_colour() -> None:
    text = page(*(cell(f"scheme {i}") for i in range(8)))
    figure = text.partition('id="queries"')[2].partition("</svg>")[0]
    shapes = {(look, re.sub(r"^M\S+ [\d.]+", "", path)) for look, path in re.findall(r'"dot s(\d)" d="(.*?)"', figure)}
    assert len(shapes) == 8 == len({shape for _, shape in shapes})


def test_long_names_fold_where_an_option_begins_and_none_is_lost() -> None:
    name = "ewe[variant=official,weight=16.0,temperature=3.333,order=shuffled,ratio=2.0]"
    first, second = folded(name, LETTERS)
    assert first + second == name and first.endswith(",") and len(first) <= LETTERS
    assert folded("ewe", LETTERS) == ["ewe"] and folded("", LETTERS) == [""]
    cut = folded("x" * 1000, LETTERS)
    assert len(cut) == 3 and max(map(len, cut)) <= LETTERS and cut[-1].endswith("…")


def test_docstrings_run_on_keep_their_lists_and_show_code() -> None:
    rows = [{"run": "r", **cell("ewe")}]
    tables = frame(CELLS, rows), frame(EVIDENCE, list(asked(rows))), frame(DETECTIONS, []), frame(STAGES, [])
    results = Results(*tables, Rules())
    text = render(results, About("r", "harness report", "now", "0"), load_registry())
    said = text.partition("in the leaderboard</span>")[0].rpartition('<p class="doc">')[2]
    assert "\n- <code>paper</code>: Algorithm 1" in said and not re.search(r"\w,?\n\s*\w", said)
    assert text.count("Entangles triggers") == 1


def stage(**changes: Any) -> dict[str, Any]:
    return {"run": "r", "stage": "s", "action": "embed", "dataset": "d", "plugin": "a", "seconds": 1.0} | changes


def test_checksums_of_the_data_are_told_where_they_were_recorded() -> None:
    old = frame(STAGES, [stage(), stage(stage="t")]).drop(columns="data_checksum", errors="ignore")
    assert facts(page(cell(), stages=old), "Data and their checksums") == ["d: not recorded"]
    new = old.assign(data_checksum=["sha256:<b>", None])
    text = page(cell(), cell(dataset="e"), stages=new)
    assert facts(text, "Data and their checksums") == ["d: sha256:&lt;b&gt;", "e: not recorded"]
    twice = page(cell(), stages=old.assign(data_checksum=["two", "one"]))
    assert facts(twice, "Data and their checksums") == ["d: one, two"]


def test_the_page_names_the_commits_that_measured() -> None:
    old = frame(STAGES, [stage(), stage(stage="t"), stage(stage="u")])
    assert facts(page(cell(), stages=old.drop(columns="commit")), "Measured by commit") == ["not recorded"]
    assert facts(page(cell(), stages=old.assign(commit=["<a>", "b+", "b+"])), "Measured by commit") == [
        "&lt;a&gt;",
        "b+",
    ]


def test_what_old_tables_did_not_count_is_not_nothing() -> None:
    (row,) = grid(page(cell(), stages=frame(STAGES, [stage()])), "By action")
    assert (row["stages"], row["median (s)"], row["samples trained"]) == ("1", "1.00", "-")


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
    text = page(searched, found=[{"cell": "a", "suspect": "surrogate", "index": 0, "score": 3.25, "threshold": 2.0}])
    assert ">Detections</h2>" in text and ">3.25<" in text


@pytest.mark.slow
def test_thousands_of_schemes_stay_a_page_and_it_says_what_is_left_out() -> None:
    text = page(*(cell(f"s{i:04}") for i in range(3000)))
    assert len(text) < 4_000_000
    assert "The first 1,000 of 3,000 schemes are shown" in text


def test_the_command_writes_a_file_and_says_where(tmp_path: Path, cli: Cli) -> None:
    write(tmp_path, cell(), cell(seed=1))
    made = tmp_path / "report.html"
    assert cli("report", "--results", tmp_path, code=0).out.strip() == str(made)
    text = made.read_text("utf-8")
    assert_needs_nothing(text)
    assert "Reference: " in text and "harness report --results" in text
    other = tmp_path / "a" / "b.html"
    options = ("--test", "binomial", "--fpr", 0.02, "--confidence", 0.9, "--budget", 7)
    cli("report", "--results", tmp_path, "--output", other, *options, code=0)
    assert not list(tmp_path.rglob("*.partial"))
    text = other.read_text("utf-8")
    assert "an assumed false rate of 2.00%" in text and "p &lt;= 1/10" in text and ">within 7<" in text
    assert re.search(r"harness report --results \S+ --test binomial --confidence 0.9 .*--fpr 0.02 --budget 7<", text)


def test_mistakes_are_one_line(tmp_path: Path, cli: Cli) -> None:
    assert "no results yet" in cli("report", "--results", tmp_path / "none", code=2).err
    assert not (tmp_path / "none").exists()
    Tables(tmp_path).append("cells", "20260101T000000-a", [cell()])
    assert "is a folder" in cli("report", "--results", tmp_path, "--output", tmp_path, code=2).err
    (tmp_path / "file").touch()
    assert "cannot write" in cli("report", "--results", tmp_path, "--output", tmp_path / "file" / "r.html", code=2).err
    for option, value in (("confidence", 2), ("fpr", 1), ("budget", 0)):
        assert option in cli("report", "--results", tmp_path, f"--{option}", value, code=2).err
    (tmp_path / "report.html").symlink_to(tmp_path / "file")
    assert "is a link" in cli("report", "--results", tmp_path, code=2).err


def test_the_report_and_the_figures_draw_the_same_numbers(tmp_path: Path) -> None:
    rows = [
        cell(name, f"pruning[fraction={share}]", seed, surrogate_trigger_matches=round(80 - 70 * share - 9 * seed))
        for name in ("a", "b")
        for share in (0.2, 0.5, 0.9)
        for seed in (0, 1)
    ]
    write(tmp_path, *rows)
    shown = Shown(Tables(tmp_path), Registry().component)
    drawn = collect(shown, ["frontier", "pruning", "success"])
    text = page(*rows)
    front = drawn["frontier"][(drawn["frontier"]["line"] != "") & (drawn["frontier"]["series"] == "a")]
    on_line = [row for row in grid(text, "a on d") if row["on the line"] == "yes"]
    assert {float(row["success (%)"]) for row in on_line} <= {round(value, 1) for value in front["value"]}
    curve = drawn["pruning"].query("series == 'a' and unit.str.startswith('surrogate success')")
    means = {f"{100 * x:.0f}": f"{value:.1f}" for x, value in curve.groupby("x")["value"].mean().items()}
    shares = [row for row in grid(text, "pruning on d") if row["scheme"] == "a" and row["quantity"] == "success (%)"]
    assert {row["pruned (%)"]: row["mean"] for row in shares} == means and len(means) == 3
