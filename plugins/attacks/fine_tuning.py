"""Removal by fine-tuning on the attacker's own labelled data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, cast

import torch

from harness import Attack, Context, Pool, Split, WhiteBoxAttack, hookimpl, nets, require
from harness.contracts import Family


@dataclass(frozen=True)
class FineTuning(WhiteBoxAttack):
    """Trains the stolen model on: the last layer or all, with the last layer kept or drawn anew."""

    name: ClassVar[str] = "fine-tuning"
    family: ClassVar[Family] = "removal"
    reference: ClassVar[str] = "Adi et al., Turning Your Weakness Into a Strength, USENIX Security 2018, Section 5"
    labelled: ClassVar[bool] = True
    arms: ClassVar[tuple[str, ...]] = ("", "mode=ftll", "mode=rtll", "mode=rtal")

    mode: Literal["ftll", "ftal", "rtll", "rtal"] = "ftal"
    """Fine-tune (ft) or re-train (rt: a fresh last layer) the last layer (ll) or all layers (al)."""
    epochs: int | None = None
    """By default half of the recipe's."""
    learning_rate: float | None = None
    """By default the recipe's."""

    def __post_init__(self) -> None:
        require(self.epochs is None or self.epochs >= 1, f"epochs must be at least 1, not {self.epochs}")
        rate = self.learning_rate
        require(rate is None or rate > 0, f"learning_rate must be above 0, not {rate}")

    def run(self, victim: torch.nn.Module, pool: Pool, ctx: Context) -> torch.nn.Module:
        net = cast(nets.Net, victim)
        last = net.get_submodule(net.last)
        if self.mode.startswith("rt"):
            last.load_state_dict(nets.fresh_like(net, net.last, ctx.generator).state_dict())
        parameters = list(last.parameters()) if self.mode.endswith("ll") else None
        epochs = self.epochs or max(1, pool.recipe.epochs // 2)
        stream = ctx.stream(Split(pool.x, pool.labels()))
        return ctx.train(net, [stream], epochs, learning_rate=self.learning_rate, parameters=parameters)


@hookimpl
def harness_attacks() -> list[type[Attack]]:
    return [FineTuning]
