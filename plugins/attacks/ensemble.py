"""Extraction by an ensemble: surrogates of disjoint parts of the answers, distilled into one."""

from __future__ import annotations

import torch

from harness import Context, Extraction, Oracle, Pool, Split, nets, option


class Ensemble(Extraction):
    """Trains a surrogate on each of several disjoint parts of the victim's answers, and one net on their mean answer.

    A mark in few answers reaches one surrogate, and the others outvote it. The inputs are asked once: what the last net
    learns are the surrogates' answers, of which a share is spread over all classes. Where there are fewer than two
    answers a part, there are fewer parts.

    Measured on digits (seeds 100-102, 95% intervals): with DAWN (``rate`` 0.05, 100 epochs) the log is repeated to
    4% [0, 13], where retraining has 97% [92, 100], at an accuracy of 97.7%, where the API has 93.7%, without a query
    more; of EWE's triggers 10% [0, 29] are left, where retraining has 23% [3, 44] and unmarked models have 10%.
    """

    name = "ensemble"
    reference = "after Lukas et al., SoK, IEEE S&P 2022; Charette et al., Cosine Model Watermarking, AAAI 2022"
    arms = ("", "answers=probabilities")

    parts: int = option(3, doc="Number of disjoint parts, and of surrogates.", at_least=2)
    smoothing: float = option(
        0.2, doc="Share of the surrogates' mean answer that is spread over all classes.", at_least=0, at_most=1
    )

    def run(self, victim: Oracle, pool: Pool, ctx: Context) -> nets.Net:
        stolen = self.stolen(victim, pool)
        epochs = self.epochs or pool.recipe.epochs
        order = torch.randperm(len(stolen), generator=ctx.generator).to(stolen.x.device)
        parts = order.tensor_split(max(1, min(self.parts, len(order) // 2)))
        mean = torch.zeros(len(stolen), len(pool.recipe.classes), device=stolen.x.device)
        for part in parts:
            surrogate = ctx.train(ctx.build(), [ctx.stream(stolen[part])], epochs)
            mean += ctx.predict(surrogate, stolen.x).softmax(1) / len(parts)
        taught = Split(stolen.x, (1 - self.smoothing) * mean + self.smoothing / mean.shape[1])
        return ctx.train(ctx.build(), [ctx.stream(taught)], epochs)
