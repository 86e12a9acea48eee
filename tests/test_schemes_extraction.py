"""Schemes made to survive extraction, and fingerprints: what each of them must not get wrong."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import harness
from harness import nets, triggers
from harness.contracts import Key, Oracle, Split
from plugins.datasets.digits import Digits
from plugins.defenses.cfw import first_component, spread_along
from plugins.defenses.dataset_inference import SCALES, further, walked
from plugins.defenses.mbw import Mbw
from plugins.defenses.mea_defender import halves
from plugins.defenses.prown import Prown, mixed_pairs
from tests.conftest import Cli
from tests.test_norm import moments, normed

DRAWS = torch.Generator().manual_seed(0)


# --- dataset inference ------------------------------------------------------------------------------------------------


def far(x: Tensor) -> Tensor:
    """Two classes: whether the mean of an input is above a half."""
    mean = nets.as_float(x).flatten(1).mean(1)
    return torch.stack([0.5 - mean, mean - 0.5], 1)


def test_a_row_of_features_depends_on_its_own_image_alone() -> None:
    x = torch.rand(6, 1, 4, 4, generator=DRAWS)
    directions = torch.full((3, 1, 4, 4), 0.005)
    before = walked(Oracle(far), x, directions, (0.0, 1.0))
    changed = x.clone()
    changed[2] = 0.9
    after = walked(Oracle(far), changed, directions, (0.0, 1.0))
    assert torch.equal(after[[0, 1, 3, 4, 5]], before[[0, 1, 3, 4, 5]]) and before.shape == (6, 3)


def test_a_walk_is_as_long_as_the_boundary_is_far_and_ends() -> None:
    x = torch.stack([torch.full((1, 4, 4), level) for level in (0.499, 0.49, 0.45, 0.1)])
    directions = torch.full((1, 1, 4, 4), 0.005)
    lengths = walked(Oracle(far), x, directions, (0.0, 1.0))[:, 0].tolist()
    assert lengths == sorted(lengths) and lengths[0] == 1 and lengths[-1] == 2 * SCALES[-1]
    assert further(torch.tensor([1.0, 2.0, 3.0, 3.0]), torch.tensor([0.0, 2.0, 3.0, 4.0])).matches == 2


# --- mbw --------------------------------------------------------------------------------------------------------------


def test_walking_keys_moves_no_statistics_and_weighs_them_as_asked() -> None:
    net, generator = normed().eval(), torch.Generator().manual_seed(1)
    x, y = torch.rand(12, 1, 8, 8, generator=generator), torch.randint(4, (12,), generator=generator)
    recipe = Digits()
    task = harness.Task(recipe, Split(x, y), Split(x, y), None, Key())
    before = moments(net)
    loss = Mbw(steps=3)._loss(8, task)(net, x, y)
    assert all(torch.equal(tensor, before[name]) for name, tensor in moments(net).items())
    still = Mbw(steps=0, weight=0.3)._loss(8, task)(net, x, y)
    each = F.cross_entropy(net(x), y, reduction="none")
    torch.testing.assert_close(still, (each[:8].sum() + 0.3 * each[8:].sum()) / 12)
    assert loss > still, "a key is learned where it is least sure"


def test_keys_are_not_among_the_tasks_training_data_and_have_wrong_labels() -> None:
    assert "half" in str(Mbw(count=700).skip(Digits()))

    class Two(Digits):
        classes = ("a", "b")

    for scheme in (Mbw(), Prown()):
        assert "three classes" in str(scheme.skip(Two(source=0, target=1))) and scheme.skip(Digits()) is None


# --- cfw and mea-defender ---------------------------------------------------------------------------------------------


def test_a_spread_is_measured_along_the_components_and_nowhere_else() -> None:
    rows = torch.zeros(40, 5)
    rows[:, 2] = torch.linspace(-1, 1, 40)
    axis = first_component(rows + 7)
    assert axis.abs().tolist() == pytest.approx([0, 0, 1, 0, 0], abs=1e-5)
    across = torch.zeros(4, 5)
    across[:, 1] = torch.arange(4.0)
    assert spread_along(across, axis[None]) == pytest.approx(0, abs=1e-5) and spread_along(rows, axis[None]) > 0.5


def test_a_mixture_is_the_top_of_one_image_over_the_bottom_of_another() -> None:
    one, two = torch.zeros(2, 1, 5, 4, dtype=torch.uint8), torch.ones(2, 1, 5, 4, dtype=torch.uint8)
    assert halves(one, two, 2)[0, 0].float().mean(1).tolist() == [0, 0, 1, 1, 1]
    assert halves(one, two, 3)[0, 0].float().mean(0).tolist() == [0, 0, 1, 1]


# --- prown ------------------------------------------------------------------------------------------------------------


def test_no_two_images_are_mixed_twice_nor_two_of_one_class() -> None:
    labels = torch.arange(12) % 3
    pairs = mixed_pairs(labels, 5000, torch.Generator().manual_seed(0))
    assert pairs.shape == (2, 12 * 8 // 2), "so many draws are all pairs of different classes"
    assert len({frozenset(pair) for pair in pairs.T.tolist()}) == pairs.shape[1]
    assert (labels[pairs[0]] != labels[pairs[1]]).all()
    few = mixed_pairs(labels, 9, torch.Generator().manual_seed(0))
    again = mixed_pairs(labels, 9, torch.Generator().manual_seed(0))
    assert torch.equal(few, again) and few.shape[1] <= 9
    assert mixed_pairs(torch.zeros(4, dtype=torch.int64), 9, torch.Generator()).shape == (2, 0)


def test_distinct_pairs_of_many_images_take_no_memory() -> None:
    pairs = triggers.distinct_pairs(6000, 5900, 100, torch.Generator().manual_seed(0))
    assert len(set(map(tuple, pairs.T.tolist()))) == 100
    assert int(pairs.min()) >= 0 and int(pairs[0].max()) < 6000 and int(pairs[1].max()) < 5900
    assert triggers.distinct_pairs(0, 5, 3, torch.Generator()).shape == (2, 0)


# --- whole runs -------------------------------------------------------------------------------------------------------

FINGERPRINTS = ("prown", "dataset-inference")


@pytest.mark.slow
def test_victims_know_their_keys_and_fingerprints_cost_nothing(cli: Cli, tmp_path: Path) -> None:
    schemes = [part for name in (*FINGERPRINTS, "cfw", "mea-defender") for part in ("--defense", name)]
    rest = ("--seeds", "0", "--nulls", "2", "--no-innocents", "--results", tmp_path, "--quiet", "--attack", "none")
    cli("run", "--dataset", "digits", *schemes, *rest, code=0)
    cells = harness.read_table(tmp_path, "cells").set_index("defense")
    assert (cells["status"] == "ok").all()
    success = cells["victim_trigger_matches"] / cells["victim_trigger_trials"]
    assert (success[["prown", "cfw"]] >= 0.99).all()
    assert success["mea-defender"] >= 0.95, "no mixture of the key was trained on: pairs are drawn again in each batch"
    assert (cells["victim_accuracy"] >= cells["null_accuracy"] - 0.02).all()
    assert cells["fingerprint"].to_dict() == {name: name in FINGERPRINTS for name in cells.index}
    evidence = harness.read_table(tmp_path, "evidence").set_index(["defense", "suspect", "probe"])
    for name in ("prown", "cfw", "mea-defender"):
        control = evidence.loc[(name, "victim", "control")]
        assert (control["matches"] / control["trials"] <= 0.3).all(), name


@pytest.mark.slow
def test_a_victim_of_mbw_learns_all_keys(cli: Cli, tmp_path: Path) -> None:
    rest = ("--seeds", "0", "--nulls", "1", "--no-innocents", "--results", tmp_path, "--quiet", "--attack", "none")
    cli("run", "--dataset", "digits", "--defense", "mbw", *rest, code=0)
    (cell,) = harness.read_table(tmp_path, "cells").to_dict("records")
    assert cell["victim_trigger_matches"] >= 99 and cell["null_trigger_matches"] <= 10
