"""Attacks that change weights and no answer: units reordered, scaled, doubled."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import harness
from harness import Pool, Skip, nets, units
from harness.engine.train import Engine, clone
from harness.errors import OptionError
from harness.planning.registry import load_registry
from tests.conftest import TINY, Cli

REGISTRY = load_registry()
CPU = torch.device("cpu")
SHAPE = (2, 8, 16)
"""Shape of inputs: two channels, and sides that differ."""
NETS = {
    **{"cnn": "cnn[width=38]", "mlp": "mlp[width=300]", "lstm": "lstm[width=140]"},
    **{"resnet9[width=8]": "resnet9[width=12]", "resnet18[width=4]": "resnet18[width=5]"},
    **{"vgg[width=4]": "vgg[width=6]", "wrn[depth=10,width=1]": "", "wrn[depth=10,width=2]": "", "lenet": ""},
}
"""Architectures, and a wider one of each; empty where a wider one differs in more than units, or there is none."""


def lent(architecture: str, seed: int = 0) -> Engine:
    recipe = replace(REGISTRY.component("dataset", TINY).plugin.public(), input_shape=SHAPE)
    built = REGISTRY.component("architecture", architecture)
    return Engine(CPU, torch.Generator().manual_seed(seed), recipe, built.plugin, built.text)


def images(count: int = 100) -> Tensor:
    return torch.randint(0, 256, (count, *SHAPE), generator=torch.Generator().manual_seed(1)).byte()


def as_if_trained(net: nets.Net) -> nets.Net:
    """The net with other biases than those that it begins with, and the statistics of some inputs."""
    generator = torch.Generator().manual_seed(0)
    for name, tensor in net.state_dict().items():
        if tensor.ndim == 1 and name.endswith(("weight", "bias")):
            drawn = torch.rand(tensor.shape, generator=generator)
            tensor.copy_(0.5 + drawn if name.endswith("weight") else 0.4 * drawn - 0.2)
    with torch.no_grad():
        for _ in range(30):
            net.train()(images(64))
    return net.eval()


def same_answers(one: nets.Net, other: nets.Net, x: Tensor) -> None:
    """Logits of both are equal to 1e-5 of the largest."""
    with torch.inference_mode():
        ours, theirs = one(x), other(x)
    assert (ours - theirs).abs().max() <= 1e-5 * theirs.abs().max() and torch.equal(ours.argmax(1), theirs.argmax(1))
    assert len(theirs.unique(dim=0)) > 50, "the net tells inputs apart"


def ran(attack: str, net: nets.Net, engine: Engine, x: Tensor) -> nets.Net:
    plugin: Any = REGISTRY.component("attack", attack).plugin
    made: nets.Net = plugin.run(clone(net), Pool(engine.recipe, x), engine)
    return made


# --- built-in nets ----------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("attack", ["feature-permutation", "permute-scale"])
@pytest.mark.parametrize("architecture", NETS)
def test_units_are_reordered_and_scaled_and_no_answer_moves(architecture: str, attack: str) -> None:
    engine = lent(architecture)
    net = as_if_trained(engine.build())
    changed = ran(attack, net, engine, images())
    same_answers(changed, net, images(300)[100:])
    before, after = net.state_dict(), changed.state_dict()
    stay = {name for name, tensor in before.items() if torch.equal(tensor, after[name])}
    assert all(name.startswith("logits") or "num_batches" in name for name in stay), stay
    assert len([name for name in stay if "num_batches" not in name]) == 1, "the bias of the logits"
    sorted_alike = [
        name for name in before if torch.equal(before[name].flatten().sort()[0], after[name].flatten().sort()[0])
    ]
    if attack == "permute-scale":  # those of an LSTM, behind a tanh, are reordered alone
        assert all("lstm" in name or name in stay for name in sorted_alike), sorted_alike
    else:
        assert len(sorted_alike) == len(before)
    again = ran(attack, net, lent(architecture, seed=0), images())
    assert not torch.equal(next(again.parameters()), next(net.parameters()))


@pytest.mark.slow
@pytest.mark.parametrize("architecture", NETS)
def test_it_is_rounding_alone_that_moves_a_logit(architecture: str) -> None:
    engine, x = lent(architecture), images() / 255
    net = as_if_trained(engine.build()).double()
    changed = ran("permute-scale", net, engine, x.double())
    with torch.inference_mode():
        assert (changed(x.double()) - net(x.double())).abs().max() < 1e-11


@pytest.mark.parametrize("kind", ["split", "clique"])
@pytest.mark.parametrize("architecture", [name for name, wider in NETS.items() if wider])
def test_a_wider_net_gives_the_same_answers(architecture: str, kind: str) -> None:
    net = as_if_trained(lent(architecture).build())
    engine = lent(NETS[architecture])
    wide = ran(f"dummy-neurons[architecture={NETS[architecture]},kind={kind}]", net, engine, images())
    same_answers(wide, net, images(300)[100:])
    assert sum(p.numel() for p in wide.parameters()) > sum(p.numel() for p in net.parameters())


def test_every_unit_moves() -> None:
    net = as_if_trained(lent("lenet").build())
    for seed in range(20):
        changed = ran("feature-permutation", net, lent("lenet", seed), images())
        for name in ("conv1", "conv2", "dense1", "dense2"):
            before, after = (each.get_parameter(f"{name}.bias") for each in (net, changed))
            assert torch.equal(before.sort()[0], after.sort()[0]) and not (before == after).any()


def test_a_clique_adds_up_to_nothing_and_a_split_to_what_was_there() -> None:
    net, engine = as_if_trained(lent("mlp[width=6]").build()), lent("mlp[width=9]")
    for kind in ("split", "clique"):
        wide = ran(f"dummy-neurons[architecture=mlp[width=9],kind={kind}]", net, engine, images())
        distinct, which = wide.get_parameter("dense1.weight").detach().unique(dim=0, return_inverse=True)
        assert len(distinct) == 6 and which.bincount().max() >= (4 if kind == "clique" else 2)
        # What the next layer's first unit reads of each of them is together what it read of the one.
        known = net.get_parameter("dense2.weight").detach()
        alike = [
            row for row in wide.get_parameter("dense2.weight").detach() if _reads(row, which, distinct, known[0], net)
        ]
        assert alike


def _reads(row: Tensor, which: Tensor, distinct: Tensor, known: Tensor, net: nets.Net) -> bool:
    """True if the weights ``row`` of copies add up, for each unit, to those that ``known`` has for that unit."""
    originals = net.get_parameter("dense1.weight").detach()
    places = [int((originals == unit).all(1).nonzero()) for unit in distinct]
    together = torch.zeros(6).index_add(0, which, row)
    return torch.allclose(together, known[places], atol=1e-6)


def test_a_net_that_is_not_a_wider_one_is_skipped() -> None:
    net = as_if_trained(lent("cnn").build())
    for wider in ("cnn", "cnn[width=16]", "mlp", "lenet"):
        with pytest.raises(Skip, match=f"architecture={wider.replace('[', '.')[:5]}.* is not a wider cnn"):
            ran(f"dummy-neurons[architecture={wider}]", net, lent(wider), images())


def test_spread_must_be_above_one() -> None:
    with pytest.raises(OptionError):
        REGISTRY.component("attack", "permute-scale[spread=1]")


# --- any net ----------------------------------------------------------------------------------------------------------


class Free(nn.Module):
    """A net with parts whose units are not free beside parts whose units are."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.first = nn.Conv2d(2, 6, 3, padding=1)
        self.second = nn.Conv2d(6, 6, 3, padding=1, groups=6 if kind == "depthwise" else 1)
        self.norm = nn.GroupNorm(2, 6) if kind == "group norm" else nn.BatchNorm2d(6, affine=kind != "plain norm")
        self.both = nn.BatchNorm2d(12)
        self.third = nn.Conv2d(12 if kind.startswith("cat") else 6, 5, 3)
        self.gain = nn.Parameter(torch.rand(6, 1, 1) + 0.5)
        self.head = nn.Linear(5, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x).relu()
        y = self.norm(self.second(x))
        if self.kind == "shared":
            y = self.norm(self.second(y.relu()))
        if self.kind == "gain":
            y = y * self.gain
        y = y.tanh() if self.kind == "tanh" else y.relu()
        y = torch.cat([x, y], 1) if self.kind.startswith("cat") else y + x if self.kind == "sum" else y
        y = self.both(y).relu() if self.kind == "cat, norm" else y
        return self.head(self.third(y).relu().mean((2, 3)))


@pytest.mark.parametrize(
    ("kind", "orders", "sizes"),
    [
        # Units of first; second with its norm; third. The sizes of second, before its norm, are a fourth.
        *(("bn", 3, 4), ("plain norm", 3, 3), ("tanh", 3, 3), ("gain", 2, 3), ("group norm", 2, 2)),
        *(("depthwise", 1, 2), ("cat", 1, 2), ("cat, norm", 1, 2), ("shared", 1, 1)),
        ("sum", 2, 3),  # first and second have one order, and after the norm one size
    ],
)
def test_units_that_are_not_free_stay_and_no_answer_moves(kind: str, orders: int, sizes: int) -> None:
    torch.manual_seed(0)
    net = as_if_trained(nets.adapt(Free(kind), SHAPE, 10))
    original, x = clone(net), images()
    generator = torch.Generator().manual_seed(0)

    def permuted(group: units.Group) -> bool:
        order = torch.randperm(group.size, generator=generator)
        return units.kept(net, x, lambda: group.permute(net, order))

    def scaled(scale: units.Scale) -> bool:
        factors = 0.25 + torch.rand(scale.size, generator=generator)
        return units.kept(net, x, lambda: scale.apply(net, factors))

    assert sum(map(permuted, units.groups(net, SHAPE))) == orders
    assert sum(map(scaled, units.scales(net, SHAPE))) == sizes
    same_answers(net, original, x)


def test_a_change_that_moves_answers_is_taken_back() -> None:
    net = as_if_trained(lent("mlp[width=8]").build())
    original = clone(net)

    def double() -> None:
        net.get_parameter("dense1.weight").mul_(2)

    assert not units.kept(net, images(), double)
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(net.parameters(), original.parameters(), strict=True))


def test_a_variance_of_nothing_stays_one_when_it_is_scaled_down() -> None:
    net = nets.adapt(Free("bn"), SHAPE, 10)
    as_if_trained(net).get_buffer("norm.running_var").fill_(1e-9)
    original = clone(net)
    for scale in units.scales(net, SHAPE):
        assert units.kept(net, images(), lambda scale=scale: scale.apply(net, torch.full((scale.size,), 0.25)))
    assert float(net.get_buffer("norm.running_var").min()) >= 0
    same_answers(net, original, images())


def test_a_model_without_free_units_is_skipped() -> None:
    from harness.storage.codec import check_model

    net = nets.adapt(nn.Sequential(nn.Flatten(), nn.Linear(256, 10)), SHAPE, 10)
    net.description = lent("mlp").build().description
    with pytest.raises(Skip, match="no units whose order is free"):
        ran("feature-permutation", check_model(net), lent("mlp"), images())


# --- through the command line -----------------------------------------------------------------------------------------


def test_permuting_and_scaling_take_uchidas_bits_to_chance_and_move_no_answer(cli: Cli, tmp_path: Path) -> None:
    attacks = ("none", "feature-permutation", "permute-scale", "dummy-neurons")
    chosen = [word for attack in attacks for word in ("--attack", attack)]
    data = "digits[train=300,holdout=100,epochs=6,pretrain=3]"
    asked = ("run", "--dataset", data, "--defense", "uchida", *chosen, "--seeds", "0", "--nulls", "1")
    cli(*asked, "--no-innocents", "--results", tmp_path, code=0)
    cells = harness.read_table(tmp_path, "cells").set_index("attack")
    assert (cells["status"] == "ok").all()
    assert set(cells["surrogate_accuracy"]) == {cells.loc["none", "surrogate_accuracy"]}
    bits = cells["surrogate_trigger_matches"] / cells["surrogate_trigger_trials"]
    assert bits["none"] == 1 and 0.25 < bits["feature-permutation"] < 0.75 and 0.25 < bits["permute-scale"] < 0.75
    assert cells.loc["dummy-neurons", "surrogate_trigger_trials"] == 0, "weights of another shape are not read"
