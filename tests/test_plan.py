"""The plan: a stage's id changes with what decides its output and with nothing else, and each stage is there once."""

from __future__ import annotations

import hashlib
import os
import pickle
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness import Context, Detection, Detector, Pool, UsageError
from harness.errors import UnknownName
from harness.planning import sources as sources_module
from harness.planning.builder import make_plan
from harness.planning.graph import VERSIONS, Cell, Component, Plan, Stage, derive_seed, make_id
from harness.planning.matrix import Entry, Matrix, parse_chain, parse_entry
from harness.planning.registry import Registry, load_registry, resolve

law = settings(deadline=None, max_examples=60, database=None, derandomize=True)

DATASETS = ["digits", "photo-patches", "mnist"]
DEFENSES = ["baseline", "baseline[placement=gradient]", "ewe", "adi"]
ATTACKS = ["none", "retraining", "pruning[fraction=0.5]", "retraining | pruning", "retraining | fine-tuning"]

Uses = tuple[list[Component], list[Component], list[tuple[Component, ...]]]


@pytest.fixture(scope="module")
def registry() -> Iterator[Registry]:
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("HARNESS_PLUGINS", raising=False)
        yield load_registry()


def uses(
    registry: Registry,
    datasets: Sequence[str] = ("digits",),
    defenses: Sequence[str] = ("ewe",),
    attacks: Sequence[str] = ("none",),
) -> Uses:
    """The axes of a matrix, resolved."""
    entries = (tuple(map(parse_entry, axis)) for axis in (datasets, defenses))
    axes = resolve(registry, Matrix("test", *entries, tuple(map(parse_chain, attacks))))
    return axes.datasets, axes.defenses, axes.chains


def planned(registry: Registry, *axes: Sequence[str], seeds: Sequence[int] = (0,), nulls: int = 1) -> Plan:
    """The plan of datasets, defenses and attacks given as text."""
    return make_plan(*uses(registry, *axes), seeds, nulls, registry.component)


def roles(cell: Cell) -> dict[str, str]:
    """The ids of a cell's stages, by role as text."""
    return {str(role): id for role, id in cell.stages}


def of(plan: Plan, action: str, text: str = "") -> list[Stage]:
    """The stages of one action whose label holds ``text``."""
    return [stage for stage in plan.stages.values() if stage.action == action and text in stage.label]


def changes(before: Plan, after: Plan) -> list[tuple[Stage, Stage]]:
    """The stages of two plans of equal shape whose ids differ."""
    pairs = list(zip(before.stages.values(), after.stages.values(), strict=True))
    assert all(old.action == new.action for old, new in pairs)
    return [(old, new) for old, new in pairs if old.id != new.id]


def changed(before: Plan, after: Plan) -> Counter[str]:
    """How many stages of each action changed."""
    return Counter(old.action for old, _ in changes(before, after))


def check_only_followers_changed(before: Plan, after: Plan, edited: set[str]) -> None:
    """Exactly the ``edited`` stages of ``before``, and what follows from them, have new ids in ``after``."""
    expected = set(edited)
    for stage in before.stages.values():
        if expected & {id for _, id in stage.parents}:
            expected.add(stage.id)
    assert {old.id for old, _ in changes(before, after)} == expected
    assert expected and expected != set(before.stages)


def with_digest(axes: Uses, name: str) -> Uses:
    """The same axes, the source of the plugin ``name`` edited."""

    def edit(use: Component) -> Component:
        return replace(use, digest="edited") if use.plugin.name == name else use

    datasets, defenses, chains = axes
    return [edit(d) for d in datasets], [edit(d) for d in defenses], [tuple(map(edit, c)) for c in chains]


# --- ids ---


def test_the_same_matrix_has_the_same_ids_with_plugins_loaded_anew(registry: Registry) -> None:
    first = planned(registry, DATASETS, DEFENSES, ATTACKS, seeds=(0, 1), nulls=2)
    again = planned(load_registry(), DATASETS, DEFENSES, ATTACKS, seeds=(0, 1), nulls=2)
    assert list(first.stages) == list(again.stages)
    assert [cell.id for cell in first.cells] == [cell.id for cell in again.cells]


def test_the_same_matrix_has_the_same_ids_in_processes_that_hash_differently(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "harness", "plan", "--matrix", "smoke", "--stages"]

    def say(hash_seed: str) -> bytes:
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
        return subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, check=True).stdout

    assert say("1") == say("2")


@settings(law, max_examples=15)
@given(st.permutations(DATASETS), st.permutations(DEFENSES), st.permutations(ATTACKS), st.permutations([0, 1, 7]))
def test_the_order_of_the_axes_does_not_matter(
    registry: Registry, datasets: list[str], defenses: list[str], attacks: list[str], seeds: list[int]
) -> None:
    straight = planned(registry, DATASETS, DEFENSES, ATTACKS, seeds=(0, 1, 7))
    shuffled = planned(registry, datasets, defenses, attacks, seeds=seeds)
    assert set(straight.stages) == set(shuffled.stages)
    assert {cell.id for cell in straight.cells} == {cell.id for cell in shuffled.cells}


def test_how_an_option_is_written_does_not_matter(registry: Registry) -> None:
    default = registry.component("attack", "pruning").plugin.fraction
    plain = planned(registry, ["digits"], ["ewe[weight=64]"], ["pruning"])
    assert planned(registry, ["digits"], ["ewe[weight=64.0]"], [f"pruning[fraction={default}]"]) == plain
    assert planned(registry, ["digits"], [" ewe[ weight = 6.4e1 ]"], ["pruning[layers=all]"]) == plain


@pytest.mark.parametrize(
    ("attack", "edited", "expected"),
    [
        ("retraining", "retraining[epochs=3]", {"attack": 3, "verify": 2, "ask": 2}),
        ("retraining | pruning", "retraining | pruning[fraction=0.5]", {"attack": 3, "verify": 2, "ask": 2}),
        ("retraining | pruning", "retraining[answers=probabilities] | pruning", {"attack": 6, "verify": 2, "ask": 2}),
    ],
)
def test_an_option_of_an_attack_changes_its_stages_and_what_follows(
    registry: Registry, attack: str, edited: str, expected: dict[str, int]
) -> None:
    others = ["none", "pruning", "fine-tuning"]
    before = planned(registry, ["digits"], ["ewe", "adi"], [*others, attack])
    after = planned(registry, ["digits"], ["ewe", "adi"], [*others, edited])
    assert changed(before, after) == expected  # of two schemes, and of the null model that both share


def test_an_option_of_a_defense_changes_its_victim_and_what_follows(registry: Registry) -> None:
    before = planned(registry, ["digits"], ["baseline", "ewe"], ["retraining"], nulls=2)
    after = planned(registry, ["digits"], ["baseline", "ewe[ratio=2]"], ["retraining"], nulls=2)
    assert changed(before, after) == {"embed": 1, "attack": 1, "verify": 2, "ask": 2}
    assert all("baseline" not in new.label for _, new in changes(before, after))


def test_an_option_of_a_dataset_changes_all_its_stages_and_no_other_s(registry: Registry) -> None:
    before = planned(registry, ["digits", "photo-patches"], DEFENSES, ATTACKS)
    after = planned(registry, ["digits[epochs=30]", "photo-patches"], DEFENSES, ATTACKS)
    of_digits = {stage.id for stage in before.stages.values() if stage.dataset.text == "digits"}
    assert {old.id for old, _ in changes(before, after)} == of_digits


def test_a_raised_version_changes_the_stages_of_its_action_and_what_follows(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = planned(registry, ["digits"], DEFENSES, ATTACKS)
    monkeypatch.setitem(VERSIONS, "attack", VERSIONS["attack"] + 1)
    after = planned(registry, ["digits"], DEFENSES, ATTACKS)
    check_only_followers_changed(before, after, {stage.id for stage in of(before, "attack")})


# --- source digests ---


@pytest.mark.parametrize("name", ["retraining", "pruning", "ewe", "adi", "photo-patches"])
def test_an_edited_plugin_changes_its_own_stages_and_what_follows(registry: Registry, name: str) -> None:
    axes = uses(registry, ["digits", "photo-patches"], DEFENSES, ATTACKS)
    before = make_plan(*axes, (0, 1), 1, registry.component)
    after = make_plan(*with_digest(axes, name), (0, 1), 1, registry.component)
    own = {s.id for s in before.stages.values() if name in {u.plugin.name for u in (s.dataset, s.plugin) if u}}
    check_only_followers_changed(before, after, own)


def test_an_edited_architecture_changes_the_stages_that_build_it(registry: Registry) -> None:
    axes = uses(registry, ["digits"], ["ewe"], ["retraining", "retraining[architecture=mlp] | pruning"])
    before = make_plan(*axes, (0,), 1, registry.component)

    def lookup(kind: Any, text: str) -> Component:
        return replace(
            registry.component(kind, text), digest="edited" if text == "mlp" else registry.component(kind, text).digest
        )

    after = make_plan(*axes, (0,), 1, lookup)
    built = [stage for stage in of(before, "attack") if stage.architecture and stage.architecture.text == "mlp"]
    assert [stage.role for stage in built] == ["surrogate", "attacked"]
    check_only_followers_changed(before, after, {stage.id for stage in built})


def test_an_edited_recipe_changes_the_triggers_and_what_follows(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = planned(registry, ["digits"], DEFENSES, ATTACKS)
    monkeypatch.setattr(sources_module, "source_digest", lambda path: "edited")
    after = planned(registry, ["digits"], DEFENSES, ATTACKS)
    check_only_followers_changed(before, after, {stage.id for stage in of(before, "triggers")})


# --- sharing ---


def test_the_victim_is_shared_by_all_attacks(registry: Registry) -> None:
    plan = planned(registry, ["digits"], ["ewe"], ATTACKS)
    (embed,) = of(plan, "embed")
    assert {roles(cell)["embed"] for cell in plan.cells} == {embed.id}
    (null,) = of(plan, "train", "null")
    victims = {(stage.role, dict(stage.parents)["embed"]) for stage in of(plan, "attack")}
    assert victims == {("surrogate", embed.id), ("attacked", null.id)}


def test_the_prefix_of_a_chain_is_shared(registry: Registry) -> None:
    chains = ["retraining", "retraining | pruning", "retraining | pruning | fine-tuning", "pruning"]
    plan = planned(registry, ["digits"], ["ewe"], chains)
    first = [roles(cell)["attack:0"] for cell in plan.cells]
    assert first[0] == first[1] == first[2] != first[3]
    assert roles(plan.cells[1])["attack:1"] == roles(plan.cells[2])["attack:1"]
    assert Counter(stage.role for stage in of(plan, "attack")) == {"surrogate": 4, "attacked": 4}


def test_each_link_of_a_chain_starts_from_the_one_before(registry: Registry) -> None:
    (cell,) = (plan := planned(registry, ["digits"], ["ewe"], ["retraining | pruning"])).cells
    found = roles(cell)
    models = [dict(plan.stages[found[role]].parents)["model"] for role in ("attack:0", "attack:1", "verify:surrogate")]
    assert models == [found["embed"], found["attack:0"], found["attack:1"]]
    assert found["surrogate"] == found["attack:1"]


def test_without_an_attack_the_victim_itself_is_the_suspect(registry: Registry) -> None:
    (cell,) = planned(registry).cells
    found = roles(cell)
    assert found["surrogate"] == found["embed"] and found["verify:surrogate"] == found["verify:victim"]


def test_null_models_are_shared_by_all_defenses_and_seeds(registry: Registry) -> None:
    plan = planned(registry, ["digits"], DEFENSES, ATTACKS, seeds=(0, 1, 2), nulls=2)
    asked = [plan.stages[roles(cell)["ask:null"]] for cell in plan.cells]
    nulls = {suspect.model for stage in asked for suspect in stage.suspects}
    assert nulls == {stage.id for stage in of(plan, "train", "null")} and len(nulls) == 2
    assert all(plan.stages[id].epochs == plan.stages[id].dataset.plugin.epochs for id in nulls)


def test_the_clean_model_is_shared_by_the_defenses_of_a_seed(registry: Registry) -> None:
    plan = planned(registry, ["digits"], ["baseline", "ewe", "adi[start=pretrained]"], seeds=(0, 1))
    clean = of(plan, "train", "clean")
    assert [stage.epochs for stage in clean] == [clean[0].dataset.plugin.pretrain] * 2
    assert {dict(stage.parents)["clean"] for stage in of(plan, "embed")} == {stage.id for stage in clean}


@pytest.mark.parametrize("dataset", DATASETS)
def test_the_baseline_with_gradient_placement_and_ewe_share_the_triggers(registry: Registry, dataset: str) -> None:
    plan = planned(registry, [dataset], ["baseline[placement=gradient]", "ewe"])
    (triggers,) = of(plan, "triggers")
    assert {dict(stage.parents)["triggers"] for stage in of(plan, "embed")} == {triggers.id}
    assert len(of(planned(registry, [dataset], ["baseline", "ewe"]), "triggers")) == 2


@law
@given(
    st.lists(st.sampled_from(DATASETS), min_size=1, unique=True),
    st.lists(st.sampled_from(DEFENSES), min_size=1, unique=True),
    st.lists(st.sampled_from(ATTACKS), min_size=1, unique=True),
    st.lists(st.integers(0, 99), min_size=1, max_size=3, unique=True),
    st.integers(0, 3),
)
def test_a_plan_is_every_cell_and_its_stages_once_parents_first(
    registry: Registry, datasets: list[str], defenses: list[str], attacks: list[str], seeds: list[int], nulls: int
) -> None:
    plan = planned(registry, datasets, defenses, attacks, seeds=seeds, nulls=nulls)
    place = {id: i for i, id in enumerate(plan.stages)}
    assert all(place[parent] < place[id] for id, stage in plan.stages.items() for _, parent in stage.parents)
    assert all(id == stage.id for id, stage in plan.stages.items())
    needed = {id for cell in plan.cells for _, id in cell.stages}
    for stage in reversed(plan.stages.values()):
        needed |= {id for _, id in stage.parents} if stage.id in needed else set()
    assert needed == set(plan.stages)
    axes = (datasets, defenses, attacks, seeds)
    assert len({cell.id for cell in plan.cells}) == len(plan.cells) == prod(map(len, axes))
    assert not any(cell.skip for cell in plan.cells)


# --- seeds and digests ---

parts = st.lists(st.integers(0, 10**9) | st.text("abcdefgh", min_size=1, max_size=6), min_size=1, max_size=4)


@law
@given(parts, parts)
def test_a_derived_seed_depends_on_all_its_parts(one: list[str | int], other: list[str | int]) -> None:
    assert 0 <= derive_seed(*one) < 2**63
    assert (derive_seed(*one) == derive_seed(*other)) == (one == other)


@law
@given(st.lists(st.text("1:a"), max_size=4), st.lists(st.text("1:a"), max_size=4))
def test_no_two_lists_of_parts_have_one_id(one: list[str], other: list[str]) -> None:
    assert len(make_id(*one)) == 32
    assert (make_id(*one) == make_id(*other)) == (one == other)


def test_parts_are_not_run_together() -> None:
    assert make_id("ab", "c") != make_id("a", "bc") != make_id("abc") != make_id("", "abc")


def test_seeds_stay_what_they_were() -> None:
    """Published numbers come from these seeds: another derivation would be other numbers."""
    assert derive_seed("seed", 0, "embed") == 2147225472469325217
    assert derive_seed("null", 2, "train") == 5540283931414971343


def test_a_seed_does_not_depend_on_options(registry: Registry) -> None:
    plan = planned(registry, ["digits"], ["ewe", "ewe[weight=64]", "adi"], ["pruning", "pruning[fraction=0.5]"])
    assert len({stage.seed for stage in of(plan, "embed")}) == 1
    attacks = {(stage.role, stage.seed) for stage in of(plan, "attack")}
    assert {role for role, _ in attacks} == {"surrogate", "attacked"} and len(attacks) == 2


def test_what_is_drawn_apart_has_seeds_of_its_own(registry: Registry) -> None:
    plan = planned(registry, ["digits"], ["ewe"], ["retraining | pruning"], seeds=(0, 1), nulls=2)
    drawn = [stage.seed for stage in plan.stages.values() if stage.action not in ("verify", "ask")]
    assert len(drawn) == len(set(drawn)) == 16


def test_all_stages_of_a_seed_split_the_data_alike_and_null_models_otherwise(registry: Registry) -> None:
    plan = planned(registry, ["digits"], DEFENSES, ["retraining"], seeds=(0, 1), nulls=2)
    attacked = [stage for stage in of(plan, "attack") if stage.role == "attacked"]
    of_victims = [stage for stage in of(plan, "attack") if stage.role == "surrogate"]
    owners = {stage.split_seed for stage in (*of(plan, "embed"), *of(plan, "triggers"), *of_victims)}
    clean = {stage.split_seed for stage in of(plan, "train", "clean")}
    nulls = {stage.split_seed for stage in of(plan, "train", "null")}
    assert nulls == {stage.split_seed for stage in attacked}
    assert owners == clean and len(owners) == len(nulls) == 2 and not owners & nulls


# --- what cannot be ---


@pytest.mark.parametrize(
    ("dataset", "defense", "attack", "reason"),
    [
        (
            "digits",
            "adi",
            "retraining[pool=disjoint]",
            "pool=disjoint needs 1347 more training samples than digits has",
        ),
        ("digits[ood=]", "adi", "retraining[pool=ood]", "digits[ood=] names no out-of-distribution dataset"),
        ("digits[ood=]", "ewe[origin=out-of-distribution]", "none", "names no out-of-distribution dataset"),
        ("digits[patch=8]", "baseline", "none", "baseline: patch=8 does not fit inputs of 8 x 8"),
        ("digits[batch_size=2]", "ewe", "none", "ewe: batch_size must be at least 4"),
        ("digits", "adi", "none | retraining[pool=disjoint] | pruning", "retraining[pool=disjoint]: pool=disjoint"),
    ],
)
def test_a_cell_that_cannot_be_is_skipped_with_the_reason(
    registry: Registry, dataset: str, defense: str, attack: str, reason: str
) -> None:
    plan = planned(registry, [dataset, "mnist[train=100]"], [defense], [attack])
    skipped, run = plan.cells
    assert reason in skipped.skip and not skipped.stages
    assert not run.skip and {stage.dataset.text for stage in plan.stages.values()} == {"mnist[train=100]"}


def test_a_pool_that_just_fits_is_not_skipped(registry: Registry) -> None:
    plan = planned(
        registry,
        ["digits[train=700,holdout=97]", "digits[train=700,holdout=98]"],
        ["adi"],
        ["retraining[pool=disjoint]"],
    )
    assert [bool(cell.skip) for cell in plan.cells] == [False, True]


@pytest.mark.parametrize(
    ("axes", "said"),
    [
        ((["digits"], ["adi"], ["retraining[pool=minst]"]), "unknown dataset 'minst'. Did you mean 'mnist'?"),
        ((["digits"], ["adi"], ["retraining[architecture=cn]"]), "unknown architecture 'cn'. Did you mean 'cnn'?"),
        ((["digits[architecture=cn]"], ["adi"]), "unknown architecture 'cn'. Did you mean 'cnn'?"),
        ((["digits[ood=mnits]"], ["adi"], ["retraining[pool=ood]"]), "unknown dataset 'mnits'. Did you mean 'mnist'?"),
    ],
)
def test_a_name_inside_an_option_is_checked(registry: Registry, axes: tuple[list[str], ...], said: str) -> None:
    with pytest.raises(UnknownName) as caught:
        planned(registry, *axes)
    assert said in str(caught.value)


@dataclass(frozen=True)
class Spy(Detector):
    name: ClassVar[str] = "spy"

    def run(self, suspect: Any, pool: Pool, ctx: Context) -> Detection:
        raise NotImplementedError


SPY = Component("attack", "spy", "0", Spy())


def test_a_detection_must_be_the_last_link(registry: Registry) -> None:
    datasets, defenses, [(pruning,)] = uses(registry, attacks=["pruning"])
    with pytest.raises(UsageError, match=r"detection must be the last link of a chain: 'spy \| pruning'"):
        make_plan(datasets, defenses, [(SPY, pruning)], (0,), 1, registry.component)


def test_a_detection_looks_at_what_the_chain_ended_with_and_leaves_it(registry: Registry) -> None:
    datasets, defenses, [(pruning,)] = uses(registry, attacks=["pruning"])
    plan = make_plan(datasets, defenses, [(pruning, SPY), (SPY,)], (0,), 0, registry.component)
    after, alone = map(roles, plan.cells)
    assert after["surrogate"] == after["attack:0"] == dict(plan.stages[after["detect:surrogate:0"]].parents)["model"]
    assert alone["surrogate"] == alone["embed"] and alone["verify:surrogate"] == alone["verify:victim"]
    assert [cell.family for cell in plan.cells] == ["removal+detection", "detection"]


@pytest.mark.parametrize(
    ("attack", "family", "access"),
    [
        ("none", "none", "none"),
        ("retraining", "extraction", "black-box"),
        ("retraining | pruning", "extraction+removal", "white-box"),
        ("pruning | fine-tuning", "removal", "white-box"),
        ("pruning | retraining", "removal+extraction", "black-box"),
    ],
)
def test_a_cell_names_the_chain_s_families_and_last_access(
    registry: Registry, attack: str, family: str, access: str
) -> None:
    (cell,) = planned(registry, ["digits"], ["adi"], [attack]).cells
    assert (cell.family, cell.access) == (family, access)


# --- pickling: executors send plans to other processes ---

UNPICKLE = """
import pickle, sys
from harness.planning.registry import load_registry
load_registry()
plan = pickle.load(sys.stdin.buffer)
print(*(f"{stage.id} {stage.dataset.plugin.epochs}" for stage in plan.stages.values()), sep="\\n")
"""


def test_unmarked_models_go_through_an_attack_that_knows_the_scheme_once_for_all_its_keys(registry: Registry) -> None:
    schemes, nulls = ["adi", "adi[count=50]", "uchida"], 2
    plan = planned(registry, ["digits"], schemes, ["retraining | overwriting"], seeds=(0, 1, 2), nulls=nulls)
    of_nulls = [stage for stage in plan.stages.values() if stage.action == "attack" and stage.index is not None]
    told = Counter(str(stage.scheme) for stage in of_nulls)
    assert told == {"None": nulls, **dict.fromkeys(schemes, nulls)}
    asked = {cell.seed: dict(cell.stages) for cell in plan.cells if cell.defense == "adi"}
    of_adi = {stage.id for stage in of_nulls if str(stage.scheme) == "adi"}
    for roles in asked.values():
        (ask,) = [id for role, id in roles.items() if str(role) == "ask:attacked"]
        assert of_adi == {suspect.model for suspect in plan.stages[ask].suspects}


def test_a_plan_is_picklable_and_the_same_in_another_process() -> None:
    plan = planned(load_registry(), DATASETS, DEFENSES, ATTACKS, seeds=(0, 1))
    data = pickle.dumps(plan)
    assert pickle.loads(data) == plan
    there = subprocess.run([sys.executable, "-c", UNPICKLE], input=data, capture_output=True, check=True).stdout
    assert there.decode().split("\n")[:-1] == [f"{s.id} {s.dataset.plugin.epochs}" for s in plan.stages.values()]


def test_the_text_of_every_use_gives_the_same_use(registry: Registry) -> None:
    for entry in (
        Entry("digits", (("ood", ""), ("learning_rate", 1), ("refine", True))),
        "digits[train=10,holdout=1]",
        Entry("photo-patches", (("architecture", "cnn[width=8,dropout=0.5]"),)),
    ):
        use = registry.component("dataset", entry)
        assert registry.component("dataset", use.text) == use
        assert registry.component("dataset", use.text).plugin == use.plugin


def test_inputs_of_another_kind_cannot_stand_for_the_tasks_own(registry: Registry) -> None:
    (cell,) = planned(registry, ["digits"], ["adi"], ["retraining[pool=speech-commands-one]"]).cells
    assert cell.skip == (
        "retraining[pool=speech-commands-one]: speech-commands-one's inputs are of another kind than digits's: "
        "-8.0 to 8.0, not 0.0 to 1.0"
    )
    (cell,) = planned(registry, ["speech-commands-mini"], ["adi"], ["retraining[pool=ood]"]).cells
    assert not cell.skip


def test_the_ids_of_quick_are_those_of_version_0_1(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    """Moving code moves no id: with files for sources and 0.1's versions of actions, its `quick` has its old ids.

    Without what 0.1 had not, attacked null models and what all null models are asked together; and without what it had
    in their place, a verification and a judgement of each.
    """
    for action in ("embed", "attack"):  # 0.2 computes more in them
        monkeypatch.setitem(VERSIONS, action, 3)
    monkeypatch.setattr(sources_module, "source_digest", lambda path: Path(path).name)
    monkeypatch.delenv("HARNESS_PLUGINS", raising=False)
    schemes = map(parse_entry, ("baseline", "baseline[placement=gradient]", "ewe", "adi"))
    names = ("none", "retraining", "fine-tuning", "pruning", "retraining | pruning", "query-filter", "neural-cleanse")
    chains = tuple(map(parse_chain, names))
    own, matrix = load_registry(), Matrix("quick", (Entry("digits"),), tuple(schemes), chains, (0, 1, 2))
    axes = resolve(own, matrix)
    plan = make_plan(axes.datasets, axes.defenses, axes.chains, matrix.seeds, 3, own.component)
    stages = plan.stages.items()
    old = sorted(id for id, s in stages if s.action not in ("ask", "judge") and s.role != "attacked")
    assert (len(old), _digest(old)) == (171, "38bb6fc4758c1cd6042b40ff6b0d02e89df565e9b7f0a3172d37b640b3c6a272")
    assert (len(plan.cells), len(plan.stages)) == (84, 354)


def _digest(ids: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(ids).encode()).hexdigest()
