"""Pruning, fine-pruning, adaptive extraction, and epochs that are watched: through the command line, on digits."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import harness
from harness.planning.registry import load_registry
from harness.storage.codec import unpack
from harness.storage.store import Store
from tests.conftest import TINY, Cli

CPU = torch.device("cpu")


def run(cli: Cli, results: Path, *attacks: str, dataset: str = TINY, defense: str = "baseline") -> None:
    chosen = [part for name in attacks for part in ("--attack", name)]
    axes = ("--dataset", dataset, "--defense", defense, *chosen, "--seeds", "0", "--nulls", "0", "--no-innocents")
    cli("run", *axes, "--results", results, code=0)


def model(results: Path, attack: str):
    cells = harness.read_table(results, "cells")
    return unpack(
        Store(results).load(cells.loc[cells["attack"] == attack, "model"].item()), load_registry().component, CPU
    ).net


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["cnn", "lenet", "mlp"])
def test_fine_pruning_trains_what_is_left_and_pruned_units_stay_pruned(
    cli: Cli, tmp_path: Path, architecture: str
) -> None:
    dataset = TINY.replace("]", f",architecture={architecture}]")
    run(cli, tmp_path, "pruning[fraction=0.5]", "fine-pruning[fraction=0.5]", dataset=dataset)
    pruned, tuned = (
        model(tmp_path, f"{name}[fraction=0.5]" if name == "pruning" else name) for name in ("pruning", "fine-pruning")
    )
    for layer in pruned.hidden:
        dead = [_dead(net, layer) for net in (pruned, tuned)]
        assert torch.equal(*dead) and int(dead[0].sum()) == len(dead[0]) // 2
    assert not torch.equal(pruned.logits.weight, tuned.logits.weight)


def _dead(net, layer: str) -> torch.Tensor:
    """Which units have no incoming weights at all."""
    weights = [
        p.detach().flatten(1) if p.ndim > 1 else p.detach()[:, None] for p in net.get_submodule(layer).parameters()
    ]
    return (torch.cat(weights, 1) == 0).all(1)


def test_a_thief_who_minimises_the_snnl_gets_classes_further_apart(cli: Cli, tmp_path: Path) -> None:
    dataset = "digits[train=400,holdout=100,epochs=6,pretrain=3,learning_rate=0.003]"
    run(cli, tmp_path, "snnl-extraction[weight=0]", "snnl-extraction[weight=10]", dataset=dataset)
    curves, stages = (harness.read_table(tmp_path, table) for table in ("curves", "stages"))
    last = curves[(curves["quantity"] == "snnl") & (curves["epoch"] == 6)].merge(
        stages[["stage", "plugin"]], on="stage"
    )
    snnl = last.set_index("plugin")["value"]
    assert snnl["snnl-extraction[weight=10.0]"] < snnl["snnl-extraction[weight=0.0]"]


def test_watched_epochs_are_rows_and_change_no_result(cli: Cli, tmp_path: Path) -> None:
    run(cli, tmp_path, "retraining")
    run(cli, tmp_path, "retraining", dataset=TINY.replace("]", ",watch=true]"))
    cells = harness.read_table(tmp_path, "cells")
    assert len(cells) == 2
    for column in ("victim_accuracy", "surrogate_accuracy", "surrogate_trigger_matches", "surrogate_held_out_matches"):
        assert cells[column].nunique() == 1, column
    curves, stages = (harness.read_table(tmp_path, table) for table in ("curves", "stages"))
    watched = curves[curves["quantity"].isin(["accuracy", "success"])].merge(stages, on="stage")
    assert set(watched["action"]) == {"embed", "attack"} and watched["dataset"].str.contains("watch=true").all()
    # The last epoch is the model that is stored.
    for action, who in (("embed", "victim"), ("attack", "surrogate")):
        rows = watched[(watched["action"] == action) & (watched["quantity"] == "success")].sort_values("epoch")
        rate = cells[f"{who}_trigger_matches"].iloc[0] / cells[f"{who}_trigger_trials"].iloc[0]
        assert rows["value"].iloc[-1] == pytest.approx(rate)
    assert {"snnl:conv1", "snnl:conv2", "snnl:dense"} <= set(curves["quantity"])
