"""White-box schemes on real digits: the layer that carries a mark, bits in weights, and what suspects say."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from harness import nets, whitebox
from harness.contracts import Dataset, Evidence, Marked, Task
from harness.data import Data
from harness.engine.train import clone, predict
from harness.errors import Skip, Unreadable, UsageError
from harness.nets import Net
from harness.planning.registry import Registry, load_registry
from tests.test_triggers import CPU, NOWHERE, digits, lend


@cache
def registry() -> Registry:
    return load_registry()


def scheme(text: str) -> Any:
    return registry().component("defense", text).plugin


def built(architecture: str, seed: int = 0) -> Net:
    """A net of digits that was not trained."""
    dataset: Dataset = registry().component("dataset", "digits").plugin
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        plugin = registry().component("architecture", architecture).plugin
        return nets.build(plugin, dataset.input_shape, len(dataset.classes))


@cache
def victim(text: str) -> tuple[Task, Net, Marked]:
    """The owner's task, its clean model, and what the scheme of this text made."""
    task, clean = digits()
    return task, clean, scheme(text).embed(task, lend(task, clean if scheme(text).from_clean else None, 2))


def share(evidence: Evidence, probe: str = "trigger") -> float:
    count = evidence.counts[probe]
    return count.matches / count.trials


def accuracy(net: Net) -> float:
    test = Data(NOWHERE).test(digits()[0].dataset, CPU)
    return float((predict(net, test.x).argmax(1) == test.y).float().mean())


def costs_little(text: str) -> bool:
    """True if the victim's test accuracy is at most two points below the clean model's."""
    _, clean, marked = victim(text)
    return accuracy(marked.net) >= accuracy(clean) - 0.02


# --- the layer that carries a mark ------------------------------------------------------------------------------------

CARRIERS = {
    **{"cnn": "conv2", "lenet": "conv2", "lstm": "dense", "mlp": "dense2", "resnet9": "stage3_added"},
    **{"resnet18[width=4]": "block8_inner", "vgg[width=8]": "conv5_2", "wrn[depth=10,width=1]": "block3_inner"},
}


def test_every_built_in_architecture_is_tried() -> None:
    assert {text.partition("[")[0] for text in CARRIERS} == set(registry().names("architecture"))


@pytest.mark.parametrize("architecture", CARRIERS)
def test_every_architecture_has_a_layer_for_64_bits(architecture: str) -> None:
    net = built(architecture)
    layer = whitebox.carrier(net)
    assert layer == CARRIERS[architecture]
    assert whitebox.carrier(net, layer) == layer
    secret = whitebox.projection(net, layer, 64, torch.Generator().manual_seed(0))
    assert secret.shape[0] == 64 and secret.shape[1] >= 128
    assert whitebox.projected(net, layer, secret).shape == (64,)


def test_the_mean_weight_is_of_the_blocks_last_convolution() -> None:
    net = built("resnet9")
    block = net.get_submodule("stage1_pooled")
    assert isinstance(block, nn.Sequential)
    mean = whitebox.mean_weight(net, "stage1_pooled")
    assert torch.equal(mean, block[0].get_parameter("weight").mean(0).flatten()) and mean.requires_grad


def test_a_net_from_any_module_carries_a_mark() -> None:
    module = nn.Sequential(nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(288, 10))
    net = nets.adapt(module, (1, 8, 8), 10)
    assert whitebox.carrier(net) == "0" and whitebox.mean_weight(net, "0").shape == (9,)


def test_a_layer_that_is_not_there_is_named_with_those_that_are() -> None:
    with pytest.raises(UsageError, match=r"layer=conv9 is not a layer .*: this net has conv1, conv2, dense"):
        whitebox.carrier(built("cnn"), "conv9")
    with pytest.raises(UsageError, match="layer=lstm is not a layer to write a mark to: this net has dense"):
        whitebox.carrier(built("lstm"), "lstm")
    with pytest.raises(UsageError, match="no hidden layer that convolves or is dense"):
        whitebox.carrier(nets.Layers(logits=[nn.Flatten(), nn.Linear(64, 10)]))


def test_a_message_that_its_layer_cannot_say_is_skipped() -> None:
    with pytest.raises(Skip, match="100 bits need a mean weight of 200 numbers, layer 'conv2' has 150"):
        whitebox.projection(built("lenet"), "conv2", 100, torch.Generator())


def test_a_suspect_without_the_layer_is_unreadable() -> None:
    secret = torch.zeros(2, 288)
    with pytest.raises(Unreadable, match="it has no hidden layer 'conv2'"):
        whitebox.projected(built("mlp"), "conv2", secret)
    with pytest.raises(Unreadable, match="its layer 'conv2' has a mean weight of 150 numbers, not 288"):
        whitebox.projected(built("lenet"), "conv2", secret)


@pytest.mark.parametrize("name", ["conv2", "stage3_added", "größe"])
def test_a_layers_name_is_a_tensor_of_the_key(name: str) -> None:
    assert whitebox.tensor_name(whitebox.name_tensor(name)) == name


def test_bits_are_one_from_0_on() -> None:
    count = whitebox.bits(torch.tensor([0.0, 1.0, -1.0, -0.5]), torch.tensor([1, 1, 0, 1]))
    assert (count.matches, count.trials) == (3, 4)


# --- Uchida et al. ----------------------------------------------------------------------------------------------------


def test_uchidas_bits_are_in_the_victim_and_not_in_a_clean_model() -> None:
    _, clean, marked = victim("uchida")
    own, others = (scheme("uchida").verify_weights(net, marked.key) for net in (marked.net, clean))
    assert (own.counts["trigger"].matches, own.counts["trigger"].trials) == (64, 64)
    assert share(own, "control") < 0.7 and share(others) < 0.7 and share(others, "control") < 0.7
    assert own.counts.keys() == {"trigger", "control"}
    assert costs_little("uchida")


def test_random_keys_of_uchida_say_half_of_their_bits_on_a_victim() -> None:
    _, _, marked = victim("uchida")
    draw = torch.Generator().manual_seed(0)
    said = []
    for _ in range(200):
        secret = whitebox.projection(marked.net, "conv2", 64, draw)
        values = whitebox.projected(marked.net, "conv2", secret)
        said.append(whitebox.bits(values, torch.randint(2, (64,), generator=draw)).matches / 64)
    assert sum(said) / len(said) == pytest.approx(0.5, abs=0.02)


def test_uchidas_penalty_follows_the_weights() -> None:
    """It changes with one step: a mean weight that was computed once keeps the penalty as it was, without an error."""
    task, _ = digits()
    net = built("cnn")
    secret = whitebox.projection(net, "conv2", 64, torch.Generator().manual_seed(0))
    loss = scheme("uchida[strength=1]").loss("conv2", secret, torch.ones(64, dtype=torch.int64))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    penalties = []
    for _ in range(3):
        optimizer.zero_grad()
        values = loss(net, task.train.x[:64], task.train.y[:64])
        values["loss"].backward()
        penalties.append(float(values["penalty"].detach()))
        optimizer.step()
    assert penalties[0] > penalties[1] > penalties[2]


def test_uchidas_penalty_is_the_papers() -> None:
    net, x, y = built("cnn"), torch.zeros(4, 1, 8, 8), torch.zeros(4, dtype=torch.int64)
    secret = torch.randn(5, 288, generator=torch.Generator().manual_seed(0))
    message = torch.tensor([1, 0, 0, 1, 1])
    values = scheme("uchida[strength=0.5]").loss("conv2", secret, message)(net, x, y)
    said = (secret @ net.get_parameter("conv2.weight").mean(0).flatten()).sigmoid()
    expected = -(message * said.log() + (1 - message) * (1 - said).log()).sum()
    assert torch.allclose(values["penalty"], expected)
    assert torch.allclose(values["loss"], nn.functional.cross_entropy(net(x), y) + 0.5 * expected)


@pytest.mark.parametrize("architecture", ["mlp", "lstm", "resnet9[width=4]"])
def test_uchida_marks_other_nets(architecture: str) -> None:
    task, _ = digits()
    task = replace(task, dataset=replace(task.dataset, architecture=architecture, epochs=4, pretrain=1))
    marked = scheme("uchida[count=16]").embed(task, lend(task))
    assert share(scheme("uchida").verify_weights(marked.net, marked.key)) == 1


def test_uchida_fine_tunes_where_it_is_told_to() -> None:
    _, clean, marked = victim("uchida[start=pretrained]")
    assert share(scheme("uchida").verify_weights(marked.net, marked.key)) == 1
    ours, theirs = (net.get_parameter("dense.weight").detach() for net in (marked.net, clean))
    assert (ours - theirs).norm() < theirs.norm() / 2, "it begins with the clean model's weights"


def test_uchidas_mark_is_turned_over_with_the_mean_weight() -> None:
    _, _, marked = victim("uchida")
    net = clone(marked.net)
    with torch.no_grad():
        weight: Tensor = net.get_parameter("conv2.weight")
        weight -= 2 * weight.mean(0)
    assert share(scheme("uchida").verify_weights(net, marked.key)) == 0
