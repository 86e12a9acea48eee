"""Accuracy as an API serves it: what the tables show where an API answers otherwise than the net behind it."""

from __future__ import annotations

from pathlib import Path
from textwrap import dedent

import pytest

import harness
from tests.conftest import TINY, Cli

ACTIVE = """
    import torch

    from harness import BlackBoxAttack, Context, Defense, Evasion, Key, Marked, Pool, Split, Task


    class Sevens(Defense):
        "Its API answers 7 to everybody, or refuses every second query."
        name = "sevens"
        protects = ("api",)
        refuses: bool = False

        def embed(self, task: Task, ctx: Context) -> Marked:
            net = ctx.train(ctx.build(), [ctx.stream(task.train)], ctx.epochs)
            return Marked(net, Key({"trigger": task.holdout.first(20)}))

        def serve(self, inputs, logits, key):
            if self.refuses:
                logits[::2] = float("nan")
                return logits
            return torch.nn.functional.one_hot(torch.full((len(inputs),), 7), 10).float()


    class Half(Evasion):
        "Refuses every second query."
        name = "half"

        def prepare(self, suspect, pool, ctx):
            return {}

        def serve(self, suspect, inputs, logits, guard):
            logits[::2] = float("nan")
            return logits


    class Copy(BlackBoxAttack):
        "Learns what the API answers."
        name = "copy"
        family = "extraction"

        def run(self, victim, pool: Pool, ctx: Context):
            stolen = Split(pool.x, victim.labels(pool.x)).answered()
            return ctx.train(ctx.build(), [ctx.stream(stolen)], 1)
"""


@pytest.fixture
def given(tmp_path: Path) -> tuple[object, ...]:
    (tmp_path / "plugins").mkdir()
    (tmp_path / "plugins" / "active.py").write_text(dedent(ACTIVE))
    return (
        "--dataset",
        TINY,
        "--seeds",
        "0",
        "--nulls",
        "1",
        "--no-innocents",
        "--plugins",
        tmp_path / "plugins",
        "--results",
        tmp_path,
    )


def test_an_api_that_answers_seven_to_everybody_shows_ten_percent(
    cli: Cli, tmp_path: Path, given: tuple[object, ...]
) -> None:
    defenses = ("--defense", "sevens", "--defense", "sevens[refuses=true]")
    cli("run", *given, *defenses, "--attack", "none", "--attack", "copy", code=0)
    cells = harness.read_table(tmp_path, "cells").set_index(["defense", "attack"])
    assert 0.08 < cells.loc[("sevens", "none"), "victim_accuracy"] < 0.12
    assert cells.loc[("sevens", "none"), "surrogate_accuracy"] == cells.loc[("sevens", "none"), "victim_accuracy"]
    stages = harness.read_table(tmp_path, "stages").set_index(["action", "plugin"])
    raw = stages.loc[("embed", "sevens"), "raw_accuracy"]
    assert raw > 0.2 and raw == stages.loc[("embed", "sevens[refuses=true]"), "raw_accuracy"]
    # Refused answers are wrong ones: of the other half, as many as before are right.
    assert cells.loc[("sevens[refuses=true]", "none"), "victim_accuracy"] == pytest.approx(raw / 2, abs=0.05)
    # Who copies the API agrees with it, and is as bad.
    assert cells.loc[("sevens", "copy"), "agreement"] > 0.9
    assert 0.08 < cells.loc[("sevens", "copy"), "surrogate_accuracy"] < 0.12
    copied = stages.loc[("attack", "copy")]
    assert copied["pool_accuracy"].notna().all() and stages.loc[("embed", "sevens"), "pool_accuracy"] != 0


def test_refused_queries_are_left_out_of_what_an_extraction_learns(
    cli: Cli, tmp_path: Path, given: tuple[object, ...]
) -> None:
    names = ("retraining", "retraining[answers=top-1]", "retraining[answers=probabilities]", "snnl-extraction")
    attacks = [part for name in names for part in ("--attack", name)]
    cli("run", *given, "--defense", "sevens[refuses=true]", *attacks, code=0)
    stages = harness.read_table(tmp_path, "stages").set_index(["action", "plugin"]).loc["attack"]
    stages = stages[stages["role"] == "surrogate"]
    # 32 a batch, two epochs: of 200 queries half are answered, three whole batches.
    assert (stages["queries"] == 200).all() and (stages["trained_samples"] == 2 * 3 * 32).all()


MARK = """
    import torch

    from harness import Architecture, Count, Evidence, Key, Marked, Unreadable, WhiteBoxAttack, WhiteBoxDefense


    class Signs(WhiteBoxDefense):
        "Signs of the last layer's weights."
        name = "signs"
        confused: bool = False

        def embed(self, task, ctx):
            net = ctx.train(ctx.build(), [ctx.stream(task.train)], ctx.epochs)
            return Marked(net, Key(tensors={"signs": net.get_parameter("logits.weight").sign()}))

        def verify_weights(self, suspect, key):
            weights, signs = suspect.state_dict(), key.tensors["signs"]
            if "logits.weight" not in weights and not self.confused:
                raise Unreadable("it has no layer logits")
            matches = int((weights["logits.weight"].sign() == signs).sum())
            return Evidence({"trigger": Count(matches, signs.numel())})


    class Elsewhere(Architecture):
        "Layers of other names."
        name = "elsewhere"

        def build(self, input_shape, classes):
            return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 8), torch.nn.Linear(8, classes))


    class Move(WhiteBoxAttack):
        "Trains a net of other layers on the victim's answers."
        name = "move"
        family = "removal"
        architecture_built = "elsewhere"

        def run(self, victim, pool, ctx):
            return ctx.build()
"""


def test_a_mark_that_has_no_place_in_the_suspect_is_removed_and_no_failure(
    cli: Cli, tmp_path: Path, given: tuple[object, ...]
) -> None:
    (tmp_path / "plugins" / "mark.py").write_text(dedent(MARK))
    attacks = ("--attack", "none", "--attack", "move")
    cli("run", *given, "--defense", "signs", *attacks, code=0)
    cells = harness.read_table(tmp_path, "cells").set_index("attack")
    assert (cells["status"] == "ok").all()
    assert cells.loc["none", "surrogate_trigger_matches"] == cells.loc["none", "surrogate_trigger_trials"] > 0
    assert cells.loc["move", "surrogate_trigger_matches"] == cells.loc["move", "surrogate_trigger_trials"] == 0
    stages = harness.read_table(tmp_path, "stages")
    assert stages["unreadable"].dropna().tolist() == ["it has no layer logits"]
    # Only what the scheme says cannot be read is removed: its own errors are failures.
    ended = cli("run", *given, "--defense", "signs[confused=true]", *attacks, code=1)
    assert "signs[confused=true] / move #0: signs[confused=true]: KeyError: 'logits.weight'" in ended.err


def test_a_guard_counts_in_the_accuracy_on_the_pool_too(cli: Cli, tmp_path: Path, given: tuple[object, ...]) -> None:
    cli("run", *given, "--defense", "baseline", "--attack", "half", "--attack", "half[pool=disjoint]", code=0)
    stages = harness.read_table(tmp_path, "stages").set_index("plugin")
    stages = stages[stages["role"] == "surrogate"]
    for name in ("half", "half[pool=disjoint]"):
        row = stages.loc[name]
        assert row["accuracy"] == pytest.approx(row["raw_accuracy"] / 2, abs=0.05)
        assert 0 < row["pool_accuracy"] <= 0.5


def test_a_scheme_that_protects_only_its_api_is_not_judged_against_a_thief_of_the_weights(
    cli: Cli, tmp_path: Path, given: tuple[object, ...]
) -> None:
    chains = ("none", "copy", "copy | pruning", "pruning", "pruning | copy", "half", "jsma")
    attacks = [part for chain in chains for part in ("--attack", chain)]
    cli("run", *given, "--defense", "sevens", "--defense", "baseline", *attacks, code=0)
    cells = harness.read_table(tmp_path, "cells").set_index(["defense", "attack"])
    skipped = [chain for chain in chains if cells.loc[("sevens", chain), "status"] == "skipped"]
    assert skipped == ["pruning", "pruning | copy", "half", "jsma"]
    reason = "sevens: protects only its API: a thief with the weights is outside its threat model"
    assert set(cells.loc["sevens"].loc[skipped, "reason"]) == {reason}
    assert not cells.loc["baseline", "reason"].str.contains("threat model").any()
