"""Every plugin keeps the contract, those of the harness through the same checks as anybody's."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch

import harness
from harness import (
    Arrays,
    Attack,
    Context,
    Dataset,
    Defense,
    Key,
    Marked,
    PluginError,
    Pool,
    Probe,
    Task,
    WhiteBoxAttack,
)
from harness.contracts import Family
from harness.planning.options import options_of
from harness.planning.registry import load_registry
from harness.testing import check_attack, check_dataset, check_defense, check_plugin
from tests.conftest import ROOT

REGISTRY = load_registry()


@pytest.mark.parametrize("path", sorted(ROOT.glob("plugins/**/*.py")), ids=lambda path: path.stem)
def test_built_in_plugins_use_only_what_everybody_has(path: Path) -> None:
    tree = ast.parse(path.read_text("utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            assert not any(alias.name.startswith("harness") for alias in node.names), path
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("harness"):
            assert node.module == "harness" and {alias.name for alias in node.names} <= set(harness.__all__), path
    assert len(path.read_text("utf-8").splitlines()) <= 400


def test_every_public_name_is_there() -> None:
    assert [name for name in harness.__all__ if not hasattr(harness, name)] == []


@pytest.mark.parametrize(("kind", "name"), sorted(REGISTRY.found))
def test_every_option_of_a_built_in_plugin_has_its_words(kind: str, name: str) -> None:
    for option in options_of(REGISTRY.found[kind, name].cls):
        assert option.words[:1].isupper() and option.words.endswith("."), f"{option.name}: {option.words!r}"


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "name"), sorted(REGISTRY.found))
def test_every_built_in_plugin_keeps_the_contract(kind: str, name: str) -> None:
    assert check_plugin(REGISTRY.found[kind, name], REGISTRY) == []


@dataclass(frozen=True)
class Broken(Defense):
    """A defense with one fault, which its option names."""

    name: ClassVar[str] = "broken"
    fault: str = "none"

    def embed(self, task: Task, ctx: Context) -> Marked:
        net = ctx.train(ctx.build(), [ctx.stream(task.train)], 1)
        x, y = task.holdout.x[:8], task.holdout.y[:8]
        if self.fault == "global seed":
            torch.manual_seed(0)
        if self.fault == "prints":
            print("hello")  # noqa: T201
        if self.fault == "not deterministic":
            x = torch.randint(0, 256, x.shape, generator=torch.Generator().manual_seed(id(net))).byte()
        if self.fault == "raises":
            raise RuntimeError("no such luck")
        if self.fault == "empty key":
            return Marked(net, Key())
        if self.fault == "probes overlap":
            return Marked(net, Key({"trigger": Probe(x, y), "held_out": Probe(x, y)}))
        if self.fault == "nan":
            net.get_parameter("logits.weight").data[0] = float("nan")
        if self.fault == "foreign model":
            return Marked(torch.nn.Linear(2, 2), Key({"trigger": Probe(x, y)}))
        return Marked(net, Key({"trigger": Probe(x, y)}))


@pytest.mark.parametrize(
    ("fault", "complaint"),
    [
        ("global seed", "changes the global random state"),
        ("prints", "it prints: 'hello"),
        ("not deterministic", "the same seed gives other tensors"),
        ("raises", "RuntimeError: no such luck"),
        ("empty key", "its key is empty"),
        ("probes overlap", "held_out inputs are also in its trigger set"),
        ("nan", "logits.weight is not finite"),
        ("foreign model", "cannot be stored"),
    ],
)
def test_the_checks_name_the_fault(fault: str, complaint: str) -> None:
    # The fault is the default of a subclass's option: checks construct plugins without options.
    faulty = dataclass(frozen=True)(
        type("Faulty", (Broken,), {"__doc__": "Faulty.", "__annotations__": {"fault": "str"}, "fault": fault})
    )
    faulty.__module__ = __name__
    globals()["Faulty"] = faulty  # where pickle looks for it
    with pytest.raises(PluginError, match=complaint):
        check_defense(faulty)


def test_a_defense_without_fault_passes() -> None:
    check_defense(Broken)


def test_an_attack_that_returns_nothing_is_named() -> None:
    with pytest.raises(PluginError, match=r"forgetful\.run must return a Module, not NoneType"):
        check_attack(Forgetful)


@dataclass(frozen=True)
class Forgetful(WhiteBoxAttack):
    """An attack that forgets its return."""

    name: ClassVar[str] = "forgetful"
    family: ClassVar[Family] = "removal"

    def run(self, victim: torch.nn.Module, pool: Pool, ctx: Context) -> torch.nn.Module:
        return None  # type: ignore[return-value]


def test_an_attack_class_is_no_defense() -> None:
    with pytest.raises(PluginError, match="derive it from harness.Defense"):
        check_defense(Attack)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Crooked(Dataset):
    """A dataset whose images are not of the shape that it declares."""

    name: ClassVar[str] = "crooked"
    input_shape: ClassVar[tuple[int, ...]] = (1, 8, 8)
    classes: ClassVar[tuple[str, ...]] = tuple("0123456789")
    available: ClassVar[int] = 2000

    def load(self, root: Path) -> Arrays:
        x, y = np.zeros((2000, 1, 9, 9), np.uint8), np.arange(2000) % 10
        return Arrays(x, y, x, y)


def test_a_dataset_of_another_shape_than_it_declares_is_named() -> None:
    with pytest.raises(PluginError, match=r"train inputs are \(1, 9, 9\), declared \(1, 8, 8\)"):
        check_dataset(Crooked)


class Failing(Crooked):
    """A dataset whose reading fails in its own way."""

    name = "failing"
    error: ClassVar[type[BaseException]] = KeyError

    def load(self, root: Path) -> Arrays:
        raise self.error("no such file")


class Exiting(Failing):
    """A dataset that ends the process."""

    name = "exiting"
    error = SystemExit


class Named(Crooked):
    """A dataset whose name has a type, and so is an option."""

    name: str = "named"  # type: ignore[misc]
    available: int = 3000  # type: ignore[misc]


class Armed(Forgetful):
    """An attack whose arms name an option that it has not."""

    name = "armed"
    arms = ("", "mode=ftll")


def test_an_error_of_the_plugin_is_a_problem_and_no_traceback() -> None:
    with pytest.raises(PluginError, match="dataset failing: KeyError: 'no such file'"):
        check_dataset(Failing)
    with pytest.raises(PluginError, match="dataset exiting: SystemExit: no such file"):
        check_dataset(Exiting)


def test_a_name_with_a_type_is_named() -> None:
    with pytest.raises(PluginError, match="its name is an option: write name = 'named' without a type"):
        check_dataset(Named)
    with pytest.raises(PluginError, match="its available is an option: write available = 3000 without a type"):
        check_dataset(Named)


def test_an_arm_that_is_no_option_is_named() -> None:
    with pytest.raises(PluginError, match="attack armed: UnknownName: unknown option of armed 'mode'"):
        check_attack(Armed)
