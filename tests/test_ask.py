"""What a cell is compared with: null models, what its attacks make of them, and innocents; asked in groups."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest

import harness
from harness import Context, Pool, Skip, UsageError, WhiteBoxAttack
from harness.contracts import Family, Knowledge
from harness.planning import builder as builder_module
from harness.planning.builder import make_plan
from harness.planning.graph import Cell, Component, Plan, Stage, Suspect
from harness.planning.registry import Registry, load_registry
from harness.planning.stages import StageMaker
from harness.running import actions
from tests.conftest import TINY, Cli
from tests.test_plan import planned, roles, uses
from tests.test_session import ran


@pytest.fixture(scope="module")
def registry() -> Iterator[Registry]:
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("HARNESS_PLUGINS", raising=False)
        yield load_registry()


def asked(plan: Plan, cell: Cell, about: str) -> tuple[Suspect, ...]:
    """The suspects of a cell's group; none where it has no such stage."""
    id = roles(cell).get(f"ask:{about}")
    return plan.stages[id].suspects if id else ()


def cell_of(plan: Plan, defense: str, attack: str, seed: int = 0) -> Cell:
    return next(c for c in plan.cells if (c.defense, c.attack, c.seed) == (defense, attack, seed))


# --- the plan ---


def test_attacked_null_models_serve_all_schemes_keys_and_seeds(registry: Registry) -> None:
    schemes, chains = ["ewe", "adi", "baseline"], ["none", "retraining", "retraining | pruning"]
    plan = planned(registry, ["digits"], schemes, chains, seeds=(0, 1), nulls=3)
    attacked = [stage for stage in plan.stages.values() if stage.role == "attacked"]
    assert len(attacked) == 3 * 2 and all(stage.cell_seed is None for stage in attacked)
    assert sum(stage.action == "ask" for stage in plan.stages.values()) == 3 * 2 * (1 + 2 + 3)
    for cell in plan.cells:
        nulls, after = asked(plan, cell, "null"), asked(plan, cell, "attacked")
        assert [s.number for s in nulls] == [0, 1, 2] and all(s.model == s.base for s in nulls)
        assert len(after) == (0 if cell.attack == "none" else 3)
        assert all(now.base == before.model for now, before in zip(after, nulls, strict=False))
    assert plan.asked == sum(len(stage.suspects) for stage in plan.stages.values())


@dataclass(frozen=True)
class Informed(WhiteBoxAttack):
    name: ClassVar[str] = "informed"
    family: ClassVar[Family] = "removal"
    knows: ClassVar[Knowledge] = "key"

    def run(self, victim: Any, pool: Pool, ctx: Context) -> Any:
        raise NotImplementedError


def test_an_attack_that_knows_the_key_is_made_for_each_key(registry: Registry) -> None:
    datasets, defenses, _ = uses(registry, defenses=["ewe", "adi"])
    informed = (Component("attack", "informed", "0", Informed()),)
    plan = make_plan(datasets, defenses, [informed], (0, 1), 2, registry.component)
    attacked = [stage for stage in plan.stages.values() if stage.role == "attacked"]
    embeds = {stage.id for stage in plan.stages.values() if stage.action == "embed"}
    assert len(attacked) == 2 * 2 * 2 and {dict(stage.parents)["key"] for stage in attacked} == embeds
    for cell in plan.cells:
        keys = {dict(plan.stages[s.model].parents)["key"] for s in asked(plan, cell, "attacked")}
        assert keys == {roles(cell)["embed"]} and cell.knows == "key"
        assert not asked(plan, cell, "innocent"), "they were attacked with another key"


def test_innocents_are_fresh_models_same_data_other_recipes_and_other_owners(registry: Registry) -> None:
    arms = ["unmarked", "unmarked[optimizer=sgd]"]
    plan = planned(registry, ["digits"], ["ewe", *arms], ["none", "pruning"], seeds=(0, 1, 2))
    found = {
        attack: {(s.kind, s.number, s.arm) for s in asked(plan, cell_of(plan, "ewe", attack, 1), "innocent")}
        for attack in ("none", "pruning")
    }
    attacked = {
        ("fresh", 0, "unmarked"),
        ("fresh", 2, "unmarked"),
        ("other-owner", 0, "ewe"),
        ("other-owner", 2, "ewe"),
    }
    others = {("other-recipe", seed, "unmarked[optimizer=sgd]") for seed in (0, 2)}
    assert found["pruning"] == attacked
    assert found["none"] == attacked | {("same-data", 1, "unmarked"), *others}
    assert not any(c.defense == arms[1] and c.attack == "pruning" for c in plan.cells), "one of another recipe"
    for cell in plan.cells:
        if cell.defense in arms:
            assert not any(role.what in ("verify", "ask") for role, _ in cell.stages), "it has no key"


def test_a_key_is_asked_of_so_many_innocents_of_a_kind_and_all_in_turn(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(builder_module, "MAX_INNOCENTS", 2)
    plan = planned(registry, ["digits"], ["ewe"], ["pruning"], seeds=(3, 0, 1, 2))
    others = {cell.seed: [s.number for s in asked(plan, cell, "innocent")] for cell in plan.cells}
    assert others == {0: [1, 2], 1: [2, 3], 2: [3, 0], 3: [0, 1]}


def test_a_detector_searches_null_models_after_the_attacks_before_it(registry: Registry) -> None:
    plan = planned(registry, ["digits"], ["ewe"], ["neural-cleanse", "pruning | neural-cleanse"], nulls=2)
    of = {
        role: {id for id, s in plan.stages.items() if s.role == role and s.action in ("train", "attack")}
        for role in ("null", "attacked")
    }
    for role in ("null", "attacked"):
        searched = [s for s in plan.stages.values() if s.action == "detect" and s.role == role]
        assert {dict(s.parents)["model"] for s in searched} == of[role] and len(searched) == 2


def key_of_a_null_model(maker: StageMaker, dataset: Component, defense: Component, seed: int) -> str:
    return maker.add(
        *("embed", f"{dataset} {defense} #{seed}", dataset),
        seed=1,
        split_seed=1,
        plugin=defense,
        architecture=maker.architecture(dataset, defense.plugin),
        parents=(("clean", maker.null(dataset, defense, 0)),),
        role="victim",
        cell_seed=seed,
    )


def test_a_model_that_had_a_part_in_the_key_is_refused(
    registry: Registry, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(StageMaker, "embed", key_of_a_null_model)
    with pytest.raises(UsageError, match=r"digits null #0 had a part in the key of digits ewe #0"):
        planned(registry)
    error = cli("run", *axes(tmp_path / "new", "none"), code=2).err
    assert len(error.splitlines()) == 1 and "can be no model to compare with" in error
    assert not (tmp_path / "new").exists()


# --- the command line ---


def axes(results: Path, *attacks: str, defense: str = "baseline") -> list[object]:
    chosen = [part for attack in attacks for part in ("--attack", attack)]
    more = ("--seeds", "0", "--nulls", "2", "--no-innocents", "--results", results)
    return ["--dataset", TINY, "--defense", defense, *chosen, *more]


def test_an_attack_that_breaks_on_unmarked_models_alone_is_tried_again(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = actions.ACTIONS["attack"]

    def breaks(worker: Any, stage: Stage, parents: Any, engine: Any) -> Any:
        if stage.role == "attacked" and stage.index == 1:
            raise RuntimeError("no such luck")
        return whole(worker, stage, parents, engine)

    args = axes(tmp_path, "none", "pruning")
    with monkeypatch.context() as patch:
        patch.setitem(actions.ACTIONS, "attack", breaks)
        cli("run", *args, code=0)
        cells = harness.read_table(tmp_path, "cells").set_index("attack")
        assert set(cells["status"]) == {"ok"} and cells["attacked"].to_dict() == {"none": 0, "pruning": 1}
        assert "1 of 2 models to compare with are missing" in cells.loc["pruning", "reason"]
        (asking,) = (s for s in harness.read_table(tmp_path, "stages").itertuples() if "ask attacked" in s.label)
        assert not (tmp_path / "artifacts" / asking.stage[:2] / asking.stage).exists()
        assert "2 cells: 2 done\n" in cli("status", *args, code=0).out
        told = cli("why", f"{TINY} / baseline / pruning #0", *args, code=0).out
        assert "and a run tries it again: 1 of 2 models" in told
    assert ran(cli("run", *args, code=0).out) == 2  # the attack that broke, and the asking
    cells = harness.read_table(tmp_path, "cells").set_index("attack")
    assert cells["attacked"].to_dict() == {"none": 0, "pruning": 2} and set(cells["reason"]) == {""}
    assert cli("run", *args, code=0).out.startswith("nothing to do")


def test_a_model_that_was_skipped_is_waited_for_no_longer(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, results = actions.ACTIONS["embed"], tmp_path / "results"

    def skips(worker: Any, stage: Stage, parents: Any, engine: Any) -> Any:
        if stage.cell_seed == 1:
            raise Skip("no place for a patch")
        return whole(worker, stage, parents, engine)

    monkeypatch.setitem(actions.ACTIONS, "embed", skips)
    args = [*axes(results, "none", "pruning"), "--seeds", "0-1"]
    cli("run", *args, code=0)
    cells = harness.read_table(results, "cells").set_index(["seed", "attack"])
    assert set(cells.loc[0, "status"]) == {"ok"} and set(cells.loc[1, "status"]) == {"skipped"}
    assert set(cells.loc[0, "reason"]) == {""}, "the other owner's model will never be there"
    assert cli("run", *args, code=0).out.startswith("nothing to do")
    cli("record", "skipped", "--results", results, "--output", tmp_path / "record", code=0)
    told = cli("submit", tmp_path / "record", "--min-seeds", 1, "--min-nulls", 2)
    assert "its id is no digest" not in told.out + told.err


PICKY = '''
from harness import Context, Defense, Evidence, Key, Marked, Oracle, Split, Task

class Picky(Defense):
    """Knows its own model alone."""

    name = "picky"

    def embed(self, task: Task, ctx: Context) -> Marked:
        net, x = ctx.train(ctx.build(), [ctx.stream(task.train)], 1), task.train.x[:50]
        return Marked(net, Key({"trigger": Split(x, net.eval()(x).argmax(1))}))

    def verify(self, suspect: Oracle, key: Key) -> Evidence:
        evidence = super().verify(suspect, key)
        if evidence.counts["trigger"].matches < 45:
            raise RuntimeError("not mine")
        return evidence
'''


def test_a_scheme_that_breaks_on_unmarked_models_fails_its_cells(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "plugins").mkdir()
    (tmp_path / "plugins" / "picky.py").write_text(PICKY)
    args = axes(tmp_path / "results", "none", defense="picky")
    error = cli("run", *args, "--plugins", tmp_path / "plugins", code=1).err
    assert "picky: RuntimeError: not mine" in error
    stages = harness.read_table(tmp_path / "results", "stages").set_index("action")
    assert stages.loc["verify", "status"] == "ok" and stages.loc["ask", "status"] == "failed"


def test_rows_say_who_was_asked_and_how_good_a_model_it_is(cli: Cli, tmp_path: Path) -> None:
    args = axes(tmp_path, "none", "retraining | pruning")
    cli("run", *args, code=0)
    evidence = harness.read_table(tmp_path, "evidence")
    triggers = evidence[(evidence["probe"] == "trigger") & (evidence["attack"] != "none")].set_index("suspect")
    assert list(triggers.index.astype(str)) == ["victim", "surrogate", "null", "null", "attacked", "attacked"]
    assert set(evidence["arm"]) == {""} and list(triggers.loc["attacked", "index"]) == [0, 1]
    assert list(triggers.loc["attacked", "base_accuracy"]) == list(triggers.loc["null", "accuracy"])
    assert triggers.loc["surrogate", "base_accuracy"] == triggers.loc["victim", "accuracy"]
    assert triggers["accuracy"].between(0, 1).all()
    (cell,) = (c for c in harness.read_table(tmp_path, "cells").itertuples() if c.attack != "none")
    assert (cell.threat, cell.access, cell.knows, cell.labelled) == ("black-box", "white-box", "nothing", False)
    assert (cell.nulls, cell.attacked, cell.test_samples) == (2, 2, 300)
    assert cell.null_accuracy == pytest.approx(triggers.loc["null", "accuracy"].mean())


def test_a_plan_tells_how_many_pairs_it_asks(cli: Cli, tmp_path: Path) -> None:
    said = cli("plan", *axes(tmp_path, "none", "pruning"), code=0).out
    assert re.search(r"^asks 4 pairs of a key and a model$", said, re.MULTILINE)  # two null models, attacked or not
