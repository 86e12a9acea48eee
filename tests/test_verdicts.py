"""From counts to verdicts on single models: by hand-made tables whose answers are known."""

from __future__ import annotations

import math
from functools import cache
from typing import Any, get_args

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binom

from harness.errors import UsageError
from harness.statistics.exchangeable import expected_queries_above
from harness.storage.schema import CELLS, EVIDENCE
from harness.verdicts.families import kind_of, plugins_of, threat_of
from harness.verdicts.rules import POOLED, Rules, TestName
from harness.verdicts.scoring import chances_within, score
from tests.verdict_tables import QUIET, World, attack, scheme

HOT = (57, *QUIET[1:])
"""One of nineteen unmarked models answers 57 of 100."""


def only(world: World, rules: Rules | None = None) -> pd.Series[Any]:
    """The one cell, scored."""
    (found,) = (row for _, row in world.scored(rules).iterrows())
    return found


@pytest.mark.parametrize(
    ("family", "kind", "threat"),
    [
        *(("none", "none", None), ("extraction", "survival", "black box"), ("removal", "survival", "white box")),
        *(("extraction+removal", "survival", "black box"), ("none+removal", "survival", "white box")),
        *(("evasion", "evasion", None), ("extraction+evasion", "evasion", "black box")),
        *(("detection", "detection", None), ("removal+detection", "detection", None)),
        *(("forgery", "forgery", None), ("removal+forgery", "forgery", None)),
        *(("theft", "other", None), ("", "other", None), ("None", "other", None)),
    ],
)
def test_a_family_says_what_an_attack_means_and_what_its_thief_has(family: str, kind: str, threat: str | None) -> None:
    assert (kind_of(family), threat_of(family)) == (kind, threat)


def test_a_chain_without_its_settings_is_the_names_of_its_plugins() -> None:
    assert plugins_of("retraining[queries=9] | pruning[fraction=0.5]") == "retraining | pruning"
    assert plugins_of("no run [ wrote this") == "no run [ wrote this"


def test_a_suspect_above_all_unmarked_models_is_marked() -> None:
    row = only(World().cell(matches=80))
    assert (row["p_0"], row["p_a"], row["p_value"]) == (0.05, 0.05, 0.05)
    assert row["marked"] and row["verdict"] == "" and row["false_rate"] == pytest.approx(0.02)
    assert row["margin"] == pytest.approx(0.78 / 0.98)


def test_a_tie_with_one_unmarked_model_speaks_against_a_mark() -> None:
    assert only(World().cell(matches=57, nulls=HOT))["p_value"] == 0.1
    assert not only(World().cell(matches=57, nulls=HOT))["marked"]
    assert only(World().cell(matches=58, nulls=HOT))["marked"]


def test_counts_are_compared_as_fractions_and_not_as_counts() -> None:
    """19 of 20 is more than 94 of 100, and as much as 95 of 100."""
    for null, marked in ((94, True), (95, False)):
        world = World().cell(matches=19, trials=20, nulls=(0,) * 19, attacked=(0,) * 19)
        for row in world.evidence[:1]:
            row.update(matches=null, trials=100)
        assert only(world)["marked"] == marked


def test_hot_model() -> None:
    assert not only(World().cell(matches=50, nulls=HOT))["marked"]
    assert only(World().cell(matches=90, nulls=HOT))["marked"]


def test_one_match_against_nineteen_silent_models_is_no_mark() -> None:
    silent = {"nulls": (0,) * 19, "attacked": (0,) * 19, "trials": 50}
    one, ten = World().cell(matches=1, **silent), World().cell(matches=10, **silent)
    assert only(one)["p_value"] == 0.05 and not only(one)["marked"] and only(ten)["marked"]
    assert only(one, Rules(min_margin=0.0))["marked"], "the control: without a least margin it would be one"


def test_attack_that_moves_everybody_is_not_taken_for_a_mark() -> None:
    """The attack makes unmarked models answer 30 of 100: against unattacked ones 25 would be a mark."""
    row = only(World().cell(matches=25, attacked=(30,) * 19))
    assert row["p_0"] == 0.05 and row["p_a"] == 1.0 and row["p_value"] == 1.0 and not row["marked"]
    assert row["false_rate"] == pytest.approx(0.30) and row["margin"] < 0
    quieted = only(World().cell(matches=25, nulls=(30,) * 19))
    assert quieted["p_0"] == 1.0 and quieted["p_a"] == 0.05 and not quieted["marked"], "the larger of both counts"


def test_nobody_attacked_an_untouched_model_and_a_detector_leaves_it_alone() -> None:
    for name, family in (("none", "none"), ("jsma", "detection")):
        row = only(World().cell(attack=name, family=family, matches=100, attacked=None))
        assert math.isnan(row["p_a"]) and row["p_value"] == 0.05 and row["marked"]


def test_few_unmarked_models_give_no_verdict_but_a_margin() -> None:
    row = only(World().cell(nulls=(2,) * 11, attacked=(2,) * 11))
    assert row["verdict"] == "needs 19 unmarked models, has 11" and not row["marked"] and not row["tested"]
    assert row["margin"] == pytest.approx(0.78 / 0.98) and math.isnan(row["queries_needed"])
    assert only(World().cell(nulls=(2,) * 38, attacked=(2,) * 38), Rules(confidence=0.99))["verdict"] == (
        "needs 99 unmarked models, has 38"
    )


def test_without_unmarked_models_nothing_can_be_said() -> None:
    row = only(World().cell(nulls=(), attacked=(), null_trigger_matches=None, null_trigger_trials=None))
    assert row["verdict"] == "needs 19 unmarked models, has 0" and math.isnan(row["margin"])
    one = only(World().cell(nulls=(5,), attacked=(5,)))
    assert one["verdict"] == "needs 19 unmarked models, has 1" and one["margin"] == pytest.approx(0.75 / 0.95)


def test_an_attacked_unmarked_model_that_lost_its_accuracy_does_not_count() -> None:
    """Collapsed: of 39 models 5 answer the target always, at an accuracy of 10%."""
    moved = (100,) * 5 + (2,) * 34
    broken = World().cell(nulls=(2,) * 39, attacked=moved, attacked_accuracy=[0.1] * 5 + [0.96] * 34)
    row = only(broken)
    assert row["attacked_models"] == 34 and row["marked"] and row["false_rate"] == pytest.approx(0.02)
    unfiltered = only(World().cell(nulls=(2,) * 39, attacked=moved, matches=100))
    assert not unfiltered["marked"], "the control: were they counted, nobody would be marked"


def test_collapsed_surrogates_are_failed_attacks_and_not_marked() -> None:
    row = only(World().cell(matches=100, surrogate_accuracy=0.10, victim=60))
    assert not row["useful"] and not row["counts"] and not row["marked"]
    assert row["margin_counted"] == pytest.approx(0.58 / 0.98) and row["marked_counted"]


@pytest.mark.parametrize(("accuracy", "useful"), [(0.911, True), (0.909, False)])
def test_useful_is_measured_from_the_victim_s_accuracy(accuracy: float, useful: bool) -> None:
    assert only(World().cell(surrogate_accuracy=accuracy))["useful"] == useful


def test_useful_is_measured_from_the_lower_of_victim_and_unmarked_models() -> None:
    trained = {"victim_accuracy": 1.0, "null_accuracy": 0.94}
    assert only(World().cell(surrogate_accuracy=0.89, **trained))["useful"], "on the very edge"
    assert not only(World().cell(surrogate_accuracy=0.88, **trained))["useful"]
    assert only(World().cell(surrogate_accuracy=0.88, **trained), Rules(max_drop=0.06))["useful"]


def test_useful_takes_the_lower_of_test_images_and_the_attacker_s_own_pool() -> None:
    assert not only(World().cell(surrogate_pool_accuracy=0.80))["useful"]
    assert only(World().cell(surrogate_pool_accuracy=0.99))["useful"]


def test_a_mark_that_cannot_be_read_is_a_mark_that_was_removed() -> None:
    row = only(World().cell(matches=0, surrogate_trigger_trials=0))
    assert row["counts"] and row["surrogate_trigger"] == 0.0 and not row["marked"] and row["removed"] == 1.0
    unreadable = World().cell(matches=80)
    for suspect in unreadable.evidence:
        suspect.update(matches=0, trials=0)
    assert only(unreadable)["marked"], "models that cannot be read are no models that answer as much"


def test_an_attack_that_breaks_unmarked_models_is_no_attack_here() -> None:
    row = only(World().cell(attacked_accuracy=[0.1] * 10 + [0.96] * 9))
    assert row["verdict"] == "leaves 9 of 19 unmarked models useful" and not row["tested"]
    few = only(World().cell(attacked_accuracy=[0.1] * 2 + [0.96] * 17))
    assert few["verdict"] == "needs 19 attacked unmarked models that are useful, has 17"
    all_broken = World().cell(attacked_accuracy=0.1)
    assert only(all_broken)["verdict"] == "leaves 0 of 19 unmarked models useful"
    assert scheme(all_broken.board()).no_rank == "retraining leaves 0 of 19 unmarked models useful"


def test_an_attack_that_knows_the_key_and_tables_of_an_older_version_have_no_verdict() -> None:
    assert only(World().cell(attacked=None, knows="key"))["verdict"] == "knows the key"
    old = World().cell(attacked=None, knows=None, labelled=None, victim_raw_accuracy=None, test_samples=None)
    row = only(old)
    assert row["verdict"] == "no unmarked model went through it" and row["margin"] == pytest.approx(0.78 / 0.98)
    made = old.board()
    assert len(made.notes) == 1 and "Run the matrix again" in made.notes[0] and attack(made).marked is None
    assert made.settings[0].test_images is None and not made.settings[0].demonstration


def test_a_scheme_whose_unmarked_models_answer_too_much_proves_nothing() -> None:
    for rate in (77, 95, 99):
        world = World().cell(matches=100, nulls=(rate,) * 19, attacked=(rate,) * 19)
        row = only(world)
        assert row["margin"] == 0.0 and not row["marked"] and -1 <= row["victim_margin"] <= 1
        assert scheme(world.board()).useless_key
    assert not scheme(World().cell(nulls=(70,) * 19).board()).useless_key
    noisy = only(World().cell(matches=0, nulls=(70,) * 19, attacked=(70,) * 19))
    assert noisy["margin"] == -1.0, "clipped: unclipped it would be -2.3"


@pytest.mark.parametrize(("trials", "whole", "chance"), [(64, 64, 32), (100, 100, 10)], ids=["64 bits", "100 labels"])
def test_untouched_is_1_and_erased_is_0_for_bits_and_labels(trials: int, whole: int, chance: int) -> None:
    models = {"nulls": (chance,) * 19, "attacked": (chance,) * 19, "trials": trials, "victim": whole}
    assert only(World().cell(matches=whole, **models))["margin"] == 1.0
    assert only(World().cell(matches=chance, **models))["margin"] == pytest.approx(0.0)
    assert only(World().cell(matches=whole, **models))["marked"]


def test_queries_to_verify_are_those_of_a_sequential_test_of_the_key_s_threshold() -> None:
    row = only(World().cell(matches=80, nulls=HOT))
    assert row["to_exceed"] == 0.57 and row["queries_needed"] == pytest.approx(expected_queries_above(0.8, 0.57, 0.01))
    assert only(World().cell(matches=80))["to_exceed"] == pytest.approx(0.02 + 0.1 * 0.98), "the least margin"
    assert only(World().cell(matches=80, attacked=HOT))["to_exceed"] == 0.57
    assert math.isinf(only(World().cell(matches=57, nulls=HOT))["queries_needed"])
    strict = only(World().cell(matches=80, nulls=HOT), Rules(gamma=0.001))
    assert strict["queries_needed"] > row["queries_needed"]


def test_the_queries_of_a_scheme_are_those_of_the_model_in_the_middle() -> None:
    world = World().seeds(range(4), matches=[90, 30, 57, 60], nulls=HOT)
    found = attack(world.board())
    assert math.isinf(found.queries), "of two models in the middle, the one that takes more"
    more = World().seeds(range(3), matches=[90, 30, 60], nulls=HOT)
    assert attack(more.board()).queries == pytest.approx(expected_queries_above(0.6, 0.57, 0.01))


@pytest.mark.slow
@pytest.mark.parametrize("rules", [Rules(test) for test in ("rank", *POOLED)] + [Rules("binomial", fpr=0.02)], ids=str)
def test_chances_within_are_of_the_test_that_marks(rules: Rules) -> None:
    """Against every number of matches tested one by one."""
    world = World()
    for seed, (matches, hot) in enumerate(((100, 2), (50, 2), (12, 2), (35, 60), (0, 2))):
        world.cell(seed=seed, matches=matches, nulls=(hot, *QUIET[1:]))
    world.cell(seed=9, status="failed")
    scored, budgets = world.scored(rules), (1, 2, 7, 30)
    found = chances_within(scored, budgets, rules)
    assert np.isnan(found[-1]).all() and found.shape == (6, len(budgets))

    @cache
    def marked_of(hot: int, asked: int) -> np.ndarray:
        each = World()
        for matches in range(asked + 1):
            each.cell(seed=matches, matches=matches, surrogate_trigger_trials=asked, nulls=(hot, *QUIET[1:]))
        return each.scored(rules)["marked"].to_numpy(dtype=bool)

    for place, row in enumerate(world.cells[:-1]):
        for asked, chance in zip(budgets, found[place], strict=True):
            hot = next(each["matches"] for each in world.evidence if each["cell"] == row["cell"])
            marked = marked_of(hot, asked)
            rate = row["surrogate_trigger_matches"] / 100
            expected = binom.pmf(np.arange(asked + 1), asked, rate)[marked].sum()
            assert chance == pytest.approx(expected, abs=1e-12)


def test_a_budget_says_how_often_it_would_accuse() -> None:
    world = World().seeds(range(3), matches=[100, 50, 3])
    made = world.board(Rules(budget=1))
    assert attack(made).at_budget == pytest.approx((1 + 0.5 + 0.03) / 3)
    at_most = scheme(made).at_budget
    assert at_most is not None and at_most.n == 3 and at_most.mean == pytest.approx(0.51)
    assert math.isnan(attack(world.board()).at_budget) and scheme(world.board()).at_budget is None


def test_pooled_tests_need_no_attacked_models_and_pool_the_answers() -> None:
    few = {"nulls": (2, 2, 2), "attacked": None}
    for test in POOLED:
        assert only(World().cell(matches=80, **few), Rules(test))["marked"], test
        assert not only(World().cell(matches=3, **few), Rules(test))["marked"], test
        nothing = World().cell(nulls=(), null_trigger_matches=None, null_trigger_trials=None)
        assert only(nothing, Rules(test))["verdict"] == "there are no unmarked models"
    hot = World().cell(matches=30, nulls=HOT, attacked=None)
    assert only(hot, Rules("binomial"))["marked"], "assumes that all unmarked models answer alike"


def test_an_assumed_false_rate_takes_the_place_of_the_measured_one() -> None:
    row = only(World().cell(matches=18), Rules("binomial", fpr=0.17))
    assert row["false_rate"] == 0.17 and row["margin"] == pytest.approx(0.01 / 0.83) and not row["marked"]
    alone = World().cell(matches=80, nulls=(), attacked=None, null_trigger_matches=None, null_trigger_trials=None)
    assert only(alone, Rules("binomial", fpr=0.1))["marked"]


def test_beta_binomial_is_for_few_models() -> None:
    few = {"nulls": (2, 3, 1, 2), "attacked": (2, 3, 1, 2)}
    assert only(World().cell(matches=100, **few), Rules("beta-binomial"))["marked"]
    assert not only(World().cell(matches=3, **few), Rules("beta-binomial"))["marked"]
    assert only(World().cell(nulls=(2, 2), attacked=(2, 2)), Rules("beta-binomial"))["verdict"] == (
        "needs 3 unmarked models, has 2"
    )


def test_the_area_that_attacks_reach_together() -> None:
    """The victim has 96%: 93.5% is half of what an attacker may lose, 99% is no loss."""
    world = World()
    for name, accuracy, matches in (("gentle", 0.99, 80), ("middle", 0.935, 50), ("worse", 0.935, 70)):
        world.cell(attack=name, surrogate_accuracy=accuracy, matches=matches)
    world.cell(attack="collapsed", surrogate_accuracy=0.5, matches=0)
    area = scheme(world.board()).hypervolume
    assert area is not None and area.n == 1 and area.mean == pytest.approx(0.5 * 0.5 + 0.5 * 0.2)


def test_scores_keep_the_order_of_the_cells_and_categories_are_read_like_text() -> None:
    world = World().seeds(range(20), matches=[5 * s for s in range(20)])
    cells, evidence = world.tables
    scored = score(cells, evidence, Rules())
    assert scored["surrogate_trigger"].tolist() == pytest.approx([s / 20 for s in range(20)])
    coded = evidence.astype(dict.fromkeys(("cell", "suspect", "arm", "probe"), "category"))
    shuffled = coded.sample(frac=1, random_state=1)
    pd.testing.assert_frame_equal(score(cells, shuffled, Rules()), scored)
    chosen = score(cells.iloc[[7, 3]], evidence, Rules())
    pd.testing.assert_frame_equal(chosen, scored.iloc[[7, 3]])


def test_other_probes_and_other_cells_change_nothing() -> None:
    world = World().cell()
    before = world.scored()
    world.suspect("a retraining 0", "null", 0, 100, probe="held_out").suspect("another", "null", 50, 100)
    world.suspect("a retraining 0", "thief", 0, 100)
    pd.testing.assert_frame_equal(world.scored(), before)


def test_tables_without_the_newer_columns_are_scored() -> None:
    cells, evidence = World().cell(attacked=None).tables
    newer = [c.name for c in (*CELLS.columns, *EVIDENCE.columns) if c.since == 6]
    old = score(cells.drop(columns=newer, errors="ignore"), evidence.drop(columns=newer, errors="ignore"), Rules())
    assert old["margin"].tolist() == pytest.approx([0.78 / 0.98]) and not old["marked"].any()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("confidence", 1.0), ("confidence", 0.0), ("max_drop", 1.5), ("min_margin", -0.1), ("max_cost", 2.0)),
        *(("gamma", 0.0), ("fpr", 1.0), ("fpr", math.nan), ("budget", 0)),
    ],
)
def test_rules_out_of_range_are_refused(field: str, value: float) -> None:
    with pytest.raises(UsageError, match=field.replace("_", "-")):
        Rules(**{field: value})
    assert set(POOLED) < set(get_args(TestName))
