"""Forged keys: whom a judge would give to a forger, with unmarked models to compare with and without."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import harness
from harness import Forgery
from harness.planning.chains import Chain
from harness.planning.registry import load_registry
from harness.storage.store import Store
from harness.verdicts.board import Board, Forged
from tests.conftest import TINY, Cli
from tests.verdict_tables import SIX, World

CLAIM = {"attack": "claim", "family": "forgery", "knows": "scheme", "attacked": None}
EVERYBODY = (97, 98, 99, *[100] * 16)
"""Answers of nineteen unmarked models to a key that fits everybody."""


def forged(board: Board) -> Forged:
    (found,) = board.forgeries
    return found


def honest() -> World:
    return World().seeds(SIX, attack="none", matches=100, attacked=None)


def test_a_key_that_fits_everybody_convicts_nobody_who_is_ranked_and_everybody_who_is_not() -> None:
    world = honest().seeds(SIX, **CLAIM, forged_before=True, matches=100, victim=100, nulls=EVERYBODY)
    found = forged(world.board())
    assert found.innocent and (found.innocent.count, found.innocent.of) == (0, 19)
    assert found.innocent_alone and (found.innocent_alone.count, found.innocent_alone.of) == (19, 19)
    assert found.innocent_committed == found.innocent_alone, "the key was there before the suspects"
    assert found.owner and (found.owner.count, found.owner.of) == (0, 6)
    assert found.claimed and found.claimed.count == 0


def test_a_key_that_fits_one_model_convicts_one_in_nineteen_by_rank() -> None:
    world = honest().seeds(SIX, **CLAIM, matches=100, victim=9, nulls=(100, *[9] * 18))
    found = forged(world.board())
    # One of nineteen is a rank of 1/19, which is above 1/20: so few models accuse nobody of themselves.
    assert found.innocent and found.innocent.count == 0
    assert found.innocent_alone and found.innocent_alone.count == 1
    twenty = honest().seeds(SIX, **CLAIM, matches=100, victim=9, nulls=(100, *[9] * 19))
    by_rank = forged(twenty.board()).innocent
    assert by_rank and (by_rank.count, by_rank.of) == (1, 20)


def test_a_commitment_refuses_a_key_that_is_younger_than_its_suspect() -> None:
    world = honest().seeds(SIX, **CLAIM, forged_before=False, matches=100, victim=9, nulls=EVERYBODY)
    found = forged(world.board())
    assert found.innocent_alone and found.innocent_alone.count == 19
    assert found.innocent_committed and found.innocent_committed.count == 0


def test_of_few_models_and_of_no_honest_keys_less_is_said() -> None:
    few = honest().seeds(SIX, **CLAIM, matches=100, nulls=(100,) * 5)
    assert forged(few.board()).innocent is None and forged(few.board()).owner is None
    assert (alone := forged(few.board()).innocent_alone) is not None and alone.of == 5
    lone = World().seeds(SIX, **CLAIM, matches=100, nulls=EVERYBODY)
    assert (found := forged(lone.board()).innocent_alone) is not None and found.count == 0, "no false rate is known"


def test_a_forged_key_is_in_no_rank_and_in_no_number_of_its_scheme() -> None:
    world = World().seeds(SIX).seeds(SIX, attack="none", matches=100, attacked=None)
    before, after = world.board().as_dict(), world.seeds(SIX, **CLAIM, matches=0, victim=0).board().as_dict()
    assert (after["schemes"], after["attacks"]) == (before["schemes"], before["attacks"])
    assert not before["forgeries"] and len(after["forgeries"]) == 1


def test_a_forgery_ends_a_chain_and_says_when_its_key_was_made() -> None:
    registry = load_registry()
    parts = [registry.component("attack", name) for name in ("retraining", "false-claim", "pruning")]
    chain = Chain(tuple(parts[:2]))
    assert chain.forger is parts[1] and chain.forged_before is True and chain.knows == "scheme"
    assert Chain(tuple(parts[:1])).forged_before is None
    with pytest.raises(harness.UsageError, match="forgery must be the last link"):
        Chain(tuple(parts))
    assert issubclass(type(parts[1].plugin), Forgery)


def test_an_ambiguous_key_is_younger_than_the_model_and_answers_on_it(cli: Cli, tmp_path: Path) -> None:
    results = tmp_path / "results"
    axes = ("--dataset", TINY, "--seeds", "0", "--nulls", "2", "--no-innocents", "--attack", "ambiguity[epochs=4]")
    chosen = ("--defense", "uchida", "--defense", "dawn", "--attack", "retraining | ambiguity[epochs=4]")
    cli("run", *axes, *chosen, "--results", results, code=0)
    cells = harness.read_table(results, "cells").set_index(["defense", "attack"])
    for attack in ("ambiguity[epochs=4]", "retraining | ambiguity[epochs=4]"):
        cell = cells.loc[("uchida", attack)]
        assert (cell["status"], cell["forged_before"]) == ("ok", False)
        assert cell["surrogate_trigger_matches"] / cell["surrogate_trigger_trials"] > 0.9
        assert cell["victim_trigger_matches"] / cell["victim_trigger_trials"] < 0.8
    assert (cells.loc["dawn", "status"] == "skipped").all()


def test_the_best_of_many_random_keys_is_more_than_one_gives_and_nothing_is_trained(cli: Cli, tmp_path: Path) -> None:
    results = tmp_path / "results"
    counts = {keys: f"random-keys[keys={keys}]" for keys in (1, 60)}
    chosen = [word for name in ("uchida", "adi", "cfw") for word in ("--defense", name)]
    chosen += [word for attack in counts.values() for word in ("--attack", attack)]
    cli(
        "run",
        "--dataset",
        TINY,
        "--seeds",
        "0",
        "--nulls",
        "0",
        "--no-innocents",
        *chosen,
        "--results",
        results,
        code=0,
    )
    cells = harness.read_table(results, "cells").set_index(["defense", "attack"])
    for defense in ("uchida", "adi"):
        few, many = (cells.loc[(defense, attack)] for attack in counts.values())
        rates = [row["surrogate_trigger_matches"] / row["surrogate_trigger_trials"] for row in (few, many)]
        assert 0 <= rates[0] < rates[1] < 1
        assert many["agreement"] == 1 and many["forged_before"] is np.False_
    stages = harness.read_table(results, "stages").query("plugin.str.startswith('random-keys')")
    assert (stages["trained_samples"] == 0).any() and stages["trained_samples"].max() == 0
    assert stages.query("label.str.contains('cfw')")["reason"].str.contains("another data set").all()


@pytest.mark.slow
def test_false_claims_from_the_run_to_the_board_and_the_record(cli: Cli, tmp_path: Path) -> None:
    results, record = tmp_path / "results", tmp_path / "record"
    names = ("adi", "uchida", "unmarked")
    use = [text for name in names for text in ("--defense", name)]
    claim = "false-claim[models=1,count=20,steps=5]"
    axes = ("--dataset", TINY, "--seeds", "0-1", "--nulls", "3", "--attack", "none", "--attack", claim)
    cli("run", *axes, *use, "--results", results, code=0)
    cells = harness.read_table(results, "cells").query("attack != 'none'").set_index("defense")
    assert set(cells.loc["adi", "status"]) == {"ok"} and set(cells.loc["adi", "forged_before"]) == {True}
    assert cells.loc["uchida", "reason"].str.contains("no set of labelled inputs").all()
    assert cells.loc["unmarked", "reason"].str.contains("no key").all()
    asked = harness.read_table(results, "evidence").query("attack != 'none' and defense == 'adi'")
    assert set(asked["suspect"]) == {"victim", "surrogate", "null"}
    said = cli("leaderboard", "--details", "--results", results, code=0).out
    assert "forged keys" in said and "of 3" in said.partition("forged keys")[2]
    cli("report", "--results", results, "--output", tmp_path / "page.html", code=0)
    assert "Forged keys" in (tmp_path / "page.html").read_text("utf-8")
    cli("record", "Claims", "--command", "harness run", "--output", record, "--results", results, code=0)
    cli("submit", record, "--min-seeds", 2, "--min-nulls", 3, code=0)
    stored = Store(results).ids()
    cli("gc", "--results", results, "--delete", code=0)
    assert Store(results).ids() == stored
