"""Removal by fine-tuning at a large learning rate that then decays (REFIT)."""

from __future__ import annotations

import torch

from harness import Context, Loss, Pool, Split, TuningAttack, adversarial, nets, option

FISHER_INPUTS, FISHER_BATCH = 10_000, 32
"""Inputs that the Fisher information is estimated on, at most, and at a time: the smaller, the less it varies."""


class Refit(TuningAttack):
    """Fine-tunes with SGD at a rate so large that the model leaves the victim's minimum, decaying to 0.

    The rate falls by half a cosine (in the paper by a tenth an epoch, over 60). With ``ewc`` above 0, a step away from
    the victim's weights costs ewc / 2 times its square, weighted by the diagonal of the Fisher information (elastic
    weight consolidation): divided by its largest entry, and bounded so that no step overshoots. The paper has 20% of
    the training data, with labels, a rate of 0.05, and of 0.15 with ewc=10.

    Measured: digits, seeds 100 to 102, shares of matches with 95% intervals, of victims that match 100, 99.5 and 100%
    (uchida, ewe, adi) at 98.2, 96.7 and 97.7% accuracy. After it 100, 5.5 (0 to 19.3) and 39.0% (0 to 100), at 98.7,
    96.0 and 98.8%; unmarked models go to 52, 9 and 11%. From a fifth of the data 100, 14.2 (0 to 29.2) and 56.3% (0 to
    100), at 97.7, 67.6 (16.6 to 100) and 96.4%. A gradient of at most 1 (clip_norm=1) takes the effect away: 100, 87.3
    (72.6 to 100) and 96.0% (91.0 to 100). With a rate of 0.15 and ewc=10 two trainings of nine diverged; with
    clip_norm=5 too, none did, and ewe and adi kept 68.3 (27.4 to 100) and 97.3% (85.9 to 100), at 98.7 and 98.6%.
    """

    name = "refit"
    reference = "Chen et al., REFIT: A Unified Watermark Removal Framework for Deep Learning Systems, AsiaCCS 2021"
    arms = ("", "learning_rate=0.15,ewc=10,clip_norm=5", "labels=model", "pool_share=0.2")

    learning_rate: float = option(0.05, doc="Largest learning rate, of SGD with momentum.", above=0)
    epochs: int = option(30, doc="Epochs of the fine-tuning.", at_least=1)
    clip_norm: float = option(0.0, doc="Largest L2 norm of a gradient; 0 is without limit.", at_least=0)
    ewc: float = option(0.0, doc="Weight of elastic weight consolidation; 0 is without.", at_least=0)

    def run(self, victim: nets.Net, pool: Pool, ctx: Context) -> nets.Net:
        data = self.data(victim, pool, ctx)
        loss = self.loss(victim, fisher(victim, data, ctx), pool.recipe.label_smoothing) if self.ewc else None
        return ctx.train(
            victim,
            [ctx.stream(data, loss)],
            self.epochs,
            optimizer="sgd",
            learning_rate=self.learning_rate,
            schedule="cosine",
            clip_norm=self.clip_norm,
        )

    def loss(self, victim: nets.Net, importance: dict[str, torch.Tensor], label_smoothing: float) -> Loss:
        """The cross-entropy, and the weighted squares of the steps from the weights of ``victim`` as they are now."""
        largest = torch.stack([each.max() for each in importance.values()]).max().clamp_min(1e-30)
        most = 1 / (self.learning_rate * self.ewc)
        factors = [(each / largest).clamp_max(most) for each in importance.values()]
        start = [each.detach().clone() for each in victim.parameters()]

        def loss(net: nets.Net, x: torch.Tensor, y: torch.Tensor) -> dict[str, torch.Tensor]:
            moved = zip(factors, net.parameters(), start, strict=True)
            penalty = torch.stack([(factor * (now - then).square()).sum() for factor, now, then in moved]).sum()
            answered = torch.nn.functional.cross_entropy(net(x), y, label_smoothing=label_smoothing)
            return {"loss": answered + self.ewc / 2 * penalty, "penalty": penalty}

        return loss


def fisher(net: nets.Net, data: Split, ctx: Context) -> dict[str, torch.Tensor]:
    """Diagonal of the Fisher information of ``net`` at its weights, by parameter, on the inputs of ``data``.

    Labels are drawn from the net's own probabilities. Then gradients of different inputs are independent with mean 0,
    so that the square of a batch's summed gradient is on average the sum of the squares: no gradient of one input needs
    to be known.
    """
    x = data.x[:FISHER_INPUTS]
    drawn = torch.multinomial(ctx.predict(net, x).softmax(1).cpu(), 1, generator=ctx.generator)[:, 0].to(x.device)
    parameters = dict(net.named_parameters())
    totals = {name: torch.zeros_like(each) for name, each in parameters.items()}
    with adversarial.evaluating(net):
        for inputs, labels in zip(x.split(FISHER_BATCH), drawn.split(FISHER_BATCH), strict=True):
            said = torch.nn.functional.cross_entropy(net(inputs), labels, reduction="sum")
            gradients = torch.autograd.grad(said, list(parameters.values()), materialize_grads=True)
            for total, gradient in zip(totals.values(), gradients, strict=True):
                total += gradient.square()
    return {name: total / len(x) for name, total in totals.items()}
