"""Measurements after each epoch where a recipe says ``watch``: accuracy, success, and the SNNL of every tap.

The engine keeps the weights of each epoch, and they are measured when the plugin is done: so an attack, which is lent
the engine, finds no trigger in it.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from harness.contracts import Probe, Split
from harness.engine.train import Engine, clone, predict
from harness.losses import snnl
from harness.metrics import accuracy
from harness.nets import Net

SAMPLES = 1000
"""Test samples, so many at most, on which accuracy is measured each epoch."""
GROUP = 64
"""Triggers, and as many inputs of the target class, of which the SNNL is measured."""
TEMPERATURE = 0.2
"""Temperature of the measured SNNL, at cosine distance: the same for every scheme, so that curves compare."""


def measure_epochs(engine: Engine, trigger: Probe, targets: Split, test: Split) -> None:
    """Add ``accuracy`` on the test set, ``success`` on the triggers and ``snnl:<tap>`` to the engine's curves."""
    observe = _observer(trigger, targets, test)
    for curves, (net, epochs) in zip(engine.curves, engine.snapshots, strict=True):
        twin = clone(net).eval()
        for weights in epochs:
            twin.load_state_dict(weights)
            for name, value in observe(twin).items():
                curves.setdefault(name, []).append(value)


def _observer(trigger: Probe, targets: Split, test: Split) -> Callable[[Net], dict[str, float]]:
    test = test.first(SAMPLES)
    half = min(GROUP, len(trigger.x), len(targets))
    mixed = torch.cat([trigger.x[:half], targets.x[:half]])
    groups = torch.arange(2 * half, device=mixed.device) < half

    def observe(net: Net) -> dict[str, float]:
        seen = {
            "accuracy": accuracy(predict(net, test.x).argmax(1), test.y),
            "success": accuracy(predict(net, trigger.x).argmax(1), trigger.y),
        }
        if half < 2:
            return seen
        with torch.inference_mode():
            activations = net.activations(mixed)[1]
            taps = {name: activations[name].relu() for name in net.taps}
        return seen | {f"snnl:{name}": float(snnl(tap, groups, TEMPERATURE)) for name, tap in taps.items()}

    return observe
