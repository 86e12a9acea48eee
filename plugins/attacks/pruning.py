"""Removal by pruning the units that clean inputs use least."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, cast

import torch

from harness import Attack, Context, Pool, WhiteBoxAttack, hookimpl, nets, require
from harness.contracts import Family


@dataclass(frozen=True)
class Pruning(WhiteBoxAttack):
    """Masks, in each hidden layer, the share of units that clean inputs activate least often."""

    name: ClassVar[str] = "pruning"
    family: ClassVar[Family] = "removal"
    reference: ClassVar[str] = "Liu et al., Fine-Pruning, RAID 2018"

    fraction: float = 0.2
    """Share of each layer's units that is pruned; at least one unit a layer stays."""
    layers: Literal["all", "last-conv"] = "all"
    """Every hidden layer, or the last convolution alone (the paper's)."""

    def __post_init__(self) -> None:
        require(0 <= self.fraction <= 1, f"fraction must be in 0..1, not {self.fraction}")

    def run(self, victim: torch.nn.Module, pool: Pool, ctx: Context) -> torch.nn.Module:
        net = cast(nets.Net, victim)
        for layer, frequency in activation_frequencies(net, pool.x).items():
            if layer in self._chosen(net):
                count = min(int(self.fraction * len(frequency)), len(frequency) - 1)
                least = frequency.argsort()[:count]
                nets.silence(net, layer, torch.zeros_like(frequency, dtype=torch.bool).index_fill(0, least, True))
        return net

    def _chosen(self, net: nets.Net) -> tuple[str, ...]:
        if self.layers == "all":
            return net.hidden
        convolutions = [name for name in net.hidden if isinstance(net.get_submodule(name), torch.nn.Conv2d)]
        return tuple(convolutions[-1:]) or net.hidden[-1:]


def activation_frequencies(net: nets.Net, x: torch.Tensor) -> dict[str, torch.Tensor]:
    """By hidden layer, the share ``[units]`` of inputs (and positions) on which a unit is above 0 after the ReLU."""
    net.eval()
    totals: dict[str, torch.Tensor] = {}
    with torch.inference_mode():
        for part in x.split(1000):
            for name, activation in net.activations(part)[1].items():
                active = (
                    (activation > 0).float().flatten(2).mean(2) if activation.ndim > 2 else (activation > 0).float()
                )
                totals[name] = totals.get(name, torch.zeros_like(active[0])) + active.sum(0)
    return {name: total / len(x) for name, total in totals.items()}


@hookimpl
def harness_attacks() -> list[type[Attack]]:
    return [Pruning]
