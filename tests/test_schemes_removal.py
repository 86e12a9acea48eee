"""Black-box schemes that are made to survive removal, on real digits."""

from __future__ import annotations

import copy
import hashlib
from dataclasses import replace
from functools import cache
from typing import cast

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness import nets, triggers
from harness.contracts import Evidence, Key, Marked, Oracle, Split, Stream
from harness.engine.train import clone, predict
from harness.errors import OptionError, Skip, Unreadable
from harness.nets import Net
from tests.test_schemes_whitebox import built, costs_little, plugin_module, scheme, share, victim
from tests.test_triggers import digits, lend, rows


def asked(text: str, net: Net) -> Evidence:
    """Evidence of a net by the key of the victim of this scheme."""
    evidence: Evidence = scheme(text).verify(Oracle(lambda x: predict(net, x)), victim(text)[2].key)
    return evidence


@pytest.mark.slow
# --- adversarial parametric perturbation ------------------------------------------------------------------------------
def test_app_marks_a_victim_at_little_cost() -> None:
    task, clean, marked = victim("app")
    own, others = (asked("app", net) for net in (marked.net, clean))
    assert share(own) >= 0.99 and share(own, "held_out") >= 0.9 and share(own, "control") <= 0.1
    assert max(share(others, probe) for probe in own.counts) <= 0.2
    assert costs_little("app")
    trigger, target = marked.key.trigger, task.dataset.target
    assert (trigger.y == target).all() and len(trigger) == 100
    window = marked.key.tensors["mask"].bool()
    originals = rows(trigger.x.masked_fill(window, 0))
    assert originals <= rows(task.train.x[task.train.y != target].masked_fill(window, 0))
    assert not originals & rows(task.train.of(target).x.masked_fill(window, 0))


NETS = ["cnn", "lstm", "resnet9[width=4]", "adapted"]


def net_of(name: str) -> Net:
    if name != "adapted":
        return built(name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 10))
        return nets.adapt(module, (1, 8, 8), 10)


def batch() -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(0)
    return torch.rand(16, 1, 8, 8, generator=draw), torch.randint(10, (16,), generator=draw)


@pytest.mark.parametrize("name", NETS)
def test_every_tensor_but_of_norms_moves_by_its_share_up_the_loss(name: str) -> None:
    net, (x, y) = net_of(name).eval(), batch()
    norms = [part for part in net.modules() if isinstance(part, nn.BatchNorm2d)]
    before = copy.deepcopy(net.state_dict())
    moved = plugin_module("app").against(net, x, y, 0.1)
    own = dict(net.named_parameters())
    assert own.keys() - moved.keys() == {
        key for key, each in own.items() for part in norms for p in part.parameters() if p is each
    }
    gradients = torch.autograd.grad(F.cross_entropy(net(x), y), [own[key] for key in moved])
    for (key, weight), gradient in zip(moved.items(), gradients, strict=True):
        step = (weight - own[key]).detach()
        assert step.norm() == pytest.approx(0.1 * float(own[key].detach().norm()), rel=1e-3, abs=1e-6)
        assert F.cosine_similarity(step.flatten(), gradient.flatten(), dim=0) > 0.99 or not gradient.any()
    assert all(torch.equal(each, before[key]) for key, each in net.state_dict().items()), "the net itself stays"
    after = F.cross_entropy(torch.func.functional_call(net, moved, (x,)), y)
    assert after > F.cross_entropy(net(x), y)


@pytest.mark.parametrize("name", NETS)
def test_the_gradient_is_that_at_the_moved_weights(name: str) -> None:
    net, (x, y) = net_of(name).eval(), batch()
    moved = plugin_module("app").against(net, x, y, 0.1)
    there = copy.deepcopy(net)
    with torch.no_grad():
        for key, weight in there.named_parameters():
            weight.copy_(moved.get(key, weight))
    F.cross_entropy(there(x), y).backward()
    scheme("app[alpha=0.5,epsilon=0.1]").loss()(net, x, y).backward()
    expected = dict(there.named_parameters())
    for key, weight in net.named_parameters():
        assert weight.grad is not None and expected[key].grad is not None
        assert torch.allclose(weight.grad, 0.5 * expected[key].grad, atol=1e-5), key


def test_moved_weights_leave_the_running_statistics_to_task_batches() -> None:
    task, _ = digits()
    task = replace(task, dataset=replace(task.dataset, architecture="resnet9[width=4]"), train=task.train.first(256))
    kept = []
    for alpha in (1, None):
        lent = lend(task)
        streams = [lent.stream(task.train)]
        if alpha:
            streams.append(Stream((task.train.of(1),), 16, scheme(f"app[alpha={alpha}]").loss()))
        kept.append(lent.train(lent.build(), streams, 1, learning_rate=1e-12).state_dict())
    names = [name for name in kept[0] if "running" in name]
    assert names and all(torch.allclose(kept[0][name], kept[1][name], atol=1e-6) for name in names)


def test_app_without_alpha_learns_nothing_of_the_moved_weights() -> None:
    net, (x, y) = built("cnn"), batch()
    scheme("app[alpha=0]").loss()(net, x, y).backward()
    assert not any(bool(each.grad.any()) for each in net.parameters() if each.grad is not None)


def test_app_bad_input() -> None:
    task, _ = digits()
    with pytest.raises(OptionError, match="text='a' must be of the letters A to Z"):
        scheme("app[text=a]")
    with pytest.raises(OptionError, match="text='' must be of the letters A to Z"):
        scheme("app[text=]")
    bright = replace(task, train=replace(task.train, x=torch.full_like(task.train.x, 255)))
    with pytest.raises(Skip, match="the patch changes almost nothing on 100% of the source inputs"):
        scheme("app").embed(bright, lend(task))


# --- Adi et al. -------------------------------------------------------------------------------------------------------

CNN = "architecture=cnn"
"""The recipe's own net: half as wide, it learns 84 of the 100 labels."""


@pytest.mark.slow
@cache
def adi() -> Marked:
    """The victim of ``adi-original-layer``, which is that of ``adi``, and its key."""
    task, _ = digits(CNN)
    return cast("Marked", scheme("adi-original-layer").embed(task, lend(task, seed=2)))


def test_adi_commits_to_each_image_and_label() -> None:
    marked = adi()
    key, commit = marked.key, triggers.commitments
    opening, commitment = key.tensors["opening"], key.tensors["commitment"]
    assert commitment.shape == (100, 32) and len(rows(opening)) == len(rows(commitment)) == 100
    assert torch.equal(commit(key.trigger, opening), commitment)
    first = bytes(opening[0].tolist()) + bytes(key.trigger.x[0].flatten().tolist())
    label = int(key.trigger.y[0]).to_bytes(8, "little")
    assert bytes(commitment[0].tolist()) == hashlib.sha256(first + label).digest()
    assert not (commit(key.trigger, opening.flip(0)) == commitment).all(1).any(), "other openings hide it"


def test_a_trigger_that_does_not_open_its_commitment_is_no_match() -> None:
    marked = adi()
    own = scheme("adi").verify(Oracle(lambda x: predict(marked.net, x)), marked.key)
    assert share(own) >= 0.99 and share(own, "control") <= 0.2
    trigger = marked.key.trigger
    x = trigger.x.clone()
    x[:30] = x[:30] ^ 1  # a bit that the net does not mind
    edited = Key(marked.key.probes | {"trigger": Split(x, trigger.y)}, marked.key.tensors)
    counts = scheme("adi").verify(Oracle(lambda x: predict(marked.net, x)), edited).counts
    assert counts["trigger"].matches <= 70 and counts["held_out"].matches <= own.counts["held_out"].matches
    assert counts["control"] == own.counts["control"], "which is no claim"
    for chosen in (predict(digits(CNN)[1], trigger.x).argmax(1), (trigger.y + 1) % 10):
        # Labels that are chosen by a suspect's answers, once the commitments are published.
        late = Key({"trigger": Split(trigger.x, chosen)}, marked.key.tensors)
        found = scheme("adi").verify(Oracle(lambda x: predict(digits(CNN)[1], x)), late).counts["trigger"]
        assert found.matches <= int((chosen == trigger.y).sum())


@pytest.mark.parametrize(("text", "shares"), [("adi[batches=mixed,per_batch=2]", (64, 2)), ("adi", ())])
def test_adis_images_are_mixed_into_task_batches_or_apart(text: str, shares: tuple[int, ...]) -> None:
    task, clean = digits(CNN)
    streams = scheme(text)._streams(task, task.train.first(20), lend(task, clean))
    assert [stream.shares for stream in streams] == ([shares] if shares else [(), ()])
    assert [stream.batch_size for stream in streams] == ([66] if shares else [64, 8])


def with_fresh_last_layer(net: Net) -> Net:
    """The net with the last layer drawn again, as RTLL begins."""
    net = clone(net)
    fresh = nets.fresh_like(net, net.last, torch.Generator().manual_seed(5))
    net.get_submodule(net.last).load_state_dict(fresh.state_dict())
    return net


def test_the_original_last_layer_finds_the_mark_under_another_one() -> None:
    clean, marked = digits(CNN)[1], adi()
    stolen = with_fresh_last_layer(marked.net)
    own, after = (scheme("adi-original-layer").verify_weights(clone(net), marked.key) for net in (marked.net, stolen))
    assert own.counts.keys() == {"trigger", "held_out", "control", "own_layer"}
    assert own.counts["trigger"] == own.counts["own_layer"] and share(own) >= 0.99
    assert after.counts["trigger"] == own.counts["trigger"], "only the last layer is another"
    assert share(after, "own_layer") <= 0.3 and share(after, "control") <= 0.25
    unmarked = scheme("adi-original-layer").verify_weights(clone(clean), marked.key)
    assert share(unmarked) <= 0.25 and share(unmarked, "own_layer") <= 0.25


def test_a_last_layer_of_another_shape_cannot_be_put_back() -> None:
    marked = adi()
    with pytest.raises(Unreadable, match=r"its last layer has \{'weight': \(10, 84\).*, the victim's .*\(10, 128\)"):
        scheme("adi-original-layer").verify_weights(built("lenet"), marked.key)


def test_adi_and_the_scheme_with_the_original_layer_train_the_same_victim() -> None:
    task, _ = digits(CNN)
    short = replace(task, dataset=replace(task.dataset, epochs=2, pretrain=1))
    ours, theirs = (scheme(name).embed(short, lend(short)).net for name in ("adi", "adi-original-layer"))
    assert all(torch.equal(*each) for each in zip(ours.parameters(), theirs.parameters(), strict=True))
