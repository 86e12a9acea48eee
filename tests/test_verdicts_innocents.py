"""Innocent models asked a scheme's keys, and the foot of the board: by hand-made tables and a simulation."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from tests.test_verdicts_board import field
from tests.verdict_tables import SIX, World, innocent, margin, scheme


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


@pytest.mark.slow
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
