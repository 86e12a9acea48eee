"""Adversarial inputs: steps by the gradient's sign, within the range, in evaluation mode."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from harness import adversarial, nets
from harness.adversarial import fgsm, signed_step


def net(*layers: nn.Module) -> nets.Net:
    """A net of 2 x 2 images and three classes."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nets.adapt(nn.Sequential(nn.Flatten(), *layers, nn.Linear(4, 3)), (1, 2, 2), 3)


def images(count: int = 300, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randint(0, 256, (count, 1, 2, 2), generator=generator).byte()
    return x, torch.randint(0, 3, (count,), generator=generator)


@given(
    step=st.floats(0, 1),
    low=st.floats(-8, 0),
    width=st.floats(0.5, 16),
    up=st.lists(st.sampled_from([-2.0, 0.0, 3.0]), min_size=4, max_size=4),
)
def test_a_signed_step_is_a_share_of_the_range_and_stays_within(
    step: float, low: float, width: float, up: list[float]
) -> None:
    high = low + width
    start = torch.tensor([0.0, 0.4, 0.6, 1.0]) * width + low
    x = start.clone().requires_grad_(True)
    stepped = signed_step(x, (torch.tensor(up) * x).sum(), step, (low, high))
    expected = (start + step * width * torch.tensor(up).sign()).clamp(low, high)
    assert torch.allclose(stepped, expected, atol=1e-5) and not stepped.requires_grad
    assert torch.equal(x.detach(), start)  # not in place


@pytest.mark.parametrize("targeted", [False, True])
def test_fgsm_is_the_formula_of_its_paper(targeted: bool) -> None:
    x, y = images()
    model = net()
    floats = (x.float() / 255).requires_grad_(True)
    (gradient,) = torch.autograd.grad(F.cross_entropy(model(floats), y), floats)
    sign = -1 if targeted else 1
    expected = (floats.detach() + sign * 0.1 * gradient.sign()).clamp(0, 1)
    before, after = (F.cross_entropy(model(each), y) for each in (x, fgsm(model, x, y, 0.1, (0, 1), targeted)))
    assert torch.equal(fgsm(model, x, y, 0.1, (0.0, 1.0), targeted), expected)
    assert (after < before) if targeted else (after > before)


def test_fgsm_leaves_the_net_as_it_is_and_asks_it_in_evaluation_mode() -> None:
    model = net(nn.BatchNorm1d(4), nn.Dropout(0.5)).train()
    model.get_submodule("2").eval()
    before, modes = copy.deepcopy(model.state_dict()), [each.training for each in model.modules()]
    x, y = images()
    whole = fgsm(model, x, y, 0.1, (0.0, 1.0))
    with torch.no_grad():  # a caller may not follow gradients
        assert torch.equal(fgsm(model, x[7:9], y[7:9], 0.1, (0.0, 1.0)), whole[7:9])  # whatever else is in the batch
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert [each.training for each in model.modules()] == modes and len(set(modes)) == 2


def test_the_mode_is_put_back_after_an_error() -> None:
    model = net().train()
    with pytest.raises(ZeroDivisionError), adversarial.evaluating(model):
        assert not any(each.training for each in model.modules())
        raise ZeroDivisionError
    assert all(each.training for each in model.modules())


def test_fgsm_of_nothing_is_nothing() -> None:
    x, y = images(0)
    assert fgsm(net(), x, y, 0.1, (0.0, 1.0)).shape == (0, 1, 2, 2)


def test_stored_inputs_are_rounded_to_what_an_image_holds() -> None:
    x = torch.tensor([-0.1, 0.0, 0.5 / 255 + 1e-4, 0.4, 1.0, 1.2])
    assert nets.as_stored(x, torch.uint8).tolist() == [0, 0, 1, 102, 255, 255]
    assert nets.as_stored(x, torch.float32) is x
    everything = torch.arange(256).byte()
    assert torch.equal(nets.as_stored(nets.as_float(everything), torch.uint8), everything)


def test_pgd_stays_near_within_the_range_and_goes_further_than_one_step() -> None:
    x, y = images()
    model = net(nn.Linear(4, 4), nn.ReLU())
    floats, loss = x.float() / 255, lambda each: F.cross_entropy(model(each), y)
    near = adversarial.pgd(model, x, y, 0.1, 0.04, 5, (0.0, 1.0))
    assert (near - floats).abs().max() <= 0.1 + 1e-6 and near.min() >= 0 and near.max() <= 1
    assert loss(x) < loss(fgsm(model, x, y, 0.04, (0.0, 1.0))) < loss(near) and not near.requires_grad
    one = adversarial.pgd(model, x, y, 1.0, 0.1, 1, (0.0, 1.0))
    assert torch.equal(one, fgsm(model, x, y, 0.1, (0.0, 1.0)))
    soft = F.one_hot(y, 3).float()
    assert torch.allclose(adversarial.pgd(model, x, soft, 0.1, 0.04, 5, (0.0, 1.0)), near, atol=1e-6)


def test_pgd_of_a_batch_moves_no_statistics_and_leaves_no_gradients() -> None:
    model = net(nn.BatchNorm1d(4)).train()
    before, (x, y) = copy.deepcopy(model.state_dict()), images(8)
    floats = x.float() / 255
    adversarial.pgd(model, floats, y, 0.1, 0.04, 2, (0.0, 1.0))
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters()) and not floats.requires_grad
    assert all(each.training for each in model.modules())
