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
from harness.storage.schema import CELLS, DETECTIONS, EVIDENCE, STAGES
from harness.values import SCORED
from harness.verdicts.board import Board
from harness.verdicts.boards import make_board
from harness.verdicts.rules import Rules
from harness.verdicts.scoring import RANKED_ONLY
from tests.verdict_tables import SIX, TEN, World, attack, both, margin, scheme, worst

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


@pytest.mark.slow
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
    assert found.marked == 2, "one setting of the pruning and three seeds of the tuning are not"
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


@pytest.mark.slow
def test_ranks_need_six_seeds_for_two_schemes_and_eleven_for_ten() -> None:
    five, six = (World().seeds(range(n), "a", matches=90).seeds(range(n), "b", matches=20) for n in (5, 6))
    assert [both(five.board(), name).rank for name in "ab"] == [None, None]
    assert scheme(five.board()).no_rank == "needs 6 seeds, has 5"
    said = "With 5 seeds no scheme can be ranked: two schemes need 6 seeds, ten need 11."
    assert five.board().settings[0].conclusion == said
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


def test_fingerprints_are_ranked_among_themselves_and_the_conclusion_is_about_schemes() -> None:
    world = World()
    for name, matches, its in (("a", 60, False), ("b", 30, False), ("f", 95, True), ("g", 20, True)):
        world.seeds(SIX, name, matches=matches, fingerprint=its)
    made = world.board()
    assert [(each.defense, both(made, each.defense).rank, each.fingerprint) for each in made.schemes] == [
        *(("a", 1, False), ("b", 2, False)),
        *(("f", 1, True), ("g", 2, True)),
    ]
    assert made.settings[0].conclusion.endswith("a keeps most of its mark (margin 59%); the other keeps less.")
    alone = World().seeds(SIX, "f", matches=95, fingerprint=True).board()
    assert "f keeps most" in alone.settings[0].conclusion


def test_a_score_is_ranked_as_a_rate_is_and_has_no_queries() -> None:
    some = {"matches": SCORED // 2, "victim": SCORED, "trials": SCORED, "nulls": (SCORED // 50,) * 19}
    world = World().seeds(SIX, "b", matches=20).seeds(SIX, "score", attacked=(SCORED // 50,) * 19, **some)
    ranked, binomial = world.board(), world.board(Rules("binomial"))
    assert [both(ranked, name).rank for name in ("score", "b")] == [1, 2]
    found = attack(ranked, defense="score")
    assert found.margin and found.margin.mean == pytest.approx((0.5 - 0.02) / 0.98)
    assert found.marked and found.marked.count == 6 and math.isnan(found.queries)
    assert [each.defense for each in binomial.schemes] == ["b"] and RANKED_ONLY in binomial.notes
    assert RANKED_ONLY not in ranked.notes and RANKED_ONLY not in World().seeds(SIX).board(Rules("binomial")).notes


def test_schemes_without_verdicts_have_no_rank() -> None:
    few = {"nulls": (2,) * 11, "attacked": (2,) * 11}
    made = World().seeds(SIX, "a", **few).seeds(SIX, "b", matches=20, **few).board()
    assert both(made).rank is None and scheme(made).no_rank == "needs 19 unmarked models, has 11"
    assert made.settings[0].conclusion == ("No verdict: needs 19 unmarked models, has 11; type harness run --nulls 19.")
    assert scheme(made).victims.of == 0 and attack(made).margin is not None
    beta = World().seeds(SIX, "a", **few).seeds(SIX, "b", matches=20, **few).board(Rules("beta-binomial"))
    assert [both(beta, name).rank for name in "ab"] == [1, 2]


def test_parts_without_unmarked_models_hide_none_of_those_that_others_have() -> None:
    """A matrix that is run in parts may have its first ones without any (reported: "no cell finished")."""
    none, some = {"nulls": (), "attacked": ()}, {"nulls": (2,) * 11, "attacked": (2,) * 11}
    made = World().seeds(SIX, attack="fine-tuning", **none).seeds(SIX, attack="retraining", **some).board()
    assert scheme(made).no_rank == "needs 19 unmarked models, has 11" and scheme(made).victim_margin is not None
    assert "unmarked models, has 11;" in made.settings[0].conclusion


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


def test_the_arm_unmarked_alone_is_no_comparison() -> None:
    made = World().cell("unmarked", "none", 0, None, nulls=(), attacked=None).board()
    assert made.schemes == [] and "only the arm unmarked" in made.notes[0]


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
