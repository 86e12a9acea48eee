"""Two schemes side by side: by hand-made tables whose answers are known."""

from __future__ import annotations

import csv
import io
import json
import math
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from harness.errors import UsageError
from harness.ranking.compare import Compared, Comparison, make_comparison
from harness.ranking.scoring import Rules
from harness.storage.schema import CELLS
from tests.conftest import Cli
from tests.test_leaderboard import cell, write


def compared(*rows: dict[str, Any]) -> Comparison:
    return make_comparison(pd.DataFrame(rows, columns=[c.name for c in CELLS.columns]), "a", "b", Rules())


def row_of(made: Comparison, attack: str, dataset: str = "d") -> Compared:
    (row,) = [row for row in made.rows if (row.attack, row.dataset) == (attack, dataset)]
    return row


def pair(seed: int, difference: int, attack: str = "retraining", **changes: Any) -> list[dict[str, Any]]:
    """Cells of a and b of one seed, of which a keeps so many triggers more."""
    ours = cell("a", attack, seed, **{"surrogate_trigger_matches": 50 + difference, **changes})
    return [ours, cell("b", attack, seed, surrogate_trigger_matches=50)]


def test_a_difference_is_paired_by_seed_and_tested_exactly() -> None:
    row = row_of(compared(*[each for seed in range(6) for each in pair(seed, 10 + seed)]), "retraining")
    assert (row.n, row.quantity, row.left_out, row.more_seeds) == (6, "margin", 0, 0)
    assert (row.difference, row.ours, row.theirs) == pytest.approx((0.125, 0.605, 0.48))
    assert row.sd == pytest.approx(0.01 * math.sqrt(3.5))
    assert row.p_value == pytest.approx(2 / 2**6)
    assert row.low == pytest.approx(0.125 - 2.5706 * row.sd / math.sqrt(6), abs=1e-5)


def test_more_seeds_are_asked_for_where_the_test_cannot_yet_tell() -> None:
    """The interval of three seeds that nearly agree leaves out zero; three seeds' p-value is 0.25 at best."""
    row = row_of(compared(*[each for seed in range(3) for each in pair(seed, 10 + seed)]), "retraining")
    assert row.low > 0 and row.p_value == 0.25 and row.more_seeds == 3


def test_p_values_are_corrected_for_all_rows() -> None:
    made = compared(*[each for seed in range(6) for each in pair(seed, 10 + seed)])
    cost, row = row_of(made, ""), row_of(made, "retraining")
    assert (cost.quantity, cost.difference, cost.p_value) == ("accuracy cost", 0.0, 1.0)
    assert row.p_adjusted == pytest.approx(2 * row.p_value)


def test_seeds_of_one_scheme_alone_are_left_out_and_counted() -> None:
    made = compared(*pair(0, 10), *pair(1, 20), cell("a", seed=2), cell("b", seed=3))
    assert (row_of(made, "retraining").n, row_of(made, "retraining").left_out) == (2, 2)


def test_all_attacks_are_those_that_both_have() -> None:
    """Under pruning a is void: the mean is over retraining alone, of both."""
    rows = [each for s in range(2) for each in (*pair(s, 10), *pair(s, -40, "pruning", surrogate_accuracy=0.1))]
    made = compared(*rows)
    assert row_of(made, "all").difference == pytest.approx(0.10)
    assert row_of(made, "pruning").n == 0 and row_of(made, "pruning").left_out == 4
    assert math.isnan(row_of(made, "pruning").p_value)


def test_evasions_and_no_attack_are_in_no_mean_and_detectors_in_no_row() -> None:
    kinds = (("query-filter", "evasion"), ("none", "none"), ("neural-cleanse", "detection"))
    rows = [{**each, "family": family} for attack, family in kinds for each in pair(0, -40, attack)]
    made = compared(*pair(0, 10), *pair(0, 20, "pruning"), *rows)
    assert row_of(made, "all").difference == pytest.approx(0.15)
    assert [row.attack for row in made.rows] == ["", "all", "retraining", "pruning", "query-filter", "none"]


def test_of_one_seed_nothing_is_tested() -> None:
    row = row_of(compared(*pair(0, 10)), "retraining")
    assert (row.n, row.difference) == (1, pytest.approx(0.1))
    assert all(math.isnan(value) for value in (row.sd, row.low, row.p_value, row.p_adjusted, row.more_seeds))


def test_several_datasets_have_a_row_over_all() -> None:
    made = compared(*pair(0, 10), *[{**each, "dataset": "e"} for each in pair(0, 30)])
    assert row_of(made, "all", "all").difference == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("rows", "said"),
    [([cell("a")], "no dataset in common"), ([cell("a"), cell("b", dataset="e")], "no dataset in common")],
)
def test_schemes_without_a_common_dataset_are_refused(rows: list[dict[str, Any]], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        compared(*rows)


# --- the command ---


def test_every_format_tells_the_same(cli: Cli, tmp_path: Path) -> None:
    write(tmp_path, *[each | {"defense": {"a": "ewe[weight=64]", "b": "[red]b"}[each["defense"]]} for each in SIX])
    chosen = ("compare", "ewe*", "[red]b", "--results", tmp_path)
    made = json.loads(cli(*chosen, "--format", "json", code=0).out)
    assert (made["ours"], made["theirs"]) == ("ewe[weight=64]", "[red]b")
    rows = list(csv.DictReader(io.StringIO(cli(*chosen, "--format", "csv", code=0).out)))
    assert [float(row["difference"]) for row in rows] == [row["difference"] for row in made["rows"]]
    assert "| retraining | 6 | 60.5 | 48.0 | 12.5 ± 1.9 |" in cli(*chosen, "--format", "markdown", code=0).out
    assert "d: ewe[weight=64] less [red]b" in cli(*chosen, code=0).out
    cli(*chosen, "--format", "parquet", "--output", tmp_path / "x", code=0)
    assert pd.read_parquet(tmp_path / "x")["n"].tolist() == [6, 6]


SIX = [each for seed in range(6) for each in pair(seed, 10 + seed)]


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
