"""Plugin files: those written for version 0.1 keep working, and the smallest one of today is small."""

from __future__ import annotations

import ast
import os
import pickle
import shutil
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import pytest
import torch

import harness
from harness import Key, Oracle, Probe, Split, TriggerRecipe, contracts
from harness.planning.options import options_of
from harness.planning.registry import Registry, load_registry
from tests.conftest import TINY, Cli

OLD = Path(__file__).parent / "plugins_0_1"
SMALLEST = Path(__file__).parent / "plugins_smallest"

# --- version 0.1 ------------------------------------------------------------------------------------------------------

RECIPE = {"test": 0, "architecture": "cnn", "learning_rate": 1e-3, "patch": 2, "corners": "one"} | {
    **{"placement": "gradient", "origin": "in-distribution", "refine": False, "ood": "", "ood_class": 0},
    **{"augment": "none", "watch": False, "optimizer": "adam", "momentum": 0.9, "schedule": "constant", "warmup": None},
    **{"weight_decay": 0.0, "clip_norm": 0.0, "label_smoothing": 0.0, "normalize": False, "initialization": None},
    **{"from_weights": "", "unmarked_from": ""},
}
SMALL = RECIPE | {"train": 200, "holdout": 60, "epochs": 6, "pretrain": 3, "batch_size": 32}
POOL = {"pool": "same", "pool_share": 1.0}
PLUGINS: dict[tuple[str, str], dict[str, object]] = {
    ("defense", "stamp"): {"strength": 0.4, "per_batch": 16},
    ("attack", "leave"): {},
    ("attack", "copy"): {**POOL, "queries": None, "soft": False, "architecture": ""},
    ("attack", "tune"): {**POOL, "mode": "tune", "epochs": 1, "factor": 0.9},
    ("attack", "tune-2"): {**POOL, "mode": "tune", "epochs": 2, "factor": 0.9},
    ("attack", "majority"): {**POOL, "threshold": 0.5},
    ("attack", "doubt"): {**POOL, "refused": 0.05},
    ("dataset", "two"): SMALL | {"source": 1, "target": 0, "noise": 0.0},
    ("dataset", "upside"): {},
    ("defense", "mirror"): {"count": 20, "fresh": False},
    ("defense", "bits"): {"count": 8},
    ("architecture", "two-layers"): {"width": 32},
    ("analysis", "sizes"): {},
}
"""The plugins of ``plugins_0_1``, whose ``stamp.py`` is the example of that version's README, with their options."""


@pytest.fixture(scope="module")
def old() -> Iterator[Registry]:
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("HARNESS_PLUGINS", raising=False)
        yield load_registry([OLD])


def test_the_plugins_of_version_0_1_are_found(old: Registry) -> None:
    assert not old.problems
    assert {key for key, found in old.found.items() if found.origin.startswith(str(OLD))} == set(PLUGINS)


@pytest.mark.parametrize("key", PLUGINS, ids="/".join)
def test_a_plugin_of_version_0_1_has_its_options_hash_and_repr(old: Registry, key: tuple[str, str]) -> None:
    cls = old.found[key].cls  # type: ignore[index]
    plugin, values = cls(), {field.name: getattr(cls(), field.name) for field in fields(cls)}
    assert values == {field.name: field.default for field in fields(cls)} == PLUGINS[key]
    assert hash(plugin) == hash(tuple(values.values()))
    assert plugin == cls(*values.values()) == pickle.loads(pickle.dumps(plugin))
    assert repr(plugin) == f"{cls.__qualname__}({', '.join(f'{name}={value!r}' for name, value in values.items())})"


@pytest.mark.parametrize(
    ("kind", "entry", "said"),
    [
        ("defense", "stamp[strength=0]", "strength must be in (0, 1], not 0.0"),
        ("attack", "copy[queries=0]", "queries must be at least 1, not 0"),
        ("attack", "tune-2[factor=2]", "factor must be in (0, 1], not 2.0"),
        ("attack", "tune[labelled=false]", "unknown option of tune 'labelled'"),
        ("dataset", "two[train=0]", "train must be at least 1, not 0"),
        ("dataset", "two[source=2]", "source=2 is not a class: 2 classes, 0 to 1"),
    ],
)
def test_a_plugin_of_version_0_1_checks_its_options(old: Registry, kind: str, entry: str, said: str) -> None:
    with pytest.raises(harness.UsageError) as caught:
        old.component(kind, entry)  # type: ignore[arg-type]
    assert said in str(caught.value)


def test_the_words_of_version_0_1_are_read(old: Registry) -> None:
    words = {each.name: each.words for each in options_of(old.found["defense", "stamp"].cls)}
    assert words == {
        "strength": "How much of a trigger is the pattern, 0..1.",
        "per_batch": "Triggers trained after each task batch.",
    }
    assert old.component("attack", "copy[soft=yes,queries=5]").text == "copy[queries=5,soft=true]"
    recipe = old.component("defense", "mirror[count=9]").plugin.triggers(None)
    assert isinstance(recipe, TriggerRecipe) and recipe == type(recipe)(count=9) and hash(recipe) == hash((9,))


@pytest.mark.slow
def test_the_plugins_of_version_0_1_keep_the_contract(cli: Cli) -> None:
    names = [name for _, name in PLUGINS]
    said = cli("plugins", "check", *names, "--plugins", OLD, code=0).out
    assert said.splitlines() == [f"ok      {kind} {name}" for kind, name in sorted(PLUGINS)]


def test_the_plugins_of_version_0_1_run(cli: Cli, tmp_path: Path) -> None:
    attacks = ("leave", "copy[soft=true]", "tune | doubt", "majority")
    axes = [word for attack in attacks for word in ("--attack", attack)]
    args = (
        "--dataset",
        TINY,
        "--defense",
        "mirror",
        "--defense",
        "stamp",
        *axes,
        "--seeds",
        "0",
        "--nulls",
        "1",
        "--no-innocents",
    )
    said = cli("run", *args, "--plugins", OLD, "--results", tmp_path, "--device", "cpu", code=0).out
    assert "8 cells (8 ok)" in said


NAMES = (
    *("Analysis", "Answers", "Architecture", "Arrays", "Attack", "BlackBoxAttack", "Context", "Count", "Dataset"),
    *("Defense", "Detection", "Detector", "Evasion", "Evidence", "Family", "InputSet", "Key", "Loss", "Marked"),
    *("Measure", "Oracle", "Plugin", "Pool", "PoolAttack", "Probe", "Recipe", "Split", "Stream", "Task"),
    *("TriggerRecipe", "WhiteBoxAttack", "WhiteBoxDefense"),
)


def test_all_names_of_the_contract_are_in_harness_and_where_version_0_1_had_them() -> None:
    for name in NAMES:
        assert getattr(harness, name) is getattr(contracts, name)
        assert name in harness.__all__


def test_a_probe_is_a_split() -> None:
    x, y = torch.tensor([[0.0], [3.0], [1.0]]), torch.tensor([0, 3, 3])
    probe = Probe(x, y)
    suspect = Oracle(lambda x: torch.nn.functional.one_hot(x[:, 0].long(), 4).float())
    assert isinstance(probe, Split) and isinstance(Split(x, y), Probe) and Probe is Split
    assert probe.ask(suspect) == contracts.Count(2, 3) and suspect.queries == 3
    again = pickle.loads(pickle.dumps(Key({"trigger": probe}))).trigger
    assert torch.equal(again.x, x) and torch.equal(again.y, y) and len(again) == 3


# --- files that users of version 0.1 wrote ---

CASES = Path(os.environ.get("HARNESS_DATA", "absent")).parent / "cases"
WRITTEN = {
    "01-dataset-option": {("dataset", "noisy")},
    "02-prune-masks": {("attack", "l1")},
    "02b-hook": {("attack", "wrap")},
    "03-global-state": {("attack", "aleaky")},
    "05-exit": {("attack", "script")},
    "05b-exit0": {("attack", "leaver")},
    "12-own-data": {("dataset", name) for name in ("flat", "many", "rare", "two", "wide")},
    "15-npz": {("dataset", "mine")},
    "18-arch": {("architecture", "bn"), ("architecture", "pretrained")},
    "20-names": {("dataset", "cjk")},
    "22-infinite": {("defense", "active")},
}


@pytest.mark.parametrize("case", WRITTEN)
def test_files_that_users_wrote_are_loaded(tmp_path: Path, case: str) -> None:
    if not (CASES / case).is_dir():
        pytest.skip("needs a folder cases/ beside the one that HARNESS_DATA names")
    shutil.copytree(CASES / case, tmp_path / case)
    registry = load_registry([tmp_path / case])
    assert not registry.problems
    assert {key for key, found in registry.found.items() if not found.origin.startswith("built-in")} == WRITTEN[case]


# --- the smallest useful defense --------------------------------------------------------------------------------------


def test_the_smallest_defense_is_twenty_lines_and_six_names() -> None:
    (path,) = SMALLEST.glob("*.py")
    text = path.read_text()
    imports = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Import | ast.ImportFrom)]
    (imported,) = imports
    assert isinstance(imported, ast.ImportFrom) and imported.module == "harness" and len(imported.names) == 6
    assert len(text.splitlines()) <= 20
    assert not any(word in text for word in ("hookimpl", "dataclass", "ClassVar", "__future__"))


@pytest.mark.slow
def test_the_smallest_defense_is_listed_checked_run_and_ranked(cli: Cli, tmp_path: Path) -> None:
    plugins = ("--plugins", SMALLEST)
    listed = cli("plugins", "list", "wrong-label", "--options", *plugins, code=0).out
    assert "wrong-label  Teaches the model the class after the right one, on a few images.\n" in listed
    assert "      count=20  (int)\n          Number of images with a wrong label.\n" in listed
    assert cli("plugins", "check", "wrong-label", *plugins, code=0).out == "ok      defense wrong-label\n"
    axes = (
        "--dataset",
        TINY,
        "--attack",
        "none",
        "--attack",
        "retraining",
        "--seeds",
        "0-1",
        "--nulls",
        "2",
        "--no-innocents",
    )
    defenses = ("--defense", "wrong-label[count=9]", "--defense", "baseline")
    where = ("--results", tmp_path)
    ran = cli("run", *axes, *defenses, *plugins, *where, "--device", "cpu", code=0).out
    assert "8 cells (8 ok)" in ran
    board = cli("leaderboard", *where, "--format", "csv", code=0).out
    (row,) = [line for line in board.splitlines() if "wrong-label[count=9]" in line]
    assert row


def test_samples_are_added_in_their_order() -> None:
    one, two = Split(torch.tensor([[1], [2]]), torch.tensor([0, 1])), Split(torch.tensor([[3]]), torch.tensor([2]))
    both = one + two
    assert both.x.tolist() == [[1], [2], [3]] and both.y.tolist() == [0, 1, 2] and len(both) == 3
    assert both[1:].x.tolist() == [[2], [3]] and both[1:].y.tolist() == [1, 2] and both[:1].y.tolist() == [0]
