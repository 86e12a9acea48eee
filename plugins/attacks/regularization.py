"""Removal by strong weight decay, and fine-tuning after it."""

from __future__ import annotations

from harness import Context, Pool, TuningAttack, nets, option


class Regularization(TuningAttack):
    """Trains with a weight decay that shrinks what the task does not need, and then without, to win accuracy back.

    The decay is the L2 term of the loss, of weights, not of biases and norms: Adam takes its gradient as any other. The
    paper stops the second phase by a held-out part of the thief's data; here its epochs are given, and the last one is
    kept.

    Measured: digits, seeds 100 to 102, shares of matches with 95% intervals, of victims that match 100, 99.5 and 100%
    (uchida, ewe, adi) at 98.2, 96.7 and 97.7% accuracy. After it 100, 47.0 (9.8 to 84.1) and 23.0% (16.4 to 29.6), at
    97.2, 96.1 and 97.8%; unmarked models go to 48, 17 and 13%.
    """

    name = "regularization"
    reference = (
        "Shafieinejad et al., On the Robustness of Backdoor-Based Watermarking in Deep Neural Networks, IH&MMSec 2021"
    )
    arms = ("", "labels=model")

    weight_decay: float = option(0.1, doc="Weight decay of the first phase.", at_least=0)
    epochs: int = option(5, doc="Epochs of the first phase.", at_least=1)
    tuning: int = option(5, doc="Epochs of the second phase, without the decay.", at_least=1)
    learning_rate: float | None = option(None, doc="Learning rate; by default the recipe's.", above=0)

    def run(self, victim: nets.Net, pool: Pool, ctx: Context) -> nets.Net:
        stream = ctx.stream(self.data(victim, pool, ctx))
        ctx.train(victim, [stream], self.epochs, learning_rate=self.learning_rate, weight_decay=self.weight_decay)
        return ctx.train(victim, [stream], self.tuning, learning_rate=self.learning_rate)
