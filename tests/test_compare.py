"""Two schemes side by side: by hand-made tables whose answers are known."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from harness.api import PairedComparison
from harness.errors import UsageError
from harness.ranking.compare import Compared, Comparison, make_comparison
from harness.ranking.glossary import COMPARISON
from harness.ranking.paired import COMPARED
from harness.verdicts.rules import Rules
from tests.boards import write
from tests.conftest import Cli
from tests.test_leaderboard import cell
from tests.verdict_tables import World

SILENT = (0,) * 19
"""Nineteen unmarked models that answer nothing: a margin is then the success itself."""
SIX = range(6)


def compared(world: World, rules: Rules | None = None) -> Comparison:
    return make_comparison(*world.tables, "a", "b", rules or Rules())


def row_of(made: Comparison, attack: str, dataset: str = "d") -> Compared:
    (row,) = [row for row in made.rows if (row.attack, row.dataset) == (attack, dataset)]
    return row


def pairs(world: World, differences: Sequence[int], attack: str = "retraining", **changes: Any) -> World:
    """Cells of a and b of so many seeds, of which a keeps so many triggers more than 50; nobody else answers."""
    quiet = {"nulls": SILENT, "attacked": SILENT}
    for seed, difference in enumerate(differences):
        world.cell("a", attack, seed, 50 + difference, **{**quiet, **changes})
        world.cell("b", attack, seed, 50, **quiet)
    return world


def test_a_difference_is_paired_by_seed_and_tested_exactly() -> None:
    row = row_of(compared(pairs(World(), [10 + seed for seed in SIX])), "retraining")
    assert (row.n, row.quantity, row.left_out, row.more_seeds) == (6, "margin", 0, 0)
    assert (row.difference, row.ours, row.theirs) == pytest.approx((0.125, 0.625, 0.5))
    assert row.sd == pytest.approx(0.01 * math.sqrt(3.5))
    assert row.p_value == pytest.approx(2 / 2**6)
    assert row.low == pytest.approx(0.125 - 2.5706 * row.sd / math.sqrt(6), abs=1e-5)


def test_a_margin_is_of_what_unmarked_models_leave() -> None:
    """Of 100 triggers they answer 2, after the attack 10: (80 - 10) / 90 less (55 - 10) / 90."""
    world = World().seeds(SIX, matches=80, attacked=(10,) * 19).seeds(SIX, "b", matches=55, attacked=(10,) * 19)
    row = row_of(compared(world), "retraining")
    assert (row.ours, row.theirs, row.difference) == pytest.approx((70 / 90, 45 / 90, 25 / 90))


def test_more_seeds_are_asked_for_where_the_test_cannot_yet_tell() -> None:
    """The interval of three seeds that nearly agree leaves out zero; three seeds' p-value is 0.25 at best."""
    row = row_of(compared(pairs(World(), [10, 11, 12])), "retraining")
    assert row.low > 0 and row.p_value == 0.25 and row.more_seeds == 3 and not row.told_apart


def test_p_values_are_corrected_for_all_rows() -> None:
    made = compared(pairs(World(), [10 + seed for seed in SIX]))
    cost, row = row_of(made, ""), row_of(made, "retraining")
    assert (cost.quantity, cost.difference, cost.p_value, cost.told_apart) == ("accuracy cost", 0.0, 1.0, False)
    assert row.p_adjusted == pytest.approx(2 * row.p_value)


def test_schemes_are_told_apart_where_the_test_and_the_interval_agree() -> None:
    """Seven seeds of one sign have p = 2 / 2^7; that of two rows is 0.031. Spread by one seed, the interval holds 0."""
    alike = row_of(compared(pairs(World(), [10 + seed for seed in range(7)])), "retraining")
    assert alike.p_adjusted <= 0.05 and alike.low > 0 and alike.told_apart
    spread = row_of(compared(pairs(World(), [1, 1, 1, 1, 1, 1, 40])), "retraining")
    assert spread.p_adjusted <= 0.05 and spread.low < 0 and not spread.told_apart


def test_seeds_of_one_scheme_alone_are_left_out_and_counted() -> None:
    made = compared(pairs(World(), [10, 20]).cell("a", seed=2).cell("b", seed=3))
    assert (row_of(made, "retraining").n, row_of(made, "retraining").left_out) == (2, 2)


def test_a_failed_attack_counts_with_its_victims_own_margin() -> None:
    """Under pruning a's models lose their accuracy, so that its mark is whole there."""
    world = pairs(pairs(World(), [10, 10]), [-40, -40], "pruning", surrogate_accuracy=0.1)
    made = compared(world)
    assert (row_of(made, "pruning").ours, row_of(made, "pruning").n) == (1.0, 2)
    assert row_of(made, "all").difference == pytest.approx((0.1 + 0.5) / 2)


def test_all_attacks_and_worst_cases_are_of_attacks_that_both_have_and_that_are_attacks() -> None:
    """Pruning breaks the unmarked models too: it is no attack, and has a row of its own."""
    broken = {"attacked_accuracy": 0.3}
    world = pairs(World(), [10] * 6)
    for name in "ab":
        world.seeds(SIX, name, "pruning", matches=0, nulls=SILENT, attacked=SILENT, **broken)
    world.seeds(SIX, "a", "fine-tuning", matches=0, nulls=SILENT, attacked=SILENT)
    made = compared(world)
    assert row_of(made, "all").difference == pytest.approx(0.10)
    assert row_of(made, "all").left_out == 18, "pruning of both, fine-tuning of one"
    assert row_of(made, "worst case, black box").difference == pytest.approx(0.10)
    assert row_of(made, "pruning").difference == 0 and row_of(made, "pruning").n == 6
    assert row_of(made, "fine-tuning").n == 0 and math.isnan(row_of(made, "fine-tuning").p_value)


def test_repeating_an_attack_changes_neither_the_worst_case_nor_all_attacks() -> None:
    def made(*settings: str) -> Comparison:
        world = pairs(World(), [10 + seed for seed in SIX])
        for attack in ("pruning", *settings):
            pairs(world, [-5 - seed for seed in SIX], attack)
        return compared(world)

    once, often = made(), made("pruning[fraction=0.2]", "pruning[fraction=0.3]")
    for name in ("all", "worst case, both", "worst case, black box", "worst case, white box"):
        assert row_of(once, name).difference == pytest.approx(row_of(often, name).difference), name
    assert row_of(once, "all").difference == pytest.approx((0.125 - 0.075) / 2)


def test_worst_cases_are_each_schemes_own_within_each_threat_model() -> None:
    """Retraining leaves least of b, pruning least of a."""
    quiet = {"nulls": SILENT, "attacked": SILENT}
    world = World()
    for attack, left in (("retraining", (80, 30)), ("distillation", (70, 60)), ("pruning", (20, 90))):
        family = {"family": "removal" if attack == "pruning" else "extraction"}
        for name, matches in zip("ab", left, strict=True):
            world.seeds(SIX, name, attack, matches=matches, **quiet, **family)
    made = compared(world)
    found = {row.attack: (row.ours, row.theirs) for row in made.rows if row.attack.startswith("worst")}
    assert found == {
        "worst case, black box": pytest.approx((0.7, 0.3)),
        "worst case, white box": pytest.approx((0.2, 0.9)),
        "worst case, both": pytest.approx((0.2, 0.3)),
    }


def test_evasions_and_no_attack_are_in_no_mean_and_detectors_in_no_row() -> None:
    world = pairs(pairs(World(), [10]), [20], "pruning")
    for attack, family in (("query-filter", "evasion"), ("none", "none"), ("neural-cleanse", "detection")):
        for name, matches in (("a", 10), ("b", 50)):
            world.cell(name, attack, 0, matches, family=family, nulls=SILENT, attacked=SILENT)
    made = compared(world)
    assert row_of(made, "all").difference == pytest.approx(0.15)
    worst = [f"worst case, {threat}" for threat in ("black box", "white box", "both")]
    assert [row.attack for row in made.rows] == ["", *worst, "all", "retraining", "pruning", "query-filter", "none"]


def test_tables_of_an_older_version_are_compared_attack_by_attack_or_by_a_pooled_test() -> None:
    """No unmarked model went through an attack."""
    world = World()
    for attack in ("retraining", "pruning"):
        world.seeds(SIX, "a", attack, matches=60, attacked=None).seeds(SIX, "b", attack, matches=50, attacked=None)
    made = compared(world)
    assert row_of(made, "all").n == 0 and row_of(made, "retraining").difference == pytest.approx(0.1 / 0.98)
    pooled = compared(world, Rules(test="binomial"))
    assert row_of(pooled, "all").n == 6 and row_of(pooled, "worst case, both").n == 6


def test_an_assumed_false_rate_takes_the_place_of_the_measured_one() -> None:
    made = compared(pairs(World(), [10] * 2), Rules(test="binomial", fpr=0.5))
    assert (row_of(made, "retraining").ours, row_of(made, "retraining").theirs) == pytest.approx((0.2, 0.0))


def test_of_one_seed_nothing_is_tested() -> None:
    row = row_of(compared(pairs(World(), [10])), "retraining")
    assert (row.n, row.difference, row.told_apart) == (1, pytest.approx(0.1), False)
    assert all(math.isnan(value) for value in (row.sd, row.low, row.p_value, row.p_adjusted, row.more_seeds))


def test_several_datasets_have_a_row_over_all() -> None:
    world, other = pairs(World(), [10]), pairs(World(), [30], dataset="e")
    for each in (*other.cells, *other.evidence):
        each["cell"] += " e"
    for each in other.cells:
        each["dataset"] = "e"
    world.cells += other.cells
    world.evidence += other.evidence
    assert row_of(compared(world), "all", "all").difference == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("first", "second", "said"),
    [
        ("a", "c", "no dataset in common"),
        ("a", "gone", "no dataset in common"),
        ("a", "a", "are one scheme"),
        ("a", "unmarked[recipe=net]", "embeds nothing, so it has no margin: name two schemes"),
    ],
)
def test_what_cannot_be_compared_is_refused(first: str, second: str, said: str) -> None:
    world = World().cell("a").cell("c", dataset="e").cell("unmarked[recipe=net]")
    with pytest.raises(UsageError, match=said.replace("[", "[[]")):
        make_comparison(*world.tables, first, second, Rules())


def test_the_order_of_the_cells_changes_no_digit() -> None:
    dice = np.random.default_rng(5)
    world = World()
    for attack in ("retraining", "pruning"):
        for name in "ab":
            for seed in range(9):
                world.cell(name, attack, seed, int(dice.integers(101)), attacked=tuple(dice.integers(9, size=19)))
    cells, evidence = world.tables
    made = make_comparison(cells, evidence, "a", "b", Rules())
    mixed = cells.sample(frac=1, random_state=0).sort_values("attack", ascending=False, kind="stable")
    assert make_comparison(mixed, evidence, "a", "b", Rules()).as_dict() == made.as_dict()


def test_a_comparison_is_text_and_html_for_notebooks() -> None:
    world = World()
    for name in ("<b>", "ewe"):
        world.seeds(SIX, name, matches=80)
    made = PairedComparison(make_comparison(*world.tables, "<b>", "ewe", Rules()))
    text, page = repr(made), made._repr_html_()
    assert max(map(len, text.splitlines())) <= 100 and "79.6" in text and "\x1b" not in text
    assert "<b>ewe" not in page and "&lt;b&gt;" in page and ">79.6" in page
    assert page.count("<table") == page.count("</table>") and page.count("<tr>") == page.count("</tr>")
    assert list(made.frame["attack"]) == ["", "retraining"] and "told_apart" in made.frame


def test_every_column_and_row_has_a_meaning_that_begins_with_a_noun() -> None:
    for term, meaning in COMPARISON.items():
        first = meaning.split()[0]
        assert (first[0].isupper() or first == "p-value") and meaning.endswith("."), term
        assert first not in {"What", "Who", "Whether", "Which", "Where", "When", "How", "Of", "As", "By", "In", "At"}
    rows = {"(all attacks)", "(accuracy cost)", *(f"(worst case, {t})" for t in ("black box", "white box", "both"))}
    assert {column.name for column in COMPARED} - {"attack"} | rows == set(COMPARISON)


# --- the command ---


def test_every_format_tells_the_same(cli: Cli, tmp_path: Path) -> None:
    write(tmp_path, *[each | {"defense": {"a": "ewe[weight=64]", "b": "[red]b"}[each["defense"]]} for each in TWELVE])
    chosen = ("compare", "ewe*", "[red]b", "--results", tmp_path)
    made = json.loads(cli(*chosen, "--format", "json", code=0).out)
    assert (made["ours"], made["theirs"]) == ("ewe[weight=64]", "[red]b")
    rows = list(csv.DictReader(io.StringIO(cli(*chosen, "--format", "csv", code=0).out)))
    assert [float(row["difference"]) for row in rows] == [row["difference"] for row in made["rows"]]
    # Unmarked models answer 2%: (62.5 - 2) / 98, and (50 - 2) / 98.
    assert "| retraining | 6 | 61.7 | 49.0 | 12.8 ± 1.9 |" in cli(*chosen, "--format", "markdown", code=0).out
    assert "d: ewe[weight=64] less [red]b" in cli(*chosen, code=0).out
    cli(*chosen, "--format", "parquet", "--output", tmp_path / "x", code=0)
    assert pd.read_parquet(tmp_path / "x")["n"].tolist() == [6, 6]


TWELVE = [
    cell(name, seed=seed, surrogate_trigger_matches=50 + (10 + seed) * (name == "a")) for seed in SIX for name in "ab"
]


@pytest.mark.parametrize(
    ("first", "second", "said"),
    [
        ("eve", "adi", "Did you mean 'ewe'?"),
        ("e*", "adi", "'e*' fits 2 schemes: ewe, ewe[weight=64]. Name one of them"),
        ("ewe", "ewe", "are one scheme: name two"),
    ],
)
def test_what_names_no_two_schemes_is_one_line(first: str, second: str, said: str, cli: Cli, tmp_path: Path) -> None:
    write(tmp_path, cell("ewe"), cell("ewe[weight=64]"), cell("adi"))
    (line,) = cli("compare", first, second, "--results", tmp_path, code=2).err.splitlines()
    assert said in line


def test_no_results_is_one_line_that_says_what_to_type(cli: Cli, tmp_path: Path) -> None:
    assert "type harness run" in cli("compare", "a", "b", "--results", tmp_path / "none", code=2).err
