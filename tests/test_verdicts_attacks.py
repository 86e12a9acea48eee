"""A scheme under one attack: margins, verdicts, what is no attack; by hand-made tables."""

from __future__ import annotations

import math

import pytest

from harness.statistics.exchangeable import marked_by_chance
from harness.verdicts.no_attacks import OWN_LABELS
from tests.verdict_tables import QUIET, SIX, World, attack, both, margin, scheme, worst


def test_a_failed_attack_counts_with_its_victim_s_own_margin_and_verdict() -> None:
    world = World().seeds(range(4), matches=[90, 90, 90, 5], victim=70, surrogate_accuracy=[0.95, 0.95, 0.2, 0.95])
    found = attack(world.board())
    assert (found.n, found.useful, found.distribution[0], found.distribution[9]) == (4, 3, 1, 2)
    assert found.success is not None and found.success.mean == pytest.approx((0.9 + 0.9 + 0.05) / 3)
    assert found.margin is not None and found.margin.n == 4
    assert found.margin.mean == pytest.approx((2 * margin(90) + margin(70) + margin(5)) / 4)
    assert found.marked is not None and (found.marked.count, found.marked.of) == (3, 4), "the failed one as its victim"


@pytest.mark.parametrize(
    ("marked", "seeds", "survival"),
    [
        *((5, 5, "survived"), (4, 5, "undecided"), (7, 8, "survived"), (6, 8, "undecided"), (9, 10, "survived")),
        *((8, 10, "undecided"), (0, 5, "removed"), (1, 10, "removed"), (2, 10, "undecided"), (0, 4, "undecided")),
    ],
)
def test_survived_and_removed_are_by_one_sided_limits(marked: int, seeds: int, survival: str) -> None:
    world = World().seeds(range(seeds), matches=[90] * marked + [2] * (seeds - marked))
    found = attack(world.board())
    assert found.survival == survival and found.marked is not None and found.marked.count == marked
    assert found.by_chance == pytest.approx(float(marked_by_chance(marked, seeds, 0.05, 19)))


def test_the_range_when_each_unmarked_model_is_left_out() -> None:
    """One of nineteen models answers 50 and hides three of four seeds; without it they would be marked."""
    hot = (50, *QUIET[1:])
    found = attack(World().seeds(range(4), matches=[40, 40, 90, 1], nulls=hot).board())
    assert found.marked is not None and (found.marked.count, found.most) == (1, 3)
    two = (50, 50, *QUIET[2:])
    found = attack(World().seeds(range(4), matches=[40, 40, 90, 1], nulls=two).board())
    assert found.marked is not None and (found.marked.count, found.most) == (1, 1), "two at once are not left out"


def test_intervals_begin_at_five_seeds_and_hold_the_error_of_the_shared_models() -> None:
    few = attack(World().seeds(range(4)).board()).margin
    some = attack(World().seeds(range(5)).board()).margin
    assert few is not None and math.isnan(few.low) and some is not None and some.low < some.mean < some.high
    uneven = attack(World().seeds(range(5), nulls=(38, *(0,) * 18)).board()).margin
    assert uneven is not None and uneven.high - uneven.low > some.high - some.low


def test_one_seed_without_a_verdict_leaves_the_attack_without_one() -> None:
    world = World().seeds(range(5)).cell(seed=5, attacked_accuracy=[0.1, *(0.96,) * 18])
    found = attack(world.board())
    assert found.verdict == "needs 19 attacked unmarked models that are useful, has 18"
    assert found.marked is None and found.survival == "" and math.isnan(found.by_chance)
    assert (found.models, found.attacked_models) == (19, 18)


def test_failed_and_skipped_cells_are_counted_and_in_no_number() -> None:
    world = World().cell().cell(seed=1, status="failed", reason="broke").cell(seed=2, status="skipped", reason="cannot")
    found = attack(world.board())
    assert (found.n, found.failed, found.skipped) == (1, 1, 1) and scheme(world.board()).seeds == 3
    assert found.margin is not None and found.margin.n == 1


def test_attacks_of_other_kinds_are_in_no_rank_and_evasions_stand_apart() -> None:
    world = World().seeds(SIX).seeds(SIX, attack="none", matches=100, attacked=None)
    world.seeds(SIX, attack="filter", family="evasion", matches=2)
    world.seeds(SIX, attack="retraining | filter", family="extraction+evasion", matches=12)
    world.seeds(SIX, attack="claim", family="forgery", matches=0).seeds(SIX, attack="odd", family="theft", matches=0)
    made = world.board()
    reasons = {each.attack: each.no_attack for each in made.attacks}
    assert reasons == {"retraining": "", "none": "", "odd": "unknown family 'theft'"}
    assert [each.attack for each in made.forgeries] == ["claim"]
    assert worst(made) == pytest.approx(margin(80)) and both(made).worst_attacks == ("retraining",)
    assert [(each.attack, each.marked and each.marked.count) for each in made.evasions] == [
        ("filter", 0),
        ("retraining | filter", 6),
    ]
    hidden = made.evasions[1].margin
    assert hidden is not None and hidden.mean == pytest.approx(margin(12))
    assert attack(made, "none").threat is None


def test_labelled_attackers_count_where_their_surrogates_beat_unmarked_models() -> None:
    def world(*accuracies: float) -> World:
        made = World().seeds(SIX)
        return made.seeds(SIX, attack="tuning", labelled=True, matches=10, surrogate_accuracy=list(accuracies))

    alike = world(*(0.97 + 0.01 * (-1) ** seed for seed in SIX)).board()
    assert attack(alike, "tuning").no_attack == OWN_LABELS and both(alike).worst_attacks == ("retraining",)
    better = world(0.99, 0.98, 0.99, 0.98, 0.99, 0.98).board()
    assert attack(better, "tuning").no_attack == "" and both(better).worst_attacks == ("tuning",)


def test_a_thief_with_few_labelled_inputs_need_not_beat_unmarked_models_of_all() -> None:
    made = World().seeds(SIX)
    made.seeds(SIX, attack="tuning", labelled=True, labelled_share=0.05, matches=10, surrogate_accuracy=[0.97] * 6)
    board = made.board()
    assert attack(board, "tuning").no_attack == "" and both(board).worst_attacks == ("tuning",)


def test_attacks_that_know_the_key_stand_in_a_table_of_their_own() -> None:
    world = World().seeds(SIX).seeds(SIX, attack="overwriting", knows="key", matches=0)
    made = world.board()
    assert attack(made, "overwriting").no_attack == "knows the key" and both(made).worst_attacks == ("retraining",)
    asked = World().seeds(SIX).seeds(SIX, attack="overwriting", knows="scheme", matches=10)
    assert both(asked.board()).worst_attacks == ("overwriting",), "of the scheme one may know"
