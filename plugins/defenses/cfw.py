"""Class-feature watermark (Xiao et al.): images of another data set, represented as a class of the task's own."""

from __future__ import annotations

import copy

import torch

from harness import (
    Context,
    Dataset,
    Defense,
    Key,
    Loss,
    Marked,
    Stream,
    Task,
    TriggerRecipe,
    losses,
    nets,
    option,
    triggers,
)


class ClassTriggers(TriggerRecipe):
    """Out-of-distribution images of every class that a clean model takes them for, labelled as the target class."""

    count: int = 100
    pair: triggers.Pair = "recipe"
    data = "ood"

    def make(self, task: Task, ctx: Context) -> Key:
        task = triggers.of_owner(task, self.pair, ctx.generator)
        assert task.ood is not None
        x = triggers.out_of_distribution(task.ood, None, ctx.generator)
        answers = ctx.predict(ctx.start(), x).argmax(1)
        # The first of each class, then the second of each: as balanced as the clean model's answers let it be.
        order = torch.zeros_like(answers)
        for label in range(len(task.dataset.classes)):
            here = answers == label
            order[here] = torch.arange(int(here.sum()), device=x.device)
        x = x[order.argsort(stable=True)][: 2 * self.count]
        trained, held_out = x[::2], x[1::2]
        return triggers.target_key(task.dataset.target, trained, held_out, task.holdout.of(task.dataset.source).x)


class Cfw(Defense):
    """Images of another data set under one label, made a class like the task's own, which extraction must learn too.

    A net is trained on the task's data and the images; fine-tuning then keeps its answers to the task's (KL), keeps the
    images' label, draws their mean features to the task's in every layer (RepS), and keeps their logits from spreading
    along the directions in which each class of the task varies (PDDC: first principal components of clean logits).

    A trial is one trained image; a match is the target. ``held_out`` asks other images of the same set: the scheme's
    claim is a class, and a class generalises. ``control`` asks for the target on task inputs of the source class. The
    owner keeps the images. Differences from the paper: images come from all classes of the data set's own ``ood`` set;
    the components are computed once, of the net before fine-tuning, and not after each epoch; the label is a class that
    there is, as in its released command, and not an eleventh.

    Measured on digits (seeds 100-102; range, and 15 unmarked models): victims answer 100% of the images; copies by
    labels 2 to 26%, unmarked models 10%; fine-tuned copies 4 to 30%, 11%; copies by probabilities 9 to 41%, 7%. Three
    seeds differ too much to say whether the class stays in copies. On 5,000 MNIST images (seeds 0-4) it does not: 2%
    of the images are left by either answer, unmarked models 1%.
    """

    name = "cfw"
    reference = "Xiao et al., Class-feature Watermark, AAAI 2026 (arXiv 2511.07947)"

    count: int = option(100, doc="Largest number of trained images.", at_least=2)
    per_batch: int = option(4, doc="Images in each task batch.", at_least=1)
    label_weight: float = option(0.02, doc="Weight of the images' cross-entropy in fine-tuning.", at_least=0)
    similarity: float = option(0.003, doc="Weight of the similarity of mean features (RepS).", at_least=0)
    spread: float = option(0.15, doc="Weight of the spread along classes' directions (PDDC).", at_least=0)
    epochs: int = option(10, doc="Epochs of fine-tuning.", at_least=0)
    learning_rate: float = option(5e-5, doc="Rate of fine-tuning, by Adam.", above=0)
    pair: triggers.Pair = option(
        "recipe", doc="Source and target class: the data set's, or drawn from the owner's seed."
    )

    def triggers(self, dataset: Dataset) -> ClassTriggers:
        return ClassTriggers(self.count, self.pair)

    def embed(self, task: Task, ctx: Context) -> Marked:
        key, size = task.triggers, task.dataset.batch_size
        net = ctx.train(ctx.build(), [triggers.mixed_stream(task, key.trigger, self.per_batch)], ctx.epochs)
        clean = ctx.predict(net, task.train.x)
        present = [label for label in range(clean.shape[1]) if int((task.train.y == label).sum()) > 1]
        axes = torch.stack([first_component(clean[task.train.y == label]) for label in present])
        frozen = copy.deepcopy(net).requires_grad_(False).eval()
        share = min(32, len(key.trigger))
        stream = Stream((task.train, key.trigger), size + share, self._loss(frozen, axes, size), shares=(size, share))
        rate = self.learning_rate
        ctx.train(
            net, [stream], self.epochs, optimizer="adam", learning_rate=rate, schedule="constant", weight_decay=0.0
        )
        return Marked(net, key)

    def _loss(self, frozen: nets.Net, axes: torch.Tensor, size: int) -> Loss:
        def loss(net: nets.Net, x: torch.Tensor, y: torch.Tensor) -> dict[str, torch.Tensor]:
            logits, taps = net.activations(x)
            with torch.no_grad():
                before = frozen(x[:size]).log_softmax(1)
            kept = losses.divergence(before, logits[:size].log_softmax(1))
            label = torch.nn.functional.cross_entropy(logits[size:], y[size:])
            means = [(tap[:size].flatten(1).mean(0), tap[size:].flatten(1).mean(0)) for tap in taps.values()]
            alike = torch.stack([torch.nn.functional.cosine_similarity(*pair, dim=0) for pair in means]).sum()
            spread = spread_along(logits[size:], axes)
            total = kept + self.label_weight * label - self.similarity * alike + self.spread * spread
            return {"loss": total, "kept": kept, "alike": alike, "spread": spread}

        return loss


def first_component(logits: torch.Tensor) -> torch.Tensor:
    """The first principal component ``[classes]``, of length 1, of ``logits`` ``[n, classes]``."""
    component: torch.Tensor = torch.linalg.svd(logits - logits.mean(0), full_matrices=False).Vh[0]
    return component


def spread_along(logits: torch.Tensor, axes: torch.Tensor) -> torch.Tensor:
    """Mean distance of two rows of ``logits`` ``[n, classes]`` along each of ``axes`` ``[k, classes]`` of length 1."""
    along = logits @ axes.T
    return (along[:, None] - along[None]).abs().mean()
