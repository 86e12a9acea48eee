"""Black-box schemes that are made to survive removal, on real digits."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness import nets
from harness.contracts import Evidence, Oracle
from harness.engine.train import predict
from harness.errors import OptionError, Skip
from harness.nets import Net
from tests.test_schemes_whitebox import built, costs_little, plugin_module, scheme, share, victim
from tests.test_triggers import digits, lend, rows


def asked(text: str, net: Net) -> Evidence:
    """Evidence of a net by the key of the victim of this scheme."""
    evidence: Evidence = scheme(text).verify(Oracle(lambda x: predict(net, x)), victim(text)[2].key)
    return evidence


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
