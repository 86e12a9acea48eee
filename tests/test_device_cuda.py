"""What only a GPU has: recorded steps, cuDNN's LSTM, random states of its own. For ``pytest --device cuda``."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from harness.contracts import Stream
from harness.engine.train import clone
from harness.losses import summed_cross_entropy
from harness.nets import Net, fresh_like
from harness.planning.registry import load_registry
from tests.on_device import engine, split


@pytest.fixture
def cuda(device: torch.device) -> torch.device:
    if device.type != "cuda":
        pytest.skip("needs a GPU: pytest --device cuda")
    return device


def unexpected(message: str) -> None:
    raise AssertionError(message)


@pytest.mark.parametrize("recipe", [{}, {"optimizer": "sgd", "schedule": "one-cycle", "clip_norm": 1.0}])
def test_a_captured_training_is_the_eager_one(cuda: torch.device, recipe: dict[str, Any]) -> None:
    trained = []
    for capture in (True, False):
        lent = engine(cuda, capture=capture, warn=unexpected, augment="crop-flip", precision="fp32", **recipe)
        data = split(cuda)
        both = [Stream((data,), 20, augment=True), Stream((data.of(1),), 6, summed_cross_entropy, every=2)]
        torch.backends.cudnn.allow_tf32 = False
        trained.append((lent.train(lent.build(), both, 5).state_dict(), lent.curves))
    (captured, curves), (eager, others) = trained
    assert curves == [{name: pytest.approx(values, rel=1e-2) for name, values in others[0].items()}]
    torch.testing.assert_close(captured, eager, rtol=5e-2, atol=5e-3)


def test_a_step_of_the_engine_never_waits(cuda: torch.device) -> None:
    lent, data = engine(cuda, capture=False), split(cuda)
    net, stream = lent.build(), lent.stream(data)
    lent.train(net, [stream], 1)  # libraries choose their algorithms
    torch.cuda.set_sync_debug_mode("error")
    try:
        lent.predict(net, data.x)
        x, y = data.x[:4], data.y[:4]
        torch.nn.functional.cross_entropy(net(x), y).backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")


def lstm(device: torch.device) -> Net:
    lent = engine(device)
    lent.architecture = load_registry().component("architecture", "lstm").plugin
    return lent.build()


def test_the_lstm_answers_as_on_the_processor(cuda: torch.device) -> None:
    there, here, x = lstm(cuda), lstm(torch.device("cpu")), split(torch.device("cpu")).x
    torch.testing.assert_close(clone(there).eval()(x.to(cuda)).cpu(), here.eval()(x), rtol=1e-3, atol=1e-4)


def test_a_layer_that_is_drawn_again_is_the_same_as_on_the_processor(cuda: torch.device) -> None:
    net = engine(cuda).build()
    state = torch.cuda.get_rng_state()
    there = fresh_like(net, "logits", torch.Generator().manual_seed(7))
    here = fresh_like(clone(net).cpu(), "logits", torch.Generator().manual_seed(7))
    assert there.weight.is_cuda and torch.equal(there.weight.cpu(), here.weight)
    assert torch.equal(torch.cuda.get_rng_state(), state)
