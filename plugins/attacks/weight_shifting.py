"""Removal by shifting weights against their mean, which carries marks, and fine-tuning after it."""

from __future__ import annotations

import torch

from harness import Context, Pool, Skip, TuningAttack, nets, option


class WeightShifting(TuningAttack):
    """Takes a multiple of the mean filter from each filter of a convolution, adds noise, and fine-tunes.

    W becomes W - shift mean(W) + noise N(0, 1) SD(W): the mean is over a layer's units, the SD over the whole tensor. A
    shift of 1.5 turns the mean weight, which carries Uchida's bits, into -0.5 times itself. The accuracy breaks down,
    and comes back by fine-tuning. A net without a convolution is treated so in its hidden layers, dense or recurrent.

    Measured: digits, seeds 100 to 102, shares of matches with 95% intervals, of victims that match 100, 99.5 and 100%
    (uchida, ewe, adi) at 98.2, 96.7 and 97.7% accuracy. After it 0, 50.4 (9.9 to 90.8) and 44.3% (25.7 to 63.0), at
    97.7, 98.4 and 98.3%; without noise 0, 65.5 (10.4 to 100) and 92.3% (84.3 to 100). All of Uchida's bits are turned
    round, none is lost: they do not match, but an owner who reads the opposite reads them all. A shift of 1 leaves a
    mean weight of 0, and nothing to read (not measured).
    """

    name = "weight-shifting"
    reference = "Lukas et al., SoK: How Robust is Image Classification Deep Neural Network Watermarking?, IEEE S&P 2022"
    arms = ("", "shift=1", "shift=2.5", "labels=model")

    shift: float = option(1.5, doc="Multiple of the mean weight that is taken from each unit's.", at_least=0)
    noise: float = option(1.0, doc="SD of the noise, as a multiple of that of the tensor's weights.", at_least=0)
    epochs: int = option(10, doc="Epochs of the fine-tuning; 0 is none.", at_least=0)
    learning_rate: float | None = option(None, doc="Learning rate; by default the recipe's.", above=0)

    def run(self, victim: nets.Net, pool: Pool, ctx: Context) -> nets.Net:
        stream = ctx.stream(self.data(victim, pool, ctx))
        for weight in _shifted(victim):
            drawn = torch.randn(weight.shape, generator=ctx.generator).to(weight)
            weight.data += self.noise * weight.data.std(correction=0) * drawn - self.shift * weight.data.mean(0)
        return ctx.train(victim, [stream], self.epochs, learning_rate=self.learning_rate) if self.epochs else victim


def _shifted(net: nets.Net) -> list[torch.nn.Parameter]:
    """The weights of the convolutions; of a net without one, of all layers but the last. Raises :class:`Skip`."""
    weights = nets.weights(net)
    last = {id(each) for each in net.get_submodule(net.last).parameters()}
    chosen = [each for each in weights.values() if each.ndim > 2]
    chosen = chosen or [each for each in weights.values() if id(each) not in last]
    if not chosen:
        raise Skip("the model has one layer: there are no hidden weights to shift")
    return chosen
