"""Removal by fine-tuning on the model's own answers, spread over all classes."""

from __future__ import annotations

from typing import Literal

from harness import Context, Pool, TuningAttack, nets, option


class LabelSmoothing(TuningAttack):
    """Fine-tunes the stolen model at a high rate on its own answers, smoothed.

    The target of an input is (1 - smoothing) times the class that the model answers, and smoothing / K for each of the
    K classes. By default the thief needs no labels. (The Watermark Robustness Toolbox's loss never uses its smoothing.)

    Measured: digits, seeds 100 to 102, shares of matches with 95% intervals, of victims that match 100, 99.5 and 100%
    (uchida, ewe, adi) at 98.2, 96.7 and 97.7% accuracy. After it 100, 34.9 (0 to 73.1) and 26.7% (16.3 to 37.0), at
    98.8, 96.9 and 99.2%; unmarked models go to 56, 8 and 12%. So the high rate removes most of Adi's mark at no cost,
    and no bit of Uchida's.
    """

    name = "label-smoothing"
    reference = (
        "Lukas et al., SoK: How Robust is Image Classification Deep Neural Network Watermarking?, IEEE S&P 2022; "
        "targets of Szegedy et al., CVPR 2016"
    )
    arms = ("", "labels=true")

    labels: Literal["true", "model", "victim"] = "model"
    smoothing: float = option(0.3, doc="Share of a label that is spread over all classes.", at_least=0, at_most=1)
    epochs: int = option(5, doc="Epochs of the fine-tuning.", at_least=1)
    factor: float = option(10.0, doc="Learning rate, as a multiple of the recipe's.", above=0)

    def run(self, victim: nets.Net, pool: Pool, ctx: Context) -> nets.Net:
        return ctx.train(
            victim,
            [ctx.stream(self.data(victim, pool, ctx))],
            self.epochs,
            label_smoothing=self.smoothing,
            learning_rate=self.factor * pool.recipe.learning_rate,
        )
