"""How often each neuron fires on task data and on triggers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, cast

import torch

from harness import Analysis, Context, Key, Measure, Skip, Split, Task, hookimpl, nets


@dataclass(frozen=True)
class ActivationFrequency(Analysis):
    """Share of inputs (and positions) on which each neuron of each hidden layer is above 0.

    Rows: quantity ``frequency``, layer, group ``task`` (the test set) or ``trigger``, index = neuron.
    """

    name: ClassVar[str] = "activation-frequency"
    reference: ClassVar[str] = "Jia et al., Entangled Watermarks, arXiv 2002.12200 v1, Figures 2, 3 and 18"

    def run(self, model: torch.nn.Module, task: Task, test: Split, key: Key, ctx: Context) -> Sequence[Measure]:
        if "trigger" not in key.probes:
            raise Skip("the key has no triggers")
        net = cast(nets.Net, model)
        groups = {"task": test.x, "trigger": key.trigger.x}
        return [
            Measure("frequency", values, layer, group)
            for group, x in groups.items()
            for layer, values in nets.activation_frequencies(net, x).items()
        ]


@hookimpl
def harness_analyses() -> list[type[Analysis]]:
    return [ActivationFrequency]
