"""White-box schemes on real digits: the layer that carries a mark, bits in weights, and what suspects say."""

from __future__ import annotations

import random
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from harness import nets, whitebox
from harness.contracts import Dataset, Evidence, Marked, Task
from harness.data import Data
from harness.engine.train import clone, predict
from harness.errors import OptionError, Skip, Unreadable, UsageError
from harness.nets import Net
from harness.planning.registry import Registry, load_registry
from harness.storage.tables import Tables
from tests.conftest import TINY, Cli
from tests.test_triggers import CPU, NOWHERE, digits, lend, rows


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
    built_in = set(registry().names("architecture")) - {"module", "timm", "torchvision"}  # other people's nets
    assert {text.partition("[")[0] for text in CARRIERS} == built_in


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


# --- DeepMarks --------------------------------------------------------------------------------------------------------

DESIGNS = {"7": 3, "13": 4, "21": 5, "31": 6, "57": 8}
"""Users of each code, and points in a block."""


def plugin_module(text: str) -> Any:
    """The module of a scheme, with its helpers."""
    return sys.modules[type(scheme(text)).__module__]


@cache
def copies() -> list[Marked]:
    """Five users' copies of one clean model, which is as many as the code can name."""
    task, clean = digits()
    return scheme("deepmarks").copies(task, lend(task, clean, 3), [4, 0, 17, 23, 30])


def average(nets: Sequence[Net]) -> Net:
    """The net of averaged weights."""
    net = clone(nets[0])
    with torch.no_grad():
        for parameters in zip(net.parameters(), *(each.parameters() for each in nets), strict=True):
            parameters[0].copy_(torch.stack(parameters[1:]).mean(0))
    return net


@pytest.mark.parametrize("users", DESIGNS)
def test_blocks_of_a_code_share_one_point(users: str) -> None:
    code = plugin_module("deepmarks").codewords(users)
    blocks = (code < 0).float()
    shared = blocks @ blocks.T
    assert torch.equal(shared, torch.ones_like(shared) + (DESIGNS[users] - 1) * torch.eye(int(users)))


@given(users=st.sampled_from([*DESIGNS]), draw=st.randoms(use_true_random=False), noise=st.floats(-0.04, 0.04))
def test_an_average_of_fewer_than_k_words_names_its_users_and_nobody_else(
    users: str, draw: random.Random, noise: float
) -> None:
    module, k = plugin_module("deepmarks"), DESIGNS[users]
    code = module.codewords(users)
    for m in range(1, k):
        colluders = draw.sample(range(int(users)), m)
        assert module.coalition(code[colluders].float().mean(0) + noise, code) == set(colluders)


def test_nobody_is_named_by_a_word_that_is_near_zero_or_of_too_many() -> None:
    module = plugin_module("deepmarks")
    code = module.codewords("31")
    assert module.coalition(torch.zeros(31), code) == set()
    assert module.coalition(code[:6].float().mean(0), code) == set()


@pytest.mark.slow
def test_deepmarks_names_the_user_of_a_copy_and_nobody_of_a_clean_model() -> None:
    _, clean = digits()
    for marked, user in zip(copies()[:2], (4, 0), strict=True):
        counts = scheme("deepmarks").verify_weights(marked.net, marked.key).counts
        assert (counts["trigger"].matches, counts["trigger"].trials) == (31, 31)
        assert counts["other_user"].matches == 21, "any two words share 21 bits"
        assert (counts["named"].matches, counts["named_others"].matches) == (1, 0)
        assert int(marked.key.tensors["user"]) == user and share(Evidence(counts), "control") < 0.75
    counts = scheme("deepmarks").verify_weights(clean, copies()[0].key).counts
    assert share(Evidence(counts)) < 0.75 and counts["named"].matches == counts["named_others"].matches == 0
    assert accuracy(copies()[0].net) >= accuracy(clean) - 0.02


@pytest.mark.slow
@pytest.mark.parametrize("m", [2, 3, 5])
def test_averaged_copies_name_their_users(m: int) -> None:
    module, chosen = plugin_module("deepmarks"), copies()[:m]
    key = chosen[0].key
    named = module.coalition(module.read(average([each.net for each in chosen]), key), key.tensors["code"])
    assert named == {int(each.key.tensors["user"]) for each in chosen}
    counts = scheme("deepmarks").verify_weights(average([each.net for each in chosen]), key).counts
    assert (counts["named"].matches, counts["named_others"].matches) == (1, m - 1)


def test_fingerprints_of_unrelated_nets_are_unrelated() -> None:
    """A secret that is drawn from 0 to 1 has a common part: there a fifth of unrelated nets have a cosine above 0.6."""
    secret = whitebox.projection(built("cnn"), "conv2", 31, torch.Generator().manual_seed(0))
    said = torch.stack([whitebox.projected(built("cnn", seed), "conv2", secret).detach() for seed in range(50)])
    cosines = nn.functional.normalize(said) @ nn.functional.normalize(said).T
    apart = cosines[~torch.eye(50, dtype=torch.bool)]
    assert abs(float(apart.mean())) < 0.1 and float((apart > 0.6).float().mean()) < 0.02


def test_the_user_is_drawn_from_the_owners_seed_or_named() -> None:
    task, clean = digits()
    short = replace(task, dataset=replace(task.dataset, epochs=13))
    drawn = {int(scheme("deepmarks").embed(short, lend(short, clean, seed)).key.tensors["user"]) for seed in range(4)}
    assert len(drawn) > 1
    key = scheme("deepmarks[users=7,user=3]").embed(short, lend(short, clean, 0)).key
    assert int(key.tensors["user"]) == 3 and key.tensors["code"].shape == (7, 7)
    with pytest.raises(OptionError, match="user=7 is not one of the users 0 to 6"):
        scheme("deepmarks[users=7,user=7]")


# --- DeepSigns --------------------------------------------------------------------------------------------------------


def test_deepsigns_bits_are_in_the_classes_of_a_victim() -> None:
    task, clean, marked = victim("deepsigns")
    own, others = (scheme("deepsigns").verify_weights(net, marked.key) for net in (marked.net, clean))
    assert (own.counts["trigger"].matches, own.counts["trigger"].trials) == (64, 64)
    assert share(own, "held_out") >= 0.95 and share(own, "control") < 0.7
    assert own.counts.keys() == {"trigger", "held_out", "control"}
    assert max(share(others, probe) for probe in own.counts) < 0.7
    assert costs_little("deepsigns")
    classes = marked.key.tensors["classes"].tolist()
    for probe, split in (("trigger", task.train), ("held_out", task.holdout)):
        images = marked.key.probes[probe]
        assert rows(images.x) <= rows(split.x) and set(images.y.tolist()) == set(classes)
        assert max(len(images.of(label)) for label in classes) <= 64


def test_deepsigns_learns_its_centres_and_reads_its_key_images() -> None:
    """Each step's gradient alone moves the centres, and the activations follow them."""
    _, clean, marked = victim("deepsigns")
    kept, module = marked.key.tensors, plugin_module("deepsigns")
    classes = kept["classes"].tolist()
    means = module.class_means(marked.net, "dense", marked.key.trigger, classes)
    images = marked.key.trigger.of(classes[1])
    by_hand = marked.net.activations(images.x)[1]["dense"].detach().mean(0)
    assert torch.allclose(means[1], by_hand, atol=1e-4)
    before = module.class_means(clean, "dense", marked.key.trigger, classes)
    assert (means - before).norm() > 0.1 * before.norm()


def test_deepsigns_loss_is_the_cards() -> None:
    net, module = built("cnn"), plugin_module("deepsigns")
    draw = torch.Generator().manual_seed(0)
    centres, secret = torch.randn(2, 128, generator=draw), torch.randn(128, 5, generator=draw) / 10
    message = torch.randint(2, (2, 5), generator=draw)
    x, y = torch.rand(4, 1, 8, 8, generator=draw), torch.tensor([7, 3, 3, 7])
    loss = scheme("deepsigns[pull=0.5,strength=2]")._loss("dense", module.places([3, 7], 10), centres, secret, message)
    values = loss(net, x, y)
    logits, taps = net.activations(x)
    apart = torch.stack([(taps["dense"][i] - centres[[1, 0, 0, 1][i]]).square().sum() for i in range(4)]).mean()
    said = (centres @ secret).sigmoid()
    bits = -(message * said.log() + (1 - message) * (1 - said).log()).sum()
    assert torch.allclose(values["loss"], nn.functional.cross_entropy(logits, y) + 0.5 * apart + 2 * bits, rtol=1e-4)


def test_deepsigns_bad_input() -> None:
    task, clean = digits()
    with pytest.raises(UsageError, match="layer=conv9 has no activations to mark: this net has conv1, conv2, dense"):
        scheme("deepsigns[layer=conv9]").embed(task, lend(task, clean))
    with pytest.raises(Skip, match="65 bits of a class need as many activations, layer 'dense' has 64"):
        scheme("deepsigns[count=65]").embed(task, lend(task, clean))
    assert scheme("deepsigns[classes=11]").skip(task.dataset) == "11 key classes are asked, it has 10 classes"
    _, _, marked = victim("deepsigns")
    for suspect, words in (("mlp", "it has no layer 'dense' with activations"), ("lstm", "128 activations, not 64")):
        with pytest.raises(Unreadable, match=words):
            scheme("deepsigns").verify_weights(built(suspect), marked.key)


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["lstm", "mlp", "lenet"])
def test_deepsigns_marks_other_nets(architecture: str) -> None:
    task, _ = digits()
    task = replace(task, dataset=replace(task.dataset, architecture=architecture, epochs=8, pretrain=1))
    marked = scheme("deepsigns[count=8]").embed(task, lend(task))
    assert share(scheme("deepsigns").verify_weights(marked.net, marked.key)) >= 0.9


# --- whole runs -------------------------------------------------------------------------------------------------------


def test_a_thief_with_another_net_leaves_nothing_to_read(cli: Cli, tmp_path: Path) -> None:
    axes = [("--dataset", TINY), ("--attack", "retraining[architecture=mlp,epochs=1]"), ("--nulls", "0")]
    schemes = [("--defense", name) for name in ("uchida[count=8]", "deepmarks[users=7]", "deepsigns[count=8]")]
    words = [word for pair in (*axes, *schemes) for word in pair]
    cli("run", *words, "--seeds", "0", "--no-innocents", "--results", tmp_path, "--quiet", code=0)
    evidence = Tables(tmp_path).read("evidence")
    stolen = evidence[(evidence["suspect"] == "surrogate") & (evidence["probe"] == "trigger")]
    assert stolen["trials"].tolist() == [0, 0, 0] and (evidence["trials"] > 0).any()
    reasons = Tables(tmp_path).read("stages").set_index("label")["unreadable"].dropna()
    assert sorted(reasons[reasons != ""]) == [
        *2 * ["it has no hidden layer 'conv2' that convolves or is dense"],
        "it has no layer 'dense' with activations",
    ]


def test_a_layer_that_is_not_there_is_a_failed_cell_of_one_line(cli: Cli, tmp_path: Path) -> None:
    words = ("--dataset", TINY, "--defense", "uchida[layer=conv9]", "--attack", "none", "--seeds", "0", "--nulls", "0")
    ended = cli("run", *words, "--no-innocents", "--results", tmp_path, "--quiet", code=1)
    assert "layer=conv9 is not a layer to write a mark to: this net has conv1, conv2, dense" in ended.err
    assert "Traceback" not in ended.err
