"""Removal attacks that prune, round, shift and fine-tune the stolen model, on real digits."""

from __future__ import annotations

import copy
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import harness
from harness import adversarial, nets, overwriting
from harness.contracts import Key, Pool, Split
from harness.engine.train import clone, predict
from harness.errors import OptionError, Skip
from harness.nets import Net
from tests.conftest import TINY, Cli
from tests.test_schemes_whitebox import accuracy, built, registry, scheme, share, victim
from tests.test_triggers import PatchTriggers, digits, lend, make, rows

TRAINING = [
    *("weight-pruning[epochs=1]", "weight-quantization[bits=3,epochs=1]", "label-smoothing[epochs=1]"),
    *("regularization[epochs=1,tuning=1]", "weight-shifting[epochs=1]", "refit[epochs=1]"),
    *("refit[epochs=1,ewc=10]", "adversarial-training[epochs=1,steps=2]"),
    *("adversarial-training[epochs=1,steps=2,method=trades]", "ft-sam[epochs=1]", "fst[epochs=1]"),
]


def attack(text: str) -> Any:
    return registry().component("attack", text).plugin


def module_of(name: str) -> ModuleType:
    return sys.modules[type(attack(name)).__module__]


def attacked(text: str, net: Net | None = None, data: Split | None = None, seed: int = 3, **recipe: Any) -> Net:
    """A copy of ``net``, by default the clean model of digits, after an attack by a thief with ``data``."""
    task, clean = digits()
    task = replace(task, dataset=replace(task.dataset, **recipe))
    data, plugin = data or task.train, attack(text)
    pool = Pool(task.dataset.public(), data.x, data.y if plugin.has_labels else None)
    result: Net = plugin.run(clone(net or clean), pool, lend(task, seed=seed))
    return result


def same(one: Net, two: Net) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), two.state_dict().values(), strict=True))


@cache
def normed() -> Net:
    """A small trained net with batch norm."""
    task, _ = digits()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = nn.Sequential(
            *(nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8), nn.ReLU()),
            *(nn.Flatten(), nn.Linear(128, 10)),
        )
    net = nets.adapt(module, (1, 8, 8), 10)
    return lend(task).train(net, [lend(task).stream(task.train)], 3)


def others(net: Net) -> dict[str, Tensor]:
    """What a net has beside its weights: biases, and the parameters and statistics of norms."""
    return {name: each for name, each in net.state_dict().items() if name not in nets.weights(net)}


# --- weights ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted({*registry().names("architecture")} - {"module", "timm"}))  # of users' files
def test_weights_are_of_layers_and_no_norm(name: str) -> None:
    net = built(name)
    weights = nets.weights(net)
    assert all(each.ndim > 1 for each in weights.values())
    layers = [part for part in net.modules() if isinstance(part, nn.Conv2d | nn.Linear)]
    assert {id(part.weight) for part in layers} <= {id(each) for each in weights.values()}


def test_a_norm_of_two_dimensions_has_no_weights() -> None:
    net = nets.adapt(
        nn.Sequential(nn.Conv2d(1, 4, 3), nn.LayerNorm([4, 6, 6]), nn.Flatten(), nn.Linear(144, 10)), (1, 8, 8), 10
    )
    assert set(nets.weights(net)) == {"0.weight", "3.weight"}


# --- weight-pruning ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fraction", [0, 0.5, 0.95, 1])
def test_the_smallest_weights_of_each_tensor_become_zero(fraction: float) -> None:
    net = normed()
    pruned = attacked(f"weight-pruning[fraction={fraction}]", net)
    for name, weight in nets.weights(net).items():
        now = nets.weights(pruned)[name]
        gone = now == 0
        assert int(gone.sum()) == int(fraction * weight.numel())
        assert torch.equal(now[~gone], weight[~gone])
        if 0 < fraction < 1:
            assert weight[gone].abs().max() <= weight[~gone].abs().min()
    assert all(torch.equal(each, others(pruned)[name]) for name, each in others(net).items())


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd"])
def test_pruned_weights_stay_zero_while_the_others_are_trained(optimizer: str) -> None:
    recipe = {"optimizer": optimizer, "weight_decay": 0.1}
    for net in (normed(), built("lstm")):
        once, tuned = attacked("weight-pruning", net), attacked("weight-pruning[epochs=1]", net, **recipe)
        for name, weight in nets.weights(tuned).items():
            gone = nets.weights(once)[name] == 0
            assert torch.equal(weight == 0, gone) and not torch.equal(weight, nets.weights(once)[name])
            assert not weight._backward_hooks, "the masks are taken off"


def test_pruning_by_magnitude_needs_no_data_without_epochs() -> None:
    assert not attack("weight-pruning").has_labels and attack("weight-pruning[epochs=1]").has_labels
    assert not attack("weight-pruning[epochs=1,labels=model]").has_labels
    assert same(attacked("weight-pruning", seed=1), attacked("weight-pruning", seed=2))


# --- weight-quantization ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [8, 4, 3, 2])
@pytest.mark.parametrize("epochs", [0, 1])
def test_each_channel_has_few_weights_after_all_tuning(bits: int, epochs: int) -> None:
    net = normed()
    rounded = attacked(f"weight-quantization[bits={bits},epochs={epochs}]", net)
    most = 2 ** (bits - 1) - 1
    for name, weight in nets.weights(rounded).items():
        for channel in weight.detach().flatten(1):
            assert len(channel.unique()) <= 2 * most + 1
            whole = channel / channel.abs().max() * most
            assert torch.allclose(whole, whole.round(), atol=1e-3)
            assert int(whole.round().abs().max()) == most, "the top bin is used"
        if not epochs:
            before = nets.weights(net)[name].detach().flatten(1)
            step = before.abs().amax(1, keepdim=True) / most
            assert ((weight.detach().flatten(1) - before).abs() <= step / 2 + 1e-6).all()
    if not epochs:
        assert all(torch.equal(each, others(rounded)[name]) for name, each in others(net).items())


def test_tuning_through_the_rounding_wins_accuracy_back() -> None:
    plain, tuned = (attacked(f"weight-quantization[bits=2{epochs}]") for epochs in ("", ",epochs=3"))
    assert accuracy(tuned) > accuracy(plain) + 0.02
    assert abs(accuracy(attacked("weight-quantization")) - accuracy(digits()[1])) < 0.01


def test_the_gradient_through_the_rounding_is_that_at_the_rounded_weights() -> None:
    plugin, (task, _), net = attack("weight-quantization[bits=3]"), digits(), clone(normed()).eval()
    x, y = task.train.x[:32], task.train.y[:32]
    plugin.loss(0.0)(net, x, y).backward()
    there = attacked("weight-quantization[bits=3]", normed()).eval()
    F.cross_entropy(there(x), y).backward()
    for one, two in zip(net.parameters(), there.parameters(), strict=True):
        assert torch.allclose(one.grad, two.grad, atol=1e-5)


def test_a_channel_of_zeros_stays_so_and_one_bit_is_refused() -> None:
    weight = torch.tensor([[0.0, 0.0], [1.0, -0.4]])
    assert torch.equal(module_of("weight-quantization").rounded(weight, 2), torch.tensor([[0.0, 0.0], [1.0, 0.0]]))
    for text in ("weight-quantization[bits=1]", "weight-quantization[bits=0]", "weight-pruning[fraction=1.1]"):
        with pytest.raises(OptionError):
            attack(text)


# --- label-smoothing --------------------------------------------------------------------------------------------------


def test_targets_are_the_models_own_answers_spread_over_all_classes(monkeypatch: pytest.MonkeyPatch) -> None:
    task, clean = digits()
    wrong = Split(task.train.x, (task.train.y + 1) % 10)  # true labels that must not be seen
    smooth, sharp = (attacked(f"label-smoothing[smoothing={share}]", data=wrong) for share in (0.3, 0))
    answers = predict(clean, task.train.x).argmax(1)
    for net, top in ((smooth, (0.6, 0.8)), (sharp, (0.95, 1.0))):
        chances = predict(net, task.train.x).softmax(1)
        assert (chances.argmax(1) == answers).float().mean() > 0.95
        assert top[0] < chances.max(1).values.mean() <= top[1], "0.7 and a tenth of 0.3"
    assert not attack("label-smoothing").has_labels and attack("label-smoothing[labels=true]").has_labels


# --- regularization ---------------------------------------------------------------------------------------------------


def test_the_first_phase_shrinks_weights_and_the_second_wins_accuracy_back() -> None:
    def size(net: Net) -> float:
        return sum(float(each.detach().square().sum()) for each in nets.weights(net).values())

    none, some = (attacked(f"regularization[weight_decay={decay},tuning=1]") for decay in (0, 0.1))
    assert size(some) < 0.7 * size(none)
    assert accuracy(attacked("regularization")) > accuracy(digits()[1]) - 0.04


# --- weight-shifting --------------------------------------------------------------------------------------------------


def test_the_mean_weight_is_turned_round_and_so_are_uchidas_bits() -> None:
    _, _, marked = victim("uchida")
    shifted = attacked("weight-shifting[noise=0,epochs=0]", marked.net)
    for name in ("conv1", "conv2"):
        before, after = (net.get_submodule(name).get_parameter("weight").mean(0) for net in (marked.net, shifted))
        assert torch.allclose(after, -0.5 * before, atol=1e-6)
    assert torch.equal(shifted.get_parameter("dense.weight"), marked.net.get_parameter("dense.weight"))
    assert share(scheme("uchida").verify_weights(shifted, marked.key)) == 0


def test_the_noise_is_as_wide_as_the_weights_and_the_accuracy_comes_back() -> None:
    _, clean = digits()
    noisy = attacked("weight-shifting[shift=0,epochs=0]")
    before, after = (net.get_parameter("conv2.weight").detach() for net in (clean, noisy))
    assert (after - before).std() == pytest.approx(float(before.std()), rel=0.1)
    assert accuracy(noisy) < 0.9 < accuracy(attacked("weight-shifting"))


def test_a_net_without_convolutions_is_shifted_in_its_hidden_layers() -> None:
    for name, last in (("mlp", "logits"), ("lstm", "logits")):
        net = built(name)
        shifted = attacked("weight-shifting[epochs=0]", net)
        for layer, weight in nets.weights(net).items():
            assert torch.equal(weight, nets.weights(shifted)[layer]) == layer.startswith(last)


# --- refit ------------------------------------------------------------------------------------------------------------


def test_the_fisher_information_is_that_of_single_inputs() -> None:
    task, _ = digits()
    net = built("mlp[width=8]")
    data = task.train.first(64)

    def loss(weights: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(torch.func.functional_call(net, weights, (x[None],)), y[None])

    weights = {name: each.detach() for name, each in net.named_parameters()}
    chances = predict(net, data.x).softmax(1)
    exact = {name: torch.zeros_like(each) for name, each in weights.items()}
    for label in range(10):  # the mean over labels of the net's own probabilities
        gradients = torch.vmap(torch.func.grad(loss), (None, 0, None))(weights, data.x, torch.tensor(label))
        for name, each in gradients.items():
            exact[name] += torch.einsum("n,n...->...", chances[:, label], each.square()) / len(data)
    drawn = [module_of("refit").fisher(net, data, lend(task, seed=seed)) for seed in range(100)]
    for name, each in exact.items():
        mean = torch.stack([one[name] for one in drawn]).mean(0)
        assert mean.sum() == pytest.approx(float(each.sum()), rel=0.1)
        assert F.cosine_similarity(mean.flatten(), each.flatten(), dim=0) > 0.95


def test_elastic_weights_stay_nearer_to_the_victims() -> None:
    _, clean = digits()

    def moved(net: Net) -> float:
        pairs = zip(net.parameters(), clean.parameters(), strict=True)
        return sum(float((a - b).detach().square().sum()) for a, b in pairs)

    free, bound = (attacked(f"refit[learning_rate=0.15,epochs=2,ewc={ewc}]") for ewc in (0, 100))
    assert moved(bound) < 0.9 * moved(free)


def test_the_fisher_information_leaves_the_net_as_it_is() -> None:
    task, net = digits()[0], clone(normed()).train()
    before = copy.deepcopy(net.state_dict())
    module_of("refit").fisher(net, task.train.first(40), lend(task))
    assert all(torch.equal(each, before[name]) for name, each in net.state_dict().items()) and net.training


# --- adversarial-training ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["pgd", "trades"])
def test_adversarial_inputs_are_near_and_raise_the_loss(method: str) -> None:
    task, net = digits()[0], clone(normed()).train()
    before = copy.deepcopy(net.state_dict())
    x, y = nets.as_float(task.train.x[:64]), task.train.y[:64]
    near = attack(f"adversarial-training[method={method}]").perturbed(net, x, y, (0.0, 1.0))
    assert (near - x).abs().max() <= 0.1 + 5e-3 and near.min() >= 0 and near.max() <= 1
    assert all(torch.equal(each, before[name]) for name, each in net.state_dict().items()) and net.training
    with torch.no_grad():
        raised = F.cross_entropy(net.eval()(near), y) - F.cross_entropy(net(x), y)
    assert raised > 0.2


@pytest.mark.slow
@pytest.mark.parametrize("method", ["pgd", "trades"])
def test_adversarial_training_makes_the_model_robust(method: str) -> None:
    task, clean = digits()
    tuned = attacked(f"adversarial-training[method={method},steps=5]")

    def robust(net: Net) -> float:
        near = adversarial.pgd(net, task.holdout.x, task.holdout.y, 0.1, 0.05, 5, (0.0, 1.0))
        return float((predict(net, near).argmax(1) == task.holdout.y).float().mean())

    assert robust(tuned) > robust(clean) + 0.1 and accuracy(tuned) > 0.9


# --- clp --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["weight of a convolution", "factor of a norm"])
def test_the_channel_that_moves_most_is_pruned(place: str) -> None:
    net = clone(normed())
    tensor = net.get_parameter("3.weight" if place == "weight of a convolution" else "4.weight")
    tensor.data[5] *= 50
    pruned = attacked("clp[u=2.4]", net)
    assert not any(pruned.get_parameter(name)[5].any() for name in ("3.weight", "3.bias", "4.weight", "4.bias"))
    answers = pruned.eval().activations(digits()[0].train.x[:9])[1]
    assert not answers["3"][:, 5].any() and answers["3"][:, :5].any()
    rest = torch.arange(8) != 5
    for name, each in net.state_dict().items():
        now = pruned.state_dict()[name]
        assert torch.equal(each, now) or (name[0] in "34" and torch.equal(each[rest], now[rest])) or name[0] in "01"
    assert torch.equal(net.get_parameter("7.weight"), pruned.get_parameter("7.weight")), "the last layer stays"


def test_the_bound_is_that_of_the_channel_and_needs_no_data() -> None:
    module = module_of("clp")
    pairs = [*module.layers(normed()).values()]
    assert [norm is not None for _, norm in pairs] == [True, True], "the last layer is not among them"
    layer, norm = pairs[0]
    bound = module.lipschitz(layer, None)
    exact = [float(torch.linalg.svdvals(each.flatten(1))[0]) for each in layer.weight.detach()]
    assert bound.tolist() == pytest.approx(exact, rel=1e-5)
    factors = norm.weight.detach() / (norm.running_var + norm.eps).sqrt()
    assert torch.allclose(module.lipschitz(layer, norm), bound * factors.abs())
    assert [len(module.layers(built(name))) for name in ("mlp", "lstm")] == [2, 1]
    wide = module.layers(built("wrn[depth=10,width=1]"))
    assert "stem" in wide and len(wide) == 4 and all(norm is not None for _, norm in wide.values())
    assert same(attacked("clp[u=1]", seed=1), attacked("clp[u=1]", seed=2))


# --- nad --------------------------------------------------------------------------------------------------------------


def test_attention_maps_come_nearer_to_the_teachers() -> None:
    (task, clean), plugin = digits(), attack("nad")
    x, y = task.train.x[:64], task.train.y[:64]
    maps = plugin.maps(clean, x)
    assert len(maps) == 2 and all(torch.allclose(each.norm(dim=1), torch.ones(64), atol=1e-4) for each in maps)
    assert float(plugin.loss(clean, 0.0)(clone(clean).eval(), x, y)["distance"].detach()) == pytest.approx(0, abs=1e-8)
    teacher, student = built("cnn[width=16]", 5).eval().requires_grad_(False), clone(clean)
    before = copy.deepcopy(teacher.state_dict())
    loss = plugin.loss(teacher, 0.0)
    first = float(loss(student, x, y)["distance"].detach())
    lend(task).train(student, [lend(task).stream(task.train, loss)], 1)
    assert float(loss(student, x, y)["distance"].detach()) < 0.5 * first
    assert all(torch.equal(each, before[name]) for name, each in teacher.state_dict().items())


def test_a_net_without_convolutions_has_no_attention_maps() -> None:
    for name in ("mlp", "lstm"):
        with pytest.raises(Skip, match="no layer that convolves"):
            attacked("nad", built(name))
    assert accuracy(attacked("nad[teaching=1,epochs=1]")) > 0.9


# --- ft-sam and fst ---------------------------------------------------------------------------------------------------


def test_the_gradient_is_that_where_the_loss_is_largest() -> None:
    plugin, (task, _), net = attack("ft-sam[rho=0.5,smoothing=0]"), digits(), clone(normed()).train()
    x, y = task.train.x[:32], task.train.y[:32]
    once = clone(net)
    F.cross_entropy(once(x), y).backward()
    plugin.loss()(net, x, y).backward()
    moved = clone(normed()).train()
    steps = [each.detach().abs().square() * each.grad for each in once.parameters()]
    size = torch.cat([(each.detach().abs() * each.grad).flatten() for each in once.parameters()]).norm()
    for each, step in zip(moved.parameters(), steps, strict=True):
        each.data += 0.5 * step / size
    raised = F.cross_entropy(moved(x), y)
    assert raised > F.cross_entropy(once(x), y)
    raised.backward()
    for one, two in zip(net.parameters(), moved.parameters(), strict=True):
        assert torch.allclose(one.grad, two.grad, atol=1e-4)
    norms = [part for part in net.modules() if isinstance(part, nn.BatchNorm2d)]
    assert {int(part.num_batches_tracked) for part in norms} == {
        int(part.num_batches_tracked) for part in moved.modules() if isinstance(part, nn.BatchNorm2d)
    }, "running statistics move once a step"


def test_the_last_layer_is_another_as_long_as_the_old_one() -> None:
    _, clean = digits()
    old = clean.get_parameter("logits.weight").detach()
    along = []
    for alpha in (0, 0.1):
        net = attacked(f"fst[alpha={alpha},epochs=5]")
        weight = net.get_parameter("logits.weight").detach()
        assert weight.norm() == pytest.approx(float(old.norm()), rel=1e-4)
        along.append(float((weight * old).sum()))
    assert along[1] < along[0] and accuracy(net) > 0.9


# --- overwriting ------------------------------------------------------------------------------------------------------


def test_a_thiefs_own_mark_is_in_the_model_and_not_the_owners_key() -> None:
    task, _, marked = victim("uchida")
    pool = Pool(task.dataset.public(), task.train.x, task.train.y, task.dataset.patch, scheme("uchida"))
    own = overwriting.embed(scheme("uchida"), marked.net, task.train, pool, lend(task, seed=5), 10)
    assert share(scheme("uchida").verify_weights(own.net, own.key)) > 0.75
    assert not torch.equal(own.key.tensors["projection"], marked.key.tensors["projection"])
    assert accuracy(own.net) > accuracy(marked.net) - 0.03
    before = copy.deepcopy(marked.net.state_dict())
    assert all(torch.equal(each, before[name]) for name, each in marked.net.state_dict().items())


def test_a_thief_who_plays_the_owner_draws_classes_and_holds_inputs_out() -> None:
    task, _ = digits()
    pool = Pool(task.dataset.public(), task.train.x, task.train.y, 2)
    tasks = [overwriting.own_task(task.train, pool, torch.Generator().manual_seed(seed)) for seed in range(100)]
    pairs = [(each.dataset.source, each.dataset.target) for each in tasks]
    assert {one for one, _ in pairs} == {two for _, two in pairs} == set(range(10))
    assert all(one != two for one, two in pairs)
    own = tasks[0]
    assert not rows(own.train.x) & rows(own.holdout.x) and len(own.train) + len(own.holdout) == len(task.train)
    assert set(own.holdout.y.tolist()) == set(range(10)) and own.dataset.patch == 2
    assert own.dataset.public() == task.dataset.public()


def test_what_cannot_be_overwritten_is_skipped_with_the_reason() -> None:
    task, net = digits()
    pool = Pool(task.dataset.public(), task.train.x, task.train.y)
    for name, reason in (("prown", "embeds nothing"), ("dawn", "embeds nothing"), ("cfw", "another data set")):
        with pytest.raises(Skip, match=reason):
            overwriting.embed(scheme(name), net, task.train, pool, lend(task), 1)
    with pytest.raises(Skip, match="too few"):
        overwriting.embed(scheme("uchida"), net, task.train.first(9), pool, lend(task), 1)
    with pytest.raises(Skip, match="no scheme"):
        attacked("overwriting")


# --- all --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", TRAINING)
@pytest.mark.parametrize("architecture", ["cnn", "lstm", "resnet9[width=4]"])
def test_every_net_is_attacked_by_a_thief_with_five_inputs_of_two_classes(text: str, architecture: str) -> None:
    task, net = digits()[0], built(architecture)
    few = task.train[task.train.y < 2].first(5)
    once, again = (attacked(text, net, few) for _ in range(2))
    assert same(once, again) and not same(once, net)
    assert predict(once, few.x).isfinite().all()


@pytest.mark.slow
def test_removal_from_the_command_line(cli: Cli, tmp_path: Path) -> None:
    names = ("weight-pruning", "weight-quantization[bits=3]", "label-smoothing", "regularization", "weight-shifting")
    labelled = ("refit[pool_share=0.2]", "adversarial-training", "overwriting", "nad", "ft-sam", "fst")
    chosen = [word for name in (*names, *labelled, "clp") for word in ("--attack", name)]
    axes = ("--dataset", TINY, "--defense", "uchida", *chosen, "--seeds", "0", "--nulls", "0", "--no-innocents")
    cli("run", *axes, "--results", tmp_path, code=0)
    cells = harness.read_table(tmp_path, "cells").set_index("attack")
    assert (cells["status"] == "ok").all() and (cells["family"] == "removal").all()
    assert cells["labelled"].to_dict() == {name: name not in (*names[:3], "clp") for name in cells.index}
    assert cells.loc["overwriting", "knows"] == "scheme"
    assert cells.loc["refit[pool_share=0.2]", "labelled_share"] == 0.2


# --- patch-relabelling ------------------------------------------------------------------------------------------------


def test_each_square_is_whole_and_at_a_place_of_its_own() -> None:
    x = torch.zeros(500, 3, 4, 5).byte()
    squares = module_of("patch-relabelling").squares_like(x, 2, torch.Generator().manual_seed(0))
    assert squares.shape == (500, 1, 4, 5) and squares.dtype == torch.bool
    assert (squares.flatten(1).sum(1) == 4).all()
    corners = {tuple(square.nonzero()[0].tolist()) for square in squares[:, 0]}
    assert corners == {(i, j) for i in range(3) for j in range(4)}


def test_a_thief_who_knows_the_patch_unlearns_the_baselines_mark_at_no_cost() -> None:
    task, clean = digits()
    trigger = make(PatchTriggers(placement="corner"), task, clean).trigger
    marked = scheme("baseline").embed(replace(task, triggers=Key({"trigger": trigger})), lend(task, clean, 2))
    plugin = attack("patch-relabelling")
    pool = Pool(task.dataset.public(), task.train.x, None, task.dataset.patch)
    net = plugin.run(clone(marked.net), pool, lend(task, seed=3))

    def answered(asked: Net) -> float:
        return float((predict(asked, trigger.x).argmax(1) == trigger.y).float().mean())

    assert answered(marked.net) > 0.95 and answered(net) < 0.3
    assert accuracy(net) > accuracy(marked.net) - 0.03
    with pytest.raises(Skip, match="a patch of side 9 does not fit"):
        plugin.run(marked.net, replace(pool, patch=9), lend(task))
