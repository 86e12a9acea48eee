"""Removal by fine-tuning on the attacker's own labelled data."""

from __future__ import annotations

from typing import Literal

from harness import Context, Pool, TuningAttack, nets, option


class FineTuning(TuningAttack):
    """Fine-tunes or retrains the last layer, or the whole stolen model."""

    name = "fine-tuning"
    reference = "Adi et al., Turning Your Weakness Into a Strength, USENIX Security 2018, Section 5"
    arms = ("", "mode=ftll", "mode=rtll", "mode=rtal")

    mode: Literal["ftll", "ftal", "rtll", "rtal"] = option(
        "ftal", doc="Fine-tune (ft) or retrain (rt: from a fresh last layer) the last layer (ll) or all layers (al)."
    )
    epochs: int | None = option(None, doc="Number of epochs; by default half of the recipe's.", at_least=1)
    learning_rate: float | None = option(None, doc="Learning rate; by default the recipe's.", above=0)

    def run(self, victim: nets.Net, pool: Pool, ctx: Context) -> nets.Net:
        data = self.data(victim, pool, ctx)
        if self.mode.startswith("rt"):
            nets.redraw_last(victim, ctx.generator)
        parameters = list(victim.get_submodule(victim.last).parameters()) if self.mode.endswith("ll") else None
        epochs = self.epochs or max(1, pool.recipe.epochs // 2)
        return ctx.train(victim, [ctx.stream(data)], epochs, learning_rate=self.learning_rate, parameters=parameters)
