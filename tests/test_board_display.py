"""Displays of a leaderboard: boards made by hand, in every format, at every width."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from harness.ranking import views
from harness.ranking.glossary import BOARD, fraction
from harness.ranking.latex import latex
from harness.ranking.layout import folded, shortened
from harness.ranking.overview import FINGERPRINTS, overview_sheet
from harness.ranking.render import flat_columns, flat_rows, html, markdown, text
from harness.ranking.views import BY, VIEWS, details_sheet
from harness.verdicts.board import Scheme
from harness.verdicts.rules import Rules, TestName
from tests.boards import (
    CONCLUSION,
    LONG,
    PRUNED,
    WORST,
    attacked,
    board,
    estimate,
    forged,
    scheme,
    setting,
    standings,
    ten,
)

GOLDEN = """\
digits: Against both kinds of thief, ewe keeps some of its mark (margin 38%); the other keeps less.
Compared with 39 unmarked models of the same data, net and recipe. Of 100 models without a mark
about 5 are called marked (p <= 1/20).
A demonstration: 300 test images give the 5-point rule of useful models a standard error of 1.3.

                      black box      white box      attacks      cost
scheme              #  margin (%)  #   margin (%)  survived  (points)  victims marked
────────────────────────────────────────────────────────────────────────────────────────────────
ewe                 1 38 [18, 58]  1 88 [68, 100]    3 of 4       0.4  10 of 10, but not by whom
adi                 2 2 [-18, 22]  1 95 [75, 100]    2 of 4     1.5 ?  10 of 10
────────────────────────────────────────────────────────────────────────────────────────────────
corner              no rank: costs 3.1 points of accuracy, more than 2
────────────────────────────────────────────────────────────────────────────────────────────────
unmarked (control)  - 0 [-20, 20]  -  1 [-19, 21]    0 of 4       0.0  1 of 10
Margin: what the worst attack leaves of the mark [95% interval]; 100 is whole, 0 is chance.
?: the limit of 2 points may be exceeded. "Not by whom": other owners' models are marked as often.
digits: forged keys convict up to 1 of 20 unmarked models by rank, 19 of 20 by a fixed false rate.
More: harness leaderboard --details (all tables) and --explain (what the words mean)."""


def test_the_overview_of_a_small_board() -> None:
    assert text(overview_sheet(board()), 100) == GOLDEN


def test_of_one_model_the_board_counts_the_attacks_after_which_it_is_marked() -> None:
    one = scheme("external", seeds=1, standings=standings((0.3, 0.9), (None, None), n=1, survives=0, marked=3))
    shown = " ".join(text(overview_sheet(board(one)), 140).split())
    assert "survived" not in shown and "3 of 4" in shown and "marked after" in shown
    assert "One seed is one model: five are the fewest of which one can say that a mark survives." in shown
    shown = text(overview_sheet(board(scheme("ewe", standings=standings((0.3, 0.9), (1, 1), marked=2)))), 100)
    assert "3 of 4" in shown and "One seed" not in shown


def test_fingerprints_have_a_section_of_their_own() -> None:
    made = board(*board().schemes, scheme("akh", fingerprint=True), scheme("ipguard", fingerprint=True))
    shown = text(overview_sheet(made), 100)
    schemes, fingerprints = shown.split(FINGERPRINTS)
    assert "unmarked (control)" in schemes and "akh" not in schemes
    assert "akh" in fingerprints and "ewe" not in fingerprints.replace("harness leaderboard", "")
    alone = text(overview_sheet(board(scheme("akh", fingerprint=True))), 100)
    assert alone.count("akh") == 1 and FINGERPRINTS in alone and alone.startswith("digits: ")
    assert html(overview_sheet(made)).count("<table") == 2


def test_where_no_key_was_forged_nothing_is_said_of_forgeries() -> None:
    assert text(overview_sheet(board(forgeries=())), 100) == "\n".join(
        line for line in GOLDEN.splitlines() if "forged" not in line
    )
    unknown = dataclasses.replace(forged(), innocent=None, innocent_alone=None)
    assert "forged" not in text(overview_sheet(board(forgeries=(unknown,))), 100)


def test_ten_schemes_of_long_names_fit_100_columns_and_25_lines() -> None:
    lines = text(overview_sheet(ten()), 100).splitlines()
    assert len([line for line in lines if "forged keys" not in line]) <= 25 and max(map(len, lines)) <= 100
    rows = [line for line in lines if line.startswith("ewe")]
    assert len(rows) == 7 and len({row.split()[0] for row in rows}) == 7, "each can be told from the others"
    assert lines[0].startswith(f"digits: {CONCLUSION[:80]}"), "what may be concluded comes first"


@pytest.mark.parametrize("width", [60, 80, 90, 100])
def test_no_number_is_broken_where_a_terminal_is_narrow(width: int) -> None:
    lines = text(overview_sheet(ten()), width).splitlines()
    assert max(map(len, lines)) <= width
    for number in ("-10 [-30, 10]", "100 [80, 100]", "-1.8 ?", "10 of 10, but not by whom", "3 of 4"):
        assert any(number in line for line in lines), number


@pytest.mark.parametrize("width", [80, 100, 160])
def test_details_fit_too_and_hold_what_the_overview_sums_up(width: int) -> None:
    shown = text(details_sheet(board(rules=Rules(budget=30))), width)
    assert max(map(len, shown.splitlines())) <= width
    flat = " ".join(shown.split())
    assert flat.startswith(f"digits: {CONCLUSION}")
    for words in (
        "knows the key",
        "other owners",
        "never",
        "39 + 37",
        "18.0 to 58.0",
        "··▁·····▄▄",
        "survived",
        "within",
    ):
        assert words in flat, words
    assert "Part of the mark" not in flat and "Part of the mark" in text(details_sheet(board(), explain=True), width)


def test_what_is_known_of_no_scheme_has_no_column() -> None:
    black = {"black box": standings((0.3, 0.4), (1, 1))["black box"]}
    shown = text(overview_sheet(board(scheme("ewe", standings=black), scheme("adi", standings=black))), 100)
    assert "black box" in shown and "white box" not in shown and "control" not in shown


def test_without_ranks_there_is_no_rank_column() -> None:
    few = {"standings": standings((0.3, 0.4), (None, None), n=3), "no_rank": "needs 6 seeds, has 3"}
    gone = {"standings": standings((0, 0), (None, None)), "gate": "fails", "no_rank": "costs 9.0 points"}
    made = board(scheme("ewe", **few), scheme("adi", useless_key=True, **few), scheme("gone", **gone))
    shown = text(overview_sheet(made), 100)
    assert "#" not in shown and "30 [..]" in shown and "10 of 10, key proves nothing" in shown
    assert re.search(r"^gone +no rank: costs 9.0 points$", shown, re.MULTILINE)
    assert "[..]: fewer than five seeds." in shown


@pytest.mark.parametrize(
    ("rules", "models", "words"),
    [
        (Rules(), 0, "no unmarked models to compare with, so none is called marked: harness run --nulls 19"),
        (Rules(), 11, "Marked (p <= 1/20) needs 19, so no model is called so"),
        (Rules(confidence=0.99), 99, "about 1 are called marked (p <= 1/100)"),
        (Rules("beta-binomial"), 5, "marked (p <= 1/20) if rates follow a beta law"),
        (Rules("fisher"), 39, "assumes that all unmarked models answer alike"),
        (Rules("binomial", fpr=0.01), 39, "an assumed false rate of 1.00%"),
    ],
)
def test_the_comparison_is_named_by_its_test(rules: Rules, models: int, words: str) -> None:
    shown = " ".join(text(overview_sheet(board(rules=rules, settings=[setting(models=models)])), 100).split())
    assert words in shown and "verified" not in shown


def test_other_levels_and_limits_are_in_the_words() -> None:
    rules = Rules(confidence=0.9, max_cost=0.01, max_drop=0.03)
    shown = " ".join(text(overview_sheet(board(rules=rules), explain=True), 100).split())
    for words in ("[90% interval]", "p <= 1/10", "limit of 1 points", "3-point rule"):
        assert words in shown, words
    assert [fraction(alpha) for alpha in (0.05, 1 - 0.95, 0.01, 0.03)] == ["1/20", "1/20", "1/100", "0.03"]


def test_every_format_tells_the_same() -> None:
    sheet = overview_sheet(board())
    page, tex, prose = html(sheet), latex(sheet), markdown(sheet)
    for shown in (page, prose):
        assert "10 of 10, but not by whom" in shown and "38 [18, 58]" in shown
        assert shown.index(CONCLUSION) < shown.index("38 [18, 58]")
    assert page.count("<tr>") == page.count("</tr>") == 5 and 'colspan="7"' in page
    rows = [line for line in prose.splitlines() if line.startswith("| ")]
    assert len({row.count("|") for row in rows}) == 1 and "black box: rank" in rows[0]
    assert tex.count(r"\midrule") == 3 and r"\multicolumn{7}{l}" in tex and "no rank: costs" in tex


def test_a_board_is_json_of_plain_values_and_rows_for_programs() -> None:
    made = board()
    found = json.loads(json.dumps(made.as_dict(), allow_nan=False))
    assert found["schemes"][0]["standings"]["black box"]["worst"]["mean"] == pytest.approx(0.38)
    (row, *_), columns = flat_rows(made.schemes), flat_columns(Scheme)
    assert list(row) == columns and row["white_box_worst_mean"] == 0.88 and row["victims_count"] == 10
    assert row["both_worst_attacks"] == "retraining | pruning[fraction=0.4]" and row["raw_cost_mean"] is None


@pytest.mark.parametrize("view", [*VIEWS, *(view for part in BY.values() for view in part)], ids=lambda view: view.name)
def test_every_view_has_rows_for_programs_and_for_people(view: views.View[Any]) -> None:
    table = view.table(board(), "digits")
    assert table.records and flat_columns(view.of)
    assert all(len(row) == len(table.columns) for row in table.rows())


def test_every_term_begins_with_a_noun_and_every_column_of_numbers_has_one() -> None:
    for term, meaning in BOARD.items():
        first = meaning.split()[0]
        assert (first[0].isupper() or first == "1") and meaning.endswith("."), term
        assert first not in {"What", "Who", "Whether", "Which", "Where", "When", "How", "Of", "As", "By", "In", "At"}
    columns = [column for view in (*VIEWS, *BY["family"]) for column in view.columns]
    boards = (board(), board(scheme("external", seeds=1)))
    columns += [column for made in boards for table in overview_sheet(made).tables for column in table.columns]
    assert {column.term or column.name for column in columns} - {"scheme", "attack", "family"} == set(BOARD)


NASTY = "[red]a[/red]<script>x</script>|[b](http://c)\x1b[31m\u202e"


def test_untrusted_names_are_text_in_every_format() -> None:
    named = scheme(NASTY, no_rank=NASTY, standings=standings((0.1, 0.2), (None, None)), gate="fails")
    made = board(scheme(NASTY), named, settings=[setting(conclusion=NASTY)], machines=[NASTY])
    for sheet in (overview_sheet(made, explain=True), details_sheet(made)):
        shown, page, prose = text(sheet, 100), html(sheet), markdown(sheet)
        assert "\x1b" not in shown and "\u202e" not in shown and "[red]a[/red]<script>" in shown
        assert "<script" not in page and "<script" not in prose and "](" not in prose
        assert latex(sheet).isascii()


@pytest.mark.parametrize("count", [0, 1, 60])
def test_any_number_of_schemes_is_a_page(count: int) -> None:
    made = board(*(scheme(f"s{k:02}") for k in range(count))) if count else board()
    made = made if count else type(made)(Rules(), [setting()], [], [], [], [], [], [])
    shown = text(overview_sheet(made), 100)
    assert shown.startswith(f"digits: {CONCLUSION}") and len(re.findall(r"^s\d\d ", shown, re.MULTILINE)) == count
    assert text(details_sheet(made), 100)


def test_numbers_that_are_not_known_are_dashes() -> None:
    nothing = {"threat": None, "n": 0, "useful": 0, "success": None, "held_out": None, "accuracy": None, "margin": None}
    nothing |= {"false_rate": math.nan, "marked": None, "queries": math.nan, "at_budget": math.nan, "survival": ""}
    bare = {"victims": scheme().victims.__class__(0, 0, math.nan, math.nan), "victim_margin": None, "cost": None}
    bare |= {"false_rate": None, "embed_seconds": None, "standings": {}, "no_rank": ""}
    made = board(scheme("ewe", **bare), attacks=[attacked(**nothing)], innocents=[], evasions=[], detections=[])
    for shown in (text(overview_sheet(made), 100), text(details_sheet(made), 160), markdown(details_sheet(made))):
        assert not re.search(r"\bnan\b|\bNone\b", shown), shown
    wild = board(scheme("ewe", cost=estimate(math.nan), standings=standings((math.nan, math.inf), (1, None))))
    assert not re.search(r"\bnan\b|\binf\b", text(overview_sheet(wild), 100))


def test_a_board_says_what_the_worst_attack_costs_the_thief() -> None:
    worst = views.WORST.table(board(), "digits")
    told = dict(zip((column.header for column in worst.columns), worst.rows()[0], strict=True))
    assert told["worst attack"] == WORST and {each.threat for each in worst.records} == {"black box", "white box"}
    assert told["accuracy lost (points)"].startswith("1.2 ±") and told["queries asked"] == "640"


@pytest.mark.parametrize("by", BY)
def test_a_view_by_one_thing_stands_alone(by: str) -> None:
    shown = text(details_sheet(board(), by), 160)
    titles = re.findall(r"^digits: (.*)$", shown, re.MULTILINE)
    assert titles == [CONCLUSION, *(view.title for view in BY[by])]


def test_two_data_sets_have_a_table_each_under_their_own_sentence() -> None:
    other = scheme("adi", dataset="speech")
    made = board(scheme(), other, settings=[setting(), setting(dataset="speech", conclusion="Nothing may be said.")])
    lines = text(overview_sheet(made), 100).splitlines()
    assert lines[0] == f"digits: {CONCLUSION}" and "speech: Nothing may be said." in lines
    assert sum("victims marked" in line for line in lines) == 2


names = st.text(st.characters(min_codepoint=32, max_codepoint=0x2FFF), max_size=60)


@given(st.lists(names, max_size=6), st.integers(4, 40))
def test_shortened_names_can_be_told_apart(given_names: list[str], width: int) -> None:
    made = shortened(given_names, width)
    assert len(set(made)) == len(set(given_names)) and len(made) == len(given_names)
    assert all(new == old or cell_len(new) <= width for old, new in zip(given_names, made, strict=True))


@given(names, st.integers(2, 40))
def test_folded_names_lose_nothing_but_spaces(name: str, width: int) -> None:
    lines = folded(name, width)
    assert "".join("".join(lines).split()) == "".join(name.split())
    assert all(cell_len(line) <= width for line in lines)


def test_names_are_shortened_to_the_options_that_tell_them_apart() -> None:
    assert shortened([LONG.format(1), LONG.format(2), "adi"], 20) == ["ewe[factor=1,…]", "ewe[factor=2,…]", "adi"]
    assert shortened(["a" * 30], 10) == ["aaaaaa…aaa"]
    assert shortened([LONG.format(1), PRUNED], 20)[0] == "ewe[variant=o…t=256]"
    alike = ["a" * 20 + middle + "b" * 20 for middle in "xy"]
    assert shortened(alike, 10) == alike


def test_pooled_tests_say_so_in_the_meaning_of_marked() -> None:
    test: TestName
    for test, words in (("rank", "rank among the unmarked models"), ("t", "assumes that they answer alike")):
        assert words in dict(details_sheet(board(rules=Rules(test)), explain=True).terms)["marked"]
