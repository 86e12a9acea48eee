"""Why a stage is run again: the id says it, once the record keeps what the id is a digest of."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from harness.errors import UsageError
from harness.inspect.status import Survey
from harness.inspect.why import Answer, Asked
from harness.planning import inputs as inputs_module
from harness.planning import sources as sources_module
from harness.planning.builder import make_plan
from harness.planning.graph import Component, Kind, Plan, make_id
from harness.planning.inputs import LATER, ORDER, inputs_in, inputs_of
from harness.planning.matrix import Matrix, parse_chain, parse_entry
from harness.planning.registry import Registry, load_registry, resolve
from harness.planning.select import pick
from harness.storage.locks import Claims
from harness.storage.store import Store
from harness.storage.tables import Tables
from tests.conftest import TINY, Cli
from tests.history import edit, planned, record_of, store_plan, store_stages
from tests.test_session import SCHEME, arguments


@pytest.fixture(scope="module")
def registry() -> Iterator[Registry]:
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("HARNESS_PLUGINS", raising=False)
        yield load_registry()


def ask(plan: Plan, results: Path, what: str) -> Answer:
    store, tables = Store(results), Tables(results)
    return Asked(plan, "test", Survey(plan, store, tables, Claims(results))).answer(what)


def told(answer: Answer, name: str) -> list[str]:
    """The facts of one name."""
    return [text for each, text in answer.facts if each == name]


# --- ids and their inputs ---


def test_the_ids_are_those_of_the_first_version(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stored results stay found. With all sources and versions held still, only the scheme of ids is left."""
    monkeypatch.setattr(sources_module, "source_digest", lambda path: "digest")
    monkeypatch.setattr(inputs_module, "VERSIONS", dict.fromkeys(inputs_module.VERSIONS, 7))

    def still(use: Component) -> Component:
        return replace(use, digest="digest")

    def lookup(kind: Kind, text: str) -> Component:
        return still(registry.component(kind, text))

    matrix = Matrix(
        "test",
        (parse_entry("digits[train=200,holdout=50,epochs=3,pretrain=2]"),),
        tuple(map(parse_entry, ("baseline", "adi[start=pretrained]"))),
        tuple(map(parse_chain, ("none", "pruning[fraction=0.5]"))),
    )
    axes = resolve(registry, matrix)
    chains = [tuple(map(still, chain)) for chain in axes.chains]
    plan = make_plan([*map(still, axes.datasets)], [*map(still, axes.defenses)], chains, (0, 3), 1, lookup)
    first = {action: next(s.id for s in plan.stages.values() if s.action == action) for action in ("train", "verify")}
    assert first == {"train": "9f67a52bfee6015b9183d4ffbed2978e", "verify": "e13b31c55cb715e64abd91191dafa23d"}
    assert make_id(*(cell.id for cell in plan.cells)) == "851c80b3ab7689f60cd4b5eafffcdec5"


def test_a_stage_s_id_is_the_digest_of_its_inputs_in_every_process(registry: Registry) -> None:
    plan = planned(registry, ["ewe", "baseline"], ["none", "retraining | pruning", "neural-cleanse"])
    for stage in plan.stages.values():
        inputs = inputs_of(stage)
        assert make_id(*inputs.values()) == stage.id and tuple(inputs) == ORDER
        assert inputs_of(pickle.loads(pickle.dumps(stage))) == inputs
        assert inputs_in(stage.id, record_of(stage)) == inputs


def test_inputs_that_do_not_fit_the_id_are_not_believed(registry: Registry) -> None:
    stage = next(iter(planned(registry).stages.values()))
    record = record_of(stage)
    assert inputs_in(stage.id, record)
    assert inputs_in("0" * 32, record) is None
    for inputs in (
        None,
        [],
        {},
        {**record["inputs"], "seed": 1},
        {**record["inputs"], "parents": [3]},
        {"parents": {}},
    ):
        assert inputs_in(stage.id, {**record, "inputs": inputs}) is None


# --- what changed ---


@pytest.mark.parametrize(
    ("edited", "asked", "text", "where"),
    [
        ("ewe", "embed", "the source of the defense ewe was edited (digest ", "embed: digits ewe #0"),
        ("ewe", "attack", "the source of the defense ewe was edited (digest ", "embed: digits ewe #0"),
        ("retraining", "attack", "the source of the attack retraining was edited", "attack: digits ewe retraining #0"),
        ("digits", "attack", "the source of the dataset digits was edited", "train: digits clean #0"),
        ("cnn", "embed", "the source of the architecture cnn was edited", "train: digits clean #0"),
    ],
)
def test_an_edited_plugin_is_named_with_the_first_stage_that_uses_it(
    registry: Registry, tmp_path: Path, edited: str, asked: str, text: str, where: str
) -> None:
    store_plan(tmp_path, planned(registry, attacks=["retraining"]))
    plan = planned(registry, attacks=["retraining"], edited=[edited])
    title = next(f"{s.action}: {s.label}" for s in plan.stages.values() if s.action == asked)
    answer = ask(plan, tmp_path, title)
    (because,) = told(answer, "because")
    assert because.startswith(text) and "edited!! now)" in because
    assert because.endswith(f"; first in {where}") or (where == title and because.endswith("now)"))
    assert told(answer, "status")[0].startswith("waits for")
    (whole,) = told(ask(plan, tmp_path, "digits / ewe / retraining #0"), "because")
    assert whole == f"{because.partition('; first in ')[0]}; first in {where}"


def test_a_raised_version_an_edited_recipe_and_two_edits_at_once_are_told(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store_plan(tmp_path, planned(registry))
    with monkeypatch.context() as patch:
        patch.setitem(inputs_module.VERSIONS, "embed", 99)
        answer = ask(planned(registry), tmp_path, "digits / ewe / none #0")
        assert "the harness computes it in another way (version " in told(answer, "because")[0]
        assert told(answer, "because")[0].endswith(" before, 99 now); first in embed: digits ewe #0")
    with monkeypatch.context() as patch:
        patch.setattr(sources_module, "source_digest", lambda path: "another!")
        answer = ask(planned(registry), tmp_path, "digits / ewe / none #0")
        assert told(answer, "because")[0].startswith("the source of the recipe PatchTriggers() was edited (digest ")
        assert "; first in triggers: " in told(answer, "because")[0]
    answer = ask(planned(registry, edited=["ewe", "pruning"]), tmp_path, "digits / ewe / retraining | pruning #0")
    assert [text.partition(" was edited")[0] for text in told(answer, "because")] == [
        "the source of the defense ewe",
        "the source of the attack pruning",
    ]


def test_a_scheme_that_an_attack_on_unmarked_models_is_told_is_an_input(registry: Registry, tmp_path: Path) -> None:
    plan = planned(registry, attacks=["overwriting"])
    (stage,) = [each for each in plan.stages.values() if each.scheme is not None]
    assert tuple(inputs_of(stage)) == (*ORDER, *LATER) and inputs_in(stage.id, record_of(stage)) == inputs_of(stage)
    store_plan(tmp_path, plan)
    edited = planned(registry, attacks=["overwriting"], edited=["ewe"])
    (because,) = told(ask(edited, tmp_path, f"attack: {stage.label}"), "because")
    assert because.startswith("the source of the defense ewe was edited")
    before = replace(stage, scheme=None)
    store_stages(tmp_path / "older", [replace(before, id=make_id(*inputs_of(before).values()))])
    (because,) = told(ask(plan, tmp_path / "older", f"attack: {stage.label}"), "because")
    assert because == "its scheme is another one (none before, defense ewe now)"


def test_what_was_never_there_is_no_change(registry: Registry, tmp_path: Path) -> None:
    plan = planned(registry)
    answer = ask(plan, tmp_path, "embed: digits ewe #0")
    assert not told(answer, "because") and told(answer, "before") == ["none of its name is stored"]
    assert told(answer, "status") == ["waits for clean and triggers"]
    assert not list(tmp_path.iterdir())


def test_a_record_without_its_inputs_says_that_they_are_not_known(registry: Registry, tmp_path: Path) -> None:
    store_stages(tmp_path, planned(registry).stages.values(), inputs=None)
    answer = ask(planned(registry, edited=["ewe"]), tmp_path, "embed: digits ewe #0")
    (because,) = told(answer, "because")
    assert "it is not known what it was made of before" in because


def test_of_several_before_the_latest_is_compared(registry: Registry, tmp_path: Path) -> None:
    store_plan(tmp_path, planned(registry), started="2026-11-20T10:00:00+00:00")
    store_plan(tmp_path, planned(registry, edited=["digits"]), "run-2", started="2026-11-21T10:00:00+00:00")
    answer = ask(planned(registry, edited=["digits", "ewe"]), tmp_path, "digits / ewe / none #0")
    assert [text.partition(" was")[0] for text in told(answer, "because")] == ["the source of the defense ewe"]


# --- how it stands ---


def test_a_stage_says_what_it_is_made_from_and_who_needs_it(registry: Registry, tmp_path: Path) -> None:
    plan = planned(registry)
    store_plan(tmp_path, plan)
    answer = ask(plan, tmp_path, "embed: digits ewe #0")
    assert told(answer, "status") == ["done, made on 2026-11-20 10:00:00 UTC, in 2.0 s"]
    assert told(answer, "needed by") == ["2 cells, such as digits / ewe / none #0"]
    assert [part.role for part in answer.parts] == ["clean", "triggers"]
    (again,) = answer.parts[1].parts
    assert again.role == "clean" and again.id == answer.parts[0].id


def test_a_failed_stage_says_its_reason_and_what_follows_is_skipped(registry: Registry, tmp_path: Path) -> None:
    plan = planned(registry)
    first, *rest = plan.stages.values()
    store_stages(tmp_path, [first], status="failed", reason="digits: RuntimeError: no luck\nat all")
    answer = ask(plan, tmp_path, first.id[:6])
    assert told(answer, "status")[0].startswith("failed, and a run tries it again: digits: RuntimeError: no luck")
    embed = next(stage for stage in rest if stage.action == "embed")
    assert told(ask(plan, tmp_path, embed.id), "status")[0].startswith("skipped: digits: RuntimeError: no luck")
    assert told(ask(plan, tmp_path, "digits / ewe / none #0"), "status")[0].startswith("failed, and a run tries it ")


def test_an_artifact_that_the_plan_no_longer_has_is_compared_with_its_successor(
    registry: Registry, tmp_path: Path
) -> None:
    before, plan = planned(registry), planned(registry, edited=["ewe"])
    store_plan(tmp_path, before)
    old = next(stage for stage in before.stages.values() if stage.action == "embed")
    answer = ask(plan, tmp_path, old.id)
    assert answer.title == "embed: digits ewe #0" and "of no cell of the matrix test" in told(answer, "status")[0]
    assert "the source of the defense ewe was edited" in told(answer, "because")[0]
    assert told(answer, "now")[0].endswith(", waiting")
    assert [part.state for part in answer.parts] == ["done", "done"]


def test_a_damaged_artifact_is_told(registry: Registry, tmp_path: Path) -> None:
    plan = planned(registry)
    store_stages(tmp_path, plan.stages.values())
    stage = next(iter(plan.stages.values()))
    (Store(tmp_path).path(stage.id) / "record.json").write_text("{}")
    assert "the checksum does not hold: computed again" in told(ask(plan, tmp_path, stage.id), "status")[0]
    stranger = planned(registry, ["adi"])
    assert told(ask(stranger, tmp_path, stage.id), "status")  # shared by both plans
    (Store(tmp_path).path("f" * 32)).mkdir(parents=True)
    assert told(ask(plan, tmp_path, "f" * 32), "status")[0].startswith("damaged: ")


# --- naming one ---


def test_one_is_named_by_id_beginning_or_words() -> None:
    ids = {"ab1": 1, "ab2": 2, "cd3": 3}
    names = {"one #0": "ab1", "two #0": "ab2"}
    assert [pick("cell", text, ids, names) for text in ("ab1", "AB2", "c", " two   #0 ")] == [1, 2, 3, 2]
    with pytest.raises(UsageError, match=r"'ab' begins the ids of 2: ab1 \(one #0\); ab2 \(two #0\)"):
        pick("cell", "ab", ids, names)
    with pytest.raises(UsageError, match="unknown cell 'twos #0'. Did you mean 'two #0'?"):
        pick("cell", "twos #0", ids, names)
    with pytest.raises(UsageError, match="unknown cell ''"):
        pick("cell", "", ids, names)


# --- the command line ---


def test_the_command_tells_what_an_edit_did(cli: Cli, tmp_path: Path) -> None:
    plugins, results = tmp_path / "plugins", tmp_path / "results"
    plugins.mkdir()
    (plugins / "noise.py").write_text(SCHEME)
    args = [*arguments(results, "noise"), "--plugins", plugins]
    cli("run", *args, code=0)
    cell = f"{TINY} / baseline / noise #0"
    said = cli("why", cell, *args, code=0).out
    assert said.startswith(cell) and "status     done\n" in said
    edit(plugins / "noise.py", "self.strength *", "2 * self.strength *")
    said = cli("why", cell, *args, code=0).out
    assert "of its 8 stages: 5 done, 3 waiting" in said
    assert "the source of the attack noise was edited (digest " in said
    assert f"first in attack: {TINY} baseline noise #0\n" in said
    error = cli("why", cell.replace("noise", "nois"), *args, code=2).err
    assert len(error.splitlines()) == 1 and f"Did you mean '{cell}'?" in error
