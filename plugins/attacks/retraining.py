"""Model extraction by retraining on the victim's answers."""

from __future__ import annotations

from harness import Context, Extraction, Oracle, Pool, nets


class Retraining(Extraction):
    """Asks the victim for answers to a pool of inputs, and trains a fresh net on them."""

    name = "retraining"
    reference = "Tramer et al., Stealing Machine Learning Models via Prediction APIs, USENIX Security 2016"
    arms = ("", "answers=probabilities", "architecture=mlp")

    former = (
        *(("labels=hard", "answers=labels"), ("labels=top-1", "answers=top-1")),
        ("labels=soft", "answers=probabilities"),
    )

    def run(self, victim: Oracle, pool: Pool, ctx: Context) -> nets.Net:
        return ctx.train(ctx.build(), [ctx.stream(self.stolen(victim, pool))], self.epochs or pool.recipe.epochs)
