"""Removal by pruning the units that clean inputs use least, alone or with fine-tuning after it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, cast

import torch

from harness import Attack, Context, Pool, Split, WhiteBoxAttack, hookimpl, nets, require
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
        return prune(cast(nets.Net, victim), pool.x, self.fraction, self.layers, ctx)


@dataclass(frozen=True)
class FinePruning(Pruning):
    """Prunes, then trains what is left on the stolen model's own answers; pruned units stay pruned."""

    name: ClassVar[str] = "fine-pruning"

    fraction: float = 0.5
    epochs: int = 3
    """Of the fine-tuning."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.epochs >= 1, f"epochs must be at least 1, not {self.epochs}")

    def run(self, victim: torch.nn.Module, pool: Pool, ctx: Context) -> torch.nn.Module:
        net = cast(nets.Net, victim)
        # Asked before it is pruned: the attacker has no labels, and the whole model knows better than what is left.
        labels = ctx.predict(net, pool.x).argmax(1)
        pruned = prune(net, pool.x, self.fraction, self.layers, ctx)
        return ctx.train(pruned, [ctx.stream(Split(pool.x, labels))], self.epochs)


def prune(net: nets.Net, x: torch.Tensor, fraction: float, layers: str, ctx: Context) -> nets.Net:
    """Silence, in place, the units of each chosen layer that are active on the smallest shares of ``x``."""
    for layer, frequency in ctx.activation_frequencies(net, x).items():
        if layer in _chosen(net, layers):
            count = min(int(fraction * len(frequency)), len(frequency) - 1)
            least = frequency.argsort()[:count]
            net.silence(layer, torch.zeros_like(frequency, dtype=torch.bool).index_fill(0, least, True))
    return net


def _chosen(net: nets.Net, layers: str) -> tuple[str, ...]:
    if layers == "all":
        return net.hidden
    convolutions = [name for name in net.hidden if _convolves(net.get_submodule(name))]
    return tuple(convolutions[-1:]) or net.hidden[-1:]


def _convolves(module: torch.nn.Module) -> bool:
    return any(isinstance(part, torch.nn.Conv2d) for part in module.modules())


@hookimpl
def harness_attacks() -> list[type[Attack]]:
    return [Pruning, FinePruning]
