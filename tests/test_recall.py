"""What is known of a model is not computed again, what has changed is; and nothing in the results tells."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

import harness
from harness.engine.memo import KEPT, ResultCache, SharedInputs
from harness.engine.train import clone
from harness.nets import Net
from harness.storage.store import Store
from tests.conftest import TINY, Cli
from tests.test_train import engine, split

POOL, HOLDOUT = 200, 100
"""Training and held-out samples of TINY."""


def model() -> Net:
    return engine().build()


def lent(net: nn.Module, memory: ResultCache | None = None, inputs: str = "pool") -> SharedInputs:
    return SharedInputs(memory or ResultCache(), "model", net, inputs, split().x)


def twice(first: SharedInputs, net: nn.Module, count: int = 64, second: SharedInputs | None = None) -> bool:
    """Whether what is asked of a model anew, as ``net`` and of the first ``count`` inputs, was known."""
    first.recall("ones", clone(first.net), split().x, lambda: torch.ones(2))
    known, value = (second or first).recall("ones", net, split().x[:count], lambda: torch.ones(2))
    assert torch.equal(value, torch.ones(2))
    return known


def test_a_copy_is_known_and_its_answers_are_copies() -> None:
    net = model()
    asked = lent(net)
    known, first = asked.recall("zeros", clone(net), split().x, lambda: torch.zeros(3))
    first += 1
    again, second = asked.recall("zeros", clone(net), split().x, lambda: torch.ones(3))
    assert (known, again) == (False, True) and torch.equal(second, torch.zeros(3))


def _data(net: Net) -> None:
    net.conv1.weight.data[0] += 1


def _hook(net: Net) -> None:
    net.conv1.register_forward_hook(lambda layer, inputs, output: output * 0)


def _forward(net: Net) -> None:
    net.forward = lambda x: x  # type: ignore[method-assign]


def _silence(net: Net) -> None:
    net.silence("conv1", torch.tensor([True, False, False, False]))


@pytest.mark.parametrize("change", [_data, _hook, _forward, _silence])
def test_a_changed_model_is_another(change: Callable[[Net], None]) -> None:
    net = model()
    changed = clone(net)
    change(changed)
    assert not twice(lent(net), changed)


def test_other_inputs_other_questions_and_other_models_are_not_known() -> None:
    net, memory = model(), ResultCache()
    assert twice(lent(net), clone(net))
    assert not twice(lent(net), clone(net), count=63)
    assert not twice(lent(net, memory), net, second=lent(net, memory, "another pool"))
    asked = lent(net)
    asked.recall("ones", net, split().x, lambda: torch.ones(2))
    assert asked.recall("ones", net, split(seed=1).x, lambda: torch.zeros(2))[0] is False
    assert asked.recall("zeros", net, split().x, lambda: torch.zeros(2))[0] is False


def test_the_oldest_is_forgotten() -> None:
    memory, key = ResultCache(), ("model", "pool", 1, "what")
    memory.find(key, lambda: torch.zeros(1))
    for number in range(KEPT):
        memory.find((str(number), "pool", 1, "what"), lambda: torch.zeros(1))
    assert memory.find(key, lambda: torch.zeros(1))[0] is False


# --- in a run ---------------------------------------------------------------------------------------------------------

ATTACKS = ("retraining", "retraining[answers=probabilities]", *(f"pruning[fraction={f}]" for f in (0.1, 0.4, 0.7)))


def run(cli: Cli, results: Path, *attacks: str) -> None:
    chosen = [part for attack in attacks for part in ("--attack", attack)]
    cli(
        *("run", "--dataset", TINY, "--defense", "baseline", "--defense", "adi[start=pretrained]", *chosen),
        *("--seeds", "0", "--nulls", "1", "--no-innocents", "--quiet", "--results", results),
        code=0,
    )


def test_nothing_is_computed_twice_in_a_run(cli: Cli, tmp_path: Path) -> None:
    run(cli, tmp_path, "none", *ATTACKS)
    stages = harness.read_table(tmp_path, "stages")
    assert stages["stage"].is_unique and (stages["status"] == "ok").all()
    # Attacked null models are told as victims' surrogates are, once for both schemes.
    stages = stages[stages["role"] != "attacked"]
    by_action = stages.groupby("action")[["trained_samples", "evaluated_samples", "recalled_samples"]].sum()
    # 32 a batch: six whole batches of 200 samples. One clean model of one epoch serves both schemes, one null model of
    # two epochs both verifications; each victim is trained for one epoch more, each of four surrogates for two.
    epoch = 6 * 32
    assert by_action.loc["train", "trained_samples"] == (1 + 2) * epoch
    assert by_action.loc["attack", "trained_samples"] == 2 * 2 * 2 * epoch
    # The pool once for each victim's labels and once for its activation frequencies, though five attacks ask; and each
    # surrogate on the test set and on the pool, for its accuracies.
    test = 300
    assert by_action.loc["attack", "evaluated_samples"] == 2 * (2 * POOL + 5 * (test + POOL))
    assert by_action.loc["attack", "recalled_samples"] == 2 * (1 + 2) * POOL
    assert by_action.loc["train", "evaluated_samples"] == 2 * test
    assert by_action["recalled_samples"].sum() == by_action.loc["attack", "recalled_samples"]


@pytest.mark.slow
def test_what_was_recalled_is_what_would_have_been_computed(cli: Cli, tmp_path: Path) -> None:
    together, alone = tmp_path / "together", tmp_path / "alone"
    run(cli, together, *ATTACKS)
    for attack in ATTACKS:
        run(cli, alone, attack)
    cells = harness.read_table(together, "cells")
    assert len(cells) == 2 * len(ATTACKS)
    for id in cells["model"]:
        ours, theirs = Store(together).load(id).tensors, Store(alone).load(id).tensors
        assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)
