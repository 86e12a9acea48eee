"""From counts to a ranking: by hand-made tables whose answers are known."""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binom

from harness.errors import UsageError
from harness.ranking.columns import COMPARED, VIEWS
from harness.ranking.compare import make_comparison
from harness.ranking.glossary import MEANINGS
from harness.ranking.leaderboard import MAX_COMPARED, Board, make_board
from harness.ranking.render import board_html, board_text, comparison_html, comparison_text
from harness.ranking.scoring import Rules, TestName, chances_within, kind_of, score
from harness.ranking.values import bars
from harness.statistics.intervals import clopper_pearson_upper
from harness.statistics.power import queries_for_confidence, queries_for_power
from harness.statistics.sequential import Sprt
from harness.storage.schema import CELLS, DETECTIONS, STAGES
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


def board(*rows: dict[str, Any], found: Sequence[dict[str, Any]] = (), rules: Rules | None = None) -> Board:
    frame = pd.DataFrame(rows, columns=[c.name for c in CELLS.columns])
    detections = pd.DataFrame(found, columns=[c.name for c in DETECTIONS.columns])
    return make_board(frame, detections, pd.DataFrame(columns=[c.name for c in STAGES.columns]), rules or Rules())


def detection(cell: str, suspect: str, index: int, score: float, **changes: Any) -> dict[str, Any]:
    row = {"cell": cell, "suspect": suspect, "index": index, "score": score, "threshold": 2.0}
    return row | {"target_hit": None, "mask_overlap": None, "window_rank": None} | changes


def test_a_detection_is_ranked_among_null_models_and_leaves_the_margin_alone() -> None:
    searched = [
        cell(cell=name, attack="neural-cleanse", family="detection", seed=seed) for seed, name in enumerate("ab")
    ]
    found = [
        detection("a", "surrogate", 0, 3.0, target_hit=True, window_rank=0.1),
        detection("b", "surrogate", 0, 1.0, target_hit=None, window_rank=0.5),
        *(detection(name, "null", index, score) for name in "ab" for index, score in enumerate((0.5, 2.5, 1.5))),
    ]
    made = board(cell(seed=0), *searched, found=found)
    (scheme,), (attacked,), (detected,) = made.schemes, made.attacks, made.detections
    assert attacked.attack != "neural-cleanse" and scheme.margin is not None and scheme.margin.n == 1
    assert detected.score is not None and detected.score.mean == 2.0 and detected.score.n == 2
    assert detected.null_score is not None and (detected.null_score.n, detected.null_score.mean) == (3, 1.5)
    assert (detected.flagged, detected.null_flagged, detected.target_hit) == (0.5, pytest.approx(1 / 3), 0.5)
    assert detected.rank_p == pytest.approx((1 / 4 + 3 / 4) / 2) and detected.window_rank == pytest.approx(0.3)


def test_a_detection_in_a_model_without_accuracy_is_void() -> None:
    row = cell(cell="a", attack="jsma", family="detection", surrogate_accuracy=0.1)
    (detected,) = board(row, found=[detection("a", "surrogate", 0, 9.0)]).detections
    assert detected.score is None and detected.void == 1 and math.isnan(detected.rank_p)


def test_a_margin_is_success_less_the_false_rate_over_seeds() -> None:
    made = board(cell(seed=0), cell(seed=1, surrogate_trigger_matches=60))
    (scheme,) = made.schemes
    assert scheme.rank == 1 and scheme.seeds == 2
    assert scheme.margin is not None
    assert scheme.margin.mean == pytest.approx((0.78 + 0.58) / 2)
    assert scheme.margin.sd == pytest.approx(0.2 / math.sqrt(2))
    assert scheme.verified == 1.0
    (attacked,) = made.attacks
    assert attacked.success is not None and attacked.success.mean == pytest.approx(0.7)
    assert attacked.held_out is not None and attacked.held_out.mean == pytest.approx(0.7)


def test_a_distribution_shows_two_clusters_where_the_mean_is_neither() -> None:
    matches = (0, 4, 9, 100, 95, 99, 90)
    (attacked,) = board(*(cell(seed=s, surrogate_trigger_matches=m) for s, m in enumerate(matches))).attacks
    assert attacked.distribution == (3, 0, 0, 0, 0, 0, 0, 0, 0, 4)
    assert bars(attacked.distribution) == "▄········▅" and bars((0,) * 10) == "-" and bars((1, 0)) == "█·"
    assert board(cell(surrogate_accuracy=0.1)).attacks[0].distribution == (0,) * 10


def test_each_seed_weighs_the_same_however_many_attacks_it_has() -> None:
    made = board(
        cell(seed=0, attack="x", surrogate_trigger_matches=100),
        cell(seed=0, attack="y", surrogate_trigger_matches=50),
        cell(seed=1, attack="x", surrogate_trigger_matches=0),
    )
    assert made.schemes[0].margin is not None
    assert made.schemes[0].margin.mean == pytest.approx(((0.98 + 0.48) / 2 + (0.0 - 0.02)) / 2)


def test_success_below_the_accuracy_floor_is_void_and_counted() -> None:
    collapsed = cell(attack="pruning", surrogate_accuracy=0.10, surrogate_trigger_matches=100)
    made = board(cell(), collapsed)
    (scheme,) = made.schemes
    assert scheme.void == 1
    assert scheme.margin is not None and scheme.margin.mean == pytest.approx(0.78)
    void = next(a for a in made.attacks if a.attack == "pruning")
    assert void.success is None and void.void == 1 and void.accuracy is not None
    assert board(collapsed, rules=Rules(max_drop=0.9)).schemes[0].void == 0


def test_a_victim_below_the_floor_voids_its_cells() -> None:
    assert board(cell(victim_accuracy=0.5)).schemes[0].void == 1


def test_the_floor_is_the_null_accuracy_less_the_drop() -> None:
    just_above, just_below = cell(surrogate_accuracy=0.871), cell(surrogate_accuracy=0.869)
    assert board(just_above).schemes[0].void == 0
    assert board(just_below).schemes[0].void == 1


def test_failed_and_skipped_cells_are_counted_and_never_averaged() -> None:
    nothing = dict.fromkeys(
        [name for name in cell() if name.endswith(("matches", "trials", "accuracy", "seconds"))], None
    )
    made = board(
        cell(seed=0),
        cell(seed=1, status="failed", reason="broke", **nothing),
        cell(seed=2, status="skipped", reason="cannot", **nothing),
    )
    (scheme,) = made.schemes
    assert (scheme.failed, scheme.skipped, scheme.seeds) == (1, 1, 3)
    assert scheme.margin is not None and scheme.margin.n == 1


def test_schemes_are_ranked_by_margin_and_those_without_come_last() -> None:
    weak, strong = ([cell(name, seed=s, surrogate_trigger_matches=m + s) for s in range(6)] for name, m in FAR)
    made = board(*weak, *strong, cell("gone", status="failed", surrogate_trigger_matches=None))
    assert [(s.defense, s.rank) for s in made.schemes] == [("strong", 1), ("weak", 2), ("gone", None)]


FAR = (("weak", 10), ("strong", 90))


def test_schemes_that_cannot_be_told_apart_share_a_rank() -> None:
    few = [cell(name, seed=s, surrogate_trigger_matches=m) for name, m in FAR for s in range(5)]
    assert [s.rank for s in board(*few).schemes] == [1, 1], "five seeds are too few, however far apart"
    alike = [cell(d, seed=s, surrogate_trigger_matches=m) for s in range(8) for d, m in (("x", 50 + s), ("y", 57 - s))]
    worse = [cell("z", seed=s, surrogate_trigger_matches=20) for s in range(8)]
    assert [(s.defense, s.rank) for s in board(*worse, *alike).schemes] == [("x", 1), ("y", 1), ("z", 3)]


def test_ranks_compare_only_what_both_schemes_have() -> None:
    """y is void under the attack that x does worst at: its mean is higher, and yet x is better where both count."""
    rows = [cell("x", attack, seed, surrogate_trigger_matches=m) for seed in range(6) for attack, m in HARD]
    rows += [cell("y", "easy", seed, surrogate_trigger_matches=80) for seed in range(6)]
    rows += [cell("y", "hard", seed, surrogate_accuracy=0.1) for seed in range(6)]
    first, second = board(*rows).schemes
    assert (first.defense, first.rank, second.defense, second.rank, second.void) == ("x", 1, "y", 2, 6)
    assert first.margin is not None and second.margin is not None and first.margin.mean < second.margin.mean


HARD = (("easy", 90), ("hard", 10))


def test_more_schemes_than_can_be_compared_are_ranked_by_margin() -> None:
    rows = [cell(f"s{k}", surrogate_trigger_matches=k) for k in range(MAX_COMPARED + 1)]
    assert [s.rank for s in board(*rows).schemes] == list(range(1, MAX_COMPARED + 2))


def test_evasions_are_in_no_margin_but_their_own() -> None:
    hidden = cell(attack="query-filter", family="evasion", surrogate_trigger_matches=2)
    chained = cell(attack="retraining | query-filter", family="extraction+evasion", surrogate_trigger_matches=12)
    made = board(cell(), hidden, chained)
    (scheme,) = made.schemes
    assert scheme.margin is not None and scheme.margin.mean == pytest.approx(0.78)
    assert scheme.evasion is not None and scheme.evasion.mean == pytest.approx(0.05)
    assert (scheme.worst_attack, scheme.verified) == ("retraining", 1.0)
    assert scheme.worst is not None and scheme.worst.mean == 0.8
    assert [(f.family, f.attacks, f.margin and round(f.margin.mean, 2)) for f in made.families] == [
        ("extraction", 1, 0.78),
        ("evasion", 1, 0.0),
        ("extraction+evasion", 1, 0.1),
    ]


@pytest.mark.parametrize(
    ("family", "kind"),
    [
        *(("none", "none"), ("extraction", "survival"), ("removal", "survival"), ("none+removal", "survival")),
        *(("evasion", "evasion"), ("extraction+evasion", "evasion"), ("detection", "detection")),
        *(("removal+detection", "detection"), ("forgery", "other"), ("removal+forgery", "other"), ("theft", "other")),
        *(("", "other"), ("None", "other")),
    ],
)
def test_a_family_says_what_an_attack_means_for_scores(family: str, kind: str) -> None:
    assert kind_of(family) == kind


def test_the_family_and_not_the_name_says_that_nobody_attacked() -> None:
    (scheme,) = board(cell(), cell(attack="leave-it", family="none", surrogate_trigger_matches=0)).schemes
    assert scheme.margin is not None and scheme.margin.mean == pytest.approx(0.78)


def test_an_unknown_family_is_shown_and_in_no_score() -> None:
    made = board(cell(), cell(attack="claim", family="forgery", surrogate_trigger_matches=0))
    (scheme,) = made.schemes
    assert scheme.margin is not None and scheme.margin.mean == pytest.approx(0.78)
    assert scheme.worst_attack == "retraining" and scheme.verified == 1.0
    assert [attacked.attack for attacked in made.attacks] == ["retraining", "claim"]
    assert [family.family for family in made.families] == ["extraction", "forgery"]


def test_an_assumed_false_rate_takes_the_place_of_the_measured_one() -> None:
    rows = [cell(seed=s, surrogate_trigger_matches=18) for s in range(3)]
    (measured,), (assumed,) = board(*rows).schemes, board(*rows, rules=Rules(fpr=0.17)).schemes
    assert measured.margin is not None and measured.margin.mean == pytest.approx(0.16) and measured.verified == 1.0
    assert assumed.margin is not None and assumed.margin.mean == pytest.approx(0.01) and assumed.verified == 0.0
    assert assumed.queries > measured.queries and assumed.false_rate == measured.false_rate
    with pytest.raises(UsageError, match="--test binomial"):
        Rules("fisher", fpr=0.1)


def test_a_budget_says_how_often_it_would_accuse() -> None:
    rows = [cell(seed=s, surrogate_trigger_matches=m) for s, m in enumerate((100, 50, 3))]
    by_budget = {n: board(*rows, rules=Rules(budget=n)) for n in (1, 3)}
    # The null models' limit is below 4%: one match of one accuses, and of three it takes two.
    assert {n: made.attacks[0].at_budget for n, made in by_budget.items()} == {
        1: pytest.approx((1 + 0.5 + 0.03) / 3),
        3: pytest.approx((1 + 0.5 + (3 * 0.03**2 * 0.97 + 0.03**3)) / 3),
    }
    at_most = by_budget[1].schemes[0].at_budget
    assert at_most is not None and at_most.n == 3 and at_most.mean == pytest.approx(0.51)
    assert math.isnan(board(*rows).attacks[0].at_budget) and board(*rows).schemes[0].at_budget is None


@pytest.mark.parametrize("rules", [Rules(test) for test in get_args(TestName)] + [Rules(fpr=0.02)], ids=str)
def test_chances_within_are_of_the_test_that_verifies(rules: Rules) -> None:
    """Against every number of matches tested one by one."""
    rows = [cell(seed=s, surrogate_trigger_matches=m, null_trigger_matches=n) for s, (m, n) in enumerate(PAIRS)]
    frame = pd.DataFrame([*rows, cell(seed=9, status="failed")], columns=[c.name for c in CELLS.columns])
    budgets = (1, 2, 7, 30)
    found = chances_within(score(frame, rules), budgets, rules)
    assert np.isnan(found[-1]).all() and found.shape == (len(PAIRS) + 1, len(budgets))
    for place, (matches, nulls) in enumerate(PAIRS):
        for asked, chance in zip(budgets, found[place], strict=True):
            each = [cell(f"{k}", surrogate_trigger_matches=k, surrogate_trigger_trials=asked,
                         null_trigger_matches=nulls) for k in range(asked + 1)]  # fmt: skip
            accused = score(pd.DataFrame(each, columns=frame.columns), rules)["verified"].to_numpy()
            expected = binom.pmf(np.arange(asked + 1), asked, matches / 100)[accused].sum()
            assert chance == pytest.approx(expected, abs=1e-12)


PAIRS = ((100, 6), (50, 6), (12, 6), (12, 0), (0, 6), (35, 90))


def test_verifying_takes_what_the_model_in_the_middle_takes() -> None:
    """Of four models the third, by the paper's number: 30 of 100 against 30 of 300."""
    matches = (90, 30, 20, 50)
    made = board(*(cell(seed=s, surrogate_trigger_matches=m, null_trigger_matches=30) for s, m in enumerate(matches)))
    (scheme,), limit = made.schemes, float(clopper_pearson_upper(30, 300))
    assert scheme.queries == queries_for_confidence(0.3, 0.1) == 23
    assert (scheme.queries_80, scheme.queries_95) == tuple(
        queries_for_power(0.3, limit, power=power) for power in (0.8, 0.95)
    )
    assert scheme.queries_sequential == Sprt(limit, 0.3, budget=4000).characteristic(0.3)[1] < scheme.queries_95
    (assumed,) = board(cell(), rules=Rules(fpr=0.5)).schemes
    assert assumed.queries_95 == queries_for_power(0.8, 0.5, power=0.95)


def test_the_hypervolume_is_the_area_that_attacks_reach_together() -> None:
    """Null models have 97%: 92% is half of what an attacker may lose, 99% is no loss."""
    attacks = (("gentle", 0.99, 80), ("middle", 0.92, 50), ("worse", 0.92, 70), ("collapsed", 0.5, 0))
    rows = [cell(attack=a, surrogate_accuracy=x, surrogate_trigger_matches=m, seed=0) for a, x, m in attacks]
    (scheme,) = board(*rows, cell(seed=1, surrogate_accuracy=0.97, surrogate_trigger_matches=0)).schemes
    area = scheme.hypervolume
    assert area is not None and area.n == 2 and area.mean == pytest.approx((0.5 * 0.5 + 0.5 * 0.2 + 1.0) / 2)
    (hidden,) = board(cell(attack="query-filter", family="evasion")).schemes
    assert hidden.hypervolume is None
    (unknown,) = board(cell(null_accuracy=None, **NO_NULLS), cell(seed=1, surrogate_accuracy=None)).schemes
    assert unknown.hypervolume is None, "there is no accuracy to keep, or none that is known"
    (strict,) = board(cell(victim_accuracy=0.97, surrogate_accuracy=0.97), rules=Rules(max_drop=0.0)).schemes
    assert strict.hypervolume is not None and strict.hypervolume.mean == pytest.approx(0.2)


def test_costs_are_beside_a_null_models_and_of_the_newest_stage() -> None:
    ran = {
        "dataset": "d",
        "status": "ok",
        **dict.fromkeys(("machine", "device", "torch", "harness"), "x"),
        "threads": 1,
    }
    stages = pd.DataFrame(
        [
            {**ran, "action": "embed", "plugin": "a", "label": "d a #0", "trained_samples": 7},
            {**ran, "action": "embed", "plugin": "a", "label": "d a #0", "trained_samples": 900},
            {**ran, "action": "embed", "plugin": "other", "label": "d other #0", "trained_samples": 1},
            {
                **ran,
                "action": "train",
                "plugin": "",
                "role": "null",
                "label": "d null #0",
                "trained_samples": 600,
                "seconds": 2.0,
            },
            {
                **ran,
                "action": "train",
                "plugin": "",
                "role": "clean",
                "label": "d clean #0",
                "trained_samples": 5,
                "seconds": 9.0,
            },
        ],
        columns=[c.name for c in STAGES.columns],
    )
    frame = pd.DataFrame([cell(embed_seconds=3.0)], columns=[c.name for c in CELLS.columns])
    (scheme,) = make_board(frame, pd.DataFrame(columns=[c.name for c in DETECTIONS.columns]), stages, Rules()).schemes
    costs = (scheme.embed_seconds, scheme.embed_samples, scheme.null_seconds, scheme.null_samples)
    assert [cost and cost.mean for cost in costs] == [3.0, 900.0, 2.0, 600.0]


def test_the_false_rate_decides_what_is_verified() -> None:
    """16 of 100 is damning against 0 of 300, and nothing against 30 of 300."""
    quiet = cell(surrogate_trigger_matches=16, null_trigger_matches=0)
    noisy = cell(surrogate_trigger_matches=16, null_trigger_matches=40)
    assert board(quiet).schemes[0].verified == 1.0
    for test in ("binomial", "fisher", "boschloo", "welch", "t"):
        assert board(noisy, rules=Rules(test)).schemes[0].verified == 0.0, test  # type: ignore[arg-type]


def test_without_null_models_nothing_is_verified() -> None:
    made = board(cell(null_trigger_matches=None, null_trigger_trials=None, nulls=0))
    assert math.isnan(made.schemes[0].verified) and math.isnan(made.schemes[0].queries), "no test was made"
    assert made.schemes[0].false_rate is None
    assumed = board(cell(null_trigger_matches=None, null_trigger_trials=None, nulls=0), rules=Rules(fpr=0.1))
    assert assumed.schemes[0].verified == 1.0


def test_the_papers_query_counts_are_the_leaderboards() -> None:
    rates = cell(surrogate_trigger_matches=50, null_trigger_matches=30)
    assert board(rates).schemes[0].queries == 8
    never = cell(surrogate_trigger_matches=5, null_trigger_matches=30)
    assert math.isinf(board(never).schemes[0].queries)


def test_the_victim_counts_once_a_seed_not_once_an_attack() -> None:
    rows = [cell(seed=s, attack=a, victim_trigger_matches=100 - 10 * s) for s in (0, 1) for a in ("x", "y", "z")]
    victim = board(*rows).schemes[0].victim_success
    assert victim is not None and victim.n == 2 and victim.mean == pytest.approx(0.95)


def test_the_order_in_which_seeds_were_run_changes_no_digit() -> None:
    dice = np.random.default_rng(5)
    rows = [
        cell(
            name,
            attack,
            seed,
            surrogate_trigger_matches=int(dice.integers(101)),
            surrogate_accuracy=dice.uniform(0.9, 1),
        )
        for seed in range(9)
        for name in "ab"
        for attack in ("x", "y")
    ]
    backwards = [rows[4 * k + i] for k in reversed(range(9)) for i in range(4)]
    assert board(*backwards).as_dict() == board(*rows).as_dict()


def test_none_is_no_attack() -> None:
    made = board(cell(attack="none", surrogate_trigger_matches=100), cell())
    assert made.schemes[0].margin is not None and made.schemes[0].margin.mean == pytest.approx(0.78)
    assert board(cell(attack="none")).schemes[0].rank is None


def test_scores_keep_the_order_of_the_cells() -> None:
    rows = [cell(seed=s, surrogate_trigger_matches=s) for s in range(20)]
    scored = score(pd.DataFrame(rows, columns=[c.name for c in CELLS.columns]), Rules())
    assert scored["surrogate_trigger"].tolist() == pytest.approx([s / 100 for s in range(20)])
    assert scored["p_value"].is_monotonic_decreasing


def test_rows_chosen_from_a_larger_table_keep_their_queries() -> None:
    rows = [cell(seed=s, surrogate_trigger_matches=m, null_trigger_matches=30) for s, m in enumerate((5, 30, 50))]
    chosen = pd.DataFrame(rows, columns=[c.name for c in CELLS.columns]).iloc[[2, 1]]
    assert score(chosen, Rules())["queries_needed"].tolist() == [8, 23]


@pytest.mark.parametrize(
    ("field", "value"),
    [("confidence", 1.0), ("confidence", 0.0), ("max_drop", 1.5), ("fpr", 1.0), ("fpr", math.nan), ("budget", 0)],
)
def test_rules_out_of_range_are_refused(field: str, value: float) -> None:
    with pytest.raises(UsageError, match=field.replace("_", "-")):
        Rules(**{field: value})


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
    assert cli("leaderboard", "--results", tmp_path / "none", code=2).err == (
        "harness: no results yet: type harness run --matrix smoke\n"
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


def test_a_board_and_a_comparison_are_text_and_html_for_notebooks() -> None:
    made = board(*(cell(name, seed=s) for name in ("<b>", "ewe") for s in range(2)))
    frame = pd.DataFrame([cell("<b>"), cell("ewe")], columns=[c.name for c in CELLS.columns])
    for text, page in (
        (board_text(made, 80), board_html(made)),
        (comparison_text(two := make_comparison(frame, "<b>", "ewe", Rules()), 80), comparison_html(two)),
    ):
        assert max(map(len, text.splitlines())) <= 80 and "78.0" in text and "\x1b" not in text
        assert "<b>ewe" not in page and "&lt;b&gt;" in page and ">78.0" in page
        assert page.count("<table") == page.count("</table>") and page.count("<tr>") == page.count("</tr>")


def test_every_term_begins_with_a_noun_and_every_column_of_numbers_has_one() -> None:
    for term, meaning in MEANINGS.items():
        first = meaning.split()[0]
        assert (first[0].isupper() or first in ("1", "p-value")) and meaning.endswith("."), term
        assert first not in {"What", "Who", "Whether", "Which", "Where", "When", "How", "Of", "As", "By", "In", "At"}, (
            term
        )
    columns = [column for views in VIEWS.values() for view in views for column in view.columns]
    said = {column.term or column.name for column in (*columns, *COMPARED)}
    assert said - {"scheme", "attack", "family"} <= set(MEANINGS)


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


def test_a_leaderboard_and_a_report_import_nothing_slow_that_they_do_not_need(tmp_path: Path) -> None:
    write(tmp_path, *({"run": "r", **cell(name, seed=s)} for name in ("ewe", "adi") for s in range(2)))
    where = ("--results", tmp_path)
    asked = [("leaderboard", *where), ("leaderboard", *where, "--format", "latex"), ("compare", "ewe", "adi", *where)]
    without({"torch._C", "scipy.stats", "matplotlib", "seaborn"}, *asked, ("report", *where))
