"""From cells to the numbers of a leaderboard: attacks, schemes, standings, innocents, by hand-made tables."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import settings as settings_of
from hypothesis import strategies as st

from harness.errors import UsageError
from harness.statistics.exchangeable import marked_by_chance
from harness.storage.schema import CELLS, DETECTIONS, EVIDENCE, STAGES
from harness.verdicts.board import Board, Standing
from harness.verdicts.boards import make_board
from harness.verdicts.no_attacks import OWN_LABELS
from harness.verdicts.rules import Rules
from tests.verdict_tables import QUIET, World, attack, innocent, scheme

SIX, TEN = range(6), range(10)


def both(board: Board, defense: str = "a") -> Standing:
    return scheme(board, defense).standings["both"]


def worst(board: Board, defense: str = "a") -> float:
    """Mean margin of the worst case against both kinds of thief."""
    made = both(board, defense).worst
    assert made is not None
    return made.mean


def margin(matches: float, false: float = 2) -> float:
    """The margin of so many of 100 matches."""
    return (matches - false) / (100 - false)


# --- attacks ----------------------------------------------------------------------------------------------------------


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
    assert reasons == {
        **{"retraining": "", "none": "", "claim": "forgery: it removes no mark"},
        **{"odd": "unknown family 'theft'"},
    }
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


def test_attacks_that_know_the_key_stand_in_a_table_of_their_own() -> None:
    world = World().seeds(SIX).seeds(SIX, attack="overwriting", knows="key", matches=0)
    made = world.board()
    assert attack(made, "overwriting").no_attack == "knows the key" and both(made).worst_attacks == ("retraining",)
    asked = World().seeds(SIX).seeds(SIX, attack="overwriting", knows="scheme", matches=10)
    assert both(asked.board()).worst_attacks == ("overwriting",), "of the scheme one may know"


# --- worst cases ------------------------------------------------------------------------------------------------------


def settings(*matches: int) -> World:
    """Ten seeds of a scheme under settings of pruning that leave about so many matches."""
    world = World()
    for number, count in enumerate(matches):
        noise = np.random.default_rng(number).integers(-5, 6, len(TEN))
        world.seeds(TEN, attack=f"pruning[fraction=0.{number + 1}]", matches=(count + noise).tolist())
    return world


def numbers(board: Board, defense: str = "a") -> dict[str, Any]:
    """Everything that is said of a scheme, but for the names of attacks."""
    found = scheme(board, defense)
    return {name: {**each.__dict__, "worst_attacks": None} for name, each in found.standings.items()}


def test_repeating_an_attack_changes_no_number() -> None:
    """Property 3. The control: the mean over labels, which the ranks of version 0.1 were, changes."""
    plain, repeated = settings(60, 20), settings(60, 20)
    for row in [row for row in plain.cells if "0.2" in row["attack"]]:
        for copy in range(10):
            again = {**row, "attack": f"pruning[fraction=0.2,copy={copy}]", "cell": f"{row['cell']} {copy}"}
            repeated.cells.append(again)
            repeated.evidence += [
                {**each, "cell": again["cell"]} for each in plain.evidence if each["cell"] == row["cell"]
            ]
    assert numbers(repeated.board()) == numbers(plain.board())
    assert both(plain.board()).attacks == 1, "all settings of one plugin are one attack"
    means = [np.mean([each.margin.mean for each in made.board().attacks if each.margin]) for made in (plain, repeated)]
    assert abs(means[0] - means[1]) > 0.1
    twice = settings(60, 20)
    twice.cells += twice.cells
    assert twice.board().as_dict() == settings(60, 20).board().as_dict()


@pytest.mark.parametrize("spread", [0, 15], ids=["steady", "scattered"])
def test_a_weaker_setting_changes_no_number(spread: int) -> None:
    weaker = settings(60, 20)
    strong = {row["seed"]: row["surrogate_trigger_matches"] for row in weaker.cells if "0.2" in row["attack"]}
    more = np.random.default_rng(9).integers(1, 2 + 3 * spread, len(TEN))
    weaker.seeds(TEN, attack="pruning[fraction=0.01]", matches=[strong[s] + int(more[s]) for s in TEN])
    assert numbers(weaker.board()) == numbers(settings(60, 20).board())


def test_a_stronger_setting_never_raises_the_worst_case() -> None:
    before, world = worst(settings(60, 20).board()), settings(60, 20)
    lowest = {row["seed"]: row["surrogate_trigger_matches"] for row in world.cells if "0.2" in row["attack"]}
    world.seeds(TEN, attack="pruning[fraction=0.99]", matches=[max(lowest[s] - 3, 0) for s in TEN])
    assert worst(world.board()) < before and both(world.board()).worst_attacks == ("pruning[fraction=0.99]",)


@given(st.data())
@settings_of(max_examples=12, deadline=None)
def test_whatever_the_margins_a_repeated_or_weaker_setting_changes_no_number(data: st.DataObject) -> None:
    """Property 3, for any margins and seeds."""
    seeds = range(data.draw(st.integers(1, 8)))
    drawn = data.draw(st.lists(st.lists(st.integers(0, 95), min_size=8, max_size=8), min_size=1, max_size=4))
    place = data.draw(st.integers(0, len(drawn) - 1))
    more = data.draw(st.lists(st.integers(1, 5), min_size=8, max_size=8))
    repeated, weaker = drawn[place], [one + other for one, other in zip(drawn[place], more, strict=True)]
    made = []
    for rows in (drawn, [*drawn, repeated], [weaker, *drawn], [repeated, *drawn, repeated, weaker]):
        world = World()
        for number, matches in enumerate(rows):
            world.seeds(seeds, attack=f"pruning[fraction=0.{number}]", matches=matches[: len(seeds)])
        made.append(numbers(world.board()))
    for other in made[1:]:
        assert repr(other) == repr(made[0])


def test_the_order_in_which_cells_were_run_changes_no_digit() -> None:
    world, dice = World(), np.random.default_rng(5)
    for name in "ab":
        for chain in ("retraining", "pruning[fraction=0.1]", "pruning[fraction=0.2]"):
            world.seeds(TEN, name, chain, matches=dice.integers(101, size=10).tolist())
    mixed = World()
    mixed.cells = [world.cells[place] for place in dice.permutation(len(world.cells))]
    mixed.evidence = [world.evidence[place] for place in dice.permutation(len(world.evidence))]
    first, second = world.board().as_dict(), mixed.board().as_dict()
    for made in (first, second):
        for rows in ("schemes", "attacks"):
            made[rows] = sorted(made[rows], key=lambda each: (each["defense"], each.get("attack", "")))
    assert first == second


def test_the_worst_case_is_chosen_on_the_other_half_of_the_seeds() -> None:
    """Each attack takes all on one seed and nothing on the others: chosen on the same seeds it would be 0 there."""
    world = World()
    for hit in SIX:
        world.seeds(SIX, attack=f"pruning[fraction=0.{hit}]", matches=[2 if s == hit else 90 for s in SIX])
    made = worst(world.board())
    assert made > margin(2) + 0.8 * margin(90) / 2


def test_the_claim_is_the_least_lower_limit() -> None:
    world = World().seeds(TEN, matches=80).seeds(TEN, attack="pruning", matches=40)
    assert both(world.board()).claim < worst(world.board()) and not math.isnan(both(world.board()).claim)
    assert math.isnan(both(World().seeds(range(4)).board()).claim)


def test_chains_and_plugins_count_once_and_all_their_settings_must_be_survived() -> None:
    world = World().seeds(SIX, matches=80)
    for fraction, matches in (("0.1", 90), ("0.2", 2)):
        world.seeds(SIX, attack=f"pruning[fraction={fraction}]", matches=matches)
        chain = f"retraining | pruning[fraction={fraction}]"
        world.seeds(SIX, attack=chain, family="extraction+removal", matches=50)
    world.seeds(SIX, attack="tuning", matches=[90, 90, 90, 2, 2, 2])
    found = both(world.board())
    assert (found.survives, found.removed, found.attacks) == (2, 1, 4)
    black, white = (scheme(world.board()).standings[threat] for threat in ("black box", "white box"))
    assert (black.survives, black.attacks) == (2, 2) and (white.survives, white.removed, white.attacks) == (0, 1, 2)


# --- simulations of schemes ------------------------------------------------------------------------------------------


def field(**changes: Any) -> World:
    """Six seeds of two schemes, under an extraction and two removals; ``changes`` are those of the second, ``b``."""
    world = World()
    for name, own in (("a", {}), ("b", changes)):
        for chain, matches in (("retraining", 50), ("pruning", 60), ("tuning", 70)):
            world.seeds(SIX, name, chain, matches=[matches + seed for seed in SIX], **own)
    return world


def test_a_brittle_scheme_is_not_better_than_its_victim_and_0_at_zero() -> None:
    """All removals fail on it: they leave nothing useful."""
    world = World()
    for chain, accuracy in (("retraining", 0.95), ("pruning", 0.3), ("tuning", 0.3)):
        world.seeds(SIX, "a", chain, matches=60, victim=70, surrogate_accuracy=accuracy)
    made = world.board()
    white = scheme(made).standings["white box"]
    assert white.worst is not None and white.worst.mean == pytest.approx(margin(70)), "as if nobody had attacked"
    assert white.worst_at_zero == 0.0 and both(made).worst_attacks == ("retraining",)
    whole = [row["surrogate_trigger_matches"] for row in world.cells if row["attack"] == "pruning"]
    assert margin(70) < 1.0 and len(whole) == 6, "the control: 1, or missing, would be more"


def test_an_over_trained_victim_is_not_better() -> None:
    """Its victim has 6 points more than unmarked models: a floor below the victim alone would let attacks fail."""
    more = {"victim_accuracy": 1.0, "null_accuracy": 0.94, "surrogate_accuracy": 0.90}
    world = field(**more)
    assert worst(world.board(), "b") == pytest.approx(worst(world.board(), "a"))
    control = field(**{**more, "null_accuracy": 1.0})
    assert worst(control.board(), "b") > worst(control.board(), "a"), "the control: the victim alone as the floor"


@pytest.mark.parametrize(("cost", "gate"), [(0.019, "passes"), (0.03, "fails")])
def test_a_damaged_victim_is_not_better_and_under_the_line_beyond_the_gate(cost: float, gate: str) -> None:
    """A victim with less accuracy lets more attacks be useful: those that leave less."""
    damaged = field(victim_accuracy=0.97 - cost, surrogate_accuracy=0.95 - cost)
    made = damaged.board()
    assert worst(made, "b") == pytest.approx(worst(made, "a"))
    found = scheme(made, "b")
    assert found.gate == gate and found.cost is not None and found.cost.mean == pytest.approx(cost)
    assert (both(made, "b").rank is None) == (gate == "fails")
    if gate == "fails":
        assert found.no_rank == "costs 3.0 points of accuracy"
        assert [each.defense for each in made.schemes] == ["a", "b"] and both(made, "a").rank == 1


def test_an_api_that_answers_rubbish_is_under_the_line() -> None:
    made = field(victim_accuracy=0.10, victim_raw_accuracy=0.98, surrogate_accuracy=0.10).board()
    found = scheme(made, "b")
    assert found.gate == "fails" and both(made, "b").rank is None and found.no_rank.startswith("costs 87.0 points")
    assert found.raw_cost is not None and found.raw_cost.mean == pytest.approx(-0.01)
    assert scheme(made, "a").raw_cost is None


def test_few_seeds_are_unsure_of_the_gate() -> None:
    assert scheme(World().seeds(range(3)).board()).gate == "unsure"
    scattered = World().seeds(SIX, victim_accuracy=[0.99, 0.91, 0.99, 0.92, 0.99, 0.93])
    assert scheme(scattered.board()).gate == "unsure"


@pytest.mark.parametrize("status", ["failed", "skipped", "missing"])
def test_an_attack_that_only_one_scheme_lacks_leaves_it_incomplete(status: str) -> None:
    world, seven = World(), range(7)
    for name in "abc":
        world.seeds(seven, name)
    for name in "ac":
        world.seeds(seven, name, "pruning")
    if status != "missing":
        world.seeds(seven, "b", "pruning", status=status, reason="it cannot")
    made = world.board()
    said = {
        "failed": "pruning crashed on 7 of 7 seeds",
        "skipped": "pruning was skipped: it cannot",
        "missing": "pruning was not run",
    }
    assert both(made, "b").incomplete == said[status] and both(made, "b").rank is None
    assert scheme(made, "b").standings["black box"].rank == 1, "extractions are all there"
    assert [both(made, name).incomplete for name in "ac"] == ["", ""]


def test_one_seed_less_is_incomplete_too_but_not_where_the_seed_is_nobody_s() -> None:
    world = World().seeds(SIX, "a").seeds(range(5), "b").cell("b", seed=5, status="failed")
    assert both(world.board(), "b").incomplete == "retraining crashed on 1 of 6 seeds"
    nobody = World().seeds(range(7), "a").seeds(SIX, "b")
    assert both(nobody.board(), "b").incomplete == "", "it was run on its own seeds"
    everybody = World()
    for name in "ab":
        everybody.seeds(SIX, name).cell(name, seed=6, status="failed")
    assert [both(everybody.board(), name).incomplete for name in "ab"] == ["", ""]


def test_a_scheme_that_protects_only_its_api_has_no_rank_against_thieves_with_weights() -> None:
    reason = "b: protects only its API: a thief with the weights is outside its threat model"
    world = World().seeds(SIX, "a").seeds(SIX, "a", "pruning").seeds(SIX, "b")
    world.seeds(SIX, "b", "pruning", status="skipped", reason=reason)
    found = scheme(world.board(), "b")
    assert found.standings["white box"].incomplete == "protects only its API"
    assert found.standings["black box"].incomplete == "" and found.standings["black box"].rank == 1
    assert found.no_rank == ""


def test_an_attack_that_breaks_unmarked_models_is_listed_and_in_no_rank() -> None:
    world = field()
    for name in "ab":
        world.seeds(SIX, name, "erasing", matches=0, attacked_accuracy=(0.1,) * 10 + (0.96,) * 9)
    made = world.board()
    assert attack(made, "erasing", "b").no_attack == "leaves 9 of 19 unmarked models useful"
    assert both(made, "b").worst_attacks == ("retraining",) and both(made, "b").attacks == 3


def test_a_third_party_attack_that_does_nothing_changes_nothing() -> None:
    world = field()
    for name in "ab":
        world.seeds(SIX, name, "nothing", matches=100)
    assert worst(world.board()) == worst(field().board()) and both(world.board()).attacks == 4


def test_an_attack_survived_by_nobody() -> None:
    world = World()
    for name in "ab":
        world.seeds(SIX, name, matches=[2 + seed % 2 for seed in SIX])
    made = world.board()
    assert [both(made, name).survives for name in "ab"] == [0, 0] and both(made).removed == 1
    assert "no scheme is told apart" in made.settings[0].conclusion


# --- ranks ------------------------------------------------------------------------------------------------------------


def test_ranks_need_six_seeds_for_two_schemes_and_eleven_for_ten() -> None:
    five, six = (World().seeds(range(n), "a", matches=90).seeds(range(n), "b", matches=20) for n in (5, 6))
    assert [both(five.board(), name).rank for name in "ab"] == [None, None]
    assert scheme(five.board()).no_rank == "needs 6 seeds, has 5"
    assert five.board().settings[0].conclusion == (
        "With 5 seeds no scheme can be ranked; 6 would compare two, eleven ten."
    )
    assert [both(six.board(), name).rank for name in "ab"] == [1, 2] and scheme(six.board(), "b").no_rank == ""
    for seeds, ranked in ((10, False), (11, True)):
        world = World()
        for number in range(10):
            world.seeds(range(seeds), f"s{number}", matches=90 - 5 * number)
        ranks = [both(world.board(), f"s{number}").rank for number in range(10)]
        assert ranks == (list(range(1, 11)) if ranked else [None] * 10)


def test_schemes_that_cannot_be_told_apart_share_a_rank_and_the_order_is_theirs() -> None:
    world = World()
    for name, matches in (("worse", [20] * 8), ("x", [50 + s for s in range(8)]), ("y", [57 - s for s in range(8)])):
        world.seeds(range(8), name, matches=matches)
    made = world.board()
    assert {each.defense: each.standings["both"].rank for each in made.schemes} == {"x": 1, "y": 1, "worse": 3}
    assert made.schemes[-1].defense == "worse"
    assert made.settings[0].conclusion.endswith("x and y keep most of their marks (margin 53%); the other keeps less.")


def test_one_scheme_is_ranked_by_itself_and_ties_share_a_rank() -> None:
    alone = World().seeds(SIX).board()
    assert both(alone).rank == 1 and alone.settings[0].conclusion.endswith("there is no other scheme to compare.")
    same = World().seeds(SIX, "a").seeds(SIX, "b").board()
    assert [both(same, name).rank for name in "ab"] == [1, 1]


def test_schemes_without_verdicts_have_no_rank() -> None:
    few = {"nulls": (2,) * 11, "attacked": (2,) * 11}
    made = World().seeds(SIX, "a", **few).seeds(SIX, "b", matches=20, **few).board()
    assert both(made).rank is None and scheme(made).no_rank == "needs 19 unmarked models, has 11"
    assert made.settings[0].conclusion == ("No verdict: needs 19 unmarked models, has 11; type harness run --nulls 19.")
    assert scheme(made).victims.of == 0 and attack(made).margin is not None
    beta = World().seeds(SIX, "a", **few).seeds(SIX, "b", matches=20, **few).board(Rules("beta-binomial"))
    assert [both(beta, name).rank for name in "ab"] == [1, 2]


def test_a_scheme_all_of_whose_cells_failed_is_on_the_board() -> None:
    for status in ("failed", "skipped"):
        world = World().seeds(SIX, "a").seeds(SIX, "gone", status=status)
        found = scheme(world.board(), "gone")
        assert found.no_rank == "no cell finished" and found.victim_margin is None and found.cost is None
        assert both(world.board(), "gone").incomplete and both(world.board(), "a").rank == 1
    only = World().seeds(SIX, "gone", status="failed").board()
    assert only.settings[0].conclusion == "No conclusion: no cell finished."
    void = World().seeds(SIX, "void", matches=90, surrogate_accuracy=0.1, victim_accuracy=0.1)
    assert scheme(void.board(), "void").gate == "fails"


def test_no_cells_is_one_line_that_says_what_to_type() -> None:
    with pytest.raises(UsageError, match="harness run"):
        World().board()


def test_data_sets_are_compared_each_on_its_own() -> None:
    world = World().seeds(SIX, "a").seeds(SIX, "b", matches=20)
    for row in list(world.cells):
        here = {**row, "dataset": "e", "cell": f"{row['cell']} e", "test_samples": 300}
        world.cells.append(here)
        world.evidence += [{**each, "cell": here["cell"]} for each in world.evidence if each["cell"] == row["cell"]]
    made = world.board()
    assert [(each.dataset, each.defense) for each in made.schemes] == [(d, s) for d in "de" for s in "ab"]
    first, second = made.settings
    assert (first.dataset, first.models, first.seeds, first.schemes) == ("d", 19, 6, 2) and not first.demonstration
    assert second.demonstration and second.tolerance_error == pytest.approx(0.0126, abs=1e-4)


# --- innocents --------------------------------------------------------------------------------------------------------


def asked(world: World, suspects: str, models: dict[int, int], arm: str = "unmarked", **changes: Any) -> World:
    """Ask every key of the world of innocent models with so many matches each."""
    for cell in [row["cell"] for row in world.cells]:
        for index, matches in models.items():
            world.suspect(cell, suspects, index, matches, arm=arm, **changes)
    return world


def test_accused_innocents_are_counted_by_the_model() -> None:
    world = asked(World().seeds(range(3)), "fresh", {20: 30, 21: 0, 22: 0})
    world.suspect("a retraining 0", "fresh", 23, 60, arm="unmarked")
    world.suspect("a retraining 1", "fresh", 23, 0, arm="unmarked")
    found = innocent(world.board(), "fresh")
    assert found.accused is not None and (found.accused.count, found.accused.of, found.keys) == (1.5, 4, 3)
    assert found.accused.high == pytest.approx(0.9024, abs=1e-3), "of 2 of 4"
    assert found.accused.low == pytest.approx(0.0127, abs=1e-3), "of 1 of 4"


def test_an_innocent_is_compared_like_a_suspect_and_must_be_useful() -> None:
    moved = World().seeds(range(2), attacked=(30,) * 19)
    assert innocent(asked(moved, "fresh", {20: 25}).board(), "fresh").accused.count == 0  # type: ignore[union-attr]
    broken = asked(World().seeds(range(2)), "fresh", {20: 90}, accuracy=0.1)
    assert broken.board().innocents == []
    quiet = asked(World().seeds(range(2)), "same-data", {20: 11})
    assert innocent(quiet.board(), "same data").accused.count == 0  # type: ignore[union-attr]
    few = asked(World().seeds(range(2), nulls=(2,) * 11), "fresh", {20: 90})
    assert few.board().innocents == [], "no verdict, no accusation"


def test_the_four_sorts_of_innocents_are_told_apart() -> None:
    world = asked(World().seeds(range(2), attack="none", attacked=None), "fresh", {20: 2})
    asked(world, "same-data", {0: 80})
    asked(world, "other-recipe", {20: 2}, arm="unmarked[recipe=net]")
    asked(world, "other-recipe", {20: 80}, arm="unmarked[recipe=augmented]")
    asked(world, "other-owner", {7: 2}, arm="a")
    made = {each.suspects: each.accused and (each.accused.count, each.accused.of) for each in world.board().innocents}
    assert made == {"fresh": (0, 1), "other recipe": (1, 2), "same data": (1, 1), "other owners": (0, 1)}
    assert list(made) == ["fresh", "other recipe", "same data", "other owners"]


def test_other_owners_who_are_accused_as_often_make_a_scheme_anonymous() -> None:
    untouched = World().seeds(range(5), attack="none", matches=100, attacked=None)
    shared = asked(untouched, "other-owner", dict.fromkeys(range(5, 10), 95), arm="a").board()
    assert scheme(shared).anonymous and innocent(shared, "other owners", "none").accused.count == 5  # type: ignore[union-attr]
    untouched = World().seeds(range(5), attack="none", matches=100, attacked=None)
    told = asked(untouched, "other-owner", {5: 95} | dict.fromkeys(range(6, 10), 2), arm="a").board()
    assert not scheme(told).anonymous, "1 of 5 is not beyond chance"


def test_the_foot_of_the_board_is_the_arm_that_embeds_nothing() -> None:
    world = asked(
        field().seeds(SIX, attack="none", matches=100, attacked=None),
        "fresh",
        {20: 30} | dict.fromkeys(range(21, 40), 2),
    )
    world.cell("unmarked", "none", 20, None, nulls=(), attacked=None, victim_accuracy=0.965, null_accuracy=None)
    made = world.board()
    last = made.schemes[-1]
    assert (last.defense, last.seeds, last.no_rank) == ("unmarked", 20, "embeds nothing: what chance gives")
    assert (last.victims.count, last.victims.of) == (1, 20)
    standing = last.standings["both"]
    assert standing.worst is not None and standing.worst.mean == pytest.approx((margin(30) + 0) / 20)
    assert (standing.survives, standing.removed, standing.attacks, standing.rank) == (0, 3, 3, None)
    assert last.cost is not None and last.cost.mean == pytest.approx(0.005)
    assert made.settings[0].schemes == 2 and all(each.defense != "unmarked" for each in made.attacks)


# --- detectors --------------------------------------------------------------------------------------------------------


def detection(cell: str, suspect: str, index: int, score: float, **changes: Any) -> dict[str, Any]:
    row = {"cell": cell, "suspect": suspect, "index": index, "score": score, "threshold": 2.0}
    return row | {"target_hit": None, "mask_overlap": None, "window_rank": None} | changes


def test_a_detection_is_ranked_among_unmarked_models_and_leaves_the_margin_alone() -> None:
    world = World().cell().seeds(range(2), attack="search", family="detection", attacked=None)
    first, second = "a search 0", "a search 1"
    world.found = [
        detection(first, "surrogate", 0, 3.0, target_hit=True, window_rank=0.1),
        detection(second, "surrogate", 0, 1.0, window_rank=0.5),
        *(
            detection(name, "null", index, score, window_rank=rank)
            for name, rank in ((first, 0.4), (second, 0.8))
            for index, score in enumerate((0.5, 2.5, 1.5))
        ),
    ]
    made = world.board()
    (found,) = made.detections
    assert [each.attack for each in made.attacks] == ["retraining"]
    assert found.score is not None and (found.score.mean, found.score.n) == (2.0, 2)
    assert found.null_score is not None and (found.null_score.n, found.null_score.mean) == (3, 1.5)
    assert (found.flagged, found.null_flagged, found.target_hit) == (0.5, pytest.approx(1 / 3), 0.5)
    assert found.rank_p == pytest.approx((1 / 4 + 3 / 4) / 2) and found.window_rank == pytest.approx(0.3)
    assert found.null_window_rank == pytest.approx(0.6)


def test_a_detection_in_a_model_without_accuracy_is_left_out() -> None:
    world = World().cell(attack="jsma", family="detection", surrogate_accuracy=0.1)
    world.found = [detection("a jsma 0", "surrogate", 0, 9.0)]
    (found,) = world.board().detections
    assert found.score is None and math.isnan(found.rank_p)


# --- the whole board --------------------------------------------------------------------------------------------------


def test_costs_are_beside_an_unmarked_model_s_and_of_the_newest_stage() -> None:
    ran = {
        "dataset": "d",
        "status": "ok",
        "threads": 1,
        **dict.fromkeys(("machine", "device", "torch", "harness"), "x"),
    }
    null = {**ran, "action": "train", "plugin": "", "label": "d null #0", "role": "null"}
    stages = pd.DataFrame(
        [
            {**ran, "action": "embed", "plugin": "a", "label": "d a #0", "trained_samples": 7},
            {**ran, "action": "embed", "plugin": "a", "label": "d a #0", "trained_samples": 900},
            {**ran, "action": "embed", "plugin": "other", "label": "d other #0", "trained_samples": 1},
            {**null, "trained_samples": 600, "seconds": 2.0},
            {**null, "label": "d clean #0", "role": "clean", "trained_samples": 5, "seconds": 9.0},
        ],
        columns=[c.name for c in STAGES.columns],
    )
    detections = pd.DataFrame(columns=[c.name for c in DETECTIONS.columns])
    made = make_board(*World().cell(embed_seconds=3.0).tables, detections, stages, Rules())
    found = scheme(made)
    costs = (found.embed_seconds, found.embed_samples, found.null_seconds, found.null_samples)
    assert [cost and cost.mean for cost in costs] == [3.0, 900.0, 2.0, 600.0]
    assert made.machines == ["x, x, 1 thread(s), torch x, watermark-harness x"]


@pytest.mark.parametrize("make", [field, lambda: World().cell(nulls=(), attacked=None), lambda: World().cell(seed=3)])
def test_a_board_is_plain_values(make: Callable[[], World]) -> None:
    text = json.dumps(make().board(Rules(budget=9)).as_dict(), allow_nan=False)
    assert "NaN" not in text and json.loads(text)["schemes"][0]["defense"] == "a"


def test_tables_of_an_older_version_give_margins_and_a_note_on_what_to_run() -> None:
    cells, evidence = World().seeds(SIX, "a", attacked=None).seeds(SIX, "b", matches=20, attacked=None).tables
    newer = [c.name for c in (*CELLS.columns, *EVIDENCE.columns) if c.since == 6]
    old = (frame.drop(columns=newer, errors="ignore") for frame in (cells, evidence))
    detections, stages = (pd.DataFrame(columns=[c.name for c in table.columns]) for table in (DETECTIONS, STAGES))
    made = make_board(*old, detections, stages, Rules())
    found = attack(made)
    assert found.margin is not None and found.margin.mean == pytest.approx(margin(80)) and found.marked is None
    assert found.no_attack == "no unmarked model went through it" and both(made).rank is None
    assert "Run the matrix again" in made.notes[0] and scheme(made).victims.count == 6


@pytest.mark.parametrize("moved", [0.1, -0.1])
def test_attack_moves_everybody_and_few_fresh_models_are_accused(moved: float) -> None:
    """Many draws of models and a key: rates of models differ, and the attack moves them all. The control is p_0."""
    dice, shares, alone = np.random.default_rng(3), [], []
    for _ in range(25):
        world = World()
        rates = dice.beta(4, 36, 19 + 20 + 19 + 20)
        after = np.clip(rates[39:] + moved, 0, 1)
        nulls, attacked = (dice.binomial(100, each).tolist() for each in (rates[:19], after[:19]))
        world.cell(nulls=nulls, attacked=attacked)
        for index, matches in enumerate(dice.binomial(100, after[19:]).tolist()):
            world.suspect("a retraining 0", "fresh", index, matches, arm="unmarked")
            alone.append(max(nulls) < matches)
        found = innocent(world.board(), "fresh").accused
        assert found is not None and found.of == 20
        shares.append(found.count / found.of)
    assert np.mean(shares) <= 0.053 + 3 * np.std(shares) / math.sqrt(len(shares))
    assert moved < 0 or np.mean(alone) > 0.2
