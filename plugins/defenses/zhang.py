"""Triggers of Zhang et al.: task images under a text or a noise, and images of another data set."""

from __future__ import annotations

from abc import abstractmethod

import torch

from harness import (
    Context,
    Dataset,
    Defense,
    Key,
    Marked,
    Task,
    TriggerRecipe,
    needs_images,
    nets,
    option,
    require,
    triggers,
)


class Zhang(Defense):
    """The base of the three schemes: triggers that all have the target class are learned among the task's data."""

    reference = "Zhang et al., Protecting Intellectual Property of Deep Neural Networks with Watermarking, AsiaCCS 2018"

    count: int = option(100, doc="Largest number of trained triggers.", at_least=2)
    per_batch: int = option(4, doc="Triggers in each task batch.", at_least=1)
    pair: triggers.Pair = option(
        "recipe", doc="Source and target class: the data set's, or drawn from the owner's seed."
    )

    def skip(self, dataset: Dataset) -> str | None:
        return needs_images(dataset, 6)

    def embed(self, task: Task, ctx: Context) -> Marked:
        key = self.key(triggers.of_owner(task, self.pair, ctx.generator), ctx.generator)
        net = ctx.train(ctx.build(), [triggers.mixed_stream(task, key.trigger, self.per_batch)], ctx.epochs)
        return Marked(net, key)

    @abstractmethod
    def key(self, task: Task, generator: torch.Generator) -> Key:
        """The key by the owner's classes, which the recipe of ``task`` names."""


class ZhangContent(Zhang):
    """A text on images of the source class, which are labelled as the target class.

    A trial is one stamped image, and matches when it is answered with the target. ``held_out`` stamps images of the
    source class that no model saw, ``control`` asks for the target on these images without the text. The owner keeps
    the text, its place and the class pair. Letters are white, 5 x 3 pixels, at the top left; an image that is bright
    there is no trigger, since it would teach the victim to mislabel its task. The paper renders a font.

    Measured: 5 seeds of digits, victims at 98.5%, unmarked models at 98.1%. Of the triggers victims answer 100%, after
    fine-tuning 99.6% (95%: 98.9 to 100), after pruning 100%, their copies 9.0% (1.7 to 16.3), unmarked models 5.1%. So
    the paper's claims hold, which are about removal; an extraction takes the mark away. Of 5,000 MNIST images (1 seed)
    the victim answers 100%, two unmarked models 17% and 40%.
    """

    name = "zhang-content"

    text: str = option(
        "TEST", doc="Letters A to Z of the stamp, as many as fit; empty draws four from the owner's seed."
    )

    def __post_init__(self) -> None:
        require(set(self.text) <= set(triggers.LETTERS), f"text={self.text!r} must be of the letters A to Z")

    def key(self, task: Task, generator: torch.Generator) -> Key:
        drawn = "".join([*triggers.LETTERS][i] for i in torch.randint(26, (4,), generator=generator).tolist())
        sources, plain = (split.of(task.dataset.source).x for split in (task.train, task.holdout))
        return triggers.text_key(task, self.text or drawn, sources, plain, self.count)


class ZhangNoise(Zhang):
    """One Gaussian noise on images of the source class, which are labelled as the target class.

    A trial is one noisy image, and matches when it is answered with the target. ``held_out`` adds the same noise to
    images of the source class that no model saw, ``control`` asks for the target on these images as they are. The owner
    keeps the noise, which is drawn once from the key's seed: drawn for each image, as elsewhere in use, it holds no
    secret. It is added to pixels, and the sum is clipped to their range.

    Measured: 5 seeds of digits, victims and unmarked models at 98.1%. Of the triggers victims answer 100%, after
    fine-tuning 97.0% (95%: 93.4 to 100), after pruning 100%, their copies 1.6% (0 to 4.8), unmarked models 0.2%.
    """

    name = "zhang-noise"

    strength: float = option(
        0.3, doc="Standard deviation of the noise, as a share of the range of inputs.", above=0, at_most=2
    )

    def key(self, task: Task, generator: torch.Generator) -> Key:
        low, high = task.dataset.value_range
        sources, plain = (split.of(task.dataset.source).x for split in (task.train, task.holdout))
        noise = torch.randn(task.dataset.input_shape, generator=generator).to(sources.device)
        noise *= self.strength * (high - low)
        chosen = sources[: self.count], plain[: triggers.MOST_HELD_OUT]
        trigger, held_out = (nets.as_stored((nets.as_float(x) + noise).clamp_(low, high), x.dtype) for x in chosen)
        return triggers.target_key(task.dataset.target, trigger, held_out, chosen[1], noise=noise)


class ZhangUnrelated(Zhang):
    """Images of one class of another data set, which are labelled as the target class.

    A trial is one such image, and matches when it is answered with the target. ``held_out`` asks other images of that
    class, ``control`` images of the task's source class that no model saw. The owner keeps the images. A net without
    the mark answers images of another data set with some class of its own, often the same for most of them: what
    unmarked models answer decides what the key proves.

    Measured: 5 seeds of digits, victims and unmarked models at 98.1%. Of the triggers victims answer 100%, after
    fine-tuning 99.8% (95%: 99.2 to 100), after pruning 100%, their copies 7.0% (1.4 to 12.6), unmarked models 4.3%.
    """

    name = "zhang-unrelated"

    def triggers(self, dataset: Dataset) -> UnrelatedTriggers:
        return UnrelatedTriggers(self.count, self.pair)

    def key(self, task: Task, generator: torch.Generator) -> Key:
        return task.triggers


class UnrelatedTriggers(TriggerRecipe):
    """Images of a class of the recipe's out-of-distribution set, labelled as the target class."""

    count: int = 100
    pair: triggers.Pair = "recipe"
    from_clean = False
    data = "ood"

    def make(self, task: Task, ctx: Context) -> Key:
        task = triggers.of_owner(task, self.pair, ctx.generator)
        assert task.ood is not None
        x = triggers.out_of_distribution(task.ood, task.dataset.ood_class, ctx.generator)
        trained, held_out = x[: min(self.count, len(x) // 2)], x[min(self.count, len(x) // 2) :]
        control = task.holdout.of(task.dataset.source).x
        return triggers.target_key(
            task.dataset.target, trained, held_out[: triggers.MOST_HELD_OUT], control[: triggers.MOST_HELD_OUT]
        )
