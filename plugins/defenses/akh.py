"""The Anna Karenina heuristic (Godinot et al.): a model is known by its own mistakes."""

from __future__ import annotations

import torch

from harness import Context, Dataset, Defense, Key, Marked, Skip, Split, Task, needs_images, nets, option

ROUNDS = 20
"""Largest number of times that held-out inputs are composed, each with another one."""


class Akh(Defense):
    """The victim's own mistakes on inputs that no model was trained on: a copy makes them too.

    Queries are held-out inputs that the victim answers wrongly, and, as these are few, such inputs with a quarter of
    another one pasted in (CutMix), which the victim does not answer with the class of the rest. A trial is one query,
    and matches when the suspect gives the victim's own wrong answer. ``held_out`` are composed inputs found in the same
    way; ``control`` asks these for their true class, which the victim never answers. The owner keeps the queries.
    Nothing is embedded. The paper has enough mistakes on images as they are.

    Measured: 3 seeds of digits, where nearly all queries are composed. Unmarked models make 67.2% of the mistakes (95%:
    64.5 to 69.9), victims after fine-tuning 82.0% (69.1 to 94.9), after pruning 76.7% (68.7 to 84.7), their copies
    71.7% (55.5 to 87.8), unmarked models' copies 69.6%: a copy is not told from other models of the task.
    """

    name = "akh"
    reference = (
        "Godinot et al., Queries, Representation and Detection: The Next 100 Model Fingerprinting Schemes, AAAI 2025"
    )
    fingerprint = True

    count: int = option(100, doc="Largest number of queries.", at_least=2)

    def skip(self, dataset: Dataset) -> str | None:
        return needs_images(dataset, 4)

    def embed(self, task: Task, ctx: Context) -> Marked:
        net = ctx.train(ctx.build(), [ctx.stream(task.train)], ctx.epochs)
        found = [self._mistakes(net, task.holdout, ctx)]
        for _ in range(ROUNDS):
            if sum(len(queries) for queries, _ in found) >= 3 * self.count:
                break
            found.append(self._mistakes(net, composed(task.holdout, ctx.generator), ctx))
        queries = sum((each for each, _ in found[1:]), found[0][0])
        rows = queries.first_rows()
        queries, true = queries[rows], torch.cat([each for _, each in found])[rows]
        trained = min(self.count, len(queries) // 2)
        if trained < 2:
            raise Skip(f"the victim is wrong on {len(queries)} inputs, composed ones among them: too few for a key")
        trigger, held_out = queries[:trained], queries[trained:].first(self.count)
        control = Split(held_out.x, true[trained:][: self.count])
        return Marked(net, Key({"trigger": trigger, "held_out": held_out, "control": control}))

    def _mistakes(self, net: nets.Net, split: Split, ctx: Context) -> tuple[Split, torch.Tensor]:
        """The inputs on which ``net`` is wrong, with its answers; and their true classes."""
        answers = ctx.predict(net, split.x).argmax(1)
        wrong = answers != split.y
        return Split(split.x[wrong], answers[wrong]), split.y[wrong]


def composed(split: Split, generator: torch.Generator) -> Split:
    """The inputs, each with a window of half its sides pasted in from another one, at the window's own place."""
    shape, device = split.x.shape, split.x.device
    inside = torch.ones(len(split), 1, 1, 1, dtype=torch.bool)
    for axis in (2, 3):
        side = max(1, shape[axis] // 2)
        first = torch.randint(shape[axis] - side + 1, (len(split), 1), generator=generator)
        places = torch.arange(shape[axis])
        inside = inside & ((places >= first) & (places < first + side)).unsqueeze(1).unsqueeze(5 - axis)
    other = split.x[torch.randperm(len(split), generator=generator).to(device)]
    return Split(torch.where(inside.to(device), other, split.x), split.y)
