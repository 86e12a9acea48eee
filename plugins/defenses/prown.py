"""Mixtures of two images that models near the victim answer with one third class (Pautov et al.)."""

from __future__ import annotations

import copy

import torch

from harness import Context, Dataset, Defense, Key, Marked, Skip, Split, Task, nets, option, triggers

ROUNDS = 20
"""Largest number of pairs tried, in units of ``per_round``."""
MIXTURES = 64
"""Mixtures of each pair of images."""


class Prown(Defense):
    """A fingerprint: mixtures of two held-out images whose answer, neither image's class, holds for nets near by.

    The nets near by are the victim with Gaussian noise on its weights, of ``sigma`` times each tensor's own root mean
    square; a mixture is kept that all of them answer with the victim's third class, one for each pair. A trial is one
    mixture, and matches when the suspect answers that class. ``held_out`` are mixtures of other pairs; ``control`` asks
    these for the class of their first image. The owner keeps the mixtures; nothing is embedded.

    Differences from the paper: its noise has one size for all tensors; there is no outer ring of nets that must
    disagree, as in its released default. Third classes are often called alike by nets that have nothing to do with the
    victim: the rate of unmarked models, which the paper leaves out, is what a match is worth.

    Measured on digits (seeds 100-104, mean and 95% interval; 25 unmarked models): victims answer 100%, retrained copies
    61.0% [52.9, 69.1] and unmarked models 52.7% [49.1, 56.3]; after fine-tuning 64.0% [51.5, 76.5] and 47.2% [43.7,
    50.8]. These keys were drawn with replacement: 1 to 5 of 100 held-out mixtures were of a pair of the key.
    """

    name = "prown"
    reference = "Pautov et al., Probabilistically Robust Watermarking of Neural Networks, IJCAI 2024"
    fingerprint = True

    count: int = option(100, doc="Largest number of mixtures in the key.", at_least=2)
    proxies: int = option(32, doc="Number of nets near the victim.", at_least=1)
    sigma: float = option(0.01, doc="Noise on weights, as a share of their root mean square.", above=0)
    per_round: int = option(128, doc="Pairs tried at a time.", at_least=1)

    def skip(self, dataset: Dataset) -> str | None:
        return None if len(dataset.classes) > 2 else "needs three classes: the key's is neither image's"

    def embed(self, task: Task, ctx: Context) -> Marked:
        net = ctx.train(ctx.build(), [ctx.stream(task.train)], ctx.epochs)
        near = [self._moved(net, ctx.generator) for _ in range(self.proxies)]
        pairs = mixed_pairs(task.holdout.y, ROUNDS * self.per_round, ctx.generator)
        kept, first = self._third_classes([net, *near], task.holdout, pairs[:, : self.per_round], ctx)
        for some in pairs[:, self.per_round :].split(self.per_round, dim=1):
            if len(kept) >= 2 * self.count:
                break
            more, of_more = self._third_classes([net, *near], task.holdout, some, ctx)
            kept, first = kept + more, torch.cat([first, of_more])
        half = min(self.count, len(kept) // 2)
        if half < 2:
            raise Skip(f"{len(kept)} mixtures of held-out images have a third class that all nets near by answer")
        held_out = kept[half : half + self.count]
        probes = {
            "trigger": kept.first(half),
            "held_out": held_out,
            "control": Split(held_out.x, first[half : half + self.count]),
        }
        return Marked(net, Key(probes))

    def _moved(self, net: nets.Net, generator: torch.Generator) -> nets.Net:
        """A copy of ``net`` with noise on each weight."""
        moved = copy.deepcopy(net)
        with torch.no_grad():
            for weight in moved.parameters():
                noise = torch.randn(weight.shape, generator=generator).to(weight.device)
                weight.add_(noise, alpha=self.sigma * float(weight.square().mean().sqrt()))
        return moved

    def _third_classes(
        self, near: list[nets.Net], split: Split, pairs: torch.Tensor, ctx: Context
    ) -> tuple[Split, torch.Tensor]:
        """Mixtures, at most one of each of ``pairs`` ``[2, n]``, that all nets answer with one class that is neither
        image's; and the class of each one's first image."""
        share = torch.rand(pairs.shape[1], MIXTURES, generator=ctx.generator).to(ctx.device)
        share = share.view(*share.shape, *(1 for _ in split.x.shape[1:]))
        first, second = (nets.as_float(split.x[row])[:, None] for row in pairs)
        mixed = nets.as_stored(share * first + (1 - share) * second, split.x.dtype).flatten(0, 1)
        labels = [split.y[row].repeat_interleave(MIXTURES) for row in pairs]
        answers = ctx.predict(near[0], mixed).argmax(1)
        rows = ((answers != labels[0]) & (answers != labels[1])).nonzero()[:, 0]
        for net in near[1:]:
            rows = rows[ctx.predict(net, mixed[rows]).argmax(1) == answers[rows]] if len(rows) else rows
        of_pair = rows // MIXTURES
        new = torch.ones_like(of_pair, dtype=torch.bool)
        new[1:] = of_pair[1:] != of_pair[:-1]
        rows = rows[new]
        return Split(mixed[rows], answers[rows]), labels[0][rows]


def mixed_pairs(labels: torch.Tensor, count: int, generator: torch.Generator) -> torch.Tensor:
    """At most ``count`` pairs ``[2, n]`` of samples of two classes, no two samples twice in either order.

    ``labels`` ``[samples]`` int64 are the samples' classes.
    """
    one, two = pairs = triggers.distinct_pairs(len(labels), len(labels), 2 * count, generator).to(labels.device)
    return pairs[:, (one < two) & (labels[one] != labels[two])][:, :count]
